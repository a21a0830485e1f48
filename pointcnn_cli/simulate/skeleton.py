"""From joint angles to joint positions: the bones of a body, put together from the floor up.

In the person's own frame x points ahead, y to the left and z up. Angles are in radians; both angles of a limb are zero
when it hangs straight down; `swing` turns it forwards, `abduction` outwards. The last axis of a limb is (left, right).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.simulate.person import Body

Floats = NDArray[np.float64]

JOINTS = (
    "pelvis", "neck", "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_hand", "right_hand",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
SIDES = np.array([1.0, -1.0])  # left, right


@dataclass(frozen=True)
class Limb:
    """The two angles of a pair of limb segments, each (times, 2)."""

    swing: Floats
    abduction: Floats


@dataclass(frozen=True)
class Pose:
    """All joint angles over time, and what the feet do."""

    upper_arm: Limb
    forearm: Limb
    thigh: Limb
    shank: Limb
    lean: Floats  # (times,) trunk forwards from upright
    flight: Floats  # (times,) metres between the lower foot and the floor
    speed: Floats  # (times,) of walking, m/s


def _compute_direction(limb: Limb) -> Floats:
    """Unit vectors along a pair of segments, (times, 2, 3)."""
    ahead = np.sin(limb.swing)
    outwards = SIDES * np.cos(limb.swing) * np.sin(limb.abduction)
    upwards = -np.cos(limb.swing) * np.cos(limb.abduction)
    return np.stack([ahead, outwards, upwards], axis=-1)


def build_skeleton(body: Body, pose: Pose) -> Floats:
    """Joints in the person's frame, (times, joints, 3): the ankles around the origin, the lower one at its height."""
    times = pose.lean.size
    spine = np.stack([np.sin(pose.lean), np.zeros(times), np.cos(pose.lean)], axis=-1)  # (times, 3)
    across = SIDES[:, None] * np.array([0.0, 1.0, 0.0])  # (2, 3)
    pelvis = np.zeros((times, 1, 3))
    neck = pelvis + body.trunk * spine[:, None]
    shoulders = neck + body.shoulder_half_width * across
    elbows = shoulders + body.upper_arm * _compute_direction(pose.upper_arm)
    hands = elbows + body.forearm * _compute_direction(pose.forearm)
    hips = pelvis + body.hip_half_width * across
    knees = hips + body.thigh * _compute_direction(pose.thigh)
    ankles = knees + body.shank * _compute_direction(pose.shank)
    head = neck + body.head * spine[:, None]
    joints = np.concatenate([pelvis, neck, head, shoulders, elbows, hands, hips, knees, ankles], axis=1)
    joints[..., 0] -= ankles[..., 0].mean(axis=1, keepdims=True)
    joints[..., 2] += (body.ankle_height + pose.flight - ankles[..., 2].min(axis=1))[:, None]
    return joints


def place_in_room(joints: Floats, place: Floats, facing: Floats, sensor_height: float) -> Floats:
    """Turn by `facing` (times,), move to `place` (times, 2), and count heights from the radar's."""
    cosine, sine = np.cos(facing)[:, None], np.sin(facing)[:, None]
    x = place[:, :1] + cosine * joints[..., 0] - sine * joints[..., 1]
    y = place[:, 1:] + sine * joints[..., 0] + cosine * joints[..., 1]
    return np.stack([x, y, joints[..., 2] - sensor_height], axis=-1)

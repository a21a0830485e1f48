"""How a body moves: each activity as joint angles over time.

Amplitudes and tempi are plain averages of everyday exercise; what matters here is that they vary with the person.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pointcnn_cli.simulate.person import Body, Manner, Scene
from pointcnn_cli.simulate.skeleton import Floats, Limb, Pose, build_skeleton, place_in_room

GRAVITY = 9.81
PAUSE_RAMP_SECONDS = 0.35  # to come to rest, and to set off again
SWAY_METRES = 0.012  # nobody stands still: slow sway of a standing body


def compute_joints(
    activity: str, body: Body, manner: Manner, scene: Scene, seconds: Floats, sensor_height: float
) -> Floats:
    """Positions of the joints in metres, (times, joints, 3), in the frame of a radar `sensor_height` above the floor.

    `seconds` (times,) are the moments, evenly spaced. The order of joints is `JOINTS`.
    """
    level = _compute_level(scene, seconds)
    rate = ACTIVITIES[activity].repetitions_a_second * manner.tempo
    cycles = scene.first_cycle + rate * seconds + 0.06 * np.sin(1.4 * seconds + scene.drift_phase)
    standing = _stand(manner, seconds.size)
    pose = _blend(standing, ACTIVITIES[activity].move(standing, cycles, rate, body, manner), level)
    place, facing = _follow_path(scene, pose.speed, seconds)
    return place_in_room(build_skeleton(body, pose), place, facing, sensor_height)


def _compute_level(scene: Scene, seconds: Floats) -> Floats:
    """1 where the person exercises, 0 where the person rests, with smooth changes: (times,)."""
    outside = np.abs(seconds[:, None] - scene.pause_centres) - scene.pause_lengths / 2.0  # (times, pauses)
    ramp = np.clip(outside / PAUSE_RAMP_SECONDS, 0.0, 1.0)
    return np.asarray(np.prod(ramp**2 * (3.0 - 2.0 * ramp), axis=1))


def _bump(cycles: Floats, start: float, length: float) -> Floats:
    """0 -> 1 -> 0 as a raised cosine, once in each cycle, from `start` on for `length` (parts of a cycle)."""
    part = np.clip(((cycles - start) % 1.0) / length, 0.0, 1.0)
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * part)


def _both(values: Floats) -> Floats:
    return np.stack([values, values], axis=1)  # (times, 2)


def _stand(manner: Manner, times: int) -> Pose:
    """At rest: arms hanging, feet apart, knees a little bent."""
    still = np.zeros((times, 2))
    return Pose(
        upper_arm=Limb(still + 0.05, still + 0.12),
        forearm=Limb(still + 0.25, still + 0.08),
        thigh=Limb(still + manner.bend, still + manner.stance),
        shank=Limb(still - manner.bend, still + manner.stance),
        lean=np.full(times, 0.3 * manner.bend),
        flight=np.zeros(times),
        speed=np.zeros(times),
    )


def _crouch(pose: Pose, depth: Floats) -> Pose:
    """Bend the knees, thighs by `depth` (times,); the hips go back and the trunk leans to keep the balance."""
    return replace(
        pose,
        thigh=Limb(pose.thigh.swing + _both(depth), pose.thigh.abduction),
        shank=Limb(pose.shank.swing - 0.5 * _both(depth), pose.shank.abduction),
        lean=pose.lean + 0.45 * depth,
    )


def _box(standing: Pose, cycles: Floats, rate: float, body: Body, manner: Manner) -> Pose:
    """Fists up; straight punches, left and right in turn, or with the strong arm only."""
    if manner.both_arms or manner.arms > 0.25:
        reach = np.stack([_bump(cycles, 0.0, 0.45), _bump(cycles, 0.5, 0.45)], axis=1)
    else:
        jab = _bump(cycles, 0.0, 0.45) + _bump(cycles, 0.5, 0.45)
        reach = jab[:, None] * _strong_side(manner)
    reach = reach * min(manner.vigour, 1.2)
    guard = 0.3 + 0.5 * manner.arms
    crouched = _crouch(standing, np.full(cycles.size, 0.2))
    return replace(
        crouched,
        upper_arm=Limb(guard + (1.5 - guard) * reach, 0.25 - 0.1 * reach),
        forearm=Limb(2.3 - 0.8 * reach, np.full_like(reach, -0.1)),
        lean=crouched.lean + 0.08 * reach.sum(axis=1),
    )


def _jack(standing: Pose, cycles: Floats, rate: float, body: Body, manner: Manner) -> Pose:
    """Jumping jack: arms out and overhead while the feet hop apart, and back. The lazy raise the arms half way."""
    apart = _bump(cycles, 0.0, 1.0)
    raised = np.clip((1.1 + 1.3 * manner.arms) * manner.vigour, 0.5, 2.9) * _both(apart)
    spread = 0.35 * min(manner.vigour, 1.6) * _both(apart)
    hop = 0.05 * manner.vigour * np.abs(np.sin(2.0 * np.pi * cycles))
    return replace(
        standing,
        upper_arm=Limb(standing.upper_arm.swing, standing.upper_arm.abduction + raised),
        forearm=Limb(0.1 + 0.0 * raised, standing.forearm.abduction + 1.1 * raised),
        thigh=Limb(standing.thigh.swing, standing.thigh.abduction + spread),
        shank=Limb(standing.shank.swing, standing.shank.abduction + spread),
        flight=hop,
    )


def _jump(standing: Pose, cycles: Floats, rate: float, body: Body, manner: Manner) -> Pose:
    """Jump on the spot: crouch, fly, land in a smaller crouch. Time in the air follows from height by free fall."""
    height = float(np.clip(0.16 * manner.vigour, 0.03, 0.40))
    airborne = min(np.sqrt(8.0 * height / GRAVITY) * rate, 0.45)  # part of a cycle
    part = np.clip(((cycles - 0.3) % 1.0) / airborne, 0.0, 1.0)
    dip = _bump(cycles, 0.0, 0.3) + 0.6 * _bump(cycles, 0.3 + airborne, 0.25)
    swung = (0.2 + 1.6 * manner.arms) * (_bump(cycles, 0.15, 0.3 + airborne) - 0.3 * _bump(cycles, 0.0, 0.3))
    crouched = _crouch(standing, 0.75 * np.sqrt(manner.vigour) * dip)
    return replace(
        crouched,
        upper_arm=Limb(standing.upper_arm.swing + _both(swung), standing.upper_arm.abduction),
        forearm=Limb(standing.forearm.swing + 1.1 * _both(swung), standing.forearm.abduction),
        flight=height * 4.0 * part * (1.0 - part),
    )


def _squat(standing: Pose, cycles: Floats, rate: float, body: Body, manner: Manner) -> Pose:
    """Deep knee bends, with the arms lifted forwards for balance by some."""
    down = _bump(cycles, 0.0, 0.85)
    lifted = 1.5 * manner.arms * _both(down)
    crouched = _crouch(standing, min(1.1 * manner.vigour, 1.7) * down)
    return replace(
        crouched,
        upper_arm=Limb(standing.upper_arm.swing + lifted, standing.upper_arm.abduction),
        forearm=Limb(standing.forearm.swing + lifted, standing.forearm.abduction),
    )


def _walk(standing: Pose, cycles: Floats, rate: float, body: Body, manner: Manner) -> Pose:
    """Walk: legs in opposition, arms against the legs, steps as long as speed and cadence ask for."""
    speed = np.full(cycles.size, np.clip(0.85 * manner.vigour * manner.tempo, 0.3, 1.6))
    leg = body.thigh + body.shank
    stride_angle = np.arcsin(np.clip(speed / (4.0 * rate * leg), 0.0, 0.6))
    phase = 2.0 * np.pi * cycles[:, None] + np.array([0.0, np.pi])  # (times, 2)
    swing = stride_angle[:, None] * np.sin(phase)
    knee = 2.0 * stride_angle[:, None] * np.clip(np.cos(phase), 0.0, None)  # bent while the leg comes forwards
    arm = (0.3 + 1.0 * manner.arms) * swing
    return replace(
        standing,
        upper_arm=Limb(standing.upper_arm.swing - arm, standing.upper_arm.abduction),
        forearm=Limb(standing.forearm.swing - 1.2 * arm, standing.forearm.abduction),
        thigh=Limb(swing + 0.4 * knee, standing.thigh.abduction),
        shank=Limb(swing - 0.6 * knee, standing.shank.abduction),
        speed=speed,
    )


def _wave(standing: Pose, cycles: Floats, rate: float, body: Body, manner: Manner) -> Pose:
    """Wave with a bent arm, or both: from low in front of the chest to high beside the head."""
    used = np.ones(2) if manner.both_arms else _strong_side(manner)
    side_to_side = np.sin(2.0 * np.pi * cycles)[:, None] * used  # (times, 2)
    reach = 0.6 * min(manner.vigour, 1.8)
    upper_swing, upper_out = 0.9 - 0.7 * manner.arms, 0.3 + 1.3 * manner.arms
    fore_swing, fore_out = 0.6 - 0.5 * manner.arms, 2.3 + 0.6 * manner.arms

    def raise_to(rest: Floats, target: Floats | float) -> Floats:
        return np.asarray(rest + used * (target - rest))

    return replace(
        standing,
        upper_arm=Limb(
            raise_to(standing.upper_arm.swing, upper_swing),
            raise_to(standing.upper_arm.abduction, upper_out + 0.3 * reach * side_to_side),
        ),
        forearm=Limb(
            raise_to(standing.forearm.swing, fore_swing),
            raise_to(standing.forearm.abduction, fore_out + reach * side_to_side),
        ),
    )


def _strong_side(manner: Manner) -> Floats:
    return np.array([0.0, 1.0]) if manner.right_handed else np.array([1.0, 0.0])


@dataclass(frozen=True)
class Activity:
    """`move(standing, cycles, repetitions a second, body, manner)` is the pose of someone who does not rest."""

    repetitions_a_second: float  # of the average person
    move: Callable[[Pose, Floats, float, Body, Manner], Pose]


ACTIVITIES = {
    "box": Activity(1.0, _box),
    "jack": Activity(0.8, _jack),
    "jump": Activity(0.8, _jump),
    "squat": Activity(0.5, _squat),
    "walk": Activity(0.9, _walk),
    "wave": Activity(1.2, _wave),
}


def _blend(rest: Pose, active: Pose, level: Floats) -> Pose:
    """Between resting (level 0) and exercising (level 1)."""

    def mix(low: Floats, high: Floats) -> Floats:
        share = level.reshape(-1, *[1] * (high.ndim - 1))
        return np.asarray(low + share * (high - low))

    def mix_limb(low: Limb, high: Limb) -> Limb:
        return Limb(mix(low.swing, high.swing), mix(low.abduction, high.abduction))

    return Pose(
        upper_arm=mix_limb(rest.upper_arm, active.upper_arm),
        forearm=mix_limb(rest.forearm, active.forearm),
        thigh=mix_limb(rest.thigh, active.thigh),
        shank=mix_limb(rest.shank, active.shank),
        lean=mix(rest.lean, active.lean),
        flight=mix(rest.flight, active.flight),
        speed=mix(rest.speed, active.speed),
    )


def _follow_path(scene: Scene, speed: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    """Where the person is, (times, 2), and looks, (times,): on the spot with a little sway, or round an oval loop."""
    sway = SWAY_METRES * np.stack([np.sin(1.9 * seconds + scene.drift_phase), np.sin(2.7 * seconds)], axis=1)
    if not speed.any():
        return scene.place + sway, np.full(seconds.size, scene.facing)
    step = np.diff(seconds, prepend=seconds[0])
    angle = scene.facing + np.cumsum(speed * step) / scene.walk_axes.mean()
    loop = scene.walk_axes * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    tangent = scene.walk_axes * np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    return scene.place + loop + sway, np.arctan2(tangent[:, 1], tangent[:, 0])

"""What a radar reports of a moving body: a list of points a frame, each with place, radial velocity, intensity, range.

Modelled on a 77 GHz chip radar with a few antennas (TI IWR1443) whose detector keeps what stands out of the noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.simulate.difficulty import (
    CLUTTER_REFLECTORS,
    EMPTY_FRAME_CHANCE,
    GHOST_SHARE,
    GLINT_DEGREES,
    SNR_DB_AT_ONE_METRE,
    VELOCITY_STEP,
)
from pointcnn_cli.simulate.skeleton import JOINTS, Floats

FRAME_RATE = 27.0  # frames a second
SENSOR_HEIGHT = 1.0  # metres above the floor
RANGE_STEP = 0.0436  # metres; range resolution is c / 2B: 3.44 GHz of sweep
MAX_VELOCITY = 4.8  # m/s; faster motion is aliased (Doppler wraps at a quarter wavelength a chirp)
BEAMWIDTH_DEGREES = (15.0, 30.0)  # azimuth, elevation, of the virtual array
FALSE_ALARM = 1e-3  # probability that the detector takes noise for a point
NOISE_DB = 15.0  # the reported intensity of noise, so that values lie where the IWR1443's do
FIELDS = 6  # of a reported point: x, y, z, radial velocity, intensity, range

BODY_ECHOES = 34  # places on the body that send an echo in a frame
GAIN_SPREAD_DB = 2.0  # clothing and build
GHOST_DELAY = (0.3, 1.6)  # metres that the way by a wall is longer
GHOST_LOSS_DB = 8.0
CLUTTER_SEEN = 0.35  # share of frames in which a fixed object is reported
CLUTTER_SNR_DB = 14.0

# Segments as (from, to, radius in metres, share of the echoes). The trunk is three lines, so that it has a width.
SEGMENTS = (
    ("pelvis", "neck", 0.11, 0.16),
    ("left_hip", "left_shoulder", 0.09, 0.12),
    ("right_hip", "right_shoulder", 0.09, 0.12),
    ("neck", "head", 0.08, 0.08),
    ("left_shoulder", "left_elbow", 0.045, 0.06),
    ("right_shoulder", "right_elbow", 0.045, 0.06),
    ("left_elbow", "left_hand", 0.035, 0.07),
    ("right_elbow", "right_hand", 0.035, 0.07),
    ("left_hip", "left_knee", 0.07, 0.08),
    ("right_hip", "right_knee", 0.07, 0.08),
    ("left_knee", "left_ankle", 0.05, 0.05),
    ("right_knee", "right_ankle", 0.05, 0.05),
)
_FROM = np.array([JOINTS.index(segment[0]) for segment in SEGMENTS])
_TO = np.array([JOINTS.index(segment[1]) for segment in SEGMENTS])
_RADIUS = np.array([segment[2] for segment in SEGMENTS])
_SHARE = np.array([segment[3] for segment in SEGMENTS])


@dataclass(frozen=True)
class Echoes:
    """What comes back in each frame, before noise. Positions in metres, velocities in m/s, ratios not in dB."""

    position: Floats  # (frames, echoes, 3)
    velocity: Floats  # (frames, echoes) radial, positive when going away
    snr: Floats  # (frames, echoes) mean power over mean noise power


def observe(joints: Floats, slots: int, rng: np.random.Generator) -> Floats:
    """The points reported of a body whose `joints` are at (frames + 2, joints, 3), one frame before and after included.

    Returns (frames, slots, FIELDS): in each frame the reported points in the detector's order, then empty slots, zero
    throughout.
    """
    body = _reflect_body(joints, rng)
    echoes = _join(body, _reflect_by_wall(body, rng), _reflect_room(body.snr.shape[0], rng))
    points, reported = _measure(echoes, rng)
    reported &= rng.random((reported.shape[0], 1)) >= EMPTY_FRAME_CHANCE
    return _fill_slots(points, reported, slots, rng)


def _reflect_body(joints: Floats, rng: np.random.Generator) -> Echoes:
    """Echoes from random places on the skin, facing the radar.

    Radial velocity is the material velocity, by central differences, projected on the line of sight. Mean power
    follows the radar equation, R^-4 (Skolnik, *Introduction to Radar Systems*, ch. 2). A limb is a cylinder: strongest
    broadside, weak end on.
    """
    now, velocity = joints[1:-1], (joints[2:] - joints[:-2]) * (FRAME_RATE / 2.0)
    frames = now.shape[0]
    frame = np.arange(frames)[:, None]
    segment = rng.choice(len(SEGMENTS), (frames, BODY_ECHOES), p=_SHARE / _SHARE.sum())
    along = rng.random((frames, BODY_ECHOES, 1))
    start, end = now[frame, _FROM[segment]], now[frame, _TO[segment]]
    axis = end - start
    on_bone = start + along * axis
    moving = (1.0 - along) * velocity[frame, _FROM[segment]] + along * velocity[frame, _TO[segment]]
    sight = on_bone / np.linalg.norm(on_bone, axis=-1, keepdims=True)  # (frames, echoes, 3)
    end_on = (axis * sight).sum(-1) ** 2 / (axis**2).sum(-1)  # squared cosine between limb and line of sight
    skin = _RADIUS[segment][..., None] * (0.7 * rng.normal(size=on_bone.shape) - sight)
    position = on_bone + skin
    gain_db = SNR_DB_AT_ONE_METRE + rng.normal(0.0, GAIN_SPREAD_DB)
    distance_squared = (position**2).sum(-1)
    snr = 10.0 ** (gain_db / 10.0) * (0.1 + 0.9 * (1.0 - end_on)) / distance_squared**2
    return Echoes(position, (moving * sight).sum(-1), snr)


def _reflect_by_wall(body: Echoes, rng: np.random.Generator) -> Echoes:
    """Some echoes again, in the same direction and at the same speed, but from behind the body and weaker."""
    ghosts = max(1, round(GHOST_SHARE * BODY_ECHOES))
    source = slice(0, ghosts)  # the echoes are in random order
    distance = np.linalg.norm(body.position[:, source], axis=-1, keepdims=True)
    delay = rng.uniform(*GHOST_DELAY, distance.shape)
    position = body.position[:, source] * (1.0 + delay / distance)
    loss = 10.0 ** (-GHOST_LOSS_DB / 10.0) * (distance[..., 0] / (distance[..., 0] + delay[..., 0])) ** 4
    return Echoes(position, body.velocity[:, source], body.snr[:, source] * loss)


def _reflect_room(frames: int, rng: np.random.Generator) -> Echoes:
    """Fixed objects, each seen now and then."""
    shape = (frames, CLUTTER_REFLECTORS)
    places = rng.uniform((0.4, -2.5, -0.9), (5.5, 2.5, 1.4), (CLUTTER_REFLECTORS, 3))
    seen = rng.random(shape) < CLUTTER_SEEN
    snr = np.where(seen, 10.0 ** (CLUTTER_SNR_DB / 10.0), 0.0)
    return Echoes(np.broadcast_to(places, (*shape, 3)), np.zeros(shape), snr)


def _join(*parts: Echoes) -> Echoes:
    return Echoes(
        np.concatenate([part.position for part in parts], axis=1),
        np.concatenate([part.velocity for part in parts], axis=1),
        np.concatenate([part.snr for part in parts], axis=1),
    )


def _measure(echoes: Echoes, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
    """Points as measured, (frames, echoes, FIELDS), and which of them the detector reports, (frames, echoes).

    Power fluctuates as Swerling's case 1 (exponential around its mean) and is reported above -ln(false alarm rate) of
    the noise power, so an echo is detected with probability pfa^(1 / (1 + snr)) (Skolnik, ch. 2). Angle errors have
    the standard deviation beamwidth / (1.6 sqrt(2 snr)) (Barton, *Radar System Analysis*), plus glint. Range
    and velocity come in steps; velocity wraps at the fastest unambiguous one.
    """
    power = (1.0 + echoes.snr) * rng.standard_exponential(echoes.snr.shape)
    threshold = -np.log(FALSE_ALARM)
    reported = (power > threshold) & (echoes.snr > 0.0)

    true_range = np.linalg.norm(echoes.position, axis=-1)
    noisy_range = true_range + rng.normal(0.0, RANGE_STEP / 2.0, true_range.shape)
    distance = RANGE_STEP * np.maximum(np.rint(noisy_range / RANGE_STEP), 1.0)
    thermal = np.deg2rad(BEAMWIDTH_DEGREES) / (1.6 * np.sqrt(2.0 * power[..., None]))  # (frames, echoes, 2)
    error = np.hypot(thermal, np.deg2rad(GLINT_DEGREES))
    noise = error * rng.normal(size=error.shape)
    azimuth = np.arctan2(echoes.position[..., 1], echoes.position[..., 0]) + noise[..., 0]
    elevation = np.arcsin(echoes.position[..., 2] / true_range) + noise[..., 1]

    wrapped = (echoes.velocity + MAX_VELOCITY) % (2.0 * MAX_VELOCITY) - MAX_VELOCITY
    level = np.cos(elevation) * distance
    x, y, z = level * np.cos(azimuth), level * np.sin(azimuth), distance * np.sin(elevation)
    velocity = VELOCITY_STEP * np.rint(wrapped / VELOCITY_STEP) + 0.0  # no minus zero
    intensity = NOISE_DB + 10.0 * np.log10(power)
    return np.stack([x, y, z, velocity, intensity, distance], axis=-1), reported


def _fill_slots(points: Floats, reported: NDArray[np.bool_], slots: int, rng: np.random.Generator) -> Floats:
    """The reported points of each frame in the first slots, at most `slots` of them (a random choice); zeros after.

    They come as the detector finds them: Doppler bin by Doppler bin, standing still first and the negative ones last
    (the order of an FFT), and by range within a bin.
    """
    frame = np.arange(points.shape[0])[:, None]
    chosen = np.argsort(rng.random(reported.shape) + ~reported, axis=1)[:, :slots]  # reported ones first
    points, reported = points[frame, chosen], reported[frame, chosen]
    doppler, distance = points[..., 3] % (2.0 * MAX_VELOCITY), points[..., 5]
    order = np.lexsort((distance, doppler, ~reported), axis=1)
    filled = np.zeros((points.shape[0], slots, FIELDS))
    filled[:, : order.shape[1]] = np.where(reported[frame, order][..., None], points[frame, order], 0.0)
    return filled

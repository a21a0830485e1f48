"""Simulated data: people with bodies and habits of their own do six activities in front of a radar.

`person` draws who and where, `motion` and `skeleton` say how the joints move, `radar` what is seen of it; here the
recordings are cut into windows. What makes the task hard or easy is in `difficulty`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.hdf5.samples import Samples
from pointcnn_cli.simulate.motion import ACTIVITIES, compute_joints
from pointcnn_cli.simulate.person import draw_body, draw_manner, draw_scene
from pointcnn_cli.simulate.radar import FIELDS, FRAME_RATE, SENSOR_HEIGHT, observe

CLASSES = tuple(sorted(ACTIVITIES))
WINDOWS_A_RECORDING = 7  # at 48 frames and stride 16 a recording lasts 5.3 s
CHANNEL_FIELDS = (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6))  # position, velocity, intensity, range


@dataclass(frozen=True)
class _Take:
    """One recording to simulate, and how many of its windows are wanted."""

    label: int
    subject: int
    recording: int  # counted within label and subject
    windows: int


def simulate_samples(settings: SimulateConfig) -> Samples:
    """Exactly `settings.windows` rows, sorted by label, subject, recording and start frame; subjects are the groups.

    Channels are float16: position (rows, 3, points, frames, 1) in metres, with x away from the radar, y to its left, z
    up; radial velocity in m/s, positive going away; intensity in dB; range in metres; the last three are
    (rows, 1, points, frames, 1). Empty slots are zero in all four.

    Equal settings give equal bytes, and a recording does not change when more windows or subjects are asked for. Where
    there are fewer windows than six times the subjects, not every subject does every activity; a subject without any
    row is left out of the groups.
    """
    takes = _plan(settings)
    values = np.zeros((settings.windows, FIELDS, settings.points, settings.frames), np.float16)
    row = 0
    for take in takes:
        values[row : row + take.windows] = _simulate_windows(settings, take)
        row += take.windows

    windows = np.array([take.windows for take in takes])
    subjects, groups = np.unique([take.subject for take in takes], return_inverse=True)
    digits = len(str(settings.subjects - 1))
    first_rows = np.repeat(np.cumsum(windows) - windows, windows)
    position, velocity, intensity, distance = (values[:, fields, :, :, None] for fields in CHANNEL_FIELDS)
    return Samples(
        channels=(position, velocity, intensity, distance),
        labels=np.repeat([take.label for take in takes], windows),
        classes=CLASSES,
        groups=np.repeat(groups, windows),
        group_names=tuple(f"subject_{subject:0{digits}d}" for subject in subjects),
        recordings=np.repeat(np.arange(len(takes)), windows),
        start_frames=(np.arange(settings.windows) - first_rows) * settings.stride,
    )


def _plan(settings: SimulateConfig) -> list[_Take]:
    """Which recordings to make, in row order. Classes differ by at most one window, as do subjects within a class."""
    takes = []
    for label in range(len(CLASSES)):
        of_class = _share_out(settings.windows, len(CLASSES), label)
        offset = label * settings.subjects // len(CLASSES)  # so that the odd windows go to other subjects in each class
        for subject in range(settings.subjects):
            left = _share_out(of_class, settings.subjects, (subject - offset) % settings.subjects)
            recordings = -(-left // WINDOWS_A_RECORDING)
            for recording in range(recordings):
                windows = min(WINDOWS_A_RECORDING, left - recording * WINDOWS_A_RECORDING)
                takes.append(_Take(label, subject, recording, windows))
    return takes


def _share_out(total: int, parts: int, part: int) -> int:
    """The size of one part when `total` is cut into `parts` as even as can be, larger ones first."""
    return total // parts + (part < total % parts)


def _simulate_windows(settings: SimulateConfig, take: _Take) -> NDArray[np.float16]:
    """The wanted windows of one recording: (windows, FIELDS, points, frames).

    The recording is always made at full length, so that its frames do not depend on how many windows are wanted.
    """

    def generator(*key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=key))

    key = (take.subject, take.label, take.recording)
    frames = settings.frames + settings.stride * (WINDOWS_A_RECORDING - 1)
    seconds = np.linspace(-1.0, frames, frames + 2) / FRAME_RATE  # a frame more on either side, for the velocities
    body = draw_body(generator(take.subject))
    manner = draw_manner(generator(take.subject, take.label), generator(*key, 0))
    scene = draw_scene(generator(*key, 1), frames / FRAME_RATE)
    joints = compute_joints(CLASSES[take.label], body, manner, scene, seconds, SENSOR_HEIGHT)
    points = observe(joints, settings.points, generator(*key, 2))  # (frames, slots, FIELDS)

    starts = settings.stride * np.arange(take.windows)
    cut = points[starts[:, None] + np.arange(settings.frames)]  # (windows, frames, slots, FIELDS)
    return np.asarray(cut.transpose(0, 3, 2, 1), np.float16)

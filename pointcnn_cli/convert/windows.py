"""Recordings of points, and how they are cut into windows: rows of four channels with a fixed number of point slots."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.convert.notes import format_note
from pointcnn_cli.errors import DataError, UsageError
from pointcnn_cli.hdf5.samples import Samples

VALUES = ("x", "y", "z", "velocity", "intensity", "range")
"""The measured values of a point, in the order in which `Recording.values` and the channels hold them."""
MAX_TEXT_BYTES = 2 * 2**30
"""Largest text file that is read; its points are held in memory (two hours of a radar are about 1 GB of log)."""
MAX_LINE_BYTES = 4096
"""Longest line of a text file, read no further; a point takes about 150 characters in a table and 40 a line in a log.
A record of a table, whose quoted cells may hold line ends, is no longer either."""
MAX_WINDOW_BYTES = 16 * 2**30
"""Most bytes of windows built in memory at once; 1 GB holds about 14,000 windows of 64 points and 48 frames."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Recording:
    """The points of one measurement, in the order of their frames."""

    name: str
    group: str
    label: str
    frames: NDArray[np.int64]  # (points,) number of the frame of each point, not decreasing
    slots: NDArray[np.int64]  # (points,) place of each point in its frame
    values: NDArray[np.float32]  # (points, 6) in the order of VALUES


@dataclass(frozen=True)
class WindowShape:
    """How recordings are cut. Raises UsageError for numbers below 1."""

    points: int
    """Point slots a frame."""
    frames: int
    """Frames a window."""
    stride: int
    """Frames between the starts of neighbouring windows."""

    def __post_init__(self) -> None:
        for name in ("points", "frames", "stride"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1")


def check_text_file(path: Path) -> None:
    """Raise DataError for a text file that may not be read, or is larger than MAX_TEXT_BYTES."""
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read this file")
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise DataError(
            f"{path}: {size:,} bytes; text files of at most {MAX_TEXT_BYTES:,} bytes are read",
            "cut the recording into several files",
        )


def check_values(path: Path, values: NDArray[np.float64], lines: NDArray[np.int64]) -> NDArray[np.float32]:
    """`values` (points, 6) as float32; DataError with file and line of the first one that float32 cannot hold.

    `lines` (points,) holds the line on which each point starts.
    """
    bad = ~(np.abs(values) <= _FLOAT32_MAX)  # true for NaN too
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{path}:{lines[row]}: {VALUES[column]} of this point is {values[row, column]}; expected a finite float32 "
            f"({int(bad.sum())} such values in the file)",
            "remove the point: an empty slot is written as 0",
        )
    return values.astype(np.float32)


def cut_recordings(recordings: Sequence[Recording], shape: WindowShape) -> tuple[Samples, list[str]]:
    """All windows of all recordings, sorted by label, recording name and start frame; and notes on what was left out.

    A window starts every `stride` frames, counted from the first frame of its recording, while whole windows fit; one
    without any point is left out. Channels are float32: position (rows, 3, points, frames, 1), then velocity, intensity
    and range (rows, 1, points, frames, 1). Points of slot `points` and above are left out; empty slots are 0.
    `start_frames` holds frame numbers as the recording counts them. Raises DataError when no recording gives a window,
    or when the windows would take more than MAX_WINDOW_BYTES.
    """
    ordered = sorted(recordings, key=lambda r: (r.label, r.name))
    starts = [_window_starts(recording, shape) for recording in ordered]
    notes = format_note(
        f"shorter than {shape.frames} frames, no window cut from it",
        [r.name for r, s in zip(ordered, starts, strict=True) if len(s) == 0],
    )
    kept = [(r, s) for r, s in zip(ordered, starts, strict=True) if len(s)]
    lost = sorted({r.label for r in ordered} - {r.label for r, _ in kept})
    notes += format_note("labels without a single window, left out of the classes", lost)
    if not kept:
        raise DataError(
            f"none of the {len(ordered)} recordings holds a window of {shape.frames} frames with a point in it",
            "take a smaller --frames, or longer recordings",
        )
    block, notes_on_points = _fill_windows(kept, shape)
    return _build_samples(kept, block), notes + notes_on_points


def _window_starts(recording: Recording, shape: WindowShape) -> NDArray[np.int64]:
    """First frames of the windows of a recording that hold at least one point."""
    frames = recording.frames
    if len(frames) == 0:
        return np.empty(0, np.int64)
    last = int(frames[-1]) - shape.frames + 1
    count = max(0, (last - int(frames[0])) // shape.stride + 1)
    _check_size(count, shape, recording.name)
    starts = int(frames[0]) + shape.stride * np.arange(count)
    filled = np.searchsorted(frames, starts + shape.frames) > np.searchsorted(frames, starts)
    return np.asarray(starts[filled], np.int64)


def _check_size(rows: int, shape: WindowShape, what: str) -> None:
    size = rows * len(VALUES) * shape.points * shape.frames * np.dtype(np.float32).itemsize
    if size > MAX_WINDOW_BYTES:
        raise DataError(
            f"{what}: {rows:,} windows of {shape.points} points and {shape.frames} frames take {size:,} bytes; "
            f"at most {MAX_WINDOW_BYTES:,} are built at once",
            "take a larger --stride, check the frame numbers for a jump, or convert the recordings in parts",
        )


def _fill_windows(
    kept: Sequence[tuple[Recording, NDArray[np.int64]]], shape: WindowShape
) -> tuple[NDArray[np.float32], list[str]]:
    """The windows as one block (rows, 6, points, frames), and a note on points for which a frame had no slot."""
    rows = sum(len(starts) for _, starts in kept)
    _check_size(rows, shape, "all recordings together")
    block = np.zeros((rows, len(VALUES), shape.points, shape.frames), np.float32)
    row = dropped = total = 0
    for recording, starts in kept:
        frames = recording.frames
        fits = recording.slots < shape.points
        dropped, total = dropped + int(np.sum(~fits)), total + len(frames)
        frames, slots, values = frames[fits], recording.slots[fits], recording.values[fits]
        firsts, ends = np.searchsorted(frames, starts), np.searchsorted(frames, starts + shape.frames)
        for start, first, end in zip(starts, firsts, ends, strict=True):
            part = slice(first, end)
            block[row][:, slots[part], frames[part] - start] = values[part].T
            row += 1
    note = f"{dropped} of {total} points left out: beyond the {shape.points} point slots of their frame"
    return block, [note] if dropped else []


def _build_samples(kept: Sequence[tuple[Recording, NDArray[np.int64]]], block: NDArray[np.float32]) -> Samples:
    counts = [len(starts) for _, starts in kept]
    classes, labels = np.unique([recording.label for recording, _ in kept], return_inverse=True)
    group_names, groups = np.unique([recording.group for recording, _ in kept], return_inverse=True)
    return Samples(
        channels=(  # (rows, depth, points, frames, 1)
            block[:, 0:3, :, :, np.newaxis],
            block[:, 3:4, :, :, np.newaxis],
            block[:, 4:5, :, :, np.newaxis],
            block[:, 5:6, :, :, np.newaxis],
        ),
        labels=np.repeat(labels, counts).astype(np.int64),
        classes=tuple(str(name) for name in classes),
        groups=np.repeat(groups, counts).astype(np.int64),
        group_names=tuple(str(name) for name in group_names),
        recordings=np.repeat(np.arange(len(kept)), counts).astype(np.int64),
        start_frames=np.concatenate([starts for _, starts in kept]),
    )

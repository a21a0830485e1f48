"""Rows as point clouds in time: which rows and frames are worth drawing, and the points in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import AugmentConfig, Config
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.samples import Source

FRAMES_DRAWN = 4
MOST_POINTS = 256  # a frame; more would fill the page with bytes and the panel with ink
_COLOURED_BY = ("velocity", "intensity", "range")  # the first of these that there is
AXIS_NAMES = ("x", "y", "z", "w")


@dataclass(frozen=True, eq=False)
class Frame:
    """The filled points of one frame, at most `MOST_POINTS` of them, evenly taken."""

    number: int
    """Within the row, from 0."""
    across: NDArray[np.float64]
    """(points,)"""
    up: NDArray[np.float64]
    """(points,)"""
    colour: NDArray[np.float64] | None
    """(points,) velocity, where there is such a channel."""
    points: int
    """How many are filled."""


@dataclass(frozen=True)
class View:
    """What of the channels is drawn: two coordinates and a colour."""

    position: int
    """Number of the channel that holds coordinates."""
    across: int
    """Which coordinate goes from left to right,"""
    up: int
    """and which goes up."""
    colour: int | None
    """Number of the channel that gives the colour; None where there is none."""
    coloured_by: str
    """Its role."""

    @property
    def axes(self) -> tuple[str, str]:
        """Names of the two coordinates."""
        return AXIS_NAMES[self.across], AXIS_NAMES[self.up]


def get_roles(config: Config) -> tuple[str, ...]:
    """What each channel holds, as augmentation was told, or as is usual."""
    return config.augment.channel_roles if config.augment else AugmentConfig().channel_roles


def choose_view(roles: Sequence[str], depths: Sequence[int]) -> View | None:
    """How to draw channels of these roles and depths; None where no channel holds two coordinates.

    Of three coordinates (x away from the radar, y to the side, z up, as TI's chips have them) the last two are drawn:
    what the radar looks at, from where it stands.
    """
    order = sorted(range(len(depths)), key=lambda i: roles[i] != "position")
    position = next((i for i in order if depths[i] >= 2), None)
    if position is None:
        return None
    across, up = (1, 2) if depths[position] >= 3 else (0, 1)
    for role in _COLOURED_BY:
        if role in roles and depths[roles.index(role)] == 1:
            return View(position, across, up, roles.index(role), role)
    return View(position, across, up, None, "")


def read_clouds(source: Source, rows: NDArray[np.int64], view: View, frames: int) -> list[tuple[Frame, ...]]:
    """`frames` frames of each of `rows` (any order). Raises DataError where a row cannot be read."""
    wanted, places = np.unique(rows, return_inverse=True)
    channels = source.read(wanted)
    if any(channel.ndim != 5 for channel in channels):
        raise DataError("these rows have no frames")
    return [_pick_frames([channel[place, ..., 0] for channel in channels], view, frames) for place in places]


def _pick_frames(channels: Sequence[NDArray[Any]], view: View, frames: int) -> tuple[Frame, ...]:
    """Of each of `frames` equal parts of the row the frame with most points; `channels` are (depth, points, frames)."""
    filled = np.any([(channel != 0).any(axis=0) for channel in channels], axis=0)  # (points, frames)
    counts = filled.sum(axis=0)
    edges = np.linspace(0, len(counts), min(frames, len(counts)) + 1).astype(np.int64)
    chosen = [int(a + counts[a:b].argmax()) for a, b in pairwise(edges)]
    return tuple(_build_frame(channels, filled, number, view) for number in chosen)


def _build_frame(channels: Sequence[NDArray[Any]], filled: NDArray[np.bool_], number: int, view: View) -> Frame:
    points = np.flatnonzero(filled[:, number])
    shown = points[np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).astype(np.int64)]
    across, up = (channels[view.position][axis, shown, number].astype(np.float64) for axis in (view.across, view.up))
    colour = None if view.colour is None else channels[view.colour][0, shown, number].astype(np.float64)
    return Frame(number, across, up, colour, len(points))


def choose_mistakes(
    confidence: NDArray[np.float64],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    units: NDArray[np.int64] | None,
    most: int,
) -> NDArray[np.int64]:
    """Places of the most confident mistakes, the most confident first.

    Neighbouring windows are mistaken alike, so of one unit (group) with one true and one predicted class only the first
    is taken while others are left.
    """
    wrong = np.flatnonzero(labels != predicted)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    seen: set[tuple[int, ...]] = set()
    first: list[int] = []
    again: list[int] = []
    for place in wrong:
        kind = (int(labels[place]), int(predicted[place]), -1 if units is None else int(units[place]))
        (again if kind in seen and units is not None else first).append(int(place))
        seen.add(kind)
    return np.array([*first, *again][:most], dtype=np.int64)

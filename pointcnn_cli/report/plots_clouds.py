"""Figures of rows as point clouds in time: a few frames beside each other, coloured by velocity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.report.canvas import Drawing, start_figure
from pointcnn_cli.report.clouds import Frame, View
from pointcnn_cli.report.markup import shorten
from pointcnn_cli.report.palette import VELOCITY, light
from pointcnn_cli.report.plots_training import CHARACTER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

WIDTH = 340
_PANEL, _GAP = 118, 4  # height of a row of frames, and what is between frames; pixels
_LEFT, _BOTTOM, _TOP = 40, 34, 20
_SAMPLE, _LINE, _APART = (96, 112), 156, 16  # a panel; a class with its titles; what is between samples
_FASTEST = 98.0  # per cent of the points that the colours tell apart
_INNER, _OUTER = (10.0, 90.0), 0.6  # per cent of the points, and how much of their spread is added on both sides:
# 99 % of a normal cloud are seen, and a ghost far behind the room does not shrink the person to a dot
_MARK = 13.0  # area of a point, in square pixels

Limits = tuple[float, float, float, float]


def find_scale(rows: Sequence[Sequence[Frame]]) -> float:
    """The velocity at which colours end: what 98 % of the points of these rows stay below; 1 where all stand still."""
    values = [np.abs(frame.colour) for frames in rows for frame in frames if frame.colour is not None]
    joined = np.concatenate(values) if values else np.zeros(0)
    most = float(np.percentile(joined, _FASTEST)) if joined.size else 0.0
    return float(f"{most:.2g}") or 1.0


def draw_row(name: str, frames: Sequence[Frame], view: View, scale: float, description: str) -> Drawing:
    """One row: its frames from left to right, all with the same limits."""
    height = _TOP + _PANEL + _BOTTOM
    figure, sheet = _start_sheet(WIDTH, height)
    wide = (WIDTH - _LEFT - 6 - _GAP * (len(frames) - 1)) / max(len(frames), 1)
    limits = _find_limits([frames], wide / _PANEL)
    for place, frame in enumerate(frames):
        panel = _Panel(sheet, _LEFT + place * (wide + _GAP), _BOTTOM, wide, _PANEL, limits)
        _draw_frame(panel, frame, scale)
        sheet.text(panel.left + wide / 2, height - 15, f"frame {frame.number}", ha="center")
        _draw_ticks(panel, view, first=place == 0)
    return Drawing(name, figure, "A mistaken row as point clouds in time", description)


def draw_legend(view: View, scale: float) -> Drawing:
    """What the colours mean."""
    figure, axes = start_figure(WIDTH, 46, left=40, right=40, top=18, bottom=18)
    steps = np.linspace(-1, 1, 21)
    axes.bar(steps, 1, width=0.101, color=_build_colours()((steps + 1) / 2))
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.grid(False)
    axes.set_xticks([-1, 0, 1], [f"{-scale:g}", "0", f"{scale:g}"])
    axes.set_title(f"{view.coloured_by}, as stored", fontsize=11, weight="normal", color=light("soft"), pad=3)
    return Drawing("scale", figure, f"Colours of {view.coloured_by}", f"From {-scale:g} over 0 to {scale:g}.")


def draw_samples(
    classes: Sequence[str], rows: Sequence[Sequence[Sequence[Frame]]], view: View, titles: Sequence[Sequence[str]]
) -> Drawing:
    """Samples of each class: a line of panels a class. `rows[c][s]` are the frames of sample s of class c."""
    names = [shorten(name, 40) for name in classes]
    columns = max((sum(map(len, samples)) for samples in rows), default=1)
    most = max((len(samples) for samples in rows), default=1)
    width = 8 + columns * (_SAMPLE[0] + _GAP) + most * _APART
    height = 28 + len(classes) * _LINE
    figure, sheet = _start_sheet(width, height)
    everything = [frames for samples in rows for frames in samples]
    scale, limits = find_scale(everything), _find_limits(everything, _SAMPLE[0] / _SAMPLE[1])
    sheet.text(8, height - 18, _describe_view(view, scale), color=light("soft"))
    for place, samples in enumerate(rows):
        bottom, at = height - 28 - (place + 1) * _LINE + 6, 8.0
        sheet.text(8, bottom + _SAMPLE[1] + 20, names[place], weight="bold")
        for frames, title in zip(samples, titles[place], strict=True):
            sheet.text(at, bottom + _SAMPLE[1] + 5, shorten(title, 46), color=light("soft"))
            for frame in frames:
                _draw_frame(_Panel(sheet, at, bottom, *_SAMPLE, limits), frame, scale)
                sheet.text(at + 4, bottom + 4, f"frame {frame.number}", color=light("soft"))
                at += _SAMPLE[0] + _GAP
            at += _APART
    listed = "; ".join(f"{name}: {len(samples)} samples" for name, samples in zip(names, rows, strict=True))
    return Drawing("samples", figure, "Samples of each class as point clouds in time", listed + ".")


def _describe_view(view: View, scale: float) -> str:
    across, up = view.axes
    coloured = f"; colour: {view.coloured_by}, blue {-scale:g}, grey 0, orange {scale:g}" if view.coloured_by else ""
    return f"{across} to the right, {up} up{coloured}"


@dataclass(frozen=True, eq=False)
class _Panel:
    """A part of a sheet, in its pixels, with limits of its own: axes of matplotlib's cost ten times as much."""

    sheet: "Axes"
    left: float
    bottom: float
    width: float
    height: float
    limits: Limits

    def place(self, across: NDArray[np.float64], up: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pixels of points."""
        x0, x1, y0, y1 = self.limits
        return (
            self.left + (across - x0) / (x1 - x0) * self.width,
            self.bottom + (up - y0) / (y1 - y0) * self.height,
        )


def _start_sheet(width: int, height: int) -> "tuple[Figure, Axes]":
    """A figure with axes that fill it and count in pixels."""
    figure, sheet = start_figure(width, height, left=0, right=0, top=0, bottom=0)
    sheet.set_xlim(0, width)
    sheet.set_ylim(0, height)
    sheet.set_axis_off()
    return figure, sheet


def _draw_frame(panel: _Panel, frame: Frame, scale: float) -> None:
    from matplotlib.patches import Rectangle

    x0, x1, y0, y1 = panel.limits
    seen = (frame.across >= x0) & (frame.across <= x1) & (frame.up >= y0) & (frame.up <= y1)
    x, y = panel.place(frame.across[seen], frame.up[seen])
    box = Rectangle((panel.left, panel.bottom), panel.width, panel.height, fill=False, edgecolor=light("line"))
    panel.sheet.add_patch(box)
    if frame.colour is None:
        panel.sheet.scatter(x, y, s=_MARK, color=light("train"), linewidths=0)
    else:
        colour = np.clip(frame.colour[seen] / scale, -1, 1)
        order = np.argsort(np.abs(colour), kind="stable")  # what moves is drawn on top
        panel.sheet.scatter(
            x[order], y[order], s=_MARK, c=colour[order], cmap=_build_colours(), vmin=-1, vmax=1, linewidths=0
        )
    if not frame.points:
        middle = (panel.left + panel.width / 2, panel.bottom + panel.height / 2)
        panel.sheet.text(*middle, "empty", ha="center", color=light("soft"))


def _draw_ticks(panel: _Panel, view: View, *, first: bool) -> None:
    """Numbers along the lower edge, and along the left one of the first panel."""
    from matplotlib.ticker import MaxNLocator

    x0, x1, y0, y1 = panel.limits
    (across, up), soft = view.axes, light("soft")
    end = panel.left - 4.0  # of the number before, so that none runs into the next
    for value in MaxNLocator(nbins=4).tick_values(x0, x1):
        x, half = panel.left + (value - x0) / (x1 - x0) * panel.width, len(f"{value:.3g}") * CHARACTER / 2
        if end + 4 < x - half and x + half < panel.left + panel.width + 2:
            panel.sheet.text(x, panel.bottom - 13, f"{value:.3g}", ha="center", color=soft)
            end = x + half
    panel.sheet.text(panel.left + panel.width / 2, 4, across, ha="center", color=soft)
    if not first:
        return
    for value in MaxNLocator(nbins=4).tick_values(y0, y1):
        y = panel.bottom + (value - y0) / (y1 - y0) * panel.height
        if panel.bottom + 4 < y < panel.bottom + panel.height - 4:
            panel.sheet.text(panel.left - 4, y, f"{value:.3g}", ha="right", va="center", color=soft)
    panel.sheet.text(2, panel.bottom + panel.height / 2, up, va="center", color=soft)


def _find_limits(rows: Sequence[Sequence[Frame]], shape: float) -> Limits:
    """Limits with equal scales on both axes for a panel that is `shape` times as wide as high, around most points."""
    across = np.concatenate([frame.across for frames in rows for frame in frames] or [np.zeros(0)])
    up = np.concatenate([frame.up for frames in rows for frame in frames] or [np.zeros(0)])
    (left, right), (low, high) = _spread(across), _spread(up)
    tall = max(high - low, (right - left) / shape)
    wide = tall * shape
    x, y = (left + right) / 2, (low + high) / 2
    return x - wide / 2, x + wide / 2, y - tall / 2, y + tall / 2


def _spread(values: NDArray[np.float64]) -> tuple[float, float]:
    if not values.size:
        return -1.0, 1.0
    low, high = (float(v) for v in np.percentile(values, _INNER))
    margin = _OUTER * (high - low) or 0.5
    return low - margin, high + margin


def _build_colours() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("velocity", list(VELOCITY), N=21)

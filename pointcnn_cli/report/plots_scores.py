"""Figures of a score: confusion matrix, classes with intervals, calibration, groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.report.canvas import Drawing, start_figure
from pointcnn_cli.report.markup import shorten
from pointcnn_cli.report.measures import Bin, ClassScore, GroupScore, Share
from pointcnn_cli.report.palette import light
from pointcnn_cli.report.plots_training import CHARACTER, MOST_CLASSES, NAME_LENGTH, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_MATRIX_CLASSES = 30
OTHERS = "(others)"
MOST_ZEROS = 12  # classes; in a larger matrix zeros are left out, for they hide the rest
_CELL = (46, 34)  # pixels
_STRONG = 0.7  # share from which a cell is so dark that its text has to be light; contrast is about equal there
_LINE = 22  # pixels a line of dots with intervals
MOST_GROUPS = 40


def merge_classes(confusion: NDArray[np.int64], classes: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The matrix as it is, or that of the classes with most mistakes, the rest of very many added up as one."""
    if len(classes) <= MOST_MATRIX_CLASSES:
        return confusion, list(classes)
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    kept = np.sort(np.argsort(-wrong, kind="stable")[: MOST_MATRIX_CLASSES - 1])
    place = np.full(len(classes), len(kept))
    place[kept] = np.arange(len(kept))
    merged = np.zeros((len(kept) + 1, len(kept) + 1), dtype=np.int64)
    np.add.at(merged, (place[:, None], place[None, :]), confusion)
    return merged, [*(classes[i] for i in kept), OTHERS]


def draw_confusion(confusion: NDArray[np.int64], classes: Sequence[str]) -> Drawing:
    """Rows by true class (down) and predicted class (across): counts, and shares of the true class in per cent."""
    matrix, names = merge_classes(confusion, classes)
    shown = [shorten(name, NAME_LENGTH) for name in names]
    longest = max(map(len, shown)) * CHARACTER
    upright = longest > _CELL[0] - 4
    head = round(longest if upright else 14) + 46
    left = round(longest) + 34
    count, (wide, high) = len(shown), _CELL
    width, height = left + count * wide + 8, head + count * high + 8
    figure, axes = start_figure(max(width, 200), height, left=left, right=max(8, 200 - width + 8), top=head, bottom=8)
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    from matplotlib.patches import Rectangle

    for row in range(count):
        for column in range(count):
            share = float(shares[row, column])
            if share:
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=light("heat"), alpha=share, linewidth=0))
            if share or count <= MOST_ZEROS:
                _write_cell(axes, row, column, int(matrix[row, column]), share)
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    places = np.arange(count) + 0.5
    axes.set_xticks(places, shown, rotation=90 if upright else 0, color=light("ink"))
    axes.set_yticks(places, shown, color=light("ink"))
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(False)
    for edge in range(count + 1):
        axes.axhline(edge, color=light("line"), linewidth=0.6)
        axes.axvline(edge, color=light("line"), linewidth=0.6)
    axes.set_xlabel("predicted class", labelpad=6)
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("true class", labelpad=6)
    figure.text(0.01, 1 - 4 / height, "Confusion matrix", weight="bold", fontsize=12, va="top")
    listed = "; ".join(
        f"{name}: {totals[i]} rows, {matrix[i, i]} right" + (f" ({shares[i, i]:.0%})" if totals[i] else "")
        for i, name in enumerate(names)
    )
    return Drawing("confusion", figure, "Confusion matrix: rows true, columns predicted", listed + ".")


def _write_cell(axes: "Axes", row: int, column: int, count: int, share: float) -> None:
    if not count:
        axes.text(column + 0.5, row + 0.5, "0", ha="center", va="center", color=light("soft"), fontsize=10)
        return
    colour = light("on-heat" if share > _STRONG else "ink")
    weight = "bold" if row == column else "normal"
    axes.text(column + 0.5, row + 0.34, str(count), ha="center", va="center", color=colour, weight=weight)
    axes.text(column + 0.5, row + 0.73, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=10)


def draw_classes(scores: Sequence[ClassScore]) -> Drawing:
    """F1 of each class with its interval; the first of very many."""
    shown = [score for score in scores if score.f1.value is not None][:MOST_CLASSES]
    names = [f"{shorten(score.name, NAME_LENGTH)} ({score.recall.rows})" for score in shown]
    return _draw_shares(
        "classes", "F1 of each class (rows), with 95 % interval", names, [score.f1 for score in shown], None
    )


def draw_groups(scores: Sequence[GroupScore], names: Sequence[str], accuracy: float, unit: str) -> Drawing:
    """Accuracy in each group, the worst first, beside that of all rows; the worst of very many."""
    shown = list(scores[:MOST_GROUPS])
    labels = [f"{shorten(names[one.group], NAME_LENGTH)} ({one.accuracy.rows})" for one in shown]
    title = f"Accuracy of each {unit} (rows)"
    return _draw_shares("groups", title, labels, [one.accuracy for one in shown], accuracy)


def _draw_shares(
    stem: str, title: str, names: Sequence[str], shares: Sequence[Share], reference: float | None
) -> Drawing:
    """Dots with intervals, one a line."""
    left = round(max(map(len, names), default=1) * CHARACTER) + 8
    height = 62 + max(len(names), 1) * _LINE
    figure, axes = start_figure(WIDTH, height, left=min(left, 210), top=28, bottom=28, right=12)
    for place, share in enumerate(shares):
        if share.value is None or share.low is None or share.high is None:
            continue
        axes.plot([share.low, share.high], [place, place], color=light("train"), linewidth=2.2, alpha=0.55)
        axes.plot([share.value], [place], marker="o", markersize=6, color=light("train"), clip_on=False)
    axes.set_yticks(range(len(names)), names, color=light("ink"))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.tick_params(axis="y", length=0)
    if reference is not None:
        axes.axvline(reference, color=light("validation"), linewidth=1.4, linestyle=(0, (5, 2)))
    figure.text(0.01, 1 - 4 / height, title, weight="bold", fontsize=12, va="top")
    values = [
        f"{name}: {share.value:.2f}" for name, share in zip(names, shares, strict=True) if share.value is not None
    ]
    return Drawing(stem, figure, title, "; ".join(values) + ".")


def draw_reliability(bins: Sequence[Bin], error: float) -> Drawing:
    """Accuracy against confidence in 15 equal bins, with intervals, and how many rows each bin holds."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = start_figure(WIDTH, 320, left=46, bottom=104)
    most = max((one.accuracy.rows for one in bins), default=1)
    axes.plot([0, 1], [0, 1], color=light("chance"), linewidth=1.2, linestyle=(0, (4, 2)))
    for one in bins:
        share = one.accuracy
        if share.low is not None and share.high is not None:
            axes.plot([one.confidence] * 2, [share.low, share.high], color=light("train"), linewidth=2, alpha=0.45)
    axes.scatter(
        [one.confidence for one in bins], [one.accuracy.value or 0.0 for one in bins], color=light("train"), zorder=3,
        s=[12 + 60 * one.accuracy.rows / most for one in bins], clip_on=False,
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy")
    axes.set_title("Calibration")
    axes.tick_params(labelbottom=False)
    below = figure.add_axes((46 / WIDTH, 40 / 320, (WIDTH - 54) / WIDTH, 52 / 320))
    below.bar(
        [(one.low + one.high) / 2 for one in bins], [one.accuracy.rows for one in bins], width=1 / 15 - 0.008,
        color=light("train"),
    )  # fmt: skip
    below.set_xlim(0, 1)
    below.set_xlabel("confidence of the answer")
    below.set_ylabel("rows")
    below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=2))
    words = "; ".join(
        f"{one.accuracy.rows} rows of mean confidence {one.confidence:.2f} are right in {one.accuracy.value:.2f}"
        for one in bins
    )
    title = f"Reliability diagram; expected calibration error {error:.3f}"
    return Drawing("reliability", figure, title, words + ".")

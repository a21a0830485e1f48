"""Figures of a training: curves of loss and accuracy, and the rows of each class in each part."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pointcnn_cli.report.canvas import FONT_SIZE, Drawing, start_figure
from pointcnn_cli.report.markup import shorten
from pointcnn_cli.report.palette import light
from pointcnn_cli.splits.parts import PartDescription

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, _TOP = 340, 276, 60
MOST_MARKED_EPOCHS = 30  # a mark on each point of a longer curve is a thick line
MOST_CLASSES = 40
NAME_LENGTH = 18  # characters of a class beside an axis
CHARACTER = 6.6  # pixels that one takes at most, on average
PART_STYLES = {"train": ("train", ""), "validation": ("validation", "//"), "test": ("test", "..")}
_BAR = 11  # pixels a bar


def draw_loss(history: Sequence[Mapping[str, float]], kept: int | None, best: int | None, classes: int) -> Drawing:
    """Loss of training and validation in each epoch, beside that of equal probabilities for all classes."""
    figure, axes = start_figure(WIDTH, HEIGHT, top=_TOP)
    _draw_curves(axes, history, "loss", "val_loss")
    guess = math.log(max(classes, 1))
    highest = max((row.get(key, 0.0) for row in history for key in ("loss", "val_loss")), default=guess)
    top = max(highest, guess) * 1.1 or 1.0
    axes.set_ylim(0, top)
    _draw_level(axes, guess, "chance", "equal guess", (2, 2))
    _mark_epochs(axes, kept, best)
    _head(axes, "Loss")
    words = _describe_ends(history, "loss", "val_loss", ".3g")
    return Drawing("loss", figure, "Loss in each epoch", f"{words} Equal guessing has a loss of {guess:.3g}.")


def draw_accuracy(
    history: Sequence[Mapping[str, float]], kept: int | None, best: int | None, ceiling: float, chance: float
) -> Drawing:
    """Accuracy of training and validation in each epoch, beside the ceiling and the best constant answer."""
    figure, axes = start_figure(WIDTH, HEIGHT, top=_TOP)
    _draw_curves(axes, history, "accuracy", "val_accuracy")
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    if abs(ceiling - chance) < 0.04:
        _draw_level(axes, ceiling, "ceiling", f"ceiling {ceiling:.3f}, constant {chance:.3f}", (6, 2))
    else:
        _draw_level(axes, ceiling, "ceiling", f"ceiling {ceiling:.3f}", (6, 2))
        _draw_level(axes, chance, "chance", f"best constant answer {chance:.3f}", (2, 2))
    _mark_epochs(axes, kept, best)
    _head(axes, "Accuracy")
    words = _describe_ends(history, "accuracy", "val_accuracy", ".3f")
    limits = f" The ceiling of validation is {ceiling:.3f}, the best constant answer {chance:.3f}."
    return Drawing("accuracy", figure, "Accuracy in each epoch", words + limits)


def _draw_curves(axes: "Axes", history: Sequence[Mapping[str, float]], training: str, validation: str) -> None:
    from matplotlib.ticker import MaxNLocator

    marked = len(history) <= MOST_MARKED_EPOCHS
    for key, name, colour, mark, dash in (
        (training, "training", "train", "o", "-"),
        (validation, "validation", "validation", "s", (0, (5, 1.5))),
    ):
        points = [(row["epoch"], row[key]) for row in history if key in row and "epoch" in row]
        axes.plot(
            [x for x, _ in points], [y for _, y in points], color=light(colour), label=name, linewidth=1.8,
            linestyle=dash, marker=mark if marked else "", markersize=4,
        )  # fmt: skip
    epochs = [row["epoch"] for row in history if "epoch" in row] or [1.0]
    margin = max(0.5, 0.02 * (max(epochs) - min(epochs)))
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _draw_level(axes: "Axes", value: float, colour: str, words: str, dash: tuple[float, float]) -> None:
    axes.axhline(value, color=light(colour), linewidth=1.4, linestyle=(0, dash))
    axes.annotate(
        words, (1.0, value), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
        ha="right", color=light(colour),
    )  # fmt: skip


def _mark_epochs(axes: "Axes", kept: int | None, best: int | None) -> None:
    """A line at the epoch whose weights were kept, and one at the best where that is another."""
    marks = {kept: "kept", best: "best"} if kept != best else {kept: "kept, best"}
    for (epoch, words), dash in zip(marks.items(), ((1, 1.5), (4, 1.5, 1, 1.5)), strict=False):
        if epoch is not None:
            style = (0, dash)
            axes.axvline(epoch, color=light("soft"), linewidth=1.2, linestyle=style, label=f"{words}: epoch {epoch}")


def _head(axes: "Axes", title: str) -> None:
    """Title and legend above the axes, where they cover nothing."""
    axes.figure.text(0.01, 1 - 4 / HEIGHT, title, weight="bold", fontsize=FONT_SIZE + 1, va="top")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2, borderpad=0.2, ncols=2, handlelength=2,
        columnspacing=1.2, labelspacing=0.3,
    )  # fmt: skip


def _describe_ends(history: Sequence[Mapping[str, float]], training: str, validation: str, form: str) -> str:
    """Alternative text: where the curves begin and end."""
    if not history:
        return "No epoch was done."
    first, last = history[0], history[-1]
    parts = [
        f"{name} goes from {first[key]:{form}} to {last[key]:{form}}"
        for key, name in ((training, "training"), (validation, "validation"))
        if key in first and key in last
    ]
    return f"Over {len(history)} epochs, {' and '.join(parts)}."


def draw_counts(parts: Sequence[PartDescription], classes: Sequence[str]) -> Drawing:
    """Rows of each class in each part, as bars with their numbers; the first classes of very many."""
    shown, parts = list(classes[:MOST_CLASSES]), list(parts)
    step = len(parts) * _BAR + 8
    names = [shorten(name, NAME_LENGTH) for name in shown]
    left = round(max(map(len, names), default=1) * CHARACTER) + 10
    figure, axes = start_figure(WIDTH, 70 + len(shown) * step, left=left, top=44, bottom=12, right=40)
    most = max((part.classes.get(name, 0) for part in parts for name in shown), default=0) or 1
    for place, part in enumerate(parts):
        colour, hatch = PART_STYLES[part.name]
        heights = [i * step + (place - (len(parts) - 1) / 2) * _BAR for i in range(len(shown))]
        counts = [part.classes.get(name, 0) for name in shown]
        axes.barh(
            heights, counts, height=_BAR - 1.5, color=light(colour), hatch=hatch, edgecolor=light("paper"), linewidth=0,
            label=f"{part.name} ({part.rows})",
        )  # fmt: skip
        for height, count in zip(heights, counts, strict=True):
            never = count == 0 and part.name == "train"
            axes.annotate(
                "0, never trained" if never else str(count), (count, height), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=10, color=light("bad" if never else "ink"),
                weight="bold" if never else "normal",
            )  # fmt: skip
    axes.set_yticks([i * step for i in range(len(shown))], names, color=light("ink"))
    axes.set_ylim(len(shown) * step - step / 2, -step / 2)
    axes.set_xlim(0, most * 1.02)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 1), ncols=len(parts), handlelength=1.2, columnspacing=0.9,
        borderaxespad=0.2, title="Rows of each part", title_fontproperties={"weight": "bold", "size": 12},
        alignment="left",
    )  # fmt: skip
    listed = "; ".join(f"{part.name}: " + ", ".join(f"{n} {part.classes.get(n, 0)}" for n in shown) for part in parts)
    return Drawing("counts", figure, "Rows of each class in each part", listed + ".")

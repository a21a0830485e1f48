"""Samples of each class of a data file, drawn: what `data inspect --plot` shows."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import AugmentConfig, DataConfig
from pointcnn_cli.errors import DataError, UsageError
from pointcnn_cli.files import check_target, write_whole
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.hdf5.samples import DataIndex
from pointcnn_cli.report.canvas import drawing_style, render_png, render_svg
from pointcnn_cli.report.clouds import choose_view, read_clouds
from pointcnn_cli.report.plots_clouds import draw_samples
from pointcnn_cli.splits.parts import require_labels

FORMATS = {".svg": render_svg, ".png": render_png}
SAMPLES, FRAMES = 2, 3
MOST_CLASSES = 30
SEED = 0  # the same file gives the same plot


def check_plot(target: Path, force: bool) -> None:
    """Raise UsageError for a suffix that is no format, OutputError for what exists already or cannot be written."""
    if target.suffix not in FORMATS:
        raise UsageError(
            f"{target}: the suffix chooses the format, and {target.suffix or 'none'!r} is none of {', '.join(FORMATS)}",
            "name the plot, for example, samples.png",
        )
    check_target(target, force)


def write_samples_plot(file: Path, data: DataConfig, target: Path, *, force: bool) -> str:
    """Draw two random rows of each class of `file`, three frames each, and return what was drawn, in words.

    Raises DataError for a file that cannot be read as `data` says or has no coordinates to draw, and as `check_plot`.
    """
    check_plot(target, force)
    with open_hdf5(data.model_copy(update={"path": str(file)})) as source:
        labels, classes = require_labels(source.index)
        view = choose_view(AugmentConfig().channel_roles, [shape[0] for shape in source.index.channel_shapes])
        if view is None:
            raise DataError(
                f"{file}: no channel holds two coordinates or more, so there is nothing to draw",
                "name a channel of depth 2 to 4 among data.channels",
            )
        present = [int(number) for number in np.unique(labels)][:MOST_CLASSES]
        chosen = [_choose_rows(labels, number) for number in present]
        clouds = read_clouds(source, np.concatenate(chosen), view, FRAMES)
        titles = [[_name_row(source.index, int(row)) for row in rows] for rows in chosen]
    ends = np.cumsum([len(rows) for rows in chosen])
    grouped = [clouds[end - len(rows) : end] for rows, end in zip(chosen, ends, strict=True)]
    with drawing_style():
        drawing = draw_samples([classes[number] for number in present], grouped, view, titles)
        write_whole(check_target(target, force), FORMATS[target.suffix](drawing), force=force)
    return f"{len(clouds)} rows of {len(present)} of {len(np.unique(labels))} classes"


def _choose_rows(labels: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    rows = np.flatnonzero(labels == number)
    picked = np.random.default_rng([SEED, number]).choice(rows, min(SAMPLES, len(rows)), replace=False)
    return np.sort(picked).astype(np.int64)


def _name_row(index: DataIndex, row: int) -> str:
    group = "" if index.groups is None else f", group {index.groups[row]}"
    if index.groups is not None and index.group_names:
        group = f", group {index.group_names[index.groups[row]]}"
    return f"row {row}{group}"

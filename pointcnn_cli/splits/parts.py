"""A split, and what can be counted in it: rows, groups and classes of a part, ceiling, chance, overlapping windows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.samples import DataIndex

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of each part, sorted; the parts share no row."""

    train: Rows
    validation: Rows
    test: Rows | None
    strategy: str
    """What was done: `stratified`, `stratified_group`, `tail` or `file`; never `auto`."""
    notes: tuple[str, ...] = ()
    """What the user must be told: rules that were applied, and warnings; full sentences."""
    folds: int | None = None
    """Into how many folds the rows were cut (`split.fold` is one of them); None for `tail` and `file`."""


@dataclass(frozen=True)
class PartDescription:
    """What one part holds. `dataclasses.asdict` makes it JSON-ready."""

    name: str
    rows: int
    groups: int | None
    """None where the data have no groups."""
    classes: dict[str, int]
    """Rows of every class, also where there are none."""
    ceiling: float | None
    """The best accuracy here for a network that answers only with classes that it was trained on; None for training."""
    chance: float | None
    """The best accuracy here of one constant answer among those classes; None for training."""


def require_labels(index: DataIndex) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels (rows,) and class names of the data. Raises DataError where they have none."""
    if index.labels is None or index.classes is None:
        raise DataError(
            f"the rows of {name_files(index)} have no labels, and a split needs them",
            "name the dataset that holds them in data.labels",
        )
    return index.labels, index.classes


def name_files(index: DataIndex) -> str:
    """The file that holds the rows, for messages."""
    others = len(index.files) - 1
    return index.files[0].path + (f" and {others} more" if others else "")


def name_parts(split: Split) -> dict[str, Rows]:
    """The parts that there are, by name."""
    parts = {"train": split.train, "validation": split.validation}
    return parts if split.test is None else {**parts, "test": split.test}


def compute_ceiling(labels: NDArray[np.int64], train: Rows, part: Rows) -> float:
    """Share of the rows of `part` whose class occurs in `train`: no network trained there can score more on them."""
    return float(np.isin(labels[part], labels[train]).mean())


def compute_chance(labels: NDArray[np.int64], train: Rows, part: Rows) -> float:
    """Accuracy on `part` of the best constant answer among the classes that occur in `train`."""
    counts = np.bincount(labels[part], minlength=int(labels.max()) + 1)
    return float(counts[np.unique(labels[train])].max(initial=0) / len(part))


def describe_split(index: DataIndex, split: Split) -> tuple[PartDescription, ...]:
    """What training, validation and (where there is one) test part hold, in this order."""
    labels, classes = require_labels(index)
    return tuple(
        PartDescription(
            name=name,
            rows=len(rows),
            groups=None if index.groups is None else len(np.unique(index.groups[rows])),
            classes=dict(zip(classes, np.bincount(labels[rows], minlength=len(classes)).tolist(), strict=True)),
            ceiling=None if name == "train" else compute_ceiling(labels, split.train, rows),
            chance=None if name == "train" else compute_chance(labels, split.train, rows),
        )
        for name, rows in name_parts(split).items()
    )


def find_window_overlap(index: DataIndex, split: Split, frames: int) -> int:
    """How many validation rows share frames with a training row of their recording; windows are `frames` long."""
    return count_overlaps(index, split.train, split.validation, frames)


def count_overlaps(index: DataIndex, train: Rows, part: Rows, frames: int) -> int:
    """How many rows of `part` start within `frames` of a row of `train` of the same recording.

    Rows of one group and label are one recording where the data name none. 0 where there are no start frames.
    """
    if index.start_frames is None:
        return 0
    return int(np.count_nonzero(mark_overlaps(index.start_frames, _number_recordings(index), train, part, frames)))


def mark_overlaps(
    start_frames: NDArray[np.int64], recordings: NDArray[np.int64], train: Rows, part: Rows, frames: int
) -> NDArray[np.bool_]:
    """Which rows of `part` start within `frames` of a row of `train` of the same recording, as a mask over `part`."""
    rows = np.concatenate([train, part])
    starts, units = start_frames[rows], recordings[rows]
    order = np.lexsort((starts, units))
    starts, units = starts[order], units[order]
    trains = order < len(train)
    place = np.arange(len(rows))
    # The nearest training rows in time are the last one before and the first one after, in this order.
    before = np.maximum.accumulate(np.where(trains, place, -1))
    after = np.minimum.accumulate(np.where(trains, place, len(rows))[::-1])[::-1]
    overlaps = np.zeros(len(rows), dtype=bool)
    for neighbour in (before, after):
        there = np.clip(neighbour, 0, len(rows) - 1)
        near = (units[there] == units) & (np.abs(starts[there] - starts) < frames)
        overlaps[order] |= near & trains[there]
    return overlaps[len(train) :]


def _number_recordings(index: DataIndex) -> NDArray[np.int64]:
    if index.recordings is not None:
        return index.recordings
    labels, classes = require_labels(index)
    return labels if index.groups is None else index.groups * len(classes) + labels

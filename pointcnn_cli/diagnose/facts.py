"""What may be known of a training, as plain data: its rows, its parts, its settings, the blocks of its network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CaseData:
    """The rows, without a promise that they are sound."""

    read: Callable[[Rows], tuple[NDArray[Any], ...]]
    """The inputs of these rows (strictly increasing), each (len(rows), ...), as stored; NaN passes."""
    rows: int
    names: tuple[str, ...]
    """Of the inputs."""
    shapes: tuple[tuple[int, ...], ...]
    """Of one row of each input, without a trailing axis of 1: (depth, points, frames) for four-channel data."""
    labels: NDArray[np.int64] | None
    """(rows,) class numbers; -1 where the label as given is not one of the classes."""
    classes: tuple[str, ...]
    raw_labels: NDArray[Any] | None = None
    """Labels as given, where they were given as an array: (rows,), (rows, 1) or (rows, classes)."""
    groups: NDArray[np.int64] | None = None
    """(rows,) what must not be shared between parts."""
    recordings: NDArray[np.int64] | None = None
    start_frames: NDArray[np.int64] | None = None
    locate: Callable[[int], str] = "row {}".format
    """Where a row is, for a person."""

    @property
    def has_frames(self) -> bool:
        """Whether every input is (depth, points, frames) with the same number of frames."""
        return all(len(shape) == 3 for shape in self.shapes) and len({shape[-1] for shape in self.shapes}) == 1


@dataclass(frozen=True)
class FitSettings:
    """How the training was, or will be, done; None for what is not known."""

    split_strategy: str | None = None
    """`tail`, `stratified`, `stratified_group`, `file`, or None for parts that were given."""
    loss: str | None = None
    """Name of the loss, as `categorical_crossentropy`."""
    from_logits: bool | None = None
    metric: str | None = None
    """Name of the metric that history calls accuracy."""
    optimizer: str | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    """Planned, or done where a history says so."""
    shuffle: bool | None = None
    class_weight: Mapping[Any, float] | str | None = None
    class_weight_known: bool = False
    """Whether `class_weight` None means that there was none."""
    steps_per_epoch: int | None = None
    selects_on_validation: bool | None = None
    has_test_part: bool = False
    augments: bool | None = None
    augments_validation: bool | None = None
    normalizes: bool | None = None
    """Whether inputs are normalised outside the model's graph; in it, the graph shows it."""


@dataclass(frozen=True)
class Block:
    """A part of a network as its builder declares it: the tensor that goes in, and the one that comes out."""

    name: str
    inputs: tuple[Any, ...]
    output: Any


@dataclass(frozen=True, eq=False)
class LabelledParts:
    """What checks of a split need, all of it known."""

    data: CaseData
    labels: NDArray[np.int64]
    """(rows,) of all rows; -1 for what is no class."""
    train: Rows
    validation: Rows

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.data.classes

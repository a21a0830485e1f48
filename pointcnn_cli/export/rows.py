"""The rows that an export is checked on: validation rows of the run, or, where its data are gone, generated ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import DataError
from pointcnn_cli.export.formats import Arrays
from pointcnn_cli.hdf5.fingerprint import check_fingerprint
from pointcnn_cli.hdf5.samples import ArraySource, Samples, Source
from pointcnn_cli.prediction import LoadedRun, check_shapes
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits.files import read_run_split
from pointcnn_cli.splits.parts import Split, require_labels

if TYPE_CHECKING:
    import keras

MOST_CHECKED = 1024
MOST_CALIBRATION = 256  # TensorFlow asks for a few hundred
GENERATED = 64
FILLED_SHARE = 0.7  # of the point slots of generated rows


@dataclass(frozen=True)
class CheckRows:
    """Rows of a source, and what they are."""

    source: Source
    numbers: NDArray[np.int64]
    """Which rows of the source; sorted."""
    origin: str
    """`validation` or `generated`."""
    split: Split | None
    """None for generated rows."""

    def first(self, most: int) -> "CheckRows":
        """The first of these rows."""
        return replace(self, numbers=self.numbers[:most])

    def describe(self) -> str:
        """Which rows these are, for a sentence."""
        if self.split is None:
            return f"{len(self.numbers)} generated rows"
        total = len(self.split.validation)
        if len(self.numbers) == total:
            return f"all {total} validation rows"
        return f"{len(self.numbers)} of the {total} validation rows, evenly spread"

    def pick_training(self) -> NDArray[np.int64]:
        """Training rows, evenly spread, to take the ranges of integers from. Raises DataError for generated rows."""
        if self.split is None:
            raise DataError("the run's training rows are needed, and they are gone", "put its data back")
        return _spread(self.split.train, MOST_CALIBRATION)

    def find_truth(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Labels and groups of these rows. Raises DataError where there are no labels."""
        index = self.source.index
        labels, _ = require_labels(index)
        return labels[self.numbers], None if index.groups is None else index.groups[self.numbers]


@contextmanager
def open_check_rows(
    loaded: LoadedRun, network: "keras.Model", labels_needed: bool, reporter: Reporter
) -> Iterator[CheckRows]:
    """Validation rows of the run; generated rows, with a warning, where its data are gone and no label is needed.

    Raises DataError where labels are needed and the data are gone or changed.
    """
    try:
        source = open_source(loaded.config.data, expected_classes=loaded.classes)
    except DataError as error:
        if labels_needed:
            raise
        reporter.warn(_describe_loss(error))
        yield _generate_rows(loaded, network)
        return
    with source:
        try:
            check_fingerprint(source, loaded.manifest["data"])
            check_shapes(source.index, loaded.manifest)
        except DataError as error:
            if labels_needed:
                raise
            reporter.warn(_describe_loss(error))
            rows = _generate_rows(loaded, network)
        else:
            split = read_run_split(loaded.run.split, source.index.rows)
            rows = CheckRows(source, _spread(split.validation, MOST_CHECKED), "validation", split)
        yield rows


def iterate_batches(source: Source, numbers: NDArray[np.int64], names: Sequence[str], size: int) -> Iterator[Arrays]:
    """The channels of these rows by name as float32, `size` rows at a time and fewer at the end."""
    from pointcnn_cli.batches import PREDICTION_ROWS, read_ahead

    for block, stored in read_ahead(source, numbers, PREDICTION_ROWS):
        channels = [c.astype(np.float32, copy=False) for c in stored]
        for start in range(0, len(block), size):
            yield {name: c[start : start + size] for name, c in zip(names, channels, strict=True)}


def _describe_loss(error: DataError) -> str:
    return (
        f"{error.message}; so the export is compared with Keras on {GENERATED} generated rows instead, in the range of "
        "the training rows: that shows whether both compute the same function, not what it does to real rows"
    )


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def _generate_rows(loaded: LoadedRun, network: "keras.Model") -> CheckRows:
    """Normal values with the mean and deviation that the network normalises with, in a random part of the slots."""
    rng = np.random.default_rng(0)
    shapes = [(int(d), int(p), int(t)) for d, p, t in loaded.manifest["channel_shapes"]]
    _, points, frames = shapes[0]
    filled = rng.random((GENERATED, 1, points, frames, 1)) < FILLED_SHARE
    total = sum(depth for depth, _, _ in shapes)
    mean, deviation = np.zeros(total), np.ones(total)
    if loaded.config.model.normalize != "none":
        mean, deviation = network.get_layer("normalization").get_weights()
    channels, first = [], 0
    for depth, _, _ in shapes:
        part = slice(first, first + depth)
        values = rng.standard_normal((GENERATED, depth, points, frames, 1))
        values = values * deviation[part].reshape(depth, 1, 1, 1) + mean[part].reshape(depth, 1, 1, 1)
        channels.append((values * filled).astype(np.float32))
        first += depth
    one, two, three, four = channels
    samples = Samples((one, two, three, four), np.zeros(GENERATED, np.int64), loaded.classes)
    return CheckRows(ArraySource(samples, "<generated>"), np.arange(GENERATED), "generated", None)

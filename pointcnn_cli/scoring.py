"""Predictions of labelled rows, and their score."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.samples import DataIndex, Source
from pointcnn_cli.metrics import compute_metrics
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.splits.parts import require_labels
from pointcnn_cli.tables import Predictions

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Scored:
    """The document of metrics.json, and the predictions it was computed from."""

    metrics: dict[str, Any]
    predictions: Predictions


def score_rows(
    model: "keras.Model",
    source: Source,
    rows: NDArray[np.int64],
    index: DataIndex,
    numbers: NDArray[np.int64],
    *,
    trained_classes: NDArray[np.int64],
    epoch: int,
    selected_on_these_rows: bool,
    reporter: Reporter | None = None,
) -> Scored:
    """Predict `rows` of `source`, telling `reporter` of it, and compare with the labels that `index` has for them.

    `numbers` are the numbers of these rows in `index`, where `source` holds only a part of it. Raises DataError
    without labels.
    """
    check_labels(index)
    probabilities = np.concatenate(list(_predict(model, source, rows, reporter or Reporter())))
    return score_probabilities(
        probabilities, index, numbers,
        trained_classes=trained_classes, epoch=epoch, selected_on_these_rows=selected_on_these_rows,
    )  # fmt: skip


def check_labels(index: DataIndex) -> None:
    """Raise DataError where there is nothing to compare predictions with."""
    if index.labels is None or index.classes is None:
        raise DataError(
            f"{index.files[0].path}: there are no labels to compare predictions with",
            "name the dataset that holds them with --set data.labels=NAME, or use pointcnn predict",
        )


def score_probabilities(
    probabilities: NDArray[np.float32],
    index: DataIndex,
    numbers: NDArray[np.int64],
    *,
    trained_classes: NDArray[np.int64],
    epoch: int | None,
    selected_on_these_rows: bool,
) -> Scored:
    """Compare `probabilities` (rows, classes) with the labels that `index` has for the rows of these `numbers`."""
    all_labels, classes = require_labels(index)
    labels = all_labels[numbers]
    groups = None if index.groups is None else index.groups[numbers]
    metrics = compute_metrics(
        labels, probabilities, groups, classes, trained_classes,
        epoch=epoch, selected_on_these_rows=selected_on_these_rows,
    )  # fmt: skip
    return Scored(
        metrics,
        Predictions(
            numbers,
            index.name_files(numbers),
            probabilities,
            labels=[classes[i] for i in labels],
            groups=None if groups is None else [_name_group(index, int(g)) for g in groups],
        ),
    )


def _predict(
    model: "keras.Model", source: Source, rows: NDArray[np.int64], reporter: Reporter
) -> Iterator[NDArray[np.float32]]:
    """Probabilities block by block, and progress."""
    from pointcnn_cli.batches import predict_rows

    reporter.start_rows(len(rows))
    try:
        for block in predict_rows(model, source, rows):
            reporter.end_rows(len(block))
            yield block
    finally:
        reporter.end_prediction()


def _name_group(index: DataIndex, group: int) -> str:
    return index.group_names[group] if index.group_names else str(group)

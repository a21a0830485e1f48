"""The rows that a page is about, with what the network answered."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.checkpoints import RESTORE
from pointcnn_cli.errors import RunError
from pointcnn_cli.metrics import compute_metrics
from pointcnn_cli.tables import Predictions


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Labelled rows and the answers to them."""

    what: str
    """What rows these are, as in "validation rows"."""
    classes: tuple[str, ...]
    numbers: NDArray[np.int64]
    """(rows,) in their source"""
    labels: NDArray[np.int64]
    """(rows,)"""
    probabilities: NDArray[np.float64]
    """(rows, classes)"""
    groups: NDArray[np.int64] | None
    """(rows,) places in `group_names`"""
    group_names: tuple[str, ...]
    files: list[str]
    metrics: dict[str, Any]
    """As metrics.json."""

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(rows,) the first of the most probable classes."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(rows,) the probability of the predicted class."""
        return np.asarray(self.probabilities.max(axis=1), dtype=np.float64)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(rows,)"""
        return np.asarray(self.predicted == self.labels)


def build_scored(
    what: str,
    predictions: Predictions,
    classes: tuple[str, ...],
    trained: NDArray[np.int64],
    *,
    epoch: int | None,
    selected: bool,
) -> ScoredRows:
    """Score labelled predictions. `trained` are the numbers of the classes that had training rows, `epoch` that of the
    weights, and `selected` says whether they were chosen on these rows. Raises RunError for labels that are missing or
    of other classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    if predictions.labels is None or not numbers.keys() >= set(predictions.labels):
        raise RunError("the predictions have no labels, or labels of other classes", RESTORE)
    labels = np.array([numbers[name] for name in predictions.labels], dtype=np.int64)
    names: tuple[str, ...] = ()
    groups = None
    if predictions.groups is not None:
        found, codes = np.unique(np.array(predictions.groups, dtype=object), return_inverse=True)
        names, groups = tuple(map(str, found)), codes.astype(np.int64)
    probabilities = np.asarray(predictions.probabilities, dtype=np.float64)
    metrics = compute_metrics(
        labels, probabilities, groups, classes, trained, epoch=epoch, selected_on_these_rows=selected
    )
    return ScoredRows(
        what, classes, predictions.numbers, labels, probabilities, groups, names, predictions.files,
        metrics,
    )  # fmt: skip

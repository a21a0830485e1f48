"""The rows that a page is about, with what the network answered: read from predictions.csv, or scored anew."""

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import RunError
from pointcnn_cli.files import read_regular
from pointcnn_cli.metrics import compute_metrics
from pointcnn_cli.tables import Predictions

MOST_BYTES = 1 << 30  # of a table of predictions


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
    weights, and `selected` says whether they were chosen on these rows."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in predictions.labels or ()], dtype=np.int64)
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


def read_predictions(path: Path, classes: tuple[str, ...]) -> Predictions:
    """The table that a training wrote. Raises RunError where it is missing, damaged or without labels."""
    try:
        text = read_regular(path, MOST_BYTES).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        columns = [f"p_{name}" for name in classes]
        probabilities = np.array([[float(row[column]) for column in columns] for row in rows], dtype=np.float32)
        labels, known = [row["label"] for row in rows], set(classes)
        if unknown := [label for label in labels if label not in known]:
            raise ValueError(f"label {unknown[0]!r} is none of the run's classes")
        return Predictions(
            np.array([int(row["index"]) for row in rows], dtype=np.int64),
            [row["file"] for row in rows],
            probabilities.reshape(len(rows), len(classes)),
            labels,
            [row["group"] for row in rows] if rows and "group" in rows[0] else None,
        )
    except FileNotFoundError:
        raise RunError(f"{path}: no such file", "score the run's rows with pointcnn evaluate") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})", "check the disk") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path}: damaged ({error})", "restore it, or score the rows again") from None

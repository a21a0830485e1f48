"""Numbers of a page that metrics.json does not hold: intervals of each class, calibration by bin, scores by group."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.metrics import CALIBRATION_BINS, compute_accuracy_interval

Labels = NDArray[np.int64]
Groups = NDArray[np.int64] | None


@dataclass(frozen=True)
class Share:
    """A share of `rows` rows with its 95 % interval; all None where there are no rows."""

    rows: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    """As `metrics.compute_accuracy_interval` names it."""


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told."""

    name: str
    precision: Share
    recall: Share
    f1: Share


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence."""

    low: float
    high: float
    confidence: float
    """Mean of its rows."""
    accuracy: Share


@dataclass(frozen=True)
class GroupScore:
    """Rows of one group."""

    group: int
    accuracy: Share
    """Its interval takes the rows as independent."""
    confused: tuple[int, int, int] | None
    """True class, predicted class and rows of its most frequent mistake."""


def compute_share(hits: NDArray[np.bool_], groups: Groups) -> Share:
    """The share of `hits` (rows,) that are true; the interval allows for `groups` (rows,) as that of the accuracy."""
    if not len(hits):
        return Share(0)
    low, high, method = compute_accuracy_interval(hits, groups)
    return Share(len(hits), float(hits.mean()), low, high, method)


def compute_class_intervals(
    labels: Labels, predicted: Labels, groups: Groups, classes: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of each class with intervals.

    Recall is the share of right rows among those of the class, precision among those answered with it. F1 is no share,
    but 2J / (1 + J), where J is the share of right rows among those that are of the class or answered with it (the
    Jaccard index); its interval is that of J, carried through this rising function.
    """
    return tuple(_score_class(labels, predicted, groups, number, name) for number, name in enumerate(classes))


def _score_class(labels: Labels, predicted: Labels, groups: Groups, number: int, name: str) -> ClassScore:
    true, answered = labels == number, predicted == number

    def among(rows: NDArray[np.bool_]) -> Share:
        return compute_share((true & answered)[rows], None if groups is None else groups[rows])

    union = among(true | answered)
    value, low, high = (_jaccard_to_f1(share) for share in (union.value, union.low, union.high))
    f1 = Share(union.rows, value, low, high, union.method)
    return ClassScore(name, among(answered), among(true), f1)


def _jaccard_to_f1(share: float | None) -> float | None:
    return None if share is None else 2 * share / (1 + share)


def compute_bins(correct: NDArray[np.bool_], confidence: NDArray[np.float64], groups: Groups) -> tuple[Bin, ...]:
    """The bins of the calibration error that hold rows: those that `metrics.compute_calibration_error` uses."""
    places = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    bins = []
    for place in np.unique(places):
        rows = places == place
        share = compute_share(correct[rows], None if groups is None else groups[rows])
        edges = (place / CALIBRATION_BINS, (place + 1) / CALIBRATION_BINS)
        bins.append(Bin(*edges, float(confidence[rows].mean()), share))
    return tuple(bins)


def compute_group_scores(labels: Labels, predicted: Labels, groups: NDArray[np.int64]) -> tuple[GroupScore, ...]:
    """One entry for each group that has rows, the worst first; of equals, the one with more rows."""
    scores = []
    order = np.argsort(groups, kind="stable")
    numbers, starts = np.unique(groups[order], return_index=True)
    for group, rows in zip(numbers, np.split(order, starts[1:]), strict=True):
        share = compute_share(labels[rows] == predicted[rows], None)
        pairs = list_confusions(labels[rows], predicted[rows])
        scores.append(GroupScore(int(group), share, pairs[0] if pairs else None))
    return tuple(sorted(scores, key=lambda one: (one.accuracy.value, -one.accuracy.rows, one.group)))


def list_confusions(labels: Labels, predicted: Labels) -> list[tuple[int, int, int]]:
    """(true class, predicted class, rows) of each kind of mistake, the most frequent first."""
    wrong = labels != predicted
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(pairs[0, i]), int(pairs[1, i]), int(counts[i])) for i in order]

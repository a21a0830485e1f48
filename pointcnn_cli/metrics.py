"""The score of a set of predictions: what `metrics.json` and `evaluate --json` hold.

NumPy only, and equal to scikit-learn's values, so that a score can be computed from predictions alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import DataError, RunError

SCHEMA_VERSION = 1
CONFIDENCE_LEVEL = 0.95
CALIBRATION_BINS = 15  # equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"
FEWEST_GROUPS = 5  # below it a variance between groups, on 3 degrees of freedom at most, says next to nothing


def compute_metrics(
    labels: NDArray[np.int64],
    probabilities: NDArray[Any],
    groups: NDArray[np.int64] | None,
    classes: Sequence[str],
    trained_classes: Sequence[int] | NDArray[np.int64],
    *,
    epoch: int | None,
    selected_on_these_rows: bool,
) -> dict[str, Any]:
    """The score of `probabilities` (rows, classes) for `labels` (rows,), JSON-ready.

    `groups` (rows,) are the clusters that the interval of the accuracy allows for; None takes rows as independent.
    `trained_classes` are the numbers of the classes that occur in training. The predicted class is the first of the
    most probable ones. Raises DataError where there is no row, RunError where a probability is not finite.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)  # (rows, classes)
    _check_predictions(labels, probabilities, classes)
    predicted = probabilities.argmax(axis=1)  # (rows,)
    correct = predicted == labels
    confusion = compute_confusion_matrix(labels, predicted, len(classes))
    precision, recall, f1 = compute_class_scores(confusion)
    support = confusion.sum(axis=1)
    trained_support = support[np.asarray(trained_classes, dtype=np.int64)]
    low, high, method = compute_accuracy_interval(correct, groups)
    return {
        "schema_version": SCHEMA_VERSION,
        "n": len(labels),
        "n_groups": None if groups is None else len(np.unique(groups)),
        "epoch": epoch,
        "accuracy": float(correct.mean()),
        "accuracy_ci": [low, high],
        "accuracy_ci_method": method,
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[support > 0].mean()),
        "log_loss": compute_log_loss(labels, probabilities),
        "expected_calibration_error": compute_calibration_error(correct, probabilities.max(axis=1)),
        "chance_accuracy": float(trained_support.max(initial=0) / len(labels)),
        "ceiling_accuracy": float(trained_support.sum() / len(labels)),
        "selected_on_these_rows": selected_on_these_rows,
        "classes": list(classes),
        "per_class": {
            name: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "support": int(support[number]),
            }
            for number, name in enumerate(classes)
        },
        "confusion_matrix": confusion.tolist(),
    }


def _check_predictions(labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]) -> None:
    if len(labels) == 0:
        raise DataError("There is no row to score.", "Give a file, or a part of the split, that holds labelled rows.")
    if probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"Expected probabilities of shape {(len(labels), len(classes))}, received {probabilities.shape}"
        )
    broken = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if broken.size:
        raise RunError(
            f"The network answers with NaN or infinity in {broken.size} of {len(labels)} scored rows; "
            f"the first is number {broken[0]} of them.",
            "Its weights or the input of that row are damaged: score another checkpoint, or look at the row's values.",
        )


def compute_confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], class_count: int
) -> NDArray[np.int64]:
    """Rows by true class (first axis) and predicted class (second axis)."""
    flat = np.bincount(labels * class_count + predicted, minlength=class_count**2)
    return flat.reshape(class_count, class_count).astype(np.int64, copy=False)


def compute_class_scores(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 (classes,) from a confusion matrix; 0 where the denominator is 0."""
    hits = np.diag(confusion).astype(np.float64)
    support, answers = confusion.sum(axis=1), confusion.sum(axis=0)
    precision = hits / np.maximum(answers, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + answers, 1)
    return precision, recall, f1


def compute_log_loss(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean negative log probability of the true class, clipped at the resolution of float64 as scikit-learn does."""
    eps = float(np.finfo(np.float64).eps)
    of_truth = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(of_truth, eps, 1 - eps)).mean())


def compute_calibration_error(correct: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Expected calibration error: gap between accuracy and mean confidence, over equal-width bins weighted by rows.

    A bin holds its upper edge, not its lower one (Guo et al. 2017).
    """
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    right = np.bincount(bins, weights=correct, minlength=CALIBRATION_BINS)
    promised = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(right - promised).sum() / len(correct))


def compute_accuracy_interval(correct: NDArray[np.bool_], groups: NDArray[np.int64] | None) -> tuple[float, float, str]:
    """A 95 % interval of the accuracy, and the method that it comes from.

    `correct` (rows,) says which rows are right, `groups` (rows,) which rows belong together. The methods:

    - `wilson`: rows are independent (no groups, or each row its own).
    - `wilson-design-effect`: Wilson's interval for an effective number of rows, n divided by the design effect
      1 + (m - 1) rho (Kish 1965), with rho from the variance between groups and Student's t with G - 1 degrees of
      freedom; never narrower than `wilson` (as Korn and Graubard 1998 truncate theirs).
    - `wilson-groups`: rho = 1, so each group counts once (unequal ones by Kish's effective number), where groups are
      fewer than 5, or where fewer than 2 rows are wrong (or right): no variance between groups can then be seen.
    """
    from scipy.special import ndtri, stdtrit  # quantiles: the normal, and Student's t

    rows, accuracy = len(correct), float(np.mean(correct))
    z = float(ndtri(0.5 + CONFIDENCE_LEVEL / 2))
    if groups is None:
        return (*compute_wilson_interval(accuracy, rows, z), "wilson")
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    count = len(sizes)
    if count == rows:
        return (*compute_wilson_interval(accuracy, rows, z), "wilson")
    mean_size = float((sizes**2).sum() / rows)  # size of the group of a random row: m, also for unequal sizes
    right = np.bincount(codes, weights=correct).astype(np.float64, copy=False)  # (groups,)
    if count < FEWEST_GROUPS or min(right.sum(), rows - right.sum()) < 2:
        return (*compute_wilson_interval(accuracy, rows / mean_size, z), "wilson-groups")
    quantile = float(stdtrit(count - 1, 0.5 + CONFIDENCE_LEVEL / 2))
    design_effect = 1 + (mean_size - 1) * _compute_intraclass_correlation(right, sizes)
    effective = rows / max(design_effect, (z / quantile) ** 2)
    return (*compute_wilson_interval(accuracy, effective, quantile), "wilson-design-effect")


def _compute_intraclass_correlation(right: NDArray[np.float64], sizes: NDArray[np.int64]) -> float:
    """Share of the variance that lies between groups: the analysis-of-variance estimate, drawn towards 1.

    What shows it is whether wrong rows fall into the same groups, two by two; with few wrong rows there are few such
    pairs, the estimate is near 0 by chance, and the interval was too short (86 % coverage at accuracy 0.97 with 10
    groups). So one pair that falls into the same group is added to the pairs that were seen (of right rows, where
    those are the rarer): one wrong row gives 1, five take a tenth of it, thirty next to nothing.
    Slightly negative values are kept, for a variance that is only cut off at 0 is too large on average.
    """
    rows, count = sizes.sum(), len(sizes)
    rates, overall = right / sizes, right.sum() / rows
    between = (sizes * (rates - overall) ** 2).sum() / (count - 1)
    within = (right * (1 - rates)).sum() / (rows - count)
    typical_size = (rows - (sizes**2).sum() / rows) / (count - 1)
    correlation = (between - within) / (between + (typical_size - 1) * within)
    rarer = min(right.sum(), rows - right.sum())
    pairs = rarer * (rarer - 1) / 2
    return float((pairs * correlation + 1) / (pairs + 1))


def compute_wilson_interval(share: float, rows: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share seen in `rows` rows; `rows` need not be whole."""
    spread = quantile**2 / rows
    centre = share + spread / 2
    half = float(np.sqrt(spread * (share * (1 - share) + spread / 4)))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return max(0.0, low), min(1.0, high)


def compute_mean_interval(values: NDArray[np.float64], groups: NDArray[np.int64] | None) -> list[float] | None:
    """A 95 % interval [low, high] of the mean of `values` (rows,), such as paired differences.

    Rows of a group go together: the variance is that of a ratio of sums over groups (Cochran 1977, "Sampling
    Techniques", 2.11 and 9A.2), with Student's t and G - 1 degrees of freedom. None where fewer than two groups, or no
    variance between them, leave nothing to go by.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=np.float64)
    codes = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    mean, count = float(values.mean()), int(codes.max()) + 1
    residuals = np.bincount(codes, weights=values - mean)  # (groups,) sums
    spread = float(np.sqrt((residuals**2).sum() * count / max(count - 1, 1)) / len(values))
    if count < 2 or spread < 1e-12:
        return None
    half = float(stdtrit(count - 1, 0.5 + CONFIDENCE_LEVEL / 2)) * spread
    return [mean - half, mean + half]

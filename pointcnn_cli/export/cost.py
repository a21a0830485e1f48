"""What quantisation costs: the accuracy before and after on the same rows, with an interval of the difference."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Cost:
    """Accuracies on the same rows."""

    n: int
    n_groups: int | None
    accuracy_before: float
    accuracy_after: float
    difference: float
    """After minus before."""
    difference_ci: tuple[float, float]
    """95 %."""
    difference_ci_method: str


def compute_cost(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
) -> Cost:
    """The cost from labels and groups (rows,) and probabilities (rows, classes) of the two models."""
    right_before, right_after = before.argmax(axis=1) == labels, after.argmax(axis=1) == labels
    differences = right_after.astype(np.float64) - right_before
    interval, method = compute_difference_interval(differences, groups)
    return Cost(
        n=len(labels),
        n_groups=None if groups is None else len(np.unique(groups)),
        accuracy_before=float(right_before.mean()),
        accuracy_after=float(right_after.mean()),
        difference=float(differences.mean()),
        difference_ci=interval,
        difference_ci_method=method,
    )


def compute_difference_interval(
    differences: NDArray[np.float64], groups: NDArray[np.int64] | None
) -> tuple[tuple[float, float], str]:
    """A 95 % interval of the mean of paired differences (rows,) that are -1, 0 or 1, and its method.

    `agresti-min`: Wald's interval once half a row is added to each cell of the table of right and wrong (Agresti and
    Min 2005), so that no changed row does not mean no doubt. `agresti-min-groups`: never narrower than what the
    differences between groups allow (Cochran 1977, 9A.2; Student's t with G - 1 degrees of freedom).
    """
    from scipy.special import ndtri, stdtrit

    rows, tail = len(differences), 0.5 + CONFIDENCE_LEVEL / 2
    gained, lost, size = (differences > 0).sum() + 0.5, (differences < 0).sum() + 0.5, rows + 2
    centre = (gained - lost) / size
    half = float(ndtri(tail)) * np.sqrt(gained + lost - (gained - lost) ** 2 / size) / size
    low, high = float(centre - half), float(centre + half)
    if groups is None:
        return (low, high), "agresti-min"
    codes = np.unique(groups, return_inverse=True)[1]
    count, mean = int(codes.max()) + 1, float(differences.mean())
    if count > 1:
        residuals = np.bincount(codes, weights=differences - mean)  # (groups,) sums
        half = float(stdtrit(count - 1, tail) * np.sqrt((residuals**2).sum() * count / (count - 1)) / rows)
        low, high = min(low, mean - half), max(high, mean + half)
    return (max(low, -1.0), min(high, 1.0)), "agresti-min-groups"

"""What quantisation costs: the accuracy before and after on the same rows, with an interval of the difference."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.paired import compare_answers


@dataclass(frozen=True)
class Cost:
    """Accuracies on the same rows."""

    n: int
    n_groups: int | None
    accuracy_before: float
    accuracy_after: float
    difference: float
    """After minus before."""
    difference_ci: list[float]
    """95 %; low and high."""
    difference_ci_method: str
    """As `paired.PairedDifference.interval_method` says it."""


def compute_cost(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
) -> Cost:
    """The cost from labels and groups (rows,) and probabilities (rows, classes) of the two models."""
    right_before, right_after = before.argmax(axis=1) == labels, after.argmax(axis=1) == labels
    found = compare_answers(right_after, right_before, groups)
    return Cost(
        n=found.rows,
        n_groups=found.groups,
        accuracy_before=float(right_before.mean()),
        accuracy_after=float(right_after.mean()),
        difference=found.difference,
        difference_ci=list(found.interval),
        difference_ci_method=found.interval_method,
    )

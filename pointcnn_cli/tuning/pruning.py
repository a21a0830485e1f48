"""When a trial is broken off: the median stopping rule of Golovin et al. 2017 ("Google Vizier"), over folds and epochs.

Optuna's own MedianPruner compares the best value so far. Over folds that would be the easiest fold, and a trial that
had it first would never be broken off. Here the mean over folds is compared, the fold in progress counted as it stands.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median

FEWEST_TRIALS = 5  # complete ones; the median of fewer says little. Optuna's default too
WARM_UP = 1 / 3  # of the epochs of the first fold, in which nothing is broken off


def number_step(fold: int, epoch: int | None, epochs: int) -> int:
    """The place of an epoch (from 1 to at most `epochs`), or with None of the end of a fold, in a trial."""
    return fold * (epochs + 1) + (epochs + 1 if epoch is None else epoch)


def compute_progress(finished: Sequence[float], current: float) -> float:
    """What is reported at a step: the mean over the finished folds and the one in progress."""
    return fmean([*finished, current])


def is_hopeless(step: int, value: float, others: Sequence[Mapping[int, float]], epochs: int, *, maximize: bool) -> bool:
    """Whether `value` at `step` is worse than the median of what complete trials had there.

    `others` are their values by step; one without a value at just this step (its training stopped early) counts with
    its last one before.
    """
    if step <= WARM_UP * epochs or len(others) < FEWEST_TRIALS:
        return False
    there = [reached for values in others if (reached := _find_value(values, step)) is not None]
    if len(there) < FEWEST_TRIALS:
        return False
    return value < median(there) if maximize else value > median(there)


def _find_value(values: Mapping[int, float], step: int) -> float | None:
    before = [other for other in values if other <= step]
    return values[max(before)] if before else None

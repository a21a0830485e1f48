"""Two sets of answers to the same rows: how much one is better, with an interval and a test that flip whole groups.

Both come from subsets of the groups: flipping the signs of a subset leaves a total at least as large as the observed
one exactly where the mean over that subset is at most 0. The test counts such means, the interval is cut from them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.metrics import CONFIDENCE_LEVEL, compute_wilson_interval

SIGN_FLIPS = 100_000  # draws, where groups are too many to try all
EXACT_GROUPS = 20  # up to 2 ** 20 sign patterns are tried one by one
FEWEST_DIFFERING = 6  # with 5 that differ, p is 2 / 2 ** 5 = 0.0625 at the least, and says nothing at 95 %
_TIE = 1e-9  # sums that differ by less are equal but for rounding


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference between two runs on the same rows, and whether it may be chance."""

    rows: int
    groups: int | None
    only_right: int
    """Rows that only the first has right."""
    only_other: int
    """Rows that only the other has right."""
    difference: float
    """The accuracy of the first minus that of the other."""
    interval: tuple[float, float]
    """95 %; holds 0 where `p` is above 0.05."""
    interval_method: str
    """`sign-flip`, or `wilson-groups` (`wilson` without groups) where fewer than 6 groups (or rows) differ at all."""
    p: float
    """Two-sided: of a difference at least as far from 0, if the runs were equally good."""
    smallest_p: float
    """What `p` could have been at the least, with so many groups (or rows, where there are none)."""
    test: str
    """`sign_flip_exact`, `sign_flip_drawn`, or `mcnemar_exact` where there are no groups."""


def compare_answers(
    right: NDArray[np.bool_], other: NDArray[np.bool_], groups: NDArray[np.int64] | None
) -> PairedDifference:
    """The difference of accuracy of `right` (rows,) minus that of `other` on the same rows, which come in `groups`.

    Test: signs of whole groups are flipped (Fisher 1935), all patterns up to 20 groups, else 100,000 from a fixed seed;
    McNemar's exact test without groups. Interval: see `_compute_interval`.
    """
    differences = right.astype(np.float64) - other
    sums, sizes = sum_by_group(differences, groups)
    subsets = draw_subsets(sums, sizes, np.random.default_rng(0))
    if groups is None:
        test, sides = "mcnemar_exact", (compute_mcnemar_p(differences), compute_mcnemar_p(-differences))
    else:
        test = "sign_flip_exact" if len(sums) <= EXACT_GROUPS else "sign_flip_drawn"
        sides = (_compute_flip_p(subsets[0]), _compute_flip_p(-subsets[0]))
    p = min(1.0, 2 * min(sides))
    low, high, method = _compute_interval(differences, sums, sizes, subsets)
    if p > 1 - CONFIDENCE_LEVEL:  # also where draws or other methods would just leave 0 out
        low, high = min(low, 0.0), max(high, 0.0)
    return PairedDifference(
        rows=len(differences),
        groups=None if groups is None else len(sums),
        only_right=int(np.count_nonzero(differences > 0)),
        only_other=int(np.count_nonzero(differences < 0)),
        difference=float(differences.mean()),
        interval=(low, high),
        interval_method="wilson" if groups is None and method == "wilson-groups" else method,
        p=p,
        smallest_p=2 / (1 + SIGN_FLIPS) if test == "sign_flip_drawn" else min(1.0, 2.0 ** (1 - len(sums))),
        test=test,
    )


def compare_paired(
    differences: NDArray[np.float64], groups: NDArray[np.int64] | None, rng: np.random.Generator
) -> float:
    """One-sided p of a mean above 0, of `differences` (rows,) between two arms scored on the same rows.

    Rows of a group have their signs flipped together: all patterns up to 20 groups that are not 0, else 100,000 random
    ones. Without groups this is McNemar's exact test when the differences are -1, 0 and 1.
    """
    sums, sizes = sum_by_group(differences, groups)
    moved = sums != 0
    if not moved.any():
        return 1.0
    return _compute_flip_p(draw_subsets(sums[moved], sizes[moved], rng)[0])


def compute_p(observed: float, null: NDArray[np.float64]) -> float:
    """One-sided p of `observed` among draws of the null: (1 + draws at least as large) / (1 + draws).

    Never 0 (Phipson and Smyth 2010, "Permutation p-values should never be zero").
    """
    return float((1 + np.count_nonzero(null >= observed - 1e-12)) / (1 + len(null)))


def compute_mcnemar_p(differences: NDArray[np.float64]) -> float:
    """One-sided p of McNemar's exact test (1947) that more of `differences` (rows,; -1, 0 or 1) are 1 than -1."""
    from scipy.stats import binom

    ahead, behind = np.count_nonzero(differences > 0), np.count_nonzero(differences < 0)
    return float(binom.sf(ahead - 1, ahead + behind, 0.5))


def adjust_p(values: list[float]) -> list[float]:
    """P values made larger for their number, in the same order (Holm 1979): the family errs in 5 % of cases at most."""
    order = np.argsort(values, kind="stable")
    adjusted, largest = [1.0] * len(values), 0.0
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[number]))
        adjusted[number] = largest
    return adjusted


def sum_by_group(
    values: NDArray[np.float64], groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values (rows,) of each group; each row on its own without groups."""
    values = np.asarray(values, dtype=np.float64)
    if groups is None:
        return values, np.ones(len(values))
    codes = np.unique(groups, return_inverse=True)[1]
    sums: NDArray[np.float64] = np.bincount(codes, weights=values).astype(np.float64)
    return sums, np.bincount(codes).astype(np.float64)


def draw_subsets(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and sizes of subsets of the groups (groups,): of all of them up to 20 groups, else of 100,000 random ones.

    The first is the empty one, which stands for what was observed.
    """
    if len(sums) <= EXACT_GROUPS:
        return _add_up_subsets(sums), _add_up_subsets(sizes)
    # Equal groups are counted together: of k of them a random subset takes a binomial number.
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)  # (2, kinds)
    drawn = np.zeros((2, 1 + SIGN_FLIPS))
    step = max(1, 4_000_000 // len(counts))
    for start in range(1, 1 + SIGN_FLIPS, step):
        size = min(step, 1 + SIGN_FLIPS - start)
        shape = (size, len(counts))
        picks = rng.binomial(counts, 0.5, shape) if counts.max() > 1 else rng.integers(0, 2, shape, dtype=np.int8)
        drawn[:, start : start + size] = kinds @ picks.T
    return drawn[0], drawn[1]


def _add_up_subsets(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over all 2 ** n subsets of `values` (n,), the empty one first."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


def _compute_flip_p(subset_sums: NDArray[np.float64]) -> float:
    """One-sided p of a total above 0: the share of flips (one a subset) whose total is at least as large."""
    return float(np.mean(subset_sums <= _TIE))


def _compute_interval(
    differences: NDArray[np.float64],
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    subsets: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[float, float, str]:
    """A 95 % interval of the mean of `differences` (rows,; -1, 0 or 1), and the method that it comes from.

    `sign-flip`: the differences that the test would not reject; their bounds are means over subsets of the groups
    (Hartigan 1969, "Using subsample values as typical values"). `wilson-groups`: Wilson's intervals of the two shares
    that only one run has right, squared and added (Newcombe 1998, method 10 there), each group counting once.
    """
    if np.count_nonzero(sums) >= FEWEST_DIFFERING:
        return (*_cut_interval(*subsets), "sign-flip")
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())  # Kish's number of groups
    z = 1.959964  # of the normal distribution at 97.5 %
    ahead, behind = float(np.mean(differences > 0)), float(np.mean(differences < 0))
    ahead_low, ahead_high = compute_wilson_interval(ahead, effective, z)
    behind_low, behind_high = compute_wilson_interval(behind, effective, z)
    low = ahead - behind - float(np.hypot(ahead - ahead_low, behind_high - behind))
    high = ahead - behind + float(np.hypot(ahead_high - ahead, behind - behind_low))
    return max(-1.0, low), min(1.0, high), "wilson-groups"


def _cut_interval(subset_sums: NDArray[np.float64], subset_sizes: NDArray[np.float64]) -> tuple[float, float]:
    """The smallest and largest mean whose one-sided p is above 2.5 %."""
    filled = subset_sizes > 0
    means = np.sort(subset_sums[filled] / subset_sizes[filled])
    # The empty subset, once or drawn again, counts as at or below (and at or above) any mean.
    place = int(np.floor((1 - CONFIDENCE_LEVEL) / 2 * len(subset_sums) + _TIE)) + 1 - (len(subset_sums) - len(means))
    return float(means[place - 1]), float(means[-place])

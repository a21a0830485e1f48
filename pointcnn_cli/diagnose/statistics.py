"""Tests and intervals: permutations of labels, bootstraps over groups, exact binomials. Paired tests are in `paired`.

NumPy only, except for the quantiles of the beta distribution (scipy, imported late).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.paired import sum_by_group

PERMUTATIONS = 2_000  # p < 0.001 needs a thousand at the least
BOOTSTRAPS = 10_000


def compute_binomial_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share."""
    from scipy.stats import beta

    tail = (1.0 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1.0 - tail, hits + 1, n - hits))
    return low, high


def compute_binomial_p(hits: int, n: int, share: float) -> float:
    """One-sided p of at least `hits` of `n` where each has probability `share`."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, n, share))


def compute_total_variation(counts: NDArray[Any], other: NDArray[Any]) -> float:
    """Half the sum of absolute differences between two distributions given as counts: 0 equal, 1 disjoint."""
    return float(0.5 * np.abs(counts / counts.sum() - other / other.sum()).sum())


def draw_cluster_means(
    values: NDArray[np.float64], groups: NDArray[np.int64] | None, rng: np.random.Generator, draws: int = BOOTSTRAPS
) -> NDArray[np.float64]:
    """Bootstrap distribution (draws,) of the mean of `values` (rows,), drawing whole groups with replacement.

    Where `groups` is None each row is its own group.
    """
    sums, sizes = sum_by_group(values, groups)
    means = np.empty(draws)
    step = max(1, 4_000_000 // len(sums))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        picks = rng.integers(0, len(sums), (size, len(sums)))
        means[start : start + size] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    return means


def compute_cluster_interval(
    values: NDArray[np.float64],
    groups: NDArray[np.int64] | None,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = BOOTSTRAPS,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` over groups."""
    means = draw_cluster_means(values, groups, rng, draws)
    tail = (1.0 - level) / 2
    return float(np.quantile(means, tail)), float(np.quantile(means, 1.0 - tail))


def draw_permutations(
    statistic: Callable[[NDArray[np.int64]], float],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    rng: np.random.Generator,
    draws: int = PERMUTATIONS,
) -> NDArray[np.float64]:
    """Null distribution (draws,) of `statistic(labels)` under permuted labels.

    Where every group has one label only, the labels of whole groups are exchanged; else those of rows within no bound.
    """
    if groups is None:
        return np.array([statistic(rng.permutation(labels)) for _ in range(draws)])
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    if not np.array_equal(labels, labels[first][codes]):
        return np.array([statistic(rng.permutation(labels)) for _ in range(draws)])
    group_labels = labels[first]
    return np.array([statistic(rng.permutation(group_labels)[codes]) for _ in range(draws)])

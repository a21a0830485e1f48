"""Statistics of `diagnose`: equal to scipy's where it has them, and honest about groups."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pointcnn_cli.diagnose.statistics import (
    compute_binomial_interval,
    compute_binomial_p,
    compute_cluster_interval,
    compute_total_variation,
    draw_permutations,
)
from pointcnn_cli.paired import compare_paired, compute_p

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (180, 200)])
def test_binomial_interval_and_p_are_those_of_scipy(hits, n):
    exact = binomtest(hits, n).proportion_ci(0.99, method="exact")
    assert compute_binomial_interval(hits, n, 0.99) == pytest.approx((exact.low, exact.high))
    assert compute_binomial_p(hits, n, 0.3) == pytest.approx(binomtest(hits, n, 0.3, alternative="greater").pvalue)


def test_p_is_never_zero():
    assert compute_p(5.0, np.zeros(999)) == pytest.approx(1 / 1000)
    assert compute_p(0.0, np.zeros(999)) == 1.0


def test_without_groups_the_paired_test_is_mcnemars():
    differences = np.repeat([1.0, -1.0, 0.0], [12, 3, 40])
    assert compare_paired(differences, None, RNG) == pytest.approx(binomtest(12, 15, alternative="greater").pvalue)


def test_eleven_one_sided_discordant_rows_reach_a_thousandth():
    assert compare_paired(np.ones(11), None, RNG) == pytest.approx(2.0**-11)


def test_rows_of_a_group_are_flipped_together():
    differences, groups = np.ones(100), np.repeat(np.arange(5), 20)
    assert compare_paired(differences, groups, RNG) == pytest.approx(2.0**-5)


def test_many_groups_are_drawn_and_equal_arms_are_not_told_apart():
    rng = np.random.default_rng(1)
    differences, groups = rng.choice([-1.0, 0.0, 1.0], 600), np.repeat(np.arange(60), 10)
    assert compare_paired(differences, groups, rng) > 0.01
    assert compare_paired(np.abs(differences), groups, rng) < 0.001


def test_paired_test_keeps_its_level_when_rows_of_a_group_agree():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(12), 15)
    ps = [compare_paired(rng.choice([-1.0, 1.0], 12)[groups], groups, rng) for _ in range(400)]
    assert np.mean(np.array(ps) < 0.05) < 0.08


def test_interval_over_groups_is_wider_than_over_rows():
    values, groups = np.repeat(RNG.random(12) < 0.5, 30).astype(float), np.repeat(np.arange(12), 30)
    low, high = compute_cluster_interval(values, groups, RNG)
    low_rows, high_rows = compute_cluster_interval(values, None, RNG)
    assert high - low > 2 * (high_rows - low_rows)


def test_total_variation():
    assert compute_total_variation(np.array([10, 0]), np.array([0, 3])) == 1.0
    assert compute_total_variation(np.array([10, 10]), np.array([3, 3])) == 0.0


def test_labels_of_pure_groups_are_permuted_group_by_group():
    labels, groups = np.repeat([0, 1, 0, 1], 5), np.repeat(np.arange(4), 5)
    changes = draw_permutations(lambda drawn: float(np.count_nonzero(np.diff(drawn))), labels, groups, RNG, 200)
    assert changes.max() <= 3

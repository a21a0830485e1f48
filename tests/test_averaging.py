"""Averaged probabilities: the disagreement of members, what averaging gains, and the interval of a paired mean."""

import numpy as np
import pytest
from scipy.stats import entropy

from pointcnn_cli.averaging import average, compare_rows, compute_gain, compute_mutual_information
from pointcnn_cli.metrics import compute_mean_interval


def draw_members(seed: int = 0, members: int = 4, rows: int = 50, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), (members, rows)).astype(np.float32)


def test_mutual_information_is_the_entropy_of_the_mean_less_the_mean_entropy():
    p = draw_members()
    wanted = entropy(p.astype(float).mean(axis=0), axis=1) - entropy(p.astype(float), axis=2).mean(axis=0)
    np.testing.assert_allclose(compute_mutual_information(p), wanted, atol=1e-6)


def test_members_that_agree_have_no_mutual_information_and_two_that_are_sure_of_different_classes_have_log_2():
    same = np.repeat(draw_members(members=1), 3, axis=0)
    np.testing.assert_allclose(compute_mutual_information(same), 0, atol=1e-9)
    opposed = np.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    np.testing.assert_allclose(compute_mutual_information(opposed), [np.log(2)])


def test_the_gain_is_that_of_the_averaged_probabilities_over_the_mean_of_the_members():
    p, labels = draw_members(seed=1), np.random.default_rng(2).integers(0, 3, 50)
    gain = compute_gain(compare_rows(labels, p), 4, np.arange(50) // 5)
    accuracies = [(one.argmax(axis=1) == labels).mean() for one in p]
    losses = [-np.log(one[np.arange(50), labels].astype(float)).mean() for one in p]
    mean = average(p)
    assert gain["mean_member_accuracy"] == pytest.approx(np.mean(accuracies))
    assert gain["ensemble_accuracy"] == (mean.argmax(axis=1) == labels).mean()
    assert gain["accuracy_gain"] == pytest.approx(gain["ensemble_accuracy"] - np.mean(accuracies))
    assert gain["log_loss_drop"] == pytest.approx(np.mean(losses) + np.log(mean[np.arange(50), labels]).mean())
    assert gain["log_loss_drop"] > 0
    low, high = gain["accuracy_gain_ci"]
    assert low < gain["accuracy_gain"] < high
    assert (gain["n"], gain["n_groups"], gain["members"]) == (50, 10, 4)


def test_the_interval_of_a_mean_is_students_where_every_row_is_its_own_group():
    values = np.random.default_rng(3).normal(size=20)
    half = 2.0930240544 * values.std(ddof=1) / np.sqrt(20)  # Student's t, 19 degrees of freedom
    np.testing.assert_allclose(compute_mean_interval(values, None), [values.mean() - half, values.mean() + half])


def test_the_interval_of_a_mean_covers_it_when_rows_come_in_groups():
    """1000 draws of 12 groups of 10 rows, whose means vary as much as rows do: 95 % within sampling error."""
    rng, groups = np.random.default_rng(4), np.repeat(np.arange(12), 10)
    draws = rng.normal(size=(1000, 12))[:, groups] + rng.normal(size=(1000, 120))
    hits = [low <= 0 <= high for low, high in (compute_mean_interval(one, groups) for one in draws)]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_there_is_no_interval_without_two_groups_or_any_difference():
    assert compute_mean_interval(np.array([0.0, 1.0]), np.zeros(2, np.int64)) is None
    assert compute_mean_interval(np.zeros(5), None) is None

"""Temperature scaling: the fitted number, and the figure for rows that it was not fitted on."""

import numpy as np
import pytest

from pointcnn_cli.calibration import apply_temperature, compute_calibration, compute_cross_fitted, fit_temperature
from pointcnn_cli.metrics import compute_calibration_error, compute_log_loss


def draw_rows(temperature: float, rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from probabilities, and these probabilities made surer or less sure than they are right."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(4, 0.5), rows)
    labels = (rng.random((rows, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    return labels, apply_temperature(honest, 1 / temperature).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_probabilities_is_found(temperature):
    labels, p = draw_rows(temperature)
    assert fit_temperature(labels, p) == pytest.approx(temperature, rel=0.06)


def test_the_fitted_temperature_has_the_lowest_log_loss():
    labels, p = draw_rows(2.0, rows=300)
    best = fit_temperature(labels, p)
    losses = [compute_log_loss(labels, apply_temperature(p, best * factor)) for factor in (0.98, 1, 1.02)]
    assert losses[1] < min(losses[0], losses[2])


def test_temperature_1_changes_nothing_and_no_temperature_changes_the_order():
    _, p = draw_rows(1.0, rows=100)
    np.testing.assert_allclose(apply_temperature(p, 1.0), p, rtol=1e-6)
    np.testing.assert_array_equal(apply_temperature(p, 7.0).argmax(axis=1), p.argmax(axis=1))


def test_probabilities_of_0_and_1_give_finite_numbers():
    p = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], np.float32)
    labels = np.array([0, 1, 2])
    temperature = fit_temperature(labels, p)
    assert temperature == pytest.approx(20, rel=1e-3)  # one row is surely wrong: as unsure as is allowed
    assert np.isfinite(apply_temperature(p, temperature)).all()


def test_the_cross_fitted_figure_scores_each_group_by_a_temperature_fitted_without_it():
    labels, p = draw_rows(3.0, rows=600)
    groups = np.arange(600) // 20
    found = compute_cross_fitted(labels, p, groups)
    assert (found["folds"], found["units"], len(found["temperatures"])) == (5, "groups", 5)
    loss, error = found["log_loss"], found["expected_calibration_error"]
    assert loss["before"] == pytest.approx(compute_log_loss(labels, p.astype(float)))
    assert error["before"] == pytest.approx(
        compute_calibration_error(p.argmax(axis=1) == labels, p.max(axis=1).astype(float))
    )
    assert compute_log_loss(labels, apply_temperature(p, fit_temperature(labels, p))) < loss["after"] < loss["before"]
    assert loss["change_ci"][0] < loss["change"] < loss["change_ci"][1] < 0
    assert error["after"] < error["before"]


def test_a_group_has_no_part_in_the_temperature_of_its_own_rows():
    """Of five groups one is spoiled beyond measure; the temperature for its own rows is that of the others."""
    labels, p = draw_rows(1.0, rows=500)
    groups = np.arange(500) // 100
    labels[groups == 2] = (p[groups == 2].argmax(axis=1) + 1) % 4
    found = compute_cross_fitted(labels, p, groups)
    others = fit_temperature(labels[groups != 2], p[groups != 2])
    assert others == pytest.approx(1.0, rel=0.15)
    assert sum(temperature == pytest.approx(others) for temperature in found["temperatures"]) == 1
    assert sorted(found["temperatures"])[1] > 1.5


def test_rows_of_a_single_group_are_dealt_out_one_by_one():
    labels, p = draw_rows(2.0, rows=60)
    assert compute_cross_fitted(labels, p, np.zeros(60, np.int64))["units"] == "rows"


def test_the_document_is_the_same_each_time():
    labels, p = draw_rows(2.0, rows=200)
    groups = np.arange(200) // 10
    assert compute_calibration(labels, p, groups, 3) == compute_calibration(labels, p, groups, 3)

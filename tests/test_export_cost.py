"""The interval of what quantisation costs is right as often as it says."""

import numpy as np
import pytest

from pointcnn_cli.export import cost


def test_no_changed_row_does_not_mean_no_doubt():
    differences = np.zeros(50)
    (low, high), method = cost.compute_difference_interval(differences, None)
    # Agresti and Min: 1.96 * sqrt(1 / 52) / sqrt(52) for a table of 0.5 and 0.5.
    assert (low, high, method) == (
        pytest.approx(-1.96 / 52, abs=1e-4),
        pytest.approx(1.96 / 52, abs=1e-4),
        "agresti-min",
    )


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for grouped in (False, True):
        hits = 0
        for _ in range(2_000):
            groups = np.repeat(np.arange(20), 10) if grouped else None
            harm = rng.beta(2, 18, 20)[groups] if grouped else 0.1  # a tenth of the rows on average
            lost = rng.random(200) < harm
            gained = ~lost & (rng.random(200) < 0.05)
            (low, high), _ = cost.compute_difference_interval(gained.astype(float) - lost, groups)
            hits += low <= 0.9 * 0.05 - 0.1 <= high
        assert 0.93 < hits / 2_000 < 0.98

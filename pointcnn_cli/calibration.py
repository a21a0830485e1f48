"""Temperature scaling: one number that makes probabilities as sure as they are right (Guo et al. 2017, "On
Calibration of Modern Neural Networks"), and what it does to rows that it was not fitted on.

NumPy, and scipy imported late.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.documents import SCHEMA_VERSION
from pointcnn_cli.metrics import CALIBRATION_BINS, CONFIDENCE_LEVEL, compute_calibration_error, compute_log_loss

LOWEST, HIGHEST = 0.05, 20.0  # temperatures beyond these mean that the network or the labels are broken
SMALLEST = float(np.finfo(np.float32).tiny)  # what a float32 probability of 0 counts as
FOLDS = 5  # of the groups, for the cross-fitted figure
BOOTSTRAPS = 2000
SEED = 0  # of the folds and of the bootstrap: the document is the same each time


def fit_temperature(labels: NDArray[np.int64], probabilities: NDArray[Any]) -> float:
    """The temperature with the lowest log loss on these rows: labels (rows,), probabilities (rows, classes).

    The log loss has one minimum in the logarithm of the temperature (it is convex in the inverse), which is searched
    between 0.05 and 20, in float64.
    """
    from scipy.optimize import minimize_scalar

    logits = _compute_logits(probabilities)

    def loss(log_temperature: float) -> float:
        return _compute_loss(labels, logits / math.exp(log_temperature))

    found = minimize_scalar(
        loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded", options={"xatol": 1e-8}
    )
    return float(math.exp(found.x))


def apply_temperature(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """The probabilities (rows, classes) that logits divided by `temperature` give; their order in a row stays."""
    logits = _compute_logits(probabilities) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    calibrated: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return calibrated


def compute_calibration(
    labels: NDArray[np.int64], probabilities: NDArray[Any], groups: NDArray[np.int64] | None, epoch: int | None
) -> dict[str, Any]:
    """The document of calibration.json: the temperature fitted on all these rows, and the cross-fitted figure."""
    return {
        "schema_version": SCHEMA_VERSION,
        "temperature": fit_temperature(labels, probabilities),
        "epoch": epoch,
        "n": len(labels),
        "n_groups": None if groups is None else len(np.unique(groups)),
        "cross_fitted": compute_cross_fitted(labels, probabilities, groups),
    }


def compute_cross_fitted(
    labels: NDArray[np.int64], probabilities: NDArray[Any], groups: NDArray[np.int64] | None
) -> dict[str, Any] | None:
    """Log loss and calibration error before and after scaling, each row by a temperature fitted without its group.

    The groups are dealt into five folds (fewer where there are fewer groups; single rows where there are no two
    groups). The 95 % intervals are percentiles of 2,000 bootstraps of whole groups, with the temperatures as they are;
    with few groups they are too short. None for a single row.
    """
    if len(labels) < 2:
        return None
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if units.max() == 0:
        units = np.arange(len(labels))
    rng, count = np.random.default_rng(SEED), int(units.max()) + 1
    folds = rng.permutation(np.arange(count) % min(FOLDS, count))[units]  # (rows,)
    raw = np.asarray(probabilities, dtype=np.float64)
    scaled, temperatures = np.empty_like(raw), []
    for fold in np.unique(folds):
        held = folds == fold
        temperatures.append(fit_temperature(labels[~held], raw[~held]))
        scaled[held] = apply_temperature(raw[held], temperatures[-1])
    weights = rng.multinomial(count, np.full(count, 1 / count), size=BOOTSTRAPS)  # (draws, groups)
    losses = [_draw_losses(labels, p, units, weights) for p in (raw, scaled)]
    errors = [_draw_errors(labels, p, units, weights) for p in (raw, scaled)]
    return {
        "folds": len(temperatures),
        "units": "rows" if count == len(labels) else "groups",
        "temperatures": temperatures,
        "log_loss": _compare(compute_log_loss(labels, raw), compute_log_loss(labels, scaled), *losses),
        "expected_calibration_error": _compare(_compute_error(labels, raw), _compute_error(labels, scaled), *errors),
    }


def _compute_logits(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms of probabilities: the logits, up to a constant in each row, which the softmax takes out again."""
    logits: NDArray[np.float64] = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST))
    return logits


def _compute_loss(labels: NDArray[np.int64], logits: NDArray[np.float64]) -> float:
    top = logits.max(axis=1)
    totals = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((totals - logits[np.arange(len(labels)), labels]).mean())


def _compute_error(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    return compute_calibration_error(probabilities.argmax(axis=1) == labels, probabilities.max(axis=1))


def _draw_losses(
    labels: NDArray[np.int64], p: NDArray[np.float64], units: NDArray[np.int64], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The log loss (draws,) where each group counts as often as it was drawn."""
    eps = float(np.finfo(np.float64).eps)
    losses = -np.log(np.clip(p[np.arange(len(labels)), labels], eps, 1 - eps))
    drawn: NDArray[np.float64] = (weights @ np.bincount(units, weights=losses)) / (weights @ np.bincount(units))
    return drawn


def _draw_errors(
    labels: NDArray[np.int64], p: NDArray[np.float64], units: NDArray[np.int64], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The calibration error (draws,) where each group counts as often as it was drawn; bins as in `metrics`."""
    confidence = p.max(axis=1)
    gaps = (p.argmax(axis=1) == labels) - confidence
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    sums = np.bincount(units * CALIBRATION_BINS + bins, weights=gaps, minlength=weights.shape[1] * CALIBRATION_BINS)
    by_bin = weights @ sums.reshape(-1, CALIBRATION_BINS)  # (draws, bins)
    drawn: NDArray[np.float64] = np.abs(by_bin).sum(axis=1) / (weights @ np.bincount(units))
    return drawn


def _compare(
    before: float, after: float, drawn_before: NDArray[np.float64], drawn_after: NDArray[np.float64]
) -> dict[str, Any]:
    return {
        "before": before,
        "before_ci": _find_interval(drawn_before),
        "after": after,
        "after_ci": _find_interval(drawn_after),
        "change": after - before,
        "change_ci": _find_interval(drawn_after - drawn_before),
    }


def _find_interval(drawn: NDArray[np.float64]) -> list[float]:
    tail = (1 - CONFIDENCE_LEVEL) / 2
    return [float(np.quantile(drawn, tail)), float(np.quantile(drawn, 1 - tail))]

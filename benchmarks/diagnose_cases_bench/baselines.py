"""What others would have said of the same trainings: rules of UMLAUT, a drift rule like deepchecks', a constant.

UMLAUT: Schoop, Huang and Hartmann 2021, "UMLAUT: Debugging Deep Learning Programs using Program Structure and Model
Behavior"; its rules on images and on missing labels do not apply to such data. The drift rule flags a data set where a
single feature's drift score exceeds 0.2 (deepchecks' default for PSI) or 0.25 here.
"""

from collections.abc import Sequence
from itertools import pairwise

import keras
import numpy as np
from numpy.typing import NDArray

from diagnose_cases_bench.recipes import Recipe
from diagnose_cases_bench.training import Trained

DRIFT = 0.25
BINS = 10
VAL_ABOVE = 0.05  # accuracy, and UMLAUT's limit of 95 % validation accuracy
TOO_GOOD = 0.95
RATES = (1e-7, 1e-2)  # of Adam; outside, UMLAUT warns

# Which of our codes a rule of theirs would count as, so that it can be right.
OVERFITTING = "PC504"


def answer_all(recipe: Recipe, trained: Trained) -> dict[str, list[str]]:
    """Codes that each baseline confirms."""
    return {
        "umlaut": sorted(apply_umlaut(recipe, trained)),
        "drift": ["PC206"] if measure_drift(recipe) > DRIFT else [],
        "always overfitting": [OVERFITTING],
    }


def apply_umlaut(recipe: Recipe, trained: Trained) -> set[str]:
    """The rules that apply, each as the code it comes nearest to."""
    history, found = trained.history, set()
    values = np.concatenate([c[recipe.train].ravel() for c in recipe.x])
    if not np.isfinite(values).all():
        found.add("PC102")
    elif values.min() < -1.0 or values.max() > 1.0:  # "input data exceeds typical limits"
        found.add("PC101")
    if not np.isfinite(history["loss"]).all():
        found.add("PC501")
    if recipe.learning_rate > RATES[1]:
        found.add("PC501")
    elif recipe.learning_rate < RATES[0]:
        found.add("PC502")
    found |= _read_curves(history)
    if not _ends_in_softmax(trained.model):
        found.add("PC403")
    if _lacks_activation(trained.model):
        found.add("PC402")
    return found


def _read_curves(history: dict[str, list[float]]) -> set[str]:
    found, losses = set(), history["val_loss"]
    name = next(n for n in history if n.startswith("val_") and n != "val_loss")
    if len(losses) > 1 and losses[-1] > losses[-2] and losses[-1] > history["loss"][-1]:
        found.add(OVERFITTING)
    if history[name][-1] > TOO_GOOD or history[name][-1] > history[name.removeprefix("val_")][-1] + VAL_ABOVE:
        found.add("PC203")  # "check validation accuracy": leaked rows
    return found


def _ends_in_softmax(model: keras.Model) -> bool:
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return isinstance(last, keras.layers.Softmax) or activation == "softmax"


def _lacks_activation(model: keras.Model) -> bool:
    """Two layers with a kernel, one after the other in the list of layers, the first of them linear."""
    plain = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    pairs: Sequence[tuple[keras.layers.Layer, keras.layers.Layer]] = list(pairwise(plain))
    return any(
        hasattr(a, "kernel") and hasattr(b, "kernel") and getattr(a.activation, "__name__", "") == "linear"
        for a, b in pairs
    )


def measure_drift(recipe: Recipe) -> float:
    """The largest population stability index or Kolmogorov-Smirnov statistic of a feature, validation on training."""
    worst = 0.0
    for channel in recipe.x:
        flat = channel.reshape(len(channel), channel.shape[1], -1)
        for feature in np.concatenate([flat.mean(axis=2), flat.std(axis=2)], axis=1).T:
            a, b = feature[recipe.train], feature[recipe.validation]
            if np.isfinite(a).all() and np.isfinite(b).all():
                worst = max(worst, _compute_psi(a, b), _compute_ks(a, b))
    return worst


def _compute_psi(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    edges = np.unique(np.quantile(a, np.linspace(0, 1, BINS + 1)[1:-1]))
    shares = [np.maximum(np.bincount(np.searchsorted(edges, v), minlength=BINS) / len(v), 1e-4) for v in (a, b)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _compute_ks(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    both = np.sort(np.concatenate([a, b]))
    ranks = [np.searchsorted(np.sort(v), both, side="right") / len(v) for v in (a, b)]
    return float(np.abs(ranks[0] - ranks[1]).max())

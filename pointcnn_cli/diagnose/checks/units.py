"""PC406 and PC405: units that never answer, signals that explode, and regularisation that is too strong to fit."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.outcomes import NEEDS, find_majority, pick_rows, score_train
from pointcnn_cli.diagnose.registry import Check, Tier

if TYPE_CHECKING:
    import keras

ROWS = 512
SILENT = 1e-5  # activation that a unit exceeds on some row if it is alive
DEAD = 0.5  # share of a layer's units
EXPLODED = 1e6  # activation; float32 keeps one part in ten million
STALLED = 0.6  # training accuracy below which dead units are more than spare ones
CHANCE_MARGIN = 0.15  # accuracy above the largest class share that is no learning to speak of
STUCK_LOSS = 0.95  # of ln K
FITTED = 0.9  # training accuracy from which nothing keeps a network from fitting
STRONG_DROPOUT = 0.6
STRONG_L2 = 1e-3  # factor of the squared weights; usual values are 1e-5 to 1e-4


def check_units(case: Case) -> Iterator[Measurement]:
    """PC406: the largest activation of each unit over training rows, layer by layer."""
    if not case.has_parts or case.load is None or case.model is None or case.train is None:
        yield missing("PC406", NEEDS)
        return
    peaks = measure_peaks(case, case.model)
    broken = [name for name, peak in peaks.items() if not np.isfinite(peak).all()]
    huge = [name for name, peak in peaks.items() if np.isfinite(peak).all() and peak.max() > EXPLODED]
    rectified = set(find_rectified(case.model))
    dead = {name: float((peak < SILENT).mean()) for name, peak in peaks.items() if name in rectified}
    worst = max(dead, key=lambda name: dead[name], default="")
    stalled = _is_stalled(case)
    n = min(len(case.train), ROWS)
    if broken:
        sentence = f"Activations of {_name_some(broken)} are not finite on training rows: the network gives no answer."
        yield _report(sentence, True, float(len(broken)), 0.0, "layers with NaN or infinite activations", n)
    elif worst and dead[worst] > DEAD:
        layers = [name for name in dead if dead[name] > DEAD]
        sentence = (
            f"More than half of the units are dead in {_name_some(layers)}: {dead[worst]:.0%} of those of {worst} give "
            f"less than {SILENT} on each of {n} training rows. "
            + ("Training accuracy is stuck." if stalled else "The rest fits.")
        )
        yield _report(sentence, stalled, dead[worst], DEAD, f"share of dead units in {worst}", n)
    elif huge:
        largest = max(float(peaks[name].max()) for name in huge)
        sentence = f"Activations of {_name_some(huge)} reach {largest:.1e} on {n} training rows."
        yield _report(sentence, stalled, largest, EXPLODED, "largest activation", n)
    else:
        share = dead.get(worst, 0.0)
        sentence = f"At most {share:.0%} of the units of a layer are dead on {n} training rows."
        yield Measurement(
            "PC406", "proof", sentence, found=False, statistic="largest share of dead units in a layer", value=share,
            threshold=DEAD, n=n,
        )  # fmt: skip


def _report(sentence: str, harm: bool, value: float, threshold: float, statistic: str, n: int) -> Measurement:
    return Measurement(
        "PC406", "proof", sentence, harm=harm, statistic=statistic, value=value, threshold=threshold, n=n,
        fix=Fix(
            "Start with he_normal kernels and zero biases, standardise the inputs, lower the learning rate, and "
            "clip the gradient (clipnorm=1)."
        ),
    )  # fmt: skip


def _name_some(layers: list[str]) -> str:
    return ", ".join(layers[:3]) + (f" and {len(layers) - 3} more layers" if len(layers) > 3 else "")


def _is_stalled(case: Case) -> bool:
    training = score_train(case)
    if training is None:
        return True
    stuck = case.history[-1].get("loss", 0.0) > STUCK_LOSS * math.log(training.classes) if case.history else False
    return training.accuracy < max(STALLED, find_majority(case) + CHANCE_MARGIN) or stuck


def measure_peaks(case: Case, model: "keras.Model") -> dict[str, NDArray[np.float64]]:
    """For each layer with an output of its own, the largest absolute activation (units,) over training rows.

    Units are the last axis. Layers of nested models are no tensors of the outer graph, so outputs are seen as the
    layers are called.
    """
    if case.data is None or case.train is None:
        raise ValueError("this case has no training rows")
    peaks: dict[str, NDArray[np.float64]] = {}
    rows = pick_rows(case.train, ROWS, case.rng("PC406"))
    with _watch_layers(model, peaks):
        from pointcnn_cli.diagnose.networks import predict_inputs

        predict_inputs(model, case.data, rows)
    return peaks


@contextmanager
def _watch_layers(model: "keras.Model", peaks: dict[str, NDArray[np.float64]]) -> Iterator[None]:
    import keras

    skipped = (keras.Model, keras.layers.InputLayer)
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, skipped)]

    def watch(layer: Any) -> Any:
        call = layer.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            if not isinstance(outputs, (list, tuple, dict)):
                values = np.abs(keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32")))
                peak = values.reshape(-1, values.shape[-1]).max(axis=0).astype(np.float64)
                peaks[layer.name] = np.maximum(peaks.get(layer.name, 0.0), peak)  # NaN stays NaN
            return outputs

        return watched

    try:
        for layer in layers:
            object.__setattr__(layer, "call", watch(layer))
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)


def find_rectified(model: "keras.Model") -> Iterator[str]:
    """Names of the layers whose output is that of a rectifier: zero for half of the inputs, with no gradient there."""
    import keras

    for layer in model._flatten_layers():
        name = getattr(getattr(layer, "activation", None), "__name__", "")
        slope = getattr(layer, "negative_slope", 0.0)
        if name in ("relu", "relu6") or (isinstance(layer, keras.layers.ReLU) and not slope):
            yield layer.name


def check_regularisation(case: Case) -> Iterator[Measurement]:
    """PC405: a low accuracy on training rows in inference mode beside strong dropout or weight penalties.

    Only a training without them can prove it, so it is suspected at most.
    """
    training = score_train(case)
    if training is None or case.model is None:
        yield missing("PC405", NEEDS)
        return
    dropout, penalty = measure_regularisation(case.model)
    strong = dropout >= STRONG_DROPOUT or penalty >= STRONG_L2
    found = strong and training.accuracy < FITTED
    yield Measurement(
        "PC405",
        "test",
        f"The strongest dropout is {dropout:g} and the strongest weight penalty {penalty:g}; without dropout "
        f"{training.accuracy:.3f} of {len(training.rows)} training rows are answered right."
        + (
            " Regularisation may keep the network from fitting; a training with less of it would tell." if found else ""
        ),
        found=found,
        statistic="training accuracy in inference mode",
        value=training.accuracy,
        threshold=FITTED,
        n=len(training.rows),
        at_most="SUSPECTED",
        minimum_detectable_effect=1.0 - FITTED,
        fix=Fix("Try dropout 0.2 and no weight penalty.", {"model.dropout": 0.2}) if found else None,
        details={"dropout": dropout, "penalty": penalty},
    )


def measure_regularisation(model: "keras.Model") -> tuple[float, float]:
    """The largest dropout rate and the largest L1 or L2 factor of any layer, nested ones included."""
    rates, factors = [0.0], [0.0]
    for layer in model._flatten_layers():
        rate = getattr(layer, "rate", None)
        if isinstance(rate, (int, float)) and "dropout" in type(layer).__name__.lower():
            rates.append(float(rate))
        for name in ("kernel_regularizer", "bias_regularizer", "activity_regularizer"):
            regularizer = getattr(layer, name, None)
            factors += [float(getattr(regularizer, kind, 0.0) or 0.0) for kind in ("l1", "l2")]
    return max(rates), max(factors)


CHECKS = (
    Check(("PC406",), Tier.FORWARD, check_units),
    Check(("PC405",), Tier.FORWARD, check_regularisation),
)

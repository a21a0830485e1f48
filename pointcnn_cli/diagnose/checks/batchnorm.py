"""PC404: moving statistics of batch normalisation against those of a batch and those of many training rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import ALPHA, EFFECT_GATE
from pointcnn_cli.diagnose.outcomes import Outcome, pick_rows, score_rows
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import compute_cluster_interval
from pointcnn_cli.paired import compare_paired

if TYPE_CHECKING:
    import keras

ROWS = 512  # of each part that are scored three ways
STATISTICS_ROWS = 1_024  # training rows that statistics are taken from: 1,000 to 10,000 do (Wu and Johnson 2021)
BATCH = 64  # large enough that a batch is like another
SEVERE = 0.2  # gained by training rows alone
RESIDUE = 0.05  # weight that initial values may keep in moving statistics
NEEDS_FORWARD = "the trained network, and training and validation rows with labels"


def check_batch_statistics(case: Case) -> Iterator[Measurement]:
    """Score training and validation rows with moving, batch and re-estimated statistics, dropout off."""
    if not case.has_parts or case.load is None or case.model is None or case.train is None or case.validation is None:
        yield missing("PC404", NEEDS_FORWARD)
        return
    layers = find_normalisations(case.model)
    if not layers:
        yield Measurement(
            "PC404", "proof", "The network has no trainable batch normalisation.", found=False,
            statistic="batch-normalisation layers", value=0.0, threshold=0.0,
        )  # fmt: skip
        return
    rng = case.rng("PC404")
    training = score_rows(case, pick_rows(case.train, ROWS, rng))
    validation = score_rows(case, pick_rows(case.validation, ROWS, rng))
    if training is None or validation is None:
        yield missing("PC404", "finite scores of the network on training and validation rows")
        return
    in_batches, again, again_validation = _score_three_ways(case, case.model, training, validation, rng)
    gains = (again - training.hits, again_validation - validation.hits)
    yield _measure(case, layers, training, validation, in_batches, gains, rng)


def find_normalisations(model: "keras.Model") -> list[Any]:
    """Batch-normalisation layers that learn statistics, those of nested models included."""
    import keras

    flat = model._flatten_layers()
    return [layer for layer in flat if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable]


def _score_three_ways(
    case: Case, model: "keras.Model", training: Outcome, validation: Outcome, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Hits of training rows with the statistics of their batch, and of training and validation rows with re-estimated
    ones."""
    from pointcnn_cli.diagnose.networks import predict_inputs

    data = case.data
    if data is None or case.train is None:
        raise ValueError("this case has no data")
    with without_noise(model):
        mixed = rng.permutation(len(training.rows))  # rows in order may be of one class
        scores = _run_in_batches(model, tuple(c[mixed] for c in data.read(training.rows)), cumulative=False)
        in_batches = np.empty(len(mixed))
        in_batches[mixed] = scores.argmax(axis=1) == training.labels[mixed]
        source = pick_rows(case.train, STATISTICS_ROWS, rng)
        order = rng.permutation(len(source))
        _run_in_batches(model, tuple(c[order] for c in data.read(source)), cumulative=True)
        again = [predict_inputs(model, data, o.rows).argmax(axis=1) == o.labels for o in (training, validation)]
    return in_batches, again[0].astype(np.float64), again[1].astype(np.float64)


@contextmanager
def without_noise(model: "keras.Model") -> Iterator[None]:
    """The model with dropout off; afterwards rates, momenta and all weights are as they were, whatever happened."""
    import keras

    weights = [(weight, keras.ops.convert_to_numpy(weight).copy()) for weight in model.non_trainable_variables]
    settings: list[tuple[Any, str, Any]] = [(layer, "momentum", layer.momentum) for layer in find_normalisations(model)]
    for layer in model._flatten_layers():
        noisy = [
            n for n in ("rate", "stddev", "dropout", "recurrent_dropout") if isinstance(getattr(layer, n, None), float)
        ]
        settings += [(layer, name, getattr(layer, name)) for name in noisy]
    try:
        for layer, name, _ in settings:
            if name != "momentum":
                setattr(layer, name, 0.0)
        yield
    finally:
        for layer, name, value in settings:
            setattr(layer, name, value)
        for weight, values in weights:
            weight.assign(values)


def _run_in_batches(
    model: "keras.Model", channels: tuple[NDArray[Any], ...], *, cumulative: bool
) -> NDArray[np.float64]:
    """Scores in training mode. With `cumulative`, moving statistics become the mean over all batches, else they stay.

    A batch i gets the weight 1/i and what was before the rest, so that all batches count alike in the end.
    """
    import keras

    from pointcnn_cli.diagnose.networks import as_class_scores, as_model_inputs

    layers = find_normalisations(model)
    parts = np.array_split(np.arange(len(channels[0])), max(1, len(channels[0]) // BATCH))
    outputs = []
    for i, part in enumerate(parts, 1):
        for layer in layers:
            layer.momentum = 1.0 - 1.0 / i if cumulative else 1.0
        answer = model(as_model_inputs(model, tuple(c[part] for c in channels)), training=True)
        outputs.append(keras.ops.convert_to_numpy(answer))
    return as_class_scores(model, np.concatenate(outputs).astype(np.float64))


def _measure(
    case: Case,
    layers: list[Any],
    training: Outcome,
    validation: Outcome,
    in_batches: NDArray[np.float64],
    gains: tuple[NDArray[np.float64], NDArray[np.float64]],
    rng: np.random.Generator,
) -> Measurement:
    p = compare_paired(gains[0], training.groups, rng)
    residue, steps = _compute_residue(case, layers)
    effect = float(gains[0].mean())
    harmful = effect >= EFFECT_GATE
    lags = residue is not None and residue > RESIDUE
    # Training rows suffer from nothing else than the statistics; validation rows that are unlike them gain and lose by
    # chance. But the statistics of a network whose weights still move are always a little behind, which rows known by
    # heart show most: the score is spoiled where validation rows suffer too.
    suffers = float(gains[1].mean()) >= EFFECT_GATE and compare_paired(gains[1], validation.groups, rng) < ALPHA
    spoils = harmful and (lags or effect >= SEVERE or suffers)
    told = (
        f"With batch-normalisation statistics taken anew from training rows, accuracy on {len(training.rows)} training "
        f"rows goes from {training.accuracy:.3f} to {training.accuracy + effect:.3f} (p = {p:.2g}), and on "
        f"{len(validation.rows)} validation rows from {validation.accuracy:.3f} to "
        f"{validation.accuracy + float(gains[1].mean()):.3f}."
    )
    lag = (
        f" After {steps} steps the moving statistics still hold {residue:.0%} of their initial values." if lags else ""
    )
    return Measurement(
        "PC404",
        "test" if harmful else "proof",
        told + lag,
        found=harmful or lags,
        harm=spoils,
        statistic="accuracy gained by re-estimating batch statistics",
        value=effect,
        threshold=EFFECT_GATE,
        n=len(training.rows),
        groups=None if training.groups is None else len(np.unique(training.groups)),
        effect=effect,
        interval=compute_cluster_interval(gains[0], training.groups, rng, 0.999),
        interval_level=0.999,
        p=p,
        null="sign flips between moving and re-estimated statistics on the same training rows",
        minimum_detectable_effect=EFFECT_GATE,
        fix=_make_fix(case) if harmful or lags else None,
        details={
            "train_accuracy_moving": training.accuracy,
            "train_accuracy_batch": float(in_batches.mean()),
            "train_accuracy_reestimated": float((training.hits + gains[0]).mean()),
            "validation_accuracy_moving": validation.accuracy,
            "validation_accuracy_reestimated": float((validation.hits + gains[1]).mean()),
            "initial_values_left": residue,
        },
    )


def _compute_residue(case: Case, layers: list[Any]) -> tuple[float | None, int | None]:
    """Weight of the initial values in the slowest moving statistics after all steps, and the steps; None if unknown."""
    steps = case.count_steps()
    if steps is None:
        return None, None
    return float(max(layer.momentum for layer in layers) ** steps), steps


def _make_fix(case: Case) -> Fix:
    text = (
        "Give BatchNormalization a momentum of 0.9, train more steps or in larger, mixed batches; or recompute the "
        "moving statistics over the training rows after training."
    )
    if case.config is not None and case.config.model.name == "pointcnn_original":
        return Fix(text, {"model.name": "pointcnn"})
    return Fix(text)


CHECKS = (Check(("PC404",), Tier.FORWARD, check_batch_statistics),)

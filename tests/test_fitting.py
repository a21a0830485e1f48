"""The parts of the training loop: learning rates, weight decay, the best epoch, the loss, and what is said of NaN."""

import math

import keras
import numpy as np
import pytest

from pointcnn_cli.batches import permute_rows
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import RunError, TrainingError
from pointcnn_cli.feeding import PartRows
from pointcnn_cli.fitting import Fit, build_network
from pointcnn_cli.hdf5.samples import ArraySource, Samples
from pointcnn_cli.optimizers import build_optimizer, compute_row_weights
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.signals import StopRequest

CLASSES = ("box", "jump", "walk")
TRAIN = np.arange(0, 24, 2)  # rows are numbered over the whole file, so a part's places and numbers differ
VALIDATION = np.arange(1, 24, 2)
STEPS = 10


def make_config(**train) -> Config:
    """One step an epoch, no dropout: what the loss must be can be computed by hand."""
    return Config(
        data={"path": "unused.h5"},
        model={"name": "pointnet_tcn", "normalize": "none", "dropout": 0.0},
        train={"epochs": 1, "batch_size": 12, "schedule": "constant", **train},
    )


def make_channels() -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    return tuple(random.normal(1, 1, (24, depth, 4, 5, 1)).astype("float32") for depth in (3, 1, 1, 1))


def build_fit(config: Config, channels) -> Fit:
    labels = np.array([0] * 12 + [1] * 8 + [2] * 4)

    def make_part(rows) -> PartRows:
        return PartRows(
            rows, ArraySource(Samples(tuple(c[rows] for c in channels), labels[rows], CLASSES)), labels[rows]
        )

    index = ArraySource(Samples(tuple(channels), labels, CLASSES), "radar.h5").index
    fit = Fit(config, index, build_network(config, index), make_part(TRAIN), make_part(VALIDATION))
    fit.trainer.run_eagerly = fit.model.run_eagerly = True  # a few steps, for which tracing a graph takes too long
    return fit


def run_fit(fit: Fit, path) -> None:
    run = RunDir.create(path / "run", "", {}, {})
    try:
        fit.run(run, Reporter(), StopRequest())
    finally:
        run.unlock()


def rates_of(steps: list[int], **settings) -> list[float]:
    optimizer = build_optimizer(make_config(**settings).train, STEPS)
    rates = []
    for step in steps:
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    return rates


def test_a_constant_rate_stays():
    assert rates_of([0, 1, 35, 100], epochs=10, learning_rate=0.25) == [0.25] * 4


def test_a_cosine_falls_to_zero_over_all_steps():
    steps = [0, 1, 25, 50, 99, 100]
    expected = [0.25 * (1 + math.cos(math.pi * step / 100)) / 2 for step in steps]
    rates = rates_of(steps, epochs=10, learning_rate=0.25, schedule="cosine")
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)
    assert rates[0] == 0.25
    assert rates[-1] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warm_up_rises_from_zero_to_the_highest_rate_and_then_the_schedule_begins(schedule):
    settings = {"epochs": 10, "learning_rate": 0.25, "warmup_epochs": 2, "schedule": schedule}
    rising = rates_of([0, 5, 10, 19], **settings)
    np.testing.assert_allclose(rising, [0.0, 0.25 * 5 / 20, 0.25 * 10 / 20, 0.25 * 19 / 20], rtol=1e-5)
    steps = [20, 40, 60, 100]
    falling = [0.25 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2 for step in steps]
    expected = falling if schedule == "cosine" else [0.25] * 4
    np.testing.assert_allclose(rates_of(steps, **settings), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_the_optimizer_is_the_one_named(name, kind):
    optimizer = build_optimizer(make_config(optimizer=name).train, STEPS)
    assert type(optimizer).__name__ == kind
    if name == "sgd":
        assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)


def test_weight_decay_spares_biases_and_batch_normalisation():
    settings = make_config(optimizer="adamw", learning_rate=0.1, weight_decay=0.5).train
    variables = build_fit(make_config(), make_channels()).model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    # Where the gradient is zero, decay is all that happens.
    build_optimizer(settings, STEPS).apply([np.zeros(v.shape, "float32") for v in variables], variables)
    kinds = {variable.name for variable in variables}
    assert kinds == {"kernel", "bias", "gamma", "beta"}
    for variable in variables:
        expected = 1 - 0.1 * 0.5 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable, expected, rtol=1e-6, err_msg=variable.path)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 2], [0, 0, 0, 2], [1, 1]])
def test_balanced_weights_are_those_of_scikit_learn(labels):
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array(labels)
    present = np.unique(labels)  # scikit-learn knows only classes that occur
    expected = dict(zip(present, compute_class_weight("balanced", classes=present, y=labels), strict=True))
    weights = compute_row_weights(make_config(class_weight="balanced").train, labels, CLASSES)
    np.testing.assert_allclose(weights, [expected[label] for label in labels], rtol=1e-6)


def test_weights_by_name_go_to_the_rows_of_their_class():
    settings = make_config(class_weight={"walk": 3.0, "box": 0.5, "jump": 1.0}).train
    np.testing.assert_array_equal(compute_row_weights(settings, np.array([2, 0, 1, 0]), CLASSES), [3.0, 0.5, 1.0, 0.5])
    assert compute_row_weights(make_config().train, np.array([2, 0]), CLASSES) is None


@pytest.mark.parametrize(
    ("settings", "smoothing", "per_class"),
    [
        ({}, 0.0, [1, 1, 1]),
        ({"label_smoothing": 0.3}, 0.3, [1, 1, 1]),
        ({"class_weight": {"box": 0.5, "jump": 1.0, "walk": 3.0}}, 0.0, [0.5, 1, 3]),
        ({"class_weight": "balanced"}, 0.0, [12 / 18, 12 / 12, 12 / 6]),  # 6, 4 and 2 of the 12 training rows
    ],
    ids=["plain", "smoothing", "weights", "balanced"],
)
def test_the_loss_is_the_cross_entropy_that_the_settings_describe(settings, smoothing, per_class, tmp_path):
    channels = make_channels()
    fit = build_fit(make_config(**settings), channels)
    # Over the one batch of the epoch, before its step; in training mode, batch normalisation included.
    probabilities = np.asarray(fit.model([c[TRAIN] for c in channels], training=True), "float64")
    fit = build_fit(make_config(**settings), channels)  # anew, since that moved the averages
    run_fit(fit, tmp_path)
    targets = np.eye(3)[fit.train.labels] * (1 - smoothing) + smoothing / 3
    losses = -(targets * np.log(probabilities)).sum(axis=1) * np.array(per_class)[fit.train.labels]
    assert fit.history[0]["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_validation_is_neither_smoothed_nor_weighted(tmp_path):
    fit = build_fit(make_config(label_smoothing=0.3, class_weight="balanced"), make_channels())
    run_fit(fit, tmp_path)
    probabilities = np.asarray(fit.model(list(fit.validation.source.read(np.arange(12)))), "float64")
    expected = -np.log(probabilities[np.arange(12), fit.validation.labels]).mean()
    assert fit.history[0]["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_batch_that_is_tried_first_leaves_no_trace(tmp_path):
    config = make_config(optimizer="sgd", learning_rate=0.05)
    fit, by_hand = build_fit(config, make_channels()), build_fit(config, make_channels())
    run_fit(fit, tmp_path)
    by_hand.trainer.optimizer.learning_rate = 0.05
    by_hand.trainer.train_on_batch(np.arange(12), np.eye(3, dtype="float32")[by_hand.train.labels])
    for mine, theirs in zip(fit.model.get_weights(), by_hand.model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert int(fit.trainer.optimizer.iterations) == 1


@pytest.mark.parametrize("place", [0, 5, 11], ids=["first step", "second step", "third step"])
@pytest.mark.parametrize("value", [1e35, -3e38])
def test_a_loss_that_is_not_finite_names_the_row_with_an_absurd_value(place, value, tmp_path):
    row = TRAIN[permute_rows(0, 1, 12)[place]]
    channels = make_channels()
    channels[1][row, 0, 2, 3] = value
    fit = build_fit(make_config(batch_size=4, epochs=5), channels)
    with pytest.raises(TrainingError, match=r"not finite in epoch 1, step [123] of 3") as raised:
        run_fit(fit, tmp_path)
    named = raised.value.message.split("largest values: ")[1]
    assert named.startswith(f"radar.h5, row {row} (")
    assert "train.learning_rate" in raised.value.hint


def test_a_channel_in_a_large_unit_is_no_reason_for_suspicion(tmp_path):
    channels = make_channels()
    channels[2][:] *= 1e6
    channels[1][8, 0, 2, 3] = 50.0
    fit = build_fit(make_config(optimizer="sgd", learning_rate=10.0, epochs=20), channels)
    with pytest.raises(TrainingError, match=r"largest values: radar\.h5, row 8 \("):
        run_fit(fit, tmp_path)


def test_an_optimizer_state_of_another_network_is_refused(tmp_path):
    fit = build_fit(make_config(), make_channels())
    run_fit(fit, tmp_path)
    arrays = {f"model/{weight.path}": np.array(weight) for weight in fit.model.weights}
    with pytest.raises(RunError, match="state: its optimiser state does not fit"):
        fit.restore(RunDir.open(tmp_path / "run"), arrays, {"history": []}, "state")


def test_equal_seeds_build_equal_networks():
    first, second = (build_fit(make_config(), make_channels()).model.get_weights() for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert keras.config.dtype_policy().name == "float32"

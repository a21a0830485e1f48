"""Checks of a trained network and of its history: each fault is found, and healthy trainings stay without alarm."""

import json

import keras
import numpy as np
import pytest

from pointcnn_cli.diagnose.arrays import build_array_case
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks import (
    batchnorm,
    chance,
    classorder,
    curves,
    forward,
    imbalance,
    overfitting,
    scores,
    steps,
    units,
)
from pointcnn_cli.diagnose.facts import CaseData, FitSettings
from pointcnn_cli.diagnose.judge import decide, judge
from pointcnn_cli.diagnose.outcomes import Outcome, find_epochs, score_validation

ALL = (batchnorm, chance, classorder, curves, forward, imbalance, overfitting, scores, steps, units)
CLASSES, FEATURES, TRAINED, VALIDATED = 4, 12, 480, 240


def draw_rows(seed: int, rows: int, noise: float = 0.6, classes: int = CLASSES, groups: int = 30):
    """Features (rows, 12) around a centre for each class, in units of tens; labels; and groups without influence."""
    centres = np.random.default_rng(7).normal(size=(classes, FEATURES))
    rng = np.random.default_rng([seed, rows])
    labels = rng.integers(0, classes, rows)
    x = centres[labels] + noise * rng.normal(size=(rows, FEATURES))
    return (10.0 * x + 20.0).astype(np.float32), labels, rng.integers(0, groups, rows) + 1_000 * seed


def build_network(
    classes: int = CLASSES, units: int = 32, dropout: float = 0.2, momentum: float = 0.8, **dense
) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((FEATURES,), name="features")
    x = keras.layers.Rescaling(0.1, -2.0)(inputs)
    x = keras.layers.Dense(units, activation="relu", name="hidden", **dense)(x)
    if momentum:
        x = keras.layers.BatchNormalization(momentum=momentum, name="norm")(x)
    x = keras.layers.Dropout(dropout)(x)
    outputs = keras.layers.Dense(classes, activation="softmax", name="answer")(x)
    return keras.Model(inputs, outputs)


def train(model, x, y, validation, epochs=12, rate=1e-2, metrics=("accuracy",), loss=None, **fit):
    model.compile(keras.optimizers.Adam(rate), loss or "sparse_categorical_crossentropy", metrics=list(metrics))
    return model.fit(x, y, validation_data=validation, epochs=epochs, batch_size=32, verbose=0, **fit)


def make_case(model, x, y, validation, history=None, groups=None, **options) -> Case:
    return build_array_case(
        model, x, y, validation_split=None, validation_data=validation, split=None, groups=groups, history=history,
        options={"batch_size": 32, **options}, source_files=(),
    )  # fmt: skip


def measure(check, case):
    """The one measurement of `check`, and its verdict."""
    found = list(check(case))
    assert len(found) == 1
    return found[0], decide(found[0])


@pytest.fixture(scope="module")
def parts():
    x, y, groups = draw_rows(1, TRAINED)
    val_x, val_y, val_groups = draw_rows(2, VALIDATED)
    return x, y, val_x, val_y, np.concatenate([groups, val_groups])


@pytest.fixture(scope="module")
def healthy(parts):
    """A sound network and its history."""
    x, y, val_x, val_y, _ = parts
    model = build_network()
    return model, train(model, x, y, (val_x, val_y))


@pytest.fixture
def healthy_case(healthy, parts):
    model, history = healthy
    x, y, val_x, val_y, groups = parts
    return make_case(model, x, y, (val_x, val_y), history, groups)


# --- all checks ---


def run_all(case):
    return judge([m for module in ALL for check in module.CHECKS for m in check.measure(case)])


def test_a_healthy_training_has_no_alarm_and_no_suspicion(healthy_case):
    diagnosis = run_all(healthy_case)
    assert [(f.code, f.verdict) for f in diagnosis.findings if f.verdict != "INCONCLUSIVE"] == []
    json.dumps(diagnosis.as_document(), allow_nan=False)
    assert {f.code for f in diagnosis.findings} == {"PC604", "PC703"}  # nobody said what chose the weights


def test_a_case_that_knows_nothing_is_inconclusive_throughout():
    diagnosis = run_all(Case("nothing"))
    assert {f.verdict for f in diagnosis.findings} == {"INCONCLUSIVE"}
    assert diagnosis.ruled_out == ()


def test_checks_leave_every_weight_and_setting_as_it_was(healthy, healthy_case):
    model, _ = healthy
    before = [w.copy() for w in model.get_weights()]
    run_all(healthy_case)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.get_layer("norm").momentum == 0.8
    assert {layer.rate for layer in model.layers if hasattr(layer, "rate")} == {0.2}
    assert "call" not in model.get_layer("hidden").__dict__


# --- class order (PC301) ---


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (1, 2, 0, 3)], ids=["swap", "cycle"])
@pytest.mark.parametrize("grouped", [True, False])
def test_validation_labels_in_another_order_are_matched(healthy, parts, order, grouped):
    x, y, val_x, val_y, groups = parts
    case = make_case(healthy[0], x, y, (val_x, np.array(order)[val_y]), groups=groups if grouped else None)
    found, verdict = measure(classorder.check_class_order, case)
    assert verdict == "CONFIRMED"
    assert found.details["given_to_answered"] == {f"class {j}": f"class {i}" for i, j in enumerate(order) if i != j}
    assert found.effect == pytest.approx(found.details["accuracy_renamed"] - found.details["accuracy_as_given"])


def test_another_order_in_training_too_is_no_fault(healthy, parts):
    x, y, val_x, val_y, _ = parts
    swapped = np.array([1, 0, 2, 3])
    assert measure(classorder.check_class_order, make_case(healthy[0], x, y, (val_x, val_y)))[1] is None
    model = build_network()
    train(model, x, swapped[y], (val_x, swapped[val_y]))
    assert measure(classorder.check_class_order, make_case(model, x, swapped[y], (val_x, swapped[val_y])))[1] is None


def test_confusion_of_part_of_a_class_is_no_renaming():
    assert classorder.match_classes(np.array([[40, 60, 0], [45, 55, 0], [0, 0, 100]])).tolist() == [0, 1, 2]
    assert classorder.match_classes(np.array([[10, 90, 0], [80, 20, 0], [0, 0, 100]])).tolist() == [1, 0, 2]
    assert classorder.match_classes(np.array([[0, 100, 0], [0, 0, 0], [0, 0, 100]])).tolist() == [0, 1, 2]
    carried = np.array([[30, 20, 50], [100, 0, 0], [0, 0, 100]])  # a rare class that is taken for a common one
    assert classorder.match_classes(carried).tolist() == [0, 1, 2]


# --- inputs of validation (PC208, PC103) ---


@pytest.mark.parametrize("change", [lambda x: x / 255.0, lambda x: (x - 20.0) / 11.7], ids=["units", "standardised"])
def test_validation_inputs_on_another_scale_are_mapped_back(healthy, parts, change):
    x, y, val_x, val_y, groups = parts
    case = make_case(healthy[0], x, y, (change(val_x), val_y), groups=groups)
    found, verdict = measure(forward.check_preprocessing, case)
    assert verdict == "CONFIRMED"
    assert found.effect > 0.3
    assert found.p < 1e-3


def test_a_gain_that_a_sensor_may_have_is_another_recording_and_no_preprocessing(healthy, parts):
    x, y, val_x, val_y, groups = parts
    case = make_case(healthy[0], x, y, (val_x * 3.0, val_y), groups=groups)
    diagnosis = judge(forward.check_inputs(case))
    assert [(f.code, f.verdict) for f in diagnosis.findings] == [("PC206", "CONFIRMED"), ("PC208", "SUSPECTED")]
    assert "sensor" in diagnosis.findings[0].measurement.sentence


@pytest.fixture(scope="module")
def two_inputs(parts):
    """A network that reads the features from two inputs of one shape."""
    x, y, val_x, val_y, _ = parts
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((FEATURES // 2,), name=name) for name in ("left", "right")]
    hidden = keras.layers.Dense(32, activation="relu")(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(hidden))
    halves = [(a[:, : FEATURES // 2] / 10, a[:, FEATURES // 2 :] / 10) for a in (x, val_x)]
    train(model, list(halves[0]), y, (list(halves[1]), val_y))
    return model, *halves


def test_validation_channels_in_another_order_are_found(two_inputs, parts):
    model, halves, val_halves = two_inputs
    _, y, _, val_y, groups = parts
    case = make_case(model, list(halves), y, (list(val_halves[::-1]), val_y), groups=groups)
    found, verdict = measure(forward.check_channel_order, case)
    assert verdict == "CONFIRMED"
    assert found.details["order"] == {"left": "right", "right": "left"}
    assert [decide(m) for m in forward.check_inputs(case)][1] == "CONFIRMED"
    assert "PC208" not in judge(forward.check_inputs(case)).confirmed  # what looks like other scales is another order
    sound = make_case(model, list(halves), y, (list(val_halves), val_y), groups=groups)
    assert measure(forward.check_channel_order, sound)[1] is None


def test_what_only_lifts_an_accuracy_of_zero_to_chance_explains_nothing(two_inputs, parts):
    model, halves, val_halves = two_inputs
    _, y, _, val_y, groups = parts
    case = make_case(model, list(halves), y, (list(val_halves), (val_y + 2) % CLASSES), groups=groups)
    found, verdict = measure(forward.check_channel_order, case)
    assert verdict is None
    assert found.effect > 0.1


def test_only_inputs_of_one_shape_change_places():
    assert forward.list_orders(((3, 4), (2, 4))) == []
    assert forward.list_orders(((3, 4), (2, 4), (3, 4))) == [(2, 1, 0)]
    assert len(forward.list_orders(((2,),) * 4)) == 23
    assert len(forward.list_orders(((2,),) * 9)) == 24


@pytest.mark.parametrize(
    ("change", "keeps_zeros"),
    [(lambda x: x / 100, True), (lambda x: (x - 3) / 7, False), (lambda x: np.where(x != 0, 2 * x + 5, 0), True)],
    ids=["units", "standardised with its padding", "shifted without its padding"],
)
def test_a_map_is_read_from_moments_and_undone_for_each_depth_index(change, keeps_zeros):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2, 6, 5)) * np.array([4.0, 0.5])[:, None, None] + np.array([9.0, -2.0])[:, None, None]
    x *= rng.random((400, 1, 6, 5)) < 0.4  # most slots are empty
    x[200:] = x[:200]
    values = x.copy()
    values[200:] = change(x[200:])
    data = CaseData(lambda rows: (values[rows],), 400, ("points",), ((2, 6, 5),), np.zeros(400, np.int64), ("a", "b"))
    case = Case("moments", data, np.arange(200), np.arange(200, 400))
    fitted = next(m for m in forward.fit_maps(case) if m.keeps_zeros == keeps_zeros)
    (back,) = fitted.undo(data.read(case.validation), case.scan.inputs, data)
    assert back == pytest.approx(x[200:], abs=1e-3)
    assert not fitted.is_ordinary


# --- batch normalisation (PC404) ---


def test_statistics_that_lag_are_found_and_repaired_on_paper(parts):
    x, y, val_x, val_y, groups = parts
    model = build_network(momentum=0.999, bias_initializer=keras.initializers.Constant(20.0))
    history = train(model, x, y, (val_x, val_y), epochs=5)
    weights = [w.copy() for w in model.get_weights()]
    case = make_case(model, x, y, (val_x, val_y), history, groups)
    found, verdict = measure(batchnorm.check_batch_statistics, case)
    assert verdict == "CONFIRMED"
    assert found.details["train_accuracy_reestimated"] > found.details["train_accuracy_moving"] + 0.05
    assert found.details["initial_values_left"] == pytest.approx(0.999**75)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))


def test_statistics_that_only_odd_validation_rows_gain_from_are_not_blamed(healthy, parts, monkeypatch):
    """Rows unlike all training rows are answered by chance, with any statistics."""
    x, y, val_x, val_y, _ = parts
    measured = batchnorm._score_three_ways

    def gain_in_validation(case, model, training, validation, rng):
        in_batches, again, _ = measured(case, model, training, validation, rng)
        return in_batches, again, np.ones(len(validation.rows))

    monkeypatch.setattr(batchnorm, "_score_three_ways", gain_in_validation)
    case = make_case(healthy[0], x, y, (200.0 - val_x, val_y))
    assert score_validation(case).accuracy < 0.5
    assert measure(batchnorm.check_batch_statistics, case)[1] is None


def test_statistics_are_restored_when_the_network_fails(healthy):
    model, _ = healthy
    before = [w.copy() for w in model.get_weights()]
    rows = (np.ones((70, FEATURES), np.float32),)

    def fail_halfway():
        with batchnorm.without_noise(model):
            batchnorm._run_in_batches(model, rows, cumulative=True)
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail_halfway()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_normalisation_inside_a_nested_model_is_seen(healthy):
    outer = keras.Sequential([keras.Input((FEATURES,)), healthy[0]])
    assert [layer.name for layer in batchnorm.find_normalisations(outer)] == ["norm"]


# --- units and regularisation (PC406, PC405) ---


def test_dead_units_that_stop_the_training_are_proven(parts):
    x, y, val_x, val_y, _ = parts
    model = build_network(momentum=0, bias_initializer=keras.initializers.Constant(-200.0))
    history = train(model, x, y, (val_x, val_y), epochs=2)
    found, verdict = measure(units.check_units, make_case(model, x, y, (val_x, val_y), history))
    assert verdict == "CONFIRMED"
    assert found.value == 1.0
    assert "hidden" in found.sentence


def test_dead_units_beside_living_ones_that_fit_are_only_present(healthy, parts):
    x, y, val_x, val_y, _ = parts
    model = build_network(units=128)
    train(model, x, y, (val_x, val_y), epochs=5)
    kernel, bias = model.get_layer("hidden").get_weights()
    scale, shift, mean, variance = model.get_layer("norm").get_weights()
    bias[:80], scale[:80], shift[:80] = -1e4, 0.0, 0.0  # of 128
    model.get_layer("hidden").set_weights([kernel, bias])
    model.get_layer("norm").set_weights([scale, shift, mean, variance])
    _, verdict = measure(units.check_units, make_case(model, x, y, (val_x, val_y)))
    assert verdict == "PRESENT"


def test_weights_that_are_not_finite_are_named_by_layer(parts):
    x, y, val_x, val_y, _ = parts
    model = build_network(momentum=0)
    train(model, x, y, (val_x, val_y), epochs=1)
    kernel, bias = model.get_layer("hidden").get_weights()
    model.get_layer("hidden").set_weights([np.full_like(kernel, np.nan), bias])
    found, verdict = measure(units.check_units, make_case(model, x, y, (val_x, val_y)))
    assert verdict == "CONFIRMED"
    assert "hidden" in found.sentence


def test_strong_regularisation_beside_a_poor_fit_is_suspected(parts):
    x, y, val_x, val_y, _ = parts
    model = build_network(units=4, dropout=0.8, momentum=0, kernel_regularizer=keras.regularizers.L2(1e-2))
    train(model, x, y, (val_x, val_y), epochs=2, rate=1e-3)
    found, verdict = measure(units.check_regularisation, make_case(model, x, y, (val_x, val_y)))
    assert verdict == "SUSPECTED"
    assert found.details == {"dropout": 0.8, "penalty": pytest.approx(1e-2)}


# --- the size of steps (PC501, PC502) ---


@pytest.mark.parametrize(
    ("optimizer", "rate", "epochs", "codes"),
    [
        ("adam", 1e-3, 12, []),
        ("adam", 2.0, 12, ["PC501"]),
        ("lion", 1e-6, 12, ["PC502"]),
        ("adam", 1e-6, 10_000, []),
        ("sgd", 2.0, 12, []),  # its steps are as long as the gradient
    ],
)
def test_steps_are_held_against_the_weights_before_and_after_training(optimizer, rate, epochs, codes):
    settings = FitSettings(optimizer=optimizer, learning_rate=rate, batch_size=32, epochs=epochs)
    case = Case("plan", train=np.arange(TRAINED), settings=settings, build=build_network)
    found = judge(steps.check_step_size(case)).findings
    assert [(f.code, f.verdict) for f in found] == [(code, "SUSPECTED") for code in codes]
    assert all(m.found == ("hardly" in m.sentence) for m in steps.check_step_size(case) if m.code == "PC502")
    case.history = ({"accuracy": 0.2}, {"accuracy": 0.95})
    assert "PC501" not in {f.code for f in judge(steps.check_step_size(case)).findings}  # it did learn


def test_the_typical_weight_is_what_glorot_gives():
    model = build_network(units=512, classes=256, momentum=0)
    drawn = [float(np.std(layer.get_weights()[0])) for layer in (model.get_layer("hidden"), model.get_layer("answer"))]
    assert steps.compute_typical_weight(model) == pytest.approx(np.mean(drawn), rel=0.05)
    inputs = keras.Input((3,))
    assert steps.compute_typical_weight(keras.Model(inputs, keras.layers.ReLU()(inputs))) is None


# --- reported scores (PC601, PC602, PC603, PC604, PC703) ---


def test_binary_accuracy_of_one_hot_labels_is_found_by_its_values(parts):
    x, y, val_x, val_y, _ = parts
    wide, val_wide = np.eye(CLASSES)[y], np.eye(CLASSES)[val_y]
    model = build_network(momentum=0)
    history = train(
        model, x, wide, (val_x, val_wide), epochs=1, rate=1e-4, metrics=["binary_accuracy"],
        loss="categorical_crossentropy",
    )  # fmt: skip
    case = make_case(model, x, wide, (val_x, val_wide), history)
    found, verdict = measure(scores.check_reported_accuracy, case)
    assert verdict == "CONFIRMED"
    assert "0.750" in found.sentence
    case.load = None
    assert measure(scores.check_reported_accuracy, case)[1] == "CONFIRMED"  # by its name


def test_accuracy_of_other_rows_is_found_and_that_of_an_earlier_epoch_is_not(healthy, healthy_case):
    case = healthy_case
    assert measure(scores.check_reported_accuracy, case)[1] is None
    right = case.history
    case.history = tuple({**row, "val_accuracy": row["val_accuracy"] / 2} for row in right)
    assert measure(scores.check_reported_accuracy, case)[1] == "CONFIRMED"
    case.history = (*right, {**right[-1], "val_accuracy": 0.1, "val_loss": 9.0})  # weights of the last but one
    assert measure(scores.check_reported_accuracy, case)[1] is None
    assert find_epochs(case, score_validation(case))[-1] == len(right) - 1


def test_a_loss_that_keras_does_not_clip_tells_its_epoch_too(healthy_case):
    """Of a final softmax Keras takes the logits on TensorFlow, so a row may cost more than -ln 1e-7."""
    case, outcome = healthy_case, score_validation(healthy_case)
    outcome.probabilities[0] = np.eye(CLASSES)[(outcome.labels[0] + 1) % CLASSES] + 1e-20
    assert outcome.compute_loss(1e-30) > outcome.compute_loss() * 1.05
    for logged in (outcome.compute_loss(1e-30), outcome.compute_loss()):
        case.history = ({"val_loss": 9.0}, {"val_loss": logged})
        assert find_epochs(case, outcome) == [1]


def test_saved_predictions_in_another_order_are_recognised(healthy_case):
    case = healthy_case
    rows = score_validation(case).scores
    case.saved_predictions = rows.copy()
    assert measure(scores.check_reported_accuracy, case)[1] is None
    case.saved_predictions = rows[np.random.default_rng(0).permutation(len(rows))]
    verdicts = [decide(m) for m in scores.check_reported_accuracy(case)]
    assert verdicts == ["CONFIRMED", None]


def test_a_gap_that_dropout_makes_is_explained_and_no_alarm(parts):
    x, y, val_x, val_y, groups = parts
    model = build_network(dropout=0.85, momentum=0, units=24)
    history = train(model, x, y, (val_x, val_y), epochs=6)
    case = make_case(model, x, y, (val_x, val_y), history, groups)
    assert case.history[-1]["val_accuracy"] > case.history[-1]["accuracy"] + 0.05
    _, verdict = measure(scores.check_comparable_curves, case)
    assert verdict == "PRESENT"
    assert run_all(case).confirmed == ()


def test_one_answer_to_all_training_rows_is_a_collapse(parts):
    x, y, val_x, val_y, _ = parts
    model = build_network(momentum=0, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(-1.0))
    train(model, x, y, (val_x, val_y), epochs=1)
    verdicts = [decide(m) for m in chance.check_chance(make_case(model, x, y, (val_x, val_y)))]
    assert verdicts == ["CONFIRMED", "SUSPECTED"]


@pytest.mark.parametrize(
    ("selects", "has_test", "verdict"),
    [(True, False, "PRESENT"), (True, True, None), (False, False, None), (None, False, "INCONCLUSIVE")],
)
def test_a_score_chosen_on_its_own_rows_is_told(selects, has_test, verdict):
    case = Case("settings", settings=FitSettings(selects_on_validation=selects, has_test_part=has_test))
    assert measure(scores.check_selection, case)[1] == verdict


@pytest.mark.parametrize(("augmented", "verdict"), [(True, "PRESENT"), (False, None), (None, "INCONCLUSIVE")])
def test_augmented_validation_rows_are_told(augmented, verdict):
    case = Case("settings", settings=FitSettings(augments_validation=augmented))
    assert measure(scores.check_augmented_validation, case)[1] == verdict


# --- imbalance (PC304) ---


def thin_out(x, y, keep: int, seed: int):
    """Only `keep` rows of class 0."""
    chosen = np.flatnonzero(y == 0)[:keep]
    rows = np.sort(np.concatenate([chosen, np.flatnonzero(y != 0)]))
    return x[rows], y[rows]


def test_a_rare_class_that_is_never_answered_is_proven(parts):
    x, y, _ = draw_rows(3, 480, noise=2.5)
    x, y = thin_out(x, y, 3, 0)
    val_x, val_y, _ = draw_rows(4, 240, noise=2.5)
    model = build_network(momentum=0)
    train(model, x, y, (val_x, val_y), epochs=6)
    case = make_case(model, x, y, (val_x, val_y))
    found, verdict = measure(imbalance.check_imbalance, case)
    assert verdict == "CONFIRMED"
    assert found.fix.set == {"train.class_weight": "balanced"}
    weighted = make_case(model, x, y, (val_x, val_y), class_weight={0: 40.0, 1: 1.0, 2: 1.0, 3: 1.0})
    assert measure(imbalance.check_imbalance, weighted)[1] is None


def test_eight_to_one_is_no_fault(healthy, parts):
    x, y, val_x, val_y, _ = parts
    thin_x, thin_y = thin_out(x, y, 15, 0)
    assert measure(imbalance.check_imbalance, make_case(healthy[0], thin_x, thin_y, (val_x, val_y)))[1] is None


@pytest.mark.parametrize(
    ("weights", "verdict"), [({1: 1.0, 2: 1.0, 3: 2.0, 4: 1.0}, "CONFIRMED"), ({0: 2.0, 3: 1.0}, None)]
)
def test_class_weights_for_classes_that_do_not_exist_are_proven(weights, verdict):
    labels = np.arange(40) % CLASSES
    data = CaseData(lambda rows: (rows,), 40, ("x",), ((1,),), labels, ("0", "1", "2", "3"))
    case = Case("weights", data, settings=FitSettings(class_weight=weights, class_weight_known=True))
    assert measure(imbalance.check_class_weights, case)[1] == verdict


# --- curves (PC501, PC502, PC504) ---


def make_history(**columns):
    length = len(next(iter(columns.values())))
    return tuple({"epoch": i + 1.0} | {name: float(v[i]) for name, v in columns.items()} for i in range(length))


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([1.8, 1.2, 0.8, 0.5, 0.4], None),
        ([1.8, 1.2, float("nan"), float("nan"), float("nan")], "SUSPECTED"),
        ([1.8, 2.5, 3.0, 2.6, 2.9], "SUSPECTED"),
        ([1.8, 0.5, 4.0, 0.6, 5.0, 0.5], "SUSPECTED"),
        ([1.8, 0.5, 1.6, 0.3, 0.2, 0.2], None),
    ],
    ids=["falls", "NaN", "above its start", "jumps", "one bad batch"],
)
def test_a_learning_rate_that_is_too_high_is_suspected_from_the_losses(losses, verdict):
    case = Case("curve", history=make_history(loss=losses), settings=FitSettings(learning_rate=0.1))
    found, seen = measure(curves.check_learning_rate, case)
    assert seen == verdict
    assert found.fix is None or found.fix.set == {"train.learning_rate": 0.01}


def test_a_loss_that_still_falls_is_suspected_unless_the_network_fits():
    losses = 1.79 - 0.004 * np.arange(30)
    for accuracy, verdict in ((0.4, "SUSPECTED"), (0.97, None)):
        history = make_history(loss=losses, accuracy=np.linspace(0.17, accuracy, 30))
        found, seen = measure(curves.check_unfinished, Case("curve", history=history))
        assert seen == verdict
        assert found.value == pytest.approx(-0.004)
    flat = make_history(loss=0.8 + 0.01 * np.cos(np.arange(30)), accuracy=np.full(30, 0.6))
    assert measure(curves.check_unfinished, Case("curve", history=flat))[1] is None


def test_a_trend_is_as_improbable_as_its_order():
    assert curves.compute_trend_p(np.arange(8.0)) == pytest.approx(1 / 40_320)
    assert curves.compute_trend_p(np.ones(8)) == 1.0
    assert curves.compute_trend_p([0.0, 1.0]) == 1.0


@pytest.fixture(scope="module")
def overfitted():
    """Sixty rows learnt by heart for far too long."""
    x, y, _ = draw_rows(5, 60, noise=2.5)
    val_x, val_y, _ = draw_rows(6, 300, noise=2.5)
    model = build_network(units=256, dropout=0.0, momentum=0)
    best = keras.callbacks.EarlyStopping(monitor="val_loss", patience=100, restore_best_weights=False)
    history = train(model, x, y, (val_x, val_y), epochs=40, rate=3e-3, callbacks=[best])
    return model, history, x, y, (val_x, val_y)


def test_overfitting_is_confirmed_by_gap_and_trend(overfitted):
    model, history, x, y, validation = overfitted
    found, verdict = measure(overfitting.check_overfitting, make_case(model, x, y, validation, history))
    assert verdict == "CONFIRMED"
    assert found.interval[0] > 0.05


def test_weights_of_the_best_epoch_are_not_overfitted(overfitted):
    _, history, x, y, validation = overfitted
    model = build_network(units=256, dropout=0.0, momentum=0)
    place = int(np.argmin(history.history["val_loss"]))
    train(model, x, y, validation, epochs=place + 1, rate=3e-3)
    assert measure(overfitting.check_overfitting, make_case(model, x, y, validation, history))[1] is None


def test_temperature_is_what_makes_scores_too_sure():
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(4_000, CLASSES))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(CLASSES, p=share) for share in shares])
    for factor in (1.0, 3.0):
        cut, temperature = overfitting.measure_temperature(Outcome(np.arange(4_000), labels, factor * logits, None))
        assert temperature == pytest.approx(factor, rel=0.1)
        assert (cut > 0.1) == (factor > 1)


# --- networks of other shapes ---


@pytest.mark.parametrize("logits", [False, True])
def test_a_single_unit_counts_as_two_classes(logits):
    x, y, _ = draw_rows(8, 200, classes=2)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Rescaling(0.1, -2.0),
            keras.layers.Dense(1, activation=None if logits else "sigmoid"),
        ]
    )
    model.compile(
        "adam",
        keras.losses.BinaryCrossentropy(from_logits=logits),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0 if logits else 0.5, name="accuracy")],
    )
    history = model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0)
    case = make_case(model, x, y, (x, y), history)
    outcome = score_validation(case)
    assert outcome.scores.shape == (200, 2)
    assert outcome.scores.sum(axis=1) == pytest.approx(np.ones(200))
    assert outcome.accuracy == pytest.approx(case.history[-1]["val_accuracy"], abs=1e-6)
    assert measure(scores.check_reported_accuracy, case)[1] is None


def test_logits_of_many_classes_give_the_loss_that_was_logged(parts):
    x, y, val_x, val_y, _ = parts
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Rescaling(0.1, -2.0), keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    history = train(model, x, y, (val_x, val_y), epochs=3, loss=loss)
    case = make_case(model, x, y, (val_x, val_y), history)
    assert 2 in find_epochs(case, score_validation(case))
    assert score_validation(case).compute_loss() == pytest.approx(case.history[-1]["val_loss"], rel=1e-4)


def test_a_cycle_of_classes_is_found_although_one_of_them_is_hard_to_tell():
    confusion = np.array(
        [
            [0, 1, 21, 2, 0, 1],
            [20, 2, 1, 0, 0, 2],
            [0, 9, 5, 3, 1, 7],
            [0, 5, 0, 19, 0, 1],
            [0, 0, 1, 0, 22, 2],
            [1, 6, 0, 2, 0, 16],
        ]
    )
    assert classorder.match_classes(confusion).tolist() == [2, 0, 1, 3, 4, 5]

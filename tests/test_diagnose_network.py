"""Checks of the network as a graph: what is wrong is found under any name, and what only looks odd is left alone."""

import math

import keras
import numpy as np
import pytest
from conftest import ROOT
from keras import layers, ops

from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import ModelConfig
from pointcnn_cli.diagnose.arrays import build_array_case
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.heads import check_head
from pointcnn_cli.diagnose.checks.initial import check_batch_normalization, check_initial_kernels, check_input_scale
from pointcnn_cli.diagnose.checks.network import check_dead_blocks, check_linear_stacks
from pointcnn_cli.diagnose.checks.outputs import check_units
from pointcnn_cli.diagnose.checks.source import find_dead_functions
from pointcnn_cli.diagnose.checks.wiring import check_wiring
from pointcnn_cli.diagnose.facts import FitSettings
from pointcnn_cli.diagnose.graph import find_kernel_layers, find_normalizing_layer
from pointcnn_cli.diagnose.judge import decide
from pointcnn_cli.models import build_model

AS_ASKED = ROOT / "configs" / "as_asked.yaml"
TINY = [(3, 4, 5), (1, 4, 5), (1, 4, 5), (1, 4, 5)]
CLASSES = 4
ROWS = 40


def close(inputs, x, activation="softmax", units=CLASSES):
    """A network that ends in a dense layer on `x`."""
    return keras.Model(inputs, layers.Dense(units, activation=activation)(layers.Flatten()(x)))


def make_case(model, x=None, y=None, loss="sparse_categorical_crossentropy", source_files=(), **options):
    """The case of `model.fit(x, y, validation_split=0.2)`; normal inputs and all classes where none are given."""
    random = np.random.default_rng(0)
    if x is None:
        x = [random.normal(size=(ROWS, *(size or 6 for size in i.shape[1:]))) for i in model.inputs]
    y = np.arange(ROWS) % CLASSES if y is None else y
    model.compile("sgd", loss=loss)
    return build_array_case(
        model, x, y, validation_split=0.2, validation_data=None, split=None, groups=None, history=None,
        options={"batch_size": 10, **options}, source_files=source_files,
    )  # fmt: skip


def measure(check, case):
    (measurement,) = check(case)
    return measurement


# --- blocks that do nothing ---


@pytest.mark.parametrize(("name", "verdict", "empty"), [("pointcnn_original", "PRESENT", 4), ("pointcnn", None, 0)])
def test_declared_blocks_that_return_their_input_are_found_under_any_name(name, verdict, empty):
    model = build_model(ModelConfig(name=name), TINY, CLASSES)
    model.name = "renamed"
    x = [np.random.default_rng(0).normal(size=(ROWS, *shape, 1)) for shape in TINY]
    case = make_case(model, x)
    case.build = lambda: model
    m = measure(check_dead_blocks, case)
    assert decide(m) == verdict
    assert len(m.details["blocks_that_return_their_input"]) == empty
    assert m.details["declared_blocks"] == 13
    assert f"{empty} of 13" in m.sentence or not empty


def test_a_config_is_told_which_network_has_the_block():
    model = build_model(ModelConfig(name="pointcnn_original"), TINY, CLASSES)
    config = load_config(AS_ASKED, ())
    for check in (check_dead_blocks, check_linear_stacks):
        m = measure(check, Case("test", config=config, build=lambda: model))
        assert (decide(m), m.fix.set) == ("PRESENT", {"model.name": "pointcnn"})
        load_config(AS_ASKED, [f"{key}={value}" for key, value in m.fix.set.items()])


def test_a_nested_model_that_returns_its_input_is_found():
    entry = keras.Input((6,))
    conv3 = keras.Model(entry, layers.Activation("linear")(entry), name="encoder")
    inputs = keras.Input((6,))
    m = measure(check_dead_blocks, make_case(close(inputs, conv3(layers.Dense(6, activation="relu")(inputs)))))
    assert decide(m) == "PRESENT"
    assert m.details["nested_models_that_return_their_input"] == ["encoder"]


def test_a_nested_dropout_is_no_dead_block():
    inputs = keras.Input((6,))
    regulariser = keras.Sequential([keras.Input((6,)), layers.Dropout(0.5)])
    assert decide(measure(check_dead_blocks, make_case(close(inputs, regulariser(inputs))))) is None


@pytest.mark.parametrize(
    "silence", [lambda x: x * 0.0, ops.stop_gradient, layers.Rescaling(0.0)], ids=["zero", "stop_gradient", "rescaling"]
)
def test_a_layer_without_influence_is_found(silence):
    inputs = keras.Input((6,))
    lost = silence(layers.Dense(6, activation="relu", name="lost")(inputs))
    model = close(inputs, layers.Add()([layers.Dense(6, activation="relu")(inputs), lost]))
    before = model.get_weights()
    case = make_case(model)
    m = measure(check_dead_blocks, case)
    assert decide(m) == "PRESENT"
    assert m.details["layers_without_gradient"] == ["lost"]
    for weights, same in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, same)


def test_initial_values_that_silence_a_layer_at_first_are_no_dead_block():
    inputs = keras.Input((6,))
    x = layers.Dense(6, activation="relu", bias_initializer=keras.initializers.Constant(-50.0))(inputs)
    x = layers.Add()([inputs, layers.BatchNormalization(gamma_initializer="zeros")(layers.Dense(6)(x))])
    case = make_case(keras.Model(inputs, layers.Dense(CLASSES, "softmax", kernel_initializer="zeros")(x)))
    weights = case.untrained.get_weights()
    assert decide(measure(check_dead_blocks, case)) is None
    for before, after in zip(weights, case.untrained.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


# --- the user's source ---

DEAD = """
def conv3(x, filters):
    def block(x):
        x = Conv3D(filters, 3, padding="same")(x)
        return keras.layers.BatchNormalization()(x)
    return x

branch = conv3(branch, 16)
"""


def write_script(folder, text):
    path = folder / "script.py"
    path.write_text(text)
    return str(path)


def test_a_function_that_defines_layers_and_returns_its_argument_is_found(tmp_path):
    script = write_script(tmp_path, DEAD)
    (dead,) = find_dead_functions([script])
    assert (dead.line, dead.name, dead.inner, dead.calls) == (2, "conv3", "block", 1)
    m = measure(check_dead_blocks, make_case(close(i := keras.Input((6,)), i), source_files=(script,)))
    assert decide(m) == "PRESENT"
    assert "script.py:2, conv3()" in m.sentence


def test_a_layer_whose_result_is_dropped_is_found(tmp_path):
    text = "def block(x):\n    y = layers.Conv2D(8, 3)(x)\n    return x\n\nblock(1)\n"
    assert [dead.inner for dead in find_dead_functions([write_script(tmp_path, text)])] == [None]


@pytest.mark.parametrize(
    "text",
    [
        DEAD.replace("return x\n\nbranch", "return block(x)\n\nbranch"),
        DEAD.replace("    return x\n\nbranch", "    x = block(x)\n    return x\n\nbranch"),
        DEAD.replace("branch = conv3(branch, 16)", ""),
        "def add(model):\n    model.add(Conv2D(8, 3))\n    return model\n\nadd(1)\n",
        "def same(x):\n    return x\n\nkeep = lambda x: x\nsame(keep(1))\n",
        "def outer(x):\n    def log(y):\n        print(y)\n    return x\n\nouter(1)\n",
        "def f(x):\n    y = Dense(3)(x)\n    print(y)\n    return x\n\nf(1)\n",
        "def broken(:\n",
        "\0",
    ],
    ids=["returned", "assigned", "not-called", "model.add", "identity", "no-layers", "result-read", "syntax", "binary"],
)
def test_other_functions_are_left_alone(tmp_path, text):
    assert find_dead_functions([write_script(tmp_path, text), str(tmp_path / "absent.py"), str(tmp_path)]) == []


def test_a_huge_file_is_not_read(tmp_path):
    assert find_dead_functions([write_script(tmp_path, DEAD + "#" * 2**20)]) == []


# --- linear stacks ---


def conv_stack(*between, first=None):
    """A convolution, these layers, and a dense output."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation=first, name="first")(inputs)
    for layer in between:
        x = layer(x)
    return close(inputs, x)


@pytest.mark.parametrize(
    "model",
    [
        lambda: conv_stack(),
        lambda: conv_stack(layers.AveragePooling2D(2), layers.BatchNormalization(), layers.Dropout(0.5)),
        lambda: conv_stack(layers.ZeroPadding2D(), layers.Activation("linear"), layers.GlobalAveragePooling2D()),
        lambda: conv_stack(lambda x: layers.Add()([x, x]), lambda x: layers.Concatenate()([x, layers.ReLU()(x)])),
        lambda: conv_stack(keras.Sequential([keras.Input((6, 6, 4)), layers.AveragePooling2D(2)])),
    ],
    ids=["plain", "pool-norm", "padding", "sums", "nested"],
)
def test_two_layers_without_an_activation_between_are_found(model):
    m = measure(check_linear_stacks, make_case(model()))
    assert decide(m) == "PRESENT"
    assert [pair[0] for pair in m.details["stacks"]] == ["first"]


@pytest.mark.parametrize(
    "model",
    [
        lambda: conv_stack(first="relu"),
        lambda: conv_stack(layers.MaxPooling2D(2), layers.BatchNormalization()),
        lambda: conv_stack(layers.BatchNormalization(), layers.LeakyReLU()),
        lambda: conv_stack(lambda x: layers.Add()([x, layers.ReLU()(x)])),
        lambda: conv_stack(lambda x: ops.gelu(x)),
        lambda: conv_stack(layers.Lambda(lambda x: x)),
        lambda: conv_stack(keras.Sequential([keras.Input((6, 6, 4)), layers.ReLU()])),
    ],
    ids=["relu", "max-pool", "leaky", "residual", "gelu", "unknown", "nested"],
)
def test_layers_with_something_between_are_left_alone(model):
    assert decide(measure(check_linear_stacks, make_case(model()))) is None


@pytest.mark.parametrize(
    ("name", "stacks"),
    [("pointcnn_original", [["conv4", "dense"]]), ("pointcnn", None), ("pointnet_tcn", None)],
)
@pytest.mark.parametrize("fast", [True, False])
def test_our_networks_have_the_stacks_that_are_known(name, stacks, fast):
    model = build_model(ModelConfig(name=name, fast=fast), TINY, CLASSES)
    m = measure(check_linear_stacks, Case("test", build=lambda: model))
    assert m.details.get("stacks") == stacks
    assert find_normalizing_layer(model)
    assert len(find_kernel_layers(model)) == m.n


class Shy(keras.Model):
    """A network whose structure is Python code."""

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("check", [check_dead_blocks, check_linear_stacks, check_wiring, check_head, check_units,
                                   check_input_scale, check_batch_normalization])  # fmt: skip
def test_what_cannot_be_seen_is_said_to_be_unknown(check):
    assert decide(measure(check, Case("test", build=Shy))) == "INCONCLUSIVE"
    assert decide(measure(check, Case("test"))) == "INCONCLUSIVE"


# --- wiring ---


def four_branches(read):
    """Branches 0 to 3 on what `read` gives them of four inputs."""
    inputs = [keras.Input((5,), name=f"channel_{i}") for i in range(4)]
    branches = [layers.Dense(3, activation="relu")(read(inputs, i)) for i in range(4)]
    return close(inputs, layers.Concatenate()(branches))


def sliced(read):
    """Branches 0 to 3 on what `read` gives them of one input of four channels."""
    inputs = keras.Input((5, 4), name="window")
    return close(inputs, layers.Concatenate()([layers.Dense(3, activation="relu")(read(inputs, i)) for i in range(4)]))


def test_an_input_that_no_branch_reads_is_found():
    m = measure(check_wiring, make_case(four_branches(lambda inputs, i: layers.Rescaling(2.0)(inputs[max(i, 1)]))))
    assert decide(m) == "CONFIRMED"
    assert m.details == {"unused_inputs": ["channel_0"], "inputs_with_several_readers": ["channel_1"]}


late = [0]


@pytest.mark.parametrize(
    "read",
    [
        lambda x, i: x[:, :, max(i, 1)],
        lambda x, i: ops.split(x, 4, axis=2)[max(i, 1)],
        lambda x, i: layers.Lambda(lambda t: t[:, :, late[0]])(x),
    ],
    ids=["index", "split", "late-binding"],
)
def test_a_part_that_feeds_two_branches_instead_of_another_is_found(read):
    m = measure(check_wiring, make_case(sliced(read)))
    assert decide(m) == "CONFIRMED"
    assert "window" in m.sentence


@pytest.mark.parametrize(
    "model",
    [
        lambda: four_branches(lambda inputs, i: inputs[i]),
        lambda: sliced(lambda x, i: x[:, :, i]),
        lambda: sliced(lambda x, i: layers.Lambda(lambda t, i=i: t[:, :, i])(x)),
        lambda: sliced(lambda x, i: layers.Flatten()(x)),
        lambda: sliced(lambda x, i: x[:, :, :3]),
        lambda: build_model(ModelConfig(name="pointnet_tcn"), TINY, CLASSES),
        lambda: build_model(ModelConfig(name="pointcnn"), TINY, CLASSES),
    ],
    ids=["inputs", "slices", "lambdas", "whole", "cropped", "pointnet_tcn", "pointcnn"],
)
def test_sound_wiring_is_left_alone(model):
    assert decide(measure(check_wiring, make_case(model()))) is None


# --- head, loss and labels ---


def head(*activations, units=CLASSES):
    """A network that ends in a dense layer and these activations."""
    inputs = keras.Input((6,))
    x = layers.Dense(units)(layers.Dense(8, activation="relu")(inputs))
    for activation in activations:
        x = layers.Activation(activation)(x)
    return keras.Model(inputs, x)


INTEGERS = np.arange(ROWS) % CLASSES
ONE_HOT = np.eye(CLASSES)[INTEGERS]
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def own_loss(labels, probabilities):
    """A loss that no table knows."""
    return ops.mean(probabilities)


SPARSE, CATEGORICAL = "sparse_categorical_crossentropy", "categorical_crossentropy"


@pytest.mark.parametrize(
    ("model", "loss", "y", "verdict"),
    [
        (lambda: head("softmax", "softmax"), SPARSE, INTEGERS, "CONFIRMED"),
        (lambda: head("softmax", "softmax"), LOGITS, INTEGERS, "CONFIRMED"),
        (lambda: head(), SPARSE, INTEGERS, "CONFIRMED"),
        (lambda: head(), CATEGORICAL, ONE_HOT, "CONFIRMED"),
        (lambda: head("softmax"), CATEGORICAL, INTEGERS, "CONFIRMED"),
        (lambda: head("softmax"), SPARSE, ONE_HOT, "CONFIRMED"),
        (lambda: head("softmax", units=5), CATEGORICAL, ONE_HOT, "CONFIRMED"),
        (lambda: head("softmax", units=1), SPARSE, INTEGERS, "CONFIRMED"),
        (lambda: head("softmax", units=1), "binary_crossentropy", INTEGERS % 2, "CONFIRMED"),
        (lambda: head("sigmoid"), CATEGORICAL, ONE_HOT, "PRESENT"),
        (lambda: head("softmax"), "mse", ONE_HOT, "PRESENT"),
        (lambda: head("softmax"), SPARSE, INTEGERS, None),
        (lambda: head("softmax"), SPARSE, INTEGERS[:, None], None),
        (lambda: head("linear", "softmax"), "CategoricalCrossentropy", ONE_HOT, None),
        (lambda: head("softmax"), LOGITS, INTEGERS, None),  # Keras finds the values before the softmax
        (lambda: head(), LOGITS, INTEGERS, None),
        (lambda: head("sigmoid", units=1), "binary_crossentropy", INTEGERS % 2, None),
        (lambda: head("sigmoid"), "binary_crossentropy", ONE_HOT, None),
        (lambda: head("softmax"), own_loss, INTEGERS, "INCONCLUSIVE"),
    ],
)
def test_head_loss_and_labels_are_compared(model, loss, y, verdict):
    assert decide(measure(check_head, make_case(model(), y=y, loss=loss))) == verdict


def test_two_softmaxes_keep_the_loss_above_the_floor_that_is_told():
    model = head("softmax", "softmax")
    m = measure(check_head, make_case(model, y=INTEGERS))
    floor = math.log(1 + (CLASSES - 1) / math.e)
    assert f"{floor:.4f}" in m.sentence
    sure = keras.layers.Softmax()(1e3 * ONE_HOT)
    loss = keras.losses.CategoricalCrossentropy()(ONE_HOT, keras.layers.Softmax()(np.asarray(sure)))
    assert float(loss) == pytest.approx(floor, abs=1e-5)


def test_the_first_loss_is_told():
    m = measure(check_head, make_case(head("softmax")))
    assert m.details["initial_loss"] == pytest.approx(math.log(CLASSES), abs=1.0)


@pytest.mark.parametrize(
    ("units", "y", "verdict"),
    [
        (CLASSES, INTEGERS, None),
        (CLASSES, INTEGERS + 1, "CONFIRMED"),
        (CLASSES + 1, INTEGERS + 1, "CONFIRMED"),
        (CLASSES, INTEGERS - 1, "CONFIRMED"),
        (10, INTEGERS, None),
        (1, INTEGERS % 2, None),
        (1, INTEGERS % 2 + 1, "CONFIRMED"),
    ],
    ids=["fits", "one-based", "one-based-with-spare-unit", "negative", "spare-units", "binary", "binary-one-based"],
)
def test_labels_are_held_against_the_units(units, y, verdict):
    m = measure(check_units, make_case(head("softmax", units=units), y=y))
    assert (m.code, decide(m)) == ("PC305", verdict)


# --- scale of the inputs, batch normalisation, initial weights ---


def scaled_inputs(*scales):
    return [scale * np.random.default_rng(i).normal(size=(ROWS, 5)) for i, scale in enumerate(scales)]


@pytest.mark.parametrize(
    ("scales", "verdict"),
    [
        ((1, 1, 1, 1), None),
        ((1, 2, 0.5, 3), None),
        ((4000,) * 4, "SUSPECTED"),
        ((1, 1, 1, 1e-3), "SUSPECTED"),
        ((0.2, 0.2, 0.2, 5), "SUSPECTED"),
    ],
)
def test_raw_inputs_of_odd_scale_are_suspected(scales, verdict):
    case = make_case(four_branches(lambda inputs, i: inputs[i]), scaled_inputs(*scales))
    assert decide(measure(check_input_scale, case)) == verdict


@pytest.mark.parametrize(
    "normalise",
    [layers.BatchNormalization, layers.LayerNormalization, lambda: layers.Rescaling(1 / 4000), layers.Normalization],
)
def test_inputs_behind_a_normalisation_may_have_any_scale(normalise):
    case = make_case(four_branches(lambda inputs, i: normalise()(inputs[i])), scaled_inputs(4000, 1, 1, 1e-3))
    assert decide(measure(check_input_scale, case)) is None


def test_sparse_counts_are_measured_where_they_are():
    counts = np.random.default_rng(0).poisson(1.0, (ROWS, 30)) * (np.random.default_rng(1).random((ROWS, 30)) < 0.03)
    case = make_case(close(inputs := keras.Input((30,)), inputs), counts.astype(float))
    m = measure(check_input_scale, case)
    assert decide(m) is None
    assert min(m.details["standard_deviations"].values()) > 0.1


def test_the_fix_of_odd_inputs_is_a_setting():
    case = make_case(four_branches(lambda inputs, i: inputs[i]), scaled_inputs(4000, 1, 1, 1))
    case.config = load_config(AS_ASKED, ())
    fix = measure(check_input_scale, case).fix
    settings = [f"{key}={value}" for key, value in fix.set.items()]
    assert load_config(AS_ASKED, settings).model.normalize == "masked"


@pytest.mark.parametrize(
    ("momentum", "batch", "epochs", "verdict", "cure"),
    [
        (0.99, 8, 10, "PRESENT", "0.9"),  # 40 steps
        (0.99, 8, 100, None, ""),
        (0.9, 8, 10, None, ""),
        (0.9, 2, 10, "PRESENT", "32 rows"),
    ],
)
def test_statistics_that_cannot_settle_are_told(momentum, batch, epochs, verdict, cure):
    inputs = keras.Input((6,))
    case = make_case(close(inputs, layers.BatchNormalization(momentum=momentum)(inputs)))
    case.settings = FitSettings(batch_size=batch, epochs=epochs)
    m = measure(check_batch_normalization, case)
    assert decide(m) == verdict
    assert m.value == pytest.approx(momentum ** (epochs * 32 / batch))
    assert cure in (m.fix.text if m.fix else "")
    case.settings = FitSettings()
    assert decide(measure(check_batch_normalization, case)) == "INCONCLUSIVE"


def dense_stack(*initializers):
    inputs = x = keras.Input((6,))
    for initializer in initializers[:-1]:
        x = layers.Dense(8, activation="relu", kernel_initializer=initializer)(x)
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax", kernel_initializer=initializers[-1])(x))


@pytest.mark.parametrize(
    ("initializers", "verdict"),
    [
        (("zeros", "glorot_uniform"), "CONFIRMED"),
        (("zeros", "zeros"), "CONFIRMED"),
        (("ones", "ones", "ones"), "CONFIRMED"),
        (("glorot_uniform", "glorot_uniform"), None),
        (("glorot_uniform", "zeros"), None),  # a last layer may start at zero
    ],
)
def test_kernels_that_stay_equal_are_found(initializers, verdict):
    assert decide(measure(check_initial_kernels, make_case(dense_stack(*initializers)))) == verdict


def test_a_kernel_that_is_still_constant_after_training_is_found():
    model = dense_stack("zeros", "zeros")
    case = make_case(model)
    case.load = lambda: model
    assert decide(measure(check_initial_kernels, case)) == "CONFIRMED"

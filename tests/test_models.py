"""The networks: sizes, what they ignore, which options they take, and weights that only fit where they belong."""

import keras
import numpy as np
import pytest

from pointcnn_cli.config.schema import ModelConfig
from pointcnn_cli.errors import RunError
from pointcnn_cli.models import BUILDERS, assign_weights, build_model, read_weights

SHAPES = [(3, 64, 48), (1, 64, 48), (1, 64, 48), (1, 64, 48)]
SMALL = [(3, 16, 24), (1, 16, 24), (1, 16, 24), (1, 16, 24)]
TINY = [(3, 4, 5), (1, 4, 5), (1, 4, 5), (1, 4, 5)]


def make_rows(rows: int, shapes=SMALL, share: float = 0.4) -> list[np.ndarray]:
    """Channels of normal values in which a share of the point slots is filled."""
    random = np.random.default_rng(0)
    filled = random.random((rows, 1, *shapes[0][1:], 1)) < share
    return [(random.normal(1, 1, (rows, *shape, 1)) * filled).astype("float32") for shape in shapes]


def shift_biases(model: keras.Model) -> None:
    """Biases start at zero, which would hide what becomes of an empty slot."""
    for variable in model.trainable_variables:
        if variable.name == "bias":
            variable.assign(np.random.default_rng(0).normal(0.3, 0.2, variable.shape))


def count_trainable(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(("classes", "expected"), [(6, 337_478), (5, 337_349)])
def test_the_original_network_has_the_published_size(classes, expected):
    settings = ModelConfig(name="pointcnn_original", normalize="none")
    assert build_model(settings, SHAPES, classes).count_params() == expected


# The input normalisation adds a mean and a deviation for each of the six coordinates.
@pytest.mark.parametrize(
    ("name", "without", "trainable"),
    [("pointcnn_original", 337_478, 337_158), ("pointcnn", 517_894, 517_318), ("pointnet_tcn", 267_814, 267_046)],
)
def test_each_network_has_the_size_that_is_written_down(name, without, trainable):
    plain = build_model(ModelConfig(name=name, normalize="none"), SHAPES, 6)
    assert (plain.count_params(), count_trainable(plain)) == (without, trainable)
    normalized = build_model(ModelConfig(name=name), SHAPES, 6)
    assert (normalized.count_params(), count_trainable(normalized)) == (without + 12, trainable)


def test_a_point_network_has_the_same_size_for_every_grid():
    sizes = {
        build_model(ModelConfig(name="pointnet_tcn"), shapes, 6).count_params() for shapes in (SHAPES, SMALL, TINY)
    }
    assert len(sizes) == 1


@pytest.fixture(scope="module")
def point_network() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build_model(ModelConfig(name="pointnet_tcn"), SMALL, 6)
    shift_biases(model)
    model.get_layer("normalization").set_weights([np.full(6, 0.7), np.full(6, 1.3)])
    return model


def test_the_order_of_points_does_not_matter_to_pointnet_tcn(point_network):
    channels = make_rows(4)
    order = np.random.default_rng(1).permutation(16)
    permuted = [c[:, :, order] for c in channels]
    np.testing.assert_allclose(point_network(permuted), point_network(channels), atol=1e-6)


def test_points_may_be_listed_in_another_order_in_each_frame(point_network):
    channels = make_rows(4)
    # (rows, 1, points, frames, 1): the order in which each frame of each row lists its points
    order = np.random.default_rng(1).random((4, 1, 16, 24, 1)).argsort(axis=2)
    permuted = [np.take_along_axis(c, np.broadcast_to(order, c.shape), axis=2) for c in channels]
    np.testing.assert_allclose(point_network(permuted), point_network(channels), atol=1e-6)


def test_the_order_of_frames_matters_to_pointnet_tcn(point_network):
    channels = make_rows(4)
    reversed_ = [c[:, :, :, ::-1] for c in channels]
    assert np.abs(point_network(reversed_) - point_network(channels)).max() > 1e-4


def test_empty_slots_do_not_change_the_features_of_a_frame(point_network):
    wide = build_model(ModelConfig(name="pointnet_tcn"), [(d, 2 * p, f) for d, p, f in SMALL], 6)
    wide.set_weights(point_network.get_weights())
    channels = make_rows(4)
    padded = [np.concatenate([c, np.zeros_like(c)], axis=2) for c in channels]
    features = [keras.Model(m.inputs, m.get_layer("point_pool").output) for m in (point_network, wide)]
    few, many = np.asarray(features[0](channels)), np.asarray(features[1](padded))  # (batch, frames, features)
    np.testing.assert_allclose(many[..., :-1], few[..., :-1], atol=1e-6)
    np.testing.assert_allclose(many[..., -1], few[..., -1] / 2, atol=1e-6)  # the share of slots that are filled


def test_a_frame_without_points_gives_no_features(point_network):
    channels = make_rows(2)
    for channel in channels:
        channel[:, :, :, 7] = 0.0
    features = np.asarray(keras.Model(point_network.inputs, point_network.get_layer("point_pool").output)(channels))
    assert not features[:, 7].any()
    assert features[:, 6].any(axis=-1).all()


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 1, 3, 1), (4, 4, 4, 4), (1, 3, 2, 4)])
def test_networks_take_depths_of_one_to_four(name, depths):
    shapes = [(d, 16, 24) for d in depths]
    probabilities = np.asarray(build_model(ModelConfig(name=name), shapes, 5)(make_rows(3, shapes)))
    assert probabilities.shape == (3, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("grid", [(1, 1), (4, 5), (7, 13), (33, 9)])
def test_networks_take_grids_of_any_size(name, grid):
    shapes = [(d, *grid) for d in (3, 1, 1, 1)]
    assert build_model(ModelConfig(name=name), shapes, 2)(make_rows(2, shapes, share=1.0)).shape == (2, 2)


def test_dropout_acts_in_training_only_and_with_the_rate_asked_for():
    channels = make_rows(2, TINY)
    without = build_model(ModelConfig(name="pointnet_tcn", dropout=0.0), TINY, 6)
    assert without.get_layer("dropout").rate == 0.0
    model = build_model(ModelConfig(name="pointnet_tcn", dropout=0.9), TINY, 6)
    assert model.get_layer("dropout").rate == 0.9
    np.testing.assert_array_equal(model(channels), model(channels))
    head = keras.Model(model.inputs, model.get_layer("dropout").output)
    assert (np.asarray(head(channels, training=True)) == 0).mean() > 0.7
    assert (np.asarray(head(channels)) == 0).mean() < 0.7


@pytest.mark.parametrize("name", BUILDERS)
def test_the_kind_of_normalisation_decides_what_empty_slots_become(name):
    channels = make_rows(2, TINY)
    empty = ~np.concatenate(channels, axis=1).any(axis=1)  # (rows, points, frames, 1)
    for kind, expected in (("masked", 0.0), ("standard", -0.5)):
        model = build_model(ModelConfig(name=name, normalize=kind), TINY, 6)
        layer = model.get_layer("normalization")
        layer.set_weights([np.full(6, 1.0), np.full(6, 2.0)])
        outputs = keras.Model(model.inputs, layer.output)(channels)
        assert np.all(np.asarray(outputs[1])[:, 0][empty] == expected)
    model = build_model(ModelConfig(name=name, normalize="none"), TINY, 6)
    assert "normalization" not in [layer.name for layer in model.layers]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_weights_and_probabilities_in_float32(name, precision):
    before = keras.config.dtype_policy().name
    model = build_model(ModelConfig(name=name), TINY, 6, precision)
    assert keras.config.dtype_policy().name == before
    assert {str(weight.dtype) for weight in model.trainable_variables} == {"float32"}
    assert model.get_layer("dropout").compute_dtype == precision.removeprefix("mixed_")
    channels = make_rows(3, TINY)
    for training in (True, False):
        probabilities = np.asarray(model(channels, training=training))
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    exact = build_model(ModelConfig(name=name), TINY, 6)
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(model(channels), exact(channels), atol=0.05)


def test_the_policy_is_put_back_when_building_fails():
    before = keras.config.dtype_policy().name
    with pytest.raises(ValueError, match="units"):
        build_model(ModelConfig(name="pointnet_tcn"), TINY, -1, "mixed_float16")
    assert keras.config.dtype_policy().name == before


def test_the_seed_alone_decides_the_first_weights():
    def build(seed):
        keras.utils.set_random_seed(seed)
        return build_model(ModelConfig(name="pointnet_tcn"), TINY, 6).get_weights()

    first, same, other = build(3), build(3), build(4)
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_read_from_one_model_make_another_predict_the_same(name):
    model, other = (build_model(ModelConfig(name=name), TINY, 6) for _ in range(2))
    channels = make_rows(3, TINY)
    model.get_layer("normalization").set_weights([np.full(6, 0.5), np.full(6, 2.0)])
    assert np.abs(model(channels) - other(channels)).max() > 1e-4
    weights = read_weights(model)
    assert len(weights) == len(model.weights)
    assert {"normalization/mean", "normalization/deviation", "probabilities/kernel"} <= weights.keys()
    assign_weights(other, weights, "a test")
    np.testing.assert_array_equal(model(channels), other(channels))


def test_weights_that_were_read_are_copies():
    model = build_model(ModelConfig(name="pointnet_tcn"), TINY, 6)
    weights = read_weights(model)
    model.get_layer("normalization").mean.assign(np.full(6, 9.0))
    assert not weights["normalization/mean"].any()


@pytest.fixture(scope="module")
def small_model() -> keras.Model:
    return build_model(ModelConfig(name="pointnet_tcn"), TINY, 6)


BIAS = "probabilities/bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(BIAS), f"no weight '{BIAS}'"),
        (lambda w: w.update(extra=np.zeros(1)), "unknown weight 'extra'"),
        (
            lambda w: w.update({BIAS: np.zeros(5, "float32")}),
            r"'probabilities/bias' is float32 \(5,\), .* float32 \(6,\)",
        ),
        (lambda w: w.update({BIAS: np.zeros(6, "float16")}), r"is float16 \(6,\), the model needs float32 \(6,\)"),
        (lambda w: w.update({BIAS: np.array([0, 0, np.nan, 0, 0, 0], "float32")}), f"'{BIAS}' holds NaN or infinity"),
        (lambda w: w.update({BIAS: np.full(6, -np.inf, "float32")}), f"'{BIAS}' holds NaN or infinity"),
    ],
    ids=["missing", "unknown", "shape", "dtype", "nan", "infinity"],
)
def test_weights_that_do_not_fit_are_refused_whole(small_model, change, message):
    before = read_weights(small_model)
    weights = {name: array + 1 for name, array in before.items()}
    change(weights)
    with pytest.raises(RunError, match=message) as raised:
        assign_weights(small_model, weights, "best.safetensors")
    assert raised.value.message.startswith("best.safetensors: does not fit")
    assert raised.value.hint
    for name, array in read_weights(small_model).items():
        np.testing.assert_array_equal(array, before[name])


def test_many_problems_are_counted_not_listed(small_model):
    with pytest.raises(RunError) as raised:
        assign_weights(small_model, {}, "best.safetensors")
    lines = raised.value.message.splitlines()
    assert len(lines) == 12
    assert lines[-1] == f"and {len(small_model.weights) - 10} more"

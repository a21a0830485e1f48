"""The fast layers compute what their stock parents compute, and the input layers respect empty slots."""

import keras
import numpy as np
import pytest
from keras import ops

from pointcnn_cli import layers
from pointcnn_cli.config.schema import ModelConfig
from pointcnn_cli.models import build_model

SHAPES = [(3, 8, 8), (1, 8, 8), (1, 8, 8), (1, 8, 8)]


class ExactMaxPooling3D(keras.layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D` ('same') as the maximum of shifted slices, with the gradient of a maximum.

    The stock layer's gradient on TensorFlow's CPU is not that: it gives the whole gradient of an output to every input
    within 1e-5 of the maximum. Such near-ties are common: over empty slots a convolution is constant.
    """

    def call(self, inputs):
        for axis, kernel, stride in zip((1, 2, 3), self.pool_size, self.strides, strict=True):
            size = inputs.shape[axis]
            out = -(-size // stride)
            total = max((out - 1) * stride + kernel - size, 0)
            pads = [(total // 2, total - total // 2) if a == axis else (0, 0) for a in range(5)]
            padded = ops.pad(inputs, pads, constant_values=-1e30)
            places = [slice(k, k + (out - 1) * stride + 1, stride) for k in range(kernel)]
            inputs = ops.max(ops.stack([padded[(slice(None),) * axis + (place,)] for place in places]), axis=0)
        return inputs


def make_normal(*shape: int, mean: float = 0.0, deviation: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, deviation, shape).astype("float32")


def make_radar_like(rows: int, share: float = 0.4) -> list[np.ndarray]:
    """Channels of normal values in which a share of the point slots is filled."""
    random = np.random.default_rng(0)
    filled = random.random((rows, 1, *SHAPES[0][1:], 1)) < share
    return [(random.normal(1, 1, (rows, *shape, 1)) * filled).astype("float32") for shape in SHAPES]


def compute_gradients(model, x, y) -> list[np.ndarray]:
    """Gradients of the mean cross-entropy in training, one for each trainable variable."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.mean(keras.losses.categorical_crossentropy(y, model(x, training=True)))
        return [np.asarray(g) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]
    import jax

    def compute_loss(trainable):
        outputs, _ = model.stateless_call(trainable, [v.value for v in model.non_trainable_variables], x, training=True)
        return ops.mean(keras.losses.categorical_crossentropy(y, outputs))

    return [np.asarray(g) for g in jax.jit(jax.grad(compute_loss))([v.value for v in model.trainable_variables])]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 1), (2, 2, 2)])
def test_conv3d_equals_stock(depth, strides):
    x = make_normal(2, depth, 9, 7, 3)
    fast = layers.Conv3D(5, 3, strides, padding="same", activation="relu", bias_initializer="normal")
    stock = keras.layers.Conv3D(5, 3, strides, padding="same", activation="relu")
    fast.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(fast.get_weights())
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-5)


@pytest.mark.parametrize("options", [{"padding": "valid"}, {"padding": "same", "dilation_rate": 2}])
def test_conv3d_falls_through_where_it_cannot_lower(options):
    x = make_normal(2, 6, 9, 7, 3)
    fast, stock = layers.Conv3D(5, 3, **options), keras.layers.Conv3D(5, 3, **options)
    fast.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(fast.get_weights())
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["MaxPooling3D", "AveragePooling3D"])
def test_pooling_equals_stock(depth, name):
    x = make_normal(2, depth, 9, 8, 3)
    fast, stock = getattr(layers, name)(3, 2, padding="same"), getattr(keras.layers, name)(3, 2, padding="same")
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the stock gradients are TensorFlow's")
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["MaxPooling3D", "AveragePooling3D"])
def test_pooling_has_the_gradient_of_stock(depth, name):
    import tensorflow as tf

    random = np.random.default_rng(0)
    size = 2 * depth * 9 * 8 * 3
    x = random.permutation(size).astype("float32").reshape(2, depth, 9, 8, 3)  # no two values are near each other
    gradients = []
    for kit in (layers, keras.layers):
        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = getattr(kit, name)(3, 2, padding="same")(inputs)
            total = ops.sum(outputs * np.random.default_rng(1).normal(size=outputs.shape).astype("float32"))
        gradients.append(tape.gradient(total, inputs))
    np.testing.assert_allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_reference_pool_equals_stock(depth):
    x = make_normal(2, depth, 9, 8, 3)
    stock = keras.layers.MaxPooling3D(3, 2, padding="same")
    np.testing.assert_array_equal(ExactMaxPooling3D(3, 2, padding="same")(x), stock(x))


def test_batch_normalization_keeps_the_statistics_of_stock():
    x = make_normal(6, 2, 5, 4, 3, mean=2, deviation=3)
    fast, stock = layers.BatchNormalization(momentum=0.5), keras.layers.BatchNormalization(momentum=0.5)
    for _ in range(3):
        np.testing.assert_allclose(fast(x, training=True), stock(x, training=True), atol=1e-4)
    for mine, theirs in zip(fast.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    np.testing.assert_allclose(fast(x, training=False), stock(x, training=False), atol=1e-5)


@pytest.fixture(scope="module", params=["pointcnn", "pointcnn_original", "pointnet_tcn"])
def twins(request):
    """The same network of fast and of stock layers, with the same weights."""
    # Weights for which no activation comes near a ReLU's kink, where rounding alone would decide its gradient.
    keras.utils.set_random_seed(3)
    settings = {"name": request.param, "dropout": 0.0}
    fast = build_model(ModelConfig(**settings), SHAPES, 6)
    stock = build_model(ModelConfig(**settings, fast=False), SHAPES, 6)
    stock.set_weights(fast.get_weights())
    return fast, stock


def with_exact_pools(stock):
    """The same network, with the same weights, whose pools have the gradient of a maximum."""

    def clone(layer):
        kind = ExactMaxPooling3D if isinstance(layer, keras.layers.MaxPooling3D) else type(layer)
        return kind.from_config(layer.get_config())

    exact = keras.models.clone_model(stock, clone_function=clone)
    exact.set_weights(stock.get_weights())
    return exact


def test_fast_and_stock_networks_have_the_same_variables(twins):
    fast, stock = twins
    assert [(v.path, v.shape, v.dtype) for v in fast.variables] == [(v.path, v.shape, v.dtype) for v in stock.variables]


def test_fast_and_stock_networks_agree(twins):
    fast, stock = twins
    x, y = make_radar_like(4), np.eye(6, dtype="float32")[:4]
    weights = fast.get_weights()
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-5)

    exact = with_exact_pools(stock)
    mine, theirs = compute_gradients(fast, x, y), compute_gradients(exact, x, y)
    whole = np.sqrt(sum(np.sum(g**2) for g in theirs))
    for a, b in zip(mine, theirs, strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * max(np.linalg.norm(b), 1e-3 * whole)

    eagerly = keras.backend.backend() == "tensorflow"  # op by op JAX compiles for minutes
    for model in (fast, exact):
        model.set_weights(weights)
        model.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy", run_eagerly=eagerly)
        for _ in range(5):
            model.train_on_batch(x, y)
    for a, b in zip(fast.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    fast.set_weights(weights)


def test_masked_normalization_leaves_empty_slots_at_zero():
    channels = make_radar_like(3)
    layer = layers.InputNormalization()
    layer.build([c.shape for c in channels])
    layer.set_weights([np.full(6, 1.0), np.full(6, 2.0)])
    empty = np.concatenate(channels, axis=1).any(axis=1, keepdims=True) == 0
    for channel, output in zip(channels, layer(channels), strict=True):
        expected = np.where(empty, 0.0, (channel - 1.0) / 2.0)
        np.testing.assert_allclose(output, expected, atol=1e-6)


def test_standard_normalization_treats_empty_slots_like_others():
    channels = make_radar_like(3)
    layer = layers.InputNormalization(masked=False)
    layer.build([c.shape for c in channels])
    layer.set_weights([np.full(6, 1.0), np.full(6, 2.0)])
    for channel, output in zip(channels, layer(channels), strict=True):
        np.testing.assert_allclose(output, (channel - 1.0) / 2.0, atol=1e-6)


def test_a_slot_that_is_zero_in_one_channel_only_counts_as_filled():
    channels = [np.zeros((1, d, 2, 1, 1), "float32") for d in (3, 1, 1, 1)]
    channels[2][0, 0, 0, 0, 0] = 5.0
    np.testing.assert_array_equal(np.ravel(layers.FilledSlots()(channels)), [1.0, 0.0])

"""The fast layers compute what their stock parents compute, and the input layers respect empty slots."""

import keras
import numpy as np
import pytest

from pointcnn_cli import layers
from pointcnn_cli.config.schema import ModelConfig
from pointcnn_cli.models import build_model

# Small, because the comparison of gradients has a flaw of its own: an activation within rounding of a ReLU's kink may
# fall on either side. The fewer the activations, the rarer that is.
SHAPES = [(3, 8, 8), (1, 8, 8), (1, 8, 8), (1, 8, 8)]
random = np.random.default_rng(0)


def radar_like(rows: int, shapes=SHAPES, share: float = 0.4) -> list[np.ndarray]:
    """Channels of normal values in which a share of the point slots is filled."""
    filled = random.random((rows, 1, *shapes[0][1:], 1)) < share
    return [(random.normal(1, 1, (rows, *shape, 1)) * filled).astype("float32") for shape in shapes]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 1), (2, 2, 2)])
def test_conv3d_equals_stock(depth, strides):
    x = random.normal(size=(2, depth, 9, 7, 3)).astype("float32")
    fast = layers.Conv3D(5, 3, strides, padding="same", activation="relu", bias_initializer="normal")
    stock = keras.layers.Conv3D(5, 3, strides, padding="same", activation="relu")
    fast.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(fast.get_weights())
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-5)


@pytest.mark.parametrize("options", [{"padding": "valid"}, {"padding": "same", "dilation_rate": 2}])
def test_conv3d_falls_through_where_it_cannot_lower(options):
    x = random.normal(size=(2, 6, 9, 7, 3)).astype("float32")
    fast, stock = layers.Conv3D(5, 3, **options), keras.layers.Conv3D(5, 3, **options)
    fast.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(fast.get_weights())
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["MaxPooling3D", "AveragePooling3D"])
def test_pooling_equals_stock(depth, name):
    x = random.normal(size=(2, depth, 9, 8, 3)).astype("float32")
    fast, stock = getattr(layers, name)(3, 2, padding="same"), getattr(keras.layers, name)(3, 2, padding="same")
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-6)


def test_batch_normalization_keeps_the_statistics_of_stock():
    x = random.normal(2, 3, size=(6, 2, 5, 4, 3)).astype("float32")
    fast, stock = layers.BatchNormalization(momentum=0.5), keras.layers.BatchNormalization(momentum=0.5)
    for _ in range(3):
        np.testing.assert_allclose(fast(x, training=True), stock(x, training=True), atol=1e-4)
    for mine, theirs in zip(fast.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    np.testing.assert_allclose(fast(x, training=False), stock(x, training=False), atol=1e-5)


def _gradients(model, x, y):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.losses.categorical_crossentropy(y, model(x, training=True)))
        return [np.asarray(g) for g in tape.gradient(loss, [v.value for v in model.trainable_variables])]
    import jax

    def compute_loss(trainable):
        outputs, _ = model.stateless_call(trainable, [v.value for v in model.non_trainable_variables], x, training=True)
        return keras.ops.mean(keras.losses.categorical_crossentropy(y, outputs))

    return [np.asarray(g) for g in jax.grad(compute_loss)([v.value for v in model.trainable_variables])]


@pytest.fixture(scope="module", params=["pointcnn", "pointcnn_original", "pointnet_tcn"])
def twins(request):
    """The same network of fast and of stock layers, with the same weights."""
    keras.utils.set_random_seed(1)
    settings = {"name": request.param, "dropout": 0.0}
    fast = build_model(ModelConfig(**settings), SHAPES, 6)
    stock = build_model(ModelConfig(**settings, fast=False), SHAPES, 6)
    return fast, stock


def test_fast_and_stock_networks_have_the_same_variables(twins):
    fast, stock = twins
    assert [(v.path, v.shape, v.dtype) for v in fast.variables] == [(v.path, v.shape, v.dtype) for v in stock.variables]


def test_fast_and_stock_networks_agree(twins):
    fast, stock = twins
    # All slots filled: over empty ones conv1 is constant, and where values tie TensorFlow's CPU MaxPool3D hands the
    # gradient of one output to every tied input, while the 2-D pool (and a GPU) chooses one.
    x, y = radar_like(4, share=1.0), np.eye(6, dtype="float32")[:4]
    weights = fast.get_weights()
    stock.set_weights(weights)
    np.testing.assert_allclose(fast(x), stock(x), atol=1e-5)

    mine, theirs = _gradients(fast, x, y), _gradients(stock, x, y)
    whole = np.sqrt(sum(np.sum(g**2) for g in theirs))
    for a, b in zip(mine, theirs, strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * max(np.linalg.norm(b), 1e-3 * whole)

    for model in twins:
        model.set_weights(weights)
        model.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy")
        for _ in range(5):
            model.train_on_batch(x, y)
    for a, b in zip(fast.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    fast.set_weights(weights)


def test_masked_normalization_leaves_empty_slots_at_zero():
    channels = radar_like(3)
    layer = layers.InputNormalization()
    layer.build([c.shape for c in channels])
    layer.set_weights([np.full(6, 1.0), np.full(6, 2.0)])
    empty = np.concatenate(channels, axis=1).any(axis=1, keepdims=True) == 0
    for channel, output in zip(channels, layer(channels), strict=True):
        expected = np.where(empty, 0.0, (channel - 1.0) / 2.0)
        np.testing.assert_allclose(output, expected, atol=1e-6)


def test_standard_normalization_treats_empty_slots_like_others():
    channels = radar_like(3)
    layer = layers.InputNormalization(masked=False)
    layer.build([c.shape for c in channels])
    layer.set_weights([np.full(6, 1.0), np.full(6, 2.0)])
    for channel, output in zip(channels, layer(channels), strict=True):
        np.testing.assert_allclose(output, (channel - 1.0) / 2.0, atol=1e-6)


def test_a_slot_that_is_zero_in_one_channel_only_counts_as_filled():
    channels = [np.zeros((1, d, 2, 1, 1), "float32") for d in (3, 1, 1, 1)]
    channels[2][0, 0, 0, 0, 0] = 5.0
    np.testing.assert_array_equal(np.ravel(layers.FilledSlots()(channels)), [1.0, 0.0])

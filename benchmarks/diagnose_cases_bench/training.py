"""Building, fitting and scoring the small networks of the cases."""

import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from diagnose_cases_bench.recipes import POINTS, Network, Recipe

layers = keras.layers


@dataclass(frozen=True)
class Trained:
    """A fitted network."""

    model: keras.Model
    history: dict[str, list[float]]
    seconds: float
    validation_accuracy: float
    """Counted anew."""
    test_accuracy: float


def build_network(recipe: Recipe) -> keras.Model:
    """Features of each point, pooled over a frame's slots, two convolutions over time, and a dense layer; compiled."""
    keras.utils.set_random_seed(recipe.seed)
    net = recipe.network
    inputs = [layers.Input(c.shape[1:]) for c in recipe.x]
    given = [_normalize(recipe, i, tensor) if net.normalization else tensor for i, tensor in enumerate(inputs)]
    stacked = layers.Concatenate(axis=1)([given[i] for i in net.branch_inputs])
    points = _convolve(net, stacked, (int(stacked.shape[1]), 1, 1), net.filters // 2)
    h = layers.Concatenate()(
        [layers.AveragePooling3D((1, POINTS, 1))(points), layers.MaxPooling3D((1, POINTS, 1))(points)]
    )
    if net.before_pool:
        h = layers.MaxPooling3D((1, 1, 2))(layers.Conv3D(net.filters, (1, 1, 5))(h))
    else:
        h = _convolve(net, h, (1, 1, 5), net.filters)
    for _ in range(net.identity_blocks):
        block = layers.Input(h.shape[1:])
        h = keras.Model(block, block)(h)
    if net.linear_stack:
        h = layers.Conv3D(net.filters, (1, 1, 3))(layers.Conv3D(net.filters, (1, 1, 3))(h))
        h = layers.ReLU()(h)
    else:
        h = _convolve(net, h, (1, 1, 5), net.filters)
    h = layers.Concatenate()([layers.GlobalAveragePooling3D()(h), layers.GlobalMaxPooling3D()(h)])
    if net.hidden:
        h = layers.Dense(net.hidden, activation="relu")(h)
    h = layers.Dropout(net.dropout)(h)
    model = keras.Model(inputs, _finish(net, h))
    _compile(model, recipe)
    return model


def _normalize(recipe: Recipe, number: int, tensor: Any) -> Any:
    layer = layers.Normalization(axis=1)
    layer.adapt(recipe.x[number][recipe.train])
    return layer(tensor)


def _convolve(net: Network, h: Any, size: tuple[int, int, int], filters: int) -> Any:
    penalty = keras.regularizers.L2(net.penalty) if net.penalty else None
    kernel = "zeros" if net.zero_kernels else "glorot_uniform"
    bias = keras.initializers.Constant(net.initial_bias)
    conv = layers.Conv3D(filters, size, kernel_initializer=kernel, bias_initializer=bias, kernel_regularizer=penalty)
    norm = layers.BatchNormalization(momentum=net.momentum)
    h = conv(h)
    if not net.norm:
        return layers.ReLU()(h)
    return norm(layers.ReLU()(h)) if net.norm_after_relu else layers.ReLU()(norm(h))


def _finish(net: Network, h: Any) -> Any:
    penalty = keras.regularizers.L2(net.penalty) if net.penalty else None
    h = layers.Dense(net.units, activation=None, kernel_regularizer=penalty)(h)
    for name in net.head.split():
        h = layers.Softmax()(h) if name == "softmax" else h
    return h


def _compile(model: keras.Model, recipe: Recipe) -> None:
    net = recipe.network
    losses = keras.losses
    kind = losses.CategoricalCrossentropy if recipe.one_hot else losses.SparseCategoricalCrossentropy
    loss = kind(from_logits=net.from_logits)
    optimizer = keras.optimizers.Adam(recipe.learning_rate)
    model.compile(optimizer=optimizer, loss=loss, metrics=[net.metric], jit_compile=False)


def encode(recipe: Recipe, labels: NDArray[np.int64]) -> NDArray[Any]:
    """Labels as `fit` gets them."""
    return np.eye(recipe.network.units, dtype=np.float32)[labels] if recipe.one_hot else labels


def train(recipe: Recipe) -> Trained:
    """Fit the network of a recipe, from a cleared session."""
    keras.backend.clear_session()
    started = time.monotonic()
    model = build_network(recipe)
    parts = [
        (tuple(c[rows] for c in recipe.x), encode(recipe, recipe.y[rows])) for rows in (recipe.train, recipe.validation)
    ]
    callbacks = [keras.callbacks.TerminateOnNaN()]
    if recipe.keep_best:
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=recipe.epochs, restore_best_weights=True))
    history = model.fit(
        list(parts[0][0]), parts[0][1], validation_data=(list(parts[1][0]), parts[1][1]), epochs=recipe.epochs,
        batch_size=recipe.batch_size, shuffle=recipe.shuffle, class_weight=recipe.class_weight, verbose=0,
        callbacks=callbacks,
    )  # fmt: skip
    answers = [predict(model, x) for x in (parts[1][0], recipe.test_x)]
    return Trained(
        model, {k: [float(v) for v in values] for k, values in history.history.items()}, time.monotonic() - started,
        float((answers[0] == recipe.y[recipe.validation]).mean()), float((answers[1] == recipe.test_y).mean()),
    )  # fmt: skip


def predict(model: keras.Model, x: tuple[NDArray[Any], ...]) -> NDArray[np.int64]:
    """Answers (rows,)."""
    outputs = [
        keras.ops.convert_to_numpy(model([c[i : i + 128] for c in x], training=False)) for i in range(0, len(x[0]), 128)
    ]
    answers: NDArray[np.int64] = np.concatenate(outputs).argmax(axis=1)
    return answers

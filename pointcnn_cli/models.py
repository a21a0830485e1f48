"""The networks: builders from a model config to a `keras.Model` of four inputs, and a dictionary that names them.

All take the channels as stored values, each (batch, depth, points, frames, 1), and give class probabilities (batch,
classes).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from pointcnn_cli import layers as own
from pointcnn_cli.config.schema import ModelConfig
from pointcnn_cli.errors import RunError

Shapes = Sequence[tuple[int, int, int]]  # (depth, points, frames) of each channel

KERAS_MOMENTUM = 0.99  # the default of Keras's batch normalisation
# With 0.99 the moving statistics lag: two thirds of their initial values are left after 40 steps, a tenth after 230.
QUICK_MOMENTUM = 0.9


@dataclass(frozen=True)
class DeclaredBlock:
    """What a builder means to be one block of its network: the tensor that goes in, and the one that comes out."""

    name: str
    inputs: tuple[Any, ...]
    output: Any


Blocks = list[DeclaredBlock]


def declare_block(blocks: Blocks, name: str, x: Any, output: Any) -> Any:
    """Note what was made of `x`, and give it back. `diagnose` looks at what blocks do, not at what they are called."""
    blocks.append(DeclaredBlock(name, (x,), output))
    return output


def choose_layers(fast: bool, momentum: float) -> SimpleNamespace:
    """Our fast layers, or the stock ones that they are twins of; batch normalisation with this momentum."""
    owner = own if fast else keras.layers
    return SimpleNamespace(
        Conv3D=owner.Conv3D,
        MaxPooling3D=owner.MaxPooling3D,
        AveragePooling3D=owner.AveragePooling3D,
        BatchNormalization=partial(owner.BatchNormalization, momentum=momentum),
    )


def build_model(settings: ModelConfig, shapes: Shapes, classes: int, precision: str = "float32") -> keras.Model:
    """The network that `settings.name` names, for channels of these shapes and this number of classes.

    `precision` is a Keras dtype policy. Initial weights come from Keras's global seed (`keras.utils.set_random_seed`).
    The input normalisation is still the identity: its statistics are weights that training sets from its rows.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return _build(settings, shapes, classes)
    finally:
        keras.config.set_dtype_policy(before)


def _build(settings: ModelConfig, shapes: Shapes, classes: int) -> keras.Model:
    inputs = [keras.Input((*shape, 1), name=f"channel_{i}") for i, shape in enumerate(shapes, 1)]
    channels = inputs
    if settings.normalize != "none":
        channels = own.InputNormalization(masked=settings.normalize == "masked", name="normalization")(inputs)
    blocks: Blocks = []
    features = BUILDERS[settings.name](settings, inputs, channels, blocks)
    # Softmax in float32 whatever the policy: probabilities are written with nine digits.
    outputs = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="probabilities")(features)
    model = keras.Model(inputs, outputs, name=settings.name)
    model.declared_blocks = tuple(blocks)  # in memory only: no file of a model has them
    return model


def _build_pointcnn(settings: ModelConfig, inputs: list[Any], channels: list[Any], blocks: Blocks) -> Any:
    """The network as intended: a residual block of two convolutions in each branch, and an activation after conv4.

    The third convolution has 32 filters, so the shortcut has 32 too and the addition is legal.
    """
    kit = choose_layers(settings.fast, QUICK_MOMENTUM)
    branches = []
    for i, channel in enumerate(channels, 1):
        x = declare_block(blocks, f"branch_{i}_conv1", channel, _conv1(kit, channel, f"branch_{i}"))
        y = _conv_norm(kit, x, 16, (2, 2, 1), f"branch_{i}_conv2")
        y = declare_block(blocks, f"branch_{i}_conv2", x, y)
        z = _conv_norm(kit, y, 32, (1, 1, 1), f"branch_{i}_conv3")
        y = declare_block(blocks, f"branch_{i}_conv3", y, z)
        shortcut = kit.Conv3D(32, 3, (2, 2, 1), padding="same", activation="relu", name=f"branch_{i}_shortcut")(x)
        branches.append(keras.layers.Add(name=f"branch_{i}_add")([y, shortcut]))
    return _merge(settings, kit, branches, "relu", blocks)


def _build_pointcnn_original(settings: ModelConfig, inputs: list[Any], channels: list[Any], blocks: Blocks) -> Any:
    """The network as it was first published, flaws kept: its conv3 block returns its input, and conv4 has no
    activation."""
    kit = choose_layers(settings.fast, KERAS_MOMENTUM)
    branches = []
    for i, channel in enumerate(channels, 1):
        x = declare_block(blocks, f"branch_{i}_conv1", channel, _conv1(kit, channel, f"branch_{i}"))
        y = _conv_norm(kit, x, 16, (2, 2, 1), f"branch_{i}_conv2")
        y = declare_block(blocks, f"branch_{i}_conv2", x, y)
        y = declare_block(blocks, f"branch_{i}_conv3", y, _conv3_as_published(y))
        shortcut = kit.Conv3D(16, 3, (2, 2, 1), padding="same", activation="relu", name=f"branch_{i}_shortcut")(x)
        branches.append(keras.layers.Add(name=f"branch_{i}_add")([y, shortcut]))
    return _merge(settings, kit, branches, None, blocks)


def _conv3_as_published(x: Any) -> Any:
    """The block as published defines its convolution in an inner function, never calls that, and returns its input."""
    return x


def _conv1(kit: SimpleNamespace, channel: Any, name: str) -> Any:
    """Conv3D 8, ReLU, max-pool, BatchNorm. ReLU commutes with the maximum, so it runs after the pool, on a quarter of
    the data."""
    x = kit.Conv3D(8, 3, padding="same", name=f"{name}_conv1")(channel)
    x = kit.MaxPooling3D(3, 2, padding="same", name=f"{name}_pool")(x)
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    return kit.BatchNormalization(name=f"{name}_norm1")(x)


def _conv_norm(kit: SimpleNamespace, x: Any, filters: int, strides: tuple[int, int, int], name: str) -> Any:
    x = kit.Conv3D(filters, 3, strides, padding="same", activation="relu", name=name)(x)
    return kit.BatchNormalization(name=f"{name}_norm")(x)


def _merge(
    settings: ModelConfig, kit: SimpleNamespace, branches: list[Any], activation: str | None, blocks: Blocks
) -> Any:
    """Concatenate the branches, conv4, average-pool, BatchNorm, Flatten, Dense 128, Dropout."""
    merged = keras.layers.Concatenate(name="merge")(branches)
    x = kit.Conv3D(64, 3, 2, padding="same", activation=activation, name="conv4")(merged)
    x = kit.AveragePooling3D(3, 2, padding="same", name="pool4")(x)
    x = declare_block(blocks, "conv4", merged, kit.BatchNormalization(name="norm4")(x))
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(128, activation="relu", name="dense")(x)
    return keras.layers.Dropout(settings.dropout, name="dropout")(x)


def _build_pointnet_tcn(settings: ModelConfig, inputs: list[Any], channels: list[Any], blocks: Blocks) -> Any:
    """PointNet per frame, then convolutions over time.

    The same small network is applied to every point, and a frame is described by the maximum and mean over its filled
    points (Qi et al., PointNet, CVPR 2017), so the order in which a radar lists its points does not matter. Residual
    dilated convolutions follow over time (Bai et al., arXiv:1803.01271, but not causal: the whole window is known).
    """
    kit = choose_layers(settings.fast, KERAS_MOMENTUM)
    filled = own.FilledSlots(name="filled")(inputs)
    points = keras.layers.Concatenate(axis=1, name="points")(channels)  # (batch, depths, points, frames, 1)
    points = ops.transpose(ops.squeeze(points, axis=-1), (0, 2, 3, 1))  # (batch, points, frames, depths)
    for i, width in enumerate((32, 64), 1):
        points = keras.layers.Dense(width, activation="relu", name=f"point_dense{i}")(points)
    x = own.MaskedPointPooling(name="point_pool")([points, filled])
    x = keras.layers.Dense(128, activation="relu", name="frame_dense")(x)
    for i, dilation in enumerate((1, 2, 4), 1):
        y = keras.layers.Conv1D(128, 5, padding="same", dilation_rate=dilation, use_bias=False, name=f"time{i}_conv")(x)
        y = kit.BatchNormalization(name=f"time{i}_norm")(y)
        y = keras.layers.ReLU(name=f"time{i}_relu")(y)
        x = declare_block(blocks, f"time{i}", x, keras.layers.Add(name=f"time{i}_add")([x, y]))
    x = keras.layers.Concatenate(name="time_pool")(
        [
            keras.layers.GlobalAveragePooling1D(name="time_mean")(x),
            keras.layers.GlobalMaxPooling1D(name="time_max")(x),
        ]
    )
    return keras.layers.Dropout(settings.dropout, name="dropout")(x)


BUILDERS: dict[str, Callable[[ModelConfig, list[Any], list[Any], Blocks], Any]] = {
    "pointcnn": _build_pointcnn,
    "pointcnn_original": _build_pointcnn_original,
    "pointnet_tcn": _build_pointnet_tcn,
}


def read_weights(model: keras.Model) -> dict[str, NDArray[Any]]:
    """Copies of all weights by their path in the model, input statistics and moving averages included."""
    return {weight.path: ops.convert_to_numpy(weight).copy() for weight in model.weights}


def assign_weights(model: keras.Model, weights: Mapping[str, NDArray[Any]], origin: str) -> None:
    """Give `model` these weights. Raises RunError, before anything is assigned, unless names, shapes and types match
    and all is finite."""
    wanted = {weight.path: weight for weight in model.weights}
    problems = [f"no weight {name!r}" for name in wanted if name not in weights]
    problems += [f"unknown weight {name!r}" for name in weights if name not in wanted]
    for name in wanted.keys() & weights.keys():
        array, weight = weights[name], wanted[name]
        if array.shape != tuple(weight.shape) or array.dtype.name != weight.dtype:
            problems.append(
                f"weight {name!r} is {array.dtype} {array.shape}, the model needs {weight.dtype} {tuple(weight.shape)}"
            )
        elif not np.isfinite(array).all():
            problems.append(f"weight {name!r} holds NaN or infinity")
    if problems:
        shown = "\n".join(problems[:10]) + (f"\nand {len(problems) - 10} more" if len(problems) > 10 else "")
        raise RunError(
            f"{origin}: does not fit the run's config:\n{shown}", "restore the run's files from a copy, or train again"
        )
    for name, weight in wanted.items():
        weight.assign(weights[name])

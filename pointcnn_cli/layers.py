"""Keras layers of our own: drop-in faster twins of stock layers, and the input layers that know about empty point
slots.

Each fast layer computes the function of its Keras parent with the parent's variables, so weights move freely between
them.
"""

import math
from typing import Any

import keras
from keras import ops

PACKAGE = "pointcnn"


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Output size, and padding before the first element, of 'same' padding (TensorFlow's rule)."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, total // 2


def _find_windows(depth: int, kernel: int, stride: int) -> tuple[list[int], list[list[int]]]:
    """The slices of a kernel that meet data, and for each output depth the input depths under them ('same' padding;
    those below 0 or from `depth` on are padding)."""
    out_depth, before = _same_padding(depth, kernel, stride)
    first = [o * stride - before for o in range(out_depth)]  # input depth under kernel slice 0
    used = [k for k in range(kernel) if any(0 <= f + k < depth for f in first)]
    return used, [[f + k for k in used] for f in first]


@keras.saving.register_keras_serializable(PACKAGE)
class Conv3D(keras.layers.Conv3D):
    """`keras.layers.Conv3D` computed as a 2-D convolution over depth windows that are folded into channels.

    With 'same' padding, output depth o reads input depths o*stride + k - pad for each kernel slice k. Those slices
    are laid side by side in the channels and the output depths side by side in the batch; slices that meet only
    padding are left out (at depth 1, two of three). Exact for every depth; worth it for the small ones of this
    project. Channels last, 'same', no dilation and no groups; anything else falls through to the parent. Variables are
    the parent's.
    """

    def call(self, inputs: Any) -> Any:
        depth, kernel_depth = inputs.shape[1], self.kernel_size[0]
        if not self._lowers(depth):
            return super().call(inputs)
        used, windows = _find_windows(depth, kernel_depth, self.strides[0])
        channels = inputs.shape[-1]
        folded = _fold(inputs, windows)  # (batch * windows, points, frames, used * channels)

        kernel = self.kernel[used[0] : used[-1] + 1]  # (used, kernel_points, kernel_frames, channels, filters)
        kernel = ops.reshape(ops.transpose(kernel, (1, 2, 0, 3, 4)), (*self.kernel_size[1:], len(used) * channels, -1))
        outputs = ops.conv(folded, kernel, strides=self.strides[1:], padding="same", data_format="channels_last")
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        if self.activation is not None:
            outputs = self.activation(outputs)  # before the reshape, so that TensorFlow makes one operation of all
        return ops.reshape(outputs, (-1, len(windows), *outputs.shape[1:]))

    def _lowers(self, depth: int | None) -> bool:
        return (
            depth is not None
            and self.padding == "same"
            and self.data_format == "channels_last"
            and self.groups == 1
            and self.dilation_rate == (1, 1, 1)
        )


def _fold(x: Any, windows: list[list[int]]) -> Any:
    """Each depth window of (batch, depth, points, frames, channels) as one plane of more channels: (batch * windows,
    points, frames, depths of a window * channels). A depth outside of `x` is a plane of zeros.

    Planes are laid side by side first and brought to the channels by one transposition: joining them at the last axis
    copies number by number, which took twice the time. `split` rather than slices, whose gradient is slow.
    """
    depth, points, frames, channels = x.shape[1:]
    used = len(windows[0])
    if windows != [list(range(depth))]:
        planes = ops.split(x, depth, axis=1) if depth > 1 else [x]  # depth x (batch, 1, points, frames, channels)
        wanted = [d for window in windows for d in window]
        blank = ops.zeros_like(planes[0]) if any(not 0 <= d < depth for d in wanted) else None
        x = ops.concatenate([planes[d] if 0 <= d < depth else blank for d in wanted], axis=1)
    if used > 1:
        x = ops.transpose(ops.reshape(x, (-1, used, points * frames, channels)), (0, 2, 1, 3))
    return ops.reshape(x, (-1, points, frames, used * channels))


@keras.saving.register_keras_serializable(PACKAGE)
class MaxPooling3D(keras.layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D` as a 2-D pool of each depth plane, then a 2-D pool over the depth ('same', channels
    last)."""

    def call(self, inputs: Any) -> Any:
        if self.padding != "same" or self.data_format != "channels_last" or None in inputs.shape[1:]:
            return super().call(inputs)
        pooled = _pool_planes(ops.max_pool, inputs, self.pool_size, self.strides)
        depth, points, frames, channels = pooled.shape[1:]
        if depth == 1:
            return pooled
        # Points and frames as one axis: where a plane lies in it does not matter to a maximum over depth.
        planes = ops.reshape(pooled, (-1, depth, points * frames, channels))
        size, stride = (self.pool_size[0], 1), (self.strides[0], 1)
        pooled = ops.max_pool(planes, size, strides=stride, padding="same", data_format="channels_last")
        return ops.reshape(pooled, (-1, pooled.shape[1], points, frames, channels))


@keras.saving.register_keras_serializable(PACKAGE)
class AveragePooling3D(keras.layers.AveragePooling3D):
    """`keras.layers.AveragePooling3D` as a 2-D pool where the depth is 1 (padding is not counted in either)."""

    def call(self, inputs: Any) -> Any:
        if self.padding != "same" or self.data_format != "channels_last" or inputs.shape[1] != 1:
            return super().call(inputs)
        return _pool_planes(ops.average_pool, inputs, self.pool_size, self.strides)


def _pool_planes(pool: Any, inputs: Any, size: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """Pool points and frames of every depth plane. Shape (batch, depth, points, frames, channels) in and out."""
    depth, points, frames, channels = inputs.shape[1:]
    planes = ops.reshape(inputs, (-1, points, frames, channels))
    pooled = pool(planes, size[1:], strides=strides[1:], padding="same", data_format="channels_last")
    return ops.reshape(pooled, (-1, depth, *pooled.shape[1:]))


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with TensorFlow's fused operation, where TensorFlow is the backend.

    The fused operation returns the unbiased variance of the batch (n - 1 in the denominator); Keras averages the
    biased one, so it is scaled back before it enters the moving average. Where statistics are to be taken from several
    devices (`synchronized`), the parent does it.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        last_axis = self.axis in (-1, len(inputs.shape) - 1)
        if (
            keras.backend.backend() != "tensorflow"
            or mask is not None
            or not last_axis
            or self.synchronized
            or not (self.center and self.scale)
        ):
            return super().call(inputs, training=training, mask=mask)
        return self._fused(inputs, bool(training) and self.trainable)

    def _fused(self, inputs: Any, training: bool) -> Any:
        import tensorflow as tf

        shape, channels = ops.shape(inputs), inputs.shape[-1]
        # Every position is a sample of its channel. Positions of a row stay together: with all of them in the first
        # axis, oneDNN took two fifths longer.
        positions = math.prod(inputs.shape[1:-1]) if None not in inputs.shape[1:-1] else 1
        planes = ops.reshape(inputs, (-1, 1, positions, channels))
        gamma, beta = ops.cast(self.gamma, "float32"), ops.cast(self.beta, "float32")
        if not training:
            outputs, *_ = tf.compat.v1.nn.fused_batch_norm(
                planes, gamma, beta, self.moving_mean, self.moving_variance, epsilon=self.epsilon, is_training=False
            )
            return ops.reshape(outputs, shape)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            planes, gamma, beta, epsilon=self.epsilon, is_training=True
        )
        self._move_averages(mean, variance, ops.cast(ops.size(planes) // channels, "float32"))
        return ops.reshape(outputs, shape)

    def _move_averages(self, mean: Any, variance: Any, n: Any) -> None:
        """Let the moving statistics follow those of a batch with `n` values a channel; `variance` is the unbiased
        one."""
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance * (n - 1.0) / n)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))


@keras.saving.register_keras_serializable(PACKAGE)
class FilledSlots(keras.layers.Layer):
    """Which point slots hold a point: those that are non-zero in any channel.

    Takes the channels, each (batch, depth, points, frames, 1); gives (batch, 1, points, frames, 1), 1.0 where filled.
    """

    def call(self, channels: list[Any]) -> Any:
        filled = [ops.any(ops.not_equal(c, 0.0), axis=1, keepdims=True) for c in channels]
        return ops.cast(_any_of(filled), self.compute_dtype)


def _any_of(masks: list[Any]) -> Any:
    result = masks[0]
    for mask in masks[1:]:
        result = ops.logical_or(result, mask)
    return result


@keras.saving.register_keras_serializable(PACKAGE)
class InputNormalization(keras.layers.Layer):
    """Subtracts a mean and divides by a standard deviation, one of each per channel and depth index; empty slots stay
    zero.

    The statistics are weights that are computed from the training rows (`batches.compute_statistics`) and stored with
    the model, so prediction cannot use others. Takes and gives the channels, each (batch, depth, points, frames, 1);
    with `masked=False` the empty slots are normalised like the others. Always float32.
    """

    def __init__(self, masked: bool = True, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.masked = masked

    def build(self, shapes: list[tuple[int | None, ...]]) -> None:
        self.depths = [int(shape[1] or 0) for shape in shapes]
        total = sum(self.depths)
        self.mean = self.add_weight(name="mean", shape=(total,), initializer="zeros", trainable=False)
        self.deviation = self.add_weight(name="deviation", shape=(total,), initializer="ones", trainable=False)

    def call(self, channels: list[Any]) -> list[Any]:
        filled = ops.cast(_any_of([ops.any(ops.not_equal(c, 0.0), axis=1, keepdims=True) for c in channels]), "float32")
        outputs, first = [], 0
        for channel, depth in zip(channels, self.depths, strict=True):
            mean = ops.reshape(self.mean[first : first + depth], (1, depth, 1, 1, 1))
            deviation = ops.reshape(self.deviation[first : first + depth], (1, depth, 1, 1, 1))
            normalized = (channel - mean) / deviation
            outputs.append(normalized * filled if self.masked else normalized)
            first += depth
        return outputs

    def compute_output_shape(self, shapes: list[tuple[int | None, ...]]) -> list[tuple[int | None, ...]]:
        return list(shapes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "masked": self.masked}


@keras.saving.register_keras_serializable(PACKAGE)
class MaskedPointPooling(keras.layers.Layer):
    """Maximum and mean over the filled points of each frame, and the share of slots that are filled.

    Takes features (batch, points, frames, features) and the mask of `FilledSlots`; gives (batch, frames, 2 * features
    + 1). A frame without points gives zeros. The order of the points has no influence.
    """

    def call(self, inputs: tuple[Any, Any]) -> Any:
        features, filled = inputs
        mask = ops.cast(ops.squeeze(filled, axis=1), features.dtype)  # (batch, points, frames, 1)
        count = ops.sum(mask, axis=1)  # (batch, frames, 1)
        mean = ops.sum(features * mask, axis=1) / ops.maximum(count, 1.0)
        # Features come from a ReLU, so an empty slot's zero never exceeds a filled one's value.
        maximum = ops.max(features * mask, axis=1)
        return ops.concatenate([maximum, mean, count / features.shape[1]], axis=-1)

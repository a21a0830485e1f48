"""From rows to batches: input statistics, rows kept on the device, batch order, and prediction batch by batch.

Which rows a batch holds and how they are augmented depend on (seed, epoch) alone, so a resumed run sees what an
uninterrupted one does.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from pointcnn_cli.augment import Augment
from pointcnn_cli.config.schema import AugmentConfig
from pointcnn_cli.hdf5.samples import Source

PREDICTION_BATCH = 128  # fixed, since the last bits of a probability may depend on the batch it was computed in
PREDICTION_ROWS = PREDICTION_BATCH * 8  # read at a time for prediction
BLOCK_ROWS = 1024  # rows read at a time where all rows need not be in memory


def iterate_blocks(rows: NDArray[np.int64], size: int = BLOCK_ROWS) -> Iterator[NDArray[np.int64]]:
    """Consecutive parts of `rows`, each of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def read_ahead(
    source: Source, rows: NDArray[np.int64], size: int
) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[Any], ...]]]:
    """Consecutive parts of `rows` with their channels. While the caller has one, a thread reads the next."""
    blocks = list(iterate_blocks(rows, size))
    with ThreadPoolExecutor(1, "rows") as reader:
        coming = [reader.submit(source.read, block) for block in blocks[:1]]
        for block, following in zip_longest(blocks, blocks[1:]):
            channels = coming.pop().result()
            if following is not None:
                coming.append(reader.submit(source.read, following))
            yield block, channels


def compute_statistics(source: Source, rows: NDArray[np.int64], masked: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of each coordinate (channel and depth index) over `rows`, in float64.

    With `masked`, over the point slots that are non-zero in any channel, else over all slots. A coordinate that does
    not vary gets deviation 1. Shapes (coordinates,). Two passes' accuracy in one pass: deviations are taken from the
    first block's mean.
    """
    count, center, total, squares = 0.0, np.zeros(0), np.zeros(0), np.zeros(0)
    for block in iterate_blocks(rows):
        x = np.concatenate([c[..., 0] for c in source.read(block)], axis=1)  # (rows, coordinates, points, frames)
        values = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
        if masked:
            values = values[(values != 0).any(axis=1)]
        if not len(values):
            continue
        values = values.astype(np.float64)
        if not count:
            center = values.mean(axis=0)
            total, squares = np.zeros_like(center), np.zeros_like(center)
        values -= center
        count += len(values)
        total += values.sum(axis=0)
        squares += np.einsum("ij,ij->j", values, values)
    if not count:
        coordinates = sum(shape[0] for shape in source.index.channel_shapes)
        return np.zeros(coordinates), np.ones(coordinates)
    offset = total / count
    deviation = np.sqrt(np.maximum(squares / count - offset**2, 0.0))
    # What rounding leaves of a constant, and what float32 cannot hold, is no deviation.
    smallest = np.maximum(1e-12 * np.abs(center), np.finfo(np.float32).tiny)
    return center + offset, np.where(deviation > smallest, deviation, 1.0)


class ResidentRows(keras.layers.Layer):
    """Holds rows on the device as stored and gathers those whose numbers come in: (batch,) -> channels, float32.

    Nothing but row numbers then crosses from host to device in training.
    """

    def __init__(
        self, channels: tuple[NDArray[Any], ...], replicate: Callable[[NDArray[Any]], Any] | None = None, **kwargs: Any
    ) -> None:
        """`replicate` puts an array on all devices, where there are several."""
        super().__init__(**{**kwargs, "dtype": "float32"})
        # Without autocast=False Keras would cast the whole of a float16 variable at each use.
        self.stored = [
            self.add_weight(
                name=f"channel_{i}",
                shape=c.shape,
                dtype=device_dtype(c.dtype),
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            for i, c in enumerate(channels, 1)
        ]
        for variable, channel in zip(self.stored, channels, strict=True):
            values = channel.astype(variable.dtype, copy=False)
            variable.assign(values if replicate is None else replicate(values))

    def call(self, rows: Any) -> list[Any]:
        return [ops.cast(ops.take(variable, rows, axis=0), "float32") for variable in self.stored]

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> list[tuple[int | None, ...]]:
        return [(shape[0], *variable.shape[1:]) for variable in self.stored]


def device_dtype(dtype: np.dtype[Any]) -> str:
    """float16 and small integers stay as stored; wider types become the float32 that the model sees anyway."""
    name = dtype.newbyteorder("=").name
    return name if name in ("float16", "int8", "uint8", "int16") else "float32"


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize  # NumPy has no bfloat16


def count_device_bytes(channels: tuple[NDArray[Any], ...]) -> list[int]:
    """Bytes of each of these channels in `ResidentRows`."""
    return [_itemsize(device_dtype(channel.dtype)) * channel.size for channel in channels]


def build_trainer(
    model: keras.Model,
    channels: tuple[NDArray[Any], ...],
    augment: AugmentConfig | None,
    replicate: Callable[[NDArray[Any]], Any] | None = None,
) -> keras.Model:
    """A model of row numbers that shares the weights of `model`: gathers training rows, augments them, applies it."""
    rows = keras.Input((), dtype="int32", name="row")
    x = ResidentRows(channels, replicate, name="rows")(rows)
    if augment is not None:
        x = Augment(augment, name="augment")(x)
    return keras.Model(rows, model(x), name="trainer")


def build_streamed_trainer(model: keras.Model, augment: AugmentConfig | None) -> keras.Model:
    """A model of the four channels, as stored, that shares the weights of `model`: casts them, augments them, applies
    it."""
    # Keras casts what comes in to the type of the input, in the graph.
    channels = [
        keras.Input(tensor.shape[1:], dtype="float32", name=f"stored_{i}") for i, tensor in enumerate(model.inputs, 1)
    ]
    x = channels if augment is None else Augment(augment, name="augment")(channels)
    return keras.Model(channels, model(x), name="trainer")


def count_output_bytes(network: keras.Model) -> int:
    """Bytes of the outputs of all layers of `network` for one row."""
    outputs = [tensor for layer in network.layers for tensor in keras.tree.flatten(layer.output)]
    return sum(math.prod(tensor.shape[1:]) * _itemsize(tensor.dtype) for tensor in outputs)


def permute_rows(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """The order of the training rows in this epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def reseed(model: keras.Model, seed: int, epoch: int) -> None:
    """Set every random generator of the model (dropout, augmentation) from (seed, epoch, its place in the model)."""
    for place, generator in enumerate(_seed_generators(model)):
        state = np.random.SeedSequence([seed, epoch, place]).generate_state(2)
        generator.state.assign(state.astype("uint32"))


def _seed_generators(model: keras.Model) -> list[Any]:
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    return [layer.seed_generator for layer in layers if getattr(layer, "seed_generator", None) is not None]


def predict_rows(model: keras.Model, source: Source, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Class probabilities (block, classes) of `rows`, block after block, in memory that does not grow with their
    number.

    Every batch has `PREDICTION_BATCH` rows: the last is filled up with zeros whose output is thrown away, so a graph
    of one shape serves all.
    """
    for _, channels in read_ahead(source, rows, PREDICTION_ROWS):
        yield predict_block(model, channels)


def predict_block(model: keras.Model, channels: tuple[NDArray[Any], ...]) -> NDArray[np.float32]:
    """Class probabilities (rows, classes) of the rows in these channels, in batches as `predict_rows` makes them."""
    outputs = []
    for start in range(0, len(channels[0]), PREDICTION_BATCH):
        # What the device can cast goes there as it is stored: half the bytes of a copy in float32, or none.
        batch = [c[start : start + PREDICTION_BATCH].astype(device_dtype(c.dtype), copy=False) for c in channels]
        size = len(batch[0])
        if size < PREDICTION_BATCH:
            batch = [np.concatenate([b, np.zeros((PREDICTION_BATCH - size, *b.shape[1:]), b.dtype)]) for b in batch]
        outputs.append(keras.ops.convert_to_numpy(model.predict_on_batch(batch))[:size])
    return np.concatenate(outputs)

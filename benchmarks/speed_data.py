"""HDF5 files for the speed benchmarks: rows as sparse as a radar's, in the documented layout."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.hdf5.samples import CHANNEL_NAMES

DEPTHS = (3, 1, 1, 1)
CLASSES = ("boxing", "jack", "jump", "squats", "walk", "wave")
FILLED = 24 / 64  # the share of point slots that hold a point in RadHAR's recordings
DISTINCT_ROWS = 512  # random numbers are slow; after so many rows they come again
TRAIN_SHARE = 0.8  # the rest, at the end, validates: what Keras's validation_split=0.2 and `split.strategy: tail` do
CHUNK_ROWS = 64  # as in the files that pointcnn itself writes


def make_channels(rows: int, points: int, frames: int, dtype: str) -> list[NDArray[np.floating]]:
    """Four channels of random rows, each (rows, depth, points, frames, 1). Slots are filled from the first on."""
    random = np.random.default_rng(0)
    counts = random.binomial(points, FILLED, size=(rows, 1, 1, frames, 1))
    filled = np.arange(points).reshape(1, 1, -1, 1, 1) < counts
    return [(random.normal(1, 1, (rows, depth, points, frames, 1)) * filled).astype(dtype) for depth in DEPTHS]


def make_file(path: Path, rows: int, points: int, frames: int, dtype: str = "float16", gzip: bool = False) -> Path:
    """Write a file of `rows` rows, block by block. Label i is i mod 6, so every part of the rows has all classes.

    Contiguous, or with `gzip` packed as `hdf5.writing.write_samples` packs.
    """
    pool = make_channels(min(rows, DISTINCT_ROWS), points, frames, dtype)
    packing = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if gzip else {}
    with h5py.File(path, "w") as file:
        for name, values in zip(CHANNEL_NAMES, pool, strict=True):
            chunks = (min(CHUNK_ROWS, rows), *values.shape[1:]) if gzip else None
            dataset = file.create_dataset(name, (rows, *values.shape[1:]), dtype, chunks=chunks, **packing)
            for first in range(0, rows, len(values)):
                dataset[first : first + len(values)] = values[: rows - first]
        labels = file.create_dataset("label", data=np.arange(rows) % len(CLASSES))
        labels.attrs.create("classes", list(CLASSES), dtype=h5py.string_dtype())
    return path


def read_arrays(path: str) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """What a script without pointcnn would hold in memory: the channels in float32, and one-hot labels."""
    with h5py.File(path) as file:
        channels = [np.asarray(file[name][...], np.float32) for name in CHANNEL_NAMES]
        labels = file["label"][...]
    return channels, np.eye(len(CLASSES), dtype=np.float32)[labels]


def count_row_bytes(points: int, frames: int, dtype: str) -> int:
    """Bytes of the channels of one row."""
    return sum(DEPTHS) * points * frames * np.dtype(dtype).itemsize

"""Tiny HDF5 files for the tests: a good one, to be spoiled."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.hdf5.samples import DataIndex

NAMES = ("channel_1", "channel_2", "channel_3", "channel_4")
POINTS, FRAMES = 5, 4


def make_channels(rows: int, dtype: str = "float16", seed: int = 0) -> list[np.ndarray]:
    """Four channels of distinct values, (rows, 3 or 1, points, frames, 1)."""
    generator = np.random.default_rng(seed)
    shapes = [(rows, depth, POINTS, FRAMES, 1) for depth in (3, 1, 1, 1)]
    return [generator.integers(1, 100, size=shape).astype(dtype) for shape in shapes]


def write_file(path: Path, rows: int = 12, labels: Any = None, classes: Any = None, **datasets: Any) -> Path:
    """A file in the documented layout; labels are 0, 1, 2, 0, ... unless given.

    `datasets` replace or add datasets by name, None leaves one out.
    """
    content = dict(zip(NAMES, make_channels(rows), strict=True))
    content["label"] = np.arange(rows) % 3 if labels is None else labels
    content |= datasets
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file.create_dataset(name, data=values)
        if classes is not None:
            file["label"].attrs["classes"] = classes
    return path


def config(*paths: Path, **settings: Any) -> DataConfig:
    """The `data` section for these files."""
    return DataConfig(path=tuple(str(path) for path in paths), **settings)


def refused(*paths: Path, **settings) -> str:
    """The message and hint with which opening fails; exit code 6."""
    with pytest.raises(DataError) as caught:
        open_hdf5(config(*paths, **settings))
    assert caught.value.exit_code == 6
    return f"{caught.value.message}\nhint: {caught.value.hint}"


def index_of(*paths: Path, required: bool = True, expected=None, **settings) -> DataIndex:
    with open_hdf5(config(*paths, **settings), labels_required=required, expected_classes=expected) as source:
        return source.index

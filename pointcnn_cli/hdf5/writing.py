"""Writing rows to HDF5 in the layout of `data/README.md`: whole or not at all, equal bytes for equal rows."""

import io
from pathlib import Path

import h5py
import numpy as np

from pointcnn_cli.files import check_target, write_whole
from pointcnn_cli.hdf5.columns import GROUP, RECORDING, START_FRAME
from pointcnn_cli.hdf5.labels import CLASSES_ATTRIBUTE, NAMES_ATTRIBUTE
from pointcnn_cli.hdf5.samples import CHANNEL_NAMES, Samples

LABEL = "label"
_CHUNK_ROWS = 64
_CHUNK_BYTES = 4 * 2**20  # fewer rows a chunk where rows are large: what touches a row must decompress its chunk
_ATTRIBUTE_BYTES = 60_000  # HDF5's limit on an attribute is 64 KiB; a variable-length string takes 16 bytes of it


def write_samples(
    path: Path, samples: Samples, names: tuple[str, str, str, str] = CHANNEL_NAMES, *, force: bool = False
) -> None:
    """Write `samples` to `path`; channel datasets are called `names`.

    The file appears whole, by one rename, with the permissions that any new file gets. Equal rows give equal bytes.
    Raises OutputError when `path` exists (without `force`), its folder is missing, or writing fails, leaving nothing.
    """
    _check_samples(samples, names)
    target = check_target(path, force)
    # HDF5 on a full disk cannot close its file and may crash the process, so it writes to memory and we write the file.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        _fill(file, samples, names)
    write_whole(target, image.getbuffer(), force=force)


def _check_samples(samples: Samples, names: tuple[str, ...]) -> None:
    """Raise ValueError (a bug of the caller) for rows that the reader would refuse."""
    columns = (samples.groups, samples.recordings, samples.start_frames)
    lengths = {len(c) for c in (*samples.channels, samples.labels, *columns) if c is not None}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"channels and columns must have one length above 0; got {sorted(lengths)}")
    if any(channel.ndim != 5 for channel in samples.channels):
        raise ValueError("channels must be (rows, depth, points, frames, 1)")
    if len(set(names) | {LABEL, GROUP, RECORDING, START_FRAME}) != len(names) + 4:
        raise ValueError(f"dataset names must differ: {names}")
    if samples.labels.min() < 0 or samples.labels.max() >= len(samples.classes):
        raise ValueError("labels must be 0 to the number of classes - 1")


def _fill(file: h5py.File, samples: Samples, names: tuple[str, str, str, str]) -> None:
    """Write all datasets; no time stamps, as these would make every file different."""
    for name, channel in zip(names, samples.channels, strict=True):
        row_bytes = max(1, channel[:1].nbytes)
        rows = max(1, min(_CHUNK_ROWS, len(channel), _CHUNK_BYTES // row_bytes))
        file.create_dataset(
            name,
            data=channel,
            chunks=(rows, *channel.shape[1:]),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            track_times=False,
        )
    labels = file.create_dataset(LABEL, data=samples.labels.astype(np.int64), track_times=False)
    labels.attrs.create(CLASSES_ATTRIBUTE, list(samples.classes), dtype=h5py.string_dtype())
    if samples.groups is not None:
        _fill_groups(file, samples)
    for name, column in ((RECORDING, samples.recordings), (START_FRAME, samples.start_frames)):
        if column is not None:
            file.create_dataset(name, data=column.astype(np.int64), track_times=False)


def _fill_groups(file: h5py.File, samples: Samples) -> None:
    """Groups as numbers with their names in an attribute, or as strings where an attribute cannot hold all names."""
    groups, names = samples.groups, samples.group_names
    if groups is None:
        return
    if names is not None and 16 * len(names) > _ATTRIBUTE_BYTES:
        encoded = np.array([name.encode() for name in names])  # (groups,) fixed-length strings
        values = encoded[groups].astype(h5py.string_dtype("utf-8", encoded.dtype.itemsize))
        file.create_dataset(GROUP, data=values, chunks=True, compression="gzip", track_times=False)
        return
    dataset = file.create_dataset(GROUP, data=groups.astype(np.int64), track_times=False)
    if names is not None:
        dataset.attrs.create(NAMES_ATTRIBUTE, list(names), dtype=h5py.string_dtype())

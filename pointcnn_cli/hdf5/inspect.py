"""What is in a file, for a person to look at: also in one that does not keep to the layout, or holds NaN."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.checks import FILTERS, describe_dtype
from pointcnn_cli.hdf5.columns import OpenFile, open_and_check
from pointcnn_cli.hdf5.labels import Coded
from pointcnn_cli.hdf5.probe import check_survives, limited_memory
from pointcnn_cli.hdf5.problems import damaged, raise_problems
from pointcnn_cli.hdf5.reading import read_rows, try_rows
from pointcnn_cli.hdf5.samples import count_non_finite
from pointcnn_cli.hdf5.tree import Found, list_objects

MOST_VALUES = 2**27  # looked at unless all are asked for: about a second, and 7,281 rows of 64 points and 48 frames
_BLOCK_BYTES = 16 * 2**20  # of float64 values looked at together


def inspect_file(path: Path, data: DataConfig, all_values: bool = False) -> dict[str, Any]:
    """Look through one file with the dataset names of `data`: JSON-ready, one pass over the channels, bounded memory.

    Keys: `file`, `size_bytes`, `datasets`, `problems` (why it cannot be trained on as it is), `notes`, `rows`,
    `classes` {name: rows}, `groups` and `recordings` {count, rows_min, rows_max}, `row_order`, `rows_looked_at`,
    `slots`, `channels`. The last two are of the values of `rows_looked_at` rows: without `all_values`, of a file with
    more than MOST_VALUES, those of blocks that are spread evenly over it. What is not there or cannot be read is None.
    Raises DataError only for what is not a readable HDF5 file.
    """
    check_survives([os.path.abspath(path)], lambda path: _try_file(path, data))
    with limited_memory([os.path.abspath(path)]):
        file = open_and_check(os.path.abspath(path), data, labels_required=True)
    try:
        handle = file.handle
        if handle is None:
            raise_problems(file.problems)
            raise DataError(f"{path}: not readable")
        complete = len(file.channels) == len(data.channels) and _same_grid(file)
        result: dict[str, Any] = {
            "file": file.path,
            "size_bytes": handle.id.get_filesize(),
            "datasets": _list_datasets(file.path, handle),
            "rows": file.rows if complete else None,
            "classes": _count(file.labels),
            "groups": _spread(file.groups),
            "recordings": _spread(file.recordings),
            "start_frames": file.start_frames is not None,
            "row_order": compute_row_order(file.labels.codes) if file.labels and len(file.labels.codes) else None,
            "rows_looked_at": None,
            "slots": None,
            "channels": None,
        }
        problems = [{"problem": str(p), "hint": p.hint} for p in file.problems]
        if complete:
            try:
                result |= _scan(file, data.channels, None if all_values else MOST_VALUES)
            except DataError as error:
                problems.append({"problem": error.message, "hint": error.hint})
        return result | {"problems": problems, "notes": file.notes}
    finally:
        file.close()


def _try_file(path: str, data: DataConfig) -> None:
    """What `inspect_file` is about to do with a file, for the child that does it first."""
    file = open_and_check(path, data, labels_required=True)
    if file.handle is not None:
        _list_datasets(path, file.handle)
        try_rows(file)
    file.close()


def _same_grid(file: OpenFile) -> bool:
    """Whether the channels can be looked at together."""
    return len({(c.shape[0], *c.shape[2:4]) for c in file.channels}) == 1


def _list_datasets(path: str, handle: h5py.File) -> list[dict[str, Any]]:
    """Every dataset and refused link of the file. Raises DataError where its structures are damaged."""
    try:
        return [_describe(found) for found in list_objects(handle)]
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise_problems([damaged(path, error)])
        raise


def _describe(found: Found) -> dict[str, Any]:
    """One line of the list of datasets; a dataset stored outside the file is named, but its shape is not asked for."""
    line: dict[str, Any] = {"name": found.name, "shape": None, "dtype": None, "compression": None, "note": found.note}
    if found.dataset is None:
        return line
    plist = found.dataset.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        return line | {"note": "its values lie in other files, not looked at"}
    ids = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    shape = found.dataset.shape
    return line | {
        "shape": None if shape is None else list(shape),
        "dtype": describe_dtype(found.dataset),
        "compression": ", ".join(FILTERS.get(i, f"filter {i}") for i in ids) or None,
        "stored_bytes": found.dataset.get_storage_size(),
    }


def _count(labels: Coded | None) -> dict[str, int] | None:
    """Rows of each class, in class order, classes without rows included."""
    if labels is None:
        return None
    counts = np.bincount(labels.codes, minlength=len(labels.names))
    return dict(zip(labels.names, counts.tolist(), strict=True))


def _spread(column: Coded | None) -> dict[str, int] | None:
    """How many groups have rows, and the rows of the smallest and the largest."""
    if column is None:
        return None
    counts = np.unique(column.codes, return_counts=True)[1]
    return {"count": len(counts), "rows_min": int(counts.min()), "rows_max": int(counts.max())}


def compute_row_order(labels: NDArray[np.int64]) -> dict[str, Any]:
    """How the rows lie: `labels` (rows,) are class codes.

    `sorted_by_label`: each class is one run (and there are several classes); `longest_run` and its share of the rows;
    `same_as_previous_share`: share of rows with the label of the row before; shuffled rows would have `shuffled_share`.
    """
    rows = len(labels)
    starts = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1))  # (runs,) first row of each run
    runs = np.diff(starts, append=rows)
    counts = np.unique(labels, return_counts=True)[1]
    shuffled = float((counts * (counts - 1)).sum() / (rows * (rows - 1))) if rows > 1 else 1.0
    return {
        "sorted_by_label": bool(len(runs) == len(counts) > 1),
        "longest_run": int(runs.max()),
        "longest_run_share": float(runs.max() / rows),
        "same_as_previous_share": float((rows - len(runs)) / (rows - 1)) if rows > 1 else 1.0,
        "shuffled_share": shuffled,
    }


class _Moments:
    """Range, mean and standard deviation of what streams by, for each depth of a channel."""

    def __init__(self, depth: int) -> None:
        self.count = np.zeros(depth, np.int64)
        self.mean = np.zeros(depth)
        self.squares = np.zeros(depth)  # sums of squared distances from the mean
        self.low = np.full(depth, np.inf)
        self.high = np.full(depth, -np.inf)

    def add(self, depth: int, values: NDArray[np.float64]) -> None:
        """Join `values` (count,) by the pairwise update of Chan, Golub and LeVeque (1983); large means do no harm."""
        if len(values) == 0:
            return
        mean, before = float(values.mean()), int(self.count[depth])
        total, shift = before + len(values), mean - self.mean[depth]
        self.squares[depth] += ((values - mean) ** 2).sum() + shift**2 * before * len(values) / total
        self.mean[depth] += shift * len(values) / total
        self.count[depth] = total
        self.low[depth] = min(self.low[depth], values.min())
        self.high[depth] = max(self.high[depth], values.max())

    def rows(self) -> list[dict[str, float | None]]:
        """One entry for each depth; None where no slot was filled."""
        return [
            {
                "min": float(self.low[d]),
                "max": float(self.high[d]),
                "mean": float(self.mean[d]),
                "std": float(np.sqrt(self.squares[d] / n)),
            }
            if n
            else {"min": None, "max": None, "mean": None, "std": None}
            for d, n in enumerate(self.count)
        ]


def _scan(file: OpenFile, names: tuple[str, ...], most_values: int | None) -> dict[str, Any]:
    """Pass over all rows, or those that hold about `most_values`: filled slots (non-zero in any channel), and each
    channel's values in them."""
    depths = [int(channel.shape[1]) for channel in file.channels]
    points, frames = (int(size) for size in file.channels[0].shape[2:4])
    moments = [_Moments(depth) for depth in depths]
    bad, bad_rows = [0] * len(depths), [0] * len(depths)
    filled_slots = empty_rows = rows = 0
    for first, last in _blocks(file, most_values):
        rows += last - first
        block = [_read_block(channel, first, last, file.path) for channel in file.channels]
        filled = np.zeros((last - first, points, frames), bool)
        for values in block:
            filled |= (values != 0).any(axis=1)  # NaN differs from 0 too
        filled_slots += int(filled.sum())
        empty_rows += int((~filled.any(axis=(1, 2))).sum())
        for c, values in enumerate(block):
            counts = count_non_finite(values)
            bad[c] += int(counts.sum())
            bad_rows[c] += int(np.count_nonzero(counts))
            for depth in range(depths[c]):
                chosen = values[:, depth][filled].astype(np.float64)
                moments[c].add(depth, chosen[np.isfinite(chosen)] if counts.any() else chosen)
    return {
        "rows_looked_at": rows,
        "slots": {
            "points": points,
            "frames": frames,
            "filled_share": filled_slots / (rows * points * frames),
            "mean_filled_per_frame": filled_slots / (rows * frames),
            "empty_rows": empty_rows,
        },
        "channels": [
            {
                "name": name,
                "dtype": str(channel.dtype.newbyteorder("=")),
                "non_finite_values": bad[c],
                "non_finite_rows": bad_rows[c],
                "filled": moments[c].rows(),
            }
            for c, (name, channel) in enumerate(zip(names, file.channels, strict=True))
        ],
    }


def _blocks(file: OpenFile, most_values: int | None) -> list[tuple[int, int]]:
    """Row ranges of bounded size; whole chunks where that fits, so that no chunk is decompressed twice.

    All rows, or every so many blocks, the first and the last among them, with about `most_values` values.
    """
    row_values = sum(int(np.prod(channel.shape[1:])) for channel in file.channels)
    chunk = max(channel.chunks[0] if channel.chunks else 1 for channel in file.channels)
    step = max(1, _BLOCK_BYTES // (8 * row_values))
    step = step // chunk * chunk or step
    blocks = [(first, min(first + step, file.rows)) for first in range(0, file.rows, step)]
    if most_values is None or file.rows * row_values <= most_values:
        return blocks
    count = min(len(blocks), max(2, most_values // (step * row_values)))
    return [blocks[i] for i in np.linspace(0, len(blocks) - 1, count).round().astype(int)]


def _read_block(channel: h5py.Dataset, first: int, last: int, path: str) -> NDArray[Any]:
    """Rows first..last-1 as stored, (rows, depth, points, frames)."""
    values = np.empty((last - first, *channel.shape[1:4], 1), channel.dtype.newbyteorder("="))
    read_rows(channel, np.arange(first, last), values, path)
    return values[..., 0]

"""From named arrays (channels, labels, groups) to rows: shapes, labels and groups are checked and put in one form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.checks import CHANNEL_DTYPES, check_channel_shape, check_channels_agree
from pointcnn_cli.hdf5.problems import Problem, raise_problems
from pointcnn_cli.hdf5.samples import Samples, count_non_finite

MAX_ARRAY_BYTES = 8 * 2**30
"""Largest array that is read into memory from a file that only declares its size."""
MAX_RATIO = 500
"""Largest ratio of declared to stored bytes above SMALL_BYTES; zero-padded points reach about 10, a zip bomb 1000."""
SMALL_BYTES = 64 * 2**20
"""Below this size the ratio does not matter."""
_EXACT = 2**53  # floats hold every whole number below it


AUTO = "auto"
"""As groups name: take `group` if it is there."""


@dataclass(frozen=True)
class Piece:
    """An array and what messages call it."""

    where: str
    values: NDArray[Any]


@dataclass(frozen=True)
class Pieces:
    """The arrays of one data set."""

    channels: tuple[Piece, ...]
    labels: Piece
    groups: Piece | None


@dataclass(frozen=True)
class ArrayNames:
    """What the arrays are called in a file of named arrays."""

    channels: tuple[str, ...]
    labels: str
    groups: str | None

    def build_pieces(self, where: str, read: Callable[[str], NDArray[Any]]) -> Pieces:
        """The pieces, each read by its name."""
        labels, *channels = (Piece(f"{where}, array {name!r}", read(name)) for name in (self.labels, *self.channels))
        groups = None if self.groups is None else Piece(f"{where}, array {self.groups!r}", read(self.groups))
        return Pieces(tuple(channels), labels, groups)


def choose_names(where: str, present: Sequence[str], names: ArrayNames) -> ArrayNames:
    """`names` with groups `auto` decided. Raises DataError naming every array that is missing, and what is there."""
    groups = names.groups
    if groups == AUTO:
        groups = "group" if "group" in present else None
    missing = [name for name in (*names.channels, names.labels, groups) if name is not None and name not in present]
    if missing:
        raise DataError(
            f"{where}: no array {', '.join(map(repr, missing))} (found: {', '.join(sorted(present)[:20]) or 'none'})",
            "name the four channels, the labels and the groups as they are called in the file",
        )
    return ArrayNames(names.channels, names.labels, groups)


def check_declared_size(where: str, declared: int, stored: int) -> None:
    """Raise DataError when `declared` bytes are too many to read, in all or for the `stored` bytes they come from."""
    if declared > MAX_ARRAY_BYTES:
        raise DataError(
            f"{where}: declares {declared:,} bytes; arrays of at most {MAX_ARRAY_BYTES:,} bytes are read",
            "save the rows in several files, and name all of them in data.path",
        )
    if declared > SMALL_BYTES and declared > MAX_RATIO * max(1, stored):
        raise DataError(
            f"{where}: declares {declared:,} bytes but stores {stored:,}, more than {MAX_RATIO} times less",
            "it looks made to exhaust memory; if it is yours, save it without compression",
        )


def build_samples(pieces: Pieces) -> tuple[Samples, list[str]]:
    """Rows of four channels (N, D, P, T[, 1]), labels (N,), (N, 1), (1, N) or one-hot (N, K), and groups (N,).

    Labels and groups are whole numbers or text; classes and group names are their sorted distinct values, or the column
    numbers of one-hot labels. The order of rows and the dtype of channels stay. Raises DataError that names the arrays:
    wrong shape or dtype, unequal rows or sizes, NaN, labels that are no classes. Notes where groups are missing.
    """
    channels = _check_channels(pieces.channels)
    rows = len(channels[0])
    labels, classes = _encode_labels(pieces.labels, rows)
    groups, group_names = (None, None) if pieces.groups is None else _encode_values(pieces.groups, rows)
    for piece, values in zip(pieces.channels, channels, strict=True):
        _check_finite(piece.where, values)
    first, second, third, fourth = channels
    notes = [] if pieces.groups is not None else ["no groups: rows of one person may fall on both sides of a split"]
    return Samples((first, second, third, fourth), labels, classes, groups, group_names), notes


def _check_channels(pieces: Sequence[Piece]) -> list[NDArray[Any]]:
    """The channels, each (rows, depth, points, frames, 1). Raises DataError for all wrong dtypes and shapes at once."""
    shapes = {piece.where: piece.values.shape for piece in pieces}
    problems = [
        Problem(piece.where, f"elements are {piece.values.dtype}, which is not read", "save it as float32")
        for piece in pieces
        if piece.values.dtype.newbyteorder("=").name not in CHANNEL_DTYPES
    ]
    problems += [problem for where, shape in shapes.items() for problem in check_channel_shape(shape, where)]
    raise_problems(problems)
    raise_problems(check_channels_agree(shapes, "arrays"))
    return [_as_native(piece.values.reshape((*piece.values.shape[:4], 1))) for piece in pieces]


def _as_native(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in the byte order of this machine."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _check_finite(where: str, values: NDArray[Any]) -> None:
    counts = count_non_finite(values)  # (rows,)
    if counts.any():
        raise DataError(
            f"{where}: {counts.sum()} values in {np.count_nonzero(counts)} rows are NaN, infinite or beyond float32; "
            f"the first such row is {int(np.argmax(counts > 0))}",
            "remove these rows, or set the values to 0 (an empty point slot is 0 in all four channels)",
        )


def _encode_labels(piece: Piece, rows: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class number of each row, and the class names."""
    values = piece.values
    one_hot = values.ndim == 2 and len(values) == rows and values.size != rows and values.dtype.kind in "fiub"
    if not one_hot:
        codes, names = _encode_values(piece, rows)
        if names[0].startswith("-") and values.dtype.kind in "fi":  # the reader of HDF5 labels refuses them too
            raise DataError(
                f"{piece.where}: label {names[0]} is negative", "-1 often marks unlabelled rows: leave these out"
            )
        return codes, names
    if not (np.isin(values, (0, 1)).all() and (np.sum(values, axis=1) == 1).all()):
        raise DataError(
            f"{piece.where}: shape {values.shape}, but not one-hot (a single 1 in each row, else 0)",
            "save one class number or class name for each row",
        )
    return np.argmax(values, axis=1).astype(np.int64), tuple(str(i) for i in range(values.shape[1]))


def _encode_values(piece: Piece, rows: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number of each value among the sorted distinct values, and these as text. Accepts (N,), (N, 1) and (1, N)."""
    values = piece.values
    if values.size != rows or values.ndim not in (1, 2):
        raise DataError(
            f"{piece.where}: shape {values.shape}; expected ({rows},), since the channels have {rows} rows",
            "save channels, labels and groups of the same rows, in the same order",
        )
    values = values.reshape(-1)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "f":
        values = _as_integers(piece.where, values)
    if values.dtype.kind not in "iubU":
        raise DataError(f"{piece.where}: elements are {values.dtype}; expected whole numbers or text")
    distinct, codes = np.unique(values, return_inverse=True)
    names = tuple(str(value) for value in distinct.tolist())
    if "" in names:
        raise DataError(f"{piece.where}: row {int(np.argmax(values == ''))} is empty text; expected a name")
    return codes.astype(np.int64), names


def _as_integers(where: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Floats that are whole numbers, as MATLAB saves them. Raises DataError for others."""
    whole = (np.abs(values) < _EXACT) & (values == np.floor(values))
    if not whole.all():
        row = int(np.argmin(whole))
        raise DataError(f"{where}: row {row} is {values[row]}; expected whole numbers or text")
    return values.astype(np.int64)

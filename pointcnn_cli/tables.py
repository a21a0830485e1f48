"""Tables of predictions: CSV, JSON lines, HDF5 and Parquet, written block by block and whole or not at all."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import MissingDependencyError, RunError, UsageError
from pointcnn_cli.files import check_target, read_regular, replacing

STANDARD_OUTPUT = "-"
MOST_BYTES = 1 << 30  # of a table that is read back


@dataclass(frozen=True)
class Predictions:
    """The probabilities of a block of rows."""

    numbers: NDArray[np.int64]
    """(rows,) numbers of the rows, over all files"""
    files: list[str]
    """The file of each row."""
    probabilities: NDArray[np.float32]
    """(rows, classes)"""
    labels: list[str] | None = None
    """The true class of each row, where known and asked for."""
    groups: list[str] | None = None
    """The group of each row, where known and asked for."""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """(rows,) further columns by name, which follow all others; numbers."""


Writer = Callable[[BinaryIO, tuple[str, ...], Iterable[Predictions]], int]


def write_predictions(
    target: Path, classes: tuple[str, ...], blocks: Iterable[Predictions], *, force: bool = False
) -> int:
    """Write all blocks to `target`, in the format of its suffix, and return how many rows there were.

    Raises UsageError for an unknown suffix, MissingDependencyError for Parquet without pyarrow, OutputError when
    `target` exists (without `force`) or cannot be written; then nothing is left.
    """
    writer = choose_writer(target)
    with replacing(check_target(target, force), force=force) as stream:
        return writer(stream, classes, blocks)


def choose_writer(target: Path) -> Writer:
    """The writer for the suffix of `target`. Raises UsageError and MissingDependencyError."""
    if target.suffix not in WRITERS:
        raise UsageError(
            f"{target}: the suffix chooses the format, and {target.suffix or 'none'!r} is none of {', '.join(WRITERS)}",
            "name the output, for example, predictions.csv",
        )
    if target.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingDependencyError("writing Parquet needs the package pyarrow", "pip install pyarrow") from None
    return WRITERS[target.suffix]


def write_csv(stream: BinaryIO, classes: tuple[str, ...], blocks: Iterable[Predictions]) -> int:
    """Write CSV with a header line to a binary stream; numbers have nine significant digits, which a float32
    survives."""
    count, header = 0, False
    for block in _at_least_one(classes, blocks):
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if not header:
            rows.writerow(_name_columns(classes, block))
            header = True
        rows.writerows(_format_rows(classes, block))
        stream.write(_encode(text.getvalue()))
        count += len(block.numbers)
    return count


def _write_jsonl(stream: BinaryIO, classes: tuple[str, ...], blocks: Iterable[Predictions]) -> int:
    count = 0
    for block in blocks:
        names = _name_columns(classes, block)
        for row in _list_rows(classes, block):
            stream.write(_encode(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n"))
        count += len(block.numbers)
    return count


def _write_hdf5(stream: BinaryIO, classes: tuple[str, ...], blocks: Iterable[Predictions]) -> int:
    # Probabilities of all rows stay in memory until the end: a thousandth of what the rows themselves would take.
    kept = list(_at_least_one(classes, blocks))
    probabilities = np.concatenate([block.probabilities for block in kept])
    # HDF5 may crash the process on a full disk, so it writes to memory and the stream gets the bytes.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        predicted = file.create_dataset("predicted", data=probabilities.argmax(axis=1), track_times=False)
        file.create_dataset("probabilities", data=probabilities, track_times=False)
        for name in kept[0].columns:
            column = np.concatenate([block.columns[name] for block in kept])
            file.create_dataset(name, data=column, track_times=False)
        for owner in (file, predicted):
            owner.attrs.create("classes", list(classes), dtype=h5py.string_dtype())
    stream.write(image.getbuffer())
    return len(probabilities)


def _write_parquet(stream: BinaryIO, classes: tuple[str, ...], blocks: Iterable[Predictions]) -> int:
    import pyarrow.parquet as pq

    tables = (_build_arrow_table(classes, block) for block in _at_least_one(classes, blocks))
    first, count = next(tables), 0
    with pq.ParquetWriter(stream, first.schema) as writer:
        for table in chain((first,), tables):
            writer.write_table(table)
            count += table.num_rows
    return count


def _build_arrow_table(classes: tuple[str, ...], block: Predictions) -> Any:
    import pyarrow as pa

    p = block.probabilities
    files, predicted = [_encode(name).decode() for name in block.files], [classes[i] for i in p.argmax(axis=1)]
    numbers = [pa.array(column, pa.float32()) for column in (p.max(axis=1), *np.ascontiguousarray(p.T))]
    texts = [pa.array(column, pa.string()) for column in (block.labels, block.groups) if column is not None]
    columns = [pa.array(block.numbers), pa.array(files, pa.string()), pa.array(predicted, pa.string())]
    further = [pa.array(column) for column in block.columns.values()]
    return pa.table(columns + numbers + texts + further, _name_columns(classes, block))


WRITERS: dict[str, Writer] = {
    ".csv": write_csv,
    ".jsonl": _write_jsonl,
    ".h5": _write_hdf5,
    ".parquet": _write_parquet,
}


def _at_least_one(classes: tuple[str, ...], blocks: Iterable[Predictions]) -> Iterator[Predictions]:
    """The blocks; one without rows where there are none, so that columns have their names all the same."""
    empty = True
    for block in blocks:
        empty = False
        yield block
    if empty:
        yield Predictions(np.zeros(0, np.int64), [], np.zeros((0, len(classes)), np.float32))


def _encode(text: str) -> bytes:
    r"""UTF-8; what a file name may hold that is not text becomes \udcxx, which JSON reads back."""
    return text.encode(errors="backslashreplace")


def _name_columns(classes: tuple[str, ...], block: Predictions) -> list[str]:
    names = ["index", "file", "predicted", "confidence", *(f"p_{name}" for name in classes)]
    names += ["label"] * (block.labels is not None) + ["group"] * (block.groups is not None)
    return names + list(block.columns)


def _list_rows(classes: tuple[str, ...], block: Predictions) -> Iterator[list[Any]]:
    """One list of values a row; probabilities rounded to nine significant digits, which give the same float32."""
    predicted = block.probabilities.argmax(axis=1)
    further = [_round(column) for column in block.columns.values()]
    for i, p in enumerate(block.probabilities):
        values = [float(f"{value:.9g}") for value in p]
        row = [int(block.numbers[i]), block.files[i], classes[predicted[i]], max(values), *values]
        row += [column[i] for column in (block.labels, block.groups) if column is not None]
        yield row + [column[i] for column in further]


def _round(column: NDArray[Any]) -> list[Any]:
    """Python's numbers; of floating-point ones nine significant digits."""
    values: list[Any] = column.tolist()
    return [float(f"{value:.9g}") for value in values] if column.dtype.kind == "f" else values


def _format_rows(classes: tuple[str, ...], block: Predictions) -> Iterator[list[Any]]:
    for row in _list_rows(classes, block):
        yield [f"{value:.9g}" if isinstance(value, float) else value for value in row]


def read_predictions(path: Path, classes: tuple[str, ...]) -> Predictions:
    """What `write_predictions` wrote as CSV, with the same probabilities.

    Raises RunError for a file that is missing, damaged, or of other classes.
    """
    try:
        text = read_regular(path, MOST_BYTES).decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        wanted = ["index", "file", "predicted", "confidence", *(f"p_{name}" for name in classes)]
        if header[: len(wanted)] != wanted or any(len(row) != len(header) for row in rows):
            raise ValueError("its columns are not those of the run's classes, or a line is cut off")
        values = [[float(value) for value in row[4 : len(wanted)]] for row in rows]
        numbers = np.array([int(row[0]) for row in rows], dtype=np.int64)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file", "the training did not end; continue it with --resume") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})", "check the disk") from error
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path}: damaged ({error})", "restore it from a copy, or train again") from error
    labels, groups = (
        [row[header.index(name)] for row in rows] if name in header[len(wanted) :] else None
        for name in ("label", "group")
    )
    probabilities = np.array(values, dtype=np.float32).reshape(len(rows), len(classes))
    return Predictions(numbers, [row[1] for row in rows], probabilities, labels, groups)

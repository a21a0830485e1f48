"""`split.json`: a split as a document, and its strict reader."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pointcnn_cli.errors import DataError, RunError
from pointcnn_cli.files import read_regular
from pointcnn_cli.hdf5.samples import DataIndex
from pointcnn_cli.splits.parts import PartDescription, Rows, Split, describe_split

SCHEMA_VERSION = 1
MOST_BYTES, MOST_BYTES_A_ROW = 32 << 20, 32  # counts of a thousand classes take 15 MB, a row number ten bytes
MOST_BYTES_OF_ANY = 1 << 28  # where the rows are not known: enough for 20 million
_FORM = 'it looks like {"schema_version": 1, "train": [0, 1, ...], "validation": [...], "test": null}'


def split_document(index: DataIndex, split: Split) -> dict[str, Any]:
    """The content of `split.json`, JSON-ready: row numbers over all files, and counts of each part."""
    parts = {part.name: asdict(part) for part in describe_split(index, split)}
    return {
        "schema_version": SCHEMA_VERSION,
        "train": split.train.tolist(),
        "validation": split.validation.tolist(),
        "test": None if split.test is None else split.test.tolist(),
        "counts": {"rows": index.rows, "test": None, **parts},
    }


def read_split_file(path: Path, rows: int) -> Split:
    """The split in a `split.json`, for data of `rows` rows.

    Raises DataError naming the file, and the part and place in it, for anything but disjoint lists of existing row
    numbers. Rows may be left out of all parts.
    """
    document = _read_document(path, MOST_BYTES + rows * MOST_BYTES_A_ROW)
    _check_row_count(path, document, rows)
    train, validation = (_read_rows(path, document, name, rows) for name in ("train", "validation"))
    test = None if document.get("test") is None else _read_rows(path, document, "test", rows)
    named = [("train", train), ("validation", validation)] + ([("test", test)] if test is not None else [])
    for position, (name, part) in enumerate(named):
        for other, other_part in named[position + 1 :]:
            shared = np.intersect1d(part, other_part)
            if shared.size:
                raise DataError(
                    f"{path}: {shared.size} rows are both in {name!r} and in {other!r}; the first is row {shared[0]}",
                    "put each row into one part at most",
                )
    return Split(train, validation, test, strategy="file")


def read_run_split(path: Path, rows: int) -> Split:
    """The split that a run stored. Raises RunError where it is damaged or not for data of `rows` rows."""
    try:
        return read_split_file(path, rows)
    except DataError as error:
        raise RunError(error.message, "a run's split.json is not for editing; restore it, or train again") from error


def read_trained_classes(path: Path, classes: Sequence[str]) -> Rows:
    """Numbers of the classes that had training rows, as the counts of a run's `split.json` say."""
    (train, *_) = read_parts(path)
    if missing := [name for name in classes if name not in train.classes]:
        raise RunError(f"{path}: its counts of training rows lack class {missing[0]!r}", "train again")
    return np.flatnonzero([train.classes[name] > 0 for name in classes])


def read_parts(path: Path) -> tuple[PartDescription, ...]:
    """What each part of a run's split holds, as the counts of its `split.json` say; no data are needed.

    Raises RunError where they are missing or damaged.
    """
    try:
        counts = _read_document(path, MOST_BYTES_OF_ANY)["counts"]
        parts = tuple(PartDescription(**counts[name]) for name in ("train", "validation", "test") if counts.get(name))
        if [part.name for part in parts[:2]] != ["train", "validation"]:
            raise ValueError(f"parts {[part.name for part in parts]}")
        return parts
    except DataError as error:
        raise RunError(error.message, "a run's split.json is not for editing; restore it, or train again") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{path}: its counts of training rows are missing or damaged", "train again") from error


def _read_document(path: Path, most: int) -> dict[str, Any]:
    """The object in a file of at most `most` bytes."""
    try:
        document = json.loads(read_regular(path, most).decode())
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file", "check split.file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}", "check split.file") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of thousands of digits
        raise DataError(f"{path}: is not a split.json: {error}", _FORM) from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds a {type(document).__name__} where a JSON object is expected", _FORM)
    version = document.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise DataError(f"{path}: 'schema_version' is {version!r}; this version reads {SCHEMA_VERSION}", _FORM)
    return document


def _check_row_count(path: Path, document: dict[str, Any], rows: int) -> None:
    """A file that we wrote says for how many rows; one made by hand need not."""
    counts = document.get("counts")
    made_for = counts.get("rows") if isinstance(counts, dict) else None
    if made_for is not None and made_for != rows:
        raise DataError(
            f"{path}: was made for data of {made_for} rows, and these have {rows}",
            "use it with the data that it was made for, or make a new split",
        )


def _read_rows(path: Path, document: dict[str, Any], name: str, rows: int) -> Rows:
    values = document.get(name)
    if not isinstance(values, list) or not values:
        found = "is missing" if name not in document else "is empty" if values == [] else "is not a list"
        raise DataError(f"{path}: {name!r} {found}; a list of row numbers is expected", _FORM)
    for place, value in enumerate(values):
        if type(value) is not int or not 0 <= value < rows:
            shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:40] + "..."
            raise DataError(
                f"{path}: {name!r}[{place}] is {shown}, which is not a row of the data (0 to {rows - 1})",
                "row numbers are whole, count from 0, and run over all files of data.path in their order",
            )
    numbers, counts = np.unique(np.array(values, dtype=np.int64), return_counts=True)
    if counts.max() > 1:
        row = int(numbers[counts > 1][0])
        raise DataError(f"{path}: {name!r} holds row {row} {counts.max()} times", "name each row once")
    return numbers

"""Labels, groups and recordings of one file, as codes and names. Nothing is cast in a way that loses something."""

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.hdf5.checks import LABEL_DTYPES, MAX_WHOLE_BYTES, check_storage, describe_dtype
from pointcnn_cli.hdf5.chunks import check_unpacked
from pointcnn_cli.hdf5.problems import Problem

CLASSES_ATTRIBUTE = "classes"
NAMES_ATTRIBUTE = "names"
GROUP_DTYPES = tuple(name for name in LABEL_DTYPES if name != "bool")
START_FRAME_DTYPES = tuple(name for name in GROUP_DTYPES if name != "string")
MAX_CLASSES = 1000
"""More distinct labels than this are measurements or numbers of rows, not classes."""
MAX_GROUPS = 1_000_000
MAX_NAME_LENGTH = 200
_STRING_BLOCK_BYTES = 2**28  # rows may share one long string in the file; each row read becomes a copy of it


@dataclass(frozen=True)
class Coded:
    """A column of names: row r has the name `names[codes[r]]`."""

    codes: NDArray[np.int64]  # (rows,)
    names: tuple[str, ...]
    declared: bool
    """Whether the file states the names (attribute, one-hot columns); else they are the sorted values that occur."""
    numeric: bool
    """Whether the names are numbers written out."""
    notes: tuple[str, ...] = ()

    def used_names(self) -> list[str]:
        """The names that have rows, in the order of `names`."""
        return [self.names[code] for code in np.unique(self.codes)]


class _Unusable(Exception):
    """Carries one problem from deep inside to the public functions, which return it."""

    def __init__(self, where: str, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.problem = Problem(where, what, hint)


def read_labels(dataset: h5py.h5d.DatasetID, where: str, rows: int | None, file_bytes: int) -> Coded | list[Problem]:
    """Labels as class codes: integers, strings, or one-hot (rows, K). `rows` is what the channels have, if known.

    Class order: attribute `classes` (label i is classes[i]), else one-hot columns, else sorted distinct values.
    """
    problems = _check_column(dataset, where, rows, LABEL_DTYPES, file_bytes)
    if problems:
        return problems
    try:
        names = _read_names(dataset, where, CLASSES_ATTRIBUTE, MAX_CLASSES)
        if len(dataset.shape) == 2 and dataset.shape[1] > 1:
            return _decode_one_hot(_read(dataset, where), where, names)
        coded = _read_coded(dataset, where, names, CLASSES_ATTRIBUTE, file_bytes)
    except _Unusable as error:
        return [error.problem]
    if len(coded.names) > MAX_CLASSES:
        hint = "labels are class numbers or class names; is data.labels the right dataset?"
        return [Problem(where, f"{len(coded.names)} different labels; at most {MAX_CLASSES} classes are taken", hint)]
    return coded


def read_groups(dataset: h5py.h5d.DatasetID, where: str, rows: int | None, file_bytes: int) -> Coded | list[Problem]:
    """Groups or recordings as codes: integers (attribute `names`: value i is names[i]) or strings."""
    problems = _check_column(dataset, where, rows, GROUP_DTYPES, file_bytes)
    if problems:
        return problems
    try:
        names = _read_names(dataset, where, NAMES_ATTRIBUTE, MAX_GROUPS)
        return _read_coded(dataset, where, names, NAMES_ATTRIBUTE, file_bytes)
    except _Unusable as error:
        return [error.problem]


def read_start_frames(
    dataset: h5py.h5d.DatasetID, where: str, rows: int | None, file_bytes: int
) -> NDArray[np.int64] | list[Problem]:
    """First frames of the windows (rows,), whole numbers."""
    problems = _check_column(dataset, where, rows, START_FRAME_DTYPES, file_bytes)
    if problems:
        return problems
    try:
        return _whole_numbers(_read(dataset, where).reshape(-1), where)[0]
    except _Unusable as error:
        return [error.problem]


def _check_column(
    dataset: h5py.h5d.DatasetID, where: str, rows: int | None, dtypes: tuple[str, ...], file_bytes: int
) -> list[Problem]:
    """Storage and element type, shape (rows,), (rows, 1) or, for labels, (rows, K), row count, size, chunks."""
    problems = check_storage(dataset, where, dtypes, file_bytes)
    if problems:
        return problems
    shape = dataset.shape
    one_hot = dtypes is LABEL_DTYPES and describe_dtype(dataset) != "string" and len(shape) == 2 and shape[1] > 1
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1) or one_hot):
        wanted = "(rows,), or one-hot (rows, classes)" if dtypes is LABEL_DTYPES else "(rows,)"
        return [Problem(where, f"expected shape {wanted}, found {shape}")]
    if one_hot and shape[1] > MAX_CLASSES:
        return [Problem(where, f"{shape[1]} one-hot columns; at most {MAX_CLASSES} classes are taken")]
    if rows is not None and shape[0] != rows:
        hint = "every dataset has one entry for each row of the channels"
        return [Problem(where, f"{shape[0]} rows, but the channels have {rows}", hint)]
    needed = dataset.dtype.itemsize * int(np.prod(shape, dtype=object))
    if needed > MAX_WHOLE_BYTES:
        return [Problem(where, f"{needed:,} bytes; at most {MAX_WHOLE_BYTES:,} are read")]
    return check_unpacked(dataset, 0, shape[0], where)


def _read(dataset: h5py.h5d.DatasetID, where: str) -> NDArray[Any]:
    """The whole dataset in native byte order; its size has been checked."""
    try:
        values: NDArray[Any] = h5py.Dataset(dataset)[()]
    except (OSError, RuntimeError, ValueError) as error:
        raise _Unusable(where, f"damaged, its values cannot be read: {error}", "write the file again") from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _read_names(dataset: h5py.h5d.DatasetID, where: str, key: str, most: int) -> tuple[str, ...] | None:
    """The names in attribute `key`, or None when there is no such attribute."""
    if not h5py.h5a.exists(dataset, key.encode()):
        return None
    attribute = h5py.h5a.open(dataset, key.encode())
    shape, hint = attribute.shape, f"with h5py: dataset.attrs[{key!r}] = ['name 0', 'name 1', ...]"
    if shape is None or len(shape) != 1 or not 1 <= shape[0] <= most:
        raise _Unusable(where, f"attribute {key!r} must be a list of names, 1 to {most}; its shape is {shape}", hint)
    kind = attribute.dtype.kind
    if kind not in "Siu" and h5py.check_string_dtype(attribute.dtype) is None:
        raise _Unusable(where, f"attribute {key!r} must hold strings; it holds {attribute.dtype}", hint)
    values = h5py.Dataset(dataset).attrs[key]
    names = tuple(_decode(v, where) if isinstance(v, bytes) else str(v) for v in values.tolist())
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) <= MAX_CLASSES else []
    if twice or len(set(names)) < len(names):
        raise _Unusable(where, f"attribute {key!r} holds a name more than once: {', '.join(twice) or '...'}", hint)
    _check_names(names, where)
    return names


def _check_names(names: tuple[str, ...], where: str) -> None:
    """Names go into tables, CSV headers and terminals: not empty, not endless, no control characters."""
    for name in names:
        if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            what = f"unusable name {name[:40]!r}: expected 1 to {MAX_NAME_LENGTH} printable characters"
            raise _Unusable(
                where, what, "rows without a name must be left out of the file" if not name.strip() else None
            )


def _decode(value: bytes, where: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Unusable(where, f"the string {value[:40]!r} is not UTF-8") from error


def _read_coded(
    dataset: h5py.h5d.DatasetID, where: str, names: tuple[str, ...] | None, key: str, file_bytes: int
) -> Coded:
    """A column of whole numbers or strings, by the names of attribute `key` where the file has it."""
    notes: tuple[str, ...] = ()
    if len(dataset.shape) == 2:
        notes = (f"{where}: shape {dataset.shape} is read as ({dataset.shape[0]},)",)
    kind = describe_dtype(dataset)
    if kind == "string":
        return _code_strings(*_read_strings(dataset, where, file_bytes), where, names, key, notes)
    if kind == "bool":
        raise _Unusable(where, "true/false labels are only read as one-hot columns", "write them as 0 and 1, integers")
    numbers, whole = _whole_numbers(_read(dataset, where).reshape(-1), where)
    notes += () if whole else (f"{where}: {kind} values are all whole numbers and are read as integers",)
    if names is None:
        distinct, codes = np.unique(numbers, return_inverse=True)
        if key == CLASSES_ATTRIBUTE:
            _refuse(
                numbers, numbers < 0, where, "must not be negative", "-1 often marks unlabelled rows: leave these out"
            )
        return Coded(codes.astype(np.int64), tuple(str(v) for v in distinct), False, True, notes)
    wanted = f"must be 0 to {len(names) - 1}, as attribute {key!r} has {len(names)} names"
    _refuse(numbers, (numbers < 0) | (numbers >= len(names)), where, wanted, f"value i means {key}[i], counted from 0")
    return Coded(numbers, names, True, False, notes)


def _whole_numbers(values: NDArray[Any], where: str) -> tuple[NDArray[np.int64], bool]:
    """Values as int64, and whether they were integers already; anything that would lose something is refused."""
    if values.dtype.kind == "f":
        fractional = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53))
        _refuse(values, fractional, where, "must be whole numbers", "labels are class numbers, not measurements")
        return values.astype(np.int64), False
    if values.dtype == np.uint64:
        _refuse(values, values > np.iinfo(np.int64).max, where, "must fit 64 bits with sign", None)
    return values.astype(np.int64), True


def _refuse(values: NDArray[Any], bad: NDArray[np.bool_], where: str, rule: str, hint: str | None) -> None:
    """Raise when any value is bad, with up to five of them, how often and where first."""
    if not bad.any():
        return
    distinct, first, counts = np.unique(values[bad], return_index=True, return_counts=True)
    rows = np.flatnonzero(bad)[first]
    shown = [f"{v} ({n} rows, first row {r})" for v, n, r in zip(distinct[:5], counts[:5], rows[:5], strict=True)]
    more = f" and {len(distinct) - 5} other values" if len(distinct) > 5 else ""
    raise _Unusable(where, f"values {rule}; found {', '.join(shown)}{more}", hint)


def _read_strings(dataset: h5py.h5d.DatasetID, where: str, file_bytes: int) -> tuple[NDArray[np.int64], list[bytes]]:
    """Codes (rows,) in order of first appearance, and the distinct strings; block by block."""
    view, rows = h5py.Dataset(dataset), dataset.shape[0]
    step = min(max(_STRING_BLOCK_BYTES // max(file_bytes, dataset.dtype.itemsize), 64), 65536)
    seen: dict[bytes, int] = {}
    codes = np.empty(rows, np.int64)
    try:
        for start in range(0, rows, step):
            block = view[start : start + step].reshape(-1).tolist()
            codes[start : start + step] = [seen.setdefault(value, len(seen)) for value in block]
    except (OSError, RuntimeError, ValueError) as error:
        raise _Unusable(where, f"damaged, its values cannot be read: {error}", "write the file again") from error
    return codes, list(seen)


def _code_strings(
    codes: NDArray[np.int64],
    raw: list[bytes],
    where: str,
    names: tuple[str, ...] | None,
    key: str,
    notes: tuple[str, ...],
) -> Coded:
    """Strings as codes of `names`, or of the sorted distinct strings."""
    texts = tuple(_decode(value, where) for value in raw)
    _check_names(texts, where)
    target = names if names is not None else tuple(sorted(texts))
    unknown = sorted(set(texts) - set(target))
    if unknown:
        what = (
            f"values that attribute {key!r} does not name: {', '.join(unknown[:5])} (it names {', '.join(target[:10])})"
        )
        raise _Unusable(where, what, f"attribute {key!r} must list every name that occurs")
    place = {name: code for code, name in enumerate(target)}
    table = np.array([place[text] for text in texts], np.int64)
    return Coded(table[codes], target, names is not None, False, notes)


def _decode_one_hot(values: NDArray[Any], where: str, names: tuple[str, ...] | None) -> Coded:
    """One-hot rows (rows, K) as codes; each row has one 1 and else 0."""
    columns = values.shape[1]
    if names is not None and len(names) != columns:
        raise _Unusable(where, f"{columns} one-hot columns, but attribute 'classes' has {len(names)} names")
    good = (np.count_nonzero(values == 1, axis=1) == 1) & (np.count_nonzero(values, axis=1) == 1)
    if not good.all():
        row = int(np.argmin(good))
        wrong = np.count_nonzero(~good)
        what = f"one-hot rows have one 1 and else 0; {wrong} rows do not, first row {row}: {values[row][:12]}"
        raise _Unusable(where, what, "class numbers (rows,) are simplest: probabilities.argmax(axis=1)")
    stated = names is not None
    classes = names if names is not None else tuple(str(i) for i in range(columns))
    return Coded(np.argmax(values == 1, axis=1).astype(np.int64), classes, True, not stated)

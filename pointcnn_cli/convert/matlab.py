"""MATLAB files: v7.3 (which is HDF5, with the axes reversed) through h5py, older ones through SciPy."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.convert.arrays import AUTO, ArrayNames, Pieces, check_declared_size, choose_names
from pointcnn_cli.errors import DataError, MissingDependencyError
from pointcnn_cli.hdf5.checks import LABEL_DTYPES, check_storage
from pointcnn_cli.hdf5.chunks import check_unpacked
from pointcnn_cli.hdf5.files import open_file
from pointcnn_cli.hdf5.probe import TRIED_BYTES, check_survives
from pointcnn_cli.hdf5.problems import Problem, at, damaged, raise_problems
from pointcnn_cli.hdf5.tree import find_dataset, is_present

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK = 512  # bytes that MATLAB puts before the HDF5 part of a v7.3 file
_NUMBERS = frozenset(
    ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
)
_LABEL_HINT = "in MATLAB, save channels as numeric arrays and text as characters: label = char(label)"


def read_mat(path: Path, names: ArrayNames) -> Pieces:
    """The arrays of a .mat file that `names` asks for, with the axes in the order that MATLAB shows, (N, D, P, T).

    Text labels are read from character matrices; cells, strings, categoricals and tables are refused with the cure.
    Raises DataError: damaged, a name that is missing, a kind that is not read, too large, stored outside the file; and
    MissingDependencyError where an older file needs SciPy.
    """
    with path.open("rb") as file:
        head = file.read(_USER_BLOCK + len(_HDF5_SIGNATURE))
    if head.startswith(_HDF5_SIGNATURE) or head[_USER_BLOCK:] == _HDF5_SIGNATURE:
        return _read_hdf5(path, names)
    return _read_older(path, names)


def _read_hdf5(path: Path, names: ArrayNames) -> Pieces:
    """The arrays of a v7.3 file; all are checked before the first is read, and a child process does it first."""
    check_survives([str(path)], lambda _: _read_arrays(path, names, most_bytes=TRIED_BYTES))
    try:
        pieces = _read_arrays(path, names)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise_problems([damaged(str(path), error)])
        raise
    if pieces is None:
        raise AssertionError  # not reached
    return pieces


def _read_arrays(path: Path, names: ArrayNames, most_bytes: float = math.inf) -> Pieces | None:
    """The arrays; None where they are more than `most_bytes` together."""
    opened = open_file(str(path))
    if isinstance(opened, Problem):
        raise_problems([opened])
        raise AssertionError  # not reached
    with opened as file:
        groups = names.groups
        if groups == AUTO:
            groups = "group" if is_present(file, "group") else None
        chosen = ArrayNames(names.channels, names.labels, groups)
        found = {name: _find_array(file, path, name) for name in (*names.channels, names.labels, groups) if name}
        raise_problems([problem for item in found.values() if isinstance(item, list) for problem in item])
        if sum(dataset.size * dataset.dtype.itemsize for dataset in found.values()) > most_bytes:
            return None
        return chosen.build_pieces(str(path), lambda name: _read_reversed(found[name], at(str(path), name)))


def _find_array(file: Any, path: Path, name: str) -> Any:
    """The h5py dataset `name`, or a list of what is wrong with it."""
    from h5py import Dataset  # here, since the package hdf5 must set its safety switch before h5py is imported

    where = at(str(path), name)
    found = find_dataset(file, name, "the name of this array")
    if isinstance(found, Problem):
        return [found]
    dataset = Dataset(found)
    kind = _matlab_class(dataset)
    if kind is not None and kind != "char" and kind not in _NUMBERS:
        return [Problem(where, f"a MATLAB {kind}, which is not read", _LABEL_HINT)]
    return check_storage(found, where, LABEL_DTYPES, path.stat().st_size) or dataset


def _matlab_class(dataset: Any) -> str | None:
    """The attribute in which MATLAB notes the class; None where another program wrote the file."""
    value = dataset.attrs.get("MATLAB_class")
    return value.decode("ascii", "replace") if isinstance(value, bytes) else None


def _read_reversed(dataset: Any, where: str) -> NDArray[Any]:
    """The values with the axes turned round: MATLAB writes its columns first, so HDF5 shows (T, P, D, N)."""
    try:
        raise_problems(check_unpacked(dataset.id, 0, dataset.shape[0] if dataset.ndim else 0, where))
        values = np.transpose(dataset[()])
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: cannot be read ({reason})", "copy or write the file again") from None
    return _join_characters(values) if _matlab_class(dataset) == "char" else values


def _join_characters(values: NDArray[Any]) -> NDArray[Any]:
    """A character matrix (rows, length) of UTF-16 units as texts (rows,), without the padding."""
    return np.array(["".join(map(chr, row)).rstrip(" \0") for row in np.atleast_2d(values).tolist()])


def _read_older(path: Path, names: ArrayNames) -> Pieces:
    """The arrays of a file before v7.3; sizes and kinds come from the headers, which SciPy reads first.

    SciPy's reader crashes on some damaged files, so a child process reads all of it first.
    """
    try:
        from scipy.io import loadmat, whosmat
    except ImportError:
        raise MissingDependencyError(
            f"{path}: a MATLAB file older than v7.3, which needs the library scipy",
            "pip install 'pointcnn-cli[matlab]', or in MATLAB: save(FILE, ..., '-v7.3')",
        ) from None
    check_survives([str(path)], lambda _: _load_older(path, names, whosmat, loadmat), "SciPy")
    return _load_older(path, names, whosmat, loadmat)


def _load_older(path: Path, names: ArrayNames, whosmat: Callable[..., Any], loadmat: Callable[..., Any]) -> Pieces:
    try:
        listed = whosmat(str(path))
        headers = {name: (shape, kind) for name, shape, kind in listed}
        if len(headers) < len(listed):  # of two of one name the header of one would be checked, and the other one read
            raise DataError(f"{path}: holds two arrays of one name", "write the file again")
        chosen = choose_names(str(path), list(headers), names)
        wanted = [name for name in (*chosen.channels, chosen.labels, chosen.groups) if name is not None]
        _check_headers(path, {name: headers[name] for name in wanted})
        arrays = loadmat(str(path), variable_names=wanted, mat_dtype=True, struct_as_record=True)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # SciPy's reader raises whatever damaged bytes lead it to
        raise DataError(f"{path}: not a whole MATLAB file ({error})", "copy or write the file again") from None
    return chosen.build_pieces(str(path), lambda name: _strip_text(arrays[name]))


def _check_headers(path: Path, headers: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise DataError for kinds that are not read, and for sizes that the file cannot hold."""
    problems = [
        Problem(f"{path}, array {name!r}", f"a MATLAB {kind}, which is not read", _LABEL_HINT)
        for name, (_, kind) in headers.items()
        if kind != "char" and kind not in _NUMBERS
    ]
    raise_problems(problems)
    for name, (shape, _) in headers.items():
        declared = 8  # bytes of the widest class
        for length in shape:
            declared *= length
        check_declared_size(f"{path}, array {name!r}", declared, path.stat().st_size)


def _strip_text(values: NDArray[Any]) -> NDArray[Any]:
    """Texts without the blanks that make the rows of a character matrix equally long; numbers as they are."""
    return np.char.rstrip(values) if values.dtype.kind == "U" else values

"""From `data.path` (a file, a list, a glob) to opened HDF5 files; each way to fail has its own words."""

import difflib
import errno
import glob
import os
import stat
from pathlib import Path

import h5py

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.problems import Problem, damaged

# What users give for HDF5 by mistake: how the file begins, what it is, whether `data convert` takes it.
_SIGNATURES = (
    (b"\x93NUMPY", "a NumPy .npy file", True),
    (b"PK\x03\x04", "a zip archive (.npz, .keras, .xlsx ...)", True),
    (b"MATLAB 5.0", "a MATLAB file older than v7.3", True),
    (b"\x1f\x8b", "a gzip archive", False),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", False),
    (b"CDF", "a classic NetCDF file", False),
    (b"<", "an HTML or XML page", False),
)
_CONVERT_HINT = "`pointcnn data convert IN... OUT.h5` makes an HDF5 file from .npy, .npz, .mat and tables of points"


def expand_paths(path: str | tuple[str, ...]) -> tuple[str, ...]:
    """Absolute paths of the files that `data.path` names; none is opened. Raises DataError when a glob matches nothing.

    A path that exists is that file even if it holds `*`, `?` or `[`. A file named twice, by another path too, is
    refused: its rows would be on both sides of a split.
    """
    if isinstance(path, tuple):
        found = list(path)
    elif os.path.lexists(path) or not glob.has_magic(path):
        found = [path]
    else:
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise DataError(f"{path}: no file matches this pattern", f"the working directory is {os.getcwd()}")
    paths = tuple(os.path.abspath(name) for name in found)
    _refuse_twins(paths)
    return paths


def _refuse_twins(paths: tuple[str, ...]) -> None:
    """Raise DataError when two paths are one file."""
    seen: dict[object, str] = {}
    for path in paths:
        identity = _identity(path)
        if identity in seen:
            same = "is given twice" if seen[identity] == path else f"is the same file as {seen[identity]}"
            raise DataError(f"{path}: {same}", "name each file once in data.path")
        seen[identity] = path


def _identity(path: str) -> object:
    """What two paths to one file share; the path itself where there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return path
    return status.st_dev, status.st_ino


def open_file(path: str) -> h5py.File | Problem:
    """The HDF5 file, opened for reading, or what is wrong. Only regular files are opened (a pipe would hang)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        return _stat_problem(path, error)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        hint = "name the HDF5 file, or use a pattern such as 'folder/*.h5'" if stat.S_ISDIR(status.st_mode) else None
        return Problem(path, f"expected an HDF5 file, found {kind}", hint)
    if status.st_size == 0:
        return Problem(
            path, "the file is empty (0 bytes)", "the program that wrote it did not finish, or the disk was full"
        )
    try:
        return h5py.File(path, "r")
    except (OSError, ValueError, RuntimeError) as error:
        return _open_problem(path, error)


def _stat_problem(path: str, error: Exception) -> Problem:
    """Why there is no file to open."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Problem(path, "no such file", _nearby(path))
    if isinstance(error, PermissionError):
        return Problem(path, "no permission to read this path")
    return Problem(path, f"not a usable path: {error}")


def _nearby(path: str) -> str:
    """Similar names in the folder: said, never guessed at."""
    folder = Path(path).parent
    if not folder.is_dir():
        return f"there is no folder {folder}; relative paths start at the working directory {os.getcwd()}"
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    close = difflib.get_close_matches(Path(path).name, names, n=3)
    near = close or [name for name in names if name.endswith((".h5", ".hdf5"))][:3]
    if near:
        return f"set data.path to yours; in {folder} there is: {', '.join(near)}"
    return f"set data.path to your file ({folder} holds none), or make one: pointcnn data convert --help"


def _open_problem(path: str, error: Exception) -> Problem:
    """Why HDF5 could not open an existing, non-empty file."""
    text = str(error).lower()
    number = getattr(error, "errno", None)
    if "already open for write" in text:
        return Problem(
            path,
            "marked as open for writing: a program is writing it, or was killed while writing",
            "wait for it, or if it is gone clear the mark with `h5clear -s FILE` and check the contents",
        )
    if number in (errno.EAGAIN, errno.EACCES) and "lock" in text:
        return Problem(path, "in use by another process that writes it", "wait until it is closed, or copy the file")
    if number == errno.EACCES or isinstance(error, PermissionError):
        return Problem(path, "no permission to read this file", f"see `ls -l {path}`")
    if number in (errno.EMFILE, errno.ENFILE):
        return Problem(path, "too many open files", "raise the limit with `ulimit -n`, or join the files into fewer")
    if "truncated file" in text:
        return Problem(
            path,
            f"truncated: {os.path.getsize(path)} bytes are there, and its header says more",
            "copy or download it again",
        )
    if "signature not found" in text:
        return _foreign_problem(path)
    return damaged(path, error)


def _foreign_problem(path: str) -> Problem:
    """Name what a file is that is not HDF5."""
    with open(path, "rb") as stream:
        head = stream.read(64)
    for magic, kind, convertible in _SIGNATURES:
        if head.startswith(magic):
            return Problem(path, f"not an HDF5 file, but {kind}", _CONVERT_HINT if convertible else None)
    if head.isascii() and b"\0" not in head:
        return Problem(path, "not an HDF5 file, but text", _CONVERT_HINT)
    return Problem(path, "not an HDF5 file (or its first bytes are lost)", _CONVERT_HINT)

"""NumPy files: .npy by position, .npz by the names of its arrays. Pickles, which can run code, are never read."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.convert.arrays import ArrayNames, Piece, Pieces, check_declared_size, choose_names
from pointcnn_cli.errors import DataError

_ROLES = ("channel 1", "channel 2", "channel 3", "channel 4", "labels", "groups")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MAX_HEADER_BYTES = 10_000  # NumPy's own limit
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, EOFError, OSError, RuntimeError,
    ValueError, TypeError, KeyError, SyntaxError, ArithmeticError, MemoryError,
)  # fmt: skip
"""What zipfile and numpy.lib.format raise for damaged files. RuntimeError: encryption, and recursion in a header."""
_PICKLED = "holds Python objects (a pickle), which can run code when read"
_PICKLED_HINT = "save it as numbers or text: numpy.save(FILE, array.astype(float)) or array.astype(str)"


def read_npy(paths: Sequence[Path]) -> Pieces:
    """Channels 1 to 4, labels and, where there is a sixth file, groups, in this order; mapped, not read.

    Raises DataError for another number of files, a file that is not .npy, is cut short or holds Python objects.
    """
    if len(paths) not in (5, 6):
        given = ", ".join(f"{role}: {path}" for role, path in zip(_ROLES, paths, strict=False))
        missing = ", ".join(_ROLES[len(paths) : 5])
        what = f"no file for {missing}" if missing else f"{len(paths)} files where at most 6 are expected"
        raise DataError(
            f"{what} (given: {given})",
            "give the .npy files of channel 1, 2, 3, 4 and the labels, then the groups if there are any",
        )
    pieces = [Piece(f"{path} ({role})", _map_npy(path)) for role, path in zip(_ROLES, paths, strict=False)]
    return Pieces(tuple(pieces[:4]), pieces[4], pieces[5] if len(pieces) == 6 else None)


def _map_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped into memory: a size that its header only claims fails here."""
    try:
        with path.open("rb") as file:
            _check_header_length(file, str(path))
        return np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        if "Python objects" in str(error):
            raise DataError(f"{path}: {_PICKLED}", _PICKLED_HINT) from None
        raise DataError(f"{path}: not a whole .npy file ({error})", "write it with numpy.save") from None


def read_npz(path: Path, names: ArrayNames) -> Pieces:
    """The arrays of a .npz file that `names` asks for; the header of each is checked before its data are read.

    Raises DataError: not a zip archive, damaged, a name that is missing, Python objects, a size that does not fit.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            present = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            chosen = choose_names(str(path), present, names)
            return chosen.build_pieces(str(path), lambda name: _read_member(archive, name, str(path), size))
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a whole .npz file ({error})", "write it with numpy.savez") from None


def _check_header_length(stream: IO[bytes], where: str) -> None:
    """Raise DataError for a header that NumPy would first read whole, and then refuse as too long."""
    start = stream.read(12)  # magic string, version, length of the header
    length = int.from_bytes(start[8:10] if start[6:7] == b"\1" else start[8:12], "little")
    if start.startswith(np.lib.format.MAGIC_PREFIX) and length > _MAX_HEADER_BYTES:
        raise DataError(f"{where}: its header claims {length:,} bytes; at most {_MAX_HEADER_BYTES:,} are read")


def _read_member(archive: zipfile.ZipFile, name: str, path: str, archive_bytes: int) -> NDArray[Any]:
    """One array of the archive, after its header, size and kind have been checked."""
    where = f"{path}, array {name!r}"
    info = archive.getinfo(name + ".npy")
    with archive.open(info) as member:
        _check_header_length(member, where)
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise DataError(f"{where}: .npy format version {version}; expected 1.0 or 2.0")
        shape, _, dtype = _HEADERS[version](member)
        held = info.file_size - member.tell()
    if dtype.hasobject:
        raise DataError(f"{where}: {_PICKLED}", _PICKLED_HINT)
    declared = dtype.itemsize
    for length in shape:
        declared *= length
    check_declared_size(where, declared, min(info.compress_size, archive_bytes))
    if declared != held:
        raise DataError(f"{where}: declares {declared:,} bytes, but {held:,} are there", "write the file again")
    with archive.open(info) as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False))

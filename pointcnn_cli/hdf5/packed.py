"""Rows of channels packed by gzip, alone or after shuffle, as nearly all packed files are: unpacked here, not by HDF5.

zlib-ng unpacks three times as fast as the zlib that h5py links, outside the lock under which HDF5 does all of its work;
and every chunk is held to the size it stands for, at which HDF5 does not look (see `chunks`).
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Self

import h5py
import numpy as np
from h5py._hl.base import phil
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from pointcnn_cli.hdf5.checks import DEFLATE, SHUFFLE
from pointcnn_cli.hdf5.chunks import describe_wrong_size


class UnpackError(Exception):
    """Packed data that are none, or are damaged."""


class LeftToHdf5Error(Exception):
    """A chunk of which only HDF5 knows whether it is packed."""


@dataclass(frozen=True)
class PackedRows:
    """A dataset of packed chunks."""

    dataset: h5py.h5d.DatasetID
    steps: tuple[int, ...]
    """Rows, depth, ... of a chunk; those at an upper edge are stored whole too."""
    dtype: np.dtype[Any]
    """Of the elements, as stored."""
    filters: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of an unpacked chunk."""
        return math.prod(self.steps) * self.dtype.itemsize

    @classmethod
    def find(cls, dataset: h5py.h5d.DatasetID) -> Self | None:
        """How a dataset of numbers whose storage was checked is packed; None where HDF5 has to unpack or convert."""
        plist = dataset.get_create_plist()
        if plist.get_layout() != h5py.h5d.CHUNKED:
            return None
        filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
        numbers = tuple(number for number, *_ in filters)
        kind, dtype = dataset.get_type(), dataset.dtype
        if numbers not in ((DEFLATE,), (SHUFFLE, DEFLATE)) or not kind.equal(h5py.h5t.py_create(dtype)):
            return None
        if SHUFFLE in numbers and tuple(filters[0][2][:1]) != (dtype.itemsize,):
            return None
        return cls(dataset, tuple(plist.get_chunk()), dtype, numbers)

    def read(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Read `rows` (strictly increasing) into `out` (len(rows), ...). Each chunk that holds one is unpacked once;
        memory beyond `out` is that of two chunks. Raises UnpackError, OSError or RuntimeError for a chunk that is
        damaged or cannot be read, LeftToHdf5Error as it says."""
        axes = [
            [(start, slice(start, start + step), slice(min(step, length - start))) for start in range(0, length, step)]
            for length, step in zip(self.dataset.shape[1:], self.steps[1:], strict=True)
        ]  # where a chunk starts, what of the row it holds, and what of the chunk that is: chunks stick out at the end
        parts = [tuple(zip(*part, strict=True)) for part in itertools.product(*axes)]
        units = rows // self.steps[0]
        edges = np.flatnonzero(np.diff(units, prepend=-1, append=-1))
        inner = rows - units * self.steps[0]
        bounds = zip(inner[edges[:-1]].tolist(), inner[edges[1:] - 1].tolist(), strict=True)
        for (begin, end), (low, high) in zip(itertools.pairwise(edges.tolist()), bounds, strict=True):
            first = int(units[begin]) * self.steps[0]
            # A slice gives a view, not a copy.
            wanted = slice(low, high + 1) if high - low == end - begin - 1 else inner[begin:end]
            for starts, place, kept in parts:
                # Without a name: it would keep this chunk while the next is unpacked.
                out[(slice(begin, end), *place)] = self._unpack((first, *starts))[(wanted, *kept)]

    def _unpack(self, offset: tuple[int, ...]) -> NDArray[Any]:
        """One chunk, shaped `steps`."""
        with phil:  # h5py's lock, which this method of it alone does not take (3.14); HDF5 stands no second thread
            mask, data = self.dataset.read_direct_chunk(offset)
        used = [number for i, number in enumerate(self.filters) if not mask >> i & 1]
        if DEFLATE in used:
            if len(data) == self.size and self._sticks_out(offset):
                raise LeftToHdf5Error  # H5Pset_chunk_opts: such chunks may be stored as they are, and no mask says so
            data = _inflate(data, self.size, offset)
        if len(data) != self.size:
            raise UnpackError(describe_wrong_size(offset, len(data), self.size))
        if SHUFFLE not in used:
            return np.frombuffer(data, self.dtype).reshape(self.steps)
        whole = np.empty(self.steps, self.dtype)
        # Shuffled: first all first bytes of the elements, then all second bytes, ...
        planes = np.frombuffer(data, np.uint8).reshape(self.dtype.itemsize, -1)
        pieces = whole.reshape(-1, 1).view(np.uint8)  # (elements, bytes)
        for i, plane in enumerate(planes):  # seven times as fast as assigning the transpose
            pieces[:, i] = plane
        return whole

    def _sticks_out(self, offset: tuple[int, ...]) -> bool:
        ends = zip(offset, self.steps, self.dataset.shape, strict=True)
        return any(start + step > length for start, step, length in ends)


def _inflate(stored: bytes, size: int, offset: tuple[int, ...]) -> bytes:
    """What the chunk at `offset` unpacks to, but no more than one byte beyond `size`. Raises UnpackError."""
    unpacker = zlib_ng.decompressobj()
    try:
        data: bytes = unpacker.decompress(stored, size + 1)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls this class an instance
        raise UnpackError(f"the chunk at {offset}: {error}") from error
    if len(data) == size and not unpacker.eof:  # its end, with the checksum, is missing
        raise UnpackError(f"the chunk at {offset}: the packed data break off")
    return data

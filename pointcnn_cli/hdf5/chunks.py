"""Whether packed chunks unpack to as many bytes as they stand for.

HDF5 does not look: of a chunk that holds too little it hands out what lay in memory behind it, as data. So a chunk that
HDF5 is to unpack is first unpacked here, with a limit, and that first reading takes twice the time. Nearly all channels
never come to that: `packed` reads what gzip packed, alone or after shuffle.
"""

import itertools
import math
import zlib

import h5py
from h5py._hl.base import phil

from pointcnn_cli.hdf5.checks import CHECKSUM_BYTES, COMPRESSORS, DEFLATE, FLETCHER32, stored_itemsize
from pointcnn_cli.hdf5.problems import Problem


def check_unpacked(
    dataset: h5py.h5d.DatasetID, first: int, last: int, where: str, whole: set[int] | None = None
) -> list[Problem]:
    """Whether all chunks with rows from `first` to before `last` unpack to their full size; storage was checked before.

    `whole`, if given, remembers the first rows of chunks of this dataset that did: they are not looked at again.
    Nothing to do for data that are not packed: the sizes of their chunks stand in the index, and were checked there.
    """
    plist = dataset.get_create_plist()
    if plist.get_layout() != h5py.h5d.CHUNKED:
        return []
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not any(number in COMPRESSORS for number in filters):
        return []
    steps = plist.get_chunk()
    size = math.prod(steps) * stored_itemsize(dataset)
    others = [range(0, length, step) for length, step in zip(dataset.shape[1:], steps[1:], strict=True)]
    for row in range(first // steps[0] * steps[0], last, steps[0]):
        if whole is not None and row in whole:
            continue
        for offset in itertools.product([row], *others):
            with phil:  # h5py's lock, which this method of it alone does not take (3.14); HDF5 stands no second thread
                mask, stored = dataset.read_direct_chunk(offset)
            found = _count_unpacked(stored, filters, mask, size)
            if found != size:
                what = describe_wrong_size(offset, found, size)
                return [Problem(where, what, "the file is damaged: copy, download or write it again")]
        if whole is not None:
            whole.add(row)
    return []


def describe_wrong_size(offset: tuple[int, ...], found: int, size: int) -> str:
    """What is wrong with a chunk that unpacks to `found` bytes, or at least as many where that is more than `size`."""
    unpacked = f"{'more than ' * (found > size)}{min(found, size)} bytes"
    return f"the chunk at {offset} unpacks to {unpacked}, not {size}"


def _count_unpacked(stored: bytes, filters: list[int], mask: int, size: int) -> int:
    """The bytes that a stored chunk unpacks to, or a few more than `size` where that is less. `mask`: filters that were
    not applied. Data that cannot be unpacked are HDF5's to refuse; they count as `size`."""
    for place in reversed(range(len(filters))):
        if mask >> place & 1:
            continue
        if filters[place] == FLETCHER32:
            stored = stored[:-CHECKSUM_BYTES]
        elif filters[place] in COMPRESSORS:
            inner = CHECKSUM_BYTES * sum(
                number == FLETCHER32 and not mask >> i & 1 for i, number in enumerate(filters[:place])
            )
            count = _count_inflated if filters[place] == DEFLATE else _count_lzf
            return count(stored, size + inner) - inner
    return len(stored)


def _count_inflated(stored: bytes, size: int) -> int:
    try:
        return len(zlib.decompressobj().decompress(stored, size + 1))
    except zlib.error:
        return size


def _count_lzf(stored: bytes, size: int) -> int:
    """LZF is a row of runs: a byte below 32 announces itself + 1 bytes to copy, others a repetition (lzf_d.c)."""
    place = found = 0
    while place < len(stored) and found <= size:
        control = stored[place]
        if control < 32:
            found += control + 1
            place += control + 2
            continue
        long = control >> 5 == 7
        found += (control >> 5) + 2 + (stored[place + 1] if long and place + 1 < len(stored) else 0)
        place += 2 + long
    return found

"""Whether a dataset is stored as it claims, within what we read, and has the layout of `data/README.md`.

All of this looks at headers only. The storage checks come before anything asks for a shape or a value: HDF5 can be made
to return other files' bytes, silent zeros, or terabytes. Thresholds are named constants with their reason.
"""

import math
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from pointcnn_cli.hdf5.problems import Problem

CHANNEL_DTYPES = (
    "float16", "float32", "float64",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
"""Element types of channels, in either byte order."""
LABEL_DTYPES = (*CHANNEL_DTYPES, "bool", "string")
"""Element types of labels, groups and recordings (floats: whole numbers only; bool: one-hot labels only)."""
DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTERS = {DEFLATE: "deflate (gzip)", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", LZF: "lzf"}
"""The filters read, by HDF5 id; all others need plugins, which are switched off."""
COMPRESSORS = (DEFLATE, LZF)
CHECKSUM_BYTES = 4
"""What fletcher32 adds to a chunk."""
MAX_CHUNK_BYTES = 64 * 2**20
"""A chunk is decompressed whole into memory."""
MAX_RATIO = 1100
"""Declared bytes for each stored byte: deflate reaches 1032 at most (zlib's technical notes)."""
MAX_WHOLE_BYTES = 2**30
"""Labels and groups are read whole: 134 million rows of 8 bytes."""
MAX_DEPTH = 4


def describe_dtype(dataset: h5py.h5d.DatasetID) -> str:
    """A name for the element type: one of LABEL_DTYPES, or what it is instead."""
    try:
        dtype: np.dtype[Any] = dataset.dtype
    except (TypeError, ValueError, OSError, RuntimeError):
        return "a type unknown to NumPy"
    if dtype.kind == "S" or h5py.check_string_dtype(dtype) is not None:
        return "string"
    if h5py.check_enum_dtype(dtype) is not None:
        return "enumeration"
    if h5py.check_vlen_dtype(dtype) is not None:
        return "variable-length sequences"
    if h5py.check_ref_dtype(dtype) is not None:
        return "references"
    if dtype.kind == "V":
        return "compound" if dtype.names else ("array" if dtype.subdtype else "opaque")
    return str(dtype.newbyteorder("=").name)


def stored_itemsize(dataset: h5py.h5d.DatasetID) -> int:
    """Bytes of an element in the file: of a string of variable length its length, and where in the file it lies."""
    kind = dataset.get_type()
    if not (isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()):
        return int(kind.get_size())
    address_bytes = h5py.h5i.get_file_id(dataset).get_create_plist().get_sizes()[0]
    return 4 + int(address_bytes) + 4  # HDF5 file format specification, "Global heap ID" after a length


def check_storage(dataset: h5py.h5d.DatasetID, where: str, dtypes: Sequence[str], file_bytes: int) -> list[Problem]:
    """Whether the values lie in this file, are of a type we read, and are as many as declared."""
    plist = dataset.get_create_plist()
    outside = _check_inside(plist, where)
    if outside:
        return outside  # asking such a dataset for its shape may already open other files
    found = describe_dtype(dataset)
    if found not in dtypes:
        hint = f"write it as one of: {', '.join(dtypes)}"
        return [Problem(where, f"elements are {found}, which is not read", hint)]
    if dataset.shape is None:
        return [Problem(where, "it holds no array (null dataspace)")]
    problems = _check_filters(plist, where)
    return problems or _check_size(dataset, plist, where, file_bytes)


def _check_inside(plist: h5py.h5p.PropDCID, where: str) -> list[Problem]:
    """No virtual dataset, no external storage."""
    hint = "only data stored in the file itself is read: copy the values into the file"
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        return [Problem(where, "a virtual dataset (its values lie in other files), which is not read", hint)]
    if plist.get_external_count():
        target = plist.get_external(0)[0]
        name = target.decode("utf-8", "replace") if isinstance(target, bytes) else str(target)
        return [Problem(where, f"its values are stored outside, in {name!r}, which is not read", hint)]
    return []


def _check_filters(plist: h5py.h5p.PropDCID, where: str) -> list[Problem]:
    """Only known filters, one compressor at most (two deflates reach 17,929:1), chunks of a bearable size."""
    ids = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    known = ", ".join(FILTERS.values())
    hint = "write it with h5py's compression='gzip' or without compression"
    unknown = [i for i in ids if i not in FILTERS]
    if unknown:
        numbers = ", ".join(str(i) for i in unknown)
        return [Problem(where, f"stored with the filter {numbers}, which is not read (read are: {known})", hint)]
    if len(set(ids)) < len(ids) or sum(i in COMPRESSORS for i in ids) > 1:
        names = ", ".join(FILTERS[i] for i in ids)
        return [Problem(where, f"compressed more than once ({names}), which is not read", hint)]
    return []


def _check_size(dataset: h5py.h5d.DatasetID, plist: h5py.h5p.PropDCID, where: str, file_bytes: int) -> list[Problem]:
    """Declared bytes against what is allocated and against the file."""
    itemsize = stored_itemsize(dataset)
    declared, stored = math.prod(dataset.shape) * itemsize, dataset.get_storage_size()
    hint = "the program that wrote it stopped early, or the file was made to deceive: write it again"
    if declared == 0:
        return []  # zero rows: the layout check says so
    if stored == 0:
        return [Problem(where, f"shape {dataset.shape} is declared, but no values were ever written", hint)]
    if stored > file_bytes or declared > MAX_RATIO * stored:
        what = f"shape {dataset.shape} needs {declared:,} bytes, but {stored:,} are stored in a file of {file_bytes:,}"
        return [Problem(where, what, hint)]
    if plist.get_layout() != h5py.h5d.CHUNKED:
        return []
    chunk = plist.get_chunk()
    chunk_bytes = math.prod(chunk) * itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        what = f"chunks of {chunk_bytes:,} bytes; at most {MAX_CHUNK_BYTES:,} are read"
        return [Problem(where, what, "write it with smaller chunks, for example 64 rows each")]
    return _check_chunks(dataset, plist, where, chunk_bytes)


def _check_chunks(dataset: h5py.h5d.DatasetID, plist: h5py.h5p.PropDCID, where: str, chunk_bytes: int) -> list[Problem]:
    """Every chunk is there (a missing one reads as zeros), and is stored in no more bytes than it can need."""
    ids = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    packer = next((i for i, number in enumerate(ids) if number in COMPRESSORS), None)
    summed = ids.index(FLETCHER32) if FLETCHER32 in ids else None
    expected = math.prod(-(-size // step) for size, step in zip(dataset.shape, plist.get_chunk(), strict=True))
    slack = chunk_bytes // 64 + 64  # more than deflate and lzf can add to data that they cannot compress
    found = malformed = 0

    def look(chunk: Any) -> None:
        nonlocal found, malformed
        packed = packer is not None and not chunk.filter_mask >> packer & 1
        whole = chunk_bytes + CHECKSUM_BYTES * (summed is not None and not chunk.filter_mask >> summed & 1)
        low, high = (1, chunk_bytes + slack) if packed else (whole, whole)
        found += 1
        malformed += not low <= chunk.size <= high

    dataset.chunk_iter(look)
    if found != expected:
        what = f"{expected - found} of its {expected} chunks were never written and would read as zeros"
        return [Problem(where, what, "the program that wrote it stopped early: write it again")]
    if malformed:
        return [Problem(where, f"{malformed} of its {expected} chunks have an impossible size", "write the file again")]
    return []


def check_channel_shape(shape: tuple[int, ...], where: str) -> list[Problem]:
    """Whether a channel is (N, D, P, T) or (N, D, P, T, 1) with D 1 to 4 and no empty axis; hints for other layouts."""
    wanted = "(rows, depth 1 to 4, points, frames) or the same with a last axis of 1"
    good = len(shape) == 4 or (len(shape) == 5 and shape[4] == 1)
    if good and shape[0] == 0:
        return [Problem(where, f"no rows: its shape is {shape}", "the file was made from an empty selection")]
    if good and 1 <= shape[1] <= MAX_DEPTH and min(shape) > 0:
        return []
    return [Problem(where, f"expected shape {wanted}, found {shape}", _layout_hint(shape))]


def _layout_hint(shape: tuple[int, ...]) -> str:
    """What the layout looks like, and the NumPy expression that puts it right."""
    small = [1 <= size <= MAX_DEPTH for size in shape]
    if len(shape) == 3:
        return "no depth axis? x[:, None] adds one"
    if len(shape) == 4 and small[3] and not small[1]:
        return "depth last? np.moveaxis(x, -1, 1) brings it to the second place"
    if len(shape) == 5 and shape[1] == 1 and small[2] and not small[4]:
        return "channels first? np.moveaxis(x, 1, -1) brings that axis to the end"
    if len(shape) == 5 and small[4] and not small[1]:
        return "depth last? np.moveaxis(x, -1, 1) brings it to the second place"
    if len(shape) in (4, 5) and not small[1]:
        return (
            f"depth {shape[1]}: one dataset for each of the four channels is expected, "
            "for example x[:, 0:3], x[:, 3:4], x[:, 4:5], x[:, 5:6]"
        )
    return "`pointcnn data inspect FILE` lists what is in the file"


def check_channels_agree(shapes: dict[str, tuple[int, ...]], where: str) -> list[Problem]:
    """Whether the channels of one file (name -> shape) have equal row counts, points and frames."""
    problems = []
    for axis, noun in ((0, "rows"), (2, "points"), (3, "frames")):
        sizes = {name: shape[axis] for name, shape in shapes.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            hint = "all four channels describe the same windows: the same rows, point slots and frames"
            problems.append(Problem(where, f"the channels differ in {noun}: {listed}", hint))
    return problems

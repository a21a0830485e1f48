"""Chunks that unpack to another size than they stand for: HDF5 would hand out what lies in memory behind them."""

import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
from hdf5_files import FRAMES, NAMES, POINTS, config, index_of, make_channels, refused, write_file

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.inspect import inspect_file
from pointcnn_cli.hdf5.reading import open_hdf5

SHAPE = (12, 1, POINTS, FRAMES, 1)
WHOLE = np.ones(SHAPE, "float32").tobytes()  # 960 bytes
DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000


def write_chunk(path, content: bytes, filters: tuple[int, ...], mask: int = 0):
    """A good file but for channel_2, whose only chunk is stored as `content`."""
    write_file(path, channel_2=None)
    with h5py.File(path, "a") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(SHAPE)
        for number in filters:
            plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (4,) if number == DEFLATE else ())
        space = h5py.h5s.create_simple(SHAPE)
        dataset = h5py.h5d.create(file.id, b"channel_2", h5py.h5t.IEEE_F32LE, space, plist)
        dataset.write_direct_chunk((0,) * 5, content, mask)
    return path


def pack_lzf(content: bytes) -> bytes:
    """LZF that repeats nothing: runs of up to 32 bytes, each after its length less one."""
    return b"".join(bytes([len(run) - 1]) + run for i in range(0, len(content), 32) for run in [content[i : i + 32]])


def read_all(path) -> np.ndarray:
    with open_hdf5(config(path)) as source:
        return source.read(np.arange(12))[1]


@pytest.mark.parametrize(
    ("pack", "filters"), [(zlib.compress, (DEFLATE,)), (zlib.compress, (SHUFFLE, DEFLATE)), (pack_lzf, (LZF,))]
)
@pytest.mark.parametrize(
    ("content", "found"), [(WHOLE[:100], "100"), (WHOLE[:-1], "959"), (WHOLE + WHOLE[:8], "more than 960"), (b"", "0")]
)
def test_chunks_that_unpack_to_another_size_are_refused(tmp_path, pack, filters, content, found):
    stored = pack(content) or b"\0"
    path = write_chunk(tmp_path / "a.h5", stored, filters)
    found = "1" if stored == b"\0" else found
    refused_by = "" if filters == (LZF,) else "rows 0 to 11 cannot be read: "
    expected = rf"dataset 'channel_2': {refused_by}the chunk at \(0, 0, 0, 0, 0\) unpacks to {found} bytes, not 960"
    with pytest.raises(DataError, match=expected):
        read_all(path)
    problems = inspect_file(path, config(path))["problems"]
    assert f"unpacks to {found} bytes, not 960" in problems[0]["problem"]


@pytest.mark.parametrize(("pack", "filters"), [(zlib.compress, (DEFLATE,)), (pack_lzf, (LZF,))])
def test_chunks_that_unpack_to_their_size_are_read(tmp_path, pack, filters):
    assert (read_all(write_chunk(tmp_path / "a.h5", pack(WHOLE), filters)) == 1).all()


def test_packed_data_that_are_none_are_refused(tmp_path):
    path = write_chunk(tmp_path / "a.h5", b"no deflate", (DEFLATE,))
    with pytest.raises(DataError, match="rows 0 to 11 cannot be read"):
        read_all(path)


def test_a_checksum_that_takes_the_place_of_values_is_refused(tmp_path):
    path = write_chunk(tmp_path / "a.h5", WHOLE, (FLETCHER32,))
    assert "1 of its 1 chunks have an impossible size" in refused(path)


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("fletcher32", [True, False])
def test_every_allowed_filter_is_read_as_written(tmp_path, compression, shuffle, fletcher32):
    channels = dict(zip(NAMES, make_channels(50), strict=True))
    path = write_file(tmp_path / "a.h5", 50, **dict.fromkeys(NAMES))
    with h5py.File(path, "a") as file:
        for name, values in channels.items():
            file.create_dataset(
                name, data=values, chunks=(7, 1, 2, 3, 1), compression=compression, shuffle=shuffle,
                fletcher32=fletcher32,
            )  # fmt: skip
    rows = np.array([0, 3, 6, 7, 20, 21, 22, 49])
    with open_hdf5(config(path)) as source:
        for read, wanted in zip(source.read(rows), channels.values(), strict=True):
            assert np.array_equal(read, wanted[rows])


@pytest.mark.parametrize("settings", [{}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True}])
def test_strings_of_any_length_are_read_from_chunks(tmp_path, settings):
    """In the file each is 16 bytes, and where it lies: not the 8 of a pointer in memory."""
    path = write_file(tmp_path / "a.h5", label=None)
    with h5py.File(path, "a") as file:
        labels = file.create_dataset("label", (12,), h5py.string_dtype(), chunks=(5,), maxshape=(None,), **settings)
        labels[:] = ["walk", "box", "jump"] * 4
    index = index_of(path)
    assert index.classes == ("box", "jump", "walk")
    assert index.labels.tolist() == [2, 0, 1] * 4


def test_labels_that_unpack_to_too_little_are_refused(tmp_path):
    path = write_file(tmp_path / "a.h5", label=None)
    with h5py.File(path, "a") as file:
        labels = file.create_dataset("label", (12,), "int64", chunks=(12,), compression="gzip")
        labels.id.write_direct_chunk((0,), zlib.compress(bytes(8)))
    assert "dataset 'label': the chunk at (0,) unpacks to 8 bytes, not 96" in refused(path)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", "|i1", ">u2", "<i4"])
@pytest.mark.parametrize("settings", [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}])
@pytest.mark.parametrize("layout", [slice(None), np.s_[..., 0]], ids=["5-D", "4-D"])
def test_numbers_of_every_type_are_read_as_written(tmp_path, dtype, settings, layout):
    values = np.random.default_rng(0).integers(0, 100, (50, 1, POINTS, FRAMES, 1)).astype(dtype)
    path = write_file(tmp_path / "a.h5", 50, channel_2=None)
    with h5py.File(path, "a") as file:
        chunks = (7, 1, 3, 2, 1)[: values[layout].ndim]  # stick out at the end of every axis but the depth
        file.create_dataset("channel_2", data=values[layout], chunks=chunks if settings else None, **settings)
    with open_hdf5(config(path)) as source:
        for rows in (np.arange(50), np.arange(5, 9), np.array([0, 3, 6, 7, 20, 21, 22, 49])):
            read = source.read(rows)[1]
            assert read.dtype == np.dtype(dtype).newbyteorder("=")
            assert np.array_equal(read, values[rows])


def test_numbers_that_numpy_has_no_type_for_are_converted_by_hdf5(tmp_path):
    """Floats with a shorter exponent than IEEE's: h5py reads them as the next larger type, with HDF5's conversion."""
    path = write_file(tmp_path / "a.h5", channel_2=None)
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 24, 7, 0, 24)  # sign, exponent, mantissa: place and bits
    kind.set_ebias(63)
    values = np.arange(240, dtype="float32").reshape(SHAPE)
    with h5py.File(path, "a") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(SHAPE)
        plist.set_deflate(4)
        dataset = h5py.h5d.create(file.id, b"channel_2", kind, h5py.h5s.create_simple(SHAPE), plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    assert np.array_equal(read_all(path), values)


@pytest.mark.parametrize(("mask", "pack"), [(0b01, zlib.compress), (0b11, bytes)])
def test_filters_that_a_chunk_was_stored_without_are_not_undone(tmp_path, mask, pack):
    values = np.arange(240, dtype="float32").reshape(SHAPE)
    path = write_chunk(tmp_path / "a.h5", pack(values.tobytes()), (SHUFFLE, DEFLATE), mask)
    assert np.array_equal(read_all(path), values)


@pytest.mark.parametrize("missing", [1, 4])
@pytest.mark.parametrize("filters", [(DEFLATE,), (SHUFFLE, DEFLATE)])
def test_packed_data_without_their_end_or_checksum_are_refused(tmp_path, missing, filters):
    packed = zlib.compress(WHOLE)[:-missing]
    with pytest.raises(
        DataError, match=r"rows 0 to 11 cannot be read: the chunk at \(0, 0, 0, 0, 0\): the packed data break off"
    ):
        read_all(write_chunk(tmp_path / "a.h5", packed, filters))


def test_packed_data_with_a_wrong_checksum_are_refused(tmp_path):
    packed = bytearray(zlib.compress(WHOLE))
    packed[-1] ^= 1
    with pytest.raises(DataError, match="rows 0 to 11 cannot be read"):
        read_all(write_chunk(tmp_path / "a.h5", bytes(packed), (DEFLATE,)))


def test_chunks_that_hdf5_unpacks_are_looked_at_once_for_each_opening_of_a_file(tmp_path, monkeypatch):
    path = write_file(tmp_path / "a.h5", channel_2=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("channel_2", data=np.ones(SHAPE), chunks=SHAPE, compression="gzip", fletcher32=True)
    looked = []
    unpacker = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", lambda: looked.append(1) or unpacker())
    for _ in range(2):
        with open_hdf5(config(path)) as source:
            first = source.read(np.arange(4))[1]
            count = len(looked)
            assert np.array_equal(source.read(np.arange(12))[1][:4], first)
            assert len(looked) == count > 0
        looked.clear()


READ_WHILE_ANOTHER_THREAD_WRITES = """
import sys, threading
import h5py
import numpy as np
from pointcnn_cli.hdf5.reading import read_rows

packed, other = sys.argv[1:]
values = np.random.default_rng(0).random((64, 1, 16, 12, 1))
with h5py.File(packed, "w") as file:
    file.create_dataset("a", data=values, chunks=(1, 1, 16, 12, 1), compression="gzip")
over = threading.Event()

def write():
    while not over.is_set():
        with h5py.File(other, "w") as file:
            file.create_dataset("b", data=values)

writer = threading.Thread(target=write)
writer.start()
try:
    with h5py.File(packed) as file:
        for _ in range(50):
            found = np.empty_like(values)
            read_rows(file["a"], np.arange(64), found, packed)
            assert (found == values).all()
finally:
    over.set()
    writer.join()
"""


def test_packed_rows_are_read_while_another_thread_uses_hdf5(tmp_path):
    # In a process of its own: without the lock HDF5 may take the process down.
    command = [sys.executable, "-c", READ_WHILE_ANOTHER_THREAD_WRITES, tmp_path / "a.h5", tmp_path / "b.h5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")

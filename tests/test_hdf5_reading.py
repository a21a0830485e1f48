"""Where rows are read to and from: stored in one piece, into arrays that are given, from files that change."""

import ctypes
import os
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import NAMES, config, make_channels, write_file

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.inspect import inspect_file
from pointcnn_cli.hdf5.plain import PlainRows
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.hdf5.samples import ArraySource, PartSource, Samples

ROWS = np.array([0, 1, 2, 5, 9, 10])


def test_rows_in_one_piece_are_read_without_hdf5(tmp_path, monkeypatch):
    path = write_file(tmp_path / "a.h5")
    with open_hdf5(config(path)) as source:
        monkeypatch.setattr(h5py.Dataset, "read_direct", None)
        monkeypatch.setattr(h5py.Dataset, "__getitem__", None)
        for read, wanted in zip(source.read(ROWS), make_channels(12), strict=True):
            assert np.array_equal(read, wanted[ROWS])


def test_a_user_block_before_the_data_is_skipped(tmp_path):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path) as file, h5py.File(tmp_path / "b.h5", "w", userblock_size=4096) as copy:
        for name in file:
            file.copy(name, copy)
    with open_hdf5(config(tmp_path / "b.h5")) as source:
        for read, wanted in zip(source.read(ROWS), make_channels(12), strict=True):
            assert np.array_equal(read, wanted[ROWS])


@pytest.mark.parametrize(
    ("settings", "dtype", "wanted"),
    [({}, ">f4", ">f4"), ({}, "<f4", "<f8"), ({"chunks": (4, 2)}, "<f4", "<f4")],
    ids=["byte order", "conversion", "chunks"],
)
def test_what_is_not_stored_as_wanted_in_one_piece_is_left_to_hdf5(tmp_path, settings, dtype, wanted):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", data=np.ones((8, 2), dtype), **settings)
        assert PlainRows.find(dataset.id, np.dtype(wanted)) is None


def test_a_file_that_is_cut_off_while_open_is_refused(tmp_path):
    path = write_file(tmp_path / "a.h5", 400)
    with open_hdf5(config(path)) as source:
        os.truncate(path, 20_000)
        with pytest.raises(
            DataError, match=r"dataset 'channel_\d': rows 0 to 399 cannot be read: the file ends before"
        ):
            source.read(np.arange(400))


def open_sources(path):
    """The rows of a file from the file, from memory, and as a part of the file's rows."""
    source = open_hdf5(config(path))
    channels = tuple(source.read(np.arange(source.index.rows)))
    yield source
    yield ArraySource(Samples(channels, source.index.labels, source.index.classes))
    yield PartSource(source, np.arange(source.index.rows))
    source.close()


@pytest.mark.parametrize("settings", [{}, {"compression": "gzip", "chunks": (4, 1, 2, 2, 1)}])
@pytest.mark.parametrize(("stored", "held"), [("float32", "float32"), ("float64", "float32"), (">f4", "float32")])
def test_rows_are_read_into_arrays_that_are_given(tmp_path, settings, stored, held):
    path, channels = tmp_path / "a.h5", make_channels(12, stored)
    write_file(path, **dict.fromkeys(NAMES))
    with h5py.File(path, "a") as file:
        for name, values in zip(NAMES, channels, strict=True):
            file.create_dataset(name, data=values, **settings)
    for source in open_sources(path):
        window = tuple(np.zeros((9, *values.shape[1:]), held) for values in channels)
        out = tuple(array[2:8] for array in window)
        read = source.read(ROWS, out)
        for array, given, values, whole in zip(read, out, channels, window, strict=True):
            assert array is given
            assert np.array_equal(given, values[ROWS])
            assert not whole[:2].any()
            assert not whole[8:].any()


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_values_that_the_given_arrays_cannot_hold_are_refused_as_they_are_stored(tmp_path, value):
    channels = make_channels(12, "float64")
    channels[2][5, 0, 1, 2, 0] = value
    path = write_file(tmp_path / "a.h5", **dict(zip(NAMES, channels, strict=True)))
    with open_hdf5(config(path)) as source:
        out = tuple(np.zeros((len(ROWS), *values.shape[1:]), "float32") for values in channels)
        with pytest.raises(DataError, match=rf"row 5, dataset 'channel_3': {value} at depth 0".replace("+", r"\+")):
            source.read(ROWS, out)


@pytest.mark.parametrize(
    "wrong",
    [lambda shape: np.zeros(shape, "float32")[:-1], lambda shape: np.zeros((*shape[:-1], 2), "float32")[..., :1]],
    ids=["a row too few", "every second value"],
)
def test_given_arrays_of_another_shape_or_not_contiguous_are_a_bug_of_the_caller(tmp_path, wrong):
    path = write_file(tmp_path / "a.h5", **dict(zip(NAMES, make_channels(12, "float32"), strict=True)))
    with open_hdf5(config(path)) as source, pytest.raises(ValueError, match="contiguous arrays"):
        source.read(np.arange(12), tuple(wrong((12, *shape, 1)) for shape in source.index.channel_shapes))


@pytest.mark.parametrize("chunks", [(7, 1, 3, 3, 1), (64, 1, 8, 8, 1)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_chunks_at_the_edge_that_were_stored_unpacked_are_read(tmp_path, chunks, shuffle):
    """H5Pset_chunk_opts, which h5py does not have: no filter mask tells of it."""
    maps = Path("/proc/self/maps")
    libraries = (
        {line.split()[-1] for line in maps.read_text().splitlines() if "libhdf5-" in line} if maps.exists() else ()
    )
    if not libraries:
        pytest.skip("libhdf5 is not found in this process")
    values = np.random.default_rng(0).integers(0, 100, (50, 1, 5, 4, 1)).astype("float32")
    path = write_file(tmp_path / "a.h5", 50, channel_2=None)
    with h5py.File(path, "a", libver="latest") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(chunks)
        if shuffle:
            plist.set_shuffle()
        plist.set_deflate(4)
        dont_filter_partial_chunks = 2
        hdf5 = ctypes.CDLL(libraries.pop())
        assert hdf5.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(dont_filter_partial_chunks)) >= 0
        space = h5py.h5s.create_simple(values.shape, (h5py.h5s.UNLIMITED,) * 5)
        dataset = h5py.h5d.create(file.id, b"channel_2", h5py.h5t.IEEE_F32LE, space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    with open_hdf5(config(path)) as source:
        assert np.array_equal(source.read(np.arange(50))[1], values)


def test_rows_that_claim_to_begin_where_the_file_does_are_refused(tmp_path):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path) as file:
        dataset = file["channel_2"].id
        place, size = dataset.get_offset(), dataset.get_storage_size()
    content = path.read_bytes()
    assert content.count(struct.pack("<QQ", place, size)) == 1
    path.write_bytes(content.replace(struct.pack("<QQ", place, size), struct.pack("<QQ", 0, size)))
    with (
        pytest.raises(DataError, match="dataset 'channel_2': rows 0 to 11 cannot be read"),
        open_hdf5(config(path)) as it,
    ):
        it.read(np.arange(12))
    assert "cannot be read" in str(inspect_file(path, config(path))["problems"])

"""Opening and reading HDF5 files: what is accepted, what is refused and in which words."""

import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import FRAMES, NAMES, POINTS, config, index_of, make_channels, refused, write_file

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.reading import open_hdf5

# --- what a good file gives ---


def test_index_holds_labels_classes_groups_recordings_and_start_frames(tmp_path):
    path = write_file(
        tmp_path / "a.h5",
        classes=["walk", "sit", "jump"],
        group=np.repeat([7, 3, 5], 4),
        recording=np.repeat([b"r1", b"r0"], 6),
        start_frame=np.arange(12) * 16,
    )
    index = index_of(path)
    assert index.rows == 12
    assert index.channel_shapes == ((3, POINTS, FRAMES), *[(1, POINTS, FRAMES)] * 3)
    assert index.classes == ("walk", "sit", "jump")
    assert index.labels.tolist() == [0, 1, 2] * 4
    assert [index.group_names[code] for code in index.groups] == ["7"] * 4 + ["3"] * 4 + ["5"] * 4
    assert len(set(index.recordings[:6])) == len(set(index.recordings[6:])) == 1
    assert index.recordings[0] != index.recordings[6]
    assert index.start_frames.tolist() == (np.arange(12) * 16).tolist()
    assert index.locate(11) == f"{path}, row 11"
    assert index.notes == ()


def test_opening_reads_no_channel_values_and_imports_no_tensorflow(tmp_path):
    path = write_file(tmp_path / "a.h5", channel_2=np.full((12, 1, POINTS, FRAMES, 1), np.nan, "float32"))
    index_of(path)  # the NaN is not seen
    code = "import sys, pointcnn_cli.hdf5.reading, pointcnn_cli.hdf5.inspect, pointcnn_cli.hdf5.writing;"
    code += "print([m for m in ('tensorflow', 'keras', 'sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_configured_names_and_names_inside_hdf5_groups_are_found(tmp_path):
    path = tmp_path / "a.h5"
    channels = make_channels(6)
    with h5py.File(path, "w") as file:
        for name, values in zip(("in/xyz", "in/v", "in/i", "in/r"), channels, strict=True):
            file[name] = values
        file["out/y"] = np.arange(6) % 2
        file["who"] = np.arange(6) // 2
    settings = {"channels": ("in/xyz", "/in/v", "in/i", "in/r"), "labels": "out/y", "groups": "who"}
    with open_hdf5(config(path, **settings)) as source:
        assert source.index.group_names == ("0", "1", "2")
        assert np.array_equal(source.read(np.arange(6))[1], channels[1])


def test_groups_can_be_switched_off_and_a_named_one_must_exist(tmp_path):
    path = write_file(tmp_path / "a.h5", group=np.arange(12))
    assert index_of(path, groups=None).groups is None
    message = refused(path, groups="subject")
    assert "dataset 'subject'" in message
    assert "channel_1, channel_2, channel_3, channel_4, group, label" in message
    assert "set data.groups" in message


def test_group_names_attribute_names_the_groups(tmp_path):
    path = write_file(tmp_path / "a.h5", group=np.repeat([2, 0], 6))
    with h5py.File(path, "a") as file:
        file["group"].attrs["names"] = ["ann", "bob", "cid"]
    index = index_of(path)
    assert [index.group_names[code] for code in index.groups] == ["cid"] * 6 + ["ann"] * 6
    assert set(index.group_names) == {"ann", "cid"}


# --- reading ---


@pytest.mark.parametrize("layout", ["contiguous", "gzip", "big_endian", "four_axes", "odd_chunks"])
def test_scattered_rows_equal_numpy_indexing(tmp_path, layout):
    rows, generator = 700, np.random.default_rng(1)
    channels = make_channels(rows, ">f4" if layout == "big_endian" else "float16")
    path = write_file(tmp_path / "a.h5", rows, **dict.fromkeys(NAMES))
    with h5py.File(path, "a") as file:
        for name, values in zip(NAMES, channels, strict=True):
            options = {}
            if layout == "gzip":
                options = {"chunks": (32, *values.shape[1:]), "compression": "gzip", "shuffle": True}
            if layout == "odd_chunks":
                options = {"chunks": (17, 1, 3, 2, 1), "compression": "lzf", "fletcher32": True}
            file.create_dataset(name, data=values[..., 0] if layout == "four_axes" else values, **options)
    with open_hdf5(config(path)) as source:
        for count in (0, 1, 2, 40, 650, rows):
            chosen = np.sort(generator.choice(rows, count, replace=False))
            for got, whole in zip(source.read(chosen), channels, strict=True):
                assert got.dtype == whole.dtype.newbyteorder("=")
                assert np.array_equal(got, whole[chosen])


def test_rows_are_numbered_across_files_in_the_order_given(tmp_path):
    paths = [write_file(tmp_path / name, rows) for name, rows in (("b.h5", 5), ("a.h5", 7))]
    with open_hdf5(config(*paths)) as source:
        assert [span.first_row for span in source.index.files] == [0, 5]
        assert source.index.locate(6) == f"{paths[1]}, row 1"
        got = source.read(np.array([4, 5, 11]))[0]
    assert np.array_equal(got, np.concatenate([make_channels(5)[0][[4]], make_channels(7)[0][[0, 6]]]))
    globbed = DataConfig(path=str(tmp_path / "*.h5"))
    with open_hdf5(globbed) as source:
        assert [Path(span.path).name for span in source.index.files] == ["a.h5", "b.h5"]


def test_files_of_different_element_types_are_read_as_the_wider(tmp_path):
    one = write_file(tmp_path / "a.h5", 3)
    two = write_file(tmp_path / "b.h5", 3, channel_1=make_channels(3, "float32")[0] + np.float32(0.001))
    with open_hdf5(config(one, two)) as source:
        values = source.read(np.arange(6))[0]
    assert values.dtype == np.float32
    assert np.array_equal(values[3:], make_channels(3, "float32")[0] + np.float32(0.001))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_as_float32_name_file_dataset_row_and_count(tmp_path, value):
    channels = make_channels(12, "float64")
    channels[2][9, 0, 3, 2, 0] = channels[2][10, 0, 0, 0, 0] = value
    path = write_file(tmp_path / "a.h5", **dict(zip(NAMES, channels, strict=True)))
    with open_hdf5(config(path)) as source:
        source.read(np.arange(9))
        with pytest.raises(DataError) as caught:
            source.read(np.arange(3, 12))
    assert f"{path}, row 9, dataset 'channel_3'" in caught.value.message
    assert "point 3, frame 2 (2 values in 2 rows" in caught.value.message


def test_float16_infinity_and_nan_are_seen_and_its_largest_number_is_not_refused(tmp_path):
    channels = make_channels(3)
    channels[0][0, 0, 0, 0, 0] = np.finfo(np.float16).max
    path = write_file(tmp_path / "a.h5", 3, channel_1=channels[0])
    with open_hdf5(config(path)) as source:
        source.read(np.arange(3))
    for value in (np.inf, np.nan):
        channels[0][1, 2, 0, 0, 0] = value
        path = write_file(tmp_path / f"{value}.h5", 3, channel_1=channels[0])
        expected = pytest.raises(DataError, match=r"row 1, dataset 'channel_1'.*depth 2")
        with open_hdf5(config(path)) as source, expected:
            source.read(np.arange(3))


def test_rows_must_increase(tmp_path):
    with open_hdf5(config(write_file(tmp_path / "a.h5"))) as source:
        for rows in ([1, 1], [2, 1], [-1], [12]):
            with pytest.raises(ValueError, match="strictly increase"):
                source.read(np.array(rows))


def test_real_recordings_open_and_read_as_stored(radhar_path):
    names = ("xyz", "velocity", "intensity", "range")
    with open_hdf5(DataConfig(path=str(radhar_path), channels=names)) as source:
        index = source.index
        assert index.classes == ("boxing", "jack", "jump", "squats", "walk")
        assert (index.rows, len(index.group_names), index.recordings) == (4583, 131, None)
        rows = np.sort(np.random.default_rng(0).choice(4583, 300, replace=False))
        velocity = source.read(rows)[1]
    with h5py.File(radhar_path) as file:
        assert np.array_equal(velocity, file["velocity"][:][rows])


# --- layout ---


@pytest.mark.parametrize("rank", [4, 5])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_depths_one_to_four_with_and_without_the_last_axis(tmp_path, rank, depth):
    values = np.ones((12, depth, POINTS, FRAMES, 1)[:rank], "int16")
    with open_hdf5(config(write_file(tmp_path / "a.h5", channel_3=values))) as source:
        assert source.read(np.arange(12))[2].shape == (12, depth, POINTS, FRAMES, 1)


BAD_SHAPES = {
    "depth last": ((12, 5, 4, 3), "depth last? np.moveaxis(x, -1, 1)"),
    "depth last of five": ((12, 64, 48, 1, 3), "depth last? np.moveaxis(x, -1, 1)"),
    "channels first": ((12, 1, 3, 64, 48), "channels first? np.moveaxis(x, 1, -1)"),
    "no depth": ((12, 5, 4), "x[:, None]"),
    "all in one": ((12, 6, 5, 40), "one dataset for each of the four channels"),
    "six axes": ((12, 1, 5, 4, 1, 1), "expected shape (rows, depth 1 to 4, points, frames)"),
    "no points": ((12, 1, 0, 4), "found (12, 1, 0, 4)"),
    "no rows": ((0, 1, 5, 4), "no rows: its shape is (0, 1, 5, 4)"),
    "flat": ((12,), "found (12,)"),
}


@pytest.mark.parametrize("kind", BAD_SHAPES)
def test_wrong_shapes_name_the_dataset_and_hint_at_the_layout(tmp_path, kind):
    shape, words = BAD_SHAPES[kind]
    path = write_file(tmp_path / "a.h5", channel_2=np.ones(shape))
    message = refused(path)
    assert f"{path}, dataset 'channel_2'" in message
    assert words in message


def test_unequal_rows_points_and_frames_are_listed(tmp_path):
    path = write_file(tmp_path / "a.h5", channel_3=np.ones((11, 1, POINTS + 1, FRAMES + 1)))
    message = refused(path)
    assert "differ in rows: channel_1 12, channel_2 12, channel_3 11, channel_4 12" in message
    assert "differ in points" in message
    assert "differ in frames" in message


def test_all_problems_of_all_files_come_at_once(tmp_path):
    one = write_file(tmp_path / "a.h5", channel_2=None, channel_3=np.ones((12, 5, 4)), labels=np.full(12, 0.5))
    message = refused(one, tmp_path / "absent.h5")
    assert message.startswith("4 problems in the data:\n")
    for words in (
        "'channel_2': there is no such",
        "'channel_3': expected shape",
        "'label': values must",
        "no such file",
    ):
        assert words in message


def test_a_missing_dataset_lists_what_is_there_and_the_nearest_name(tmp_path):
    path = write_file(tmp_path / "a.h5", channel_1=None, Chanel_1=make_channels(12)[0])
    message = refused(path)
    assert "dataset 'channel_1': there is no such dataset; the file has: Chanel_1, channel_2" in message
    assert "did you mean 'Chanel_1'?" in message
    assert "set data.channels" in message


# --- files ---


def test_a_missing_file_names_what_is_near(tmp_path):
    write_file(tmp_path / "recordings.h5")
    message = refused(tmp_path / "recording.h5")
    assert message.startswith(f"{tmp_path / 'recording.h5'}: no such file\n")
    assert "recordings.h5" in message
    assert "there is no folder" in refused(tmp_path / "nowhere" / "a.h5")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"label,x,y\n1,2,3\n", "not an HDF5 file, but text"),
        (b"\x93NUMPY\x01\x00v\x00", "a NumPy .npy file"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"MATLAB 5.0 MAT-file" + bytes(200), "older than v7.3"),
        (bytes(5000), "not an HDF5 file"),
    ],
)
def test_what_is_not_hdf5_is_named(tmp_path, content, words):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    message = refused(path)
    assert words in message
    assert message.count("\n") == 1


def test_directories_globs_without_a_match_and_odd_paths(tmp_path):
    assert "found a directory" in refused(tmp_path)
    assert "not a usable path" in refused(Path(f"{tmp_path}/{'x' * 300}"))
    assert "not a usable path" in refused(Path("a\0b"))
    with pytest.raises(DataError, match="no file matches this pattern"):
        open_hdf5(DataConfig(path=str(tmp_path / "*.h5")))


def test_a_path_with_glob_characters_that_exists_is_that_file(tmp_path):
    path = write_file(tmp_path / "run[1].h5")
    with open_hdf5(DataConfig(path=str(path))) as source:
        assert source.index.files[0].path == str(path)


def test_every_truncation_is_refused_with_one_message(tmp_path):
    whole = write_file(tmp_path / "whole.h5").read_bytes()
    for size in np.linspace(1, len(whole) - 1, 20).astype(int):
        path = tmp_path / "cut.h5"
        path.write_bytes(whole[:size])
        assert re.search("truncated|not an HDF5 file|damaged", refused(path))


def test_a_file_that_another_process_writes_is_said_to_be_in_use(tmp_path):
    path = write_file(tmp_path / "a.h5")
    code = f"import h5py, sys; f = h5py.File({str(path)!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        message = refused(path)
        writer.communicate()
    assert "in use by another process" in message
    index_of(path)


def test_a_file_whose_writer_was_killed_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    code = f"import h5py, os; f = h5py.File({str(path)!r}, 'w', libver='latest'); f['x'] = 1; f.flush(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert "open for writing" in refused(path)


def test_failed_opening_leaves_no_file_open(tmp_path):
    good, bad = write_file(tmp_path / "a.h5"), write_file(tmp_path / "b.h5", channel_1=None)
    refused(good, bad)
    for path in (good, bad):
        with h5py.File(path, "a"):  # would fail while it is open for reading
            pass

"""`convert_files` on recordings of points: tables (.csv) and text logs (.txt, folders), cut into windows."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from test_convert import NAMES, convert, refused

from pointcnn_cli.convert import windows
from pointcnn_cli.errors import DataError

HEADER = "recording,group,label,frame,x,y,z,velocity,intensity,range"
CUT = {"points": 3, "frames": 4, "stride": 2}


def make_table(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def table_lines(recording: str, group: str, label: str, frames: range, points: int = 2) -> list[str]:
    """One line a point: x is 100 * frame + point + 1, the others differ from it and from each other."""
    return [
        f"{recording},{group},{label},{frame},{v},{v + 0.25},{v + 0.5},{-v},{v + 20},{v + 30}"
        for frame in frames
        for point in range(points)
        for v in [100 * frame + point + 1]
    ]


def make_block(point_id: int, x: float = 1.0, **fields: object) -> str:
    """A block as the driver logs it, with x, y = x + 0.25, z = x + 0.5, velocity = -x, intensity 20, range 2."""
    values = {"x": x, "y": x + 0.25, "z": x + 0.5, "range": 2.0, "velocity": -x, "doppler_bin": 8, "bearing": -73.3}
    values = {"point_id": point_id} | values | {"intensity": 20.0} | fields
    head = 'header: \n  seq: 3026037\n  stamp: \n    secs: 1561686032\n    nsecs: 152442104\n  frame_id: "ti_mmwave"\n'
    return head + "".join(f"{key}: {value}\n" for key, value in values.items() if value is not None) + "---\n"


def make_log(path: Path, frames: int, points: int = 2, first: float = 1.0) -> Path:
    """A log of `frames` frames: x is first + frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(make_block(p, first + f) for f in range(frames) for p in range(points)))
    return path


# --- tables ---


def test_table_becomes_windows_sorted_by_label_recording_and_start(tmp_path):
    lines = [
        *table_lines("r2", "anna", "walk", range(10, 17)),
        *table_lines("r3", "bob", "box", range(4)),
        *table_lines("r1", "bob", "walk", range(5)),
    ]
    np.random.default_rng(0).shuffle(lines)  # any order of lines, points of a frame aside
    lines.sort(key=lambda line: float(line.split(",")[4]) % 100)
    summary = convert(make_table(tmp_path / "in.csv", *lines), tmp_path / "out.h5", **CUT)
    assert (summary.rows, summary.classes, summary.class_rows, summary.groups) == (4, ("box", "walk"), (1, 3), 2)
    assert summary.notes == ()
    with h5py.File(tmp_path / "out.h5") as file:
        assert [file[name].shape for name in NAMES] == [(4, 3, 3, 4, 1), *[(4, 1, 3, 4, 1)] * 3]
        assert file["channel_1"].dtype == np.float32
        assert file["label"][:].tolist() == [0, 1, 1, 1]
        assert [str(file["group"].attrs["names"][i]) for i in file["group"][:]] == ["bob", "bob", "anna", "anna"]
        assert file["recording"][:].tolist() == [0, 1, 2, 2]
        assert file["start_frame"][:].tolist() == [0, 0, 10, 12]
        last = [file[name][3, :, :, :, 0] for name in NAMES]
    x = np.array([[1201, 1301, 1401, 1501], [1202, 1302, 1402, 1502], [0, 0, 0, 0]])  # (points, frames)
    filled = x > 0
    np.testing.assert_array_equal(last[0], [x, x + 0.25 * filled, x + 0.5 * filled])
    np.testing.assert_array_equal(last[1][0], -x)
    np.testing.assert_array_equal(last[2][0], x + 20 * filled)
    np.testing.assert_array_equal(last[3][0], x + 30 * filled)


def test_points_beyond_the_slots_short_recordings_and_empty_windows_are_noted(tmp_path):
    lines = [
        *table_lines("long", "a", "walk", range(4), points=5),
        *table_lines("gap", "a", "walk", [0, 1, 2, 3, 20]),
        *table_lines("short", "b", "jump", range(3)),
    ]
    summary = convert(make_table(tmp_path / "in.csv", *lines), tmp_path / "out.h5", **CUT)
    notes = "\n".join(summary.notes)
    assert "8 of 30 points left out: beyond the 3 point slots" in notes
    assert "shorter than 4 frames, no window cut from it: short" in notes
    assert "labels without a single window, left out of the classes: jump" in notes
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["start_frame"][:].tolist() == [0, 2, 0]  # of `gap`, nothing lies in frames 4 to 19; then `long`
        np.testing.assert_array_equal(file["channel_1"][2, 0, :, 0, 0], [1, 2, 3])


def test_columns_in_any_order_optional_ones_left_out_and_others_passed_over(tmp_path):
    rows = [f"{frame},9,3,4,0,r,walk,-1,5" for frame in range(4)]
    path = make_table(tmp_path / "in.csv", *rows, header="frame,time,x,y,z,recording,label,velocity, intensity")
    summary = convert(path, tmp_path / "out.h5", **CUT)
    notes = "\n".join(summary.notes)
    assert "no column group" in notes
    assert "no column range; computed as the distance" in notes
    assert "columns not used: time" in notes
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["channel_4"][0, 0, 0, :, 0].tolist() == [5, 5, 5, 5]
        assert file["group"].attrs["names"].tolist() == ["r"]


def test_table_as_spreadsheets_save_it(tmp_path):
    text = "\r\n".join([HEADER, *table_lines('"a, b"', "g", "walk", range(4)), ""])
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert convert(tmp_path / "in.csv", tmp_path / "out.h5", **CUT).rows == 1


GOOD = "r,g,walk,0,1,2,3,4,5,6"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([GOOD, "r,g,walk,1,1,2,x3,4,5,6"], ["in.csv:3:", "z is 'x3'"]),
        ([GOOD, "r,g,walk,1,1,2,3,4,,6"], ["in.csv:3:", "intensity is ''"]),
        ([GOOD, "r,g,walk,1,1,nan,3,4,5,6"], ["in.csv:3:", "y of this point is nan"]),
        ([GOOD, "r,g,walk,1,1,2,3,1e300,5,6"], ["in.csv:3:", "velocity of this point is 1e+300"]),
        ([GOOD, "r,g,walk,1.5,1,2,3,4,5,6"], ["in.csv:3:", "frame is 1.5"]),
        ([GOOD, "r,g,walk,1561686032152,1,2,3,4,5,6"], ["in.csv:3:", "time stamp"]),
        ([GOOD, "", "r,g,walk,1,1,2"], ["in.csv:4:", "6 cells; expected 10"]),
        ([GOOD, "r,g,box,1,1,2,3,4,5,6"], ["in.csv:3:", "'box'", "'walk' in line 2"]),
        ([GOOD, "r,h,walk,1,1,2,3,4,5,6"], ["in.csv:3:", "'h'", "'g'"]),
        ([GOOD, "q,g,,1,1,2,3,4,5,6"], ["in.csv:3:", "label is empty"]),
        ([GOOD, f"q,g,{'w' * 200_000},1,1,2,3,4,5,6"], ["in.csv:3:", "the record is longer than 4,096 characters"]),
        ([], ["no point below the header"]),
        ([GOOD], ["none of the 1 recordings holds a window of 4 frames"]),
        ([GOOD, "r,g,walk,2000000000,1,2,3,4,5,6"], ["r: ", "windows", "--stride"]),
    ],
)
def test_bad_lines_are_named_by_file_and_line(tmp_path, lines, words):
    message = refused(DataError, make_table(tmp_path / "in.csv", *lines), tmp_path / "out.h5", **CUT)
    assert [word for word in words if word not in message] == [], message


def test_bad_headers_encodings_and_repeated_recordings_are_named(tmp_path):
    path, output = tmp_path / "in.csv", tmp_path / "out.h5"
    assert "no column label, z" in refused(
        DataError, make_table(path, header="recording,frame,x,y,velocity,intensity"), output
    )
    assert "column x more than once" in refused(DataError, make_table(path, header=HEADER + ",x"), output)
    path.write_bytes(b"")
    assert "in.csv:1: no column recording" in refused(DataError, path, output)
    path.write_bytes(HEADER.encode() + b"\nr,g,J\xfcrgen,0,1,2,3,4,5,6\n")
    assert "not UTF-8" in refused(DataError, path, output)
    tables = [make_table(tmp_path / name, *table_lines("r", "g", "walk", range(4))) for name in ("a.csv", "b.csv")]
    assert "b.csv: recording 'r' is in another table too" in refused(DataError, tables, output, **CUT)


# --- text logs ---


def test_folder_of_logs_becomes_windows_labelled_by_folder(tmp_path):
    root = tmp_path / "Train"
    make_log(root / "walk" / "b.txt", 7, first=100.0)
    make_log(root / "walk" / "a.txt", 4, first=200.0)
    make_log(root / "box" / "z.txt", 5, first=300.0)
    (root / "walk" / "._a.txt").write_bytes(b"\x00\x05")
    (root / ".DS_Store").write_bytes(b"\x00")
    summary = convert(root, tmp_path / "out.h5", **CUT)
    assert (summary.rows, summary.classes, summary.groups, summary.notes) == (4, ("box", "walk"), 3, ())
    assert [file.name for file in summary.files] == ["z.txt", "a.txt", "b.txt"]
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["group"].attrs["names"].tolist() == ["box/z", "walk/a", "walk/b"]
        assert file["group"][:].tolist() == [0, 1, 2, 2]
        assert file["start_frame"][:].tolist() == [0, 0, 0, 2]
        np.testing.assert_array_equal(file["channel_1"][3, :, 1, 0, 0], [102, 102.25, 102.5])
        assert [file[name][3, 0, 1, 0, 0] for name in NAMES[1:]] == [-102, 20, 2]
        assert not file["channel_1"][:, :, 2].any()


def test_a_point_keeps_its_id_as_slot_and_ids_beyond_the_slots_are_noted(tmp_path):
    path = tmp_path / "walk" / "a.txt"
    path.parent.mkdir()
    path.write_text("".join(make_block(i, f + 1) for f in range(4) for i in (0, 2, 3)))
    summary = convert(path, tmp_path / "out.h5", **CUT)
    assert "4 of 12 points left out: beyond the 3 point slots of their frame" in summary.notes
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["channel_1"][0, 0, :, :, 0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [1, 2, 3, 4]]


def test_what_is_cut_off_at_either_end_of_a_log_is_left_out_and_noted(tmp_path):
    whole = make_log(tmp_path / "walk" / "a.txt", 4).read_text()
    path = tmp_path / "walk" / "b.txt"
    for tail in ("header: \n", make_block(2)[:-20], make_block(2).removesuffix("---\n"), "velo", "--"):
        path.write_text(make_block(5, 9.0) + whole + tail)
        summary = convert(path, tmp_path / "out.h5", force=True, **CUT)
        notes = "\n".join(summary.notes)
        assert "stops inside a block, which is left out: walk/b" in notes
        assert "starts inside a frame, whose points are left out: walk/b" in notes
        with h5py.File(tmp_path / "out.h5") as file:
            assert file["channel_1"][0, 0, :, :, 0].tolist() == [[1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0]]
    path.write_text(whole.removesuffix("\n"))  # a last line without line end is whole when it is the end mark
    assert not any("stops inside" in note for note in convert(path, tmp_path / "out.h5", force=True, **CUT).notes)


def test_line_ends_of_windows_and_order_of_fields_do_not_matter(tmp_path):
    path = make_log(tmp_path / "walk" / "a.txt", 4)
    convert(path, tmp_path / "a.h5", **CUT)
    blocks = path.read_text().split("---\n")[:-1]
    turned = "".join("\n".join(reversed(block.splitlines())) + "\n---\n" for block in blocks)
    path.write_bytes(turned.replace("\n", "\r\n").encode())
    convert(path, tmp_path / "b.h5", **CUT)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (make_block(1).replace("y: 1.25", "y 1.25"), ["a.txt:25:", "expected 'name: value' or '---'", "'y 1.25'"]),
        (make_block(1, velocity="fast"), ["a.txt:28:", "value of velocity is not a number", "fast"]),
        (make_block(1, velocity=""), ["a.txt:28:", "value of velocity is not a number"]),
        (make_block(1, z=None, range=None), ["a.txt:30:", "no z, range"]),
        (make_block(1).replace("---\n", ""), ["a.txt:47:", "14 fields, not 7; is a '---' missing?"]),
        (make_block(1, velocity="inf"), ["a.txt:32:", "velocity of this point is inf"]),
        (make_block(1.5), ["a.txt:32:", "point_id of this point is 1.5"]),
        (make_block(-1), ["a.txt:32:", "point_id of this point is -1.0"]),
        (make_block(1, frame_id="m" * 5000), ["the line is longer than 4,096 bytes"]),
        ("x" * 5000 + "\n", ["a.txt:17:", "the line is longer than 4,096 bytes"]),
    ],
)
def test_malformed_lines_are_named_by_file_and_line(tmp_path, block, words):
    path = make_log(tmp_path / "walk" / "a.txt", 1, points=1)
    path.write_text(path.read_text() + block + make_block(0))
    message = refused(DataError, path.parent, tmp_path / "out.h5", **CUT)
    assert [word for word in words if word not in message] == [], message


def test_folders_and_files_without_frames_are_named(tmp_path):
    (tmp_path / "walk").mkdir()
    assert "walk: no .txt file in this folder" in refused(DataError, tmp_path / "walk", tmp_path / "out.h5")
    (tmp_path / "walk" / "a.txt").touch()
    assert "a.txt: no frame found" in refused(DataError, tmp_path / "walk", tmp_path / "out.h5")
    path = make_log(tmp_path / "walk" / "b.txt", 4)
    assert "no frame in it: walk/a" in convert(tmp_path / "walk", tmp_path / "out.h5", **CUT).notes
    assert "b.txt: given twice" in refused(DataError, [tmp_path / "walk", path], tmp_path / "other.h5", **CUT)


def test_logs_of_one_name_are_told_apart_by_more_folders(tmp_path):
    for person in ("anna", "bob"):
        make_log(tmp_path / person / "walk" / "1.txt", 4)
    convert([tmp_path / "anna", tmp_path / "bob"], tmp_path / "out.h5", **CUT)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["group"].attrs["names"].tolist() == ["anna/walk/1", "bob/walk/1"]


def test_an_id_that_falls_without_passing_zero_is_noted(tmp_path):
    path = make_log(tmp_path / "walk" / "a.txt", 4)
    path.write_text(path.read_text() + make_block(2) + make_block(1))
    assert any("point_id falls or repeats" in note for note in convert(path, tmp_path / "out.h5", **CUT).notes)


def test_files_and_windows_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = make_log(tmp_path / "walk" / "a.txt", 6)
    monkeypatch.setattr(windows, "MAX_WINDOW_BYTES", 400)  # one window takes 288 bytes
    assert "2 windows" in refused(DataError, path, tmp_path / "out.h5", **CUT)
    monkeypatch.setattr(windows, "MAX_TEXT_BYTES", 1000)
    assert "at most 1,000 bytes are read" in refused(DataError, path, tmp_path / "out.h5", **CUT)


def test_real_recording_written_as_log_comes_back_the_same(radhar_path, tmp_path):
    with h5py.File(radhar_path) as file:
        rows = np.flatnonzero(file["group"][:] == 0)
        names = ("xyz", "velocity", "intensity", "range")
        real = [file[name][rows[0] : rows[-1] + 1].astype("f4") for name in names]
        starts = file["start_frame"][rows]
    dense = np.concatenate(real, axis=1)[..., 0]  # (rows, 6, points, frames)
    blocks = []
    for row, start in enumerate(starts):
        for frame in range(0 if row == 0 else 32, 48):  # the first 32 are in the row before
            values = dense[row, :, :, frame].astype(float)
            for slot in np.flatnonzero(values.any(axis=0)):
                x, y, z, velocity, intensity, distance = values[:, slot]
                fields = {"y": y, "z": z, "velocity": velocity, "intensity": intensity, "range": distance}
                blocks.append(make_block(slot, x, **fields))
        assert start == 16 * row
    path = tmp_path / "boxing" / "a.txt"
    path.parent.mkdir()
    path.write_text("".join(blocks))
    convert(path, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        for name, expected in zip(NAMES, real, strict=True):
            np.testing.assert_array_equal(file[name][:], expected)
        assert file["start_frame"][:].tolist() == starts.tolist()

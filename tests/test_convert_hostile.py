"""`convert_files` on input made to deceive: nothing hangs, no code runs, memory stays small."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_convert import NAMES, convert, make_arrays, refused, save_matlab73, save_npy
from test_convert_points import CUT, HEADER, make_log, make_table, table_lines

from pointcnn_cli.errors import DataError

CONVERT = """
import resource, sys
from pathlib import Path
from pointcnn_cli.convert.files import convert_files
from pointcnn_cli.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
*inputs, output = map(Path, sys.argv[1:])
try:
    convert_files(inputs, output, channel_names=("channel_1", "channel_2", "channel_3", "channel_4"),
                  labels_name="label", groups_name="auto")
except DataError as error:
    print(error.message.replace(chr(10), " "))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def refused_in_little_memory(*inputs: Path) -> str:
    """The refusal by a process of its own, which must take less than 100 MB more than at its start."""
    command = [sys.executable, "-c", CONVERT, *map(str, inputs), str(inputs[0].parent / "out.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    message, megabytes = done.stdout.splitlines()
    assert int(megabytes) < 100
    return message


# --- what is no file ---


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".csv", ".txt", ".npy"])
def test_pipes_devices_and_loops_are_refused_without_reading_them(tmp_path, suffix):
    pipe, loop, device = (tmp_path / f"{name}{suffix}" for name in ("pipe", "loop", "device"))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    device.symlink_to("/dev/zero")
    assert "neither a file nor a folder" in refused(DataError, pipe, tmp_path / "out.h5")
    assert "neither a file nor a folder" in refused(DataError, device, tmp_path / "out.h5")
    assert "no such file or folder" in refused(DataError, loop, tmp_path / "out.h5")
    assert "no such file or folder" in refused(DataError, Path(f"a\0{suffix}"), tmp_path / "out.h5")


def test_a_folder_that_is_called_like_a_file_is_a_folder_without_logs(tmp_path):
    (tmp_path / "a.npz").mkdir()
    assert "no .txt file in this folder" in refused(DataError, tmp_path / "a.npz", tmp_path / "out.h5")


def test_loops_and_pipes_in_a_folder_of_logs_are_passed_over(tmp_path):
    folder = tmp_path / "logs"
    make_log(folder / "walk" / "a.txt", 6)
    (folder / "walk" / "again").symlink_to(folder)
    (folder / "walk" / "loop.txt").symlink_to(folder / "walk" / "loop.txt")
    os.mkfifo(folder / "walk" / "pipe.txt")
    command = [sys.executable, "-m", "pointcnn_cli", "data", "convert", folder, tmp_path / "out.h5", "--frames", "4"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "walk 1" in done.stderr


# --- NumPy ---


def test_a_npy_header_of_gigabytes_is_not_read(tmp_path):
    paths = save_npy(tmp_path, make_arrays())
    with paths[1].open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little"))
        file.truncate(2**31 + 100)  # a hole: nothing of it is on the disk
    assert "its header claims 2,147,483,648 bytes" in refused_in_little_memory(*paths)


def test_a_packed_npy_header_of_many_megabytes_is_not_unpacked(tmp_path):
    np.savez(tmp_path / "in.npz", **{name: values for name, values in make_arrays().items() if name != "label"})
    size = 2**28
    with (
        zipfile.ZipFile(tmp_path / "in.npz", "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("label.npy", "w", force_zip64=True) as member,
    ):
        member.write(b"\x93NUMPY\x02\x00" + size.to_bytes(4, "little"))
        for _ in range(size // 2**20):
            member.write(bytes(2**20))
    assert (tmp_path / "in.npz").stat().st_size < 2**22
    assert "array 'label': its header claims 268,435,456 bytes" in refused_in_little_memory(tmp_path / "in.npz")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (",
        b"(" * 5000,
        b"{'descr': '|O', 'fortran_order': False, 'shape': (6,), }",
        b"{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000000000,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 6), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 4000 + b",), }",
        b"{'descr': [('a', '<f4')] * 99, 'fortran_order': False, 'shape': (6,), }",
        b"__import__('os').abort()",
        b"\xff\x00'''",
    ],
    ids=["cut", "deep", "objects", "no bytes", "negative", "digits", "code in dtype", "code", "binary"],
)
def test_absurd_npy_headers_are_refused(tmp_path, header):
    content = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + bytes(24)
    paths = save_npy(tmp_path, make_arrays())
    paths[1].write_bytes(content)
    assert "channel_2.npy" in refused(DataError, paths, tmp_path / "out.h5")
    np.savez(tmp_path / "in.npz", **{name: values for name, values in make_arrays().items() if name != "label"})
    with zipfile.ZipFile(tmp_path / "in.npz", "a") as archive:
        archive.writestr("label.npy", content)
    assert "in.npz" in refused(DataError, tmp_path / "in.npz", tmp_path / "out.h5")


def test_a_size_that_only_the_zip_directory_claims_is_not_believed(tmp_path):
    """The directory says that a member of a gigabyte is stored in as many bytes; the file has a few thousand."""
    path = tmp_path / "in.npz"
    np.savez(path, **{name: values for name, values in make_arrays().items() if name != "label"})
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (134217728,), }\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("label.npy", start)
        info = archive.getinfo("label.npy")
        info.file_size = info.compress_size = len(start) + 2**30
    assert "declares 1,073,741,824 bytes but stores" in refused_in_little_memory(path)


def test_damaged_packed_members_are_refused(tmp_path):
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f"{method}.npz"
        np.savez(tmp_path / "sound.npz", **make_arrays())
        with zipfile.ZipFile(tmp_path / "sound.npz") as sound, zipfile.ZipFile(path, "w", method) as archive:
            for name in sound.namelist():
                archive.writestr(name, sound.read(name))
        whole = path.read_bytes()
        for place in range(60, 400, 20):
            path.write_bytes(whole[:place] + bytes(12) + whole[place + 12 :])
            assert str(path) in refused(DataError, path, tmp_path / "out.h5")


# --- MATLAB ---


def save_older(path: Path, **arrays: np.ndarray) -> bytearray:
    pytest.importorskip("scipy.io").savemat(path, {name: np.ones((2, 1, 1, 1)) for name in NAMES} | arrays)
    return bytearray(path.read_bytes())


def test_an_older_matlab_file_on_which_scipy_crashes_is_refused(tmp_path):
    """The type of the first array's values is set to none; SciPy then crashes in some versions."""
    content = save_older(tmp_path / "in.mat", label=np.array([0, 1]))
    content[200] = 0
    (tmp_path / "in.mat").write_bytes(content)
    message = refused_in_little_memory(tmp_path / "in.mat")
    assert "SciPy crashed on it (signal SIGSEGV)" in message or "not a whole MATLAB file" in message


def test_two_arrays_of_one_name_are_refused(tmp_path):
    content = save_older(tmp_path / "in.mat", label=np.array([0, 1]))
    place = content.index(b"channel_2")
    content[place : place + 9] = b"channel_1"
    (tmp_path / "in.mat").write_bytes(content)
    assert "two arrays of one name" in refused(DataError, tmp_path / "in.mat", tmp_path / "out.h5")


def test_damage_in_a_newer_matlab_file_is_refused_wherever_it_surfaces(tmp_path):
    path = save_matlab73(tmp_path / "in.mat", make_arrays())
    whole = path.read_bytes()
    refusals = 0
    for offset in range(512, 4096, 127):  # what says where the arrays are, and how they are stored
        path.write_bytes(whole[:offset] + b"\xff\0\xff" + whole[offset + 3 :])
        try:
            convert(path, tmp_path / "out.h5", force=True)
        except DataError as error:
            assert str(path) in error.message  # noqa: PT017
            refusals += 1
    assert refusals > 5


# --- text ---


def test_an_endless_line_of_a_table_is_not_read(tmp_path):
    path = make_table(tmp_path / "in.csv", *table_lines("r", "g", "walk", range(6)))
    with path.open("ab") as file:
        file.truncate(2**30)  # a hole, which reads as a line of NUL
    assert "in.csv:14: the record is longer than 4,096 characters" in refused_in_little_memory(path)
    with path.open("wb") as file:
        file.truncate(2**30)
    assert "in.csv:1: the record is longer" in refused_in_little_memory(path)


def test_an_endless_quoted_cell_or_record_of_a_table_is_not_read(tmp_path):
    for text in ('"' + "walk\n" * 2_000_000, 'r,"\n",' * 2_000_000):
        path = make_table(tmp_path / "in.csv", text)
        assert "the record is longer than 4,096 characters" in refused_in_little_memory(path)


def test_a_quoted_line_end_is_still_read(tmp_path):
    lines = [line.replace("walk", '"wa\nlk"') for line in table_lines("r", "g", "walk", range(6))]
    assert "unusable name" in refused(DataError, make_table(tmp_path / "in.csv", *lines), tmp_path / "out.h5", **CUT)


@pytest.mark.parametrize("start", ["", "x: 1", "a remark: ", "---"])
def test_an_endless_line_of_a_log_is_not_read(tmp_path, start):
    path = make_log(tmp_path / "walk" / "in.txt", 6)
    lines = path.read_text().count("\n")
    with path.open("ab") as file:
        file.write(start.encode())
        file.truncate(2**30)
    assert f"in.txt:{lines + 1}: the line is longer than 4,096 bytes" in refused_in_little_memory(path)


def test_text_larger_than_two_gigabytes_is_refused_unread(tmp_path):
    path = make_table(tmp_path / "in.csv", HEADER)
    with path.open("ab") as file:
        file.truncate(2**31 + 1)
    assert "text files of at most 2,147,483,648 bytes" in refused(DataError, path, tmp_path / "out.h5")


def test_names_with_nul_are_refused(tmp_path):
    path = make_table(tmp_path / "in.csv", *table_lines("r", "g", "wa\0lk", range(6)))
    assert "unusable name among the classes: 'wa\\x00lk'" in refused(DataError, path, tmp_path / "out.h5", **CUT)

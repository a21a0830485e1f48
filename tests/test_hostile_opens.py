"""What a hostile file names is never opened, and never waited for: the system calls of real commands are watched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import FRAMES, POINTS, write_file

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (12, 1, POINTS, FRAMES, 1)
TARGETS = ("outside.raw", "outside.h5", "outside.pipe")

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to watch what is opened")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A file that names others in every way that HDF5 knows, its config, and the files that it names."""
    folder = tmp_path_factory.mktemp("hostile")
    raw, other, pipe = (folder / name for name in TARGETS)
    raw.write_bytes(bytes(10_000))
    write_file(other)
    os.mkfifo(pipe)
    write_file(folder / "a.h5", channel_1=None, channel_2=None, channel_3=None, channel_4=None, label=None)
    with h5py.File(folder / "a.h5", "a") as file:
        file.create_dataset("channel_1", SHAPE, "float32", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])
        file["channel_2"] = h5py.ExternalLink(pipe, "x")
        layout = h5py.VirtualLayout(SHAPE, "float32")
        layout[:] = h5py.VirtualSource(other, "channel_2", SHAPE)
        file.create_virtual_dataset("channel_3", layout)
        file["away"] = h5py.ExternalLink(other, "/")
        file["round"] = h5py.SoftLink("/away/channel_4")
        file.create_dataset("label", (12,), "int64", external=[(str(pipe), 0, h5py.h5f.UNLIMITED)])
        file["group"] = h5py.ExternalLink(pipe, "x")
        file["recording"] = h5py.SoftLink("/away/label")
        file.create_group("stored")["start"] = np.arange(12)
    names = "[channel_1, channel_2, channel_3, away/channel_4]"
    (folder / "a.yaml").write_text(f"data: {{path: {folder / 'a.h5'}, channels: {names}}}\n")
    names = "[round, channel_1, channel_2, channel_3], labels: away/label"
    (folder / "b.yaml").write_text(f"data: {{path: {folder / 'a.h5'}, channels: {names}}}\n")
    return folder


def list_opened(log: Path, *command: object) -> tuple[list[str], subprocess.CompletedProcess]:
    """The paths that a command and its children opened, or tried to open."""
    watched = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", log, sys.executable, *command]
    done = subprocess.run(
        [str(part) for part in watched], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT
    )
    return re.findall(r'open[^"]*"((?:[^"\\]|\\.)*)"', log.read_text()), done


@pytest.mark.parametrize(
    ("command", "code", "reads_data"),
    [
        (("data", "inspect", "a.h5"), 0, True),
        (("train", "a.yaml", "--output", "run"), 6, True),
        (("train", "b.yaml", "--output", "run"), 6, True),
        (("config", "validate", "a.yaml"), 0, False),
    ],
    ids=["inspect", "train", "train by other names", "validate"],
)
def test_nothing_that_a_file_names_is_opened(folder, tmp_path, command, code, reads_data):
    arguments = [folder / part if "." in part else part for part in command]
    opened, done = list_opened(tmp_path / "log", "-m", "pointcnn_cli", *arguments)
    assert done.returncode == code, done.stderr
    assert (str(folder / "a.h5") in opened) == reads_data, "nothing was watched"
    assert [path for path in opened if any(target in path for target in TARGETS)] == []
    assert not any("/tensorflow/" in path for path in opened), "all of this comes before TensorFlow is imported"


def test_the_watch_sees_what_h5py_opens_by_itself(folder, tmp_path):
    code = "import h5py, sys; f = h5py.File(sys.argv[1]); f['channel_1'][0], f['channel_3'][0], f['round'][0]"
    opened, done = list_opened(tmp_path / "log", "-c", code, folder / "a.h5")
    assert done.returncode == 0, done.stderr
    assert {str(folder / "outside.raw"), str(folder / "outside.h5")} <= set(opened)

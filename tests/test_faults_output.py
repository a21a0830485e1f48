"""Faults of what is written to: closed or full streams, folders without permission, links, odd and overlong names."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from processes import POINTCNN, SMOKE, UNPRIVILEGED, check_whole, end, pointcnn, read_until, settings, start, wait_for
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app

needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="root may write anywhere without setpriv")

# Runs pointcnn, and says on stdout whether it imported TensorFlow.
WATCHED = """
import os, sys
from pointcnn_cli.__main__ import main
try:
    main()
finally:
    print("tensorflow" in sys.modules, flush=True)
"""


def shell(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `command` in bash, where `pointcnn` is this one and "$1", "$2" ... are the arguments."""
    text = f'set -o pipefail; pointcnn() {{ "{sys.executable}" -m pointcnn_cli "$@"; }}\n{command}'
    done = subprocess.run(
        ["bash", "-c", text, "bash", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


# --- stdout and stderr ---


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ('pointcnn config show "$1" > /dev/full', 9, "standard output: cannot be written (No space left on device)"),
        ("pointcnn config schema > /dev/full", 9, "standard output: cannot be written"),
        ('pointcnn data inspect "$2" > /dev/full', 9, "standard output: cannot be written"),
        ("pointcnn --version > /dev/full", 9, "standard output: cannot be written"),
        ('pointcnn config show "$1" >&-', 0, ""),
        ('pointcnn data inspect "$2" >&-', 0, ""),
        ("pointcnn config schema | true", 0, ""),
        ('pointcnn data inspect "$2" | head -n 0', 0, ""),
        ('pointcnn config validate "$1" 2> /dev/full', 0, ""),
        ('pointcnn config validate "$1" 2>&-', 0, ""),
        ('pointcnn data inspect nothing.h5 2> /dev/full', 6, ""),
        ('pointcnn data inspect nothing.h5 2>&-', 6, ""),
        ('pointcnn data inspect nothing.h5 2>&1 | true', 6, ""),
        ("pointcnn --no-such-option 2> /dev/full", 2, ""),
        ("pointcnn config show - <&-", 4, "standard input is closed"),
    ],
)  # fmt: skip
def test_streams_that_are_closed_full_or_not_read(command, code, said, simulated_file):
    done = shell(command, SMOKE, simulated_file)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr


def test_predictions_for_a_closed_stdout_are_refused_before_any_work(trained, simulated_file):
    done = shell('pointcnn predict "$1" "$2" --output - >&-', trained.run.path, simulated_file)
    assert done.returncode == 9
    assert done.stderr.startswith("Error: standard output is closed\nTry: ")


def test_what_a_library_says_never_goes_into_a_file_of_ours(tmp_path):
    """With stderr closed the next file opened would have its number."""
    code = f"""
import os
from pathlib import Path
os.close(2)
from pointcnn_cli.cli.streams import prepare_streams
prepare_streams()
from pointcnn_cli.files import replacing
with replacing(Path({str(tmp_path / "file")!r})) as stream:
    os.write(2, b"noise of a library")
    stream.write(b"mine")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert (tmp_path / "file").read_bytes() == b"mine"


# --- folders ---


@needs_setpriv
@pytest.mark.parametrize("where", ["a folder that is read-only", "a file", "a folder below one that is read-only"])
@pytest.mark.parametrize("command", ["train", "predict", "simulate"])
def test_an_output_that_cannot_be_is_refused_before_tensorflow_is_imported(
    command, where, trained, simulated_file, tmp_path
):
    folder = tmp_path / "folder"
    if where == "a file":
        folder.write_text("mine")
    else:
        folder.mkdir(mode=0o555)
    parent = folder / "deeper" if "below" in where else folder
    arguments = {
        "train": ["train", SMOKE, "--output", parent / "run"],
        "predict": ["predict", trained.run.path, simulated_file, "--output", parent / "out.csv"],
        "simulate": ["data", "simulate", parent / "out.h5"],
    }[command]
    done = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-c", WATCHED, *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (9, "False\n"), done.stderr
    assert done.stderr.startswith(f"Error: {parent}")
    assert "\nTry: " in done.stderr
    assert os.listdir(tmp_path) == ["folder"]


@needs_setpriv
def test_a_run_whose_folder_becomes_unwritable_ends_with_9_and_keeps_its_state(tmp_path):
    """The same process shows what a second one meets that wants the same directory."""
    path = tmp_path / "run"
    with start("train", SMOKE, *settings(train__epochs=100000), "--output", path, before=UNPRIVILEGED) as process:
        read_until(process, "epoch 1/")
        second = pointcnn("train", "--resume", path)
        assert second.returncode == 9
        assert f"another pointcnn process (pid {process.pid} on {os.uname().nodename}) is working on" in second.stderr
        again = pointcnn("train", SMOKE, "--output", path)
        assert (again.returncode, "exists already" in again.stderr) == (9, True)
        (path / "checkpoints").chmod(0o555)
        code, said = end(process)
    (path / "checkpoints").chmod(0o755)
    assert code == 9
    assert "no permission" in said
    assert check_whole(path) >= 1
    assert json.loads((path / "manifest.json").read_text())["status"] == "failed"


# --- names ---

ODD_NAMES = [
    "with spaces and 'quotes\"", "new\nline", "emoji 💥", "{epoch} {0} %s $HOME", "[red]markup [b] :bomb:",
    "back\\slash", "-leading", "--output", "*?[a]", "~", "dots.", "é" * 120, "not text \udcff",
    "n" * 255,
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_work(name, tmp_path, simulated_file):
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(simulated_file, folder / "data.h5")
    done = CliRunner().invoke(app, ["data", "inspect", str(folder / "data.h5"), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 96
    done = CliRunner().invoke(app, ["train", str(folder / "none.yaml")])
    assert (done.exit_code, done.stderr.count("no such file")) == (4, 1), done.stderr
    done = CliRunner().invoke(app, ["data", "simulate", str(folder / "out.h5"), "--windows", "24", "--subjects", "4"])
    assert done.exit_code == 0, done.stderr
    assert sorted(os.listdir(folder)) == ["data.h5", "out.h5"]


def test_names_of_the_greatest_length_are_written_and_longer_ones_refused(tmp_path):
    small = ["--windows", 24, "--subjects", 4]
    assert pointcnn("data", "simulate", tmp_path / ("n" * 252 + ".h5"), *small).returncode == 0
    assert [len(name) for name in os.listdir(tmp_path)] == [255]
    assert pointcnn("data", "simulate", tmp_path / ("n" * 253 + ".h5"), *small).returncode == 9
    assert [len(name) for name in os.listdir(tmp_path)] == [255]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["train", "{}/config.yaml"], 4),
        (["train", "--resume", "{}"], 8),
        (["data", "inspect", "{}/data.h5"], 6),
        (["data", "simulate", "{}/out.h5"], 9),
        (["train", SMOKE, "--output", "{}/run"], 9),
    ],
)
def test_paths_that_no_system_takes_are_refused(command, code):
    done = pointcnn(*(part.replace("{}", "/" + "d/" * 3000) for part in command))
    assert done.returncode == code, done.stderr[-300:]


def test_a_name_that_looks_like_an_option_is_taken_after_two_dashes(tmp_path, simulated_file):
    shutil.copy(simulated_file, tmp_path / "--force")
    done = subprocess.run(
        [*POINTCNN, "data", "inspect", "--json", "--", "--force"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["rows"] == 96


def test_a_prediction_that_is_stopped_leaves_nothing(trained, simulated_file, tmp_path):
    """It is stopped while it imports TensorFlow, with its temporary file there already."""
    for code, number in ((143, 15), (130, 2), (129, 1)):
        with start("predict", trained.run.path, simulated_file, "--output", tmp_path / "out.csv") as process:
            wait_for(lambda: os.listdir(tmp_path), process)
            process.send_signal(number)
            assert end(process)[0] == code
        assert os.listdir(tmp_path) == []

"""Faults that come from outside: signals in every phase, a terminal that goes away, a process that stands still."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest
from conftest import ROOT
from processes import (
    LIMIT,
    SMOKE,
    check_same_end,
    check_whole,
    copy_unfinished,
    end,
    read_until,
    reset_signals,
    settings,
    start,
    wait_for,
)

from pointcnn_cli.rundir import RunDir

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")]


# --- before training ---


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_signal_before_there_is_anything_to_save_ends_the_process_in_order(number, code, word):
    """It waits for a config from stdin; a program that starts pointcnn may look at stderr."""
    with start("train", "-", stdin=subprocess.PIPE) as process:
        time.sleep(2)  # Python's own start, which no program has a hand in, is over
        process.send_signal(number)
        assert end(process) == (code, f"Stopped: {word}\n")


SLOW_IMPORT = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
from pointcnn_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_signal_while_modules_are_imported_ends_the_process_in_order(number, code, word, tmp_path):
    """A stand-in for typer, since its import is over too soon to be hit."""
    (tmp_path / "typer").mkdir()
    (tmp_path / "typer" / "__init__.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-c", SLOW_IMPORT, tmp_path, "--version"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=reset_signals
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        assert end(process) == (code, f"Stopped: {word}\n")


SLOW_END = """
import atexit, sys, time
from pointcnn_cli.__main__ import main
def end():
    print("ending", flush=True)
    time.sleep(1)
atexit.register(end)
sys.argv = ["pointcnn", "config", "validate", "no-such-file.yaml"]
main()
"""


@pytest.mark.parametrize("number", [number for number, _, _ in SIGNALS])
def test_a_signal_after_the_command_has_ended_leaves_its_exit_code(number):
    command = [sys.executable, "-c", SLOW_END]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=reset_signals
    ) as process:
        assert process.stdout.readline() == "ending\n"
        process.send_signal(number)
        code, said = end(process)
    assert (code, "no-such-file.yaml" in said, "Traceback" in said) == (4, True, False)


def test_a_signal_while_tensorflow_is_imported_leaves_nothing(tmp_path):
    with start("-v", "train", SMOKE, "--output", tmp_path / "run") as process:
        read_until(process, "importing TensorFlow")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        code, said = end(process)
    assert (code, said.splitlines()[-1]) == (130, "Stopped: interrupted")
    assert os.listdir(tmp_path) == []


LOST = """
import os, signal, time
from pointcnn_cli.signals import Stopped, raise_on_signals
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
raise_on_signals()
try:
    Dying()
    time.sleep(60)
except Stopped as stopped:
    print(stopped.signal_number)
"""


def test_a_signal_that_comes_where_python_cannot_raise_is_not_lost():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, cwd=ROOT, check=True)
    assert (done.stdout, done.stderr) == ("15\n", "")


# --- in training ---


@pytest.mark.slow
def test_a_training_stopped_again_and_again_keeps_every_whole_epoch(tmp_path):
    """In the first epoch, in a later one, by the loss of its terminal, and twice while it saves."""
    path = tmp_path / "run with 'odd' {epoch} name"
    with start("train", SMOKE, *settings(train__epochs=100000), "--output", path) as process:
        read_until(process, "training pointnet_tcn")
        process.send_signal(signal.SIGTERM)
        code, said = end(process)
    assert (code, "Stopped: terminated; all finished epochs are saved" in said) == (143, True)
    run = RunDir.open(path)
    assert run.read_manifest()["status"] == "interrupted"
    assert run.read_newest_state() is None

    with start("train", "--resume", path) as process:
        assert "starting at epoch 1" in read_until(process, "epoch 2/")
        process.send_signal(signal.SIGINT)
        code, said = end(process)
    assert (code, "Stopped: interrupted" in said) == (130, True)
    assert said.splitlines()[-1].startswith("Try: continue with: pointcnn train --resume ")
    saved = check_whole(path)
    assert saved >= 2

    assert hang_up_after("validation loss", "train", "--resume", path) == 129
    assert check_whole(path) > saved
    assert run.read_manifest()["status"] == "interrupted"
    saved = check_whole(path)

    with start("train", "--resume", path) as process:
        read_until(process, "epoch")
        wait_for(lambda: any(name.startswith(".tmp-") for name in os.listdir(run.checkpoints)), process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert end(process)[0] == 143
    assert check_whole(path) >= saved


def hang_up_after(text: str, *arguments: object) -> int:
    """Run pointcnn on a terminal of its own, which goes away once `text` is on it. Returns the exit code."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        reset_signals()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with start(*arguments, **streams, start_new_session=True, preexec_fn=take_terminal) as process:
        os.close(theirs)
        said = b""
        while text.encode() not in said:
            said += os.read(ours, 65536)
        os.close(ours)
        return process.wait(LIMIT)


# --- standing still, and output that nobody reads ---


@pytest.mark.slow
def test_a_training_that_is_halted_and_not_read_ends_the_same(trained, tmp_path):
    """Halted as by Ctrl-Z or a suspended laptop; the reader of its output has gone, as `head` does."""
    run = copy_unfinished(trained.run, tmp_path / "run")
    reading, writing = os.pipe()
    with start("train", "--resume", run.path, stdout=writing, stderr=writing) as process:
        os.close(writing)
        with open(reading) as lines:
            assert lines.readline()
        wait_for(lambda: run.read_manifest()["status"] == "running", process)
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.1)
        assert process.wait(LIMIT) == 0
    check_same_end(run, trained.run)
    check_whole(run.path)

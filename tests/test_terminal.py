"""Output as it arrives: on terminals of 60 columns, without colours, in pipes, in Windows-1252. Real processes."""

import json
import os
import re

import h5py
import numpy as np
import pytest
from hdf5_files import write_file
from processes import in_terminal, pointcnn, settings
from test_architecture import run_python
from test_cli import run
from typer.main import get_command
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app

COLUMNS = 60
NARROW = str(COLUMNS)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7]|9[0-7]|38|48)[;m]")
ODD_CLASSES = ["früh", "走 walk", "a class with a name of several words"]


def list_commands() -> list[tuple[str, ...]]:
    """Every command that takes a file, with names of files that are not there."""

    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))
        arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        if not hasattr(command, "commands") and arguments:
            required = [p for p in command.params if p.param_type_name == "option" and p.required]
            chosen = [(p.opts[0], str([*getattr(p.type, "choices", []), "out.csv"][0])) for p in required]
            files = ["no/such/file.yaml" if p.name == "out" else f"missing-{p.name}.yaml" for p in arguments]
            yield (*path, *files, *(part for option in chosen for part in option))

    return list(walk(get_command(app), ()))


def show_lines(text: str) -> list[str]:
    """The lines that a terminal held at one time or another, without escapes."""
    return [line.rstrip() for part in ESCAPES.sub("", text).split("\n") for line in part.split("\r")]


def check_fits(text: str) -> None:
    """No line is wider than the terminal but for what is to be pasted or cannot be broken, and nothing is cut."""
    assert "…" not in text
    wide = [line for line in show_lines(text) if len(line) > COLUMNS]
    assert "\n".join(line for line in wide if "pointcnn " not in line and "/" not in line) == ""


def list_numbers(text: str) -> list[str]:
    return re.findall(r"\d+\.\d{3}", text)


@pytest.fixture
def odd_file(tmp_path):
    path = write_file(tmp_path / "odd.h5", group=np.arange(12) // 2)
    with h5py.File(path, "a") as file:
        file["label"].attrs["classes"] = ODD_CLASSES
    return path


# --- what needs no network ---


@pytest.mark.parametrize("command", [("--help",), ("train", "--help"), ("config", "init", "--help")])
def test_help_fits_a_narrow_terminal_and_needs_only_what_the_encoding_has(command):
    code, text = in_terminal(*command, encoding="cp1252", NO_COLOR="1")
    assert code == 0
    check_fits(text)
    assert not COLOURS.search(text)
    assert "+-" in text
    assert "Example:" in text or command == ("--help",)


def test_inspect_shows_every_number_at_60_columns_and_in_windows_1252(odd_file):
    wide = pointcnn("data", "inspect", odd_file, env={**os.environ, "COLUMNS": "200"}).stdout
    code, text = in_terminal("data", "inspect", odd_file, encoding="cp1252", NO_COLOR="1")
    assert code == 0
    check_fits(text)
    assert not COLOURS.search(text)
    assert list_numbers(wide) == list_numbers(text)
    assert "früh" in text
    assert "\\u8d70 walk" in text  # the character that Windows-1252 lacks
    assert "+-" in text


def test_a_pipe_gets_whole_rows_without_escapes(odd_file):
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = pointcnn("data", "inspect", odd_file, env=environment)
    assert "\x1b" not in done.stdout
    assert any("channel_1" in line and "12 x 3 x 5 x 4 x 1" in line for line in done.stdout.splitlines())
    assert any("channel_1" in line and len(list_numbers(line)) == 4 for line in done.stdout.splitlines())


def test_a_terminal_gets_colours_and_a_warning_between_words(tmp_path):
    code, text = in_terminal("data", "inspect", tmp_path / "missing.h5")
    assert code == 6
    assert COLOURS.search(text)
    check_fits(text)


# --- quiet and verbose ---


@pytest.mark.parametrize("command", list_commands(), ids=" ".join)
def test_quiet_and_verbose_go_before_every_command_and_misplaced_they_say_so(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    codes = [run_code(*options, *command) for options in ((), ("-q",), ("-v",), ("--quiet",), ("--verbose",))]
    assert len(set(codes)) == 1
    assert codes[0] not in (0, 1)
    result = run(*command, "-q", code=2)
    assert "pointcnn -q COMMAND" in result.stderr
    assert os.listdir(tmp_path) == []


def run_code(*arguments: str) -> int:
    return CliRunner().invoke(app, list(arguments)).exit_code


def test_quiet_says_nothing_but_the_result(tmp_path):
    result = run("-q", "data", "simulate", tmp_path / "x.h5", "--windows", "12", "--subjects", "2")
    assert result.stderr == result.stdout == ""


def test_tensorflow_speaks_only_when_asked():
    code = "from pointcnn_cli.cli.app import app\nimport os, sys\ntry:\n    app([*sys.argv[1:], 'config', 'schema'])\n"
    code += "except SystemExit:\n    print('\\nLEVEL', os.environ.get('TF_CPP_MIN_LOG_LEVEL'))"
    environment = os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
    try:
        assert run_python(code).splitlines()[-1] == "LEVEL None"
        assert run_python(code, "-v").splitlines()[-1] == "LEVEL 0"
    finally:
        if environment is not None:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = environment


# --- trainings and runs ---


def test_training_on_a_narrow_terminal_says_what_comes_and_what_was_written(tmp_path):
    run_path = tmp_path / "run"
    code, text = in_terminal(
        "train", "configs/smoke.yaml", *settings(train__epochs=2, name="narrow"), "--output", run_path, NO_COLOR="1"
    )
    assert code == 0, text
    check_fits(text)
    assert not COLOURS.search(text)
    said = " ".join(" ".join(show_lines(text)).split())
    for words in ("training pointnet_tcn (", "2 epochs of 1 steps", "this takes about", "epoch 2/2", "written: "):
        assert words in said
    assert f"next: pointcnn diagnose {run_path}" in text
    assert text.rstrip().splitlines()[-1] == str(run_path)
    metrics = json.loads((run_path / "metrics.json").read_text())
    shown = list_numbers(said[said.index("score on") :])
    for row in metrics["per_class"].values():
        assert f"{row['f1']:.3f}" in shown
    assert "\x1b[?25h" in text[text.rindex("\x1b[?25l") :]  # the cursor is back


def test_training_into_a_pipe_in_windows_1252_is_plain(tmp_path, odd_file):
    options = settings(data__simulate="null", data__path=odd_file, train__epochs=1, train__batch_size=4)
    done = pointcnn(
        "train", "configs/smoke.yaml", *options[len(settings()) - 2 :], "--output", tmp_path / "run",
        encoding="cp1252", errors="strict", env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "früh" in done.stdout
    assert "\\u8d70 walk" in done.stdout
    assert "+--" in done.stdout
    assert "+--" in done.stderr  # the table of the split
    assert len([line for line in done.stderr.splitlines() if line.startswith("epoch ")]) == 1


@pytest.mark.parametrize("command", ["evaluate", "diagnose", "predict"])
def test_a_run_is_looked_at_on_a_narrow_terminal_in_windows_1252(command, trained, simulated_file, tmp_path):
    extra = [simulated_file, "-o", tmp_path / "out.csv"] if command == "predict" else []
    code, text = in_terminal(command, trained.run.path, *extra, encoding="cp1252", NO_COLOR="1")
    assert code in (0, 3), text
    check_fits(text)
    assert not COLOURS.search(text)
    assert text.encode("cp1252")
    if command == "evaluate":
        for row in trained.metrics["per_class"].values():
            assert f"{row['recall']:.3f}" in list_numbers(text)
    if command == "predict":
        assert "96/96" in text  # the bar came to its end

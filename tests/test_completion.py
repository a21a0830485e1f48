"""Shell completion: what a shell is offered, in a real bash, and that asking costs nothing heavy."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from test_architecture import HEAVY

ASK = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from pointcnn_cli.__main__ import main
main()
"""


def complete(line: str) -> tuple[list[str], set[str]]:
    """What bash would be offered for the last word of `line`, and the top modules that this imported."""
    words = line.split(" ")
    environment = {**os.environ, "_POINTCNN_COMPLETE": "complete_bash", "COMP_WORDS": line}
    environment["COMP_CWORD"] = str(len(words) - 1)
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=True)
    return done.stdout.split(), {name.split(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pointcnn tr", ["train"]),
        ("pointcnn -q tr", ["train"]),
        ("pointcnn data sim", ["simulate"]),
        ("pointcnn config in", ["init"]),
        ("pointcnn evaluate RUN --part val", ["validation"]),
        ("pointcnn train --res", ["--resume"]),
        ("pointcnn train my", []),  # bash then offers files
    ],
)
def test_a_word_is_completed(line, offered):
    assert complete(line)[0] == offered


def test_completing_imports_nothing_heavy():
    loaded = complete("pointcnn tr")[1]
    assert "typer" in loaded
    assert loaded & {*HEAVY, "numpy", "h5py", "pydantic", "yaml"} == set()


def test_the_script_that_is_installed_works_in_bash(tmp_path):
    tool = tmp_path / "pointcnn"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m pointcnn_cli "$@"\n')
    tool.chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    session = """
    pointcnn --install-completion > /dev/null
    . ~/.bashrc
    COMP_WORDS=(pointcnn tr) COMP_CWORD=1
    _pointcnn_completion pointcnn
    echo "${COMPREPLY[@]}"
    """
    command = ["bash", "--norc", "-c", session]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "train", done.stderr

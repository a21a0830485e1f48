"""Small seeded runs of `benchmarks/fuzz.py`: damaged and absurd input always ends in a documented exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "fuzz.py"


def fuzz(*arguments: object) -> tuple[int, dict, str]:
    """Exit code, summary and complaints of a run of the campaign."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(("target", "count", "codes"), [("configs", 300, {"0", "4"}), ("states", 200, {"0", "8"})])
def test_every_case_ends_in_a_documented_code(target, count, codes):
    status, summary, complaints = fuzz(target, "--count", count, "--seed", 3)
    assert (status, summary["failures"], complaints) == (0, 0, "")
    assert set(summary["codes"]) == codes, "both ends must occur, or the cases are too tame or too wild"
    assert sum(summary["codes"].values()) == count
    assert summary["peak_memory_mb"] < 1024


def test_every_damaged_hdf5_file_is_read_or_refused():
    status, summary, complaints = fuzz("hdf5", "--count", 150, "--seed", 3)
    assert (status, summary["failures"], complaints) == (0, 0, "")
    assert set(summary["codes"]) == {"0", "6"}
    assert summary["peak_memory_mb"] < 1024


def test_a_case_that_breaks_the_rule_is_counted_and_kept(tmp_path):
    """With no time at all to spend every case breaks it."""
    status, summary, complaints = fuzz("states", "--count", 3, "--limit", "-1", "--keep", tmp_path)
    assert (status, summary["failures"]) == (1, 3)
    assert len(complaints.splitlines()) >= 3
    assert len(list(tmp_path.glob("states-0-*.safetensors"))) == 3

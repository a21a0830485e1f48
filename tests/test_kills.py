"""Trainings and saves that are killed, starved of disk space or damaged anywhere: small versions of the campaigns of
`benchmarks/kill_campaign.py`."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from pointcnn_cli.rundir import RunDir

sys.path.append(str(ROOT / "benchmarks"))

import kill_campaign
import state_attacks

STRACE_PROBLEM = state_attacks.find_strace_problem()
needs_strace = pytest.mark.skipif(STRACE_PROBLEM is not None, reason=str(STRACE_PROBLEM))


def list_wrong(results) -> list[dict]:
    return [result for result in results if result["problems"]]


# --- the real command ---


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Five kills of real trainings: the folder of the campaign, and its results."""
    folder = tmp_path_factory.mktemp("campaign")
    return folder, list(kill_campaign.kill_trainings(folder, kills=5, seed=0))


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_as_if_it_had_not_been(campaign):
    _, results = campaign
    assert list_wrong(results) == []
    assert sum("kill" in result for result in results) == 5
    assert any(result["training"] == 1 and "kills" in result for result in results)  # and was compared


@pytest.mark.slow
@needs_strace
def test_a_disk_that_is_full_from_the_first_epoch_on_costs_no_whole_epoch(campaign, tmp_path):
    """Every fsync after that of the first state fails, the one of the manifest at the end too."""
    folder, _ = campaign
    run = RunDir(tmp_path / "run")
    train = [sys.executable, "-m", "pointcnn_cli", "train", str(folder / "config.yaml"), "--output", str(run.path)]
    fault = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync"]
    fault += ["-e", "inject=fsync:error=ENOSPC:when=10+"]  # 7 make the directory, 2 the first state
    done = subprocess.run([*fault, *train], capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert done.returncode == 9, done.stderr
    assert f"{run.last}: the disk is full, or a quota or size limit is reached (needs 1.36 MB, " in done.stderr
    assert "Try: free some space" in done.stderr
    assert run.read_newest_state()[0] == 1
    assert list(run.path.rglob(".tmp-*")) == []
    assert kill_campaign.run_pointcnn(["train", "--resume", str(run.path)])[0] == 0
    assert kill_campaign.compare_runs(run, RunDir(folder / "uninterrupted")) == []


# --- the saver alone ---


@needs_strace
def test_a_kill_at_any_system_call_of_a_save_leaves_the_old_state_or_the_new(tmp_path):
    results = list(state_attacks.kill_syscalls(tmp_path))
    assert list_wrong(results) == []
    assert {"openat", "write", "fsync", "close", "rename", "unlink", "flock"} <= {result["call"] for result in results}


@needs_strace
def test_an_error_of_the_disk_at_any_call_of_a_save_is_told_and_costs_nothing_saved(tmp_path):
    results = list(state_attacks.fail_syscalls(tmp_path))
    assert list_wrong(results) == []
    assert {result["code"] for result in results if result["call"] in ("write", "fsync", "rename")} == {9}
    assert {result["error"] for result in results} == set(state_attacks.ERRORS)


def test_a_writer_killed_at_random_moments_keeps_all_that_it_saved(tmp_path):
    results = list(state_attacks.kill_writer(tmp_path, kills=12, seed=0))
    assert list_wrong(results) == []
    assert sum(result["saved"] for result in results) > 0


def test_a_damaged_state_is_told_and_the_older_one_used(tmp_path):
    results = list(state_attacks.damage_states(tmp_path, seed=0, cuts=10, flips=40))
    assert list_wrong(results) == []
    assert len(results) > 60


# --- the command ---


def test_the_campaign_ends_with_1_when_a_case_goes_wrong(tmp_path):
    """Without digests, damage goes unnoticed; the campaign must notice that."""
    arguments = [str(ROOT / "benchmarks" / "kill_campaign.py"), "--folder", str(tmp_path), "corruption"]
    start = "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    blind = "import pointcnn_cli.checkpoints as c; c._digest = lambda arrays, facts: ''\n"
    for before, code in (("", 0), (blind, 1)):
        command = [sys.executable, "-c", before + start, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        *results, summary = map(json.loads, done.stdout.splitlines())
        assert done.returncode == code, done.stderr
        assert summary["wrong"] == len(list_wrong(results))
        assert bool(summary["wrong"]) == bool(code)
        assert summary["counts"] == {"damage": len(results)}

"""A smoke subset of the benchmark: twelve cases trained and diagnosed through `diagnose_fit`, and its counting."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import diagnose_bench
from diagnose_cases_bench import scoring
from diagnose_cases_bench.recipes import HALVES, Key

NAMED = ("F01", "F03", "F04", "F16", "F19", "F28", "F30")
SILENT = ("F17", "F18", "H01", "H02", "H04", "H05")


def make_record(name="F01", roots=(("PC201",),), confirmed=(), suspected=(), **truth):
    known = {"roots": [list(r) for r in roots], "present": [], "incidental": [], "experiments": [], **truth}
    return {"name": name, "severity": 1, "seed": 0, "truth": known, "confirmed": list(confirmed), "present": [],
            "suspected": list(suspected), "prove": False, "failed": [], "baselines": {"always": ["PC504"]}, "fix": None,
            "validation_accuracy": 0.5, "test_accuracy": 0.5, "healthy_accuracy": 0.8, "training_seconds": 1.0,
            "diagnosing_seconds": 1.0}  # fmt: skip


def test_a_cause_beside_the_right_one_is_not_exact():
    assert scoring.judge_tool(make_record(confirmed=["PC201"]))["exact"]
    judged = scoring.judge_tool(make_record(confirmed=["PC201", "PC504"]))
    assert judged["one right"]
    assert not judged["exact"]


def test_what_follows_from_a_cause_is_neither_wanted_nor_wrong():
    assert scoring.judge_tool(make_record(confirmed=["PC201", "PC202"], incidental=["PC202"]))["exact"]
    assert not scoring.judge_tool(make_record(confirmed=["PC202"], incidental=["PC202"]))["exact"]


def test_one_of_two_alternatives_suffices():
    assert scoring.judge_tool(make_record(roots=[["PC101", "PC501"]], confirmed=["PC501"]))["exact"]


def test_harmless_faults_that_are_confirmed_are_over_blamed():
    record = make_record(name="F17", roots=(), confirmed=["PC401"], present=["PC401"])
    assert not scoring.judge_tool(record)["clean"]


def test_suspicion_counts_only_where_experiments_are_needed_and_were_not_run():
    record = make_record(roots=[["PC502"]], suspected=["PC502"], experiments=["PC502"])
    assert scoring.judge_tool(record)["exact"]
    assert not scoring.judge_tool({**record, "prove": True})["exact"]
    assert not scoring.judge_tool(make_record(suspected=["PC201"]))["exact"]


def test_report_names_misses_and_baselines():
    records = [
        make_record(confirmed=["PC201"]),
        make_record(name="F27", roots=[["PC504"]]),
        make_record("H01", roots=()),
    ]
    report = scoring.write_report(records)
    assert "F27 severity 1 seed 0: wanted PC504" in report
    assert "| always |" in report
    assert "1/2 = 50.0%" in report


def test_a_fix_must_win_back_the_gap():
    assert scoring.does_fix_work(0.2, 0.8, 0.8, 100)
    assert not scoring.does_fix_work(0.2, 0.4, 0.8, 100)


def test_shards_share_all_cases_out():
    everything = diagnose_bench.list_names(None, [0, 1, 2], 2, "0/1")
    parts = [diagnose_bench.list_names(None, [0, 1, 2], 2, f"{i}/5") for i in range(5)]
    assert sorted(name for part in parts for name in part) == sorted(everything)
    assert len(everything) == 48 * 3 * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_cause_of_a_faulty_training_is_confirmed(name):
    record = diagnose_bench.run_case(name, Key(HALVES["dev"], 1, 0))
    assert scoring.judge_tool(record)["one right"], record
    assert not record["failed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SILENT)
def test_nothing_is_confirmed_where_nothing_is_harmed(name):
    record = diagnose_bench.run_case(name, Key(HALVES["dev"], 1, 0))
    assert not record["confirmed"], record
    assert not record["failed"]

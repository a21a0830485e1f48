"""A search shared by processes: who does which trial, what is counted, what is taken back. No network is trained here;
see test_tune_command.py for whole searches."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from conftest import ROOT

from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import ConfigError, DataError, OutputError, RunError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.signals import StopRequest
from pointcnn_cli.tuning import folder as folders
from pointcnn_cli.tuning.folder import TuneDir
from pointcnn_cli.tuning.importance import compute_importance, write_figure
from pointcnn_cli.tuning.pruning import compute_progress, is_hopeless, number_step
from pointcnn_cli.tuning.results import collect_results, compute_fold_interval, write_results
from pointcnn_cli.tuning.search import KILLED, MOST_KILLS, REASON, Search, find_own_values, require_settings
from pointcnn_cli.tuning.trial import FoldWatch, Notes

TEXT = """
data: {path: rows.h5}
train: {epochs: 4, learning_rate: 1e-3}
tune:
  trials: 6
  folds: 2
  space:
    train.learning_rate: {low: 1e-4, high: 1e-1, log: true}
    train.batch_size: {low: 8, high: 64}
    model.normalize: {choices: [masked, none]}
"""
DATA = {"rows": 24, "files": [], "labels_sha256": "a", "sampled_rows_sha256": "b"}
FOLDS = [{"fold": n, "score": 0.5 + n / 10, "n": 12, "n_groups": 2, "epoch": 4, "chance_accuracy": 0.2} for n in (0, 1)]


def make_config(*settings: str) -> Config:
    return load_config("-", settings, stdin_text=TEXT)


def open_search(path: Path, *settings: str, data=DATA) -> Search:
    return Search(TuneDir.open(path), make_config(*settings), data)


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.list_trials()]


def do_trials(search: Search, budget: int) -> list[int]:
    """Take trials until there are none left, scoring each by its learning rate; their numbers."""
    done = []
    while True:
        with search.claim(budget) as claim:
            if claim is None:
                return done
            search.complete(claim, claim.trial.params["train.learning_rate"], FOLDS)
            done.append(claim.number)


# --- the budget ---


def test_the_first_trial_has_the_configs_own_values_and_the_budget_is_kept(tmp_path):
    search = open_search(tmp_path / "s")
    assert do_trials(search, 4) == [0, 1, 2, 3]
    first = search.list_trials()[0]
    assert first.params == {"train.learning_rate": 1e-3, "train.batch_size": 50, "model.normalize": "masked"}
    assert do_trials(open_search(tmp_path / "s"), 4) == []
    assert do_trials(open_search(tmp_path / "s"), 6) == [4, 5]  # a larger budget goes on
    assert states(search) == ["COMPLETE"] * 6


def test_what_is_tried_follows_from_the_seed_whoever_asks(tmp_path):
    whole = open_search(tmp_path / "whole")
    do_trials(whole, 5)
    for budget in (2, 3, 5):
        do_trials(open_search(tmp_path / "parts"), budget)
    params = [[trial.params for trial in s.list_trials()] for s in (whole, open_search(tmp_path / "parts"))]
    assert params[0] == params[1]
    other = open_search(tmp_path / "other", "tune.seed=1")
    do_trials(other, 5)
    assert [trial.params for trial in other.list_trials()][1:] != params[0][1:]


WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_tuning import DATA, FOLDS, open_search
from pathlib import Path
search = open_search(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
while True:
    with search.claim(int(sys.argv[3])) as claim:
        if claim is None:
            break
        print(claim.number, flush=True)
        time.sleep(float(sys.argv[4]))
        search.complete(claim, 0.5, FOLDS)
"""


def start_worker(path: Path, budget: int, seconds: float) -> subprocess.Popen[str]:
    """A process that takes trials, of so many seconds each, once it is told to."""
    command = [sys.executable, "-c", WORKER, str(ROOT / "tests"), str(path), str(budget), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_share_one_budget_and_no_trial_is_done_twice(tmp_path):
    workers = [start_worker(tmp_path / "s", 12, 0.02) for _ in range(3)]
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    done = [list(map(int, worker.communicate(timeout=120)[0].split())) for worker in workers]
    assert sorted(number for numbers in done for number in numbers) == list(range(12))
    assert sum(bool(numbers) for numbers in done) > 1  # they did share
    assert states(open_search(tmp_path / "s")) == ["COMPLETE"] * 12


# --- processes that are killed ---


def kill_in_trial(path: Path) -> int:
    """Let a process take a trial, and kill it in the middle; the number of the trial."""
    with start_worker(path, 100, 60) as worker:
        worker.stdin.write("\n")
        worker.stdin.flush()
        number = int(worker.stdout.readline())
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    return number


def test_a_trial_whose_process_was_killed_is_failed_and_queued_again(tmp_path):
    path = tmp_path / "s"
    assert kill_in_trial(path) == 0
    search = open_search(path)
    assert states(search) == ["RUNNING"]
    with search.claim(3) as claim:
        assert (claim.number, claim.root) == (1, 0)
        dead, repeat = search.list_trials()
        assert (dead.state.name, dead.user_attrs[REASON]) == ("FAIL", KILLED)
        assert repeat.params == dead.params
        search.complete(claim, 0.5, FOLDS)
    assert do_trials(search, 3) == [2, 3]  # the killed one does not count
    result = collect_results(search, make_config(), 3, 0.25)
    assert [trial.state for trial in result.trials] == ["repeated", "complete", "complete", "complete"]
    assert result.own.number == 1


def test_a_trial_that_kills_its_process_again_and_again_is_given_up_and_counts(tmp_path):
    path = tmp_path / "s"
    assert [kill_in_trial(path) for _ in range(MOST_KILLS)] == [0, 1, 2]
    search = open_search(path)
    assert do_trials(search, 2) == [3]
    assert states(search) == ["FAIL"] * 3 + ["COMPLETE"]
    assert "3 times" in search.list_trials()[2].user_attrs[REASON]


def test_a_trial_in_progress_is_left_alone(tmp_path):
    path = tmp_path / "s"
    with start_worker(path, 100, 60) as worker:
        worker.stdin.write("\n")
        worker.stdin.flush()
        worker.stdout.readline()
        worker.send_signal(signal.SIGSTOP)  # a process that stands still has not gone
        try:
            search = open_search(path)
            assert do_trials(search, 3) == [1, 2]
        finally:
            worker.kill()
    assert states(search) == ["RUNNING", "COMPLETE", "COMPLETE"]


def test_a_process_elsewhere_is_gone_only_when_it_shows_no_sign_of_life(tmp_path):
    """Its lock may not be seen from here, so a free one is no proof."""
    folder = TuneDir.open(tmp_path / "s")
    descriptor = folder.take(0)
    elsewhere = {"host": "another-machine", "pid": 1}
    assert not folder.is_abandoned(0, elsewhere)
    os.close(descriptor)
    assert folder.is_abandoned(0, folders.describe_process())
    assert not folder.is_abandoned(0, elsewhere)
    old = time.time() - folders.STALE_SECONDS - 5
    os.utime(folder.trial(0) / "lock", (old, old))
    assert folder.is_abandoned(0, elsewhere)
    assert folder.is_abandoned(7, elsewhere)  # killed before it had a lock


def test_a_process_at_work_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "BEAT_SECONDS", 0.01)
    folder = TuneDir.open(tmp_path / "s")
    descriptor = folder.take(0)
    lock = folder.trial(0) / "lock"
    os.utime(lock, (0, 0))
    with folder.working_on(0, descriptor):
        started = time.monotonic()
        while lock.stat().st_mtime == 0:
            assert time.monotonic() - started < 30
            time.sleep(0.01)


def test_a_trial_that_is_given_back_is_done_by_the_next_and_counts_no_kill(tmp_path):
    search = open_search(tmp_path / "s")
    for _ in range(MOST_KILLS + 1):
        with search.claim(1) as claim:
            search.give_back(claim, "interrupted")
    assert do_trials(search, 1) == [MOST_KILLS + 1]
    assert collect_results(search, make_config(), 1, 0.25).count("complete", "failed") == 1


def test_a_process_killed_between_queueing_again_and_failing_leads_to_one_repeat(tmp_path):
    path = tmp_path / "s"
    kill_in_trial(path)
    search = open_search(path)
    dead = search.list_trials()[0]
    search.study.enqueue_trial(dead.params, user_attrs={"root": 0, "repeats": 0, "kills": 1})
    assert do_trials(search, 1) == [1]
    assert states(search) == ["FAIL", "COMPLETE"]


# --- the journal ---


def test_a_line_that_was_half_written_is_cut_off_before_the_next_one(tmp_path):
    search = open_search(tmp_path / "s")
    do_trials(search, 1)
    with search.folder.journal.open("ab") as file:
        file.write(b'{"op_code":8,"worker')
    assert do_trials(search, 2) == [1]  # a process that has it open
    with search.folder.journal.open("ab") as file:
        file.write(b'{"op_code"')
    assert do_trials(open_search(tmp_path / "s"), 3) == [2]  # one that opens it
    assert all(json.loads(line) for line in search.folder.journal.read_text().splitlines())


def test_a_damaged_journal_is_refused(tmp_path):
    path = tmp_path / "s"
    do_trials(open_search(path), 2)
    journal = path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"no json\n", *lines[3:]]))
    before = journal.read_bytes()
    with pytest.raises(RunError, match=r"study\.journal: damaged") as raised:
        open_search(path)
    assert raised.value.exit_code == 8
    assert journal.read_bytes() == before


def test_a_study_whose_first_process_was_killed_before_it_was_described_begins_anew(tmp_path):
    folder = TuneDir.open(tmp_path / "s")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.journal)))
    optuna.create_study(storage=storage, study_name="pointcnn", direction="maximize")
    assert do_trials(open_search(tmp_path / "s"), 2) == [0, 1]
    assert folder.config.is_file()


# --- another search in the same directory ---


def test_another_config_is_refused_and_the_differences_are_named(tmp_path):
    path = tmp_path / "s"
    open_search(path)
    before = (path / "study.journal").read_bytes()
    with pytest.raises(RunError) as raised:
        open_search(path, "train.epochs=9", "tune.folds=3")
    assert "train.epochs was 4, is 9" in raised.value.message
    assert "tune.folds was 2, is 3" in raised.value.message
    assert raised.value.exit_code == 8
    open_search(path, "tune.trials=99", "name=other", "data.path=moved.h5")
    assert (path / "study.journal").read_bytes().startswith(before)


def test_other_data_are_refused(tmp_path):
    open_search(tmp_path / "s")
    with pytest.raises(DataError, match=r"holds the search of other data: rows differ \(30 rows here, 24 rows then\)"):
        open_search(tmp_path / "s", data=DATA | {"rows": 30})


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already") as raised:
        open_search(tmp_path)
    assert raised.value.exit_code == 9
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(OutputError, match="Not a directory"):
        open_search(tmp_path / "notes.txt" / "s")
    with pytest.raises(OutputError):
        open_search(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("settings", "named"),
    [(["tune=null"], "no section 'tune'"), (["split.strategy=tail"], "split.strategy is 'tail'")],
)
def test_a_config_that_says_no_search_is_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        require_settings(make_config(*settings))


def test_own_values_outside_of_the_space_are_no_trial(tmp_path):
    assert find_own_values(make_config("train.batch_size=4")) is None
    assert find_own_values(make_config("model.normalize=standard")) is None
    assert find_own_values(make_config("tune.space={augment.scale: {low: 0, high: 0.5}}")) is None  # augment is null
    assert find_own_values(make_config("augment={}", "tune.space={augment.scale: {low: 0, high: 0.5}}")) == {
        "augment.scale": 0.0
    }
    search = open_search(tmp_path / "s", "train.batch_size=4")
    do_trials(search, 2)
    result = collect_results(search, make_config(), 2, 0.25)
    assert (result.own, result.gain) == (None, None)


# --- pruning ---

OTHERS = [{1: v, 2: v, 3: v, 4: v, 5: v, 6: v, 10: v} for v in (0.5, 0.6, 0.7, 0.8, 0.9)]  # 4 epochs, 2 folds


@pytest.mark.parametrize(
    ("step", "value", "maximize", "expected"),
    [
        (2, 0.69, True, True),
        (2, 0.7, True, False),
        (2, 0.71, False, True),
        (1, 0.1, True, False),  # within the first third of the epochs
        (8, 0.69, True, True),  # the others stopped early: their last value counts
    ],
)
def test_a_trial_below_the_median_of_the_others_at_its_step_is_hopeless(step, value, maximize, expected):
    assert is_hopeless(step, value, OTHERS, 4, maximize=maximize) is expected


def test_few_trials_prune_nothing():
    assert not is_hopeless(4, 0.0, OTHERS[:4], 4, maximize=True)
    assert not is_hopeless(4, 0.0, [*OTHERS[:4], {9: 0.9}], 4, maximize=True)  # one was not there yet


def test_steps_of_folds_and_epochs_do_not_meet():
    steps = [number_step(fold, epoch, 3) for fold in range(3) for epoch in (1, 2, 3, None)]
    assert steps == sorted(set(steps))


def test_an_easy_first_fold_does_not_save_a_trial():
    """What Optuna's MedianPruner would let live: its best value so far is that of the easy fold."""
    others = [{5: 0.97, 6: compute_progress([0.97], 0.9)} for _ in range(5)]
    assert is_hopeless(6, compute_progress([0.97], 0.8), others, 4, maximize=True)


def watch_fold(search: Search, claim, *settings: str, finished=()) -> FoldWatch:
    return FoldWatch(search, claim, make_config(*settings), finished, Notes(set(), Reporter()), StopRequest())


def make_row(epoch: int, accuracy: float) -> dict[str, float]:
    return {"epoch": epoch, "val_accuracy": accuracy, "val_loss": 1.0}


def test_a_hopeless_trial_is_broken_off_at_an_epoch_and_counts(tmp_path):
    search = open_search(tmp_path / "s")
    for _ in range(5):
        with search.claim(6) as claim:
            watch = watch_fold(search, claim)
            for epoch in (1, 2, 3, 4):
                watch.end_epoch(make_row(epoch, 0.5 + epoch / 10), epoch)
            watch.report(None, 0.9)
            search.complete(claim, 0.9, FOLDS)
    with search.claim(6) as claim:
        watch = watch_fold(search, claim)
        watch.end_epoch(make_row(1, 0.1), 1)
        with pytest.raises(
            optuna.TrialPruned, match=r"accuracy 0\.6900 after fold 1, epoch 2 is worse than the median"
        ):
            watch.end_epoch(make_row(2, 0.69), 2)
        search.prune(claim, "hopeless")
    assert states(search)[-1] == "PRUNED"
    assert do_trials(search, 6) == []
    unpruned = open_search(tmp_path / "u", "tune.prune=false")
    with unpruned.claim(9) as claim:
        watch_fold(unpruned, claim, "tune.prune=false").end_epoch(make_row(4, 0.0), 4)


@pytest.mark.parametrize(("keep", "expected"), [("best", 0.8), ("last", 0.4)])
def test_an_epoch_is_reported_as_the_weights_that_would_be_kept_are(keep, expected, tmp_path):
    search = open_search(tmp_path / "s")
    with search.claim(1) as claim:
        watch = watch_fold(search, claim, f"train.keep={keep}", finished=[1.0])
        watch.end_epoch(make_row(1, 0.8), 1)
        watch.end_epoch(make_row(2, 0.4), 1)
    reported = search.list_trials()[0].intermediate_values
    assert reported == {number_step(1, 1, 4): 0.9, number_step(1, 2, 4): (1.0 + expected) / 2}


def test_balanced_accuracy_is_reported_at_the_end_of_folds_only(tmp_path):
    search = open_search(tmp_path / "s", "tune.metric=balanced_accuracy")
    with search.claim(1) as claim:
        watch = watch_fold(search, claim)
        watch.end_epoch(make_row(1, 0.8), 1)
        watch.report(None, 0.7)
    assert search.list_trials()[0].intermediate_values == {number_step(0, None, 4): 0.7}


# --- results ---


def test_the_interval_of_folds_is_that_of_nadeau_and_bengio():
    from scipy.stats import t

    values, share = [0.9, 0.95, 0.97, 0.91, 0.93], 0.25
    low, high = compute_fold_interval(values, share)
    mean = sum(values) / 5
    variance = sum((v - mean) ** 2 for v in values) / 4
    half = t.ppf(0.975, 4) * ((1 / 5 + share) * variance) ** 0.5
    assert (low, high) == pytest.approx((mean - half, mean + half))
    assert compute_fold_interval([0.5, 0.5], share) is None  # no width would be a claim


def test_the_best_config_and_the_table_say_what_was_found(tmp_path):
    search = open_search(tmp_path / "s")
    do_trials(search, 4)
    result = collect_results(search, make_config(), 4, 0.25)
    write_results(result)
    best = max(search.list_trials(), key=lambda trial: trial.value)
    assert result.best.number == best.number != 0
    config = load_config(search.folder.best)
    assert config.tune is None
    assert config.train.learning_rate == best.params["train.learning_rate"]
    assert config.train.batch_size == best.params["train.batch_size"]
    text = search.folder.best.read_text()
    assert f"best of 4 scored trials: trial {best.number}, accuracy {best.value:.4f}" in text
    assert "24 in 4 groups" in text
    assert "difference, fold by fold: +0.0000\n" in text  # every trial of this test has the same folds
    with search.folder.table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["state"], row["folder"]) for row in rows] == [
        (str(n), "complete", f"trials/{n:04d}") for n in range(4)
    ]
    for row, trial in zip(rows, search.list_trials(), strict=True):
        assert float(row["score"]) == trial.value
        assert (row["folds"], row["n"], row["groups"], row["chance"], row["reason"]) == ("2", "24", "4", "0.2", "")
        assert float(row["low"]) < 0.55 < float(row["high"])
        assert float(row["train.learning_rate"]) == trial.params["train.learning_rate"]
        assert row["model.normalize"] == trial.params["model.normalize"]
    assert json.dumps(result.as_document())


def test_what_mattered_stands_out_from_what_chance_gives(tmp_path):
    search = open_search(tmp_path / "s")
    for _ in range(20):
        with search.claim(20) as claim:
            score = -abs(math.log10(claim.trial.params["train.learning_rate"]) + 2)
            search.complete(claim, score, FOLDS)
    result = collect_results(search, make_config(), 20, 0.25)
    importance = compute_importance(result)
    assert next(iter(importance)) == "train.learning_rate"
    assert sum(share for share, _ in importance.values()) == pytest.approx(1)
    assert importance["train.learning_rate"][0] > importance["train.learning_rate"][1]
    assert importance["model.normalize"][0] < importance["model.normalize"][1]
    write_figure(replace(result, importance=importance))
    figure = search.folder.figure.read_text()
    assert figure.startswith("<?xml")
    assert figure.count('id="axes_') == 4 + 2  # three keys, their shares, and two panels that are off
    assert compute_importance(replace(result, trials=result.trials[:3])) is None


def test_a_lower_log_loss_is_the_better_one(tmp_path):
    search = open_search(tmp_path / "s", "tune.metric=log_loss")
    do_trials(search, 4)
    result = collect_results(search, make_config("tune.metric=log_loss"), 4, 0.25)
    assert result.best.score == min(trial.value for trial in search.list_trials())
    assert [trial.score for trial in result.complete] == sorted(trial.score for trial in result.complete)

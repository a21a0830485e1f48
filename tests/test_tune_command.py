"""Whole searches with small networks: processes that share one, are killed and go on, and what they leave."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from processes import read_until, start
from typer.testing import CliRunner

from pointcnn_cli import training
from pointcnn_cli.cli.app import app
from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.errors import Interrupted, TrainingError
from pointcnn_cli.hdf5.writing import write_samples
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.simulate import simulate_samples
from pointcnn_cli.tuning import tune

CONFIG = """
data:
  simulate: {windows: 36, subjects: 6, points: 8, frames: 8, stride: 4}
split: {validation_fraction: 0.34}
model: {name: pointnet_tcn}
train: {epochs: 1, batch_size: 12, keep: last}
tune:
  trials: 3
  folds: 2
  metric: log_loss
  space:
    train.learning_rate: {low: 1e-4, high: 1e-1, log: true}
    model.normalize: {choices: [masked, none]}
"""


@pytest.fixture(scope="module")
def config_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "search.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def shared(config_path, tmp_path_factory):
    """A search whose first process was killed in the middle of its first trial, and that two others ended together:
    its directory, and what each of the two printed as JSON."""
    path = tmp_path_factory.mktemp("tune") / "search"
    command = ("tune", config_path, "--output", path, "--json")
    with start(*command) as process:
        read_until(process, "trial 0, fold 1 of 2")
        process.send_signal(signal.SIGKILL)
        process.wait()
    both = [start(*command, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    return path, [json.loads(out) for out, _ in printed], "".join(said for _, said in printed)


def read_rows(path: Path) -> list[dict[str, str]]:
    with (path / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_share_one_budget_and_do_the_killed_trial_again(shared):
    path, documents, said = shared
    rows = read_rows(path)
    assert [row["state"] for row in rows] == ["repeated", *["complete"] * 3]
    assert rows[0]["reason"] == "its process was killed"
    assert rows[1]["train.learning_rate"] == rows[0]["train.learning_rate"] == "0.001"
    assert len({row["train.learning_rate"] for row in rows[1:]}) == 3
    assert max(document["counts"]["complete"] for document in documents) == 3
    for row in rows[1:]:
        assert said.count(f"trial {row['number']}: train.learning_rate") == 1  # by one process only


@pytest.mark.slow
def test_a_search_leaves_these_files_and_no_weights(shared):
    path, _, _ = shared
    files = ("best.yaml", "config.yaml", "importance.svg", "study.journal", "study.lock", "trials", "trials.csv")
    assert sorted(os.listdir(path)) == list(files)
    assert sorted(os.listdir(path / "trials")) == ["0000", "0002", "0003"]  # trial 1 went on in the first
    for fold in path.glob("trials/*/fold-*"):
        run = RunDir(fold)
        assert not run.checkpoints.exists()
        assert run.read_manifest()["status"] == "finished"
        assert run.read_manifest()["config"]["tune"] is None
    assert "<svg" in (path / "importance.svg").read_text()


@pytest.mark.slow
def test_the_score_is_the_mean_over_the_folds(shared):
    path, _, _ = shared
    for row in read_rows(path)[1:]:
        folds = [RunDir(path / row["folder"] / f"fold-{n}").read_metrics() for n in (0, 1)]
        assert float(row["score"]) == pytest.approx(sum(fold["log_loss"] for fold in folds) / 2)
        assert int(row["n"]) == sum(fold["n"] for fold in folds)


@pytest.mark.slow
def test_the_best_config_trains_and_scores_as_its_trial_did(shared, tmp_path):
    path, documents, _ = shared
    best = next(d["best"] for d in documents if d["counts"]["complete"] == 3)
    config = load_config(path / "best.yaml")
    assert config.train.learning_rate == best["params"]["train.learning_rate"]
    trained = training.train(config, tmp_path / "run", ["pointcnn", "train"], Reporter())
    assert trained.metrics["log_loss"] == best["folds"][0]  # split.fold is 0


# --- in this process ---


class Speaker(Reporter):
    """Remembers what was said, and interrupts the process when a text is said."""

    def __init__(self, interrupt_at: str = "") -> None:
        self.said: list[str] = []
        self._interrupt_at = interrupt_at

    def say(self, text: str) -> None:
        self.said.append(text)
        if self._interrupt_at and self._interrupt_at in text:
            os.kill(os.getpid(), signal.SIGTERM)  # SIGINT is ignored where the tests run in the background

    warn = say


def test_an_interrupted_trial_is_queued_again_and_its_finished_fold_is_kept(config_path, tmp_path):
    config, output = load_config(config_path), tmp_path / "search"
    with pytest.raises(Interrupted, match="terminated; trial 0 is queued again") as raised:
        tune(config, output, ["tune"], Speaker("trial 0, fold 1 of 2"), trials=1)
    assert raised.value.exit_code == 143
    manifest = RunDir(output / "trials" / "0000" / "fold-0").manifest
    before = manifest.read_bytes()
    result = tune(config, output, ["tune"], Speaker(), trials=1)
    assert [(trial.state, trial.folder) for trial in result.trials] == [
        ("repeated", "trials/0000"),
        ("complete", "trials/0000"),
    ]
    assert result.trials[0].reason == "interrupted"
    assert manifest.read_bytes() == before
    assert not RunDir(output / "trials" / "0000" / "fold-1").checkpoints.exists()


def test_a_trial_that_cannot_be_trained_fails_with_its_reason_and_the_search_goes_on(config_path, tmp_path):
    """Values so large that only a network that normalises them can be trained."""
    samples = simulate_samples(SimulateConfig(windows=36, subjects=6, points=8, frames=8, stride=4))
    huge = [channel.astype("f4") * 1e30 for channel in samples.channels]
    write_samples(tmp_path / "huge.h5", replace(samples, channels=tuple(huge)))
    space = "tune.space={model.normalize: {choices: [masked, none]}}"
    chosen = (f"data.path={tmp_path / 'huge.h5'}", space, "model.normalize=none")
    config, speaker = load_config(config_path, chosen), Speaker()
    with pytest.raises(
        TrainingError, match="none of 1 trials could be scored; the last one failed: the loss"
    ) as raised:
        tune(config, tmp_path / "search", ["tune"], speaker, trials=1)
    assert raised.value.exit_code == 7
    assert not (tmp_path / "search" / "best.yaml").exists()
    result = tune(config, tmp_path / "search", ["tune"], speaker, trials=2)
    assert [trial.state for trial in result.trials] == ["failed", "complete"]
    assert "is not finite" in result.trials[0].reason
    assert result.best.params == {"model.normalize": "masked"}
    assert any(text.startswith("trial 0 failed: the loss") for text in speaker.said)


def test_after_the_timeout_no_trial_is_begun(config_path, tmp_path):
    result = tune(load_config(config_path), tmp_path / "search", ["tune"], Reporter(), timeout=0)
    assert [trial.state for trial in result.trials] == ["waiting"]
    assert (tmp_path / "search" / "trials.csv").read_text().splitlines()[1].startswith("0,waiting,")


# --- wrong input ---


def run(*arguments: object, code: int):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


def test_wrong_input_is_told_before_anything_is_written(config_path, tmp_path):
    output = tmp_path / "search"
    plain = tmp_path / "plain.yaml"
    plain.write_text("data: {simulate: {windows: 12}}\n")
    assert "no section 'tune'" in run("tune", plain, "--output", output, code=4).stderr
    tail = ("--set", "split.strategy=tail")
    assert "split.strategy is 'tail'" in run("tune", config_path, "--output", output, *tail, code=4).stderr
    missing = ("--set", f"data.path={tmp_path / 'none.h5'}")
    assert "none.h5" in run("tune", config_path, "--output", output, *missing, code=6).stderr
    few = ("--set", "data.simulate.subjects=2", "--set", "tune.folds=3")
    assert "make only 2 folds" in run("tune", config_path, "--output", output, *few, code=6).stderr
    run("tune", config_path, "--output", output, "--trials", "0", code=2)
    assert sorted(os.listdir(tmp_path)) == ["plain.yaml"]


def test_the_search_of_another_config_or_other_data_is_left_alone(config_path, tmp_path):
    output = tmp_path / "search"
    run("tune", config_path, "--output", output, "--timeout", "0", code=0)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    other = ("--set", "train.epochs=2", "--timeout", "0")
    assert "train.epochs was 1, is 2" in run("tune", config_path, "--output", output, *other, code=8).stderr
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}.keys() == before.keys()
    assert (output / "best.yaml").exists() is False


WITHOUT_OPTUNA = """
import sys
sys.modules["optuna"] = None
from pointcnn_cli.__main__ import main
main()
"""


def test_without_optuna_the_answer_is_5_and_names_it_whatever_else_is_wrong(tmp_path):
    command = [sys.executable, "-c", WITHOUT_OPTUNA, "tune", "no-such.yaml", "--output", str(tmp_path / "search")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 5
    assert "needs the package optuna" in done.stderr
    assert "pip install 'optuna" in done.stderr
    assert os.listdir(tmp_path) == []

"""From config to finished run, and on from an interruption: what is left on disk, and that the end is the same."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PEOPLE, ROOT, SMALL, Listener

from pointcnn_cli import evaluation, training
from pointcnn_cli.config.load import load_config, load_resolved
from pointcnn_cli.errors import ConfigError, DataError, Interrupted, OutputError, RunError, TrainingError
from pointcnn_cli.report import write_after_training
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.starting import start_keras

SMOKE = ROOT / "configs" / "smoke.yaml"


def list_files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def read_history(run: RunDir) -> list[dict[str, str]]:
    with run.history.open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_a_run_holds_exactly_the_promised_files(trained):
    assert list_files(trained.run.path) == {
        "config.yaml",
        "manifest.json",
        "split.json",
        "history.csv",
        "predictions.csv",
        "metrics.json",
        "report.html",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "checkpoints/state-00002.safetensors",
        "checkpoints/state-00003.safetensors",
    }


def test_the_manifest_says_how_the_run_was_made(trained):
    manifest = trained.run.read_manifest()
    assert manifest["status"] == "finished"
    assert manifest["classes"] == ["box", "jack", "jump", "squat", "walk", "wave"]
    assert manifest["data"]["rows"] == 96
    assert manifest["environment"]["packages"]["keras"]
    assert manifest["kept_epoch"] == trained.metrics["epoch"]


def test_history_has_one_line_an_epoch_and_the_kept_epoch_has_the_lowest_loss(trained):
    rows = read_history(trained.run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    losses = [float(row["val_loss"]) for row in rows]
    assert trained.metrics["epoch"] == 1 + int(np.argmin(losses))
    assert trained.metrics["log_loss"] == pytest.approx(min(losses), abs=1e-6)


def test_metrics_follow_from_the_predictions_on_disk(trained):
    from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

    classes = trained.metrics["classes"]
    with trained.run.predictions.open() as file:
        rows = list(csv.DictReader(file))
    labels, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    probabilities = [[float(row[f"p_{name}"]) for name in classes] for row in rows]
    assert accuracy_score(labels, predicted) == trained.metrics["accuracy"]
    assert confusion_matrix(labels, predicted, labels=classes).tolist() == trained.metrics["confusion_matrix"]
    normalized = np.array(probabilities) / np.sum(probabilities, axis=1, keepdims=True)
    assert log_loss(labels, normalized, labels=classes) == pytest.approx(trained.metrics["log_loss"], abs=1e-6)
    assert [int(row["index"]) for row in rows] == json.loads(trained.run.split.read_text())["validation"]


def test_groups_are_never_shared_between_parts(trained):
    from pointcnn_cli.config.schema import SimulateConfig
    from pointcnn_cli.simulate import simulate_samples

    groups = simulate_samples(SimulateConfig(**PEOPLE)).groups
    split = json.loads(trained.run.split.read_text())
    assert not set(groups[split["train"]]) & set(groups[split["validation"]])


def test_evaluate_repeats_the_score_of_the_run(trained):
    scored = evaluation.evaluate_part(trained.run.path, "validation", [], Reporter())
    stored = trained.run.read_metrics()
    assert scored["accuracy"] == stored["accuracy"]
    assert scored["confusion_matrix"] == stored["confusion_matrix"]
    assert scored["log_loss"] == pytest.approx(stored["log_loss"], abs=1e-6)
    assert scored["expected_calibration_error"] == pytest.approx(stored["expected_calibration_error"], abs=1e-6)
    assert scored["selected_on_these_rows"] is True


def test_evaluate_on_the_training_file_warns_that_it_is_no_test(trained, simulated_file):
    listener = Listener()
    scored = evaluation.evaluate_files(trained.run.path, [simulated_file], [], listener)
    assert scored["n"] == 96
    assert any("trained on" in text for text in listener.said)


def test_a_new_process_predicts_the_same_bits(trained, simulated_file, tmp_path):
    from pointcnn_cli.prediction import load_run, predict_files

    blocks = list(predict_files(load_run(trained.run.path, Reporter()), [simulated_file], [], Reporter()))
    here = np.concatenate([block.probabilities for block in blocks])
    output = tmp_path / "predictions.h5"
    command = [sys.executable, "-m", "pointcnn_cli", "predict", str(trained.run.path), str(simulated_file)]
    subprocess.run([*command, "--output", str(output)], check=True, cwd=ROOT)
    import h5py

    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["probabilities"][:], here)


def test_an_interrupted_run_continues_to_the_same_end(trained, tmp_path):
    target = tmp_path / "interrupted"
    with pytest.raises(Interrupted) as raised:
        training.train(load_config(SMOKE, SMALL), target, ["pointcnn"], Listener(signal_at=(2, 2)))
    assert raised.value.exit_code == 128 + signal.SIGTERM
    assert f"--resume {target}" in (raised.value.hint or "")
    assert RunDir.open(target).read_manifest()["status"] == "interrupted"

    listener = Listener()
    resumed = training.resume(target, listener)
    assert "continuing after epoch 1" in listener.said
    (bound,) = [text for text in listener.details if text.startswith("bounded by ")]
    assert re.search(r"steps of the network [1-9]\d*%", bound)
    for name in ("last.safetensors", "best.safetensors"):
        assert (target / "checkpoints" / name).read_bytes() == (trained.run.checkpoints / name).read_bytes()
    assert read_history(resumed.run) == read_history(trained.run)
    assert resumed.run.split.read_bytes() == trained.run.split.read_bytes()
    assert resumed.metrics == trained.metrics


def test_resuming_a_finished_run_changes_nothing(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.run.path.rglob("*")}
    listener = Listener()
    assert training.resume(trained.run.path, listener).metrics == trained.metrics
    assert "already complete" in listener.said[0]
    assert {path: path.stat().st_mtime_ns for path in trained.run.path.rglob("*")} == before


def test_training_from_a_stored_config_repeats_the_run(trained, tmp_path):
    config = load_resolved(trained.run.config)
    again = training.train(config, tmp_path / "again", ["pointcnn"], Reporter())
    assert again.run.last.read_bytes() == trained.run.last.read_bytes()


def test_resume_and_evaluate_refuse_other_data(simulated_file, tmp_path):
    import h5py

    data, run = tmp_path / "data.h5", tmp_path / "run"
    shutil.copy(simulated_file, data)
    settings = [f"data.path={data}", *SMALL[len(PEOPLE) :]]
    with pytest.raises(Interrupted):
        training.train(load_config(SMOKE, settings), run, ["pointcnn"], Listener(signal_at=(2, 1)))
    for name, place, difference in (
        ("label", 0, "labels_sha256"),
        ("channel_1", (0, 2, 31, 23), "sampled_rows_sha256"),
        ("channel_4", (95, 0, 0, 0), "sampled_rows_sha256"),
    ):
        shutil.copy(simulated_file, data)
        with h5py.File(data, "a") as file:
            file[name][place] = (file[name][place] + 1) % 6
        with pytest.raises(DataError, match=f"not the data of the run: {difference} differ"):
            training.resume(run, Reporter())
        with pytest.raises(DataError, match=f"not the data of the run: {difference} differ"):
            evaluation.evaluate_part(run, "validation", [], Reporter())


def edit_config(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert text.count(old) == 1
    (run / "config.yaml").write_text(text.replace(old, new))


def test_a_run_whose_process_vanished_says_so_and_ends_the_same(trained, tmp_path):
    run = RunDir(tmp_path / "run")
    shutil.copytree(trained.run.path, run.path)
    run.update_manifest(status="running", process={"pid": 4242, "host": "node7"})  # as SIGKILL leaves it
    listener = Listener()
    done = training.resume(run.path, listener)
    (warning,) = [text for text in listener.said if "vanished" in text]
    assert warning.startswith("the last process (pid 4242 on node7) vanished without a word: killed (out of memory")
    assert "nothing but the epoch in progress is lost" in warning
    assert "train.batch_size" in warning
    assert done.metrics == trained.metrics
    assert done.run.last.read_bytes() == trained.run.last.read_bytes()
    assert run.read_manifest()["status"] == "finished"
    assert run.read_manifest()["process"]["pid"] == os.getpid()


def test_a_config_that_was_edited_stops_resume_and_names_the_key(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run.path, run)
    edit_config(run, "batch_size: 20", "batch_size: 10")
    with pytest.raises(RunError, match=r"config\.yaml: changed since the run began: train\.batch_size was 20, is 10$"):
        training.resume(run, Reporter())
    with pytest.raises(RunError, match=r"train\.batch_size was 20, is 10$"):
        evaluation.evaluate_part(run, "validation", [], Reporter())
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"


def test_a_finished_run_whose_schedule_depends_on_its_length_cannot_grow(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run.path, run)
    edit_config(run, "epochs: 3", "epochs: 5")
    with pytest.raises(ConfigError, match=r"train\.epochs was 3, is 5; with train\.schedule cosine") as raised:
        training.resume(run, Reporter())
    assert raised.value.exit_code == 4
    edit_config(run, "epochs: 5", "epochs: 3")
    assert training.resume(run, Reporter()).metrics == trained.metrics


def test_a_finished_run_grows_to_what_a_longer_one_would_have_been(tmp_path):
    def train(name: str, epochs: int) -> training.TrainedRun:
        constant = ["model.name=pointnet_tcn", "train.schedule=constant", "train.warmup_epochs=1"]
        settings = [*SMALL, *constant, f"train.epochs={epochs}"]
        return training.train(load_config(SMOKE, settings), tmp_path / name, ["pointcnn"], Reporter())

    long, grown = train("long", 3), train("grown", 2)
    edit_config(grown.run.path, "epochs: 2", "epochs: 3")
    listener = Listener()
    done = training.resume(grown.run.path, listener)
    assert "continuing after epoch 2" in listener.said
    assert done.metrics == long.metrics
    assert done.run.last.read_bytes() == long.run.last.read_bytes()
    assert read_history(done.run) == read_history(long.run)
    assert done.run.read_manifest()["config"] == long.run.read_manifest()["config"]

    edit_config(grown.run.path, "epochs: 3", "epochs: 2")
    with pytest.raises(ConfigError, match="is 2, but 3 epochs are done"):
        training.resume(grown.run.path, Reporter())
    shutil.rmtree(done.run.checkpoints)
    done.run.checkpoints.mkdir()
    edit_config(grown.run.path, "epochs: 2", "epochs: 4")
    with pytest.raises(RunError, match="no state to go on from"):
        training.resume(grown.run.path, Reporter())


def test_a_complete_run_that_was_killed_before_its_report_gets_it(trained, tmp_path):
    run = RunDir(tmp_path / "run")
    shutil.copytree(trained.run.path, run.path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    run.report.unlink()
    training.resume(run.path, Reporter(), conclude=write_after_training)
    assert run.report.read_bytes().startswith(b"<!DOCTYPE html>")
    assert {path.name for path in run.path.iterdir() if path.is_file()} == before.keys()
    assert all((run.path / name).read_bytes() == data for name, data in before.items() if name != run.report.name)


def test_deterministic_switches_tensorflow_for_the_whole_process():
    code = """
from pointcnn_cli.config.load import load_config
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.runtime import import_keras
from pointcnn_cli.starting import start_keras
import_keras()
from tensorflow.python.framework.config import is_op_determinism_enabled
for wanted in ("false", "true"):
    start_keras(load_config("configs/smoke.yaml", [f"train.deterministic={wanted}"]), Reporter())
    print(is_op_determinism_enabled())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("fast", "precision", "warned"),
    [("false", "mixed_bfloat16", True), ("true", "mixed_bfloat16", False), ("false", "float32", False)],
)
def test_stock_convolutions_in_bfloat16_on_a_cpu_are_warned_of(fast, precision, warned):
    listener = Listener()
    start_keras(
        load_config(SMOKE, [f"model.fast={fast}", f"train.precision={precision}", "train.device=cpu"]), listener
    )
    assert any("computes wrongly in bfloat16" in line for line in listener.said) == warned


def test_a_loss_that_is_not_finite_ends_the_run_and_names_rows(tmp_path):
    settings = [
        *SMALL,
        "train.learning_rate=10",
        "train.optimizer=sgd",
        "model.normalize=none",
        "train.schedule=constant",
    ]
    with pytest.raises(TrainingError, match=r"not finite in epoch \d+, step \d+ of 4\..*<simulated>, row \d+"):
        training.train(load_config(SMOKE, settings), tmp_path / "run", ["pointcnn"], Reporter())
    assert RunDir.open(tmp_path / "run").read_manifest()["status"] == "failed"


def test_an_existing_directory_is_never_used(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        training.train(load_config(SMOKE, SMALL), tmp_path / "run", ["pointcnn"], Reporter())
    assert list((tmp_path / "run").iterdir()) == []


def test_early_stopping_ends_training_and_keeps_the_best(tmp_path):
    settings = [*SMALL, "train.epochs=30", "train.early_stopping.patience=1", "train.learning_rate=0.1"]
    listener = Listener()
    done = training.train(load_config(SMOKE, settings), tmp_path / "run", ["pointcnn"], listener)
    rows = read_history(done.run)
    assert len(rows) < 30
    assert len(rows) == done.metrics["epoch"] + 1
    assert any(text.startswith("stopped early") for text in listener.said)

"""Faults of a run directory as resume, evaluate and predict meet them: damage, edits, divergence."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from conftest import ROOT, SMALL
from processes import SMOKE, check_same_end, check_whole, copy_unfinished
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app
from pointcnn_cli.rundir import RunDir


def run(*arguments: object, code: int = 0):
    """Run pointcnn in this process, where TensorFlow is imported already, and check its exit code."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert code == 0 or "\nTry: " in result.stderr
    return result


def read_all(run: RunDir) -> dict[str, bytes]:
    return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


@pytest.fixture
def finished(trained, tmp_path) -> RunDir:
    shutil.copytree(trained.run.path, tmp_path / "run")
    return RunDir.open(tmp_path / "run")


@pytest.fixture
def unfinished(trained, tmp_path) -> RunDir:
    return copy_unfinished(trained.run, tmp_path / "run")


# --- damaged and misleading states ---


@pytest.mark.slow
def test_a_damaged_newest_state_costs_one_epoch_and_one_warning(trained, finished):
    """With time stamps that mislead, and a record of other threads, which is said and nothing more."""
    older, newest = sorted(finished.checkpoints.glob("state-*"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    os.utime(newest, (2e9, 2e9))
    os.utime(older, (0, 0))
    environment = finished.read_manifest()["environment"]
    finished.update_manifest(status="interrupted", environment={**environment, "threads": {"cpus": 999}})
    said = " ".join(run("train", "--resume", finished.path).stderr.split())
    assert said.count("using the state of epoch 2 instead") == 1
    assert str(newest) in said.replace(" ", "")
    assert "continuing after epoch 2" in said
    assert said.count("not bit-identical to an uninterrupted run: threads was {'cpus': 999}") == 1
    check_same_end(finished, trained.run)
    assert check_whole(finished.path) == 3


def test_when_every_state_is_damaged_each_is_named_and_nothing_starts_over(unfinished):
    states = sorted(unfinished.checkpoints.glob("state-*"))
    shutil.copy(states[0], unfinished.checkpoints / "state-00001.safetensors")
    states[0].write_bytes(b"")
    before = read_all(unfinished)
    said = run("train", "--resume", unfinished.path, code=8).stderr
    assert "state-00002.safetensors: damaged" in said
    assert "state-00001.safetensors: holds the state of epoch 2" in said
    after = read_all(unfinished)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {"manifest.json"}


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"], ["predict", "FILE", "--output", "-"]])
@pytest.mark.parametrize("damage", ["empty", "cut", "list", "future", "folder", "pickle"])
def test_a_manifest_that_is_damaged_or_of_another_version_is_never_guessed_at(
    damage, command, finished, simulated_file
):
    content = finished.manifest.read_bytes()
    finished.manifest.unlink()
    if damage == "folder":
        finished.manifest.mkdir()
    else:
        finished.manifest.write_bytes(
            {
                "empty": b"",
                "cut": content[: len(content) // 2],
                "list": b"[]",
                "future": json.dumps({**json.loads(content), "schema_version": 99}).encode(),
                "pickle": b"\x80\x04\x95\x00",
            }[damage]
        )
    arguments = [str(simulated_file) if part == "FILE" else part for part in command]
    place = 1 if command[0] == "predict" else len(arguments)
    said = run(*arguments[:place], finished.path, *arguments[place:], code=8).stderr
    assert "manifest.json" in said


# --- edits ---

EDITS = [
    ("seed: 0", "seed: 1", "seed"),
    ("optimizer: adam", "optimizer: sgd", "optimizer"),
    ("batch_size: 20", "batch_size: 21", "batch_size"),
    ("normalize: masked", "normalize: none", "normalize"),
]


@pytest.mark.parametrize(("old", "new", "key"), EDITS)
def test_a_run_is_not_continued_under_another_config(old, new, key, unfinished):
    text = unfinished.config.read_text()
    assert text.count(old) >= 1
    unfinished.config.write_text(text.replace(old, new, 1))
    before = read_all(unfinished)
    assert key in run("train", "--resume", unfinished.path, code=8).stderr
    assert read_all(unfinished) == before


def test_a_complete_run_is_left_alone(finished):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in finished.path.rglob("*")}
    assert "already complete" in run("train", "--resume", finished.path).stderr
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in finished.path.rglob("*")} == before


# --- a network that diverges ---


def test_a_loss_that_overflows_after_whole_epochs_keeps_the_best(unfinished):
    """The saved weights are finite still, and so large that the next step is not."""
    epoch, arrays, facts, _ = unfinished.read_newest_state()
    huge = {n: a * np.float32(1e30) if n.startswith("model/") and "kernel" in n else a for n, a in arrays.items()}
    assert all(np.isfinite(array).all() for array in huge.values())
    unfinished.write_state(epoch, huge, facts)
    kept = RunDir.open(unfinished.path).read_newest_state()[1]
    said = run("train", "--resume", unfinished.path, code=7).stderr
    assert "not finite in epoch 3" in said
    assert unfinished.read_manifest()["status"] == "failed"
    assert check_whole(unfinished.path) == epoch
    now = unfinished.read_newest_state()[1]
    assert all(np.array_equal(kept[name], now[name]) for name in kept)
    weights, _ = unfinished.read_weights(unfinished.best)
    assert all(np.array_equal(weights[name], arrays[f"best/{name}"]) for name in weights)


# --- devices, and files that are no runs ---


def test_a_gpu_that_is_not_there_is_said_before_any_row_is_read(tmp_path):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    options = [part for setting in (*SMALL, "train.device=gpu") for part in ("--set", setting)]
    said = run("train", SMOKE, *options, "--output", tmp_path / "run", code=5).stderr
    assert "sees no GPU" in said
    assert os.listdir(tmp_path) == []


LAMBDA = {
    "module": "keras.layers", "class_name": "Lambda",
    "config": {"function": {"class_name": "__lambda__", "config": {"code": "AAAA"}}},
}  # fmt: skip


@pytest.mark.parametrize("place", ["as the run", "in place of weights", "in place of a state"])
def test_a_keras_archive_is_never_opened_as_a_model(place, finished, tmp_path):
    archive = tmp_path / "evil.keras"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("config.json", json.dumps(LAMBDA))
        file.writestr("metadata.json", "{}")
        file.writestr("model.weights.h5", b"")
        file.writestr("../outside", b"")
    if place == "as the run":
        for command in (["train", "--resume", archive], ["evaluate", archive]):
            assert "evil.keras" in run(*command, code=8).stderr
    elif place == "in place of weights":
        shutil.copy(archive, finished.best)
        assert "best.safetensors" in run("evaluate", finished.path, code=8).stderr
    else:
        for state in finished.checkpoints.glob("state-*"):
            shutil.copy(archive, state)
        finished.update_manifest(status="interrupted")
        assert "state-00003.safetensors" in run("train", "--resume", finished.path, code=8).stderr
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path.parent / "outside").exists()
    assert not (ROOT / "outside").exists()

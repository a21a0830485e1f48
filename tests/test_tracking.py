"""Curves in TensorBoard and MLflow: those of history.csv, each epoch once, and never at the training's cost."""

import csv
import shutil
import sys

import numpy as np
import pytest
from conftest import SMALL, SMOKE
from processes import copy_unfinished
from typer.testing import CliRunner

from pointcnn_cli import training
from pointcnn_cli.cli.app import app
from pointcnn_cli.config.load import load_config
from pointcnn_cli.errors import ConfigError, MissingDependencyError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.tracking import build_tracking

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there
# What MLflow and what it builds on warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Notes(Reporter):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboard")


@pytest.fixture
def store(tmp_path, monkeypatch) -> str:
    """An MLflow store in a folder, which needs neither a server nor a database."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "store").as_uri()


def read_history(run: RunDir) -> dict[tuple[str, int], float]:
    rows = list(csv.DictReader(run.history.read_text().splitlines()))
    return {(key, int(r["epoch"])): float(v) for r in rows for key, v in r.items() if key != "epoch"}


def read_events(run: RunDir) -> list[tuple[tuple[str, int], float]]:
    """All scalars of all event files, as TensorBoard's own reader gives them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    events = [event for file in run.tensorboard.iterdir() for event in EventFileLoader(str(file)).Load()]
    return [((v.tag, e.step), make_ndarray(v.tensor).item()) for e in events for v in e.summary.value]


def to_float32(points: dict[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """As far as TensorBoard's reader goes."""
    return {key: float(np.float32(value)) for key, value in points.items()}


def find_mlflow_run(run: RunDir, uri: str):
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri), run.read_manifest()["mlflow"]["run_id"]


def read_mlflow(run: RunDir, uri: str) -> list[tuple[tuple[str, int], float]]:
    client, number = find_mlflow_run(run, uri)
    keys = client.get_run(number).data.metrics
    return [((m.key, m.step), m.value) for key in keys for m in client.get_metric_history(number, key)]


def check_curves(run: RunDir, uri: str) -> None:
    """Each number of history.csv is there once, and nothing else."""
    expected = read_history(run)
    for points, wanted in ((read_events(run), to_float32(expected)), (read_mlflow(run, uri), expected)):
        assert dict(points) == wanted
        assert len(points) == len(wanted)


def set_track(run: RunDir, track: str) -> None:
    run.config.write_text(run.config.read_text().replace("track: null", f"track: {track}"))


def forget_last_epoch(run: RunDir) -> None:
    """As a process leaves it that was killed after an epoch was shown, with a newest state that is damaged."""
    max(run.checkpoints.glob("state-*")).unlink()
    run.metrics.unlink()
    run.update_manifest(status="interrupted")


def test_nothing_is_tracked_unless_asked_for(trained):
    assert not trained.run.tensorboard.exists()
    assert "mlflow" not in trained.run.read_manifest()
    assert "track: null" in trained.run.config.read_text()


def test_curves_equal_history_and_a_resumed_run_has_each_epoch_once(trained, tensorboard, store, tmp_path):
    run = copy_unfinished(trained.run, tmp_path / "run")
    set_track(run, f"{{tensorboard: true, mlflow: '{store}'}}")
    notes = Notes()
    training.resume(run.path, notes)
    assert len(read_history(run)) == 18  # 3 epochs of 6 columns, two epochs of them replayed
    check_curves(run, store)
    client, number = find_mlflow_run(run, store)
    found = client.get_run(number)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.batch_size"] == "20"
    assert next(one.name for one in run.tensorboard.iterdir()).startswith("events.out.tfevents.")

    forget_last_epoch(run)
    training.resume(run.path, notes)
    check_curves(run, store)  # the last epoch took other seconds, so MLflow has another run for it
    assert not [text for text in notes.warnings if "curves" in text]


def test_a_server_that_is_down_is_told_once_and_stops_nothing(trained, tensorboard, tmp_path):
    pytest.importorskip("mlflow")
    run = copy_unfinished(trained.run, tmp_path / "run")
    set_track(run, f"{{tensorboard: true, mlflow: '{NOBODY}'}}")
    notes = Notes()
    training.resume(run.path, notes)
    assert len([text for text in notes.warnings if text.startswith("MLflow gets no curves")]) == 1
    assert run.read_manifest()["status"] == "finished"
    assert dict(read_events(run)) == to_float32(read_history(run))


def make_run(trained, path, track: list[str]):
    """A copy of the shared run, the config that tracks it, and its tracking."""
    shutil.copytree(trained.run.path, path)
    run, config, notes = RunDir.open(path), load_config(SMOKE, [*SMALL, *track]), Notes()
    return run, config, notes, build_tracking(config, notes)


ROWS = [
    {"epoch": e, "loss": 1 / e, "accuracy": 0.1 * e, "val_loss": 2 / 3 / e, "val_accuracy": 0.3, "learning_rate": 1e-3,
     "seconds": 0.5}
    for e in range(1, 5)
]  # fmt: skip


def list_points(rows):
    return {(key, row["epoch"]): value for row in rows for key, value in row.items() if key != "epoch"}


def test_mlflow_goes_on_where_it_left_off_and_begins_anew_where_history_did(trained, store, tmp_path):
    run, config, notes, tracking = make_run(trained, tmp_path / "run", [f"track.mlflow={store}"])
    history = ROWS[:2]
    tracking.start(run, config, history)
    tracking.finish("interrupted")
    client, number = find_mlflow_run(run, store)
    assert client.get_run(number).info.status == "KILLED"

    tracking = build_tracking(config, notes)
    history = ROWS[:3]
    tracking.start(run, config, history)
    history.append(ROWS[3])
    tracking.update()
    tracking.finish("finished")
    assert find_mlflow_run(run, store)[1] == number
    points = read_mlflow(run, store)
    assert dict(points) == list_points(ROWS)
    assert len(points) == 24

    other = [*ROWS[:3], {**ROWS[3], "loss": 0.125}]
    tracking = build_tracking(config, notes)
    tracking.start(run, config, other)
    assert find_mlflow_run(run, store)[1] != number
    assert dict(read_mlflow(run, store)) == list_points(other)
    assert notes.warnings == []


def test_event_files_that_cannot_be_written_are_told_once_and_tried_again(trained, tensorboard, tmp_path, monkeypatch):
    run, config, notes, tracking = make_run(trained, tmp_path / "run", ["track.tensorboard=true"])
    run.tensorboard.write_text("in the way")
    history = ROWS[:1]
    tracking.start(run, config, history)
    history.append(ROWS[1])
    tracking.update()
    assert len(notes.warnings) == 1
    assert "TensorBoard gets no curves" in notes.warnings[0]
    run.tensorboard.unlink()
    tracking.finish("finished")
    assert dict(read_events(run)) == to_float32(list_points(ROWS[:2]))
    assert len(notes.warnings) == 1


@pytest.mark.parametrize(("setting", "package"), [("tensorboard=true", "tensorboard"), (f"mlflow={NOBODY}", "mlflow")])
def test_an_absent_package_is_named_before_any_row_is_read(setting, package, tmp_path, monkeypatch):
    for name in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as Python marks what cannot be imported
    arguments = ["train", str(SMOKE), "--set", f"data.path={tmp_path / 'none.h5'}", "--set", f"track.{setting}"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "run")])
    assert result.exit_code == MissingDependencyError.exit_code == 5
    assert f"pip install {package}" in result.stderr
    assert not (tmp_path / "run").exists()


def test_an_address_that_means_nothing_is_refused_before_any_row_is_read():
    pytest.importorskip("mlflow")
    with pytest.raises(ConfigError, match="mlflow=pigeon://post"):
        build_tracking(load_config(SMOKE, ["track.mlflow=pigeon://post"]), Reporter())

"""A training in miniature that shows whether this installation can be trusted: train, interrupt, resume, reload, and
compare to the last bit. It takes about ten seconds and leaves nothing behind."""

import csv
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli import prediction, training
from pointcnn_cli.config.schema import Config, DataConfig, ModelConfig, SimulateConfig, TrainConfig
from pointcnn_cli.errors import Interrupted, OutputError, PointcnnError, RunError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.sources import open_source

EPOCHS = 2
# Deterministic, since a GPU gives equal bits only then; the smallest network that has convolutions in points and time.
CONFIG = Config(
    name="doctor",
    data=DataConfig(simulate=SimulateConfig(windows=24, subjects=4, points=8, frames=8, stride=4)),
    model=ModelConfig(name="pointnet_tcn"),
    train=TrainConfig(epochs=EPOCHS, batch_size=10, deterministic=True, keep="last"),
)
HARDWARE_HINT = (
    "equal trainings must give equal bits: run it again with nothing else on this machine, then with "
    "TF_ENABLE_ONEDNN_OPTS=0; if bits still differ, reinstall TensorFlow and test the memory of this machine"
)


@dataclass(frozen=True)
class SelfTest:
    """How it went. `error` is None where all is well."""

    seconds: float
    device: str | None
    error: PointcnnError | None


class _StopAfterFirst(Reporter):
    """Interrupts a training once its first epoch is saved, as Ctrl-C would."""

    def end_epoch(self, row: Mapping[str, float], best_epoch: int) -> None:
        raise Interrupted(SIGINT, "interrupted on purpose")


class _HearDevice(Reporter):
    """Keeps the line that names the device."""

    device: str | None = None

    def say(self, text: str) -> None:
        if text.startswith("device: "):
            self.device = text.removeprefix("device: ")


def run_self_test(folder: Path | None = None) -> SelfTest:
    """Train in a new folder inside `folder` (default: that for temporary files), which is removed in any case.

    A failure that has a remedy is in the result; anything else is a bug and raised.
    """
    started, heard = time.monotonic(), _HearDevice()
    failure = None
    try:
        with _make_folder(folder) as name:
            _train_and_compare(Path(name), heard)
    except PointcnnError as error:
        failure = error
    return SelfTest(round(time.monotonic() - started, 1), heard.device, failure)


def _make_folder(folder: Path | None) -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="pointcnn-doctor-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"no folder can be made for temporary files ({error.strerror or error})",
            "set TMPDIR to a folder with free space that you may write to",
        ) from error


def _train_and_compare(folder: Path, reporter: Reporter) -> None:
    """Raises RunError where bits differ, and what training, resuming and reloading raise."""
    whole = training.train(CONFIG, folder / "whole", ["pointcnn", "doctor"], reporter)
    halted = folder / "halted"
    try:
        training.train(CONFIG, halted, ["pointcnn", "doctor"], _StopAfterFirst())
    except Interrupted:
        resumed = training.resume(halted, Reporter())
    else:
        raise RunError("an interrupted training was not interrupted", "report it: this is a bug in pointcnn")
    weights = [trained.run.read_weights(trained.run.last)[0] for trained in (whole, resumed)]
    _compare("the weights of a resumed and an uninterrupted training", weights[0], weights[1])
    _compare("the predictions of the network and of its reloaded copy", *_predict_twice(whole))


def _predict_twice(trained: training.TrainedRun) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The probabilities that the training wrote, and those of its checkpoint loaded anew."""
    with trained.run.predictions.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    loaded = prediction.load_run(trained.run.path, Reporter())
    written = [[float(row[f"p_{name}"]) for name in loaded.classes] for row in rows]
    model, _ = loaded.build_model()
    from pointcnn_cli.batches import predict_rows

    with open_source(loaded.config.data) as source:
        blocks = list(predict_rows(model, source, np.array([int(row["index"]) for row in rows])))
    return {"p": np.array(written, np.float32)}, {"p": np.concatenate(blocks)}


def _compare(what: str, first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> None:
    """Raise RunError where two sets of arrays differ in any bit."""
    different = [n for n in first if n not in second or first[n].tobytes() != second[n].tobytes()]
    if different or first.keys() != second.keys():
        raise RunError(f"{what} differ ({len(different)} of {len(first)} arrays)", HARDWARE_HINT)

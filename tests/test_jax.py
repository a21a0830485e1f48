"""The same training, evaluation and prediction on JAX, in processes of their own; skipped where JAX is absent."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SMOKE, Listener
from processes import LIMIT, check_same_end, check_whole, copy_unfinished, pointcnn, settings

from pointcnn_cli import training
from pointcnn_cli.prediction import load_run, predict_files, predict_source
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.sources import open_source
from pointcnn_cli.tables import write_predictions


@pytest.fixture(scope="module")
def trained_on_jax(on_jax, tmp_path_factory) -> RunDir:
    """A small finished training on JAX, with augmentation and dropout; not to be changed."""
    target = tmp_path_factory.mktemp("jax") / "run"
    done = pointcnn("train", SMOKE, *settings(train__epochs=3), "--output", target, env=on_jax)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(target)
    assert "device: CPU" in done.stderr
    assert "oneDNN" not in done.stderr  # nothing of TensorFlow's
    return RunDir.open(target)


def test_the_run_says_that_it_was_trained_on_jax(trained_on_jax, on_jax):
    environment = trained_on_jax.read_manifest()["environment"]
    assert environment["backend"] == "jax"
    assert environment["xla_flags"] == on_jax["XLA_FLAGS"]
    assert environment["packages"].keys() >= {"jax", "jaxlib"}


def test_a_resumed_run_on_jax_equals_an_uninterrupted_one(trained_on_jax, on_jax, tmp_path):
    run = copy_unfinished(trained_on_jax, tmp_path / "run")
    done = pointcnn("train", "--resume", run.path, env=on_jax)
    assert done.returncode == 0, done.stderr
    assert "bit-identical" not in done.stderr
    check_same_end(run, trained_on_jax)


def read_probabilities(path) -> np.ndarray:
    """The columns p_<class> of a file of predictions, (rows, classes)."""
    with open(path) as file:
        return np.array([[float(v) for k, v in row.items() if k.startswith("p_")] for row in csv.DictReader(file)])


def test_weights_trained_on_jax_predict_the_same_on_tensorflow(trained_on_jax):
    """Here, in this process, is TensorFlow."""
    loaded = load_run(trained_on_jax.path, Reporter())
    rows = np.array(json.loads(trained_on_jax.split.read_text())["validation"])
    with open_source(loaded.config.data) as source:
        here = np.concatenate([p.probabilities for p in predict_source(loaded.build_predictor(), source, Reporter())])[
            rows
        ]
    np.testing.assert_allclose(here, read_probabilities(trained_on_jax.predictions), atol=1e-5)


def test_weights_trained_on_tensorflow_predict_the_same_on_jax(trained, simulated_file, on_jax, tmp_path):
    outputs = [tmp_path / "tensorflow.csv", tmp_path / "jax.csv"]
    blocks = predict_files(load_run(trained.run.path, Reporter()), [simulated_file], (), Reporter())
    write_predictions(outputs[0], tuple(trained.metrics["classes"]), blocks, force=False)
    done = pointcnn("predict", trained.run.path, simulated_file, "--output", outputs[1], env=on_jax)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(*map(read_probabilities, outputs), atol=1e-5)


def test_resuming_on_another_backend_is_told(trained_on_jax, tmp_path):
    run = copy_unfinished(trained_on_jax, tmp_path / "run")
    listener = Listener()
    training.resume(run.path, listener)
    assert any("not bit-identical" in text and "backend was jax, is tensorflow" in text for text in listener.said)
    assert run.read_manifest()["status"] == "finished"


MISHAPS = """
import os, signal, sys
from pathlib import Path
from pointcnn_cli import training
from pointcnn_cli.config.load import load_config
from pointcnn_cli.errors import PointcnnError
from pointcnn_cli.reporting import Reporter

class Listener(Reporter):
    streaming = False
    def end_step(self, epoch, step, logs):
        if self.streaming and (epoch, step) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)
    def say(self, text):
        if "streaming" in text:
            self.streaming = True
            print(text)

folder = Path(sys.argv[1])
for name, settings in (
    ("diverged", ["augment.position_jitter=1e38", "model.normalize=none", "train.epochs=1"]),
    ("streamed", ["train.epochs=2", "train.batch_size=6", "data.simulate.windows=72", "data.memory_limit=40000"]),
):
    try:
        training.train(load_config({smoke!r}, [*{small!r}, *settings]), folder / name, ["pointcnn"], Listener())
    except PointcnnError as error:
        print(error.exit_code, error.message)
"""


def test_a_loss_that_is_not_finite_a_signal_and_a_stream_end_on_jax_as_they_do_on_tensorflow(on_jax, tmp_path):
    """One process for all, since its start is most of the time."""
    small = [part for part in settings() if part != "--set"]
    code = MISHAPS.format(smoke=str(SMOKE), small=small)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=on_jax, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3, done.stdout
    diverged, streaming, stopped = done.stdout.splitlines()
    assert re.match(
        r"7 the loss or a weight is not finite in epoch \d+, step \d+ of 1\..*<simulated>, row \d+", diverged
    )
    assert streaming.startswith("streaming the training rows: ")
    assert stopped == "143 terminated; all finished epochs are saved"
    assert RunDir.open(tmp_path / "diverged").read_manifest()["status"] == "failed"
    assert check_whole(tmp_path / "streamed") == 1


@pytest.mark.slow
def test_the_fast_layers_equal_the_stock_ones_on_jax(on_jax):
    """All tests of the layers once more."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_layers.py", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=on_jax, cwd=ROOT, capture_output=True, text=True, timeout=3 * LIMIT, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)

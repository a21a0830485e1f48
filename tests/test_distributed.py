"""Several devices or processes that train one network: each row once, the same losses as one, and an end when one is
lost."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

import numpy as np
import pytest
from conftest import ROOT, SMOKE
from processes import LIMIT, check_same_end, end, read_until, start

from pointcnn_cli.distribution import Team, build_team
from pointcnn_cli.errors import ConfigError, MissingDependencyError, UsageError
from pointcnn_cli.joining import ADDRESSES, ALONE, COUNT, INDEX, Place, read_place
from pointcnn_cli.rundir import RunDir

TINY = ("data.simulate.windows=48", "data.simulate.subjects=4", "data.simulate.points=8", "data.simulate.frames=8")
TINY += ("data.simulate.stride=4", "model.name=pointnet_tcn", "augment=null", "train.early_stopping=null")


def make_team(index: int, count: int, devices: int) -> Team:
    team = Team()
    team.index, team.count, team.devices = index, count, devices
    return team


# --- who takes which rows ---


@pytest.mark.parametrize(
    ("rows", "size", "count", "devices"), [(70, 16, 2, 4), (64, 16, 4, 4), (7, 8, 1, 2), (3, 4, 4, 4)]
)
def test_processes_share_each_batch_evenly(rows, size, count, devices):
    order = np.random.default_rng(0).permutation(rows)
    shares = [make_team(i, count, devices).share(order, size) for i in range(count)]
    part, steps = size // count, make_team(0, count, devices).count_steps(rows, size)
    assert len({len(share) for share in shares}) == 1
    for step in range(steps):
        together = np.concatenate([share[step * part : (step + 1) * part] for share in shares])
        batch = order[step * size : (step + 1) * size]
        np.testing.assert_array_equal(together, batch[: len(batch) // devices * devices])
    assert sum(map(len, shares)) == rows - (rows % size) % devices


def test_one_process_takes_every_row():
    order = np.random.default_rng(0).permutation(37)
    np.testing.assert_array_equal(Team().share(order, 16), order)
    assert Team().count_steps(37, 16) == 3


def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_its_neighbours():
    with pytest.raises(ConfigError) as caught:
        make_team(0, 2, 4).check_batches(1000, 50)
    assert caught.value.hint == "set train.batch_size to 48 or 52"
    with pytest.raises(ConfigError, match="3 training rows cannot be shared by 4 devices"):
        make_team(0, 2, 4).check_batches(3, 8)


# --- the place in the environment ---

PLACE = {ADDRESSES: "10.0.0.1:1234", COUNT: "2", INDEX: "1"}


@pytest.fixture
def as_on_jax(monkeypatch):
    """As under KERAS_BACKEND=jax, in a process where Keras runs on something else."""
    monkeypatch.setattr("pointcnn_cli.joining.name_backend", lambda: "jax")


def test_the_place_is_that_of_the_environment(as_on_jax):
    assert read_place(PLACE) == Place(1, 2, "10.0.0.1:1234")
    assert read_place(PLACE | {ADDRESSES: "10.0.0.1:1234,10.0.0.2:1234"}) == Place(1, 2, "10.0.0.1:1234")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({INDEX: ""}, f"not set: {INDEX}"),
        ({COUNT: "two"}, "'two'"),
        ({INDEX: "2"}, "there are 2 processes (0 to 1)"),
        ({ADDRESSES: "10.0.0.1"}, "HOST:PORT"),
        ({ADDRESSES: "a:1,b:1,c:1"}, "one for each process"),
    ],
)
def test_a_wrong_place_says_what_to_set(as_on_jax, change, said):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        read_place(PLACE | change)
    assert ADDRESSES in caught.value.hint


def test_several_processes_need_jax():
    with pytest.raises(MissingDependencyError, match="needs the backend jax; it is tensorflow") as caught:
        read_place(PLACE)
    assert "train.device: multi" in caught.value.hint


def test_multi_needs_two_gpus():
    with pytest.raises(MissingDependencyError, match=r"train.device is multi, but tensorflow sees \w+ GPU"):
        build_team("multi", ALONE)


# --- processes on JAX ---


def place_pair(environment: dict[str, str]) -> list[dict[str, str]]:
    """The environments of two processes that are to meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [environment | {ADDRESSES: address, COUNT: "2", INDEX: str(index)} for index in (0, 1)]


MEET_NOBODY = """
import os
from pointcnn_cli import joining
from pointcnn_cli.errors import TrainingError
joining.JOIN_SECONDS = 1
try:
    joining.join(joining.read_place(os.environ))
except TrainingError as error:
    print(error.message, "|", error.hint, flush=True)
os._exit(TrainingError.exit_code)
"""


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_the_others_do_not_join_says_so(on_jax, index):
    environment = place_pair(on_jax)[index]
    command = [sys.executable, "-c", MEET_NOBODY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    said = f"process {index} of 2 did not meet the others at {environment[ADDRESSES]} (waited for 1 s) | start all 2 "
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(said)


TRAIN_ALL = """
import os, sys
from pathlib import Path
from pointcnn_cli import training
from pointcnn_cli.config.load import load_config
from pointcnn_cli.joining import ALONE, COUNT, leave, read_place
from pointcnn_cli.reporting import Reporter
place = read_place(os.environ) if COUNT in os.environ else ALONE
for name, settings in {runs!r}.items():
    config = load_config({smoke!r}, [*{tiny!r}, *settings])
    training.train(config, Path(sys.argv[1]) / name, ["pointcnn"], Reporter(), place=place)
leave(failed=False)
os._exit(0)
"""
# 54 training rows of 768 bytes, too many for the limit; batches of 6 leave no row over.
STREAM = ("data.simulate.windows=72", "train.batch_size=6", "data.memory_limit=40000")
RUNS = {
    "sgd": ["train.epochs=3", "train.batch_size=18", "train.optimizer=sgd", "train.learning_rate=0.01"],
    "adam": ["train.epochs=3", "train.batch_size=18"],
    # At 0.01 its loss grows to 29, of which float32 holds no 1e-5.
    "streamed": ["train.epochs=2", "train.optimizer=sgd", "train.learning_rate=0.001", *STREAM],
}


def train_all(folder, environments: list[dict[str, str]]) -> None:
    """Train RUNS below `folder`, in as many processes as there are environments."""
    code = TRAIN_ALL.format(runs=RUNS, smoke=str(SMOKE), tiny=TINY)
    command = [sys.executable, "-c", code, str(folder)]
    started = [
        subprocess.Popen(command, env=e, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for e in environments
    ]
    for process in started:
        out, said = process.communicate(timeout=LIMIT)
        assert (process.returncode, out) == (0, ""), said


def read_columns(run: RunDir, name: str) -> np.ndarray:
    with run.history.open() as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def read_probabilities(run: RunDir) -> np.ndarray:
    """The columns p_<class> of the scored rows, (rows, classes)."""
    rows = csv.DictReader(run.predictions.read_text().splitlines())
    return np.array([[float(value) for name, value in row.items() if name.startswith("p_")] for row in rows])


@pytest.mark.slow
def test_two_processes_train_as_one_does(on_jax, tmp_path):
    train_all(tmp_path / "two", place_pair(on_jax))
    train_all(tmp_path / "one", [on_jax])
    for name, tolerance in (("sgd", 1e-5), ("adam", 1e-3), ("streamed", 1e-5)):
        one, two = RunDir.open(tmp_path / "one" / name), RunDir.open(tmp_path / "two" / name)
        for column in ("loss", "val_loss"):
            np.testing.assert_allclose(read_columns(two, column), read_columns(one, column), atol=tolerance)
        mine, theirs = map(read_probabilities, (two, one))
        np.testing.assert_allclose(mine, theirs, atol=10 * tolerance)
        assert np.mean(mine.argmax(axis=1) == theirs.argmax(axis=1)) >= 0.999
        assert two.read_manifest()["environment"]["device"] == "CPU x 2 in 2 processes"
        assert (two.read_manifest()["streaming"] is not None) == (name == "streamed")


def start_pair(environment: dict[str, str], *arguments: object, **options) -> list[subprocess.Popen[str]]:
    return [start("train", *arguments, "--distributed", env=one, **options) for one in place_pair(environment)]


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_ends_and_the_run_resumes(on_jax, tmp_path):
    target = tmp_path / "run"
    chosen = [part for setting in TINY for part in ("--set", setting)]
    first, second = start_pair(
        on_jax, SMOKE, *chosen, "--set", "train.epochs=30", "--set", "train.batch_size=18", "--output", target
    )
    read_until(first, "epoch 2/30")
    second.kill()
    killed = time.monotonic()
    code, said = end(first)
    assert time.monotonic() - killed < 60
    assert code == 7
    assert "another process of this training is gone (this is process 0 of 2)" in said
    assert f"pointcnn train --resume {target} --distributed" in said
    assert end(second)[0] == -signal.SIGKILL
    assert RunDir.open(target).read_manifest()["status"] == "failed"

    resumed = start_pair(on_jax, "--resume", target, stdout=subprocess.PIPE)
    ends = [process.communicate(timeout=LIMIT) for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], ends
    assert ends[0][0].splitlines()[-1] == str(target)
    assert ends[1] == ("", "")
    run = RunDir.open(target)
    assert run.read_manifest()["status"] == "finished"
    assert len(read_columns(run, "loss")) == 30


# --- several devices of one process ---

ON_TWO_DEVICES = """
import sys
from pathlib import Path
from processes import copy_unfinished
from pointcnn_cli import distribution, training
from pointcnn_cli.config.load import load_config
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.runtime import import_keras

import_keras()
if {backend!r} == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    distribution.list_members = lambda wanted: ["CPU:0", "CPU:1"]
else:
    distribution.list_members = lambda wanted: ["cpu:0", "cpu:1"]

folder = Path(sys.argv[1])
for name, settings in {runs!r}.items():
    for device in ("cpu", "multi"):
        config = load_config({smoke!r}, [*{tiny!r}, *settings, f"train.device={{device}}"])
        training.train(config, folder / f"{{name}}-{{device}}", ["pointcnn"], Reporter())
training.resume(copy_unfinished(RunDir.open(folder / "weighted-multi"), folder / "resumed").path, Reporter())
"""
PLAIN = ("train.epochs=2", "train.optimizer=sgd", "train.learning_rate=0.01", "model.dropout=0.0")
WEIGHTED = {"weighted": [*PLAIN, "train.class_weight=balanced", "train.batch_size=16"]}
STREAMED = {"streamed": [*PLAIN, *STREAM, "train.epochs=1"]}


def check_devices(folder, backend: str, runs: dict[str, list[str]], environment: Mapping[str, str]) -> None:
    """Train on one and on two devices of one process, and compare; resume on two."""
    code = ON_TWO_DEVICES.format(runs=runs, smoke=str(SMOKE), tiny=TINY, backend=backend)
    path = f"{ROOT}:{ROOT / 'tests'}"
    environment = {**environment, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    for name in runs:
        one, two = RunDir.open(folder / f"{name}-cpu"), RunDir.open(folder / f"{name}-multi")
        for column in ("loss", "val_loss"):
            np.testing.assert_allclose(read_columns(two, column), read_columns(one, column), atol=1e-5)
        assert two.read_manifest()["environment"]["device"] == "CPU x 2"
        assert (two.read_manifest()["streaming"] is not None) == (name == "streamed")
    check_same_end(RunDir.open(folder / "resumed"), RunDir.open(folder / "weighted-multi"))


@pytest.mark.slow
def test_two_devices_of_one_process_train_as_one_does(tmp_path):
    """MirroredStrategy, on two parts of the CPU; class weights, a last batch that is small, a stream, and a resume."""
    check_devices(tmp_path, "tensorflow", WEIGHTED | STREAMED, os.environ)


@pytest.mark.slow
def test_two_devices_of_one_process_train_as_one_does_on_jax(on_jax, tmp_path):
    flags = f"{on_jax['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    check_devices(tmp_path, "jax", WEIGHTED, on_jax | {"XLA_FLAGS": flags})

"""What `speed.py` times, each in a child process: trainings, predictions and readings, by pointcnn and by plain
libraries.

    python speed_subjects.py FUNCTION '{"argument": ...}'

Answers each line on stdin with one round in JSON on stdout; the first round, the warm-up, comes unasked.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np
from speed_data import TRAIN_SHARE, read_arrays

from pointcnn_cli.cli.console import ConsoleReporter
from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.hdf5.samples import CHANNEL_NAMES
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.runtime import import_keras

LEARNING_RATE = 1e-4
READ_ROWS = 1024  # at a time, as in pointcnn's own passes over a file


class Rounds:
    """The child's end of the pipes: answers with the time since the round began, and waits for the next request."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # what is timed may print as it likes
        self.begin()

    def begin(self) -> None:
        """A round starts now."""
        self._parts: dict[str, float] = {}
        self._wall, self._cpu = time.perf_counter(), count_cpu_seconds()

    def end(self, count: float, unit: str, **facts: Any) -> None:
        """The round is over; the next begins when it is asked for. Ends the process when no more are wanted."""
        wall, cpu = time.perf_counter() - self._wall, count_cpu_seconds() - self._cpu
        parts = {**self._parts, "rest": wall - sum(self._parts.values())} if self._parts else {}
        answer = {"wall_seconds": wall, "cpu_seconds": cpu, "count": count, "unit": unit, "parts": parts}
        print(json.dumps({**answer, **facts}), file=self._answers, flush=True)
        if not sys.stdin.readline():
            raise SystemExit(0)
        self.begin()

    def repeat(self, work: Callable[[], float], unit: str, **facts: Any) -> None:
        """Do `work`, which says how many units it did, once a round."""
        while True:
            self.end(work(), unit, **facts)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """From now on the seconds in a function are counted as this part of its round; iterators are run to their
        end."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **named)
            if isinstance(result, Iterator):
                result = iter(list(result))
            self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - started
            return result

        setattr(owner, name, timed)


def count_cpu_seconds() -> float:
    """Of this process with all its threads, and of its children that ended (pointcnn tries a file in one)."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class RoundReporter(Reporter):
    """Makes every epoch of a training a round, and hands on what a user would see."""

    def __init__(self, shown: Reporter, rounds: Rounds, rows: int) -> None:
        self._shown, self._rounds, self._rows = shown, rounds, rows

    def start_training(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._shown.start_training(first_epoch, epochs, steps)
        self._rounds.begin()

    def end_step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        self._shown.end_step(epoch, step, logs)

    def end_training(self) -> None:
        self._shown.end_training()

    def end_epoch(self, row: Mapping[str, float], best_epoch: int) -> None:
        self._shown.end_epoch(row, best_epoch)
        self._rounds.end(self._rows, "samples", history_seconds=row["seconds"])


def train_pointcnn(rounds: Rounds, config: str, overrides: Sequence[str], run: str, rows: int, progress: bool) -> None:
    """What `pointcnn train` does; a round is an epoch with its validation and all that it writes. `rows` are for
    training."""
    import_keras()
    import keras

    from pointcnn_cli import diagnose, fitting, training

    rounds.watch(keras.Model, "fit", "steps")
    rounds.watch(fitting, "predict_rows", "validation")
    rounds.watch(fitting.Fit, "save", "checkpoint")
    reporter = RoundReporter(ConsoleReporter() if progress else Reporter(), rounds, rows)
    loaded = load_config(Path(config), overrides)
    training.train(loaded, Path(run), sys.argv, reporter, inspect=diagnose.warn_before_training)


def train_stock(
    rounds: Rounds, file: str, batch: int, epochs: int, checkpoint: str | None, progress: bool, as_written: bool = True
) -> None:
    """The user's script on arrays in memory; a round is an epoch with its validation and its checkpoint, and what is
    left of it without them (`rest`) its steps.

    The last fifth of the rows validates. Without `as_written`, the layers of `model.fast: false`.
    """
    import keras

    channels, labels = read_arrays(file)
    model = (build_as_written if as_written else build_stock_layers)([c.shape[1:4] for c in channels], labels.shape[1])
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "categorical_crossentropy", metrics=["accuracy"])
    rounds.watch(keras.Model, "evaluate", "validation")
    rounds.watch(keras.callbacks.ModelCheckpoint, "on_epoch_end", "checkpoint")
    cut = int(len(labels) * TRAIN_SHARE)
    turns = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: rounds.begin(), on_epoch_end=lambda epoch, logs: rounds.end(cut, "samples")
    )
    model.fit(
        [c[:cut] for c in channels], labels[:cut], batch_size=batch, epochs=epochs, verbose=int(progress),
        validation_data=([c[cut:] for c in channels], labels[cut:]),
        callbacks=[*([keras.callbacks.ModelCheckpoint(checkpoint)] if checkpoint else []), turns],
    )  # fmt: skip


def train_torch(rounds: Rounds, file: str, batch: int, checkpoint: str) -> None:
    """The same network and epochs in eager PyTorch, on arrays in memory."""
    from speed_torch import Training

    channels, labels = read_arrays(file)
    training = Training(channels, labels.argmax(axis=1), batch, int(len(labels) * TRAIN_SHARE), LEARNING_RATE)
    rounds.watch(training, "save", "checkpoint")

    def work() -> float:
        training.run_epoch()
        training.save(checkpoint)
        return training.cut

    rounds.repeat(work, "samples")


def build_as_written(shapes: Sequence[tuple[int, int, int]], classes: int) -> Any:
    """The network of the user's script in Keras's own layers, each where the script has it; layers are named like
    those of `pointcnn_original`, whose function it is."""
    import keras
    from keras import layers

    inputs = [keras.Input((*shape, 1), name=f"channel_{i}") for i, shape in enumerate(shapes, 1)]
    branches = []
    for i, channel in enumerate(inputs, 1):
        name = f"branch_{i}"
        x = layers.Conv3D(8, 3, padding="same", activation="relu", name=f"{name}_conv1")(channel)
        x = layers.MaxPooling3D(3, 2, padding="same")(x)
        x = layers.BatchNormalization(name=f"{name}_norm1")(x)
        y = layers.Conv3D(16, 3, (2, 2, 1), padding="same", activation="relu", name=f"{name}_conv2")(x)
        y = layers.BatchNormalization(name=f"{name}_conv2_norm")(y)
        shortcut = layers.Conv3D(16, 3, (2, 2, 1), padding="same", activation="relu", name=f"{name}_shortcut")(x)
        branches.append(layers.Add()([y, shortcut]))
    x = layers.Conv3D(64, 3, 2, padding="same", name="conv4")(layers.Concatenate()(branches))
    x = layers.BatchNormalization(name="norm4")(layers.AveragePooling3D(3, 2, padding="same")(x))
    x = layers.Dense(128, activation="relu", name="dense")(layers.Flatten()(x))
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(layers.Dropout(0.5)(x))
    return keras.Model(inputs, outputs)


def build_stock_layers(shapes: Sequence[tuple[int, int, int]], classes: int) -> Any:
    """`pointcnn_original` with `fast: false`: stock layers, but the first ReLU stands behind the pool."""
    from pointcnn_cli.config.schema import ModelConfig
    from pointcnn_cli.models import build_model

    return build_model(ModelConfig(name="pointcnn_original", normalize="none", fast=False), shapes, classes)


def predict_pointcnn(rounds: Rounds, run: str, file: str, output: str) -> None:
    """`pointcnn predict RUN FILE --output OUTPUT` of a model that is loaded: opening, reading, predicting, writing."""
    from pointcnn_cli.prediction import LoadedRun, load_run, predict_files
    from pointcnn_cli.tables import write_predictions

    loaded = load_run(Path(run), Reporter())
    model = loaded.build_model()

    class WarmRun(LoadedRun):
        def build_model(self) -> Any:
            return model

    warm = WarmRun(loaded.run, loaded.config, loaded.manifest)

    def work() -> float:
        blocks = predict_files(warm, [Path(file)], (), Reporter())
        return write_predictions(Path(output), warm.classes, blocks, force=True)

    rounds.repeat(work, "samples")


def predict_stock(rounds: Rounds, run: str, file: str, batch: int, output: str) -> None:
    """`model.predict` of the network as written, with the run's weights, on arrays in memory. Leaves the probabilities
    in `output`, a .npy file."""
    from pointcnn_cli.models import assign_weights
    from pointcnn_cli.rundir import RunDir

    channels, labels = read_arrays(file)
    model = build_as_written([c.shape[1:4] for c in channels], labels.shape[1])
    assign_weights(model, RunDir(Path(run)).read_weights(RunDir(Path(run)).last)[0], run)
    np.save(output, model.predict(channels, batch_size=batch, verbose=0))
    rounds.repeat(lambda: len(model.predict(channels, batch_size=batch, verbose=0)), "samples")


def read_pointcnn(rounds: Rounds, file: str) -> None:
    """All channels of all rows through pointcnn's source, opened anew each round; every value is checked for NaN."""
    from pointcnn_cli.sources import open_source

    def work() -> float:
        size = 0
        with open_source(DataConfig(path=file)) as source:
            for first in range(0, source.index.rows, READ_ROWS):
                rows = np.arange(first, min(first + READ_ROWS, source.index.rows))
                size += sum(channel.nbytes for channel in source.read(rows))
        return size / 1e6

    rounds.repeat(work, "megabytes")


def read_h5py(rounds: Rounds, file: str) -> None:
    """The same rows in the same blocks as slices of h5py's datasets."""

    def work() -> float:
        size = 0
        with h5py.File(file) as opened:
            for first in range(0, len(opened["label"]), READ_ROWS):
                size += sum(opened[name][first : first + READ_ROWS].nbytes for name in CHANNEL_NAMES)
        return size / 1e6

    rounds.repeat(work, "megabytes")


FUNCTIONS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        train_pointcnn,
        train_stock,
        train_torch,
        predict_pointcnn,
        predict_stock,
        read_pointcnn,
        read_h5py,
    )
}


if __name__ == "__main__":
    FUNCTIONS[sys.argv[1]](Rounds(), **json.loads(sys.argv[2]))

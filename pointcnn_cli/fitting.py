"""The training loop: Keras's `fit`, one epoch at a time, with the whole state saved after each.

Everything random is drawn from (seed, epoch, step), so an epoch is the same whether or not the process was interrupted
before it.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.batches import PREDICTION_BATCH, iterate_blocks, predict_rows, reseed
from pointcnn_cli.callbacks import StepClock, StepWatch
from pointcnn_cli.checkpoints import Arrays
from pointcnn_cli.config.schema import Config
from pointcnn_cli.distribution import Team
from pointcnn_cli.errors import RunError, TrainingError
from pointcnn_cli.feeding import PartRows, ResidentFeed, StreamedFeed, TrainingRows, estimate_epoch
from pointcnn_cli.hdf5.samples import DataIndex
from pointcnn_cli.history import HistoryRow, describe_stuck, find_best_epoch, is_stuck
from pointcnn_cli.memory import FREE_MEMORY, explain_shortage, suggest_batch
from pointcnn_cli.metrics import compute_log_loss
from pointcnn_cli.models import assign_weights, build_model, read_weights
from pointcnn_cli.optimizers import build_optimizer, compute_row_weights
from pointcnn_cli.reporting import Reporter, describe_duration
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.runtime import set_seed
from pointcnn_cli.signals import StopRequest
from pointcnn_cli.splits.parts import compute_chance
from pointcnn_cli.streaming import Plan
from pointcnn_cli.timing import HOST, SAVING, VALIDATION, Clock

SUSPECTS_NAMED = 3


class Fit:
    """One training: the model, its optimiser, and what has happened so far."""

    def __init__(
        self,
        config: Config,
        index: DataIndex,
        model: keras.Model,
        train: PartRows,
        validation: PartRows,
        plan: Plan | None = None,
        team: Team | None = None,
    ) -> None:
        """Put the training rows on the device, or with `plan` make them a stream, and compile. `model` is that of
        `build_network`, with the statistics of its inputs; where devices of a `team` train together, they train a
        copy."""
        self.config = config
        self.index = index
        self.train = train
        self.validation = validation
        self.plan = plan
        self.team = team or Team()
        self.classes = index.classes or ()
        self.history: list[HistoryRow] = []
        self.last: Arrays = {}  # weights after the last epoch of `history`
        self.best: Arrays = {}
        self.clock = Clock()
        self.model = model
        self.team.check_batches(len(train.labels), config.train.batch_size)
        self.steps = self.team.count_steps(len(train.labels), config.train.batch_size)
        targets = np.eye(len(self.classes), dtype=np.float32)[train.labels]
        rows = TrainingRows(train, targets, compute_row_weights(config.train, train.labels, self.classes))
        self._feed = (
            ResidentFeed(config, rows, self.team)
            if plan is None
            else StreamedFeed(config, rows, self.team, plan, self.clock)
        )
        with self.team.scope():
            self._trained = self.model if self.team.devices == 1 else self._copy_network()
            self.trainer = self._feed.build_trainer(self._trained)
            self.trainer.compile(
                optimizer=build_optimizer(config.train, self.steps),
                loss=keras.losses.CategoricalCrossentropy(label_smoothing=config.train.label_smoothing),
                metrics=["accuracy"],
            )
            self.trainer.optimizer.build(self.trainer.trainable_variables)

    @property
    def best_epoch(self) -> int:
        """The epoch with the best monitored value, the first of equals; 0 before any."""
        return find_best_epoch(self.history, self.config.train.monitor)

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights the run stands for."""
        return self.best_epoch if self.config.train.keep == "best" else len(self.history)

    def run(
        self, run: RunDir, reporter: Reporter, stop: StopRequest, after_epoch: Callable[[], None] = lambda: None
    ) -> None:
        """Train the epochs that are left, saving each, and call `after_epoch` then. Raises Interrupted and
        TrainingError; what was saved stays."""
        first = len(self.history) + 1
        hint = f"continue with: {run.resume_command}{self.team.resume_option}"
        watch = StepWatch(reporter, stop, hint, self._explain_divergence)
        check = partial(stop.check, hint)
        size = min(self.config.train.batch_size, len(self.train.labels))
        chance = self._compute_chance()
        was_stuck = is_stuck(self.history, chance)
        try:
            with (
                explain_shortage(f"trying a batch of {size} rows", suggest_batch(size)),
                reporter.waiting("trying one batch"),
            ):
                seconds = self._try_one_batch(first, check)
            if seconds is not None:
                reporter.say(f"this takes about {describe_duration(seconds * (self.config.train.epochs - first + 1))}")
            reporter.start_training(first, self.config.train.epochs, self.steps)
            for epoch in range(first, self.config.train.epochs + 1):
                if self._is_exhausted():
                    reporter.say(f"stopped early: no better {self.config.train.monitor} since epoch {self.best_epoch}")
                    break
                # The batch that was tried did fit, so others took the memory since, and may give it back.
                with explain_shortage(
                    f"training epoch {epoch} with batches of {size} rows",
                    f"{FREE_MEMORY}, and {hint}\nor train a new run: {suggest_batch(size)}",
                ):
                    self._run_epoch(epoch, watch, check)
                    with self.clock.measure(SAVING):
                        self.save(run)
                reporter.end_epoch(self.history[-1], self.best_epoch)
                after_epoch()
                if is_stuck(self.history, chance) and not was_stuck:
                    was_stuck = True
                    reporter.warn(f"{describe_stuck(self.history, chance)}: pointcnn diagnose {run.path}")
                stop.check(hint)
            reporter.detail(self.clock.describe())
        finally:
            self._feed.close()
            reporter.end_training()

    def _run_epoch(self, epoch: int, watch: StepWatch, check: Callable[[], None]) -> None:
        started = time.monotonic()
        with self.team.scope():
            reseed(self.trainer, self.config.seed, epoch)
            with self.clock.measure(HOST):
                logs = self._feed.fit(self.trainer, epoch, [StepClock(self.clock), watch], check)
        weights = read_weights(self._trained)
        # A ReLU may turn NaN into 0, so finite predictions do not prove finite weights.
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise self._explain_divergence(epoch, self.steps)
        if self._trained is not self.model:
            assign_weights(self.model, weights, "the last step")
        with self.clock.measure(VALIDATION):
            probabilities = self._predict_validation()
        if not np.isfinite(probabilities).all():
            raise self._explain_divergence(epoch, self.steps)
        row = {
            "epoch": epoch,
            "loss": logs["loss"],
            "accuracy": logs["accuracy"],
            "val_loss": compute_log_loss(self.validation.labels, probabilities.astype(np.float64)),
            "val_accuracy": float((probabilities.argmax(axis=1) == self.validation.labels).mean()),
            "learning_rate": float(keras.ops.convert_to_numpy(self.trainer.optimizer.learning_rate)),
            "seconds": round(time.monotonic() - started, 3),
        }
        self.history.append(row)
        self.last = weights
        if self.best_epoch == epoch:
            self.best = weights

    def _copy_network(self) -> keras.Model:
        """The network once more, on the devices of the team, with the same weights."""
        network = build_network(self.config, self.index)
        for layer in network.layers if self.team.synchronizes else ():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
        assign_weights(network, read_weights(self.model), "the network")
        return network

    def _predict_validation(self) -> NDArray[np.float32]:
        """Probabilities (rows, classes) of the validation rows. Each process of the team predicts a part of them, in
        batches of the same rows as one process would."""
        count, team = len(self.validation.labels), self.team
        share = -(-count // (PREDICTION_BATCH * team.count)) * PREDICTION_BATCH
        rows = np.arange(count)[team.index * share : (team.index + 1) * share]
        part = np.zeros((share if team.count > 1 else count, len(self.classes)), np.float32)
        start = 0
        for block in predict_rows(self.model, self.validation.source, rows):
            part[start : start + len(block)] = block
            start += len(block)
        return team.gather(part)[:count]

    def _try_one_batch(self, epoch: int, check: Callable[[], None]) -> float | None:
        """Train the first batch of `epoch` and take it back: what cannot work fails now, not after an epoch. Gives the
        seconds that an epoch will take, as far as known."""
        variables = [*self._trained.variables, *self.trainer.optimizer.variables]
        before = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
        with self.team.scope():
            loss = self._feed.fit(self.trainer, epoch, [], check, steps=1)["loss"]
            if not math.isfinite(loss):
                raise self._explain_divergence(epoch, 1)
            share = len(self.validation.labels) / len(self.train.labels)
            seconds = estimate_epoch(self._feed, self.trainer, epoch, check, self.steps, share)
            for variable, value in zip(variables, before, strict=True):
                variable.assign(self.team.replicate(value))
        return seconds

    def _is_exhausted(self) -> bool:
        """Whether early stopping says that enough epochs have passed without improvement."""
        early = self.config.train.early_stopping
        return early is not None and bool(self.history) and len(self.history) - self.best_epoch >= early.patience

    def _compute_chance(self) -> float:
        """The accuracy of the best constant answer on the validation rows."""
        labels = np.concatenate([self.train.labels, self.validation.labels])
        rows = np.arange(len(labels))
        return compute_chance(labels, rows[: len(self.train.labels)], rows[len(self.train.labels) :])

    def _explain_divergence(self, epoch: int, step: int) -> TrainingError:
        """The error for a loss or weight that is not finite, with the rows whose inputs stand out most.

        All rows of the epoch up to this step are looked at: a batch may spoil the weights while its own loss is still
        finite.
        """
        seen = np.sort(self._feed.order_rows(epoch)[: step * (self.config.train.batch_size // self.team.count)])
        blocks = (self.train.source.read(block) for block in iterate_blocks(seen))
        maxima = np.concatenate([_find_maxima(channels) for channels in blocks])  # (rows, channels)
        # Channels differ in unit, so each is measured by what is usual in it.
        excess = (maxima / np.maximum(np.median(maxima, axis=0), 1e-12)).max(axis=1)
        suspects = np.argsort(-excess, kind="stable")[:SUSPECTS_NAMED]
        rows = "; ".join(
            f"{self.index.locate(int(self.train.numbers[seen[i]]))} ({excess[i]:.3g} times the usual)" for i in suspects
        )
        done = len(self.history)
        kept = f"epochs 1 to {done} are saved and whole" if done else "no epoch was saved"
        return TrainingError(
            f"the loss or a weight is not finite in epoch {epoch}, step {step} of {self.steps}. "
            f"Rows of this epoch so far with the largest values: {rows}",
            f"{kept}; look at these rows; else lower train.learning_rate ({self.config.train.learning_rate:g}) "
            "or set model.normalize to masked",
        )

    def save(self, run: RunDir) -> None:
        """Write the state after the last epoch, then the files that follow from it."""
        epoch = len(self.history)
        arrays = {f"model/{name}": array for name, array in self.last.items()}
        arrays |= {
            f"optimizer/{name}": keras.ops.convert_to_numpy(v)
            for name, v in _name_variables(self.trainer.optimizer).items()
        }
        arrays |= {f"best/{name}": array for name, array in self.best.items()}
        run.write_state(epoch, arrays, {"epoch": epoch, "history": self.history})
        self._write_derived(run)

    def _write_derived(self, run: RunDir) -> None:
        run.write_weights(run.last, self.last, len(self.history))
        run.write_weights(run.best, self.best, self.best_epoch)
        run.write_history(self.history)

    def restore(self, run: RunDir, arrays: Arrays, facts: Mapping[str, Any], origin: str) -> None:
        """Continue from a saved state, and make the run's other files agree with it. Raises RunError where it does not
        fit."""
        self.last = _with_prefix(arrays, "model/")
        assign_weights(self.model, self.last, origin)
        saved, variables = _with_prefix(arrays, "optimizer/"), _name_variables(self.trainer.optimizer)
        if saved.keys() != variables.keys() or any(saved[n].shape != tuple(v.shape) for n, v in variables.items()):
            raise RunError(
                f"{origin}: its optimiser state does not fit the run's config", "restore the run's config.yaml"
            )
        with self.team.scope():
            if self._trained is not self.model:
                assign_weights(self._trained, self.last, origin)
            for name, variable in variables.items():
                variable.assign(self.team.replicate(saved[name]))
        self.best = _with_prefix(arrays, "best/")
        self.history = [{**row, "epoch": int(row["epoch"])} for row in facts["history"]]
        self._write_derived(run)

    def describe_layers(self) -> str:
        """The layers of the network as a table."""
        lines: list[str] = []
        self.model.summary(line_length=120, print_fn=lambda line, line_break=True: lines.append(line))
        return "\n".join(lines)

    def use_kept_weights(self) -> None:
        """Give the model the weights that the run stands for."""
        if self.config.train.keep == "best":
            assign_weights(self.model, self.best, "the best epoch")


def build_network(config: Config, index: DataIndex) -> keras.Model:
    """The network with initial weights that follow from the seed alone."""
    set_seed(config.seed)
    return build_model(config.model, index.channel_shapes, len(index.classes or ()), config.train.precision)


def _find_maxima(channels: tuple[NDArray[Any], ...]) -> NDArray[np.float64]:
    """The largest absolute value of each row in each channel (rows, channels)."""
    return np.stack([np.abs(c.astype(np.float64)).max(axis=(1, 2, 3, 4)) for c in channels], axis=1)


def _name_variables(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """The optimiser's variables by place and path; the place keeps equal paths apart."""
    return {f"{i:03d}/{variable.path}": variable for i, variable in enumerate(optimizer.variables)}


def _with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

"""Short trainings of fresh copies of a case's network: the arms of an experiment.

Arms of one seed share initial weights, order of batches and dropout masks; only rows and patches differ.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.batches import permute_rows
from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.lab import Lab, Patches, find_filled, measure_inputs, name_classes
from pointcnn_cli.diagnose.networks import predict_inputs
from pointcnn_cli.optimizers import compute_row_weights

SCORED_TRAINING_ROWS = 300  # for training accuracy: a binomial standard error of at most 2.9 points


@dataclass(frozen=True, eq=False)
class Arm:
    """One short training."""

    losses: NDArray[np.float64]
    """(steps,) of each batch, before its update; shorter than planned where the loss was not finite."""
    hits: NDArray[np.bool_]
    """(scored rows,) whether the class of the largest output is the label, in inference mode."""
    train_accuracy: float
    """In inference mode, on at most 300 of the training rows."""
    train_hits: NDArray[np.bool_]
    train_places: Rows
    """The training rows behind `train_accuracy`."""
    steps: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the scored rows that are right."""
        return float(self.hits.mean()) if len(self.hits) else float("nan")

    @property
    def final_loss(self) -> float:
        """Mean of the last tenth of the losses; infinite where training broke off."""
        if len(self.losses) < self.steps or not len(self.losses):
            return float("inf")
        return float(self.losses[-max(1, self.steps // 10) :].mean())


def train_arm(
    lab: Lab,
    rows: Rows,
    *,
    seed: int,
    steps: int,
    patches: Patches,
    score: Rows,
    targets: NDArray[Any] | None = None,
    rates: NDArray[np.float64] | None = None,
) -> Arm:
    """Train a fresh network on `rows` for `steps` batches, and score it on `score`; both are places in the lab.

    `targets` (lab rows, ...) takes the place of the labels that are trained on, `rates` (steps,) that of the learning
    rates. Training stops at a loss that is not finite.
    """
    started = time.monotonic()
    trainer, channels = lab.trainer(patches), _change_inputs(lab, rows, patches)
    trainer.reset(lab.initial_weights(seed), seed)
    lab.normalize(trainer.model, rows)
    wanted, weights = lab.targets if targets is None else targets, weigh_rows(lab, rows, patches)
    losses = []
    mixed = patches.shuffle or lab.case.settings.shuffle is not False
    batches = draw_batches(rows, lab.batch_size, steps, seed, mixed)
    if rates is None:
        rates = lab.plan_rates(steps, patches.learning_rate)
    for batch, rate in zip(batches, rates, strict=True):
        trainer.fitted.optimizer.learning_rate = float(rate)
        weight = None if weights is None else weights[batch]
        losses.append(lab.step(trainer, tuple(c[batch] for c in channels), wanted[batch], weight))
        if not np.isfinite(losses[-1]):
            losses.pop()
            break
    seen = np.sort(np.random.default_rng([seed, 1]).permutation(rows)[:SCORED_TRAINING_ROWS])
    train_hits = count_hits(lab, trainer.model, channels, seen)
    return Arm(
        np.array(losses), count_hits(lab, trainer.model, channels, score), float(train_hits.mean()), train_hits, seen,
        steps, time.monotonic() - started,
    )  # fmt: skip


def draw_batches(rows: Rows, size: int, steps: int, seed: int, shuffle: bool) -> NDArray[np.int64]:
    """(steps, size) rows of each batch: passes over `rows`, each in an order of its own, laid end to end."""
    size = min(size, len(rows))
    passes = -(-steps * size // len(rows))
    order = [permute_rows(seed, i, len(rows)) if shuffle else np.arange(len(rows)) for i in range(passes)]
    return rows[np.concatenate(order)[: steps * size]].reshape(steps, size)


def count_hits(lab: Lab, model: keras.Model, channels: tuple[NDArray[Any], ...], places: Rows) -> NDArray[np.bool_]:
    """(places,) whether `model` names the right class in inference mode."""
    if not len(places):
        return np.zeros(0, bool)
    outputs = predict_inputs(model, lab.data, places, tuple(c[places] for c in channels))
    hits: NDArray[np.bool_] = name_classes(outputs) == lab.labels[places]
    return hits


def measure_step(lab: Lab) -> float:
    """Seconds of one training step, the first (which compiles) aside."""
    rows = lab.train if len(lab.train) else lab.validation
    train_arm(lab, rows, seed=0, steps=1, patches=Patches(), score=rows[:1])
    trainer, batch = lab.trainer(Patches()), rows[np.arange(lab.batch_size) % len(rows)]
    started = time.monotonic()
    for _ in range(3):
        lab.step(trainer, tuple(c[batch] for c in lab.channels), lab.targets[batch], None)
    return (time.monotonic() - started) / 3


def weigh_rows(lab: Lab, rows: Rows, patches: Patches) -> NDArray[np.float32] | None:
    """Weight of each row in the lab when `rows` train, or None where all weigh the same."""
    given: Any = lab.config.train.class_weight if lab.config is not None else lab.case.settings.class_weight
    if not patches.balanced and given is None:
        return None
    weights = np.ones(len(lab.rows), np.float32)
    if lab.config is not None:
        settings = lab.config.train.model_copy(update={"class_weight": "balanced"} if patches.balanced else {})
        weights[rows] = compute_row_weights(settings, lab.labels[rows], lab.data.classes)
    elif patches.balanced or not isinstance(given, Mapping):
        counts = np.maximum(np.bincount(lab.labels[rows], minlength=lab.classes), 1)
        weights[rows] = (len(rows) / (np.count_nonzero(counts) * counts))[lab.labels[rows]]
    else:
        weights[rows] = [float(given.get(int(label), 1.0)) for label in lab.labels[rows]]  # absent: 1, as Keras does
    return weights


def _change_inputs(lab: Lab, rows: Rows, patches: Patches) -> tuple[NDArray[Any], ...]:
    if patches.zero_inputs:
        return tuple(np.zeros_like(channel) for channel in lab.channels)
    if not patches.standardise:
        return lab.channels
    masked = lab.data.has_frames and len({shape[1:] for shape in lab.data.shapes}) == 1
    centers, spreads = measure_inputs([c[rows] for c in lab.channels], masked)
    filled = find_filled(list(lab.channels)) if masked else None
    changed = []
    for channel, center, spread in zip(lab.channels, centers, spreads, strict=True):
        shape = (1, -1, *(1,) * (channel.ndim - 2)) if channel.ndim > 1 else (1,)
        values = (channel.astype(np.float32) - center.reshape(shape)) / spread.reshape(shape)
        if filled is not None:
            values *= filled.reshape(len(channel), 1, *channel.shape[2:])
        changed.append(values)
    return tuple(changed)

"""Where arms are trained: a case's rows in memory, and fresh copies of its network that are trained again and again.

Rows are counted from 0 within the memory ("places"). The network that is diagnosed is never touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.augment import Augment
from pointcnn_cli.batches import reseed
from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import LabelledParts, Rows
from pointcnn_cli.diagnose.networks import as_class_scores, as_model_inputs, build_from_config, clone_untrained
from pointcnn_cli.models import QUICK_MOMENTUM
from pointcnn_cli.optimizers import build_optimizer
from pointcnn_cli.splits.parts import compute_chance

MOST_ROWS = 5_000  # held in memory; arms of a few hundred steps see no more
MOST_BYTES = 2**30
KERAS_BATCH = 32  # the default of `fit`


@dataclass(frozen=True)
class Patches:
    """What an arm does differently from the training that is diagnosed; the default changes nothing."""

    learning_rate: float | None = None
    unregularised: bool = False
    """No dropout, noise, weight decay, weight or activity regulariser, label smoothing."""
    momentum: float | None = None
    """Of batch normalisation; None for the configured one, but at most 0.9: an arm is shorter than the training."""
    standardise: bool = False
    """Inputs with mean 0 and deviation 1 over the training rows (masked: empty point slots stay zero)."""
    zero_inputs: bool = False
    balanced: bool = False
    """Classes weighted by inverse frequency."""
    augment: bool = True
    shuffle: bool = False
    """Batches mixed although the training was not."""

    @property
    def graph(self) -> tuple[Any, ...]:
        """What needs a training graph of its own."""
        return self.unregularised, self.momentum, self.augment


@dataclass(eq=False)
class Trainer:
    """A network, what is fitted (with augmentation before it, where there is any), and its optimiser's first state."""

    model: keras.Model
    fitted: keras.Model
    first_state: list[NDArray[Any]]

    def reset(self, weights: list[NDArray[Any]], seed: int) -> None:
        self.model.set_weights(weights)
        for variable, value in zip(self.fitted.optimizer.variables, self.first_state, strict=True):
            variable.assign(value)
        reseed(self.fitted, seed, 0)


class Lab:
    """The rows of a case in memory, and networks that are trained on them again and again."""

    def __init__(self, case: Case) -> None:
        """Read training and validation rows, up to 5,000 of them, without those that hold NaN or no label.

        Raises ValueError where the case has no rows, parts, or network that can be built.
        """
        parts = case.parts
        if parts is None or case.untrained is None:
            raise ValueError("data, labels, both parts, and a network that can be built")
        self.case, self.data = case, parts.data
        self.rows, self.channels = _read_pool(case, parts)
        self.labels = parts.labels[self.rows]
        self.groups = case.groups_of(self.rows)
        self.train = np.flatnonzero(np.isin(self.rows, parts.train))
        self.validation = np.flatnonzero(np.isin(self.rows, parts.validation))
        self.batch_size = case.settings.batch_size or KERAS_BATCH
        self.classes = len(self.data.classes)
        self._trainers: dict[tuple[Any, ...], Trainer] = {}
        self._weights: dict[int, list[NDArray[Any]]] = {}

    @property
    def config(self) -> Config | None:
        """The config of the training, where it is ours."""
        return self.case.config

    @cached_property
    def targets(self) -> NDArray[Any]:
        """Labels as the loss takes them, (rows, ...)."""
        if self.config is None and self.data.raw_labels is not None:
            return np.asarray(self.data.raw_labels)[self.rows]
        return np.eye(self.classes, dtype=np.float32)[self.labels]

    @cached_property
    def learning_rate(self) -> float:
        """The highest rate of the training as it is."""
        if self.config is not None:
            return self.config.train.learning_rate
        return float(np.max(self.plan_rates(200, None)))

    def chance(self, train: Rows, scored: Rows) -> float:
        """Accuracy on `scored` of the best constant answer among the classes of `train`."""
        return compute_chance(self.labels, train, scored)

    def build(self, seed: int) -> keras.Model:
        """A fresh network; equal seeds give equal weights."""
        if self.config is not None:
            shapes = [(shape[0], shape[1], shape[2]) for shape in self.data.shapes]
            return build_from_config(self.config.model_copy(update={"seed": seed}), shapes, self.classes)
        model = self.case.untrained
        if model is None:
            raise ValueError("the case has no network")
        return clone_untrained(model, seed)()

    def plan_rates(self, steps: int, highest: float | None) -> NDArray[np.float64]:
        """The learning rate of each step: the schedule of the training, pressed into `steps`; `highest` rescales it."""
        if self.config is not None:
            settings = self.config.train
            warm = round(steps * settings.warmup_epochs / settings.epochs)
            place = np.arange(steps)
            falling = 0.5 * (1.0 + np.cos(np.pi * np.maximum(place - warm, 0) / max(steps - warm, 1)))
            shape = falling if settings.schedule == "cosine" else np.ones(steps)
            rates = settings.learning_rate * np.where(place < warm, (place + 1) / max(warm, 1), shape)
        else:
            rates = _list_rates(self.case.untrained, steps)
        return rates if highest is None else rates * (highest / rates.max())

    @cached_property
    def momentum(self) -> float | None:
        """The slowest momentum of batch normalisation in the network; None without any."""
        if self.case.untrained is None:
            return None
        layers = list_layers(self.case.untrained, keras.layers.BatchNormalization)
        return max((float(layer.momentum) for layer in layers), default=None)

    def trainer(self, patches: Patches) -> Trainer:
        """What trains under these patches; graphs are compiled once."""
        if patches.graph not in self._trainers:
            self._trainers[patches.graph] = self._build_trainer(patches)
        return self._trainers[patches.graph]

    def initial_weights(self, seed: int) -> list[NDArray[Any]]:
        """The weights that every arm of this seed starts from."""
        if seed not in self._weights:
            self._weights[seed] = self.build(seed).get_weights()
        return self._weights[seed]

    def normalize(self, model: keras.Model, rows: Rows) -> None:
        """Give a network of ours the statistics of its inputs over these training rows."""
        if self.config is None or self.config.model.normalize == "none":
            return
        center, spread = measure_inputs([c[rows] for c in self.channels], self.config.model.normalize == "masked")
        model.get_layer("normalization").set_weights([np.concatenate(center), np.concatenate(spread)])

    @staticmethod
    def step(trainer: Trainer, inputs: tuple[NDArray[Any], ...], targets: Any, weights: Any) -> float:
        """One update; the loss before it."""
        result = trainer.fitted.train_on_batch(as_model_inputs(trainer.model, inputs), targets, sample_weight=weights)
        return float(np.ravel(result)[0])

    def score_in_training(self, trainer: Trainer, inputs: tuple[NDArray[Any], ...], places: Rows) -> float:
        """Accuracy as the network answers while it trains: batch normalisation by the batch, dropout as it is."""
        outputs = keras.ops.convert_to_numpy(trainer.model(as_model_inputs(trainer.model, inputs), training=True))
        scores = as_class_scores(trainer.fitted, outputs.astype(np.float64))
        return float((name_classes(scores) == self.labels[places]).mean())

    def _build_trainer(self, patches: Patches) -> Trainer:
        model = self.build(0)
        if patches.unregularised:
            _strip_regularisation(model)
        for layer in list_layers(model, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, QUICK_MOMENTUM) if patches.momentum is None else patches.momentum
        fitted = model
        if self.config is not None and self.config.augment is not None and patches.augment:
            fitted = keras.Model(model.inputs, model(Augment(self.config.augment)(model.inputs)))
        fitted.compile(optimizer=self._build_optimizer(patches), loss=self._build_loss(patches), jit_compile=False)
        fitted.optimizer.build(fitted.trainable_variables)
        state = [keras.ops.convert_to_numpy(variable).copy() for variable in fitted.optimizer.variables]
        return Trainer(model, fitted, state)

    def _build_optimizer(self, patches: Patches) -> keras.optimizers.Optimizer:
        """The optimiser of the training with a rate that can be set at each step."""
        if self.config is not None:
            plain = {"schedule": "constant", "warmup_epochs": 0}
            settings = self.config.train.model_copy(update=plain)
            if patches.unregularised:
                settings = settings.model_copy(update={"weight_decay": 0.0})
            return build_optimizer(settings, 1)
        original: Any = self.case.untrained
        config = original.optimizer.get_config() | {"learning_rate": self.learning_rate}
        if patches.unregularised and config.get("weight_decay"):
            config["weight_decay"] = 0.0
        return type(original.optimizer).from_config(config)

    def _build_loss(self, patches: Patches) -> Any:
        if self.config is None:
            return getattr(self.case.untrained, "loss", None)
        smoothing = 0.0 if patches.unregularised else self.config.train.label_smoothing
        return keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)


def name_classes(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class numbers (rows,) of class scores (rows, classes); -1 where they are not finite."""
    return np.where(np.isfinite(scores).all(axis=-1), scores.argmax(axis=-1), -1).astype(np.int64)


def measure_inputs(
    channels: list[NDArray[Any]], masked: bool
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Mean and deviation of each coordinate of each channel, in float64; deviation 1 where nothing varies.

    A coordinate is an index of the first axis of a row, or a whole channel of single values. With `masked`, over the
    slots that are non-zero in any channel, as `batches.compute_statistics` does.
    """
    filled = find_filled(channels) if masked else None
    centers, spreads = [], []
    for channel in channels:
        values = np.moveaxis(channel, 1, 0).reshape(channel.shape[1], -1) if channel.ndim > 1 else channel[None]
        kept = values if filled is None else values[:, filled.ravel()]
        kept = kept.astype(np.float64)
        spread = kept.std(axis=1) if kept.size else np.ones(len(kept))
        centers.append((kept.mean(axis=1) if kept.size else np.zeros(len(kept))).astype(np.float32))
        spreads.append(np.where(spread > 1e-12, spread, 1.0).astype(np.float32))
    return centers, spreads


def find_filled(channels: list[NDArray[Any]]) -> NDArray[np.bool_]:
    """(rows, points, frames...): slots that are non-zero in any channel."""
    filled: NDArray[np.bool_] = (channels[0] != 0).any(axis=1)
    for channel in channels[1:]:
        filled = filled | (channel != 0).any(axis=1).reshape(filled.shape)
    return filled


def _read_pool(case: Case, parts: LabelledParts) -> tuple[Rows, tuple[NDArray[Any], ...]]:
    """Rows (sorted) and their inputs: those of both parts with a label and finite values, thinned out to fit."""
    rows = np.union1d(parts.train, parts.validation)
    rows = rows[parts.labels[rows] >= 0]
    row_bytes = 4 * sum(int(np.prod(shape)) for shape in parts.data.shapes)
    most = min(MOST_ROWS, max(MOST_BYTES // max(row_bytes, 1), 500))
    if len(rows) > most:
        rows = np.sort(case.rng("PC000").choice(rows, most, replace=False))
    channels = parts.data.read(rows)
    sound = np.ones(len(rows), bool)
    for channel in channels:
        with np.errstate(over="ignore"):
            sound &= np.isfinite(channel.astype(np.float32, copy=False)).reshape(len(rows), -1).all(axis=1)
    if sound.all():
        return rows, channels
    return rows[sound], tuple(channel[sound] for channel in channels)


def _strip_regularisation(model: keras.Model) -> None:
    """Switch off what keeps a network from fitting its training rows; before its graph is traced."""
    for layer in list_layers(model, keras.layers.Layer):
        for name in ("rate", "stddev", "dropout", "recurrent_dropout"):
            if isinstance(getattr(layer, name, None), float) and "dropout" in f"{name} {type(layer).__name__.lower()}":
                setattr(layer, name, 0.0)
        if isinstance(layer, keras.layers.GaussianNoise):
            layer.stddev = 0.0
        if getattr(layer, "activity_regularizer", None) is not None:
            layer.activity_regularizer = None
    for variable in model.trainable_variables:
        variable.regularizer = None


def list_layers(model: keras.Model, kind: type[Any]) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def _list_rates(model: Any, steps: int) -> NDArray[np.float64]:
    """The rates of the first steps of a compiled model's optimiser."""
    rate = model.optimizer.get_config()["learning_rate"]
    if isinstance(rate, Mapping):  # a schedule
        schedule = keras.saving.deserialize_keras_object(dict(rate))
        return np.array([float(schedule(step)) for step in range(steps)])
    return np.full(steps, float(rate))

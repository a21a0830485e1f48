"""How training rows reach the training step: their numbers alone, where the device holds the rows, or batch by batch.

Either way Keras's `fit` trains, and an epoch's batches depend on (seed, epoch) alone.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.batches import build_streamed_trainer, build_trainer, device_dtype, permute_rows
from pointcnn_cli.callbacks import WaitForRows
from pointcnn_cli.config.schema import Config
from pointcnn_cli.distribution import Team
from pointcnn_cli.errors import PointcnnError
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.pipelines import Check, arrange_arrays, arrange_batches
from pointcnn_cli.streaming import Plan, Stream
from pointcnn_cli.timing import INPUT, Clock

TIMED_STEPS = 3
SAVING_SECONDS = 0.1
"""Of an epoch, beside steps and validation; measured for half a million weights: 0.05 to 0.12."""
FORWARD_SHARE = 1 / 3
"""Of the time of a training step, what predicting its rows takes: back-propagation costs about twice the way forth."""


@dataclass(frozen=True)
class PartRows:
    """The rows of one part: their numbers in the data, and a source of just them."""

    numbers: NDArray[np.int64]
    source: Source
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingRows:
    """The training rows, what the network is to answer to each, and how much each counts."""

    part: PartRows
    targets: NDArray[np.float32]
    """(rows, classes)"""
    weights: NDArray[np.float32] | None
    """(rows,); None where all count alike."""

    def take(self, places: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """Targets and, where rows weigh differently, weights of some rows, by their places in the part."""
        return (self.targets[places], *(() if self.weights is None else (self.weights[places],)))


class ResidentFeed:
    """Training rows that the device holds; nothing but their numbers goes to each step."""

    def __init__(self, config: Config, rows: TrainingRows, team: Team) -> None:
        self._config = config
        self._rows = rows
        self._team = team

    def build_trainer(self, model: keras.Model) -> keras.Model:
        """The model to train, with the weights of `model`; this puts the rows on the device."""
        channels = self._rows.part.source.read(np.arange(len(self._rows.targets)))
        return build_trainer(model, channels, self._config.augment, self._team.replicate)

    def order_rows(self, epoch: int) -> NDArray[np.int64]:
        """The order in this epoch of the training rows that this process takes."""
        order = permute_rows(self._config.seed, epoch, len(self._rows.targets))
        return self._team.share(order, self._config.train.batch_size)

    def fit(
        self,
        trainer: keras.Model,
        epoch: int,
        callbacks: list[keras.callbacks.Callback],
        check: Callable[[], None],
        steps: int | None = None,
    ) -> dict[str, float]:
        """Train one epoch, or its first `steps`; the mean of each metric. Nothing is waited for, so `check` is not
        called."""
        size = self._config.train.batch_size // self._team.count
        order = self.order_rows(epoch)[: None if steps is None else steps * size]
        parts = (order.astype(np.int32), *self._rows.take(order))
        return _fit_epoch(trainer, epoch, callbacks, **arrange_arrays(parts, size))

    def close(self) -> None:
        """Nothing to close."""


class StreamedFeed:
    """Training rows that are read while others train."""

    def __init__(self, config: Config, rows: TrainingRows, team: Team, plan: Plan, clock: Clock) -> None:
        self._config = config
        self._rows = rows
        self._team = team
        self._clock = clock
        part = rows.part
        self._dtypes = [device_dtype(channel.dtype) for channel in part.source.read(np.arange(1))]
        self._stream = Stream(
            part.source, part.numbers, part.labels, self._dtypes, plan, config.seed, config.train.epochs,
            partial(team.share, size=config.train.batch_size),
        )  # fmt: skip
        self._failure: Exception | None = None

    def build_trainer(self, model: keras.Model) -> keras.Model:
        """The model to train, with the weights of `model`."""
        return build_streamed_trainer(model, self._config.augment)

    def order_rows(self, epoch: int) -> NDArray[np.int64]:
        """The order in this epoch of the training rows that this process takes."""
        return self._stream.order_rows(epoch)

    def fit(
        self,
        trainer: keras.Model,
        epoch: int,
        callbacks: list[keras.callbacks.Callback],
        check: Callable[[], None],
        steps: int | None = None,
    ) -> dict[str, float]:
        """Train one epoch, or its first `steps`; the mean of each metric. While rows are waited for, `check` is called
        and may raise. Raises DataError as reading rows does."""
        with self._clock.measure(INPUT):
            self._stream.prepare(epoch, check)
        if steps is None:
            steps = self._team.count_steps(len(self._rows.targets), self._config.train.batch_size)
        batches = arrange_batches(partial(self._iterate_batches, epoch, steps), self._describe_batches(), steps, check)
        callbacks = [*callbacks, WaitForRows(self._stream.wait, check, self._clock)]
        try:
            # Without the number of steps Keras warns when an epoch is over.
            return _fit_epoch(trainer, epoch, callbacks, x=batches, steps_per_epoch=steps)
        except PointcnnError:
            raise
        except Exception:
            if self._failure is None:
                raise
            raise self._failure from None  # TensorFlow has made a text of it

    def _describe_batches(self) -> tuple[Any, ...]:
        """Shape and dtype of channels, targets and, where rows weigh differently, weights."""
        shapes = self._rows.part.source.index.channel_shapes
        channels = tuple(((None, *shape, 1), dtype) for shape, dtype in zip(shapes, self._dtypes, strict=True))
        others = self._rows.take(np.arange(0))
        return (channels, *(((None, *array.shape[1:]), "float32") for array in others))

    def _iterate_batches(self, epoch: int, steps: int, check: Check | None) -> Iterator[tuple[Any, ...]]:
        """Channels, targets and, where rows weigh differently, weights. On TensorFlow in a thread of its own."""
        try:
            size = self._config.train.batch_size // self._team.count
            batches = self._stream.iterate_batches(epoch, size, check)
            for places, channels in islice(batches, steps):
                yield (channels, *self._rows.take(places))
        except Exception as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Stop reading ahead."""
        self._stream.close()


def _fit_epoch(
    trainer: keras.Model, epoch: int, callbacks: list[keras.callbacks.Callback], **data: Any
) -> dict[str, float]:
    """Train this epoch on what `fit` is given as `data`; the mean of each metric."""
    history = trainer.fit(**data, shuffle=False, initial_epoch=epoch - 1, epochs=epoch, callbacks=callbacks, verbose=0)
    return {name: float(values[-1]) for name, values in history.history.items()}


def estimate_epoch(
    feed: ResidentFeed | StreamedFeed,
    trainer: keras.Model,
    epoch: int,
    check: Callable[[], None],
    steps: int,
    validation_share: float,
) -> float | None:
    """Seconds that an epoch of `steps` steps will take, from a few of them; to be called once a step was compiled.

    `validation_share` is the number of validation rows for each training row. May be wrong by a factor of two. None for
    a stream, which would have to read its first rows once more for this.
    """
    if isinstance(feed, StreamedFeed):
        return None
    count = min(steps, TIMED_STEPS)
    started = time.monotonic()
    feed.fit(trainer, epoch, [], check, steps=count)
    step = (time.monotonic() - started) / count
    return step * steps * (1 + FORWARD_SHARE * validation_share) + SAVING_SECONDS

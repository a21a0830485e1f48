"""What watches every training step: progress, requests to stop, a loss that is no longer finite, rows not yet read."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import keras

from pointcnn_cli.errors import TrainingError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.signals import StopRequest
from pointcnn_cli.timing import INPUT, STEPS, Clock


class StepWatch(keras.callbacks.Callback):
    """Reports each step and ends training, by an exception, when asked to or when the loss is not finite.

    `explain(epoch, step)` says which rows to suspect. Steps count from 1. Keras averages the loss over the epoch so
    far, so it stays non-finite from the first bad step on and none is missed.
    """

    def __init__(
        self, reporter: Reporter, stop: StopRequest, resume_hint: str, explain: Callable[[int, int], TrainingError]
    ) -> None:
        super().__init__()
        self._reporter = reporter
        self._stop = stop
        self._resume_hint = resume_hint
        self._explain = explain
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch + 1  # Keras counts from 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(logs.get("loss", 0.0)):
            raise self._explain(self._epoch, batch + 1)
        self._reporter.end_step(self._epoch, batch + 1, logs)
        self._stop.check(self._resume_hint)


class WaitForRows(keras.callbacks.Callback):
    """Waits for rows between steps, by `wait(check)`, where `check` may end training: while TensorFlow waits for them
    no signal is seen."""

    def __init__(self, wait: Callable[[Callable[[], None]], None], check: Callable[[], None], clock: Clock) -> None:
        super().__init__()
        self._wait = wait
        self._check = check
        self._clock = clock

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        with self._clock.measure(INPUT):
            self._wait(self._check)


class StepClock(keras.callbacks.Callback):
    """Tells the steps themselves from what happens between them. The first of all callbacks, so that reading the
    metrics, where a GPU is waited for, is counted as the host's."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._step = contextlib.ExitStack()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step.enter_context(self._clock.measure(STEPS))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step.close()

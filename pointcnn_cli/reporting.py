"""What long work tells its caller while it runs. `cli/` shows it; tests and scripts may listen or stay silent."""

import contextlib
from collections.abc import Mapping
from typing import Any


class Reporter:
    """Receives progress; this one is silent, and others override what they show."""

    def say(self, text: str) -> None:
        """A fact that is worth a line."""

    def detail(self, text: str) -> None:
        """A fact for those who asked for details."""

    def warn(self, text: str) -> None:
        """Something that the user should know before trusting the result."""

    def show_split(self, parts: list[dict[str, Any]]) -> None:
        """What each part of the split holds."""

    def start_training(self, first_epoch: int, epochs: int, steps: int) -> None:
        """Training begins at `first_epoch` of `epochs`, with `steps` steps an epoch."""

    def end_step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        """One step is done; `logs` holds the epoch's running loss and accuracy."""

    def end_epoch(self, row: Mapping[str, float], best_epoch: int) -> None:
        """One epoch is done and saved; `row` is its line of history.csv."""

    def end_training(self) -> None:
        """No more steps will come."""

    def waiting(self, text: str) -> contextlib.AbstractContextManager[None]:
        """Within the block nothing will be told for some seconds, while `text` is going on."""
        return contextlib.nullcontext()

    def start_rows(self, rows: int) -> None:
        """So many rows are to be predicted."""

    def end_rows(self, rows: int) -> None:
        """So many more of them are done."""

    def end_prediction(self) -> None:
        """No more rows will come."""


def describe_duration(seconds: float) -> str:
    """A time for a message, in the two largest units that it has."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

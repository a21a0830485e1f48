"""What long work tells its caller while it runs. `cli/` shows it; tests and scripts may listen or stay silent."""

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

"""What a place that shows curves has to do, and which curves there are."""

from collections.abc import Sequence
from typing import Protocol

from pointcnn_cli.config.schema import Config
from pointcnn_cli.history import HistoryRow
from pointcnn_cli.rundir import HISTORY_COLUMNS, RunDir

CURVES = HISTORY_COLUMNS[1:]  # over the first, the epoch


class Curves(Protocol):
    """One place where curves are shown."""

    name: str

    def start(self, run: RunDir, config: Config) -> None:
        """The training of `run` begins, or goes on; nothing is written yet."""
        ...

    def update(self, history: Sequence[HistoryRow]) -> None:
        """Make what is shown equal to `history`, whatever was written before. May be called again after it failed."""
        ...

    def finish(self, status: str) -> None:
        """The training ended: `finished`, `interrupted` or `failed`."""
        ...

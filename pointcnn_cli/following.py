"""A run that another process of the same training writes: everything is read, nothing is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pointcnn_cli.checkpoints import Arrays
from pointcnn_cli.rundir import RunDir


class FollowedRun(RunDir):
    """A run directory whose lock and files are the first process's affair."""

    def lock(self) -> None:
        """The first process has it."""

    def update_manifest(self, **changes: Any) -> None:
        """Not by this process."""

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Not by this process."""

    def write_calibration(self, calibration: Mapping[str, Any]) -> None:
        """Not by this process."""

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Not by this process."""

    def write_weights(self, path: Path, weights: Arrays, epoch: int) -> None:
        """Not by this process."""

    def write_state(self, epoch: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Not by this process."""

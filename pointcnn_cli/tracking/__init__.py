"""The curves of a training in TensorBoard and MLflow, where its config asks for them: the numbers of history.csv.

Whatever fails there is told once and tried again later; the training goes on.
"""

import time
from collections.abc import Sequence

from pointcnn_cli.config.schema import Config
from pointcnn_cli.history import HistoryRow
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.tracking.curves import Curves
from pointcnn_cli.tracking.mlflow_curves import MlflowCurves
from pointcnn_cli.tracking.tensorboard_curves import TensorBoardCurves

RETRY_SECONDS = 60  # a server that does not answer costs 10 seconds a try, which no epoch should


class Tracking:
    """All the curves of one training. Nothing that goes wrong in them reaches the training."""

    def __init__(self, curves: Sequence[Curves], reporter: Reporter) -> None:
        self._curves = curves
        self._reporter = reporter
        self._history: Sequence[HistoryRow] = ()
        self._failed: dict[str, float] = {}  # when each of them last did

    def start(self, run: RunDir, config: Config, history: Sequence[HistoryRow]) -> None:
        """Show what there is of `history`, which grows as the training goes on."""
        self._history = history
        for one in self._curves:
            one.start(run, config)
        self.update()

    def update(self) -> None:
        """An epoch is done and saved."""
        for one in self._curves:
            if time.monotonic() - self._failed.get(one.name, -RETRY_SECONDS) >= RETRY_SECONDS:
                self._try(one)

    def finish(self, status: str) -> None:
        """Write what is missing, and how the training ended."""
        for one in self._curves:
            self._try(one, status)

    def _try(self, one: Curves, status: str | None = None) -> None:
        try:
            one.update(self._history)
            if status is not None:
                one.finish(status)
        except Exception as error:
            if one.name not in self._failed:
                self._reporter.warn(
                    f"{one.name} gets no curves for now ({type(error).__name__}: {_shorten(error)}); "
                    "training goes on, and history.csv has them"
                )
            self._failed[one.name] = time.monotonic()


def build_tracking(config: Config, reporter: Reporter) -> Tracking:
    """What the config's `track` section asks for; nothing is written yet.

    Raises MissingDependencyError for a package that is not there, ConfigError for an address that cannot be used.
    """
    curves: list[Curves] = []
    if config.track is not None and config.track.tensorboard:
        curves.append(TensorBoardCurves())
    if config.track is not None and config.track.mlflow is not None:
        curves.append(MlflowCurves(config.track.mlflow))
    return Tracking(curves, reporter)


def _shorten(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no reason given"

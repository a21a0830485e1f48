"""A run in MLflow for a training: the config as its parameters, history.csv as its metrics, the epoch as their step."""

import logging
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pointcnn_cli.config.changes import list_settings
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import ConfigError, MissingDependencyError
from pointcnn_cli.history import HistoryRow
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.tracking.curves import CURVES

STATUSES = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}  # MLflow's words
MOST_PARAMS = 100  # in one request, as MLflow allows; of metrics it allows ten times as many
LONGEST_PARAM = 500  # characters, which every server takes
MANIFEST_KEY = "mlflow"  # of a run's manifest: where its curves are
# MLflow itself waits two minutes, and tries seven times more and more slowly; and it reports its use to its makers.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

Point = tuple[str, int]  # column and epoch


class MlflowCurves:
    """One MLflow run. What it holds is asked for before it is gone on with, so that no epoch is there twice."""

    name = "MLflow"

    def __init__(self, uri: str) -> None:
        """Raises MissingDependencyError without a package that `uri` needs, ConfigError where MLflow cannot use it."""
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        try:
            import mlflow.entities
            import mlflow.exceptions
            import mlflow.tracking
        except ImportError as error:
            raise MissingDependencyError(
                f"track.mlflow needs the package mlflow ({error})", "pip install mlflow-skinny, or mlflow"
            ) from None
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._mlflow = mlflow
        self._uri = uri
        self._client: Any = None
        self._run_id: str | None = None
        self._logged: set[Point] = set()
        self._connect_early()

    def _connect_early(self) -> None:
        """What is wrong with the address itself is told before anything is read; a server that is down is not."""
        try:
            self._connect()
        except ImportError as error:
            raise MissingDependencyError(
                f"track.mlflow={self._uri} needs a package that is not there ({error})", "pip install mlflow"
            ) from None
        except self._mlflow.exceptions.MlflowException as error:
            raise ConfigError(
                f"track.mlflow={self._uri}: MLflow cannot use this address: {str(error).strip()}",
                "name a server, as in http://localhost:5000, or a database, as in sqlite:////data/mlflow.db",
            ) from None
        except Exception:
            self._client = None  # tried again when there is something to write, and told of then

    def _connect(self) -> Any:
        if self._client is None:
            self._client = self._mlflow.tracking.MlflowClient(self._uri)
        return self._client

    def start(self, run: RunDir, config: Config) -> None:
        """Curves of `run`, which keeps the id of its MLflow run in its manifest."""
        self._run, self._config = run, config

    def update(self, history: Sequence[HistoryRow]) -> None:
        """Log what MLflow does not hold yet. Raises what MLflow raises; then the next call asks what did arrive."""
        try:
            client = self._connect()
            if self._run_id is None:
                self._run_id, self._logged = self._find_run(client, history)
            self._log(client, self._run_id, history)
        except BaseException:
            self._run_id = None
            raise

    def finish(self, status: str) -> None:
        """Tell MLflow how the training ended."""
        if self._run_id is not None:
            self._connect().set_terminated(self._run_id, STATUSES[status])

    def _log(self, client: Any, run_id: str, history: Sequence[HistoryRow]) -> None:
        now = int(time.time() * 1000)
        missing = {
            (column, int(row["epoch"])): float(row[column])
            for row in history
            for column in CURVES
            if (column, int(row["epoch"])) not in self._logged
        }
        metrics = [self._mlflow.entities.Metric(key, value, now, step) for (key, step), value in missing.items()]
        for batch in _cut(metrics, 10 * MOST_PARAMS):
            client.log_batch(run_id, metrics=batch)
        self._logged |= missing.keys()

    def _find_run(self, client: Any, history: Sequence[HistoryRow]) -> tuple[str, set[Point]]:
        """The MLflow run that this training began, with what it holds, if that is part of `history`; else a new one."""
        known = self._run.read_manifest().get(MANIFEST_KEY) or {}
        if known.get("uri") == self._uri:
            logged = self._read_logged(client, known["run_id"], history)
            if logged is not None:
                client.update_run(known["run_id"], status="RUNNING")
                return known["run_id"], logged
        run_id = self._create_run(client)
        self._run.update_manifest(**{MANIFEST_KEY: {"uri": self._uri, "run_id": run_id}})
        return run_id, set()

    def _read_logged(self, client: Any, run_id: Any, history: Sequence[HistoryRow]) -> set[Point] | None:
        """What the run holds; None where it is gone, or holds anything that `history` does not."""
        wanted = {(column, int(row["epoch"])): float(row[column]) for row in history for column in CURVES}
        try:
            if client.get_run(run_id).info.lifecycle_stage != "active":
                return None
            points = [(c, m.step, m.value) for c in CURVES for m in client.get_metric_history(run_id, c)]
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        logged = {(column, step) for column, step, _ in points}
        as_it_was = all(wanted.get((column, step)) == value for column, step, value in points)
        return logged if as_it_was and len(logged) == len(points) else None

    def _create_run(self, client: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self._config.name or "pointcnn"
        experiment = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {"mlflow.source.name": "pointcnn train", "pointcnn.run": str(self._run.path)}
        run_id = str(client.create_run(number, run_name=self._run.path.name, tags=tags).info.run_id)
        settings = list_settings(self._config).items()
        params = [self._mlflow.entities.Param(key, str(value)[:LONGEST_PARAM]) for key, value in settings]
        for batch in _cut(params, MOST_PARAMS):
            client.log_batch(run_id, params=batch)
        return run_id


def _cut(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))

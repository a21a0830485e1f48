"""What is compared: a run's settings, its score, and its answer to each row, as it saved them or on other files.

Here alone a RUN is loaded and asked; what else may stand for one has to fit in here.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.checkpoints import RESTORE
from pointcnn_cli.comparison.scores import NEEDED
from pointcnn_cli.config.changes import list_settings
from pointcnn_cli.errors import PointcnnError, RunError
from pointcnn_cli.evaluation import score_loaded
from pointcnn_cli.hdf5.fingerprint import compute_fingerprint
from pointcnn_cli.prediction import LoadedRun, load_run, with_files
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits.files import read_run_split
from pointcnn_cli.tables import Predictions, read_predictions

ROWS_KEYS = ("rows", "labels_sha256", "sampled_rows_sha256")  # of a fingerprint: what tells rows, wherever they lie
NO_MATTER = ("name", "track")  # beginnings of keys that change nothing in what is trained
ENVIRONMENT_KEYS = ("pointcnn", "python", "packages", "backend", "device")  # of a manifest's, worth a line if different


@dataclass(frozen=True, eq=False)
class Answers:
    """Which of some labelled rows a run gets right."""

    source: dict[str, Any]
    """What the rows are: equal for the same ones."""
    numbers: NDArray[np.int64]
    """(rows,) among all rows of the source"""
    labels: NDArray[Any]
    """(rows,) names of the true classes"""
    right: NDArray[np.bool_]
    """(rows,)"""
    groups: NDArray[np.int64] | None
    """(rows,) which rows belong together"""


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run, with all that a comparison needs of it."""

    name: str
    """A short one for tables: A, B, ..."""
    path: Path
    """As it was given."""
    status: str
    settings: dict[str, Any]
    """Dotted keys and values; those of the environment too."""
    classes: tuple[str, ...]
    metrics: dict[str, Any] | None = None
    answers: Answers | None = None
    problem: str | None = None
    """Why there is no score."""
    trained_here: str | None = None
    """Why the score is too good: the rows include some that it was trained on."""

    @property
    def title(self) -> str:
        """For a sentence: the short name and the path."""
        return f"{self.name} ({self.path})"


def load_saved(name: str, path: Path) -> ComparedRun:
    """A run with the rows that it scored itself when its training ended: its validation rows.

    A run that did not finish has a `problem` instead. Raises RunError for a run that is missing or damaged.
    """
    loaded = load_run(path, Reporter())
    status = loaded.manifest["status"]
    if status != "finished" or not loaded.run.metrics.is_file():
        problem = f"{path} did not finish ({status}); continue it with: {loaded.run.resume_command}"
        if status == "finished":
            problem = f"{path} has no metrics.json; restore it, or score the run with --data"
        return _describe(name, path, loaded, problem=problem)
    metrics = loaded.run.read_metrics()
    predictions = read_predictions(loaded.run.predictions, loaded.classes)
    fingerprint = loaded.manifest["data"]
    answers = _collect(predictions, loaded.classes, {key: fingerprint.get(key) for key in ROWS_KEYS})
    if not metrics.keys() >= NEEDED:
        raise RunError(f"{path}: metrics.json lacks {', '.join(sorted(NEEDED - metrics.keys()))}", RESTORE)
    if metrics["n"] != len(answers.right) or metrics["accuracy"] != float(answers.right.mean()):
        raise RunError(f"{path}: metrics.json is not the score of predictions.csv", RESTORE)
    return _describe(name, path, loaded, metrics=metrics, answers=answers)


def score_run(
    name: str, path: Path, files: Sequence[Path], overrides: Sequence[str], reporter: Reporter
) -> ComparedRun:
    """A run with its answers to all rows of labelled files.

    Raises RunError without a whole checkpoint, DataError for files that do not fit the run or hold classes that it does
    not know.
    """
    loaded = load_run(path, reporter)
    config = with_files(loaded.config, files, overrides)
    try:
        with open_source(config.data, expected_classes=loaded.classes) as source:
            reporter.say(f"{name}: scoring {source.index.rows} rows with {path}")
            trained_here = _find_trained_rows(path, loaded, compute_fingerprint(source))
            scored = score_loaded(loaded, source, np.arange(source.index.rows), False, reporter)
    except PointcnnError as error:
        error.message = f"{path}: {error.message}"
        raise
    answers = _collect(scored.predictions, loaded.classes, {"files": [str(file) for file in files]})
    return _describe(name, path, loaded, metrics=scored.metrics, answers=answers, trained_here=trained_here)


def _describe(name: str, path: Path, loaded: LoadedRun, **found: Any) -> ComparedRun:
    settings = {key: value for key, value in list_settings(loaded.config).items() if not key.startswith(NO_MATTER)}
    environment = loaded.manifest["environment"]
    for key in ENVIRONMENT_KEYS:
        value = environment.get(key)
        parts = value.items() if isinstance(value, dict) else [("", value)]
        settings |= {f"environment.{key}{'.' if part else ''}{part}": version for part, version in parts}
    return ComparedRun(name, path, loaded.manifest["status"], settings, loaded.classes, **found)


def _collect(predictions: Predictions, classes: tuple[str, ...], source: dict[str, Any]) -> Answers:
    """Raises RunError for rows without labels, or none at all."""
    if not predictions.labels:
        raise RunError("predictions.csv holds no labelled row", RESTORE)
    labels = np.array(predictions.labels, dtype=object)
    right = np.array(classes, dtype=object)[predictions.probabilities.argmax(axis=1)] == labels
    groups = None
    if predictions.groups is not None:
        groups = np.unique(np.array(predictions.groups, dtype=object), return_inverse=True)[1].astype(np.int64)
    return Answers(source, predictions.numbers, labels, right, groups)


def _find_trained_rows(path: Path, loaded: LoadedRun, found: dict[str, Any]) -> str | None:
    """In words, how many of the rows with the fingerprint `found` the run was trained on, where that can be told."""
    wanted = loaded.manifest["data"]
    if all(found[key] == wanted.get(key) for key in ROWS_KEYS):
        trained = len(read_run_split(loaded.run.split, found["rows"]).train)
        return f"{path} was trained on {trained} of these {found['rows']} rows"
    known = {(os.path.realpath(file["path"]), file["size"]) for file in wanted.get("files", ())}
    shared = [file["path"] for file in found["files"] if (os.path.realpath(file["path"]), file["size"]) in known]
    return f"{path} was trained on rows of {', '.join(shared)}" if shared else None

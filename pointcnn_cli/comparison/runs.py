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

from pointcnn_cli.averaging import average
from pointcnn_cli.checkpoints import RESTORE
from pointcnn_cli.comparison.scores import NEEDED
from pointcnn_cli.config.changes import list_settings
from pointcnn_cli.ensemble import LoadedEnsemble, load_trained
from pointcnn_cli.errors import PointcnnError, RunError
from pointcnn_cli.evaluation import score_loaded
from pointcnn_cli.hdf5.fingerprint import compute_fingerprint
from pointcnn_cli.prediction import Trained, with_files
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
    """A run with the rows that it scored itself when its training ended: its validation rows. Of a cross-validation,
    all rows, each answered by the members that did not train on it, averaged over seeds.

    What did not finish has a `problem` instead. Raises RunError for what is missing or damaged.
    """
    loaded = load_trained(path, Reporter())
    if problem := _find_problem(path, loaded):
        return _describe(name, path, loaded, problem=problem)
    if isinstance(loaded, LoadedEnsemble):
        metrics = loaded.cv.read_metrics()["out_of_fold"]["ensemble"]
        predictions = read_predictions(loaded.cv.predictions, loaded.classes)
        seeds = len({place.seed for place in loaded.places})
    else:
        metrics = loaded.runs[0].run.read_metrics()
        predictions, seeds = read_predictions(loaded.runs[0].run.predictions, loaded.classes), 1
    fingerprint = loaded.manifest["data"]
    answers = _collect(predictions, loaded.classes, {key: fingerprint.get(key) for key in ROWS_KEYS}, seeds)
    if not metrics.keys() >= NEEDED:
        raise RunError(f"{path}: metrics.json lacks {', '.join(sorted(NEEDED - metrics.keys()))}", RESTORE)
    if metrics["n"] != len(answers.right) or metrics["accuracy"] != float(answers.right.mean()):
        raise RunError(f"{path}: metrics.json is not the score of predictions.csv", RESTORE)
    return _describe(name, path, loaded, metrics=metrics, answers=answers)


def _find_problem(path: Path, loaded: Trained) -> str | None:
    """Why there is no score of the whole, in words."""
    if isinstance(loaded, LoadedEnsemble):
        if not loaded.cv.metrics.is_file():
            return f"{path} has no metrics.json yet; run its pointcnn cv command again"
        if missing := loaded.cv.read_metrics().get("missing"):
            return f"{path} lacks {', '.join(missing)}; run its pointcnn cv command again"
        return None
    run, status = loaded.runs[0].run, loaded.manifest["status"]
    if status != "finished":
        return f"{path} did not finish ({status}); continue it with: {run.resume_command}"
    return None if run.metrics.is_file() else f"{path} has no metrics.json; restore it, or score the run with --data"


def score_run(
    name: str, path: Path, files: Sequence[Path], overrides: Sequence[str], reporter: Reporter
) -> ComparedRun:
    """A run with its answers to all rows of labelled files.

    Raises RunError without a whole checkpoint, DataError for files that do not fit the run or hold classes that it does
    not know.
    """
    loaded = load_trained(path, reporter)
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


def _describe(name: str, path: Path, loaded: Trained, **found: Any) -> ComparedRun:
    settings = {key: value for key, value in list_settings(loaded.config).items() if not key.startswith(NO_MATTER)}
    environment = loaded.manifest["environment"]
    for key in ENVIRONMENT_KEYS:
        value = environment.get(key)
        parts = value.items() if isinstance(value, dict) else [("", value)]
        settings |= {f"environment.{key}{'.' if part else ''}{part}": version for part, version in parts}
    return ComparedRun(name, path, loaded.manifest["status"], settings, loaded.classes, **found)


def _collect(predictions: Predictions, classes: tuple[str, ...], source: dict[str, Any], seeds: int = 1) -> Answers:
    """Answers from probabilities; of several `seeds` these stand in blocks, one a seed with the same rows, and are
    averaged. Raises RunError for rows without labels, for other blocks, or for none at all."""
    rows = len(predictions.numbers) // seeds
    numbers = predictions.numbers[:rows]
    if not rows or predictions.labels is None or not np.array_equal(predictions.numbers, np.tile(numbers, seeds)):
        raise RunError("predictions.csv does not hold the same labelled rows for each seed", RESTORE)
    labels = np.array(predictions.labels[:rows], dtype=object)
    answered = average(predictions.probabilities.reshape(seeds, rows, len(classes))).argmax(axis=1)
    groups = None
    if predictions.groups is not None:
        names = np.array(predictions.groups[:rows], dtype=object)
        groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return Answers(source, numbers, labels, np.array(classes, dtype=object)[answered] == labels, groups)


def _find_trained_rows(path: Path, loaded: Trained, found: dict[str, Any]) -> str | None:
    """In words, how many of the rows with the fingerprint `found` the run was trained on, where that can be told."""
    wanted = loaded.manifest["data"]
    if all(found[key] == wanted.get(key) for key in ROWS_KEYS):
        trained = np.unique(np.concatenate([read_run_split(r.run.split, found["rows"]).train for r in loaded.runs]))
        return f"{path} was trained on {len(trained)} of these {found['rows']} rows"
    known = {(os.path.realpath(file["path"]), file["size"]) for file in wanted.get("files", ())}
    shared = [file["path"] for file in found["files"] if (os.path.realpath(file["path"]), file["size"]) in known]
    return f"{path} was trained on rows of {', '.join(shared)}" if shared else None

"""The score of a finished run, or of the ensemble of a cross-validation, on one of its parts or on another file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.averaging import compare_rows, compute_gain
from pointcnn_cli.config.load import with_overrides
from pointcnn_cli.ensemble import LoadedEnsemble, load_trained
from pointcnn_cli.errors import RunError
from pointcnn_cli.hdf5.fingerprint import check_fingerprint, compute_fingerprint
from pointcnn_cli.hdf5.samples import DataIndex, Source
from pointcnn_cli.prediction import Predictor, Trained, check_shapes, with_files
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.runtime import NAMES, name_backend
from pointcnn_cli.scoring import Scored, check_labels, score_probabilities
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits.files import read_run_split, read_trained_classes
from pointcnn_cli.splits.parts import name_parts, require_labels

FITTED_HERE = (
    "the temperatures were fitted on these rows, so the score is somewhat too good; calibration.json of a run says "
    "what they do to rows that they were not fitted on"
)


def evaluate_part(
    path: Path, part: str, overrides: Sequence[str], reporter: Reporter, calibrated: bool = False
) -> dict[str, Any]:
    """The score (as metrics.json) of the run in `path` on its train, validation or test rows.

    Of a cross-validation, `validation` is every row, each answered by the members that did not train on it. Raises
    RunError where there is no such part, DataError where the data are no longer those of the run.
    """
    loaded = load_trained(path, reporter)
    config = with_overrides(loaded.config, overrides)
    with open_source(config.data, expected_classes=loaded.classes) as source:
        check_fingerprint(source, loaded.manifest["data"])
        check_shapes(source.index, loaded.manifest)
        if calibrated and part == "validation":
            reporter.warn(FITTED_HERE)
        if isinstance(loaded, LoadedEnsemble):
            if part == "train":
                raise RunError(f"{path}: its members have no train part in common", "name one of the runs in it")
            if part == "validation":
                return _score_out_of_fold(loaded, source, reporter, calibrated)
        rows = name_parts(read_run_split(loaded.runs[0].run.split, source.index.rows)).get(part)
        if rows is None:
            raise RunError(f"{path}: the run has no {part} part", "train with split.test_fraction to keep one aside")
        reporter.say(f"scoring the {part} part: {len(rows)} rows")
        selected = part == "validation" and loaded.config.train.selects_on_validation
        return score_loaded(loaded, source, rows, selected, reporter, calibrated).metrics


def evaluate_files(
    path: Path, files: Sequence[Path], overrides: Sequence[str], reporter: Reporter, calibrated: bool = False
) -> dict[str, Any]:
    """The score of the run in `path` on all rows of labelled files; classes are matched by name.

    Raises DataError for files that are malformed, lack labels, or hold classes that the run does not know.
    """
    loaded = load_trained(path, reporter)
    config = with_files(loaded.config, files, overrides)
    with open_source(config.data, expected_classes=loaded.classes) as source:
        if compute_fingerprint(source)["sampled_rows_sha256"] == loaded.manifest["data"]["sampled_rows_sha256"]:
            reporter.warn("these are the rows that the run was trained on; --part validation scores those it was not")
        rows = np.arange(source.index.rows)
        reporter.say(f"scoring all {len(rows)} rows of {', '.join(span.path for span in source.index.files)}")
        return score_loaded(loaded, source, rows, False, reporter, calibrated).metrics


def score_loaded(
    loaded: Trained,
    source: Source,
    rows: NDArray[np.int64],
    selected: bool,
    reporter: Reporter | None = None,
    calibrated: bool = False,
) -> Scored:
    """Predict and score `rows` of `source` with the weights that a run stands for; `selected` says whether they were
    chosen on these rows. The score of an ensemble has the accuracy of each member too, and what averaging gains.

    Raises RunError without a whole checkpoint, DataError for rows that do not fit the run.
    """
    reporter = reporter or Reporter()
    check_shapes(source.index, loaded.manifest)
    check_labels(source.index)
    runs = loaded.runs
    trained = np.unique(np.concatenate([read_trained_classes(one.run.split, loaded.classes) for one in runs]))
    with reporter.waiting(f"starting {NAMES[name_backend()]}"):
        predictor = loaded.build_predictor(calibrated)
    answers = _answer(predictor, source, rows, reporter)
    scored = score_probabilities(
        answers.probabilities, source.index, rows,
        trained_classes=trained, epoch=predictor.epoch, selected_on_these_rows=selected,
    )  # fmt: skip
    metrics = scored.metrics | _describe_temperatures(predictor)
    if not isinstance(loaded, LoadedEnsemble):
        return Scored(metrics, scored.predictions)
    shares = zip(loaded.places, answers.member_accuracies, strict=True)
    metrics["members"] = [{"name": place.name, "accuracy": float(share)} for place, share in shares]
    if len(runs) > 1:
        metrics["ensemble_gain"] = compute_gain(answers.compared, len(runs), _take_groups(source.index, rows))
    return Scored(metrics, scored.predictions)


def _score_out_of_fold(loaded: LoadedEnsemble, source: Source, reporter: Reporter, calibrated: bool) -> dict[str, Any]:
    """The score of all rows of the finished folds; those of a fold are answered by its seeds, averaged."""
    labels, _ = require_labels(source.index)
    with reporter.waiting(f"starting {NAMES[name_backend()]}"):
        whole = loaded.build_predictor(calibrated)
    folds = sorted({place.fold for place in loaded.places})
    rows, answered, trained, reachable, seeds = [], [], [], [], []
    for fold in folds:
        places = [number for number, place in enumerate(loaded.places) if place.fold == fold]
        run = loaded.members[places[0]].run
        rows.append(read_run_split(run.split, source.index.rows).validation)
        reporter.say(f"scoring fold {fold}: {len(rows[-1])} rows; runs that did not train on them: {len(places)}")
        answered.append(_answer(whole.select(places), source, rows[-1], reporter))
        trained.append(read_trained_classes(run.split, loaded.classes))
        reachable.append(np.isin(labels[rows[-1]], trained[-1]))
        seeds.append(len(places))
    numbers = np.concatenate(rows)
    scored = score_probabilities(
        np.concatenate([one.probabilities for one in answered]), source.index, numbers,
        trained_classes=np.unique(np.concatenate(trained)), epoch=whole.epoch,
        selected_on_these_rows=loaded.config.train.selects_on_validation,
    )  # fmt: skip
    metrics = scored.metrics | _describe_temperatures(whole)
    metrics["ceiling_accuracy"] = float(np.concatenate(reachable).mean())
    if len(set(seeds)) == 1 and seeds[0] > 1:
        compared = np.concatenate([one.compared for one in answered])
        metrics["ensemble_gain"] = compute_gain(compared, seeds[0], _take_groups(source.index, numbers))
    return metrics


@dataclass(frozen=True, eq=False)
class _Answered:
    """The probabilities for some rows, and of an ensemble what is needed of its members, but not all they answered."""

    probabilities: NDArray[np.float32]
    """(rows, classes)"""
    compared: NDArray[np.float64]
    """(rows, 4), as `averaging.compare_rows`; of a single run (0, 4)"""
    member_accuracies: NDArray[np.float64]
    """(members,); of a single run (0,)"""


def _answer(predictor: Predictor, source: Source, rows: NDArray[np.int64], reporter: Reporter) -> _Answered:
    labels, _ = require_labels(source.index)
    blocks, compared, right, first = [], [np.zeros((0, 4))], [], 0
    for answers in predictor.predict(source, rows, reporter):
        blocks.append(answers.probabilities)
        truths = labels[rows[first : first + len(answers.probabilities)]]
        first += len(truths)
        if answers.members is not None:
            compared.append(compare_rows(truths, answers.members))
            right.append((answers.members.argmax(axis=2) == truths).sum(axis=1))
    accuracies = np.sum(right, axis=0) / len(rows) if right else np.zeros(0)
    return _Answered(np.concatenate(blocks), np.concatenate(compared), accuracies)


def _take_groups(index: DataIndex, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    return None if index.groups is None else index.groups[rows]


def _describe_temperatures(predictor: Predictor) -> dict[str, Any]:
    return {} if predictor.temperatures is None else {"temperatures": list(predictor.temperatures)}

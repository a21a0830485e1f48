"""Puts a cross-validation together: out-of-fold predictions and scores, from what its members left."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pointcnn_cli.config.schema import Config
from pointcnn_cli.crossval.scores import MemberRows, compute_cv_metrics
from pointcnn_cli.cvdir import CvDir, Member, build_member_config, check_member, list_members, read_config
from pointcnn_cli.errors import DataError, RunError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.splits.files import read_split_file, read_trained_classes
from pointcnn_cli.tables import Predictions, read_predictions, write_predictions


def collect(cv: CvDir, reporter: Reporter) -> dict[str, Any]:
    """Write predictions.csv and metrics.json of what is finished, and return the latter.

    Warns of what is missing. Raises RunError where nothing is finished, or a member is damaged or trained otherwise.
    """
    manifest = cv.read_manifest()
    config, members = read_config(cv, manifest), list_members(manifest)
    finished = [member for member in members if cv.is_finished(member)]
    missing = [member.name for member in members if member not in finished]
    if not finished:
        raise RunError(
            f"{cv.path}: none of its {len(members)} members is finished", "start the same pointcnn cv command again"
        )
    if missing:
        reporter.warn(f"{len(missing)} of {len(members)} members are not finished: {', '.join(missing)}")
    classes = tuple(manifest["classes"])
    read = [read_member(cv, member, config, classes, int(manifest["data"]["rows"])) for member in finished]
    metrics = compute_cv_metrics(
        [rows for rows, _ in read], classes, manifest["folds"], [int(seed) for seed in manifest["seeds"]], missing
    )
    write_predictions(cv.predictions, classes, _list_blocks(read), force=True)
    cv.write_metrics(metrics)
    return metrics


def read_member(
    cv: CvDir, member: Member, config: Config, classes: tuple[str, ...], rows: int
) -> tuple[MemberRows, Predictions]:
    """The predictions of a finished member for the rows of its fold, which it did not train on. Raises RunError."""
    run = cv.run(member)
    check_member(run, build_member_config(config, member))
    predictions = read_predictions(run.predictions, classes)
    try:
        split = read_split_file(run.split, rows)
    except DataError as error:
        raise RunError(error.message, "a run's split.json is not for editing; restore it, or train again") from error
    if predictions.labels is None or not np.array_equal(predictions.numbers, split.validation):
        raise RunError(f"{run.predictions}: not the rows of its validation part", "restore it, or train again")
    trained = read_trained_classes(run.split, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = set(predictions.labels) - numbers.keys()
    if unknown:
        raise RunError(f"{run.predictions}: unknown classes: {', '.join(sorted(unknown))}", "restore it")
    scored = MemberRows(
        member,
        run.read_metrics(),
        frozenset(trained.tolist()),
        predictions.numbers,
        predictions.probabilities,
        np.array([numbers[name] for name in predictions.labels], dtype=np.int64),
        predictions.groups,
    )
    return scored, predictions


def _list_blocks(read: Sequence[tuple[MemberRows, Predictions]]) -> Iterator[Predictions]:
    """One block a seed, its rows in the order of the data, with fold and seed."""
    for seed in dict.fromkeys(rows.member.seed for rows, _ in read):
        ours = [(rows, predictions) for rows, predictions in read if rows.member.seed == seed]
        numbers = np.concatenate([rows.numbers for rows, _ in ours])
        order = np.argsort(numbers, kind="stable")
        files = [name for _, predictions in ours for name in predictions.files]
        labels = [name for _, predictions in ours for name in predictions.labels or ()]
        groups = [name for _, predictions in ours for name in predictions.groups or ()]
        folds = np.concatenate([np.full(len(rows.numbers), rows.member.fold) for rows, _ in ours])
        yield Predictions(
            numbers[order],
            [files[i] for i in order],
            np.concatenate([rows.probabilities for rows, _ in ours])[order],
            [labels[i] for i in order],
            [groups[i] for i in order] if groups else None,
            {"fold": folds[order], "seed": np.full(len(order), seed)},
        )

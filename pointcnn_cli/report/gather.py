"""From a run directory, and the rows that it names or other ones, to the facts of a page."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pointcnn_cli.config.load import with_overrides
from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose import diagnose_case
from pointcnn_cli.diagnose.findings import Diagnosis
from pointcnn_cli.diagnose.gather import build_run_case, read_history
from pointcnn_cli.diagnose.registry import Tier
from pointcnn_cli.errors import PointcnnError, RunError
from pointcnn_cli.evaluation import score_loaded
from pointcnn_cli.hdf5.fingerprint import check_fingerprint, compute_fingerprint
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.history import find_best_epoch
from pointcnn_cli.prediction import LoadedRun, load_run, with_files
from pointcnn_cli.report.clouds import FRAMES_DRAWN, choose_mistakes, choose_view, get_roles, read_clouds
from pointcnn_cli.report.facts import Mistake, Mistakes, Novelty, ReportFacts
from pointcnn_cli.report.scored import ScoredRows, build_scored
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits.files import read_parts, read_run_split, read_trained_classes
from pointcnn_cli.splits.notes import note_split
from pointcnn_cli.splits.parts import PartDescription, Split
from pointcnn_cli.tables import read_predictions

MISTAKES_SHOWN = 6
MOST_PREDICTIONS_BYTES = 64 * 2**20  # of text, which takes some seconds and ten times the memory
MOST_SCANNED_BYTES = 64 * 2**20  # of rows as float32: beyond it a pass over all of them takes longer than the rest


def gather_finished(loaded: LoadedRun, source: Source) -> ReportFacts:
    """The facts of a run that just ended and whose rows are still open. Raises RunError for a damaged run."""
    size = os.path.getsize(loaded.run.predictions)
    if size > MOST_PREDICTIONS_BYTES:
        raise RunError(f"{loaded.run.predictions}: {size} bytes are too many to read again at the end of a training")
    scored = _read_scored(loaded)
    return _gather(loaded, loaded.config, source, scored, source, None, None, ())


def gather_run(path: Path, files: Sequence[Path], overrides: Sequence[str], reporter: Reporter) -> ReportFacts:
    """The facts of the run in `path`, finished or not; with `files`, its score is that on all their rows.

    What is missing or was changed since leaves a gap in the page, which says so. Raises RunError for what is no run or
    is damaged, ConfigError for bad overrides, DataError for `files` that cannot be scored.
    """
    loaded = load_run(path, reporter)
    config = with_overrides(loaded.config, overrides) if overrides and not files else loaded.config
    with ExitStack() as stack:
        source, problems = _open_own(stack, loaded, config)
        for problem in problems:
            reporter.warn(problem)
        if files:
            other = stack.enter_context(
                open_source(with_files(loaded.config, files, overrides).data, expected_classes=loaded.classes)
            )
            scored, novelty = _score_other(loaded, other, reporter)
            return _gather(loaded, config, source, scored, other, None, novelty, problems)
        own, unscored = _find_scored(loaded, source, reporter)
        return _gather(loaded, config, source, own, source, unscored, None, problems)


def _gather(
    loaded: LoadedRun,
    config: Config,
    source: Source | None,
    scored: ScoredRows | None,
    scored_source: Source | None,
    unscored: str | None,
    novelty: Novelty | None,
    problems: tuple[str, ...],
) -> ReportFacts:
    run, manifest = loaded.run, loaded.manifest
    split = None if source is None else read_run_split(run.split, source.index.rows)
    parts = read_parts(run.split)
    diagnosis, undiagnosed = _diagnose(loaded, config, source)
    history = read_history(run.history)
    return ReportFacts(
        run=run,
        config=config,
        manifest=manifest,
        parts=parts,
        notes=() if source is None or split is None else note_split(source.index, split),
        history=history,
        best_epoch=manifest.get("best_epoch") or _find_best(history, config),
        scored=scored,
        unscored=unscored,
        novelty=novelty or _compare_groups(config, source, split, parts),
        mistakes=None if scored is None else _gather_mistakes(loaded, scored, scored_source),
        diagnosis=diagnosis,
        undiagnosed=undiagnosed,
        problems=problems,
    )


def _open_own(stack: ExitStack, loaded: LoadedRun, config: Config) -> tuple[Source | None, tuple[str, ...]]:
    """The run's rows, where they are still there and the same; else why not."""
    try:
        source = stack.enter_context(open_source(config.data, expected_classes=loaded.classes))
        check_fingerprint(source, loaded.manifest["data"])
    except PointcnnError as error:
        return None, (
            f"The data of this run cannot be used: {error.message}. Its mistakes are not drawn, and what needs the "
            "rows is left out. If the file was moved, name it with --set data.path=FILE.",
        )
    return source, ()


def _read_scored(loaded: LoadedRun) -> ScoredRows:
    """The rows that a finished run scored. Raises RunError for a missing or damaged predictions.csv or split.json."""
    predictions = read_predictions(loaded.run.predictions, loaded.classes)
    return build_scored(
        "validation rows", predictions, loaded.classes, read_trained_classes(loaded.run.split, loaded.classes),
        epoch=loaded.manifest.get("kept_epoch"), selected=loaded.config.train.selects_on_validation,
    )  # fmt: skip


def _find_scored(loaded: LoadedRun, source: Source | None, reporter: Reporter) -> tuple[ScoredRows | None, str | None]:
    """The scored validation rows: as the run wrote them where it finished, else scored now; or why there are none.

    What lies in the directory of an unfinished run may be of other weights.
    """
    if loaded.manifest["status"] == "finished":
        try:
            return _read_scored(loaded), None
        except RunError as error:
            reporter.warn(f"{error.message}; the validation rows are scored again")
            lacking = error.message
    else:
        lacking = f"The training did not end (status {loaded.manifest['status']!r})"
    if source is None:
        return (
            None,
            f"{lacking}, and its validation rows cannot be scored now: the data are not those of the run.",
        )
    if not loaded.weights.is_file():
        return None, f"{lacking}, and no weights were saved that could be scored."
    try:
        rows = read_run_split(loaded.run.split, source.index.rows).validation
        selected = loaded.config.train.selects_on_validation
        scored = score_loaded(loaded, source, rows, selected, reporter)
    except RunError as error:
        return None, f"{lacking}, and it cannot be scored now: {error.message}."
    trained = read_trained_classes(loaded.run.split, loaded.classes)
    return build_scored(
        "validation rows", scored.predictions, loaded.classes, trained,
        epoch=scored.metrics["epoch"], selected=selected,
    ), None  # fmt: skip


def _score_other(loaded: LoadedRun, source: Source, reporter: Reporter) -> tuple[ScoredRows, Novelty]:
    """All rows of other files, scored now."""
    names = [span.path for span in source.index.files]
    same = compute_fingerprint(source)["sampled_rows_sha256"] == loaded.manifest["data"]["sampled_rows_sha256"]
    if same:
        reporter.warn("these are the rows that the run was trained on; without --data those are shown that it was not")
    reporter.say(f"scoring all {source.index.rows} rows of {', '.join(names)}")
    scored = score_loaded(loaded, source, np.arange(source.index.rows), False, reporter)
    trained = read_trained_classes(loaded.run.split, loaded.classes)
    what = f"rows of {Path(names[0]).name}" + (f" and {len(names) - 1} more files" if len(names) > 1 else "")
    rows = build_scored(
        what, scored.predictions, loaded.classes, trained, epoch=scored.metrics["epoch"], selected=False
    )
    return rows, Novelty("trained" if same else "other", rows.metrics["n_groups"])


def _compare_groups(
    config: Config, source: Source | None, split: Split | None, parts: Sequence[PartDescription]
) -> Novelty:
    """Whether the groups of the validation rows also have training rows."""
    validation = next(part for part in parts if part.name == "validation")
    if validation.groups is None:
        return Novelty("ungrouped")
    if source is None or split is None or source.index.groups is None:
        apart = config.split.strategy in ("auto", "stratified_group")  # keeps groups apart by its construction
        return Novelty("unseen" if apart else "unknown", validation.groups)
    groups = source.index.groups
    shared = np.intersect1d(groups[split.validation], groups[split.train])
    if not shared.size:
        return Novelty("unseen", validation.groups)
    affected = float(np.isin(groups[split.validation], shared).mean())
    return Novelty("shared", validation.groups, int(shared.size), affected)


def _find_best(history: Sequence[Mapping[str, float]], config: Config) -> int | None:
    """The best epoch of a run that does not say it itself."""
    known = [row for row in history if config.train.monitor in row]
    return int(known[find_best_epoch(known, config.train.monitor) - 1]["epoch"]) if known else None


def _gather_mistakes(loaded: LoadedRun, scored: ScoredRows, source: Source | None) -> Mistakes:
    places = choose_mistakes(scored.confidence, scored.labels, scored.predicted, scored.groups, MISTAKES_SHOWN)
    total = int((~scored.correct).sum())
    if source is None:
        shown = tuple(_describe_mistake(scored, place, "", ()) for place in places)
        return Mistakes(shown, total, None, "the data are not here, or were changed since")
    index = source.index
    depths = [shape[0] for shape in index.channel_shapes]
    view = choose_view(get_roles(loaded.config), depths)
    undrawn = None if view is not None else "no channel holds two coordinates or more (depth 2 to 4)"
    clouds: list[Any] = [()] * len(places)
    if view is not None and len(places):
        try:
            clouds = read_clouds(source, scored.numbers[places], view, FRAMES_DRAWN)
        except PointcnnError as error:
            undrawn = error.message
    shown = tuple(
        _describe_mistake(scored, place, index.locate(int(scored.numbers[place])), frames)
        for place, frames in zip(places, clouds, strict=True)
    )
    return Mistakes(shown, total, view, undrawn)


def _describe_mistake(scored: ScoredRows, place: int, where: str, frames: Any) -> Mistake:
    return Mistake(
        number=int(scored.numbers[place]),
        place=where or f"{scored.files[place]}, row {scored.numbers[place]} over all files",
        group=None if scored.groups is None else scored.group_names[scored.groups[place]],
        true=scored.classes[scored.labels[place]],
        predicted=scored.classes[scored.predicted[place]],
        confidence=float(scored.confidence[place]),
        true_probability=float(scored.probabilities[place, scored.labels[place]]),
        frames=frames,
    )


def _diagnose(loaded: LoadedRun, config: Config, source: Source | None) -> tuple[Diagnosis | None, str]:
    """What `diagnose` finds in a moment: without the network and probes; without the values of very many rows."""
    if source is None:
        return None, "The data of the run are not here, so it could not be diagnosed."
    try:
        case = build_run_case(loaded.run, config, loaded.manifest, source)
    except PointcnnError as error:
        return None, f"The run could not be diagnosed: {error.message}."
    values = sum(int(np.prod(shape)) for shape in source.index.channel_shapes) * source.index.rows
    if values * 4 > MOST_SCANNED_BYTES:
        reason = (
            "These are many rows, so only labels, split and history were looked at, not the values, not the network."
        )
        return diagnose_case(case, Reporter(), tiers=(Tier.STATIC,)), reason
    reason = "Only labels, split, history and the values in the rows were looked at, not the network."
    return diagnose_case(case, Reporter(), tiers=(Tier.STATIC, Tier.DATA)), reason

"""A training from config to finished run directory, and the continuation of one that was interrupted.

Cheap failures come first: data headers, labels and split are checked before Keras is imported.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointcnn_cli.calibration import compute_calibration
from pointcnn_cli.checkpoints import RESTORE, Arrays
from pointcnn_cli.config.changes import check_config, check_epochs, read_stored, store_config
from pointcnn_cli.config.load import dump_config, load_resolved, resolve_paths
from pointcnn_cli.config.schema import Config
from pointcnn_cli.distribution import START_AGAIN
from pointcnn_cli.documents import SCHEMA_VERSION
from pointcnn_cli.errors import ConfigError, Interrupted, PointcnnError, RunError, TrainingError
from pointcnn_cli.files import check_new
from pointcnn_cli.following import FollowedRun
from pointcnn_cli.hdf5.fingerprint import check_fingerprint, compute_fingerprint
from pointcnn_cli.hdf5.samples import DataIndex, Source
from pointcnn_cli.joining import ALONE, Place
from pointcnn_cli.loading import begin_fit, continue_fit
from pointcnn_cli.memory import FREE_MEMORY, explain_shortage
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir, default_target, describe_vanished
from pointcnn_cli.runtime import (
    compare_environments,
    describe_environment,
)
from pointcnn_cli.signals import StopRequest, catch_stop_signals
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits import build_split
from pointcnn_cli.splits.files import read_run_split, split_document
from pointcnn_cli.splits.parts import Split, describe_split
from pointcnn_cli.starting import check_team, start_keras
from pointcnn_cli.streaming import Plan
from pointcnn_cli.tracking import Tracking, build_tracking

if TYPE_CHECKING:
    from pointcnn_cli.fitting import Fit

Inspector = Callable[[Config, Source, Split], Iterable[str]]
Finisher = Callable[[RunDir, Source, Reporter], None]
SavedState = tuple[int, Arrays, dict[str, Any], list[str]]  # as `RunDir.read_newest_state` gives it


@dataclass(frozen=True)
class TrainedRun:
    """What a training leaves: the directory and the score of the kept weights on the validation rows (of several
    processes the first has it; in the others it is empty)."""

    run: RunDir
    metrics: dict[str, Any]

    def describe_files(self) -> str:
        """What was written, in words."""
        return (
            f"metrics.json (the score of epoch {self.metrics['epoch']}), predictions.csv ({self.metrics['n']} rows), "
            "history.csv (the curves) and checkpoints/ (the weights)"
        )


def train(
    config: Config,
    target: Path | None,
    command: Sequence[str],
    reporter: Reporter,
    inspect: Inspector | None = None,
    conclude: Finisher | None = None,
    place: Place = ALONE,
) -> TrainedRun:
    """Train as `config` says into the new directory `target` (default: below runs/), with others where `place` says so.

    What `inspect` says of data and split is told as warnings before anything is trained. `conclude` is called last,
    with the finished run and its rows, which are still open.

    Raises the errors of its steps: DataError, MissingDependencyError, OutputError, TrainingError, Interrupted.
    """
    if config.tune is not None:
        reporter.say("the section tune is for pointcnn tune; the config's own values are trained")
        config = config.model_copy(update={"tune": None})
    config, target = resolve_paths(config), check_new(target or default_target(config.name or "run"))
    tracking = Tracking([], reporter) if place.index else build_tracking(config, reporter)
    with open_source(config.data) as source:
        split = _describe(source.index, build_split(source.index, config.split), reporter)
        _check_class_weights(config, source.index)
        for warning in inspect(config, source, split) if inspect else ():
            reporter.warn(warning)
        device, team = start_keras(config, reporter, place)
        with team.explain_loss(START_AGAIN):
            check_team(team, config, source, split, 0)
            with reporter.waiting("reading the rows"):
                fit = begin_fit(config, source, split, device, reporter, team)
            config = fit.config  # with the limit of a stream, so that training from the run's config repeats it
            reporter.detail(fit.describe_layers())
            manifest = _build_manifest(config, source, fit, device, command)
            if team.index:
                run: RunDir = FollowedRun(Path(team.tell("")))
            else:
                run = RunDir.create(target, dump_config(config), manifest, split_document(source.index, split))
                team.tell(str(run.path))
        reporter.say(f"run directory: {run.path}")
        try:
            trained = _finish(run, fit, reporter, tracking)
            if conclude is not None and not place.index:
                conclude(run, source, reporter)
            return trained
        finally:
            run.unlock()


def resume(path: Path, reporter: Reporter, conclude: Finisher | None = None, place: Place = ALONE) -> TrainedRun:
    """Continue the run in `path` after its newest whole state. A finished run is left alone, unless its epochs grew.

    Raises RunError for a run that is damaged or whose config was changed, ConfigError for a number of epochs that
    cannot be had, DataError for data that are not those of the run, OutputError where another process works on it.
    """
    run = FollowedRun.open(path) if place.index else RunDir.open(path)
    before = run.read_manifest()
    config, began_as = load_resolved(run.config), read_stored(before.get("config"), run.config)
    check_config(config, began_as, run.config)
    if _is_complete(before, config, began_as):
        return _leave_alone(run, before, reporter, None if place.index else conclude)
    run.lock()
    try:
        manifest = run.read_manifest()  # another process may have ended between the first look and the lock
        if _is_complete(manifest, config, began_as):
            return _leave_alone(run, manifest, reporter, None if place.index else conclude)
        if manifest["status"] == "running":
            reporter.warn(describe_vanished(before.get("process")))
        return _continue(run, config, manifest, reporter, conclude, place)
    finally:
        run.unlock()


def _is_complete(manifest: dict[str, Any], config: Config, began_as: Config | None) -> bool:
    """Whether there is nothing left to do: it ended, and no more epochs are wanted since."""
    grown = began_as is not None and began_as.train.epochs != config.train.epochs
    return manifest["status"] == "finished" and not grown


def _leave_alone(run: RunDir, manifest: dict[str, Any], reporter: Reporter, conclude: Finisher | None) -> TrainedRun:
    """A complete run. Where its process was killed between its last word and its report, it gets that."""
    if conclude is None or run.report.exists():
        reporter.say(f"{run.path} is already complete; nothing was changed")
        return TrainedRun(run, run.read_metrics())
    reporter.say(f"{run.path} is already complete, but for its report")
    try:
        data = load_resolved(run.config).data
        with open_source(data, expected_classes=tuple(manifest["classes"])) as source:
            check_fingerprint(source, manifest["data"])
            conclude(run, source, reporter)
    except PointcnnError as error:
        reporter.warn(f"the report cannot be written now ({error.message})")
    return TrainedRun(run, run.read_metrics())


def _continue(
    run: RunDir,
    config: Config,
    manifest: dict[str, Any],
    reporter: Reporter,
    conclude: Finisher | None,
    place: Place,
) -> TrainedRun:
    found = run.read_newest_state()
    if found is None and manifest["status"] == "finished":
        raise RunError(f"{run.path}: no state to go on from; {run.checkpoints} holds none", RESTORE)
    before = read_stored(manifest.get("config"), run.config)
    check_epochs(config, before, found[0] if found else 0, run.config)
    tracking = Tracking([], reporter) if place.index else build_tracking(config, reporter)
    with open_source(config.data, expected_classes=tuple(manifest["classes"])) as source:
        check_fingerprint(source, manifest["data"])
        split = _describe(source.index, read_run_split(run.split, source.index.rows), reporter)
        device, team = start_keras(config, reporter, place)
        with team.explain_loss(START_AGAIN):
            check_team(team, config, source, split, found[0] if found else 0)
            plan = Plan.restore(manifest.get("streaming"))
            with reporter.waiting("reading the rows"):
                fit = continue_fit(config, source, split, device, plan, reporter, team)
            _restore(run, fit, found, reporter)
        if differing := compare_environments(manifest["environment"], describe_environment(device)):
            reporter.warn("not bit-identical to an uninterrupted run: " + "; ".join(differing))
        run.update_manifest(status="running", config=store_config(config))
        trained = _finish(run, fit, reporter, tracking)
        if conclude is not None and not place.index:
            conclude(run, source, reporter)
        return trained


def _describe(index: DataIndex, split: Split, reporter: Reporter) -> Split:
    for note in (*index.notes, *split.notes):
        reporter.warn(note)
    reporter.show_split([asdict(part) for part in describe_split(index, split)])
    return split


def _check_class_weights(config: Config, index: DataIndex) -> None:
    weights = config.train.class_weight
    if isinstance(weights, dict) and set(weights) != set(index.classes or ()):
        raise ConfigError(
            f"train.class_weight names {sorted(weights)}, the data have the classes {list(index.classes or ())}",
            "give one weight for every class, or set it to balanced",
        )


def _build_manifest(config: Config, source: Source, fit: "Fit", device: str, command: Sequence[str]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "command": list(command),
        "started": _now(),
        "seeds": {"seed": config.seed, "split": config.split.seed},
        "parameters": fit.model.count_params(),
        "classes": list(fit.classes),
        "channel_shapes": [list(shape) for shape in source.index.channel_shapes],
        "config": store_config(config),
        "data": compute_fingerprint(source),
        "streaming": None if fit.plan is None else asdict(fit.plan),
        "environment": describe_environment(device),
    }


def _restore(run: RunDir, fit: "Fit", found: SavedState | None, reporter: Reporter) -> None:
    if found is None:
        reporter.say("no epoch was saved; starting at epoch 1")
        return
    epoch, arrays, facts, problems = found
    for problem in problems:
        reporter.warn(f"{problem}; using the state of epoch {epoch} instead")
    fit.restore(run, arrays, facts, f"{run.path}, state of epoch {epoch}")
    reporter.say(f"continuing after epoch {epoch}")


def _finish(run: RunDir, fit: "Fit", reporter: Reporter, tracking: Tracking) -> TrainedRun:
    """Train what is left, score the kept weights, and say in the manifest how it ended."""
    started = time.monotonic()
    hint = f"continue with: {run.resume_command}{fit.team.resume_option}"
    try:
        with catch_stop_signals() as stop:
            reporter.say(_describe_work(fit))
            tracking.start(run, fit.config, fit.history)
            try:
                with fit.team.explain_loss(hint):
                    fit.run(run, reporter, stop, tracking.update)
            except TrainingError:
                stop.check(hint)  # a process that was told to stop, as all were: the others are gone before it
                raise
            if fit.team.index:
                return TrainedRun(run, {})
            with explain_shortage("scoring the validation rows", f"{FREE_MEMORY}, and go on with --resume"):
                metrics = _score(run, fit, stop)
    except Exception as error:
        status = "interrupted" if isinstance(error, Interrupted) else "failed"
        with contextlib.suppress(PointcnnError, MemoryError):  # disk or memory is full: the first failure is to be told
            run.update_manifest(status=status, ended=_now(), reason=str(error))
        tracking.finish(status)
        raise
    run.update_manifest(
        status="finished", ended=_now(), kept_epoch=fit.kept_epoch, best_epoch=fit.best_epoch,
        epochs=len(fit.history), seconds_of_last_process=round(time.monotonic() - started, 1),
    )  # fmt: skip
    tracking.finish("finished")
    return TrainedRun(run, metrics)


def _describe_work(fit: "Fit") -> str:
    """What is about to happen, in a sentence."""
    settings, done = fit.config.train, len(fit.history)
    epochs = f"{settings.epochs} epochs" if not done else f"epochs {done + 1} to {settings.epochs}"
    text = (
        f"training {fit.config.model.name} ({fit.model.count_params():,} weights) on {len(fit.train.labels)} rows: "
        f"{epochs} of {fit.steps} steps, each followed by {len(fit.validation.labels)} validation rows"
    )
    if settings.early_stopping is not None:
        text += f"; ends earlier after {settings.early_stopping.patience} epochs without a better {settings.monitor}"
    return text


def _score(run: RunDir, fit: "Fit", stop: StopRequest) -> dict[str, Any]:
    """predictions.csv, metrics.json and perhaps calibration.json of the kept weights on the validation rows."""
    from pointcnn_cli.scoring import score_rows
    from pointcnn_cli.tables import write_predictions

    fit.use_kept_weights()
    rows = fit.validation
    scored = score_rows(
        fit.model, rows.source, np.arange(len(rows.labels)), fit.index, rows.numbers,
        trained_classes=np.unique(fit.train.labels), epoch=fit.kept_epoch,
        selected_on_these_rows=fit.config.train.selects_on_validation,
    )  # fmt: skip
    stop.check(f"continue with: {run.resume_command}{fit.team.resume_option}")
    write_predictions(run.predictions, fit.classes, [scored.predictions], force=True)
    if fit.config.train.calibrate:
        groups = None if fit.index.groups is None else fit.index.groups[rows.numbers]
        probabilities = scored.predictions.probabilities
        run.write_calibration(compute_calibration(rows.labels, probabilities, groups, fit.kept_epoch))
    run.write_metrics(scored.metrics)
    return scored.metrics


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""A training from config to finished run directory, and the continuation of one that was interrupted.

Cheap failures come first: data headers, labels and split are checked before Keras is imported.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.load import dump_config, load_resolved, resolve_paths
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import ConfigError, DataError, Interrupted, PointcnnError
from pointcnn_cli.hdf5.fingerprint import check_fingerprint, compute_fingerprint
from pointcnn_cli.hdf5.samples import ArraySource, DataIndex, Samples, Source
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import SCHEMA_VERSION, RunDir, check_new, default_target
from pointcnn_cli.runtime import choose_device, describe_environment, import_keras
from pointcnn_cli.signals import StopRequest, catch_stop_signals
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits import build_split
from pointcnn_cli.splits.files import read_run_split, split_document
from pointcnn_cli.splits.parts import Split, describe_split

if TYPE_CHECKING:
    from pointcnn_cli.fitting import Fit, PartRows


@dataclass(frozen=True)
class TrainedRun:
    """What a training leaves: the directory and the score of the kept weights on the validation rows."""

    run: RunDir
    metrics: dict[str, Any]


def train(config: Config, target: Path | None, command: Sequence[str], reporter: Reporter) -> TrainedRun:
    """Train as `config` says into the new directory `target` (default: below runs/).

    Raises the errors of its steps: DataError, MissingDependencyError, OutputError, TrainingError, Interrupted.
    """
    config, target = resolve_paths(config), check_new(target or default_target(config.name or "run"))
    with open_source(config.data) as source:
        split = _describe(source.index, build_split(source.index, config.split), reporter)
        _check_class_weights(config, source.index)
        device = _start_keras(config, reporter)
        fit = _build_fit(config, source, split)
        reporter.detail(_describe_layers(fit))
        run = RunDir.create(
            target,
            dump_config(config),
            _build_manifest(config, source, fit, device, command),
            split_document(source.index, split),
        )
        reporter.say(f"run directory: {run.path}")
        try:
            return _finish(run, fit, reporter)
        finally:
            run.unlock()


def resume(path: Path, reporter: Reporter) -> TrainedRun:
    """Continue the run in `path` after its newest whole state. A finished run is left alone.

    Raises RunError for a run that is damaged, DataError for data that are not those of the run, OutputError where
    another process works on it.
    """
    run = RunDir.open(path)
    manifest = run.read_manifest()
    if manifest["status"] == "finished":
        reporter.say(f"{path} is already complete; nothing was changed")
        return TrainedRun(run, run.read_metrics())
    run.lock()
    try:
        return _continue(run, manifest, reporter)
    finally:
        run.unlock()


def _continue(run: RunDir, manifest: dict[str, Any], reporter: Reporter) -> TrainedRun:
    config = load_resolved(run.config)
    with open_source(config.data, expected_classes=tuple(manifest["classes"])) as source:
        check_fingerprint(source, manifest["data"])
        split = _describe(source.index, read_run_split(run.split, source.index.rows), reporter)
        device = _start_keras(config, reporter)
        fit = _build_fit(config, source, split)
        _restore(run, fit, reporter)
        _warn_of_other_environment(manifest["environment"], describe_environment(device), reporter)
        run.update_manifest(status="running")
        return _finish(run, fit, reporter)


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


def _start_keras(config: Config, reporter: Reporter) -> str:
    reporter.detail("importing TensorFlow")
    import_keras()
    device = choose_device(config.train.device)
    reporter.say(f"device: {device}")
    return device


def _build_fit(config: Config, source: Source, split: Split) -> "Fit":
    """Read the rows of both parts into memory, checking them, and build the model on them."""
    from pointcnn_cli.batches import compute_statistics
    from pointcnn_cli.fitting import Fit

    training, validation = _read_part(source, split.train), _read_part(source, split.validation)
    statistics = None
    if config.model.normalize != "none":
        numbers = np.arange(len(training.labels))
        statistics = compute_statistics(training.source, numbers, config.model.normalize == "masked")
    return Fit(config, source.index, training, validation, statistics)


def _read_part(source: Source, rows: NDArray[np.int64]) -> "PartRows":
    from pointcnn_cli.fitting import PartRows

    index = source.index
    if index.labels is None or index.classes is None:
        raise DataError("the data have no labels", "name the dataset that holds them in data.labels")
    first, second, third, fourth = source.read(rows)
    labels = index.labels[rows]
    return PartRows(rows, ArraySource(Samples((first, second, third, fourth), labels, index.classes)), labels)


def _describe_layers(fit: "Fit") -> str:
    lines: list[str] = []
    fit.model.summary(line_length=120, print_fn=lambda line, line_break=True: lines.append(line))
    return "\n".join(lines)


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
        "data": compute_fingerprint(source),
        "environment": describe_environment(device),
    }


def _restore(run: RunDir, fit: "Fit", reporter: Reporter) -> None:
    found = run.read_newest_state()
    if found is None:
        reporter.say("no epoch was saved; starting at epoch 1")
        return
    epoch, arrays, facts, problems = found
    for problem in problems:
        reporter.warn(f"{problem}; using the state of epoch {epoch} instead")
    fit.restore(run, arrays, facts, f"{run.path}, state of epoch {epoch}")
    reporter.say(f"continuing after epoch {epoch}")


def _warn_of_other_environment(before: dict[str, Any], now: dict[str, Any], reporter: Reporter) -> None:
    keys = ("pointcnn", "python", "platform", "packages", "backend", "device", "threads", "onednn")
    differing = [f"{key} was {before.get(key)}, is {now[key]}" for key in keys if before.get(key) != now[key]]
    if differing:
        reporter.warn("not bit-identical to an uninterrupted run: " + "; ".join(differing))


def _finish(run: RunDir, fit: "Fit", reporter: Reporter) -> TrainedRun:
    """Train what is left, score the kept weights, and say in the manifest how it ended."""
    started = time.monotonic()
    try:
        with catch_stop_signals() as stop:
            fit.run(run, reporter, stop)
            metrics = _score(run, fit, stop)
    except PointcnnError as error:
        status = "interrupted" if isinstance(error, Interrupted) else "failed"
        run.update_manifest(status=status, ended=_now(), reason=error.message)
        raise
    run.update_manifest(
        status="finished", ended=_now(), kept_epoch=fit.kept_epoch, best_epoch=fit.best_epoch,
        epochs=len(fit.history), seconds_of_last_process=round(time.monotonic() - started, 1),
    )  # fmt: skip
    return TrainedRun(run, metrics)


def _score(run: RunDir, fit: "Fit", stop: StopRequest) -> dict[str, Any]:
    """predictions.csv and metrics.json of the kept weights on the validation rows."""
    from pointcnn_cli.scoring import score_rows
    from pointcnn_cli.tables import write_predictions

    fit.use_kept_weights()
    rows = fit.validation
    scored = score_rows(
        fit.model, rows.source, np.arange(len(rows.labels)), fit.index, rows.numbers,
        trained_classes=np.unique(fit.train.labels), epoch=fit.kept_epoch,
        selected_on_these_rows=fit.config.train.selects_on_validation,
    )  # fmt: skip
    stop.check(f"continue with: pointcnn train --resume {run.path}")
    write_predictions(run.predictions, fit.classes, [scored.predictions], force=True)
    run.write_metrics(scored.metrics)
    return scored.metrics


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

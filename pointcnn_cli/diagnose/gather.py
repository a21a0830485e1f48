"""Assembling a case: from a config, from a run directory, and from a directory that somebody filled by hand."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.load import load_resolved, with_overrides
from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import CaseData, FitSettings
from pointcnn_cli.errors import DataError, PointcnnError, RunError
from pointcnn_cli.hdf5.fingerprint import check_fingerprint
from pointcnn_cli.hdf5.samples import DataIndex, Source
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.runtime import choose_device, import_keras
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits import build_split
from pointcnn_cli.splits.files import read_run_split
from pointcnn_cli.splits.parts import Split

if TYPE_CHECKING:
    import keras

MAX_TEXT = 64 * 2**20  # of a history or table of predictions made by hand


@contextmanager
def open_config_case(config: Config) -> Iterator[Case]:
    """The case of a training that `config` describes and that has not begun.

    Raises DataError for data that cannot be read. A split that leaves classes untrained is a finding, no error.
    """
    with open_source(config.data) as source:
        settings = config.split.model_copy(update={"allow_missing_classes": True})
        yield build_case(config.name or "config", config, source, build_split(source.index, settings))


@contextmanager
def open_directory_case(path: Path, overrides: Sequence[str] = ()) -> Iterator[Case]:
    """The case of a run directory, or of any directory with some of its files: what is missing stays unknown.

    Raises RunError where the directory has nothing to diagnose.
    """
    run = RunDir(path.absolute())
    if not any(p.is_file() for p in (run.config, run.split, run.history, run.predictions, run.manifest)):
        raise RunError(
            f"{path}: there is nothing to diagnose: no config.yaml, split.json, history.csv or predictions.csv",
            "name a run directory, or put some of these files there",
        )
    problems: list[tuple[str, str]] = []
    config = with_overrides(load_resolved(run.config), overrides) if run.config.is_file() else None
    manifest = run.read_manifest() if run.manifest.is_file() else None
    with ExitStack() as stack:
        case = Case(str(path), config=config)
        if config is not None:
            classes = tuple(manifest["classes"]) if manifest else None
            source = stack.enter_context(open_source(config.data, expected_classes=classes))
            if manifest is not None:
                _note(problems, "PC701", lambda: check_fingerprint(source, manifest["data"]))
            case = build_case(str(path), config, source, _read_split(run, config, source.index))
        _read_files(case, run, manifest)
        if config is not None and manifest is not None:
            weights = run.best if config.train.keep == "best" else run.last
            if weights.is_file() and case.build is not None:
                case.load = _make_loader(case.build, run, weights)
        case.problems = problems
        yield case


def build_run_case(run: RunDir, config: Config, manifest: Mapping[str, Any], source: Source) -> Case:
    """The case of a run whose rows are open already, without its network: only its files are looked at.

    Raises RunError for files of the run that are damaged.
    """
    case = build_case(str(run.path), config, source, _read_split(run, config, source.index))
    case.build = case.blocks = None
    _read_files(case, run, manifest)
    return case


def build_case(title: str, config: Config, source: Source, split: Split) -> Case:
    """The case of `config` on these rows and parts, without any training."""
    index = source.index
    read = getattr(source, "read_unchecked", source.read)
    data = CaseData(
        read=read,
        rows=index.rows,
        names=index.channel_names,
        shapes=index.channel_shapes,
        labels=index.labels,
        classes=index.classes or (),
        groups=index.groups,
        recordings=index.recordings,
        start_frames=index.start_frames,
        locate=index.locate,
    )
    build = _make_builder(config, index)
    case = Case(
        title, data, split.train, split.validation, split.test,
        settings=_describe_settings(config, split), config=config, build=build,
    )  # fmt: skip

    def list_blocks() -> Any:
        from pointcnn_cli.diagnose.networks import read_blocks

        return read_blocks(case.untrained) if case.untrained is not None else ()

    case.blocks = list_blocks
    return case


def _read_files(case: Case, run: RunDir, manifest: Mapping[str, Any] | None) -> None:
    """Add to a case what a run wrote besides its config and split, as far as it is there."""
    case.manifest = manifest
    case.history = read_history(run.history)
    case.saved_predictions = _read_predictions(run.predictions, case)
    case.saved_metrics = run.read_metrics() if run.metrics.is_file() else None


def _describe_settings(config: Config, split: Split) -> FitSettings:
    train = config.train
    return FitSettings(
        # That of a run was read from its split.json, which does not say how the rows were chosen; its config does.
        split_strategy=split.strategy if config.split.strategy == "auto" else config.split.strategy,
        loss="categorical_crossentropy",
        from_logits=False,
        metric="accuracy",
        optimizer=train.optimizer,
        learning_rate=train.learning_rate,
        batch_size=train.batch_size,
        epochs=train.epochs,
        shuffle=True,
        class_weight=train.class_weight,
        class_weight_known=True,
        selects_on_validation=train.selects_on_validation,
        has_test_part=split.test is not None,
        augments=config.augment is not None,
        augments_validation=False,
    )


def _make_builder(config: Config, index: DataIndex) -> "Callable[[], keras.Model]":
    def build() -> "keras.Model":
        import_keras()
        choose_device("cpu" if config.train.device == "cpu" else "auto")
        from pointcnn_cli.diagnose.networks import build_from_config

        return build_from_config(config, index.channel_shapes, len(index.classes or ()))

    return build


def _make_loader(build: "Callable[[], keras.Model]", run: RunDir, weights: Path) -> "Callable[[], keras.Model]":
    def load() -> "keras.Model":
        model = build()
        from pointcnn_cli.models import assign_weights

        arrays, _ = run.read_weights(weights)
        assign_weights(model, arrays, str(weights))
        return model

    return load


def _note(problems: list[tuple[str, str]], code: str, check: Callable[[], object]) -> None:
    try:
        check()
    except PointcnnError as error:
        problems.append((code, error.message))


def _read_split(run: RunDir, config: Config, index: DataIndex) -> Split:
    if run.split.is_file():
        return read_run_split(run.split, index.rows)
    return build_split(index, config.split.model_copy(update={"allow_missing_classes": True}))


def read_history(path: Path) -> tuple[dict[str, float], ...]:
    """Rows of a history.csv; columns that are not numbers are left out. Raises RunError where it cannot be read."""
    if not path.is_file():
        return ()
    rows = []
    for row in csv.DictReader(io.StringIO(_read_text(path))):
        numbers = {key: _parse_float(value) for key, value in row.items() if isinstance(key, str)}
        rows.append({key: value for key, value in numbers.items() if value is not None})
    return tuple(rows)


def _read_predictions(path: Path, case: Case) -> NDArray[np.float64] | None:
    """Probabilities (validation rows, classes) of a predictions.csv, in the order of the validation rows."""
    if not path.is_file() or case.data is None or case.validation is None:
        return None
    rows = list(csv.DictReader(io.StringIO(_read_text(path))))
    columns = [f"p_{name}" for name in case.data.classes]
    try:
        numbers = np.array([int(row["index"]) for row in rows])
        table = np.array([[float(row[c]) for c in columns] for row in rows])
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not a table of predictions for these classes ({error})", "remove or mend it") from None
    order = np.argsort(numbers, kind="stable")
    return table[order] if np.array_equal(numbers[order], case.validation) else None


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT:
        raise DataError(f"{path}: {path.stat().st_size} bytes are more than a history or predictions need", "remove it")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not a text file in UTF-8 ({error})", "restore it") from None


def _parse_float(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None

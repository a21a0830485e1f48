"""Predictions of many files, an output for each: what is there is not done again, and a file that fails stops none of
the others."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointcnn_cli.errors import DataError, OutputError, UsageError
from pointcnn_cli.files import output_error
from pointcnn_cli.hdf5.files import expand_paths
from pointcnn_cli.prediction import Predictor, Trained, check_shapes, predict_source, with_files
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.sources import open_source
from pointcnn_cli.tables import choose_writer, write_predictions

MOST_NAMED = 20  # failed files, in the last message; each was told when it failed


@dataclass(frozen=True)
class Output:
    """One file, and where its predictions go."""

    source: Path
    target: Path


def expand_files(patterns: Sequence[Path]) -> list[Path]:
    """The files that these paths and patterns name, in their order. Raises DataError for a pattern that matches
    nothing, or a file named twice."""
    found = [name for pattern in patterns for name in expand_paths(str(pattern))]
    return [Path(name) for name in expand_paths(tuple(found))]


def plan_outputs(files: Sequence[Path], folder: Path, suffix: str) -> list[Output]:
    """The output of each file in `folder`, which is made where it is missing: its stem and `suffix`.

    Raises UsageError for two files of one stem, MissingDependencyError as `choose_writer`, OutputError for a folder
    that cannot be made or written to.
    """
    outputs = [Output(file, folder / f"{file.stem}{suffix}") for file in files]
    first: dict[Path, Path] = {}
    for output in outputs:
        if output.target in first:
            raise UsageError(
                f"{first[output.target]} and {output.source} would both be predicted into {output.target}",
                "predict them into folders of their own",
            )
        first[output.target] = output.source
    choose_writer(outputs[0].target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: no permission to write here", "choose a folder that you may write to")
    return outputs


def predict_each(
    loaded: Trained,
    outputs: Sequence[Output],
    overrides: Sequence[str],
    reporter: Reporter,
    *,
    force: bool = False,
    calibrated: bool = False,
) -> None:
    """Predict every file whose output is not there yet (every file with `force`), with one model for all.

    Raises DataError at the end, naming the files that could not be read or do not fit the run; OutputError at once.
    """
    predictor: Predictor | None = None
    failed: list[Path] = []
    done = 0
    for output in outputs:
        if os.path.lexists(output.target) and not force:
            reporter.say(f"{output.target}: is there already, and was left as it is")
            continue
        config = with_files(loaded.config, [output.source], overrides)
        try:
            with open_source(config.data, labels_required=False) as source:
                check_shapes(source.index, loaded.manifest)
                if predictor is None:
                    predictor = loaded.build_predictor(calibrated)
                    reporter.say(f"predicting with {predictor.description}")
                blocks = predict_source(predictor, source, reporter)
                count = write_predictions(output.target, loaded.classes, blocks, force=force)
        except DataError as error:
            failed.append(output.source)
            reporter.warn(f"{error.message}; the other files go on")
            continue
        done += 1
        reporter.say(f"{output.target}: {count} predictions")
    kept = len(outputs) - done - len(failed)
    reporter.say(f"{done} files predicted, {kept} were there already, {len(failed)} failed")
    if failed:
        named = ", ".join(map(str, failed[:MOST_NAMED]))
        more = f" and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        raise DataError(
            f"{len(failed)} of {len(outputs)} files could not be predicted: {named}{more}",
            "mend them and give the same command: what is there is not done again",
        )

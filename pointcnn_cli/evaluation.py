"""The score of a finished run on one of its parts, or on another file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.load import with_overrides
from pointcnn_cli.errors import RunError
from pointcnn_cli.hdf5.fingerprint import check_fingerprint, compute_fingerprint
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.prediction import LoadedRun, check_shapes, load_run, with_files
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits.files import read_run_split, read_trained_classes
from pointcnn_cli.splits.parts import name_parts

if TYPE_CHECKING:
    from pointcnn_cli.scoring import Scored


def evaluate_part(path: Path, part: str, overrides: Sequence[str], reporter: Reporter) -> dict[str, Any]:
    """The score (as metrics.json) of the run in `path` on its train, validation or test rows.

    Raises RunError where the run has no such part, DataError where the data are no longer those of the run.
    """
    loaded = load_run(path, reporter)
    config = with_overrides(loaded.config, overrides)
    with open_source(config.data, expected_classes=loaded.classes) as source:
        check_fingerprint(source, loaded.manifest["data"])
        rows = name_parts(read_run_split(loaded.run.split, source.index.rows)).get(part)
        if rows is None:
            raise RunError(f"{path}: the run has no {part} part", "train with split.test_fraction to keep one aside")
        reporter.say(f"scoring the {part} part: {len(rows)} rows")
        selected = part == "validation" and loaded.config.train.selects_on_validation
        return score_loaded(loaded, source, rows, selected, reporter).metrics


def evaluate_files(path: Path, files: Sequence[Path], overrides: Sequence[str], reporter: Reporter) -> dict[str, Any]:
    """The score of the run in `path` on all rows of labelled files; classes are matched by name.

    Raises DataError for files that are malformed, lack labels, or hold classes that the run does not know.
    """
    loaded = load_run(path, reporter)
    config = with_files(loaded.config, files, overrides)
    with open_source(config.data, expected_classes=loaded.classes) as source:
        if compute_fingerprint(source)["sampled_rows_sha256"] == loaded.manifest["data"]["sampled_rows_sha256"]:
            reporter.warn("these are the rows that the run was trained on; --part validation scores those it was not")
        rows = np.arange(source.index.rows)
        reporter.say(f"scoring all {len(rows)} rows of {', '.join(span.path for span in source.index.files)}")
        return score_loaded(loaded, source, rows, False, reporter).metrics


def score_loaded(
    loaded: LoadedRun, source: Source, rows: NDArray[np.int64], selected: bool, reporter: Reporter
) -> "Scored":
    """Predict and score `rows` of `source` with the weights that a run stands for; `selected` says whether they were
    chosen on these rows. Raises RunError without a whole checkpoint, DataError for rows that do not fit the run."""
    check_shapes(source.index, loaded.manifest)
    trained = read_trained_classes(loaded.run.split, loaded.classes)
    with reporter.waiting("starting TensorFlow"):
        model, epoch = loaded.build_model()
    from pointcnn_cli.scoring import score_rows

    return score_rows(
        model, source, rows, source.index, rows,
        trained_classes=trained, epoch=epoch, selected_on_these_rows=selected, reporter=reporter,
    )  # fmt: skip

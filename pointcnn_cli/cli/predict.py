"""pointcnn predict"""

import contextlib
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter
from pointcnn_cli.cli.streams import open_stdout, writing_result
from pointcnn_cli.cli.train import CalibratedOption, SetOption
from pointcnn_cli.errors import UsageError


class Format(StrEnum):
    """The formats of predictions, by suffix."""

    csv = "csv"
    jsonl = "jsonl"
    h5 = "h5"
    parquet = "parquet"


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, or of a cv.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="HDF5 files, or patterns in quotes; they need no labels.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="A .csv, .jsonl, .h5 or .parquet file; a folder (DIR/) for one each; - for stdout."
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace what exists of OUTPUT.")] = False,
    format: Annotated[Format | None, typer.Option("--format", help="Of the files in a folder. [default: csv]")] = None,
    calibrated: CalibratedOption = False,
    settings: SetOption = None,
) -> None:
    """Predict the class of every row, in file order.

    Example:  [bold]pointcnn predict runs/base/20260101-120000-ab12 recording.h5 --output predictions.csv[/bold]

    Where OUTPUT is a folder, each file gets an output of its own name there, and what is there already is not done
    again:  [bold]pointcnn predict RUN 'data/*.h5' --output predictions/ --format parquet[/bold]

    RUN may be the directory of a cross-validation: the probabilities of its members are averaged, and the column
    mutual_information says by how much they disagree.
    """
    from pointcnn_cli import bulk, ensemble, prediction, tables
    from pointcnn_cli.files import check_target

    reporter = ConsoleReporter()
    found = bulk.expand_files(files)
    if output.endswith("/") or Path(output).is_dir():
        outputs = bulk.plan_outputs(found, Path(output), f".{(format or Format.csv).value}")
        loaded = ensemble.load_trained(run, reporter)
        bulk.predict_each(loaded, outputs, settings or (), reporter, force=force, calibrated=calibrated)
        return
    if format is not None:
        raise UsageError(
            f"--format goes with a folder; the suffix of {output} says what it is",
            "name the folder with a / at its end",
        )
    if output == tables.STANDARD_OUTPUT:
        stdout = open_stdout()
    else:
        tables.choose_writer(Path(output))
        check_target(Path(output), force)
    loaded = ensemble.load_trained(run, reporter)
    # Closed at once when writing fails, so that the bar is gone before the message comes.
    with contextlib.closing(prediction.predict_files(loaded, found, settings or (), reporter, calibrated)) as blocks:
        if output == tables.STANDARD_OUTPUT:
            with writing_result():
                tables.write_csv(stdout, loaded.classes, blocks)
                stdout.flush()
            return
        count = tables.write_predictions(Path(output), loaded.classes, blocks, force=force)
    reporter.say(f"wrote {count} predictions to {output}")
    names = " ".join(f"--data {shlex.quote(str(file))}" for file in files)
    reporter.say(f"next, if these rows have labels: pointcnn evaluate {shlex.quote(str(run))} {names}")

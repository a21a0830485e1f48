"""pointcnn predict"""

import contextlib
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter
from pointcnn_cli.cli.streams import open_stdout, writing_result
from pointcnn_cli.cli.train import SetOption


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="HDF5 files; they need no labels.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .csv, .jsonl, .h5 or .parquet file, or - for CSV on stdout.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT if it exists.")] = False,
    settings: SetOption = None,
) -> None:
    """Predict the class of every row, in file order.

    Example:  [bold]pointcnn predict runs/base/20260101-120000-ab12 recording.h5 --output predictions.csv[/bold]
    """
    from pointcnn_cli import prediction, tables
    from pointcnn_cli.files import check_target

    reporter = ConsoleReporter()
    to_stdout = str(output) == tables.STANDARD_OUTPUT
    if to_stdout:
        stdout = open_stdout()
    else:
        tables.choose_writer(output)
        check_target(output, force)
    loaded = prediction.load_run(run, reporter)
    # Closed at once when writing fails, so that the bar is gone before the message comes.
    with contextlib.closing(prediction.predict_files(loaded, files, settings or (), reporter)) as blocks:
        if to_stdout:
            with writing_result():
                tables.write_csv(stdout, loaded.classes, blocks)
                stdout.flush()
            return
        count = tables.write_predictions(output, loaded.classes, blocks, force=force)
    reporter.say(f"wrote {count} predictions to {output}")
    names = " ".join(f"--data {shlex.quote(str(file))}" for file in files)
    reporter.say(f"next, if these rows have labels: pointcnn evaluate {shlex.quote(str(run))} {names}")

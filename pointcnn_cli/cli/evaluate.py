"""pointcnn evaluate"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter, metrics_table, print_json, print_table
from pointcnn_cli.cli.train import CalibratedOption, JsonOption, SetOption
from pointcnn_cli.errors import UsageError

BELOW_MINIMUM = 3


class Part(StrEnum):
    """The parts of a run's split."""

    train = "train"
    validation = "validation"
    test = "test"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, or of a cv.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILE", help="Score all rows of this file; may be repeated.")
    ] = None,
    part: Annotated[
        Part | None, typer.Option("--part", help="Score this part of the run's own data. [default: validation]")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option("--min-accuracy", min=0, max=1, help="Exit with 3 when the accuracy is lower.")
    ] = None,
    calibrated: CalibratedOption = False,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Score a trained run on labelled rows.

    Example:  [bold]pointcnn evaluate runs/base/20260101-120000-ab12 --data new_recordings.h5[/bold]

    Of the directory of a cross-validation, every row is scored by the members that did not train on it; with --data
    and --part test by the ensemble of all members.
    """
    from pointcnn_cli import evaluation
    from pointcnn_cli.crossval.wording import describe_gain

    if data and part:
        raise UsageError(
            "--data and --part exclude each other", "use --data FILE for another file, --part for the run's own rows"
        )
    reporter = ConsoleReporter()
    if data:
        metrics = evaluation.evaluate_files(run, data, settings or (), reporter, calibrated)
    else:
        metrics = evaluation.evaluate_part(run, (part or Part.validation).value, settings or (), reporter, calibrated)
    if json:
        print_json(metrics)
    else:
        print_table(metrics_table(metrics))
        if "ensemble_gain" in metrics:
            reporter.say(
                describe_gain(metrics["ensemble_gain"], "the members" if "members" in metrics else "the seeds")
            )
    if min_accuracy is not None and metrics["accuracy"] < min_accuracy:
        reporter.warn(f"accuracy {metrics['accuracy']:.4f} is below --min-accuracy {min_accuracy:g}")
        raise typer.Exit(BELOW_MINIMUM)

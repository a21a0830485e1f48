"""pointcnn train"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter, metrics_table, print_json, print_table
from pointcnn_cli.cli.streams import print_bytes, read_stdin
from pointcnn_cli.errors import UsageError

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a config key, as in train.epochs=5; may be repeated."),
]
CalibratedOption = Annotated[
    bool, typer.Option("--calibrated", help="Apply the temperature of calibration.json (train.calibrate: true).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def train(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="YAML config, or - for stdin.")] = None,
    settings: SetOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Directory of the run; must not exist. [default: runs/NAME/TIME-ID]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Continue an interrupted run instead.")
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option("--distributed", help="Train together with other processes: KERAS_DISTRIBUTION_* say which."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a network as a YAML config says.

    Example:  [bold]pointcnn train configs/base.yaml --set train.epochs=10[/bold]

    Prints the score on the validation rows; the last line is the run directory. An interrupted training goes on with:
    [bold]pointcnn train --resume RUN[/bold]

    With --distributed the same command runs in several processes (docs/scaling.md); the first writes, the others are
    silent unless they fail.
    """
    from pointcnn_cli import diagnose, training
    from pointcnn_cli.config.load import STDIN, load_config
    from pointcnn_cli.joining import ALONE, read_place
    from pointcnn_cli.report import write_after_training
    from pointcnn_cli.reporting import Reporter

    place = read_place(os.environ) if distributed else ALONE
    reporter = Reporter() if place.index else ConsoleReporter()
    if resume is not None:
        if config is not None or settings or output is not None:
            raise UsageError(
                "--resume needs nothing else: the run has its own config",
                f"pointcnn train --resume {shlex.quote(str(resume))}",
            )
        trained = training.resume(resume, reporter, conclude=write_after_training, place=place)
    elif config is None:
        raise UsageError("no config was given", "pointcnn train configs/base.yaml")
    else:
        loaded = load_config(config, settings or (), stdin_text=read_stdin() if config == STDIN else None)
        trained = training.train(
            loaded, output, sys.argv, reporter,
            inspect=diagnose.warn_before_training, conclude=write_after_training, place=place,
        )  # fmt: skip
    if place.index:
        return
    if json:
        print_json({**trained.metrics, "run": str(trained.run.path)})
        return
    print_table(metrics_table(trained.metrics))
    run = shlex.quote(str(trained.run.path))
    reporter.say(f"written: {trained.describe_files()}")
    reporter.say(f"next: pointcnn diagnose {run}")
    reporter.say(f"or: pointcnn evaluate {run} --data NEW_LABELLED_ROWS.h5")
    reporter.say(f"or: pointcnn predict {run} NEW_ROWS.h5 --output predictions.csv")
    print_bytes(os.fsencode(trained.run.path) + b"\n")

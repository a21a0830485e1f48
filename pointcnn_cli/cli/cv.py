"""pointcnn cv"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter, print_json, print_table
from pointcnn_cli.cli.scores import cv_table
from pointcnn_cli.cli.streams import print_bytes, read_stdin
from pointcnn_cli.cli.train import JsonOption, SetOption
from pointcnn_cli.errors import UsageError


def cv(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="YAML config, or - for stdin.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Directory of the whole; where it exists, it goes on.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, max=1000, help="[default: as split.validation_fraction makes, 5]")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=1000, help="Trainings of each fold.")] = 3,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=1000, help="Trainings at once; they share the CPUs.")] = 1,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Train the I-th of N parts, as a cluster's job array.")
    ] = None,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Put together what is finished in DIR instead.")
    ] = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Cross-validate: train every fold with several seeds, and score each row by runs that never saw it.

    Example:  [bold]pointcnn cv configs/base.yaml --output runs/base-cv --folds 5 --seeds 3 --jobs 2[/bold]

    The same command again goes on where it was interrupted. RUN of the other commands may be the directory: then it
    stands for the ensemble of all its members.
    """
    from pointcnn_cli import crossval
    from pointcnn_cli.config.load import STDIN, load_config
    from pointcnn_cli.crossval.plan import Request

    reporter = ConsoleReporter()
    if collect is not None:
        if config is not None or output is not None or shard is not None or settings:
            raise UsageError("--collect needs nothing else", f"pointcnn cv --collect {shlex.quote(str(collect))}")
        done = crossval.collect_directory(collect, reporter)
    elif config is None or output is None:
        missing = "no config was given" if config is None else "--output is missing: the directory of the whole"
        raise UsageError(missing, "pointcnn cv configs/base.yaml --output runs/base-cv")
    else:
        part = None if shard is None else parse_shard(shard)
        loaded = load_config(config, settings or (), stdin_text=read_stdin() if config == STDIN else None)
        request = Request(loaded, folds, seeds, jobs, sys.argv)
        done = crossval.cross_validate(request, output, part, reporter)
    if json:
        print_json({**(done.metrics or {}), "run": str(done.cv.path)})
    elif done.metrics is not None:
        print_table(cv_table(done.metrics))
        reporter.say(f"next: pointcnn predict {shlex.quote(str(done.cv.path))} FILE --output predictions.csv")
    done.check()
    if not json:
        print_bytes(os.fsencode(done.cv.path) + b"\n")


def parse_shard(text: str) -> tuple[int, int]:
    """`2/5` as (2, 5). Raises UsageError."""
    part, _, parts = text.partition("/")
    if not (part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()) or not (
        1 <= int(part) <= int(parts)
    ):
        raise UsageError(f"--shard {text}: not a part", "count from 1, as in --shard 1/4 to --shard 4/4")
    return int(part), int(parts)

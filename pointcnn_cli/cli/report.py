"""pointcnn report"""

import os
from pathlib import Path
from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter
from pointcnn_cli.cli.streams import print_bytes
from pointcnn_cli.cli.train import SetOption
from pointcnn_cli.errors import UsageError


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, finished or not, or of a cv.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", metavar="FILE", help="Score all rows of this labelled file instead; may be repeated."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="DIR", help="Also write every figure there, as SVG and as PNG.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The page. [default: RUN/report.html, which is replaced; with --data, RUN/report-NAME.html, with "
            "the NAME of the first FILE]",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that exist, other than the run's own report.html.")
    ] = False,
    settings: SetOption = None,
) -> None:
    """Write the page of a run: how good it is, whether to believe it, and what it gets wrong.

    Example:  [bold]pointcnn report runs/base/20260101-120000-ab12 --plots plots[/bold]

    One HTML file that needs no network. Its path is the last line on stdout. Where the data have moved, say where they
    are: [bold]--set data.path=FILE[/bold]
    """
    from pointcnn_cli import crossval
    from pointcnn_cli.cvdir import is_cv
    from pointcnn_cli.report import write_report

    if is_cv(run):
        if data or plots or settings:
            raise UsageError(
                "the page of a cross-validation is made from its scores; --data, --plots and --set go with a run",
                "name one of the runs in it",
            )
        page = crossval.write_report(run, output, force)
    else:
        page = write_report(
            run, ConsoleReporter(), files=data or (), overrides=settings or (), output=output, plots=plots, force=force
        )
    print_bytes(os.fsencode(page) + b"\n")

"""pointcnn compare"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pointcnn_cli.cli.console import ConsoleReporter, make_console, print_json, print_table
from pointcnn_cli.cli.streams import writing_result
from pointcnn_cli.cli.train import JsonOption, SetOption
from pointcnn_cli.errors import UsageError

if TYPE_CHECKING:
    from pointcnn_cli.comparison import Comparison
    from pointcnn_cli.comparison.runs import ComparedRun

LONGEST_VALUE = 40  # of a setting in the table; --json and --html have all of it


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Directories of runs or of cv; the first is the baseline."),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", metavar="FILE", help="Score every run on all rows of this file; may be repeated."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the comparison as a page too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the page if it exists.")] = False,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Compare runs: settings that differ, scores, and which is better on the same rows, if that can be told.

    Example:  [bold]pointcnn compare runs/a/20260101-120000-ab12 runs/b/20260101-130000-cd34 --data new.h5[/bold]

    Without --data each run keeps the score on its own validation rows, and a winner is named only where these are the
    same rows.
    """
    from pointcnn_cli import comparison
    from pointcnn_cli.comparison.page import write_page
    from pointcnn_cli.files import check_target

    if settings and not data:
        raise UsageError("--set changes how the files of --data are read, and there are none", "add --data FILE")
    if html:
        check_target(html, force)
    reporter = ConsoleReporter()
    found = comparison.compare_runs(runs, data or (), settings or (), reporter)
    for warning in found.warnings:
        reporter.warn(warning)
    if html:
        write_page(found, html, force=force)
        reporter.say(f"wrote {html}")
    if json:
        print_json(found.as_document())
    else:
        print_comparison(found)


def print_comparison(found: "Comparison") -> None:
    """Scores, settings and sentences, on stdout."""
    from pointcnn_cli.comparison import ONE_TRAINING
    from pointcnn_cli.comparison.pairs import describe_pair

    print_table(_list_scores(found))
    if found.settings:
        print_table(_list_settings(found))
    console = make_console(stderr=False)
    with writing_result():
        if not found.settings:
            console.print("no setting differs")
        for pair in found.pairs:
            console.print(describe_pair(pair), style="bold", markup=False, soft_wrap=False)
        if any(pair.found for pair in found.pairs):
            console.print(ONE_TRAINING, markup=False, soft_wrap=False)
        if found.next_command:
            console.print(f"Next: {found.next_command}", markup=False)


def _list_scores(found: "Comparison") -> Table:
    """A column a run; the paths stand below, for they are long."""
    from pointcnn_cli.comparison.scores import SCORES

    on = ", ".join(found.files) or "the validation rows of each run"
    table = Table(title=Text(f"scores on {on}"), title_justify="left", caption_justify="left")
    table.add_column("")
    for run in found.runs:
        table.add_column(Text(run.name), justify="right")
    for title, show in SCORES.items():
        table.add_row(title, *(Text(show(run.metrics)) if run.metrics else Text("-") for run in found.runs))
    table.caption = Text("\n".join(_describe_run(run) for run in found.runs))
    return table


def _describe_run(run: "ComparedRun") -> str:
    return f"{run.name}  {run.path}" + (f"  NO SCORE: {run.problem}" if run.problem else "")


def _list_settings(found: "Comparison") -> Table:
    from pointcnn_cli.comparison.scores import describe_setting

    table = Table(title="settings that differ", title_justify="left")
    table.add_column("")
    for run in found.runs:
        table.add_column(Text(run.name))
    for key, values in found.settings.items():
        table.add_row(Text(key), *(Text(_shorten(describe_setting(value))) for value in values))
    return table


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"...{text[3 - LONGEST_VALUE :]}"

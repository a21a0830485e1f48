"""pointcnn tune"""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pointcnn_cli.cli.console import ConsoleReporter, print_json, print_table
from pointcnn_cli.cli.streams import print_bytes, read_stdin
from pointcnn_cli.cli.train import JsonOption, SetOption

if TYPE_CHECKING:
    from pointcnn_cli.tuning.results import SearchResult

MOST_SHOWN = 10


def tune(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config with a section `tune`, or - for stdin.")],
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Directory of the search; an existing one is gone on with.")
    ],
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials in all, of all processes. [default: tune.trials]")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Begin no further trial after so long.")
    ] = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Search for the values of a config that score best on grouped folds.

    Example:  [bold]pointcnn tune configs/search.yaml --output runs/search[/bold]

    Processes started with the same DIR, on one machine or several, share the trials. The same command goes on with a
    search that was interrupted. DIR/best.yaml is for:  [bold]pointcnn train[/bold]
    """
    from pointcnn_cli import tuning
    from pointcnn_cli.config.load import STDIN, load_config
    from pointcnn_cli.tuning.journal import require_optuna

    require_optuna()
    reporter = ConsoleReporter()
    loaded = load_config(config, settings or (), stdin_text=read_stdin() if config == STDIN else None)
    result = tuning.tune(loaded, output, sys.argv, reporter, trials=trials, timeout=timeout)
    if json:
        print_json(result.as_document())
        return
    print_table(search_table(result))
    if result.importance:
        print_table(importance_table(result))
    if result.best is not None:
        reporter.say(f"next: pointcnn train {shlex.quote(str(result.folder.best))}")
    print_bytes(os.fsencode(result.folder.path) + b"\n")


def search_table(result: "SearchResult") -> Table:
    """The best trials, and below them what is known of the best one."""
    from pointcnn_cli.tuning.results import describe_best

    shown = result.complete[:MOST_SHOWN]
    keys = list(shown[0].params) if shown else []
    table = Table(title=f"{result.metric} of the best trials", title_justify="left")
    for title in ("trial", "score", "deviation", *keys):
        table.add_column(Text(title.replace(".", ".\n")), justify="right", overflow="fold")
    for trial in shown:
        values = (Text(_format(trial.params[key])) for key in keys)
        table.add_row(str(trial.number), f"{trial.score:.4f}", f"{trial.deviation:.4f}", *values)
    states = ("complete", "pruned", "failed", "running", "waiting", "repeated")
    counts = ", ".join(f"{result.count(state)} {state}" for state in states if result.count(state))
    table.caption, table.caption_justify = "\n".join([f"trials: {counts}", *describe_best(result)]), "left"
    return table


def importance_table(result: "SearchResult") -> Table:
    """What mattered: the share of each key in the variance of the score, beside what it would be by chance."""
    table = Table(title=f"what mattered, in {len(result.complete)} scored trials", title_justify="left")
    for title, side in (("key", "left"), ("share of the variance", "right"), ("by chance, up to", "right")):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    for key, (share, chance) in (result.importance or {}).items():
        table.add_row(Text(key), f"{share:.2f}", f"{chance:.2f}")
    return table


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)

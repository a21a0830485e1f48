"""pointcnn config init | show | validate | schema | reference"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter, print_json
from pointcnn_cli.cli.streams import print_bytes, read_stdin
from pointcnn_cli.cli.train import JsonOption, SetOption
from pointcnn_cli.errors import UsageError

app = typer.Typer(help="Write a config, look at it, check it.", no_args_is_help=True)
CONFIG_SUFFIXES = (".yaml", ".yml")
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config, or - for stdin.")]


@app.command()
def init(
    out: Annotated[str, typer.Argument(metavar="[OUT]", help="The YAML file to write, or - for stdout.")] = "-",
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILE", help="Write it for this HDF5 file; may be repeated.")
    ] = None,
    settings: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a commented config: for a data file, or without --data a template of all keys.

    Example:  [bold]pointcnn config init my_data.yaml --data my_data.h5[/bold]

    Finds channels, labels and groups by their names, shapes and values, proposes split, augmentation, epochs and batch
    size, and says in comments what it assumed and what else there was. A wrong guess is put right with
    [bold]--set data.labels=NAME[/bold] (channels, groups). Nothing is asked.
    """
    from pointcnn_cli.cli.data import load_names
    from pointcnn_cli.config.template import render_template
    from pointcnn_cli.files import check_target, write_whole

    if out != "-" and Path(out).suffix not in CONFIG_SUFFIXES:
        raise UsageError(
            f"{out}: the config to write must end in .yaml or .yml, so that no data file is taken for it",
            f"pointcnn config init my.yaml --data {shlex.quote(out)}",
        )
    target = None if out == "-" else check_target(Path(out), force)
    if data:
        from pointcnn_cli.proposal import propose_config

        text = propose_config([str(path) for path in data], load_names(settings))
    elif settings:
        raise UsageError("--set names datasets of a file, and there is none", "add --data FILE")
    else:
        text = render_template()
    if target is None:
        print_bytes(text.encode())
        return
    write_whole(target, text.encode(), force=force)
    reporter = ConsoleReporter()
    reporter.say(f"wrote {out}" + ("; read what it assumes" if data else ""))
    reporter.say(f"next: pointcnn {'diagnose' if data else 'config validate'} {shlex.quote(out)}")


@app.command()
def show(config: ConfigArgument, settings: SetOption = None, json: JsonOption = False) -> None:
    """Print the config with every default filled in.

    Example:  [bold]pointcnn config show configs/base.yaml --set seed=1[/bold]
    """
    from pointcnn_cli.config.load import STDIN, dump_config, load_config

    loaded = load_config(config, settings or (), stdin_text=read_stdin() if config == STDIN else None)
    if json:
        print_json(loaded.model_dump(mode="json"))
    else:
        print_bytes(dump_config(loaded).encode())


@app.command()
def validate(config: ConfigArgument, settings: SetOption = None) -> None:
    """Check a config without reading any data; every fault is reported at once.

    Example:  [bold]pointcnn config validate configs/base.yaml[/bold]
    """
    from pointcnn_cli.config.load import STDIN, load_config

    load_config(config, settings or (), stdin_text=read_stdin() if config == STDIN else None)
    ConsoleReporter().say(f"{config}: valid")


@app.command()
def schema() -> None:
    """Print the JSON Schema of configs, for editors.

    Example:  [bold]pointcnn config schema > pointcnn.schema.json[/bold]
    """
    from pointcnn_cli.config.load import config_json_schema

    print_json(config_json_schema())


@app.command()
def reference() -> None:
    """Print what every key takes, its default and its meaning, as Markdown.

    Example:  [bold]pointcnn config reference | less[/bold]
    """
    from pointcnn_cli.config.reference import describe_config

    print_bytes(describe_config().encode())

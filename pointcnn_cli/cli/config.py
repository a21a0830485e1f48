"""pointcnn config show | validate | schema | reference"""

from typing import Annotated

import typer

from pointcnn_cli.cli.console import ConsoleReporter, print_json
from pointcnn_cli.cli.streams import print_bytes, read_stdin
from pointcnn_cli.cli.train import JsonOption, SetOption

app = typer.Typer(help="Look at configs and check them.", no_args_is_help=True)
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML config, or - for stdin.")]


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

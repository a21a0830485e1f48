"""pointcnn data inspect | simulate | convert"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pointcnn_cli.cli.console import ConsoleReporter, print_json, print_table
from pointcnn_cli.cli.train import JsonOption, SetOption

app = typer.Typer(help="Look at data files, make one, or bring data in.", no_args_is_help=True)
ForceOption = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]


def _load_names(settings: list[str] | None, path: Path) -> Any:
    """The `data` section for one file, with `--set data.*` on top."""
    from pointcnn_cli.config.load import with_overrides
    from pointcnn_cli.config.schema import Config, DataConfig

    return with_overrides(Config(data=DataConfig(path=str(path))), settings or ()).data


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An HDF5 file.")],
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is in a file: datasets, classes, groups, row order, filled point slots, ranges, NaN.

    Example:  [bold]pointcnn data inspect data/recordings.h5 --set data.labels=activity[/bold]
    """
    from pointcnn_cli.hdf5.inspect import inspect_file

    found = inspect_file(file, _load_names(settings, file))
    if json:
        print_json(found)
        return
    for table in _inspection_tables(found):
        print_table(table)
    reporter = ConsoleReporter()
    for note in found["notes"]:
        reporter.warn(note)
    for problem in found["problems"]:
        reporter.warn(problem["problem"] + (f"\n  Try: {problem['hint']}" if problem["hint"] else ""))


def _inspection_tables(found: dict[str, Any]) -> list[Table]:
    datasets = Table(title=f"{found['file']}, {found['size_bytes'] / 1e6:.1f} MB", title_justify="left")
    for column in ("dataset", "shape", "type", "storage"):
        datasets.add_column(column)
    for one in found["datasets"]:
        shape = " x ".join(map(str, one["shape"])) if one.get("shape") is not None else ""
        storage = one.get("note") or one.get("storage") or one.get("compression") or ""
        datasets.add_row(one["name"], shape, str(one.get("dtype") or ""), str(storage))
    tables = [datasets]
    if found["classes"]:
        classes = Table(title="classes", title_justify="left")
        classes.add_column("class")
        classes.add_column("rows", justify="right")
        for name, rows in found["classes"].items():
            classes.add_row(name, str(rows))
        tables.append(classes)
    facts = Table(show_header=False, title="rows", title_justify="left")
    for key in ("rows", "groups", "recordings", "row_order", "slots"):
        if found[key] is not None:
            facts.add_row(key.replace("_", " "), _format_facts(found[key]))
    tables.append(facts)
    if found["channels"]:
        tables.append(_channel_table(found["channels"]))
    return tables


def _format_facts(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_format_facts(one)}" for key, one in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _channel_table(channels: list[dict[str, Any]]) -> Table:
    table = Table(title="values over filled slots", title_justify="left")
    keys = list(channels[0])
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right" if key != "name" else "left")
    for channel in channels:
        table.add_row(*[_format_facts(channel[key]) for key in keys])
    return table


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The HDF5 file to write.")],
    windows: Annotated[int | None, typer.Option("--windows", help="Rows. [default: 2000]")] = None,
    subjects: Annotated[int | None, typer.Option("--subjects", help="People. [default: 24]")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Equal seeds give equal files. [default: 0]")] = None,
    force: ForceOption = False,
) -> None:
    """Write a realistic labelled file: six activities of simulated people seen by a radar.

    Example:  [bold]pointcnn data simulate data/simulated.h5 --windows 300 --seed 7[/bold]
    """
    from pointcnn_cli.config.load import with_overrides
    from pointcnn_cli.config.schema import Config, DataConfig, SimulateConfig
    from pointcnn_cli.files import check_target
    from pointcnn_cli.hdf5.writing import write_samples
    from pointcnn_cli.simulate import simulate_samples

    check_target(out, force)
    chosen = {"windows": windows, "subjects": subjects, "seed": seed}
    overrides = [f"data.simulate.{key}={value}" for key, value in chosen.items() if value is not None]
    config = with_overrides(Config(data=DataConfig(simulate=SimulateConfig())), overrides)
    settings = config.data.simulate or SimulateConfig()
    write_samples(out, simulate_samples(settings), force=force)
    ConsoleReporter().say(f"wrote {settings.windows} simulated windows of {settings.subjects} subjects to {out}")


@app.command()
def convert(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...", help=".npy files, one .npz or .mat, a .csv of points, or folders of radar logs."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The HDF5 file to write.")],
    points: Annotated[int, typer.Option("--points", min=1, max=4096, help="Point slots a frame.")] = 64,
    frames: Annotated[int, typer.Option("--frames", min=1, max=4096, help="Frames a window.")] = 48,
    stride: Annotated[int, typer.Option("--stride", min=1, max=4096, help="Frames between windows.")] = 16,
    settings: SetOption = None,
    force: ForceOption = False,
) -> None:
    """Bring arrays or point logs into the HDF5 layout.

    Example:  [bold]pointcnn data convert RadHAR/Data/Train data/radhar_train.h5 --points 64 --frames 48 --stride
    16[/bold]

    .npy files come in the order: four channels, labels, groups (optional).
    """
    from pointcnn_cli.convert.files import convert_files

    names = _load_names(settings, out)
    summary = convert_files(
        inputs, out, channel_names=names.channels, labels_name=names.labels, groups_name=names.groups,
        points=points, frames=frames, stride=stride, force=force,
    )  # fmt: skip
    reporter = ConsoleReporter()
    for note in summary.notes:
        reporter.warn(note)
    counts = ", ".join(f"{name} {rows}" for name, rows in zip(summary.classes, summary.class_rows, strict=True))
    reporter.say(f"wrote {summary.rows} rows of {summary.groups} groups to {out}: {counts}")

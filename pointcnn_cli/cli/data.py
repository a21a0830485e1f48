"""pointcnn data inspect | simulate | convert"""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from pointcnn_cli.cli.console import ConsoleReporter, print_json, print_table
from pointcnn_cli.cli.inspection import build_tables
from pointcnn_cli.cli.train import JsonOption, SetOption

app = typer.Typer(help="Look at data files, make one, or bring data in.", no_args_is_help=True)
ForceOption = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]


def load_names(settings: list[str] | None) -> Any:
    """The `data` section with `--set data.*` on top, for the names of datasets in it."""
    from pointcnn_cli.config.load import with_overrides
    from pointcnn_cli.config.schema import Config, DataConfig

    return with_overrides(Config(data=DataConfig(path="FILE")), settings or ()).data


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An HDF5 file.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="OUT", help="Draw samples of each class: an .svg or .png file.")
    ] = None,
    force: ForceOption = False,
    every: Annotated[
        bool, typer.Option("--all", help="Look at the values of every row, also of a file so large that it takes long.")
    ] = False,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is in a file: datasets, classes, groups, row order, filled point slots, ranges, NaN.

    Example:  [bold]pointcnn data inspect data/recordings.h5 --plot samples.png[/bold]
    """
    from pointcnn_cli.hdf5.inspect import inspect_file

    if plot is not None:
        from pointcnn_cli.report.samples import check_plot, write_samples_plot

        check_plot(plot, force)
    names, reporter = load_names(settings), ConsoleReporter()
    found = inspect_file(file, names, every)
    if json:
        print_json(found)
    else:
        _show(found, reporter)
    if plot is not None:
        reporter.say(f"drew {write_samples_plot(file, names, plot, force=force)} to {plot}")


def _show(found: dict[str, Any], reporter: ConsoleReporter) -> None:
    """What was found, as tables on stdout; what is unusual or wrong, on stderr."""
    for table in build_tables(found):
        print_table(table)
    for note in found["notes"]:
        reporter.warn(note)
    for problem in found["problems"]:
        reporter.warn(problem["problem"] + (f"\n  Try: {problem['hint']}" if problem["hint"] else ""))
    if not found["problems"]:
        reporter.say(f"next: pointcnn config init my.yaml --data {shlex.quote(found['file'])}")


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
    reporter = ConsoleReporter()
    reporter.say(f"wrote {settings.windows} simulated windows of {settings.subjects} subjects to {out}")
    reporter.say(f"next: pointcnn config init my.yaml --data {shlex.quote(str(out))}")


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

    names = load_names(settings)
    summary = convert_files(
        inputs, out, channel_names=names.channels, labels_name=names.labels, groups_name=names.groups,
        points=points, frames=frames, stride=stride, force=force,
    )  # fmt: skip
    reporter = ConsoleReporter()
    for note in summary.notes:
        reporter.warn(note)
    counts = ", ".join(f"{name} {rows}" for name, rows in zip(summary.classes, summary.class_rows, strict=True))
    reporter.say(f"wrote {summary.rows} rows of {summary.groups} groups to {out}: {counts}")
    reporter.say(f"next: pointcnn config init my.yaml --data {shlex.quote(str(out))}")

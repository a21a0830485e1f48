"""pointcnn export"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pointcnn_cli.cli.console import SETTINGS, ConsoleReporter, print_json, print_table
from pointcnn_cli.cli.train import JsonOption


class Format(StrEnum):
    """What a network can be written as."""

    savedmodel = "savedmodel"
    onnx = "onnx"
    litert = "litert"
    openvino = "openvino"


class Quantization(StrEnum):
    """What LiteRT can compute with instead of float32."""

    float16 = "float16"
    int8 = "int8"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")],
    format: Annotated[Format, typer.Option("--format", help="The runtime to write for.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .onnx, .tflite or .xml file, or a folder for savedmodel.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT if it exists.")] = False,
    quantize: Annotated[
        Quantization | None,
        typer.Option("--quantize", help="litert only: smaller weights, and say what accuracy that costs."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the network of a run for another runtime, run it there, and compare it with Keras.

    Example:  [bold]pointcnn export runs/base/20260101-120000-ab12 --format onnx --output model.onnx[/bold]

    Normalisation is part of the model; class names and the rest stand in the model's own metadata and in OUTPUT.json. A
    float export whose probabilities differ from Keras by more than 1e-4 is refused with exit code 8.
    """
    from pointcnn_cli.export import export_run

    written = export_run(
        run, format.value, output, ConsoleReporter(),
        quantization=quantize.value if quantize else None, force=force, show_noise=SETTINGS.verbose,
    )  # fmt: skip
    if json:
        print_json(written)
    else:
        print_table(export_table(written))


def export_table(written: Mapping[str, Any]) -> Table:
    """What was written and found, for a person."""
    parity, cost = written["parity"], written["quantization_cost"]
    table = Table(title=f"export to {written['format']}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column()
    for file in written["files"]:
        table.add_row("written", Text(file))
    table.add_row("size", f"{written['bytes'] / 1e6:.3f} MB")
    table.add_row("run by", f"{parity['runtime']['name']} {parity['runtime']['version']}")
    table.add_row("compared with Keras on", parity["compared_on"])
    table.add_row("largest difference of a probability", f"{parity['largest_difference']:.2g}")
    table.add_row("same most probable class", f"{parity['equal_argmax']:.2%} of rows")
    if mixed := parity["mixed_precision"]:
        told = "not compared: there the run's network answers with NaN on this machine"
        if mixed["largest_difference"] is not None:
            told = (
                f"{mixed['largest_difference']:.2g}; same class in {mixed['equal_argmax']:.2%} of {mixed['rows']} rows"
            )
        table.add_row(f"against the run's own {mixed['precision']}", told)
    for title, text in describe_cost(cost) if cost else ():
        table.add_row(title, text)
    return table


def describe_cost(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What quantisation saves and costs."""
    low, high = cost["difference_ci"]
    groups = "" if cost["n_groups"] is None else f" in {cost['n_groups']} groups"
    return [
        ("size in float32", f"{cost['bytes_before'] / 1e6:.3f} MB"),
        ("accuracy in float32", f"{cost['accuracy_before']:.4f}"),
        ("accuracy quantised", f"{cost['accuracy_after']:.4f}"),
        ("difference", f"{cost['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, {cost['n']} rows{groups}"),
    ]

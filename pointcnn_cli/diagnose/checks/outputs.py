"""Labels against the output layer: a unit for each class that occurs, and a class for each unit."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.heads import read_form
from pointcnn_cli.diagnose.checks.network import NEEDS_GRAPH
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.graph import trace_graph
from pointcnn_cli.diagnose.registry import Check, Tier


def check_units(case: Case) -> Iterator[Measurement]:
    """PC305: the values of the labels against the number of output units."""
    graph = trace_graph(case.graph)
    head_units = graph.shapes[graph.outputs[0]][-1] if graph is not None and len(graph.outputs) == 1 else None
    labels = (
        None if case.data is None else case.data.raw_labels if case.data.raw_labels is not None else case.data.labels
    )
    if head_units is None or read_form(labels) is None or labels is None:
        yield missing("PC305", f"labels, and {NEEDS_GRAPH}")
        return
    units = int(head_units)
    if read_form(labels) == "columns":
        return  # the number of columns is compared with the loss
    values = np.unique(labels[np.isfinite(labels.astype(np.float64))].astype(np.float64))
    allowed = max(units, 2)  # one unit tells 0 from 1
    outside = values[(values < 0) | (values >= allowed)]
    if case.data is not None and case.data.raw_labels is None:
        outside = outside[outside != -1]  # what is no class at all is counted elsewhere
    elif "hinge" in (case.settings.loss or ""):
        outside = outside[outside != -1]  # these losses count the two classes as -1 and 1
    if not len(values):
        yield missing("PC305", "labels that are numbers")
        return
    yield _judge_units(values, outside, units, allowed, len(labels))


def _judge_units(
    values: NDArray[np.float64], outside: NDArray[np.float64], units: int, allowed: int, n: int
) -> Measurement:
    details = {"units": units, "smallest_label": float(values[0]), "largest_label": float(values[-1])}
    if len(outside):
        shown = ", ".join(f"{v:g}" for v in outside[:4])
        return Measurement(
            "PC305", "proof", f"Labels must run from 0 to {allowed - 1} for {units} output units, but {shown} occur. A "
            "CPU stops at such a label, a GPU computes NaN.", harm=True, statistic="label values outside the units",
            value=float(len(outside)), threshold=0.0, n=n, details=details,
            fix=Fix(f"Subtract {values[0]:g} from all labels." if values[0] > 0 else "Number the classes from 0."),
        )  # fmt: skip
    if units > 2 and len(values) == units - 1 and np.array_equal(values, np.arange(1, units)):
        return Measurement(
            "PC305", "proof", f"Labels run from 1 to {units - 1} and the network has {units} output units: class 0 "
            "never occurs, so labels count from 1 and one unit is there for nothing.", harm=True,
            statistic="output units without a label", value=1.0, threshold=0.0, n=n, details=details,
            fix=Fix(f"Subtract 1 from all labels and give the last layer {units - 1} units."),
        )  # fmt: skip
    unused = units - len(values) if units > 1 else 0
    return Measurement(
        "PC305", "proof", f"All labels lie between 0 and {allowed - 1}, as {units} output units need."
        + (f" {unused} units have no label." if unused > 0 else ""), found=False,
        statistic="label values outside the units", value=0.0, threshold=0.0, n=n, details=details,
    )  # fmt: skip


CHECKS = (Check(("PC305",), Tier.GRAPH, check_units),)

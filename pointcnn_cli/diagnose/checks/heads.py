"""The end of the network: its output units and activation against the loss and the form of the labels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.network import NEEDS_GRAPH
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.graph import Graph, is_identity, is_kernel, is_linear, read_activation, trace_graph
from pointcnn_cli.diagnose.registry import Check, Tier

CATEGORICAL = ("categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence")
SPARSE = ("sparse_categorical_crossentropy",)
BINARY = ("binary_crossentropy", "binary_focal_crossentropy")
DISTANCES = (
    "mean_squared_error", "mse", "mean_absolute_error", "mae", "huber", "huber_loss", "log_cosh",
    "mean_absolute_percentage_error", "mean_squared_logarithmic_error",
)  # fmt: skip
HINGES = ("hinge", "squared_hinge", "categorical_hinge")
KNOWN = (*CATEGORICAL, *SPARSE, *BINARY, *DISTANCES, *HINGES)
UNBOUNDED = ("linear", "relu", "tanh", "leakyrelu", "leaky_relu", "elu", "selu", "gelu", "silu", "swish")
"""Activations whose values are no probabilities, nor become such by dividing by their sum."""
INITIAL_ROWS = 64  # the loss of a head without a preference differs little between rows
INITIAL_GAP = 0.5  # nats above or below ln K of a first loss; only told, as inputs in large units give it as well


@dataclass(frozen=True)
class Head:
    """The end of a network with one output."""

    units: int
    activations: tuple[str, ...]
    """Names of what is applied to the values of the last layer with a kernel, in order; empty for none."""
    ends_in_softmax: bool
    """Whether the output is that of a softmax itself: Keras then finds the values before it by itself."""
    name: str
    """Of the last layer with a kernel."""


@dataclass(frozen=True)
class Mismatch:
    """A row of the table of what does not fit together."""

    sentence: str
    fix: str
    harm: bool | None


def read_head(graph: Graph) -> Head | None:
    """The end of the network; None for several outputs, or one that unknown code computes."""
    if len(graph.outputs) != 1 or not graph.shapes[graph.outputs[0]][1:]:
        return None
    value, activations, behind = graph.outputs[0], [], False
    units = graph.shapes[value][-1]
    while (step := graph.find_producer(value)) is not None:
        activation = read_activation(step.operation)
        if is_kernel(step) or (activation is None and is_linear(step) and step.kind not in ("Flatten", "Reshape")):
            if is_kernel(step):
                activations.append(activation or "unknown")
            known = tuple(a for a in reversed(activations) if a != "linear")
            if units is None or "unknown" in known:
                return None
            return Head(int(units), known, bool(known) and known[-1] == "softmax" and not behind, step.name)
        if activation is not None:
            activations.append(activation)
        elif is_identity(step) or step.kind in ("Flatten", "Reshape"):
            behind = behind or (not activations and not is_identity(step))
        else:
            return None
        value = step.inputs[0]
    return None


def check_head(case: Case) -> Iterator[Measurement]:
    """PC403: output layer, loss and form of the labels against each other."""
    graph = trace_graph(case.graph)
    head = None if graph is None else read_head(graph)
    loss = case.settings.loss and _normalize_name(case.settings.loss)
    if graph is None or head is None:
        yield missing(
            "PC403", NEEDS_GRAPH if graph is None else "a network with one output that a known layer computes"
        )
        return
    if loss not in KNOWN:
        yield missing("PC403", "a model compiled with one of Keras's losses for classes")
        return
    labels = case.data.raw_labels if case.data is not None else None
    form = read_form(labels)
    found = _find_mismatches(head, loss, bool(case.settings.from_logits), form, labels)
    details = {
        "units": head.units, "activations": list(head.activations), "loss": loss,
        "from_logits": case.settings.from_logits, "labels": form, "layer": head.name,
    }  # fmt: skip
    worst = max(found, key=lambda m: m.harm is True, default=None)
    end = " then ".join(head.activations) or "no activation"
    if worst is not None:
        yield Measurement(
            "PC403", "proof", worst.sentence, harm=worst.harm, statistic="mismatches", value=float(len(found)),
            threshold=0.0, fix=Fix(worst.fix), details={**details, "all": [m.sentence for m in found]},
        )  # fmt: skip
    else:
        # The statistics of our own input normalisation are set by training; before it, inputs pass as they are.
        if not any(step.kind == "InputNormalization" for step in graph.steps):
            details |= _measure_initial_loss(case, head)
        yield Measurement(
            "PC403", "proof", f"{head.units} output units with {end} fit the loss {loss} and the labels.", found=False,
            statistic="mismatches", value=0.0, threshold=0.0, details=details,
        )  # fmt: skip


def _normalize_name(name: str) -> str:
    """`CategoricalCrossentropy` as `categorical_crossentropy`."""
    if "_" in name or name.islower():
        return name.lower()
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def read_form(labels: NDArray[np.generic] | None) -> str | None:
    """`integers` for (rows,) or (rows, 1), `columns` for (rows, classes), None where labels are not known as given."""
    if labels is None or labels.dtype.kind not in "iufb" or not len(labels):
        return None
    if labels.ndim == 2 and labels.shape[1] > 1:
        return "columns"
    return "integers" if labels.ndim == 1 or labels.shape[1:] == (1,) else None


def _find_mismatches(
    head: Head, loss: str, from_logits: bool, form: str | None, labels: NDArray[np.generic] | None
) -> list[Mismatch]:
    found = list(_compare_labels(head, loss, form, labels))
    if loss in DISTANCES:
        found += _compare_distance(head, loss)
    elif loss in (*CATEGORICAL, *SPARSE):
        found += _compare_crossentropy(head, loss, from_logits)
    elif loss in BINARY:
        found += _compare_binary(head, loss, from_logits)
    return found


def _compare_labels(head: Head, loss: str, form: str | None, labels: NDArray[np.generic] | None) -> Iterator[Mismatch]:
    """The form of the labels against the loss and the number of units."""
    if loss in SPARSE and form == "columns":
        yield Mismatch(
            f"{loss} wants one class number a row, and the labels have {_count_columns(labels)} columns.",
            "Use loss='categorical_crossentropy' for one-hot labels, or give y.argmax(axis=1).", True,
        )  # fmt: skip
    elif loss in (*CATEGORICAL, *DISTANCES, *BINARY) and form == "integers" and head.units > 1:
        yield Mismatch(
            f"{loss} compares {head.units} outputs with {head.units} label columns, and each label is a single number.",
            "Use loss='sparse_categorical_crossentropy' for class numbers, or keras.utils.to_categorical(y).", True,
        )  # fmt: skip
    elif loss not in SPARSE and form == "columns" and _count_columns(labels) != head.units:
        yield Mismatch(
            f"The labels have {_count_columns(labels)} columns and the network {head.units} output units.",
            "Give the last layer as many units as the labels have columns.", True,
        )  # fmt: skip


def _count_columns(labels: NDArray[np.generic] | None) -> int:
    return 0 if labels is None else labels.shape[-1]


def _compare_crossentropy(head: Head, loss: str, from_logits: bool) -> Iterator[Mismatch]:
    softmaxes = head.activations.count("softmax")
    last = head.activations[-1] if head.activations else "linear"
    # Keras takes the values before a final softmax whatever `from_logits` says, on TensorFlow.
    applied = softmaxes + (from_logits and softmaxes > 0 and not (head.ends_in_softmax and _recovers_logits()))
    if head.units == 1:
        yield Mismatch(
            f"{loss} over a single output unit: with one class there is nothing to tell apart, and nothing is learned.",
            "Give the last layer one unit for each class, or use a sigmoid with binary_crossentropy.", True,
        )  # fmt: skip
    elif applied > 1:
        floor = math.log(1.0 + (head.units - 1) / math.e)
        yield Mismatch(
            f"Softmax is applied {applied} times in a row. The second one sees values from 0 to 1 only, so the loss "
            f"cannot fall below ln(1 + {head.units - 1}/e) = {floor:.4f}, however good the network is.",
            "Keep one: activation='softmax' in the last layer and from_logits=False, or neither, and from_logits=True.",
            True,
        )  # fmt: skip
    elif not from_logits and loss != "kl_divergence" and last in UNBOUNDED:
        what = "no activation" if last == "linear" else f"the activation {last}"
        yield Mismatch(
            f"{loss} expects probabilities (from_logits=False), but the last layer ({head.name}) has {what}. "
            "It then divides values of either sign by their sum and takes a logarithm: the loss means nothing.",
            "Set from_logits=True in the loss and no activation, or activation='softmax' in the last layer.",
            last != "relu" or None,  # dividing what is never negative can work by luck
        )  # fmt: skip
    elif last == "sigmoid" and head.units > 2:
        yield Mismatch(
            f"The {head.units} output units have a sigmoid each, while {loss} is for classes that exclude each other.",
            "Use activation='softmax' in the last layer.", None,
        )  # fmt: skip
    elif from_logits and last in ("tanh", "relu", "softsign", "sigmoid"):
        yield Mismatch(
            f"{loss} expects values of any size and sign (from_logits=True), but {last} bounds them.",
            "Leave the last layer without an activation.", None,
        )  # fmt: skip


def _compare_binary(head: Head, loss: str, from_logits: bool) -> Iterator[Mismatch]:
    last = head.activations[-1] if head.activations else "linear"
    if head.units == 1 and last == "softmax":
        yield Mismatch(
            "A softmax over a single output unit is always 1: the network cannot answer anything else.",
            "Use activation='sigmoid' for one unit.", True,
        )  # fmt: skip
    elif not from_logits and last in UNBOUNDED:
        what = "no activation" if last == "linear" else f"the activation {last}"
        yield Mismatch(
            f"{loss} expects probabilities (from_logits=False), but the last layer ({head.name}) has {what}: "
            "whatever leaves the range from 0 to 1 is cut off and teaches nothing.",
            "Set from_logits=True in the loss, or activation='sigmoid' in the last layer.", True,
        )  # fmt: skip
    elif last == "softmax" and head.units > 2:
        yield Mismatch(
            f"{loss} scores each of {head.units} units as a question of its own, while a softmax makes classes exclude "
            "each other.", "Use categorical_crossentropy.", None,
        )  # fmt: skip


def _compare_distance(head: Head, loss: str) -> Iterator[Mismatch]:
    if head.units > 1:
        yield Mismatch(
            f"{loss} measures distances, not how likely the right class is: its gradient vanishes where the network is "
            "confident and wrong.", "Use a crossentropy for classes.", None,
        )  # fmt: skip


def _recovers_logits() -> bool:
    import keras

    return bool(keras.backend.backend() == "tensorflow")


def _measure_initial_loss(case: Case, head: Head) -> dict[str, object]:
    """The loss before any training, where the head gives probabilities: near ln K for a head without a preference."""
    if case.untrained is None or case.data is None or case.data.labels is None or head.activations != ("softmax",):
        return {}
    from pointcnn_cli.diagnose.networks import predict_inputs

    rows = np.flatnonzero(case.data.labels >= 0)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, INITIAL_ROWS).astype(np.int64))] if len(rows) else rows
    if not len(rows) or case.data.labels.max() >= head.units:
        return {}
    scores = predict_inputs(case.untrained, case.data, rows)
    if scores.shape != (len(rows), head.units) or not np.isfinite(scores).all():
        return {}
    loss = float(-np.log(np.maximum(scores[np.arange(len(rows)), case.data.labels[rows]], 1e-7)).mean())
    return {"initial_loss": loss, "ln_classes": math.log(head.units),
            "initial_loss_is_odd": abs(loss - math.log(head.units)) > INITIAL_GAP}  # fmt: skip


CHECKS = (Check(("PC403",), Tier.GRAPH, check_head),)

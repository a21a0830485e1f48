"""What a network shows before training: the scale of its inputs, its batch normalisation, its first weights."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.network import NEEDS_GRAPH, enumerate_names, read_few
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.gradients import can_differentiate, find_stuck_kernels, is_kernel_variable, read_variable
from pointcnn_cli.diagnose.graph import find_raw_readers, trace_graph, unwrap
from pointcnn_cli.diagnose.registry import Check, Tier

# Initialisations and learning rates are made for inputs of deviation 1; a factor of ten either way still trains.
SMALLEST_SCALE, LARGEST_SCALE, LARGEST_RATIO = 0.1, 10.0, 10.0
DEEPEST = 4  # a longer first axis is no list of coordinates, but rows of an image
# Of the initial statistics this share may be left at the end: 5 % of mean 0 and variance 1 shift an output of unit
# scale by less than the noise of a batch of 32 does.
LARGEST_RESIDUAL = 0.05
SMALLEST_BATCH = 8  # the mean of fewer rows has an error above 0.35 standard deviations
GRADIENT_ROWS = 16


# --- PC101 ---


def check_input_scale(case: Case) -> Iterator[Measurement]:
    """PC101: channels far from unit scale, or far from each other, that no layer normalises before the first kernel."""
    graph = trace_graph(case.graph)
    if graph is None or case.data is None:
        yield missing("PC101", f"rows, and {NEEDS_GRAPH}")
        return
    readers = sorted(step.name for step in find_raw_readers(graph))
    if not readers or case.settings.normalizes:
        yield Measurement(
            "PC101", "proof", "The network's inputs are normalised, or transformed by a layer of its own, before the "
            "first convolution or dense layer.", found=False, statistic="layers that see raw inputs", value=0.0,
            threshold=0.0,
        )  # fmt: skip
        return
    scales = measure_scales(case)
    if not scales:
        yield missing("PC101", "inputs with finite values that are not all zero")
        return
    lowest, highest = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
    ratio = scales[highest] / scales[lowest]
    odd = scales[lowest] < SMALLEST_SCALE or scales[highest] > LARGEST_SCALE or ratio > LARGEST_RATIO
    text = "Normalise the inputs with statistics of the training rows: a Normalization layer that was adapted to them."
    settings = {}
    if case.config is not None:
        text, settings = "Let the network's first layer normalise its inputs.", {"model.normalize": "masked"}
    yield Measurement(
        "PC101", "proof",
        f"The inputs reach {enumerate_names(readers)} in their own units. Standard deviations run from "
        f"{scales[lowest]:.3g} ({lowest}) to {scales[highest]:.3g} ({highest})"
        + (f", a ratio of {ratio:.3g}. That makes training slow or unsteady, but need not spoil it." if odd else
           ", which is near enough to 1."),
        found=odd, statistic="ratio of standard deviations", value=ratio, threshold=LARGEST_RATIO,
        n=len(_training_rows(case)), at_most="SUSPECTED", fix=Fix(text, settings) if odd else None,
        details={"standard_deviations": scales, "layers_that_see_raw_inputs": readers},
    )  # fmt: skip


def measure_scales(case: Case) -> dict[str, float]:
    """Standard deviation of each coordinate over training rows: that of all its values or of the non-zero ones,
    whichever is larger (empty slots make the first small, a constant offset the second). Coordinates that are all zero
    are left out."""
    scan = case.scan
    if scan is None or case.data is None:
        return {}
    rows = _training_rows(case)
    count, total, squares = (getattr(scan, name)[rows].sum(axis=0) for name in ("count", "total", "squares"))
    size = scan.size * len(rows)
    members = _group_coordinates(scan.inputs, case.data.names, scan.coordinates)
    scales = {}
    for name, columns in members.items():
        sums = [float(part[columns].sum()) for part in (count, total, squares)]
        scale = max(_deviation(*sums), _deviation(float(size[columns].sum()), *sums[1:]))
        if scale > 0 and math.isfinite(scale):
            scales[name] = scale
    return scales


def _training_rows(case: Case) -> NDArray[np.int64]:
    if case.train is not None and len(case.train):
        return case.train
    return np.arange(0 if case.data is None else case.data.rows)


def _group_coordinates(
    inputs: NDArray[np.int64], names: Sequence[str], coordinates: Sequence[str]
) -> dict[str, list[int]]:
    """Columns of a scan under the name that they are told by: each its own, those of a longer axis together."""
    groups: dict[str, list[int]] = {}
    for column, number in enumerate(inputs):
        deep = np.count_nonzero(inputs == number) > DEEPEST
        groups.setdefault(names[number] if deep else coordinates[column], []).append(column)
    return groups


def _deviation(n: float, total: float, squares: float) -> float:
    return math.sqrt(max(squares / n - (total / n) ** 2, 0.0)) if n else 0.0


# --- PC404 ---


def check_batch_normalization(case: Case) -> Iterator[Measurement]:
    """PC404: moving statistics that cannot have settled by the end of training, or batches too small to make them."""
    graph = trace_graph(case.graph)
    settings = case.settings
    if graph is None:
        yield missing("PC404", NEEDS_GRAPH)
        return
    layers = [step for step in graph.steps if step.kind == "BatchNormalization"]
    if not layers:
        yield Measurement("PC404", "proof", "The network has no batch normalisation.", found=False,
                          statistic="batch normalisations", value=0.0, threshold=0.0)  # fmt: skip
        return
    batch, steps = settings.batch_size, count_steps(case)
    if batch is None or steps is None:
        yield missing("PC404", "the batch size and the number of epochs")
        return
    momentum = max(float(unwrap(step.operation).momentum) for step in layers)
    residual = momentum**steps
    slow, small = residual > LARGEST_RESIDUAL, batch < SMALLEST_BATCH
    sentence = (
        f"{len(layers)} batch normalisations average their statistics with momentum {momentum:g}. After {steps} steps "
        f"{residual:.1%} of the initial values are left"
    )
    if slow:
        sentence += ": in inference the network does not yet use the statistics of the data"
    sentence += f". Batches have {batch} rows" + (", too few to estimate a mean and a variance from." if small else ".")
    yield Measurement(
        "PC404", "proof", sentence, found=slow or small, statistic="share of the initial statistics that is left",
        value=residual, threshold=LARGEST_RESIDUAL, n=steps, fix=_fix_statistics(case, momentum, slow, small),
        details={"momentum": momentum, "steps": steps, "batch_size": batch, "layers": [step.name for step in layers]},
    )  # fmt: skip


def count_steps(case: Case) -> int | None:
    """Training steps of the whole fit, done or planned; None where epochs or batch size are not known."""
    settings = case.settings
    epochs = len(case.history) or settings.epochs
    if epochs is None or case.train is None:
        return None
    if settings.steps_per_epoch is not None:
        return int(epochs * settings.steps_per_epoch)
    return None if settings.batch_size is None else epochs * math.ceil(len(case.train) / settings.batch_size)


def _fix_statistics(case: Case, momentum: float, slow: bool, small: bool) -> Fix | None:
    if small:
        text = "Use batches of 32 rows or more, or LayerNormalization, which needs no batch."
        return Fix(text, {} if case.config is None else {"train.batch_size": 32})
    if not slow:
        return None
    return Fix(
        f"Set the momentum of the batch normalisations to 0.9 (it is {momentum:g}), or train for more steps: "
        f"{math.ceil(math.log(LARGEST_RESIDUAL) / math.log(momentum)) if 0 < momentum < 1 else 'many'} are needed."
    )


# --- PC406 ---


def check_initial_kernels(case: Case) -> Iterator[Measurement]:
    """PC406: kernels whose values are all equal and stay so: every unit of the layer computes the same for ever."""
    trained = case.load is not None
    model = case.model if trained else case.untrained
    if model is None:
        yield missing("PC406", "a network")
        return
    kernels = [variable for variable in model.trainable_variables if is_kernel_variable(variable)]
    constant = [variable.path for variable in kernels if np.ptp(read_variable(variable)) == 0]
    stuck: list[str] | None = constant
    if constant and not trained:
        stuck = _find_stuck(case, model)
    if stuck is None:
        yield missing("PC406", "a backward pass, for which the Keras backend must be TensorFlow and rows be there")
        return
    common: dict[str, Any] = {
        "statistic": "kernels with equal values", "value": float(len(stuck)), "threshold": 0.0, "n": len(kernels),
        "details": {"constant_kernels": constant, "stuck_kernels": stuck},
    }  # fmt: skip
    if stuck:
        when = "after training" if trained else "at the start, and get the same gradient"
        yield Measurement(
            "PC406", "proof", f"All values of {enumerate_names(stuck)} are equal {when}: every unit of these layers "
            "computes the same, and training cannot tell them apart.", harm=True,
            fix=Fix("Use a random initialiser, such as kernel_initializer='he_normal'."), **common,
        )  # fmt: skip
    else:
        healthy = f", and {len(constant)} start constant but can be trained" if constant else ""
        sentence = f"The {len(kernels)} kernels have values that differ{healthy}."
        yield Measurement("PC406", "proof", sentence, found=False, **common)


def _find_stuck(case: Case, model: Any) -> list[str] | None:
    inputs = read_few(case, model, GRADIENT_ROWS)
    if inputs is None or not can_differentiate():
        return None
    return find_stuck_kernels(model, inputs, case.rng("PC406"))[1]


CHECKS = (
    Check(("PC101",), Tier.GRAPH, check_input_scale),
    Check(("PC404",), Tier.GRAPH, check_batch_normalization),
    Check(("PC406",), Tier.GRAPH, check_initial_kernels),
)

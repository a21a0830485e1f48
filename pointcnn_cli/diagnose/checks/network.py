"""The network as a graph: blocks that do nothing, and layers without an activation between them.

What a step is follows from its class and from what it does to its inputs, never from a name.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.source import DeadFunction, find_dead_functions
from pointcnn_cli.diagnose.facts import Block
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.gradients import can_differentiate, find_dead_layers
from pointcnn_cli.diagnose.graph import (
    SUMS,
    Graph,
    Step,
    is_kernel,
    is_linear,
    read_activation,
    resolve_identities,
    trace_graph,
)
from pointcnn_cli.diagnose.registry import Check, Tier

if TYPE_CHECKING:
    import keras

GRADIENT_ROWS = 16  # a whole layer that is silent for all of them, and for as many random ones, is cut off
NAMED = 4  # of the blocks or layers in a sentence; details hold all
NEEDS_GRAPH = "a network whose layers can be seen: a functional or Sequential Keras model that is built"


# --- PC401 ---


def check_dead_blocks(case: Case) -> Iterator[Measurement]:
    """PC401: blocks that give back what they are given, in the network or in the script that built it, and layers
    whose weights have no influence on the output."""
    graph = trace_graph(case.graph)
    functions = find_dead_functions(case.source_files)
    if graph is None and not functions:
        yield missing("PC401", NEEDS_GRAPH)
        return
    blocks = _list_blocks(case)
    empty = [block.name for block in blocks if graph is not None and _is_empty(graph, block)]
    hollow = sorted(set(graph.hollow)) if graph is not None else []
    dead, layers = _find_dead(case)
    details = {
        "declared_blocks": len(blocks),
        "blocks_that_return_their_input": empty,
        "nested_models_that_return_their_input": hollow,
        "functions_that_return_their_argument": [f"{d.file}:{d.line} {d.name}" for d in functions],
        "layers_without_gradient": dead,
        "layers_with_weights": layers,
        "layers_that_do_nothing": [] if graph is None else [s.name for s in graph.steps if s.kind == "Identity"],
    }
    count = len(empty) + len(hollow) + len(functions) + len(dead or [])
    if count:
        yield Measurement(
            "PC401", "proof", _describe_dead(empty, len(blocks), hollow, functions, dead or []),
            statistic="blocks that do nothing", value=float(count), threshold=0.0, n=len(blocks) or None,
            fix=_fix_dead(case, functions), details=details,
        )  # fmt: skip
    elif dead is None:
        yield missing("PC401", "a backward pass, for which the Keras backend must be TensorFlow and rows be there")
    else:
        yield Measurement(
            "PC401", "proof", f"All {layers} layers that have weights have an influence on the output"
            + (f", and each of {len(blocks)} declared blocks does something." if blocks else "."),
            found=False, statistic="blocks that do nothing", value=0.0, threshold=0.0, n=layers, details=details,
        )  # fmt: skip


def _list_blocks(case: Case) -> Sequence[Block]:
    from pointcnn_cli.diagnose.networks import read_blocks

    network = case.graph
    # Tensors of declared blocks are those of the network that was built with them.
    declared = () if network is None else read_blocks(network)
    return declared or (() if case.blocks is None else case.blocks())


def _is_empty(graph: Graph, block: Block) -> bool:
    """Whether what comes out of a block is what went in."""
    if any(block.output is given for given in block.inputs):
        return True
    numbers = graph.numbers
    if id(block.output) not in numbers or any(id(given) not in numbers for given in block.inputs):
        return False
    given = resolve_identities(graph, [numbers[id(tensor)] for tensor in block.inputs])
    return resolve_identities(graph, [numbers[id(block.output)]]) <= given


def _find_dead(case: Case) -> tuple[list[str] | None, int | None]:
    """Layers without a gradient, None where no backward pass can be made, and the number of layers with weights.

    Where no layer at all gets a gradient the fault is in the output, not in a block, and none is named.
    """
    model = case.untrained if case.untrained is not None else case.model
    inputs = None if model is None else read_few(case, model, GRADIENT_ROWS)
    if model is None or inputs is None or not model.trainable_variables or not can_differentiate():
        return None, None
    dead, layers = find_dead_layers(model, inputs, case.rng("PC401"))
    return ([] if len(dead) == layers else dead), layers


def read_few(case: Case, model: "keras.Model", count: int) -> list[NDArray[Any]] | None:
    """Training rows evenly spread over all of them, as `model` takes them, what is not finite set to zero."""
    from pointcnn_cli.diagnose.networks import as_model_inputs

    if case.data is None or not case.data.rows:
        return None
    rows = case.train if case.train is not None and len(case.train) else np.arange(case.data.rows)
    picked = rows[np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))]
    inputs = as_model_inputs(model, case.data.read(picked))
    return [np.nan_to_num(a, posinf=0.0, neginf=0.0) for a in (inputs if isinstance(inputs, list) else [inputs])]


def _describe_dead(
    empty: list[str], declared: int, hollow: list[str], functions: list[DeadFunction], dead: list[str]
) -> str:
    parts = []
    if empty:
        parts.append(
            f"{len(empty)} of {declared} declared blocks give back what they are given ({enumerate_names(empty)})."
        )
    if hollow:
        parts.append(f"Nested models that give back what they are given: {enumerate_names(hollow)}.")
    for function in functions:
        how = f"its inner function {function.inner}() is never called" if function.inner else "the result is dropped"
        parts.append(
            f"{function.describe()} defines layers but returns its argument: {how}. It is used {function.calls} times."
        )
    if dead:
        parts.append(f"The weights of {enumerate_names(dead)} have no influence on the output: they get no gradient.")
    parts.append("The network is smaller than was intended; whether that costs accuracy was not tested.")
    return " ".join(parts)


def _fix_dead(case: Case, functions: list[DeadFunction]) -> Fix:
    if functions:
        return Fix(f"Let {functions[0].name}() return what its layers compute, not its argument.")
    if case.config is not None and case.config.model.name != "pointcnn":
        return Fix("Take the network in which every block is there.", {"model.name": "pointcnn"})
    return Fix("Return what the block's layers compute, connect it to the output, or remove it.")


def enumerate_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


# --- PC402 ---


def check_linear_stacks(case: Case) -> Iterator[Measurement]:
    """PC402: two layers with a kernel and nothing but linear steps between them, which one such layer could replace."""
    graph = trace_graph(case.graph)
    if graph is None:
        yield missing("PC402", NEEDS_GRAPH)
        return
    kernels = [step for step in graph.steps if is_kernel(step)]
    stacks = find_linear_stacks(graph)
    if not stacks:
        yield Measurement(
            "PC402", "proof", f"An activation or a maximum follows each of the {len(kernels)} convolutions and dense "
            "layers that feeds another.",
            found=False, statistic="linear stacks", value=0.0, threshold=0.0, n=len(kernels),
        )  # fmt: skip
        return
    shown = enumerate_names([f"{first.name} -> {second.name}" for first, second in stacks])
    fix = Fix("Give the first layer of each pair an activation, such as activation='relu'.")
    if case.config is not None and case.config.model.name != "pointcnn":
        fix = Fix("Take the network that has an activation there.", {"model.name": "pointcnn"})
    yield Measurement(
        "PC402", "proof", f"Nothing non-linear stands between {shown} (average pools and batch normalisation do not "
        "count), so each pair can express no more than one linear layer. Whether that costs accuracy was not tested.",
        statistic="linear stacks", value=float(len(stacks)), threshold=0.0, n=len(kernels), fix=fix,
        details={"stacks": [[first.name, second.name] for first, second in stacks]},
    )  # fmt: skip


def find_linear_stacks(graph: Graph) -> list[tuple[Step, Step]]:
    """Pairs of layers with a kernel, the second fed linearly by the first.

    A sum counts as linear when all of its terms come linearly from such layers. A depthwise convolution before a
    pointwise one is the two halves of one convolution, on purpose.
    """
    origins: dict[int, frozenset[int]] = {}  # the kernels (numbers of steps) that each value follows linearly from
    stacks: dict[tuple[int, int], tuple[Step, Step]] = {}
    for number, step in enumerate(graph.steps):
        given = [origins.get(value, frozenset()) for value in step.inputs]
        before = frozenset().union(*given)
        if is_kernel(step):
            for first in sorted(before):
                pair = (graph.steps[first], step)
                stacks.setdefault((id(pair[0].operation), id(step.operation)), pair)
            before = frozenset() if "Depthwise" in step.kind or not _is_bare(step) else frozenset([number])
        elif not is_linear(step) or (step.kind in SUMS and not all(given)):
            before = frozenset()
        origins.update(dict.fromkeys(step.outputs, before))
    return list(stacks.values())


def _is_bare(step: Step) -> bool:
    return read_activation(step.operation) == "linear"


CHECKS = (
    Check(("PC401",), Tier.GRAPH, check_dead_blocks),
    Check(("PC402",), Tier.GRAPH, check_linear_stacks),
)

"""Inputs and branches: which step of the network reads which part of which input."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.network import NEEDS_GRAPH, enumerate_names
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.graph import Graph, Step, is_identity, trace_graph
from pointcnn_cli.diagnose.registry import Check, Tier

SELECTORS = ("GetItem", "Lambda", "Split", "Take", "Cropping1D", "Cropping2D", "Cropping3D")
MOST_VALUES = 2_000_000  # of one row of an input; numbers up to 2 ** 24 are exact in float32
FEWEST_BRANCHES = 3  # two readers of the same part are no pattern from which one part is missing


def check_wiring(case: Case) -> Iterator[Measurement]:
    """PC103: inputs that go nowhere, and one part of an input that feeds two branches while another feeds none."""
    graph = trace_graph(case.graph)
    if graph is None:
        yield missing("PC103", NEEDS_GRAPH)
        return
    names = _name_inputs(case, graph)
    sources = _follow_inputs(graph)
    readers = {number: _list_readers(graph, sources, number) for number in range(len(graph.inputs))}
    unused = [names[number] for number, steps in readers.items() if not steps]
    twice = [names[number] for number, steps in readers.items() if len(steps) > 1] if unused else []
    parts = [part for number in readers for part in _compare_parts(graph, sources, number, names[number])]
    if unused or parts:
        sentences = [f"Nothing in the network reads {enumerate_names(unused)}."] if unused else []
        if twice:
            sentences.append(f"{enumerate_names(twice)} feeds more than one branch: probably by mistake.")
        sentences += [sentence for sentence, _ in parts]
        harm = bool(unused) or any(left for _, left in parts)
        yield Measurement(
            "PC103", "proof", " ".join(sentences), harm=harm or None, statistic="inputs or parts wired wrongly",
            value=float(len(unused) + len(parts)), threshold=0.0, n=len(names),
            fix=Fix("Give each branch its own input, or leave the unused input out."),
            details={"unused_inputs": unused, "inputs_with_several_readers": twice},
        )  # fmt: skip
    else:
        yield Measurement(
            "PC103", "proof", f"Every input of the network is read ({enumerate_names(names)}).",
            found=False, statistic="inputs or parts wired wrongly", value=0.0, threshold=0.0, n=len(names),
        )  # fmt: skip


def _name_inputs(case: Case, graph: Graph) -> list[str]:
    names = () if case.data is None else case.data.names
    return list(names) if len(names) == len(graph.inputs) else [f"input {i}" for i in range(1, len(graph.inputs) + 1)]


def _is_channelwise(graph: Graph, step: Step) -> bool:
    """Whether output i of a step holds input i, unit and offset aside."""
    return (
        (is_identity(step) or step.kind in ("Normalization", "Rescaling", "BatchNormalization", "InputNormalization"))
        and len(step.inputs) == len(step.outputs)
        and all(graph.shapes[a] == graph.shapes[b] for a, b in zip(step.inputs, step.outputs, strict=True))
    )


def _follow_inputs(graph: Graph) -> dict[int, int]:
    """Values that hold a whole input, perhaps normalised, and the number of that input."""
    sources = {value: number for number, value in enumerate(graph.inputs)}
    for step in graph.steps:
        if _is_channelwise(graph, step):
            sources.update({out: sources[i] for i, out in zip(step.inputs, step.outputs, strict=True) if i in sources})
    return sources


def _list_readers(graph: Graph, sources: dict[int, int], number: int) -> list[Step]:
    """The steps that make something of an input, where that reaches the output."""
    values = {value for value, source in sources.items() if source == number}
    useful = set(graph.outputs)
    for step in reversed(graph.steps):
        if _is_channelwise(graph, step):
            useful.update(given for given, out in zip(step.inputs, step.outputs, strict=True) if out in useful)
        elif useful.intersection(step.outputs):
            useful.update(step.inputs)
    return [
        step for step in graph.steps
        if values.intersection(step.inputs) and not _is_channelwise(graph, step) and useful.intersection(step.outputs)
    ]  # fmt: skip


def _compare_parts(graph: Graph, sources: dict[int, int], number: int, name: str) -> list[tuple[str, bool]]:
    """What is odd about the parts in which an input is read: a sentence, and whether a branch's part was forgotten.

    Branches that read one part each would cover an input exactly. Where the sizes of the parts add up to the whole
    and yet one of them is read twice, another is read by none.
    """
    total = int(np.prod([size or 0 for size in graph.shapes[graph.inputs[number]][1:]]))
    readers = _list_readers(graph, sources, number)
    selected = [_select(graph, step) for step in readers] if 0 < total <= MOST_VALUES else [None]
    if len(readers) < 2 or any(parts is None for parts in selected):
        return []  # some step reads all of it
    parts = [part for found in selected for part in found or []]
    counts = Counter(part.tobytes() for part in parts)
    left = total - len(np.unique(np.concatenate(parts)))
    covers = sum(len(part) for part in parts) == total
    uneven = len(parts) >= FEWEST_BRANCHES and min(counts.values()) < max(counts.values())
    if max(counts.values()) < 2 or not left or not (covers or uneven):
        return []
    share = len(np.frombuffer(counts.most_common(1)[0][0], np.int64)) / total
    return [(
        f"One part of {name} ({share:.0%} of its values) feeds {counts.most_common(1)[0][1]} branches, and "
        f"{left / total:.0%} of its values feed none ({enumerate_names([step.name for step in readers])}).", covers
    )]  # fmt: skip


def _select(graph: Graph, step: Step) -> list[NDArray[np.int64]] | None:
    """The places that each output of a step takes out of its input, in order; None where it takes all of them, or
    computes something.

    Found by giving it the numbers of the places. A function that was written into a Lambda layer runs here as it does
    in `fit`, so one that reads a loop's variable after the loop shows what it really takes.
    """
    if step.kind not in SELECTORS or len(step.inputs) != 1:
        return None
    import keras

    shape = [size or 0 for size in graph.shapes[step.inputs[0]][1:]]
    places = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(1, *shape)  # 0 is padding
    values = {id(tensor): keras.ops.convert_to_tensor(places) for tensor in step.arguments.keras_tensors}
    args, kwargs = step.arguments.fill_in(values)
    outputs = step.operation(*args, **kwargs)
    parts = []
    flat = outputs if isinstance(outputs, list | tuple) else [outputs]
    for value, output in zip(step.outputs, flat, strict=True):
        if not graph.find_readers(value) and value not in graph.outputs:
            continue
        taken = np.unique(keras.ops.convert_to_numpy(output))
        if len(taken) == places.size or not np.isin(taken, places).all():
            return None
        parts.append(taken.astype(np.int64))
    return parts


CHECKS = (Check(("PC103",), Tier.GRAPH, check_wiring),)

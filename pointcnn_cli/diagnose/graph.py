"""A Keras network as a flat list of steps, nested models unfolded, and what kind of thing each step is.

Layers are known by the Keras class they descend from, never by their names. Keras is imported late.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def _names(text: str) -> frozenset[str]:
    """Class names; `Conv*` stands for Conv1D, Conv2D and Conv3D."""
    words = [[f"{word[:-1]}{n}D" for n in (1, 2, 3)] if word.endswith("*") else [word] for word in text.split()]
    return frozenset(name for names in words for name in names)


KERNELS = _names(
    "Conv* Conv1DTranspose Conv2DTranspose Conv3DTranspose DepthwiseConv* SeparableConv* Dense EinsumDense"
)
RECURRENT = _names("RNN SimpleRNN LSTM GRU Bidirectional ConvLSTM* MultiHeadAttention")
NORMALIZERS = _names(
    "Normalization Rescaling BatchNormalization LayerNormalization GroupNormalization RMSNormalization "
    "UnitNormalization InputNormalization"
)
# In inference these give what they are given.
IDENTITIES = _names(
    "Identity Dropout SpatialDropout* AlphaDropout GaussianDropout GaussianNoise ActivityRegularization"
)
# These move, repeat or leave out values and do not mix them: layers, then `keras.ops`.
MOVERS = _names("Flatten Reshape Permute RepeatVector Concatenate ZeroPadding* Cropping* UpSampling*") | _names(
    "Transpose Squeeze ExpandDims GetItem Stack Pad Flip Roll Repeat Tile Split Moveaxis Swapaxes BroadcastTo Ravel "
    "Take Cast"
)
AVERAGES = _names("AveragePooling* GlobalAveragePooling* Mean Sum")
MAXIMA = _names("MaxPooling* GlobalMaxPooling*")
SUMS = _names("Add Average Subtract")
FACTORS = _names("Multiply Divide TrueDivide Negative")  # linear while they take one tensor
AFFINE = _names("BatchNormalization Normalization Rescaling")  # with statistics that are held fixed
ACTIVATIONS = _names(
    "softmax logsoftmax log_softmax sigmoid relu relu6 tanh elu selu gelu silu swish softplus softsign leakyrelu "
    "leaky_relu prelu hardsigmoid hard_sigmoid mish exponential exp linear"
)


@dataclass(frozen=True, eq=False)
class Step:
    """One call of one layer or operation; values are numbered through the whole network."""

    operation: Any
    name: str
    """With the nested models that it stands in, as `encoder/conv1`."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arguments: Any
    """Keras's record of the call: `args`, `kwargs` and `keras_tensors`."""

    @property
    def kind(self) -> str:
        """The name of the Keras class or operation that this does the work of; "" where it cannot be known."""
        return read_kind(self.operation)


@dataclass(eq=False)
class Graph:
    """A network from its inputs to its outputs, in the order of computation."""

    steps: list[Step] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    shapes: list[tuple[int | None, ...]] = field(default_factory=list)
    """Of each value, the batch first."""
    hollow: list[str] = field(default_factory=list)
    """Nested models that give back what they are given."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Number of each symbolic tensor of the outermost model, by its `id`."""

    def find_producer(self, value: int) -> Step | None:
        """The step that gives `value`; None for inputs."""
        return next((step for step in self.steps if value in step.outputs), None)

    def find_readers(self, value: int) -> list[Step]:
        """The steps that take `value`."""
        return [step for step in self.steps if value in step.inputs]


def trace_graph(model: "keras.Model | None") -> Graph | None:
    """The steps of a functional or Sequential model; None for models whose structure is hidden in Python code."""
    function = _as_function(model)
    if function is None:
        return None
    graph = Graph()
    graph.inputs = tuple(_add_value(graph, tensor) for tensor in function.inputs)
    graph.outputs = _trace(graph, function, graph.inputs, "")
    return graph


def _as_function(operation: Any) -> Any:
    import keras

    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    is_graph = isinstance(operation, keras.Model) and hasattr(operation, "_nodes_by_depth")
    return operation if is_graph else None


def _add_value(graph: Graph, tensor: Any) -> int:
    graph.shapes.append(tuple(tensor.shape))
    return len(graph.shapes) - 1


def _trace(graph: Graph, function: Any, given: Sequence[int], scope: str) -> tuple[int, ...]:
    """Append the steps of `function` on the values `given`; the values of its outputs."""
    local = {id(tensor): value for tensor, value in zip(function.inputs, given, strict=True)}
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if any(id(tensor) not in local for tensor in node.output_tensors):
                outputs = _trace_node(graph, node, [local[id(t)] for t in node.input_tensors], scope)
                local.update((id(t), value) for t, value in zip(node.output_tensors, outputs, strict=True))
    if not scope:
        graph.numbers = local
    return tuple(local[id(tensor)] for tensor in function.outputs)


def _trace_node(graph: Graph, node: Any, given: list[int], scope: str) -> tuple[int, ...]:
    operation = node.operation
    name = scope + operation.name
    nested = _as_function(operation)
    if nested is not None and len(nested.inputs) == len(given):
        outputs = _trace(graph, nested, given, f"{name}/")
        if resolve_identities(graph, outputs) <= resolve_identities(graph, given):
            graph.hollow.append(name)
        return outputs
    outputs = tuple(_add_value(graph, tensor) for tensor in node.output_tensors)
    graph.steps.append(Step(operation, name, tuple(given), outputs, node.arguments))
    return outputs


def resolve_identities(graph: Graph, values: Sequence[int]) -> set[int]:
    """The values that these are equal to, gone back through steps that do nothing."""
    resolved = set()
    producers = {output: step for step in graph.steps for output in step.outputs}
    for start in values:
        value, step = start, producers.get(start)
        while step is not None and len(step.inputs) == 1 and is_inert(step):
            value = step.inputs[0]
            step = producers.get(value)
        resolved.add(value)
    return resolved


def is_inert(step: Step) -> bool:
    """Whether a step gives what it is given, in training too."""
    return step.kind == "Identity" or (step.kind == "Activation" and read_activation(step.operation) == "linear")


def is_identity(step: Step) -> bool:
    """Whether a step gives what it is given in inference: dropout and noise are over then."""
    return step.kind in IDENTITIES or is_inert(step)


def read_kind(operation: Any) -> str:
    """The Keras class that a layer or operation does the work of, "" where its own code may do anything.

    A subclass counts as its parent as long as it does not define `call` (those of this package do, to compute the same
    faster). A layer that is applied at every time step counts as itself.
    """
    operation = unwrap(operation)
    call = getattr(type(operation), "call", None)
    owner = getattr(call, "__module__", "") or ""
    if owner.startswith("pointcnn_cli.") and type(operation).__name__ == "InputNormalization":
        return "InputNormalization"
    if not owner.startswith(("keras.", "pointcnn_cli.")):
        return ""
    base = next((c for c in type(operation).__mro__ if c.__module__.startswith("keras.")), None)
    return "" if base is None or base.__name__ in ("Layer", "Operation") else base.__name__


def unwrap(operation: Any) -> Any:
    """The layer inside a wrapper that applies it at every time step, or scales its kernel."""
    while type(operation).__name__ in ("TimeDistributed", "SpectralNormalization"):
        operation = operation.layer
    return operation


def read_activation(operation: Any) -> str | None:
    """The name of what a layer or operation does to each value (`linear` for nothing); None where it is not known."""
    operation = unwrap(operation)
    kind = read_kind(operation)
    if kind not in KERNELS and kind != "Activation":
        return kind.lower() if kind.lower() in ACTIVATIONS else None
    activation = operation.activation
    if activation is None:
        return "linear"
    name = str(getattr(activation, "__name__", type(activation).__name__)).lower()
    return name if name in ACTIVATIONS else None


def is_kernel(step: Step) -> bool:
    """Whether a step is a convolution or a dense layer."""
    return step.kind in KERNELS


def is_linear(step: Step) -> bool:
    """Whether a step without a kernel of its own is linear (affine) in inference."""
    if step.kind in FACTORS:
        return len(step.inputs) == 1
    return step.kind in MOVERS | AVERAGES | SUMS | AFFINE or is_identity(step)


def find_kernel_layers(model: "keras.Model") -> list[Any]:
    """The convolutions and dense layers of a network, in order of computation, those of nested models included."""
    graph = trace_graph(model)
    steps = [] if graph is None else [step for step in graph.steps if is_kernel(step)]
    return list({id(step.operation): unwrap(step.operation) for step in steps}.values())


def find_raw_readers(graph: Graph) -> list[Step]:
    """Layers with a kernel that see an input in its own units: moved or pooled at most, never normalised.

    What an unknown layer does to its input may be a normalisation, so nothing is said of what comes after one.
    """
    raw, readers = set(graph.inputs), []
    for step in graph.steps:
        if not raw.intersection(step.inputs):
            continue
        if is_kernel(step) or step.kind in RECURRENT:
            readers.append(step)
        elif step.kind in MOVERS | AVERAGES | MAXIMA | IDENTITIES:
            raw.update(step.outputs)
    return readers


def find_normalizing_layer(model: "keras.Model") -> bool:
    """Whether every input of a network is normalised before the first layer that has a kernel."""
    graph = trace_graph(model)
    return graph is not None and not find_raw_readers(graph)

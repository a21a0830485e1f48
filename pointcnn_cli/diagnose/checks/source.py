"""Reading the user's script: functions that build a block of layers and then return what they were given.

Such a block leaves no trace in the built network, so only the source can show it. Nothing is executed.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_SOURCE = 2**20  # bytes of a script; what is larger was not written by hand
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LAYERS = (
    "Conv", "Dense", "DepthwiseConv", "SeparableConv", "EinsumDense", "BatchNormalization", "LayerNormalization",
    "LSTM", "GRU", "SimpleRNN", "MultiHeadAttention", "Activation", "ReLU", "LeakyReLU", "MaxPool", "AveragePooling",
    "Dropout",
)  # fmt: skip
"""How the names of layers begin; enough of them to know a block of a network when one is written down."""


@dataclass(frozen=True)
class DeadFunction:
    """A function that defines layers and returns its argument unchanged."""

    file: str
    line: int
    name: str
    calls: int
    """How often the file calls it."""
    inner: str | None
    """The inner function that it never calls; None where the result of a layer is dropped."""

    def describe(self) -> str:
        """For a person, as `model.py:12, conv3()`."""
        return f"{Path(self.file).name}:{self.line}, {self.name}()"


def find_dead_functions(files: Sequence[str]) -> list[DeadFunction]:
    """Dead block functions of these files; files that cannot be read or parsed have none."""
    return [dead for file in files for dead in _search_file(file)]


def _search_file(file: str) -> list[DeadFunction]:
    try:
        path = Path(file)
        if path.stat().st_size > MAX_SOURCE:
            return []
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = []
    for function in ast.walk(tree):
        if isinstance(function, FUNCTIONS):
            dead, inner = _find_dead_layers(function)
            calls = _count_calls(tree, function.name) if dead else 0
            if calls:  # one that nobody calls is not a part of the network
                found.append(DeadFunction(file, function.lineno, function.name, calls, inner))
    return found


def _find_dead_layers(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[bool, str | None]:
    """Whether `function` is dead, and the inner function that it defines in vain, where there is one."""
    if not _returns_argument(function):
        return False, None
    own = list(_walk_own(function))
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    inner = [n for n in own if isinstance(n, FUNCTIONS) and not n.decorator_list and n.name not in read]
    for definition in inner:
        if any(_is_layer_call(node) for node in ast.walk(definition)):
            return True, definition.name
    return any(_drops_layer(node, read) for node in own), None


def _returns_argument(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether every `return` gives back one and the same argument, which nothing was assigned to before."""
    arguments = {a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
    own = list(_walk_own(function))
    returned = [node.value for node in own if isinstance(node, ast.Return)]
    names = {value.id if isinstance(value, ast.Name) else "" for value in returned}
    assigned = {node.id for node in own if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    # Anything inside may write to it through `nonlocal`.
    assigned |= {name for node in ast.walk(function) if isinstance(node, ast.Nonlocal) for name in node.names}
    return len(names) == 1 and names <= arguments and not names & assigned


def _walk_own(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function's body; of functions and classes in it only the definition itself."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def _is_layer_call(node: ast.AST) -> bool:
    """Whether a node makes a Keras layer: `Conv3D(...)`, `keras.layers.Conv3D(...)`."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name.startswith(LAYERS)


def _drops_layer(node: ast.AST, read: set[str]) -> bool:
    """Whether a statement applies a new layer, `Conv3D(...)(x)`, to get something that nobody reads."""
    if isinstance(node, ast.Expr):
        value: ast.AST | None = node.value
    elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id not in read for t in node.targets):
        value = node.value
    else:
        return False
    return isinstance(value, ast.Call) and _is_layer_call(value.func)


def _count_calls(tree: ast.AST, name: str) -> int:
    """How often anything of this name is read in a file, calls and attributes (methods) alike."""
    return sum(
        (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id == name)
        or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr == name)
        for node in ast.walk(tree)
    )

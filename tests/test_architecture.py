"""The layers of the package, and the rules that keep it readable: a document that cannot go stale."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pointcnn_cli"

# From the bottom up. A module, or package of modules, imports only what stands in its own layer or below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "errors", "reporting", "files", "timing"),  # "" is the package itself
    ("config", "checkpoints", "documents", "rundir", "cvdir", "following", "signals"),
    ("hdf5", "splits", "metrics", "averaging", "calibration", "paired", "history"),
    (
        "layers",
        "augment",
        "models",
        "batches",
        "simulate",
        "convert",
        "sources",
        "runtime",
        "joining",
        "distribution",
        "pipelines",
        "optimizers",
        "memory",
        "tables",
        "streaming",
    ),
    ("callbacks", "scoring", "feeding", "tracking"),
    ("fitting", "loading", "starting", "training", "prediction"),
    (
        *("evaluation", "ensemble", "bulk", "diagnose", "report", "comparison", "crossval", "export", "doctor"),
        *("proposal", "tuning"),
    ),
    ("cli", "__main__"),
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}

HEAVY = ("tensorflow", "keras", "jax", "sklearn", "matplotlib", "scipy", "pyarrow", "pandas", "tensorboard", "mlflow")
HEAVY += ("onnx", "onnxruntime", "openvino", "ai_edge_litert", "tf2onnx", "optuna")
KERAS_MODULES = {  # import it at their top
    *("layers", "augment", "models", "batches", "callbacks", "feeding", "fitting", "optimizers"),
    *("diagnose.arms", "diagnose.arrays", "diagnose.lab", "diagnose.networks"),
    "diagnose.experiments",
    *(f"diagnose.experiments.{name}" for name in ("attribution", "evidence", "memorise", "patched", "rates")),
    *(f"diagnose.experiments.{name}" for name in ("swap", "trusted")),
}

SURFACE = ("cli", "__main__")  # may print, exit and read arguments
BANNED_CALLS = {"print", "input", "exit", "quit", "breakpoint", "SystemExit"}
BANNED_NAMES = {"sys.argv", "sys.exit", "sys.stdin", "sys.stdout", "sys.stderr", "os._exit", "os.abort"}
BANNED_PACKAGES = {"typer", "rich", "click", "argparse"}
EXCEPTIONS = {
    ("signals", "os._exit"),  # a second signal ends the process at once
    ("hdf5", "os._exit"),  # the child that tries a file must not clean up what is its parent's
    ("runtime", "sys.stderr"),  # emptied before TensorFlow's noise is kept from it
}

MOST_FUNCTION_LINES = 60
MOST_FILE_LINES = 310
MOST_DOCSTRING_LINES = 5


def name_module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_module(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def find_unit(module: str) -> str:
    """The entry of the layer table that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def list_imports(tree: ast.AST) -> Iterator[str]:
    """What is imported anywhere in `tree`; of `from a import b`, both a.b and a where a.b is no module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def list_own_imports(module: str) -> set[str]:
    return {name for name in list_imports(TREES[module]) if name.split(".")[0] == PACKAGE}


def is_keras_free(module: str) -> bool:
    return module.removeprefix(f"{PACKAGE}.") not in KERAS_MODULES


# --- layers ---


def test_every_module_has_a_layer_and_the_table_names_nothing_else():
    assert {find_unit(module) for module in MODULES} == set(LEVELS)
    assert len(LEVELS) == sum(map(len, LAYERS))


def test_imports_only_go_down():
    upward = [
        f"{module} (layer {LEVELS[find_unit(module)]}) imports {other} (layer {LEVELS[find_unit(other)]})"
        for module in MODULES
        for other in list_own_imports(module)
        if LEVELS[find_unit(other)] > LEVELS[find_unit(module)]
    ]
    assert upward == []


def test_imports_name_modules_that_exist():
    assert {other for module in MODULES for other in list_own_imports(module)} <= MODULES.keys()


@pytest.mark.parametrize("grain", [lambda module: module, find_unit], ids=["modules", "units"])
def test_imports_have_no_cycles(grain):
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        others = {grain(other) for other in list_own_imports(module)} - {grain(module)}
        graph.setdefault(grain(module), set()).update(others)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {error.args[1]}")


# --- the surface ---


def list_surface_uses(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BANNED_CALLS:
            yield node.id
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in BANNED_NAMES:
            yield ast.unparse(node)
    yield from (name for name in list_imports(tree) if name.split(".")[0] in BANNED_PACKAGES)
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    yield from (f"{n.module}.{a.name}" for n in froms for a in n.names if f"{n.module}.{a.name}" in BANNED_NAMES)


def test_only_the_command_line_prints_exits_or_reads_arguments():
    found = [
        (find_unit(module), use)
        for module in MODULES
        if find_unit(module) not in SURFACE
        for use in list_surface_uses(TREES[module])
    ]
    assert set(found) == EXCEPTIONS


def test_only_errors_defines_what_the_user_meets():
    """Exit codes have one owner: no other module makes a class of failure."""
    classes = [(module, n) for module, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    failures = {node.name for module, node in classes if find_unit(module) == "errors"}
    makers = {module for module, n in classes if failures & {ast.unparse(b).split(".")[-1] for b in n.bases}}
    assert makers == {f"{PACKAGE}.errors"}


# --- heavy imports ---


def run_python(code: str, *arguments: str) -> str:
    """What `code` prints in a fresh process."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_keras_is_imported_at_the_top_of_the_keras_modules_only():
    reached = {name for name in MODULES if "keras" in list_top_imports(name)}
    while grown := {name for name in MODULES.keys() - reached if list_top_imports(name) & reached}:
        reached |= grown
    assert {name.removeprefix(f"{PACKAGE}.") for name in reached} == KERAS_MODULES


def list_top_imports(module: str) -> set[str]:
    """What importing `module` imports at once: not in functions, not for type checkers alone."""
    statements = [node for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for statement in statements for name in list_imports(statement)}


@pytest.mark.parametrize("chosen", ["the command line", "all that is not Keras"])
def test_importing_brings_in_nothing_heavy(chosen):
    modules = [m for m in MODULES if is_keras_free(m) and m != f"{PACKAGE}.__main__"]
    if chosen == "the command line":
        modules = [m for m in modules if find_unit(m) == "cli"]
    code = "import importlib, sys; [importlib.import_module(m) for m in sys.argv[1:]]; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in run_python(code, *modules).split()}
    assert "typer" in loaded
    assert loaded & set(HEAVY) == set()


def test_the_command_line_starts_without_numpy_and_h5py():
    """These cost a tenth of a second each, which `--help` and `config validate` have no use for."""
    loaded = run_python(f"import sys, {PACKAGE}.cli.app; print(*sys.modules)").split()
    assert {"numpy", "h5py", "pydantic", "yaml"} & set(loaded) == set()


HELP = """
import json, sys
import typer
from typer.testing import CliRunner
from pointcnn_cli.cli.app import app

def walk(command, path):
    children = getattr(command, "commands", {})
    yield path, bool(children)
    for name, child in children.items():
        yield from walk(child, (*path, name))

pages = {}
for path, is_group in walk(typer.main.get_command(app), ()):
    result = CliRunner().invoke(app, [*path, "--help"], prog_name="pointcnn")
    pages[" ".join(path)] = [is_group, result.exit_code, result.stdout]
print(json.dumps([pages, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def help_pages() -> tuple[dict[str, tuple[bool, int, str]], list[str]]:
    """Of every command: whether it is a group, the exit code of --help, and its text; and what all that imported."""
    pages, modules = json.loads(run_python(HELP))
    return pages, modules


def test_help_of_every_command_shows_a_worked_example(help_pages):
    pages, _ = help_pages
    assert pages.keys() >= {"", "train", "evaluate", "predict", "data", "data inspect", "config show"}
    assert [name for name, (_, code, _) in pages.items() if code != 0] == []
    commands = {name: text for name, (is_group, _, text) in pages.items() if not is_group}
    assert [name for name, text in commands.items() if f"Example:  pointcnn {name} " not in text] == []
    assert "pointcnn train configs/base.yaml" in pages[""][2]


def test_help_of_every_command_imports_nothing_heavy(help_pages):
    _, modules = help_pages
    assert {name.split(".")[0] for name in modules} & set(HEAVY) == set()


# --- size and style ---


def test_every_module_opens_with_a_short_docstring():
    docstrings = {name: (ast.get_docstring(tree) or "").splitlines() for name, tree in TREES.items()}
    lines = {name: sum(map(bool, docstring)) for name, docstring in docstrings.items()}
    assert {name: count for name, count in lines.items() if not 1 <= count <= MOST_DOCSTRING_LINES} == {}


def test_the_library_has_no_asserts():
    """`python -O` removes them, and a user who meets one gets no advice."""
    assert [n for n, tree in TREES.items() if any(isinstance(node, ast.Assert) for node in ast.walk(tree))] == []


def test_functions_can_be_seen_whole():
    long = [
        f"{module}.{node.name}: {count_body_lines(node)} lines"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and count_body_lines(node) > MOST_FUNCTION_LINES
    ]
    assert long == []


def count_body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_files_are_not_too_long():
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MOST_FILE_LINES} == {}

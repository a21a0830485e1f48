"""The schema in human words: what a key expects, how a value was found, and which key was probably meant."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.yaml_source import KeyPath

Node = dict[str, Any]  # a node of the JSON Schema, references resolved

LONGEST_VALUE: Final = 60
_ELSEWHERE_CUTOFF: Final = 0.75  # a name in another section must be nearer than one in the same (difflib's 0.6)

_KINDS: Final = {
    "null": "null",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
}

_OTHER_NAMES: Final = {
    "lr": "train.learning_rate",
    "batch": "train.batch_size",
    "val_split": "split.validation_fraction",
    "validation_split": "split.validation_fraction",
    "test_size": "split.test_fraction",
    "patience": "train.early_stopping.patience",
    "augmentation": "augment",
}
"""What Keras, scikit-learn and habit call our keys, where that is too far from our name to be found by likeness."""


@lru_cache(maxsize=1)
def _root() -> Node:
    return Config.model_json_schema()


def _alternatives(node: Node) -> list[Node]:
    """The kinds of value that a key takes: the members of its union, or the node itself."""
    members = node.get("anyOf", [node])
    definitions = _root()["$defs"]
    return [definitions[m["$ref"].rpartition("/")[2]] if "$ref" in m else m for m in members]


def _child(node: Node, part: str | int) -> list[Node]:
    """The alternatives of one key or item of a node; empty where the schema has none."""
    if isinstance(part, int):
        listed = node.get("prefixItems", [])
        child = listed[part] if part < len(listed) else node.get("items")
    else:
        rest = node.get("additionalProperties")
        child = node.get("properties", {}).get(part, rest)
    return _alternatives(child) if isinstance(child, dict) else []


def _children(nodes: Sequence[Node], part: str | int) -> list[Node]:
    return [child for node in nodes for child in _child(node, part)]


def _nodes_at(path: KeyPath) -> list[Node]:
    nodes = [_root()]
    for part in path:
        nodes = _children(nodes, part)
    return nodes


def key_path(location: Sequence[str | int]) -> KeyPath:
    """Pydantic's location of an error without the names that it adds for the branches of a union."""
    nodes, path = [_root()], []
    at_branch = False
    for part in location:
        if at_branch:
            at_branch = False
            continue
        path.append(part)
        nodes = _children(nodes, part)
        at_branch = len([node for node in nodes if node.get("type") != "null"]) > 1
    return tuple(path)


def section_keys(path: KeyPath) -> list[str]:
    """The keys of the section at `path`; empty where there is no section."""
    return [key for node in _nodes_at(path) for key in node.get("properties", {})]


@lru_cache(maxsize=1)
def all_keys() -> tuple[str, ...]:
    """Every key of the schema, dotted, sections before their keys."""

    def walk(nodes: Sequence[Node], prefix: str) -> Iterator[str]:
        for node in nodes:
            for key in node.get("properties", {}):
                yield prefix + key
                yield from walk(_child(node, key), f"{prefix}{key}.")

    return tuple(walk([_root()], ""))


def suggest_keys(path: KeyPath) -> list[str]:
    """Dotted names of the keys that the unknown key at `path` may have been meant as, the likeliest alone or first."""
    section = "".join(f"{part}." for part in path[:-1])
    key = str(path[-1]).lower().replace("-", "_").replace(" ", "_")
    keys = all_keys()
    same_name = [name for name in keys if name.rpartition(".")[2] == key]
    if section + key in same_name:
        return [section + key]  # only its case or hyphens were wrong
    if same_name:
        return same_name
    if key in _OTHER_NAMES:
        return [_OTHER_NAMES[key]]
    near = difflib.get_close_matches(key, section_keys(path[:-1]), n=1)
    if near:
        return [section + near[0]]
    nearest = difflib.get_close_matches(key, {name.rpartition(".")[2] for name in keys}, n=1, cutoff=_ELSEWHERE_CUTOFF)
    return [name for name in keys if nearest and name.rpartition(".")[2] == nearest[0]]


def takes_sections(path: KeyPath) -> bool:
    """Whether the key at `path` takes keys and values."""
    return any(node.get("type") == "object" for node in _nodes_at(path))


def takes_single_values(path: KeyPath) -> bool:
    """Whether the key at `path` takes numbers, text, true or false: more than sections and lists."""
    return any(node.get("type") not in ("object", "array", "null") for node in _nodes_at(path))


def takes_whole_numbers(path: KeyPath) -> bool:
    """Whether the numbers that the key at `path` takes are whole ones only."""
    types = {node.get("type") for node in _nodes_at(path)}
    return "integer" in types and "number" not in types


def show_key(path: KeyPath) -> str:
    """A key path as users write it: `data.channels[2]`, printable and on one line."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return shorten(text)


def show_value(value: Any) -> str:
    """A value as it may be written in YAML, on one line, cut where it is long."""
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return {"inf": ".inf", "-inf": "-.inf"}.get(str(value), ".nan")
    return shorten(json.dumps(value, ensure_ascii=False))


def shorten(text: str) -> str:
    """Text cut to LONGEST_VALUE characters, with everything unprintable escaped."""
    cut = text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def describe_expected(path: KeyPath) -> str:
    """What the key at `path` takes: `a whole number from 1 to 100000`, `one of "adam", "adamw", "sgd"`."""
    return ", or ".join(_describe(node) for node in _nodes_at(path))


def _describe(node: Node) -> str:
    if "enum" in node:
        return "one of " + ", ".join(json.dumps(choice) for choice in node["enum"])
    if "const" in node:
        return json.dumps(node["const"])
    if not node:  # of any type
        return "text, a number, true, false or null"
    kind = node["type"]
    if kind == "object":
        return _describe_object(node)
    if kind == "array":
        return _describe_array(node)
    if kind == "string" and "pattern" in node:
        return str(node.get("description", f"text that matches {node['pattern']}"))
    return _KINDS[kind] + _describe_bounds(node)


def _describe_object(node: Node) -> str:
    if "properties" not in node:
        return f"a section of keys, each {_describe(_alternatives(node['additionalProperties'])[0])}"
    keys = list(node["properties"])
    more = ", ..." if len(keys) > 4 else ""
    return f"a section with keys ({', '.join(keys[:4])}{more})"


def _describe_array(node: Node) -> str:
    items = node.get("prefixItems")
    count = str(len(items)) if items else f"{node.get('minItems', 0)} or more"
    return f"a list of {count} values, each {_describe(_child(node, 0)[0])}"


def _describe_bounds(node: Node) -> str:
    lowest, highest = node.get("minimum"), node.get("maximum")
    if node["type"] == "integer" and "exclusiveMaximum" in node:
        highest = node["exclusiveMaximum"] - 1
    if lowest is not None and highest is not None:
        return f" from {_plain(lowest)} to {_plain(highest)}"
    bounds = [
        f"{word} {_plain(node[key])}"
        for key, word in (("exclusiveMinimum", "above"), ("minimum", "of at least"), ("exclusiveMaximum", "below"))
        if key in node and not (key == "exclusiveMaximum" and node["type"] == "integer")
    ]
    if highest is not None:
        bounds.append(f"at most {_plain(highest)}")
    return " " + " and ".join(bounds) if bounds else ""


def _plain(bound: float) -> str:
    return re.sub(r"\.0$", "", str(bound))

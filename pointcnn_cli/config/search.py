"""The search space of a config: whether its keys may be searched, and whether the schema takes every value in it."""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, product
from typing import Any, Final

from pointcnn_cli.config.wording import (
    all_keys,
    shorten,
    show_key,
    suggest_keys,
    takes_single_values,
    takes_whole_numbers,
)
from pointcnn_cli.config.yaml_source import KeyPath

SPACE: Final[KeyPath] = ("tune", "space")
_SEARCHED: Final = ("model", "augment", "train")
_NEVER: Final = {
    "name": "it names the run",
    "seed": "the best of several seeds is luck",
    "train.device": "it decides where, not what, is computed",
    "train.deterministic": "it decides how, not what, is computed",
    "train.keep": "it decides on which rows the kept weights are chosen, so its choices cannot be compared",
    "train.monitor": "it decides on which rows the kept weights are chosen, so its choices cannot be compared",
    "data": "every trial must have the same rows",
    "split": "every trial must have the same rows",
    "tune": "it is the search itself",
}
"""Keys and sections that cannot be searched, and why."""

Fault = tuple[KeyPath, bool, str]
"""Where, whether the key itself is meant rather than its value, and what is wrong."""
Judge = Callable[[dict[str, Any], KeyPath], str | None]
"""What the schema has against a config: against the key at the path, or with () against its rules between keys."""


def list_space_faults(data: Mapping[str, Any], judge: Judge) -> Iterator[Fault]:
    """What is wrong with the keys of `tune.space` and with each end and choice.

    `data` is a config that is sound but for its search space; every value is put into it and judged, and so is every
    pair of values of two keys, since the schema's rules are about two keys.
    """
    tried: list[tuple[KeyPath, list[tuple[KeyPath, Any]]]] = []
    for key, search in data["tune"]["space"].items():
        refusal = _refuse_key(key)
        if refusal:
            yield (*SPACE, key), True, refusal
            continue
        path = tuple(key.split("."))
        values = list(_list_values(key, search))
        faults = [(place, fault) for place, value in values if (fault := _judge_value(data, path, value, judge))]
        yield from ((place, False, fault) for place, fault in faults)
        if values and not faults:
            tried.append((path, values))
    yield from _list_broken_rules(data, tried, judge)


def as_key_value(key: str, number: float) -> float | int:
    """An end of a range as the config has it: a whole number where the key takes only those."""
    return int(number) if takes_whole_numbers(tuple(key.split("."))) and float(number).is_integer() else number


def _refuse_key(key: str) -> str | None:
    section = key.partition(".")[0]
    for name in (key, section):
        if name in _NEVER:
            return f"cannot be searched: {_NEVER[name]}"
    path = tuple(key.split("."))
    if key not in all_keys():
        near = [name for name in suggest_keys(path) if _refuse_key(name) is None]
        return "unknown key; " + (f"did you mean {' or '.join(near)}?" if near else "write a key as in train.epochs")
    if section not in _SEARCHED or not takes_single_values(path):
        return "cannot be searched: it takes no single values; name a key that does, as in train.epochs"
    return None


def _list_values(key: str, search: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """The places of the ends or choices of a key, and their values."""
    for end in ("low", "high"):
        if search.get(end) is not None:
            yield (*SPACE, key, end), as_key_value(key, search[end])
    for number, value in enumerate(search.get("choices") or ()):
        yield (*SPACE, key, "choices", number), value


def _judge_value(data: Mapping[str, Any], path: KeyPath, value: Any, judge: Judge) -> str | None:
    if isinstance(value, dict | list):
        return "not a single value"
    return judge(_put(data, {path: value}), path)


def _list_broken_rules(
    data: Mapping[str, Any], tried: list[tuple[KeyPath, list[tuple[KeyPath, Any]]]], judge: Judge
) -> Iterator[Fault]:
    first = {path: values[0][1] for path, values in tried}
    told = set()
    pairs = [*zip(tried, tried, strict=True), *combinations(tried, 2)]  # one key alone is the likelier cause
    for (path, values), (other_path, others) in pairs:
        for (place, value), (_, other) in product(values, others):
            message = judge(_put(data, first | {other_path: other} | {path: value}), ())
            if message and message not in told:
                told.add(message)
                also = "" if path == other_path else f" with {show_key(other_path)} {shorten(str(other))}"
                yield place, False, f"{shorten(str(value))}{also}: {message}"


def _put(data: Mapping[str, Any], values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """A copy of `data` with these values; sections that are missing or null are made."""
    changed = dict(data)
    for path, value in values.items():
        section = changed
        for part in path[:-1]:
            inner = section.get(str(part))
            section[str(part)] = dict(inner) if isinstance(inner, dict) else {}
            section = section[str(part)]
        section[str(path[-1])] = value
    return changed

"""Plain data into a `Config`, or one error that lists every fault with its place, in words that need no pydantic."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from pydantic import ValidationError

from pointcnn_cli.config.overrides import Setting
from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.search import SPACE, list_space_faults
from pointcnn_cli.config.wording import (
    all_keys,
    describe_expected,
    key_path,
    section_keys,
    show_key,
    show_value,
    suggest_keys,
    takes_sections,
)
from pointcnn_cli.config.yaml_source import Document, KeyPath
from pointcnn_cli.errors import ConfigError

MAX_SHOWN: Final = 50
SCHEMA_HINT: Final = "`pointcnn config schema` lists every key with its type, bounds and default."
_SETTINGS_LAST: Final = 10**9  # sorts what --set did after every line of the file

_KINDS: Final = {
    "literal_error": "not one of the choices",
    "finite_number": "not a finite number",
    "string_too_short": "empty text",
    "string_pattern_mismatch": "not written as it must be",
    "too_short": "too few values",
    "too_long": "too many values",
    "missing": "too few values",  # of an item; a missing key is worded by itself
    "greater_than": "out of bounds",
    "greater_than_equal": "out of bounds",
    "less_than": "out of bounds",
    "less_than_equal": "out of bounds",
}


@dataclass(frozen=True, order=True)
class Finding:
    """One fault: `order` sorts by place, `line` is what the user reads."""

    order: tuple[int, int]
    line: str


@dataclass(frozen=True)
class Origin:
    """Where data came from: the name of the file, the marks of its keys and values, and the --set laid over it."""

    name: str
    document: Document | None = None
    settings: Sequence[Setting] = ()

    def place(self, path: KeyPath, *, of_key: bool = False) -> tuple[tuple[int, int], str]:
        """Sort key and text of the place that determines `path`: a --set of it, above or below it, else the nearest
        mark of the file.
        """
        for number, setting in reversed(list(enumerate(self.settings))):
            shared = min(len(path), len(setting.path))
            if setting.fault is None and shared and path[:shared] == setting.path[:shared]:
                return (_SETTINGS_LAST, number), setting.place
        return self._place_in_file(path, of_key)

    def _place_in_file(self, path: KeyPath, of_key: bool) -> tuple[tuple[int, int], str]:
        if self.document is None:
            return (0, 0), self.name
        marks = self.document.keys if of_key else self.document.values
        while path and path not in marks:
            path, marks = path[:-1], self.document.keys  # a section is pointed at by its key
        if path not in marks:
            return (1, 1), f"{self.name}:1:1"
        mark = marks[path]
        return (mark.line, mark.column), f"{self.name}:{mark.line}:{mark.column}"

    def sets(self, path: KeyPath) -> bool:
        """Whether a --set determines `path`."""
        return self.place(path)[0][0] == _SETTINGS_LAST

    def findings(self) -> Iterator[Finding]:
        """What was refused while reading the file and each --set."""
        for problem in self.document.problems if self.document else ():
            mark = problem.mark
            key = f"{show_key(problem.path)}: " if problem.path else ""
            yield Finding((mark.line, mark.column), f"{self.name}:{mark.line}:{mark.column}: {key}{problem.text}")
        for number, setting in enumerate(self.settings):
            if setting.fault is not None:
                yield Finding((_SETTINGS_LAST, number), f"{setting.place}: {setting.fault}")

    def hidden(self) -> Iterator[KeyPath]:
        """Paths whose value could not be read; the schema's complaints about them mean nothing."""
        yield from (p.path for p in (self.document.problems if self.document else ()) if p.hides)
        yield from (setting.path for setting in self.settings if setting.fault is not None and setting.path)


@dataclass(frozen=True)
class _Fault:
    """What the schema has against one key path. `types`: pydantic's names, several where a union had several tries."""

    path: KeyPath
    types: list[str] = field(default_factory=list)
    value: Any = None
    message: str = ""


def build_config(data: dict[str, Any], origin: Origin) -> Config:
    """The validated config. Raises ConfigError with one line for each fault, in the order of their places."""
    findings = list(origin.findings())
    hidden = set(origin.hidden())
    config, errors = _validate(data)
    faults = [fault for fault in _field_faults(errors) if not _is_hidden(fault, hidden, origin)]
    faults.sort(key=lambda fault: origin.place(fault.path, of_key=_is_unknown(fault))[0])
    findings += [_word_fault(fault, origin) for fault in faults[:MAX_SHOWN]]
    if len(faults) <= MAX_SHOWN:
        findings += [_word_rule(rule, origin) for rule in _rules(data, errors, faults, hidden)]
        findings += _space_findings(data, faults, hidden, origin)
    if config is not None:
        findings += _fold_findings(config, origin)
    if findings or config is None:
        raise_findings(findings, unshown=max(0, len(faults) - MAX_SHOWN))
    return config


def raise_findings(findings: Sequence[Finding], unshown: int = 0, hint: str | None = SCHEMA_HINT) -> NoReturn:
    """Raise the ConfigError that lists the first MAX_SHOWN of `findings`; `unshown` more exist."""
    lines = [finding.line for finding in sorted(findings)]
    unshown += len(lines[MAX_SHOWN:])
    more = [f"... and {unshown} more"] if unshown else []
    raise ConfigError("\n".join(lines[:MAX_SHOWN] + more), hint)


def _validate(data: dict[str, Any]) -> tuple[Config | None, list[Any]]:
    try:
        return Config.model_validate(data), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _field_faults(errors: list[Any]) -> list[_Fault]:
    """The errors of single keys, one a path; where the branches of a union differ in depth, those that got furthest."""
    faults: dict[KeyPath, _Fault] = {}
    for error in errors:
        if error["type"] == "value_error":
            continue
        path = key_path(error["loc"])
        if error["type"] == "missing" and isinstance(path[-1], int):
            path = path[:-1]  # an item too few is a fault of the list, which is then the input too
        faults.setdefault(path, _Fault(path, [], error["input"])).types.append(error["type"])
    inner = {path[:depth] for path in faults for depth in range(len(path))}
    return [fault for path, fault in faults.items() if path not in inner]


def _is_unknown(fault: _Fault) -> bool:
    return fault.types == ["extra_forbidden"]


def _is_missing(fault: _Fault) -> bool:
    return fault.types == ["missing"] and section_keys(fault.path[:-1]) != []


def _is_hidden(fault: _Fault, hidden: set[KeyPath], origin: Origin) -> bool:
    """Whether a fault only follows from a value that could not be read."""
    if origin.sets(fault.path):
        return False
    if _is_missing(fault) and any(path[: len(fault.path)] == fault.path for path in hidden):
        return True
    return any(fault.path[:depth] in hidden for depth in range(len(fault.path) + 1))


def _word_fault(fault: _Fault, origin: Origin) -> Finding:
    order, place = origin.place(fault.path, of_key=_is_unknown(fault))
    return Finding(order, f"{place}: {show_key(fault.path)}: {_describe_fault(fault)}")


def _describe_fault(fault: _Fault) -> str:
    if _is_unknown(fault):
        return _describe_unknown(fault.path)
    expected = describe_expected(fault.path)
    if _is_missing(fault) and takes_sections(fault.path):
        return f"required section is missing (expected {expected})"
    telling = [kind for kind in fault.types if not kind.endswith("_type")]
    what = _KINDS.get(telling[0], "not allowed") if telling else "wrong type"
    return f"{what} (found {show_value(fault.value)}; expected {expected})"


def _describe_unknown(path: KeyPath) -> str:
    key = str(path[-1])
    if key in all_keys() and "." in key:
        section, _, last = key.rpartition(".")
        return f"unknown key; keys are nested, not dotted, in a file: put '{last}' into the section '{section}'"
    suggestions = suggest_keys(path)
    if suggestions:
        return f"unknown key; did you mean {' or '.join(suggestions)}?"
    return f"unknown key; known here: {', '.join(section_keys(path[:-1]))}"


def _rules(data: dict[str, Any], errors: list[Any], faults: list[_Fault], hidden: set[KeyPath]) -> Iterator[_Fault]:
    """Broken rules between keys. Pydantic checks a section's rules only when its keys are sound, so keys at fault are
    left out and the rest is tried again; a rule that speaks of such a key proves nothing and is passed over.
    """
    doubtful = {_cut_at_item(path) for path in (*hidden, *(fault.path for fault in faults))}
    if doubtful:
        errors = _validate(_without(data, doubtful))[1]
    for path in list(doubtful):
        if path and path[-1] not in section_keys(path[:-1]):
            doubtful |= {tuple(name.split(".")) for name in suggest_keys(path)}
    for section, message in _broken_rules(errors):
        if not any((*section, key) in doubtful for key in _keys_in(message, section)):
            yield _Fault(section, message=message)


def _word_rule(rule: _Fault, origin: Origin) -> Finding:
    """A rule stands where a --set touched it, else at the first of its keys that the file has, else at its section."""
    paths = [(*rule.path, key) for key in _keys_in(rule.message, rule.path)]
    marks = origin.document.values if origin.document else {}
    candidates = [p for p in paths if origin.sets(p)] + [p for p in paths if p in marks] + [rule.path]
    order, place = origin.place(candidates[0])
    key = f"{show_key(rule.path)}: " if rule.path else ""
    return Finding(order, f"{place}: {key}{rule.message}")


def _space_findings(data: dict[str, Any], faults: list[_Fault], hidden: set[KeyPath], origin: Origin) -> list[Finding]:
    """What is wrong with `tune.space`, as far as the rest of the config is sound."""
    sound = _without(data, {_cut_at_item(path) for path in (*hidden, *(fault.path for fault in faults))})
    tune = sound.get("tune")
    space = tune.get("space") if isinstance(tune, dict) else None
    if not isinstance(space, dict):
        return []
    space = {key: search for key, search in space.items() if isinstance(search, dict)}
    searched = {tuple(key.split(".")) for key in space}

    def judge(changed: dict[str, Any], path: KeyPath) -> str | None:
        errors = _validate({**changed, "tune": None, "data": {"path": "rows.h5"}})[1]
        if path:
            at_path = [fault for fault in _field_faults(errors) if fault.path[: len(path)] == path]
            return _describe_fault(at_path[0]) if at_path else None
        for section, message in _broken_rules(errors):
            if any((*section, key) in searched for key in _keys_in(message, section)):
                return message
        return None

    findings = []
    for path, of_key, text in list_space_faults({**sound, "tune": {"space": space}}, judge):
        order, place = origin.place(path, of_key=of_key)
        findings.append(Finding(order, f"{place}: {show_key(path)}: {text}"))
    return findings


def _fold_findings(config: Config, origin: Origin) -> list[Finding]:
    """Whether the split makes as many folds as the search wants."""
    folds = round(1 / config.split.validation_fraction)
    if config.tune is None or config.split.strategy in ("tail", "file") or config.tune.folds <= folds:
        return []
    path = (*SPACE[:1], "folds")
    order, place = origin.place(path)
    made = f"split.validation_fraction {config.split.validation_fraction} makes {folds} folds"
    return [Finding(order, f"{place}: {show_key(path)}: it is {config.tune.folds}, but {made}")]


def _broken_rules(errors: list[Any]) -> list[tuple[KeyPath, str]]:
    """The section and the text of each rule between keys that is broken."""
    rules = [error for error in errors if error["type"] == "value_error"]
    return [(key_path(error["loc"]), str(error.get("ctx", {}).get("error", ""))) for error in rules]


def _keys_in(message: str, section: KeyPath) -> list[str]:
    """The keys of a section that a message speaks of, in its order."""
    known = set(section_keys(section))
    return [word for word in re.findall(r"\w+", message) if word in known]


def _cut_at_item(path: KeyPath) -> KeyPath:
    """The path up to its first list item: an item cannot be left out without moving the others."""
    for depth, part in enumerate(path):
        if isinstance(part, int):
            return path[:depth]
    return path


def _without(value: Any, paths: set[KeyPath], at: KeyPath = ()) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without(inner, paths, (*at, key)) for key, inner in value.items() if (*at, key) not in paths}

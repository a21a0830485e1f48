"""`--set KEY=VALUE`: parsed one by one, then laid over the data of a config."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pointcnn_cli.config.wording import shorten
from pointcnn_cli.config.yaml_source import parse_yaml


@dataclass(frozen=True)
class Setting:
    """One `--set`. `fault` says why it cannot be used; `path` is empty where the key itself is at fault."""

    text: str
    path: tuple[str, ...]
    value: Any = None
    fault: str | None = None

    @property
    def place(self) -> str:
        return f"--set {shorten(self.text)}"


def parse_settings(overrides: Sequence[str]) -> list[Setting]:
    """Read each KEY=VALUE: a dotted key, and a value in YAML (empty is null). Faults are recorded, not raised."""
    return [_parse_setting(text) for text in overrides]


def _parse_setting(text: str) -> Setting:
    key, sign, written = text.partition("=")
    if not sign:
        return Setting(text, (), fault="'=' is missing; write KEY=VALUE, as in train.epochs=50")
    path = tuple(part.strip() for part in key.split("."))
    if not all(path):
        return Setting(text, (), fault="the key, or a part of it, is empty; write KEY=VALUE, as in train.epochs=50")
    document = parse_yaml(written)
    if document.problems:
        faults = "; ".join(problem.text for problem in document.problems)
        return Setting(text, path, fault=f"the value cannot be used: {faults}")
    return Setting(text, path, document.data)


def apply_settings(data: dict[str, Any], settings: Sequence[Setting]) -> None:
    """Lay the usable settings over `data` in place; later ones win. Sections that are missing or null are made.

    Naming one source of rows replaces the other: a non-null `data.path` clears `data.simulate` and the reverse, unless
    both were set here, which the schema then refuses.
    """
    usable = [setting for setting in settings if setting.fault is None]
    for setting in usable:
        _put(data, setting)
    section = data.get("data")
    if not isinstance(section, dict):
        return
    touched = {setting.path[1] for setting in usable if setting.path[0] == "data" and len(setting.path) > 1}
    chosen = {key for key in ("path", "simulate") if key in touched and section.get(key) is not None}
    if len(chosen) == 1:
        section[{"path": "simulate", "simulate": "path"}[chosen.pop()]] = None


def _put(data: dict[str, Any], setting: Setting) -> None:
    *parents, last = setting.path
    section = data
    for key in parents:
        inner = section.get(key)
        if not isinstance(inner, dict):
            inner = section[key] = {}
        section = inner
    section[last] = setting.value

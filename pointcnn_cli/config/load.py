"""Configs from and to YAML: read with every fault at once, overridden, and written so that they read back equal."""

import difflib
import glob
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from pointcnn_cli.config.overrides import Setting, apply_settings, parse_settings
from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.sentences import read_sentences
from pointcnn_cli.config.validation import Finding, Origin, build_config, raise_findings
from pointcnn_cli.config.yaml_source import MAX_BYTES, NUMBER, Document, parse_yaml
from pointcnn_cli.errors import ConfigError, RunError

STDIN: Final = "-"
SYNTAX_HINT: Final = "Indent with spaces, put a space after the colon of `key: value`, quote special characters."
_LONGEST_NAME: Final = 100  # as the pattern of `name` in the schema
_GLOB_CHARACTERS: Final = "*?["


def load_config(source: str | Path, overrides: Sequence[str] = (), *, stdin_text: str | bytes | None = None) -> Config:
    """Read a config from a YAML file, or from `stdin_text` where `source` is `-`, with `--set` overrides on top.

    A null `name` becomes the file's stem. Setting one of data.path and data.simulate clears the other.
    Raises ConfigError: the file cannot be read, or one line for every fault in it and in the overrides.
    """
    is_stdin = str(source) == STDIN
    text = (stdin_text or b"") if is_stdin else _read_text(Path(source))
    name = "<stdin>" if is_stdin else str(source)
    document = parse_yaml(text)
    origin = Origin(name, document, parse_settings(overrides))
    data = _check_mapping(document, origin)
    apply_settings(data, origin.settings)
    config = build_config(data, origin)
    if config.name is not None:
        return config
    return config.model_copy(update={"name": "stdin" if is_stdin else _clean_name(Path(source).stem)})


def load_resolved(path: Path) -> Config:
    """Read the config.yaml that a run stored. Raises RunError: it is missing or damaged."""
    try:
        return load_config(path)
    except ConfigError as error:
        raise RunError(error.message, "Of a run's config.yaml only train.epochs may be edited.") from error


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The config of a finished run with other `data.*` settings. Raises ConfigError, also for keys outside `data`."""
    origin = Origin("the run's config", None, parse_settings(overrides))
    outside = [
        Finding((0, number), f"{setting.place}: only keys of 'data' can be set here, as in data.path=FILE")
        for number, setting in enumerate(origin.settings)
        if setting.path and (setting.path[0] != "data" or len(setting.path) == 1)
    ]
    if outside:
        raise_findings([*outside, *origin.findings()])
    data = _to_plain(config)
    apply_settings(data, origin.settings)
    return build_config(data, origin)


def with_values(config: Config, values: Mapping[str, Any], origin: str) -> Config:
    """The config with dotted keys set to `values`, and without its search. Raises ConfigError, which names `origin`,
    where the schema does not take them."""
    data = {**_to_plain(config), "tune": None}
    apply_settings(data, [Setting(f"{key}={value}", tuple(key.split(".")), value) for key, value in values.items()])
    return build_config(data, Origin(origin))


def resolve_paths(config: Config, base: Path | None = None) -> Config:
    """The config with data.path and split.file absolute, from `base` or the working directory. Globs and lists stay."""
    folder = Path.cwd() if base is None else base.absolute()
    path = config.data.path
    if isinstance(path, str):
        path = _make_absolute(path, folder)
    elif path is not None:
        path = tuple(_make_absolute(one, folder) for one in path)
    file = config.split.file and str(folder / config.split.file)
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": path}),
            "split": config.split.model_copy(update={"file": file}),
        }
    )


def dump_config(config: Config) -> str:
    """The config as YAML: every key, in the order of the schema; `load_config` reads back an equal config."""
    text = yaml.dump(_to_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return str(text)


def dump_value(value: Any) -> str:
    """A value as it is written behind its key in YAML, on one line."""
    text = yaml.dump(_to_plain(value), Dumper=_LineDumper, allow_unicode=True, width=sys.maxsize)
    return str(text).removesuffix("\n").removesuffix("\n...")


def config_json_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, for editors and scripts."""
    schema = Config.model_json_schema()
    for name, section in {Config.__name__: schema, **schema["$defs"]}.items():
        for key, sentence in read_sentences(name).items():
            section["properties"][key]["description"] = sentence
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "pointcnn config",
    }


def _read_text(path: Path) -> bytes:
    """The first bytes of a file, one more than a config may have. Also reads pipes, as in `pointcnn train <(...)`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", _hint_for_missing(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a directory, not a config file", _hint_for_directory(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}", "Check the name and the file's permissions.") from None


def _hint_for_missing(path: Path) -> str:
    """Name YAML files with similar names, next to where the file should be and in configs/; else any that are there."""
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist either; the working directory is {Path.cwd()}."
    neighbours = {file.stem: file for folder in (Path("configs"), path.parent) for file in _list_yaml(folder)}
    near = difflib.get_close_matches(path.stem, neighbours, n=3)
    if near:
        return f"Did you mean {' or '.join(str(neighbours[stem]) for stem in near)}?"
    if neighbours:
        return f"Configs nearby: {', '.join(str(file) for file in sorted(neighbours.values())[:10])}."
    return "Write one for your data with `pointcnn config init my.yaml --data FILE.h5`."


def _hint_for_directory(path: Path) -> str:
    if (path / "config.yaml").is_file():
        return f"Give the file in it: {path / 'config.yaml'}."
    files = _list_yaml(path)
    return f"Give a file in it: {', '.join(map(str, files[:10]))}." if files else "Give a YAML file."


def _list_yaml(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    except OSError:
        return []


def _check_mapping(document: Document, origin: Origin) -> dict[str, Any]:
    """The top level of the document. Raises ConfigError where it is not keys and values."""
    if isinstance(document.data, dict):
        return document.data
    findings = list(origin.findings())
    if document.problems:
        malformed = any("not valid YAML" in finding.line for finding in findings)
        raise_findings(findings, hint=SYNTAX_HINT if malformed else None)
    if document.data is None:
        what = "the config is empty"
    else:
        kind = "a list" if isinstance(document.data, list) else "a single value"
        what = f"expected keys such as 'data:' at the top level, found {kind}"
    raise ConfigError(f"{origin.name}:1:1: {what}", "A config needs at least `data: {path: FILE.h5}`.")


def _clean_name(stem: str) -> str:
    """A file's stem with what the pattern of `name` does not allow replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:_LONGEST_NAME] or "config"


def _make_absolute(path: str, folder: Path) -> str:
    """`path` from `folder`. Special characters of the folder itself are escaped where `path` is a glob."""
    if os.path.isabs(path):
        return path
    start = glob.escape(str(folder)) if any(character in path for character in _GLOB_CHARACTERS) else str(folder)
    return str(Path(start) / path)


def _to_plain(value: Any) -> Any:
    """Sections to dicts in the order of the schema, dicts sorted by key, tuples to lists."""
    if isinstance(value, BaseModel):
        return {key: _to_plain(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, dict):
        return {key: _to_plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes what YAML 1.1 would misread, made to quote what YAML 1.2 would misread too."""

    def represent_short_list(self, items: list[Any]) -> yaml.Node:
        """A list on one line where it is short."""
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=len(repr(items)) <= 80)

    def represent_escaped(self, text: str) -> yaml.Node:
        """Text, escaped where it holds line breaks and the like, of which PyYAML would lose some in a round trip."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


class _LineDumper(_Dumper):
    """The same with everything on one line."""

    def represent_line_list(self, items: list[Any]) -> yaml.Node:
        """A list on one line, however long."""
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)

    def represent_line_dict(self, items: dict[str, Any]) -> yaml.Node:
        """A mapping on one line."""
        return self.represent_mapping("tag:yaml.org,2002:map", items, flow_style=True)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{NUMBER.pattern})\Z"), list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"(?:0o[0-7]+|0x[0-9a-fA-F]+)\Z"), ["0"])
_Dumper.add_representer(str, _Dumper.represent_escaped)
_Dumper.add_representer(list, _Dumper.represent_short_list)
_LineDumper.add_representer(list, _LineDumper.represent_line_list)
_LineDumper.add_representer(dict, _LineDumper.represent_line_dict)

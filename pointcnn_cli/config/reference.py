"""The reference of all config keys as Markdown, from the schema: what each takes, its default, and its sentence."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.wording import describe_expected, show_value

HEAD: Final = """\
# Config reference

Every key that a config may have. This page is made from the schema (`pointcnn config reference`), so it cannot lag
behind it. A key that is left out has its default; what is optional is switched off with `null`. Each key can be set for
one command with `--set KEY=VALUE`, which takes YAML and goes before the file.
"""
REQUIRED: Final = "(must be given)"


def describe_config() -> str:
    """All sections as Markdown, in the order of the schema; ends with a line feed."""
    return "\n".join([HEAD, *_describe_section(Config, ())]).rstrip("\n") + "\n"


def _describe_section(section: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    """A heading, a table of the plain keys, then the sections below."""
    fields: Mapping[str, FieldInfo] = section.model_fields
    below = {name: model for name, info in fields.items() if (model := find_section(info.annotation))}
    yield f"## {'`' + '.'.join(path) + '`' if path else 'Top level'}"
    yield ""
    yield _join(section.__doc__)
    yield ""
    yield "| key | takes | default | |"
    yield "|---|---|---|---|"
    for name, info in fields.items():
        key = ".".join((*path, name))
        takes = f"a section, [below](#{key.replace('.', '')})" if name in below else describe_expected((*path, name))
        if name in below and _may_be_null(info):
            takes += ", or null"
        yield f"| `{key}` | {_escape(takes)} | {_describe_default(info)} | {_escape(_join(info.description))} |"
    yield ""
    for name, model in below.items():
        yield from _describe_section(model, (*path, name))


def find_section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be null."""
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _may_be_null(info: FieldInfo) -> bool:
    return type(None) in getattr(info.annotation, "__args__", ())


def _describe_default(info: FieldInfo) -> str:
    if info.is_required():
        return REQUIRED
    if isinstance(info.default, BaseModel):
        return "its keys' defaults"
    value = list(info.default) if isinstance(info.default, tuple) else info.default
    return f"`{_escape(show_value(value))}`"


def _join(text: str | None) -> str:
    return " ".join((text or "").split())


def _escape(text: str) -> str:
    """Fit for a cell of a table."""
    return text.replace("|", "\\|")

"""The reference of all config keys as Markdown, from the schema: what each takes, its default, and its sentence."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.sentences import read_sentences
from pointcnn_cli.config.wording import describe_expected, show_value

HEAD: Final = """\
# Config reference

Every key that a config may have. This page is made from the schema (`pointcnn config reference`), so it cannot lag
behind it. A key that is left out has its default; what is optional is switched off with `null`. Each key can be set for
one command with `--set KEY=VALUE`, which takes YAML and goes before the file.
"""
REQUIRED: Final = "(must be given)"
ANY_KEY: Final = "KEY"


def describe_config() -> str:
    """All sections as Markdown, in the order of the schema; ends with a line feed."""
    return "\n".join([HEAD, *_describe_section(Config, ())]).rstrip("\n") + "\n"


def _describe_section(section: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    """A heading, a table of the plain keys, then the sections below."""
    fields: Mapping[str, FieldInfo] = section.model_fields
    below = {name: model for name, info in fields.items() if (model := _find_below(info.annotation))}
    yield f"## {'`' + '.'.join(path) + '`' if path else 'Top level'}"
    yield ""
    yield _join(section.__doc__)
    yield ""
    yield "| key | takes | default | |"
    yield "|---|---|---|---|"
    sentences = read_sentences(section.__name__)
    for name, info in fields.items():
        key = ".".join((*path, name))
        sentence = sentences.get(name, "")
        takes = _link_section(info, (*path, name)) if name in below else describe_expected((*path, name))
        if name in below and _may_be_null(info):
            takes += ", or null"
        yield f"| `{key}` | {_escape(takes)} | {_describe_default(info)} | {_escape(sentence)} |"
    yield ""
    for name, model in below.items():
        yield from _describe_section(model, _path_below(fields[name], (*path, name)))


def find_section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be null."""
    if get_origin(annotation) is dict:
        return None
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _find_below(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or holds for each of its keys."""
    if get_origin(annotation) is dict:
        return find_section(get_args(annotation)[1])
    return find_section(annotation)


def _path_below(info: FieldInfo, path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of the section that a field holds; of sections by any key, that of each."""
    return (*path, ANY_KEY) if get_origin(info.annotation) is dict else path


def _link_section(info: FieldInfo, path: tuple[str, ...]) -> str:
    below = _path_below(info, path)
    what = "a section" if below == path else "keys, each with a section"
    return f"{what}, [below](#{''.join(below).lower()})"


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

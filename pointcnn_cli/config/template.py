"""Configs for people to edit: keys with comments. The template of all keys takes its words from the schema alone."""

import textwrap
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from pointcnn_cli.config.load import dump_value
from pointcnn_cli.config.reference import find_section
from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.sentences import read_sentences
from pointcnn_cli.config.wording import describe_expected

WIDTH = 110
PLACEHOLDER = "my_data.h5"
_HEAD = (
    "Every key of a pointcnn config with its default, from the schema of this version. Keep what you change and leave "
    "out the rest. `pointcnn config init --data FILE` writes a shorter one for a data file, with reasons."
)


def render_template(path: str = PLACEHOLDER) -> str:
    """A config with every key at its default and `path` as its data, each with the schema's own sentence; sections
    that are off by default are there as comments."""
    lines = [*render_comment(_HEAD), "", *_render_section(Config, (), {("data", "path"): path}, "")]
    return "\n".join(lines) + "\n"


def render_comment(text: str, indent: str = "") -> Iterator[str]:
    """The lines of a comment. What a file's names may hold that is not printable is escaped: it could end the
    comment."""
    for line in text.split("\n"):
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
        start = f"{indent}# "
        yield from textwrap.wrap(
            safe, WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
        )  # fmt: skip


def render_key(key: str, value: Any, indent: str) -> str:
    """One key with its value."""
    return f"{indent}{key}: {dump_value(value)}"


def _render_section(
    section: type[BaseModel], at: tuple[str, ...], values: dict[tuple[str, ...], Any], indent: str
) -> Iterator[str]:
    """The keys of a section, each after its sentence and what it takes."""
    for key, field in section.model_fields.items():
        path, inner = (*at, key), find_section(field.annotation)
        about = read_sentences(section.__name__).get(key, "")
        if get_origin(field.annotation) is dict and field.examples:
            yield from render_comment(about, indent)
            yield f"{indent}{key}:"
            yield from _render_entries(get_args(field.annotation)[1], path, field.examples[0], indent + "  ")
        elif inner is None:
            yield from render_comment(f"{about} Takes {describe_expected(path)}.".lstrip(), indent)
            yield render_key(key, values.get(path, field.get_default()), indent)
        elif field.is_required() or field.get_default() is not None:
            yield from render_comment(" ".join((inner.__doc__ or "").split()), indent)
            yield f"{indent}{key}:"
            yield from _render_section(inner, path, values, indent + "  ")
        else:
            yield from render_comment(f"{about or ' '.join((inner.__doc__ or '').split())} To switch it on:", indent)
            yield f"{indent}# {key}:"
            for line in _render_section(inner, path, values, "  "):
                yield f"{indent}# {line}"
            yield render_key(key, None, indent)


def _render_entries(
    section: type[BaseModel], at: tuple[str, ...], example: dict[str, dict[str, Any]], indent: str
) -> Iterator[str]:
    """Sections whose keys are for the user to choose: those of an example."""
    for key, values in example.items():
        yield from render_comment(" ".join((section.__doc__ or "").split()), indent)
        yield f"{indent}{key}:"
        path = (*at, key)
        yield from _render_section(section, path, {(*path, k): v for k, v in values.items()}, indent + "  ")

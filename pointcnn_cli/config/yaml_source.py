"""YAML text into plain data, with the place of every key and value. Nothing else in pointcnn reads YAML.

Scalars follow the YAML 1.2 core schema: `1e-3` is a number, `no` and `1:30` are text, `010` is ten. What surprises
people or lets a small file do harm is refused with its place: aliases, tags, merge keys, duplicate keys, depth, size.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, cast

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

KeyPath = tuple[str | int, ...]

MAX_BYTES: Final = 2**20  # a config is a few kilobytes; one that is larger is some other file
MAX_DEPTH: Final = 20  # the schema is 4 deep; the parser recurses once a level
MAX_VALUES: Final = 10_000  # bounds the time of parsing to about a second
MAX_DIGITS: Final = 400  # longer than any float64 written out, and quick to convert
_INT64: Final = 2**63

_CONSTANTS: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
"""Every decimal number of the core schema, whole ones too. `config.load` quotes text that looks like one."""

_QUOTE_HINTS: Final = (("alias", "*"), ("anchor", "&"), ("tag", "!"), ("directive", "%"))


@dataclass(frozen=True, order=True)
class Mark:
    """A place in the text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """Something that is refused. `hides`: the value at `path` is unknown, and None stands in its place."""

    path: KeyPath
    mark: Mark
    text: str
    hides: bool = True


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None), and where each key and value stands."""

    data: Any
    keys: dict[KeyPath, Mark]
    values: dict[KeyPath, Mark]
    problems: tuple[Problem, ...]


class _Fault(Exception):
    """The text cannot be read any further."""

    def __init__(self, mark: Mark, text: str) -> None:
        super().__init__(text)
        self.mark = mark
        self.text = text


def parse_yaml(source: bytes | str) -> Document:
    """Read one document. Never raises: what is refused is in `problems`, a syntax error there alone, with data None."""
    try:
        return _Builder(_decode(source)).document()
    except _Fault as fault:
        return Document(None, {}, {}, (Problem((), fault.mark, fault.text),))


def resolve_scalar(text: str) -> Any:
    """The value of an unquoted scalar by the YAML 1.2 core schema. Raises ValueError for a number that is too large."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    if not (NUMBER.fullmatch(text) or _OCTAL_OR_HEX.fullmatch(text)):
        return text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters is too long")
    if _DECIMAL.fullmatch(text) or _OCTAL_OR_HEX.fullmatch(text):
        whole = int(text) if _DECIMAL.fullmatch(text) else int(text, 0)
        if not -_INT64 <= whole < _INT64:
            raise ValueError(f"the number {_shorten(text)} does not fit into 64 bits")
        return whole
    number = float(text)
    if abs(number) == float("inf"):
        raise ValueError(f"the number {_shorten(text)} is too large")
    return number


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _decode(source: bytes | str) -> str:
    """Text of the source, or a fault at the first character that YAML or pointcnn does not allow."""
    if len(source) > MAX_BYTES:
        raise _Fault(Mark(1, 1), f"larger than {MAX_BYTES} bytes, which no config is")
    if isinstance(source, bytes):
        source = _decode_bytes(source)
    if source.startswith("\ufeff"):
        raise _Fault(Mark(1, 1), "the file starts with a byte order mark; save it as UTF-8 without one")
    found = yaml.reader.Reader.NON_PRINTABLE.search(source)
    if found:
        text = f"the character U+{ord(found.group()):04X} is not allowed in YAML"
        raise _Fault(_mark_at(source, found.start()), text)
    return source


def _decode_bytes(source: bytes) -> str:
    if source.startswith(b"\x89HDF\r\n"):
        cure = "`pointcnn config init --data` writes one for it"
        raise _Fault(Mark(1, 1), f"this is an HDF5 file, not a YAML config; {cure}")
    if source.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Fault(Mark(1, 1), "the text is UTF-16; save it as UTF-8")
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError as error:
        before = source[: error.start].decode("utf-8")
        found = f"byte 0x{source[error.start]:02x}"
        raise _Fault(_mark_at(before, len(before)), f"the text is not UTF-8 ({found}); save it as UTF-8") from None


def _mark_at(text: str, index: int) -> Mark:
    return Mark(text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _mark(mark: Any) -> Mark:
    """PyYAML's mark, which counts from 0 and may be absent, as ours."""
    return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)


class _Builder:
    """Builds data from PyYAML's events, which come without recursion and without expanding aliases."""

    def __init__(self, text: str) -> None:
        self._loader = yaml.SafeLoader(text)
        self._keys: dict[KeyPath, Mark] = {}
        self._values: dict[KeyPath, Mark] = {}
        self._problems: list[Problem] = []
        self._count = 0

    def document(self) -> Document:
        data = None
        self._next()  # the start of the stream
        if isinstance(self._next(), DocumentStartEvent):
            data = self._node(self._next(), (), 0)
            self._next()  # the end of the document
            following = self._next()
            if not isinstance(following, StreamEndEvent):
                raise _Fault(_mark(following.start_mark), "a second document starts here; a config is one document")
        return Document(data, self._keys, self._values, tuple(self._problems))

    def _next(self) -> Event:
        try:
            event: Event = self._loader.get_event()  # type: ignore[no-untyped-call]
            return event
        except yaml.MarkedYAMLError as error:
            raise _Fault(_mark(error.problem_mark or error.context_mark), _explain(error)) from None
        except (ValueError, OverflowError):  # PyYAML on escapes and directives with absurd numbers
            mark = _mark(self._loader.get_mark())
            raise _Fault(mark, "not valid YAML: an escape or directive is malformed") from None

    def _refuse(self, path: KeyPath, event: Event, text: str, *, hides: bool = True) -> None:
        self._problems.append(Problem(path, _mark(event.start_mark), text, hides))

    def _node(self, event: Event, path: KeyPath, depth: int) -> Any:
        self._count += 1
        if depth >= MAX_DEPTH:
            raise _Fault(_mark(event.start_mark), f"nested deeper than {MAX_DEPTH} levels")
        if self._count > MAX_VALUES:
            raise _Fault(_mark(event.start_mark), f"more than {MAX_VALUES} values, which no config has")
        self._values.setdefault(path, _mark(event.start_mark))
        if isinstance(event, AliasEvent):
            text = f"an alias (*{event.anchor}) is not supported; write the value out, or quote the text"
            self._refuse(path, event, text)
            return None
        self._check_properties(event, path)
        if isinstance(event, MappingStartEvent):
            return self._mapping(path, depth + 1)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(path, depth + 1)
        return self._scalar(cast(ScalarEvent, event), path)

    def _check_properties(self, event: Event, path: KeyPath) -> None:
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor is not None:
            self._refuse(path, event, f"an anchor (&{anchor}) is not supported; write the value out", hides=False)
        if tag is not None:
            tag = _shorten(tag.replace("tag:yaml.org,2002:", "!!"))
            self._refuse(path, event, f"a tag ({tag}) is not supported; leave it out, or quote the text")

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key = self._key(event, path, depth)
            if key is None:  # refused; its value is read to get past it
                self._node(self._next(), (*path, "?"), depth)
                continue
            place = (*path, key)
            if key in result:
                text = f"duplicate key (first on line {self._keys[place].line})"
                self._refuse(place, event, text, hides=False)
            self._keys.setdefault(place, _mark(event.start_mark))
            value = self._node(self._next(), place, depth)
            result.setdefault(key, value)
        return result

    def _key(self, event: Event, path: KeyPath, depth: int) -> str | None:
        """A key as text, or None after refusing it."""
        if not isinstance(event, ScalarEvent):
            self._refuse(path, event, "a key must be plain text", hides=False)
            if not isinstance(event, AliasEvent):
                self._node(event, (*path, "?"), depth)
            return None
        written = _shorten(event.value)
        place = (*path, written)
        before = len(self._problems)
        self._check_properties(event, place)
        key = self._scalar(event, place)
        if len(self._problems) > before:
            return None
        if not isinstance(key, str):
            self._refuse(place, event, f'a key must be text; quote it: "{written}"')
            return None
        if key == "<<" and event.implicit[0]:
            self._refuse(place, event, "a merge key (<<) is not supported; write the keys out")
            return None
        return key

    def _sequence(self, path: KeyPath, depth: int) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            result.append(self._node(event, (*path, len(result)), depth))
        return result

    def _scalar(self, event: ScalarEvent, path: KeyPath) -> Any:
        if re.search("[\0\ud800-\udfff]", event.value):  # written as an escape; no file name or class name holds these
            self._refuse(path, event, "text must not hold NUL or half of a surrogate pair")
            return None
        if not event.implicit[0]:  # quoted, or a block of text
            return event.value
        try:
            return resolve_scalar(event.value)
        except ValueError as error:
            self._refuse(path, event, str(error))
            return None


def _explain(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's message in one line, with the cure where the cause is a common one."""
    problem = error.problem or error.context or "it cannot be parsed"
    if "found character '\\t'" in problem:
        return "a tab stands where YAML allows only spaces"
    odd = re.search(r"found character '([@`%])' that cannot start", problem)
    if odd:
        return f"text that starts with {odd.group(1)} must be quoted"
    context = error.context or ""
    for what, sign in _QUOTE_HINTS:
        if context.startswith(("while scanning an ", "while scanning a ")) and what in context:
            return f"text that starts with {sign} must be quoted ({problem})"
    if not context or context == problem:
        return f"not valid YAML: {problem}"
    where = f" that starts on line {error.context_mark.line + 1}" if error.context_mark else ""
    return f"not valid YAML: {problem} ({context}{where})"

"""The YAML source: core scalars of YAML 1.2, and every hazard refused with its line and column."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.wording import all_keys
from pointcnn_cli.config.yaml_source import MAX_BYTES, Mark, parse_yaml
from pointcnn_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001), ("1E-3", 0.001), ("1e+3", 1000.0), ("1.0e3", 1000.0), (".5", 0.5), ("5.", 5.0),
        ("-0.25", -0.25), ("010", 10), ("+7", 7), ("-7", -7), ("0x1f", 31), ("0o17", 15),
        ("9223372036854775807", 2**63 - 1), (".inf", float("inf")), ("-.INF", -float("inf")),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("y", "y"), ("1:30", "1:30"),
        ("1_000", "1_000"), ("0b101", "0b101"), ("2024-01-02", "2024-01-02"), ("=", "="), ("nan", "nan"), ("1e", "1e"),
        ("'5'", "5"), ('"true"', "true"), ("a b", "a b"), ("'<<'", "<<"), ("\u0661", "\u0661"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(written: str, value: Any) -> None:
    document = parse_yaml(f"key: {written}\n")
    assert document.problems == ()
    found = document.data["key"]
    assert (found, type(found)) == (value, type(value))


def test_every_key_and_value_has_its_place() -> None:
    document = parse_yaml("a: 1\nb:\n  c: [x, {d: y}]\n")
    assert document.data == {"a": 1, "b": {"c": ["x", {"d": "y"}]}}
    assert document.keys[("b", "c")] == Mark(3, 3)
    assert document.values[("b", "c", 0)] == Mark(3, 7)
    assert document.keys[("b", "c", 1, "d")] == Mark(3, 11)
    assert document.values[("b", "c", 1, "d")] == Mark(3, 14)


HAZARDS: list[tuple[str | bytes, str]] = [
    ("a: &x 1", "1:4: a: an anchor (&x) is not supported"),
    ("b: *x", "1:4: b: an alias (*x) is not supported"),
    ("a: &x [*x]", "1:8: a[0]: an alias (*x) is not supported"),
    ("*x : 1", "1:1: a key must be plain text"),
    ("a: *.h5", "1:5: text that starts with * must be quoted"),
    ("a: !!python/object:os.system {}", "1:4: a: a tag (!!python/object:os.system) is not supported"),
    ("a: !local 1", "1:4: a: a tag (!local) is not supported"),
    ("a: !!str 1", "1:4: a: a tag (!!str) is not supported"),
    ("! a: 1", "1:1: a: a tag (!) is not supported"),
    ("a: 1\na: 2", "2:1: a: duplicate key (first on line 1)"),
    ("a: {b: 1,\n 'b': 2}", "2:2: a.b: duplicate key (first on line 1)"),
    ("1: 2", '1:1: 1: a key must be text; quote it: "1"'),
    ("true: 2", '1:1: true: a key must be text; quote it: "true"'),
    ("~: 2", '1:1: ~: a key must be text; quote it: "~"'),
    ("? [a]\n: 1", "1:3: a key must be plain text"),
    ("{[a]: 1}", "1:2: a key must be plain text"),
    ("<<: {a: 1}", "1:1: <<: a merge key (<<) is not supported"),
    ("a: 1\n---\nb: 2", "2:1: a second document starts here"),
    ("a: 1\n...\nb", "not valid YAML: expected '<document start>'"),
    ("a: " + "[" * 21 + "]" * 21, "1:23: nested deeper than 20 levels"),
    ("[" * 3000, "1:21: nested deeper than 20 levels"),
    ("{a: " * 3000, "nested deeper than 20 levels"),
    ("? " * 3000, "nested deeper than 20 levels"),
    ("- " * 3000, "nested deeper than 20 levels"),
    ("a: " + "9" * 5000, "1:4: a: a number of 5000 characters is too long"),
    ("a: 9223372036854775808", "1:4: a: the number 9223372036854775808 does not fit into 64 bits"),
    ("a: 0x" + "f" * 17, "does not fit into 64 bits"),
    ("a: 1e400", "1:4: a: the number 1e400 is too large"),
    ("a: \0", "1:4: the character U+0000 is not allowed in YAML"),
    ("a: \x1b[31m", "1:4: the character U+001B is not allowed in YAML"),
    ('a: "\\0"', "1:4: a: text must not hold NUL"),
    ('a: "\\ud800"', "1:4: a: text must not hold NUL or half of a surrogate pair"),
    ('"\\ud800": 1', "text must not hold NUL or half of a surrogate pair"),
    ('a: "\\UFFFFFFFF"', "not valid YAML: an escape or directive is malformed"),
    ("%YAML " + "1" * 5000 + ".1\n---\na: 1", "not valid YAML"),
    ("%YAML 9.1\n---\na: 1", "not valid YAML: found incompatible YAML document"),
    ("a:\n\tb: 1", "2:1: a tab stands where YAML allows only spaces"),
    ("\ufeffa: 1", "1:1: the file starts with a byte order mark"),
    (b"\xef\xbb\xbfa: 1", "1:1: the file starts with a byte order mark"),
    ("a: 1".encode("utf-16"), "1:1: the text is UTF-16; save it as UTF-8"),
    ("b: 1\na: é".encode("latin-1"), "2:4: the text is not UTF-8 (byte 0xe9)"),
    (b"\x89HDF\r\n\x1a\n\0\0", "1:1: this is an HDF5 file, not a YAML config"),
    (b"#" * (MAX_BYTES + 1), f"1:1: larger than {MAX_BYTES} bytes"),
    ("a: @b", "1:4: text that starts with @ must be quoted"),
    ("a: b: c", "1:5: not valid YAML: mapping values are not allowed here"),
    ("a: [1, 2", "1:9: not valid YAML: expected ',' or ']'"),
    ("a: 'x", "not valid YAML: found unexpected end of stream"),
    ("a: 1\nb", "2:2: not valid YAML: could not find expected ':' (while scanning a simple key that starts on line 2)"),
    ("- a\n- b", "1:1: expected keys such as 'data:' at the top level, found a list"),
    ("just text", "1:1: expected keys such as 'data:' at the top level, found a single value"),
    ("", "1:1: the config is empty"),
    ("# only a comment\n", "1:1: the config is empty"),
    ("---\n...\n", "1:1: the config is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), HAZARDS, ids=[str(number) for number in range(len(HAZARDS))])
def test_a_hazard_is_refused_with_its_place(source: str | bytes, expected: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_config("-", stdin_text=source)
    lines = caught.value.message.splitlines()
    assert all(line.startswith("<stdin>:") for line in lines)
    assert any(expected in line for line in lines), lines
    assert time.process_time() - started < 2


def test_all_refused_things_come_in_one_pass() -> None:
    text = "a: &x 1\na: 2\n1: 2\nb: !t 3\nc: *x\nd: 1e999\n"
    assert [problem.mark.line for problem in parse_yaml(text).problems] == [1, 2, 3, 4, 5, 6]


def test_a_refused_value_is_not_blamed_by_the_schema_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("-", stdin_text="data: {path: x}\ntrain: {epochs: !!int 5, batch_size: 99999999999999999999}\n")
    assert len(caught.value.message.splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    ["k: 1\n" * 200_000, "".join(f"k{i}: 1\n" for i in range(90_000)), "- 1\n" * 250_000, "a: " + "x" * 1_000_000],
    ids=["duplicates", "keys", "items", "one long value"],
)
def test_a_large_file_ends_soon(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError):
        load_config("-", stdin_text=text)
    assert time.process_time() - started < 10


def check_ends_in_config_or_error(source: str | bytes, overrides: tuple[str, ...] = ()) -> None:
    try:
        assert isinstance(load_config("-", overrides, stdin_text=source), Config)
    except ConfigError as error:
        error.message.encode("utf-8")  # fails on what a terminal could not show


PIECES = st.sampled_from(
    ["data", "path", ": ", ":", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", "&a", "*a", "!!str ", "? ", "|\n", ">-\n",
     "'", '"', "\\U", "%YAML 1.2\n", "---\n", "...", "\t", "1e-3", "<<", "~", "#", "\x85", "\u2028", "@", "0x", ".nan"]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_random_yaml_pieces_end_in_a_config_or_an_error(text: str) -> None:
    check_ends_in_config_or_error(text)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_random_bytes_and_text_end_in_a_config_or_an_error(source: str | bytes) -> None:
    check_ends_in_config_or_error(source)


VALUES = st.recursive(
    st.sampled_from(
        ["null", "true", "-1", "0", "3", "0.5", "1e-3", ".inf", "x", "''", "tail", "file", "adamw", "balanced"]
    ),
    lambda inner: (
        st.lists(inner, max_size=5).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["path", "walk", "patience", "epochs", "zz"]), inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=6,
)
SETTINGS = st.lists(st.tuples(st.sampled_from([*all_keys(), "data.nope", "x"]), VALUES), max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    SETTINGS,
    st.sampled_from(["data: {path: x.h5}", "data: {simulate: {}}", "seed: 0", "data: 5", "train: {epochs: 2}"]),
)
def test_random_values_for_any_key_end_in_a_config_or_an_error(items: list[tuple[str, str]], start: str) -> None:
    check_ends_in_config_or_error(start, tuple(f"{key}={value}" for key, value in items))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=3))
def test_random_set_arguments_end_in_a_config_or_an_error(overrides: list[str]) -> None:
    check_ends_in_config_or_error("data: {path: x.h5}", tuple(overrides))

"""Configs as files: every shipped one loads; names and paths; writing back; the JSON Schema."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointcnn_cli.config.load import (
    config_json_schema,
    dump_config,
    load_config,
    load_resolved,
    resolve_paths,
)
from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.wording import all_keys
from pointcnn_cli.errors import ConfigError, RunError

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
DATA = "data: {path: x.h5}\n"


def load_text(text: str, *overrides: str) -> Config:
    return load_config("-", overrides, stdin_text=text)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_loads_and_reads_back_equal(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert load_text(dump_config(config)) == config


# --- files, names, paths ---


@pytest.mark.parametrize(
    ("file", "name"), [("base.yaml", "base"), ("my run (2).yaml", "my-run-2-"), (".yaml", "yaml"), ("é.yaml", "config")]
)
def test_a_config_without_a_name_takes_the_stem_of_its_file(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_text(DATA)
    assert load_config(tmp_path / file).name == name
    assert load_config(tmp_path / file, ["name=mine"]).name == "mine"


def test_a_config_from_stdin_is_called_stdin() -> None:
    assert load_text(DATA).name == "stdin"
    assert load_config("-", stdin_text=DATA.encode()).name == "stdin"


def test_places_are_in_the_file_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {path: x}\nseed: a\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.message.startswith(f"{file}:2:7: seed: wrong type")
    assert caught.value.exit_code == 4


def test_a_missing_file_is_named_with_its_likely_neighbour(tmp_path: Path) -> None:
    (tmp_path / "radhar.yaml").write_text(DATA)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "radar.yml")
    assert caught.value.message == f"{tmp_path / 'radar.yml'}: no such file"
    assert caught.value.hint == f"Did you mean {tmp_path / 'radhar.yaml'}?"
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "absent" / "radar.yml")
    assert "absent does not exist either" in str(caught.value.hint)


def test_a_missing_file_suggests_the_configs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config("base")
    assert caught.value.hint == "Did you mean configs/base.yaml?"


def test_a_directory_is_refused_and_its_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(DATA)
    with pytest.raises(ConfigError, match="this is a directory") as caught:
        load_config(tmp_path)
    assert str(tmp_path / "config.yaml") in str(caught.value.hint)


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_an_impossible_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(name)


def test_load_resolved_blames_the_run(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(load_text("name: r\n" + DATA)))
    assert load_resolved(file).name == "r"
    file.write_text(file.read_text()[:50])
    with pytest.raises(RunError):
        load_resolved(file)


def test_resolved_paths_are_absolute_and_keep_lists_and_globs(tmp_path: Path) -> None:
    config = load_text(DATA, "data.path=[b.h5, /d/a.h5]", "split.strategy=file", "split.file=s.json")
    resolved = resolve_paths(config, tmp_path)
    assert resolved.data.path == (f"{tmp_path}/b.h5", "/d/a.h5")
    assert resolved.split.file == f"{tmp_path}/s.json"
    assert resolve_paths(load_text("data: {path: 'd/*.h5'}"), Path("/a[b]")).data.path == "/a[[]b]/d/*.h5"
    assert resolve_paths(load_text("data: {path: 'd/x.h5'}"), Path("/a[b]")).data.path == "/a[b]/d/x.h5"
    simulated = load_text("data: {simulate: {}}")
    assert resolve_paths(simulated) == simulated


# --- writing ---


def test_a_dump_holds_every_key_and_floats_that_any_yaml_reader_takes_for_numbers() -> None:
    text = dump_config(load_text(DATA, "train.learning_rate=1e-5"))
    assert "learning_rate: 1.0e-05\n" in text
    optional = ("augment", "track.", "tune.")  # sections that are null
    assert all(
        f"{key.rpartition('.')[2]}:" in text
        for key in all_keys()
        if key.count(".") < 2 and not key.startswith(optional)
    )
    assert text.index("name:") < text.index("data:") < text.index("split:") < text.index("train:")


WORDS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=20)
TRICKY = st.sampled_from(
    ["no", "1e-3", "08", "0o17", "1:30", "~", "null", "", " a", "a: b", "#", "*.h5", "é", "a\nb", "\x85", "-"]
)
SHARES = st.floats(0.001, 0.5)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    path = draw(st.one_of(WORDS, TRICKY.filter(bool), st.lists(WORDS, min_size=1, max_size=4).map(tuple)))
    weights = st.dictionaries(WORDS | TRICKY, st.floats(0, exclude_min=True, allow_infinity=False), max_size=4)
    data: dict[str, Any] = {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "data": {"path": path, "labels": draw(WORDS), "groups": draw(st.none() | WORDS)},
        "split": {"validation_fraction": draw(SHARES), "test_fraction": draw(st.none() | SHARES)},
        "augment": draw(st.none() | st.fixed_dictionaries({"position_jitter": st.floats(0, 1e300)})),
        "train": {
            "learning_rate": draw(st.floats(0, 10, exclude_min=True)),
            "class_weight": draw(st.none() | st.just("balanced") | weights),
        },
    }
    return Config.model_validate(data)


@settings(max_examples=50, deadline=None)
@given(configs())
def test_any_config_reads_back_equal_from_its_dump(config: Config) -> None:
    text = dump_config(config)
    assert load_text(text) == config
    assert dump_config(load_text(text)) == text


def test_the_json_schema_describes_every_key() -> None:
    schema = config_json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "pointcnn config"
    json.dumps(schema)
    train = schema["$defs"]["TrainConfig"]["properties"]
    assert train["epochs"] == {**train["epochs"], "minimum": 1, "default": 30, "type": "integer"}
    described = [value for part in schema["$defs"].values() for value in part["properties"].values()]
    assert all(value.get("description") for value in described)


def test_loading_a_config_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pointcnn_cli.config.load import load_config; load_config('-', stdin_text='data: {path: x}');"
        "print([m for m in ('numpy', 'h5py', 'keras', 'tensorflow', 'sklearn', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

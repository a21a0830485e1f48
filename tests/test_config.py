"""Configs: schema errors in words, all at once, and --set. See also test_config_yaml.py and test_config_files.py."""

import pytest

from pointcnn_cli.config.load import (
    load_config,
    with_overrides,
)
from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.wording import _OTHER_NAMES, all_keys
from pointcnn_cli.errors import ConfigError

DATA = "data: {path: x.h5}\n"


def load_text(text: str, *overrides: str) -> Config:
    return load_config("-", overrides, stdin_text=text)


def errors_of(text: str, *overrides: str) -> list[str]:
    """The lines of the ConfigError that loading `text` ends in."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, *overrides)
    return caught.value.message.splitlines()


def test_defaults_fill_what_the_file_leaves_out() -> None:
    config = load_text(DATA)
    assert config.data.path == "x.h5"
    assert config.model.name == "pointcnn"
    assert config.train.keep == "best"
    assert config.augment is None


# --- every fault at once, each with its place ---

FAULTY = """\
seed: -1
learning_rate: 0.1
data:
  path: x.h5
  channels: [a, b, c]
split:
  strategy: folds
  fold: 9
train:
  epochs: 0
  epochs: 5
  batch_sise: 10
  learning_rate: fast
  weight_decay: 0.1
  class_weight: {walk: -1}
model: 5
"""


def test_one_error_lists_every_fault_of_every_kind_by_line() -> None:
    assert errors_of(FAULTY, "train.device=tpu") == [
        "<stdin>:1:7: seed: out of bounds (found -1; expected a whole number from 0 to 4294967295)",
        "<stdin>:2:1: learning_rate: unknown key; did you mean train.learning_rate?",
        '<stdin>:5:13: data.channels: too few values (found ["a", "b", "c"]; expected a list of 4 values, each text)',
        '<stdin>:7:13: split.strategy: not one of the choices (found "folds"; expected one of "auto", "stratified", '
        '"stratified_group", "tail", "file")',
        "<stdin>:8:9: split: 'fold' is 9, but validation_fraction 0.2 makes 5 folds (0 to 4)",
        "<stdin>:10:11: train.epochs: out of bounds (found 0; expected a whole number from 1 to 100000)",
        "<stdin>:11:3: train.epochs: duplicate key (first on line 10)",
        "<stdin>:12:3: train.batch_sise: unknown key; did you mean train.batch_size?",
        '<stdin>:13:18: train.learning_rate: wrong type (found "fast"; expected a number above 0 and at most 10)',
        "<stdin>:14:17: train: 'weight_decay' needs 'optimizer: adamw'; the optimizer is 'adam'",
        "<stdin>:15:24: train.class_weight.walk: out of bounds (found -1; expected a number above 0)",
        "<stdin>:16:8: model: wrong type (found 5; expected a section with keys (name, normalize, dropout, fast))",
        '--set train.device=tpu: train.device: not one of the choices (found "tpu"; expected one of "auto", "cpu", '
        '"gpu", "multi")',
    ]


def test_no_message_shows_pydantic_or_a_link() -> None:
    text = "\n".join(errors_of(FAULTY)).lower()
    assert not any(word in text for word in ("pydantic", "http", "input should", "constrained", "tuple", "literal"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {path: 5}", "wrong type (found 5; expected text, or a list of 1 or more values, each text, or null)"),
        ("data: {path: ''}", 'empty text (found ""; expected text'),
        ("data: {path: []}", "too few values (found []; expected text"),
        ("data: {path: [a, 3]}", "data.path[1]: wrong type (found 3; expected text)"),
        ("data: {path: x, channels: [a, b, c, d, e]}", "too many values (found"),
        ("data: {path: x, simulate: {}}", "data: set either 'path' or 'simulate'; both are set"),
        ("data: {}", "data: set either 'path' or 'simulate'; neither is set"),
        ("seed: 1", "data: required section is missing (expected a section with keys (path, simulate"),
        (DATA + "train:", "train: wrong type (found null; expected a section with keys (epochs"),
        (DATA + "train: {epochs: 1.5}", "wrong type (found 1.5; expected a whole number from 1 to 100000)"),
        (DATA + "train: {epochs: '5'}", 'wrong type (found "5"; expected a whole number'),
        (DATA + "train: {epochs: true}", "wrong type (found true; expected a whole number"),
        (DATA + "train: {learning_rate: .inf}", "not a finite number (found .inf; expected a number above 0"),
        (DATA + "train: {learning_rate: .nan}", "not a finite number (found .nan; expected a number above 0"),
        (DATA + "train: {learning_rate: 0}", "out of bounds (found 0; expected a number above 0 and at most 10)"),
        (DATA + "model: {fast: yes}", 'wrong type (found "yes"; expected true or false)'),
        (DATA + "model: {dropout: 1.0}", "out of bounds (found 1.0; expected a number of at least 0 and below 1)"),
        (DATA + "train: {class_weight: even}", 'choices (found "even"; expected "balanced", or a section of keys'),
        (DATA + "train: {early_stopping: 5}", "found 5; expected a section with keys (patience), or null)"),
        (DATA + "augment: {mirror: w}", 'found "w"; expected one of "x", "y", "z", or null)'),
        (DATA + "name: a/b", "not written as it must be (found \"a/b\"; expected up to 100 letters, digits, '.', '_'"),
        (DATA + "split: {strategy: file}", "split: 'file' names a split.json"),
        (DATA + "split: {validation_fraction: 1e-320}", "out of bounds"),
    ],
)  # fmt: skip
def test_a_fault_says_what_was_found_and_what_is_expected(text: str, expected: str) -> None:
    lines = errors_of(text)
    assert len(lines) == 1
    assert expected in lines[0]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("nam: x", "name"),
        ("lr: 1", "train.learning_rate"),
        ("LEARNING-RATE: 1", "train.learning_rate"),
        ("learning_rat: 1", "train.learning_rate"),
        ("train: {epoch: 5}", "train.epochs"),
        ("train: {strategy: tail}", "split.strategy"),
        ("model: {validation_split: 0.1}", "split.validation_fraction"),
        ("train: {early_stopping: {patients: 5}}", "train.early_stopping.patience"),
        ("seeds: 1", "seed"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_one_in_any_section(text: str, meant: str) -> None:
    assert errors_of(DATA + text)[0].endswith(f"unknown key; did you mean {meant}?")


def test_an_unknown_key_near_nothing_lists_the_known_ones() -> None:
    assert errors_of(DATA + "model: {zzz: 1}") == [
        "<stdin>:2:9: model.zzz: unknown key; known here: name, normalize, dropout, fast"
    ]


def test_a_dotted_key_in_a_file_is_told_to_be_nested() -> None:
    assert "put 'epochs' into the section 'train'" in errors_of(DATA + "train.epochs: 5")[0]


def test_every_suggestion_for_a_foreign_name_is_a_key() -> None:
    assert set(_OTHER_NAMES.values()) <= set(all_keys())


def test_a_rule_between_keys_is_silent_where_one_of_them_is_at_fault_itself() -> None:
    assert len(errors_of(DATA + "train: {epochs: many, warmup_epochs: 40}")) == 1
    assert len(errors_of(DATA + "split: {strategie: file, file: split.json}")) == 1
    assert len(errors_of("data: {path: *x}")) == 1


def test_very_many_faults_are_cut_with_their_number() -> None:
    lines = errors_of(DATA + "".join(f"k{number}: 1\n" for number in range(3000)))
    assert len(lines) == 51
    assert lines[-1] == "... and 2950 more"


# --- --set ---


def test_set_goes_over_the_file_and_the_last_one_wins() -> None:
    config = load_text(DATA + "train: {epochs: 5, batch_size: 7}", "train.epochs=6", "train.epochs=8")
    assert (config.train.epochs, config.train.batch_size) == (8, 7)


def test_set_takes_yaml_values_and_makes_missing_sections() -> None:
    config = load_text(
        DATA + "augment:", "train.learning_rate=1e-3", "augment.scale=0.1", "train.early_stopping={patience: 3}",
        "data.path=[b.h5, a.h5]", "split.test_fraction=", "train.class_weight.walk=2",
    )  # fmt: skip
    assert config.train.learning_rate == 0.001
    assert config.augment is not None
    assert config.augment.scale == 0.1
    assert config.train.early_stopping is not None
    assert config.train.early_stopping.patience == 3
    assert config.data.path == ("b.h5", "a.h5")
    assert config.split.test_fraction is None
    assert config.train.class_weight == {"walk": 2.0}


@pytest.mark.parametrize("overrides", [["data.path=y.h5"], ["data.path=y.h5", "data.simulate=null"]])
def test_setting_the_path_replaces_the_simulation(overrides: list[str]) -> None:
    data = load_text("data: {simulate: {windows: 100}}", *overrides).data
    assert (data.path, data.simulate) == ("y.h5", None)


@pytest.mark.parametrize("override", ["data.simulate={}", "data.simulate.seed=4", "data={simulate: {}}"])
def test_setting_a_simulation_replaces_the_path(override: str) -> None:
    data = load_text(DATA, override).data
    assert data.path is None
    assert data.simulate is not None


def test_setting_both_sources_is_refused() -> None:
    line = errors_of(DATA, "data.path=y.h5", "data.simulate={}")[0]
    assert line.startswith("--set data.path=y.h5: data: set either 'path' or 'simulate'; both are set")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "--set train.epochs: '=' is missing; write KEY=VALUE"),
        ("=5", "--set =5: the key, or a part of it, is empty"),
        ("train..epochs=5", "--set train..epochs=5: the key, or a part of it, is empty"),
        ("train.epocs=5", "--set train.epocs=5: train.epocs: unknown key; did you mean train.epochs?"),
        ("lr=5", "--set lr=5: lr: unknown key; did you mean train.learning_rate?"),
        ("train.epochs=0", "--set train.epochs=0: train.epochs: out of bounds (found 0;"),
        ("seed.x=1", "--set seed.x=1: seed: wrong type"),
        ("seed=[1", "--set seed=[1: the value cannot be used: not valid YAML: expected ',' or ']'"),
        ("data.path=*.h5", "--set data.path=*.h5: the value cannot be used: text that starts with * must be quoted"),
        ("seed={a: 1, a: 2}", "the value cannot be used: duplicate key"),
        ("name=a\x1b[31m", "--set name=a\\x1b[31m: the value cannot be used: the character U+001B"),
    ],
)
def test_a_bad_set_is_named_with_its_fault(override: str, expected: str) -> None:
    lines = errors_of(DATA, override)
    assert len(lines) == 1
    assert expected in lines[0]


def test_all_bad_sets_are_reported_together_with_the_file() -> None:
    assert len(errors_of("data: {path: 5}\nseed: a\n", "nonsense", "train.epochs=0", "=1")) == 5


def test_with_overrides_changes_data_only() -> None:
    config = load_text("name: r\ndata: {simulate: {}}")
    changed = with_overrides(config, ["data.path=new.h5", "data.labels=y"])
    assert (changed.data.path, changed.data.simulate, changed.data.labels) == ("new.h5", None, "y")
    assert changed.train == config.train
    with pytest.raises(ConfigError, match=r"--set train\.epochs=5: only keys of 'data' can be set here"):
        with_overrides(config, ["data.path=a.h5", "train.epochs=5"])
    with pytest.raises(ConfigError, match=r"--set data\.label=1: data\.label: unknown key; did you mean data\.labels"):
        with_overrides(config, ["data.label=1"])

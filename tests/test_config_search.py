"""The search space of a config: which keys may be searched, every end and choice judged by the schema, at its place."""

import pytest

from pointcnn_cli.config.load import dump_config, load_config, with_values
from pointcnn_cli.config.schema import Config
from pointcnn_cli.config.search import as_key_value
from pointcnn_cli.errors import ConfigError


def load_text(text: str, *overrides: str) -> Config:
    return load_config("-", overrides, stdin_text=text)


def errors_of(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, *overrides)
    return caught.value.message.splitlines()


def make_text(*entries: str, rest: str = "data: {path: x.h5}") -> str:
    """A config whose space has these entries, the first in line 5."""
    return "\n".join([rest, "tune:", "  trials: 5", "  space:", *(f"    {entry}" for entry in entries)])


FAULTY = make_text(
    "train.learning_rate: {low: 1e-4, high: 20, log: true}",
    "train.learning_rat: {low: 1e-4, high: 1e-2}",
    "model.name: {choices: [pointcnn, pointnet]}",
    "augment.point_dropout: {low: 0, high: 0.5, lgo: true}",
    "data.labels: {choices: [a, b]}",
    "seed: {low: 0, high: 5}",
    "train.batch_size: {low: 1e1, high: 64.5}",
    "train.weight_decay: {low: 0, high: 0.1}",
    "augment: {choices: [null, 5]}",
    "model.dropout: {low: 0.5, high: 0.1}",
    "train.class_weight: {choices: [null, balanced, {a: 1}]}",
    "model.fast: {choices: [true]}",
    "train.precision: {low: 0, high: 1}",
    "model.normalize: 5",
)


def test_every_fault_of_a_space_is_told_at_once_with_its_place() -> None:
    assert errors_of(FAULTY) == [
        "<stdin>:5:44: tune.space.train.learning_rate.high: out of bounds (found 20; expected a number above 0 and at "
        "most 10)",
        "<stdin>:6:5: tune.space.train.learning_rat: unknown key; did you mean train.learning_rate?",
        '<stdin>:7:38: tune.space.model.name.choices[1]: not one of the choices (found "pointnet"; expected one of '
        '"pointcnn", "pointcnn_original", "pointnet_tcn")',
        "<stdin>:8:48: tune.space.augment.point_dropout.lgo: unknown key; did you mean "
        "tune.space.augment.point_dropout.low?",
        "<stdin>:9:5: tune.space.data.labels: cannot be searched: every trial must have the same rows",
        "<stdin>:10:5: tune.space.seed: cannot be searched: the best of several seeds is luck",
        "<stdin>:11:40: tune.space.train.batch_size.high: wrong type (found 64.5; expected a whole number from 1 to "
        "65536)",
        "<stdin>:12:40: tune.space.train.weight_decay.high: 0.1: 'weight_decay' needs 'optimizer: adamw'; the "
        "optimizer is 'adam'",
        "<stdin>:13:5: tune.space.augment: cannot be searched: it takes no single values; name a key that does, as in "
        "train.epochs",
        "<stdin>:14:26: tune.space.model.dropout: 'low' (0.5) must be smaller than 'high' (0.1)",
        "<stdin>:15:52: tune.space.train.class_weight.choices[2]: not a single value",
        "<stdin>:16:27: tune.space.model.fast.choices: too few values (found [true]; expected a list of 2 or more "
        "values, each text, a number, true, false or null, or null)",
        '<stdin>:17:28: tune.space.train.precision.low: not one of the choices (found 0; expected one of "float32", '
        '"mixed_float16", "mixed_bfloat16")',
        '<stdin>:17:37: tune.space.train.precision.high: not one of the choices (found 1; expected one of "float32", '
        '"mixed_float16", "mixed_bfloat16")',
        "<stdin>:18:22: tune.space.model.normalize: wrong type (found 5; expected a section with keys (low, high, log, "
        "choices))",
    ]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("model.dropout: {low: 0.1}", "5:26: tune.space.model.dropout: give both 'low' and 'high', or 'choices' alone"),
        ("model.dropout: {}", "give both 'low' and 'high', or 'choices' alone"),
        ("model.dropout: {low: 0, high: 0.5, choices: [0.1, 0.2]}", "or 'choices' alone"),
        ("model.dropout: {low: 0, high: 0.5, log: true}", "5:45: tune.space.model.dropout: 'log' needs 'low' above 0"),
        ("model.dropout: {choices: [0.1, 0.1]}", "5:30: tune.space.model.dropout: 'choices' holds a value twice"),
        ("model.dropout: {choices: [0.1, 0.2], log: true}", "'log' goes with 'low' and 'high'"),
        ("model.dropout: {low: .nan, high: 0.5}", "not a finite number"),
        ("model.dropout: {low: a, high: 0.5}", "wrong type (found \"a\"; expected a number, or null)"),
        ("name: {choices: [a, b]}", "5:5: tune.space.name: cannot be searched: it names the run"),
        ("tune.trials: {low: 1, high: 5}", "cannot be searched: it is the search itself"),
        ("split.fold: {low: 0, high: 4}", "cannot be searched: every trial must have the same rows"),
        ("train.keep: {choices: [best, last]}", "cannot be searched: it decides on which rows"),
        ("augment.channel_roles: {choices: [a, b]}", "cannot be searched: it takes no single values"),
        ("nonsense: {low: 1, high: 5}", "5:5: tune.space.nonsense: unknown key; write a key as in train.epochs"),
    ],
)  # fmt: skip
def test_a_fault_of_one_key_is_told_once(entry: str, expected: str) -> None:
    lines = errors_of(make_text(entry))
    assert len(lines) == 1
    assert expected in lines[0]


def test_rules_between_two_searched_keys_hold_for_every_pair_of_values() -> None:
    entries = "train.epochs: {choices: [9, 3]}", "train.warmup_epochs: {low: 0, high: 5}"
    assert errors_of(make_text(*entries)) == [
        "<stdin>:5:33: tune.space.train.epochs.choices[1]: 3 with train.warmup_epochs 5: 'warmup_epochs' (5) must be "
        "smaller than 'epochs' (3)"
    ]
    load_text(make_text("train.epochs: {choices: [9, 6]}", entries[1]))
    wants_adamw = make_text("train.optimizer: {choices: [adamw, sgd]}", "train.weight_decay: {low: 0, high: 0.1}")
    assert "'weight_decay' needs 'optimizer: adamw'" in errors_of(wants_adamw)[0]


def test_the_faults_of_the_rest_of_the_config_hide_none_of_the_space() -> None:
    text = make_text("model.dropout: {low: 0.1, high: 3}", rest="data: {path: 5}\ntrain: {epochs: 0, optimiser: 3}")
    lines = errors_of(text)
    assert len(lines) == 4
    assert "tune.space.model.dropout.high: out of bounds" in lines[-1]


def test_a_search_needs_a_space_and_as_many_folds_as_the_split_makes() -> None:
    base = "data: {path: x.h5}\n"
    assert errors_of(base + "tune: {trials: 5}") == [
        "<stdin>:2:1: tune.space: required section is missing (expected a section of keys, each a section with keys "
        "(low, high, log, choices))"
    ]
    assert "too few values" in errors_of(base + "tune: {space: {}}")[0]
    text = make_text("model.dropout: {low: 0.1, high: 0.3}")
    assert errors_of(text, "tune.folds=6") == [
        "--set tune.folds=6: tune.folds: it is 6, but split.validation_fraction 0.2 makes 5 folds"
    ]
    load_text(text, "tune.folds=6", "split.validation_fraction=0.1")


def test_a_space_on_the_command_line_is_one_yaml_value() -> None:
    space = "tune.space={train.learning_rate: {low: 1e-4, high: 1e-2}, train.batch_size: {low: 8, high: 1e2}}"
    config = load_text("data: {path: x.h5}", space)
    assert config.tune.space["train.learning_rate"].high == 1e-2
    assert load_text(dump_config(config)) == config.model_copy(update={"name": "stdin"})
    faulty = space.replace("1e-2", "1e2")
    assert errors_of("data: {path: x.h5}", faulty)[0].startswith("--set tune.space={train.learning_rate:")


def test_values_of_a_trial_make_a_config_without_a_search() -> None:
    config = load_text(make_text("augment.scale: {low: 0, high: 0.5}"))
    found = with_values(config, {"augment.scale": 0.25, "train.batch_size": 7}, "trial 3")
    assert (found.augment.scale, found.train.batch_size, found.tune) == (0.25, 7, None)
    with pytest.raises(ConfigError, match=r"trial 3: train\.epochs: out of bounds"):
        with_values(config, {"train.epochs": 0}, "trial 3")


def test_ends_of_whole_numbers_are_whole() -> None:
    assert repr(as_key_value("train.batch_size", 16.0)) == "16"
    assert repr(as_key_value("train.batch_size", 16.5)) == "16.5"
    assert repr(as_key_value("model.dropout", 0.0)) == "0.0"

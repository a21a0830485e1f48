"""What may be edited in a run's config before it is resumed, and what is said of the rest."""

import json
from pathlib import Path

import pytest

from pointcnn_cli.config.changes import check_config, check_epochs, read_stored, store_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import ConfigError, RunError

PATH = Path("runs/a/config.yaml")


def make_config(**sections) -> Config:
    return Config(**{"data": {"path": ("a.h5", "b.h5")}, **sections})


def test_a_stored_config_comes_back_equal():
    config = make_config(train={"class_weight": {"walk": 0.1, "box": 1e-3}}, augment={"scale": 0.1})
    assert read_stored(json.loads(json.dumps(store_config(config))), PATH) == config
    assert read_stored(None, PATH) is None


def test_keys_of_a_newer_pointcnn_count_with_their_defaults():
    stored = store_config(make_config())
    del stored["train"]["deterministic"]
    before = read_stored(stored, PATH)
    check_config(make_config(), before, PATH)
    with pytest.raises(RunError, match=r"train\.deterministic was false, is true"):
        check_config(make_config(train={"deterministic": True}), before, PATH)


@pytest.mark.parametrize("stored", [{}, [], 3, {"data": {"path": "a"}, "train": {"epochs": "many"}}])
def test_a_damaged_copy_of_the_config_is_refused(stored):
    with pytest.raises(RunError, match=r"runs/a/config\.yaml: the manifest's copy of this config is damaged"):
        read_stored(stored, PATH)


def test_every_changed_key_is_named_with_both_values():
    before = make_config(seed=1, train={"class_weight": {"walk": 2.0}}, augment=None)
    now = make_config(data={"path": "c.h5", "labels": "activity"}, seed=2, train={"epochs": 7}, augment={"scale": 0.5})
    with pytest.raises(RunError) as raised:
        check_config(now, before, PATH)
    message = raised.value.message
    assert message.startswith("runs/a/config.yaml: changed since the run began: seed was 1, is 2; ")
    for change in (
        "data.labels was label, is activity",
        "augment was null, is absent",
        "augment.scale was absent, is 0.5",
        "train.class_weight.walk was 2.0, is absent",
    ):
        assert change in message
    assert "epochs" not in message
    assert "data.path" not in message  # they may have moved; their fingerprint is checked
    assert raised.value.exit_code == 8


def test_an_equal_config_and_a_run_older_than_the_copy_pass():
    check_config(make_config(seed=3), make_config(seed=3), PATH)
    check_config(make_config(seed=3), None, PATH)
    check_config(make_config(name="config"), make_config(), PATH)  # as a config without a name is read back
    check_epochs(make_config(train={"epochs": 9}), None, 3, PATH)


@pytest.mark.parametrize("warmup", [0, 2])
def test_epochs_may_change_where_the_rate_is_constant(warmup):
    settings = {"schedule": "constant", "warmup_epochs": warmup}
    before = make_config(train={"epochs": 5, **settings})
    for epochs in (3, 4, 6, 100):
        check_epochs(make_config(train={"epochs": epochs, **settings}), before, 3, PATH)


def test_epochs_that_are_done_cannot_be_taken_back():
    before = make_config(train={"epochs": 8, "schedule": "constant"})
    with pytest.raises(ConfigError, match=r"train\.epochs was 8, is 3, but 4 epochs are done") as raised:
        check_epochs(make_config(train={"epochs": 3, "schedule": "constant"}), before, 4, PATH)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("epochs", [7, 9])
def test_a_cosine_forbids_other_epochs_and_says_why(epochs):
    before = make_config(train={"epochs": 8})
    with pytest.raises(ConfigError, match="learning rate of every epoch depends on it") as raised:
        check_epochs(make_config(train={"epochs": epochs}), before, 2, PATH)
    assert raised.value.hint.startswith("set train.epochs back to 8, or train a new run with: ")
    check_epochs(make_config(train={"epochs": 8}), before, 2, PATH)

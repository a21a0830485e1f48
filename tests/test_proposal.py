"""`config init`: what is found in files whose names say little; the config is valid and says what it assumed."""

import h5py
import numpy as np
import pytest
from test_cli import run

from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import Config, DataConfig, SimulateConfig
from pointcnn_cli.config.template import PLACEHOLDER
from pointcnn_cli.simulate import simulate_samples
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits import build_split

PEOPLE = SimulateConfig(windows=96, subjects=8, points=8, frames=16, stride=8)


@pytest.fixture(scope="module")
def samples():
    return simulate_samples(PEOPLE)


@pytest.fixture
def make(tmp_path, samples):
    """Writes a file of simulated people whose datasets have other names: `make(label="y", a=array, channels=...)`."""

    def write(channels=("channel_1", "channel_2", "channel_3", "channel_4"), label="label", **others):
        path = tmp_path / "my file.h5"
        with h5py.File(path, "w") as file:
            for name, values in zip(channels, samples.channels, strict=True):
                file[name] = values
            if label:
                file[label] = samples.labels
            for name, values in others.items():
                file[name] = values
        return path

    return write


def propose(path, tmp_path, *options, code=0):
    """The config that is written, its text, and the data that it names opened."""
    out = tmp_path / "my.yaml"
    result = run("config", "init", out, "--data", path, *options, code=code)
    if code:
        assert not out.exists()
        return result.stderr
    assert "valid" in run("config", "validate", out).stderr
    return load_config(out), out.read_text()


@pytest.mark.parametrize(
    "names",
    [
        ("channel_1", "channel_2", "channel_3", "channel_4"),
        ("xyz", "velocity", "intensity", "range"),
        ("data/points_xyz", "data/doppler", "data/snr_db", "data/dist"),
        ("ch1", "ch2", "ch3", "ch10"),
        ("#c", "b: [x, y]", 'a\n"evil": 1', "d'é走"),
    ],
)
def test_channels_are_found_whatever_their_names(names, make, tmp_path, samples):
    config, text = propose(make(channels=names), tmp_path)
    assert set(config.data.channels) == set(names)
    roles = dict(zip(names, ("position", "velocity", "intensity", "range"), strict=True))
    assert config.augment.channel_roles == tuple(roles[name] for name in config.data.channels)
    assert "\nevil" not in text
    with open_source(config.data) as source:
        assert source.index.rows == 96
        build_split(source.index, config.split)


@pytest.mark.parametrize(("label", "one_hot"), [("y", True), ("targets", False), ("meta/activityID", False)])
def test_labels_are_found_by_name(label, one_hot, make, tmp_path, samples):
    values = np.eye(6)[samples.labels] if one_hot else samples.labels
    path = make(label=None, **{label: values, "label_quality": samples.labels % 2, "frame_count": samples.labels + 3})
    config, text = propose(path, tmp_path)
    assert config.data.labels == label
    assert "label_quality" in text  # named as what else it could be


def test_labels_without_a_telling_name_are_guessed_and_said_to_be(make, tmp_path, samples):
    config, text = propose(make(label="what", start=np.arange(96)), tmp_path)
    assert config.data.labels == "what"
    assert "Assumed" in text.split("labels:")[0].split("channels:")[1]


@pytest.mark.parametrize(
    ("datasets", "found", "strategy", "fraction"),
    [
        ({"subject_id": 8, "session": 24}, "subject_id", "stratified_group", 0.2),
        ({"person": 3}, "person", "stratified_group", 0.333),
        ({"participant": 1, "session": 8}, "session", "stratified_group", 0.2),
        ({"subject": 96}, None, "stratified", 0.2),
        ({}, None, "stratified", 0.2),
    ],
)
def test_groups_are_found_and_kept_apart(datasets, found, strategy, fraction, make, tmp_path):
    rng = np.random.default_rng(0)
    columns = {name: rng.permutation(np.arange(96) % count) for name, count in datasets.items()}
    config, text = propose(make(**columns), tmp_path)
    assert config.data.groups == found
    assert config.split.strategy == strategy
    assert config.split.validation_fraction == fraction
    assert ("Warning: there are no groups" in text) == (found is None)


def test_groups_that_are_the_classes_cannot_be_kept_apart_and_that_is_said(make, tmp_path, samples):
    config, text = propose(make(subject=samples.labels), tmp_path)
    assert config.split.strategy == "stratified"
    assert "Groups cannot be kept apart" in text


def test_names_given_by_hand_win_over_what_is_found(make, tmp_path, samples):
    path = make(other=samples.labels % 2, subject=np.arange(96) // 4)
    config, _ = propose(path, tmp_path, "--set", "data.labels=other", "--set", "data.groups=null")
    assert config.data.labels == "other"
    assert config.data.groups is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"channels": ("a", "b", "c", "d"), "drop": "d"}, "four channels"),
        ({"label": None}, "labels"),
        ({"stack": True}, "x[:, 0:3]"),
        ({"set": "data.channels=[channel_1, channel_2, channel_3, nothing]"}, "nothing"),
    ],
)
def test_what_cannot_be_found_is_said_and_nothing_is_written(changes, named, make, tmp_path, samples):
    path = make(**{key: changes[key] for key in ("channels", "label") if key in changes})
    with h5py.File(path, "a") as file:
        if "drop" in changes:
            del file[changes["drop"]]
        if "stack" in changes:
            for name in ("channel_1", "channel_2", "channel_3", "channel_4"):
                del file[name]
            file["x"] = np.concatenate(samples.channels, axis=1)[..., 0]
    options = ("--set", changes["set"]) if "set" in changes else ()
    said = propose(path, tmp_path, *options, code=6)
    assert named in said
    assert "Try:" in said


def test_units_that_are_not_metres_scale_the_augmentation(make, tmp_path, samples):
    path = make()
    with h5py.File(path, "a") as file:
        del file["channel_1"]
        file["channel_1"] = samples.channels[0].astype("f4") * 1000
    config, text = propose(path, tmp_path)
    assert 10 < config.augment.position_jitter < 40
    assert "other" in config.augment.channel_roles  # range in metres no longer follows the position
    assert "which metres would not" in text


def test_uneven_classes_come_with_a_suggestion_that_is_off(make, tmp_path, samples):
    path = make(label=None, y=(np.arange(96) > 80).astype(int))
    config, text = propose(path, tmp_path)
    assert config.train.class_weight is None
    assert "# class_weight: balanced" in text
    assert "5.4 times" in text


def test_the_first_of_many_files_speaks_for_all(make, tmp_path, samples):
    first = make(subject=np.arange(96) // 12)
    second = tmp_path / "other.h5"
    second.write_bytes(first.read_bytes())
    config, _ = propose(first, tmp_path, "--data", second)
    assert config.data.path == (str(first), str(second))


def test_an_existing_file_is_kept_and_stdout_is_the_default(make, tmp_path):
    path, out = make(), tmp_path / "my.yaml"
    out.write_text("mine")
    run("config", "init", out, "--data", path, code=9)
    assert out.read_text() == "mine"
    text = run("config", "init", "--data", path).stdout
    assert load_config("-", stdin_text=text).data.labels == "label"
    run("config", "init", out, "--data", path, "--force")
    assert out.read_text() == text


def test_a_file_that_is_no_hdf5_or_lies_elsewhere_is_refused(make, tmp_path):
    assert "no such file" in run("config", "init", "--data", tmp_path / "missing.h5", code=6).stderr
    path = make()
    with h5py.File(path, "a") as file:
        del file["channel_2"]
        file["channel_2"] = h5py.ExternalLink("/etc/passwd", "/x")
    assert "external link" in run("config", "init", "--data", path, code=6).stderr


def test_the_template_holds_every_key_at_its_default_with_the_words_of_the_schema():
    text = run("config", "init").stdout
    assert load_config("-", stdin_text=text) == Config(data=DataConfig(path=PLACEHOLDER), name="stdin")
    words = " ".join(text.replace("#", " ").split())
    for section in Config.model_json_schema()["$defs"].values():
        for key, about in section["properties"].items():
            assert f"{key}:" in text
            assert " ".join(about.get("description", "").split()) in words


def test_what_is_proposed_can_be_trained(make, tmp_path):
    path = make(channels=("xyz", "doppler", "snr", "dist"), label="activity", subject=np.arange(96) % 8)
    run("config", "init", tmp_path / "my.yaml", "--data", path)
    result = run("train", tmp_path / "my.yaml", "--set", "train.epochs=1", "--output", tmp_path / "run")
    assert result.stdout.splitlines()[-1] == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (np.arange(96) % 3 - 1, "must not be negative"),
        (np.arange(90) % 3, "labels has 90 rows, the channels have 96"),
        (np.zeros(96, int), "one class only"),
        (np.linspace(0, 1, 96), "must be whole numbers"),
    ],
)
def test_labels_that_cannot_be_used_are_told_with_the_reason(values, named, make, tmp_path):
    path = make(label=None, labels=values, quality=np.arange(96) % 2)
    assert named in " ".join(propose(path, tmp_path, code=6).split())


@pytest.mark.parametrize("ending", ["\n", "\r", "\x85", "\u2028"])
def test_a_name_in_a_comment_cannot_end_it(ending, make, tmp_path, samples):
    config, text = propose(make(**{f"spare{ending}seed: 7": samples.channels[1]}), tmp_path)
    assert "spare" in text
    assert config.seed == 0

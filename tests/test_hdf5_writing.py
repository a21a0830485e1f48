"""Writing HDF5 files, looking into them, their fingerprint, and the page that describes them to users."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import FRAMES, NAMES, POINTS, config, make_channels, write_file

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError, OutputError
from pointcnn_cli.hdf5.checks import CHANNEL_DTYPES, LABEL_DTYPES
from pointcnn_cli.hdf5.fingerprint import check_fingerprint, compute_fingerprint
from pointcnn_cli.hdf5.inspect import compute_row_order, inspect_file
from pointcnn_cli.hdf5.labels import GROUP_DTYPES
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.hdf5.samples import ArraySource, Samples
from pointcnn_cli.hdf5.writing import write_samples

README = Path(__file__).resolve().parent.parent / "data" / "README.md"


def make_samples(rows: int = 150, people: int = 5, **changes) -> Samples:
    content = {
        "channels": tuple(make_channels(rows)),
        "labels": np.arange(rows) % 3,
        "classes": ("walk", "früh", "sit"),
        "groups": np.arange(rows) % people,
        "group_names": tuple(f"person {i}" for i in range(people)),
        "recordings": np.arange(rows) // 10,
        "start_frames": np.arange(rows) % 10 * 16,
    }
    return Samples(**(content | changes))


# --- writing ---


def test_written_samples_are_read_back_equal(tmp_path):
    samples = make_samples()
    write_samples(tmp_path / "a.h5", samples, ("xyz", "v", "i", "r"))
    with open_hdf5(config(tmp_path / "a.h5", channels=("xyz", "v", "i", "r"))) as source:
        index = source.index
        for got, sent in zip(source.read(np.arange(150)), samples.channels, strict=True):
            assert got.dtype == sent.dtype
            assert np.array_equal(got, sent)
    assert index.classes == samples.classes
    assert index.group_names == samples.group_names
    for name in ("labels", "groups", "recordings", "start_frames"):
        assert np.array_equal(getattr(index, name), getattr(samples, name))
    assert index.notes == ()


def test_samples_without_groups_recordings_and_start_frames(tmp_path):
    bare = make_samples(4, groups=None, group_names=None, recordings=None, start_frames=None)
    write_samples(tmp_path / "a.h5", bare)
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {*NAMES, "label"}
        assert file["channel_1"].compression == "gzip"
        assert file["channel_1"].shuffle


def test_more_group_names_than_an_attribute_holds(tmp_path):
    samples = make_samples(6000, 6000)
    write_samples(tmp_path / "a.h5", samples)
    with open_hdf5(config(tmp_path / "a.h5")) as source:
        assert [source.index.group_names[g] for g in source.index.groups] == list(samples.group_names)


def test_equal_rows_give_equal_bytes_at_any_time(tmp_path):
    write_samples(tmp_path / "a.h5", make_samples())
    code = "import time; time.sleep(1.1)"  # HDF5's time stamps count seconds
    subprocess.run([sys.executable, "-c", code], check=True)
    write_samples(tmp_path / "b.h5", make_samples())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_existing_file_is_only_replaced_by_force(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already") as caught:
        write_samples(path, make_samples())
    assert caught.value.exit_code == 9
    assert path.read_text() == "mine"
    write_samples(path, make_samples(), force=True)
    assert h5py.is_hdf5(path)
    assert os.listdir(tmp_path) == ["a.h5"]


def test_force_writes_through_a_link_and_never_replaces_a_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "real" / "a.h5")
    write_samples(tmp_path / "link.h5", make_samples(), force=True)
    assert h5py.is_hdf5(tmp_path / "real" / "a.h5")
    assert (tmp_path / "link.h5").is_symlink()
    with pytest.raises(OutputError, match="not a regular file"):
        write_samples(tmp_path / "real", make_samples(), force=True)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=re.escape(f"there is no folder {tmp_path / 'no'}")):
        write_samples(tmp_path / "no" / "a.h5", make_samples())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_samples(tmp_path / "a.h5", make_samples(3))
    finally:
        os.umask(before)
    assert (tmp_path / "a.h5").stat().st_mode & 0o777 == mode


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("mine")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # what a full disk looks like without being root
    try:
        with pytest.raises(OutputError, match=r"cannot be written|disk is full"):
            write_samples(path, make_samples(), force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["a.h5"]


def test_no_permission_is_an_output_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="no permission"):
        write_samples(tmp_path / "locked" / "a.h5", make_samples())


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.arange(3)},
        {"labels": np.full(150, 3)},
        {"channels": tuple(c[..., 0] for c in make_channels(150))},
    ],
)
def test_rows_that_could_not_be_read_again_are_a_bug_of_the_caller(tmp_path, changes):
    with pytest.raises(ValueError, match="must"):
        write_samples(tmp_path / "a.h5", make_samples(**changes))
    assert os.listdir(tmp_path) == []


# --- rows in memory ---


def test_rows_in_memory_are_a_source_like_a_file(tmp_path):
    samples = make_samples()
    write_samples(tmp_path / "a.h5", samples)
    rows = np.array([0, 7, 149])
    with ArraySource(samples) as memory, open_hdf5(config(tmp_path / "a.h5")) as file:
        for one, two in zip(memory.read(rows), file.read(rows), strict=True):
            assert np.array_equal(one, two)
        assert memory.index.channel_shapes == file.index.channel_shapes
        assert memory.index.locate(7) == "<simulated>, row 7"
        prints = [compute_fingerprint(source) for source in (memory, file)]
    assert prints[0]["files"] == [{"path": "<simulated>", "size": None}]
    for key in ("rows", "labels_sha256", "sampled_rows_sha256"):
        assert prints[0][key] == prints[1][key]


def test_rows_in_memory_are_checked_for_nan():
    channels = make_channels(5)
    channels[3][2] = np.nan
    source = ArraySource(make_samples(5, channels=tuple(channels)))
    with pytest.raises(DataError, match="<simulated>, row 2, dataset 'channel_4'"):
        source.read(np.arange(5))


# --- fingerprint ---


def test_fingerprint_changes_with_labels_values_and_order(tmp_path):
    def fingerprint(samples):
        return compute_fingerprint(ArraySource(samples))

    samples = make_samples()
    first = fingerprint(samples)
    assert first == fingerprint(make_samples())
    relabelled = fingerprint(make_samples(labels=(np.arange(150) + 1) % 3))
    renamed = fingerprint(make_samples(classes=("sit", "walk", "früh")))
    assert len({f["labels_sha256"] for f in (first, relabelled, renamed)}) == 3
    scaled = fingerprint(make_samples(channels=tuple(c * 2 for c in samples.channels)))
    reordered = fingerprint(make_samples(channels=tuple(c[::-1] for c in samples.channels)))
    assert len({f["sampled_rows_sha256"] for f in (first, scaled, reordered)}) == 3
    check_fingerprint(ArraySource(samples), first)
    with pytest.raises(DataError, match="not the data of the run: sampled_rows_sha256 differ"):
        check_fingerprint(ArraySource(samples), scaled)


# --- inspect ---


def test_inspect_gives_counts_order_slots_and_ranges(tmp_path):
    channels = [np.zeros((6, depth, POINTS, FRAMES, 1), "float32") for depth in (3, 1, 1, 1)]
    channels[0][:, :, :2] = np.array([1, 2, -3]).reshape(3, 1, 1, 1)  # two of five slots are filled
    channels[1][0, 0, 0, 0, 0] = 4.0
    channels[3][0, 0, 2, 1, 0] = 8.0  # a slot that only this channel fills
    path = write_file(
        tmp_path / "a.h5",
        6,
        labels=[0, 0, 0, 1, 1, 1],
        classes=["walk", "sit", "fly"],
        group=[b"a", b"a", b"b", b"b", b"b", b"c"],
        **dict(zip(NAMES, channels, strict=True)),
    )
    result = inspect_file(path, config(path))
    assert result == json.loads(json.dumps(result))
    assert result["classes"] == {"walk": 3, "sit": 3, "fly": 0}
    assert result["groups"] == {"count": 3, "rows_min": 1, "rows_max": 3}
    assert result["row_order"]["sorted_by_label"] is True
    assert result["row_order"]["longest_run_share"] == 0.5
    slots = 6 * 2 * FRAMES + 1
    assert result["slots"]["filled_share"] == pytest.approx(slots / (6 * POINTS * FRAMES))
    assert result["slots"]["mean_filled_per_frame"] == pytest.approx(slots / (6 * FRAMES))
    third = result["channels"][0]["filled"][2]
    filled = np.array([-3.0] * (slots - 1) + [0.0])
    assert third == pytest.approx({"min": -3, "max": 0, "mean": filled.mean(), "std": filled.std()})
    assert result["problems"] == []


def test_inspect_statistics_equal_numpy_over_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("pointcnn_cli.hdf5.inspect._BLOCK_BYTES", 8 * 7 * 6 * POINTS * FRAMES)  # seven rows a block
    channels = [c * 0.37 + 5 for c in make_channels(50, "float64")]
    path = write_file(tmp_path / "a.h5", 50, **dict(zip(NAMES, channels, strict=True)))
    result = inspect_file(path, config(path))
    for found, values in zip(result["channels"], channels, strict=True):
        for depth, numbers in enumerate(found["filled"]):
            part = values[:, depth]
            wanted = {"min": part.min(), "max": part.max(), "mean": part.mean(), "std": part.std()}
            assert numbers == pytest.approx(wanted, rel=1e-12)


def test_inspect_of_a_large_file_looks_at_evenly_spread_rows_and_at_all_when_asked(tmp_path, monkeypatch):
    row = 6 * POINTS * FRAMES
    monkeypatch.setattr("pointcnn_cli.hdf5.inspect._BLOCK_BYTES", 8 * 2 * row)  # two rows a block
    monkeypatch.setattr("pointcnn_cli.hdf5.inspect.MOST_VALUES", 6 * row)  # three of 25 blocks
    numbers = np.arange(50, dtype="float64").reshape(50, 1, 1, 1, 1)
    channels = [np.broadcast_to(numbers, values.shape) for values in make_channels(50, "float64")]
    path = write_file(tmp_path / "a.h5", 50, **dict(zip(NAMES, channels, strict=True)))
    part, whole = inspect_file(path, config(path)), inspect_file(path, config(path), all_values=True)
    assert (part["rows_looked_at"], whole["rows_looked_at"], part["rows"]) == (6, 50, 50)
    seen = part["channels"][3]["filled"][0]
    assert (seen["min"], seen["max"], seen["mean"]) == (1, 49, np.mean([1, 24, 25, 48, 49]))
    assert part["slots"]["filled_share"] == (6 - 1) / 6  # the row of zeros is seen
    assert part["slots"]["mean_filled_per_frame"] == POINTS * 5 / 6
    assert whole["channels"][3]["filled"][0]["mean"] == pytest.approx(np.arange(1, 50).mean())


def test_inspect_counts_nan_and_does_not_fail_on_it(tmp_path):
    channels = make_channels(12)
    channels[1][3, 0, :2, 0] = np.nan
    channels[1][8, 0, 0, 0] = np.inf
    result = inspect_file(path := write_file(tmp_path / "a.h5", channel_2=channels[1]), config(path))
    assert result["channels"][1]["non_finite_values"] == 3
    assert result["channels"][1]["non_finite_rows"] == 2
    assert np.isfinite(result["channels"][1]["filled"][0]["std"])
    assert result["channels"][0]["non_finite_values"] == 0


def test_inspect_shows_a_file_that_does_not_keep_to_the_layout(tmp_path):
    path = write_file(tmp_path / "a.h5", channel_2=np.ones((12, POINTS, FRAMES)), label=None, other=[1 + 2j])
    result = inspect_file(path, config(path))
    shapes = {line["name"]: (line["shape"], line["dtype"]) for line in result["datasets"]}
    assert shapes["channel_2"] == ([12, POINTS, FRAMES], "float64")
    assert shapes["other"] == ([1], "complex128")
    assert [p["problem"].split("dataset ")[1].split(":")[0] for p in result["problems"]] == ["'channel_2'", "'label'"]
    assert result["classes"] is result["slots"] is result["row_order"] is None


def test_inspect_reads_channels_of_a_file_without_labels(tmp_path):
    path = write_file(tmp_path / "a.h5", label=None)
    result = inspect_file(path, config(path))
    assert result["slots"]["filled_share"] == 1.0
    assert len(result["problems"]) == 1


def test_inspect_of_what_is_not_hdf5_is_a_data_error(tmp_path):
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(DataError, match="but text"):
        inspect_file(tmp_path / "a.h5", config(tmp_path / "a.h5"))


def test_row_order_of_sorted_shuffled_and_single_class_rows():
    assert compute_row_order(np.repeat([2, 0, 1], 10))["sorted_by_label"] is True
    mixed = compute_row_order(np.array([0, 1, 0, 1]))
    assert (mixed["sorted_by_label"], mixed["longest_run"], mixed["same_as_previous_share"]) == (False, 1, 0.0)
    assert mixed["shuffled_share"] == pytest.approx(1 / 3)
    assert compute_row_order(np.array([0]))["sorted_by_label"] is False
    assert compute_row_order(np.zeros(5, int))["longest_run_share"] == 1.0


# --- data/README.md and the code say the same ---


def table(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading of the README, without its head."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_readme_lists_the_dataset_names_and_settings_of_the_code():
    rows = table("Datasets")
    names = [re.findall(r"`(\w+)`", row[0]) for row in rows]
    defaults = DataConfig(path="x")
    assert names == [list(defaults.channels), [defaults.labels], ["group"], ["recording"], ["start_frame"]]
    settings = [row[3].strip("`").removeprefix("data.") for row in rows[:4]]
    assert settings == ["channels", "labels", "groups", "recordings"]
    assert set(settings) <= set(DataConfig.model_fields)


def test_readme_lists_the_element_types_of_the_code():
    accepted = {column: [] for column in (1, 2, 3)}
    for row in table("Element types"):
        for column, names in accepted.items():
            names += re.findall(r"`(\w+)`", row[0]) if row[column] != "no" else []
    assert accepted[1] == list(CHANNEL_DTYPES)
    assert accepted[2] == list(LABEL_DTYPES)
    assert accepted[3] == list(GROUP_DTYPES)


def test_the_program_of_the_readme_writes_a_good_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    exec(compile(program, "README", "exec"), {})
    with open_hdf5(DataConfig(path="mine.h5")) as source:
        assert source.index.classes == ("walk", "sit")
        assert len(source.index.group_names) == 10
        assert source.read(np.arange(200))[0].shape == (200, 3, 64, 48, 1)

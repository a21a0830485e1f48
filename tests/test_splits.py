"""Splits keep groups apart and classes in proportion, follow their stated rules, and say what is wrong with them."""

import itertools
import json
import os
import time
from dataclasses import asdict

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointcnn_cli.config.schema import SplitConfig
from pointcnn_cli.errors import ConfigError, DataError
from pointcnn_cli.hdf5.samples import DataIndex, FileSpan
from pointcnn_cli.splits import build_split
from pointcnn_cli.splits.files import read_split_file, split_document
from pointcnn_cli.splits.parts import (
    Split,
    compute_ceiling,
    compute_chance,
    describe_split,
    find_window_overlap,
    name_parts,
)

FRAMES = 48


def make_index(labels, groups=None, *, start_frames=None, recordings=None, classes=None) -> DataIndex:
    labels = np.asarray(labels, dtype=np.int64)
    arrays = [None if a is None else np.asarray(a, dtype=np.int64) for a in (groups, recordings, start_frames)]
    return DataIndex(
        files=(FileSpan("/data/rows.h5", 0, len(labels)),),
        channel_names=("channel_1", "channel_2", "channel_3", "channel_4"),
        channel_shapes=((3, 64, FRAMES), (1, 64, FRAMES), (1, 64, FRAMES), (1, 64, FRAMES)),
        labels=labels,
        classes=classes or tuple("abcdefghijkl"[: int(labels.max()) + 1]),
        groups=arrays[0],
        recordings=arrays[1],
        start_frames=arrays[2],
    )


def people(subjects: int = 24, windows: int = 14, activities: int = 6) -> DataIndex:
    """Label-sorted rows, as such files usually are: every subject does every activity, windows overlap."""
    labels, groups, starts = np.meshgrid(np.arange(activities), np.arange(subjects), np.arange(windows), indexing="ij")
    return make_index(labels.ravel(), groups.ravel(), start_frames=16 * starts.ravel())


def check_partition(index: DataIndex, split: Split) -> None:
    parts = name_parts(split)
    for rows in parts.values():
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
    assert sorted(np.concatenate(list(parts.values()))) == list(range(index.rows))


def all_notes(split: Split) -> str:
    return " ".join(split.notes)


def test_auto_keeps_groups_apart_where_there_are_groups_and_stratifies_rows_elsewhere():
    index = people()
    split = build_split(index, SplitConfig())
    check_partition(index, split)
    assert (split.strategy, split.folds, split.notes) == ("stratified_group", 5, ())
    assert not np.intersect1d(index.groups[split.train], index.groups[split.validation]).size
    plain = build_split(make_index(index.labels), SplitConfig())
    assert (plain.strategy, plain.folds, plain.notes) == ("stratified", 5, ())
    assert set(np.bincount(index.labels[plain.validation])) <= {67, 68}


@pytest.mark.parametrize("strategy", ["stratified", "stratified_group"])
def test_folds_together_validate_every_row_once(strategy):
    index = people(subjects=11)
    folds = [build_split(index, SplitConfig(strategy=strategy, fold=fold)).validation for fold in range(5)]
    assert sorted(np.concatenate(folds)) == list(range(index.rows))


def test_same_seed_same_split_and_another_seed_another_one():
    index = people()
    first, again, other = (build_split(index, SplitConfig(seed=seed)).validation for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_number_of_folds_follows_the_fraction():
    index = people()
    for fraction, count in ((0.5, 2), (0.34, 3), (0.1, 10)):
        split = build_split(index, SplitConfig(validation_fraction=fraction))
        assert split.folds == count
        assert len(split.validation) == pytest.approx(index.rows / count, rel=0.3)


def test_of_the_shuffles_one_without_missing_classes_is_taken():
    """About half of the shuffles of these groups put all rows of a class into one fold, and training lacks it there."""
    counts = [(5, 0, 5), (6, 2, 0), (0, 5, 5), (0, 2, 0)]  # rows of each class in each group
    rows = [(label, group) for group, row in enumerate(counts) for label, n in enumerate(row) for _ in range(n)]
    labels, groups = np.array(rows).T
    for seed, fold in itertools.product(range(6), range(2)):
        split = build_split(make_index(labels, groups), SplitConfig(validation_fraction=0.5, seed=seed, fold=fold))
        assert set(labels[split.train]) == set(labels[split.validation]) == {0, 1, 2}


def test_fewer_groups_than_folds_reduce_the_folds_and_say_so():
    index = people(subjects=3)
    split = build_split(index, SplitConfig())
    assert split.folds == 3
    assert "3 folds instead of round(1 / 0.2) = 5, for there are only 3 groups" in all_notes(split)
    with pytest.raises(DataError, match=r"split.fold is 4, but these data make only 3 folds") as caught:
        build_split(index, SplitConfig(fold=4))
    assert "2 or less" in caught.value.hint


@pytest.mark.parametrize("strategy", ["auto", "stratified_group"])
def test_one_group_falls_back_to_rows_with_a_warning(strategy):
    index = make_index(np.arange(40) % 2, np.zeros(40))
    split = build_split(index, SplitConfig(strategy=strategy))
    check_partition(index, split)
    assert split.strategy == "stratified"
    assert "belong to one group" in all_notes(split)


def test_grouping_without_groups_is_refused():
    with pytest.raises(DataError, match="no groups"):
        build_split(make_index([0, 1, 0, 1]), SplitConfig(strategy="stratified_group"))


@pytest.mark.parametrize("grouped", [False, True])
def test_rare_classes_are_spread_and_named(grouped):
    labels = np.array([0] * 30 + [1] * 30 + [2] * 3)
    groups = np.concatenate([np.arange(30), np.arange(30), [4, 11, 19]]) if grouped else None
    seen = []
    for fold in range(5):
        split = build_split(make_index(labels, groups), SplitConfig(fold=fold))
        assert (
            f"fewer {'groups' if grouped else 'rows'} than the 5 folds of the validation split: c (3)" in split.notes[0]
        )
        assert 2 in labels[split.train]
        seen.append(np.count_nonzero(labels[split.validation] == 2))
        assert ("Classes without a validation row: c" in all_notes(split)) == (seen[-1] == 0)
    assert sorted(seen) == [0, 0, 1, 1, 1]


def test_few_rows_of_every_class_reduce_the_folds():
    split = build_split(make_index([0, 0, 0, 1, 1, 1]), SplitConfig())
    assert split.folds == 3
    assert "no class has more than 3 rows" in all_notes(split)
    with pytest.raises(DataError, match="every class has only one row"):
        build_split(make_index([0, 1, 2]), SplitConfig())


def test_a_class_without_training_rows_is_refused_unless_allowed():
    groups = np.repeat(np.arange(10), 6)
    labels = np.where(groups == 7, 2, np.arange(60) % 2)  # class c is one whole group
    index = make_index(labels, groups, classes=("walk", "jump", "wave"))
    everything = [build_split(index, SplitConfig(fold=fold, allow_missing_classes=True)) for fold in range(5)]
    complete = [fold for fold, split in enumerate(everything) if 2 in labels[split.train]]
    assert len(complete) == 4
    (lacking,) = set(range(5)) - set(complete)
    with pytest.raises(DataError) as caught:
        build_split(index, SplitConfig(fold=lacking))
    assert "Classes without a training row: wave (6 validation rows)" in caught.value.message
    assert f"split.fold {' or '.join(map(str, complete))} every class" in caught.value.hint
    ceiling = compute_ceiling(labels, everything[lacking].train, everything[lacking].validation)
    assert ceiling == 1 - 6 / len(everything[lacking].validation)
    assert f"above {ceiling:.1%} " in all_notes(everything[lacking])


def test_a_class_that_no_row_has_is_refused_unless_allowed():
    index = make_index([0, 1] * 10, classes=("a", "b", "ghost"))
    with pytest.raises(DataError, match=r"ghost \(0 validation rows\)"):
        build_split(index, SplitConfig())
    assert build_split(index, SplitConfig(allow_missing_classes=True)).folds == 5


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([1, 1, 1], ("a", "b"), "all 3 rows are of one class, 'b'"),
        ([0, 1], ("a", "b", "c"), "2 rows for 3 classes"),
        ([0], ("a",), "1 rows for 1 classes"),
    ],
)
def test_data_that_cannot_be_split_are_refused(labels, classes, message):
    with pytest.raises(DataError, match=message):
        build_split(make_index(labels, classes=classes), SplitConfig(allow_missing_classes=True))


def test_rows_without_labels_are_refused():
    unlabelled = DataIndex((FileSpan("/data/rows.h5", 0, 9),), ("a", "b", "c", "d"), ((1, 1, 1),) * 4, None, None)
    with pytest.raises(DataError, match=r"/data/rows.h5 have no labels"):
        build_split(unlabelled, SplitConfig())


@pytest.mark.parametrize(("rows", "fraction", "cut"), [(10, 0.2, 8), (11, 0.25, 8), (7, 0.5, 3), (101, 0.1, 90)])
def test_tail_cuts_where_keras_does(rows, fraction, cut):
    index = make_index(np.arange(rows) % 2)
    split = build_split(index, SplitConfig(strategy="tail", validation_fraction=fraction))
    assert split.train.tolist() == list(range(cut))
    assert split.validation.tolist() == list(range(cut, rows))


def test_tail_of_sorted_rows_is_refused_or_warned_of_with_class_counts_and_ceiling():
    index = people()  # 2016 rows, 336 of each class; the last 404 are 68 of e and 336 of f
    with pytest.raises(DataError) as caught:
        build_split(index, SplitConfig(strategy="tail"))
    assert "f (336 rows, 0 left for training)" in caught.value.message
    assert "split.strategy to 'auto'" in caught.value.hint
    split = build_split(index, SplitConfig(strategy="tail", allow_missing_classes=True))
    assert compute_ceiling(index.labels, split.train, split.validation) == 68 / 404
    notes = all_notes(split)
    for fact in ("last 404 of 2016", "99.8% of cases (16.7% in random order)", "2 of 6 classes", "above 16.8% "):
        assert fact in notes
    assert "set split.strategy to 'auto'" in notes


def test_tail_of_shuffled_rows_gets_no_advice():
    labels = np.random.default_rng(0).permutation(np.arange(200) % 4)
    notes = all_notes(build_split(make_index(labels), SplitConfig(strategy="tail")))
    assert "last 40 of 200" in notes
    assert "auto" not in notes


def test_a_part_without_rows_is_refused():
    """The test part takes the group of three; of the one row that is left, none can train."""
    config = SplitConfig(strategy="tail", test_fraction=0.5, allow_missing_classes=True)
    with pytest.raises(DataError, match=r"no row for training: 4 rows, 0 for training, 1 for validation"):
        build_split(make_index([1, 1, 1, 0], [0, 0, 0, 1]), config)


def test_test_part_is_group_disjoint_and_does_not_move_with_the_fold():
    index = people()
    tests = []
    for fold, fraction, strategy in ((0, 0.2, "auto"), (3, 0.25, "auto"), (0, 0.2, "tail")):
        split = build_split(
            index,
            SplitConfig(
                fold=fold,
                validation_fraction=fraction,
                strategy=strategy,
                test_fraction=0.2,
                allow_missing_classes=True,
            ),
        )
        check_partition(index, split)
        used = np.concatenate([split.train, split.validation])
        assert not np.intersect1d(index.groups[split.test], index.groups[used]).size
        assert len(split.test) == pytest.approx(0.2 * index.rows, rel=0.2)
        tests.append(split.test)
    assert np.array_equal(tests[0], tests[1])
    assert np.array_equal(tests[0], tests[2])


@pytest.mark.parametrize("fraction", [0.5, 0.34, 0.25, 0.1])
def test_test_part_leaves_every_class_in_the_rest_where_it_can(fraction):
    groups = np.repeat(np.arange(10), 6)
    labels = np.where(groups == 7, 2, np.arange(60) % 2)  # class c is one whole group, in the first fold here
    config = SplitConfig(test_fraction=fraction, allow_missing_classes=True)
    assert 2 not in labels[build_split(make_index(labels, groups), config).test]


def test_overlapping_windows_are_counted_and_told():
    index = people(subjects=4)
    split = build_split(index, SplitConfig(strategy="stratified"))
    count = find_window_overlap(index, split, FRAMES)
    assert count > 0.9 * len(split.validation)
    share = f"{count} of {len(split.validation)} in the validation part ({count / len(split.validation):.1%})"
    assert share in all_notes(split)
    assert "Groups that also have training rows: 4 of 4" in all_notes(split)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_overlap_count_equals_a_search_over_all_pairs(data):
    rows = data.draw(st.integers(2, 30))
    recordings = data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    starts = data.draw(st.lists(st.integers(-50, 400), min_size=rows, max_size=rows))
    cut = data.draw(st.integers(1, rows - 1))
    order = np.array(data.draw(st.permutations(range(rows))))
    index = make_index(np.arange(rows) % 2, start_frames=starts, recordings=recordings)
    split = Split(np.sort(order[:cut]), np.sort(order[cut:]), None, "file")
    expected = sum(
        any(recordings[v] == recordings[t] and abs(starts[v] - starts[t]) < FRAMES for t in split.train)
        for v in split.validation
    )
    assert find_window_overlap(index, split, FRAMES) == expected


def test_recordings_default_to_group_and_label_together():
    split = Split(np.array([0, 1]), np.array([2, 3]), None, "file")
    same_group_other_label = make_index([0, 0, 1, 0], [0, 0, 0, 1], start_frames=[0, 100, 0, 0])
    assert find_window_overlap(same_group_other_label, split, FRAMES) == 0
    assert find_window_overlap(make_index([0, 0, 0, 1], [0, 0, 0, 0], start_frames=[0, 100, 90, 0]), split, FRAMES) == 1
    assert find_window_overlap(make_index([0, 0, 0, 1], [0, 0, 0, 0]), split, FRAMES) == 0


def test_ceiling_and_chance():
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 1])
    train, part = np.array([0, 1, 2]), np.array([3, 4, 5, 6, 7])
    assert compute_ceiling(labels, train, part) == 2 / 5
    assert compute_chance(labels, train, part) == 2 / 5
    assert compute_chance(labels, np.array([0]), part) == 0.0


def test_description_counts_rows_groups_and_classes_of_each_part():
    index = people(subjects=10)
    split = build_split(index, SplitConfig(test_fraction=0.2))
    train, validation, test = describe_split(index, split)
    assert (train.name, validation.name, test.name) == ("train", "validation", "test")
    assert train.groups + validation.groups + test.groups == 10
    assert all(sum(part.classes.values()) == part.rows for part in (train, validation, test))
    assert (validation.ceiling, validation.chance, train.ceiling) == (1.0, 1 / 6, None)
    assert json.loads(json.dumps(asdict(validation), allow_nan=False))["classes"]["a"] == 28


def test_split_file_gives_the_same_parts_again(tmp_path):
    index = people(subjects=10)
    split = build_split(index, SplitConfig(test_fraction=0.2))
    document = split_document(index, split)
    assert list(document) == ["schema_version", "train", "validation", "test", "counts"]
    path = tmp_path / "split.json"
    path.write_text(json.dumps(document, allow_nan=False))
    again = build_split(index, SplitConfig(strategy="file", file=str(path)))
    assert (again.strategy, again.folds, again.notes) == ("file", None, ())
    for part in ("train", "validation", "test"):
        assert np.array_equal(getattr(again, part), getattr(split, part))


def test_split_file_may_leave_rows_out_and_says_so(tmp_path):
    path = tmp_path / "split.json"
    path.write_text('{"schema_version": 1, "train": [5, 1, 0], "validation": [2, 3]}')
    split = build_split(make_index([0, 1, 0, 1, 0, 1]), SplitConfig(strategy="file", file=str(path)))
    assert split.train.tolist() == [0, 1, 5]
    assert split.test is None
    assert "1 of 6 rows are in no part" in all_notes(split)


def write_split(path, **changes):
    document = {"schema_version": 1, "train": [0, 1, 2], "validation": [3, 4], "test": None} | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value != "absent"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": [0, 1, 6]}, r"'train'\[2\] is 6, .* \(0 to 5\)"),
        ({"train": [0, -1]}, r"'train'\[1\] is -1"),
        ({"train": [0, 10**400]}, r"'train'\[1\] is 1000"),
        ({"validation": [3, 1.0]}, r"'validation'\[1\] is 1.0"),
        ({"validation": [True, 3]}, r"'validation'\[0\] is True"),
        ({"validation": ["3"]}, r"'validation'\[0\] is '3'"),
        ({"train": [0, 1, 1]}, r"'train' holds row 1 2 times"),
        ({"validation": [2, 3]}, r"1 rows are both in 'train' and in 'validation'; the first is row 2"),
        ({"test": [4, 5]}, r"both in 'validation' and in 'test'; the first is row 4"),
        ({"train": []}, r"'train' is empty"),
        ({"test": []}, r"'test' is empty"),
        ({"validation": "absent"}, r"'validation' is missing"),
        ({"validation": 3}, r"'validation' is not a list"),
        ({"schema_version": 2}, r"'schema_version' is 2; this version reads 1"),
        ({"schema_version": True}, r"'schema_version' is True"),
        ({"counts": {"rows": 9}}, r"made for data of 9 rows, and these have 6"),
    ],
)
def test_damaged_split_file_is_refused_with_file_part_and_place(tmp_path, changes, message):
    path = tmp_path / "split.json"
    write_split(path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_split_file(path, 6)
    assert caught.value.message.startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not a split"), (b"[1]", "holds a list"), (b"\xff\xfe", "is not a split"), (b"[" * 99999, "is not a")],
)
def test_split_file_that_is_no_json_object_is_refused(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_split_file(path, 6)


def test_split_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_split_file(tmp_path / "none.json", 6)
    with pytest.raises(DataError, match="cannot be read"):
        read_split_file(tmp_path, 6)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_split_file(tmp_path / "pipe", 6)
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="larger than"):
        read_split_file(tmp_path / "huge.json", 6)


def test_split_file_and_test_fraction_do_not_go_together(tmp_path):
    path = tmp_path / "split.json"
    write_split(path)
    with pytest.raises(ConfigError, match="test_fraction"):
        build_split(make_index([0, 1, 0, 1, 0, 1]), SplitConfig(strategy="file", file=str(path), test_fraction=0.2))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7)), min_size=1, max_size=60),
    st.sampled_from(["auto", "stratified", "stratified_group", "tail"]),
    st.booleans(),
    st.sampled_from([None, 0.1, 0.4]),
)
@settings(max_examples=40, deadline=None)
def test_any_rows_give_a_partition_or_a_clear_refusal(rows, strategy, grouped, test_fraction):
    labels, groups = np.array(rows).T
    index = make_index(labels, groups if grouped else None, classes=("a", "b", "c", "d"))
    config = SplitConfig(
        strategy=strategy, test_fraction=test_fraction, validation_fraction=0.25, allow_missing_classes=True
    )
    try:
        split = build_split(index, config)
    except DataError:
        return
    check_partition(index, split)
    assert len(split.train)
    assert len(split.validation)
    if split.strategy == "stratified_group":
        assert not np.intersect1d(groups[split.train], groups[split.validation]).size


def test_real_recordings_are_split_fast_and_evenly(radhar_path):
    with h5py.File(radhar_path) as file:
        index = make_index(file["label"][:], file["group"][:], start_frames=file["start_frame"][:])
    build_split(make_index([0, 1] * 5), SplitConfig())  # imports scikit-learn
    start = time.process_time()
    split = build_split(index, SplitConfig())
    assert time.process_time() - start < 4
    assert split.notes == ()
    shares = [np.bincount(index.labels[rows]) / len(rows) for rows in (split.train, split.validation)]
    assert np.abs(shares[0] - shares[1]).max() < 0.05
    tail = build_split(index, SplitConfig(strategy="tail"))
    assert "1 of 5 classes: e (917 rows, 168 left for training)" in tail.notes[0]

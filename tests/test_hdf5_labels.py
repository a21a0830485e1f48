"""Labels, classes and groups: every documented kind, every refusal, several files, a trained model's classes."""

import re

import numpy as np
import pytest
from hdf5_files import FRAMES, NAMES, POINTS, config, index_of, refused, write_file

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.reading import open_hdf5

LABEL_KINDS = {
    "integers": (np.array([3, 0, 3, 5]), ("0", "3", "5"), [1, 0, 1, 2]),
    "small unsigned": (np.array([1, 0, 1, 0], "uint8"), ("0", "1"), [1, 0, 1, 0]),
    "ten sorts after two": (np.array([10, 2, 10, 2]), ("2", "10"), [1, 0, 1, 0]),
    "big-endian": (np.array([1, 0, 1, 0], ">i4"), ("0", "1"), [1, 0, 1, 0]),
    "fixed strings": (np.array([b"walk", b"sit", b"walk", b"sit"]), ("sit", "walk"), [1, 0, 1, 0]),
    "variable strings": (["gehen", "früh", "gehen", "früh"], ("früh", "gehen"), [1, 0, 1, 0]),
    "one-hot": (np.eye(4)[[2, 0, 2, 1]], ("0", "1", "2", "3"), [2, 0, 2, 1]),
    "true/false one-hot": (np.eye(2, dtype=bool)[[1, 0, 1, 0]], ("0", "1"), [1, 0, 1, 0]),
    "whole floats": (np.array([1.0, 0, 1, 0]), ("0", "1"), [1, 0, 1, 0]),
    "one column": (np.array([[1], [0], [1], [0]]), ("0", "1"), [1, 0, 1, 0]),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_of_every_documented_kind(tmp_path, kind):
    values, classes, codes = LABEL_KINDS[kind]
    index = index_of(write_file(tmp_path / "a.h5", 4, labels=values))
    assert index.classes == classes
    assert index.labels.tolist() == codes
    assert index.labels.dtype == np.int64
    assert len(index.notes) == (kind in ("whole floats", "one column"))


BAD_LABELS = {
    "negative": ([0, -1, -1, 2], None, "must not be negative; found -1 (2 rows, first row 1)"),
    "beyond classes": (
        [0, 7, 1, 255],
        ["a", "b"],
        "must be 0 to 1.*found 7 (1 rows, first row 1), 255 (1 rows, first row 3)",
    ),
    "fractional": ([0.0, 0.5, 1.0, 0.5], None, "must be whole numbers; found 0.5 (2 rows, first row 1)"),
    "NaN": ([0.0, np.nan, 1.0, 0.0], None, "must be whole numbers; found nan (1 rows, first row 1)"),
    "true/false": ([True, False, True, True], None, "only read as one-hot"),
    "soft one-hot": ([[0.9, 0.1]] * 4, None, "4 rows do not, first row 0"),
    "two ones": ([[1, 0], [1, 1], [0, 1], [1, 0]], None, "1 rows do not, first row 1"),
    "three axes": (np.zeros((4, 1, 1)), None, "expected shape (rows,), or one-hot (rows, classes), found (4, 1, 1)"),
    "another row count": ([0, 1, 2], None, "3 rows, but the channels have 4"),
    "complex": (np.zeros(4, complex), None, "elements are complex128"),
    "empty name": ([b"walk", b"", b"sit", b"sit"], None, "unusable name ''"),
    "escape codes in a name": ([b"\x1b[31m", b"a", b"a", b"a"], None, "printable"),
    "not UTF-8": (np.array([b"\xff", b"a", b"a", b"a"]), None, "not UTF-8"),
    "names twice": ([0, 1, 0, 1], ["walk", "walk"], "more than once: walk"),
    "no list of names": ([0, 1, 0, 1], "walk,sit", "must be a list of names"),
    "strings not in classes": ([b"walk", b"run", b"sit", b"sit"], ["walk", "sit"], "does not name: run"),
    "one-hot of other width": (np.eye(3)[[0, 1, 2, 0]], ["a", "b"], "3 one-hot columns.*has 2 names"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_labels_are_named_with_values_and_rows(tmp_path, kind):
    values, classes, words = BAD_LABELS[kind]
    path = write_file(tmp_path / "a.h5", 4, labels=values, classes=classes)
    message = refused(path)
    assert f"{path}, dataset 'label'" in message
    assert re.search(re.escape(words).replace(r"\.\*", ".*"), message)


def test_class_order_is_the_attribute_for_strings_and_one_hot_too(tmp_path):
    strings = write_file(
        tmp_path / "a.h5", 4, labels=[b"walk", b"sit", b"walk", b"sit"], classes=["walk", "sit", "fall"]
    )
    one_hot = write_file(tmp_path / "b.h5", 4, labels=np.eye(2)[[0, 1, 0, 1]], classes=["walk", "sit"])
    assert index_of(strings).classes == ("walk", "sit", "fall")
    assert index_of(strings).labels.tolist() == index_of(one_hot).labels.tolist() == [0, 1, 0, 1]


def test_measurements_given_as_labels_are_refused(tmp_path):
    small = np.ones((1200, 1, 1, 1))
    path = write_file(tmp_path / "a.h5", 1200, labels=np.arange(1200), **dict.fromkeys(NAMES, small))
    assert "1200 different labels; at most 1000" in refused(path)


def test_labels_that_are_not_required_become_none_with_a_note(tmp_path):
    without = write_file(tmp_path / "a.h5", label=None)
    unusable = write_file(tmp_path / "b.h5", labels=np.full(12, 0.5))
    for path in (without, unusable):
        index = index_of(path, required=False, groups="subject")
        assert index.labels is index.classes is index.groups is None
        assert len(index.notes) == 2
    assert "dataset 'label'" in refused(without)


def test_several_files_match_classes_and_groups_by_name(tmp_path):
    one = write_file(tmp_path / "a.h5", 4, labels=[0, 1, 0, 1], classes=["walk", "sit"], group=[0, 0, 1, 1])
    two = write_file(tmp_path / "b.h5", 4, labels=[0, 1, 0, 1], classes=["sit", "walk"], group=[1, 1, 2, 2])
    index = index_of(one, two)
    assert index.classes == ("walk", "sit")
    assert index.labels.tolist() == [0, 1, 0, 1, 1, 0, 1, 0]
    assert [index.group_names[g] for g in index.groups] == ["0", "0", "1", "1", "1", "1", "2", "2"]
    apart = index_of(one, two, groups_per_file=True)
    assert [apart.group_names[g] for g in apart.groups][3:5] == ["a.h5:1", "b.h5:1"]
    assert len(apart.group_names) == 4


def test_files_without_class_lists_are_joined_by_value(tmp_path):
    one = write_file(tmp_path / "a.h5", 3, labels=[2, 10, 2])
    two = write_file(tmp_path / "b.h5", 3, labels=[10, 5, 5])
    index = index_of(one, two)
    assert index.classes == ("2", "5", "10")
    assert index.labels.tolist() == [0, 2, 0, 2, 1, 1]


DISAGREEING = {
    "other classes": ({"labels": [0, 1], "classes": ["walk", "fall"]}, "its classes are walk, fall, but those of"),
    "numbers against names": ({"labels": [0, 1]}, "name the classes of number labels with the attribute 'classes'"),
    "no groups": ({"labels": [0, 1], "classes": ["walk", "sit"], "group": None}, "it has no groups, but"),
    "group names": (
        {"labels": [0, 1], "classes": ["walk", "sit"], "group": [b"x", b"y"]},
        "not known which groups are equal",
    ),
    "another grid": (
        {"labels": [0, 1], "classes": ["walk", "sit"], **dict.fromkeys(NAMES, np.ones((2, 1, POINTS, FRAMES + 1)))},
        f"(depth, points, frames) is (1, {POINTS}, {FRAMES + 1}), but (3, {POINTS}, {FRAMES}) in",
    ),
}


@pytest.mark.parametrize("kind", DISAGREEING)
def test_files_that_do_not_go_together_are_refused(tmp_path, kind):
    content, words = DISAGREEING[kind]
    one = write_file(tmp_path / "a.h5", 2, labels=[0, 1], classes=["walk", "sit"], group=[0, 1])
    two = write_file(tmp_path / "b.h5", 2, **{"group": [0, 1], **content})
    message = refused(one, two)
    assert words in message
    assert str(two) in message


def test_a_file_given_twice_is_refused(tmp_path):
    path = write_file(tmp_path / "a.h5")
    (tmp_path / "link.h5").symlink_to(path)
    assert "given twice" in refused(path, path)
    assert f"is the same file as {path}" in refused(path, tmp_path / "link.h5")


def test_evaluation_maps_labels_to_the_models_classes_by_name(tmp_path):
    path = write_file(tmp_path / "a.h5", 4, labels=[0, 1, 0, 1], classes=["walk", "sit"])
    index = index_of(path, expected=("fall", "sit", "walk"))
    assert index.classes == ("fall", "sit", "walk")
    assert index.labels.tolist() == [2, 1, 2, 1]
    unused = write_file(tmp_path / "b.h5", 4, labels=[0, 0, 0, 0], classes=["walk", "swim"])
    assert index_of(unused, expected=("sit", "walk")).labels.tolist() == [1] * 4


def test_a_class_that_the_model_does_not_know_is_refused_with_both_lists(tmp_path):
    path = write_file(tmp_path / "a.h5", 4, labels=[0, 1, 2, 1], classes=["walk", "swim", "fly"])
    with pytest.raises(DataError, match=r"does not know: fly, swim; it knows: walk, sit"):
        open_hdf5(config(path), expected_classes=("walk", "sit"))

"""Scoring predicts the rows it is given and compares them with their own labels, groups and files."""

import dataclasses

import keras
import numpy as np
import pytest

from pointcnn_cli.batches import predict_rows
from pointcnn_cli.config.schema import ModelConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.samples import ArraySource, FileSpan, Samples
from pointcnn_cli.models import build_model
from pointcnn_cli.scoring import score_rows

CLASSES = ("box", "jump", "walk")
GROUPS = ("anna", "ben", "cleo")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model(ModelConfig(name="pointnet_tcn"), [(d, 4, 5) for d in (3, 1, 1, 1)], 3)


def make_source(rows: int) -> ArraySource:
    random = np.random.default_rng(0)
    channels = tuple(random.normal(0, 2, (rows, d, 4, 5, 1)).astype("float32") for d in (3, 1, 1, 1))
    labels, groups = random.integers(0, 3, rows), random.integers(0, 3, rows)
    return ArraySource(Samples(channels, labels, CLASSES, groups, GROUPS), "radar.h5")


def score(model, source, rows, index, numbers):
    return score_rows(
        model, source, rows, index, numbers, trained_classes=np.arange(3), epoch=4, selected_on_these_rows=True
    )


def test_scores_are_those_of_the_rows_asked_for(model):
    source, rows = make_source(30), np.arange(5, 30, 3)
    probabilities = np.concatenate(list(predict_rows(model, source, rows)))
    labels = np.zeros(30, np.int64)
    labels[rows] = (probabilities.argmax(axis=1) + (np.arange(9) % 3 == 0)) % 3  # every third one is wrong
    index = dataclasses.replace(source.index, labels=labels)
    scored = score(model, source, rows, index, rows)
    assert scored.metrics["accuracy"] == 6 / 9
    assert (scored.metrics["n"], scored.metrics["epoch"], scored.metrics["selected_on_these_rows"]) == (9, 4, True)
    np.testing.assert_array_equal(scored.predictions.probabilities, probabilities)
    assert scored.predictions.labels == [CLASSES[label] for label in labels[rows]]
    assert scored.predictions.groups == [GROUPS[group] for group in source.index.groups[rows]]
    assert scored.predictions.files == ["radar.h5"] * 9


def test_rows_of_a_part_keep_the_numbers_that_they_have_in_the_data(model):
    whole = make_source(30)
    numbers = np.arange(20, 30)
    part = ArraySource(Samples(whole.read(numbers), whole.index.labels[numbers], CLASSES))
    of_part = score(model, part, np.arange(10), whole.index, numbers)
    of_whole = score(model, whole, numbers, whole.index, numbers)
    assert of_part.metrics == of_whole.metrics
    np.testing.assert_array_equal(of_part.predictions.numbers, numbers)
    assert of_part.predictions.groups == of_whole.predictions.groups


def test_each_row_is_given_its_own_file(model):
    source = make_source(10)
    index = dataclasses.replace(source.index, files=(FileSpan("a.h5", 0, 6), FileSpan("b.h5", 6, 4)))
    scored = score(model, source, np.array([0, 5, 6, 9]), index, np.array([0, 5, 6, 9]))
    assert scored.predictions.files == ["a.h5", "a.h5", "b.h5", "b.h5"]


def test_rows_without_groups_are_scored_without(model):
    source = make_source(10)
    index = dataclasses.replace(source.index, groups=None, group_names=None)
    scored = score(model, source, np.arange(10), index, np.arange(10))
    assert scored.predictions.groups is None
    assert scored.metrics["n_groups"] is None


def test_groups_without_names_are_named_by_number(model):
    source = make_source(10)
    index = dataclasses.replace(source.index, group_names=None)
    scored = score(model, source, np.arange(10), index, np.arange(10))
    assert scored.predictions.groups == [str(group) for group in source.index.groups]


def test_rows_without_labels_cannot_be_scored(model):
    source = make_source(10)
    index = dataclasses.replace(source.index, labels=None)
    with pytest.raises(DataError, match=r"radar\.h5: there are no labels") as raised:
        score(model, source, np.arange(10), index, np.arange(10))
    assert "data.labels" in raised.value.hint

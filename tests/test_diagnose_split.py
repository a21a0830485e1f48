"""Checks of split, labels and values: each names its fault, and is silent where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from diagnose_cases import cut_tail, hold_out_people, make_case, simulate_people

from pointcnn_cli.diagnose.checks.split import check_class_shares, check_validation_size
from pointcnn_cli.diagnose.checks.values import check_batches, check_class_sizes, check_label_form, check_values
from pointcnn_cli.diagnose.facts import FitSettings
from pointcnn_cli.diagnose.judge import judge


def verdicts(*measurements):
    """Code -> verdict of what was found; what is ruled out is not in it."""
    return {finding.code: finding.verdict for finding in judge(measurements).findings}


def tail_case(**known):
    people = simulate_people()
    return make_case(*cut_tail(people), people, settings=FitSettings(split_strategy="tail"), **known)


def test_tail_of_sorted_rows_is_confirmed_with_the_ceiling_and_the_missing_class():
    (shares, other) = check_class_shares(tail_case())
    assert verdicts(shares, other) == {"PC201": "CONFIRMED"}
    people = simulate_people()
    train, validation = cut_tail(people)
    assert shares.value == np.isin(people.labels[validation], people.labels[train]).mean()
    assert shares.details["untrained_classes"] == [people.classes[-1]]
    assert shares.details["label_adjacency"] > 0.95 > 0.2 > shares.details["label_adjacency_by_chance"]
    assert people.classes[-1] in shares.sentence
    assert shares.fix.set == {"split.strategy": "stratified_group"}


def test_without_groups_the_fix_needs_none():
    people = simulate_people()
    case = make_case(*cut_tail(people), people, with_groups=False, settings=FitSettings(split_strategy="tail"))
    assert next(iter(check_class_shares(case))).fix.set == {"split.strategy": "stratified"}


def test_tail_with_few_rows_of_its_only_class_left_is_confirmed_by_resplits():
    people = simulate_people()
    order = np.argsort(people.labels, kind="stable")
    last = int((people.labels == people.labels.max()).sum())
    cut = len(order) - last + 4  # four rows of the last class train
    (shares, _) = check_class_shares(
        make_case(order[:cut], order[cut:], people, settings=FitSettings(split_strategy="tail"))
    )
    assert shares.basis == "test"
    assert shares.p < 0.001
    assert verdicts(shares) == {"PC201": "CONFIRMED"}


def test_tail_of_shuffled_rows_is_ruled_out():
    people = simulate_people()
    labels = np.random.default_rng(0).permutation(people.labels)
    case = make_case(*cut_tail(people), people, labels=labels, with_groups=False,
                     settings=FitSettings(split_strategy="tail"))  # fmt: skip
    assert verdicts(*check_class_shares(case)) == {}


def test_tail_that_holds_out_whole_people_with_every_class_is_ruled_out():
    people = simulate_people()
    order = np.argsort(people.groups, kind="stable")
    people = replace(
        people, channels=tuple(c[order] for c in people.channels), labels=people.labels[order],
        groups=people.groups[order], recordings=people.recordings[order], start_frames=people.start_frames[order],
    )  # fmt: skip
    cut = int(np.searchsorted(people.groups, 9))
    rows = np.arange(len(people.labels))
    case = make_case(rows[:cut], rows[cut:], people, settings=FitSettings(split_strategy="tail"))
    assert verdicts(*check_class_shares(case)) == {}


def test_sorted_rows_with_a_listed_stratified_split_are_ruled_out():
    people = simulate_people()
    assert verdicts(*check_class_shares(make_case(*hold_out_people(people), people))) == {}


def test_a_class_that_training_lost_elsewhere_is_202():
    people = simulate_people()
    train, validation = hold_out_people(people)
    case = make_case(train[people.labels[train] != 2], validation, people)
    (shares, _) = check_class_shares(case)
    assert verdicts(shares) == {"PC202": "CONFIRMED"}
    assert shares.details["untrained_classes"] == [people.classes[2]]


@pytest.mark.parametrize("with_groups", [True, False])
def test_a_class_of_which_training_kept_two_rows_is_202_too(with_groups):
    people = simulate_people(windows=720, subjects=24, seed=5)
    train, validation = hold_out_people(people)
    lost = train[people.labels[train] == 2][2:]
    case = make_case(np.setdiff1d(train, lost), validation, people, with_groups=with_groups)
    (shares, _) = check_class_shares(case)
    assert verdicts(shares) == {"PC202": "CONFIRMED"}
    assert shares.effect == pytest.approx(np.mean(people.labels[validation] == 2))
    assert f"{people.classes[2]} (2 rows train" in shares.sentence


def test_a_class_that_is_rare_everywhere_is_not_blamed_on_the_split():
    people = simulate_people(windows=720, subjects=24, seed=5)
    train, validation = hold_out_people(people)
    rare = [part[people.labels[part] == 2] for part in (train, validation)]
    case = make_case(np.setdiff1d(train, rare[0][4:]), np.setdiff1d(validation, rare[1][1:]), people)
    assert verdicts(*check_class_shares(case)) == {"PC202": "PRESENT"}


def test_history_below_the_ceiling_is_told():
    history = tuple({"epoch": i, "accuracy": 0.9, "val_accuracy": 0.1} for i in range(1, 8))
    (shares, _) = check_class_shares(tail_case(history=history))
    assert shares.details["share_of_late_epochs_at_or_below_ceiling"] == 1.0
    assert "0.100" in shares.sentence


def test_unknown_parts_are_not_measured():
    case = make_case([0], [1])
    case.validation = None
    assert set(verdicts(*check_class_shares(case), *check_validation_size(case)).values()) == {"INCONCLUSIVE"}


@pytest.mark.parametrize(("rows", "found"), [(30, True), (200, False)])
def test_validation_size(rows, found):
    people = simulate_people(windows=1200, subjects=12, seed=5)
    train, validation = hold_out_people(people)
    chosen = np.sort(np.random.default_rng(0).choice(validation, rows, replace=False))
    (size,) = check_validation_size(make_case(train, chosen, people))
    assert size.found is found
    assert verdicts(size) == ({"PC207": "PRESENT"} if found else {})


def test_nan_is_confirmed_with_its_rows_and_channel():
    people = simulate_people()
    channels = tuple(c.astype(np.float32) for c in people.channels)
    channels[1][17, 0, 3, 5, 0] = np.nan
    (values,) = check_values(make_case(*hold_out_people(people), people, channels=channels))
    assert verdicts(values) == {"PC102": "CONFIRMED"}
    assert values.details["rows"] == [17]
    assert values.details["inputs"] == ["channel_2"]


def test_constant_channel_and_empty_rows_are_present():
    people = simulate_people()
    channels = [c.astype(np.float32) for c in people.channels]
    channels[3] = np.ones_like(channels[3])
    (values,) = check_values(make_case(*hold_out_people(people), people, channels=channels))
    assert verdicts(values) == {"PC102": "PRESENT"}
    assert values.details["constant"] == ["channel_4"]
    assert verdicts(*check_values(make_case(*hold_out_people(people), people))) == {}


@pytest.mark.parametrize("raw", [[0, 1, -1, 2], [0.5, 1, 2, 3], [0, np.nan, 1, 2], [[1, 0], [1, 1], [0, 1], [1, 0]]])
def test_malformed_labels_are_confirmed(raw):
    people = simulate_people()
    case = make_case([0, 1], [2, 3], people)
    case.data = replace(case.data, raw_labels=np.asarray(raw))
    assert verdicts(*check_label_form(case)) == {"PC305": "CONFIRMED"}
    case.data = replace(case.data, raw_labels=np.array([0, 1, 2, 3]))
    assert verdicts(*check_label_form(case)) == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (FitSettings(shuffle=False, batch_size=20), {"PC503": "CONFIRMED"}),
        (FitSettings(shuffle=True, batch_size=20), {}),
        (FitSettings(batch_size=20), {"PC503": "INCONCLUSIVE"}),
        (FitSettings(shuffle=True, batch_size=20, steps_per_epoch=3), {"PC503": "PRESENT"}),
    ],
)
def test_batches_in_file_order_of_sorted_rows(settings, expected):
    people = simulate_people()
    assert verdicts(*check_batches(make_case(*hold_out_people(people), people, settings=settings))) == expected


def test_unequal_classes_without_weights_are_present():
    people = simulate_people()
    train, validation = hold_out_people(people)
    few = np.flatnonzero(people.labels[train] == 0)[2:]
    case = make_case(np.delete(train, few), validation, people)
    assert verdicts(*check_class_sizes(case)) == {"PC304": "PRESENT"}
    case.settings = FitSettings(class_weight="balanced")
    assert verdicts(*check_class_sizes(case)) == {}

"""Checks on the values of the rows: what is on both sides of a split, drift, scale, and labels that do not fit."""

from collections.abc import Sequence

import numpy as np
import pytest

from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks import drift, identity, label_noise, label_probes, leakage, scaling
from pointcnn_cli.diagnose.checks.overlaps import match_windows
from pointcnn_cli.diagnose.checks.scaling import fit_affine_maps
from pointcnn_cli.diagnose.facts import CaseData, FitSettings
from pointcnn_cli.diagnose.gather import open_config_case
from pointcnn_cli.diagnose.judge import decide
from pointcnn_cli.diagnose.scan import scan_rows
from pointcnn_cli.simulate import simulate_samples
from tests.conftest import ROOT

ROWS = 600
CHECKS = {
    code: check.measure
    for module in (leakage, identity, drift, scaling, label_probes, label_noise)
    for check in module.CHECKS
    for code in check.codes
}


@pytest.fixture(scope="module")
def people():
    """Twelve simulated people; windows of 24 frames that overlap by 16."""
    return simulate_samples(SimulateConfig(windows=ROWS, subjects=12, points=16, frames=24, stride=8, seed=0))


@pytest.fixture(scope="module")
def apart():
    """The same people; windows that do not overlap."""
    return simulate_samples(SimulateConfig(windows=ROWS, subjects=12, points=16, frames=24, stride=24, seed=0))


def channels_of(samples) -> list[np.ndarray]:
    return [channel[..., 0].astype(np.float32) for channel in samples.channels]


def make_case(channels: Sequence[np.ndarray], labels, validation, **known) -> Case:
    """A case of these arrays; `validation` are its rows, the others train."""
    rows = np.arange(len(labels))
    data = CaseData(
        read=lambda r: tuple(c[r] for c in channels), rows=len(labels),
        names=tuple(f"channel_{i}" for i in range(1, len(channels) + 1)), shapes=tuple(c.shape[1:] for c in channels),
        labels=np.asarray(labels), classes=tuple(map(str, range(int(max(labels)) + 1))), **known,
    )  # fmt: skip
    held = np.isin(rows, validation)
    return Case("arrays", data, rows[~held], rows[held], settings=FitSettings())


def verdicts(case: Case, code: str) -> list[str | None]:
    """The verdict on each measurement, strongest first; None is ruled out."""
    order = ("CONFIRMED", "PRESENT", "SUSPECTED", "INCONCLUSIVE", None)
    found = [decide(m) for m in CHECKS[code](case) if m.code == code]
    assert found
    return sorted(found, key=order.index)


def random_rows(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(ROWS)[: ROWS // 5]


def rows_of_people(samples, people: Sequence[int] = (1, 5)) -> np.ndarray:
    return np.flatnonzero(np.isin(samples.groups, people))


def test_overlapping_windows_are_found_from_their_frames_alone(people):
    case = make_case(channels_of(people), people.labels, random_rows())
    assert verdicts(case, "PC203") == ["CONFIRMED"]
    (m,) = CHECKS["PC203"](case)
    assert m.details["longest_shared_frames"] == 16


def test_overlapping_windows_are_counted_from_stored_start_frames(people):
    stored = {"recordings": people.recordings, "start_frames": people.start_frames}
    by_frames = next(CHECKS["PC203"](make_case(channels_of(people), people.labels, random_rows())))
    by_starts = next(CHECKS["PC203"](make_case(channels_of(people), people.labels, random_rows(), **stored)))
    assert by_starts.value == pytest.approx(by_frames.value, abs=0.02)


def test_people_kept_apart_share_nothing(people):
    case = make_case(channels_of(people), people.labels, rows_of_people(people), groups=people.groups)
    assert [verdicts(case, code) for code in ("PC203", "PC204", "PC205")] == [[None]] * 3


def test_one_cut_through_a_recording_is_no_alarm(people):
    n = ROWS - 22  # within a recording
    assert people.recordings[n - 1] == people.recordings[n]
    case = make_case(channels_of(people), people.labels, np.arange(n, ROWS))
    assert next(CHECKS["PC203"](case)).value > leakage.HARMFUL_SHARE
    assert verdicts(case, "PC203") == ["PRESENT"]


def test_repeated_still_frames_are_no_overlap():
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(3, 4, 8)).astype(np.float32)  # the frames that a class that hardly moves consists of
    walk = np.sort(rng.integers(0, 3, (200, 24)), axis=1)
    still = bank[walk].transpose(0, 2, 3, 1)  # (rows, 4, 8, 24)
    moving = rng.normal(size=(200, 4, 8, 24)).astype(np.float32)
    labels = np.repeat([0, 1], 200)
    case = make_case([np.concatenate([still, moving])], labels, np.arange(0, 400, 5))
    assert verdicts(case, "PC203") == [None]


def test_windows_match_only_where_their_whole_overlap_is_equal():
    hashes = np.arange(1, 25, dtype=np.uint64)[None, :].repeat(3, axis=0)
    hashes[1] += np.uint64(8)  # starts eight frames later
    hashes[2] += np.uint64(8)
    hashes[2, 3] = 99
    matches = match_windows(hashes, np.array([0]), np.array([1, 2]))
    assert (matches.rows.tolist(), matches.frames.tolist()) == ([1], [16])


def test_people_on_both_sides_are_found_with_and_without_groups(apart):
    channels, rows = channels_of(apart), random_rows()
    assert verdicts(make_case(channels, apart.labels, rows), "PC203") == [None]
    assert verdicts(make_case(channels, apart.labels, rows, groups=apart.groups), "PC204")[0] == "CONFIRMED"
    assert verdicts(make_case(channels, apart.labels, rows), "PC204") == ["CONFIRMED"]


def test_shared_groups_that_tell_nothing_are_present_only():
    rng = np.random.default_rng(3)
    labels = np.arange(ROWS) % 3
    channels = [(rng.normal(size=(ROWS, 20)) + labels[:, None]).astype(np.float32)]
    case = make_case(channels, labels, random_rows(), groups=np.arange(ROWS) // 30)
    assert verdicts(case, "PC204") == ["PRESENT", None]
    assert verdicts(make_case(channels, labels, random_rows()), "PC204") == ["INCONCLUSIVE"]


def test_copies_and_conflicting_labels_are_found(people):
    channels, labels, held = channels_of(people), people.labels.copy(), rows_of_people(people)
    free = np.setdiff1d(np.arange(ROWS), held)
    for channel in channels:
        channel[held[:1]] = channel[free[:1]]
    labels[held[0]] = labels[free[0]]
    assert verdicts(make_case(channels, labels, held), "PC205") == ["CONFIRMED"]  # 1 of 100 validation rows
    many = np.concatenate([held, free[300:]])
    assert verdicts(make_case(channels, labels, many), "PC205") == ["PRESENT"]  # 1 of 300
    for channel in channels:
        channel[free[10:16]] = channel[free[20:26]]
    labels[free[10:16]] = (labels[free[20:26]] + 1) % 6
    (m,) = CHECKS["PC205"](make_case(channels, labels, many))
    assert (decide(m), m.details["conflicting_rows"]) == ("CONFIRMED", 12)
    assert m.details["ceiling"] == pytest.approx(1 - 6 / ROWS)


def test_empty_rows_are_no_copies(people):
    channels = channels_of(people)
    for channel in channels:
        channel[::10] = 0.0
    assert verdicts(make_case(channels, people.labels, rows_of_people(people)), "PC205") == [None]
    flat = [channels[0].reshape(ROWS, -1)]
    assert verdicts(make_case(flat, people.labels, rows_of_people(people)), "PC205") == [None]


def test_another_gain_in_validation_is_seen_but_not_confirmed_without_a_network(people):
    held = rows_of_people(people)
    healthy = channels_of(people)
    case = make_case(healthy, people.labels, held, groups=people.groups)
    assert [verdicts(case, code) for code in ("PC206", "PC208")] == [[None], [None]]
    louder = [channel.copy() for channel in healthy]
    for channel in louder:
        channel[held] *= 3.0
    case = make_case(louder, people.labels, held, groups=people.groups)
    assert [verdicts(case, code) for code in ("PC206", "PC208")] == [["SUSPECTED"], ["SUSPECTED"]]


def test_drift_is_confirmed_where_the_network_loses_by_it(people):
    held = rows_of_people(people, (1, 5, 9))
    channels = channels_of(people)
    for channel in channels:
        channel[held] = (channel[held] - channel.mean()) / channel.std()
    case = make_case(channels, people.labels, held, groups=people.groups)
    case.saved_predictions = np.eye(6)[np.zeros(len(held), int)]  # a network that sees one class everywhere
    (m,) = CHECKS["PC206"](case)
    assert m.at_most == "CONFIRMED"
    assert m.effect >= 0.05
    case.saved_predictions = np.eye(6)[people.labels[held]]  # one that is always right
    assert verdicts(case, "PC206") == ["SUSPECTED"]


def test_the_map_between_the_parts_is_measured():
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 2.0, size=(ROWS, 40)).astype(np.float32)
    held = random_rows()
    values[held] = values[held] / 4.0 - 1.0
    case = make_case([values], np.arange(ROWS) % 2, held)
    (found,) = fit_affine_maps(case)
    assert found.slope == pytest.approx(0.25, abs=0.01)
    assert found.intercept == pytest.approx(-1.0, abs=0.05)
    assert (found.index, found.includes_zeros) == (None, True)
    assert found.excess > 1


@pytest.mark.parametrize(("first", "last", "shift"), [(0, ROWS, 3), (200, 340, 1)])
def test_labels_out_of_step_are_found(people, first, last, shift):
    order = np.random.default_rng(1).permutation(ROWS)  # in a sorted file, a shift would move few labels
    channels, labels = [c[order] for c in channels_of(people)], people.labels[order]
    groups = people.groups[order]
    case = make_case(channels, labels, random_rows(), groups=groups)
    assert verdicts(case, "PC302") == [None, None]
    moved = labels.copy()
    moved[first:last] = np.roll(labels, shift)[first:last]
    case = make_case(channels, moved, random_rows(), groups=groups)
    assert verdicts(case, "PC302") == ["CONFIRMED"]
    (m,) = CHECKS["PC302"](case)
    assert m.details["shift"] == shift
    assert m.details["rows"] == pytest.approx([first, last], abs=25)


def test_labels_without_any_signal_are_suspected(people):
    labels = np.random.default_rng(2).permutation(people.labels)
    case = make_case(channels_of(people), labels, random_rows(), groups=people.groups)
    assert verdicts(case, "PC302") == ["SUSPECTED", None]


def test_wrong_labels_are_suspected_and_hard_ones_are_not(radhar_path):
    config = load_config(ROOT / "configs" / "radhar.yaml", [f"data.path={radhar_path}"])
    with open_config_case(config) as case:
        assert verdicts(case, "PC303") == [None]
        wrong = np.random.default_rng(0).random(case.data.rows) < 0.1
        case.data.labels[wrong] = (case.data.labels[wrong] + 1) % 5
        assert verdicts(case, "PC303") == ["SUSPECTED"]


def test_real_recordings_leak_when_split_by_row_and_not_when_split_by_recording(radhar_path):
    by_row, by_recording = (
        load_config(ROOT / "configs" / "radhar.yaml", [f"data.path={radhar_path}", f"split.strategy={strategy}"])
        for strategy in ("stratified", "stratified_group")
    )
    with open_config_case(by_recording) as case:
        scan = case.scan
        for code in ("PC203", "PC204", "PC205", "PC206", "PC208", "PC302", "PC303"):
            assert "CONFIRMED" not in verdicts(case, code), code
    with open_config_case(by_row) as case:
        case.__dict__["scan"] = scan  # the same rows
        assert verdicts(case, "PC203") == ["CONFIRMED"]
        assert verdicts(case, "PC205") == [None]


@pytest.mark.parametrize("code", CHECKS)
def test_a_check_that_knows_nothing_says_what_it_needs(code):
    assert verdicts(Case("nothing"), code) == ["INCONCLUSIVE"]


@pytest.mark.parametrize("shape", [(5,), (28, 28), (8, 8, 3), (1,)])
def test_arrays_of_any_shape_are_measured(shape):
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    values = rng.normal(size=(240, *shape)) + labels.reshape(-1, *[1] * len(shape))
    labels[7] = -1
    case = make_case([values], labels, np.arange(0, 240, 5))
    for code in CHECKS:
        assert not {"CONFIRMED", "PRESENT"} & set(verdicts(case, code)), code


def test_equal_values_have_equal_hashes_and_others_do_not_collide():
    values = np.random.default_rng(0).choice(np.float32([-1, 1]), (40_000, 1, 24, 6))  # that differ in a single bit
    values[1] = values[0]
    values[2] = -values[0] * 0.0  # zeros of either sign
    scan = scan_rows(make_case([values], np.zeros(len(values), int), [0]).data)
    assert scan.row_hash[0] == scan.row_hash[1]
    assert not scan.frame_hash[2].any()
    frames = np.ascontiguousarray(values.transpose(0, 3, 1, 2).reshape(-1, 24) + np.float32(0))
    assert len(np.unique(scan.frame_hash)) == len(np.unique(frames.view("V96")))

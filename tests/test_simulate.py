"""The simulator: shapes and order of rows, physics of the points, and a task that is neither trivial nor hopeless."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.hdf5.samples import Samples
from pointcnn_cli.simulate import CLASSES, simulate_samples
from pointcnn_cli.simulate.difficulty import PAUSES_A_MINUTE, VELOCITY_STEP
from pointcnn_cli.simulate.motion import GRAVITY, compute_joints
from pointcnn_cli.simulate.person import Body, Manner, Scene, draw_body, draw_manner, draw_scene
from pointcnn_cli.simulate.radar import FRAME_RATE, MAX_VELOCITY, RANGE_STEP, SENSOR_HEIGHT, observe
from pointcnn_cli.simulate.skeleton import JOINTS

HALF = 2.0**-10  # relative spacing of float16


def settings(**changes: int) -> SimulateConfig:
    return SimulateConfig(**{"windows": 120, "subjects": 4, **changes})  # type: ignore[arg-type]


def make_bytes(samples: Samples) -> list[bytes]:
    assert samples.groups is not None
    assert samples.recordings is not None
    assert samples.start_frames is not None
    arrays = [*samples.channels, samples.labels, samples.groups, samples.recordings, samples.start_frames]
    return [array.tobytes() for array in arrays]


def flatten(samples: Samples) -> NDArray[np.float32]:
    """(rows, 6, points, frames)"""
    return np.concatenate(samples.channels, axis=1)[..., 0].astype(np.float32)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return simulate_samples(settings())


@pytest.fixture(scope="module")
def many_people() -> Samples:
    """576 rows of 24 people."""
    return simulate_samples(settings(windows=576, subjects=24))


# --- rows ------------------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bytes_and_another_seed_gives_others(samples: Samples) -> None:
    assert make_bytes(simulate_samples(settings())) == make_bytes(samples)
    other = simulate_samples(settings(seed=1))
    assert all(not np.array_equal(a, b) for a, b in zip(other.channels, samples.channels, strict=True))


def test_more_windows_or_subjects_leave_earlier_recordings_unchanged(samples: Samples) -> None:
    few, many = simulate_samples(settings(windows=60)), simulate_samples(settings(windows=300, subjects=7))
    for smaller, larger in ((few, samples), (few, many)):
        known = {key: larger.channels[0][row].tobytes() for row, key in enumerate(make_keys(larger))}
        shared = [row for row, key in enumerate(make_keys(smaller)) if key in known]
        keys = make_keys(smaller)
        assert len(shared) >= 48
        assert all(smaller.channels[0][row].tobytes() == known[keys[row]] for row in shared)


def make_keys(samples: Samples) -> list[tuple[Any, ...]]:
    """(label, subject, which recording of these, start frame) of each row."""
    assert samples.groups is not None
    assert samples.recordings is not None
    assert samples.start_frames is not None
    first: dict[tuple[int, int], int] = {}
    keys = []
    rows = zip(samples.labels, samples.groups, samples.recordings, samples.start_frames, strict=True)
    for label, group, recording, start in rows:
        first.setdefault((label, group), recording)
        keys.append((label, group, recording - first[label, group], start))
    return keys


@pytest.mark.parametrize(
    "changes",
    [
        {"windows": 12, "subjects": 2},
        {"windows": 13, "subjects": 24},
        {"windows": 37, "subjects": 3, "points": 4, "frames": 4, "stride": 1},
        {"windows": 100, "subjects": 5, "points": 200, "frames": 10, "stride": 30},
    ],
)
def test_shapes_counts_and_order_hold_for_any_settings(changes: dict[str, int]) -> None:
    asked = settings(**changes)
    made = simulate_samples(asked)
    assert [channel.shape for channel in made.channels] == [
        (asked.windows, depth, asked.points, asked.frames, 1) for depth in (3, 1, 1, 1)
    ]
    assert {channel.dtype for channel in made.channels} == {np.dtype(np.float16)}
    assert made.classes == ("box", "jack", "jump", "squat", "walk", "wave")
    counts = np.bincount(made.labels, minlength=6)
    assert counts.sum() == asked.windows
    assert np.ptp(counts) <= 1
    assert np.array_equal(np.unique(made.groups), np.arange(len(made.group_names or ())))
    assert make_keys(made) == sorted(make_keys(made))
    numbers = (made.labels, made.groups, made.recordings, made.start_frames)
    assert all(values is not None and values.dtype == np.int64 for values in numbers)


def test_every_subject_does_every_activity_where_there_are_windows_enough() -> None:
    made = simulate_samples(SimulateConfig(points=4, frames=4, stride=1))  # as by default, but quick
    pairs = np.bincount(made.labels * 24 + made.groups, minlength=6 * 24)
    assert made.labels.size == 2000
    assert pairs.min() == 13
    assert pairs.max() == 14
    assert np.ptp(np.bincount(made.groups)) <= 1
    assert made.group_names == tuple(f"subject_{i:02d}" for i in range(24))
    smallest = simulate_samples(SimulateConfig(windows=12, subjects=2))
    assert np.bincount(smallest.labels * 2 + smallest.groups).tolist() == [1] * 12


def test_neighbouring_windows_of_a_recording_overlap_and_show_the_same_frames(samples: Samples) -> None:
    neighbours = np.flatnonzero(np.diff(samples.recordings) == 0)
    assert neighbours.size > samples.labels.size // 2
    assert set(np.diff(samples.start_frames)[neighbours]) == {16}
    for channel in samples.channels:
        assert np.array_equal(channel[neighbours][..., 16:, :], channel[neighbours + 1][..., :-16, :])
    for codes in (samples.labels, samples.groups):
        assert np.array_equal(codes[neighbours], codes[neighbours + 1])


# --- points ----------------------------------------------------------------------------------------------------------


def test_empty_slots_are_zero_in_all_channels_and_filled_ones_come_first(many_people: Samples) -> None:
    values = flatten(many_people)
    filled = values[:, 5] > 0.0
    assert not np.any(values.transpose(1, 0, 2, 3)[:, ~filled])
    assert not np.signbit(many_people.channels[0][..., 0].transpose(1, 0, 2, 3)[:, ~filled]).any()
    assert np.all(values[:, 4][filled] > 0.0)
    assert np.all(np.diff(filled.astype(int), axis=1) <= 0)
    count = filled.sum(axis=1)
    assert 20.0 < count.mean() < 28.0
    assert 0.003 < (count == 0).mean() < 0.03


def test_range_is_the_length_of_the_position_in_steps(samples: Samples) -> None:
    values = flatten(samples)
    filled = values[:, 5] > 0.0
    length, distance = np.linalg.norm(values[:, :3], axis=1)[filled], values[:, 5][filled]
    assert np.allclose(length, distance, rtol=2 * HALF, atol=0.0)
    assert np.allclose(np.rint(distance / RANGE_STEP) * RANGE_STEP, distance, rtol=HALF, atol=0.0)


def test_velocities_come_in_steps_within_the_unambiguous_span(samples: Samples) -> None:
    velocity = flatten(samples)[:, 3]
    assert np.allclose(np.rint(velocity / VELOCITY_STEP) * VELOCITY_STEP, velocity, rtol=HALF, atol=0.0)
    assert np.abs(velocity).max() <= MAX_VELOCITY * (1 + HALF)


def test_points_come_by_doppler_bin_and_then_by_range(samples: Samples) -> None:
    values = flatten(samples).astype(np.float64)
    both = (values[:, 5, :-1] > 0.0) & (values[:, 5, 1:] > 0.0)
    doppler = np.rint(values[:, 3] / VELOCITY_STEP) % round(2 * MAX_VELOCITY / VELOCITY_STEP)  # bins in FFT order
    rises, same = np.diff(doppler, axis=1) > 0, np.diff(doppler, axis=1) == 0
    assert np.all((rises | same)[both])
    assert np.all(np.diff(values[:, 5], axis=1)[same & both] >= 0.0)


def test_values_lie_where_a_real_radar_puts_them(many_people: Samples, radhar_path: Any) -> None:
    import h5py

    with h5py.File(radhar_path) as file:
        real = np.concatenate([file[name][::20] for name in ("xyz", "velocity", "intensity", "range")], axis=1)[..., 0]
    values = flatten(many_people)
    for field, tolerance in ((3, 0.5), (4, 3.0), (5, 1.5)):
        own = np.median(values[:, field][values[:, 5] > 0.0])
        other = np.median(real[:, field].astype(np.float64)[real[:, 5] > 0.0])
        assert abs(own - other) < tolerance


# --- physics ---------------------------------------------------------------------------------------------------------


def make_person() -> tuple[Body, Manner, Scene]:
    """An average person 2.5 m ahead, face to the radar, who never rests."""
    manner = Manner(tempo=1.0, vigour=1.0, arms=0.5, stance=0.1, bend=0.1, right_handed=True, both_arms=False)
    none = np.zeros(0)
    scene = Scene(np.array([2.5, 0.0]), np.pi, 0.0, 0.0, np.array([0.8, 0.8]), none, none)
    return draw_body(np.random.default_rng(0)), manner, scene


def make_joints(activity: str, frames: int = 200) -> NDArray[np.float64]:
    seconds = np.linspace(-1.0, frames, frames + 2) / FRAME_RATE
    return compute_joints(activity, *make_person(), seconds, SENSOR_HEIGHT)


@pytest.mark.parametrize("activity", CLASSES)
def test_bones_keep_their_length_and_feet_stay_above_the_floor(activity: str) -> None:
    joints = make_joints(activity)
    for start, end in (("pelvis", "neck"), ("left_elbow", "left_hand"), ("right_hip", "right_knee")):
        bone = joints[:, JOINTS.index(end)] - joints[:, JOINTS.index(start)]
        assert np.ptp(np.linalg.norm(bone, axis=-1)) < 1e-9
    assert joints[..., 2].min() > -SENSOR_HEIGHT
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1) * FRAME_RATE
    assert speed.max() < 12.0  # a fast punch has about 9 m/s


def test_a_jumper_in_the_air_falls_freely() -> None:
    seconds = np.linspace(0.0, 3.0, 3001)
    joints = compute_joints("jump", *make_person(), seconds, SENSOR_HEIGHT)
    lowest = joints[:, [JOINTS.index("left_ankle"), JOINTS.index("right_ankle")], 2].min(axis=1)
    flying = lowest > lowest.min() + 0.02
    acceleration = np.gradient(np.gradient(lowest, seconds), seconds)[flying]
    assert np.median(acceleration) == pytest.approx(-GRAVITY, rel=0.3)  # the tempo of repetitions drifts by up to 10 %


def test_someone_who_does_not_move_has_no_radial_velocity() -> None:
    joints = np.repeat(make_joints("box", frames=1)[:1], 102, axis=0)
    points = observe(joints, 64, np.random.default_rng(0))
    assert not points[..., 3].any()


@pytest.mark.parametrize("speed", [-0.9, 0.9])
def test_going_away_is_a_positive_radial_velocity_and_coming_a_negative_one(speed: float) -> None:
    joints = np.repeat(make_joints("box", frames=1)[:1], 32, axis=0)
    joints[..., 0] += speed * np.arange(32)[:, None] / FRAME_RATE
    points = observe(joints, 64, np.random.default_rng(0))
    body = (points[..., 5] > 0.0) & (points[..., 3] != 0.0)  # without the fixed objects
    assert np.median(points[..., 3][body]) == pytest.approx(speed, abs=VELOCITY_STEP / 2)


def test_walking_changes_range_as_fast_as_the_radial_velocity_says() -> None:
    joints = make_joints("walk")
    points = observe(joints, 64, np.random.default_rng(0))
    distance = np.linalg.norm(joints[:, JOINTS.index("pelvis")], axis=-1)
    change = (distance[2:] - distance[:-2]) * FRAME_RATE / 2.0  # (frames,)
    velocity = points[..., 3].sum(axis=1) / np.maximum((points[..., 3] != 0.0).sum(axis=1), 1)
    going, coming = change > VELOCITY_STEP, change < -VELOCITY_STEP
    assert going.sum() > 30
    assert coming.sum() > 30
    assert np.mean(velocity[going] > 0.0) > 0.95
    assert np.mean(velocity[coming] < 0.0) > 0.95


def test_far_people_are_fainter_and_give_fewer_points() -> None:
    joints = make_joints("wave")
    near, far = (observe(joints + np.array([shift, 0.0, 0.0]), 64, np.random.default_rng(0)) for shift in (-1.0, 2.0))
    assert (far[..., 5] > 0.0).sum() < 0.6 * (near[..., 5] > 0.0).sum()
    assert np.median(far[..., 4][far[..., 5] > 0.0]) < np.median(near[..., 4][near[..., 5] > 0.0]) - 3.0


def test_more_points_than_slots_are_cut_off() -> None:
    points = observe(make_joints("wave"), 8, np.random.default_rng(0))
    assert points.shape == (200, 8, 6)
    assert (points[..., 5] > 0.0).mean() > 0.9


def test_a_person_keeps_a_body_and_varies_the_manner_a_little() -> None:
    manners = [draw_manner(np.random.default_rng(3), np.random.default_rng(i)) for i in range(100)]
    strangers = [draw_manner(np.random.default_rng(i), np.random.default_rng(i + 999)) for i in range(100)]
    assert len({(manner.right_handed, manner.stance) for manner in manners}) == 1
    own, all_people = (np.std(np.log([manner.tempo for manner in group])) for group in (manners, strangers))
    assert 0.0 < own < 0.7 * all_people


def test_a_rest_stops_all_movement_but_sway() -> None:
    body, manner, scene = make_person()
    resting = Scene(scene.place, scene.facing, 0.0, 0.0, scene.walk_axes, np.array([2.0]), np.array([9.0]))
    seconds = np.linspace(0.0, 4.0, 109)
    for activity in CLASSES:
        joints = compute_joints(activity, body, manner, resting, seconds, SENSOR_HEIGHT)
        assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() * FRAME_RATE < 0.06
    pauses = draw_scene(np.random.default_rng(0), 60.0 * 100).pause_centres.size
    assert pauses == pytest.approx(100 * PAUSES_A_MINUTE, rel=0.25)


# --- difficulty ------------------------------------------------------------------------------------------------------


def test_a_simple_classifier_beats_chance_on_unseen_subjects_but_is_far_from_perfect(many_people: Samples) -> None:
    from sklearn.ensemble import ExtraTreesClassifier

    features = compute_moments(flatten(many_people))
    groups = many_people.groups
    assert groups is not None
    unseen = groups % 4 == 0
    forest = ExtraTreesClassifier(100, random_state=0).fit(features[~unseen], many_people.labels[~unseen])
    accuracy = forest.score(features[unseen], many_people.labels[unseen])
    assert 0.4 < accuracy < 0.85  # chance is 0.17; 0.70 was measured on all folds of 2,000 windows


def compute_moments(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean, standard deviation and skewness of each field over a window's points, and their number: (rows, 19)."""
    filled = (values[:, 5:6] > 0.0).astype(np.float32)
    number = filled.sum(axis=(2, 3))
    mean = values.sum(axis=(2, 3)) / number
    deviation = (values - mean[:, :, None, None]) * filled
    spread = np.sqrt((deviation**2).sum(axis=(2, 3)) / number)
    skewness = (deviation**3).sum(axis=(2, 3)) / number / (spread**3 + 1e-9)
    return np.concatenate([mean, spread, skewness, number], axis=1)

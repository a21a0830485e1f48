"""Augmentation does what each setting says, to the channels it names, and leaves padding alone."""

import keras
import numpy as np
import pytest

from pointcnn_cli.augment import Augment
from pointcnn_cli.batches import reseed
from pointcnn_cli.config.schema import AugmentConfig

POINTS, FRAMES = 10, 12
EVERYTHING = {
    "point_dropout": 0.3,
    "position_jitter": 0.02,
    "position_shift": 0.1,
    "scale": 0.1,
    "intensity_jitter": 0.5,
    "intensity_shift": 2.0,
    "frame_roll": 6,
    "mirror": "x",
}


def make_rows(rows: int, share: float = 0.5, depths=(3, 1, 1, 1)) -> list[np.ndarray]:
    """Channels of values between 1 and 5 in which a share of the slots is filled; range is the distance."""
    random = np.random.default_rng(0)
    filled = random.random((rows, 1, POINTS, FRAMES, 1)) < share
    channels = [random.uniform(1, 5, (rows, depth, POINTS, FRAMES, 1)) * filled for depth in depths]
    channels[3] = np.sqrt((channels[0] ** 2).sum(axis=1, keepdims=True))
    return [channel.astype("float32") for channel in channels]


def apply(channels, seed=0, epoch=1, training=True, **settings) -> list[np.ndarray]:
    inputs = [keras.Input(channel.shape[1:]) for channel in channels]
    model = keras.Model(inputs, Augment(AugmentConfig(**settings))(inputs))
    reseed(model, seed, epoch)
    return [np.asarray(output) for output in model(channels, training=training)]


def find_filled(channels) -> np.ndarray:
    """(rows, points, frames)"""
    return np.concatenate(channels, axis=1)[..., 0].any(axis=1)


def assert_unchanged(outputs, channels, which) -> None:
    for i in which:
        np.testing.assert_array_equal(outputs[i], channels[i])


def test_nothing_changes_outside_training():
    channels = make_rows(5)
    assert_unchanged(apply(channels, training=False, **EVERYTHING), channels, range(4))


def test_nothing_changes_where_every_setting_is_off():
    channels = make_rows(5)
    assert_unchanged(apply(channels), channels, range(4))


@pytest.mark.parametrize("setting", EVERYTHING)
def test_padding_stays_padding_and_points_stay_points(setting):
    channels = make_rows(50)
    before, after = find_filled(channels), find_filled(apply(channels, **{setting: EVERYTHING[setting]}))
    if setting == "point_dropout":
        assert not after[~before].any()
    elif setting == "frame_roll":
        np.testing.assert_array_equal(after.sum(axis=(1, 2)), before.sum(axis=(1, 2)))
    else:
        np.testing.assert_array_equal(after, before)


def test_with_everything_on_the_slots_are_those_of_dropout_and_roll_alone():
    channels = make_rows(50)
    outputs = apply(channels, **EVERYTHING)
    filled = find_filled(outputs)
    for output in outputs[1:]:  # velocity, intensity and range are far from zero wherever there is a point
        np.testing.assert_array_equal(output[:, 0, ..., 0] != 0, filled)
    assert 0.7 < filled.sum() / find_filled(channels).sum() < 0.95


def test_a_slot_that_is_filled_in_one_channel_only_is_a_point():
    channels = make_rows(2)
    for i in (0, 1, 3):
        channels[i][:] = 0.0
    outputs = apply(channels, position_shift=0.5, intensity_shift=1.0)
    filled = find_filled(channels)
    assert (outputs[0][:, 0, ..., 0] != 0).sum() == filled.sum() > 0
    assert not outputs[0][:, 0, ..., 0][~filled].any()


def test_point_dropout_loses_a_share_of_its_own_in_each_row():
    channels = make_rows(300, share=1.0)
    outputs = apply(channels, point_dropout=0.4)
    kept = find_filled(outputs)
    for output, channel in zip(outputs, channels, strict=True):  # a lost point is zero in every channel
        np.testing.assert_array_equal(output, np.where(kept[:, None, ..., None], channel, 0.0))
    lost = 1 - kept.mean(axis=(1, 2))
    error = 4 * np.sqrt(0.4 * 0.6 / (POINTS * FRAMES))  # a row has 120 points
    assert lost.max() < 0.4 + error
    assert lost.min() < 0.05
    assert lost.max() > 0.35
    assert lost.mean() == pytest.approx(0.2, abs=0.02)  # half of the largest share
    assert lost.std() == pytest.approx(0.4 / np.sqrt(12), abs=0.03)  # uniform between none and the largest


def test_scale_multiplies_all_positions_of_a_row_by_one_factor():
    channels = make_rows(300, share=1.0)
    outputs = apply(channels, scale=0.2)
    factors = outputs[0] / channels[0]
    np.testing.assert_allclose(factors.max(axis=(1, 2, 3, 4)), factors.min(axis=(1, 2, 3, 4)), rtol=1e-5)
    factors = factors[:, 0, 0, 0, 0]
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2
    assert factors.mean() == pytest.approx(1.0, abs=0.03)
    assert_unchanged(outputs, channels, (1, 2))
    np.testing.assert_allclose(outputs[3], channels[3] * factors[:, None, None, None, None], rtol=1e-5)


@pytest.mark.parametrize(("axis", "place"), [("x", 0), ("y", 1), ("z", 2)])
def test_mirror_flips_one_axis_of_about_half_of_the_rows(axis, place):
    channels = make_rows(400, share=1.0)
    outputs = apply(channels, mirror=axis)
    signs = outputs[0] / channels[0]
    others = [i for i in range(3) if i != place]
    np.testing.assert_array_equal(signs[:, others], 1.0)
    signs = signs[:, place, ..., 0]
    assert set(np.unique(signs)) == {-1.0, 1.0}
    np.testing.assert_array_equal(signs.max(axis=(1, 2)), signs.min(axis=(1, 2)))  # whole rows
    assert 0.4 < (signs[:, 0, 0] < 0).mean() < 0.6
    assert_unchanged(outputs, channels, (1, 2))
    np.testing.assert_allclose(outputs[3], channels[3], rtol=1e-5)


def test_position_shift_moves_all_points_of_a_row_alike():
    channels = make_rows(300, share=1.0)
    outputs = apply(channels, position_shift=0.5)
    moved = (outputs[0] - channels[0])[..., 0]  # (rows, 3, points, frames)
    np.testing.assert_allclose(np.ptp(moved, axis=(2, 3)), 0.0, atol=1e-5)
    moved = moved[:, :, 0, 0]
    assert np.abs(moved).max() <= 0.5 + 1e-5
    assert moved.min(axis=0).max() < -0.45
    assert moved.max(axis=0).min() > 0.45
    assert np.abs(np.corrcoef(moved.T) - np.eye(3)).max() < 0.2  # each axis by a draw of its own
    assert_unchanged(outputs, channels, (1, 2))


def test_position_jitter_moves_each_point_by_itself():
    channels = make_rows(100, share=1.0)
    outputs = apply(channels, position_jitter=0.05)
    moved = (outputs[0] - channels[0])[..., 0]
    np.testing.assert_allclose(moved.std(axis=(0, 2, 3)), 0.05, rtol=0.03)
    assert abs(moved.mean()) < 0.001
    assert abs(np.corrcoef(moved[:, 0].ravel(), moved[:, 1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(moved[:, :, 0].ravel(), moved[:, :, 1].ravel())[0, 1]) < 0.1
    assert_unchanged(outputs, channels, (1, 2))


@pytest.mark.parametrize("settings", [{"position_shift": 0.5}, {"position_jitter": 0.1}, {"scale": 0.3, "mirror": "z"}])
def test_range_follows_position(settings):
    channels = make_rows(50)
    channels[3] += 0.25 * (channels[3] != 0)  # a radar's range is not exactly the distance: the difference is kept
    outputs = apply(channels, **settings)
    distance = [np.sqrt((c[0] ** 2).sum(axis=1, keepdims=True)) for c in (outputs, channels)]
    np.testing.assert_allclose(outputs[3] - channels[3], distance[0] - distance[1], atol=1e-5)


def test_intensity_shift_touches_intensity_only():
    channels = make_rows(300, share=1.0)
    outputs = apply(channels, intensity_shift=2.0)
    raised = (outputs[2] - channels[2])[:, 0, ..., 0]
    np.testing.assert_allclose(np.ptp(raised, axis=(1, 2)), 0.0, atol=1e-5)
    assert np.abs(raised).max() <= 2.0 + 1e-5
    assert raised.min() < -1.9
    assert raised.max() > 1.9
    assert_unchanged(outputs, channels, (0, 1, 3))


def test_intensity_jitter_touches_intensity_only():
    channels = make_rows(100, share=1.0)
    outputs = apply(channels, intensity_jitter=0.5)
    raised = outputs[2] - channels[2]
    assert raised.std() == pytest.approx(0.5, rel=0.03)
    assert np.ptp(raised[0]) > 1.0
    assert_unchanged(outputs, channels, (0, 1, 3))


@pytest.mark.parametrize(("roll", "largest"), [(3, 3), (100, FRAMES - 1)])
def test_frame_roll_rolls_each_row_by_frames_of_its_own(roll, largest):
    channels = make_rows(300)
    outputs = apply(channels, frame_roll=roll)
    shifts = []
    for row in range(300):
        fits = [
            shift
            for shift in range(-largest, largest + 1)
            if all(
                np.array_equal(output[row], np.roll(channel[row], shift, axis=2))
                for output, channel in zip(outputs, channels, strict=True)
            )
        ]
        assert fits  # one and the same shift for all channels
        shifts.append(fits[0] % FRAMES)
    assert set(shifts) == {shift % FRAMES for shift in range(-largest, largest + 1)}


def test_a_channel_of_another_kind_is_left_alone():
    channels = make_rows(50, share=1.0)
    settings = {**EVERYTHING, "point_dropout": 0.0, "frame_roll": 0}
    assert_unchanged(apply(channels, channel_roles=("other",) * 4, **settings), channels, range(4))


def test_channel_roles_say_which_channel_a_change_touches():
    channels = make_rows(50, share=1.0, depths=(1, 3, 1, 1))
    roles = ("intensity", "position", "other", "velocity")
    raised = apply(channels, channel_roles=roles, intensity_shift=2.0)
    assert_unchanged(raised, channels, (1, 2, 3))
    assert (raised[0] != channels[0]).all()
    moved = apply(channels, channel_roles=roles, position_shift=2.0)
    assert_unchanged(moved, channels, (0, 2, 3))
    assert (moved[1] != channels[1]).all()


def test_range_stays_where_the_position_is_not_known_in_full():
    channels = make_rows(50, share=1.0, depths=(2, 1, 1, 1))
    outputs = apply(channels, position_shift=0.5)
    assert (outputs[0] != channels[0]).all()
    assert_unchanged(outputs, channels, (1, 2, 3))


def test_the_same_seed_and_epoch_give_the_same_changes_and_others_do_not():
    channels = make_rows(20)
    first = apply(channels, seed=5, epoch=2, **EVERYTHING)
    for a, b in zip(first, apply(channels, seed=5, epoch=2, **EVERYTHING), strict=True):
        np.testing.assert_array_equal(a, b)
    for seed, epoch in ((5, 3), (6, 2)):
        assert (apply(channels, seed=seed, epoch=epoch, **EVERYTHING)[0] != first[0]).any()


def test_two_batches_of_an_epoch_are_changed_differently():
    channels = make_rows(20)
    inputs = [keras.Input(channel.shape[1:]) for channel in channels]
    model = keras.Model(inputs, Augment(AugmentConfig(**EVERYTHING))(inputs))
    reseed(model, 0, 1)
    first, second = (np.asarray(model(channels, training=True)[0]) for _ in range(2))
    assert (first != second).any()

"""Input statistics, rows on the device, batch order, seeds, and prediction batch by batch."""

import keras
import numpy as np
import pytest

from pointcnn_cli.batches import (
    BLOCK_ROWS,
    PREDICTION_BATCH,
    ResidentRows,
    build_trainer,
    compute_statistics,
    permute_rows,
    predict_rows,
    reseed,
)
from pointcnn_cli.config.schema import AugmentConfig, ModelConfig
from pointcnn_cli.hdf5.samples import ArraySource, Samples
from pointcnn_cli.models import build_model, read_weights

DEPTHS = (3, 1, 1, 1)


def make_channels(rows: int, grid=(4, 5), dtype="float32", share: float = 0.4) -> tuple[np.ndarray, ...]:
    """Four channels of unlike scale, in which a share of the point slots is filled."""
    random = np.random.default_rng(0)
    filled = random.random((rows, 1, *grid, 1)) < share
    return tuple(
        (random.normal(place, 1 + place, (rows, depth, *grid, 1)) * filled).astype(dtype)
        for place, depth in enumerate(DEPTHS)
    )


def make_source(channels) -> ArraySource:
    return ArraySource(Samples(tuple(channels), np.zeros(len(channels[0]), np.int64), ("only",)))


def list_slots(channels, rows) -> np.ndarray:
    """All point slots of `rows`, (slots, coordinates), in float64."""
    x = np.concatenate([c[rows, ..., 0] for c in channels], axis=1).astype(np.float64)
    return x.transpose(0, 2, 3, 1).reshape(-1, sum(DEPTHS))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_masked_statistics_are_those_of_the_filled_slots_of_the_given_rows(dtype):
    channels = make_channels(40, dtype=dtype)
    rows = np.arange(3, 40, 2)
    slots = list_slots(channels, rows)
    slots = slots[slots.any(axis=1)]
    mean, deviation = compute_statistics(make_source(channels), rows, masked=True)
    np.testing.assert_allclose(mean, slots.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(deviation, slots.std(axis=0), rtol=1e-12)


def test_standard_statistics_are_those_of_all_slots_of_the_given_rows():
    channels = make_channels(40)
    rows = np.arange(5, 25)
    slots = list_slots(channels, rows)
    mean, deviation = compute_statistics(make_source(channels), rows, masked=False)
    np.testing.assert_allclose(mean, slots.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(deviation, slots.std(axis=0), rtol=1e-12)


def test_a_slot_that_is_zero_in_some_channels_counts_in_all():
    channels = [np.zeros((2, depth, 1, 2, 1), "float32") for depth in DEPTHS]
    channels[1][0, 0, 0, 0] = 4.0
    channels[2][1, 0, 0, 1] = 6.0
    mean, deviation = compute_statistics(make_source(channels), np.arange(2), masked=True)
    np.testing.assert_array_equal(mean, [0, 0, 0, 2, 3, 0])
    np.testing.assert_array_equal(deviation, [1, 1, 1, 2, 3, 1])


@pytest.mark.parametrize("masked", [True, False])
def test_statistics_of_several_blocks_equal_those_of_one(masked):
    channels = list(make_channels(2 * BLOCK_ROWS + 300, grid=(2, 2)))
    for channel in channels:
        channel[:BLOCK_ROWS] *= 0.0  # a first block of empty slots
        channel[-300:] += 50.0 * (channel[-300:] != 0)  # and a last one far from the rest
    rows = np.arange(len(channels[0]))
    slots = list_slots(channels, rows)
    slots = slots[slots.any(axis=1)] if masked else slots
    mean, deviation = compute_statistics(make_source(channels), rows, masked)
    np.testing.assert_allclose(mean, slots.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, slots.std(axis=0), rtol=1e-12)


def test_values_far_from_zero_keep_their_deviation():
    channels = [np.full((20, depth, 2, 2, 1), 1e6 + 0.1, "float64") for depth in DEPTHS]
    noise = np.random.default_rng(0).normal(0, 1e-3, channels[1].shape)
    channels[1] += noise
    _, deviation = compute_statistics(make_source(channels), np.arange(20), masked=True)
    assert deviation[3] == pytest.approx(noise.std(), rel=1e-6)
    np.testing.assert_array_equal(deviation[[0, 1, 2, 4, 5]], 1.0)  # constant: nothing to divide by


def test_values_in_a_tiny_unit_are_not_taken_for_constant():
    channels = make_channels(20)
    channels[2][:] *= 1e-14  # a received power in watts
    _, deviation = compute_statistics(make_source(channels), np.arange(20), masked=True)
    assert 0 < deviation[4] < 1e-12


@pytest.mark.parametrize("masked", [True, False])
def test_rows_without_any_point_leave_the_identity(masked):
    channels = [np.zeros((3, depth, 2, 2, 1), "float32") for depth in DEPTHS]
    mean, deviation = compute_statistics(make_source(channels), np.arange(3), masked)
    np.testing.assert_array_equal(mean, np.zeros(6))
    np.testing.assert_array_equal(deviation, np.ones(6))


@pytest.mark.parametrize(
    ("stored", "kept"),
    [("float16", "float16"), (">f2", "float16"), ("int8", "int8"), ("int16", "int16"), ("uint8", "uint8"),
     ("float32", "float32"), ("float64", "float32"), ("int32", "float32"), ("uint16", "float32")],
)  # fmt: skip
def test_resident_rows_keep_narrow_types_and_give_the_rows_asked_for(stored, kept):
    channels = tuple(np.abs(c).astype(stored) for c in make_channels(10))
    layer = ResidentRows(channels)
    assert [str(variable.dtype) for variable in layer.stored] == [kept] * 4
    assert layer.trainable_variables == []
    rows = np.array([7, 0, 3, 3])
    for output, channel in zip(layer(rows), channels, strict=True):
        output = np.asarray(output)
        assert output.dtype == np.float32
        np.testing.assert_array_equal(output, channel[rows].astype("float32"))


@pytest.fixture(scope="module", params=["pointcnn", "pointnet_tcn"])
def model(request) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_model(ModelConfig(name=request.param), [(depth, 4, 5) for depth in DEPTHS], 6)


def predict(model, channels, rows) -> np.ndarray:
    return np.concatenate(list(predict_rows(model, make_source(channels), rows)))


@pytest.mark.parametrize("size", [1, PREDICTION_BATCH - 1, PREDICTION_BATCH, PREDICTION_BATCH + 1, 1100])
def test_predictions_are_those_of_the_model_row_by_row(model, size):
    channels = make_channels(1100, dtype="float16")
    rows = np.sort(np.random.default_rng(size).permutation(1100)[:size])
    probabilities = predict(model, channels, rows)
    assert probabilities.shape == (size, 6)
    assert probabilities.dtype == np.float32
    expected = model([channel[rows].astype("float32") for channel in channels])
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_predictions_do_not_depend_on_the_rows_around(model):
    channels = make_channels(1100)
    whole = predict(model, channels, np.arange(1100))
    for first, last in ((0, 1), (1, 130), (130, 700), (700, 1100)):
        np.testing.assert_allclose(predict(model, channels, np.arange(first, last)), whole[first:last], atol=1e-6)
    # What falls into the same places of a batch is the same to the last bit.
    for first, last in ((0, 1), (PREDICTION_BATCH, PREDICTION_BATCH + 3), (1024, 1100)):
        np.testing.assert_array_equal(predict(model, channels, np.arange(first, last)), whole[first:last])


def test_prediction_gives_blocks_as_it_goes(model):
    channels = make_channels(2100)
    blocks = predict_rows(model, make_source(channels), np.arange(2100))
    assert [len(block) for block in blocks] == [1024, 1024, 52]


def test_each_epoch_has_an_order_of_its_own_that_the_seed_decides():
    order = permute_rows(3, 5, 1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    np.testing.assert_array_equal(permute_rows(3, 5, 1000), order)
    assert (permute_rows(3, 6, 1000) != order).any()
    assert (permute_rows(4, 5, 1000) != order).any()
    assert (permute_rows(5, 3, 1000) != order).any()


@pytest.fixture(scope="module")
def small_model() -> keras.Model:
    return build_model(ModelConfig(name="pointnet_tcn"), [(depth, 4, 5) for depth in DEPTHS], 6)


def test_the_trainer_trains_the_weights_of_the_model(small_model):
    channels = make_channels(12)
    trainer = build_trainer(small_model, channels, None)
    assert [id(v) for v in trainer.trainable_variables] == [id(v) for v in small_model.trainable_variables]
    rows = np.array([4, 11, 0])
    expected = small_model([channel[rows] for channel in channels])
    np.testing.assert_allclose(trainer(rows), expected, atol=1e-6)
    before = read_weights(small_model)
    trainer.compile(keras.optimizers.SGD(0.1), "categorical_crossentropy", run_eagerly=True)
    trainer.train_on_batch(rows, np.eye(6, dtype="float32")[:3])
    after = read_weights(small_model)
    assert after.keys() == before.keys()  # the rows are not weights of the model
    assert (after["probabilities/kernel"] != before["probabilities/kernel"]).any()
    for variable, channel in zip(trainer.get_layer("rows").stored, channels, strict=True):
        np.testing.assert_array_equal(variable, channel)


def test_the_trainer_augments_in_training_only(small_model):
    channels = make_channels(12)
    rows = np.arange(12)
    trainer = build_trainer(small_model, channels, AugmentConfig(position_shift=3.0))
    np.testing.assert_allclose(trainer(rows), small_model(list(channels)), atol=1e-6)
    augmented = keras.Model(trainer.input, trainer.get_layer("augment").output)
    assert (np.asarray(augmented(rows, training=True)[0]) != channels[0]).any()


def test_reseed_decides_every_draw_of_an_epoch(small_model):
    channels = make_channels(12)
    rows = np.arange(12)
    for augment in (None, AugmentConfig(position_jitter=0.5)):  # dropout alone, and with augmentation
        trainer = build_trainer(small_model, channels, augment)
        draws = {}
        for seed, epoch in ((1, 1), (1, 2), (2, 1), (1, 1)):
            reseed(trainer, seed, epoch)
            drawn = np.stack([np.asarray(trainer(rows, training=True)) for _ in range(2)])
            assert (drawn[0] != drawn[1]).any()  # steps of an epoch differ
            if (seed, epoch) in draws:
                np.testing.assert_array_equal(drawn, draws[seed, epoch])
            assert all((drawn != other).any() for key, other in draws.items() if key != (seed, epoch))
            draws[seed, epoch] = drawn


def test_generators_of_a_model_do_not_share_their_draws(small_model):
    trainer = build_trainer(small_model, make_channels(4), AugmentConfig(position_jitter=0.5))
    reseed(trainer, 1, 1)
    states = [trainer.get_layer("augment").seed_generator.state, small_model.get_layer("dropout").seed_generator.state]
    assert (np.asarray(states[0]) != np.asarray(states[1])).any()

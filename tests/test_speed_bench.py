"""Each speed benchmark as small as can be: that it runs, and says all that it promises. No time is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import speed_rounds
from speed_data import make_channels, make_file, read_arrays
from speed_subjects import build_as_written

from pointcnn_cli import layers
from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import DataConfig, ModelConfig
from pointcnn_cli.models import assign_weights, build_model, read_weights
from pointcnn_cli.sources import open_source

SCRIPT = Path(speed_rounds.__file__).with_name("speed.py")
ROOT = SCRIPT.parent.parent
LIMIT = 900  # seconds; a benchmark starts TensorFlow up to five times
SHAPES = [(3, 16, 12), (1, 16, 12), (1, 16, 12), (1, 16, 12)]


def run_quick(*words: str) -> list[dict]:
    """The records that one benchmark prints."""
    command = [sys.executable, str(SCRIPT), *words, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_summary(summary: dict, rounds: int = 2) -> None:
    """Raw rounds, and medians and spreads that follow from them."""
    assert len(summary["rounds"]) == rounds
    for kind in ("wall", "cpu"):
        seconds = [one[f"{kind}_seconds"] for one in summary["rounds"]]
        assert all(value > 0 for value in seconds)
        assert (summary[f"{kind}_min"], summary[f"{kind}_max"]) == (min(seconds), max(seconds))
        assert summary[f"{kind}_median"] == np.median(seconds)


def check_record(record: dict, name: str, ratio: str | None) -> None:
    assert record["benchmark"] == record["settings"]["command"] == name
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["cpu"]
    assert all(record["versions"][package] for package in ("python", "tensorflow", "keras", "numpy", "h5py"))
    for summary in record["subjects"].values():
        check_summary(summary)
    if ratio:
        subject, baseline = (record["subjects"][record[key]]["wall_median"] for key in ("subject", "baseline"))
        quotient = baseline / subject if ratio == "speed" else subject / baseline
        assert record[ratio]["of_medians"] == pytest.approx(quotient)
        low, high = record[ratio]["interval_95"]
        assert 0 < low <= high
        assert record[ratio]["of_cpu_medians"] > 0


@pytest.mark.slow
def test_training_is_compared_with_a_stock_script():
    record, *others = run_quick("train")
    check_record(record, "train", "speed")
    assert [other["subject"] for other in others] == (["torch"] if record["versions"]["torch"] else [])
    assert set(record["subjects"]) == {"pointcnn", "stock"}
    parts = record["subjects"]["pointcnn"]["parts_median"]
    assert all(parts[name] > 0 for name in ("steps", "validation", "checkpoint", "rest"))
    assert all(record["subjects"]["stock"]["parts_median"][name] > 0 for name in ("validation", "checkpoint", "rest"))
    assert {one["count"] for s in record["subjects"].values() for one in s["rounds"]} == {48}  # the same rows in both


@pytest.mark.slow
def test_what_the_defaults_cost_is_told():
    (record,) = run_quick("defaults")
    check_record(record, "defaults", "cost")


@pytest.mark.slow
def test_prediction_is_compared_with_the_better_batch_size_of_a_stock_script():
    (record,) = run_quick("predict", "--dtype", "float16")
    check_record(record, "predict", "speed")
    medians = {name: record["subjects"][name]["wall_median"] for name in ("stock-32", "stock-128")}
    assert record["baseline"] == min(medians, key=medians.get)
    assert record["largest_difference"] < 1e-5  # both sides computed the same


@pytest.mark.slow
def test_training_is_timed_at_several_sizes():
    records = run_quick("scaling")
    assert [record["rows"] for record in records] == [40, 60]
    for record in records:
        check_record(record, "scaling", None)
        assert record["interval_95"][0] <= record["interval_95"][1]
        assert record["first_epoch_extra_seconds"] > 0  # it holds TensorFlow's tracing


def test_reading_is_compared_with_h5py():
    records = run_quick("read", "--dtype", "float16")
    assert [record["layout"] for record in records] == ["contiguous", "gzip"]
    for record in records:
        check_record(record, "read", "speed")
        sizes = {one["count"] for summary in record["subjects"].values() for one in summary["rounds"]}
        assert sizes == {60 * 6 * 8 * 8 * 2 / 1e6}  # megabytes of all channels


def test_commands_are_timed_whole():
    records = run_quick("startup")
    assert [record["command"] for record in records] == ["--help", "config validate", "data inspect"]
    for record in records:
        check_summary(record)
    assert records[-1]["file_bytes"] > 2**20


def test_network_as_written_is_the_function_of_pointcnn_original():
    keras.utils.set_random_seed(0)
    ours = build_model(ModelConfig(name="pointcnn_original", normalize="none"), SHAPES, 6)
    written = build_as_written(SHAPES, 6)
    assign_weights(written, read_weights(ours), "pointcnn_original")
    channels = make_channels(4, *SHAPES[0][1:], "float32")
    np.testing.assert_allclose(written(channels), ours(channels), atol=1e-6)


@pytest.mark.parametrize("gzip", [False, True])
def test_file_has_as_many_rows_as_wanted_and_is_sparse(tmp_path, gzip):
    path = make_file(tmp_path / "rows.h5", 700, 8, 4, gzip=gzip)
    channels, labels = read_arrays(str(path))
    assert [c.shape for c in channels] == [(700, 3, 8, 4, 1), *[(700, 1, 8, 4, 1)] * 3]
    assert (labels.argmax(axis=1) == np.arange(700) % 6).all()
    assert 0.3 < np.mean(channels[1] != 0) < 0.45
    with open_source(DataConfig(path=str(path))) as source:
        for mine, theirs in zip(channels, source.read(np.arange(700)), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def carry_weights(weights: dict, module, name: str) -> None:
    """Give a convolution of PyTorch the weights of Keras's."""
    import torch

    module.conv.weight.data = torch.from_numpy(weights[f"{name}/kernel"].transpose(4, 3, 0, 1, 2).copy())
    module.conv.bias.data = torch.from_numpy(weights[f"{name}/bias"])


@pytest.mark.parametrize("shape", [(16, 12), (11, 7)])
def test_features_in_pytorch_are_those_in_keras(shape):
    torch = pytest.importorskip("torch")
    from speed_torch import Network

    shapes = [(depth, *shape) for depth in (3, 1, 1, 1)]
    keras.utils.set_random_seed(0)
    written, network = build_as_written(shapes, 6), Network(shapes, 6).eval()
    weights = read_weights(written)
    for i, branch in enumerate(network.branches, 1):
        for part in ("conv1", "conv2", "shortcut"):
            carry_weights(weights, getattr(branch, part), f"branch_{i}_{part}")
    carry_weights(weights, network.conv4, "conv4")
    channels = make_channels(4, *shape, "float32")
    expected = np.asarray(keras.Model(written.inputs, written.get_layer("norm4").output)(channels))
    with torch.no_grad():
        found = network.compute_features([torch.from_numpy(np.moveaxis(c, -1, 1).copy()) for c in channels])
    np.testing.assert_allclose(np.moveaxis(found.numpy(), 1, -1), expected, atol=1e-5)


def test_ratio_is_of_seconds_of_the_baseline_to_those_of_the_subject():
    fast = speed_rounds.summarise([{"wall_seconds": s, "cpu_seconds": 2 * s} for s in (1.0, 2.0, 4.0)])
    slow = speed_rounds.summarise([{"wall_seconds": s, "cpu_seconds": 3 * s} for s in (3.0, 6.0, 12.0)])
    ratio = speed_rounds.compare(fast, slow)
    assert (ratio["of_medians"], ratio["of_cpu_medians"], ratio["of_rounds"]) == (3.0, 4.5, [3.0, 3.0, 3.0])
    assert ratio["interval_95"] == pytest.approx([3.0, 3.0])


def test_interval_is_students_on_logarithms():
    low, high = speed_rounds.compute_interval([1.0, np.e])
    # mean 0.5, standard error 0.5, and 12.706 of them with one degree of freedom
    assert (np.log(low), np.log(high)) == pytest.approx((0.5 - 12.7062 / 2, 0.5 + 12.7062 / 2), rel=1e-4)
    assert speed_rounds.compute_interval([1.0]) is None


def test_a_child_that_fails_is_told_with_its_reason():
    with pytest.raises(RuntimeError, match=r"lost ended with 1(.|\n)*FileNotFoundError"):
        speed_rounds.Worker(speed_rounds.Subject("lost", "read_h5py", {"file": "nowhere.h5"}))


def test_streamed_epochs_are_compared_with_epochs_from_memory():
    words = ("--rows", "400", "--rounds", "2", "--chunk", "10", "--config", str(ROOT / "configs/as_asked.yaml"))
    command = [sys.executable, str(SCRIPT.with_name("streaming_bench.py")), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["window_rows"] < record["rows"] == 400  # else nothing is streamed
    for storage in ("contiguous", "gzip"):
        quotient = record[storage]["samples_per_second"] / record["memory"]["samples_per_second"]
        assert record[storage]["of_memory"]["of_medians"] == pytest.approx(quotient, rel=0.01)
        assert len(record[storage]["of_memory"]["of_rounds"]) == 2


def test_each_piece_of_a_step_is_left_out_and_nothing_else():
    import step_pieces

    config = load_config(step_pieces.AS_ASKED, ["data.simulate.windows=100", "train.epochs=1", "model.dropout=0"])
    source = open_source(config.data)
    fits = step_pieces.build_fits(config, source)
    whole, planes = fits["whole"].model, fits["2-D kernels"].model
    before = [w.copy() for w in whole.get_weights()]
    for own, other in zip(planes.weights, whole.weights, strict=True):  # the kernels take other random numbers
        if own.shape == other.shape:
            own.assign(other)
    for layer in planes.layers:
        if isinstance(layer, step_pieces.PlaneConv3D):
            kernel = np.asarray(whole.get_layer(layer.name).kernel)
            used, _ = layers._find_windows(layer.input.shape[1], 3, layer.strides[0])
            layer._kernel.assign(np.concatenate([kernel[k] for k in used], axis=2))
    assert planes.count_params() < whole.count_params()
    logs = {name: fit._feed.fit(fit.trainer, 1, [], lambda: None) for name, fit in fits.items()}
    assert logs["no metric"].keys() == logs["whole"].keys() - {"accuracy"}
    # One step of one batch: the same loss, whatever is left out.
    assert [log["loss"] for log in logs.values()] == pytest.approx([logs["whole"]["loss"]] * 4, rel=1e-5)
    moved = {name: moving_averages_moved(fit.model, before) for name, fit in fits.items() if name != "2-D kernels"}
    assert moved == {"whole": True, "no metric": True, "no moving averages": False}


def moving_averages_moved(model: keras.Model, before: list[np.ndarray]) -> bool:
    """Whether any is another than in `before`, the weights that the model began with."""
    pairs = [(w, old) for w, old in zip(model.weights, before, strict=True) if "moving" in w.path]
    assert pairs
    return any(not np.array_equal(np.asarray(weight), old) for weight, old in pairs)


def test_what_each_piece_of_a_step_costs_is_told():
    command = [sys.executable, str(SCRIPT.with_name("step_pieces.py")), "--rows", "100", "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    for piece in ("no metric", "no moving averages", "2-D kernels"):
        quotient = record["whole"]["wall_median"] / record[piece]["wall_median"]
        assert record[piece]["times_as_fast"]["of_medians"] == pytest.approx(quotient, rel=0.05)


@pytest.mark.slow
def test_a_training_from_a_large_file_runs_in_turns_with_one_from_memory():
    words = ("--gib", "0.05", "--memory-rows", "300", "--limit", "35MB", "--storage", "gzip")
    command = [sys.executable, str(SCRIPT.with_name("large_file.py")), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert len(record["said"]) == 1  # it was streamed
    assert len(record["streamed"]["epoch_ends"]) == 2
    assert len(record["in_memory"]["epoch_ends"]) > 2  # it ran on, beside an epoch twice as long
    for name in ("streamed", "in_memory"):
        found = record[name]
        first, *_, last = found["epoch_ends"]
        counted = found["rows"] * (len(found["epoch_ends"]) - 1)
        assert found["samples_per_second"] == pytest.approx(counted / (last - first), rel=0.02)
        assert 0.3 < found["peak_gib"]["VmRSS"] < 4
    for key in ("samples_per_second", "samples_per_cpu_second"):
        assert record[f"ratio_of_{key}"] == pytest.approx(record["streamed"][key] / record["in_memory"][key], rel=0.01)

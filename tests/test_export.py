"""Exports: the same probabilities in another runtime, in a process without Keras; what goes along; quantisation."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from exported import (
    CLOSE,
    EVERY,
    LITERT,
    OUTPUTS,
    change_run,
    check_lowered,
    count_windows,
    installed,
    make_untrained_run,
    read_block,
    read_expected,
    read_inner,
)

from pointcnn_cli.config.load import load_resolved
from pointcnn_cli.errors import RunError
from pointcnn_cli.export import export_run, parity
from pointcnn_cli.export.conversion import build_quantization, convert
from pointcnn_cli.export.cost import compute_cost
from pointcnn_cli.export.formats import FORMATS
from pointcnn_cli.export.networks import build_networks
from pointcnn_cli.export.parity import compare_with_keras
from pointcnn_cli.export.rows import open_check_rows
from pointcnn_cli.paired import compare_answers
from pointcnn_cli.prediction import load_run
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.sources import open_source


@pytest.fixture(scope="module")
def exports(trained, tmp_path_factory):
    """A function that exports the shared run to a format, once, and gives its folder and what was found."""
    done: dict[str, tuple[Path, dict]] = {}

    def export(name: str) -> tuple[Path, dict]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, export_run(trained.run.path, name, folder / OUTPUTS[name], Reporter())
        return done[name]

    return export


@pytest.fixture(scope="module")
def rows(trained, tmp_path_factory) -> Path:
    """The validation rows of the shared run as stored: what somebody else would have."""
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    with open_source(load_resolved(trained.run.config).data) as source:
        numbers = np.array(json.loads(trained.run.split.read_text())["validation"])
        np.savez(path, **{f"channel_{i}": channel for i, channel in enumerate(source.read(numbers), 1)})
    return path


# --- elsewhere ---


@pytest.mark.parametrize("name", EVERY)
def test_the_documented_lines_give_the_run_s_probabilities_without_keras(name, exports, trained, rows):
    folder, _ = exports(name)
    shutil.copy(rows, folder / "rows.npz")
    # TensorFlow imports Keras by itself where it is there.
    banned = "import sys\nsys.modules['keras'] = sys.modules['pointcnn_cli'] = None\n"
    script = banned + read_block(name) + "np.save('probabilities.npy', probabilities)\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    expected = read_expected(trained.run)
    found = np.load(folder / "probabilities.npy")
    assert np.abs(found - expected).max() < CLOSE
    classes = trained.metrics["classes"]
    assert done.stdout.splitlines()[-1] == str([classes[i] for i in expected.argmax(axis=1)])


@pytest.mark.parametrize("name", EVERY)
def test_what_an_export_says_of_itself_is_what_was_written(name, exports, trained):
    folder, found = exports(name)
    assert found["output"] == str(folder / OUTPUTS[name])
    assert sorted(found["files"]) == sorted(str(folder / f) for f in os.listdir(folder) if f[:5] == "model")
    parity_of = found["parity"]
    assert parity_of["rows"] == trained.metrics["n"]
    assert parity_of["largest_difference"] < CLOSE
    assert (parity_of["equal_argmax"], parity_of["origin"]) == (1.0, "validation")
    assert found["quantization_cost"] is None


@pytest.mark.parametrize("name", EVERY)
def test_the_metadata_stand_in_the_model_and_beside_it(name, exports, trained):
    folder, found = exports(name)
    beside = json.loads((folder / f"{OUTPUTS[name]}.json").read_text())
    inner = read_inner(name, folder / OUTPUTS[name])
    assert beside == {**inner, "parity": found["parity"], "quantization_cost": None}
    manifest = trained.run.read_manifest()
    assert beside["classes"] == manifest["classes"]
    assert [one["name"] for one in beside["inputs"]] == ["channel_1", "channel_2", "channel_3", "channel_4"]
    assert [one["shape"][1:4] for one in beside["inputs"]] == manifest["channel_shapes"]
    assert beside["run"]["epoch"] == trained.metrics["epoch"]
    assert beside["run"]["data"]["sampled_rows_sha256"] == manifest["data"]["sampled_rows_sha256"]
    assert beside["calibration"] is None
    statistics = trained.run.read_weights(trained.run.best)[0]
    assert np.concatenate(beside["normalization"]["mean"]) == pytest.approx(statistics["normalization/mean"])
    assert str(ROOT) not in json.dumps(beside)


# --- what is in it ---


@pytest.mark.parametrize("name", EVERY)
def test_the_exported_graph_has_2d_operations_only(name, exports):
    folder, _ = exports(name)
    check_lowered(name, folder / OUTPUTS[name])


@pytest.fixture(scope="module")
def unlike(trained, tmp_path_factory) -> tuple[Path, dict]:
    """An export of a run of stock layers, with a calibration."""
    folder = tmp_path_factory.mktemp("unlike")
    run = change_run(trained.run, folder / "run", "model.fast=false")
    (run.path / "calibration.json").write_text('{"schema_version": 1, "temperature": 1.7}')
    return folder, export_run(run.path, "savedmodel", folder / "model", Reporter())


def test_a_run_of_stock_layers_is_lowered_too(unlike):
    folder, found = unlike
    assert found["parity"]["largest_difference"] < CLOSE
    check_lowered("savedmodel", folder / "model")


@pytest.fixture(scope="module")
def mixed(trained, tmp_path_factory) -> RunDir:
    """A run in mixed precision. Of our layers: TensorFlow's Conv3D is wrong in bfloat16 on processors with AMX."""
    return change_run(trained.run, tmp_path_factory.mktemp("mixed") / "run", "train.precision=mixed_bfloat16")


def test_a_run_in_mixed_precision_is_written_in_float32_and_says_how_far_that_is(mixed, trained, tmp_path):
    written = export_run(mixed.path, "savedmodel", tmp_path / "model", Reporter())
    found = written["parity"]["mixed_precision"]
    assert found["precision"] == "mixed_bfloat16"
    assert CLOSE < found["largest_difference"] < 0.1
    assert found["rows"] == min(trained.metrics["n"], parity.MOST_MIXED)


def test_a_run_that_answers_with_nan_in_its_own_precision_is_written_and_not_compared(mixed, tmp_path, monkeypatch):
    predict = parity._predict_keras

    def spoil(network, rows):
        answers = predict(network, rows)
        is_mixed = any(layer.compute_dtype == "bfloat16" for layer in network.layers)
        return np.full_like(answers, np.nan) if is_mixed else answers

    monkeypatch.setattr(parity, "_predict_keras", spoil)
    written = export_run(mixed.path, "savedmodel", tmp_path / "model", Reporter())
    assert written["parity"]["largest_difference"] < CLOSE
    assert written["parity"]["mixed_precision"]["largest_difference"] is None
    assert (tmp_path / "model").is_dir()


def test_a_calibration_goes_along_and_is_not_applied(unlike, trained):
    folder, _ = unlike
    calibration = json.loads((folder / "model.json").read_text())["calibration"]
    assert calibration["temperature"] == 1.7
    page = (ROOT / "docs" / "export.md").read_text()
    [lines] = re.findall(r"```python\n(calibrated .*?)```", page, re.DOTALL)
    logits = np.log(read_expected(trained.run))
    scope = {"probabilities": np.exp(logits), "metadata": {"calibration": calibration}}
    exec(lines, scope)
    softened = np.exp(logits / 1.7)
    assert scope["calibrated"] == pytest.approx(softened / softened.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("text", ['{"schema_version": 1}', '{"temperature": -1}', '{"temperature": NaN}', "{", "[]"])
def test_a_damaged_calibration_is_told_before_anything_is_written(text, trained, tmp_path):
    run = change_run(trained.run, tmp_path / "run")
    (run.path / "calibration.json").write_text(text)
    with pytest.raises(RunError, match=r"calibration\.json: damaged"):
        export_run(run.path, "savedmodel", tmp_path / "model", Reporter())
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network", "depths"),
    [
        pytest.param("litert", "pointcnn_original", (1, 2, 3, 4), marks=LITERT),
        pytest.param("openvino", "pointcnn_original", (1, 2, 3, 4), marks=installed("openvino")),
        pytest.param("litert", "pointnet_tcn", (3, 1, 1, 1), marks=LITERT),
        pytest.param("onnx", "pointnet_tcn", (4, 1, 2, 1), marks=installed("onnx")),
    ],
)
def test_other_networks_and_depths_can_be_written(name, network, depths, tmp_path):
    run = make_untrained_run(tmp_path / "run", network, depths)
    found = export_run(run.path, name, tmp_path / OUTPUTS[name], Reporter())
    assert found["parity"]["largest_difference"] < CLOSE
    assert {dimensions for _, dimensions in count_windows(name, tmp_path / OUTPUTS[name])} <= {2}


# --- quantisation ---


@LITERT
def test_quantisation_says_what_it_saves_and_costs(trained, tmp_path):
    found = export_run(trained.run.path, "litert", tmp_path / "model.tflite", Reporter(), quantization="int8")
    paid = found["quantization_cost"]
    assert paid["bytes_after"] == (tmp_path / "model.tflite").stat().st_size < 0.4 * paid["bytes_before"]
    assert (paid["n"], paid["n_groups"]) == (trained.metrics["n"], trained.metrics["n_groups"])
    assert paid["accuracy_before"] == trained.metrics["accuracy"]
    assert paid["difference"] == pytest.approx(paid["accuracy_after"] - paid["accuracy_before"])
    low, high = paid["difference_ci"]
    assert low <= paid["difference"] <= high
    assert high - low > 0.05  # of 24 rows in 2 groups little is known
    assert CLOSE < found["parity"]["largest_difference"] < 0.3
    assert found["parity"]["tolerance"] is None
    assert json.loads((tmp_path / "model.tflite.json").read_text())["quantization"] == "int8"


@LITERT
def test_half_precision_halves_the_weights_and_hardly_changes_the_answers(trained, exports, tmp_path):
    loaded, full = load_run(trained.run.path, Reporter()), exports("litert")[0] / "model.tflite"
    networks, model = build_networks(loaded), tmp_path / "model.tflite"
    with open_check_rows(loaded, networks.reference, True, Reporter()) as rows:
        options = build_quantization("float16", rows, networks.input_names)
        convert(FORMATS["litert"], networks.lowered, model, "{}", False, options)
        difference = compare_with_keras(FORMATS["litert"], model, networks, rows, False).difference
    assert model.stat().st_size < 0.65 * full.stat().st_size
    assert 0 < difference.largest_difference < 0.01


def test_integers_are_calibrated_on_training_rows_alone(trained):
    loaded = load_run(trained.run.path, Reporter())
    split = json.loads(trained.run.split.read_text())
    with open_check_rows(loaded, loaded.build_model()[0], True, Reporter()) as rows:
        names = ("a", "b", "c", "d")
        seen = list(build_quantization("int8", rows, names)["representative_dataset"]())
        training = rows.source.read(np.array(split["train"]))
    assert [set(one) for one in seen] == [set(names)] * len(split["train"])
    assert all(one["a"].dtype == np.float32 for one in seen)
    assert np.array_equal(np.concatenate([one["b"] for one in seen]), training[1])


def test_the_cost_is_that_of_paired_rows():
    labels, before = np.arange(40) % 2, np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    after = before.copy()
    after[:10] = after[:10, ::-1]  # ten right answers become wrong
    paid = compute_cost(labels, None, before, after)
    assert (paid.accuracy_before, paid.accuracy_after, paid.difference) == (1.0, 0.75, -0.25)
    assert paid.difference_ci == list(compare_answers(np.arange(40) >= 10, np.ones(40, bool), None).interval)
    assert paid.difference_ci[1] < 0

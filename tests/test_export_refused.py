"""Exports that are refused leave nothing, and what was there is whole; what is printed, and where."""

import json
import os
import re
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
from exported import CLOSE, LITERT, Told, change_run, make_untrained_run, read_all
from processes import UNPRIVILEGED, end, pointcnn, start, wait_for
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app
from pointcnn_cli.errors import DataError, MissingDependencyError, OutputError, RunError
from pointcnn_cli.export import export_run, parity
from pointcnn_cli.export.conversion import check_backend
from pointcnn_cli.export.rows import open_check_rows
from pointcnn_cli.prediction import load_run
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir

needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="root may write anywhere without setpriv")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> RunDir:
    """A run that is quick to export."""
    return make_untrained_run(tmp_path_factory.mktemp("runs") / "run", "pointnet_tcn", (3, 1, 1, 1))


@pytest.fixture(scope="module")
def gone(untrained, tmp_path_factory) -> tuple[Path, dict, list[str]]:
    """A folder with an export of a run whose data are gone, what was found of it, and what was said."""
    folder, told = tmp_path_factory.mktemp("earlier"), Told()
    return folder, export_run(untrained.path, "savedmodel", folder / "model", told), told.warnings


@pytest.fixture(scope="module")
def earlier(gone) -> Path:
    """A folder with an export in it."""
    return gone[0]


def test_an_export_that_differs_is_refused_and_nothing_is_touched(untrained, earlier, tmp_path, monkeypatch):
    shutil.copytree(earlier, tmp_path, dirs_exist_ok=True)
    before = read_all(tmp_path)
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)  # nothing is that close
    with pytest.raises(RunError, match=r"other probabilities than with Keras: they differ by up to \d") as caught:
        export_run(untrained.path, "savedmodel", tmp_path / "model", Reporter(), force=True)
    assert caught.value.exit_code == 8
    assert read_all(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["model", "model.json"]


def test_force_replaces_every_piece(untrained, earlier, tmp_path):
    shutil.copytree(earlier, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model" / "stale").write_text("of the old one")
    (tmp_path / "model.json").write_text("{}")
    export_run(untrained.path, "savedmodel", tmp_path / "model", Reporter(), force=True)
    assert "model/stale" not in read_all(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["format"] == "savedmodel"
    assert sorted(os.listdir(tmp_path)) == ["model", "model.json"]


def test_what_cannot_get_its_name_leaves_the_old_model_in_place(untrained, earlier, tmp_path, monkeypatch):
    shutil.copytree(earlier, tmp_path, dirs_exist_ok=True)
    before, rename = read_all(tmp_path), os.rename

    def rename_all_but_the_new_model(source, target):
        if Path(target) == tmp_path / "model" and "replaced" not in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_all_but_the_new_model)
    result = CliRunner().invoke(app, arguments_for(untrained.path, tmp_path / "model", "--force"))
    assert result.exit_code == 9
    assert f"{tmp_path / 'model'}: the disk is full" in result.stderr
    assert read_all(tmp_path) == before


def test_data_that_are_gone_are_said_to_be(gone):
    _, found, [warning] = gone
    assert (found["parity"]["origin"], found["parity"]["compared_on"]) == ("generated", "64 generated rows")
    assert found["parity"]["largest_difference"] < CLOSE
    assert "gone.h5" in warning
    assert "64 generated rows instead" in warning


@LITERT
def test_quantisation_needs_the_data(untrained, tmp_path):
    with pytest.raises(DataError, match=r"gone\.h5"):
        export_run(untrained.path, "litert", tmp_path / "model.tflite", Reporter(), quantization="float16")
    assert os.listdir(tmp_path) == []


def test_data_that_were_changed_are_not_compared_on(trained, tmp_path):
    run, told = change_run(trained.run, tmp_path / "run"), Told()
    data = run.read_manifest()["data"]
    run.update_manifest(data={**data, "sampled_rows_sha256": "of other rows"})
    loaded = load_run(run.path, told)
    with open_check_rows(loaded, loaded.build_model()[0], False, told) as rows:
        assert rows.origin == "generated"
        _, second, *_ = rows.source.read(rows.numbers)
    assert "not the data of the run" in told.warnings[0]
    stored = trained.run.read_weights(trained.run.best)[0]
    filled, deviation = second[second != 0], float(stored["normalization/deviation"][3])
    assert float(filled.mean()) == pytest.approx(float(stored["normalization/mean"][3]), abs=0.1 * deviation)
    assert float(filled.std()) == pytest.approx(deviation, rel=0.1)


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)  # as Python has it for what cannot be imported
    with pytest.raises(MissingDependencyError, match=r"missing: .*tf2onnx") as caught:
        export_run(tmp_path / "no run", "onnx", tmp_path / "model.onnx", Reporter())
    assert "tf2onnx" in str(caught.value.hint)


def test_another_backend_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(MissingDependencyError, match="the Keras backend is jax") as caught:
        check_backend()
    assert "KERAS_BACKEND=tensorflow" in str(caught.value.hint)


def arguments_for(run: Path, output: Path, *options: str) -> list[str]:
    return ["export", str(run), "--format", "savedmodel", "--output", str(output), *options]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["RUN", "--format", "keras", "--output", "OUT"], 2, "'keras' is not one of"),
        (["RUN", "--format", "savedmodel"], 2, "Missing option '--output'"),
        (["RUN", "--format", "savedmodel", "--quantize", "int8", "--output", "OUT"], 2, "goes with --format litert"),
        (["RUN", "--format", "onnx", "--output", "OUT"], 2, "a file of the format onnx is named *.onnx"),
        (["nothing", "--format", "savedmodel", "--output", "OUT"], 8, "nothing: no such run directory"),
        (["CV", "--format", "savedmodel", "--output", "OUT"], 8, "directory of a cross-validation"),
        (["RUN", "--format", "savedmodel", "--output", "OLD"], 9, "exists already"),
        (["RUN", "--format", "savedmodel", "--output", "OLD", "--force"], 9, "is not a SavedModel"),
        (["RUN", "--format", "savedmodel", "--output", "TAKEN"], 9, "taken.json: exists already"),
        (["RUN", "--format", "savedmodel", "--output", "OUT/deeper"], 9, "there is no folder"),
        (["UNSAVED", "--format", "savedmodel", "--output", "OUT"], 8, "no such checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(arguments, code, said, untrained, tmp_path):
    places = {name: tmp_path / name.lower() for name in ("OUT", "OLD", "TAKEN", "CV", "UNSAVED")}
    places["OLD"].mkdir()
    (places["OLD"] / "mine").touch()
    (tmp_path / "taken.json").touch()
    member = places["CV"] / "runs" / "fold-0-seed-0"
    member.mkdir(parents=True)
    (places["CV"] / "cv.json").touch()
    (member / "manifest.json").touch()
    shutil.rmtree(change_run(untrained, places["UNSAVED"]).checkpoints)
    before = read_all(tmp_path)
    named = {**places, "RUN": untrained.path}
    real = [re.sub("^[A-Z]+", lambda found: str(named.get(found[0], found[0])), argument) for argument in arguments]
    result = CliRunner().invoke(app, ["export", *real])
    flat = " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert said in flat
    assert (str(member) in flat) == (arguments[0] == "CV")
    assert read_all(tmp_path) == before


@needs_setpriv
def test_a_folder_without_permission_is_refused_before_any_work(untrained, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    done = pointcnn(*arguments_for(untrained.path, folder / "model"), before=UNPRIVILEGED)
    assert done.returncode == 9
    assert "no permission to write" in done.stderr


def test_a_file_that_grows_too_large_is_told_and_leaves_nothing(untrained, tmp_path):
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="the disk is full, or a quota or size limit is reached") as caught:
            export_run(untrained.path, "savedmodel", tmp_path / "model", Reporter())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.message.startswith(f"{tmp_path / 'model'}: ")
    assert os.listdir(tmp_path) == []


def test_a_stopped_export_leaves_nothing(untrained, tmp_path):
    process = start(*arguments_for(untrained.path, tmp_path / "model"))
    wait_for(lambda: os.listdir(tmp_path), process)
    process.terminate()
    assert end(process)[0] == 143
    assert os.listdir(tmp_path) == []


def test_the_result_is_on_stdout_and_nothing_of_tensorflow_anywhere(trained, tmp_path):
    """In a process of its own, where what the converters print would be seen."""
    as_a_user = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = pointcnn(*arguments_for(trained.run.path, tmp_path / "model", "--json"), env=as_a_user)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"]["largest_difference"] < CLOSE
    rows = trained.metrics["n"]
    assert done.stderr == f"writing savedmodel, and comparing it with Keras on all {rows} validation rows\n"


def test_the_table_says_what_was_compared_and_how(untrained, tmp_path):
    result = CliRunner().invoke(app, arguments_for(untrained.path, tmp_path / "model"))
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert re.search(r"compared with Keras on │ 64 generated rows", shown)
    assert re.search(r"largest difference of a probability │ \d", shown)
    assert re.search(r"same most probable class │ 100.00% of rows", shown)

"""The command line as a user meets it: results on stdout, one message for each mistake, the documented exit codes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT
from processes import pointcnn
from typer.testing import CliRunner

from pointcnn_cli import __version__
from pointcnn_cli.cli.app import app

BASE = str(ROOT / "configs" / "base.yaml")


def run(*arguments: str, code: int = 0, stdin: str | None = None):
    """Run pointcnn in this process and check its exit code; no message may hold a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def data_file(tmp_path, simulated_file):
    """A copy of the small simulated file that a test may damage, opened for writing."""
    path = tmp_path / "data.h5"
    path.write_bytes(simulated_file.read_bytes())
    return path


def edit(path: Path, change) -> None:
    with h5py.File(path, "a") as file:
        change(file)


def replace(file: h5py.File, name: str, values) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def keep_rows(rows):
    def change(file: h5py.File) -> None:
        for name in list(file):
            replace(file, name, file[name][:][rows])

    return change


def set_nan(file: h5py.File) -> None:
    file["channel_3"][17, 0, 2, 3, 0] = np.nan


BAD_DATA = {
    "a missing dataset": (lambda file: file.pop("channel_2", None), "channel_2"),
    "a wrong shape": (lambda file: replace(file, "channel_2", np.zeros((96, 1, 32, 20, 1), "f4")), "channel_2"),
    "unequal rows": (lambda file: replace(file, "channel_4", file["channel_4"][:90]), "90"),
    "NaN": (set_nan, "row 17"),
    "labels out of range": (lambda file: replace(file, "label", np.full(96, 6)), "6"),
    "one class only": (lambda file: replace(file, "label", np.zeros(96, int)), "class"),
    "fewer rows than classes": (keep_rows([0, 40, 80]), "3 rows"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_end_training_with_one_message_and_leave_nothing(kind, data_file, tmp_path):
    change, named = BAD_DATA[kind]
    edit(data_file, change)
    output = tmp_path / "run"
    result = run("train", BASE, "--set", f"data.path={data_file}", "--output", output, code=6)
    assert str(data_file) in words(result.stderr).replace(" ", "") or str(data_file) in result.stderr
    assert named in result.stderr
    assert "Try:" in result.stderr
    assert result.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.h5"]


@pytest.mark.parametrize(("content", "named"), [(None, "no such file"), (b"label,x\n1,2\n", "HDF5"), (b"", "empty")])
def test_what_is_not_an_hdf5_file_is_named(content, named, tmp_path):
    path = tmp_path / "data.h5"
    if content is not None:
        path.write_bytes(content)
    result = run("train", BASE, "--set", f"data.path={path}", code=6)
    assert named in result.stderr


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("train.epoch=3", "did you mean train.epochs"),
        ("train.epochs=three", "train.epochs"),
        ("train.learning_rate=-1", "train.learning_rate"),
        ("train.epochs", "KEY=VALUE"),
        ("data.path=x.h5,data.simulate={}", None),
    ],
)
def test_bad_settings_exit_with_4(setting, named, tmp_path):
    if named is None:
        result = run("train", BASE, "--set", "data.path=x.h5", "--set", "data.simulate={}", code=4)
        assert "both" in result.stderr
    else:
        assert named in words(run("train", BASE, "--set", setting, code=4).stderr)


def test_faults_of_a_config_are_named_with_file_line_and_column(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("data:\n  simulate: {}\ntrian:\n  epochs: 3\ntrain:\n  epochs: 1e-3\n  batch_size: 0\n")
    text = run("config", "validate", path, code=4).stderr
    assert f"{path}:3:1" in text
    assert "did you mean train" in text
    assert f"{path}:6:11" in text
    assert f"{path}:7:15" in text


def test_a_config_comes_from_stdin(simulated_file):
    text = "data:\n  simulate: {windows: 24}\ntrain:\n  learning_rate: 1e-3\n"
    assert "learning_rate: 0.001" in run("config", "show", "-", stdin=text).stdout


def test_config_show_is_what_config_reads(tmp_path):
    shown = run("config", "show", BASE, "--set", "seed=7").stdout
    path = tmp_path / "shown.yaml"
    path.write_text(shown)
    assert run("config", "show", path).stdout == shown
    assert "seed: 7" in shown


def test_the_schema_describes_every_key():
    schema = json.loads(run("config", "schema").stdout)
    sections = schema["$defs"].values()
    keys = {key: value for section in (*sections, schema) for key, value in section["properties"].items()}
    undescribed = [key for key, value in keys.items() if "description" not in value and "$ref" not in value]
    assert undescribed == []


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_a_missing_run_or_config_is_named(name, tmp_path):
    where = tmp_path / "nothing"
    arguments = {
        "train": ("train", where),
        "evaluate": ("evaluate", where),
        "predict": ("predict", where, "x.h5", "--output", "-"),
    }
    result = run(*arguments[name], code=4 if name == "train" else 8)
    assert "nothing" in result.stderr


def test_arguments_that_do_not_go_together_exit_with_2(trained, tmp_path):
    assert "--resume" in run("train", BASE, "--resume", trained.run.path, code=2).stderr
    assert "no config" in run("train", code=2).stderr
    path = trained.run.path
    assert "exclude" in run("evaluate", path, "--data", "x.h5", "--part", "train", code=2).stderr
    assert ".csv" in run("predict", path, "x.h5", "--output", tmp_path / "x.txt", code=2).stderr


def test_train_prints_the_run_directory_last(tmp_path):
    settings = ["data.simulate.windows=24", "data.simulate.subjects=4", "train.epochs=1", "model.name=pointnet_tcn"]
    options = [part for setting in settings for part in ("--set", setting)]
    result = run("train", ROOT / "configs" / "smoke.yaml", *options, "--output", tmp_path / "run")
    assert result.stdout.splitlines()[-1] == str(tmp_path / "run")
    assert "epoch 1/1" in result.stderr


def test_evaluate_prints_one_json_document(trained):
    document = json.loads(run("-q", "evaluate", trained.run.path, "--json").stdout)
    assert document["accuracy"] == trained.metrics["accuracy"]


def test_min_accuracy_exits_with_3(trained):
    result = run("evaluate", trained.run.path, "--min-accuracy", "1.0", "--json", code=3)
    assert json.loads(result.stdout)["n"] == trained.metrics["n"]
    assert "below --min-accuracy" in result.stderr


def test_evaluate_refuses_a_class_that_the_run_does_not_know(trained, data_file):
    edit(
        data_file, lambda f: f["label"].attrs.__setitem__("classes", ["box", "jack", "jump", "squat", "walk", "dance"])
    )
    result = run("evaluate", trained.run.path, "--data", data_file, code=6)
    assert "dance" in result.stderr
    assert "wave" in result.stderr


def test_evaluate_maps_classes_by_name(trained, data_file):
    first = json.loads(run("evaluate", trained.run.path, "--data", data_file, "--json").stdout)

    def reverse(file: h5py.File) -> None:
        names = list(file["label"].attrs["classes"])
        replace(file, "label", 5 - file["label"][:])
        file["label"].attrs["classes"] = names[::-1]

    edit(data_file, reverse)
    second = json.loads(run("evaluate", trained.run.path, "--data", data_file, "--json").stdout)
    assert second["confusion_matrix"] == first["confusion_matrix"]


def test_evaluate_without_labels_says_how_to_name_them(trained, data_file):
    edit(data_file, lambda file: file.pop("label", None))
    result = run("evaluate", trained.run.path, "--data", data_file, code=6)
    assert "data.labels" in words(result.stderr)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".h5", ".parquet"])
def test_predict_writes_one_row_for_each_sample_of_an_unlabelled_file(suffix, trained, data_file, tmp_path):
    edit(data_file, lambda file: file.pop("label", None))
    output = tmp_path / f"out{suffix}"
    run("predict", trained.run.path, data_file, data_file.parent / "data.h5", "--output", output, code=6)
    assert not output.exists()  # one file given twice is refused
    run("predict", trained.run.path, data_file, "--output", output)
    assert output.stat().st_size > 96
    assert "exists already" in run("predict", trained.run.path, data_file, "--output", output, code=9).stderr
    run("predict", trained.run.path, data_file, "--output", output, "--force")


def test_predict_writes_csv_to_stdout(trained, simulated_file):
    result = run("-q", "predict", trained.run.path, simulated_file, "--output", "-")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [int(row["index"]) for row in rows] == list(range(96))
    assert {row["file"] for row in rows} == {str(simulated_file)}
    for row in rows:
        shares = {name: float(row[f"p_{name}"]) for name in trained.metrics["classes"]}
        assert row["predicted"] == max(shares, key=shares.get)
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)


def test_predict_refuses_another_layout(trained, tmp_path):
    path = tmp_path / "small.h5"
    with h5py.File(path, "w") as file:
        for i, depth in enumerate((3, 1, 1, 1), 1):
            file[f"channel_{i}"] = np.ones((4, depth, 16, 24, 1), "f4")
    result = run("predict", trained.run.path, path, "--output", tmp_path / "out.csv", code=6)
    assert "(3, 16, 24)" in result.stderr
    assert "(3, 32, 24)" in result.stderr
    assert not (tmp_path / "out.csv").exists()


def test_predict_names_a_row_with_nan_and_leaves_no_output(trained, data_file, tmp_path):
    edit(data_file, set_nan)
    result = run("predict", trained.run.path, data_file, "--output", tmp_path / "out.csv", code=6)
    assert "row 17" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["data.h5"]


def test_inspect_shows_what_is_in_a_file(simulated_file):
    text = run("data", "inspect", simulated_file).stdout
    for fact in ("channel_1", "96 x 3 x 32 x 24 x 1", "float16", "jack", "sorted"):
        assert fact in text
    document = json.loads(run("data", "inspect", simulated_file, "--json").stdout)
    assert document["classes"]["box"] == 16
    assert document["row_order"]


def test_simulate_writes_equal_bytes_from_equal_seeds(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run("data", "simulate", tmp_path / f"{name}.h5", "--windows", "24", "--subjects", "4", "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.h5").read_bytes() for name in "abc")
    assert a == b != c
    assert "exists already" in run("data", "simulate", tmp_path / "a.h5", code=9).stderr


def test_convert_makes_a_file_that_inspect_accepts(tmp_path):
    rows = 12
    for i, depth in enumerate((3, 1, 1, 1), 1):
        np.save(tmp_path / f"c{i}.npy", np.ones((rows, depth, 8, 6), "f4"))
    np.save(tmp_path / "labels.npy", np.arange(rows) % 3)
    inputs = [tmp_path / f"{name}.npy" for name in ("c1", "c2", "c3", "c4", "labels")]
    run("data", "convert", *inputs, tmp_path / "out.h5", "--set", "data.channels=[xyz, v, i, r]")
    found = json.loads(
        run("data", "inspect", tmp_path / "out.h5", "--set", "data.channels=[xyz, v, i, r]", "--json").stdout
    )
    assert found["rows"] == rows
    assert found["problems"] == []


def test_as_asked_warns_of_the_class_that_is_never_trained(tmp_path):
    settings = ["data.simulate.windows=120", "train.epochs=1", "train.batch_size=40"]
    options = [part for setting in settings for part in ("--set", setting)]
    result = run("train", ROOT / "configs" / "as_asked.yaml", *options, "--output", tmp_path / "run")
    assert "wave" in result.stderr
    assert "ceiling" in result.stderr


def process(*arguments: str, **options):
    environment = {**os.environ, "COLUMNS": "200", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "pointcnn_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        **options,
    )


def test_stdout_holds_only_the_result_and_stderr_no_engine_noise(trained, simulated_file):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "pointcnn_cli", "evaluate", trained.run.path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    assert json.loads(done.stdout)["n"] == trained.metrics["n"]
    assert done.stderr.splitlines() == [f"scoring the validation part: {trained.metrics['n']} rows"]


def test_colours_are_off_where_nobody_wants_them():
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        done = process("data", "inspect", "missing.h5", env=environment)
        assert done.returncode == 6
        assert "\x1b" not in done.stdout + done.stderr


def test_debug_shows_the_traceback():
    done = process("--debug", "data", "inspect", "missing.h5")
    assert "Traceback" in done.stderr
    assert done.returncode == 6


@pytest.mark.parametrize("options", [(), ("--debug",)])
def test_a_bug_says_how_to_report_it_and_shows_its_traceback_only_on_request(options):
    code = """
import sys
from pointcnn_cli import __version__
from pointcnn_cli.cli.app import app

@app.command()
def stumble() -> None:
    raise LookupError("no such moon")

app(sys.argv[1:])
"""
    done = subprocess.run([sys.executable, "-c", code, *options, "stumble"], capture_output=True, text=True, cwd=ROOT)
    text = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "unexpected LookupError: no such moon" in text
    assert f"this is a bug in pointcnn {__version__}; please report it" in text
    assert "pointcnn --debug" in text
    assert ("Traceback" in text) == bool(options)
    assert done.stdout == ""


def test_a_closed_pipe_ends_quietly(trained, simulated_file):
    command = f"{sys.executable} -m pointcnn_cli -q predict {trained.run.path} {simulated_file} -o - | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("index,file,predicted")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("train", BASE, "--epochs", "3"), "--set train.epochs=VALUE"),
        (("train", BASE, "--lr", "3"), "--set train.learning_rate=VALUE"),
        (("train", BASE, "--nonsense"), "No such option: --nonsense"),
        (("doctor", "--epochs"), "No such option: --epochs"),
        (("inspect", "x.h5"), "pointcnn data inspect"),
        (("trian", "x.yaml"), "Did you mean 'train'"),
    ],
)
def test_what_was_probably_meant_is_said(command, named):
    assert named in " ".join(run(*command, code=2).stderr.replace("│", " ").split())


def test_a_data_file_is_not_taken_for_a_config(simulated_file):
    before = simulated_file.read_bytes()
    assert "config init --data" in words(run("train", simulated_file, code=4).stderr)
    result = run("config", "init", simulated_file, "--force", code=2)
    assert f"pointcnn config init my.yaml --data {simulated_file}" in words(result.stderr)
    assert simulated_file.read_bytes() == before


def test_code_of_other_packages_that_calls_itself_a_plugin_of_pydantic_is_not_run(tmp_path):
    loaded = tmp_path / "loaded"
    (tmp_path / "intruder.py").write_text(f"open({str(loaded)!r}, 'w').close()\nplugin = None\n")
    metadata = tmp_path / "intruder-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pydantic]\nintruder = intruder:plugin\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = pointcnn("config", "validate", BASE, env=environment)
    assert done.returncode == 0, done.stderr
    assert not loaded.exists()

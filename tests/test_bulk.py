"""`predict RUN FILE... --output DIR/`: an output a file, what is there is kept, one bad file stops no other."""

import os
import shutil

import pytest
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory, simulated_file):
    """Two good files, and one that is none: a.h5, b.h5, bad.h5."""
    folder = tmp_path_factory.mktemp("many")
    for name in ("a.h5", "b.h5"):
        shutil.copy(simulated_file, folder / name)
    (folder / "bad.h5").write_text("index,label\n")
    return folder


def predict(trained, *arguments: object):
    return CliRunner().invoke(app, ["predict", str(trained.run.path), *map(str, arguments)])


def test_each_file_of_a_pattern_gets_an_output_and_a_bad_one_stops_no_other(trained, folder, tmp_path):
    out = tmp_path / "new" / "out"
    done = predict(trained, folder / "*.h5", "--output", f"{out}/", "--format", "jsonl")
    assert done.exit_code == 6
    assert f"1 of 3 files could not be predicted: {folder / 'bad.h5'}" in done.stderr
    assert "2 files predicted, 0 were there already, 1 failed" in done.stderr
    assert done.stderr.count("predicting with the weights of epoch") == 1  # one model for all
    assert sorted(os.listdir(out)) == ["a.jsonl", "b.jsonl"]
    assert len((out / "a.jsonl").read_text().splitlines()) == 96


def test_the_output_of_a_file_is_that_of_predicting_it_alone(trained, folder, tmp_path):
    assert predict(trained, folder / "a.h5", "--output", tmp_path).exit_code == 0  # a folder that exists needs no /
    assert predict(trained, folder / "a.h5", "--output", tmp_path / "alone.csv").exit_code == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


def test_finished_files_are_kept_unless_forced(trained, folder, tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    done = predict(trained, folder / "a.h5", folder / "b.h5", "--output", f"{tmp_path}/")
    assert done.exit_code == 0
    assert f"{tmp_path / 'a.csv'}: is there already, and was left as it is" in done.stderr
    assert (tmp_path / "a.csv").read_text() == "mine"
    before = (tmp_path / "b.csv").stat().st_ino
    assert predict(trained, folder / "a.h5", folder / "b.h5", "--output", f"{tmp_path}/", "--force").exit_code == 0
    assert (tmp_path / "a.csv").read_text().startswith("index,file,")
    assert (tmp_path / "b.csv").stat().st_ino != before


def test_two_files_of_one_stem_are_refused_before_any_work(trained, folder, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "a.h5", tmp_path / "more" / "a.h5")
    done = predict(trained, folder / "a.h5", tmp_path / "more" / "a.h5", "--output", f"{tmp_path}/out/")
    assert done.exit_code == 2
    assert "would both be predicted into" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["a.h5", "--output", "p.csv", "--format", "csv"], 2, "--format goes with a folder"),
        (["a.h5", "--output", "out/", "--format", "xlsx"], 2, "xlsx"),
        (["none-*.h5", "--output", "out/"], 6, "no file matches this pattern"),
        (["a.h5", "a.h5", "--output", "out/"], 6, "is given twice"),
        (["a.h5", "--output", "bad.h5/out/"], 9, "bad.h5/out"),
        (["a.h5", "--output", "out.csv", "--calibrated"], 8, "train with --set train.calibrate=true"),
        (["a.h5", "--output", "out/", "--calibrated"], 8, "train with --set train.calibrate=true"),
    ],
)
def test_wrong_use_is_told_and_writes_nothing(trained, folder, tmp_path, monkeypatch, arguments, code, text):
    for name in ("a.h5", "bad.h5"):
        shutil.copy(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    done = predict(trained, *arguments)
    assert done.exit_code == code
    assert text in done.stderr.replace("\n", "")
    assert [name for name in os.listdir(tmp_path) if name not in ("a.h5", "bad.h5")] in ([], ["out"])
    assert list(tmp_path.glob("out/*")) == []

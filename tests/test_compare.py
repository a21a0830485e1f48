"""`pointcnn compare`: a winner only on the same rows and only where it can be told, and a reason wherever not."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, SMOKE
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app
from pointcnn_cli.config.changes import store_config
from pointcnn_cli.config.load import dump_config, load_config, load_resolved
from pointcnn_cli.evaluation import evaluate_files
from pointcnn_cli.metrics import compute_metrics
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.splits.files import read_run_split
from pointcnn_cli.tables import read_predictions, write_predictions


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


def words(text: str) -> str:
    return " ".join(text.split())


def compare(*arguments: object) -> dict:
    return json.loads(run(*arguments, "--json").stdout)


def set_config(run: RunDir, **sections) -> None:
    """Make the run one of another config, in its file and in its manifest."""
    config = load_resolved(run.config).model_copy(update=sections)
    run.config.write_text(dump_config(config))
    run.update_manifest(config=store_config(config))


def set_answers(run: RunDir, right, keep=slice(None), groups: list[str] | None = None) -> None:
    """Give the run answers of which so many are right (a mask over its rows), and their score."""
    classes = tuple(run.read_manifest()["classes"])
    old = read_predictions(run.predictions, classes)
    labels = np.array([classes.index(name) for name in old.labels])[keep]
    answers = np.where(right(len(labels)), labels, (labels + 1) % len(classes))
    probabilities = (0.9 * np.eye(len(classes)) + 0.1 / len(classes))[answers].astype(np.float32)
    names = np.array((groups or old.groups)[: len(old.numbers)], dtype=object)[keep]
    codes = np.unique(names, return_inverse=True)[1]
    new = replace(
        old, numbers=old.numbers[keep], files=old.files[: len(labels)], probabilities=probabilities,
        labels=[classes[i] for i in labels], groups=list(names),
    )  # fmt: skip
    write_predictions(run.predictions, classes, [new], force=True)
    known = np.arange(len(classes))
    run.write_metrics(
        compute_metrics(labels, probabilities, codes, classes, known, epoch=1, selected_on_these_rows=False)
    )


@pytest.fixture
def pair(trained, tmp_path) -> tuple[RunDir, RunDir]:
    """The shared run, and a copy of it that a test may change."""
    shutil.copytree(trained.run.path, tmp_path / "other")
    return trained.run, RunDir.open(tmp_path / "other")


@pytest.fixture
def copies(trained, tmp_path) -> list[RunDir]:
    """Three copies whose rows stand in twelve groups."""
    made = []
    for name in ("first", "second", "third"):
        shutil.copytree(trained.run.path, tmp_path / name)
        made.append(RunDir.open(tmp_path / name))
    return made


GROUPS = [f"person {i % 12}" for i in range(1000)]


def first(share):
    return lambda count: np.arange(count) < share * count


def test_the_better_run_is_named_with_how_much_and_how_sure(copies):
    count = copies[0].read_metrics()["n"]
    set_answers(copies[0], first(0.0), groups=GROUPS)
    set_answers(copies[1], first(1.0), groups=GROUPS)
    found = compare(copies[0].path, copies[1].path)["comparisons"][0]
    assert (found["verdict"], found["accuracy_difference"], found["n"]) == ("better", 1.0, count)
    assert (found["n_groups"], found["test"], found["p"]) == (12, "sign_flip_exact", 2 / 2**12)
    assert found["sentence"].startswith(f"B ({copies[1].path}) is better than A ({copies[0].path}) by 1.000")
    turned = compare(copies[1].path, copies[0].path)["comparisons"][0]
    assert turned["verdict"] == "worse"
    assert turned["sentence"].startswith(f"A ({copies[1].path}) is better than B ({copies[0].path}) by 1.000")
    text = words(run(copies[0].path, copies[1].path).stdout)
    assert "is better than A" in text
    assert "p = 0.00049" in text


def test_two_seeds_cannot_be_told_apart_and_the_seed_is_what_differs(pair):
    mine, other = pair
    set_config(other, seed=7)
    document = compare(mine.path, other.path)
    assert document["settings"] == {"seed": [0, 7]}
    found = document["comparisons"][0]
    assert (found["verdict"], found["accuracy_difference"], found["p"]) == ("not_told_apart", 0.0, 1.0)
    assert found["interval"][0] < 0 < found["interval"][1]
    assert document["next"] is None
    text = words(run(mine.path, other.path).stdout)
    assert "cannot be told apart" in text
    assert "is better" not in text
    assert document["runs"][0]["metrics"] == mine.read_metrics()


def test_runs_of_one_config_are_said_to_differ_in_nothing(pair):
    text = run(*(one.path for one in pair)).stdout
    assert "no setting differs" in text
    assert "settings that differ" not in text


def test_few_groups_are_said_to_be_too_few(pair):
    mine, other = pair
    set_answers(other, first(1.0))
    found = compare(mine.path, other.path)["comparisons"][0]
    assert found["verdict"] == "not_told_apart"
    assert found["smallest_p"] == 2.0 ** (1 - found["n_groups"]) > 0.05
    assert "no difference could be shown: score at least 6 groups" in found["sentence"]


def test_more_than_two_are_held_to_the_first_and_p_is_adjusted(copies):
    for copy, share in zip(copies, (0.2, 0.5, 1.0), strict=True):
        set_answers(copy, first(share), groups=GROUPS)
    document = compare(*(copy.path for copy in copies))
    second, third = document["comparisons"]
    assert {found["baseline"] for found in (second, third)} == {str(copies[0].path)}
    assert third["p_adjusted"] == pytest.approx(2 * third["p"])
    assert second["p_adjusted"] == pytest.approx(max(second["p"], third["p_adjusted"]))
    assert "when adjusted for 2 comparisons" in third["sentence"]
    assert document["adjustment"] == "holm"


def test_other_rows_have_no_winner_but_a_reason_and_a_command(pair):
    mine, other = pair
    set_answers(other, first(1.0), keep=slice(3, None))
    document = compare(mine.path, other.path)
    found = document["comparisons"][0]
    assert (found["verdict"], found["p"], found["interval"]) == ("not_compared", None, None)
    n = mine.read_metrics()["n"]
    assert f"other rows of the same data: {n - 3} and {n} rows, of which they share {n - 3}" in found["reason"]
    assert document["next"] == f"pointcnn compare {mine.path} {other.path} --data FILE"
    text = words(run(mine.path, other.path).stdout)
    assert "No winner is named" in text
    assert "better" not in text
    assert document["next"] in text


@pytest.mark.parametrize("key", ["sampled_rows_sha256", "rows"])
def test_other_data_have_no_winner_though_the_rows_have_equal_numbers(pair, key):
    mine, other = pair
    data = other.read_manifest()["data"]
    other.update_manifest(data={**data, key: 5 if key == "rows" else "0"})
    found = compare(mine.path, other.path)["comparisons"][0]
    assert found["verdict"] == "not_compared"
    assert "their data differ" in found["reason"]


def test_an_unfinished_run_is_shown_as_one(pair):
    mine, other = pair
    other.metrics.unlink()
    other.update_manifest(status="interrupted")
    document = compare(mine.path, other.path)
    assert document["runs"][1]["metrics"] is None
    assert f"pointcnn train --resume {other.path}" in document["runs"][1]["problem"]
    assert document["comparisons"][0]["verdict"] == "not_compared"
    assert "NO SCORE" in run(mine.path, other.path).stdout
    assert compare(other.path, mine.path)["comparisons"][0]["reason"] == document["comparisons"][0]["reason"]
    other.update_manifest(status="finished")
    assert "has no metrics.json" in compare(mine.path, other.path)["comparisons"][0]["reason"]


def damage_score(other: RunDir) -> None:
    other.write_metrics({**other.read_metrics(), "accuracy": 0.987})


def cut_predictions(other: RunDir) -> None:
    other.predictions.write_bytes(other.predictions.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [damage_score, cut_predictions, lambda other: other.predictions.unlink()])
def test_a_damaged_run_is_refused(pair, damage):
    mine, other = pair
    damage(other)
    assert str(other.path) in words(run(mine.path, other.path, code=8).stderr)


def test_what_is_no_comparison_is_refused(pair, tmp_path):
    mine, other = pair
    assert "two runs" in run(mine.path, code=2).stderr
    assert "named twice" in run(mine.path, other.path, mine.path / ".", code=2).stderr
    assert "no such run" in run(mine.path, tmp_path / "none", code=8).stderr
    assert "--data" in run(mine.path, other.path, "--set", "data.labels=x", code=2).stderr
    assert "no such" in run(mine.path, other.path, "--data", tmp_path / "none.h5", code=6).stderr


def test_data_scores_all_runs_on_one_file_and_warns_of_rows_they_know(pair, simulated_file, tmp_path):
    mine, other = pair
    weights, epoch = other.read_weights(other.best)
    other.write_weights(other.best, {name: array * 0.5 for name, array in weights.items()}, epoch)
    document = compare(mine.path, other.path, "--data", simulated_file)
    first_run, second_run = document["runs"]
    assert first_run["metrics"] == evaluate_files(mine.path, [simulated_file], (), Reporter())
    assert first_run["metrics"]["accuracy"] != second_run["metrics"]["accuracy"]
    found = document["comparisons"][0]
    assert found["n"] == first_run["metrics"]["n"] == 96
    assert found["accuracy_difference"] == pytest.approx(
        second_run["metrics"]["accuracy"] - first_run["metrics"]["accuracy"]
    )
    trained = len(read_run_split(mine.split, 96).train)
    assert any(f"was trained on {trained} of these 96 rows" in warning for warning in document["warnings"])
    assert [one["trained_on_these_rows"] for one in document["runs"]] == [True, True]
    assert document["files"] == [str(simulated_file)]


def test_data_with_a_class_that_a_run_does_not_know_are_refused(pair, simulated_file, tmp_path):
    import h5py

    path = tmp_path / "renamed.h5"
    shutil.copy(simulated_file, path)
    with h5py.File(path, "a") as file:
        names = list(file["label"].attrs["classes"])
        file["label"].attrs["classes"] = [*names[:-1], "handstand"]
    text = words(run(*(one.path for one in pair), "--data", path, code=6).stderr)
    assert "handstand" in text
    assert str(pair[0].path) in text


def test_rows_that_chose_the_weights_are_told(pair):
    mine, other = pair
    document = compare(mine.path, other.path)
    assert any("A, B were chosen on the rows scored here" in warning for warning in document["warnings"])
    set_answers(other, first(1.0))
    assert any("those of B were not" in warning for warning in compare(mine.path, other.path)["warnings"])


def test_every_line_can_be_read_in_a_narrow_terminal(pair, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    text = run(pair[0].path, pair[1].path).stdout
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines() if str(pair[1].path.parent) not in line) <= 60


def test_settings_of_unlike_configs_stand_side_by_side(pair):
    mine, other = pair
    set_config(other, augment=None, split=load_config(SMOKE, [*SMALL, "split.seed=3"]).split)
    settings = compare(mine.path, other.path)["settings"]
    assert settings["split.seed"] == [0, 3]
    assert settings["augment.frame_roll"][1] is None
    assert "name" not in settings
    assert "train.epochs" not in settings


def test_the_page_says_the_same_and_needs_nothing_else(copies, tmp_path):
    page = tmp_path / "comparison.html"
    for copy, share in zip(copies, (0.2, 0.5, 1.0), strict=True):
        set_answers(copy, first(share), groups=GROUPS)
    set_answers(copies[1], first(1.0), keep=slice(2, None))
    paths = [copy.path for copy in copies]
    run(*paths, "--html", page)
    text = html.unescape(page.read_text())
    for pair in compare(*paths)["comparisons"]:
        assert pair["sentence"] in text
    assert text.count("<svg") == 2  # accuracies, and the one difference
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](?!#)""", text)
    assert all(str(path) in text for path in paths)
    before = page.read_bytes()
    assert "exists already" in run(*paths, "--html", page, code=9).stderr
    assert page.read_bytes() == before
    run(*paths, "--html", page, "--force")
    assert page.read_bytes() == before


def test_names_in_the_page_are_text_not_markup(pair, tmp_path):
    evil = tmp_path / "<img src=x onerror=alert(1)>"
    pair[1].path.rename(evil)
    page = tmp_path / "page.html"
    run(pair[0].path, evil, "--html", page)
    assert "<img" not in page.read_text()
    assert "&lt;img" in page.read_text()


def test_predictions_survive_the_round_trip(trained, tmp_path):
    classes = tuple(trained.run.read_manifest()["classes"])
    found = read_predictions(trained.run.predictions, classes)
    path = Path(tmp_path / "again.csv")
    write_predictions(path, classes, [found])
    assert path.read_bytes() == trained.run.predictions.read_bytes()

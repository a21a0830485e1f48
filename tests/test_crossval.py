"""What a cross-validation settles and refuses before it trains anything, and the scores that it computes."""

import os
import re
import shutil

import h5py
import numpy as np
import pytest
from conftest import SMOKE
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app
from pointcnn_cli.config.load import load_config, load_resolved
from pointcnn_cli.crossval.plan import Request, choose_members, open_cv
from pointcnn_cli.crossval.scores import MemberRows, compute_cv_metrics
from pointcnn_cli.crossval.wording import list_doubts
from pointcnn_cli.crossval.workers import read_last_message
from pointcnn_cli.cvdir import CvDir, Member, build_member_config, list_members, read_config
from pointcnn_cli.errors import ConfigError, DataError, OutputError, RunError
from pointcnn_cli.metrics import compute_metrics
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.splits import build_split

PEOPLE = {"windows": 48, "subjects": 8, "points": 4, "frames": 4, "stride": 4}
ROWS = [f"data.simulate.{key}={value}" for key, value in PEOPLE.items()]


class Listener(Reporter):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def ask(*settings: str, folds: int | None = 4, seeds: int = 2, jobs: int = 1) -> Request:
    rows = ["train.epochs=4"]
    rows += [] if any(setting.startswith("data.path") for setting in settings) else ROWS
    return Request(load_config(SMOKE, [*rows, *settings]), folds, seeds, jobs, ["pointcnn", "cv"])


# --- what is to be trained ---


def test_members_are_the_folds_of_one_split_with_every_seed(tmp_path):
    listener = Listener()
    cv = open_cv(ask("seed=7", "split.seed=3"), tmp_path / "cv", listener)
    manifest = cv.read_manifest()
    members = list_members(manifest)
    assert [member.name for member in members[:5]] == [*(f"fold-{k}-seed-7" for k in range(4)), "fold-0-seed-8"]
    configs = [build_member_config(read_config(cv, manifest), member) for member in members]
    assert {(c.seed, c.split.fold) for c in configs} == {(s, k) for s in (7, 8) for k in range(4)}
    assert {(c.split.seed, c.split.validation_fraction) for c in configs} == {(3, 0.25)}
    assert load_resolved(cv.config).split.validation_fraction == 0.25
    assert "4 folds of 12 to 12 rows (stratified_group): every row is in one" in listener.said
    assert sorted(os.listdir(cv.path)) == ["config.yaml", "cv.json", "logs", "runs"]


def test_folds_together_hold_every_row_but_those_kept_aside_once(tmp_path):
    from pointcnn_cli.sources import open_source

    listener = Listener()
    cv = open_cv(ask("split.test_fraction=0.25", folds=3), tmp_path / "cv", listener)
    config = read_config(cv, cv.read_manifest())
    with open_source(config.data) as source:
        splits = [build_split(source.index, build_member_config(config, Member(0, k)).split) for k in range(3)]
    held = np.concatenate([split.validation for split in splits])
    np.testing.assert_array_equal(np.sort(np.concatenate([held, splits[0].test])), np.arange(48))
    assert f"split.test_fraction keeps {len(splits[0].test)} rows aside" in " ".join(listener.said)


def test_without_folds_the_config_says_how_many(tmp_path):
    cv = open_cv(ask("split.validation_fraction=0.5", folds=None), tmp_path / "cv", Reporter())
    assert cv.read_manifest()["folds"] == 2


def test_jobs_share_the_cpus_and_a_later_start_keeps_the_threads(tmp_path, monkeypatch):
    from pointcnn_cli.crossval import plan

    monkeypatch.setattr(plan, "count_cpus", lambda: 8)
    cv = open_cv(ask(jobs=3), tmp_path / "cv", Reporter())
    assert cv.read_manifest()["threads"] == 2
    again = open_cv(ask(jobs=1), tmp_path / "cv", Reporter())
    assert read_config(again, again.read_manifest()).train.threads == 2


@pytest.mark.parametrize(("parts", "count"), [(1, 10), (3, 10), (12, 10)])
def test_shards_part_the_members(parts, count):
    manifest = {"folds": 5, "seeds": [0, 1]}
    chosen = [choose_members(manifest, (part, parts)) for part in range(1, parts + 1)]
    assert sorted(member for part in chosen for member in part) == sorted(list_members(manifest))
    assert max(map(len, chosen)) - min(map(len, chosen)) <= 1


def test_a_member_is_claimed_by_one_at_a_time(tmp_path):
    cv = open_cv(ask(), tmp_path / "cv", Reporter())
    first = cv.claim(Member(0, 0))
    assert cv.claim(Member(0, 0)) is None
    other = cv.claim(Member(0, 1))
    other.close()
    first.close()
    again = cv.claim(Member(0, 0))
    again.close()


# --- what is refused ---


def refuse(kind: type[Exception], text: str, path, *settings: str, **asked: int) -> None:
    before = sorted(os.listdir(path.parent))
    with pytest.raises(kind, match=text):
        open_cv(ask(*settings, **asked), path, Reporter())
    assert sorted(os.listdir(path.parent)) == before


def test_a_split_without_folds_is_refused(tmp_path):
    refuse(ConfigError, "'tail', which makes one split and no folds", tmp_path / "cv", "split.strategy=tail")


def test_more_folds_than_groups_are_refused_with_the_number_that_can_be_had(tmp_path):
    refuse(DataError, "9 folds were asked for, and these data make 8", tmp_path / "cv", folds=9)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "cv").mkdir()
    refuse(OutputError, "exists already", tmp_path / "cv")


@pytest.mark.parametrize(
    ("settings", "asked", "text"),
    [
        (("train.epochs=9",), {}, r"train.epochs was 4, is 9"),
        ((), {"folds": 2}, r"--folds was 4, is 2"),
        ((), {"seeds": 1}, r"--seeds was 2, is 1"),
        (("split.seed=1", "model.dropout=0.1"), {}, r"split.seed was 0, is 1; model.dropout was 0.5, is 0.1"),
    ],
)
def test_other_settings_do_not_go_on_in_the_same_directory(tmp_path, settings, asked, text):
    open_cv(ask(), tmp_path / "cv", Reporter())
    refuse(RunError, text, tmp_path / "cv", *settings, **asked)


def test_other_data_do_not_go_on_in_the_same_directory(tmp_path, simulated_file):
    path = tmp_path / "data.h5"
    shutil.copy(simulated_file, path)
    open_cv(ask(f"data.path={path}"), tmp_path / "cv", Reporter())
    with h5py.File(path, "r+") as file:
        file["channel_1"][0] += 1
    refuse(DataError, "not the data of the run: sampled_rows_sha256 differ", tmp_path / "cv", f"data.path={path}")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["cv"], 2, "no config was given"),
        (["cv", str(SMOKE)], 2, "--output is missing"),
        (["cv", str(SMOKE), "--output", "OUT", "--shard", "3/2"], 2, "--shard 3/2: not a part"),
        (["cv", str(SMOKE), "--output", "OUT", "--shard", "0/2"], 2, "--shard 0/2: not a part"),
        (["cv", str(SMOKE), "--output", "OUT", "--shard", "one"], 2, "--shard one: not a part"),
        (["cv", "--collect", "OUT", "--output", "OUT"], 2, "--collect needs nothing else"),
        (["cv", "--collect", "OUT"], 8, "no such directory"),
        (["cv", str(SMOKE), "--output", "OUT", "--folds", "1"], 2, "--folds"),
        (["cv", "OUT", "--output", "OUT"], 4, "OUT"),
    ],
)
def test_wrong_use_is_told_and_leaves_nothing(tmp_path, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code
    assert text in done.stderr
    assert os.listdir(tmp_path) == []


def test_collecting_before_anything_is_finished_is_an_error(tmp_path):
    cv = open_cv(ask(), tmp_path / "cv", Reporter())
    done = CliRunner().invoke(app, ["cv", "--collect", str(cv.path)])
    assert done.exit_code == 8
    assert "none of its 8 members is finished" in done.stderr
    for command in (["evaluate", str(cv.path)], ["predict", str(cv.path), "x.h5", "-o", "-"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 8
        assert "none of its 8 members is finished" in done.stderr
    done = CliRunner().invoke(app, ["report", str(cv.path)])
    assert done.exit_code == 8
    assert "pointcnn cv --collect DIR" in done.stderr
    assert CliRunner().invoke(app, ["report", str(cv.path), "--plots", "p"]).exit_code == 2


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ("epoch 1\nError: the loss\nis not finite\nTry: less\n", "the loss is not finite Try: less"),
        ("Error: of an earlier start\nepoch 1\n", "epoch 1"),
        ("", "it said nothing"),
    ],
)
def test_the_last_message_of_a_member_is_found_in_its_log(tmp_path, log, text):
    path = tmp_path / "log"
    path.write_text(log)
    begins = log.index("epoch") if log.startswith("Error") else 0
    assert read_last_message(path, begins) == text


# --- scores ---


def make_member(fold: int, seed: int, rng: np.random.Generator) -> MemberRows:
    numbers = np.arange(fold * 10, fold * 10 + 10)
    labels, groups = numbers % 3, [f"person {i // 5}" for i in numbers]
    p = rng.dirichlet(np.ones(3), 10).astype(np.float32)
    metrics = compute_metrics(
        labels, p, numbers // 5, ("a", "b", "c"), [0, 1, 2], epoch=4, selected_on_these_rows=False
    )
    return MemberRows(Member(seed, fold), metrics, frozenset((0, 1, 2)), numbers, p, labels, groups)


def test_spreads_are_over_folds_over_seeds_and_within_folds():
    rng = np.random.default_rng(0)
    members = [make_member(fold, seed, rng) for seed in (5, 6) for fold in range(3)]
    found = compute_cv_metrics(members, ("a", "b", "c"), 3, [5, 6], [])["spread"]["accuracy"]
    table = np.array([one.metrics["accuracy"] for one in members]).reshape(2, 3)  # (seeds, folds)
    assert found["mean"] == pytest.approx(table.mean())
    assert found["sd_over_folds"] == pytest.approx(table.mean(axis=0).std(ddof=1))
    assert found["sd_over_seeds"] == pytest.approx(table.mean(axis=1).std(ddof=1))
    assert found["sd_of_seeds_within_folds"] == pytest.approx(np.sqrt(table.var(axis=0, ddof=1).mean()))
    assert (found["min"], found["max"]) == (table.min(), table.max())


def test_a_fold_that_one_seed_lacks_is_left_out_of_the_ensemble_only():
    rng = np.random.default_rng(1)
    members = [make_member(fold, seed, rng) for seed in (5, 6) for fold in range(3)][:-1]
    found = compute_cv_metrics(members, ("a", "b", "c"), 3, [5, 6], ["fold-2-seed-6"])
    assert {seed: one["n"] for seed, one in found["out_of_fold"]["per_seed"].items()} == {"5": 30, "6": 20}
    assert found["out_of_fold"]["ensemble"]["n"] == 20
    assert found["missing"] == ["fold-2-seed-6"]
    assert [group["n"] for group in found["per_group"]] == [5] * 4


def test_one_seed_and_one_fold_have_no_spread_and_no_gain():
    found = compute_cv_metrics([make_member(0, 0, np.random.default_rng(2))], ("a", "b", "c"), 3, [0], [])
    spread = found["spread"]["accuracy"]
    assert (spread["sd_over_folds"], spread["sd_over_seeds"], spread["sd_of_seeds_within_folds"]) == (None,) * 3
    assert found["out_of_fold"]["ensemble_gain"] is None
    assert found["out_of_fold"]["ensemble"]["accuracy"] == found["members"][0]["accuracy"]


def test_a_class_that_the_run_of_a_row_never_trained_lowers_the_ceiling():
    rng = np.random.default_rng(3)
    whole, lacking = make_member(0, 0, rng), make_member(1, 0, rng)
    lacking = MemberRows(**{**vars(lacking), "trained": frozenset((0, 1))})
    found = compute_cv_metrics([whole, lacking], ("a", "b", "c"), 2, [0], [])["out_of_fold"]["ensemble"]
    assert found["ceiling_accuracy"] == 1 - np.mean(np.arange(20) % 3 == 2, where=np.arange(20) >= 10) / 2


def test_cv_json_that_was_edited_is_refused(tmp_path):
    cv = open_cv(ask(), tmp_path / "cv", Reporter())
    cv.manifest.write_text(cv.manifest.read_text().replace('"folds": 4', '"folds": 3'))
    with pytest.raises(RunError, match="does not match its digest"):
        CvDir.open(cv.path).read_manifest()


# --- the page ---


def build_page_of(tmp_path, metrics: dict) -> str:
    cv = open_cv(ask(folds=2), tmp_path / "cv", Reporter())
    cv.write_metrics(metrics)
    done = CliRunner().invoke(app, ["report", str(cv.path)])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{cv.report}\n"
    return cv.report.read_text()


def test_the_page_shows_each_run_the_spread_and_what_averaging_gains(tmp_path):
    rng = np.random.default_rng(5)
    members = [make_member(fold, seed, rng) for seed in (0, 1) for fold in range(2)]
    metrics = compute_cv_metrics(members, ("a", "b", "<c>"), 2, [0, 1], [])
    page = build_page_of(tmp_path, metrics)
    pooled = metrics["out_of_fold"]
    assert f"Right on {pooled['averaged']['accuracy']:.1%} of 20 rows (mean over 2 seeds; 95 % interval" in page
    assert "each answered by runs that did not train on it" in page
    for member in metrics["members"]:
        assert f"fold {member['fold']}, seed {member['seed']}: {member['accuracy']:.3f}" in page
    assert f"{metrics['spread']['accuracy']['sd_over_folds']:.3f}" in page
    assert f"{pooled['ensemble_gain']['accuracy_gain']:+.4f} against the mean of its 2 members" in page
    assert "&lt;c&gt;" in page
    assert "<c>" not in page
    assert all(f"person {i}" in page for i in range(4))
    assert re.findall(r"https?://(?!www\.w3\.org/)", page) == []  # nothing comes from elsewhere


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"missing": ["fold-1-seed-0"]}, "Not finished: fold-1-seed-0; the scores are of the others."),
        ({"n_groups": None}, "The data name no groups"),
        ({"selected_on_these_rows": True}, "The weights of each run were chosen on the rows"),
        ({"ceiling_accuracy": 0.9}, "Some rows are of classes"),
        ({"chance_accuracy": 0.99}, "The interval holds the accuracy of the best constant answer."),
    ],
)
def test_what_makes_the_scores_doubtful_is_said(changes, doubt):
    pooled = {"n_groups": 9, "selected_on_these_rows": False, "ceiling_accuracy": 1.0, "chance_accuracy": 0.2}
    pooled |= {key: value for key, value in changes.items() if key != "missing"}
    metrics = {"missing": changes.get("missing", []), "out_of_fold": {"averaged": {"accuracy_ci": [0.5, 0.7]}}}
    metrics["out_of_fold"]["ensemble"] = pooled
    doubts = list_doubts(metrics)
    assert len(doubts) == 1
    assert doubts[0].startswith(doubt)

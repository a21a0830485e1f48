"""Cross-validation as real processes: shards that share a directory, kills, signals, a member that fails; and the
ensemble of what they leave."""

import csv
import json
import re
import shutil
import signal

import h5py
import numpy as np
import pytest
from processes import SMOKE, end, pointcnn, settings, start, wait_for

from pointcnn_cli import comparison, crossval, ensemble, evaluation, training
from pointcnn_cli.averaging import compute_mutual_information
from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.cvdir import CvDir, Member, build_member_config, read_config
from pointcnn_cli.hdf5.writing import write_samples
from pointcnn_cli.prediction import load_run, predict_files
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.simulate import simulate_samples

pytestmark = pytest.mark.slow

PEOPLE = {"windows": 48, "subjects": 8, "points": 8, "frames": 8, "stride": 4}
SETTINGS = settings(
    **{f"data__simulate__{key}": value for key, value in PEOPLE.items()}, train__epochs=2, train__calibrate="true"
)
OPTIONS = ("--folds", 2, "--seeds", 2, "--jobs", 1, "--set", "train.threads=1", *SETTINGS)
MEMBERS = [Member(seed, fold) for seed in (0, 1) for fold in (0, 1)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two folds of the first of two seeds, trained by two processes started together with --shard: (path, words)."""
    path = tmp_path_factory.mktemp("cv") / "cv"
    both = [start("cv", SMOKE, "--output", path, "--shard", f"{part}/4", *OPTIONS) for part in (1, 2)]
    ended = [end(process) for process in both]
    assert [code for code, _ in ended] == [0, 0], ended
    return path, [said for _, said in ended]


@pytest.fixture(scope="module")
def finished(shards, trained):
    """The directory of the whole; tests must not change it. The second seed is trained here, to save two starts.

    `trained` comes first: TensorFlow would else start in this process with the one thread of these runs, and other
    tests compare its bits with those of processes that have all.
    """
    cv = CvDir.open(shards[0])
    config = read_config(cv, cv.read_manifest())
    for member in MEMBERS[2:]:
        training.train(build_member_config(config, member), cv.run(member).path, ["pointcnn", "train"], Reporter())
    assert not cv.metrics.exists()
    assert crossval.collect_directory(cv.path, Reporter()).metrics == cv.read_metrics()
    return cv


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A file of people whom no member has seen."""
    path = tmp_path_factory.mktemp("data") / "others.h5"
    write_samples(path, simulate_samples(SimulateConfig(**PEOPLE | {"windows": 24, "seed": 9})))
    return path


def read_rows(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Listener(Reporter):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


# --- the directory ---


def test_two_shards_started_together_share_the_work_without_overlap(shards, finished):
    _, words = shards
    started = [set(re.findall(r"(fold-\d-seed-\d): started", said)) for said in words]
    assert started == [{MEMBERS[0].name}, {MEMBERS[1].name}]
    assert sum("going on with" in said for said in words) == 1  # one made the directory, the other found it
    assert all("2 of other parts are not finished" in said or "3 of other" in said for said in words)


def test_the_directory_holds_exactly_the_promised_files(finished):
    files = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    names = ("config.yaml", "manifest.json", "split.json", "history.csv", "predictions.csv", "metrics.json")
    states = ("best", "last", "state-00001", "state-00002")
    assert {name for name in files if "/" not in name} == {
        *("cv.json", "config.yaml", "predictions.csv", "metrics.json", "report.html")
    }
    for member in MEMBERS[:2]:
        ours = {name.removeprefix(f"runs/{member.name}/") for name in files if name.startswith(f"runs/{member.name}/")}
        assert ours == {*names, "calibration.json", "report.html", *(f"checkpoints/{s}.safetensors" for s in states)}
    assert {name for name in files if name.startswith("logs/")} == {f"logs/{one.name}.log" for one in MEMBERS[:2]}


def test_every_row_is_predicted_once_by_each_seed_in_a_run_that_did_not_train_on_it(finished):
    rows = read_rows(finished.predictions)
    assert list(rows[0])[-4:] == ["label", "group", "fold", "seed"]
    assert [(int(row["seed"]), int(row["index"])) for row in rows] == [(s, i) for s in (0, 1) for i in range(48)]
    for row in rows:
        run = finished.run(Member(int(row["seed"]), int(row["fold"])))
        split = json.loads(run.split.read_text())
        assert int(row["index"]) in split["validation"]
        assert int(row["index"]) not in split["train"]
    trained = {(row["group"], row["fold"]) for row in rows}
    assert len(trained) == len({group for group, _ in trained})  # no person in two folds


def test_members_record_the_threads_that_they_were_trained_with(finished):
    assert finished.read_manifest()["threads"] == 1
    for member in MEMBERS[:2]:
        assert finished.run(member).read_manifest()["environment"]["threads"]["intra_op"] == 1


def test_the_scores_are_those_of_the_predictions(finished):
    metrics, rows = finished.read_metrics(), read_rows(finished.predictions)
    by_seed = {s: np.mean([r["predicted"] == r["label"] for r in rows if r["seed"] == s]) for s in ("0", "1")}
    pooled = metrics["out_of_fold"]
    assert {s: one["accuracy"] for s, one in pooled["per_seed"].items()} == pytest.approx(by_seed)
    assert pooled["averaged"]["accuracy"] == pytest.approx(np.mean(list(by_seed.values())))
    columns = [name for name in rows[0] if name.startswith("p_")]
    p = np.array([[float(row[name]) for name in columns] for row in rows]).reshape(2, 48, -1).mean(axis=0)
    right = [columns[k] == f"p_{row['label']}" for k, row in zip(p.argmax(axis=1), rows[:48], strict=True)]
    assert pooled["ensemble"]["accuracy"] == pytest.approx(np.mean(right))
    assert pooled["ensemble_gain"]["accuracy_gain"] == pytest.approx(np.mean(right) - pooled["averaged"]["accuracy"])
    assert metrics["missing"] == []
    own = [finished.run(Member(one["seed"], one["fold"])).read_metrics() for one in metrics["members"]]
    assert [one["accuracy"] for one in metrics["members"]] == [one["accuracy"] for one in own]
    assert metrics["spread"]["accuracy"]["mean"] == pytest.approx(np.mean([one["accuracy"] for one in own]))
    assert sum(group["n"] for group in metrics["per_group"]) == 48


# --- interruptions ---


def test_what_is_terminated_killed_and_finds_a_damaged_run_ends_like_an_uninterrupted_one(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "cv")
    cv, member, broken = CvDir.open(tmp_path / "cv"), MEMBERS[1], MEMBERS[0]
    shutil.rmtree(cv.run(member).path)  # as if it had never been begun
    for path in (cv.log(member), cv.predictions, cv.metrics):
        path.unlink()
    command = ("cv", SMOKE, "--output", cv.path, *OPTIONS)

    first = start(*command)
    wait_for(lambda: cv.log(member).exists() and cv.log(member).stat().st_size, first)
    first.send_signal(signal.SIGTERM)
    code, said = end(first)
    assert code == 143
    assert "the same command goes on: pointcnn cv" in said
    assert not cv.metrics.exists()
    cv.claim(member).close()  # no process has it any more

    second = start(*command)
    wait_for(lambda: "each followed by" in cv.log(member).read_text(), second)  # said before the first step
    second.kill()
    end(second)
    run = cv.run(broken)
    run.update_manifest(status="interrupted")
    for state in run.checkpoints.glob("state-*"):
        state.write_bytes(b"damaged")
    third = pointcnn(*command)  # waits for what the second left running, if it still does
    check_failure(third, cv, broken, member)

    shutil.rmtree(run.path)
    shutil.copytree(finished.run(broken).path, run.path)
    assert pointcnn("cv", "--collect", cv.path).returncode == 0
    assert cv.predictions.read_bytes() == finished.predictions.read_bytes()
    assert cv.read_metrics() == finished.read_metrics()


def check_failure(done, cv: CvDir, broken: Member, member: Member) -> None:
    """The broken member is named, the other was trained, after the kernel had asked the orphan to stop."""
    assert done.returncode == 7
    assert "1 of 4 members could not be trained" in done.stderr
    assert f"{broken.name}: exit code 8: no state of this run is whole" in done.stderr
    assert f"(log: {cv.log(broken)})" in done.stderr
    assert done.stderr.count("finished already") == 2
    assert "Stopped: terminated; all finished epochs are saved" in cv.log(member).read_text()
    assert cv.is_finished(member)
    metrics = cv.read_metrics()
    assert metrics["missing"] == [broken.name]
    assert sum(one["n"] for one in metrics["out_of_fold"]["per_seed"].values()) == 48 + 24
    listener = Listener()
    assert len(ensemble.load_ensemble(cv.path, listener).members) == 3
    assert f"1 of 4 members are not finished and are left out: {broken.name}" in listener.warnings[0]


# --- the ensemble ---


def read_probabilities(blocks) -> np.ndarray:
    return np.concatenate([block.probabilities for block in blocks])


def test_predictions_of_the_directory_are_the_average_of_its_members_with_their_disagreement(
    finished, others, tmp_path
):
    loaded = ensemble.load_trained(finished.path, Reporter())
    blocks = list(predict_files(loaded, [others], [], Reporter()))
    alone = [
        read_probabilities(predict_files(load_run(finished.run(one).path, Reporter()), [others], [], Reporter()))
        for one in MEMBERS
    ]
    np.testing.assert_allclose(read_probabilities(blocks), np.mean(alone, axis=0), atol=1e-6)
    found = np.concatenate([block.columns["mutual_information"] for block in blocks])
    np.testing.assert_allclose(found, compute_mutual_information(np.stack(alone)), atol=1e-6)
    assert (found > 0).any()


@pytest.mark.parametrize("suffix", ["csv", "h5"])
def test_the_disagreement_is_the_last_column(finished, others, tmp_path, suffix):
    from pointcnn_cli.tables import write_predictions

    loaded = ensemble.load_trained(finished.path, Reporter())
    target = tmp_path / f"p.{suffix}"
    write_predictions(target, loaded.classes, predict_files(loaded, [others], [], Reporter()))
    if suffix == "csv":
        assert list(read_rows(target)[0])[-1] == "mutual_information"
    else:
        with h5py.File(target) as file:
            assert file["mutual_information"].shape == (24,)


def test_evaluate_scores_each_row_by_the_members_that_did_not_see_it(finished):
    scored = evaluation.evaluate_part(finished.path, "validation", [], Reporter())
    wanted = finished.read_metrics()["out_of_fold"]["ensemble"]
    assert scored["n"] == 48
    assert scored["accuracy"] == wanted["accuracy"]
    assert scored["log_loss"] == pytest.approx(wanted["log_loss"], abs=1e-6)
    gain = finished.read_metrics()["out_of_fold"]["ensemble_gain"]
    assert scored["ensemble_gain"]["accuracy_gain"] == pytest.approx(gain["accuracy_gain"])


def test_evaluate_on_a_file_scores_the_ensemble_and_names_its_members(finished, others):
    scored = evaluation.evaluate_files(finished.path, [others], [], Reporter())
    assert scored["n"] == 24
    assert [one["name"] for one in scored["members"]] == [member.name for member in MEMBERS]
    alone = evaluation.evaluate_files(finished.run(MEMBERS[0]).path, [others], [], Reporter())
    assert scored["members"][0]["accuracy"] == alone["accuracy"]
    mean = np.mean([one["accuracy"] for one in scored["members"]])
    assert scored["ensemble_gain"]["mean_member_accuracy"] == pytest.approx(mean)
    assert scored["ensemble_gain"]["ensemble_accuracy"] == scored["accuracy"]


def test_compare_takes_the_directory_as_one_run(finished, others, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    member = finished.run(MEMBERS[0]).path
    found = comparison.compare_runs([finished.path, copy, member], [], [], Reporter())
    same, part = found.pairs
    assert found.runs[0].metrics == finished.read_metrics()["out_of_fold"]["ensemble"]
    assert (same.verdict, same.found.rows, same.found.difference) == ("not_told_apart", 48, 0.0)
    assert "other rows of the same data" in part.reason
    scored = comparison.compare_runs([finished.path, member], [others], [], Reporter())
    assert scored.runs[0].metrics == evaluation.evaluate_files(finished.path, [others], [], Reporter())
    assert scored.pairs[0].found.rows == 24
    document = CvDir.open(copy).read_metrics()
    CvDir.open(copy).write_metrics({**document, "missing": ["fold-1-seed-1"]})
    assert "lacks fold-1-seed-1" in comparison.compare_runs([finished.path, copy], [], [], Reporter()).pairs[0].reason


def test_calibrated_predictions_use_the_temperature_of_each_member(finished, others):
    from pointcnn_cli.calibration import apply_temperature

    run = finished.run(MEMBERS[0])
    temperature = run.read_calibration()["temperature"]
    loaded = load_run(run.path, Reporter())
    raw = read_probabilities(predict_files(loaded, [others], [], Reporter()))
    calibrated = read_probabilities(predict_files(loaded, [others], [], Reporter(), calibrated=True))
    np.testing.assert_allclose(calibrated, apply_temperature(raw, temperature), atol=1e-6)
    assert abs(calibrated - raw).max() > 1e-4
    scored = evaluation.evaluate_files(finished.path, [others], [], Reporter(), calibrated=True)
    wanted = [finished.run(member).read_calibration()["temperature"] for member in MEMBERS]
    assert scored["temperatures"] == wanted

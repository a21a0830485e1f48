"""`diagnose` as a whole: from a config, a run, a directory made by hand, and a Keras script."""

import json
import shutil
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from conftest import ROOT, SMALL
from diagnose_cases import cut_tail, simulate_people
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app
from pointcnn_cli.config.load import dump_config, load_config
from pointcnn_cli.diagnose import diagnose_case, diagnose_config, diagnose_directory, diagnose_fit
from pointcnn_cli.diagnose import plan as plan_module
from pointcnn_cli.diagnose.catalogue import CATALOGUE
from pointcnn_cli.diagnose.findings import Fix
from pointcnn_cli.diagnose.gather import open_config_case, open_directory_case
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.errors import RunError, UsageError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir

AS_ASKED = str(ROOT / "configs" / "as_asked.yaml")
PEOPLE = ("data.simulate.windows=360", "data.simulate.subjects=12", "data.simulate.points=16",
          "data.simulate.frames=24")  # fmt: skip


@pytest.fixture(scope="module")
def as_asked():
    """The diagnosis of the project's question, on fewer and smaller rows."""
    return diagnose_config(load_config(AS_ASKED, PEOPLE), Reporter())


def test_the_question_is_answered_before_any_training(as_asked):
    first = as_asked.findings[0]
    assert (first.code, first.verdict) == ("PC201", "CONFIRMED")
    assert as_asked.confirmed == ("PC201",)
    assert 0 < first.measurement.value < 0.3
    assert first.fix.set == {"split.strategy": "stratified_group"}


def test_a_run_on_the_end_of_the_data_gets_the_answer_that_its_config_got(tmp_path):
    config = load_config(AS_ASKED, PEOPLE)
    with open_config_case(config) as case:
        parts = {"train": case.train.tolist(), "validation": case.validation.tolist(), "test": None}
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "split.json").write_text(json.dumps({"schema_version": 1, **parts}))
    with open_directory_case(tmp_path) as case:
        diagnosis = diagnose_case(case, Reporter(), tiers=(Tier.STATIC,))
    assert diagnosis.confirmed == ("PC201",)
    assert diagnosis.findings[0].fix.set == {"split.strategy": "stratified_group"}


def test_a_fix_that_the_schema_refuses_cannot_be_made_in_a_test():
    with pytest.raises(pytest.fail.Exception, match="unknown key"):
        Fix("Try this.", {"train.no_such_key": 1})


def test_no_check_fails(as_asked):
    assert not [f for f in as_asked.findings if f.measurement.details.get("failed")]


def test_with_the_fix_nothing_is_confirmed(as_asked):
    fixed = load_config(AS_ASKED, [*PEOPLE, "split.strategy=stratified_group"])
    assert diagnose_config(fixed, Reporter()).confirmed == ()


def test_every_check_reports_codes_of_the_catalogue():
    assert {code for check in plan_module.CHECKS for code in check.codes} <= set(CATALOGUE)


def test_the_same_case_gives_the_same_answer(as_asked):
    again = diagnose_config(load_config(AS_ASKED, PEOPLE), Reporter())
    assert again.as_document() == as_asked.as_document()


def test_a_check_that_fails_does_not_cost_the_others(monkeypatch):
    def break_down(case):
        raise ValueError("oh")

    checks = (Check(("PC504",), Tier.STATIC, break_down), *plan_module.CHECKS)
    monkeypatch.setattr("pointcnn_cli.diagnose.CHECKS", checks)
    with open_config_case(load_config(AS_ASKED, PEOPLE)) as case:
        diagnosis = diagnose_case(case, Reporter(), tiers=(Tier.STATIC,))
    assert diagnosis.confirmed == ("PC201",)
    (broken,) = [f for f in diagnosis.findings if f.code == "PC504"]
    assert broken.verdict == "INCONCLUSIVE"
    assert "ValueError: oh" in broken.measurement.sentence


def test_the_static_tier_reads_no_value_and_needs_no_tensorflow():
    with open_config_case(load_config(AS_ASKED, PEOPLE)) as case:
        diagnose_case(case, Reporter(), tiers=(Tier.STATIC,))
        assert "scan" not in vars(case)
        assert "untrained" not in vars(case)


def test_a_healthy_run_has_nothing_confirmed(trained):
    diagnosis = diagnose_directory(trained.run.path, (), Reporter())
    assert diagnosis.confirmed == ()
    assert not [f for f in diagnosis.findings if f.measurement.details.get("failed")]
    assert "PC701" in {m.code for m in diagnosis.ruled_out}


def test_a_run_on_other_data_is_confirmed_as_stale(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.run.path, run)
    copied = RunDir.open(run)
    copied.update_manifest(data={**copied.read_manifest()["data"], "labels_sha256": "0" * 64})
    assert "PC701" in diagnose_directory(run, (), Reporter()).confirmed


@pytest.mark.parametrize("kept", [("split.json", "history.csv", "config.yaml"), ("config.yaml", "predictions.csv")])
def test_a_directory_made_by_hand_is_diagnosed_as_far_as_it_goes(trained, tmp_path, kept):
    for name in kept:
        shutil.copy(trained.run.path / name, tmp_path / name)
    diagnosis = diagnose_directory(tmp_path, (), Reporter())
    assert diagnosis.confirmed == ()
    unmeasured = {f.code: f.measurement.sentence for f in diagnosis.findings if f.verdict == "INCONCLUSIVE"}
    assert "manifest.json" in unmeasured["PC701"]


def test_an_empty_directory_is_refused(tmp_path):
    with pytest.raises(RunError, match="nothing to diagnose"):
        diagnose_directory(tmp_path, (), Reporter())


def build_small_network(classes):
    inputs = [keras.Input((depth, 16, 24, 1)) for depth in (3, 1, 1, 1)]
    pooled = [keras.layers.MaxPooling3D((1, 4, 4))(x) for x in inputs]
    x = keras.layers.Concatenate()([keras.layers.Flatten()(keras.layers.Rescaling(0.1)(p)) for p in pooled])
    x = keras.layers.Dense(16, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def script():
    """A stock Keras script: sorted rows, validation_split=0.2."""
    people = simulate_people()
    model = build_small_network(6)
    x = [c.astype("float32") for c in people.channels]
    history = model.fit(x, people.labels, validation_split=0.2, epochs=6, batch_size=40, verbose=0)
    return model, x, people, history


def test_a_stock_keras_script_gets_the_same_answer(script):
    model, x, people, history = script
    before = [w.copy() for w in model.get_weights()]
    diagnosis = diagnose_fit(model, x, people.labels, validation_split=0.2, groups=people.groups, history=history)
    assert diagnosis.confirmed[0] == "PC201"
    assert not [f for f in diagnosis.findings if f.measurement.details.get("failed")]
    train, validation = cut_tail(people)
    assert diagnosis.findings[0].measurement.value == np.isin(people.labels[validation], people.labels[train]).mean()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_one_hot_labels_masks_and_a_dictionary_of_history_are_understood(script):
    model, x, people, history = script
    validation = people.groups % 5 == 0
    diagnosis = diagnose_fit(
        model, x, np.eye(6)[people.labels], split={"train": ~validation, "validation": validation},
        history=history.history,
    )  # fmt: skip
    assert "PC201" not in diagnosis.confirmed
    assert "PC202" not in diagnosis.confirmed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"validation_split": 0.2, "split": ([0], [1])}, "exclude each other"),
        ({"split": {"train": [0]}}, "no 'train' and 'validation'"),
        ({"split": ([0], [10_000])}, "row numbers"),
        ({"groups": [1, 2, 3]}, "groups has 3 entries"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(script, arguments, said):
    model, x, people, _ = script
    with pytest.raises(UsageError, match=said):
        diagnose_fit(model, x, people.labels, **arguments)


@dataclass
class Shown:
    code: int
    out: str


def invoke(*arguments):
    result = CliRunner().invoke(app, ["diagnose", *arguments])
    return Shown(result.exit_code, result.stdout)


def set_options(*texts):
    return [part for text in texts for part in ("--set", text)]


def test_the_page_tells_the_cause_first_and_the_command_last():
    shown = invoke(AS_ASKED, *set_options(*PEOPLE))
    lines = [line for line in shown.out.splitlines() if line.strip()]
    assert shown.code == 3
    assert lines[0] == "Cause: the validation rows were cut off the end of ordered data."
    assert "CONFIRMED  PC201" in lines[1]
    assert "--set split.strategy=stratified_group" in shown.out
    assert lines[-1].startswith("Next: pointcnn train ")
    assert lines[-1].endswith("--set split.strategy=stratified_group")


def test_json_is_one_document(trained):
    shown = invoke(str(trained.run.path), "--json")
    document = json.loads(shown.out)
    assert shown.code == 0
    assert document["schema_version"] == 1
    assert {"findings", "ruled_out"} <= document.keys()


def test_smoke_config_is_healthy():
    shown = invoke(str(ROOT / "configs" / "smoke.yaml"), *set_options(*SMALL))
    assert shown.code == 0, shown.out

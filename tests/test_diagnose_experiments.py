"""Experiments of a diagnosis: what short trainings confirm and rule out, and that they stay within their budget."""

import keras
import numpy as np
import pytest

from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose.arms import draw_batches, train_arm
from pointcnn_cli.diagnose.arrays import build_array_case
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.experiments import open_bench, run_experiments
from pointcnn_cli.diagnose.experiments.memorise import memorise_rows
from pointcnn_cli.diagnose.experiments.patched import try_shuffled_labels, try_standardised, try_unregularised
from pointcnn_cli.diagnose.experiments.rates import SWEEP, read_sweep, sweep_rates
from pointcnn_cli.diagnose.experiments.swap import measure_leak, swap_splits
from pointcnn_cli.diagnose.experiments.trusted import build_trusted_folds
from pointcnn_cli.diagnose.findings import Diagnosis, Measurement
from pointcnn_cli.diagnose.gather import open_config_case
from pointcnn_cli.diagnose.judge import judge
from pointcnn_cli.diagnose.lab import Lab, Patches
from pointcnn_cli.reporting import Reporter

PEOPLE, CLASSES, FEATURES = 24, 5, 12
GENEROUS = 1_000.0  # seconds that no test needs


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say


def make_rows(rows: int = 600, noise: float = 1.0, person: float = 0.5, seed: int = 0):
    """Features (rows, 12), labels and people: sorted by label, then by person; every class has a direction."""
    rng = np.random.default_rng(seed)
    labels = np.sort(np.arange(rows) % CLASSES)
    people = np.concatenate([np.sort(np.arange((labels == c).sum()) % PEOPLE) for c in range(CLASSES)])
    centers = 2.0 * rng.normal(size=(CLASSES, FEATURES))
    offsets = person * rng.normal(size=(PEOPLE, FEATURES))
    x = centers[labels] + offsets[people] + noise * rng.normal(size=(rows, FEATURES))
    return x.astype(np.float32), labels, people


def make_network(rate: float = 3e-3, dropout: float = 0.2, ignore_inputs: bool = False, depth: int = 1) -> keras.Model:
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs if not ignore_inputs else inputs * 0.0)
    for _ in range(depth - 1):
        hidden = keras.layers.Dense(32, activation="relu")(hidden)
    hidden = keras.layers.Dropout(dropout)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(hidden))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def make_case(model: keras.Model, x, labels, people, *, history=None, **how) -> Case:
    """The case of a Keras script; validation rows are the last fifth unless `split` says otherwise."""
    how = how or {"validation_split": 0.2}
    given = {"validation_split": None, "validation_data": None, "split": None} | how
    options = {"batch_size": 32, "shuffle": None, "steps_per_epoch": None}
    return build_array_case(model, x, labels, groups=people, history=history, options=options, source_files=(), **given)


def mix_case(model: keras.Model, x, labels, people, **how) -> Case:
    """The same with a random fifth of the rows for validation."""
    order = np.random.default_rng(0).permutation(len(labels))
    parts = {"train": order[len(order) // 5 :], "validation": order[: len(order) // 5]}
    return make_case(model, x, labels, people, split=parts, **how)


def suspect(*codes: str, **fields) -> Diagnosis:
    """A diagnosis in which cheaper checks suspect these codes."""
    return judge([Measurement(code, "test", f"Seen before: {code}.", p=0.01, **fields) for code in codes])


def proven(code: str) -> Diagnosis:
    return judge([Measurement(code, "proof", "A class is missing from training.", harm=True)])


def conclude(case: Case, so_far: Diagnosis, experiment=None) -> Diagnosis:
    """What the experiment (default: all that are needed) adds to what was seen before."""
    if experiment is None:
        found = run_experiments(case, so_far, GENEROUS, Reporter())
        assert [m.sentence for m in found if m.details.get("failed")] == []
    else:
        found = list(experiment(open_bench(case, so_far, GENEROUS, Reporter())))
    return judge([*(finding.measurement for finding in so_far.findings), *found])


def find(diagnosis: Diagnosis, code: str):
    return next(finding for finding in diagnosis.findings if finding.code == code)


@pytest.fixture(scope="module")
def tail_diagnosis() -> tuple[Diagnosis, list[np.ndarray], list[np.ndarray]]:
    """Of a tail split of sorted rows; and the user's weights before and after."""
    model = make_network()
    before = [w.copy() for w in model.get_weights()]
    diagnosis = conclude(make_case(model, *make_rows()), proven("PC201"))
    return diagnosis, before, model.get_weights()


def test_a_tail_split_of_sorted_rows_is_confirmed_with_the_accuracies_of_both_arms(tail_diagnosis):
    finding = tail_diagnosis[0].findings[0]
    assert (finding.code, finding.verdict) == ("PC201", "CONFIRMED")
    m = finding.measurement
    accuracy = m.details["arms"]["accuracy"]
    assert accuracy["your split, on its own validation rows"] < 0.2  # its class was never trained
    gained = accuracy["stratified split, on trusted rows"] - accuracy["your split, on trusted rows"]
    assert gained == pytest.approx(m.effect, abs=1e-3)
    assert m.interval[0] > 0.05
    assert m.p < 0.001
    assert m.groups == PEOPLE
    assert m.details["seeds_agree"]
    assert m.sentence.startswith("A class is missing from training. Trained the same way")


def test_a_confirmed_split_rules_out_overfitting_dropout_and_learning_rate(tail_diagnosis):
    absent = {m.code: m for m in tail_diagnosis[0].ruled_out}
    assert absent.keys() >= {"PC504", "PC405", "PC501", "PC502"}
    for code in ("PC504", "PC405", "PC501", "PC502"):
        assert absent[code].value > absent[code].threshold + 0.3
        assert absent[code].p < 0.001
        assert 0.0 < absent[code].minimum_detectable_effect < 0.3


def test_the_diagnosed_network_keeps_its_weights(tail_diagnosis):
    _, before, after = tail_diagnosis
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_tail_split_that_only_leaves_people_out_is_not_confirmed():
    x, labels, people = make_rows()
    order = np.lexsort((labels, people))
    diagnosis = conclude(
        make_case(make_network(), x[order], labels[order], people[order]), Diagnosis((), ()), swap_splits
    )
    assert diagnosis.confirmed == ()
    assert "PC201" in {m.code for m in diagnosis.ruled_out}


def test_a_leak_is_as_large_as_what_known_people_gain():
    x, labels, people = make_rows(noise=0.3, person=6.0)
    leaky = conclude(mix_case(make_network(), x, labels, people), suspect("PC204"), measure_leak)
    finding = find(leaky, "PC204")
    accuracy = finding.measurement.details["arms"]["accuracy"]
    assert finding.verdict == "CONFIRMED"
    assert accuracy["people in training"] > accuracy["people not in training"] + 0.1
    x, labels, people = make_rows(person=0.0)
    clean = conclude(mix_case(make_network(), x, labels, people), suspect("PC204"), measure_leak)
    assert clean.confirmed == ()


def test_a_learning_rate_that_diverges_is_confirmed_and_a_usual_one_ruled_out():
    x, labels, people = make_rows(noise=2.0)
    hot = conclude(
        mix_case(make_network(rate=3.0, depth=3), x, labels, people),
        suspect("PC501"),
        sweep_rates,
    )
    finding = find(hot, "PC501")
    assert finding.verdict == "CONFIRMED"
    rate = finding.fix.set["train.learning_rate"]
    assert 1e-5 < rate <= 0.3
    assert rate == float(f"{rate:.0e}")
    usual = conclude(mix_case(make_network(), x, labels, people), suspect("PC501"), sweep_rates)
    assert not {"PC501", "PC502"} & set(usual.confirmed)


def test_a_learning_rate_that_is_too_low_is_confirmed_where_the_run_did_not_learn():
    x, labels, people = make_rows()
    history = {"loss": [1.7] * 4, "accuracy": [0.2] * 4, "val_loss": [1.7] * 4, "val_accuracy": [0.2] * 4}
    case = mix_case(make_network(rate=1e-6), x, labels, people, history=history)
    diagnosis = conclude(case, suspect("PC502"), sweep_rates)
    assert find(diagnosis, "PC502").verdict == "CONFIRMED"
    assert find(diagnosis, "PC502").fix.set["train.learning_rate"] >= 1e-5


def test_dropout_that_keeps_a_run_from_learning_is_confirmed():
    x, labels, people = make_rows(noise=0.5)
    history = {"loss": [1.6] * 3, "accuracy": [0.25] * 3}
    case = mix_case(make_network(dropout=0.995), x, labels, people, history=history)
    assert "PC405" in conclude(case, suspect("PC405"), try_unregularised).confirmed


def test_inputs_far_from_unit_scale_are_confirmed_and_a_normalization_layer_is_not_blamed():
    x, labels, people = make_rows(noise=0.5)
    far = 4_000.0 + 100.0 * x
    case = mix_case(make_network(), far, labels, people)
    assert find(conclude(case, suspect("PC101"), try_standardised), "PC101").verdict == "CONFIRMED"
    normalization = keras.layers.Normalization()
    normalization.adapt(far)
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, make_network()(normalization(inputs)))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    case = mix_case(model, far, labels, people)
    assert conclude(case, suspect("PC101"), try_standardised).confirmed == ()


def test_a_network_that_ignores_its_inputs_cannot_learn_by_heart():
    x, labels, people = make_rows()
    blind = mix_case(make_network(ignore_inputs=True), x, labels, people)
    finding = find(conclude(blind, suspect("PC407"), memorise_rows), "PC407")
    assert finding.verdict == "CONFIRMED"
    assert "does not use its inputs" in finding.measurement.sentence
    seeing = conclude(mix_case(make_network(), x, labels, people), suspect("PC603"), memorise_rows)
    assert "PC407" in {m.code for m in seeing.ruled_out}


def test_labels_without_a_signal_are_suspected_at_most():
    x, labels, people = make_rows()
    wrong = np.random.default_rng(1).permutation(labels)
    diagnosis = conclude(mix_case(make_network(), x, wrong, people), suspect("PC302"), try_shuffled_labels)
    assert find(diagnosis, "PC302").verdict == "SUSPECTED"
    assert "shuffled labels" in find(diagnosis, "PC302").measurement.sentence


def test_two_causes_share_the_symptom_out():
    x, labels, people = make_rows(noise=0.5)
    so_far = judge([
        Measurement("PC201", "proof", "A class is missing.", harm=True),
        Measurement("PC101", "test", "Inputs are large.", p=0.01),
    ])  # fmt: skip
    diagnosis = conclude(make_case(make_network(), 4_000.0 + 100.0 * x, labels, people), so_far)
    shares = find(diagnosis, "PC201").measurement.details["attribution"]
    assert shares["all_cured"] > shares["nothing_cured"] + 0.3
    assert shares["only"].keys() == {"PC201", "PC101"}
    assert shares["share"]["PC201"] > 0.5
    assert "attribution" in find(diagnosis, "PC101").measurement.details


def test_a_budget_that_is_too_small_trains_nothing_and_says_what_is_needed():
    listener = Listener()
    found = run_experiments(make_case(make_network(), *make_rows()), proven("PC201"), 0.0, listener)
    assert {m.basis for m in found} == {"missing"}
    assert all(" s of budget" in m.sentence for m in found)
    assert not any(line.startswith("experiment: ") for line in listener.lines)
    told = [line for line in listener.lines if line.startswith("no experiment was made for PC201. ")]
    assert len(told) == 1  # the finding of a cheaper check hides it in the result
    assert " s of budget" in told[0]


def test_a_case_without_validation_rows_or_network_is_inconclusive():
    case = Case("nothing known")
    assert {m.basis for m in run_experiments(case, proven("PC201"), None, Reporter())} == {"missing"}


def test_arms_of_one_seed_start_equal_and_repeat():
    lab = Lab(make_case(make_network(), *make_rows()))
    arms = [train_arm(lab, lab.train, seed=s, steps=5, patches=Patches(), score=lab.validation) for s in (0, 0, 1)]
    assert np.array_equal(arms[0].losses, arms[1].losses)
    assert arms[0].losses[0] != arms[2].losses[0]
    unregularised = Patches(unregularised=True)
    other = train_arm(lab, lab.train, seed=0, steps=5, patches=unregularised, score=lab.validation)
    assert not np.array_equal(arms[0].losses, other.losses)


def test_batches_pass_over_all_rows_before_any_comes_again():
    rows = np.arange(10, 17)
    batches = draw_batches(rows, 3, 7, seed=0, shuffle=True)
    assert batches.shape == (7, 3)
    assert np.array_equal(np.sort(batches.ravel()[:7]), rows)
    assert np.array_equal(draw_batches(rows, 3, 2, seed=0, shuffle=False), rows[:6].reshape(2, 3))


def test_trusted_rows_share_no_person_with_training_and_hold_every_class():
    lab = Lab(make_case(make_network(), *make_rows()))
    for fold in build_trusted_folds(lab, 3):
        for rows in (fold.user, fold.fair):
            assert not np.isin(lab.groups[rows], lab.groups[fold.trusted]).any()
        assert len(np.unique(lab.labels[fold.trusted])) == CLASSES
        assert len(fold.user) == len(fold.fair)
        assert np.isin(fold.user, lab.train).all()


def test_a_sweep_reads_where_the_loss_turns():
    losses = np.where(SWEEP < 0.01, 2.0 - np.log10(SWEEP / 1e-6) / 4, 50.0)
    divergence, best = read_sweep(losses, SWEEP)
    assert 0.01 <= divergence < 0.02
    assert 0.005 < best < 0.011
    assert read_sweep(np.full(100, 1.6), SWEEP)[0] == float("inf")
    assert read_sweep(np.full(60, 1.6), SWEEP)[0] == SWEEP[60]


def test_a_config_is_proven_as_well():
    config = Config.model_validate({
        "data": {"simulate": {"windows": 480, "subjects": 24, "points": 16, "frames": 24, "stride": 8, "seed": 3}},
        "split": {"strategy": "tail", "allow_missing_classes": True},
        "model": {"name": "pointcnn_original", "normalize": "masked"},
        "augment": {"position_jitter": 0.01},
        "train": {"epochs": 8, "batch_size": 48, "schedule": "cosine"},
    })  # fmt: skip
    with open_config_case(config) as case:
        finding = conclude(case, proven("PC201")).findings[0]
    assert (finding.code, finding.verdict) == ("PC201", "CONFIRMED")
    accuracy = finding.measurement.details["arms"]["accuracy"]
    assert accuracy["your split, on its own validation rows"] <= 1 / 6 + 0.05
    assert accuracy["stratified split, on trusted rows"] > accuracy["your split, on its own validation rows"] + 0.1

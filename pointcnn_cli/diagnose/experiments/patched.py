"""Experiments that change one thing about a training and keep the rest: what comparing two arms this way yields."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.arms import Arm
from pointcnn_cli.diagnose.experiments.evidence import (
    Bench,
    Comparison,
    Plan,
    compare,
    describe_arms,
    describe_comparison,
    groups_at,
    join,
)
from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, Verdict, missing
from pointcnn_cli.diagnose.judge import ALPHA, EFFECT_GATE
from pointcnn_cli.diagnose.lab import Patches

Hits = NDArray[np.bool_]
TRAIN_GATE = 0.10  # training accuracy: dropout alone costs a few points of it early in any training
LEARNED = 0.9  # a run that reached this training accuracy was not kept from learning


@dataclass(frozen=True, eq=False)
class Trial:
    """Arms as configured and arms with a patch, seed by seed."""

    plan: Plan
    plain: list[Arm]
    patched: list[Arm]
    trusted: Comparison
    """Accuracy gained on trusted rows."""
    training: Comparison
    """Accuracy gained on the training rows themselves, in inference mode."""

    @property
    def agree(self) -> bool:
        """Whether every seed gains on trusted rows."""
        return all(b.accuracy > a.accuracy for a, b in zip(self.plain, self.patched, strict=True))

    def accuracies(self) -> dict[str, float]:
        """Means over seeds, on trusted rows."""
        return {
            "as configured": float(np.mean([a.accuracy for a in self.plain])),
            "changed": float(np.mean([a.accuracy for a in self.patched])),
        }

    def describe(self, patch: str) -> dict[str, Any]:
        """The arms, for a measurement's details."""
        return describe_arms({"as configured": self.plain, patch: self.patched}, self.accuracies(), self.plan)


def try_patch(bench: Bench, name: str, patches: Patches, code: str) -> Trial | None:
    """Train with and without `patches` on rows of a stratified grouped split; None where the budget is too small."""
    plan = bench.plan(2)
    if plan is None:
        return None
    folds = bench.folds(plan.folds)[: plan.repeats]
    plain = [
        bench.arm("stratified split", fold.fair, fold.trusted, seed, plan.steps, Patches())
        for seed, fold in enumerate(folds)
    ]
    patched = [bench.arm(name, fold.fair, fold.trusted, seed, plan.steps, patches) for seed, fold in enumerate(folds)]
    trusted = np.concatenate([fold.trusted for fold in folds])
    seen = np.concatenate([arm.train_places for arm in plain])
    return Trial(
        plan, plain, patched,
        _compare_arms(bench, [a.hits for a in patched], [a.hits for a in plain], trusted, code),
        _compare_arms(bench, [a.train_hits for a in patched], [a.train_hits for a in plain], seen, code),
    )  # fmt: skip


def _compare_arms(bench: Bench, better: list[Hits], worse: list[Hits], rows: Rows, code: str) -> Comparison:
    return compare(np.concatenate(better), np.concatenate(worse), groups_at(bench.lab, rows), code, bench.lab)


def limit_verdict(bench: Bench, trial: Trial) -> Verdict:
    """What a short arm may say of a long training: that it could be better early on, unless the run itself says more.

    A run whose training accuracy is low was held back; a training of which nothing is known, and that is to be longer
    than the arms, may catch up.
    """
    reached = bench.last_train_accuracy
    if reached is None:
        whole = bench.planned_steps is not None and trial.plan.steps >= bench.planned_steps
        return "CONFIRMED" if whole and trial.agree else "SUSPECTED"
    return "CONFIRMED" if reached < LEARNED and trial.agree else "PRESENT"


def try_standardised(bench: Bench) -> Iterator[Measurement]:
    """PC101: raw against standardised inputs, equal steps."""
    trial = try_patch(bench, "standardised inputs", Patches(standardise=True), "PC101")
    if trial is None:
        yield missing("PC101", bench.price(2 * 130) + " for a training with standardised inputs")
        return
    before, after = trial.accuracies().values()
    reached = bench.last_train_accuracy
    measured = Measurement(
        "PC101", "experiment",
        f"With standardised inputs and all else equal ({trial.plan.steps} steps), accuracy on people that were not "
        f"trained on went from {before:.2f} to {after:.2f} ({describe_comparison(trial.trusted)}).",
        found=trial.trusted.effect >= EFFECT_GATE,
        harm=None if reached is None or reached < LEARNED else False,
        at_most="CONFIRMED" if trial.agree else "SUSPECTED",
        statistic="accuracy gained by standardised inputs, on trusted rows", value=trial.trusted.effect,
        threshold=EFFECT_GATE,
        fix=Fix("Subtract the mean of each channel and divide by its deviation, both from training rows.",
                {"model.normalize": "masked"}),
        details=trial.describe("standardised"),
        **trial.trusted.as_fields(),
    )  # fmt: skip
    if measured.found:
        yield join(bench.find("PC101"), measured)
    else:
        yield measured


def try_unregularised(bench: Bench) -> Iterator[Measurement]:
    """PC405: training accuracy, in inference mode, with and without dropout and the other regularisers."""
    reached = bench.last_train_accuracy
    if reached is not None and reached >= LEARNED:
        yield Measurement(
            "PC405", "experiment",
            f"Not the cause: the run reached a training accuracy of {reached:.2f} with its regularisation.",
            found=False, statistic="training accuracy of the run", value=reached, threshold=LEARNED,
        )  # fmt: skip
        return
    trial = try_patch(bench, "no dropout or other regularisation", Patches(unregularised=True), "PC405")
    if trial is None:
        yield missing("PC405", bench.price(2 * 130) + " for a training without regularisation")
        return
    before = float(np.mean([a.train_accuracy for a in trial.plain]))
    after = float(np.mean([a.train_accuracy for a in trial.patched]))
    helps = trial.trusted.effect > 0 and (reached is None or after >= reached + TRAIN_GATE)
    measured = Measurement(
        "PC405", "experiment",
        f"Without dropout and other regularisation, training accuracy after {trial.plan.steps} steps is {after:.2f} "
        f"instead of {before:.2f} ({describe_comparison(trial.training)}), and accuracy on people that were not "
        f"trained on changes by {trial.trusted.effect:+.2f}.",
        found=trial.training.effect >= TRAIN_GATE and helps,
        at_most=limit_verdict(bench, trial),
        statistic="training accuracy gained without regularisation", value=trial.training.effect, threshold=TRAIN_GATE,
        fix=Fix("Lower the dropout rate and the weight penalties.", {"model.dropout": 0.2}),
        details=trial.describe("unregularised"),
        **trial.training.as_fields(),
    )  # fmt: skip
    yield join(bench.find("PC405"), measured) if measured.found else measured


def try_shuffled_labels(bench: Bench) -> Iterator[Measurement]:
    """PC302: whether labels that belong to their rows teach more than labels dealt out anew."""
    plan = bench.plan(2)
    if plan is None:
        yield missing("PC302", bench.price(2 * 130) + " for a training with shuffled labels")
        return
    lab, rng = bench.lab, bench.lab.case.rng("PC302")
    folds = bench.folds(plan.folds)[: plan.repeats]
    true, dealt = [], []
    for seed, fold in enumerate(folds):
        targets = lab.targets.copy()
        targets[fold.fair] = targets[rng.permutation(fold.fair)]
        true.append(bench.arm("stratified split", fold.fair, fold.trusted, seed, plan.steps, Patches()))
        dealt.append(
            bench.arm("shuffled labels", fold.fair, fold.trusted, seed, plan.steps, Patches(), targets=targets)
        )
    rows = np.concatenate([fold.trusted for fold in folds])
    result = _compare_arms(bench, [a.hits for a in true], [a.hits for a in dealt], rows, "PC302")
    accuracies = {
        "labels as given": float(np.mean([a.accuracy for a in true])),
        "labels shuffled": float(np.mean([a.accuracy for a in dealt])),
    }
    signal = result.p < ALPHA and result.effect >= EFFECT_GATE
    measured = Measurement(
        "PC302", "experiment",
        f"A network trained on the labels as given scored {accuracies['labels as given']:.2f} on people that were not "
        f"trained on, and one trained on shuffled labels {accuracies['labels shuffled']:.2f} "
        f"({describe_comparison(result)}).",
        found=not signal, at_most="SUSPECTED",
        statistic="accuracy gained by labels that belong to their rows", value=result.effect, threshold=EFFECT_GATE,
        fix=Fix("Check that row i of the labels belongs to row i of the inputs, above all where files were joined."),
        details=describe_arms({"labels as given": true, "labels shuffled": dealt}, accuracies, plan),
        **result.as_fields(),
    )  # fmt: skip
    yield join(bench.find("PC302"), measured) if measured.found else measured

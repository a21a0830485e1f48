"""What experiments share: the time they may take, arms that are trained once, and how two arms are compared."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.arms import Arm, train_arm
from pointcnn_cli.diagnose.experiments.trusted import Fold, build_trusted_folds
from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.findings import Diagnosis, Finding, Measurement
from pointcnn_cli.diagnose.judge import decide
from pointcnn_cli.diagnose.lab import Lab, Patches
from pointcnn_cli.diagnose.statistics import draw_cluster_means
from pointcnn_cli.paired import compare_paired
from pointcnn_cli.reporting import Reporter

FEWEST_STEPS = 100  # shorter arms say little of a training: the moving averages alone take that long
MOST_STEPS = 1_000
SHARE_OF_STEPS = 0.3  # an arm is this part of the user's training, where that is longer than 100 steps
SEEDS = 3
SCORING_STEPS = 15  # about what building, scoring and compiling cost an arm, in steps
INTERVAL_LEVEL = 0.999
# A one-sided test at 0.001 finds an effect of this many standard errors four times out of five.
POWER_ERRORS = 3.09 + 0.84


@dataclass(frozen=True)
class Plan:
    """How an experiment uses its time."""

    repeats: int
    """Seeds, each on a fold of its own."""
    steps: int
    """Of each arm."""

    @property
    def folds(self) -> int:
        """Into how many parts rows are cut, of which one at a time is the trusted one."""
        return max(2, self.repeats)


@dataclass(frozen=True)
class Comparison:
    """The difference between two arms on the same rows."""

    effect: float
    interval: tuple[float, float]
    p: float
    minimum_detectable_effect: float
    n: int
    groups: int | None

    def as_fields(self) -> dict[str, Any]:
        """As fields of a measurement."""
        null = "signs of whole groups flipped" if self.groups is not None else "signs of rows flipped"
        return {
            "effect": self.effect,
            "interval": self.interval,
            "interval_level": INTERVAL_LEVEL,
            "p": self.p,
            "null": f"{null} between arms scored on the same rows",
            "minimum_detectable_effect": self.minimum_detectable_effect,
            "n": self.n,
            "groups": self.groups,
        }


@dataclass(eq=False)
class Bench:
    """One round of experiments on a case."""

    lab: Lab
    so_far: Diagnosis
    reporter: Reporter
    deadline: float
    """In seconds of `time.monotonic`."""
    step_seconds: float
    planned_steps: int | None
    """Of the whole training that is diagnosed; None where unknown."""
    results: list[Measurement] = field(default_factory=list)
    _arms: dict[tuple[Any, ...], Arm] = field(default_factory=dict)
    _folds: dict[int, list[Fold]] = field(default_factory=dict)

    @property
    def steps_left(self) -> int:
        """Training steps that the rest of the budget pays for."""
        return max(0, int((self.deadline - time.monotonic()) / self.step_seconds))

    def price(self, steps: int) -> str:
        """What is missing when `steps` cannot be paid for."""
        return f"about {max(1, round(steps * self.step_seconds))} s of budget"

    def plan(self, arms: int, spare: float = 1.0) -> Plan | None:
        """Repeats and steps for an experiment of `arms` arms a repeat; None where not even 100 steps can be paid for.

        `spare` is the share of the remaining budget that may be spent. Longer arms come before more seeds, up to 30 %
        of the training that is diagnosed.
        """
        steps = max(FEWEST_STEPS, min(round(SHARE_OF_STEPS * (self.planned_steps or 0)), MOST_STEPS))
        affordable = int(self.steps_left * spare) // arms - SCORING_STEPS
        if affordable < FEWEST_STEPS:
            return None
        if affordable < steps:
            return Plan(1, affordable)
        return Plan(min(SEEDS, (affordable + SCORING_STEPS) // (steps + SCORING_STEPS)), steps)

    def folds(self, count: int) -> list[Fold]:
        """The trusted folds, cut once. Raises ValueError or DataError where they cannot be."""
        if count not in self._folds:
            self._folds[count] = build_trusted_folds(self.lab, count)
        return self._folds[count]

    def arm(self, name: str, rows: Rows, score: Rows, seed: int, steps: int, patches: Patches, **more: Any) -> Arm:
        """Train an arm, or take it from those that were trained. `name` tells rows and `more` apart."""
        key = (name, seed, steps, patches, len(rows), len(score), int(rows.sum()), int(score.sum()))
        if key not in self._arms:
            self.reporter.say(f"experiment: {steps} steps, seed {seed}: {name}")
            self._arms[key] = train_arm(self.lab, rows, seed=seed, steps=steps, patches=patches, score=score, **more)
        return self._arms[key]

    def find(self, *codes: str) -> Finding | None:
        """The first of the findings so far that has one of these codes and was measured."""
        there = {f.code: f for f in self.so_far.findings if f.verdict != "INCONCLUSIVE"}
        return next((there[code] for code in codes if code in there), None)

    def is_ruled_out(self, code: str) -> bool:
        """Whether an experiment of this round has ruled the fault out."""
        return any(m.code == code and m.basis != "missing" and not m.found for m in self.results)

    @property
    def last_train_accuracy(self) -> float | None:
        """Training accuracy at the end of the run that is diagnosed, as its history says."""
        values = [row["accuracy"] for row in self.lab.case.history if "accuracy" in row]
        return values[-1] if values else None


def compare(
    better: NDArray[Any], worse: NDArray[Any], groups: NDArray[np.int64] | None, code: str, lab: Lab
) -> Comparison:
    """How much more often `better` (rows,) is right than `worse` on the same rows; whole groups are the units."""
    differences = better.astype(np.float64) - worse.astype(np.float64)
    means = draw_cluster_means(differences, groups, lab.case.rng(code))
    tail = (1.0 - INTERVAL_LEVEL) / 2
    return Comparison(
        effect=float(differences.mean()),
        interval=(float(np.quantile(means, tail)), float(np.quantile(means, 1.0 - tail))),
        p=compare_paired(differences, groups, lab.case.rng(code)),
        minimum_detectable_effect=float(POWER_ERRORS * means.std()),
        n=len(differences),
        groups=None if groups is None else len(np.unique(groups)),
    )


def groups_at(lab: Lab, places: Rows) -> NDArray[np.int64] | None:
    """Groups of these places; None where rows are on their own."""
    return None if lab.groups is None else lab.groups[places]


def join(before: Finding | None, m: Measurement) -> Measurement:
    """An experiment's measurement, with what was known before it: sentences one after the other, details together.

    Where the experiment alone would say less than a proof did, the proof stays and carries the arms along.
    """
    if before is None:
        return m
    known = before.measurement
    sentence = f"{known.sentence} {m.sentence}"
    fix = known.fix or m.fix
    details = {**known.details, **m.details}
    if known.basis == "proof" and decide(m) != "CONFIRMED":
        return replace(
            known, sentence=sentence, fix=fix, details=details, effect=m.effect, interval=m.interval,
            interval_level=m.interval_level, p=m.p, null=m.null,
        )  # fmt: skip
    earlier = {"statistic": known.statistic, "value": known.value, "threshold": known.threshold, "p": known.p}
    return replace(m, sentence=sentence, fix=fix, details={**details, "before_the_experiment": earlier})


def describe_arms(arms: dict[str, Iterable[Arm]], accuracies: dict[str, float], plan: Plan) -> dict[str, Any]:
    """The entry `arms` of a measurement's details: accuracies by arm, and what the arms were."""
    trained = [arm for group in arms.values() for arm in group]
    return {
        "arms": {
            "accuracy": {name: round(value, 4) for name, value in accuracies.items()},
            "train_accuracy": {name: [round(arm.train_accuracy, 4) for arm in group] for name, group in arms.items()},
            "final_loss": {name: [_finite(arm.final_loss) for arm in group] for name, group in arms.items()},
            "seeds": plan.repeats,
            "steps": plan.steps,
            "seconds": round(sum(arm.seconds for arm in trained), 1),
        }
    }


def describe_p(p: float) -> str:
    """A p value for a sentence."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def describe_comparison(c: Comparison) -> str:
    """Difference, interval and p for a sentence."""
    low, high = c.interval
    units = f"{c.groups} people or recordings" if c.groups is not None else f"{c.n} rows"
    return f"difference {c.effect:+.2f}, 99.9 % interval {low:+.2f} to {high:+.2f}, {describe_p(c.p)}, {units}"


def _finite(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None

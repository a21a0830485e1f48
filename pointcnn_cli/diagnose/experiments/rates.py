"""Experiments on the learning rate: where a rising rate diverges, and whether another rate does better."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.experiments.evidence import (
    SCORING_STEPS,
    SEEDS,
    Bench,
    describe_comparison,
    join,
)
from pointcnn_cli.diagnose.experiments.patched import LEARNED, Trial, limit_verdict, try_patch
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import EFFECT_GATE
from pointcnn_cli.diagnose.lab import Patches

SWEEP_STEPS = 100
SWEEP = np.geomspace(1e-6, 1.0, SWEEP_STEPS)
DIVERGED = 1.5  # times the smallest loss so far
SETTLING = 5  # steps before a rise counts: the first losses are of single batches
SMOOTHING = 0.8  # weight of the past in the running mean: about five batches
SAFETY = 3.0  # a rate is kept this factor below the best one of a sweep, and below divergence
LOSS_GATE = 0.8  # the other rate's final loss is at most this share of the configured one's
TOO_LOW = 10.0  # a rate is called too low where one this many times higher does better


@dataclass(frozen=True)
class Sweep:
    """Medians over seeds."""

    divergence: float
    """The rate at which the smoothed loss is half above its smallest value, or not finite; infinite if never."""
    best: float
    """The rate at which the smoothed loss is smallest."""
    seeds: int


def sweep_rates(bench: Bench) -> Iterator[Measurement]:
    """PC501 and PC502."""
    sweep = _run_sweeps(bench)
    if sweep is None:
        yield from (missing(code, bench.price(SWEEP_STEPS + SCORING_STEPS)) for code in ("PC501", "PC502"))
        return
    yield _measure_high(bench, sweep)
    yield _measure_low(bench, sweep)


def read_sweep(losses: NDArray[np.float64], rates: NDArray[np.float64]) -> tuple[float, float]:
    """Rate of divergence and rate of the smallest smoothed loss, of one sweep that may have broken off."""
    smoothed, mean = [], 0.0
    for step, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**step))
    curve = np.array(smoothed)
    if not len(curve):
        return float(rates[0]), float(rates[0])
    risen = np.flatnonzero(curve > DIVERGED * np.minimum.accumulate(curve))
    risen = risen[risen >= SETTLING]
    if len(risen):
        divergence = float(rates[risen[0]])
        curve = curve[: risen[0]]
    else:
        divergence = float(rates[len(losses)]) if len(losses) < len(rates) else float("inf")
    return divergence, float(rates[int(curve.argmin())])


def round_rate(rate: float) -> float:
    """One significant digit."""
    return float(f"{rate:.0e}")


def _run_sweeps(bench: Bench) -> Sweep | None:
    seeds = min(SEEDS, int(0.5 * bench.steps_left) // (SWEEP_STEPS + SCORING_STEPS))
    if seeds == 0 and bench.steps_left >= SWEEP_STEPS + SCORING_STEPS:
        seeds = 1
    if seeds == 0:
        return None
    fold = bench.folds(2)[0]
    read = []
    for seed in range(seeds):
        arm = bench.arm("rising learning rate", fold.fair, fold.trusted[:1], seed, SWEEP_STEPS, Patches(), rates=SWEEP)
        read.append(read_sweep(arm.losses, SWEEP))
    return Sweep(float(np.median([r[0] for r in read])), float(np.median([r[1] for r in read])), seeds)


def _measure_high(bench: Bench, sweep: Sweep) -> Measurement:
    rate, border = bench.lab.learning_rate, sweep.divergence / SAFETY
    known: dict[str, Any] = {
        "statistic": "learning rate, against a third of the one that diverges",
        "value": rate,
        "threshold": border if np.isfinite(border) else None,
    }
    # A network that batch normalisation keeps finite need not diverge: it falls silent at a loss of ln K. So what is
    # suspected is put to the test, whatever the sweep says.
    if bench.find("PC501") is None and rate < border and rate <= SAFETY * sweep.best:
        limit = f"{sweep.divergence:.1e}" if np.isfinite(sweep.divergence) else "no rate up to 1"
        return Measurement(
            "PC501", "experiment",
            f"Not too high: with a rising learning rate the loss is lowest at {sweep.best:.1e} and diverges at "
            f"{limit}; yours is {rate:g}.",
            found=False, n=sweep.seeds, **known,
        )  # fmt: skip
    lower_rate = round_rate(min(rate / 10, sweep.best / SAFETY))  # far above divergence a tenth would diverge as well
    trial = try_patch(bench, f"learning rate {lower_rate:g}", Patches(learning_rate=lower_rate), "PC501")
    if trial is None:
        return missing("PC501", bench.price(230) + " to try a lower learning rate")
    lower, agree = _compare_losses(trial)
    measured = Measurement(
        "PC501", "experiment",
        f"With a rising learning rate the loss is lowest at {sweep.best:.1e}, and yours is {rate:g}. After "
        f"{trial.plan.steps} steps at {lower_rate:g} the training loss is {_describe_ratio(lower)} "
        f"({trial.plan.repeats} seeds), and accuracy on people that were not trained on differs by "
        f"{trial.trusted.effect:+.2f} ({describe_comparison(trial.trusted)}).",
        found=agree,
        at_most="CONFIRMED" if trial.agree and trial.plan.repeats == SEEDS else "SUSPECTED",
        fix=_fix_rate(lower_rate),
        details=_describe(trial, sweep), **known, **trial.trusted.as_fields(),
    )  # fmt: skip
    return join(bench.find("PC501"), measured) if measured.found else measured


def _measure_low(bench: Bench, sweep: Sweep) -> Measurement:
    rate, candidate, reached = bench.lab.learning_rate, sweep.best / SAFETY, bench.last_train_accuracy
    known: dict[str, Any] = {
        "statistic": "best learning rate of a sweep / 3, against ten times yours",
        "value": candidate,
        "threshold": TOO_LOW * rate,
    }
    if candidate < TOO_LOW * rate or (reached is not None and reached >= LEARNED):
        why = (
            f"the run reached a training accuracy of {reached:.2f} with it"
            if reached is not None and reached >= LEARNED
            else f"with a rising learning rate the loss is lowest at {sweep.best:.1e}; yours is {rate:g}"
        )
        return Measurement("PC502", "experiment", f"Not too low: {why}.", found=False, n=sweep.seeds, **known)
    higher_rate = round_rate(candidate)
    trial = try_patch(bench, f"learning rate {higher_rate:g}", Patches(learning_rate=higher_rate), "PC502")
    if trial is None:
        return missing("PC502", bench.price(230) + " to try a higher learning rate")
    lower, agree = _compare_losses(trial)
    after = float(np.mean([arm.train_accuracy for arm in trial.patched]))
    beats_run = reached is None or after >= reached + EFFECT_GATE
    verdict = limit_verdict(bench, trial)
    if verdict == "CONFIRMED" and trial.plan.repeats < SEEDS:
        verdict = "SUSPECTED"
    measured = Measurement(
        "PC502", "experiment",
        f"With a learning rate of {higher_rate:g} instead of {rate:g} the training loss after {trial.plan.steps} "
        f"steps is {_describe_ratio(lower)} ({trial.plan.repeats} seeds), and accuracy on people that were "
        f"not trained on differs by {trial.trusted.effect:+.2f} ({describe_comparison(trial.trusted)}).",
        found=agree and beats_run, at_most=verdict, fix=_fix_rate(higher_rate),
        details=_describe(trial, sweep), **known, **trial.trusted.as_fields(),
    )  # fmt: skip
    return join(bench.find("PC502"), measured) if measured.found else measured


def _compare_losses(trial: Trial) -> tuple[float, bool]:
    """Median ratio of final losses, patched to plain, and whether all seeds fall below the gate."""
    ratios = [
        b.final_loss / a.final_loss if np.isfinite(a.final_loss) else (0.0 if np.isfinite(b.final_loss) else 1.0)
        for a, b in zip(trial.plain, trial.patched, strict=True)
    ]
    return float(np.median(ratios)), all(ratio <= LOSS_GATE for ratio in ratios)


def _describe_ratio(ratio: float) -> str:
    return "finite, which it is not at yours" if ratio == 0.0 else f"{ratio:.2f} times that at yours"


def _describe(trial: Trial, sweep: Sweep) -> dict[str, Any]:
    limit = sweep.divergence if np.isfinite(sweep.divergence) else None
    return trial.describe("changed") | {"sweep": {"divergence": limit, "best": sweep.best, "seeds": sweep.seeds}}


def _fix_rate(rate: float) -> Fix:
    value = round_rate(rate)
    return Fix(f"Train with a learning rate of about {value:g}.", {"train.learning_rate": value})

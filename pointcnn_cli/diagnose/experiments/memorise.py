"""Whether the network can learn 32 rows by heart, and whether it needs its inputs for that."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.experiments.evidence import Bench
from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.lab import Lab, Patches

FEW_ROWS = 32
MOST_STEPS = 300
LEARNED_LOSS = 0.05
CHECK_EVERY = 10
USUAL_RATE = 1e-3  # Adam's default: a rate of the user's that is far too low is not the network's fault
FEWEST_HITS = 0.99  # what a network that can learn by heart gets right, generously
SAME = 0.02  # accuracy: the twin without inputs does as well


@dataclass(frozen=True)
class _Attempt:
    rate: float
    accuracy: float
    """In training mode, so that lagging averages of batch normalisation play no part."""
    loss: float
    steps: int

    @property
    def learned(self) -> bool:
        return self.accuracy == 1.0 and self.loss < LEARNED_LOSS


def memorise_rows(bench: Bench) -> Iterator[Measurement]:
    """PC407: 32 rows without regularisation, at the configured rate, ten times it, and Adam's default."""
    lab = bench.lab
    rows = _choose_rows(lab)
    share = min(1.0, FEW_ROWS / lab.batch_size)
    rates = sorted({lab.learning_rate, 10 * lab.learning_rate, USUAL_RATE}, key=lambda r: abs(np.log(r / USUAL_RATE)))
    if bench.steps_left * 1.0 < 2 * MOST_STEPS * share:
        yield missing("PC407", bench.price(int(2 * MOST_STEPS * share)))
        return
    attempts: list[_Attempt] = []
    for rate in rates:
        if attempts and bench.steps_left < 2 * MOST_STEPS * share:
            break
        bench.reporter.say(f"experiment: learning {len(rows)} rows by heart at a learning rate of {rate:g}")
        attempts.append(_attempt(lab, rows, rate, MOST_STEPS, Patches(unregularised=True, augment=False)))
        if attempts[-1].learned:
            break
    best = max(attempts, key=lambda a: (a.accuracy, -a.loss))
    bench.reporter.say("experiment: the same with inputs of zero")
    twin = _attempt(lab, rows, best.rate, best.steps, Patches(unregularised=True, augment=False, zero_inputs=True))
    yield _measure(lab, rows, best, twin, complete=best.learned or len(attempts) == len(rates))


def _measure(lab: Lab, rows: Rows, best: _Attempt, twin: _Attempt, complete: bool) -> Measurement:
    from scipy.stats import binom

    hits = round(best.accuracy * len(rows))
    blind = twin.accuracy >= best.accuracy - SAME
    result = f"{hits} of {len(rows)} rows right and a loss of {best.loss:.3g} after {best.steps} steps"
    twin_result = f"with all inputs set to zero {twin.accuracy:.0%} and {twin.loss:.3g}"
    if best.learned and not blind:
        sentence = f"The network can learn: {result}; {twin_result}."
    elif blind:
        sentence = f"The network does not use its inputs: {result}, and {twin_result}."
    else:
        sentence = (
            f"Without any regularisation the network does not learn {len(rows)} rows by heart: {result}; {twin_result}."
        )
    if not complete:
        return missing("PC407", "more budget to try all learning rates")
    return Measurement(
        "PC407", "experiment", sentence,
        found=not best.learned or blind, harm=True,
        statistic=f"share of {len(rows)} rows learned by heart", value=best.accuracy, threshold=1.0, n=len(rows),
        effect=1.0 - (twin.accuracy if blind else best.accuracy),
        p=float(binom.cdf(hits, len(rows), FEWEST_HITS)),
        null=f"a network that gets {FEWEST_HITS:.0%} of rows right that it learned by heart",
        fix=Fix("Look for what cuts the network's output off its inputs: a wrong loss or output activation, dead "
                "units, a layer that returns a constant; then for too few parameters."),
        details={"rate": best.rate, "loss": _finite(best.loss), "steps": best.steps,
                 "zero_inputs": {"accuracy": twin.accuracy, "loss": _finite(twin.loss)}},
    )  # fmt: skip


def _choose_rows(lab: Lab) -> Rows:
    """About 32 rows, classes in turn, no two with the same inputs."""
    rng = lab.case.rng("PC407")
    order = rng.permutation(len(lab.rows))
    rank = np.empty(len(order), np.int64)
    for label in np.unique(lab.labels):
        mine = order[lab.labels[order] == label]
        rank[mine] = np.arange(len(mine))
    chosen = np.sort(np.argsort(rank, kind="stable")[: 2 * FEW_ROWS])
    seen: set[bytes] = set()
    distinct = []
    for place in chosen[np.argsort(rank[chosen], kind="stable")]:
        content = b"".join(np.ascontiguousarray(channel[place]).tobytes() for channel in lab.channels)
        if content not in seen:
            seen.add(content)
            distinct.append(place)
    return np.sort(np.array(distinct[:FEW_ROWS], dtype=np.int64))


def _attempt(lab: Lab, rows: Rows, rate: float, steps: int, patches: Patches) -> _Attempt:
    trainer = lab.trainer(patches)
    trainer.reset(lab.initial_weights(0), 0)
    lab.normalize(trainer.model, rows)
    inputs: tuple[NDArray[np.generic], ...] = tuple(channel[rows] for channel in lab.channels)
    if patches.zero_inputs:
        inputs = tuple(np.zeros_like(channel) for channel in inputs)
    trainer.fitted.optimizer.learning_rate = rate
    accuracy, loss, step = 0.0, float("inf"), 0
    for step in range(1, steps + 1):
        loss = lab.step(trainer, inputs, lab.targets[rows], None)
        if not np.isfinite(loss):
            return _Attempt(rate, 0.0, loss, step)
        if step == steps or (step % CHECK_EVERY == 0 and loss < LEARNED_LOSS):
            accuracy = lab.score_in_training(trainer, inputs, rows)
            if accuracy == 1.0 and loss < LEARNED_LOSS:
                break
    return _Attempt(rate, accuracy, loss, step)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None

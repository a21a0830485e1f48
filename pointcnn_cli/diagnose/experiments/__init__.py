"""`--prove`: short trainings that confirm or rule out what cheaper checks suspect, within a budget of seconds.

`swap` changes the split, `patched` one setting, `rates` sweeps the learning rate, `memorise` asks whether the network
can learn at all, `attribution` shares the symptom out among several causes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pointcnn_cli.diagnose.arms import measure_step
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.experiments.attribution import attribute
from pointcnn_cli.diagnose.experiments.evidence import Bench
from pointcnn_cli.diagnose.experiments.memorise import memorise_rows
from pointcnn_cli.diagnose.experiments.patched import (
    LEARNED,
    try_shuffled_labels,
    try_standardised,
    try_unregularised,
)
from pointcnn_cli.diagnose.experiments.rates import sweep_rates
from pointcnn_cli.diagnose.experiments.swap import (
    LEAK_CODES,
    SWAP_SYMPTOMS,
    measure_leak,
    measure_shift,
    swap_splits,
)
from pointcnn_cli.diagnose.findings import Diagnosis, Measurement, missing
from pointcnn_cli.diagnose.judge import judge
from pointcnn_cli.diagnose.lab import Lab
from pointcnn_cli.reporting import Reporter

SHORTEST_BUDGET = 60.0  # seconds: a tiny training would else pay for nothing, and a minute is bearable


@dataclass(frozen=True)
class Experiment:
    """One experiment, and when it is worth its time."""

    codes: tuple[str, ...]
    is_needed: Callable[[Bench], bool]
    run: Callable[[Bench], Iterator[Measurement]]


def run_experiments(case: Case, so_far: Diagnosis, budget: float | None, reporter: Reporter) -> list[Measurement]:
    """Train short arms for what `so_far` leaves open; `budget` in seconds, by default the time of the user's training.

    Experiments that fail or do not fit into the budget yield measurements that say so. No file and no weight of the
    network that is diagnosed is changed.
    """
    try:
        bench = open_bench(case, so_far, budget, reporter)
    except Exception as error:  # a model that cannot be cloned, labels that the loss refuses: the checks still stand
        codes = [code for experiment in EXPERIMENTS for code in experiment.codes]
        needs = f"a network that can be trained anew on these rows ({type(error).__name__}: {error})"
        known = isinstance(error, ValueError)
        return [replace(missing(code, needs), details={"failed": not known}) for code in dict.fromkeys(codes)]
    for experiment in _order(bench):
        if experiment.is_needed(bench):
            results = _run(experiment, bench)
            bench.results += results
            _tell_omitted(bench, results)
    try:
        judged = judge([*(finding.measurement for finding in so_far.findings), *bench.results])
        bench.results += attribute(bench, judged)
    except Exception as error:
        reporter.warn(f"causes were not weighed against each other ({type(error).__name__}: {error})")
    return bench.results


def open_bench(case: Case, so_far: Diagnosis, budget: float | None, reporter: Reporter) -> Bench:
    """Read the rows, build and try the network, and set the clock. Raises ValueError for a case without rows or
    network, and whatever Keras raises for one that cannot be trained."""
    started = time.monotonic()
    lab = Lab(case)
    step_seconds = measure_step(lab)
    seconds = estimate_budget(case, lab, step_seconds) if budget is None else budget
    reporter.say(f"experiments: up to {seconds:.0f} s; one training step takes {step_seconds:.3g} s")
    return Bench(lab, so_far, reporter, started + seconds, max(step_seconds, 1e-4), count_planned_steps(case))


def estimate_budget(case: Case, lab: Lab, step_seconds: float) -> float:
    """Seconds of the user's own training, as its history or manifest says, else as measured steps foretell it."""
    known = sum(row.get("seconds", 0.0) for row in case.history)
    if not known and case.manifest is not None:
        known = float(case.manifest.get("seconds_of_last_process") or 0.0)
    if not known:
        known = step_seconds * (count_planned_steps(case) or 0)
    return max(known, SHORTEST_BUDGET)


def count_planned_steps(case: Case) -> int | None:
    """Steps of the whole training that is diagnosed; None where its epochs are unknown."""
    epochs = len(case.history) or case.settings.epochs
    if not epochs or case.train is None:
        return None
    size = case.settings.batch_size or 32
    return int(epochs * (case.settings.steps_per_epoch or -(-len(case.train) // size)))


def _order(bench: Bench) -> list[Experiment]:
    """The split first, since a bad one explains all else; then what is suspected, and what is merely open last: the
    budget may not pay for everything."""

    def rank(experiment: Experiment) -> int:
        if experiment.run in (swap_splits, measure_leak):
            return 0
        return 1 if bench.find(*experiment.codes) is not None else 2

    return sorted(EXPERIMENTS, key=rank)


def _run(experiment: Experiment, bench: Bench) -> list[Measurement]:
    found: list[Measurement] = []
    try:
        for measurement in experiment.run(bench):
            found.append(measurement)
    except Exception as error:  # one experiment that fails must not cost the user the others
        reason = f"Not measured: the experiment failed ({type(error).__name__}: {error})."
        there = {m.code for m in found}
        found += [
            Measurement(code, "missing", reason, details={"failed": True})
            for code in experiment.codes
            if code not in there
        ]
    return found


def _tell_omitted(bench: Bench, results: list[Measurement]) -> None:
    """What a cheaper check has found already stands in the result without a word of an experiment that was not made."""
    for result in results:
        if result.basis == "missing" and bench.find(result.code) is not None:
            bench.reporter.warn(f"no experiment was made for {result.code}. {result.sentence}")


def _suspects(*codes: str) -> Callable[[Bench], bool]:
    return lambda bench: bench.find(*codes) is not None


def _is_swap_needed(bench: Bench) -> bool:
    return bench.find(*SWAP_SYMPTOMS) is not None or bench.lab.case.settings.split_strategy == "tail"


def _is_open(code: str, *suspects: str) -> Callable[[Bench], bool]:
    """Whether a code is suspected, or learning failed and nothing has ruled it out yet."""

    def is_needed(bench: Bench) -> bool:
        reached = bench.last_train_accuracy
        if reached is None:  # before any training: where nothing is suspected, everything is
            failed = not any(f.verdict in ("CONFIRMED", "SUSPECTED") for f in bench.so_far.findings)
        else:
            failed = reached < LEARNED
        # Where another split alone makes the network do well, nothing else needs an excuse.
        failed = failed and not bench.is_ruled_out("PC504")
        return not bench.is_ruled_out(code) and (bench.find(code, *suspects) is not None or failed)

    return is_needed


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(("PC201", "PC202"), _is_swap_needed, swap_splits),
    Experiment(LEAK_CODES, _suspects(*LEAK_CODES), measure_leak),
    Experiment(("PC101",), _suspects("PC101"), try_standardised),
    Experiment(("PC206",), _suspects("PC206"), measure_shift),
    Experiment(("PC302",), _suspects("PC302"), try_shuffled_labels),
    Experiment(("PC407",), _is_open("PC407", "PC406", "PC403"), memorise_rows),
    Experiment(("PC405",), _is_open("PC405"), try_unregularised),
    Experiment(("PC501", "PC502"), _is_open("PC501", "PC502"), sweep_rates),
)

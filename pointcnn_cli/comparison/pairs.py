"""Two runs side by side: whether they answered the same rows, which is better, and the sentence that says so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.comparison.runs import Answers, ComparedRun
from pointcnn_cli.metrics import CONFIDENCE_LEVEL
from pointcnn_cli.paired import PairedDifference, adjust_p, compare_answers

Verdict = Literal["better", "worse", "not_told_apart", "not_compared"]
SIGNIFICANT = 1 - CONFIDENCE_LEVEL
FEW_GROUPS = 10  # with fewer, how small p could be at the best is worth saying: 0.004 with 9 of them


@dataclass(frozen=True, eq=False)
class Pair:
    """A run against the baseline."""

    run: ComparedRun
    baseline: ComparedRun
    found: PairedDifference | None = None
    """Run minus baseline; None where they are not paired."""
    reason: str | None = None
    """Why they are not."""
    p: float = 1.0
    """Adjusted for the number of comparisons."""
    comparisons: int = 1

    @property
    def verdict(self) -> Verdict:
        """What can be said of the run: it is better or worse than the baseline only where p is at most 0.05."""
        if self.found is None:
            return "not_compared"
        if self.p > SIGNIFICANT:
            return "not_told_apart"
        return "better" if self.found.difference > 0 else "worse"

    def as_document(self) -> dict[str, Any]:
        """JSON-ready."""
        found = self.found
        return {
            "run": str(self.run.path),
            "baseline": str(self.baseline.path),
            "verdict": self.verdict,
            "sentence": describe_pair(self),
            "reason": self.reason,
            "n": found and found.rows,
            "n_groups": found and found.groups,
            "accuracy_difference": found and found.difference,
            "interval": found and list(found.interval),
            "interval_method": found and found.interval_method,
            "p": found and found.p,
            "p_adjusted": found and self.p,
            "smallest_p": found and found.smallest_p,
            "test": found and found.test,
            "only_run_right": found and found.only_right,
            "only_baseline_right": found and found.only_other,
        }


def compare_with_first(runs: Sequence[ComparedRun]) -> list[Pair]:
    """Each further run against the first, which was chosen before any score was seen; the best one here is chosen by
    its luck too. P values of those that can be paired are adjusted for their number (Holm 1979)."""
    pairs = [_make_pair(run, runs[0]) for run in runs[1:]]
    found = [pair.found.p for pair in pairs if pair.found is not None]
    adjusted = iter(adjust_p(found))
    return [replace(pair, p=next(adjusted), comparisons=len(found)) if pair.found else pair for pair in pairs]


def _make_pair(run: ComparedRun, baseline: ComparedRun) -> Pair:
    if problem := baseline.problem or run.problem:
        return Pair(run, baseline, reason=problem)
    if run.answers is None or baseline.answers is None:
        raise ValueError("a run without a problem has answers")
    if reason := explain_difference(run.answers, baseline.answers):
        return Pair(run, baseline, reason=reason)
    groups = _choose_groups(run.answers, baseline.answers)
    return Pair(run, baseline, compare_answers(run.answers.right, baseline.answers.right, groups))


def explain_difference(one: Answers, other: Answers) -> str | None:
    """In words, why these are not the same rows; None where they are."""
    if one.source != other.source:
        rows = [answers.source.get("rows") for answers in (one, other)]
        if rows[0] != rows[1]:
            return f"their data differ: {rows[0]} and {rows[1]} rows"
        return "their data differ: as many rows, but other labels or values"
    if not np.array_equal(one.numbers, other.numbers):
        shared = len(np.intersect1d(one.numbers, other.numbers))
        counts = f"{len(one.numbers)} and {len(other.numbers)} rows"
        return f"they were scored on other rows of the same data: {counts}, of which they share {shared}"
    if not np.array_equal(one.labels, other.labels):
        return "the same rows have other labels for them (data.labels)"
    return None


def _choose_groups(one: Answers, other: Answers) -> NDArray[np.int64] | None:
    """The groups of both; the larger ones where their configs name different ones, for they promise less."""
    known = [answers.groups for answers in (one, other) if answers.groups is not None]
    return min(known, key=lambda groups: len(np.unique(groups)), default=None)


def describe_pair(pair: Pair) -> str:
    """One sentence on which is better and by how much, or that nobody can tell; and what limits it."""
    found = pair.found
    if found is None:
        return f"No winner is named between {pair.run.title} and {pair.baseline.title}: {pair.reason}."
    rows = f"the same {found.rows} rows" + ("" if found.groups is None else f" of {count_groups(found.groups)}")
    one, other = pair.run, pair.baseline
    difference, (low, high) = found.difference, found.interval
    if pair.verdict == "worse":
        one, other, difference, low, high = other, one, -difference, -high, -low
    scores = f"accuracy {_get_accuracy(one):.3f} against {_get_accuracy(other):.3f} on {rows}"
    evidence = f"95 % interval {low:+.3f} to {high:+.3f}, {_describe_p(pair)}"
    limits = _describe_limits(pair, found)
    if pair.verdict == "not_told_apart":
        return (
            f"{one.title} and {other.title} cannot be told apart: {scores}, difference {difference:+.3f} "
            f"({evidence}).{limits}"
        )
    return f"{one.title} is better than {other.title} by {difference:.3f}: {scores} ({evidence}).{limits}"


def count_groups(count: int) -> str:
    """`1 group`, `26 groups`."""
    return f"{count} group{'' if count == 1 else 's'}"


def _get_accuracy(run: ComparedRun) -> float:
    return float((run.metrics or {})["accuracy"])


def _describe_p(pair: Pair) -> str:
    p = pair.found.p if pair.found else 1.0
    if pair.comparisons < 2:
        return f"p = {p:.2g}"
    return f"p = {p:.2g}, {pair.p:.2g} when adjusted for {pair.comparisons} comparisons"


def _describe_limits(pair: Pair, found: PairedDifference) -> str:
    if found.groups is None:
        return " The data name no groups, so rows are taken as independent."
    best = min(1.0, found.smallest_p * pair.comparisons)
    if best > SIGNIFICANT:
        needed = math.ceil(math.log2(2 * pair.comparisons / SIGNIFICANT))  # p is 2 / 2 ** groups at the best
        return (
            f" With {count_groups(found.groups)} p is {best:.2g} at the best, so no difference could be shown: score "
            f"at least {needed} groups."
        )
    if found.groups < FEW_GROUPS:
        return f" With {count_groups(found.groups)} p is {best:.2g} at the best."
    return ""

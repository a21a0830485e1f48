"""The first sentence of a page: how good the model is, and whether to believe it; judged by fixed rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pointcnn_cli.diagnose.findings import Finding
from pointcnn_cli.metrics import FEWEST_GROUPS
from pointcnn_cli.report.facts import ReportFacts
from pointcnn_cli.report.markup import NO_BREAK
from pointcnn_cli.report.scored import ScoredRows

Level = Literal["bad", "caution", "good"]
LABELS: dict[Level, str] = {
    "bad": "✗ Do not believe this score",
    "caution": "! Believe it with care",
    "good": "✓ A score to believe",
}
MOST_NAMED = 5  # classes in a sentence
# Confirmed, these make the score a measure of something else than the network on new rows (catalogue of `diagnose`).
SPOILS_SCORE = ("PC701", "PC305", "PC201", "PC202", "PC203", "PC204", "PC205", "PC301", "PC302", "PC208", "PC601")


@dataclass(frozen=True)
class Verdict:
    """What is seen first."""

    level: Level
    sentence: str
    reasons: tuple[str, ...]
    """Full sentences: what the level rests on, gravest first."""

    @property
    def label(self) -> str:
        """The level in words, with a mark that is no colour."""
        return LABELS[self.level]


def judge_score(facts: ReportFacts) -> Verdict:
    """The verdict on a run's score, or on its having none.

    `bad`: classes without training rows are among the scored rows, they were trained on, or `diagnose` confirms a fault
    that makes the score mean something else. `caution`: weights were chosen on the rows, groups are shared, unknown or
    fewer than five, the training did not end, or the interval holds chance. `good`: none of these.
    """
    graver, lesser = _list_grave(facts), _list_lesser(facts)
    if facts.scored is None:
        return Verdict("bad", _tell_unscored(facts), (*graver, *lesser))
    level: Level = "bad" if graver else "caution" if lesser else "good"
    if facts.untrained:
        return Verdict("bad", _tell_untrained(facts, facts.scored), (*graver, *lesser))
    belief = {
        "bad": f"do not believe it, for {_begin_small(graver[0]) if graver else ''}",
        "caution": f"believe it with care, for {_begin_small(lesser[0]) if lesser else ''}",
        "good": f"this can be believed, {_tell_novelty(facts)}.",
    }[level]
    rest = tuple(graver + lesser)[1:]
    return Verdict(level, f"{_tell_accuracy(facts.scored)}: {belief}", rest or _list_support(facts, level))


def _tell_untrained(facts: ReportFacts, scored: ScoredRows) -> str:
    """The sentence for a split that hides classes from training: it names them, and the ceiling."""
    m, several = scored.metrics, len(facts.untrained) > 1
    return (
        f"{'Classes' if several else 'The class'} {name_some(facts.untrained)} {'were' if several else 'was'} never "
        f"trained, so no network can pass a ceiling of {percent(m['ceiling_accuracy'])} on these {m['n']} "
        f"{scored.what}: the accuracy of {percent(m['accuracy'])} ({_tell_interval(scored)}) says nothing about this "
        "network, only about the split."
    )


def _tell_accuracy(scored: ScoredRows) -> str:
    m = scored.metrics
    return (
        f"Right on {percent(m['accuracy'])} of {m['n']} {scored.what} ({_tell_interval(scored)}), against "
        f"{percent(m['chance_accuracy'])} for the best constant answer and a ceiling of "
        f"{percent(m['ceiling_accuracy'])}"
    )


def _tell_interval(scored: ScoredRows) -> str:
    low, high = scored.metrics["accuracy_ci"]
    groups = scored.metrics["n_groups"]
    return f"95 % interval {percent(low)} to {percent(high)}" + (f", {groups} groups" if groups else "")


def _tell_unscored(facts: ReportFacts) -> str:
    epochs = len(facts.history)
    done = f"after {epochs} epoch{'s' if epochs != 1 else ''}" if epochs else "before its first epoch was done"
    ended = "" if facts.status == "finished" else f" (its training did not end: {facts.status} {done})"
    return f"This run has no score to believe or doubt{ended}: {_begin_small(facts.unscored or '')}"


def _tell_novelty(facts: ReportFacts) -> str:
    if facts.novelty.kind == "unseen":
        return f"since none of its {facts.novelty.groups} groups was trained on and no weights were chosen on them"
    return "since these rows come from files that were not trained on"


def _list_grave(facts: ReportFacts) -> list[str]:
    reasons = []
    if facts.untrained and facts.scored is not None:
        shares = [(name, facts.scored.metrics["per_class"][name]["support"]) for name in facts.untrained]
        listed = ", ".join(f"{name} ({rows} rows)" for name, rows in shares[:MOST_NAMED])
        reasons.append(f"Scored classes without a single training row: {listed}{_count_more(shares)}.")
    if facts.novelty.kind == "trained":
        reasons.append("The network was trained on rows of this very file.")
    if facts.own_rows and facts.diagnosis is not None:
        confirmed = [f for f in facts.diagnosis.findings if f.verdict == "CONFIRMED" and f.code in SPOILS_SCORE]
        reasons += [f"{f.title} ({f.code} in diagnose)." + _tell_cure(f) for f in confirmed]
    return reasons


def _tell_cure(finding: Finding) -> str:
    cure = " ".join(f"--set {key}={value}" for key, value in finding.fix.set.items())
    return f" Cure: {cure}." if cure else ""


def _list_lesser(facts: ReportFacts) -> list[str]:
    reasons, scored, novelty = [], facts.scored, facts.novelty
    if facts.status != "finished":
        reasons.append(f"The training did not end ({facts.status}); these are the weights that it had saved.")
    if scored is None:
        return reasons
    m = scored.metrics
    if m["accuracy_ci"][0] <= m["chance_accuracy"] < m["ceiling_accuracy"]:
        reasons.append("The interval holds the score of a constant answer, so it may have learned nothing.")
    if novelty.kind == "shared":
        reasons.append(
            f"Of its {novelty.groups} groups, {novelty.shared} also have training rows ({percent(novelty.shared_rows)} "
            "of the rows), which new groups would not have."
        )
    if novelty.kind == "ungrouped":
        reasons.append(
            "The data name no groups, so neighbouring rows of one person or recording may have been trained on."
        )
    if novelty.kind == "unknown":
        reasons.append("Whether its groups were trained on cannot be told without the data.")
    if m["selected_on_these_rows"]:
        reasons.append("The kept weights were chosen on these rows, which makes the score somewhat too good.")
    if m["n_groups"] is not None and m["n_groups"] < FEWEST_GROUPS:
        reasons.append(f"Its rows come from {m['n_groups']} group{'s' if m['n_groups'] != 1 else ''} only.")
    return reasons


def _list_support(facts: ReportFacts, level: Level) -> tuple[str, ...]:
    """What speaks for a score that is good or nearly so."""
    if level == "bad" or facts.novelty.kind != "unseen":
        return ()
    return (f"None of its {facts.novelty.groups} groups has a training row.",) if level == "caution" else ()


def name_some(names: Sequence[str]) -> str:
    """Names in a sentence, the first few of many."""
    return ", ".join(names[:MOST_NAMED]) + _count_more(names)


def _count_more(names: Sequence[object]) -> str:
    return f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""


def percent(share: float) -> str:
    """A share as a person reads it, 87.2 %, which is not broken at the end of a line."""
    return (f"{100 * share:.0f}" if share in (0, 1) else f"{100 * share:.1f}") + f"{NO_BREAK}%"


def _begin_small(sentence: str) -> str:
    """To go on after a colon or a comma; names and codes keep their capitals."""
    return sentence if sentence[:2].isupper() else sentence[:1].lower() + sentence[1:]

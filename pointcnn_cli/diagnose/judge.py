"""The one place that judges: from measurements to verdicts, by the rules that hold for all codes."""

from collections.abc import Iterable

from pointcnn_cli.diagnose.catalogue import CATALOGUE, RANK
from pointcnn_cli.diagnose.findings import VERDICTS, Diagnosis, Finding, Measurement, Verdict

ALPHA = 0.001  # for each of 33 codes: all together stay below 3.5 % (Bonferroni)
EFFECT_GATE = 0.05  # accuracy; what is significant and smaller does not explain a bad run
FEWEST_GROUPS = 11  # sign flips of fewer clusters cannot reach p < 0.001 (2 ** -10)

# Explanations that only count where a deeper one is not confirmed: code -> codes that explain it away.
SPLIT_AND_LABELS = ("PC201", "PC202", "PC203", "PC204", "PC205", "PC208", "PC301", "PC302", "PC305", "PC403", "PC404")
EXPLAINED_BY: dict[str, tuple[str, ...]] = {
    "PC504": (*SPLIT_AND_LABELS, "PC206", "PC303"),
    "PC603": (*SPLIT_AND_LABELS, "PC407", "PC405", "PC501", "PC502", "PC406", "PC101", "PC102"),
    "PC406": ("PC501", "PC102"),
    "PC206": ("PC201", "PC202", "PC208", "PC301", "PC103"),
    "PC301": ("PC201", "PC103", "PC208"),
    "PC202": ("PC201",),
    "PC204": ("PC203",),
}
# The same, where a suspicion is enough: overfitting is what is left when nothing is wrong with the labels.
DOUBTED_BY: dict[str, tuple[str, ...]] = {"PC504": ("PC302", "PC303")}


def judge(measurements: Iterable[Measurement]) -> Diagnosis:
    """Give each measurement its verdict, keep the strongest of each code, and rank them.

    Raises KeyError for a code that the catalogue does not know.
    """
    found: dict[str, Finding] = {}
    absent: dict[str, Measurement] = {}
    for m in measurements:
        verdict = decide(m)
        if verdict is None:
            absent.setdefault(m.code, m)
        elif m.code not in found or _outweighs(verdict, m, found[m.code]):
            found[m.code] = Finding(verdict, CATALOGUE[m.code], m)
    confirmed = {code for code, finding in found.items() if finding.verdict == "CONFIRMED"}
    likely = confirmed | {code for code, finding in found.items() if finding.verdict == "SUSPECTED"}
    kept = [_explain_away(finding, confirmed, likely) for finding in found.values()]
    # What one check could not measure and another ruled out is ruled out.
    kept = [f for f in kept if not (f.verdict == "INCONCLUSIVE" and f.code in absent)]
    kept.sort(key=lambda f: (_strength(f.verdict), RANK[f.code]))
    settled = {finding.code for finding in kept}
    ruled_out = sorted((m for code, m in absent.items() if code not in settled), key=lambda m: RANK[m.code])
    return Diagnosis(tuple(kept), tuple(ruled_out))


def decide(m: Measurement) -> Verdict | None:
    """The verdict on one measurement; None where the fault is ruled out.

    A proof needs no significance; a test or an experiment needs both significance and an effect worth having.
    """
    if m.basis == "missing":
        return "INCONCLUSIVE"
    if not m.found:
        return None
    return _weaker(_decide_found(m), m.at_most)


def _decide_found(m: Measurement) -> Verdict:
    if m.basis == "proof":
        return "CONFIRMED" if m.harm else "PRESENT"
    significant = m.p is not None and m.p < ALPHA
    worth = m.effect is None or m.effect >= EFFECT_GATE
    if not (significant and worth) or (m.groups is not None and m.groups < FEWEST_GROUPS):
        return "SUSPECTED"
    return "PRESENT" if m.harm is False else "CONFIRMED"


def _outweighs(verdict: Verdict, m: Measurement, other: Finding) -> bool:
    """Whether a measurement takes the place of a finding: a stronger verdict, or the same one and arms trained for it.

    Experiments carry along what was found before them (`experiments.evidence.join`).
    """
    return _strength(verdict) < _strength(other.verdict) or (verdict == other.verdict and "arms" in m.details)


def _explain_away(finding: Finding, confirmed: set[str], likely: set[str]) -> Finding:
    """A symptom whose cause is confirmed is no cause itself."""
    causes = confirmed.intersection(EXPLAINED_BY.get(finding.code, ())) - {finding.code}
    causes |= likely.intersection(DOUBTED_BY.get(finding.code, ()))
    if not causes or finding.verdict != "CONFIRMED":
        return finding
    return Finding("SUSPECTED", finding.title, finding.measurement)


def _strength(verdict: Verdict) -> int:
    return VERDICTS.index(verdict)


def _weaker(one: Verdict, other: Verdict) -> Verdict:
    return max(one, other, key=_strength)

"""What a diagnosis is made of: measurements, the findings that are judged from them, and the document they become."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 1
Verdict = Literal["CONFIRMED", "PRESENT", "SUSPECTED", "INCONCLUSIVE"]
VERDICTS: tuple[Verdict, ...] = ("CONFIRMED", "PRESENT", "SUSPECTED", "INCONCLUSIVE")
"""CONFIRMED: proven, and it spoils the score. PRESENT: proven to be there, its harm nil or untested. SUSPECTED: likely,
not proven. INCONCLUSIVE: could not be measured. Only CONFIRMED is an alarm."""
Basis = Literal["proof", "test", "experiment", "missing"]
"""`proof`: a count or an identity, true without statistics. `test`: compared with a null distribution. `experiment`:
arms trained for the purpose. `missing`: not measured."""


@dataclass(frozen=True)
class Fix:
    """What to do about a finding."""

    text: str
    """One or two sentences."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Config keys and values, as `--set KEY=VALUE` takes them; empty where no setting cures it."""


@dataclass(frozen=True)
class Measurement:
    """What one check saw. It does not judge: see `judge.judge`."""

    code: str
    """`PC201` and so on; a key of `catalogue.CATALOGUE`."""
    basis: Basis
    sentence: str
    """What was seen, for a person, with its numbers; for `missing`, what would be needed."""
    found: bool = True
    """Whether the fault is there at all: the value crosses its threshold."""
    harm: bool | None = None
    """True: shown to spoil the score; False: shown, or known, not to; None: not tested."""
    statistic: str = ""
    """The name of `value`."""
    value: float | None = None
    threshold: float | None = None
    """What `value` is held against."""
    n: int | None = None
    """Rows (or whatever is counted) behind `value`."""
    groups: int | None = None
    """Clusters that the test treated as its units; None where rows are independent or nothing was tested."""
    effect: float | None = None
    """Size in shares of accuracy (0.05 is five points), where it is one."""
    interval: tuple[float, float] | None = None
    """Confidence interval of `effect`, or of `value` where there is no effect."""
    interval_level: float | None = None
    p: float | None = None
    null: str | None = None
    """Where the null distribution came from."""
    minimum_detectable_effect: float | None = None
    """The smallest effect that would have been found; said of what is ruled out."""
    at_most: Verdict = "CONFIRMED"
    """The strongest verdict that this kind of measurement can carry."""
    fix: Fix | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """More numbers, JSON-ready."""


def missing(code: str, needs: str) -> Measurement:
    """The measurement of a check that could not be made; `needs` completes the sentence "it needs ..."."""
    return Measurement(code, "missing", f"Not measured: it needs {needs}.")


@dataclass(frozen=True)
class Finding:
    """A judged measurement."""

    verdict: Verdict
    title: str
    measurement: Measurement

    @property
    def code(self) -> str:
        """The fault's code."""
        return self.measurement.code

    @property
    def fix(self) -> Fix:
        """What to do; without settings where none cures it."""
        return self.measurement.fix or Fix("")

    def as_document(self) -> dict[str, Any]:
        """As `diagnose --json` shows it."""
        return {
            "code": self.code,
            "verdict": self.verdict,
            "title": self.title,
            "evidence": _describe_evidence(self.measurement),
            "fix": {"set": dict(self.fix.set), "text": self.fix.text},
        }


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found, most important first, and what was looked for and is not there."""

    findings: tuple[Finding, ...]
    ruled_out: tuple[Measurement, ...]

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Codes that are CONFIRMED, most important first."""
        return tuple(finding.code for finding in self.findings if finding.verdict == "CONFIRMED")

    def as_document(self) -> dict[str, Any]:
        """As `diagnose --json` shows it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "findings": [finding.as_document() for finding in self.findings],
            "ruled_out": [
                {
                    "code": m.code,
                    "statistic": {"name": m.statistic, "value": m.value, "threshold": m.threshold, "n": m.n, "p": m.p},
                    "minimum_detectable_effect": m.minimum_detectable_effect,
                    "sentence": m.sentence,
                }
                for m in self.ruled_out
            ],
        }


def _describe_evidence(m: Measurement) -> dict[str, Any]:
    return {
        "sentence": m.sentence,
        "basis": m.basis,
        "statistic": m.statistic,
        "value": m.value,
        "threshold": m.threshold,
        "n": m.n,
        "groups": m.groups,
        "effect": m.effect,
        "interval": None if m.interval is None else list(m.interval),
        "interval_level": m.interval_level,
        "p": m.p,
        "null": m.null,
        **m.details,
    }

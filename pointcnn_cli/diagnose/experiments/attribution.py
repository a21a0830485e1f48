"""Which of several causes explains the bad score: every cure at once, then all but one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pointcnn_cli.diagnose.experiments.evidence import FEWEST_STEPS, SCORING_STEPS, Bench
from pointcnn_cli.diagnose.experiments.swap import MOST_OWN
from pointcnn_cli.diagnose.findings import Diagnosis, Measurement
from pointcnn_cli.diagnose.lab import Patches
from pointcnn_cli.diagnose.outcomes import pick_rows
from pointcnn_cli.models import QUICK_MOMENTUM

SPLIT_CODES = ("PC201", "PC202", "PC208")  # cured by another choice of rows
SMALLEST_GAIN = 0.05  # below it there is nothing to share out


def attribute(bench: Bench, diagnosis: Diagnosis) -> list[Measurement]:
    """The measurements of all curable causes with their share of the symptom; empty where there are fewer than two.

    The symptom is the accuracy that the user would see: on the arm's own validation rows, which are the trusted ones
    where the split is cured. With two causes the four arms are a full 2x2 factorial.
    """
    causes = {
        f.code: f.measurement
        for f in diagnosis.findings
        if f.verdict in ("CONFIRMED", "SUSPECTED") and (f.code in SPLIT_CODES or _find_patch(f.measurement))
    }
    cures = [code for code in causes if code != "PC202" or "PC201" not in causes]
    arms = len(cures) + 2
    if len(cures) < 2 or bench.steps_left < arms * (FEWEST_STEPS + SCORING_STEPS):
        return []
    steps = min(bench.steps_left // arms - SCORING_STEPS, _find_steps(bench))
    sets = [(), tuple(cures), *(tuple(c for c in cures if c != left) for left in cures)]
    scores = {chosen: _score(bench, chosen, causes, steps) for chosen in sets}
    none, cured = scores[()], scores[tuple(cures)]
    gain = cured - none
    shares = {
        left: round((cured - scores[tuple(c for c in cures if c != left)]) / gain, 3) if gain >= SMALLEST_GAIN else None
        for left in cures
    }
    document = {
        "score": "accuracy on the validation rows of each arm",
        "steps": steps,
        "nothing_cured": round(none, 4),
        "all_cured": round(cured, 4),
        "all_but": {left: round(scores[tuple(c for c in cures if c != left)], 4) for left in cures},
        "share": shares,
    }
    if len(cures) == 2:
        document["only"] = {code: round(scores[(code,)], 4) for code in cures}
    return [_attach(causes[code], document, shares[code]) for code in cures]


def _attach(m: Measurement, document: Mapping[str, Any], share: float | None) -> Measurement:
    note = "" if share is None else f" Curing all but this gives up {max(share, 0.0):.0%} of what curing all gains."
    return replace(
        m, sentence=m.sentence + note, details={"arms": {}, **m.details, "attribution": {**document, "this": share}}
    )


def _find_steps(bench: Bench) -> int:
    plan = bench.plan(1)
    return plan.steps if plan is not None else FEWEST_STEPS


def _find_patch(m: Measurement) -> Mapping[str, Any] | None:
    """The patch that cures a fault, as fields of `Patches`."""
    patches: dict[str, dict[str, Any]] = {
        "PC101": {"standardise": True},
        "PC304": {"balanced": True},
        "PC404": {"momentum": QUICK_MOMENTUM},
        "PC405": {"unregularised": True},
        "PC503": {"shuffle": True},
        "PC703": {"augment": False},
    }
    if m.code in ("PC501", "PC502"):
        rate = m.fix.set.get("train.learning_rate") if m.fix is not None else None
        return None if rate is None else {"learning_rate": float(rate)}
    return patches.get(m.code)


def _press_momentum(bench: Bench, steps: int) -> float | None:
    """A momentum that leaves as much of the initial statistics after `steps` as the configured one does after the
    whole training."""
    slow = bench.lab.momentum
    return None if slow is None else float(slow ** max(1.0, (bench.planned_steps or steps) / steps))


def _score(bench: Bench, cures: tuple[str, ...], causes: Mapping[str, Measurement], steps: int) -> float:
    fold = bench.folds(2)[0]
    lab = bench.lab
    fields: dict[str, Any] = {"momentum": _press_momentum(bench, steps)} if "PC404" in causes else {}
    for code in cures:
        fields |= _find_patch(causes[code]) or {}
    name = "nothing cured" if not cures else "cured: " + ", ".join(cures)
    if any(code in SPLIT_CODES for code in cures):
        return bench.arm(name, fold.fair, fold.trusted, 0, steps, Patches(**fields)).accuracy
    own = pick_rows(lab.validation, MOST_OWN, lab.case.rng("PC201"))
    arm = bench.arm(name, fold.user, np.concatenate([fold.trusted, own]), 0, steps, Patches(**fields))
    return float(arm.hits[len(fold.trusted) :].mean())

"""PC603: whether the network answers better than a constant."""

from collections.abc import Iterator

import numpy as np

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.outcomes import NEEDS, Outcome, find_majority, score_train, score_validation
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import compute_binomial_p, compute_cluster_interval
from pointcnn_cli.paired import compare_paired

COLLAPSED = 0.95  # share of rows with one answer
BALANCED = 0.5  # largest class share up to which a single answer is no sensible one
CHANCE_MARGIN = 0.10  # accuracy above the best constant that an interval must exclude before "at chance" is said


def check_chance(case: Case) -> Iterator[Measurement]:
    """PC603: validation answers against the best constant one, and whether training rows all get one answer."""
    validation, training = score_validation(case), score_train(case)
    if validation is None:
        yield missing("PC603", NEEDS)
        return
    if training is not None:
        yield from _measure_collapse(training, find_majority(case))
    known = validation.labels[validation.labels >= 0]
    if not len(known):
        return
    counts = np.bincount(known)
    n, share = len(validation.rows), float(counts.max() / len(validation.rows))
    gains = validation.hits - (validation.labels == counts.argmax())
    rng = case.rng("PC603")
    if validation.groups is None:
        p = compute_binomial_p(int(validation.hits.sum()), n, share)
    else:
        p = compare_paired(gains, validation.groups, rng)
    low, high = compute_cluster_interval(gains, validation.groups, rng)
    found = high < CHANCE_MARGIN and p >= 0.001
    if not found and p >= 0.001 and gains.mean() < CHANCE_MARGIN:
        yield missing(
            "PC603", f"more validation rows or groups: the gain over a constant is between {low:.3f} and {high:.3f}"
        )
        return
    yield Measurement(
        "PC603",
        "test",
        f"Of {n} validation rows {validation.accuracy:.3f} are answered right; the best constant answer has "
        f"{share:.3f}. The "
        f"difference is between {low:+.3f} and {high:+.3f} (95 %). {len(np.unique(validation.predicted))} of "
        f"{validation.classes} classes are ever answered.",
        found=found,
        statistic="accuracy above the best constant answer",
        value=float(gains.mean()),
        threshold=CHANCE_MARGIN,
        n=n,
        groups=None if validation.groups is None else len(np.unique(validation.groups)),
        effect=float(gains.mean()),
        interval=(low, high),
        interval_level=0.95,
        p=p,
        null="exact binomial at the largest class share" if validation.groups is None else "sign flips of groups",
        at_most="SUSPECTED",  # a symptom: other codes name its cause
        minimum_detectable_effect=CHANCE_MARGIN,
        fix=Fix(
            "This is a symptom. Look at labels and inputs first (PC302, PC102), then whether the network can learn "
            "(PC407)."
        )
        if found
        else None,
        details={"answers": np.bincount(validation.predicted, minlength=validation.classes).tolist()},
    )


def _measure_collapse(training: Outcome, majority: float) -> Iterator[Measurement]:
    largest = float(np.bincount(training.predicted).max() / len(training.rows))
    if largest < COLLAPSED or majority > BALANCED:
        return
    yield Measurement(
        "PC603",
        "proof",
        f"The network gives the same answer to {largest:.0%} of {len(training.rows)} training rows, although no "
        f"class has more than {majority:.0%} of them. It has learnt nothing from its inputs.",
        harm=True,
        statistic="share of training rows with the most frequent answer",
        value=largest,
        threshold=COLLAPSED,
        n=len(training.rows),
        fix=Fix(
            "Something keeps the network from learning: learning rate, input scale, dead units or labels. See the "
            "other codes."
        ),
    )


CHECKS = (Check(("PC603",), Tier.FORWARD, check_chance),)

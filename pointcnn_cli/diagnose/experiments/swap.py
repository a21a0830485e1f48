"""Experiments on the split: the user's against a stratified grouped one, both scored on rows that neither has seen."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.arms import Arm
from pointcnn_cli.diagnose.experiments.evidence import (
    INTERVAL_LEVEL,
    POWER_ERRORS,
    Bench,
    Comparison,
    Plan,
    compare,
    describe_arms,
    describe_comparison,
    describe_p,
    groups_at,
    join,
)
from pointcnn_cli.diagnose.experiments.trusted import Fold
from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import ALPHA, EFFECT_GATE
from pointcnn_cli.diagnose.lab import Patches
from pointcnn_cli.diagnose.outcomes import pick_rows
from pointcnn_cli.diagnose.statistics import BOOTSTRAPS, draw_cluster_means
from pointcnn_cli.paired import compute_p

Floats = NDArray[np.float64]
CUT_CODES = ("PC201", "PC202")
LEAK_CODES = ("PC203", "PC204")
SWAP_SYMPTOMS = (*CUT_CODES, "PC206", "PC504", "PC603")  # what a wrong split may be behind
NOT_THE_CAUSE = {
    "PC504": "Overfitting is",
    "PC405": "Dropout and other regularisation are",
    "PC501": "A learning rate that is too high is",
    "PC502": "A learning rate that is too low is",
}
MOST_OWN = 300  # validation rows that an arm is scored on besides the trusted ones


def swap_splits(bench: Bench) -> Iterator[Measurement]:
    """PC201 or PC202 by a controlled experiment, and what a healthy second arm rules out."""
    before = bench.find(*CUT_CODES)
    code = before.code if before is not None else "PC201"
    plan = bench.plan(2, spare=0.9)
    if plan is None:
        yield missing(code, bench.price(2 * 130) + " for a training under another split")
        return
    lab = bench.lab
    own = pick_rows(lab.validation, MOST_OWN, lab.case.rng(code))
    folds = bench.folds(plan.folds)[: plan.repeats]
    arms = [_train_pair(bench, fold, seed, plan, own) for seed, fold in enumerate(folds)]
    trusted = np.concatenate([fold.trusted for fold in folds])
    sizes = [len(fold.trusted) for fold in folds]
    user_hits = np.concatenate([a.hits[:size] for (a, _), size in zip(arms, sizes, strict=True)])
    fair_hits = np.concatenate([b.hits for _, b in arms])
    own_accuracy = float(np.mean([a.hits[size:].mean() for (a, _), size in zip(arms, sizes, strict=True)]))
    result = compare(fair_hits, user_hits, groups_at(lab, trusted), code, lab)
    accuracies = {
        "your split, on its own validation rows": own_accuracy,
        "your split, on trusted rows": float(user_hits.mean()),
        "stratified split, on trusted rows": float(fair_hits.mean()),
    }
    measured = _measure_swap(code, result, accuracies, plan, arms)
    if before is None and not measured.found:
        yield measured
        return
    joined = join(before, measured)
    yield joined
    threshold = max(own_accuracy, _find_ceiling(bench), max(lab.chance(f.fair, f.trusted) for f in folds))
    yield from _rule_out(bench, fair_hits, trusted, threshold)


def _train_pair(bench: Bench, fold: Fold, seed: int, plan: Plan, own: Rows) -> tuple[Arm, Arm]:
    score = np.concatenate([fold.trusted, own])
    user = bench.arm("your split", fold.user, score, seed, plan.steps, Patches())
    return user, bench.arm("stratified split", fold.fair, fold.trusted, seed, plan.steps, Patches())


def _measure_swap(
    code: str, result: Comparison, accuracies: dict[str, float], plan: Plan, arms: list[tuple[Arm, Arm]]
) -> Measurement:
    own, user, fair = accuracies.values()
    agree = all(b.accuracy > a.hits[: len(b.hits)].mean() for a, b in arms)
    sentence = (
        f"Trained the same way ({plan.steps} steps, {_count_seeds(plan)}), the network with your split scored "
        f"{own:.2f} on your own validation rows and {user:.2f} on people it had not seen; with a stratified split "
        f"and nothing else changed it scored {fair:.2f} on these ({describe_comparison(result)})."
    )
    grouped = result.groups is not None
    return Measurement(
        code,
        "experiment",
        sentence,
        found=result.effect >= EFFECT_GATE,
        harm=True if result.p < ALPHA else None,
        statistic="accuracy gained by a stratified split, on trusted rows",
        value=result.effect,
        threshold=EFFECT_GATE,
        at_most="CONFIRMED" if agree else "SUSPECTED",
        fix=Fix(
            "Split at random within classes, and keep people or recordings together.",
            {"split.strategy": "stratified_group" if grouped else "stratified"},
        ),
        details=describe_arms(
            {"your split": [a for a, _ in arms], "stratified": [b for _, b in arms]}, accuracies, plan
        )
        | {"seeds_agree": agree},
        **result.as_fields(),
    )


def _find_ceiling(bench: Bench) -> float:
    """The best accuracy that the user's split allows on its own validation rows; 0 where it allows all."""
    lab = bench.lab
    ceiling = float(np.isin(lab.labels[lab.validation], lab.labels[lab.train]).mean())
    return ceiling if ceiling < 1.0 else 0.0


def _rule_out(bench: Bench, hits: NDArray[np.bool_], trusted: Rows, threshold: float) -> Iterator[Measurement]:
    """With another split the same network, rates and dropout do well: these are not what holds the score down."""
    lab = bench.lab
    level = np.full(len(hits), threshold)
    result = compare(hits, level, groups_at(lab, trusted), "PC504", lab)
    if result.p >= ALPHA or result.effect < EFFECT_GATE:
        return
    for code, name in NOT_THE_CAUSE.items():
        yield Measurement(
            code,
            "experiment",
            f"{name} not the cause: with only the split changed, and network, regularisation and learning rate left as "
            f"they are, accuracy on people that were not trained on is {hits.mean():.2f}, against {threshold:.2f} that "
            f"your split shows or allows ({describe_p(result.p)}).",
            found=False,
            statistic="accuracy on trusted rows when only the split is changed",
            value=float(hits.mean()),
            threshold=threshold,
            **result.as_fields(),
        )


def measure_leak(bench: Bench) -> Iterator[Measurement]:
    """PC203 and PC204: each validation row scored by a network that knows its group, and by one that does not."""
    codes = [code for code in LEAK_CODES if bench.find(code) is not None]
    lab = bench.lab
    plan = bench.plan(2)
    if lab.groups is None or plan is None:
        needs = "groups or recordings of the rows" if lab.groups is None else bench.price(2 * 130)
        yield from (missing(code, needs) for code in codes)
        return
    own = pick_rows(lab.validation, 2 * MOST_OWN, lab.case.rng("PC204"))
    known, unknown, arms = [], [], []
    for seed in range(plan.repeats):
        folds = bench.folds(2)
        pair = [
            bench.arm(f"your split without half {i} of the people", f.user, own, seed, plan.steps, Patches())
            for i, f in enumerate(folds, 1)
        ]
        held_out = ~np.isin(own, folds[0].kept)  # in the first half, which the first network has not seen
        known.append(np.where(held_out, pair[1].hits, pair[0].hits))
        unknown.append(np.where(held_out, pair[0].hits, pair[1].hits))
        arms += pair
    leaky, clean = np.mean(known, axis=0), np.mean(unknown, axis=0)
    result = compare(leaky, clean, groups_at(lab, own), "PC204", lab)
    agree = all(a.mean() > b.mean() for a, b in zip(known, unknown, strict=True))
    accuracies = {"people in training": float(leaky.mean()), "people not in training": float(clean.mean())}
    for code in codes:
        sentence = (
            f"The same validation rows were scored {leaky.mean():.2f} by a network that had trained on other rows of "
            f"their people or recordings, and {clean.mean():.2f} by one that had not ({plan.steps} steps, "
            f"{_count_seeds(plan)}; {describe_comparison(result)}): that much the leak flatters."
        )
        measured = Measurement(
            code, "experiment", sentence, found=result.effect >= EFFECT_GATE,
            harm=True if result.p < ALPHA else None,
            statistic="accuracy owed to the leak", value=result.effect, threshold=EFFECT_GATE,
            at_most="CONFIRMED" if agree else "SUSPECTED",
            fix=Fix("Keep people or recordings together.", {"split.strategy": "stratified_group"}),
            details=describe_arms({"your split": arms}, accuracies, plan) | {"seeds_agree": agree},
            **result.as_fields(),
        )  # fmt: skip
        yield join(bench.find(code), measured)


def measure_shift(bench: Bench) -> Iterator[Measurement]:
    """PC206: accuracy on the validation rows against that on people held out of the training rows."""
    lab, plan = bench.lab, bench.plan(1)
    if lab.groups is None or plan is None:
        yield missing("PC206", "groups of the rows" if lab.groups is None else bench.price(130))
        return
    own = pick_rows(lab.validation, MOST_OWN, lab.case.rng("PC206"))
    folds = bench.folds(plan.folds)[: plan.repeats]
    held = [np.intersect1d(fold.trusted, lab.train) for fold in folds]
    arms = [
        bench.arm("your split", fold.user, np.concatenate([h, own]), seed, plan.steps, Patches())
        for seed, (fold, h) in enumerate(zip(folds, held, strict=True))
    ]
    held_hits = np.concatenate([a.hits[: len(h)] for a, h in zip(arms, held, strict=True)]).astype(float)
    own_hits = np.mean([a.hits[len(h) :] for a, h in zip(arms, held, strict=True)], axis=0)
    held_groups, own_groups = lab.groups[np.concatenate(held)], lab.groups[own]
    drop = float(held_hits.mean() - own_hits.mean())
    rng = lab.case.rng("PC206")
    draws = draw_cluster_means(held_hits, held_groups, rng) - draw_cluster_means(own_hits, own_groups, rng)
    tail = (1 - INTERVAL_LEVEL) / 2
    interval = (float(np.quantile(draws, tail)), float(np.quantile(draws, 1 - tail)))
    null = _permute_groups(held_hits, held_groups, own_hits, own_groups, rng)
    count = min(len(np.unique(held_groups)), len(np.unique(own_groups)))
    accuracies = {"people held out of training": float(held_hits.mean()), "validation": float(own_hits.mean())}
    measured = Measurement(
        "PC206", "experiment",
        f"A network trained on part of the training rows scored {held_hits.mean():.2f} on other people among them and "
        f"{own_hits.mean():.2f} on the validation rows ({plan.steps} steps, {_count_seeds(plan)}; difference "
        f"{drop:+.2f}, 99.9 % interval {interval[0]:+.2f} to {interval[1]:+.2f}).",
        found=drop >= EFFECT_GATE, statistic="accuracy lost on validation rows", value=drop, threshold=EFFECT_GATE,
        effect=drop, interval=interval, interval_level=INTERVAL_LEVEL, p=compute_p(drop, null),
        null="groups exchanged between held-out training rows and validation rows", n=len(own_hits), groups=count,
        minimum_detectable_effect=float(POWER_ERRORS * draws.std()),
        details=describe_arms({"your split": arms}, accuracies, plan),
    )  # fmt: skip
    yield join(bench.find("PC206"), measured)


def _permute_groups(a: Floats, a_groups: Rows, b: Floats, b_groups: Rows, rng: np.random.Generator) -> Floats:
    """Null of the difference of means when whole groups change sides."""
    sums, sizes = [], []
    for values, groups in ((a, a_groups), (b, b_groups)):
        codes = np.unique(groups, return_inverse=True)[1]
        sums.append(np.bincount(codes, weights=values))
        sizes.append(np.bincount(codes))
    total, count = np.concatenate(sums), np.concatenate(sizes)
    left = len(sums[0])
    null = np.empty(BOOTSTRAPS)
    for i in range(BOOTSTRAPS):
        order = rng.permutation(len(total))
        one, two = order[:left], order[left:]
        null[i] = total[one].sum() / count[one].sum() - total[two].sum() / count[two].sum()
    return null


def _count_seeds(plan: Plan) -> str:
    return "one seed" if plan.repeats == 1 else f"{plan.repeats} seeds"

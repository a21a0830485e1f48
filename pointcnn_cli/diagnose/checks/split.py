"""Checks of the split by labels alone: rows cut off the end, classes missing or skewed, too few rows to score on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import LabelledParts
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import EFFECT_GATE
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import PERMUTATIONS, compute_binomial_interval, compute_total_variation
from pointcnn_cli.metrics import compute_accuracy_interval
from pointcnn_cli.paired import compute_p
from pointcnn_cli.splits.parts import compute_ceiling, compute_chance

SMALLEST_SKEW = 0.2  # total variation; subjects left out whole differ by about 0.1 in a healthy split
LOWERED_CEILING = 0.05  # a ceiling lower than 1 by less does not explain a bad score
FEWEST_ROWS = 5  # of a class in a part, below which nothing is learned or measured
WIDEST_INTERVAL = 0.10  # of a 95 % interval of accuracy
FEWEST_VALIDATION_GROUPS = 3
FEWEST_CLASS_ROWS = 10  # in validation: one row more or less is ten points of recall
ASSUMED_ACCURACY = 0.9  # where no prediction says better
SETTLED_EPOCH = 5  # before it, a network may hit an untrained class by luck of its first weights


@dataclass(frozen=True)
class _Parts:
    """What labels say of a split."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    counts: NDArray[np.int64]
    """(2, classes) rows of each class in training and validation."""
    untrained: tuple[str, ...]
    """Classes that validate and have no training row."""
    ceiling: float
    chance: float
    variation: float
    """Total variation distance between the class shares of training and validation."""
    null: NDArray[np.float64]
    """The same of random re-splits of the same sizes."""
    share_null: NDArray[np.float64]
    """Of those re-splits, the smallest share of a class's rows that trains."""
    groups: int | None
    """Groups that were re-split whole; None where rows were."""


def check_class_shares(case: Case) -> Iterator[Measurement]:
    """PC201 where validation is the end of the data, else PC202: classes without training rows, and unequal shares."""
    known = case.parts
    if known is None:
        yield from (missing(code, "labels, and which rows train and validate") for code in ("PC201", "PC202"))
        return
    if not len(known.train) or not len(known.validation):
        yield Measurement(
            "PC202", "proof", f"{len(known.train)} rows train and {len(known.validation)} validate: one part is empty.",
            harm=True, statistic="rows of the smaller part", value=0.0, threshold=1.0,
            fix=Fix("Give both parts rows.", {"split.strategy": "auto"}),
        )  # fmt: skip
        return
    parts = _describe(case, known)
    is_tail = case.settings.split_strategy == "tail" or (
        case.settings.split_strategy is None and bool(known.validation.min() > known.train.max())
    )
    code, other = ("PC201", "PC202") if is_tail else ("PC202", "PC201")
    yield _judge_shares(case, parts, code, is_tail)
    yield Measurement(
        other, "proof", "What differs between the parts follows from where the rows were cut: PC201." if is_tail else
        "Validation rows are not the end of the data.", found=False, statistic="validation is the tail",
        value=float(is_tail), threshold=1.0, n=len(parts.labels),
    )  # fmt: skip


def _describe(case: Case, known: LabelledParts) -> _Parts:
    labels = known.labels
    train, validation = (rows[labels[rows] >= 0] for rows in (known.train, known.validation))
    size = len(known.classes)
    counts = np.stack([np.bincount(labels[rows], minlength=size) for rows in (train, validation)])
    null, share_null, groups = _draw_resplits(case, labels, train, validation, size)
    return _Parts(
        known.classes, labels, train, validation, counts,
        tuple(name for name, t, v in zip(known.classes, *counts, strict=True) if v and not t),
        compute_ceiling(labels, train, validation), compute_chance(labels, train, validation),
        compute_total_variation(*counts), null, share_null, groups,
    )  # fmt: skip


def _draw_resplits(
    case: Case, labels: NDArray[np.int64], train: NDArray[np.int64], validation: NDArray[np.int64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int | None]:
    """Total variation of random re-splits (draws,), the smallest share of a class's rows that trains in each (draws,),
    and how many groups were dealt out whole.

    Groups stay whole where the user's own split keeps (nearly) all of them whole: then the honest comparison is with
    other hold-outs of whole groups, whose class shares differ more than those of single rows.
    """
    rows = np.concatenate([train, validation])
    held_out, rng = len(validation), case.rng("PC201")
    units = case.groups_of(rows)
    if units is not None and np.isin(units[len(train) :], units[: len(train)]).mean() > 0.05:
        units = None
    codes = np.arange(len(rows)) if units is None else np.unique(units, return_inverse=True)[1]
    table = np.zeros((int(codes.max()) + 1, size), np.int64)  # (units, classes)
    np.add.at(table, (codes, labels[rows]), 1)
    sizes, total = table.sum(axis=1), table.sum(axis=0)
    null, shares = np.empty(PERMUTATIONS), np.empty(PERMUTATIONS)
    for draw in range(PERMUTATIONS):
        order = rng.permutation(len(table))
        taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), held_out)))]
        counts = table[taken].sum(axis=0)
        left = total - counts
        null[draw] = compute_total_variation(counts, left) if left.sum() and counts.sum() else 1.0
        shares[draw] = (left[total > 0] / total[total > 0]).min()
    return null, shares, None if units is None else len(table)


def _judge_shares(case: Case, parts: _Parts, code: str, is_tail: bool) -> Measurement:
    """One measurement: a missing class is a proof; without one, the class shares are compared with re-splits."""
    threshold = max(float(np.quantile(parts.null, 0.999)), SMALLEST_SKEW)
    neighbours, by_chance = _measure_order(parts)
    details = {
        "ceiling": parts.ceiling,
        "chance": parts.chance,
        "untrained_classes": list(parts.untrained),
        "class_counts": {
            name: {"train": int(t), "validation": int(v)}
            for name, t, v in zip(parts.classes, *parts.counts, strict=True)
        },
        "label_adjacency": neighbours,
        "label_adjacency_by_chance": by_chance,
        "total_variation": parts.variation,
        "total_variation_null_quantile_999": float(np.quantile(parts.null, 0.999)),
        **_compare_history(case, parts),
    }
    sentence = _tell_shares(parts, is_tail, details)
    strategy = "stratified" if case.data is None or case.data.groups is None else "stratified_group"
    fix = Fix(
        "Choose validation rows from all classes, whole groups at a time where there are groups. In a Keras script, "
        "replace validation_split by validation_data of such rows (scikit-learn: StratifiedGroupKFold).",
        {"split.strategy": strategy},
    )
    if parts.untrained:
        return Measurement(
            code, "proof", sentence, harm=True if 1.0 - parts.ceiling >= LOWERED_CEILING else None,
            statistic="ceiling of validation accuracy", value=parts.ceiling, threshold=1.0 - LOWERED_CEILING,
            n=len(parts.validation), effect=1.0 - parts.ceiling, fix=fix, details=details,
        )  # fmt: skip
    skewed = parts.variation > threshold
    if not skewed and (starved := _measure_starved(parts, code, sentence, fix, details)):
        return starved
    rare = [n for n, t, v in zip(parts.classes, *parts.counts, strict=True) if 0 < t < FEWEST_ROWS or v < FEWEST_ROWS]
    if rare and not skewed:
        return Measurement(
            code, "proof", f"{sentence} Fewer than {FEWEST_ROWS} rows of {', '.join(rare)} train or validate, so "
            "little can be learned or said of them.", statistic="rows of the rarest class in a part",
            value=float(parts.counts[:, parts.counts.sum(axis=0) > 0].min()), threshold=float(FEWEST_ROWS),
            n=len(parts.labels), fix=fix, details={**details, "rare_classes": rare},
        )  # fmt: skip
    return Measurement(
        code, "test", sentence, found=skewed, statistic="total variation of class shares", value=parts.variation,
        threshold=threshold, n=len(parts.validation), groups=parts.groups, effect=parts.variation,
        p=compute_p(parts.variation, parts.null), null=f"{PERMUTATIONS} random re-splits of "
        + ("rows" if parts.groups is None else "whole groups"), minimum_detectable_effect=threshold,
        fix=fix, details=details,
    )  # fmt: skip


def _measure_starved(
    parts: _Parts, code: str, sentence: str, fix: Fix, details: dict[str, object]
) -> Measurement | None:
    """Classes that validate in earnest and have next to no training rows, held against re-splits; None without any."""
    train, validation = parts.counts
    starved = (train < FEWEST_ROWS) & (train < validation)
    effect = float(validation[starved].sum() / max(len(parts.validation), 1))
    if effect < EFFECT_GATE:
        return None
    share = float((train / np.maximum(train + validation, 1))[starved].min())
    told = [f"{parts.classes[i]} ({train[i]} rows train, {validation[i]} validate)" for i in np.flatnonzero(starved)]
    return Measurement(
        code, "test", f"{sentence} Next to nothing can be learnt of {_join(told)}: {effect:.1%} of validation.",
        statistic="smallest share of a class's rows that trains", value=share,
        threshold=float(np.quantile(parts.share_null, 0.001)), n=len(parts.labels), groups=parts.groups, effect=effect,
        p=compute_p(-share, -parts.share_null), null=f"{PERMUTATIONS} random re-splits of "
        + ("rows" if parts.groups is None else "whole groups"), fix=fix, details=details,
    )  # fmt: skip


def _measure_order(parts: _Parts) -> tuple[float, float]:
    """How often neighbouring rows are of one class, and how often they would be in random order."""
    labels = parts.labels[np.sort(np.concatenate([parts.train, parts.validation]))]
    shares = np.bincount(labels) / len(labels)
    return float(np.mean(labels[1:] == labels[:-1])), float((shares**2).sum())


def _compare_history(case: Case, parts: _Parts) -> dict[str, float]:
    """How the validation accuracies of the run lie to the ceiling, from the fifth epoch on."""
    values = [row["val_accuracy"] for row in case.history if "val_accuracy" in row]
    if len(values) < SETTLED_EPOCH:
        return {}
    late, n = values[SETTLED_EPOCH - 1 :], len(parts.validation)
    margin = compute_binomial_interval(round(parts.ceiling * n), n, 0.99)[1]
    return {
        "highest_late_validation_accuracy": max(late),
        "share_of_late_epochs_at_or_below_ceiling": float(np.mean([value <= margin for value in late])),
        "last_validation_accuracy": values[-1],
    }


def _tell_shares(parts: _Parts, is_tail: bool, details: dict[str, object]) -> str:
    total = len(parts.train) + len(parts.validation)
    held = [
        f"{name} ({v} rows, {t} for training)"
        for name, t, v in zip(parts.classes, *parts.counts, strict=True) if v
    ]  # fmt: skip
    sentences = []
    if is_tail:
        sentences.append(
            f"The last {len(parts.validation)} of {total} rows validate, and neighbouring rows are of one class in "
            f"{details['label_adjacency']:.1%} of cases ({details['label_adjacency_by_chance']:.1%} in random order)."
        )
    if parts.untrained:
        names = _join(parts.untrained)
        sentences.append(
            f"Validation holds {names} without a single training row, so its accuracy cannot pass "
            f"{parts.ceiling:.3f}, however good the network is."
        )
    elif parts.variation > SMALLEST_SKEW:
        sentences.append(
            f"Validation consists of {_join(held[:6])}: its class shares differ from training by {parts.variation:.2f} "
            f"(total variation), where 99.9 % of random re-splits stay below "
            f"{details['total_variation_null_quantile_999']:.2f}. Its score says how the network does on those classes."
        )
    else:
        sentences.append(f"Class shares of training and validation differ by {parts.variation:.3f} (total variation).")
    if "last_validation_accuracy" in details and parts.untrained:
        sentences.append(
            f"In the run, validation accuracy ended at {details['last_validation_accuracy']:.3f} and stayed at or "
            f"below this ceiling in {details['share_of_late_epochs_at_or_below_ceiling']:.0%} of the epochs from the "
            f"fifth on."
        )
    return " ".join(sentences)


def check_validation_size(case: Case) -> Iterator[Measurement]:
    """PC207: how wide the interval of the accuracy is, or would be at an accuracy of 0.9."""
    known = case.parts
    if known is None or not len(known.validation):
        yield missing("PC207", "labels, and which rows validate")
        return
    rows, n = known.validation, len(known.validation)
    groups = None if known.data.groups is None else len(np.unique(known.data.groups[rows]))
    counts = np.bincount(np.maximum(known.labels[rows], 0), minlength=len(known.classes))
    low, high, how = _measure_interval(known, case.saved_predictions)
    few = [name for name, count in zip(known.classes, counts, strict=True) if 0 < count < FEWEST_CLASS_ROWS]
    reasons = []
    if high - low > WIDEST_INTERVAL:
        reasons.append(f"the 95 % interval of the accuracy is {high - low:.2f} wide ({low:.2f} to {high:.2f}, {how})")
    if groups is not None and groups < FEWEST_VALIDATION_GROUPS:
        reasons.append(f"the rows come from {groups} group{'s' if groups > 1 else ''} only")
    if few:
        reasons.append(f"fewer than {FEWEST_CLASS_ROWS} rows of {_join(few)} are in it")
    sentence = f"Validation has {n} rows" + (f" of {groups} groups" if groups is not None else "")
    yield Measurement(
        "PC207", "proof", f"{sentence}: {'; '.join(reasons)}." if reasons else
        f"{sentence}; the 95 % interval of an accuracy is {high - low:.2f} wide ({how}).", found=bool(reasons),
        statistic="width of the 95 % interval of accuracy", value=high - low, threshold=WIDEST_INTERVAL, n=n,
        groups=groups, interval=(low, high), interval_level=0.95, minimum_detectable_effect=high - low,
        fix=Fix("Score every row once: train one run for each split.fold and put the predictions together, or gather "
                "more recordings."),
    )  # fmt: skip


def _measure_interval(known: LabelledParts, predictions: NDArray[np.float64] | None) -> tuple[float, float, str]:
    """The interval of the accuracy from predictions where the run has them, else at an assumed accuracy."""
    n = len(known.validation)
    if predictions is None:
        return *compute_binomial_interval(round(ASSUMED_ACCURACY * n), n), f"at an accuracy of {ASSUMED_ACCURACY}"
    hits = predictions.argmax(axis=1) == known.labels[known.validation]
    groups = None if known.data.groups is None else known.data.groups[known.validation]
    low, high, _ = compute_accuracy_interval(hits, groups)
    return low, high, f"as measured, accuracy {hits.mean():.3f}"


def _join(names: "tuple[str, ...] | list[str]") -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


CHECKS = (
    Check(("PC201", "PC202"), Tier.STATIC, check_class_shares),
    Check(("PC207",), Tier.STATIC, check_validation_size),
)

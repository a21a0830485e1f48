"""Checks for validation data that look different from training data, held against hold-outs of the training rows.

Held-out people always look somewhat different. The question is whether validation differs more than other people do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.probes import (
    add_constant,
    assign_folds,
    compute_auc,
    count_units,
    fit_ridge,
    hold_out_units,
    keep_common_classes,
    number_units,
    one_hot,
    reduce_features,
    sample_rows,
    score_out_of_fold,
)
from pointcnn_cli.diagnose.facts import LabelledParts, Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import EFFECT_GATE
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.scan import Scan
from pointcnn_cli.diagnose.statistics import BOOTSTRAPS
from pointcnn_cli.paired import compute_p

DRIFT_ROWS = 2_500  # for 21 classifiers in a second
REFERENCES = 20  # hold-outs of training groups; with them alone p is at least 0.048, so another test must follow
AUC_MARGIN = 0.02
LEAST_AUC = 0.6  # below, a classifier hardly tells the parts apart, whatever the references are
FEWEST_UNITS = 4  # of training, so that half of them can be held out and each half can be split again
SHIFT_ADVICE = (
    "Look at how and where the validation rows were recorded: other sessions, devices or gains. Take training rows "
    "from the same conditions, or augment towards them; drawing the parts anew over all sessions tells which it is."
)


@dataclass(frozen=True, eq=False)
class _Sample:
    """Training rows first, then validation rows, with what the classifiers see of them."""

    features: NDArray[np.float64]
    labels: NDArray[np.int64]
    units: NDArray[np.int64]
    train: int
    """How many of the rows are training rows."""
    rows: Rows


def check_covariate_shift(case: Case) -> Iterator[Measurement]:
    """PC206: a classifier of training against validation rows, and what the difference costs."""
    sample = _draw_sample(case, case.parts, case.scan)
    if sample is None:
        yield missing(
            "PC206",
            f"two classes or more in both parts, {FEWEST_UNITS} or more groups for training, two for validation",
        )
        return
    rng = case.rng("PC206")
    is_validation = np.arange(len(sample.rows)) >= sample.train
    auc = _score_domains(sample.features, sample.labels, sample.units, is_validation, rng)
    references = np.array([_score_reference(sample, rng) for _ in range(REFERENCES)])
    threshold = max(float(references.max()) + AUC_MARGIN, LEAST_AUC)
    details: dict[str, Any] = {"reference_aucs": [float(np.round(a, 4)) for a in np.sort(references)]}
    common: dict[str, Any] = {"statistic": "AUC of training against validation rows", "value": auc,
        "threshold": threshold, "n": len(sample.rows),
        "null": f"{REFERENCES} hold-outs of as many groups within training"}  # fmt: skip
    told = (
        f"A linear classifier tells validation rows from training rows with an AUC of {auc:.2f}; for training groups "
        f"held out in the same way it is {references.min():.2f} to {references.max():.2f}."
    )
    if auc <= threshold:
        yield Measurement(
            "PC206", "test", f"{told} Validation differs no more than that.", found=False, details=details, **common
        )
        return
    yield _measure_cost(case, sample, told, details, common)


def _draw_sample(case: Case, parts: LabelledParts | None, scan: Scan | None) -> _Sample | None:
    if parts is None or scan is None:
        return None
    rng = case.rng("PC206")
    known = keep_common_classes(parts.labels, parts.train, parts.validation)
    if known is None:
        return None
    total = sum(map(len, known))
    kept = [sample_rows(rows, max(1, round(DRIFT_ROWS * len(rows) / max(total, 1))), rng) for rows in known]
    units = [np.unique(number_units(case, rows)) for rows in kept]
    if len(units[0]) < FEWEST_UNITS or len(units[1]) < 2:
        return None
    rows = np.concatenate(kept)
    return _Sample(
        reduce_features(scan.features[rows]), parts.labels[rows], number_units(case, rows), len(kept[0]), rows
    )


def _score_domains(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    units: NDArray[np.int64],
    positive: NDArray[np.bool_],
    rng: np.random.Generator,
) -> float:
    """Out-of-fold AUC of a ridge classifier of `positive`, within classes, whole units in a fold."""
    centred = features.copy()  # other class shares are no shift of the inputs
    for label in np.unique(labels):
        centred[labels == label] -= features[labels == label].mean(axis=0)
    folds = assign_folds(2 * units + positive, positive.astype(np.int64), rng)
    scores = score_out_of_fold(centred, positive[:, None].astype(np.float64), folds)[:, 0]
    return compute_auc(scores, positive)


def _score_reference(sample: _Sample, rng: np.random.Generator) -> float:
    """The same for a hold-out of training groups: of each class as many as validate."""
    rows = slice(sample.train)
    labels, units = sample.labels[rows], sample.units[rows]
    wanted = count_units(sample.units[sample.train :], sample.labels[sample.train :], int(sample.labels.max()) + 1)
    held = np.zeros(sample.train, bool)
    held[hold_out_units(units, labels, wanted, rng)] = True
    return _score_domains(sample.features[rows], labels, units, held, rng)


def _measure_cost(
    case: Case, sample: _Sample, told: str, details: dict[str, Any], common: dict[str, Any]
) -> Measurement:
    """Whether a probe, and the network where there is one, is worse on validation than on held-out training groups."""
    inside, outside = _score_labels(case, sample)
    drop = float(inside.mean() - outside.mean())
    p, units = _test_drop(case, sample, inside, outside)
    accuracy = _score_network(case)
    told += (
        f" A linear probe scores {inside.mean():.1%} on training groups that were held out and {outside.mean():.1%} on "
        f"validation"
    )
    gate = drop >= EFFECT_GATE
    if accuracy is None:
        told += "; how much the network loses was not measured."
    else:
        network_drop = float(inside.mean()) - accuracy
        drop, gate = min(drop, network_drop), gate and network_drop >= EFFECT_GATE
        told += f"; the network {accuracy:.1%}."
    if not gate:
        told += " The difference is there, but nothing shows that it costs five points of accuracy or more."
    details |= {"probe_on_held_out_training": float(inside.mean()), "probe_on_validation": float(outside.mean()),
                "network_on_validation": accuracy}  # fmt: skip
    confirmable = gate and accuracy is not None
    return Measurement(
        "PC206", "test", told, harm=True if confirmable else None, effect=drop, p=p, groups=units,
        at_most="CONFIRMED" if confirmable else "SUSPECTED", fix=Fix(SHIFT_ADVICE), details=details, **common,
    )  # fmt: skip


def _score_labels(case: Case, sample: _Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hits of a probe of the classes: on training rows out of fold, and on validation rows."""
    rows = slice(sample.train)
    features, labels = sample.features[rows], sample.labels[rows]
    targets = one_hot(labels, int(sample.labels.max()) + 1)
    folds = assign_folds(sample.units[rows], labels, case.rng("PC206"))
    inside = score_out_of_fold(features, targets, folds).argmax(axis=1) == labels
    answers = (add_constant(sample.features[sample.train :]) @ fit_ridge(features, targets)).argmax(axis=1)
    return inside.astype(np.float64), (answers == sample.labels[sample.train :]).astype(np.float64)


def _test_drop(
    case: Case, sample: _Sample, inside: NDArray[np.float64], outside: NDArray[np.float64]
) -> tuple[float, int]:
    """One-sided p of the drop when clusters are dealt anew to the two parts, and the number of clusters.

    A cluster is what one group has of one class: with whole people a dozen of them could never show p < 0.001, and the
    AUC has already been held against hold-outs of whole groups. Hits count relative to the mean of their class in
    training, so that other class shares are no drop.
    """
    labels, train_labels = sample.labels, sample.labels[: sample.train]
    expected = np.zeros(int(labels.max()) + 1)
    for label in np.unique(train_labels):
        expected[label] = inside[train_labels == label].mean()
    excess = np.concatenate([inside, outside]) - expected[labels]
    is_validation = np.arange(len(labels)) >= sample.train
    cells = np.stack([sample.units, labels, is_validation])
    codes = np.unique(cells, axis=1, return_inverse=True)[1].ravel()
    sums, sizes = np.bincount(codes, weights=excess), np.bincount(codes)
    chosen = np.zeros(len(sums), bool)
    chosen[codes[is_validation]] = True
    rng = case.rng("PC206")
    picks = rng.permuted(np.tile(chosen, (BOOTSTRAPS, 1)), axis=1)
    null = -(picks @ sums) / (picks @ sizes) + (~picks @ sums) / (~picks @ sizes)
    observed = -sums[chosen].sum() / sizes[chosen].sum() + sums[~chosen].sum() / sizes[~chosen].sum()
    return compute_p(float(observed), null), len(sums)


def _score_network(case: Case) -> float | None:
    """Accuracy of the judged network on the labelled validation rows; None without one."""
    parts = case.parts
    if parts is None:
        return None
    scores = case.saved_predictions if case.saved_predictions is not None else case.predict(parts.validation)
    if scores is None:
        return None
    labels = parts.labels[parts.validation]
    answers = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0.5).astype(np.int64)
    return float((answers == labels)[labels >= 0].mean())


CHECKS = (Check(("PC206",), Tier.PROBE, check_covariate_shift),)

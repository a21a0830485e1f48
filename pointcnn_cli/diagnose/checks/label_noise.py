"""Check for wrong labels among right ones: rows whose neighbours and whose probe agree on another class."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.probes import (
    assign_folds,
    compute_distances,
    number_units,
    one_hot,
    reduce_features,
    sample_rows,
    score_out_of_fold,
)
from pointcnn_cli.diagnose.facts import CaseData, Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import compute_cluster_interval

FEWEST_ROWS = 200
NOISE_ROWS = 3_000
NEIGHBOURS = 8
LEAST_AGREEING = 7  # of the neighbours: rows between two classes have neighbours of both
FEWEST_DECIDED = 50  # rows on which the probes agree
LEAST_RATE = 0.03  # lower 95 % limit; clean radar recordings stay below 1.5 %
MOST_LISTED = 50


def check_label_noise(case: Case) -> Iterator[Measurement]:
    """PC303: off-diagonal of the confident joint (Northcutt, Jiang and Chuang 2021), where two probes must agree.

    One probe is linear and never sees the group of the row it judges; the other are the nearest rows, which may be of
    the same recording: single wrong labels stand out among them, a whole recording that is hard does not. Recordings
    that are mislabelled as a whole are not seen. At most SUSPECTED: about half of such flags are wrong (ibid.).
    """
    data, scan = case.data, case.scan
    if data is None or data.labels is None or scan is None:
        yield missing("PC303", "labels")
        return
    rng = case.rng("PC303")
    rows = sample_rows(np.flatnonzero((data.labels >= 0) & (scan.filled > 0)), NOISE_ROWS, rng)
    labels, units = data.labels[rows], number_units(case, rows)
    if len(rows) < FEWEST_ROWS or len(np.unique(labels)) < 2 or len(np.unique(units)) < 2:
        yield missing("PC303", f"{FEWEST_ROWS} labelled rows of two classes, from two groups")
        return
    features = reduce_features(scan.features[rows])
    answers = _find_agreed(features, labels, assign_folds(units, labels, rng))
    decided = answers >= 0
    if np.count_nonzero(decided) < FEWEST_DECIDED:
        yield missing("PC303", f"{FEWEST_DECIDED} rows whose class two simple probes agree on")
        return
    yield _tell_noise(data, rows[decided], (answers != labels)[decided], units[decided], rng)


def _find_agreed(
    features: NDArray[np.float64], labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The class (rows,) that both probes are sure of; -1 where they are not."""
    classes = int(labels.max()) + 1
    targets = one_hot(labels, classes)
    scores = score_out_of_fold(features, targets, folds)
    # A class counts where its score reaches the mean that rows labelled with it have: the thresholds of the joint.
    sizes = np.maximum(targets.sum(axis=0), 1)
    thresholds = (scores * targets).sum(axis=0) / sizes
    confident = np.where(scores >= thresholds, scores, -np.inf)
    answer, sure = confident.argmax(axis=1), np.isfinite(confident.max(axis=1))
    distances = compute_distances(features, features)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    votes = targets[nearest].sum(axis=1)  # (rows, classes)
    return np.where(sure & (votes[np.arange(len(labels)), answer] >= LEAST_AGREEING), answer, -1)


def _tell_noise(
    data: CaseData, rows: Rows, suspects: NDArray[np.bool_], units: NDArray[np.int64], rng: np.random.Generator
) -> Measurement:
    rate = float(suspects.mean())
    low, high = compute_cluster_interval(suspects.astype(np.float64), units, rng)
    listed = rows[suspects][:MOST_LISTED]
    told = (
        f"Of {len(rows)} rows whose class two probes agree on, {int(suspects.sum())} ({rate:.1%}, 95 % interval "
        f"{low:.1%} to {high:.1%}) are labelled otherwise"
    )
    if low > LEAST_RATE:
        told += f" (for instance {data.locate(int(listed[0]))}). About half of such rows are usually mislabelled."
    else:
        told += ": no more than hard rows make of it."
    return Measurement(
        "PC303", "test", told, found=low > LEAST_RATE, statistic="share of rows that look mislabelled", value=rate,
        threshold=LEAST_RATE, n=len(rows), interval=(low, high), interval_level=0.95, at_most="SUSPECTED",
        minimum_detectable_effect=LEAST_RATE + rate - low,
        fix=Fix("Look at the listed rows and correct their labels. Until then, fewer epochs or label smoothing keep "
                "the network from learning them by heart."),
        details={"rows": listed.tolist()},
    )  # fmt: skip


CHECKS = (Check(("PC303",), Tier.PROBE, check_label_noise),)

"""Check for people or recordings on both sides of the split: does it help to have met them in training?

A nearest-neighbour probe answers with the label of the most similar training row. It is asked twice, with and without
the training rows that come from where the validation row comes from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.probes import (
    PROBE_ROWS,
    compute_distances,
    fix_split,
    number_blocks,
    reduce_features,
    sample_rows,
)
from pointcnn_cli.diagnose.facts import LabelledParts, Rows
from pointcnn_cli.diagnose.findings import Measurement, missing
from pointcnn_cli.diagnose.judge import EFFECT_GATE
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.scan import Scan
from pointcnn_cli.diagnose.statistics import compute_cluster_interval
from pointcnn_cli.paired import compare_paired

LEAST_SHARED = 0.05  # of validation rows: fewer cannot move accuracy by five points
VALIDATION_ROWS = 1_500
NEIGHBOURHOOD = 0.01  # of the file, to either side: about a recording, where nothing tells where recordings end
LEAST_NEIGHBOURHOOD = 8  # rows
PLACEBOS = 5  # neighbourhoods of other rows that are left out instead
ADVICE = (
    "Keep all rows of a person (or at least of a recording) on one side of the split, so that the score says how well "
    "strangers are recognised. In a Keras script, choose the rows with scikit-learn's StratifiedGroupKFold and hand "
    "them to fit as validation_data."
)


@dataclass(frozen=True, eq=False)
class _Probe:
    """What the nearest-neighbour probe needs."""

    train: Rows
    validation: Rows
    labels: NDArray[np.int64]
    """Of the training rows."""
    wanted: NDArray[np.int64]
    """Of the validation rows."""
    distances: NDArray[np.float32]
    """(validation, training)"""

    def score_without(self, left_out: NDArray[np.bool_]) -> NDArray[np.float64]:
        """1 for each validation row that is answered rightly without the training rows marked in `left_out`."""
        nearest = np.where(left_out, np.float32(np.inf), self.distances).argmin(axis=1)
        hits: NDArray[np.float64] = (self.labels[nearest] == self.wanted).astype(np.float64)
        return hits


def check_shared_groups(case: Case) -> Iterator[Measurement]:
    """PC204: with groups, whether they are shared and what that is worth; without, from the order of rows."""
    parts, scan = case.parts, case.scan
    if parts is None or scan is None or not len(parts.train) or not len(parts.validation):
        yield missing("PC204", "labels, and rows for training and for validation")
        return
    probe = _build_probe(case, parts, scan)
    train, validation = case.groups_of(parts.train), case.groups_of(parts.validation)
    if train is not None and validation is not None:
        yield from _measure_groups(case, train, validation, probe)
    elif len(probe.train) and len(probe.validation):
        yield _measure_file_order(case, parts, probe)
    else:
        yield missing("PC204", "the group (person or recording) of each row")


def _build_probe(case: Case, parts: LabelledParts, scan: Scan) -> _Probe:
    rng = case.rng("PC204")
    known = [rows[parts.labels[rows] >= 0] for rows in (parts.train, parts.validation)]
    train, validation = sample_rows(known[0], PROBE_ROWS, rng), sample_rows(known[1], VALIDATION_ROWS, rng)
    features = reduce_features(scan.features[np.concatenate([train, validation])])
    distances = compute_distances(features[len(train) :], features[: len(train)])
    return _Probe(train, validation, parts.labels[train], parts.labels[validation], distances)


def _measure_groups(
    case: Case, train: NDArray[np.int64], validation: NDArray[np.int64], probe: _Probe
) -> Iterator[Measurement]:
    """A proof that groups (of training and validation rows) are shared and, if many rows are, a test of its worth."""
    n = len(validation)
    shared = np.isin(validation, train)
    names = np.unique(validation[shared])
    told = (
        f"{int(shared.sum())} of {n} validation rows ({shared.mean():.1%}) come from {len(names)} groups (people or "
        f"recordings) that also train"
    )
    found = bool(shared.mean() > LEAST_SHARED)
    yield Measurement(
        "PC204", "proof", f"{told}." if len(names) else f"No group has rows in both parts ({n} validation rows).",
        found=found, statistic="share of validation rows of groups that train", value=float(shared.mean()),
        threshold=LEAST_SHARED, n=n, minimum_detectable_effect=1 / n, fix=fix_split(case, ADVICE),
    )  # fmt: skip
    own, other = case.groups_of(probe.validation), case.groups_of(probe.train)
    if found and own is not None and other is not None and len(own) and len(np.unique(other)) > 1:
        same = own[:, None] == other[None, :]
        everything = np.zeros_like(same)
        gains = probe.score_without(everything) - probe.score_without(same)
        recognised = float(np.take_along_axis(same, probe.distances.argmin(axis=1)[:, None], axis=1).mean())
        details = {
            "nearest_row_is_of_the_same_group": recognised,
            "expected_by_chance": float(same.mean()),
            "shared_groups": len(names),
        }
        yield _tell_gap(case, probe, gains, own, f"{told}. ", "its own group", details)


def _measure_file_order(case: Case, parts: LabelledParts, probe: _Probe) -> Measurement:
    """Whether rows near a validation row in the file help more than other rows of its class.

    Where the order of rows within a class carries nothing, both are exchangeable, and the gain is 0 on average.
    """
    rng = case.rng("PC204")
    reach = max(LEAST_NEIGHBOURHOOD, round(NEIGHBOURHOOD * parts.data.rows))
    near = np.abs(probe.validation[:, None] - probe.train[None, :]) <= reach
    near &= probe.wanted[:, None] == probe.labels[None, :]
    without = probe.score_without(near)
    placebo = np.zeros(len(without))
    for _ in range(PLACEBOS):
        other = np.arange(len(without))
        for label in np.unique(probe.wanted):
            members = np.flatnonzero(probe.wanted == label)
            other[members] = rng.permutation(members)
        placebo += probe.score_without(near[other]) / PLACEBOS
    gains = placebo - without
    details = {"rows_to_either_side": reach, "placebos": PLACEBOS}
    told = "No groups are stored, but the order of rows shows that rows taken one after another are on both sides. "
    m = _tell_gap(
        case, probe, gains, number_blocks(case, probe.validation), told, "its neighbours in the file", details
    )
    # Rows that were shuffled before they were stored would look the same, so nothing can be ruled out.
    return m if m.found else missing("PC204", "the group (person or recording) of each row")


def _tell_gap(
    case: Case,
    probe: _Probe,
    gains: NDArray[np.float64],
    units: NDArray[np.int64],
    told: str,
    left_out: str,
    details: Mapping[str, float],
) -> Measurement:
    rng = case.rng("PC204")
    gap = float(gains.mean())
    low, high = compute_cluster_interval(gains, units, rng, 0.999)
    everything = float(probe.score_without(np.zeros_like(probe.distances, bool)).mean())
    worth = gap >= EFFECT_GATE
    sentence = (
        f"{told}A nearest-neighbour probe gets {everything:.1%} of validation rows right, and {gap * 100:.1f} points "
        f"fewer once no row may be compared with {left_out} (99.9 % interval {low * 100:.1f} to {high * 100:.1f}). "
        + ("So the validation score is partly recognition of who or what was met in training." if worth else
           "That is too little to explain a score.")
    )  # fmt: skip
    return Measurement(
        "PC204", "test", sentence, found=worth and low > 0, harm=True, statistic="accuracy lost without own group",
        value=gap, threshold=EFFECT_GATE, n=len(gains), groups=len(np.unique(units)), effect=gap, interval=(low, high),
        interval_level=0.999, p=compare_paired(gains, units, rng), null="signs of whole groups flipped",
        minimum_detectable_effect=max(EFFECT_GATE, high - gap), fix=fix_split(case, ADVICE),
        details={"accuracy_of_probe": everything, **details},
    )  # fmt: skip


CHECKS = (Check(("PC204",), Tier.DATA, check_shared_groups),)

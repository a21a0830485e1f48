"""Checks of whether labels belong to their rows: is there any signal, are labels shifted, are many of them wrong?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.probes import (
    PROBE_ROWS,
    add_constant,
    assign_folds,
    compute_penalised_gram,
    number_blocks,
    number_units,
    one_hot,
    reduce_features,
    sample_rows,
    score_out_of_fold,
)
from pointcnn_cli.diagnose.facts import CaseData, Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import ALPHA, EFFECT_GATE
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import PERMUTATIONS
from pointcnn_cli.paired import compute_p

FEWEST_ROWS = 100
SIGNAL_ROWS = 1_500  # for 2,000 refits in a second
FURTHEST = 10  # rows by which labels may be shifted
DRAWS = 5_000
SIGNAL_GAP = 0.10  # accuracy above chance that must have been visible before "no signal" is said
NO_SIGNAL_P = 0.05

Hits = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Probe:
    """Labelled rows in the order of the file, and what a probe sees of them."""

    rows: Rows
    labels: NDArray[np.int64]
    features: NDArray[np.float64]
    units: NDArray[np.int64]
    folds: NDArray[np.int64]
    classes: int


def _build_probe(case: Case, code: str, limit: int) -> _Probe | None:
    """None without enough labelled rows of two classes, or with fewer than two groups."""
    if case.data is None or case.data.labels is None or case.scan is None:
        return None
    rng = case.rng(code)
    rows = np.flatnonzero((case.data.labels >= 0) & (case.scan.filled > 0))
    rows = sample_rows(rows, limit, rng)
    labels = case.data.labels[rows]
    if len(rows) < FEWEST_ROWS or len(np.unique(labels)) < 2:
        return None
    units = number_units(case, rows)
    if len(np.unique(units)) < 2:
        return None
    folds = assign_folds(units, labels, rng)
    return _Probe(rows, labels, reduce_features(case.scan.features[rows]), units, folds, int(labels.max()) + 1)


def check_misaligned_labels(case: Case) -> Iterator[Measurement]:
    """PC302: labels that fit better when moved along the file, and labels that no probe can predict at all."""
    probe = _build_probe(case, "PC302", PROBE_ROWS)
    if probe is None or case.data is None or case.data.labels is None:
        yield missing("PC302", f"{FEWEST_ROWS} labelled rows of two classes, from two groups")
        return
    shifted = _measure_shift(case, probe, case.data, case.data.labels)
    yield shifted
    if not shifted.found:
        yield _measure_signal(case)


def _measure_shift(case: Case, probe: _Probe, data: CaseData, labels: NDArray[np.int64]) -> Measurement:
    """Hits with labels moved by up to `FURTHEST` rows against hits as they are: everywhere, with a probe refitted to
    the moved labels, and in the best stretch of the file, with the probe as it is."""
    blocks = np.unique(number_blocks(case, probe.rows), return_inverse=True)[1]
    shifts = [k for k in range(-FURTHEST, FURTHEST + 1) if k]
    answers = score_out_of_fold(probe.features, one_hot(probe.labels, probe.classes), probe.folds).argmax(axis=1)
    hits = (answers == probe.labels).astype(np.float64)
    moved = np.stack([_move(labels, probe.rows, shift) for shift in shifts])
    everywhere = _sum_blocks(_score_moved(probe, moved) - hits, blocks)
    within = _sum_blocks((answers == moved) - hits, blocks)
    rng = case.rng("PC302")
    gains = {"everywhere": everywhere.sum(axis=1), "within": _find_best_stretch(within)[0]}
    kind = max(gains, key=lambda name: float(gains[name].max()))
    best = int(gains[kind].argmax())
    table = everywhere if kind == "everywhere" else within
    p = min(1.0, 2.0 * _test_gain(table, float(gains[kind][best]), kind, rng))  # of two kinds
    n = len(probe.rows)
    gain = float(gains[kind][best]) / n
    first, last = _locate_stretch(within[best], probe, blocks) if kind == "within" else (0, int(probe.rows[-1]))
    return _tell_shift(data, shifts[best], gain, p, n, (first, last), float(hits.mean()), int(blocks.max()) + 1)


def _move(labels: NDArray[np.int64], rows: Rows, shift: int) -> NDArray[np.int64]:
    """The label that stands `shift` rows after each of `rows`; -1 past the ends."""
    there = rows + shift
    inside = (there >= 0) & (there < len(labels))
    return np.where(inside, labels[np.clip(there, 0, len(labels) - 1)], -1)


def _score_moved(probe: _Probe, moved: NDArray[np.int64]) -> Hits:
    """Out-of-fold hits (shifts, rows) of probes that are fitted to moved labels (shifts, rows), all in one solution."""
    targets = np.where((moved >= 0)[..., None], one_hot(np.maximum(moved, 0), probe.classes), 0.0)
    joined = np.concatenate(list(targets), axis=1)  # (rows, shifts * classes)
    scores = score_out_of_fold(probe.features, joined, probe.folds).reshape(len(probe.rows), len(moved), -1)
    hits: Hits = (moved == scores.argmax(axis=2).T).astype(np.float64)
    return hits


def _sum_blocks(gains: NDArray[np.float64], blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    """(shifts, blocks)"""
    return np.stack([np.bincount(blocks, weights=row) for row in gains])


def _find_best_stretch(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest sum over consecutive entries of the last axis (Kadane), and the running sums that end at each entry."""
    running = np.zeros(table.shape[:-1])
    sums = np.empty_like(table)
    for place in range(table.shape[-1]):
        running = np.maximum(running, 0.0) + table[..., place]
        sums[..., place] = running
    return sums.max(axis=-1), sums


def _locate_stretch(gains: NDArray[np.float64], probe: _Probe, blocks: NDArray[np.int64]) -> tuple[int, int]:
    """First and last row of the stretch of blocks with the largest gain."""
    end = int(_find_best_stretch(gains)[1].argmax())
    total = np.cumsum(gains[end::-1])
    start = end - int(total.argmax())
    inside = probe.rows[(blocks >= start) & (blocks <= end)]
    return int(inside[0]), int(inside[-1])


def _test_gain(table: NDArray[np.float64], observed: float, kind: str, rng: np.random.Generator) -> float:
    """p of the largest gain over all shifts (shifts, blocks).

    For the whole file, the signs of whole blocks are flipped, for all shifts together. For a stretch, the order of the
    blocks is permuted: where nothing is out of step, blocks that fit badly lie anywhere.
    """
    null = []
    for _ in range(DRAWS // 500):
        if kind == "everywhere":
            null.append((rng.choice((-1.0, 1.0), (500, table.shape[1])) @ table.T).max(axis=1))
        else:
            orders = rng.permuted(np.tile(np.arange(table.shape[1]), (500, 1)), axis=1)
            null.append(_find_best_stretch(table[:, orders])[0].max(axis=0))
    return compute_p(observed, np.concatenate(null))


def _tell_shift(
    data: CaseData, shift: int, gain: float, p: float, n: int, stretch: tuple[int, int], hits: float, blocks: int
) -> Measurement:
    found = gain >= EFFECT_GATE and p < ALPHA
    direction = "after" if shift > 0 else "before"
    whole = stretch == (0, data.rows - 1) or (stretch[0] == 0 and stretch[1] >= data.rows - 2 * FURTHEST)
    where = "In the whole file" if whole else f"From {data.locate(stretch[0])} to {data.locate(stretch[1])}"
    many = f"{abs(shift)} row{'s' if abs(shift) > 1 else ''}"
    if found:
        sentence = (
            f"{where}, rows fit the label that stands {many} {direction} their own: a linear probe gets {gain:.1%} "
            f"more of all {n} rows right that way ({hits:.1%} as the labels are). Rows and labels are out of step."
        )
    else:
        sentence = (
            f"Labels moved by up to {FURTHEST} rows do not fit better than as they are ({hits:.1%} right, at best "
            f"{gain * 100:+.1f} points)."
        )
    return Measurement(
        "PC302", "test", sentence, found=found, harm=True, statistic="accuracy gained by moving labels", value=gain,
        threshold=EFFECT_GATE, n=n, groups=blocks, effect=gain, p=p, minimum_detectable_effect=EFFECT_GATE,
        null=f"largest gain over {2 * FURTHEST} shifts, signs of stretches of the file flipped or their order permuted",
        fix=Fix(
            f"Rebuild the file so that each row keeps its own label: look for a row or label that was dropped or added "
            f"near {data.locate(stretch[0])}, or for files that were read in different orders."
        ), details={"shift": shift, "rows": list(stretch), "accuracy_of_probe": hits},
    )  # fmt: skip


def _measure_signal(case: Case) -> Measurement:
    """Accuracy of a probe against refits to permuted labels, those of whole stretches of one group and label."""
    probe = _build_probe(case, "PC302", SIGNAL_ROWS)
    if probe is None:
        return missing("PC302", f"{FEWEST_ROWS} labelled rows of two classes, from two groups")
    observed, null, units = _permute_labels(probe, case.rng("PC302"))
    p = compute_p(observed, null)
    chance = float(null.mean())
    detectable = float(np.quantile(null, 1.0 - ALPHA)) - chance
    powerful = detectable <= SIGNAL_GAP
    told = (
        f"A linear probe on summary features predicts {observed:.1%} of {len(probe.rows)} labels; with permuted labels "
        f"{chance:.1%}"
    )
    if p > NO_SIGNAL_P and not powerful:
        return missing("PC302", f"more groups: {units} stretches of one label cannot show a signal of {SIGNAL_GAP:.0%}")
    found = p > NO_SIGNAL_P
    details: dict[str, Any] = {"chance": chance, "p_of_signal": p, "units": units}
    return Measurement(
        "PC302", "test", f"{told}. " + (
            f"A signal of {detectable * 100:.0f} points would have been seen: labels may belong to other rows, or the "
            "summary may miss what matters." if found else "There is a signal."
        ), found=found, statistic="accuracy of a probe above chance", value=observed - chance, threshold=detectable,
        n=len(probe.rows), minimum_detectable_effect=detectable, null=f"{PERMUTATIONS} permutations of labels",
        at_most="SUSPECTED", fix=Fix("Plot ten rows with their labels, and check that rows and labels are sorted and "
                                     "filtered alike on the way into the file."), details=details,
    )  # fmt: skip


def _permute_labels(probe: _Probe, rng: np.random.Generator) -> tuple[float, NDArray[np.float64], int]:
    """Out-of-fold accuracy, the same for `PERMUTATIONS` permutations (draws,), and the number of units permuted.

    A unit is a run of rows of one group and label. A ridge fit is linear in the targets, and those are constant within
    a unit, so that a refit costs one product of the summed smoother with the labels of the units.
    """
    starts = np.r_[True, (np.diff(probe.labels) != 0) | (np.diff(probe.units) != 0)]
    runs = np.cumsum(starts) - 1
    x = add_constant(probe.features)
    unit_sums = np.zeros((runs[-1] + 1, x.shape[1]))
    held_rows, smoothers = [], []
    for fold in np.unique(probe.folds):
        held = probe.folds == fold
        unit_sums[:] = 0.0
        np.add.at(unit_sums, runs[~held], x[~held])
        smoothers.append(np.linalg.solve(compute_penalised_gram(x[~held]), unit_sums.T))  # (features + 1, units)
        held_rows.append(np.flatnonzero(held))
    labels = probe.labels[starts]

    def score(unit_labels: NDArray[np.int64]) -> float:
        targets = one_hot(unit_labels, probe.classes)
        hits = sum(
            np.count_nonzero((x[rows] @ (s @ targets)).argmax(axis=1) == unit_labels[runs[rows]])
            for rows, s in zip(held_rows, smoothers, strict=True)
        )
        return hits / len(x)

    null = np.array([score(rng.permutation(labels)) for _ in range(PERMUTATIONS)])
    return score(labels), null, len(labels)


CHECKS = (Check(("PC302",), Tier.PROBE, check_misaligned_labels),)

"""Checks for rows that are on both sides of the split: windows that overlap, and rows that are equal."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.overlaps import (
    SHINGLE,
    EqualRows,
    WindowMatches,
    find_moving_rows,
    match_rows,
    match_windows,
)
from pointcnn_cli.diagnose.checks.probes import fix_split
from pointcnn_cli.diagnose.facts import LabelledParts, Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.scan import Scan
from pointcnn_cli.splits.parts import mark_overlaps

LEAST_SHARE = 0.005  # of rows: held-out recordings have none, and a stray row or two decides nothing
HARMFUL_SHARE = 0.05  # of validation windows: fewer cannot move accuracy by five points
CUT_SHARE = 0.25  # in one place: a single cut through a recording leaves a few windows on both sides, no more
REFERENCE_FACTOR = 2.0  # times as many matches as recordings that are kept apart have among themselves
WINDOWS_ADVICE = (
    "Keep all windows of a recording (better: of a person) on one side of the split. In a Keras script, choose the "
    "rows with scikit-learn's StratifiedGroupKFold and hand them to fit as validation_data."
)


def check_overlapping_windows(case: Case) -> Iterator[Measurement]:
    """PC203: from recordings and start frames where they are stored, and from equal stretches of frames."""
    parts, scan = case.parts, case.scan
    if parts is None or scan is None or not len(parts.train) or not len(parts.validation):
        yield missing("PC203", "labels, and rows for training and for validation")
        return
    stored = _measure_start_frames(case, parts)
    if stored is not None and stored.found:
        yield stored
    elif scan.frame_hash is not None and scan.frame_hash.shape[1] > SHINGLE:
        yield _measure_shingles(case, parts, scan.frame_hash)
    else:
        yield stored or missing("PC203", f"windows of more than {SHINGLE} frames, or recordings and start frames")


def _measure_start_frames(case: Case, parts: LabelledParts) -> Measurement | None:
    """None where it is not stored which windows overlap."""
    data = parts.data
    units = data.recordings
    if units is None and data.groups is not None:  # as data/README.md defines a recording then
        units = data.groups * (len(parts.classes) + 1) + parts.labels
    if data.start_frames is None or units is None or not data.has_frames:
        return None
    frames = data.shapes[0][-1]
    rows = parts.validation[mark_overlaps(data.start_frames, units, parts.train, parts.validation, frames)]
    partners, shared = _find_partners(data.start_frames, units, parts.train, rows, frames)
    return _tell_overlaps(case, parts, WindowMatches(rows, partners, shared), None)


def _find_partners(
    starts: NDArray[np.int64], units: NDArray[np.int64], train: Rows, rows: Rows, frames: int
) -> tuple[Rows, NDArray[np.int64]]:
    """The training row nearest in time to each of `rows`, and the frames that they share."""
    partners = np.empty_like(rows)
    for unit in np.unique(units[rows]):
        members = train[units[train] == unit]
        at = np.flatnonzero(units[rows] == unit)
        partners[at] = members[np.abs(starts[members][None, :] - starts[rows[at]][:, None]).argmin(axis=1)]
    return partners, frames - np.abs(starts[partners] - starts[rows])


def _measure_shingles(case: Case, parts: LabelledParts, frame_hash: NDArray[np.uint64]) -> Measurement:
    matches = match_windows(frame_hash, parts.train, parts.validation)
    reference = None
    if len(matches.rows) > LEAST_SHARE * len(parts.validation):
        reference = _measure_reference(case, parts.train, frame_hash)
    return _tell_overlaps(case, parts, matches, reference)


def _measure_reference(case: Case, train: Rows, frame_hash: NDArray[np.uint64]) -> float | None:
    """Share of windows of one half of the training groups that match the other half; None where no groups are known."""
    units = case.groups_of(train)
    if units is None:
        return None
    names = np.unique(units)
    half = np.isin(units, case.rng("PC203").permutation(names)[: len(names) // 2])
    if half.all() or not half.any():
        return None
    return len(match_windows(frame_hash, train[~half], train[half]).rows) / int(half.sum())


def _tell_overlaps(case: Case, parts: LabelledParts, matches: WindowMatches, reference: float | None) -> Measurement:
    n, count = len(parts.validation), len(matches.rows)
    share = count / n
    threshold = max(LEAST_SHARE, REFERENCE_FACTOR * (reference or 0.0))
    found = share > threshold
    places = int(np.count_nonzero(np.diff(matches.rows) > 1)) + 1 if count else 0
    harm = share >= HARMFUL_SHARE and (places > 1 or share >= CUT_SHARE)
    frames = parts.data.shapes[0][-1]
    details: dict[str, object] = {"windows": count, "places": places, "share_between_training_groups": reference}
    if count:
        best = int(matches.frames.argmax())
        details |= {
            "longest_shared_frames": int(matches.frames[best]),
            "example": [parts.data.locate(int(matches.rows[best])), parts.data.locate(int(matches.partners[best]))],
        }
        sentence = (
            f"{count} of {n} validation windows ({share:.1%}) contain frames that the network is trained on: they "
            f"overlap with training windows by up to {int(matches.frames[best])} of {frames} frames (for instance "
            f"{parts.data.locate(int(matches.rows[best]))} and {parts.data.locate(int(matches.partners[best]))}). "
        )
        sentence += (
            "The validation score is partly a score of memory, and will not hold for new recordings."
            if harm else "These are too few, or too much in one place, to move the score by much."
        )  # fmt: skip
    else:
        sentence = (
            f"None of {n} validation windows shares a stretch of {SHINGLE} or more frames with a training window."
        )
    return Measurement(
        "PC203", "proof", sentence, found=found, harm=harm, statistic="share of validation windows that overlap",
        value=share, threshold=threshold, n=n, null=None if reference is None else "training groups against each other",
        minimum_detectable_effect=LEAST_SHARE, fix=fix_split(case, WINDOWS_ADVICE), details=details,
    )  # fmt: skip


def check_duplicates(case: Case) -> Iterator[Measurement]:
    """PC205: rows of validation that are equal to training rows, and equal rows with different labels."""
    parts, scan = case.parts, case.scan
    if parts is None or scan is None or not len(parts.train) or not len(parts.validation):
        yield missing("PC205", "labels, and rows for training and for validation")
        return
    telling = _find_telling(scan)
    train, validation = (rows[telling[rows]] for rows in (parts.train, parts.validation))
    equal = match_rows(scan.row_hash, parts.labels, train, validation)
    yield _tell_duplicates(parts, equal)


def _find_telling(scan: Scan) -> NDArray[np.bool_]:
    """Rows that are not equal by chance: not empty and, where there are frames, not standing still."""
    filled = scan.filled > 0
    return filled if scan.frame_hash is None else filled & find_moving_rows(scan.frame_hash)


def _tell_duplicates(parts: LabelledParts, equal: EqualRows) -> Measurement:
    n, total = len(parts.validation), len(parts.train) + len(parts.validation)
    shared, conflicts = len(equal.shared) / n, len(equal.conflicting) / total
    ceiling = 1.0 - equal.lost / total
    locate = parts.data.locate
    details: dict[str, object] = {
        "shared_rows": len(equal.shared), "conflicting_rows": len(equal.conflicting), "ceiling": ceiling,
        "rows": [[int(a), int(b)] for a, b in zip(equal.shared[:20], equal.partners[:20], strict=True)],
        "conflicting": equal.conflicting[:20].tolist(),
    }  # fmt: skip
    told = []
    if len(equal.shared):
        pair = f"{locate(int(equal.shared[0]))} and {locate(int(equal.partners[0]))}"
        told.append(
            f"{len(equal.shared)} of {n} validation rows ({shared:.1%}) are exact copies of training rows "
            f"(for instance {pair}): the score counts what was learned by heart."
        )
    if len(equal.conflicting):
        told.append(
            f"{len(equal.conflicting)} of {total} rows ({conflicts:.1%}) have the same values as a row with another "
            f"label (for instance {locate(int(equal.conflicting[0]))}): no network can score above {ceiling:.2%}."
        )
    worse = max(shared, conflicts)
    return Measurement(
        "PC205", "proof", " ".join(told) or f"No validation row equals a training row, and no equal rows among {total} "
        "have different labels.", found=bool(told), harm=True if worse > LEAST_SHARE else None,
        statistic="share of validation rows that are copies" if shared >= conflicts else "share of rows in conflict",
        value=worse, threshold=LEAST_SHARE, n=n if shared >= conflicts else total, minimum_detectable_effect=1 / n,
        fix=Fix("Drop the copies before splitting (numpy.unique over rows finds them), and look at the rows whose "
                "labels disagree: at least one label of each is wrong."), details=details,
    )  # fmt: skip


CHECKS = (
    Check(("PC203",), Tier.DATA, check_overlapping_windows),
    Check(("PC205",), Tier.DATA, check_duplicates),
)

"""Cuts rows into folds with scikit-learn: equal class shares, and no group in two folds."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import DataError
from pointcnn_cli.splits.parts import Rows

SHUFFLES = 20
# scikit-learn tries each group in each fold, at about 60 microseconds a try. Beyond this many (600 groups in 5 folds,
# 20 times: some 4 seconds) fewer shuffles are drawn: with so many groups they hardly differ.
TRIES_AT_MOST = 60_000


@dataclass(frozen=True, eq=False)
class Folds:
    """The folds of some rows."""

    numbers: NDArray[np.int64]
    """(rows,) the fold of each row"""
    count: int
    grouped: bool
    """Whether no group is in two folds."""
    table: NDArray[np.int64]
    """(folds, classes) rows"""
    notes: tuple[str, ...]

    def missing(self) -> NDArray[np.bool_]:
        """(folds, classes): whether the class has rows, but none outside of this fold."""
        total = self.table.sum(axis=0)
        missing: NDArray[np.bool_] = (self.table == total) & (total > 0)
        return missing

    def deviation(self) -> NDArray[np.float64]:
        """(folds,): sum over classes of how far its share in the fold is from its share in all rows."""
        sizes = self.table.sum(axis=1, keepdims=True)
        shares = self.table / np.maximum(sizes, 1)
        deviation = np.abs(shares - self.table.sum(axis=0) / self.table.sum()).sum(axis=1)
        return np.where(sizes[:, 0] > 0, deviation, np.inf)  # an empty fold is never wanted


def build_folds(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    classes: tuple[str, ...],
    fraction: float,
    seed: tuple[int, int],
    purpose: str,
) -> Folds:
    """Folds of about `fraction` of the rows each: labels (rows,), groups (rows,) or None for rows on their own.

    There are round(1 / fraction) folds, at most the number of groups and the rows of the largest class. Fewer than two
    groups cannot be kept apart: then rows are cut as if there were no groups. A class in fewer rows (or groups) than
    folds goes to as many folds as it can. Each such rule adds a note that names `purpose`, as what the folds are for.
    Raises DataError where every class has only one row.
    """
    notes = []
    grouped = groups is not None and len(np.unique(groups)) > 1
    if not grouped and groups is not None:
        notes.append(
            f"All rows of the {purpose} split belong to one group, which cannot be kept apart: its rows are shared out "
            "by class alone, so the score is on a group that was trained on, and says nothing of others."
        )
    wanted = round(1 / fraction)
    largest_class = int(np.bincount(labels).max())
    kept_together = groups if grouped else None
    units = len(labels) if kept_together is None else len(np.unique(kept_together))
    unit = "rows" if kept_together is None else "groups"
    count = min(wanted, units, largest_class)
    if count < 2:
        raise DataError(
            f"the {purpose} split cannot be made: every class has only one row", "gather more rows of each class"
        )
    if count < wanted:
        limit = f"there are only {units} {unit}" if count == units else f"no class has more than {largest_class} rows"
        notes.append(
            f"The {purpose} split has {count} folds instead of round(1 / {fraction:g}) = {wanted}, for {limit}; "
            f"a fold is about {1 / count:.1%} of the rows."
        )
    notes.extend(_note_rare_classes(labels, kept_together, classes, count, purpose))
    numbers = _choose_shuffle(labels, kept_together, count, len(classes), seed)
    return Folds(numbers, count, grouped, _count(numbers, labels, count, len(classes)), tuple(notes))


def _note_rare_classes(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, classes: tuple[str, ...], count: int, purpose: str
) -> list[str]:
    units = np.arange(len(labels)) if groups is None else groups
    rare = [(name, len(np.unique(units[labels == number]))) for number, name in enumerate(classes)]
    rare = [(name, found) for name, found in rare if 0 < found < count]
    if not rare:
        return []
    unit = "rows" if groups is None else "groups"
    listed = ", ".join(f"{name} ({found})" for name, found in rare)
    return [
        f"Classes in fewer {unit} than the {count} folds of the {purpose} split: {listed}. They cannot be stratified: "
        f"they are spread over as many folds as they go into, and the other folds have none of them."
    ]


def _choose_shuffle(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, count: int, class_count: int, seed: tuple[int, int]
) -> NDArray[np.int64]:
    """The fold of each row, from the shuffle with fewest missing (fold, class) pairs, then with the nearest shares.

    Without groups one shuffle is enough: scikit-learn puts equally many rows of a class into a fold in all of them.
    """
    shuffles = 1
    if groups is not None:
        shuffles = min(SHUFFLES, max(1, TRIES_AT_MOST // (len(np.unique(groups)) * count)))
    candidates = []
    for state in np.random.SeedSequence(seed).generate_state(shuffles):
        numbers = _shuffle(labels, groups, count, int(state))
        folds = Folds(numbers, count, groups is not None, _count(numbers, labels, count, class_count), ())
        # Rounded, so that sums that differ in the last bit do not choose different rows on different machines.
        candidates.append((int(folds.missing().sum()), round(float(folds.deviation().sum()), 9), numbers))
    return min(candidates, key=lambda candidate: candidate[:2])[2]


def _shuffle(labels: NDArray[np.int64], groups: NDArray[np.int64] | None, count: int, state: int) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    numbers = np.zeros(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # a note says it, with names
        parts = splitter(count, shuffle=True, random_state=state).split(labels, labels, groups)
        for number, (_, part) in enumerate(parts):
            numbers[part] = number
    return numbers


def _count(numbers: Rows, labels: NDArray[np.int64], count: int, class_count: int) -> NDArray[np.int64]:
    flat = np.bincount(numbers * class_count + labels, minlength=count * class_count)
    return flat.reshape(count, class_count).astype(np.int64, copy=False)

"""The rows on which all arms are scored: no arm trains on them, nor on their people, and they hold every class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.lab import Lab
from pointcnn_cli.diagnose.outcomes import pick_rows
from pointcnn_cli.splits.folds import build_folds

MOST_SCORED = 600  # rows: standard error of at most 2 points, were they independent
SPLIT_SEED = (20_240_229, 1)


@dataclass(frozen=True, eq=False)
class Fold:
    """One cut of the rows of both parts; places in the lab, sorted."""

    trusted: Rows
    """Stratified; shares no group with the others."""
    kept: NDArray[np.int64]
    """All places that are in no trusted group."""
    user: Rows
    """The user's training rows, those of trusted groups left out."""
    fair: Rows
    """As many rows as `user`, drawn from `kept`: what a stratified grouped split trains on."""


def build_trusted_folds(lab: Lab, count: int) -> list[Fold]:
    """`count` cuts, each with another part trusted. Raises ValueError or DataError where rows do not suffice."""
    rng = lab.case.rng("PC200")
    cut = build_folds(lab.labels, lab.groups, lab.data.classes, 1 / count, SPLIT_SEED, "trusted")
    folds = []
    for number in range(cut.count):
        trusted, kept = np.flatnonzero(cut.numbers == number), np.flatnonzero(cut.numbers != number)
        user = np.intersect1d(kept, lab.train)
        if len(user) < 2 * lab.classes or len(np.unique(lab.labels[user])) < 2:
            raise ValueError("too few training rows are left beside a trusted set")
        fair = kept if len(kept) <= len(user) else np.sort(rng.choice(kept, len(user), replace=False))
        folds.append(Fold(pick_rows(trusted, MOST_SCORED, rng), kept, user, fair))
    return folds

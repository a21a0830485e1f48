"""The scores of a cross-validation, from the predictions that its members made for rows they did not train on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.averaging import average, compare_rows, compute_gain
from pointcnn_cli.cvdir import Member
from pointcnn_cli.documents import SCHEMA_VERSION
from pointcnn_cli.metrics import compute_metrics

SPREAD_OF = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "expected_calibration_error")


@dataclass(frozen=True, eq=False)
class MemberRows:
    """What one member predicted for the rows of its fold, and its own score."""

    member: Member
    metrics: Mapping[str, Any]
    trained: frozenset[int]
    """Numbers of the classes that it had training rows of."""
    numbers: NDArray[np.int64]
    """(rows,) in the data"""
    probabilities: NDArray[np.float32]
    """(rows, classes)"""
    labels: NDArray[np.int64]
    """(rows,)"""
    groups: list[str] | None
    """Names, (rows,)"""


def compute_cv_metrics(
    members: Sequence[MemberRows], classes: Sequence[str], folds: int, seeds: Sequence[int], missing: Sequence[str]
) -> dict[str, Any]:
    """The document of metrics.json of the whole; `members` are those that finished, at least one.

    `members` and `spread` are of each member's own rows; `out_of_fold` puts the folds of a seed together, then takes
    the mean over seeds, and the ensemble of the seeds (averaged probabilities), on the rows that all seeds predicted.
    """
    pooled = {seed: pool_folds([one for one in members if one.member.seed == seed]) for seed in seeds}
    pooled = {seed: rows for seed, rows in pooled.items() if len(rows.numbers)}
    shared = _keep_shared(list(pooled.values()))
    together = np.stack([rows.probabilities for rows in shared])  # (seeds, rows, classes)
    compared = compare_rows(shared[0].labels, together)
    per_seed = {str(seed): _score(rows, rows.probabilities, classes) for seed, rows in pooled.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "folds": folds,
        "seeds": list(seeds),
        "missing": list(missing),
        "classes": list(classes),
        "members": [_describe_member(one) for one in members],
        "spread": {name: _compute_spread(members, name) for name in SPREAD_OF},
        "out_of_fold": {
            "per_seed": per_seed,
            "averaged": _average(list(per_seed.values())),
            "ensemble": _score(shared[0], average(together), classes),
            "ensemble_gain": None if len(shared) < 2 else compute_gain(compared, len(shared), shared[0].codes()),
        },
        "per_group": _score_groups(shared),
    }


@dataclass(frozen=True, eq=False)
class PooledRows:
    """The predictions of all folds of one seed, in the order of the data."""

    numbers: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: list[str] | None
    folds: NDArray[np.int64]
    """(rows,) the fold that holds each row"""
    reachable: NDArray[np.bool_]
    """(rows,) whether the class of the row had training rows in the run that predicted it"""
    trained: frozenset[int]
    """Classes that every one of these runs had training rows of."""
    facts: Mapping[str, Any]
    """`epoch` and `selected_on_these_rows`, as of a single run where all agree."""

    def codes(self) -> NDArray[np.int64] | None:
        """The groups as numbers (rows,)."""
        return None if self.groups is None else np.unique(self.groups, return_inverse=True)[1].astype(np.int64)

    def take(self, places: NDArray[np.int64]) -> "PooledRows":
        """Only the rows in these places."""
        return PooledRows(
            self.numbers[places], self.probabilities[places], self.labels[places],
            None if self.groups is None else [self.groups[i] for i in places],
            self.folds[places], self.reachable[places], self.trained, self.facts,
        )  # fmt: skip


def pool_folds(members: Sequence[MemberRows]) -> PooledRows:
    """Rows of the members (all of one seed), in the order of the data."""
    if not members:
        none = np.zeros(0, np.int64)
        return PooledRows(none, np.zeros((0, 0), np.float32), none, None, none, none > 0, frozenset(), {})
    grouped = all(one.groups is not None for one in members)
    epochs = {one.metrics["epoch"] for one in members}
    rows = PooledRows(
        np.concatenate([one.numbers for one in members]),
        np.concatenate([one.probabilities for one in members]),
        np.concatenate([one.labels for one in members]),
        [name for one in members for name in one.groups or ()] if grouped else None,
        np.concatenate([np.full(len(one.numbers), one.member.fold) for one in members]),
        np.concatenate([np.isin(one.labels, list(one.trained)) for one in members]),
        frozenset.intersection(*(one.trained for one in members)),
        {
            "epoch": epochs.pop() if len(epochs) == 1 else None,
            "selected_on_these_rows": any(one.metrics["selected_on_these_rows"] for one in members),
        },
    )
    return rows.take(np.argsort(rows.numbers, kind="stable"))


def _keep_shared(pooled: list[PooledRows]) -> list[PooledRows]:
    """The rows that every seed predicted; where folds are missing, some lack them."""
    shared = pooled[0].numbers
    for rows in pooled[1:]:
        shared = np.intersect1d(shared, rows.numbers)
    if not len(shared):  # no fold is finished for all seeds: the first seed alone
        return pooled[:1]
    return [rows.take(np.flatnonzero(np.isin(rows.numbers, shared))) for rows in pooled]


def _score(rows: PooledRows, probabilities: NDArray[Any], classes: Sequence[str]) -> dict[str, Any]:
    metrics = compute_metrics(
        rows.labels, probabilities, rows.codes(), classes, sorted(rows.trained),
        epoch=rows.facts["epoch"], selected_on_these_rows=rows.facts["selected_on_these_rows"],
    )  # fmt: skip
    return {**metrics, "ceiling_accuracy": float(rows.reachable.mean())}


def _average(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, also of the ends of the interval: the seeds share their rows, which it comes from."""
    return {
        "seeds": len(scores),
        "accuracy_ci": np.mean([score["accuracy_ci"] for score in scores], axis=0).tolist(),
        **{name: float(np.mean([score[name] for score in scores])) for name in SPREAD_OF},
    }


def _describe_member(one: MemberRows) -> dict[str, Any]:
    kept = ("epoch", "n", "n_groups", "accuracy", "accuracy_ci", *SPREAD_OF[1:], "chance_accuracy", "ceiling_accuracy")
    where = {"name": one.member.name, "fold": one.member.fold, "seed": one.member.seed}
    return where | {key: one.metrics[key] for key in kept}


def _compute_spread(members: Sequence[MemberRows], name: str) -> dict[str, Any]:
    """Mean over members, and standard deviations (n - 1): over folds (each the mean of its seeds), over seeds (each
    the mean of its folds), and over the seeds of one fold, whose variances are averaged. None where there are not
    two."""
    values = {(one.member.fold, one.member.seed): float(one.metrics[name]) for one in members}
    by_fold = _gather(values, lambda key: key[0])
    by_seed = _gather(values, lambda key: key[1])
    within = [float(np.var(one, ddof=1)) for one in by_fold.values() if len(one) > 1]
    return {
        "mean": float(np.mean(list(values.values()))),
        "min": min(values.values()),
        "max": max(values.values()),
        "sd_over_folds": _deviate([float(np.mean(one)) for one in by_fold.values()]),
        "sd_over_seeds": _deviate([float(np.mean(one)) for one in by_seed.values()]),
        "sd_of_seeds_within_folds": float(np.sqrt(np.mean(within))) if within else None,
    }


def _gather(values: Mapping[tuple[int, int], float], key: Callable[[tuple[int, int]], int]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for place, value in sorted(values.items()):
        found.setdefault(key(place), []).append(value)
    return found


def _deviate(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _score_groups(shared: list[PooledRows]) -> list[dict[str, Any]] | None:
    """Rows, fold and accuracy (mean over seeds) of each group, in the order of their names; None without groups."""
    codes, groups = shared[0].codes(), shared[0].groups
    if codes is None or groups is None:
        return None
    correct = np.mean([rows.probabilities.argmax(axis=1) == rows.labels for rows in shared], axis=0)
    sizes, right = np.bincount(codes), np.bincount(codes, weights=correct)
    folds = dict(zip(groups, shared[0].folds.tolist(), strict=True))
    return [
        {"group": name, "fold": folds[name], "n": int(size), "accuracy": float(hits / size)}
        for name, size, hits in zip(sorted(set(groups)), sizes, right, strict=True)
    ]

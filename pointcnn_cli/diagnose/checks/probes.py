"""Small classifiers for the checks: nearest neighbours, ridge regression, and folds that keep groups together.

They see the features of `Case.scan`, not the rows, and take milliseconds: they bound what the data can tell.
"""

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.findings import Fix

PROBE_ROWS = 4_000  # more rows cost time and change no verdict
FOLDS = 5
BLOCKS = 64  # stretches of the file that stand for groups where none are known; sign tests need at least 11
PURE = 0.95  # share of rows with the most frequent label of their unit, above which units have one label each
RIDGE = 0.01  # of the number of rows; the features have unit variance
COMPONENTS = 48  # principal components; they keep 99 % of the variance of the features of radar windows

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def sample_rows(rows: Rows, limit: int, rng: np.random.Generator) -> Rows:
    """At most `limit` of `rows`, drawn without replacement, in their order."""
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def fix_split(case: Case, text: str) -> Fix:
    """Advice, and the setting that splits by groups where the data have groups and are not split by them already."""
    known = case.data is not None and case.data.groups is not None
    if case.settings.split_strategy == "stratified_group":
        return Fix(f"{text} The groups that are stored do not keep them apart: name others in data.groups.")
    if not known:
        return Fix(f"{text} With a config, store the recording or person of each row as dataset 'group' first.")
    given = {"split.file": None} if case.settings.split_strategy == "file" else {}
    return Fix(text, {"split.strategy": "stratified_group", **given})


def keep_common_classes(labels: Labels, train: Rows, validation: Rows) -> tuple[Rows, Rows] | None:
    """The rows of both parts whose class is in both; None where those are fewer than two classes or than half of the
    validation rows, so that any comparison of the parts would be one of classes."""
    common = np.intersect1d(labels[train], labels[validation])
    common = common[common >= 0]
    kept = train[np.isin(labels[train], common)], validation[np.isin(labels[validation], common)]
    return kept if len(common) > 1 and 2 * len(kept[1]) > len(validation) else None


def number_blocks(case: Case, rows: Rows) -> Labels:
    """Stretches (rows,) of the file, about equally long."""
    total = 1 if case.data is None else case.data.rows
    return rows * min(BLOCKS, total) // total


def number_units(case: Case, rows: Rows) -> Labels:
    """What is kept together in folds: groups, or recordings, or else stretches of the file."""
    units = case.groups_of(rows)
    return number_blocks(case, rows) if units is None else units


def reduce_features(features: NDArray[np.float32]) -> Floats:
    """Principal components (rows, at most `COMPONENTS`) that are not constant."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    kept = (values > 1e-6)[::-1][:COMPONENTS]
    components: Floats = centred @ vectors[:, ::-1][:, :COMPONENTS][:, kept]
    return components


def assign_folds(units: Labels, labels: Labels, rng: np.random.Generator, folds: int = FOLDS) -> Labels:
    """Fold (rows,) of each row: whole units are dealt out in turn, those of one (most frequent) label after another."""
    main, _ = find_main_labels(units, labels, int(labels.max(initial=0)) + 1)
    order = np.lexsort((rng.random(len(main)), main))
    fold = np.empty(len(main), np.int64)
    fold[order] = np.arange(len(main)) % folds
    return fold[np.unique(units, return_inverse=True)[1]]


def compute_distances(queries: Floats, references: Floats) -> NDArray[np.float32]:
    """Squared Euclidean distances (queries, references), up to a constant for each query."""
    a, b = queries.astype(np.float32), references.astype(np.float32)
    distances: NDArray[np.float32] = np.einsum("ij,ij->i", b, b)[None, :] - 2.0 * (a @ b.T)
    return distances


def one_hot(labels: Labels, classes: int) -> Floats:
    """(rows, classes)."""
    return np.eye(classes)[labels]


def fit_ridge(features: Floats, targets: Floats) -> Floats:
    """Coefficients (features + 1, targets) of a ridge regression, the constant last and not penalised."""
    x = add_constant(features)
    return np.asarray(np.linalg.solve(compute_penalised_gram(x), x.T @ targets), np.float64)


def compute_penalised_gram(x: Floats) -> Floats:
    """x'x, with the ridge penalty on all columns but the last, the constant."""
    penalty = np.full(x.shape[1], RIDGE * len(x))
    penalty[-1] = 1e-9
    gram: Floats = x.T @ x + np.diag(penalty)
    return gram


def add_constant(features: Floats) -> Floats:
    """The features with a last column of ones."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def score_out_of_fold(features: Floats, targets: Floats, folds: Labels) -> Floats:
    """Ridge predictions (rows, targets) for each fold by a fit on the others."""
    scores = np.zeros_like(targets)
    for fold in np.unique(folds):
        held = folds == fold
        scores[held] = add_constant(features[held]) @ fit_ridge(features[~held], targets[~held])
    return scores


def compute_auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half (Mann and Whitney 1947)."""
    values, codes, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    hits = int(positive.sum())
    above = ranks[codes][positive].sum() - hits * (hits + 1) / 2
    return float(above / (hits * (len(scores) - hits))) if len(values) > 1 else 0.5


def count_units(units: Labels, labels: Labels, classes: int) -> NDArray[np.int64]:
    """(classes,) how many units have each class as their most frequent label."""
    return np.bincount(find_main_labels(units, labels, classes)[0], minlength=classes)


def find_main_labels(units: Labels, labels: Labels, classes: int) -> tuple[Labels, bool]:
    """The most frequent label (units,) of each unit in the order of `np.unique`, and whether (nearly) all their rows
    have it."""
    codes = np.unique(units, return_inverse=True)[1]
    table = np.zeros((int(codes.max()) + 1, classes))
    np.add.at(table, (codes, labels), 1)
    return table.argmax(axis=1), bool(table.max(axis=1).sum() > PURE * table.sum())


def hold_out_units(units: Labels, labels: Labels, wanted: NDArray[np.int64], rng: np.random.Generator) -> Rows:
    """Positions of the rows of a random hold-out of `wanted.sum()` units, but never more than half of them.

    Where units have one label each, `wanted[c]` of them are of class c as far as there are so many.
    """
    codes = np.unique(units, return_inverse=True)[1]
    main, pure = find_main_labels(units, labels, len(wanted))
    held = np.zeros(len(main), bool)
    for label, count in enumerate(wanted if pure else []):
        members = np.flatnonzero(main == label)
        held[rng.permutation(members)[: min(count, len(members) // 2)]] = True
    missing = min(int(wanted.sum()), len(main) // 2) - int(held.sum())
    if missing > 0:
        held[rng.permutation(np.flatnonzero(~held))[:missing]] = True
    return np.flatnonzero(held[codes])

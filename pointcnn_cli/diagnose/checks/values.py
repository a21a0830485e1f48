"""Checks of labels and values themselves, and of how rows reach the batches."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import LabelledParts
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import PERMUTATIONS
from pointcnn_cli.paired import compute_p

MOST_EMPTY = 0.005  # share of rows
UNEQUAL = 0.1  # rows of the rarest class over those of the most frequent one
FIRST_BATCHES = 50
FEWEST_COVERED = 0.99  # of the training rows in an epoch
ROWS_NAMED = 3
KERAS_BATCH = 32  # of fit, where nobody says otherwise


def check_values(case: Case) -> Iterator[Measurement]:
    """PC102: NaN and infinity, channels that never change, rows without any value."""
    scan, data = case.scan, case.data
    if scan is None or data is None:
        yield missing("PC102", "the data")
        return
    bad = np.flatnonzero(scan.bad_values.any(axis=1))
    if len(bad):
        where = "; ".join(data.locate(int(row)) for row in bad[:ROWS_NAMED])
        names = [name for name, column in zip(data.names, scan.bad_values.T, strict=True) if column.any()]
        yield Measurement(
            "PC102", "proof", f"{int(scan.bad_values.sum())} values in {len(bad)} of {data.rows} rows are NaN, "
            f"infinite or beyond float32, in {', '.join(names)}; the first rows are: {where}. One of them in a batch "
            "makes every weight NaN.", harm=True, statistic="rows with such values", value=float(len(bad)),
            threshold=1.0, n=data.rows,
            fix=Fix("Remove these rows, or set the values to 0 (an empty slot is 0 in all channels)."),
            details={"rows": bad[:100].tolist(), "inputs": names},
        )  # fmt: skip
        return
    rows = case.train if case.train is not None and len(case.train) else np.arange(data.rows)
    constant = [
        name
        for name, low, high in zip(
            scan.coordinates, scan.lowest[rows].min(axis=0), scan.highest[rows].max(axis=0), strict=True
        )
        if low == high
    ]
    empty = scan.filled[rows] == 0
    reasons = []
    if constant:
        reasons.append(
            f"{', '.join(constant)} never change{'s' if len(constant) == 1 else ''} over {len(rows)} training rows"
        )
    if empty.mean() > MOST_EMPTY:
        reasons.append(f"{int(empty.sum())} of {len(rows)} training rows ({empty.mean():.1%}) hold no point at all")
    yield Measurement(
        "PC102", "proof", f"Of the inputs, {'; '.join(reasons)}." if reasons else
        f"All values of {data.rows} rows are finite, no channel is constant, {int(empty.sum())} training rows are "
        "empty.",
        found=bool(reasons), statistic="constant coordinates and share of empty rows",
        value=float(len(constant)) + float(empty.mean()), threshold=MOST_EMPTY, n=len(rows),
        fix=Fix("Look at these channels and rows in the program that wrote the file; leave out what holds nothing."),
        details={"constant": constant, "empty_rows": np.asarray(rows)[empty][:100].tolist()},
    )  # fmt: skip


def check_label_form(case: Case) -> Iterator[Measurement]:
    """PC305, from the labels as given: not whole, negative, NaN, or one-hot rows with other than a single 1."""
    if case.data is None or (case.data.raw_labels is None and case.data.labels is None):
        yield missing("PC305", "the labels")
        return
    raw = case.data.raw_labels
    if raw is None:  # the HDF5 reader has refused any such label
        yield _no_fault(case.data.rows)
        return
    values = np.asarray(raw, dtype=np.float64)
    if values.ndim == 2 and values.shape[1] > 1:
        wrong = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1.0) > 1e-3)
        what = "one-hot rows that hold NaN or negative values or do not sum to 1"
    else:
        flat = values.reshape(len(values))
        wrong = ~np.isfinite(flat) | (flat != np.round(flat)) | (flat < 0)
        what = "labels that are negative, fractional or NaN"
    if not wrong.any():
        yield _no_fault(len(values))
        return
    rows = np.flatnonzero(wrong)
    yield Measurement(
        "PC305", "proof", f"{len(rows)} of {len(values)} rows have {what}; the first is row {rows[0]}: {raw[rows[0]]}.",
        harm=True, statistic="rows with such labels", value=float(len(rows)), threshold=1.0, n=len(values),
        fix=Fix("Number the classes 0 to K-1, or give one-hot rows with a single 1."),
        details={"rows": rows[:100].tolist()},
    )  # fmt: skip


def _no_fault(rows: int) -> Measurement:
    return Measurement(
        "PC305", "proof", f"All {rows} labels are in order.", found=False, statistic="rows with malformed labels",
        value=0.0, threshold=1.0, n=rows,
    )  # fmt: skip


def check_batches(case: Case) -> Iterator[Measurement]:
    """PC503: whether rows are shuffled and all of them seen."""
    settings = case.settings
    known = case.parts
    if known is None:
        yield missing("PC503", "labels and the training rows")
        return
    n, batch = len(known.train), settings.batch_size
    if settings.steps_per_epoch and batch and settings.steps_per_epoch * batch < FEWEST_COVERED * n:
        covered = settings.steps_per_epoch * batch / n
        yield Measurement(
            "PC503", "proof", f"An epoch of {settings.steps_per_epoch} steps of {batch} rows sees {covered:.0%} of the "
            f"{n} training rows.", harm=True if settings.shuffle is False else None, statistic="share of rows seen",
            value=covered, threshold=FEWEST_COVERED, n=n, fix=Fix("Leave out steps_per_epoch."),
        )  # fmt: skip
        return
    if settings.shuffle is None:
        yield missing("PC503", "whether fit shuffled the rows (shuffle=...)")
        return
    if settings.shuffle:
        yield Measurement(
            "PC503", "proof", f"All {n} training rows are shuffled anew in every epoch.", found=False,
            statistic="share of rows seen", value=1.0, threshold=FEWEST_COVERED, n=n,
        )  # fmt: skip
        return
    yield _measure_mixing(case, known, batch or KERAS_BATCH)


def _measure_mixing(case: Case, known: LabelledParts, batch: int) -> Measurement:
    """The label entropy of the first batches in file order, against shuffled ones."""
    labels = np.maximum(known.labels[known.train], 0)
    classes, rng = len(known.classes), case.rng("PC503")
    observed = _mean_entropy(labels, batch, classes)
    null = np.array([_mean_entropy(rng.permutation(labels), batch, classes) for _ in range(PERMUTATIONS)])
    z = (observed - null.mean()) / max(float(null.std()), 1e-9)
    shortfall = 1.0 - observed / max(float(null.mean()), 1e-9)
    return Measurement(
        "PC503", "test", f"Rows are not shuffled: the first batches of {batch} rows hold labels of entropy "
        f"{observed:.2f} nats on average, {null.mean():.2f} when shuffled ({z:.0f} standard deviations), so each "
        "step teaches the network to forget the classes that it does not hold.",
        found=z < -5, statistic="z of the mean label entropy",
        value=float(z), threshold=-5.0, n=len(labels), effect=float(shortfall), p=compute_p(-observed, -null),
        null=f"{PERMUTATIONS} shuffles of the training labels", fix=Fix("Shuffle: fit(..., shuffle=True)."),
        minimum_detectable_effect=float(5 * null.std() / max(float(null.mean()), 1e-9)),
    )  # fmt: skip


def _mean_entropy(labels: NDArray[np.int64], batch: int, classes: int) -> float:
    """Mean entropy (nats) of the labels in the first batches."""
    count = max(1, min(FIRST_BATCHES, len(labels) // batch))
    table = np.zeros((count, classes))
    used = labels[: count * batch]
    np.add.at(table, (np.minimum(np.arange(len(used)) // batch, count - 1), used), 1)
    shares = table / table.sum(axis=1, keepdims=True)
    return float(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1).mean())


def check_class_sizes(case: Case) -> Iterator[Measurement]:
    """PC304 as far as counts show it: classes of very unequal size that no weight makes up for."""
    known = case.parts
    if known is None or not len(known.train):
        yield missing("PC304", "labels and the training rows")
        return
    counts = np.bincount(np.maximum(known.labels[known.train], 0), minlength=len(known.classes))
    present = np.flatnonzero(counts)
    rare, many = int(present[counts[present].argmin()]), int(counts.argmax())
    ratio = float(counts[rare] / counts[many])
    untreated = ratio < UNEQUAL and case.settings.class_weight is None
    remark = ", and no class weights are set" if untreated else ""
    yield Measurement(
        "PC304", "proof",
        f"The largest class, {known.classes[many]}, has {counts[many]} training rows and "
        f"the smallest, {known.classes[rare]}, {counts[rare]}{remark}.",
        found=untreated, statistic="rows of the rarest class over the most frequent", value=ratio,
        threshold=UNEQUAL, n=len(known.train),
        fix=Fix("Weight classes by inverse frequency, and watch macro F1.", {"train.class_weight": "balanced"}),
    )  # fmt: skip


def check_origin(case: Case) -> Iterator[Measurement]:
    """PC701: a run's files against the data. What does not agree was noted when the case was opened."""
    if case.manifest is None:
        yield missing("PC701", "a run's manifest.json")
        return
    if not any(code == "PC701" for code, _ in case.problems):
        yield Measurement(
            "PC701", "proof", "The data are those that the run was trained on, as far as their fingerprint says.",
            found=False, statistic="files that do not agree", value=0.0, threshold=1.0,
        )  # fmt: skip


CHECKS = (
    Check(("PC305",), Tier.STATIC, check_label_form),
    Check(("PC503",), Tier.STATIC, check_batches),
    Check(("PC304",), Tier.STATIC, check_class_sizes),
    Check(("PC701",), Tier.STATIC, check_origin),
    Check(("PC102",), Tier.DATA, check_values),
)

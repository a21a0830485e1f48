"""PC208, PC206 and PC103: validation inputs mapped back to what training inputs look like, and predicted again.

A map that makes the network right was missing: the strongest evidence short of a training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.drift import SHIFT_ADVICE
from pointcnn_cli.diagnose.facts import CaseData, Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.outcomes import Outcome, pick_rows, score_rows, score_train
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import compute_cluster_interval
from pointcnn_cli.paired import compare_paired

ROWS = 512  # validation rows that are predicted again for each map
GAIN = 0.10  # accuracy that a map must bring: more than a shift between people explains
EXPLAINS = 0.5  # of the gap to training rows; whatever shuffles the answers lifts an accuracy of 0 to chance
SYMPTOM = 0.05  # training minus validation accuracy below which there is nothing to explain
ORDINARY_SLOPES = (0.8, 1.25)  # of deviations between parts, and below it no map is tried
ORDINARY_SHIFT = 0.5  # in deviations of training
SESSION_SLOPES = (0.2, 5.0)  # a sensor's gain may drift that far (PC206); a division by 255 or 1000 goes further
STANDARD = 0.1  # how near to mean 0 and deviation 1 standardised values are
MOST_ORDERS = 24  # orders of channels that are tried: all of four
NEEDS_FORWARD = "the trained network, and training and validation rows with labels"


@dataclass(frozen=True, eq=False)
class AffineMap:
    """For each coordinate, validation values are slope * training values + shift."""

    slope: NDArray[np.float64]
    shift: NDArray[np.float64]
    spread: NDArray[np.float64]
    """Deviation of training values."""
    keeps_zeros: bool
    """Whether it was read from, and goes to, non-zero values only."""

    @property
    def is_ordinary(self) -> bool:
        """Whether different people explain it."""
        low, high = ORDINARY_SLOPES
        moved = np.abs(self.shift) / self.spread
        return bool(((self.slope >= low) & (self.slope <= high) & (moved <= ORDINARY_SHIFT)).all())

    def undo(self, channels: tuple[NDArray[Any], ...], inputs: NDArray[np.int64], data: CaseData) -> Any:
        """The inputs as training would have seen them."""
        mapped = []
        for number, (channel, shape) in enumerate(zip(channels, data.shapes, strict=True)):
            own = inputs == number
            form = (1, -1) + (1,) * (len(shape) - 1) if len(shape) == 3 else (1,) * (len(shape) + 1)
            values = channel.reshape(len(channel), *shape).astype(np.float64)
            back = (values - self.shift[own].reshape(form)) / self.slope[own].reshape(form)
            back = np.where(values == 0, 0.0, back) if self.keeps_zeros else back
            mapped.append(back.astype(np.float32).reshape(channel.shape))
        return tuple(mapped)


def check_inputs(case: Case) -> Iterator[Measurement]:
    """Scale and order are both tried, and where both help the one that helps less is a shadow of the other."""
    measured = [*check_preprocessing(case), *check_channel_order(case)]
    helpful = [m for m in measured if m.found and m.effect is not None]
    strongest = max(helpful, key=lambda m: m.effect or 0.0, default=None)
    for m in measured:
        if strongest is not None and m in helpful and (m.effect or 0.0) < (strongest.effect or 0.0):
            m = replace(m, at_most="SUSPECTED", sentence=f"{m.sentence} {strongest.code} explains more of it.")
        yield m


def check_preprocessing(case: Case) -> Iterator[Measurement]:
    """PC208: undo the affine map between training and validation values and predict again; PC206 where the map may be a
    sensor's."""
    sample = _sample_validation(case)
    if sample is None or case.scan is None or case.data is None:
        yield missing("PC208", NEEDS_FORWARD)
        return
    maps = fit_maps(case)
    odd = [m for m in maps if not m.is_ordinary]
    gap = _measure_gap(case, sample)
    if not odd or gap < SYMPTOM:
        yield _rule_out_preprocessing(maps, gap, len(sample.rows))
        return
    channels = case.data.read(sample.rows)
    trials = [(m, case.predict(sample.rows, m.undo(channels, case.scan.inputs, case.data))) for m in odd]
    best, differences = max(
        ((m, _compare_hits(sample, scores)) for m, scores in trials), key=lambda trial: trial[1].mean()
    )
    rng = case.rng("PC208")
    p = min(1.0, len(odd) * compare_paired(differences, sample.groups, rng))
    gain = float(differences.mean())
    worst = int(np.argmax(np.abs(np.log(best.slope)) + np.abs(best.shift) / best.spread))
    beyond = _is_beyond_sessions(best, case)
    found = gain >= max(GAIN, EXPLAINS * gap)
    measured = Measurement(
        "PC208",
        "test",
        f"Validation values are {best.slope[worst]:.4g} x training values {best.shift[worst]:+.4g} "
        f"({case.scan.coordinates[worst]}). With this undone, accuracy on {len(sample.rows)} validation rows "
        f"{'rises' if gain > 0 else 'goes'} from {sample.accuracy:.3f} to {sample.accuracy + gain:.3f} (p = {p:.2g})."
        + ("" if beyond or not found else " A sensor whose gain differs between sessions looks like this, too."),
        found=found,
        harm=True if found else None,
        statistic="validation accuracy gained by undoing the difference in scale",
        value=gain,
        threshold=max(GAIN, EXPLAINS * gap),
        n=len(sample.rows),
        groups=_count_groups(sample),
        effect=gain,
        interval=compute_cluster_interval(differences, sample.groups, rng, 0.999),
        interval_level=0.999,
        p=p,
        null="sign flips between validation rows as given and mapped back"
        + ("" if sample.groups is None else ", whole groups together"),
        at_most="CONFIRMED" if beyond else "SUSPECTED",
        minimum_detectable_effect=GAIN,
        fix=Fix(
            "Prepare validation inputs with the very function, and the very constants, that prepared training "
            "inputs; or put the scaling into the network, as its first layer."
        )
        if found
        else None,
        details={"slopes": _round(best.slope), "shifts": _round(best.shift)},
    )
    yield measured
    if found and not beyond:  # whatever it is, it is another world than that of training, and it spoils the score
        yield replace(measured, code="PC206", at_most="CONFIRMED", fix=Fix(SHIFT_ADVICE))


def fit_maps(case: Case) -> list[AffineMap]:
    """Maps by moments: of all values, and of non-zero ones where padding stays zero. Needs the scan and both parts."""
    scan = case.scan
    if scan is None or case.train is None or case.validation is None:
        return []
    maps = []
    for keeps_zeros in (False, True):
        moments = []
        for rows in (case.train, case.validation):
            size = scan.count[rows].sum(axis=0) if keeps_zeros else scan.size * len(rows)
            size = np.maximum(size, 1)
            mean = scan.total[rows].sum(axis=0) / size
            moments.append((mean, np.sqrt(np.maximum(scan.squares[rows].sum(axis=0) / size - mean**2, 0.0))))
        (mean, spread), (other, other_spread) = moments
        varies = (spread > 1e-6 * (1e-12 + np.abs(mean))) & (other_spread > 1e-6 * (1e-12 + np.abs(other)))
        slope = np.where(varies, other_spread / np.where(varies, spread, 1.0), 1.0)
        shift = np.where(varies, other - slope * mean, 0.0)
        maps.append(AffineMap(slope, shift, np.where(varies, spread, 1.0), keeps_zeros))
    return maps


def _is_beyond_sessions(found: AffineMap, case: Case) -> bool:
    """Whether no sensor does this: a slope of units, or values standardised in one part only."""
    low, high = SESSION_SLOPES
    if ((found.slope < low) | (found.slope > high)).any():
        return True
    if case.scan is None or case.train is None or case.validation is None:
        return False
    standard = [_is_standardised(case, rows) for rows in (case.train, case.validation)]
    return standard[0] != standard[1]


def _is_standardised(case: Case, rows: Rows) -> bool:
    if case.scan is None:
        return False
    size = case.scan.size * len(rows)
    mean = case.scan.total[rows].sum(axis=0) / size
    spread = np.sqrt(np.maximum(case.scan.squares[rows].sum(axis=0) / size - mean**2, 0.0))
    return bool((np.abs(mean) < STANDARD).all() and (np.abs(spread - 1.0) < STANDARD).all())


def _rule_out_preprocessing(maps: list[AffineMap], gap: float, n: int) -> Measurement:
    slopes = np.concatenate([m.slope for m in maps])
    return Measurement(
        "PC208",
        "test",
        f"Deviations of validation values are {slopes.min():.2f} to {slopes.max():.2f} times those of training "
        f"values, and validation accuracy is {gap:+.3f} below that on training rows: nothing to undo.",
        found=False,
        statistic="largest ratio of deviations between the parts",
        value=float(np.exp(np.abs(np.log(slopes)).max())),
        threshold=ORDINARY_SLOPES[1],
        n=n,
        minimum_detectable_effect=GAIN,
    )


def check_channel_order(case: Case) -> Iterator[Measurement]:
    """PC103: give validation channels to the inputs in other orders and predict again."""
    sample = _sample_validation(case)
    if sample is None or case.data is None:
        yield missing("PC103", NEEDS_FORWARD)
        return
    orders = list_orders(case.data.shapes)
    gap = _measure_gap(case, sample)
    if not orders or gap < SYMPTOM:
        reason = "no two inputs have the same shape" if not orders else f"validation is only {gap:+.3f} below training"
        yield Measurement(
            "PC103", "test", f"Channels in another order explain nothing: {reason}.", found=False,
            statistic="training minus validation accuracy", value=gap, threshold=SYMPTOM, n=len(sample.rows),
            minimum_detectable_effect=GAIN,
        )  # fmt: skip
        return
    channels = case.data.read(sample.rows)
    tried = [_compare_hits(sample, case.predict(sample.rows, tuple(channels[i] for i in order))) for order in orders]
    best = int(np.argmax([d.mean() for d in tried]))
    gain = float(tried[best].mean())
    rng = case.rng("PC103")
    p = min(1.0, len(orders) * compare_paired(tried[best], sample.groups, rng))
    names, found = case.data.names, gain >= max(GAIN, EXPLAINS * gap)
    swapped = {names[i]: names[j] for i, j in enumerate(orders[best]) if i != j}
    told = ", ".join(f"input {i} gets what validation calls {j}" for i, j in swapped.items())
    yield Measurement(
        "PC103",
        "test",
        f"With the validation channels in another order ({told}), accuracy on {len(sample.rows)} validation rows goes "
        f"from {sample.accuracy:.3f} to {sample.accuracy + gain:.3f} (p = {p:.2g}, best of {len(orders)} orders).",
        found=found,
        harm=True if found else None,
        statistic="validation accuracy gained by reordering channels",
        value=gain,
        threshold=max(GAIN, EXPLAINS * gap),
        n=len(sample.rows),
        groups=_count_groups(sample),
        effect=gain,
        interval=compute_cluster_interval(tried[best], sample.groups, rng, 0.999),
        interval_level=0.999,
        p=p,
        null=f"sign flips between rows as given and reordered, times {len(orders)} orders",
        minimum_detectable_effect=GAIN,
        fix=Fix("Give training and validation channels in the same order: pass inputs by name and not by place.")
        if found
        else None,
        details={"order": swapped},
    )


def list_orders(shapes: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Orders other than the given one in which each input still gets its shape; at most `MOST_ORDERS`, small changes
    first."""
    if len(shapes) > 6:  # 720 orders can be listed, 40,320 not: exchanges of two alone
        places = range(len(shapes))
        swaps = [tuple(b if i == a else a if i == b else i for i in places) for a in places for b in places if a < b]
    else:
        swaps = list(permutations(range(len(shapes))))
    fitting = [o for o in swaps if all(shapes[i] == shapes[j] for i, j in enumerate(o))]
    moved = [o for o in fitting if o != tuple(range(len(shapes)))]
    return sorted(moved, key=lambda o: sum(i != j for i, j in enumerate(o)))[:MOST_ORDERS]


def _sample_validation(case: Case) -> Outcome | None:
    if case.validation is None or case.load is None:
        return None
    return score_rows(case, pick_rows(case.validation, ROWS, case.rng("validation rows")))


def _measure_gap(case: Case, sample: Outcome) -> float:
    """Training minus validation accuracy, both in inference mode; 1.0 where training rows cannot be scored."""
    training = score_train(case)
    return 1.0 if training is None else training.accuracy - sample.accuracy


def _compare_hits(sample: Outcome, scores: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(rows,) 1 where only the new scores are right, -1 where only the old ones are."""
    if scores is None:
        return np.zeros(len(sample.rows))
    right: NDArray[np.float64] = (scores.argmax(axis=1) == sample.labels) & np.isfinite(scores).all(axis=1)
    return right.astype(np.float64) - sample.hits


def _count_groups(sample: Outcome) -> int | None:
    return None if sample.groups is None else len(np.unique(sample.groups))


def _round(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{v:.6g}") for v in values]


CHECKS = (Check(("PC208", "PC206", "PC103"), Tier.FORWARD, check_inputs),)

"""Check for validation inputs on another scale: quantiles of each coordinate, validation against training."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.probes import count_units, hold_out_units, keep_common_classes, number_units
from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.registry import Check, Tier

QUANTILES = np.linspace(0.05, 0.95, 37)  # the tails are few values, and single outliers
SLOPES = (0.8, 1.25)  # a gain beyond these is more than people and places make of it
SLOPE_MARGIN = 1.1  # times the reference slopes: twenty hold-outs do not show the extremes
SHIFT_MARGIN = 0.5  # training deviations beyond what hold-outs of training groups show
ZERO_SHARE_GAP = 0.2  # empty places that are zero on one side only belong to the values that were mapped
LEAST_VALUES = 200  # of a coordinate, in each part
REFERENCES = 20


@dataclass(frozen=True)
class AffineMap:
    """How values of one coordinate in validation relate to those in training: slope * training + intercept."""

    coordinate: str
    """As `Scan.coordinates` names it."""
    channel: int
    """Number of the input."""
    index: int | None
    """Of the first axis of that input; None where the coordinate is the whole input."""
    slope: float
    intercept: float
    shift: float
    """What the map does to the training mean, in training deviations."""
    fit: float
    """Share of the variance of the validation quantiles that the straight line explains."""
    includes_zeros: bool
    """Whether exact zeros are values like others; else they are empty places, which were left out."""
    reference_slopes: tuple[float, float]
    """Smallest and largest of hold-outs of training groups."""
    reference_shift: float
    """Largest of them, without its sign."""

    @property
    def excess(self) -> float:
        """How far beyond its bounds: at least 1 is found. The larger of slope (as a log) and shift."""
        low = min(SLOPES[0], self.reference_slopes[0] / SLOPE_MARGIN)
        high = max(SLOPES[1], self.reference_slopes[1] * SLOPE_MARGIN)
        if self.slope <= 0 or low <= 0:
            return float("inf")
        turned = np.log(self.slope) / (np.log(high) if self.slope > 1 else np.log(low))
        return float(max(turned, abs(self.shift) / (self.reference_shift + SHIFT_MARGIN)))


def fit_affine_maps(case: Case) -> tuple[AffineMap, ...]:
    """The map of each coordinate from training to validation; () where rows or groups are too few.

    Undo one with (value - intercept) / slope, at all values if `includes_zeros`, else at those that are not zero.
    """
    parts, scan = case.parts, case.scan
    if parts is None or scan is None:
        return ()
    labels = parts.labels
    kept = keep_common_classes(labels, parts.train, parts.validation)
    if kept is None:
        return ()
    train, validation = kept
    holds = _draw_holdouts(case, train, labels, validation)
    train = _match_classes(train, labels, validation, case.rng("PC208"))
    maps = []
    for number, name in enumerate(scan.coordinates):
        values = scan.values[:, number]
        zeros = [float((values[rows] == 0).mean()) for rows in (train, validation)]
        with_zeros = abs(zeros[0] - zeros[1]) > ZERO_SHARE_GAP or min(zeros) == 0.0
        fitted = _fit(values, train, validation, with_zeros)
        if fitted is None:
            continue
        references = [_fit(values, rest, held, with_zeros) for rest, held in holds]
        slopes = [r[0] for r in references if r is not None] or [1.0]
        shifts = [abs(r[2]) for r in references if r is not None] or [0.0]
        channel = int(scan.inputs[number])
        several = int((scan.inputs == channel).sum()) > 1
        index = int((scan.inputs[:number] == channel).sum()) if several else None
        maps.append(AffineMap(name, channel, index, *fitted, with_zeros, (min(slopes), max(slopes)), max(shifts)))
    return tuple(maps)


def _draw_holdouts(case: Case, train: Rows, labels: NDArray[np.int64], validation: Rows) -> list[tuple[Rows, Rows]]:
    """Rest and hold-out of the training rows, `REFERENCES` times: of each class as many groups as validate."""
    rng = case.rng("PC208")
    units = number_units(case, train)
    wanted = count_units(number_units(case, validation), labels[validation], int(labels.max()) + 1)
    holds = []
    for _ in range(REFERENCES):
        held = np.zeros(len(train), bool)
        held[hold_out_units(units, labels[train], wanted, rng)] = True
        holds.append((train[~held], train[held]))
    return holds


def _match_classes(train: Rows, labels: NDArray[np.int64], validation: Rows, rng: np.random.Generator) -> Rows:
    """As many training rows, drawn with replacement so that their classes have the shares that they have in validation:
    other class shares are no other scale."""
    shares = np.bincount(labels[validation]) / len(validation)
    drawn = [
        rng.choice(train[labels[train] == label], max(1, round(share * len(train))))
        for label, share in enumerate(shares) if share
    ]  # fmt: skip
    return np.concatenate(drawn)


def _fit(
    values: NDArray[np.float32], train: Rows, part: Rows, with_zeros: bool
) -> tuple[float, float, float, float] | None:
    """Slope, intercept, shift and fit of the quantiles of `part` on those of `train`; None for too few values."""
    a, b = (values[rows].ravel() for rows in (train, part))
    if not with_zeros:
        a, b = a[a != 0], b[b != 0]
    if min(len(a), len(b)) < LEAST_VALUES:
        return None
    before, after = np.quantile(a, QUANTILES), np.quantile(b, QUANTILES)
    mean, deviation = float(a.mean(dtype=np.float64)), float(a.std(dtype=np.float64))
    variance = float(before.var())
    if variance <= 1e-12 * max(1.0, mean**2) or deviation == 0.0:
        return None
    slope = float(((before - before.mean()) * (after - after.mean())).mean() / variance)
    intercept = float(after.mean() - slope * before.mean())
    rest = float(((after - slope * before - intercept) ** 2).mean())
    fit = 1.0 - rest / float(after.var()) if after.var() > 0 else 0.0
    return slope, intercept, ((slope - 1.0) * mean + intercept) / deviation, fit


def check_scaling(case: Case) -> Iterator[Measurement]:
    """PC208: slope and shift of the worst coordinate. Whether undoing the map helps the network is tested elsewhere."""
    maps = fit_affine_maps(case)
    if not maps:
        yield missing(
            "PC208",
            f"two classes or more that are in both parts, and {LEAST_VALUES} values of an input in each",
        )
        return
    worst = max(maps, key=lambda m: m.excess)
    beyond = [m for m in maps if m.excess >= 1.0]
    told = (
        f"{worst.coordinate}: validation values are about {worst.slope:.3g} times training values "
        f"{'plus' if worst.intercept >= 0 else 'minus'} {abs(worst.intercept):.3g}; training groups held out in the "
        f"same way give factors from {worst.reference_slopes[0]:.2f} to {worst.reference_slopes[1]:.2f}."
    )
    if beyond:
        told = f"{len(beyond)} of {len(maps)} input coordinates are on another scale in validation. Most of all {told}"
    else:
        told = (
            f"Validation and training inputs are on one scale. The largest difference: {told} Whether a scaler was "
            "fitted on validation rows too cannot be seen from the values."
        )
    yield Measurement(
        "PC208", "test", told, found=bool(beyond), statistic="largest difference, in bounds (1 is at the bound)",
        value=worst.excess, threshold=1.0, n=sum(len(r) for r in (case.train, case.validation) if r is not None),
        null=f"{REFERENCES} hold-outs of training groups", minimum_detectable_effect=None, at_most="SUSPECTED",
        fix=Fix("Send training and validation rows through the same preprocessing, with constants computed on training "
                "rows only; compare dtype, division by 255 and units of the two."),
        details={"maps": [{"coordinate": m.coordinate, "slope": m.slope, "intercept": m.intercept, "shift": m.shift,
                           "fit": m.fit, "reference_slopes": list(m.reference_slopes),
                           "reference_shift": m.reference_shift} for m in (beyond or [worst])[:12]]},
    )  # fmt: skip


CHECKS = (Check(("PC208",), Tier.DATA, check_scaling),)

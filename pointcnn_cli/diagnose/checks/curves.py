"""PC501 and PC502: what the curve of the training loss says of the learning rate and of the number of steps."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import ALPHA
from pointcnn_cli.diagnose.registry import Check, Tier

LAST = 0.2  # share of epochs over which a slope is taken
FEWEST_EPOCHS = 8  # fewer cannot have a trend with p < 0.001 (1 of 40,320 orders rises throughout)
FITTED = 0.9  # training accuracy from which no more steps are wanted
FEW_STEPS = 100
RISEN = 0.05  # accuracy from the first to the last epoch
SPIKE = 3.0  # times the smallest loss so far
SPIKES = 2  # one may be a bad batch
ABOVE_START = 1.1  # times the first epoch's loss


def check_learning_rate(case: Case) -> Iterator[Measurement]:
    """PC501: losses that are not finite, that jump, or that end above where they began. Suspected at most."""
    losses = read_column(case, "loss")
    if len(losses) < 2:
        yield missing("PC501", "a history of two epochs with their loss")
        return
    broken = int(np.count_nonzero(~np.isfinite(losses)))
    finite = losses[np.isfinite(losses)]
    lowest = np.minimum.accumulate(finite) if len(finite) else finite
    spikes = int(np.count_nonzero(finite[1:] > SPIKE * np.maximum(lowest[:-1], 0.01)))
    above = len(finite) > 1 and float(finite[-1]) > ABOVE_START * float(finite[0])
    found = broken > 0 or spikes >= SPIKES or above
    seen = [f"{broken} of {len(losses)} epochs have no finite training loss"] if broken else []
    seen += (
        [f"training loss jumps to over {SPIKE:g} times its lowest value in {spikes} epochs"] if spikes >= SPIKES else []
    )
    seen += [f"training loss ends at {finite[-1]:.3g} and began at {finite[0]:.3g}"] if above else []
    rate = case.settings.learning_rate
    yield Measurement(
        "PC501",
        "test",
        (f"{_capitalise('; '.join(seen))}. A learning rate that is too high looks like this"
        + ("." if rate is None else f" (it is {rate:g})."))
        if found
        else f"Training loss goes from {losses[0]:.3g} to {losses[-1]:.3g} without jumps.",
        found=found,
        statistic="epochs with a broken or jumping loss",
        value=float(broken + spikes),
        threshold=float(SPIKES),
        n=len(losses),
        at_most="SUSPECTED",
        fix=scale_rate(case, 0.1, "Train with a tenth of the learning rate, or clip the gradient (clipnorm=1).")
        if found
        else None,
    )  # fmt: skip


def check_unfinished(case: Case) -> Iterator[Measurement]:
    """PC502: training loss that still falls at the end, or too few steps. Suspected at most."""
    losses, accuracies = read_column(case, "loss"), read_column(case, "accuracy")
    steps = case.count_steps()
    if len(losses) < 2 or len(accuracies) < 2 or not (np.isfinite(losses).all() and np.isfinite(accuracies).all()):
        yield missing("PC502", "a history of two epochs with finite loss and accuracy")
        return
    stretch = losses[-max(FEWEST_EPOCHS, math.ceil(LAST * len(losses))) :]
    slope, p = compute_slope(stretch), compute_trend_p(-stretch)
    falls = slope < 0 and p < ALPHA and accuracies[-1] < FITTED
    few = steps is not None and steps < FEW_STEPS and accuracies[-1] < FITTED and accuracies[-1] > accuracies[0] + RISEN
    reason = f"training loss still falls by {-slope:.2g} an epoch over the last {len(stretch)} epochs (p = {p:.1g})"
    reason = reason if falls else f"training had only {steps} steps and accuracy was still rising"
    found = bool(falls or few)
    yield Measurement(
        "PC502",
        "test",
        f"With a training accuracy of {accuracies[-1]:.3f}, {reason}. More epochs, or a higher learning rate, may do."
        if found
        else f"Training accuracy ends at {accuracies[-1]:.3f}; over the last {len(stretch)} epochs the loss changes by "
        f"{slope:+.2g} an epoch.",
        found=found,
        statistic="slope of the training loss per epoch (Theil-Sen)",
        value=slope,
        threshold=0.0,
        n=len(stretch),
        p=p,
        null="all orders of the last epochs (Mann-Kendall)",
        at_most="SUSPECTED",
        fix=_prolong(case) if found else None,
        details={"steps": steps},
    )


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def compute_trend_p(values: Sequence[float] | NDArray[np.float64]) -> float:
    """One-sided p of a rising trend (Mann 1945, Kendall 1975); 1.0 for constant or fewer than three values."""
    from scipy.stats import kendalltau

    if len(values) < 3 or np.ptp(values) == 0:
        return 1.0
    return float(kendalltau(np.arange(len(values)), values, alternative="greater").pvalue)


def compute_slope(values: NDArray[np.float64]) -> float:
    """Median of the slopes between all pairs (Theil 1950, Sen 1968)."""
    from scipy.stats import theilslopes

    return float(theilslopes(values, np.arange(len(values))).slope)


def read_column(case: Case, name: str) -> NDArray[np.float64]:
    """The values of one column of the history (epochs that have it,)."""
    return np.array([row[name] for row in case.history if name in row], dtype=np.float64)


def scale_rate(case: Case, factor: float, text: str) -> Fix:
    """The fix that multiplies the learning rate, as a setting where the rate is known."""
    rate = case.settings.learning_rate
    return Fix(text) if rate is None else Fix(text, {"train.learning_rate": min(float(f"{rate * factor:.6g}"), 10.0)})


def _prolong(case: Case) -> Fix:
    epochs = max(len(case.history), case.settings.epochs or 0)
    return Fix(
        "Train three times as many epochs; if that is too slow, raise the learning rate.",
        {"train.epochs": min(3 * epochs, 100_000)},
    )


CHECKS = (
    Check(("PC501",), Tier.STATIC, check_learning_rate),
    Check(("PC502",), Tier.STATIC, check_unfinished),
)

"""PC504: overfitting, told from over-confidence, from weights that were kept in time, and from too few rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.curves import FEWEST_EPOCHS, compute_trend_p, read_column
from pointcnn_cli.diagnose.findings import Fix, Measurement, Verdict, missing
from pointcnn_cli.diagnose.judge import ALPHA
from pointcnn_cli.diagnose.outcomes import NEEDS, SMALLEST, Outcome, find_epochs, score_train, score_validation
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.diagnose.statistics import draw_cluster_means

GAP = 0.10  # accuracy on training minus validation rows
WIDE_GAP = 0.20  # from which rising loss is not over-confidence alone
FELL = 0.05  # accuracy from its best
CALIBRATED = 0.10  # share of the validation loss that one temperature takes away
STILL_BEST = 0.05  # relative; validation loss so near to its minimum is at it
TEMPERATURES = np.geomspace(0.2, 20.0, 93)  # steps of 5 %


def check_overfitting(case: Case) -> Iterator[Measurement]:
    """Training minus validation accuracy in inference mode, with the trend of validation loss past its minimum.

    The judge withholds the verdict where a fault of split or labels explains the gap.
    """
    training, validation = score_train(case), score_validation(case)
    if training is None or validation is None:
        yield missing("PC504", NEEDS)
        return
    losses = read_column(case, "val_loss")
    gap, interval = _measure_gap(training, validation, case.rng("PC504"))
    if len(losses) < FEWEST_EPOCHS or not np.isfinite(losses).all():
        if gap >= GAP:
            yield missing("PC504", f"a history of {FEWEST_EPOCHS} epochs with val_loss, beside the gap of {gap:.3f}")
        else:
            yield _describe(validation, gap, interval, 1.0, None, "there is no wide gap")
        return
    place = int(losses.argmin())
    p = compute_trend_p(losses[place:])
    kept_best = _keeps_best(case, validation, losses)
    cut, temperature = measure_temperature(validation)
    accuracies = read_column(case, "val_accuracy")
    fell = max(float(accuracies.max(initial=0.0)) - validation.accuracy, 0.0)
    if kept_best:
        verdict: Verdict | None = None
        why = "the weights are those of about the lowest validation loss"
    elif p < ALPHA and fell < FELL and gap < WIDE_GAP and cut >= CALIBRATED and temperature > 1.0:
        verdict = "PRESENT"
        why = (
            f"validation loss rises from epoch {place + 1} on, but accuracy held, and dividing the scores by "
            f"{temperature:.1f} takes {cut:.0%} off the loss: over-confidence, no overfitting"
        )
    elif p < ALPHA:
        verdict = ("CONFIRMED" if interval[0] > GAP / 2 else "SUSPECTED") if gap >= GAP else None
        why = f"validation loss rises from epoch {place + 1} on (p = {p:.1g}) and accuracy is {fell:.3f} below its best"
    else:
        verdict = "SUSPECTED" if gap >= WIDE_GAP else None
        why = "validation loss has no rising trend"
    yield _describe(validation, gap, interval, p, verdict, why)


def _measure_gap(training: Outcome, validation: Outcome, rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Training minus validation accuracy, and its 99.9 % bootstrap interval over groups."""
    draws = draw_cluster_means(training.hits, training.groups, rng)
    draws = draws - draw_cluster_means(validation.hits, validation.groups, rng)
    return training.accuracy - validation.accuracy, (
        float(np.quantile(draws, 0.0005)),
        float(np.quantile(draws, 0.9995)),
    )


def _describe(
    validation: Outcome, gap: float, interval: tuple[float, float], p: float, verdict: Verdict | None, why: str
) -> Measurement:
    return Measurement(
        "PC504",
        "test",
        f"Without dropout, training accuracy minus validation accuracy ({validation.accuracy:.3f}) is {gap:+.3f} ("
        f"99.9 % interval {interval[0]:+.3f} to {interval[1]:+.3f}); {why}.",
        found=verdict is not None,
        harm=None if verdict is None else verdict != "PRESENT",
        statistic="training minus validation accuracy in inference mode",
        value=gap,
        threshold=GAP,
        n=len(validation.rows),
        groups=None if validation.groups is None else len(np.unique(validation.groups)),
        effect=None if verdict == "PRESENT" else gap,
        interval=interval,
        interval_level=0.999,
        p=p,
        null="all orders of the epochs past the minimum of validation loss (Mann-Kendall)",
        at_most=verdict or "CONFIRMED",
        minimum_detectable_effect=max(GAP, interval[1] - gap),
        fix=Fix(
            "Keep the weights of the best epoch and stop early; then weight decay, augmentation, or more subjects.",
            {"train.keep": "best", "train.early_stopping.patience": 10},
        )
        if verdict
        else None,
    )


def _keeps_best(case: Case, validation: Outcome, losses: NDArray[np.float64]) -> bool:
    """Whether the judged weights are those of an epoch with about the lowest validation loss."""
    places = find_epochs(case, validation)
    if places:
        return bool(losses[places].min() <= losses.min() * (1 + STILL_BEST))
    return bool(validation.compute_loss() <= losses.min() * (1 + STILL_BEST))


def measure_temperature(outcome: Outcome) -> tuple[float, float]:
    """Share of the cross-entropy that the best single temperature takes away, and that temperature.

    Guo et al. 2017, "On Calibration of Modern Neural Networks"; no answer changes.
    """
    known = outcome.labels >= 0
    logits = np.log(np.maximum(outcome.probabilities[known], SMALLEST))
    chosen = outcome.labels[known]
    losses = []
    for temperature in (1.0, *TEMPERATURES):
        scaled = logits / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        losses.append(float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(chosen)), chosen]).mean()))
    best = int(np.argmin(losses))
    cut = 1.0 - losses[best] / losses[0] if losses[0] > 0 else 0.0
    return cut, float((1.0, *TEMPERATURES)[best])


CHECKS = (Check(("PC504",), Tier.FORWARD, check_overfitting),)

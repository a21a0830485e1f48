"""Whether the reported accuracy is the accuracy, what curves say of each other, and what a score was chosen on.

PC601, PC602, PC604 and PC703.
"""

from collections.abc import Iterator

import numpy as np

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import EFFECT_GATE
from pointcnn_cli.diagnose.outcomes import (
    NEEDS,
    Outcome,
    find_epochs,
    score_train,
    score_validation,
)
from pointcnn_cli.diagnose.registry import Check, Tier

ROUNDING = 1e-5  # of accuracies as histories store them
EXPLAINED = 0.8  # share of a gap that must vanish before it counts as explained
SAME_SCORE = 1e-3  # probability; between what was saved and what is computed again


def check_reported_accuracy(case: Case) -> Iterator[Measurement]:
    """PC601: the accuracy in history and metrics against the share of rows whose highest score is at their label."""
    k = len(case.data.classes) if case.data is not None else 0
    validation = score_validation(case)
    if validation is None:
        if "binary" in (case.settings.metric or "") and k > 2:
            yield _report_binary(k, None, None)
        else:
            yield missing("PC601", NEEDS)
        return
    yield from _compare_saved_order(case, validation)
    reported = list(_list_reported(case, validation))
    if not reported:
        yield missing("PC601", "an accuracy that was reported: a history with val_accuracy, or metrics.json")
        return
    n = len(validation.rows)
    for origin, values in reported:
        nearest = min(values, key=lambda v: abs(v - validation.accuracy))
        difference = abs(nearest - validation.accuracy)
        binary = compute_binary_accuracy(validation)
        if difference > 1 / n + ROUNDING and k > 2 and min(abs(v - binary) for v in values) <= 1 / n + ROUNDING:
            yield _report_binary(k, nearest, validation)
        else:
            yield _report_difference(origin, nearest, difference, n, validation.accuracy)


def _list_reported(case: Case, validation: Outcome) -> Iterator[tuple[str, list[float]]]:
    """Where an accuracy is reported, and the values that the judged weights may stand for."""
    metrics = case.saved_metrics or {}
    if isinstance(metrics.get("accuracy"), (int, float)):
        yield "metrics.json", [float(metrics["accuracy"])]
    places = find_epochs(case, validation)
    # The last epoch is the likeliest, should another one have had its loss.
    rows = [case.history[i] for i in places] + [*case.history[-1:]] if places else case.history
    logged = [row["val_accuracy"] for row in rows if "val_accuracy" in row]
    logged = [v for v in logged if np.isfinite(v)]
    if logged:
        yield "the history", logged


def compute_binary_accuracy(outcome: Outcome) -> float:
    """What Keras's `binary_accuracy` makes of one-hot labels: all classes of all rows, each against 0.5."""
    wanted = outcome.labels[:, None] == np.arange(outcome.classes)
    return float(((outcome.scores > 0.5) == wanted).mean())


def _report_binary(k: int, reported: float | None, validation: Outcome | None) -> Measurement:
    told = (
        ""
        if validation is None
        else f" It reports {reported:.3f} where {validation.accuracy:.3f} of the rows are right."
    )
    return Measurement(
        "PC601",
        "proof",
        f"What is reported as accuracy is binary accuracy: it counts each of the {k} outputs of a row on its own, so "
        f"a network that knows nothing already scores {1 - 1 / k:.3f}.{told}",
        harm=True,
        statistic="reported minus recomputed accuracy",
        value=None if validation is None or reported is None else reported - validation.accuracy,
        n=None if validation is None else len(validation.rows),
        fix=Fix("Compile with metrics=['accuracy'], or 'categorical_accuracy' ('sparse_...' for class numbers)."),
    )


def _report_difference(origin: str, reported: float, difference: float, n: int, accuracy: float) -> Measurement:
    found = difference > 1 / n + ROUNDING
    return Measurement(
        "PC601",
        "proof",
        f"Counted again on {n} validation rows, {accuracy:.4f} of the answers are right; the nearest value in "
        f"{origin} is {reported:.4f}.",
        found=found,
        harm=difference >= EFFECT_GATE,
        statistic="difference between reported and recomputed accuracy",
        value=difference,
        threshold=1 / n,
        n=n,
        minimum_detectable_effect=1 / n,
        fix=Fix(
            "Check the metric that was compiled, that predictions and labels are in the same order, and that these are "
            "the weights and rows that were scored."
        )
        if found
        else None,
    )


def _compare_saved_order(case: Case, validation: Outcome) -> Iterator[Measurement]:
    """Saved predictions that are those of the network, but of other rows."""
    saved = case.saved_predictions
    if saved is None or case.load is None or saved.shape != validation.scores.shape or not np.isfinite(saved).all():
        return
    moved = np.abs(saved - validation.scores).max(axis=1) > SAME_SCORE
    if not moved.any():
        return
    saved_order, order = (np.lexsort(np.round(scores, 3).T) for scores in (saved, validation.scores))
    same = np.abs(saved[saved_order] - validation.scores[order]).max(axis=1) <= 2 * SAME_SCORE
    if same.mean() < 0.99:  # rounding may sort a few rows differently
        return
    accuracy = float((saved.argmax(axis=1) == validation.labels).mean())
    yield Measurement(
        "PC601",
        "proof",
        f"The saved predictions are those of this network in another order of rows: {int(moved.sum())} of {len(moved)} "
        f"stand at the wrong row. As saved their accuracy is {accuracy:.3f}, in the right order "
        f"{validation.accuracy:.3f}.",
        harm=abs(accuracy - validation.accuracy) >= EFFECT_GATE,
        statistic="saved predictions at the wrong row",
        value=float(moved.mean()),
        threshold=0.0,
        n=len(moved),
        fix=Fix("Write predictions with their row numbers, and do not shuffle the rows that are predicted."),
    )


def check_comparable_curves(case: Case) -> Iterator[Measurement]:
    """PC602: how much of the gap between logged curves is there when training rows are scored as validation rows are.

    Logged training accuracy is a mean over the epoch, with dropout on and weights still moving.
    """
    training, validation = score_train(case), score_validation(case)
    if training is None or validation is None:
        yield missing("PC602", NEEDS)
        return
    place = (find_epochs(case, validation) or [len(case.history) - 1])[0]
    row = case.history[place] if case.history else {}
    if "accuracy" not in row or "val_accuracy" not in row:
        yield missing("PC602", "a history with accuracy and val_accuracy")
        return
    visible, true = row["accuracy"] - row["val_accuracy"], training.accuracy - validation.accuracy
    share = (visible - true) / visible if abs(visible) >= EFFECT_GATE else 0.0
    seen = f"logged training accuracy {row['accuracy']:.3f} against validation {row['val_accuracy']:.3f}"
    again = f"scored alike they are {training.accuracy:.3f} and {validation.accuracy:.3f}"
    yield Measurement(
        "PC602",
        "proof",
        f"The curves cannot be compared: {seen} at epoch {place + 1}, but {again}. Training is logged with dropout "
        "on and as a mean over the epoch. This explains the gap and is no fault."
        if share >= EXPLAINED
        else f"The curves can be compared: {seen} at epoch {place + 1}; {again}.",
        found=share >= EXPLAINED,
        harm=False,
        statistic="share of the gap between the curves that is not there",
        value=share,
        threshold=EXPLAINED,
        n=len(training.rows),
        fix=Fix(
            "Nothing to repair. Compare with the training accuracy in inference mode: model.evaluate on training rows."
        ),
        details={"visible_gap": visible, "gap_in_inference_mode": true},
    )


def check_selection(case: Case) -> Iterator[Measurement]:
    """PC604: whether the rows of the reported score also chose the weights."""
    chosen = case.settings.selects_on_validation
    if chosen is None and case.saved_metrics is not None:
        chosen = case.saved_metrics.get("selected_on_these_rows")
    if chosen is None:
        yield missing("PC604", "to know whether early stopping or the best epoch was chosen on the validation rows")
        return
    found = bool(chosen) and not case.settings.has_test_part
    yield Measurement(
        "PC604",
        "proof",
        "The validation rows chose which epoch's weights are kept, and no other rows are left to report: the score "
        "is a little too good."
        if found
        else "The reported rows did not choose the weights, or a test part is kept apart.",
        found=found,
        statistic="score chosen on the reported rows",
        value=float(found),
        threshold=0.0,
        fix=Fix("Keep a test part that nothing is chosen on, and report that one.", {"split.test_fraction": 0.2})
        if found
        else None,
    )


def check_augmented_validation(case: Case) -> Iterator[Measurement]:
    """PC703, forward part: whether validation rows are augmented."""
    augmented = case.settings.augments_validation
    if augmented is None:
        yield missing("PC703", "to know whether validation rows are augmented")
        return
    yield Measurement(
        "PC703",
        "proof",
        "Validation rows are augmented." if augmented else "Validation rows are not augmented.",
        found=augmented,
        statistic="validation rows augmented",
        value=float(augmented),
        threshold=0.0,
        fix=Fix("Augment training rows only.") if augmented else None,
    )


CHECKS = (
    Check(("PC601",), Tier.FORWARD, check_reported_accuracy),
    Check(("PC602",), Tier.FORWARD, check_comparable_curves),
    Check(("PC604",), Tier.STATIC, check_selection),
    Check(("PC703",), Tier.STATIC, check_augmented_validation),
)

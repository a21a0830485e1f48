"""PC304: unequal classes that nothing makes up for, and class weights that miss their classes."""

from collections.abc import Iterator, Mapping

import numpy as np

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.outcomes import NEEDS, score_validation
from pointcnn_cli.diagnose.registry import Check, Tier

UNEQUAL = 0.1  # rows of the smallest class by those of the largest; 8:1 is common and harmless
LOST_RECALL = 0.10  # accuracy minus macro recall
FEWEST_ROWS = 5  # of a class, below which its recall says nothing
BALANCE = Fix(
    "Weight classes by inverse frequency (class_weight in model.fit), and watch macro F1 besides accuracy.",
    {"train.class_weight": "balanced"},
)


def check_class_weights(case: Case) -> Iterator[Measurement]:
    """Keys of the class weights against the classes: Keras gives weight 1 to a class without a key, silently."""
    weights = case.settings.class_weight
    if case.data is None or not isinstance(weights, Mapping):
        return
    classes = case.data.classes
    known: set[object] = set(classes) if case.config is not None else set(range(len(classes)))
    unknown = [key for key in weights if key not in known]
    without = [str(key) for key in sorted(known - set(weights), key=str)]
    found = bool(unknown)
    yield Measurement(
        "PC304",
        "proof",
        f"Class weights name classes that do not exist: {', '.join(map(repr, unknown))}. "
        + (f"The classes {', '.join(without)} are left with weight 1." if without else "")
        if found
        else f"Every one of the {len(weights)} class weights belongs to a class.",
        found=found,
        harm=True if found else None,
        statistic="class weights without a class",
        value=float(len(unknown)),
        threshold=0.0,
        n=len(weights),
        fix=Fix(
            f"Use the class numbers 0 to {len(classes) - 1} as keys.",
            {"train.class_weight": "balanced"},
        )
        if found
        else None,
    )


def check_imbalance(case: Case) -> Iterator[Measurement]:
    """Class counts in training, and what recalls of validation classes became of them."""
    validation = score_validation(case)
    if validation is None or case.train is None:
        yield missing("PC304", NEEDS)
        return
    k = validation.classes
    labels = case.labels_of(case.train)
    trained = np.bincount(labels[labels >= 0], minlength=k)
    support = np.bincount(validation.labels[validation.labels >= 0], minlength=k)
    measured = (support >= FEWEST_ROWS) & (trained > 0)
    if not measured.any():
        yield missing("PC304", f"{FEWEST_ROWS} validation rows of a class that was trained")
        return
    right = np.bincount(validation.labels[validation.hits > 0], minlength=k)
    recalls = right[measured] / support[measured]
    present = trained[trained > 0]
    ratio = float(present.min() / present.max())
    rare = trained[measured] < present.max() * UNEQUAL
    zero = rare & (recalls == 0)
    lost = validation.accuracy - float(recalls.mean())
    treated = case.settings.class_weight is not None
    suffers = bool(zero.any()) or (lost > LOST_RECALL and bool(rare.any()))
    found = ratio < UNEQUAL and suffers and not treated
    names = case.data.classes if case.data is not None else ()
    forgotten = [names[i] for i in np.flatnonzero(measured)[zero]]
    yield Measurement(
        "PC304",
        "proof",
        f"The largest class has {int(present.max())} training rows and the smallest {int(present.min())}. On "
        f"{len(validation.rows)} validation rows the accuracy is {validation.accuracy:.3f}, but the mean recall of "
        f"classes is {recalls.mean():.3f}"
        + (f"; never answered right: {', '.join(forgotten)}" if forgotten else "")
        + (". No class weights were set." if found else ". Class weights were set." if treated else "."),
        found=found,
        harm=True if found else None,
        statistic="rows of the smallest class by those of the largest",
        value=ratio,
        threshold=UNEQUAL,
        n=len(case.train),
        minimum_detectable_effect=LOST_RECALL,
        fix=BALANCE if found else None,
        details={"macro_recall": float(recalls.mean()), "accuracy": validation.accuracy},
    )


CHECKS = (
    Check(("PC304",), Tier.STATIC, check_class_weights),
    Check(("PC304",), Tier.FORWARD, check_imbalance),
)

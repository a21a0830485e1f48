"""PC301: whether validation counts its classes in another order than training."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import EFFECT_GATE
from pointcnn_cli.diagnose.outcomes import NEEDS, Outcome, score_train, score_validation
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.paired import compute_p

DRAWS = 4_000  # of the null: p < 0.001 needs a thousand at the least
LEAST_MATCHED = 0.5  # accuracy after renaming; below it the network knows too little to tell an order
LEAST_RECALL = 0.5  # of each renamed class: a rename moves a class as a whole, a confusion moves part of it
FEWEST_TRAINED = 10  # rows of a class; a network knows no class by name that it has hardly met
CLEARER = 2  # an order that differs leaves few rows under the old names


def check_class_order(case: Case) -> Iterator[Measurement]:
    """Match true to predicted classes of validation, one to one (Kuhn 1955), and compare with the order as given."""
    validation = score_validation(case)
    if validation is None:
        yield missing("PC301", NEEDS)
        return
    trained = _measure_training(case)
    if trained is None:
        yield missing("PC301", "the trained network or a history, to know whether training rows are answered right")
        return
    kept = _find_testable(case, validation)
    n = int(kept.sum())
    if n < 20 or len(np.unique(validation.labels[kept])) < 2:
        yield missing("PC301", "20 validation rows of two classes that have ten training rows each")
        return
    labels, predicted, k = validation.labels[kept], validation.predicted[kept], validation.classes
    confusion = _count(labels, predicted, k)
    order = match_classes(confusion)
    identity = float(np.trace(confusion)) / n
    matched = float(confusion[np.arange(k), order].sum()) / n
    cells = None if validation.groups is None else _number_cells(validation.groups[kept], labels)
    null = _draw_null(labels, predicted, identity, cells, k, case.rng("PC301"))
    gain, threshold = matched - identity, float(np.quantile(null, 0.999))
    found = gain > max(threshold, EFFECT_GATE) and matched >= LEAST_MATCHED and trained >= LEAST_MATCHED
    names = case.data.classes if case.data is not None else ()
    mapping = {names[i]: names[int(j)] for i, j in enumerate(order) if i != j}
    yield Measurement(
        "PC301",
        "test",
        _describe(found, mapping, identity, matched, n, threshold),
        found=found,
        harm=True if found else None,
        statistic="validation accuracy gained by renaming classes",
        value=gain,
        threshold=max(threshold, EFFECT_GATE),
        n=n,
        groups=None if cells is None else len(np.unique(cells)),
        effect=gain,
        p=compute_p(gain, null),
        null=f"{DRAWS} simulated networks with the same share of right answers in the order as given"
        + ("" if cells is None else ", drawn for each class of each group as a whole"),
        minimum_detectable_effect=None if found else max(threshold, EFFECT_GATE),
        fix=Fix(
            "Give validation the class list of training: number classes by name and not by their order of appearance, "
            "for example from one sorted list of names that both parts use."
        )
        if found
        else None,
        details={"given_to_answered": mapping, "accuracy_as_given": identity, "accuracy_renamed": matched},
    )


def match_classes(confusion: NDArray[Any]) -> NDArray[np.int64]:
    """The best one-to-one renaming (classes,) of true classes into predicted ones, as far as it is one.

    Cycles that have less than `LEAST_RECALL` of their rows at the new names, or not `CLEARER` times as many as at the
    old ones, are undone: they are confusions. All rows of a cycle count together, since one of its classes may be hard
    to tell; but each class needs more rows at its new name than at its old one.
    """
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(confusion, maximize=True)
    order: NDArray[np.int64] = columns.astype(np.int64)
    totals = confusion.sum(axis=1)
    unseen = set(range(len(order)))
    while unseen:
        cycle = [min(unseen)]
        while (after := int(order[cycle[-1]])) != cycle[0]:
            cycle.append(after)
        unseen -= set(cycle)
        hits, before = confusion[cycle, order[cycle]], confusion[cycle, cycle]
        moved = hits.sum() >= max(LEAST_RECALL * totals[cycle].sum(), CLEARER * before.sum())
        if not moved or (hits <= before).any():
            order[cycle] = cycle
    return order


def _measure_training(case: Case) -> float | None:
    """Accuracy on training rows: a network that answers those right has no other order than they."""
    training = score_train(case)
    if training is not None:
        return training.accuracy
    logged = [row["accuracy"] for row in case.history if "accuracy" in row]
    return logged[-1] if logged else None


def _find_testable(case: Case, validation: Outcome) -> NDArray[np.bool_]:
    """Rows whose class was trained: one that was not is answered wrong without any order being wrong."""
    if case.train is None:
        return np.zeros(len(validation.labels), bool)
    labels = case.labels_of(case.train)
    counts = np.bincount(labels[labels >= 0], minlength=validation.classes)
    trained = np.append(counts >= FEWEST_TRAINED, False)  # the last entry is that of label -1
    return np.asarray(trained[validation.labels])


def _count(labels: NDArray[np.int64], predicted: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    return np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)


def _number_cells(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The unit that is answered right or wrong together: the rows of one class of one group, as a recording is."""
    return np.unique(np.stack([groups, labels]), axis=1, return_inverse=True)[1].reshape(-1)


def _draw_null(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    accuracy: float,
    cells: NDArray[np.int64] | None,
    k: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Gains (draws,) by renaming for networks that are right as often as this one and else answer as it does overall.

    Parametric bootstrap. All rows of a cell are answered alike.
    """
    units = np.arange(len(labels)) if cells is None else cells
    _, first, unit_of_row = np.unique(units, return_index=True, return_inverse=True)
    wrong = np.bincount(predicted[predicted != labels], minlength=k) + 1.0
    gains = np.empty(DRAWS)
    for i in range(DRAWS):
        right = rng.random(len(first)) < accuracy
        answers = np.where(right, labels[first], rng.choice(k, len(first), p=wrong / wrong.sum()))
        confusion = _count(labels, answers[unit_of_row], k)
        order = match_classes(confusion)
        gains[i] = (confusion[np.arange(k), order].sum() - np.trace(confusion)) / len(labels)
    return gains


def _describe(found: bool, mapping: dict[str, str], identity: float, matched: float, n: int, threshold: float) -> str:
    if not found:
        return (
            f"Renaming classes would raise the accuracy on {n} validation rows from {identity:.3f} to {matched:.3f} at "
            f"best; an order that differs would show from {max(threshold, EFFECT_GATE):.3f} upward."
        )
    pairs = ", ".join(f"{given} as {answered}" for given, answered in mapping.items())
    return (
        f"On {n} validation rows the network answers whole classes under other names ({pairs}), while training rows "
        f"are answered under their own. With these names exchanged, accuracy is {matched:.3f} and not {identity:.3f}; "
        f"by chance fewer than one network in a thousand gains more than {threshold:.3f}."
    )


CHECKS = (Check(("PC301",), Tier.FORWARD, check_class_order),)

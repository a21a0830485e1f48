"""What the judged network answers on the rows of a case: scores, hits and losses, for the checks that look at them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import Rows

TRAIN_ROWS = 2_048  # training rows that are predicted: an accuracy to within two points
SAME_LOSS = 0.005  # relative; what batches of another size and the last bits of float32 can change in a mean loss
SMALLEST = 1e-7  # probability at which Keras clips before it takes the logarithm of one
NEEDS = "the trained network (or its saved predictions), and training and validation rows with labels"


@dataclass(frozen=True, eq=False)
class Outcome:
    """The answers of the judged network on some rows, in inference mode."""

    rows: Rows
    labels: NDArray[np.int64]
    """(rows,) -1 for what is no class."""
    scores: NDArray[np.float64]
    """(rows, classes), finite; probabilities or logits."""
    groups: NDArray[np.int64] | None

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(rows,) the class with the highest score."""
        predicted: NDArray[np.int64] = self.scores.argmax(axis=1)
        return predicted

    @cached_property
    def hits(self) -> NDArray[np.float64]:
        """(rows,) 1.0 where the answer is right."""
        hits: NDArray[np.float64] = (self.predicted == self.labels).astype(np.float64)
        return hits

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.hits.mean())

    @property
    def classes(self) -> int:
        """Number of classes that the network knows."""
        return int(self.scores.shape[1])

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """(rows, classes) rows that sum to 1: scores as they are, or their softmax."""
        if (self.scores >= 0).all() and np.allclose(self.scores.sum(axis=1), 1.0, atol=1e-3):
            return self.scores
        raised = np.exp(self.scores - self.scores.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
        return shares

    def compute_loss(self, smallest: float = SMALLEST) -> float:
        """Mean cross-entropy in nats, with probabilities of `smallest` at the least."""
        known = self.labels >= 0
        chosen = self.probabilities[known, self.labels[known]]
        return float(-np.log(np.maximum(chosen, smallest)).mean()) if known.any() else float("nan")


def pick_rows(rows: Rows, most: int, rng: np.random.Generator) -> Rows:
    """At most `most` of `rows`, in their order."""
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def score_rows(case: Case, rows: Rows) -> Outcome | None:
    """What the trained network answers on `rows`; None without network, labels or rows, or where scores are not
    finite or not (rows, classes)."""
    if not case.has_parts or not len(rows) or case.load is None:
        return None
    return _make_outcome(case, rows, case.predict(rows))


def score_validation(case: Case) -> Outcome | None:
    """What the trained network answers on the validation rows, or what a run saved of it."""
    if not case.has_parts or case.validation is None or not len(case.validation):
        return None
    if case.load is not None:
        return score_rows(case, case.validation)
    return _make_outcome(case, case.validation, case.saved_predictions)


def score_train(case: Case) -> Outcome | None:
    """What the trained network answers on training rows, up to `TRAIN_ROWS` of them."""
    if case.train is None:
        return None
    return score_rows(case, pick_rows(case.train, TRAIN_ROWS, case.rng("training rows")))


def _make_outcome(case: Case, rows: Rows, scores: NDArray[np.float64] | None) -> Outcome | None:
    if scores is None or scores.ndim != 2 or len(scores) != len(rows) or scores.shape[1] < 2:
        return None
    if not np.isfinite(scores).all():
        return None
    return Outcome(rows, case.labels_of(rows), scores, case.groups_of(rows))


def find_epochs(case: Case, validation: Outcome) -> list[int]:
    """Places in the history of the epochs whose validation loss is that of the judged weights, to `SAME_LOSS`.

    Tells which epoch's weights were kept. Empty where none fits: the loss is no cross-entropy, or the history is not
    this network's.
    """
    # On TensorFlow, Keras takes the loss of a final softmax from its logits, and clips nothing.
    losses = np.array([validation.compute_loss(), validation.compute_loss(float(np.finfo(np.float32).tiny))])
    if case.model is not None:
        losses += sum(float(penalty) for penalty in case.model.losses)
    logged = [row.get("val_loss", float("nan")) for row in case.history]
    margins = SAME_LOSS * np.maximum(abs(losses), 0.01)
    return [i for i, value in enumerate(logged) if (abs(value - losses) <= margins).any()]


def find_majority(case: Case) -> float:
    """The largest share of one class among the training rows."""
    labels = case.labels_of(case.train) if case.train is not None else np.zeros(0, np.int64)
    counts = np.bincount(labels[labels >= 0])
    return float(counts.max() / counts.sum()) if counts.sum() else 1.0

"""Averaged probabilities of several networks: by how much the networks disagree, and what averaging gains.

NumPy only. `members` is always (members, rows, classes).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.metrics import compute_mean_interval

SMALLEST = float(np.finfo(np.float64).eps)  # a probability below it counts as this much, as in scikit-learn's log loss


def average(members: NDArray[Any]) -> NDArray[np.float64]:
    """The mean probabilities (rows, classes)."""
    mean: NDArray[np.float64] = members.astype(np.float64).mean(axis=0)
    return mean


def compute_mutual_information(members: NDArray[Any]) -> NDArray[np.float64]:
    """By how much the networks disagree about each row (rows,), in nats; 0 where all answer the same.

    The entropy of the mean probabilities less the mean of the entropies: the mutual information between the class and
    the choice of the network (Houlsby et al. 2011, "BALD"; for ensembles Lakshminarayanan et al. 2017). It is at most
    the logarithm of the number of networks, or of classes where those are fewer, and leaves out the doubt that all
    networks share.
    """
    p = members.astype(np.float64)
    information: NDArray[np.float64] = _compute_entropy(p.mean(axis=0)) - _compute_entropy(p).mean(axis=0)
    return information.clip(min=0.0)  # rounding may leave a little less


def _compute_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    entropy: NDArray[np.float64] = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)
    return entropy


def compare_rows(labels: NDArray[np.int64], members: NDArray[Any]) -> NDArray[np.float64]:
    """(rows, 4): whether the average is right, the mean of that over the members, and the same two of the log loss."""
    rows, mean = np.arange(len(labels)), average(members)
    truths = members[:, rows, labels].astype(np.float64)  # (members, rows)
    return np.stack(
        [
            (mean.argmax(axis=1) == labels).astype(np.float64),
            (members.argmax(axis=2) == labels).mean(axis=0),
            -np.log(np.maximum(mean[rows, labels], SMALLEST)),
            -np.log(np.maximum(truths, SMALLEST)).mean(axis=0),
        ],
        axis=1,
    )


def compute_gain(compared: NDArray[np.float64], members: int, groups: NDArray[np.int64] | None) -> dict[str, Any]:
    """By how much the average beats the mean of its `members`, from what `compare_rows` gives; JSON-ready.

    Differences are paired row by row, and their 95 % intervals allow for `groups` (`metrics.compute_mean_interval`).
    Log loss never rises by averaging (Jensen); accuracy may fall.
    """
    right, rights, loss, losses = compared.T
    return {
        "members": members,
        "n": len(compared),
        "n_groups": None if groups is None else len(np.unique(groups)),
        "ensemble_accuracy": float(right.mean()),
        "mean_member_accuracy": float(rights.mean()),
        "accuracy_gain": float((right - rights).mean()),
        "accuracy_gain_ci": compute_mean_interval(right - rights, groups),
        "log_loss_drop": float((losses - loss).mean()),
        "log_loss_drop_ci": compute_mean_interval(losses - loss, groups),
    }

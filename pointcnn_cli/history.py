"""What the epochs so far say: which was best, and whether validation is stuck."""

from collections.abc import Mapping, Sequence

import numpy as np

HistoryRow = dict[str, float]  # a line of history.csv
STUCK_EPOCHS = 5  # validation no better than a constant answer for so long,
STUCK_GAP = 0.5  # and so far below training: the split or the labels are to blame more often than the network


def find_best_epoch(history: Sequence[Mapping[str, float]], monitor: str) -> int:
    """The epoch whose monitored value is best (lowest loss, highest accuracy), the first of equals; 0 for an empty
    history."""
    if not history:
        return 0
    sign = 1.0 if monitor.endswith("loss") else -1.0
    return 1 + int(np.argmin([sign * row[monitor] for row in history]))


def is_stuck(history: Sequence[Mapping[str, float]], chance: float) -> bool:
    """Whether validation accuracy has sat at or below `chance` (that of the best constant answer) in the last epochs,
    while training went well."""
    last = history[-STUCK_EPOCHS:]
    return (
        len(last) == STUCK_EPOCHS
        and all(row["val_accuracy"] <= chance for row in last)
        and last[-1]["accuracy"] >= last[-1]["val_accuracy"] + STUCK_GAP
    )


def describe_stuck(history: Sequence[Mapping[str, float]], chance: float) -> str:
    """The sentence for the user; a command is to follow."""
    return (
        f"for {STUCK_EPOCHS} epochs validation accuracy ({history[-1]['val_accuracy']:.3f}) has not passed that of the "
        f"best constant answer ({chance:.3f}), while training accuracy is {history[-1]['accuracy']:.3f}. What is "
        "wrong, and what cures it, says"
    )

"""What the user must be told about a split before training: sentences with the numbers that show it."""

from collections.abc import Iterable

import numpy as np

from pointcnn_cli.hdf5.samples import DataIndex
from pointcnn_cli.splits.parts import Rows, Split, compute_ceiling, count_overlaps, name_parts, require_labels

_MOST_NAMED = 12  # classes; a list of a hundred hides the sentence around it


def note_split(index: DataIndex, split: Split) -> tuple[str, ...]:
    """Everything about a finished split that is worth a sentence, most important first; () for a clean one."""
    notes: list[str] = []
    if split.strategy == "tail":
        notes.append(note_tail(index, split) + _advise_against_tail(index, split))
    notes += [note_untrained(index, split), _note_unvalidated(index, split), _note_left_out(index, split)]
    for name, rows in name_parts(split).items():
        if name != "train":
            notes += [_note_shared_groups(index, split, name, rows), _note_overlaps(index, split, name, rows)]
    return tuple(note for note in notes if note)


def note_tail(index: DataIndex, split: Split) -> str:
    """What cutting off the last rows does here: the order of the labels, and what validation consists of."""
    labels, classes = require_labels(index)
    total = len(split.train) + len(split.validation)
    rows = np.concatenate([split.train, split.validation])  # in file order: the tail follows the rest
    neighbours = float(np.mean(labels[rows][1:] == labels[rows][:-1]))
    shares = np.bincount(labels[rows]) / total
    present = np.unique(labels[split.validation])
    trained = np.bincount(labels[split.train], minlength=len(classes))
    validated = np.bincount(labels[split.validation], minlength=len(classes))
    listed = _join(f"{classes[c]} ({validated[c]} rows, {trained[c]} left for training)" for c in present)
    return (
        f"split.strategy is 'tail': the last {len(split.validation)} of {total} rows validate, cut off before any "
        f"shuffling, as Keras's validation_split does. Neighbouring rows are of one class in {neighbours:.1%} of cases "
        f"({float((shares**2).sum()):.1%} in random order), and validation holds {len(present)} of {len(classes)} "
        f"classes: {listed}."
    )


def _advise_against_tail(index: DataIndex, split: Split) -> str:
    """Nothing where the rows were in random order, so that both parts hold every class."""
    labels, classes = require_labels(index)
    if all(len(np.unique(labels[rows])) == len(classes) for rows in (split.train, split.validation)):
        return ""
    return (
        " The parts differ in their classes, so the score does not measure the network: set split.strategy to 'auto'."
    )


def note_untrained(index: DataIndex, split: Split) -> str:
    """The classes without a training row, and the ceiling that this sets; empty where every class has one."""
    labels, classes = require_labels(index)
    trained = np.bincount(labels[split.train], minlength=len(classes))
    untrained = np.flatnonzero(trained == 0)
    if not untrained.size:
        return ""
    validated = np.bincount(labels[split.validation], minlength=len(classes))
    listed = _join(f"{classes[c]} ({validated[c]} validation rows)" for c in untrained)
    ceiling = compute_ceiling(labels, split.train, split.validation)
    return (
        f"Classes without a training row: {listed}. No network trained on this split can score above {ceiling:.1%} "
        "on the validation rows (the ceiling)."
    )


def _note_unvalidated(index: DataIndex, split: Split) -> str:
    labels, classes = require_labels(index)
    validated = np.bincount(labels[split.validation], minlength=len(classes))
    unseen = np.flatnonzero((validated == 0) & (np.bincount(labels, minlength=len(classes)) > 0))
    if not unseen.size:
        return ""
    return f"Classes without a validation row: {_join(classes[c] for c in unseen)}. The score says nothing of them."


def _note_left_out(index: DataIndex, split: Split) -> str:
    left = index.rows - sum(len(rows) for rows in name_parts(split).values())
    return f"{left} of {index.rows} rows are in no part of the split." if left else ""


def _note_shared_groups(index: DataIndex, split: Split, name: str, rows: Rows) -> str:
    if index.groups is None or len(np.unique(index.groups)) == 1:  # a note on the only group is there already
        return ""
    groups = np.unique(index.groups[rows])
    shared = np.intersect1d(groups, index.groups[split.train])
    if not shared.size:
        return ""
    affected = float(np.isin(index.groups[rows], shared).mean())
    return (
        f"Groups that also have training rows: {shared.size} of {groups.size} in the {name} part ({affected:.1%} of "
        "its rows). These rows do not show how the network does on unseen groups."
    )


def _note_overlaps(index: DataIndex, split: Split, name: str, rows: Rows) -> str:
    frames = index.channel_shapes[0][2]
    count = count_overlaps(index, split.train, rows, frames)
    if not count:
        return ""
    return (
        f"Windows of {frames} frames that overlap with a training window of the same recording: {count} of {len(rows)} "
        f"in the {name} part ({count / len(rows):.1%}). The network has seen much of them, which lifts the score: keep "
        "recordings together, by naming them or the subjects in data.groups."
    )


def _join(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MOST_NAMED
    return ", ".join(listed[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

"""Which rows train, which validate, which are never touched.

`folds` cuts with scikit-learn, `parts` says what a split is and what it holds, `files` keeps it as `split.json`,
`notes` says what is wrong with it; here the settings become a split.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pointcnn_cli.config.schema import SplitConfig
from pointcnn_cli.errors import ConfigError, DataError
from pointcnn_cli.hdf5.samples import DataIndex
from pointcnn_cli.splits.files import read_split_file
from pointcnn_cli.splits.folds import Folds, build_folds
from pointcnn_cli.splits.notes import note_split, note_tail, note_untrained
from pointcnn_cli.splits.parts import Rows, Split, name_files, require_labels

_VALIDATION, _TEST = 0, 1  # keep the two draws apart that come from one split.seed


def build_split(index: DataIndex, settings: SplitConfig) -> Split:
    """The split that `settings` asks for; the same from equal labels, groups and settings.

    A test part is taken out first, and never depends on strategy, validation fraction or fold. Raises DataError for
    data that cannot be split, a `split.fold` that does not exist, a split file that does not fit, and, unless
    `allow_missing_classes`, a class without a training row.
    """
    _check_labels(index)
    if settings.strategy == "file":
        return _finish(index, _read(index, settings), settings, None)
    rest, test, notes = _take_test(index, settings)
    if settings.strategy == "tail":
        cut = int(np.floor(len(rest) * (1.0 - settings.validation_fraction)))  # Keras: train_validation_split
        split = Split(rest[:cut], rest[cut:], test, strategy="tail", notes=notes)
        return _finish(index, split, settings, None)
    return _choose_fold(index, settings, rest, test, notes, _build_validation_folds(index, rest, settings))


def build_fold_splits(index: DataIndex, settings: SplitConfig) -> tuple[Split, ...]:
    """What `build_split` gives for each `split.fold` there is, whose errors these are; not for `tail` and `file`."""
    _check_labels(index)
    rest, test, notes = _take_test(index, settings)
    folds = _build_validation_folds(index, rest, settings)
    chosen = [settings.model_copy(update={"fold": fold}) for fold in range(folds.count)]
    return tuple(_choose_fold(index, one, rest, test, notes, folds) for one in chosen)


def _choose_fold(
    index: DataIndex, settings: SplitConfig, rest: Rows, test: Rows | None, notes: tuple[str, ...], folds: Folds
) -> Split:
    if settings.fold >= folds.count:
        raise DataError(
            f"split.fold is {settings.fold}, but these data make only {folds.count} folds "
            f"(0 to {folds.count - 1}). " + " ".join(folds.notes),
            f"set split.fold to {folds.count - 1} or less",
        )
    chosen = folds.numbers == settings.fold
    strategy = "stratified_group" if folds.grouped else "stratified"
    split = Split(rest[~chosen], rest[chosen], test, strategy, notes + folds.notes, folds.count)
    return _finish(index, split, settings, folds)


def _check_labels(index: DataIndex) -> None:
    labels, classes = require_labels(index)
    present = np.unique(labels)
    if index.rows < max(2, len(classes)):
        raise DataError(
            f"{name_files(index)}: there are {index.rows} rows for {len(classes)} classes ({', '.join(classes)})",
            "a split needs at least one row of each class for training, and others to validate on",
        )
    if len(present) < 2:
        raise DataError(
            f"{name_files(index)}: all {index.rows} rows are of one class, {classes[present[0]]!r}",
            "there is nothing to tell apart: give rows of at least two classes",
        )


def _read(index: DataIndex, settings: SplitConfig) -> Split:
    if settings.file is None or settings.test_fraction is not None:
        raise ConfigError(
            "split.strategy 'file' takes its parts, the test part too, from split.file, and goes without test_fraction",
            "name a split.json in split.file, and set split.test_fraction to null",
        )
    return read_split_file(Path(settings.file), index.rows)


def _take_test(index: DataIndex, settings: SplitConfig) -> tuple[Rows, Rows | None, tuple[str, ...]]:
    """The rows that are left, the test rows, and notes. Of the folds, the test part is the most ordinary one."""
    rows = np.arange(index.rows)
    if settings.test_fraction is None:
        return rows, None, ()
    labels, classes = require_labels(index)
    folds = build_folds(labels, index.groups, classes, settings.test_fraction, (settings.seed, _TEST), "test")
    order = np.lexsort((folds.deviation().round(9), folds.missing().sum(axis=1)))
    chosen = folds.numbers == order[0]
    return rows[~chosen], rows[chosen], folds.notes


def _build_validation_folds(index: DataIndex, rest: Rows, settings: SplitConfig) -> Folds:
    labels, classes = require_labels(index)
    if settings.strategy == "stratified_group" and index.groups is None:
        raise DataError(
            "split.strategy is 'stratified_group', but the data have no groups",
            "name a dataset of subjects or recordings in data.groups, or set split.strategy to 'stratified'",
        )
    by_group = index.groups is not None and settings.strategy != "stratified"
    groups = index.groups[rest] if by_group and index.groups is not None else None
    seed = (settings.seed, _VALIDATION)
    return build_folds(labels[rest], groups, classes, settings.validation_fraction, seed, "validation")


def _finish(index: DataIndex, split: Split, settings: SplitConfig, folds: Folds | None) -> Split:
    """Check what every split must keep, and add what the user must be told."""
    for name, rows in (("training", split.train), ("validation", split.validation)):
        if not len(rows):
            raise DataError(
                f"the split leaves no row for {name}: {index.rows} rows, {len(split.train)} for training, "
                f"{len(split.validation)} for validation",
                "give more rows, or change split.validation_fraction, split.fold or split.seed",
            )
    untrained = note_untrained(index, split)
    if untrained and not settings.allow_missing_classes:
        before = note_tail(index, split) + " " if split.strategy == "tail" else ""
        raise DataError(before + untrained, _suggest_for_untrained(split, folds))
    return replace(split, notes=split.notes + note_split(index, split))


def _suggest_for_untrained(split: Split, folds: Folds | None) -> str:
    anyway = "split.allow_missing_classes: true trains all the same"
    if split.strategy == "tail":
        return f"set split.strategy to 'auto'; {anyway}"
    if folds is None:
        return f"put rows of every class into 'train' of the split file; {anyway}"
    complete = np.flatnonzero(~folds.missing().any(axis=1))
    if complete.size and (folds.table.sum(axis=0) > 0).all():
        return f"with split.fold {' or '.join(map(str, complete[:5]))} every class has training rows; {anyway}"
    return f"gather rows of these classes from more {'groups' if folds.grouped else 'recordings'}; {anyway}"

"""One list of classes, groups and recordings over several files: names are matched, never numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.hdf5.labels import Coded
from pointcnn_cli.hdf5.problems import Problem

_MOST_NAMES = 12  # names shown in a message


def combine_classes(
    columns: Sequence[tuple[str, Coded]], expected: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]] | list[Problem]:
    """Labels (rows of all files,) and class names; `columns` holds (where, labels) of each file in order.

    Files that state their classes must state the same ones (the first file's order counts); files that do not are
    matched by the values that occur. With `expected` (the classes of a trained model), labels are mapped to those by
    name: a class that occurs in the rows and is not among them is a problem, an absent one is fine.
    """
    classes, problems = _agree(columns)
    if problems:
        return problems
    if expected is not None:
        unknown = sorted({name for _, column in columns for name in column.used_names()} - set(expected))
        if unknown:
            where = ", ".join(w for w, column in columns if set(unknown) & set(column.used_names()))
            what = f"classes that the model does not know: {_list(unknown)}; it knows: {_list(expected)}"
            return [Problem(where, what, _numbers_hint(unknown) or "leave these rows out, or train a model with them")]
        classes = expected
    place = {name: code for code, name in enumerate(classes)}
    labels = [_translate(column, place) for _, column in columns]
    return np.concatenate(labels), classes


def _agree(columns: Sequence[tuple[str, Coded]]) -> tuple[tuple[str, ...], list[Problem]]:
    """The class list of all files together, or how they disagree."""
    stated = [(where, column) for where, column in columns if column.declared]
    if not stated:
        numeric = {column.numeric for _, column in columns}
        if len(numeric) > 1:
            where = "; ".join(where for where, _ in columns)
            return (), [Problem(where, "some files have class numbers, others class names", _numbers_hint(["0"]))]
        names = {name for _, column in columns for name in column.names}
        return tuple(sorted(names, key=int if numeric == {True} else None)), []
    first_where, first = stated[0]
    problems = []
    for where, column in columns:
        odd = set(column.names) - set(first.names)
        lost = set(first.names) - set(column.names) if column.declared else set()
        if odd or lost:
            what = f"its classes are {_list(column.names)}, but those of {first_where} are {_list(first.names)}"
            problems.append(
                Problem(where, what, _numbers_hint(sorted(odd)) or "class lists must name the same classes")
            )
    return first.names, problems


def combine_groups(
    columns: Sequence[tuple[str, Coded]], files: Sequence[str], per_file: bool
) -> tuple[NDArray[np.int64], tuple[str, ...]] | list[Problem]:
    """Group codes 0..G-1 (rows of all files,) and the G names that occur; `files` are the paths, in the same order.

    Equal values in different files are one group, unless `per_file`.
    """
    if not per_file and len({column.numeric for _, column in columns}) > 1:
        where = "; ".join(where for where, _ in columns)
        hint = "give all files names or none, or set data.groups_per_file: true if no group is in two files"
        return [
            Problem(where, "numbers in one file and names in another: it is not known which groups are equal", hint)
        ]
    prefixes = _prefixes(files) if per_file and len(files) > 1 else [""] * len(files)
    names: dict[str, int] = {}
    codes = []
    for prefix, (_, column) in zip(prefixes, columns, strict=True):
        place = {name: names.setdefault(prefix + name, len(names)) for name in column.used_names()}
        codes.append(_translate(column, place))
    return np.concatenate(codes), tuple(names)


def _prefixes(files: Sequence[str]) -> list[str]:
    """File names to set group names apart; whole paths where two file names are equal."""
    stems = [Path(path).name for path in files]
    return [f"{name}:" for name in (stems if len(set(stems)) == len(stems) else files)]


def _translate(column: Coded, place: dict[str, int]) -> NDArray[np.int64]:
    """Codes of the column by another numbering of names; names without rows may be missing in it."""
    table = np.array([place.get(name, -1) for name in column.names], np.int64)
    return table[column.codes]


def _numbers_hint(names: Sequence[str]) -> str | None:
    """What to do where numbers met names."""
    if not any(name.isdigit() for name in names):
        return None
    return "name the classes of number labels with the attribute 'classes' of the label dataset (label i is classes[i])"


def _list(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more

"""What a data file holds that could be channels, labels or groups, whatever the names; only headers and columns are
read."""

import os
from dataclasses import dataclass

import h5py

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.checks import CHANNEL_DTYPES, check_channel_shape, check_storage
from pointcnn_cli.hdf5.files import open_file
from pointcnn_cli.hdf5.labels import Coded, read_groups, read_labels
from pointcnn_cli.hdf5.probe import check_survives, limited_memory
from pointcnn_cli.hdf5.problems import Problem, at, damaged, raise_problems
from pointcnn_cli.hdf5.tree import Found, list_objects

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # in the name of a dataset whose real name is not UTF-8


@dataclass(frozen=True)
class ChannelCandidate:
    """A dataset with the layout of a channel."""

    name: str
    depth: int
    grid: tuple[int, int, int]
    """(rows, points, frames); channels that go together have the same."""


@dataclass(frozen=True)
class ColumnCandidate:
    """A dataset with one entry, or one-hot columns, for each row."""

    name: str
    rows: int
    labels: Coded | None
    """As class labels; None where it cannot be that."""
    groups: Coded | None
    """As groups; None where it cannot be that."""
    declared: bool
    """Whether the file itself says that these are classes: by an attribute, or one-hot columns."""
    objection: Problem | None = None
    """Why it cannot be labels."""


@dataclass(frozen=True)
class Survey:
    """All that was found in a file."""

    path: str
    channels: tuple[ChannelCandidate, ...]
    columns: tuple[ColumnCandidate, ...]
    refused: tuple[Problem, ...]
    """Arrays that might be meant as channels, and why they cannot be."""


def survey_file(path: str) -> Survey:
    """Look through a file. Raises DataError for what is not a readable HDF5 file."""
    whole = os.path.abspath(path)
    check_survives([whole], lambda one: _survey(one))
    with limited_memory([whole]):
        found = _survey(whole)
    if isinstance(found, Problem):
        raise_problems([found])
        raise DataError(str(found))
    return found


def _survey(path: str) -> Survey | Problem:
    handle = open_file(path)
    if isinstance(handle, Problem):
        return handle
    with handle:
        try:
            return _look_through(path, handle)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            return damaged(path, error)


def _look_through(path: str, handle: h5py.File) -> Survey:
    channels: list[ChannelCandidate] = []
    columns: list[ColumnCandidate] = []
    refused: list[Problem] = []
    for found in list_objects(handle):
        where = at(path, found.name)
        if found.dataset is None or REPLACEMENT in found.name:
            refused.append(Problem(where, found.note or "its name is not UTF-8"))
            continue
        dataset = found.dataset
        stored = check_storage(dataset, where, CHANNEL_DTYPES, handle.id.get_filesize())
        # Storage comes before the shape: asking a dataset that lies elsewhere for it may open other files.
        if stored and not _may_be_column(found, where, handle):
            refused += stored
        elif not stored and len(dataset.shape) > 2:
            problems = check_channel_shape(dataset.shape, where)
            refused += problems
            if not problems:
                rows, depth, points, frames = (int(size) for size in dataset.shape[:4])
                channels.append(ChannelCandidate(found.name, depth, (rows, points, frames)))
        else:
            columns += _read_column(found, where, handle)
    return Survey(path, tuple(channels), tuple(columns), tuple(refused))


def _may_be_column(found: Found, where: str, handle: h5py.File) -> bool:
    """Whether it is stored soundly, as one of the types that only columns have."""
    return found.dataset is not None and not check_storage(
        found.dataset, where, ("string", "bool"), handle.id.get_filesize()
    )


def _read_column(found: Found, where: str, handle: h5py.File) -> list[ColumnCandidate]:
    """The dataset as labels and as groups, neither of which it may be."""
    dataset, file_bytes = found.dataset, handle.id.get_filesize()
    if dataset is None or not 1 <= len(dataset.shape) <= 2:
        return []
    labels = read_labels(dataset, where, None, file_bytes)
    groups = read_groups(dataset, where, None, file_bytes)
    usable = labels if isinstance(labels, Coded) else None
    return [
        ColumnCandidate(
            found.name,
            rows=int(dataset.shape[0]),
            labels=usable,
            groups=groups if isinstance(groups, Coded) else None,
            declared=usable is not None and usable.declared,
            objection=None if isinstance(labels, Coded) else labels[0],
        )
    ]

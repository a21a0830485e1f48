"""One opened file with its checked channels and columns, and the columns of several files put together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.hdf5.checks import CHANNEL_DTYPES, check_channel_shape, check_channels_agree, check_storage
from pointcnn_cli.hdf5.combine import combine_classes, combine_groups
from pointcnn_cli.hdf5.files import open_file
from pointcnn_cli.hdf5.labels import Coded, read_groups, read_labels, read_start_frames
from pointcnn_cli.hdf5.problems import Problem, at, damaged, raise_problems
from pointcnn_cli.hdf5.tree import find_dataset, is_present

GROUP = "group"
RECORDING = "recording"
START_FRAME = "start_frame"

Reader = Callable[[h5py.h5d.DatasetID, str, int | None, int], Any]


@dataclass
class OpenFile:
    """A file and what was found in it; with `problems` it may be incomplete, and is for looking at only."""

    path: str
    handle: h5py.File | None = None
    channels: list[h5py.Dataset] = field(default_factory=list)
    labels: Coded | None = None
    groups: Coded | None = None
    recordings: Coded | None = None
    start_frames: NDArray[np.int64] | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of the file, from its first channel."""
        return int(self.channels[0].shape[0])

    def close(self) -> None:
        """Close the file, if it could be opened."""
        if self.handle is not None:
            self.handle.close()


@dataclass(frozen=True)
class Columns:
    """What `DataIndex` holds beside the channels, over the rows of all files."""

    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    groups: NDArray[np.int64] | None
    group_names: tuple[str, ...] | None
    recordings: NDArray[np.int64] | None
    start_frames: NDArray[np.int64] | None
    notes: tuple[str, ...]


def open_and_check(path: str, data: DataConfig, labels_required: bool) -> OpenFile:
    """Open one file and check every dataset that `data` names; problems are collected, not raised."""
    file = OpenFile(path)
    handle = open_file(path)
    if isinstance(handle, Problem):
        file.problems.append(handle)
        return file
    file.handle = handle
    try:
        _check_channels(file, handle, data)
        rows = file.rows if len(file.channels) == 4 and not file.problems else None
        _read_columns(file, handle, data, rows, labels_required)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        file.problems.append(damaged(path, error))  # such damage surfaces anywhere inside HDF5, as any of these
    except BaseException:
        file.close()
        raise
    return file


def _check_channels(file: OpenFile, handle: h5py.File, data: DataConfig) -> None:
    """Find the four channels; those in order go to `file.channels`."""
    file_bytes = handle.id.get_filesize()
    for name in data.channels:
        where = at(file.path, name)
        dataset = find_dataset(handle, name, "data.channels")
        if isinstance(dataset, Problem):
            file.problems.append(dataset)
            continue
        found = check_storage(dataset, where, CHANNEL_DTYPES, file_bytes)
        found = found or check_channel_shape(dataset.shape, where)
        file.problems += found
        if not found:
            file.channels.append(h5py.Dataset(dataset, readonly=True))
    shapes = {channel.name.lstrip("/"): channel.shape for channel in file.channels}
    file.problems += check_channels_agree(shapes, file.path)


def _read_columns(file: OpenFile, handle: h5py.File, data: DataConfig, rows: int | None, required: bool) -> None:
    """Read labels, groups, recordings and start frames; what is not `required` and unusable becomes a note."""
    optional: list[
        tuple[str, str | None, str, Reader]
    ] = [  # attribute of OpenFile, configured name, name that `auto` means, reader
        ("groups", data.groups, GROUP, read_groups),
        ("recordings", data.recordings, RECORDING, read_groups),
        ("start_frames", "auto", START_FRAME, read_start_frames),
    ]
    wanted: list[tuple[str, str, Reader]] = [("labels", data.labels, read_labels)]
    for attribute, name, automatic, reader in optional:
        if name == "auto" and is_present(handle, automatic):
            wanted.append((attribute, automatic, reader))
        elif name is not None and name != "auto":
            wanted.append((attribute, name, reader))
    file_bytes = handle.id.get_filesize()
    for attribute, name, reader in wanted:
        dataset = find_dataset(handle, name, f"data.{attribute}")
        if isinstance(dataset, Problem):
            column: Any = [dataset]
        else:
            column = reader(dataset, at(file.path, name), rows, file_bytes)
        if not isinstance(column, list):
            setattr(file, attribute, column)
            file.notes += column.notes if isinstance(column, Coded) else ()
        elif required:
            file.problems += column
        else:
            file.notes += [f"no {attribute.replace('_', ' ')} are used: {problem}" for problem in column]


def combine_files(
    files: Sequence[OpenFile], data: DataConfig, labels_required: bool, expected: tuple[str, ...] | None
) -> Columns:
    """The columns over the rows of all files. Raises DataError where the files do not go together."""
    problems: list[Problem] = []
    notes = [note for file in files for note in file.notes]

    def settle(combined: Any, what: str) -> Any:
        """Pass a result on; problems are kept for raising, or become notes where nothing is required."""
        if not isinstance(combined, list):
            return combined
        if labels_required:
            problems.extend(combined)
        else:
            notes.extend(f"no {what} are used: {problem}" for problem in combined)
        return None, None

    labels, classes = settle(_combine(files, "labels", data, expected), "labels")
    groups, group_names = settle(_combine(files, "groups", data, None), "groups")
    recordings, _ = settle(_combine(files, "recordings", data, None), "recordings")
    raise_problems(problems)
    frames = [file.start_frames for file in files if file.start_frames is not None]
    start_frames = np.concatenate(frames) if len(frames) == len(files) else None
    if frames and start_frames is None:
        notes.append(f"{START_FRAME!r} is not in all files and is not used")
    return Columns(labels, classes, groups, group_names, recordings, start_frames, tuple(notes))


def _combine(files: Sequence[OpenFile], attribute: str, data: DataConfig, expected: tuple[str, ...] | None) -> Any:
    """(codes, names) of one column over all files, (None, None) where no file has it, or a list of problems."""
    present = [file for file in files if getattr(file, attribute) is not None]
    if not present:
        return None, None
    if len(present) < len(files):
        lacking = next(file for file in files if getattr(file, attribute) is None)
        what = f"it has no {attribute}, but {present[0].path} has"
        return [Problem(lacking.path, what, f"use files that all have them, or set data.{attribute} to null")]
    columns = [(at(file.path, _name(attribute, data)), getattr(file, attribute)) for file in files]
    if attribute == "labels":
        return combine_classes(columns, expected)
    return combine_groups(columns, [file.path for file in files], data.groups_per_file)


def _name(attribute: str, data: DataConfig) -> str:
    """The dataset that a column was read from."""
    name: str = getattr(data, attribute)
    return {"groups": GROUP, "recordings": RECORDING}.get(attribute, name) if name == "auto" else name

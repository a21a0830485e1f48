"""`pointcnn data convert`: which kind of input it is, what it holds, and the HDF5 file made from it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pointcnn_cli.convert.arrays import ArrayNames, Pieces, build_samples
from pointcnn_cli.convert.matlab import read_mat
from pointcnn_cli.convert.numpyfiles import read_npy, read_npz
from pointcnn_cli.convert.tables import read_tables
from pointcnn_cli.convert.textlogs import read_logs
from pointcnn_cli.convert.windows import WindowShape, cut_recordings
from pointcnn_cli.errors import DataError, OutputError, UsageError
from pointcnn_cli.hdf5.columns import GROUP, RECORDING, START_FRAME
from pointcnn_cli.hdf5.labels import MAX_CLASSES, MAX_GROUPS, MAX_NAME_LENGTH
from pointcnn_cli.hdf5.samples import Samples
from pointcnn_cli.hdf5.writing import LABEL, write_samples

_KINDS = {".npy": "npy", ".npz": "npz", ".mat": "mat", ".csv": "csv", ".txt": "logs"}
_ONE_FILE = ("npz", "mat")
_ONE_BY_ONE = "convert each by itself, and list the resulting files in data.path"
_HDF5_SUFFIXES = (".h5", ".hdf5", ".he5")


@dataclass(frozen=True)
class ConvertSummary:
    """What was written."""

    output: Path
    rows: int
    classes: tuple[str, ...]
    class_rows: tuple[int, ...]
    """Rows of each class."""
    groups: int
    """Number of groups; 0 where the input has none."""
    files: tuple[Path, ...]
    """The files that were read."""
    notes: tuple[str, ...]
    """What was left out or assumed, a sentence each."""


def convert_files(
    inputs: list[Path],
    output: Path,
    *,
    channel_names: tuple[str, str, str, str],
    labels_name: str,
    groups_name: str | None,
    points: int = 64,
    frames: int = 48,
    stride: int = 16,
    force: bool = False,
) -> ConvertSummary:
    """Turn `inputs` into one HDF5 file in the layout of `data/README.md`.

    Inputs are of one kind: five or six .npy files by position (channels 1 to 4, labels, groups); one .npz or .mat file,
    whose arrays are called `channel_names`, `labels_name` and `groups_name` (None: no groups; `auto`: `group` where it
    is there); .csv tables of points; .txt logs of ti_mmwave_rospkg, or folders of them. Tables and logs are cut into
    windows of `points` slots and `frames` frames every `stride` frames, sorted by label, recording and start; arrays
    keep their order. The channels are written under `channel_names`.

    The whole input is read and checked before anything is written, and the file appears whole or not at all. Raises
    DataError for input that is missing or malformed, UsageError for arguments that do not go together, OutputError
    where `output` exists (without `force`) or cannot be written, MissingDependencyError for a .mat that needs SciPy.
    """
    shape = WindowShape(points, frames, stride)
    _check_channel_names(channel_names)
    kind = _find_kind(inputs)
    _check_output(inputs, output, force)
    if kind in ("csv", "logs"):
        samples, files, notes = _convert_points(kind, inputs, shape)
    else:
        samples, notes = _convert_arrays(kind, inputs, ArrayNames(channel_names, labels_name, groups_name))
        files = inputs
    if len(samples.classes) == 1:
        notes.append(f"only one class, {samples.classes[0]}: a network has nothing to learn from it")
    _check_names("classes", samples.classes, MAX_CLASSES)
    _check_names("groups", samples.group_names or (), MAX_GROUPS)
    write_samples(output, samples, channel_names, force=force)
    return ConvertSummary(
        output=output,
        rows=len(samples.labels),
        classes=samples.classes,
        class_rows=tuple(np.bincount(samples.labels, minlength=len(samples.classes)).tolist()),
        groups=len(samples.group_names or ()),
        files=tuple(files),
        notes=tuple(notes),
    )


def _find_kind(inputs: Sequence[Path]) -> str:
    """The one kind of all inputs, by suffix; a folder holds logs. Every missing file and unknown suffix is named."""
    if not inputs:
        raise UsageError("nothing to convert", "name the files or folders to read before the output file")
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise DataError(f"no such file or folder: {', '.join(missing)}", f"the working directory is {Path.cwd()}")
    special = [str(path) for path in inputs if not path.is_file() and not path.is_dir()]
    if special:
        raise DataError(f"neither a file nor a folder: {', '.join(special)}")
    unreadable = [str(path) for path in inputs if not os.access(path, os.R_OK)]
    if unreadable:
        raise DataError(f"no permission to read {', '.join(unreadable)}")
    kinds = {path: "logs" if path.is_dir() else _KINDS.get(path.suffix.lower(), "") for path in inputs}
    unknown = [path for path, kind in kinds.items() if not kind]
    if unknown:
        already = all(path.suffix.lower() in _HDF5_SUFFIXES for path in unknown)
        raise DataError(
            f"cannot convert {', '.join(map(str, unknown))}: expected {', '.join(_KINDS)}, or a folder of logs",
            "an HDF5 file needs no conversion: name it in data.path" if already else None,
        )
    found = sorted(set(kinds.values()))
    if len(found) > 1:
        examples = ", ".join(next(str(p) for p, kind in kinds.items() if kind == one) for one in found)
        raise UsageError(f"inputs of different kinds: {examples}", _ONE_BY_ONE)
    if found[0] in _ONE_FILE and len(inputs) > 1:
        raise UsageError(f"{len(inputs)} .{found[0]} files; one is read at a time", _ONE_BY_ONE)
    return found[0]


def _check_channel_names(names: Sequence[str]) -> None:
    """Raise UsageError for names that cannot stand beside each other and the other datasets of the file."""
    taken = (LABEL, GROUP, RECORDING, START_FRAME)
    if len({*names, *taken}) != len(names) + len(taken):
        raise UsageError(
            f"unusable channel names {', '.join(names)}",
            f"they must differ from each other and from {', '.join(taken)}, which the file holds too",
        )


def _check_output(inputs: Sequence[Path], output: Path, force: bool) -> None:
    """Fail before the input is read, where writing would fail after it."""
    if output.exists() and any(output.resolve() == path.resolve() for path in inputs):
        raise UsageError(f"{output} is input and output")
    if output.exists() and not force:
        raise OutputError(f"{output}: exists already", "choose another name, or pass --force to replace it")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: no folder {output.parent}", "make the folder first")


def _check_names(what: str, names: Sequence[str], most: int) -> None:
    """Raise DataError for names that no reader would take back."""
    if len(names) > most:
        raise DataError(f"{len(names):,} {what}; at most {most:,} are taken", f"are these values really {what}?")
    for name in names:
        if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise DataError(
                f"unusable name among the {what}: {name[:40]!r}; expected 1 to {MAX_NAME_LENGTH} printable characters"
            )


def _convert_points(kind: str, inputs: Sequence[Path], shape: WindowShape) -> tuple[Samples, Sequence[Path], list[str]]:
    if kind == "csv":
        recordings, notes = read_tables(inputs)
        files = inputs
    else:
        recordings, files, notes = read_logs(inputs)
    samples, more = cut_recordings(recordings, shape)
    return samples, files, notes + more


def _convert_arrays(kind: str, inputs: Sequence[Path], names: ArrayNames) -> tuple[Samples, list[str]]:
    pieces: Pieces
    if kind == "npy":
        pieces = read_npy(inputs)
    elif kind == "npz":
        pieces = read_npz(inputs[0], names)
    else:
        pieces = read_mat(inputs[0], names)
    return build_samples(pieces)

"""Tables of points: CSV files with a header and one line a point."""

import csv
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.convert.notes import format_note
from pointcnn_cli.convert.windows import MAX_LINE_BYTES, VALUES, Recording, check_text_file, check_values
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.labels import MAX_GROUPS

_REQUIRED = ("recording", "label", "frame", "x", "y", "z", "velocity", "intensity")
_OPTIONAL = ("group", "range")
_MAX_FRAME = 2**31  # larger frame numbers are time stamps or mistakes
_SHOWN = 60  # characters of a bad cell in a message


@dataclass
class _Columns:
    """The lines of a table, gathered while it is read."""

    numbers: "array[float]" = field(default_factory=lambda: array("d"))  # frame and values of each point
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    codes: "array[int]" = field(default_factory=lambda: array("q"))  # recording of each point
    recordings: dict[str, tuple[int, str, str, int]] = field(default_factory=dict)  # name: code, group, label, line


class _Lines:
    """The lines of a table, for the csv module, which would read an endless line or record into memory."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file, self._number = path, file, 0
        self.pending = 0
        """Characters since the last record, which whoever takes the records sets back to 0."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self.pending += len(line)
        if self.pending > MAX_LINE_BYTES:
            raise DataError(
                f"{self._path}:{self._number}: the record is longer than {MAX_LINE_BYTES:,} characters",
                "is a quotation mark missing, or is this no table of points?",
            )
        return line


def read_tables(paths: Sequence[Path]) -> tuple[list[Recording], list[str]]:
    """Recordings of CSV files with columns recording, group, label, frame, x, y, z, velocity, intensity, range.

    Columns may stand in any order. Without `group` each recording is its own group; without `range` it is computed as
    the distance sqrt(x^2 + y^2 + z^2); both are noted, as are columns that are not used. Points may stand in any order;
    those of a frame keep theirs. Frames are whole numbers, and a number that is left out is a frame without points.

    Raises DataError, with FILE:LINE where there is a line: a missing or repeated column, a line of another length, a
    bad number, an empty name, a recording with two labels, two groups or in two files, no point at all.
    """
    recordings: dict[str, Recording] = {}
    notes: list[str] = []
    for path in paths:
        found, more = _read_table(path)
        for recording in found:
            if recording.name in recordings:
                raise DataError(
                    f"{path}: recording {recording.name!r} is in another table too",
                    "give each recording a name of its own, or keep all its points in one table",
                )
            recordings[recording.name] = recording
        notes += [f"{path}: {note}" for note in more]
    return list(recordings.values()), notes


def _read_table(path: Path) -> tuple[list[Recording], list[str]]:
    check_text_file(path)
    columns = _Columns()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _Lines(path, file)
            reader = csv.reader(lines)
            header = [name.strip() for name in next(reader, [])]
            notes = _check_header(path, header)
            _read_lines(path, reader, header, columns, lines)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})", "save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error})") from None
    if not columns.lines:
        raise DataError(f"{path}: no point below the header")
    return _build_recordings(path, columns, "range" in header), notes


def _check_header(path: Path, header: Sequence[str]) -> list[str]:
    """Notes on columns that are assumed or not used. Raises DataError for missing and repeated columns."""
    repeated = sorted({name for name in header if header.count(name) > 1})
    missing = [name for name in _REQUIRED if name not in header]
    if missing or repeated:
        parts = [f"no column {', '.join(missing)}"] if missing else []
        parts += [f"column {', '.join(repeated)} more than once"] if repeated else []
        found = ", ".join(header)[:200] or "nothing"
        raise DataError(
            f"{path}:1: {'; '.join(parts)} (found: {found})",
            f"the first line names the columns, with commas between: {', '.join(_REQUIRED)}; group, range optional",
        )
    notes = [] if "group" in header else ["no column group; each recording is its own group"]
    notes += [] if "range" in header else ["no column range; computed as the distance from x, y, z"]
    return notes + format_note("columns not used", [n for n in header if n not in (*_REQUIRED, *_OPTIONAL)])


def _read_lines(path: Path, reader: Any, header: Sequence[str], columns: _Columns, lines: _Lines) -> None:
    """Append every line of the csv `reader` to `columns`."""
    group = "group" if "group" in header else "recording"
    names = itemgetter(*(header.index(name) for name in ("recording", group, "label")))
    measured = ("frame", *VALUES) if "range" in header else ("frame", *VALUES[:-1])
    numbers = itemgetter(*(header.index(name) for name in measured))
    for cells in reader:
        lines.pending = 0
        if not cells:
            continue  # a blank line
        if len(cells) != len(header):
            raise DataError(f"{path}:{reader.line_num}: {len(cells)} cells; expected {len(header)} as in the header")
        try:
            columns.numbers.extend(list(map(float, numbers(cells))))
        except ValueError:
            raise _describe_cell(path, reader.line_num, measured, numbers(cells)) from None
        columns.lines.append(reader.line_num)
        columns.codes.append(_number_recording(path, reader.line_num, names(cells), columns.recordings))


def _describe_cell(path: Path, line: int, names: Sequence[str], cells: Sequence[str]) -> DataError:
    """The error for the first cell of a line that is not a number."""
    for name, cell in zip(names, cells, strict=True):
        try:
            float(cell)
        except ValueError:
            return DataError(f"{path}:{line}: {name} is {cell[:_SHOWN]!r}; expected a number")
    raise AssertionError("every cell is a number")


def _number_recording(
    path: Path, line: int, names: tuple[str, str, str], known: dict[str, tuple[int, str, str, int]]
) -> int:
    """The number of the recording of a line. Raises DataError where a name is empty or contradicts an earlier line."""
    recording, group, label = names
    found = known.get(recording)
    if found is None:
        if not (recording.strip() and group.strip() and label.strip()):
            raise DataError(f"{path}:{line}: recording, group or label is empty")
        if len(known) == MAX_GROUPS:
            raise DataError(f"{path}:{line}: more than {MAX_GROUPS:,} recordings", "is recording the right column?")
        known[recording] = (len(known), group, label, line)
        return len(known) - 1
    code, first_group, first_label, first_line = found
    if (group, label) != (first_group, first_label):
        raise DataError(
            f"{path}:{line}: recording {recording!r} has group {group!r} and label {label!r} here, "
            f"but {first_group!r} and {first_label!r} in line {first_line}",
            "one recording has one group and one label: name each labelled stretch as a recording of its own",
        )
    return code


def _build_recordings(path: Path, columns: _Columns, has_range: bool) -> list[Recording]:
    """One recording for each name, its points sorted by frame."""
    table = np.frombuffer(columns.numbers, np.float64).reshape(len(columns.lines), -1)
    lines = np.frombuffer(columns.lines, np.int64)
    codes = np.frombuffer(columns.codes, np.int64)
    frames = _check_frames(path, table[:, 0], lines)
    values = table[:, 1:]  # (points, 6), or 5 without range
    if not has_range:
        distance = np.sqrt(np.sum(np.square(values[:, :3]), axis=1, keepdims=True))
        values = np.concatenate([values, distance], axis=1)
    points = check_values(path, values, lines)
    order = np.lexsort((frames, codes))  # stable: points of a frame keep their order
    slots = _number_slots(codes[order], frames[order])
    ends = np.searchsorted(codes[order], np.arange(len(columns.recordings) + 1))
    return [
        Recording(name, group, label, frames[order[part]], slots[part], points[order[part]])
        for name, (code, group, label, _) in columns.recordings.items()
        for part in [slice(ends[code], ends[code + 1])]
    ]


def _number_slots(codes: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... within each frame of each recording; both are sorted."""
    places = np.arange(len(frames))
    starts = np.ones(len(frames), np.bool_)
    starts[1:] = (np.diff(codes) != 0) | (np.diff(frames) != 0)
    return places - np.maximum.accumulate(np.where(starts, places, 0))


def _check_frames(path: Path, frames: NDArray[np.float64], lines: NDArray[np.int64]) -> NDArray[np.int64]:
    bad = ~((np.abs(frames) < _MAX_FRAME) & (frames == np.floor(frames)))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{path}:{lines[row]}: frame is {frames[row]}; expected a whole number below {_MAX_FRAME:,}",
            "number the frames of a recording 0, 1, 2, ... (a time stamp is not a frame number)",
        )
    return frames.astype(np.int64)

"""Text logs of TI's ROS driver `ti_mmwave_rospkg` (`rostopic echo` of its radar scan): one block of lines a point.

A block holds `point_id`, `x`, `y`, `z`, `range`, `velocity` and `intensity`, one a line, among other lines that are
passed over (header, stamps, `doppler_bin`, `bearing`), and ends with `---`. A frame starts at `point_id: 0`. Frames
have no number here: one that was lost, or in which the radar saw nothing, cannot be seen and leaves no empty frame.
The driver leaves some ids out of a frame; a point keeps its id as its slot, and the slots of these ids stay empty.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.convert.notes import format_note
from pointcnn_cli.convert.windows import MAX_LINE_BYTES, VALUES, Recording, check_text_file, check_values
from pointcnn_cli.errors import DataError

_FIELDS = tuple(name.encode() for name in ("point_id", *VALUES))
_FIELD_SET = frozenset(_FIELDS)
_pick_fields: Callable[[dict[bytes, float]], tuple[float, ...]] = itemgetter(*_FIELDS)
_END = b"---"
_MAX_POINT_ID = 2**16  # the driver counts points in 16 bits
_SHOWN = 60  # characters of a malformed line in a message


@dataclass(frozen=True)
class _Blocks:
    """The points of a log as they stand in it."""

    table: NDArray[np.float64]  # (points, 7) in the order of _FIELDS
    ends: NDArray[np.int64]  # (points,) number of the line that ends the block of the point
    unfinished: bool  # whether the file stops inside a block


class _MalformedLine(ValueError):
    """What is wrong with a line; the reader adds file and line. A ValueError, as float() raises for a bad number."""


def read_logs(inputs: Sequence[Path]) -> tuple[list[Recording], list[Path], list[str]]:
    """Recordings, files and notes of logs given as .txt files and as folders, which are walked for .txt files.

    One file is one recording and one group, named by folder and file stem (by more folders where two files would share
    a name); its label is the name of its folder. Raises DataError: no .txt file in a folder, a file given twice, no
    frame in any file, a malformed line (FILE:LINE).
    """
    paths = _list_logs(inputs)
    recordings = []
    empty, unfinished, headless, rewound = [], [], [], []
    for path, name in zip(paths, _name_recordings(paths), strict=True):
        blocks = _read_blocks(path)
        recording, lead = _build_recording(path, name, blocks)
        recordings.append(recording)
        empty += [name] * (len(recording.frames) == 0)
        unfinished += [name] * blocks.unfinished
        headless += [name] * (lead > 0)
        rewound += [name] * (_count_rewinds(blocks.table[lead:, 0]) > 0)
    if len(empty) == len(paths):
        others = f" and {len(paths) - 1} other files" if len(paths) > 1 else ""
        raise DataError(
            f"{paths[0]}{others}: no frame found",
            "expected blocks of lines 'point_id: 0', 'x: 1.5', ..., each block ended by a line '---'",
        )
    notes = format_note("no frame in it", empty)
    notes += format_note("stops inside a block, which is left out", unfinished)
    notes += format_note("starts inside a frame, whose points are left out", headless)
    notes += format_note("a point_id falls or repeats without passing 0, frames may be joined", rewound)
    return recordings, paths, notes


def _list_logs(inputs: Sequence[Path]) -> list[Path]:
    """All .txt files in the order given, those of a folder sorted; hidden files (macOS leaves some) are passed over."""
    paths: list[Path] = []
    for given in inputs:
        if not given.is_dir():
            paths.append(given)
            continue
        found = sorted(p for p in given.rglob("*.txt") if p.is_file() and not p.name.startswith("."))
        if not found:
            raise DataError(f"{given}: no .txt file in this folder", "give the folder that holds the folders of logs")
        paths += found
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise DataError(f"{path}: given twice", "name each file, or the folder that holds it, once")
        seen.add(path.resolve())
    return paths


def _name_recordings(paths: Sequence[Path]) -> list[str]:
    """`folder/stem` of each file, with as many folders before it as it takes for all names to differ."""
    parts = [path.resolve().with_suffix("").parts for path in paths]
    for depth in range(2, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path.resolve()) for path in paths]


def _read_blocks(path: Path) -> _Blocks:
    """Every whole block of a log. Raises DataError with FILE:LINE for a malformed line and a block without a field."""
    check_text_file(path)
    values, ends = array("d"), array("q")
    with path.open("rb") as file:
        lines = iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")  # an endless line is not read to its end
        unfinished = _scan_lines(path, lines, values, ends)
    table = np.frombuffer(values, np.float64).reshape(-1, len(_FIELDS))
    return _Blocks(table, np.frombuffer(ends, np.int64), unfinished)


def _scan_lines(path: Path, lines: Iterable[bytes], values: "array[float]", ends: "array[int]") -> bool:
    """Append the seven numbers of each block to `values`, its last line to `ends`; True if the last block has no end.

    One plain pass without a call for the lines that are passed over: a folder of logs is some hundred megabytes.
    """
    point: dict[bytes, float] = {}
    found, line = 0, _END
    for number, line in enumerate(lines, 1):
        key, colon, value = line.partition(b":")
        try:
            if len(line) > MAX_LINE_BYTES:
                raise _MalformedLine(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            if key in _FIELD_SET:
                point[key] = float(value)
                found += 1
            elif not colon and _ends_block(line) and found:
                values.extend(_order_fields(point, found))
                ends.append(number)
                point, found = {}, 0
        except ValueError as error:
            if line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
                raise _describe_line(path, number, line, error) from None
            return True  # the last line, cut short
    return found > 0 or line.strip() not in (_END, b"")


def _ends_block(line: bytes) -> bool:
    """Whether a line without a key is the end of a block, rather than blank. Raises _MalformedLine for any other."""
    text = line.strip()
    if text not in (_END, b""):
        raise _MalformedLine("expected 'name: value' or '---'")
    return text == _END


def _order_fields(point: dict[bytes, float], found: int) -> tuple[float, ...]:
    """The numbers of a block in the order of _FIELDS. Raises _MalformedLine unless each was there exactly once."""
    if len(point) == found == len(_FIELDS):
        return _pick_fields(point)
    missing = [name.decode() for name in _FIELDS if name not in point]
    if missing:
        raise _MalformedLine(f"the block that ends here has no {', '.join(missing)}")
    raise _MalformedLine(f"the block that ends here has {found} fields, not {len(_FIELDS)}; is a '---' missing?")


def _describe_line(path: Path, number: int, line: bytes, error: ValueError) -> DataError:
    if isinstance(error, _MalformedLine):
        reason = str(error)
    else:
        reason = f"the value of {line.partition(b':')[0].decode()} is not a number"
    shown = line.strip()[:_SHOWN].decode("utf-8", "backslashreplace")
    return DataError(f"{path}:{number}: {reason}: {shown!r}", "remove this block of lines up to its '---', or the file")


def _build_recording(path: Path, name: str, blocks: _Blocks) -> tuple[Recording, int]:
    """The recording of a log, and the number of points before its first `point_id: 0`, which are left out."""
    ids = blocks.table[:, 0]
    odd = ~((ids >= 0) & (ids < _MAX_POINT_ID) & (ids == np.floor(ids)))
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(f"{path}:{blocks.ends[row]}: point_id of this point is {ids[row]}; expected 0, 1, 2, ...")
    values = check_values(path, blocks.table[:, 1:], blocks.ends)
    frames = np.cumsum(ids == 0) - 1  # -1 before the first frame starts
    lead = int(np.sum(frames < 0))
    label = path.resolve().parent.name
    slots = ids.astype(np.int64)
    return Recording(name, name, label, frames[lead:].astype(np.int64), slots[lead:], values[lead:]), lead


def _count_rewinds(ids: NDArray[np.float64]) -> int:
    """How often a point_id is not larger than the one before it although no frame starts: the 0 may have been lost."""
    return int(np.sum((np.diff(ids) <= 0) & (ids[1:] != 0)))

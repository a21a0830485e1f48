"""Rows and where they come from: `Samples` in memory, `DataIndex` (all but the channels), and the `Source` protocol.

Whoever trains, evaluates or predicts sees only a `Source`; whether its rows are files or simulated does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError

CHANNEL_NAMES: tuple[str, str, str, str] = DataConfig.model_fields["channels"].default
SIMULATED = "<simulated>"
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CHECK_BLOCK = 2**16  # values looked at together: they and their masks stay in the processor's cache

Channels = tuple[NDArray[Any], ...]
"""Four arrays, each (rows, depth, points, frames, 1)."""


@dataclass(frozen=True)
class Samples:
    """Rows in memory, ready to be written or trained on."""

    channels: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
    """Each (rows, depth, points, frames, 1)."""
    labels: NDArray[np.int64]
    """(rows,) 0..K-1"""
    classes: tuple[str, ...]
    """K names"""
    groups: NDArray[np.int64] | None = None
    """(rows,) 0..G-1"""
    group_names: tuple[str, ...] | None = None
    """G names"""
    recordings: NDArray[np.int64] | None = None
    """(rows,)"""
    start_frames: NDArray[np.int64] | None = None
    """(rows,) first frame of the window in its recording"""


@dataclass(frozen=True)
class FileSpan:
    """The rows of one file among the rows of all files."""

    path: str
    """Absolute path; `<simulated>` for simulated rows."""
    first_row: int
    """Number of its first row over all files."""
    rows: int


@dataclass(frozen=True)
class DataIndex:
    """All that is known of the rows without reading the channels."""

    files: tuple[FileSpan, ...]
    channel_names: tuple[str, str, str, str]
    channel_shapes: tuple[tuple[int, int, int], ...]
    """Four times (depth, points, frames)."""
    labels: NDArray[np.int64] | None
    """(rows,) 0..K-1; None only when labels were not required and none could be read."""
    classes: tuple[str, ...] | None
    groups: NDArray[np.int64] | None = None
    """(rows,) 0..G-1 across files"""
    group_names: tuple[str, ...] | None = None
    recordings: NDArray[np.int64] | None = None
    """(rows,) codes across files"""
    start_frames: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    """What was accepted although it is unusual, for the user to know; one sentence each."""

    @property
    def rows(self) -> int:
        """Rows of all files together."""
        return sum(span.rows for span in self.files)

    def locate(self, row: int) -> str:
        """`FILE, row R`, where R counts inside that file. Raises IndexError for a row that does not exist."""
        for span in self.files:
            if span.first_row <= row < span.first_row + span.rows:
                return f"{span.path}, row {row - span.first_row}"
        raise IndexError(f"row {row} of {self.rows}")

    def name_files(self, rows: NDArray[np.int64]) -> list[str]:
        """The file of each of these rows."""
        starts = [span.first_row for span in self.files]
        return [self.files[i].path for i in np.searchsorted(starts, rows, side="right") - 1]


class Source(Protocol):
    """Where rows come from; a context manager."""

    @property
    def index(self) -> DataIndex: ...

    @property
    def chunk_rows(self) -> int:
        """Rows that are stored as one, so that reading any of them costs as much as reading all; 1 where none are."""
        ...

    def read(self, rows: NDArray[np.int64], out: Channels | None = None) -> Channels:
        """The four channels of `rows` (strictly increasing numbers).

        Each is (len(rows), depth, points, frames, 1), in the stored dtype (byte order made native). With `out`,
        contiguous arrays of these shapes whose types may be narrower, they are read into these, which are returned.
        Raises DataError naming file, dataset, row and count for NaN or infinity.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ArraySource:
    """A source over rows in memory (simulated data)."""

    def __init__(self, samples: Samples, name: str = SIMULATED) -> None:
        self._channels = samples.channels
        self._index = DataIndex(
            files=(FileSpan(name, 0, len(samples.labels)),),
            channel_names=CHANNEL_NAMES,
            channel_shapes=tuple((c.shape[1], c.shape[2], c.shape[3]) for c in samples.channels),
            labels=samples.labels,
            classes=samples.classes,
            groups=samples.groups,
            group_names=samples.group_names,
            recordings=samples.recordings,
            start_frames=samples.start_frames,
        )

    @property
    def index(self) -> DataIndex:
        """All that is known of the rows but their channels."""
        return self._index

    @property
    def chunk_rows(self) -> int:
        """1: each row is by itself."""
        return 1

    def read(self, rows: NDArray[np.int64], out: Channels | None = None) -> Channels:
        """The four channels of `rows` (strictly increasing); see `Source.read`."""
        check_rows(rows, self._index.rows)
        whole = len(rows) == self._index.rows
        channels = tuple(channel if whole else channel[rows] for channel in self._channels)
        check_finite(channels, rows, self._index)
        return deliver(channels, out)

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PartSource:
    """Some rows of a source, numbered from 0, read when they are asked for. See `Source`."""

    def __init__(self, source: Source, rows: NDArray[np.int64]) -> None:
        """`rows` are strictly increasing numbers in `source`, which stays its owner's to close."""
        whole = source.index
        self._source = source
        self._rows = rows
        self._index = DataIndex(
            files=(FileSpan(whole.files[0].path, 0, len(rows)),),
            channel_names=whole.channel_names,
            channel_shapes=whole.channel_shapes,
            labels=None if whole.labels is None else whole.labels[rows],
            classes=whole.classes,
        )

    @property
    def index(self) -> DataIndex:
        """Shapes, labels and classes of these rows; files and groups are those of the whole source's index."""
        return self._index

    @property
    def chunk_rows(self) -> int:
        """That of the whole source."""
        return self._source.chunk_rows

    def read(self, rows: NDArray[np.int64], out: Channels | None = None) -> Channels:
        """The four channels of `rows` (strictly increasing); errors name rows as the whole source does."""
        check_rows(rows, len(self._rows))
        return self._source.read(self._rows[rows], out)

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def deliver(channels: Channels, out: Channels | None) -> Channels:
    """`channels`, copied into `out` where that is given and holds others."""
    if out is None:
        return channels
    for target, values in zip(out, channels, strict=True):
        if target is not values:
            target[...] = values
    return out


def check_rows(rows: NDArray[np.int64], total: int) -> None:
    """Raise ValueError (a bug of the caller, not of the user) unless `rows` strictly increase within 0..total-1."""
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"row numbers must be a 1-D integer array; got {rows.dtype} {rows.shape}")
    if len(rows) and (rows[0] < 0 or rows[-1] >= total or np.any(rows[1:] <= rows[:-1])):
        raise ValueError(f"row numbers must strictly increase within 0..{total - 1}")


def check_finite(channels: Sequence[NDArray[Any]], rows: NDArray[np.int64], index: DataIndex) -> None:
    """Raise DataError for NaN, infinity, or values that would become infinite as float32.

    `channels[c]` is (len(rows), depth, points, frames, 1) and holds the row numbers `rows`. Every channel is looked at
    before raising, so one message names all datasets that hold such values: count, rows, first row and place.
    """
    findings = []
    for name, values in zip(index.channel_names, channels, strict=True):
        counts = count_non_finite(values)  # (rows,)
        if not counts.any():
            continue
        first = int(np.argmax(counts > 0))
        depth, point, frame = (int(i) for i in np.argwhere(_is_bad(values[first]))[0][:3])
        value, where = values[first, depth, point, frame, 0], index.locate(int(rows[first]))
        findings.append(
            f"{where}, dataset {name!r}: {value} at depth {depth}, point {point}, frame {frame}"
            f" ({counts.sum()} values in {np.count_nonzero(counts)} rows are NaN, infinite or beyond float32)"
        )
    if findings:
        hint = "remove these rows, or set the values to 0 (an empty point slot is 0 in all four channels)"
        raise DataError("\n".join(findings), hint)


def count_non_finite(values: NDArray[Any]) -> NDArray[np.int64]:
    """How many values of each row are not finite once they are float32 (rows,); none for integers."""
    counts = np.zeros(len(values), np.int64)
    if values.dtype.kind != "f" or values.size == 0:
        return counts
    step = max(1, _CHECK_BLOCK // values[0].size)
    for start in range(0, len(values), step):
        bad = _is_bad(values[start : start + step])
        if bad.any():
            counts[start : start + step] = np.count_nonzero(bad.reshape(len(bad), -1), axis=1)
    return counts


def _is_bad(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of NaN, infinity and what float32 cannot hold."""
    bad: NDArray[np.bool_]
    if values.dtype == np.float16:  # its exponent bits all set; several times as fast as isfinite on this type
        bad = (values.view(np.uint16) & 0x7C00) == 0x7C00
    elif values.dtype.itemsize <= 4:
        bad = ~np.isfinite(values)
    else:
        bad = ~(np.abs(values) <= _FLOAT32_MAX)  # the comparison is false for NaN too
    return bad

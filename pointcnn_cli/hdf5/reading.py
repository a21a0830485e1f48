"""Opening HDF5 files as one source of rows (headers and labels only), and reading their channels in blocks."""

from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.chunks import check_unpacked
from pointcnn_cli.hdf5.columns import Columns, OpenFile, combine_files, open_and_check
from pointcnn_cli.hdf5.files import expand_paths
from pointcnn_cli.hdf5.packed import LeftToHdf5Error, PackedRows, UnpackError
from pointcnn_cli.hdf5.plain import PlainRows
from pointcnn_cli.hdf5.probe import TRIED_BYTES, check_survives, limited_memory
from pointcnn_cli.hdf5.problems import Problem, at, raise_problems
from pointcnn_cli.hdf5.samples import Channels, DataIndex, FileSpan, check_finite, check_rows, deliver

_SPAN_BYTES = 32 * 2**20
"""Most bytes read at once beyond what is asked for: rows between the wanted ones, until they are dropped."""
_UNCHUNKED_UNIT_BYTES = 256 * 2**10
"""In unchunked data wanted rows closer than this are read with what lies between: cheaper than another call."""


def open_hdf5(
    data: DataConfig, *, labels_required: bool = True, expected_classes: tuple[str, ...] | None = None
) -> "Hdf5Source":
    """Open the files of `data.path` and check headers and labels; no channel value is read.

    `expected_classes` (the classes of a trained model): labels are mapped to these by name. Without `labels_required`
    (predict), labels, groups and recordings that are absent or unusable are None, and a note says why.
    Raises DataError with all problems of all files together.
    """
    if data.path is None:
        raise ValueError("data.path is not set: simulated data are not read from a file")
    paths = expand_paths(data.path)
    check_survives(paths, lambda path: _try_file(path, data, labels_required))
    with limited_memory(paths):
        opened = [open_and_check(path, data, labels_required) for path in paths]
    try:
        problems = [problem for file in opened for problem in file.problems] or _check_equal_shapes(opened)
        raise_problems(problems)
        columns = combine_files(opened, data, labels_required, expected_classes)
    except BaseException:
        for file in opened:
            file.close()
        raise
    return Hdf5Source(opened, data, columns)


def _try_file(path: str, data: DataConfig, labels_required: bool) -> None:
    """What this process is about to do with a file, for the child that does it first."""
    file = open_and_check(path, data, labels_required)
    try_rows(file)
    file.close()


def try_rows(file: OpenFile) -> None:
    """Read every row of a file that is small enough for that to take no time worth speaking of."""
    if sum(channel.size * channel.dtype.itemsize for channel in file.channels) > TRIED_BYTES:
        return
    for channel in file.channels:
        values = np.empty((*channel.shape[:4], 1), _native(channel.dtype))
        read_rows(channel, np.arange(len(channel)), values, file.path)


def _check_equal_shapes(files: list[OpenFile]) -> list[Problem]:
    """Whether all files have the depth, points and frames of the first one, channel by channel."""
    problems = []
    for file in files[1:]:
        for channel, reference in zip(file.channels, files[0].channels, strict=True):
            found, wanted = channel.shape[1:4], reference.shape[1:4]
            if found != wanted:
                what = f"(depth, points, frames) is {found}, but {wanted} in {files[0].path}"
                problems.append(
                    Problem(at(file.path, channel.name.lstrip("/")), what, "files used together have one layout")
                )
    return problems


class Hdf5Source:
    """Rows of one or several HDF5 files, which stay open until `close`. See `Source`."""

    def __init__(self, files: list[OpenFile], data: DataConfig, columns: Columns) -> None:
        self._files = files
        spans, first = [], 0
        for file in files:
            spans.append(FileSpan(file.path, first, file.rows))
            first += file.rows
        self._index = DataIndex(
            files=tuple(spans),
            channel_names=data.channels,
            channel_shapes=tuple((c.shape[1], c.shape[2], c.shape[3]) for c in files[0].channels),
            labels=columns.labels,
            classes=columns.classes,
            groups=columns.groups,
            group_names=columns.group_names,
            recordings=columns.recordings,
            start_frames=columns.start_frames,
            notes=columns.notes,
        )
        self._whole: list[list[set[int]]] = [[set() for _ in file.channels] for file in files]  # see `check_unpacked`
        self._dtypes = [np.result_type(*(_native(f.channels[c].dtype) for f in files)) for c in range(4)]

    @property
    def index(self) -> DataIndex:
        """All that is known of the rows but their channels."""
        return self._index

    @property
    def chunk_rows(self) -> int:
        """Rows of the largest chunk of any channel and file; 1 where none is chunked."""
        return max(channel.chunks[0] if channel.chunks else 1 for file in self._files for channel in file.channels)

    def read(self, rows: NDArray[np.int64], out: Channels | None = None) -> Channels:
        """The four channels of `rows` (strictly increasing), each (len(rows), depth, points, frames, 1), as stored, or
        in `out`; see `Source.read`.

        Files of different element types give the one that holds both. Memory beyond the result is bounded by two chunks
        or 32 MiB, whichever is more, and where `out` is of another type by the rows as stored. Raises DataError naming
        file, dataset, row and count for NaN or infinity.
        """
        check_rows(rows, self._index.rows)
        channels = tuple(self._read_channel(c, rows, None if out is None else out[c]) for c in range(4))
        check_finite(channels, rows, self._index)
        return deliver(channels, out)

    def read_unchecked(self, rows: NDArray[np.int64]) -> Channels:
        """Like `read`, but NaN and infinity pass: for looking at a file."""
        check_rows(rows, self._index.rows)
        return tuple(self._read_channel(c, rows) for c in range(4))

    def _read_channel(self, channel: int, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """One channel of `rows` from all files, (len(rows), depth, points, frames, 1), in `out` where its type fits.
        Raises ValueError (a bug of the caller) for an `out` of another shape, or not contiguous."""
        shape, dtype = (len(rows), *self._index.channel_shapes[channel], 1), self._dtypes[channel]
        if out is not None and not (out.shape == shape and out.flags.c_contiguous):
            raise ValueError(f"rows are read into contiguous arrays {shape}; got {out.shape}, strides {out.strides}")
        values = np.empty(shape, dtype) if out is None or out.dtype != dtype else out
        for file, span, whole in zip(self._files, self._index.files, self._whole, strict=True):
            start, stop = np.searchsorted(rows, [span.first_row, span.first_row + span.rows])
            if start < stop:
                wanted, target = rows[start:stop] - span.first_row, values[start:stop]
                read_rows(file.channels[channel], wanted, target, file.path, whole[channel])
        return values

    def close(self) -> None:
        """Close all files; reading is then an error."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_rows(
    dataset: h5py.Dataset, rows: NDArray[np.int64], out: NDArray[Any], path: str, whole: set[int] | None = None
) -> None:
    """Read `rows` (strictly increasing, of this dataset) into `out` (len(rows), depth, points, frames, 1).

    `whole`, kept from one call to the next, spares chunks that HDF5 unpacks a second look: see `check_unpacked`.
    No chunk is unpacked twice, and only those that hold a wanted row.
    """
    target = out if dataset.ndim == 5 else out[..., 0]
    where = at(path, dataset.name.lstrip("/"))
    try:
        if not _read_past_hdf5(dataset, rows, target):
            _read_by_hdf5(dataset, rows, target, where, whole)
    except (OSError, RuntimeError, UnpackError) as error:
        raise DataError(
            f"{where}: rows {rows[0]} to {rows[-1]} cannot be read: {' '.join(str(error).split())}",
            "the file is damaged or its disk fails: copy, download or write it again",
        ) from error


def _read_past_hdf5(dataset: h5py.Dataset, rows: NDArray[np.int64], target: NDArray[Any]) -> bool:
    """Read rows that are stored in a way we can read faster than HDF5; whether they are."""
    own = PlainRows.find(dataset.id, target.dtype) or PackedRows.find(dataset.id)
    if own is None:
        return False
    try:
        own.read(rows, target)
    except LeftToHdf5Error:
        return False
    return True


def _read_by_hdf5(
    dataset: h5py.Dataset, rows: NDArray[np.int64], target: NDArray[Any], where: str, whole: set[int] | None
) -> None:
    """Read spans of rows as slices and pick those wanted: h5py's own indexing by a list of rows is slow beyond about a
    thousand."""
    for begin, end in _spans(dataset, rows):
        wanted = rows[begin:end]
        first, last = int(wanted[0]), int(wanted[-1]) + 1
        raise_problems(check_unpacked(dataset.id, first, last, where, whole))
        if last - first == len(wanted):
            dataset.read_direct(target, np.s_[first:last], np.s_[begin:end])
        else:
            target[begin:end] = dataset[first:last][wanted - first]


def _spans(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut `rows` into parts (begin, end), each within neighbouring chunks and within the memory bound."""
    row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
    unit = dataset.chunks[0] if dataset.chunks else max(1, _UNCHUNKED_UNIT_BYTES // row_bytes)
    most = max(1, _SPAN_BYTES // (row_bytes * unit))  # units in one span
    units = rows // unit
    apart = np.diff(units) > 1  # an untouched chunk lies between
    far = np.diff(units // most) > 0
    cuts = [0, *(np.flatnonzero(apart | far) + 1).tolist(), len(rows)]
    return list(pairwise(cuts))


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")

"""Rows that are not held in memory: the plan of a stream, its order of rows, and windows of rows read ahead.

An epoch's order follows from (seed, epoch), the labels and the plan, which the run's manifest keeps. Rows that lie
together (a block) are read together; blocks from all over the files make a window, and rows are shuffled within it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import ConfigError
from pointcnn_cli.hdf5.samples import Source

BLOCK_BYTES = 2**20
"""Rows of about this size are read together where chunks are smaller: shorter reads cost more than what they bring."""
READ_BYTES = 16 * 2**20
"""About as many bytes are read by one call, however many blocks that is; a stop waits for no more than one call."""
MOST_READ_SHARE = 8
"""Nor does one call read more than the window by this: rows stored as another type than is held lie beside the windows
as they were read."""
FEWEST_BLOCKS = 32
"""Blocks that a window is drawn from, at least: neighbouring rows are alike, often windows of one recording."""
BLOCKS_PER_CLASS = 4
"""And of each class, where rows are sorted by label: blocks are dealt out class by class, so that with 9 classes a
window of 36 blocks has 4 of each; uneven sizes of blocks then cost less than 1 % of the entropy of its labels."""
BATCHES_HELD = 4
"""One trains, one waits, one is put together, and TensorFlow may be copying one."""
POLL_SECONDS = 0.2
"""How long a wait for rows lets a request to stop wait."""
SMALLEST_WINDOW = 2  # batches; with one, a window would be one batch of neighbours


@dataclass(frozen=True)
class Plan:
    """What decides the order of a stream's rows, beside seed, epoch and labels. Kept in the run's manifest."""

    chunk_rows: int
    """Rows that the files store as one: reading any of them costs as much as reading all."""
    block_rows: int
    """Rows read together: several chunks, or a part of one."""
    window_rows: int
    """Most rows that are held and shuffled together."""
    file_rows: tuple[int, ...]
    """Rows of each file when the run began; chunks are counted from where a file begins."""

    @classmethod
    def restore(cls, stored: dict[str, Any] | None) -> "Plan | None":
        """From what `dataclasses.asdict` made and JSON brought back; None stays None."""
        return None if stored is None else cls(**{**stored, "file_rows": tuple(stored["file_rows"])})

    @property
    def unpackings(self) -> int:
        """How often each chunk is read in an epoch, at most."""
        return -(-self.chunk_rows // self.block_rows)

    @property
    def read_rows(self) -> int:
        """Most rows that one call reads, if no block is larger."""
        return max(self.block_rows, self.window_rows // MOST_READ_SHARE)

    def count_held_rows(self, batch_size: int) -> int:
        """Most training rows in memory: one window trains, one is read, with what one call returns and some batches."""
        return 2 * self.window_rows + 2 * (self.read_rows + self.block_rows) + BATCHES_HELD * batch_size


def plan_stream(source: Source, rows: int, row_bytes: int, batch_size: int, limit: int) -> Plan:
    """The largest windows of `rows` training rows of `row_bytes` each that stay within `limit` bytes.

    Raises ConfigError where not even windows of two batches do.
    """
    classes = len(source.index.classes or ())
    file_rows = tuple(span.rows for span in source.index.files)
    chunk = min(source.chunk_rows, max(file_rows))
    wanted = max(BLOCK_BYTES // row_bytes // chunk, 1) * chunk
    blocks = max(FEWEST_BLOCKS, BLOCKS_PER_CLASS * classes)

    def plan(window: int) -> Plan:
        block = max(1, min(wanted, window // blocks))
        # Whole chunks, or equal parts of one.
        block = block // chunk * chunk if block >= chunk else -(-chunk // -(-chunk // block))
        return Plan(chunk, block, window, file_rows)

    def held(window: int) -> int:
        return plan(window).count_held_rows(batch_size) * row_bytes

    smallest = SMALLEST_WINDOW * batch_size
    if held(smallest) > limit:
        raise ConfigError(
            f"data.memory_limit of {limit} bytes is too small: windows of {SMALLEST_WINDOW} batches of {batch_size} "
            f"rows need {held(smallest)} bytes",
            f"set data.memory_limit to {held(smallest)} or more, or a smaller train.batch_size",
        )
    largest = max(smallest, rows)
    low, high = smallest, largest
    while low < high:  # the largest that is within the limit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if held(middle) <= limit else (low, middle - 1)
    return plan(low)


def find_blocks(rows: NDArray[np.int64], plan: Plan) -> NDArray[np.int64]:
    """The block, 0, 1, ..., of each of `rows` (increasing numbers in the data), shape (rows,)."""
    starts = np.cumsum((0, *plan.file_rows[:-1]))
    file = np.searchsorted(starts, rows, side="right") - 1
    inner = rows - starts[file]
    unit = max(plan.chunk_rows, plan.block_rows)
    keys = np.stack([file, inner // unit, inner % unit // plan.block_rows])
    changes = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return np.concatenate([[0], np.cumsum(changes)])


def order_windows(
    blocks: NDArray[np.int64], labels: NDArray[np.int64], plan: Plan, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """The places of the training rows, in the order of this epoch, window by window; each place once.

    `blocks` (of `find_blocks`) and `labels` are those of the training rows. Blocks are sorted by the label of the row
    in their middle, in random order within it, and dealt out to the windows like cards: files that are sorted by label
    give windows with all of them.
    """
    random = np.random.default_rng([seed, epoch])
    edges = np.flatnonzero(np.diff(blocks, prepend=-1, append=blocks[-1] + 1))
    count = len(edges) - 1
    shuffled = random.permutation(count)
    middles = labels[(edges[:-1] + edges[1:]) // 2]
    dealt = shuffled[np.argsort(middles[shuffled], kind="stable")]
    windows = -(-count // max(1, plan.window_rows // plan.block_rows))
    return [
        random.permutation(np.concatenate([np.arange(edges[b], edges[b + 1]) for b in dealt[window::windows]]))
        for window in random.permutation(windows)
    ]


class Stream:
    """The training rows of epoch after epoch, in windows; the next window is read while one is taken from.

    Two windows are allocated, once. Not to be used by two threads at a time.
    """

    def __init__(
        self,
        part: Source,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        dtypes: list[str],
        plan: Plan,
        seed: int,
        epochs: int,
        share: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda order: order,
    ) -> None:
        """`part` has the training rows and nothing else; `rows` are their numbers in the data, `labels` their labels.
        Channels are held as `dtypes`. `epochs`: the last one. Of each epoch's order those rows are read that `share`
        takes of it, in their order."""
        self._part = part
        self._labels = labels
        self._plan = plan
        self._seed = seed
        self._epochs = epochs
        self._share = share
        self._blocks = find_blocks(rows, plan)
        held = min(plan.window_rows, len(rows))
        shapes = part.index.channel_shapes
        self._held, self._spare = (
            tuple(np.empty((held, *shape, 1), dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
            for _ in range(2)
        )
        self._orders: dict[int, list[NDArray[np.int64]]] = {}  # of the epoch that trains and the one after it
        self._held_key: tuple[int, int] | None = None
        self._next_key: tuple[int, int] | None = None
        self._next: futures.Future[None] | None = None
        self._waiting = False
        self._closed = threading.Event()
        self._reader = futures.ThreadPoolExecutor(1, "rows")

    def order_rows(self, epoch: int) -> NDArray[np.int64]:
        """The order of the training rows in this epoch: their places in the part, (rows,)."""
        return np.concatenate(self._order(epoch))

    def prepare(self, epoch: int, check: Callable[[], None]) -> None:
        """Hold the first window of this epoch. While it is read, `check` is called again and again, and may raise."""
        self._advance(epoch, 0, check)

    def wait(self, check: Callable[[], None]) -> None:
        """Return when no other thread waits for rows; `check` as in `prepare`."""
        while self._waiting:
            time.sleep(POLL_SECONDS)
            check()

    def iterate_batches(
        self, epoch: int, size: int, check: Callable[[], None] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[Any], ...]]]:
        """Places (batch,) and channels, each (batch, depth, points, frames, 1), of all batches of this epoch; the last
        may be smaller than `size`. `check` as in `prepare`.

        Raises DataError, as reading does.
        """
        places, parts = np.zeros(0, np.int64), []
        for window, order in enumerate(self._order(epoch)):
            self._advance(epoch, window, check)
            where = np.argsort(np.argsort(order))  # rows of a window are held in the order in which they were read
            start = 0
            while start < len(order):
                stop = min(start + size - len(places), len(order))
                parts.append(tuple(channel[where[start:stop]] for channel in self._held))  # copies
                places, start = np.concatenate([places, order[start:stop]]), stop
                if len(places) == size:
                    yield places, _join(parts)
                    places, parts = places[:0], []
        if len(places):
            yield places, _join(parts)

    def close(self) -> None:
        """Give up what is being read, and the windows."""
        self._closed.set()
        self._reader.shutdown(cancel_futures=True)
        self._held = self._spare = ()

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        if epoch not in self._orders:
            windows = order_windows(self._blocks, self._labels, self._plan, self._seed, epoch)
            order = _share_windows(windows, self._share)
            self._orders = {e: windows for e, windows in self._orders.items() if e == epoch - 1} | {epoch: order}
        return self._orders[epoch]

    def _advance(self, epoch: int, window: int, check: Callable[[], None] | None = None) -> None:
        """Hold this window, and have the one after it read."""
        if self._held_key == (epoch, window):
            return
        if self._next is None or self._next_key != (epoch, window):
            self._next = self._read_ahead(epoch, window)
        while check is not None and not self._next.done():
            futures.wait([self._next], POLL_SECONDS)
            check()
        self._waiting = True
        try:
            self._next.result()
        finally:
            self._waiting = False
        self._held, self._spare, self._held_key = self._spare, self._held, (epoch, window)
        if window + 1 < len(self._order(epoch)):
            self._next = self._read_ahead(epoch, window + 1)
        elif epoch < self._epochs:
            self._next = self._read_ahead(epoch + 1, 0)

    def _read_ahead(self, epoch: int, window: int) -> "futures.Future[None]":
        self._next_key = (epoch, window)
        return self._reader.submit(self._fill, np.sort(self._order(epoch)[window]), self._spare)

    def _fill(self, places: NDArray[np.int64], target: tuple[NDArray[Any], ...]) -> None:
        """Read the rows at `places` (increasing) into the first rows of `target`; in the reader's thread."""
        bytes_a_row = sum(channel[:1].nbytes for channel in target)
        most = max(self._plan.block_rows, min(self._plan.read_rows, READ_BYTES // bytes_a_row))
        for start, stop in _cut_at_blocks(self._blocks[places], most):
            if self._closed.is_set():
                raise futures.CancelledError
            self._part.read(places[start:stop], tuple(channel[start:stop] for channel in target))


def _share_windows(
    windows: list[NDArray[np.int64]], share: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """What `share` takes of the windows as one order, window by window; without those of which it takes nothing."""
    ends = np.cumsum([len(window) for window in windows])
    kept = share(np.arange(ends[-1]))
    cuts = np.searchsorted(kept, ends[:-1])
    return [part for part in np.split(np.concatenate(windows)[kept], cuts) if len(part)]


def _join(parts: list[tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(channel) for channel in zip(*parts, strict=True))


def _cut_at_blocks(blocks: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Cut rows of these blocks into stretches (start, stop) of whole blocks with at most `most` rows, if no block is
    larger."""
    edges = np.flatnonzero(np.diff(blocks, prepend=-1, append=blocks[-1] + 1)).tolist()
    start = 0
    for edge, following in zip(edges[1:], [*edges[2:], None], strict=True):
        if following is None or following - start > most:
            yield start, edge
            start = edge

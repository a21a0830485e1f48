"""Event files for TensorBoard: one scalar for each column of history.csv, with the epoch as its step.

Numbers are rounded to float32: of others TensorBoard's reader (tensorboard-data-server 0.7) shows nothing. A
training that goes on after an interruption writes a new file with all epochs and removes the old one: TensorBoard
then shows each epoch once.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import MissingDependencyError
from pointcnn_cli.files import write_whole
from pointcnn_cli.history import HistoryRow
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.tracking.curves import CURVES

EVENTS_PREFIX, OUR_SUFFIX = "events.out.tfevents.", ".pointcnn"  # TensorBoard knows them by the first
FILE_VERSION = "brain.Event:2"  # what every event file begins with


class TensorBoardCurves:
    """The event file of one training; it grows by a record an epoch, for TensorBoard to read while it does."""

    name = "TensorBoard"

    def __init__(self) -> None:
        """Raises MissingDependencyError without the package tensorboard, which TensorFlow does not bring."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.scalar import metadata
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise MissingDependencyError(
                f"track.tensorboard needs the package tensorboard ({error})", "pip install tensorboard"
            ) from None
        self._events, self._summaries, self._scalars = event_pb2, summary_pb2, metadata
        self._write_records = RecordWriter
        self._folder = Path()
        self._stream: BinaryIO | None = None
        self._written = 0

    def start(self, run: RunDir, config: Config) -> None:
        """Curves go into the run's own folder."""
        self._folder = run.tensorboard

    def update(self, history: Sequence[HistoryRow]) -> None:
        """Append what is not in the file yet. Raises OSError and OutputError; then the next call begins a new file."""
        try:
            if self._stream is None:
                self._stream = self._begin()
            records = self._write_records(self._stream)
            for row in history[self._written :]:
                records.write(self._encode(row))
            self._stream.flush()
            self._written = len(history)
        except BaseException:
            self._close()
            raise

    def finish(self, status: str) -> None:
        """Close the file."""
        self._close()

    def _begin(self) -> BinaryIO:
        """A new event file, instead of any that was written here before."""
        self._folder.mkdir(exist_ok=True)
        before = list(self._folder.glob(f"{EVENTS_PREFIX}*{OUR_SUFFIX}"))
        path = (
            self._folder / f"{EVENTS_PREFIX}{time.time_ns() // 1000}{OUR_SUFFIX}"
        )  # TensorBoard reads them in this order
        write_whole(path, b"")
        for old in before:
            old.unlink()
        stream = open(path, "ab")  # noqa: SIM115
        self._write_records(stream).write(
            self._events.Event(wall_time=time.time(), file_version=FILE_VERSION).SerializeToString()
        )
        return stream

    def _close(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # the disk is full, and was told of
                self._stream.close()
        self._stream, self._written = None, 0

    def _encode(self, row: HistoryRow) -> bytes:
        """One epoch as an event."""
        values = [self._build_value(column, row[column]) for column in CURVES]
        event = self._events.Event(
            wall_time=time.time(), step=int(row["epoch"]), summary=self._summaries.Summary(value=values)
        )
        return bytes(event.SerializeToString())

    def _build_value(self, column: str, value: float) -> Any:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_FLOAT

        return self._summaries.Summary.Value(
            tag=column,
            tensor=TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(), float_val=[float(value)]),
            metadata=self._scalars.create_summary_metadata(display_name="", description=""),
        )

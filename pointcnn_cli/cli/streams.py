"""stdin, stdout and stderr as a process may find them: closed, full, read by nobody, or not in UTF-8."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO, cast

from pointcnn_cli.errors import ConfigError, OutputError

STDOUT = 1


def prepare_streams() -> None:
    """Make the three streams safe to use, whatever they are. To be called once, before any file is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file opened, a checkpoint perhaps, would have this number, and what a library writes to
            # stderr would go into it.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is not None:
        cast(Any, sys.stdout).reconfigure(errors="backslashreplace")
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, LogStream(sys.stderr))


class LogStream:
    """A text stream that drops what cannot be written: the terminal is gone, the pipe is closed, the disk is full.

    Progress is not worth losing a training over.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop all from now on."""
        try:
            return self._stream.write(text)
        except OSError:
            discard(self._stream.fileno())
            return len(text)

    def flush(self) -> None:
        """Flush, or drop all from now on."""
        try:
            self._stream.flush()
        except OSError:
            discard(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def discard(descriptor: int) -> None:
    """Send what is still written to this descriptor nowhere; Python would else fail once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextlib.contextmanager
def writing_result() -> Iterator[None]:
    """Around all that writes to stdout. Raises OutputError when that fails, but for a pipe that was closed early."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(STDOUT)
        raise OutputError(
            f"standard output: cannot be written ({error.strerror})", "free some space, or send it to another place"
        ) from error


def print_bytes(data: bytes) -> None:
    """`data` on stdout, as it is; nothing where stdout is closed. Raises OutputError."""
    if sys.stdout is not None:
        with writing_result():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def open_stdout() -> BinaryIO:
    """Stdout for bytes. Raises OutputError where it is closed."""
    if sys.stdout is None:
        raise OutputError("standard output is closed", "name a file with --output")
    return sys.stdout.buffer


def read_stdin() -> bytes:
    """A config from stdin, given as `-`: at most one byte more than a config may have. Raises ConfigError where stdin
    is closed."""
    if sys.stdin is None:
        raise ConfigError("standard input is closed, and the config was to come from it", "name a file instead of -")
    from pointcnn_cli.config.yaml_source import MAX_BYTES  # not for --help

    return sys.stdin.buffer.read(MAX_BYTES + 1)

"""A first look at data files in a child process: what crashes the HDF5 library there ends in a message here.

The child is a fork, not a new interpreter: it takes 5 ms, where one that imports h5py takes half a second, and it runs
the very code that this process runs next. It touches nothing but HDF5, zlib-ng and NumPy, all ready for a fork.
"""

import contextlib
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from pointcnn_cli.errors import DataError

TRIED_BYTES = 32 * 2**20
"""Most bytes of channels that are read in the child too; of larger files it looks at headers, labels and chunk indexes,
where nearly everything stands that can mislead HDF5. Reading this many takes about 0.1 s."""
MEMORY_BYTES = 2**29
"""What the child may take beyond what this process has, for an empty file."""
MEMORY_RATIO = 32
"""And for each byte of the files: packed labels unfold tenfold, and some copies of them are made."""
CPU_SECONDS = 1
"""Processor time that the child may take for an empty file; a sound one of a few rows takes 0.01 to 0.05 s."""
BYTES_A_SECOND = 2**20
FILES_A_SECOND = 10
"""And for each byte and each file; sound ones are read at ten to a hundred times these speeds."""
PATIENCE = 20
"""Times the processor time that the child may take by the clock: the disk may be slow."""

_OUT_OF_MEMORY, _DONE = 77, 0  # exit codes of the child
_THREADED = ("tensorflow", "jax", "torch")  # with these imported other threads run, and a fork is not safe
_HINT = (
    "the file is damaged or made to do harm: write it again from its source; to look into it, use other tools "
    "(h5dump, h5repack), on a machine where a crash does no harm"
)


def check_survives(paths: Sequence[str], look: Callable[[str], object], library: str = "the HDF5 library") -> None:
    """Run `look(path)` on each of `paths` in a child process. Raises DataError naming the file on which it crashed,
    took too much memory or too long.

    An exception of `look` is no matter: this process meets it again. Does nothing in a process that has threads:
    commands open their data before they import TensorFlow. What `look` does not do may still crash this process.
    """
    if _has_threads():
        return
    file_bytes = _count_bytes(paths)
    seconds = CPU_SECONDS + len(paths) // FILES_A_SECOND + file_bytes // BYTES_A_SECOND
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _look_in_child(paths, look, writing, seconds, file_bytes)
    os.close(writing)
    try:
        done = _follow(reading, child, seconds * PATIENCE)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    if status == _OUT_OF_MEMORY or status < 0:
        raise DataError(f"{paths[min(done, len(paths) - 1)]}: {_describe_end(status, library)}", _HINT)


@contextlib.contextmanager
def limited_memory(paths: Sequence[str]) -> Iterator[None]:
    """Within the block this process may take no more memory than the child of `check_survives`.

    HDF5 turns a refused allocation into an ordinary error, with which the child ends in peace; without the limit this
    process would then take what was refused there. Raises DataError where memory is short.
    """
    if _has_threads():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    _limit_memory(_count_bytes(paths))
    try:
        yield
    except MemoryError as error:
        raise DataError(f"{', '.join(paths[:3])}: {_describe_end(_OUT_OF_MEMORY, '')}", _HINT) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _has_threads() -> bool:
    return threading.active_count() > 1 or any(name in sys.modules for name in _THREADED)


def _count_bytes(paths: Sequence[str]) -> int:
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))


def _follow(pipe: int, child: int, seconds: int) -> int:
    """How many files the child got done, once it has ended. It is killed when one takes more than `seconds`."""
    done = 0
    while select.select([pipe], [], [], seconds)[0]:
        text = os.read(pipe, 4096)
        if not text:
            return done
        done += len(text)
    os.kill(child, signal.SIGKILL)
    return done


def _look_in_child(
    paths: Sequence[str], look: Callable[[str], object], pipe: int, seconds: int, file_bytes: int
) -> NoReturn:
    """The life of the child. A line goes into the pipe when a file is done."""
    status = _DONE
    try:
        _confine(seconds, file_bytes)
        for path in paths:
            with contextlib.suppress(DataError, OSError, RuntimeError, KeyError, ValueError, TypeError):
                look(path)
            os.write(pipe, b"\n")
    except MemoryError:
        status = _OUT_OF_MEMORY
    finally:
        os._exit(status)  # no cleaning up: files, buffers and handlers are those of the parent


def _confine(seconds: int, file_bytes: int) -> None:
    """Limit the memory and processor time of this process, and make it die of a crash quietly."""
    for name in ("SEGV", "BUS", "ABRT", "FPE", "ILL", "TERM", "HUP"):
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_DFL)  # no traceback by faulthandler, no state to save
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent decides
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, seconds)
    _limit_memory(file_bytes)


def _limit_memory(file_bytes: int) -> None:
    room = MEMORY_BYTES + MEMORY_RATIO * file_bytes
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as file:  # Linux; elsewhere there is no limit
        _lower(resource.RLIMIT_AS, int(file.read().split()[0]) * resource.getpagesize() + room)


def _lower(limit: int, value: int) -> None:
    soft, hard = resource.getrlimit(limit)
    values = [value, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)]
    resource.setrlimit(limit, (min(values), hard))


def _describe_end(status: int, library: str) -> str:
    """Why the child did not come to its end."""
    if status == _OUT_OF_MEMORY:
        return "reading its structure takes far more memory than a file of this size can need"
    if status == -signal.SIGXCPU:
        return f"{library} does not come to an end with it"
    if status == -signal.SIGKILL:
        return "the process that tried it took too long, or was killed for the memory that it took"
    return f"{library} crashed on it (signal {signal.Signals(-status).name})"

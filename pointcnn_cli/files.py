"""Writing files and folders whole or not at all: a temporary name in the same folder, sync, rename, sync the folder.
And reading what a stranger may have put in a file's place."""

import contextlib
import errno
import fcntl
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from pointcnn_cli.errors import OutputError

TEMPORARY_PREFIX = ".tmp-"
_DRAFT_NAME = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{16}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # not known here, or a folder that may not be read


def check_target(path: Path, force: bool) -> Path:
    """The file to write, through links. Raises OutputError for what can be known before any work."""
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path}: exists already", "choose another name, or --force to replace it")
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():
        raise OutputError(f"{path}: is not a regular file, and is not replaced", "name a file to write")
    if not os.path.isdir(target.parent):  # unlike Path.is_dir, false for a path that is too long
        raise OutputError(f"{path}: there is no folder {target.parent}", f"mkdir -p '{target.parent}'")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        hint = "choose a folder that you may write to"
        raise OutputError(f"{path}: no permission to write in {target.parent}", hint)
    return target


def check_new(target: Path) -> Path:
    """The absolute path of a folder to be made. Raises OutputError for what can be known before any work."""
    target = target.absolute()
    if os.path.lexists(target):
        raise OutputError(f"{target}: exists already", "a run is never overwritten; choose another --output")
    parent = next(folder for folder in target.parents if os.path.exists(folder))  # false for a path that is too long
    if not parent.is_dir():
        raise OutputError(f"{target}: cannot be made (Not a directory: {parent})", "choose another --output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: no permission to make folders in {parent}", "choose another --output")
    return target


@contextlib.contextmanager
def replacing(target: Path, *, force: bool = True, size: int | None = None) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes `target` when the block ends without an exception; else nothing is left
    of it.

    New files get the permissions that the umask leaves. Without `force` a target that exists by then is refused.
    Raises OutputError when writing fails (disk full, no permission); it names the `size` in bytes where that is known.
    """
    temporary = _name_temporary(target.parent)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if not force and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "appeared while writing")
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        _remove(temporary)
        raise output_error(target, error, size) from error
    except BaseException:
        _remove(temporary)
        raise


def write_whole(target: Path, data: bytes | memoryview, *, force: bool = True) -> None:
    """Write `data` as the file `target`. Raises OutputError."""
    with replacing(target, force=force, size=len(memoryview(data).cast("B"))) as stream:
        stream.write(data)


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError; ValueError for a larger file, and for
    anything else: a pipe would be waited for without end, a device be read without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that nobody writes to opens too
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"larger than {most} bytes")
    return data


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last; some file systems cannot, and the file is whole all the same.

    Raises OSError when the disk fails or is full.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def lock_folder(folder: Path) -> int:
    """Lock `folder` until the descriptor that this returns is closed, or its process ends.

    Raises OSError: BlockingIOError where another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock_file(path: Path, *, wait: bool = False) -> int:
    """Lock the file `path`, made if need be, until the descriptor that this returns is closed, or its process ends.

    Unlike a folder, a file is also locked for other machines that share it by NFS. Raises OSError: BlockingIOError
    where another process has the lock and `wait` is false.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_draft(parent: Path, names: Collection[str]) -> tuple[Path, int]:
    """A new folder under a temporary name in `parent`, and the lock on it, which goes with it when it is renamed.

    Drafts in `parent` whose makers were killed are removed: those that are ours by name, owner and content, and that
    nobody has locked. `names` are what a draft may hold, besides temporary files. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_drafts(parent, names)
    while True:
        draft = _name_temporary(parent)
        draft.mkdir()
        try:
            lock = lock_folder(draft)
        except (FileNotFoundError, BlockingIOError):
            continue  # until it is locked, another process may take it for abandoned
        except BaseException:
            draft.rmdir()
            raise
        if draft.is_dir():
            return draft, lock
        os.close(lock)


def create_folder(target: Path, names: Collection[str], fill: Callable[[Path], None]) -> int:
    """Make the folder `target`, which appears by one rename, with what `fill` puts into it, and return the lock on it.

    `names` are what `fill` makes. What killed processes left beside it half made is removed. Raises OutputError when
    `target` exists or cannot be made; then nothing is left of it.
    """
    try:
        draft, lock = make_draft(target.parent, names)
    except OSError as error:
        raise output_error(target, error) from error
    try:
        fill(draft)
        os.rename(draft, target)
        try:
            sync_folder(target.parent)
        except OSError:
            os.rename(target, draft)
            raise
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(lock)
        if isinstance(error, OSError):
            raise output_error(target, error) from error
        if isinstance(error, OutputError):
            raise OutputError(error.message.replace(str(draft), str(target)), error.hint) from error
        raise
    return lock


def sweep(folder: Path) -> None:
    """Remove the half-written files that killed processes left in `folder`; only for who has the lock on it.

    What is no file is not ours, and what cannot be removed does no harm.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(TEMPORARY_PREFIX):
                _remove(folder / name)


def output_error(target: Path, error: OSError, size: int | None = None) -> OutputError:
    """The failure in words, with the space that is needed (where `size`, in bytes, is known) and left, where space was
    the matter."""
    if error.errno in _FULL:
        return OutputError(
            f"{target}: the disk is full, or a quota or size limit is reached{_describe_space(target, size)}",
            "free some space and try again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder that you may write to"
        return OutputError(f"{target}: no permission to write here ({error.strerror})", hint)
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return OutputError(f"{target}: exists already", "choose another name")
    return OutputError(f"{target}: cannot be written ({error.strerror or error})", "check the disk and the folder")


def _describe_space(target: Path, size: int | None) -> str:
    facts = [] if size is None else [f"needs {math.ceil(size / 1e4) / 100:.2f} MB"]  # up: never 0.00
    with contextlib.suppress(OSError):
        facts.append(f"{shutil.disk_usage(target.parent).free / 1e6:.2f} MB are free")
    return f" ({', '.join(facts)})" if facts else ""


def _name_temporary(folder: Path) -> Path:
    return folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def _remove_drafts(parent: Path, names: Collection[str]) -> None:
    with contextlib.suppress(OSError):  # a folder that may be written but not listed
        for name in filter(_DRAFT_NAME.fullmatch, os.listdir(parent)):
            with contextlib.suppress(OSError):  # locked, gone, or not removable
                _remove_draft(parent / name, names)


def _remove_draft(draft: Path, names: Collection[str]) -> None:
    found = draft.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    lock = lock_folder(draft)
    try:
        if all(name in names or _DRAFT_NAME.fullmatch(name) for name in os.listdir(draft)):
            shutil.rmtree(draft)
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

"""Writing files whole or not at all: a temporary name in the same folder, sync, rename, sync the folder."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pointcnn_cli.errors import OutputError

TEMPORARY_PREFIX = ".tmp-"
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # not known here, or a folder that may not be read


def check_target(path: Path, force: bool) -> Path:
    """The file to write, through links. Raises OutputError for what can be known before any work."""
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path}: exists already", "choose another name, or --force to replace it")
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():
        raise OutputError(f"{path}: is not a regular file, and is not replaced", "name a file to write")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {target.parent}", f"mkdir -p '{target.parent}'")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        hint = "choose a folder that you may write to"
        raise OutputError(f"{path}: no permission to write in {target.parent}", hint)
    return target


@contextlib.contextmanager
def replacing(target: Path, *, force: bool = True) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes `target` when the block ends without an exception; else nothing is left
    of it.

    New files get the permissions that the umask leaves. Without `force` a target that exists by then is refused.
    Raises OutputError when writing fails (disk full, no permission).
    """
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
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
        raise output_error(target, error) from error
    except BaseException:
        _remove(temporary)
        raise


def write_whole(target: Path, data: bytes | memoryview, *, force: bool = True) -> None:
    """Write `data` as the file `target`. Raises OutputError."""
    with replacing(target, force=force) as stream:
        stream.write(data)


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


def output_error(target: Path, error: OSError) -> OutputError:
    """The failure in words, with the space that is left where space was the matter."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with contextlib.suppress(OSError):
            free = f" ({shutil.disk_usage(target.parent).free / 1e6:.1f} MB are free)"
            return OutputError(
                f"{target}: the disk is full, or a quota or size limit is reached{free}",
                "free some space and try again",
            )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder that you may write to"
        return OutputError(f"{target}: no permission to write here ({error.strerror})", hint)
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return OutputError(f"{target}: exists already", "choose another name")
    return OutputError(f"{target}: cannot be written ({error.strerror or error})", "check the disk and the folder")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

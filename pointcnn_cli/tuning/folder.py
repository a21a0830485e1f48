"""The directory of a search: the one owner of its file names, and who works on which trial."""

import contextlib
import os
import platform
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pointcnn_cli.errors import OutputError
from pointcnn_cli.files import check_new, lock_file, output_error

BEAT_SECONDS = 10.0  # how often a process shows that it works on its trial, and
STALE_SECONDS = 60.0  # how long it may show nothing, where its lock cannot be seen from another machine


class TuneDir:
    """Paths of one search, and the locks in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "study.journal"
        self.lock = path / "study.lock"
        self.config = path / "config.yaml"
        self.table = path / "trials.csv"
        self.best = path / "best.yaml"
        self.figure = path / "importance.svg"
        self.trials = path / "trials"

    @classmethod
    def open(cls, path: Path) -> "TuneDir":
        """The directory of a search, made where there is none. Raises OutputError for one that holds something else."""
        folder = cls(path.absolute())
        if not os.path.lexists(path):
            check_new(path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            foreign = not folder.journal.exists() and set(os.listdir(path)) - {folder.lock.name, folder.journal.name}
        except OSError as error:
            raise output_error(path, error) from error
        if foreign:
            raise OutputError(
                f"{path}: exists already, and no search of pointcnn tune is in it", "choose another --output"
            )
        return folder

    def trial(self, root: int) -> Path:
        """The folder of a trial and of those that repeat it, which all go by the number of the first."""
        return self.trials / f"{root:04d}"

    def fold(self, root: int, fold: int) -> Path:
        """The run directory of one fold of a trial."""
        return self.trial(root) / f"fold-{fold}"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within the block no other process takes, gives back or fails a trial."""
        descriptor = lock_file(self.lock, wait=True)
        try:
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def working_on(self, root: int, descriptor: int) -> Iterator[None]:
        """Within the block others can see that this process works on a trial; `descriptor` is that of `take`."""
        path, ended = self._trial_lock(root), threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                with contextlib.suppress(OSError):
                    os.utime(path)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            os.close(descriptor)

    def take(self, root: int) -> int:
        """Lock a trial until the descriptor is closed, or this process ends. Raises OutputError."""
        path = self._trial_lock(root)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = lock_file(path)
            os.utime(path)
        except OSError as error:
            raise output_error(path, error) from error
        return descriptor

    def is_abandoned(self, root: int, process: Any) -> bool:
        """Whether the process that took a trial (as `describe_process` says) has ended without a word.

        Its lock is free then. Not every shared file system shows the locks of other machines, so a process elsewhere
        must also have shown no sign of life for a minute, by the clock of the file system.
        """
        path = self._trial_lock(root)
        try:
            os.close(lock_file(path))
        except FileNotFoundError:  # it had not got as far as the lock
            return True
        except BlockingIOError:
            return False
        if not isinstance(process, dict) or process.get("host") == platform.node():
            return True
        with tempfile.TemporaryFile(dir=self.path) as now:
            return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime > STALE_SECONDS

    def _trial_lock(self, root: int) -> Path:
        return self.trial(root) / "lock"


def describe_process() -> dict[str, Any]:
    """This process, for others."""
    return {"pid": os.getpid(), "host": platform.node()}

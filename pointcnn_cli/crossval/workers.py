"""The processes of a cross-validation: each member is trained by a `pointcnn train` of its own.

Who trains a member holds the lock on its log, and so does the process that he started: two never train the same one,
also where the first was killed and its process still runs.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pointcnn_cli.config.load import STDIN, dump_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.cvdir import CvDir, Member, build_member_config
from pointcnn_cli.errors import PointcnnError, TrainingError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.signals import StopRequest

POLL_SECONDS = 0.1
MOST_SAID_BYTES = 8192  # of the end of a log, in which its last message is looked for
ERROR_MARKS = ("Error: ", "Stopped: ")  # as the command line begins a failure
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


@dataclass(frozen=True)
class Failure:
    """A member that could not be trained."""

    member: Member
    code: int
    """As of subprocess: negative for the number of a signal."""
    message: str
    log: Path

    def describe(self) -> str:
        """Which, how it ended, its last words and where all of them are."""
        name = signal.Signals(-self.code).name if self.code < 0 else ""
        ended = f"killed by {name}" if name else f"exit code {self.code}"
        return f"{self.member.name}: {ended}: {self.message} (log: {self.log})"


@dataclass
class Worker:
    """A process that trains one member."""

    member: Member
    process: subprocess.Popen[bytes]
    log: BinaryIO
    begins: int
    """Where in the log it began to write."""
    started: float


def train_members(
    cv: CvDir, config: Config, members: Sequence[Member], jobs: int, reporter: Reporter, stop: StopRequest
) -> list[Failure]:
    """Train what is unfinished of `members`, `jobs` at once, and return those that failed.

    Members that another process has are waited for. When a stop is asked for, all processes are asked too, have saved
    their state when this returns, and nothing counts as failed.
    """
    crew = Crew(cv, config, jobs, reporter)
    crew.waiting = list(members)
    try:
        while crew.waiting or crew.running:
            if stop.signal_number is not None:
                crew.stop()
                return []
            crew.look()
            crew.fill()
            time.sleep(POLL_SECONDS)
    finally:
        crew.stop()
    return crew.failures


class Crew:
    """The processes that run, the members that wait for one, and what became of the others."""

    def __init__(self, cv: CvDir, config: Config, jobs: int, reporter: Reporter) -> None:
        self.cv = cv
        self.config = config
        self.jobs = jobs
        self.reporter = reporter
        self.waiting: list[Member] = []
        self.running: list[Worker] = []
        self.failures: list[Failure] = []
        self._seconds: list[float] = []
        self._told: set[Member] = set()  # which are waited for

    def fill(self) -> None:
        """Start processes until there are `jobs` of them, or nothing is left that is free."""
        for member in list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            log = self.cv.claim(member)
            if log is None:
                if member not in self._told:
                    self.reporter.say(f"{member.name}: another process is training it; waiting for it to end")
                    self._told.add(member)
                continue
            self.waiting.remove(member)
            if self.cv.is_finished(member):
                log.close()
                self.reporter.say(f"{member.name}: finished already{self._describe_score(member)}")
                continue
            self.running.append(start_worker(self.cv, self.config, member, log))
            self.reporter.say(f"{member.name}: started; it writes to {self.cv.log(member)}")

    def look(self) -> None:
        """See which processes have ended, and how."""
        for worker in [worker for worker in self.running if worker.process.poll() is not None]:
            self.running.remove(worker)
            code, member = int(worker.process.returncode), worker.member
            if code == 0 and self.cv.is_finished(member):
                self._seconds.append(time.monotonic() - worker.started)
                self.reporter.say(f"{member.name}: finished{self._describe_score(member)}{self._describe_rest()}")
            else:
                path = self.cv.log(member)
                self.failures.append(Failure(member, code, read_last_message(path, worker.begins), path))
                self.reporter.warn(f"{self.failures[-1].describe()}; the others go on")
            worker.log.close()

    def stop(self) -> None:
        """Ask every process to save and end, and wait until all have."""
        for worker in self.running:
            worker.process.terminate()
        if self.running:
            names = ", ".join(worker.member.name for worker in self.running)
            self.reporter.say(f"asked to save and end, waited for: {names}")
        for worker in self.running:
            worker.process.wait()
            worker.log.close()
        self.running = []

    def _describe_score(self, member: Member) -> str:
        with contextlib.suppress(PointcnnError, KeyError):
            return f", accuracy {self.cv.run(member).read_metrics()['accuracy']:.3f}"
        return ""

    def _describe_rest(self) -> str:
        left = len(self.waiting) + len(self.running)
        if not left:
            return ""
        seconds = left * sum(self._seconds) / len(self._seconds) / self.jobs
        return f"; {left} left, about {max(1, round(seconds / 60))} min"


def start_worker(cv: CvDir, config: Config, member: Member, log: BinaryIO) -> Worker:
    """Start the process that trains `member`, or goes on with it. It inherits the lock on `log`."""
    run = cv.run(member)
    resumes = os.path.lexists(run.path)
    arguments = ["--resume", str(run.path)] if resumes else [STDIN, "--output", str(run.path)]
    begins = os.fstat(log.fileno()).st_size
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pointcnn_cli", "train", *arguments],
            stdin=subprocess.DEVNULL if resumes else subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(log.fileno(),),  # besides stderr, which the child closes where it cannot be written to
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},  # the same pointcnn
            start_new_session=True,  # a key pressed in the terminal reaches the parent alone, who passes it on
            preexec_fn=_build_tie(),
        )
    except OSError as error:
        log.close()
        raise TrainingError(
            f"{member.name}: no process could be started ({error.strerror})",
            "end other programs or lower --jobs; the same command goes on",
        ) from error
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(dump_config(build_member_config(config, member)).encode())
    return Worker(member, process, log, begins, time.monotonic())


def _build_tie() -> Callable[[], None] | None:
    """What makes the kernel ask the child to stop when this process is gone, even killed; Linux can. Elsewhere the
    child trains to its end, and its lock on the log keeps others from its run."""
    return None if LIBC is None else partial(_tie, os.getpid())


def _tie(parent: int) -> None:
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # gone before the kernel was told
        os.kill(os.getpid(), signal.SIGTERM)


def read_last_message(log: Path, begins: int) -> str:
    """The failure that a process told last in `log`, in one line; else its last line."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begins, size - MOST_SAID_BYTES))
            said = file.read().decode(errors="replace")
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    starts = [said.rfind(mark) + len(mark) for mark in ERROR_MARKS if mark in said]
    if starts:
        return " ".join(said[max(starts) :].split())
    lines = said.split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

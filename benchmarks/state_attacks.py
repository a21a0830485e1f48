"""Attacks on the saving of states: a kill at each system call or at any moment, errors of the disk, damaged files.

Each attack yields one result a case, with what went wrong in `problems`. The processes under attack are those of
`state_saver.py`. What uses strace needs Linux.
"""

import collections
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import state_saver

from pointcnn_cli.checkpoints import Arrays
from pointcnn_cli.errors import PointcnnError, RunError
from pointcnn_cli.rundir import STATES_KEPT, RunDir

Result = dict[str, Any]  # of one case, JSON-ready; `problems` lists what went wrong
SIZE = 5000  # numbers in a small state
ERRORS = ("ENOSPC", "EIO", "EDQUOT")
FAILING_CALLS = ("openat", "write", "fsync", "close", "rename", "unlink")
TOLERATED_CALLS = ("openat", "close", "unlink")  # may fail without harm: in reading, and in removing what is superseded
LEFTOVER = ".tmp-0123456789abcdef"  # as of a process that was killed
LONGEST_WAIT = 120.0  # seconds for strace to follow its process into the end


# --- the saver: children that write, to be traced or killed ---


class Saver:
    """The process of `state_saver.py`, and the child that carries out its present order."""

    def __enter__(self) -> Self:
        # One thread, and the same memory layout in every child: the same system calls.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the package that is imported here
        self._process = subprocess.Popen(
            [sys.executable, state_saver.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def start(self, run: Path, epochs: int, size: int, *, traced: bool) -> int:
        """Let a child continue `run` by some epochs, or create it; its process id. A traced one is stopped before it
        begins."""
        order = {"run": str(run), "epochs": epochs, "size": size, "traced": traced}
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        pid = self.read()["pid"]
        if traced:
            assert self.read() == {"stopped": pid}
        return int(pid)

    def read(self) -> Result:
        """The next line of the child, or of the saver about it."""
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def read_end(self) -> tuple[int, list[Result]]:
        """The exit code of the child (minus the signal that killed it), and all it said."""
        said: list[Result] = []
        while "ended" not in (line := self.read()):
            said.append(line)
        return int(line["ended"]), said


def check_saved(path: Path, size: int, epochs: range) -> list[str]:
    """What is wrong with a run that must stand at one of `epochs`: before the next start, and after it."""
    try:
        run = RunDir.open(path)
        run.read_manifest()
        problems, epoch = _check_state(run, size, epochs)
        around = range(epoch - 1, epoch + 1)  # these files follow the state, so a kill may leave them one behind
        for weights in (run.last, run.best):
            arrays, found = run.read_weights(weights) if weights.exists() else ({}, 0)
            if found not in around or (found and not _are_of(arrays, found, size)):
                problems.append(f"{weights.name} is of epoch {found}, the state of {epoch}, or holds other arrays")
        if run.history.exists() and len(run.history.read_text().splitlines()) - 1 not in around:
            problems.append("history.csv is not of the epoch of the state")
        run.lock()
        run.unlock()
        if _check_state(run, size, range(epoch, epoch + 1))[0]:
            problems.append("the lock changed the newest state")
        problems += [f"left after the lock: {p.name}" for p in path.rglob(".tmp-*")]
        if (kept := len(list(run.checkpoints.glob("state-*")))) > STATES_KEPT:
            problems.append(f"{kept} states left after the lock")
    except PointcnnError as error:
        return [error.message]
    return problems


def _check_state(run: RunDir, size: int, epochs: range) -> tuple[list[str], int]:
    found = run.read_newest_state()
    if found is None:
        return ([] if 0 in epochs else ["no state"]), 0
    epoch, arrays, facts, damaged = found
    problems = list(damaged)
    if epoch not in epochs:
        problems.append(f"the newest state is of epoch {epoch}, expected {epochs}")
    if not _are_of(arrays, epoch, size) or facts["history"] != state_saver.make_history(epoch):
        problems.append(f"the state of epoch {epoch} holds something else")
    return problems, epoch


def _are_of(arrays: Arrays, epoch: int, size: int) -> bool:
    return are_equal(arrays, state_saver.make_arrays(epoch, size))


def are_equal(arrays: Arrays, others: Arrays) -> bool:
    """Whether names, types, shapes and bytes are the same."""
    return arrays.keys() == others.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (others[n].dtype, others[n].shape, others[n].tobytes())
        for n, a in arrays.items()
    )


# --- syscalls and errors: at each system call of a save ---


def find_strace_problem() -> str | None:
    """Why strace cannot be used here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


def save_traced(saver: Saver, run: Path, log: Path, *options: str) -> tuple[int, list[Result], list[str]]:
    """Continue `run` by one epoch, or create it, under strace.

    Gives the exit code, what was said, and the lines of the trace that are calls.
    """
    pid = saver.start(run, int(run.exists()), SIZE, traced=True)
    command = ["strace", "-o", str(log), *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        attached = strace.stderr.readline()  # only now is every call of the child seen
        os.kill(pid, signal.SIGCONT)
        code, said = saver.read_end()
        strace.wait(LONGEST_WAIT)
        if "attached" not in attached:
            raise RuntimeError(f"strace: {attached}")
    return code, said, re.findall(r"^(?:\w+\(.*)$", log.read_text(errors="replace"), re.MULTILINE)


def list_calls(lines: list[str]) -> list[tuple[str, int, bool]]:
    """(name, how often it was called by then, whether in the save itself) of each call from the start to the end."""
    counts: collections.Counter[str] = collections.Counter()
    calls: list[tuple[str, int, bool]] = []
    started = resumed = False
    for line in lines:
        name = line.partition("(")[0]
        counts[name] += 1
        if state_saver.END in line:
            return calls
        if started:
            calls.append((name, counts[name], resumed))
        started = started or state_saver.BEGIN in line
        resumed = resumed or state_saver.RESUMED in line
    raise RuntimeError("the trace shows no end of the save")


def prepare_run(template: Path) -> Path:
    """A run with epochs 1 to 3 saved that the next start has to tidy."""
    state_saver.create_run(template, 3, SIZE)
    (template / "checkpoints" / LEFTOVER).write_bytes(b"half")
    shutil.copy(template / "checkpoints/state-00002.safetensors", template / "checkpoints/state-00001.safetensors")
    return template


def find_calls(saver: Saver, template: Path | None, folder: Path) -> list[tuple[str, int, bool]]:
    """`list_calls` of a start from a copy of `template` and the save of one epoch, or (None) of creating a run."""
    lists = []
    for _ in range(2):
        run = _copy_run(template, folder / "run")
        code, said, lines = save_traced(saver, run, folder / "log")
        if code:
            raise RuntimeError(f"an undisturbed save ends with {code}: {said}")
        lists.append(list_calls(lines))
    if lists[0] != lists[1]:
        raise RuntimeError("two equal saves make different system calls")
    return lists[0]


def _copy_run(template: Path | None, run: Path) -> Path:
    shutil.rmtree(run, ignore_errors=True)
    return run if template is None else Path(shutil.copytree(template, run))


def kill_syscalls(folder: Path) -> Iterator[Result]:
    """SIGKILL at the entry of every system call of creating a run, and of a start and the save of an epoch."""
    with Saver() as saver:
        for template in (None, prepare_run(folder / "template")):
            for place, (name, ordinal, _) in enumerate(find_calls(saver, template, folder)):
                run = _copy_run(template, folder / "run")
                injection = f"inject={name}:signal=KILL:when={ordinal}"
                code, said, lines = save_traced(saver, run, folder / "log", "-e", injection)
                if template is None and not run.exists():
                    state_saver.create_run(run, 0, SIZE)  # the next start
                problems = check_saved(run, SIZE, range(3, 5) if template else range(1))
                problems += [f"left beside the run: {p.name}" for p in folder.glob(".tmp-*")]
                if code != -signal.SIGKILL:
                    problems.append(f"the process ended with {code}, not by the kill: {said}")
                yield {"save": template is not None, "place": place, "call": name, "ordinal": ordinal,
                       "line": lines[-1][:80], "problems": problems}  # fmt: skip


def fail_syscalls(folder: Path) -> Iterator[Result]:
    """Each error at each system call of creating a run, of a start, and of a save that a disk can fail: exit code 9,
    and what was there before is there still."""
    with Saver() as saver:
        for template in (None, prepare_run(folder / "template")):
            calls = [call for call in find_calls(saver, template, folder) if call[0] in FAILING_CALLS]
            for error, (name, ordinal, saving) in itertools.product(ERRORS, calls):
                run = _copy_run(template, folder / "run")
                injection = f"inject={name}:error={error}:when={ordinal}"
                code, said, lines = save_traced(saver, run, folder / "log", "-e", injection)
                (line,) = [line for line in lines if "(INJECTED)" in line]
                problems = _judge_code(code, said, name, saving)
                if code == 9:
                    # Where a folder is opened or synced for its own sake, nothing of known size is written.
                    sized = template is not None and (saving or name != "openat")
                    problems += _judge_message(said[0], sized and error != "EIO")
                problems += _judge_files(run, code, template is not None, saving, name)
                yield {"save": saving, "call": name, "ordinal": ordinal, "error": error, "line": line[:80],
                       "code": code, **(said[0] if said else {}), "problems": problems}  # fmt: skip


def _judge_code(code: int, said: list[Result], call: str, saving: bool) -> list[str]:
    if code == 9 and len(said) == 1:
        return []
    if code == 8 and not saving and len(said) == 1:  # a file of the run could not be read
        return [] if call in TOLERATED_CALLS else [f"a failed {call} passes for a damaged run"]
    if code == 0:
        return [] if call in TOLERATED_CALLS else [f"a failed {call} went unnoticed"]
    return [f"ended with {code}, saying {said}"]


def _judge_message(said: Result, sized: bool) -> list[str]:
    problems = [] if said["hint"] else ["no word on what to do"]
    if sized and not re.search(r"\(needs [\d.]+ MB, [\d.]+ MB are free\)", said["message"]):
        problems.append("the message does not say how much space is needed and free")
    return problems


def _judge_files(run: Path, code: int, existed: bool, saving: bool, call: str) -> list[str]:
    leftovers = [p.name for p in run.parent.rglob(".tmp-*") if p.name != LEFTOVER]
    problems = [f"left at once: {leftovers}"] if leftovers and call != "unlink" else []
    if existed:
        return problems + check_saved(run, SIZE, range(4 if code == 0 and saving else 3, 5))
    if run.exists() == bool(code):
        problems.append("the run was made in spite of the error, or not without one")
    if not run.exists():
        state_saver.create_run(run, 0, SIZE)
    return problems + check_saved(run, SIZE, range(1))


# --- writer: at random moments ---


def kill_writer(folder: Path, kills: int, seed: int, size: int = 50_000) -> Iterator[Result]:
    """SIGKILL a process that saves one epoch after the other, at random moments of its first saves."""
    rng, run, newest = random.Random(seed), folder / "run", 0
    state_saver.create_run(run, 0, size)
    with Saver() as saver:
        started = time.monotonic()
        saver.start(run, 6, size, traced=False)
        code, said = saver.read_end()
        seconds = time.monotonic() - started
        for number in range(kills):
            newest = count_epochs(run)
            moment = rng.uniform(0, seconds)
            pid = saver.start(run, 10_000, size, traced=False)
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
            code, said = saver.read_end()
            saved = said[-1].get("saved", newest) if said else newest
            problems = check_saved(run, size, range(saved, saved + 2))
            if code != -signal.SIGKILL:
                problems.append(f"the process ended with {code}, not by the kill: {said[-1:]}")
            yield {"kill": number, "moment": round(moment, 4), "saved": saved - newest, "problems": problems}


def count_epochs(run: Path) -> int:
    """How many epochs of a run are saved."""
    found = RunDir.open(run).read_newest_state()
    return 0 if found is None else found[0]


# --- corruption: a damaged state on disk ---


def damage_states(folder: Path, seed: int, cuts: int = 40, flips: int = 200) -> Iterator[Result]:
    """The newest state cut, zeroed page by page, and with single bits flipped: told, and the older one used."""
    run = RunDir(folder / "run")
    state_saver.create_run(run.path, 2, SIZE)
    path = run.checkpoints / "state-00002.safetensors"
    whole = path.read_bytes()
    for damage, data in _damage(whole, random.Random(seed), cuts, flips):
        path.write_bytes(data)
        yield {"damage": damage, "problems": _check_fallback(run, path)}
    path.write_bytes(whole)
    yield {"damage": "none", "problems": _check_state(run, SIZE, range(2, 3))[0]}


def _damage(whole: bytes, rng: random.Random, cuts: int, flips: int) -> Iterator[tuple[str, bytes]]:
    for cut in range(cuts):
        length = cut * (len(whole) - 1) // (cuts - 1)
        yield f"cut to {length} of {len(whole)} bytes", whole[:length]
    for start in range(0, len(whole), 1024):
        page = whole[start : start + 1024]
        if any(page):
            yield f"page at {start} zeroed", whole[:start] + bytes(len(page)) + whole[start + 1024 :]
    for _ in range(flips):
        bit = rng.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(changed)


def _check_fallback(run: RunDir, damaged: Path) -> list[str]:
    try:
        found = run.read_newest_state()
    except RunError as error:
        return [error.message]
    if found is None or found[0] != 1 or not _are_of(found[1], 1, SIZE):
        return ["the older state was not used"]
    return [] if len(found[3]) == 1 and str(damaged) in found[3][0] else ["the damage was not told"]

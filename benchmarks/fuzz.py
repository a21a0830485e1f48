"""Feed the readers damaged and absurd input, and see that each case ends in a documented way.

    python benchmarks/fuzz.py configs --count 100000
    python benchmarks/fuzz.py hdf5 --count 10000 --keep failing/
    python benchmarks/fuzz.py states --count 10000 --seed 7

Case N of seed S is the same bytes at any time, whatever cases run with it. Cases run in worker processes, so that a
crash or a hang is known by its case. The last line on stdout is a JSON summary; exit code 1 if any case failed.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz_inputs import Generator, change_bytes, choose, make_config, make_hdf5_files, make_state, read_shipped
from rich.console import Console

from pointcnn_cli.cli.inspection import build_tables
from pointcnn_cli.config.load import dump_config, load_config
from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import PointcnnError
from pointcnn_cli.hdf5.inspect import inspect_file
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.sources import open_source

BATCH = 200  # cases of one worker: memory is measured afresh in each
MEMORY_BYTES = 2**30
PATIENCE = 8  # times the limit of processor time by the clock, for what sleeps
OUT_OF_MEMORY, BUG = 7, 1


@dataclass(frozen=True)
class Target:
    """A reader, what it is fed, and the exit codes that it may end in."""

    make: Callable[[Generator], bytes]
    look: Callable[[bytes, Path], None]
    codes: frozenset[int]
    suffix: str


@dataclass(frozen=True)
class Outcome:
    """How a case ended. `code` is that of the command line, or minus the signal that killed the worker."""

    case: int
    code: int
    seconds: float
    """Processor time, so that a busy machine does not make a hang of a short case."""
    peak: int
    """Most bytes that the worker and its children had in memory so far."""
    note: str


def build_targets(folder: Path) -> dict[str, Callable[[], Target]]:
    """The targets by name; each is made when it is asked for. `folder` is for files of the cases."""
    return {
        "configs": lambda: Target(_config_maker(), look_at_config, frozenset({0, 4}), ".yaml"),
        "hdf5": lambda: Target(_hdf5_maker(), look_at_hdf5, frozenset({0, 6}), ".h5"),
        "states": lambda: _state_target(folder),
    }


def _config_maker() -> Callable[[Generator], bytes]:
    shipped = read_shipped()
    return lambda generator: make_config(generator, shipped)


def _hdf5_maker() -> Callable[[Generator], bytes]:
    files = make_hdf5_files()
    return lambda generator: change_bytes(generator, choose(generator, files))


def _state_target(folder: Path) -> Target:
    """A run with a sound older state (in every second case) and a damaged newer one: never a wrong one in silence."""
    arrays, facts, sound = make_state()
    run = RunDir(folder / "run")
    run.checkpoints.mkdir(parents=True)
    older, newer = (run.checkpoints / f"state-{epoch:05d}.safetensors" for epoch in (1, 2))

    def look(data: bytes, _: Path) -> None:
        older.unlink(missing_ok=True)
        if zlib.crc32(data) % 2:
            run.write_state(1, arrays, facts)
        newer.write_bytes(data)
        found = run.read_newest_state()
        if found is None:
            raise AssertionError("two states are there, and none was seen")
        epoch, read, said, _ = found
        same = all(np.array_equal(read[name], arrays[name], equal_nan=True) for name in arrays)
        if read.keys() != arrays.keys() or not same or {**said, "epoch": 0} != {**facts, "epoch": 0}:
            raise AssertionError(f"a state of epoch {epoch} was read that was never written")

    return Target(lambda generator: change_bytes(generator, sound), look, frozenset({0, 8}), ".safetensors")


def look_at_config(data: bytes, _: Path) -> None:
    """As `config show` does; what it prints must read back equal."""
    config = load_config("-", stdin_text=data)
    if load_config("-", stdin_text=dump_config(config)) != config:
        raise AssertionError("the config does not read back equal")


def look_at_hdf5(data: bytes, folder: Path) -> None:
    """As `data inspect` does, to the tables that it prints; then open the file and read all rows, as `train` does."""
    path = folder / "case.h5"
    path.write_bytes(data)
    settings = DataConfig(path=str(path))
    found = inspect_file(path, settings)
    json.dumps(found)
    console = Console(file=StringIO())
    for table in build_tables(found):
        console.print(table)
    with open_source(settings) as source:
        source.read(np.arange(source.index.rows))


def try_case(target: Target, case: int, data: bytes, folder: Path) -> Outcome:
    """Run one case in this process, with the exit code that the command line would give it."""
    started, code, note = measure_seconds(), 0, ""
    try:
        target.look(data, folder)
    except PointcnnError as error:
        code, note = error.exit_code, error.message
        note.encode()  # fails on what a terminal could not show
    except MemoryError:
        code, note = OUT_OF_MEMORY, "MemoryError"
    except Exception:
        code, note = BUG, traceback.format_exc()
    usages = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Outcome(case, code, measure_seconds() - started, max(usages) * 1024, note)


def measure_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def run_cases(target: Target, seed: int, count: int, limit: float, folder: Path) -> Iterator[tuple[Outcome, bytes]]:
    """The outcome and the bytes of every case, in order."""
    first = 0
    while first < count:
        for outcome in _run_batch(target, seed, range(first, min(first + BATCH, count)), limit, folder):
            yield outcome, make_case(target, seed, outcome.case)
            first = outcome.case + 1


def make_case(target: Target, seed: int, case: int) -> bytes:
    """The bytes of a case."""
    return target.make(np.random.default_rng([seed, case]))


def _run_batch(target: Target, seed: int, cases: range, limit: float, folder: Path) -> Iterator[Outcome]:
    """Outcomes from a worker process, up to and with the case that ends it early."""
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        _work(target, seed, cases, folder, writing)
    os.close(writing)
    case, text, hung = cases.start, b"", False
    with contextlib.closing(os.fdopen(reading, "rb", 0)) as pipe:
        while not hung:
            hung = not select.select([pipe], [], [], max(limit, 1) * PATIENCE)[0]
            received = b"" if hung else pipe.read(2**16)
            if not received:
                break
            *lines, text = (text + received).split(b"\n")
            for outcome in (Outcome(*json.loads(line)) for line in lines):
                yield outcome
                case = outcome.case + 1
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    if case < cases.stop:
        note = f"no end within {limit * PATIENCE:g} s" if hung else f"the worker ended with {status}"
        yield Outcome(case, status if status < 0 else BUG, limit * PATIENCE if hung else 0.0, 0, note)


def _work(target: Target, seed: int, cases: range, folder: Path, pipe: int) -> None:
    """The life of a worker: a line of JSON for every case."""
    try:
        os.setpgid(0, 0)
        with open("/proc/self/statm", "rb") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MEMORY_BYTES, resource.RLIM_INFINITY))
        for case in cases:
            outcome = try_case(target, case, make_case(target, seed, case), folder)
            line = [outcome.case, outcome.code, outcome.seconds, outcome.peak, outcome.note[-4000:]]
            os.write(pipe, json.dumps(line).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def summarise(name: str, target: Target, arguments: Any, folder: Path) -> dict[str, Any]:
    """Run the campaign; failures go to stderr and, with their input, to the folder `--keep`."""
    codes: Counter[int] = Counter()
    failures = contained = 0
    slowest, peak, started = Outcome(-1, 0, 0.0, 0, ""), 0, time.perf_counter()
    for outcome, data in run_cases(target, arguments.seed, arguments.count, arguments.limit, folder):
        codes[outcome.code] += 1
        slowest, peak = max(slowest, outcome, key=lambda one: one.seconds), max(peak, outcome.peak)
        crashed = "the HDF5 library" in outcome.note or "far more memory" in outcome.note
        contained += crashed
        bad = outcome.code not in target.codes or outcome.seconds > arguments.limit or outcome.peak > MEMORY_BYTES
        failures += bad
        if bad:
            print(f"case {outcome.case}: code {outcome.code}: {outcome.note}", file=sys.stderr)
        if (bad or crashed) and arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            kept = f"{name}-{arguments.seed}-{outcome.case}-code{outcome.code}{target.suffix}"
            (arguments.keep / kept).write_bytes(data)
    return {
        "target": name, "count": arguments.count, "seed": arguments.seed, "failures": failures,
        "codes": dict(sorted(codes.items())), "crashes_contained": contained,
        "slowest": {"case": slowest.case, "seconds": round(slowest.seconds, 3)},
        "peak_memory_mb": round(peak / 2**20, 1), "seconds": round(time.perf_counter() - started, 1),
        "machine": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version(),
        "hdf5": h5py.version.hdf5_version,
        "packages": {package: version(package) for package in ("h5py", "numpy", "pydantic", "pyyaml", "safetensors")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("configs", "hdf5", "states"))
    parser.add_argument("--count", type=int, default=1000, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds of processor time that a case may take")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of failures and of crashes contained")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pointcnn-fuzz-") as folder:
        target = build_targets(Path(folder))[arguments.target]()
        summary = summarise(arguments.target, target, arguments, Path(folder))
    print(json.dumps(summary))
    raise SystemExit(1 if summary["failures"] else 0)


if __name__ == "__main__":
    main()

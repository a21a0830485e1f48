"""Kill, starve and damage the saving of a run at every place, and see that nothing is lost but the epoch in progress.

    python benchmarks/kill_campaign.py training --kills 100 --seed 0
    python benchmarks/kill_campaign.py syscalls

Prints one line of JSON for each case and one for the whole; ends with 1 if any case went wrong. `syscalls` and `errors`
need strace, and so Linux. Modes are described by --help.
"""

import argparse
import collections
import csv
import importlib.metadata
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from state_attacks import (
    Result,
    are_equal,
    count_epochs,
    damage_states,
    fail_syscalls,
    find_strace_problem,
    kill_syscalls,
    kill_writer,
)

from pointcnn_cli import __version__
from pointcnn_cli.checkpoints import unpack
from pointcnn_cli.errors import RunError
from pointcnn_cli.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
CONFIG: dict[str, Any] = {  # everything that has a state in play; early stopping ends it
    "data": {"simulate": {"windows": 200, "subjects": 10, "points": 16, "frames": 16, "stride": 8}},
    "model": {"dropout": 0.5},
    "augment": {"point_dropout": 0.2, "position_jitter": 0.02, "frame_roll": 4},
    "train": {
        "epochs": 12, "batch_size": 32, "optimizer": "adamw", "weight_decay": 0.01, "learning_rate": 0.003,
        "schedule": "cosine", "early_stopping": {"patience": 2}, "device": "cpu",
    },
}  # fmt: skip
LONGEST_WAIT = 1800.0  # seconds for an undisturbed process, on a busy machine


# --- training: the real command, at random moments ---


def kill_trainings(folder: Path, kills: int, seed: int) -> Iterator[Result]:
    """SIGKILL `pointcnn train`, and again while it resumes, until it ends by itself: then all must be as if nothing
    had been.

    Moments are uniform over the time that the uninterrupted training takes, from the start of its process.
    """
    rng = random.Random(seed)
    config = folder / "config.yaml"
    config.write_text(json.dumps(CONFIG))
    expected = RunDir(folder / "uninterrupted")
    started = time.monotonic()
    code, errors = run_pointcnn(["train", str(config), "--output", str(expected.path)])
    seconds = time.monotonic() - started
    epochs = 0 if code else count_epochs(expected.path)
    yield {"training": "uninterrupted", "seconds": round(seconds, 1), "epochs": epochs,
           "problems": [errors] if code else []}  # fmt: skip
    killed = training = 0
    while killed < kills and code == 0:  # a training that fails, fails again
        run, training, before = RunDir(folder / f"run-{training}"), training + 1, killed
        while True:
            again = ["--resume", str(run.path)] if run.path.exists() else [str(config), "--output", str(run.path)]
            moment = rng.uniform(0, seconds) if killed < kills else None
            code, errors = run_pointcnn(["train", *again], moment)
            if code is not None:
                break
            killed += 1
            phase, problems = _describe_kill(run)
            yield {"kill": killed, "training": training, "moment": round(moment or 0, 2), "phase": phase,
                   "problems": problems}  # fmt: skip
        problems = [f"ended with {code}: {errors}"] if code else compare_runs(run, expected)
        yield {"training": training, "kills": killed - before, "problems": problems}


def run_pointcnn(arguments: list[str], moment: float | None = None) -> tuple[int | None, str]:
    """Exit code (None: killed after `moment` seconds) and the end of stderr of one command in a process group."""
    command = [sys.executable, "-m", "pointcnn_cli", *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT, start_new_session=True)
        try:
            code: int | None = process.wait(LONGEST_WAIT if moment is None else moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None if moment is not None else -signal.SIGALRM  # hangs
        errors.seek(0)
        return code, errors.read()[-1000:]


def _describe_kill(run: RunDir) -> tuple[str, list[str]]:
    """What was being done, as far as the files tell, and what is wrong with them."""
    if not run.path.exists():
        return "before the run directory", []
    try:
        RunDir.open(run.path).read_manifest()
        found = run.read_newest_state()
    except RunError as error:
        return "unknown", [error.message]
    if run.predictions.exists():
        return "after scoring", found[3] if found else ["scores without a state"]
    return (f"epoch {found[0] + 1}", found[3]) if found else ("epoch 1", [])


def compare_runs(run: RunDir, expected: RunDir) -> list[str]:
    """What differs between two finished runs that should be equal, and what is left over in the first."""
    problems = []
    for ours, theirs in ((run.last, expected.last), (run.best, expected.best)):
        if not are_equal(unpack(ours)[0], unpack(theirs)[0]):
            problems.append(f"{ours.name}: other arrays")
    for ours, theirs in ((run.split, expected.split), (run.metrics, expected.metrics),
                         (run.predictions, expected.predictions)):  # fmt: skip
        if ours.read_bytes() != theirs.read_bytes():
            problems.append(f"{ours.name}: other bytes")
    if _read_history(run) != _read_history(expected):
        problems.append("history.csv: other rows")
    if run.read_manifest()["status"] != "finished":
        problems.append("manifest.json: not finished")
    names = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*"))
    if names != sorted(str(p.relative_to(expected.path)) for p in expected.path.rglob("*")):
        problems.append(f"other files: {names}")
    return problems + [f"left beside the run: {p.name}" for p in run.path.parent.glob(".tmp-*")]


def _read_history(run: RunDir) -> list[dict[str, str]]:
    with run.history.open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


# --- the command ---


def parse_arguments() -> argparse.Namespace:
    """The mode and its options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work: an existing folder [default: a temporary one]")
    modes = parser.add_subparsers(dest="mode", required=True)
    for name, mode, kills in (
        ("training", kill_trainings, 100), ("syscalls", kill_syscalls, None), ("writer", kill_writer, 1000),
        ("errors", fail_syscalls, None), ("corruption", damage_states, None),
    ):  # fmt: skip
        sub = modes.add_parser(name, help=" ".join(str(mode.__doc__).partition("\n\n")[0].split()))
        if kills is not None:
            sub.add_argument("--kills", type=int, default=kills, help=f"[default: {kills}]")
        if name in ("training", "writer", "corruption"):
            sub.add_argument("--seed", type=int, default=0, help="of the moments and places [default: 0]")
    return parser.parse_args()


def run_mode(options: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """The results of the chosen mode."""
    if options.mode == "training":
        return kill_trainings(folder, options.kills, options.seed)
    if options.mode == "writer":
        return kill_writer(folder, options.kills, options.seed)
    if options.mode == "corruption":
        return damage_states(folder, options.seed)
    if problem := find_strace_problem():
        sys.exit(problem)
    return kill_syscalls(folder) if options.mode == "syscalls" else fail_syscalls(folder)


def describe_machine() -> Result:
    """What the numbers depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "safetensors", "tensorflow", "keras")}
    return {"platform": platform.platform(), "cpus": len(os.sched_getaffinity(0)),
            "pointcnn": __version__, "python": platform.python_version(), **versions}  # fmt: skip


def main() -> None:
    """Run one mode; print each result and the sum."""
    options = parse_arguments()
    started, wrong = time.monotonic(), 0
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for result in run_mode(options, Path(folder)):
            print(json.dumps(result), flush=True)
            counts[next(iter(result))] += 1
            wrong += bool(result["problems"])
    arguments = {key: value for key, value in vars(options).items() if key != "folder"}
    print(json.dumps({"summary": arguments, "counts": counts, "wrong": wrong,
                      "seconds": round(time.monotonic() - started, 1), **describe_machine()}))  # fmt: skip
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

"""Rounds in turns: warm child processes that are asked for one round at a time, and what their times say together.

A child that waits is stopped by a signal, so that no progress bar or spinning thread of it takes time from the others.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SUBJECTS = Path(__file__).resolve().parent / "speed_subjects.py"
PACKAGES = ("tensorflow", "keras", "numpy", "h5py", "torch")
TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}  # so that Rich draws its bar into a file too

Round = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """One of the things that are compared: a function of `speed_subjects` and its arguments."""

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to that of this process, which has nothing to say of oneDNN."""


class Worker:
    """A subject in a process of its own, warm once this object exists."""

    def __init__(self, subject: Subject) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "TF_ENABLE_ONEDNN_OPTS"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(SUBJECTS), subject.function, json.dumps(dict(subject.arguments))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**environment, **TERMINAL, "TF_CPP_MIN_LOG_LEVEL": "3", **subject.environment},
            process_group=0,  # if this process dies, the kernel wakes and ends a stopped child that is its own group
        )  # fmt: skip
        self._name = subject.name
        self.first = self._await_answer()

    def run_round(self) -> Round:
        """Wake the child for one round."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._await_answer()

    def _await_answer(self) -> Round:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read()[-3000:]
            self.close()
            raise RuntimeError(f"{self._name} ended with {code}:\n{said}")
        self._process.send_signal(signal.SIGSTOP)
        answer: Round = json.loads(line)
        return answer

    def close(self) -> None:
        """Let the child end. May be called again."""
        if self._errors.closed:
            return
        self._process.send_signal(signal.SIGCONT)  # nothing happens where it has ended
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def measure(subjects: Sequence[Subject], rounds: int) -> dict[str, dict[str, Any]]:
    """Rounds of all subjects in turns, A B A B; `first` is the warm-up, which counts for nothing else."""
    with contextlib.ExitStack() as stack:
        workers = {subject.name: stack.enter_context(Worker(subject)) for subject in subjects}
        taken: dict[str, list[Round]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                taken[name].append(worker.run_round())
        return {name: summarise(taken[name], worker.first) for name, worker in workers.items()}


def time_call(work: Callable[[], Any], **facts: Any) -> Round:
    """Call it in this process: a round with its wall and CPU seconds, and `facts`."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, **facts}


def summarise(rounds: Sequence[Round], first: Round | None = None) -> dict[str, Any]:
    """Raw rounds with median and spread of wall and CPU seconds, the median of each part, and the median rate."""
    wall, cpu = ([one[key] for one in rounds] for key in ("wall_seconds", "cpu_seconds"))
    parts = {name: statistics.median(one["parts"][name] for one in rounds) for name in rounds[0].get("parts", ())}
    summary: dict[str, Any] = {
        "wall_median": statistics.median(wall), "wall_min": min(wall), "wall_max": max(wall),
        "cpu_median": statistics.median(cpu), "cpu_min": min(cpu), "cpu_max": max(cpu),
        "parts_median": parts, "rounds": list(rounds),
    }  # fmt: skip
    if "count" in rounds[0]:
        unit = rounds[0]["unit"]
        summary[f"{unit}_per_second"] = rounds[0]["count"] / summary["wall_median"]
        summary[f"{unit}_per_cpu_second"] = rounds[0]["count"] / max(summary["cpu_median"], 1e-9)
    return summary if first is None else {**summary, "first": first}


def compare(subject: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """How many times as fast as the baseline the subject is, for equal work.

    The interval is that of the mean of the logarithms of the paired rounds' ratios (Student's t), which holds against
    the slow changes of a shared machine, since neighbours in time are compared. None below two rounds.
    """
    ratios = [b["wall_seconds"] / a["wall_seconds"] for a, b in zip(subject["rounds"], baseline["rounds"], strict=True)]
    return {
        "of_medians": baseline["wall_median"] / subject["wall_median"],
        "of_cpu_medians": baseline["cpu_median"] / max(subject["cpu_median"], 1e-9),
        "of_rounds": ratios,
        "interval_95": compute_interval(ratios),
    }


def compute_interval(values: Sequence[float]) -> list[float] | None:
    """A 95 % interval for the geometric mean of positive values; None below two."""
    import numpy as np
    from scipy.stats import t

    if len(values) < 2:
        return None
    logs = np.log(values)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    return [float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))]


def describe_machine() -> dict[str, Any]:
    """Processor, cores, and how busy they are with other things."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0]}


def read_versions() -> dict[str, str | None]:
    """Versions of Python and of what does the work; None for what is not there."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = importlib.metadata.version(name) if importlib.util.find_spec(name) else None
    return versions

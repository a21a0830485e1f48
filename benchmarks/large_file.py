"""A training from a file far larger than its memory: resident memory, and speed beside rows held in memory.

    python benchmarks/large_file.py --gib 8 --storage gzip contiguous --limit 500MB

Writes a label-sorted file of simulated float32 rows, recording after recording, and trains `configs/base.yaml` on it
with `data.memory_limit` set, in a process of its own that is watched from outside. A second process trains on a small
file of the same content, held in memory. After an epoch of each, the two run in turns of a few seconds, one stopped by
a signal while the other runs, since the speed of shared machines changes within minutes. Costs are linear in rows, so
samples a second can be compared. One line of JSON for each kind of storage.
"""

import argparse
import csv
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import h5py
import numpy as np
from speed_data import CHUNK_ROWS, CLASSES, count_row_bytes
from speed_rounds import describe_machine

from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.hdf5.samples import CHANNEL_NAMES
from pointcnn_cli.simulate import simulate_samples

ROOT = Path(__file__).resolve().parent.parent
POINTS, FRAMES = 64, 48
POOL_ROWS = 2048  # simulated rows, which pack as real ones do; the file repeats them, each time rolled on by a frame
GROUP_ROWS = 4 * CHUNK_ROWS  # of a recording, at most
GROUPS_PER_CLASS = 8  # at least
VALIDATION = 0.5  # half of the file trains: an epoch of it all would take twice as long and say the same
STATUS = ("VmRSS", "RssAnon", "RssFile")
TURN_SECONDS = 5
POLL_SECONDS = 0.1
MANY_EPOCHS = 100_000  # of the training in memory, which is ended with the turns
CPU_FIELDS = slice(11, 13)  # utime and stime in /proc/PID/stat, counted from behind the name


def write_file(path: Path, rows: int, storage: str) -> None:
    """Rows sorted by label and recording, as such files usually are, block by block."""
    simulated = simulate_samples(SimulateConfig(windows=min(POOL_ROWS, rows), points=POINTS, frames=FRAMES))
    packing = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if storage == "gzip" else {}
    with h5py.File(path, "w") as file:
        for name, values in zip(CHANNEL_NAMES, simulated.channels, strict=True):
            shape = (rows, *values.shape[1:])
            chunks = (CHUNK_ROWS, *values.shape[1:]) if packing else None
            dataset = file.create_dataset(name, shape, "float32", chunks=chunks, **packing)
            for block, first in enumerate(range(0, rows, len(values))):
                dataset[first : first + len(values)] = np.roll(values, block, axis=3)[: rows - first]
        labels = file.create_dataset("label", data=np.arange(rows) * len(CLASSES) // rows)
        labels.attrs.create("classes", list(CLASSES), dtype=h5py.string_dtype())
        file["group"] = np.arange(rows) // max(1, min(GROUP_ROWS, rows // (GROUPS_PER_CLASS * len(CLASSES))))


class Training:
    """A training in a process of its own, which runs only while it is let."""

    def __init__(self, file: Path, run: Path, epochs: int, limit: str | None = None) -> None:
        """Start it, and stop it at once. `limit`: `data.memory_limit`."""
        settings = [f"data.path={file}", "data.simulate=null", f"split.validation_fraction={VALIDATION}"]
        settings += [f"train.epochs={epochs}", *([f"data.memory_limit={limit}"] if limit else [])]
        command = [sys.executable, "-m", "pointcnn_cli", "train", "configs/base.yaml", "--output", str(run)]
        command += [part for setting in settings for part in ("--set", setting)]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=self._said, text=True,
            process_group=0,  # if this process dies, the kernel wakes and ends a stopped child that is its own group
        )  # fmt: skip
        self._process.send_signal(signal.SIGSTOP)
        self._run = run
        self._clock = 0.0  # seconds for which it was let run
        self.ends: list[tuple[float, float]] = []
        """When each epoch was seen to end: seconds for which the training had run, and its CPU seconds."""
        self.peaks = dict.fromkeys(STATUS, 0)
        """KiB"""

    def let_run(self, seconds: float = math.inf, epochs: float = math.inf) -> None:
        """Let it run for so long, or until so many epochs have ended, or to its end."""
        self._process.send_signal(signal.SIGCONT)
        began, clock = time.monotonic(), self._clock
        while self._process.poll() is None and self._clock - clock < seconds and len(self.ends) < epochs:
            time.sleep(POLL_SECONDS)
            for name, kib in read_status(self._process.pid).items():
                self.peaks[name] = max(self.peaks[name], kib)
            self._clock = clock + time.monotonic() - began
            ended = count_epochs(self._run) - len(self.ends)
            self.ends += [(self._clock, read_cpu_seconds(self._process.pid))] * ended
        self._process.send_signal(signal.SIGSTOP)  # nothing happens where it has ended
        if self._process.returncode:
            raise SystemExit("".join(self.read_said()))

    def read_said(self) -> list[str]:
        """What it has said, line by line."""
        self._said.seek(0)
        return self._said.readlines()

    def summarise(self) -> dict[str, Any]:
        """Rows of an epoch and their rate from the end of the first epoch to the end of the last, validation included;
        peaks of memory in GiB."""
        rows = json.loads((self._run / "split.json").read_text())["counts"]["rows"]
        (wall, cpu), (last_wall, last_cpu) = self.ends[0], self.ends[-1]
        counted = rows * (len(self.ends) - 1)
        return {
            "rows": rows,
            "epoch_ends": [round(end, 2) for end, _ in self.ends],
            "samples_per_second": round(counted / (last_wall - wall), 1),
            "samples_per_cpu_second": round(counted / (last_cpu - cpu), 1),
            "peak_gib": {name: round(kib / 2**20, 2) for name, kib in self.peaks.items()},
        }

    def close(self) -> None:
        """End it where it stands."""
        self._process.kill()
        self._process.wait()
        self._said.close()


def count_epochs(run: Path) -> int:
    """Epochs in a run's history; 0 before it has one."""
    try:
        with (run / "history.csv").open() as stream:
            return sum(1 for _ in csv.DictReader(stream))
    except OSError:
        return 0


def read_cpu_seconds(pid: int) -> float:
    """User and system seconds of a process; NaN when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return sum(int(ticks) for ticks in fields[CPU_FIELDS]) / os.sysconf("SC_CLK_TCK")


def read_status(pid: int) -> dict[str, int]:
    """Resident memory of a process in KiB, in all, its own, and of files mapped into it; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split(":")[0] in STATUS}


def compare_trainings(small: Path, large: Path, folder: Path, limit: str) -> dict[str, Any]:
    """The training from the large file beside that in memory, in turns after the first epoch of each."""
    with (
        closing(Training(large, folder / "streamed", 2, limit)) as streamed,
        closing(Training(small, folder / "memory", MANY_EPOCHS)) as held,
    ):
        for training in (streamed, held):
            training.let_run(epochs=1)
        while len(streamed.ends) < 2 or len(held.ends) < 2:
            for training in (streamed, held):
                training.let_run(TURN_SECONDS)
        streamed.let_run()  # to its end, with all that is written then: its memory counts too
        said = [line.strip() for line in streamed.read_said() if "streaming" in line]
        found = {"said": said, "streamed": streamed.summarise(), "in_memory": held.summarise()}
    for key in ("samples_per_second", "samples_per_cpu_second"):
        found[f"ratio_of_{key}"] = round(found["streamed"][key] / found["in_memory"][key], 3)
    return found


def main() -> None:
    """Parse the command line and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=8, help="size of all rows in float32")
    parser.add_argument("--storage", nargs="+", choices=("gzip", "contiguous"), default=["gzip", "contiguous"])
    parser.add_argument("--limit", default="500MB", help="data.memory_limit")
    parser.add_argument("--memory-rows", type=int, default=12_000, help="rows of the file that is held in memory")
    parser.add_argument("--folder", type=Path, help="for the files and runs [default: a temporary one]")
    arguments = parser.parse_args()
    rows = math.ceil(arguments.gib * 2**30 / count_row_bytes(POINTS, FRAMES, "float32"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        small, large = folder / "small.h5", folder / "large.h5"
        for storage in arguments.storage:
            write_file(small, arguments.memory_rows, storage)
            write_file(large, rows, storage)
            found = {"storage": storage, "stored_gib": round(large.stat().st_size / 2**30, 2)}
            found |= compare_trainings(small, large, folder / storage, arguments.limit)
            print(json.dumps(found | {"machine": describe_machine()}), flush=True)


if __name__ == "__main__":
    main()

"""A training from a file far larger than its memory: resident memory, and speed beside rows held in memory.

    python benchmarks/large_file.py --gib 8 --storage gzip contiguous --limit 500MB

Writes a label-sorted file of simulated float32 rows, recording after recording, and trains `configs/base.yaml` on it
with `data.memory_limit` set, in a process of its own that is watched from outside, and on a small file of the same
content in memory before and after. Costs are linear in rows, so samples a second can be compared. One line of JSON for
each kind of storage.
"""

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
import time
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
GROUP_ROWS = 4 * CHUNK_ROWS  # of a recording
VALIDATION = 0.5  # half of the file trains: an epoch of it all would take twice as long and say the same
STATUS = ("VmRSS", "RssAnon", "RssFile")


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
        file["group"] = np.arange(rows) // GROUP_ROWS


def train(file: Path, run: Path, limit: str | None, epochs: int = 2) -> dict[str, Any]:
    """Train, and tell samples a second of the last epoch (validation included) and the peaks of memory in GiB."""
    settings = [f"data.path={file}", "data.simulate=null", f"split.validation_fraction={VALIDATION}"]
    settings += [f"train.epochs={epochs}", *([f"data.memory_limit={limit}"] if limit else [])]
    command = [sys.executable, "-m", "pointcnn_cli", "train", "configs/base.yaml", "--output", str(run)]
    command += [part for setting in settings for part in ("--set", setting)]
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        peaks = dict.fromkeys(STATUS, 0)
        while process.poll() is None:
            for name, kib in read_status(process.pid).items():
                peaks[name] = max(peaks[name], kib)
            time.sleep(0.2)
        said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(said)
    with (run / "history.csv").open() as stream:
        seconds = [float(row["seconds"]) for row in csv.DictReader(stream)]
    rows = json.loads((run / "split.json").read_text())["counts"]["rows"]
    return {
        "rows": rows,
        "epoch_seconds": seconds,
        "samples_per_second": round(rows / seconds[-1], 1),
        "command_seconds": round(time.monotonic() - started, 1),
        "peak_gib": {name: round(kib / 2**20, 2) for name, kib in peaks.items()},
        "streamed": [line for line in said.splitlines() if "stream" in line],
    }


def read_status(pid: int) -> dict[str, int]:
    """Resident memory of a process in KiB, in all, its own, and of files mapped into it; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split(":")[0] in STATUS}


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
            before = train(small, folder / f"{storage}-before", None)
            streamed = train(large, folder / f"{storage}-streamed", arguments.limit)
            after = train(small, folder / f"{storage}-after", None)
            in_memory = (before["samples_per_second"] + after["samples_per_second"]) / 2
            found = {"storage": storage, "stored_gib": round(large.stat().st_size / 2**30, 2), "streamed": streamed}
            found |= {"in_memory": [before, after], "machine": describe_machine()}
            found["ratio"] = round(streamed["samples_per_second"] / in_memory, 3)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

"""Training from a stream against training from memory: samples a second and CPU seconds, one JSON line.

    python benchmarks/streaming_bench.py --rows 3000 --rounds 7 --chunk 16 --limit 120MB

All feeds train the same network in one process, epoch by epoch in turns, since machines are shared; the first round,
which compiles the graphs, is not counted. Validation and checkpoints are not part of it.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import h5py
import numpy as np
from speed_rounds import compare, describe_machine, summarise, time_call

from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.hdf5.samples import PartSource
from pointcnn_cli.memory import parse_bytes
from pointcnn_cli.runtime import import_keras
from pointcnn_cli.simulate import simulate_samples
from pointcnn_cli.streaming import plan_stream

ROOT = Path(__file__).resolve().parent.parent
STORAGE = {"contiguous": {}, "gzip": {"compression": "gzip", "compression_opts": 4}}


def write_file(path: Path, rows: int, chunk: int, storage: str, dtype: str) -> None:
    """Simulated windows, sorted by label."""
    samples = simulate_samples(SimulateConfig(windows=rows, subjects=40))
    order = np.argsort(samples.labels, kind="stable")
    with h5py.File(path, "w") as file:
        for i, channel in enumerate(samples.channels, 1):
            values = channel[order].astype(dtype)
            chunks = None if storage == "contiguous" else (chunk, *values.shape[1:])
            file.create_dataset(f"channel_{i}", data=values, chunks=chunks, **STORAGE[storage])
        file["label"] = samples.labels[order]
        file["label"].attrs["classes"] = samples.classes


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Rounds of one epoch each: in memory, then from each kind of file."""
    import_keras()  # as a training does: without it TensorFlow may leave out oneDNN, and compute three times as slowly
    from pointcnn_cli.feeding import PartRows
    from pointcnn_cli.fitting import Fit, build_network
    from pointcnn_cli.hdf5.samples import ArraySource, Samples

    fits = {}
    for storage in STORAGE:
        path = folder / f"{storage}.h5"
        write_file(path, arguments.rows, arguments.chunk, storage, arguments.dtype)
        settings = [f"data.path={path}", "data.simulate=null", f"train.epochs={arguments.rounds + 1}"]
        config = load_config(arguments.config, settings)
        source = open_hdf5(config.data)
        rows, labels = np.arange(arguments.rows), source.index.labels
        held = PartRows(rows, ArraySource(Samples(source.read(rows), labels, source.index.classes)), labels)
        if "memory" not in fits:
            fits["memory"] = Fit(config, source.index, build_network(config, source.index), held, held)
        row_bytes = sum(channel[0].nbytes for channel in source.read(rows[:1]))
        plan = plan_stream(source, len(rows), row_bytes, config.train.batch_size, parse_bytes(arguments.limit))
        part = PartRows(rows, PartSource(source, rows), labels)
        fits[storage] = Fit(config, source.index, build_network(config, source.index), part, held, plan)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in fits}
    for epoch in range(1, arguments.rounds + 2):
        for name, fit in fits.items():
            train = partial(fit._feed.fit, fit.trainer, epoch, [], lambda: None)
            rounds[name].append(time_call(train, count=arguments.rows, unit="samples"))
    taken = {name: summarise(values[1:]) for name, values in rounds.items()}
    result: dict[str, Any] = {"config": arguments.config.name, "rows": arguments.rows, "row_bytes": row_bytes}
    result |= {"window_rows": plan.window_rows, "block_rows": plan.block_rows, "machine": describe_machine()}
    for name, found in taken.items():
        result[name] = {key: round(found[key], 2) for key in ("samples_per_second", "cpu_median")}
        if name != "memory":
            result[name] |= {"of_memory": compare(found, taken["memory"])}
    for fit in fits.values():
        fit._feed.close()
    return result


def main() -> None:
    """Parse the command line and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--limit", default="70MB", help="data.memory_limit")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float32", help="of the files")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "base.yaml", help="but for its data")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(parser.parse_args(), Path(folder))))


if __name__ == "__main__":
    main()

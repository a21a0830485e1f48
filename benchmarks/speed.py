"""How fast pointcnn is, beside what a user would write without it.

    python benchmarks/speed.py train --rows 4000 --rounds 7     # against a stock Keras script; --variant for the parts
    python benchmarks/speed.py defaults                         # what normalisation and augmentation cost an epoch
    python benchmarks/speed.py predict | read | startup | scaling

One line of JSON for each measurement. What is compared runs in turns, in warm processes of its own; figures from a busy
machine are only good for their ratios. `--quick` tries the benchmark, not the speed. Linux, and macOS.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from speed_data import TRAIN_SHARE, count_row_bytes, make_file
from speed_rounds import (
    Round,
    Subject,
    compare,
    compute_interval,
    describe_machine,
    measure,
    read_versions,
    summarise,
)

Record = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
AS_ASKED, BASE = ROOT / "configs" / "as_asked.yaml", ROOT / "configs" / "base.yaml"
POINTCNN = [sys.executable, "-m", "pointcnn_cli"]
BATCH = 100  # of the user's script, and of configs/as_asked.yaml
ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}  # pointcnn sets it by itself; a stock script has it only on some processors

# Of `train`: the settings of a training by pointcnn, and whether its progress is shown.
OWN_VARIANTS: dict[str, tuple[list[str], bool]] = {
    "pointcnn": ([], True),
    "pointcnn-silent": ([], False),
    "pointcnn-stock-layers": (["model.fast=false"], True),
}
# The stock script: its arguments beyond the data, and its environment.
STOCK_VARIANTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "stock": ({"progress": True}, ONEDNN),
    "stock-bare": ({"progress": False, "checkpoint": None}, ONEDNN),
    "stock-late-relu": ({"progress": True, "as_written": False}, ONEDNN),
    "stock-untouched": ({"progress": True}, {}),
}
TORCH = "torch"  # compared too wherever PyTorch is installed
DEFAULTS_VARIANTS = {  # of `defaults`: settings beyond configs/base.yaml
    "defaults": [],
    "normalization": ["augment=null"],
    "augmentation": ["model.normalize=none"],
    "off": ["augment=null", "model.normalize=none"],
}
QUICK = {"rows": 60, "points": 8, "frames": 8, "rounds": 2, "gib": 0.001, "sizes": [40, 60], "repeats": 2}


def train_subject(name: str, config: Path, overrides: Sequence[str], file: Path, rows: int, **options: Any) -> Subject:
    """A training by pointcnn; `options` are `progress` and the number of `epochs`."""
    settings = [f"data.path={json.dumps(str(file))}", "split.strategy=tail", f"train.epochs={options['epochs']}"]
    arguments = {
        "config": str(config), "overrides": [*settings, *overrides], "run": str(file.parent / f"run-{name}"),
        "rows": int(rows * TRAIN_SHARE), "progress": options["progress"],
    }  # fmt: skip
    return Subject(name, "train_pointcnn", arguments)


def choose_training(name: str, file: Path, rows: int, epochs: int) -> Subject:
    """A variant of `train` by its name."""
    if name in OWN_VARIANTS:
        overrides, progress = OWN_VARIANTS[name]
        return train_subject(name, AS_ASKED, overrides, file, rows, epochs=epochs, progress=progress)
    arguments = {"file": str(file), "batch": BATCH, "checkpoint": str(file.parent / f"{name}.keras")}
    if name == TORCH:
        return Subject(name, "train_torch", arguments)
    options, environment = STOCK_VARIANTS[name]
    return Subject(name, "train_stock", {**arguments, "epochs": epochs, **options}, environment)


def time_training(arguments: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """Epochs of the network of the original question, by pointcnn, a stock Keras script, and PyTorch where it is."""
    file = make_file(folder / "rows.h5", arguments.rows, arguments.points, arguments.frames, arguments.dtype[0])
    others = [TORCH] if read_versions()[TORCH] else []
    chosen = [name for name in (arguments.variant or ["pointcnn"]) if name != arguments.baseline]
    names = list(dict.fromkeys([*chosen, *others, arguments.baseline]))
    found = measure([choose_training(n, file, arguments.rows, arguments.rounds + 1) for n in names], arguments.rounds)
    for name in names[:-1]:
        pair = {key: found[key] for key in (name, arguments.baseline)}
        yield {"speed": compare(*pair.values()), "subject": name, "baseline": arguments.baseline, "subjects": pair}


def time_defaults(arguments: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """Epochs of the default training, with and without what makes it better."""
    file = make_file(folder / "rows.h5", arguments.rows, arguments.points, arguments.frames, arguments.dtype[0])
    names = list(dict.fromkeys([*(arguments.variant or ["defaults"]), "off"]))
    subjects = [
        train_subject(
            name, BASE, DEFAULTS_VARIANTS[name], file, arguments.rows, epochs=arguments.rounds + 1, progress=True
        )
        for name in names
    ]
    found = measure(subjects, arguments.rounds)
    for name in names[:-1]:
        pair = {key: found[key] for key in (name, "off")}
        yield {"cost": compare(found["off"], found[name]), "subject": name, "baseline": "off", "subjects": pair}


def time_prediction(arguments: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """`pointcnn predict` of a file into a CSV, and `model.predict` of arrays; the better batch size counts for the
    stock side."""
    grid = (arguments.points, arguments.frames)
    run, small = folder / "run", make_file(folder / "small.h5", 60, *grid)
    settings = [f"data.path={json.dumps(str(small))}", "train.epochs=1"]
    command = [*POINTCNN, "-q", "train", str(AS_ASKED), "--output", str(run)]
    subprocess.run(
        [*command, *(part for setting in settings for part in ("--set", setting))],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for dtype in arguments.dtype:
        file = make_file(folder / f"rows-{dtype}.h5", arguments.rows, *grid, dtype, arguments.gzip)
        shared, table, arrays = {"run": str(run), "file": str(file)}, folder / "rows.csv", folder / "rows.npy"
        stock = {**shared, "output": str(arrays)}
        subjects = [
            Subject("pointcnn", "predict_pointcnn", {**shared, "output": str(table)}),
            *(Subject(f"stock-{n}", "predict_stock", {**stock, "batch": n}, ONEDNN) for n in (32, 128)),
        ]
        found = measure(subjects, arguments.rounds)
        better = min(("stock-32", "stock-128"), key=lambda name: found[name]["wall_median"])
        yield {
            "speed": compare(found["pointcnn"], found[better]), "subject": "pointcnn", "baseline": better,
            "dtype": dtype, "gzip": arguments.gzip, "largest_difference": find_difference(table, arrays),
            "subjects": found,
        }  # fmt: skip
        file.unlink()


def find_difference(table: Path, arrays: Path) -> float:
    """The largest difference between the probabilities of both sides."""
    with table.open() as file:
        lines = list(csv.reader(file))
    columns = [i for i, name in enumerate(lines[0]) if name.startswith("p_")]
    ours = np.array([[float(line[i]) for i in columns] for line in lines[1:]])
    return float(np.abs(ours - np.load(arrays)).max())


def time_reading(arguments: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """All rows through pointcnn's source, and as slices of h5py's datasets; the file is in the system's cache."""
    for dtype in arguments.dtype:
        for packed in (False, True):
            file = make_file(folder / "rows.h5", arguments.rows, arguments.points, arguments.frames, dtype, gzip=packed)
            subjects = [
                Subject("pointcnn", "read_pointcnn", {"file": str(file)}),
                Subject("h5py", "read_h5py", {"file": str(file)}),
            ]
            found = measure(subjects, arguments.rounds)
            yield {
                "speed": compare(found["pointcnn"], found["h5py"]), "subject": "pointcnn", "baseline": "h5py",
                "dtype": dtype, "layout": "gzip" if packed else "contiguous", "file_bytes": file.stat().st_size,
                "subjects": found,
            }  # fmt: skip
            file.unlink()


def time_startup(arguments: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """Whole commands, in turns. The file for `data inspect` is float16 and contiguous, and in the system's cache."""
    rows = max(12, int(arguments.gib * 2**30 / count_row_bytes(arguments.points, arguments.frames, "float16")))
    file = make_file(folder / "rows.h5", rows, arguments.points, arguments.frames)
    commands = {
        "--help": ["--help"],
        "config validate": ["config", "validate", str(BASE)],
        "data inspect": ["data", "inspect", str(file)],
    }
    taken: dict[str, list[Round]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, words in commands.items():
            taken[name].append(run_command([*POINTCNN, *words]))
    for name, rounds in taken.items():
        size = {"file_bytes": file.stat().st_size} if name == "data inspect" else {}
        yield {"command": name, **size, **summarise(rounds)}


def run_command(command: Sequence[str]) -> Round:
    """Wall and CPU seconds of a command that must succeed, its children included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def time_scaling(arguments: argparse.Namespace, folder: Path) -> Iterator[Record]:
    """Epochs of pointcnn's training at several numbers of rows, and what the first epoch takes beyond a later one."""
    subjects = []
    for rows in arguments.sizes:
        file = make_file(folder / f"{rows}.h5", rows, arguments.points, arguments.frames, arguments.dtype[0])
        subjects.append(train_subject(str(rows), AS_ASKED, [], file, rows, epochs=arguments.rounds + 1, progress=True))
    for name, found in measure(subjects, arguments.rounds).items():
        rates = [one["count"] / one["wall_seconds"] for one in found["rounds"]]
        yield {
            "rows": int(name),
            "samples_per_second": found["samples_per_second"],
            "interval_95": compute_interval(rates),
            "first_epoch_extra_seconds": found["first"]["wall_seconds"] - found["rounds"][0]["wall_seconds"],
            "subjects": {"pointcnn": found},
        }


COMMANDS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Record]]] = {
    "train": time_training,
    "defaults": time_defaults,
    "predict": time_prediction,
    "read": time_reading,
    "startup": time_startup,
    "scaling": time_scaling,
}
ROWS = {"train": 4000, "defaults": 3000, "predict": 20_000, "read": 8000}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.add_argument("--quick", action="store_true", help="as small as can be: a trial of the benchmark")
        command.add_argument("--points", type=int, default=64, help="point slots a frame")
        command.add_argument("--frames", type=int, default=48, help="frames a row")
        if name in ROWS:
            command.add_argument("--rows", type=int, default=ROWS[name])
        if name == "startup":
            command.add_argument("--gib", type=float, default=1.0, help="size of the file for data inspect")
            command.add_argument("--repeats", type=int, default=7)
            continue
        command.add_argument("--rounds", type=int, default=7)
        several = name in ("predict", "read")
        command.add_argument(
            "--dtype", nargs="+" if several else 1, choices=("float16", "float32"),
            default=["float16", "float32"] if several else ["float32"], help="as stored in the file",
        )  # fmt: skip
    add = commands.choices["train"].add_argument
    trainings = [*OWN_VARIANTS, *STOCK_VARIANTS]
    add("--variant", action="append", choices=trainings, help="what is compared; may be repeated [pointcnn]")
    add("--baseline", choices=trainings, default="stock", help="with what [stock]")
    chosen = [name for name in DEFAULTS_VARIANTS if name != "off"]
    commands.choices["defaults"].add_argument("--variant", action="append", choices=chosen, help="may be repeated")
    commands.choices["predict"].add_argument("--gzip", action="store_true", help="store the rows packed")
    commands.choices["scaling"].add_argument("--sizes", type=int, nargs="+", default=[2000, 8000, 32_000])
    return parser


def main() -> int:
    arguments = build_parser().parse_args()
    if arguments.quick:
        vars(arguments).update({key: value for key, value in QUICK.items() if hasattr(arguments, key)})
    about = {"benchmark": arguments.command, "settings": vars(arguments), "versions": read_versions()}
    with tempfile.TemporaryDirectory() as folder:
        machine = describe_machine()
        for record in COMMANDS[arguments.command](arguments, Path(folder)):
            print(json.dumps({**about, "machine": machine, **record}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

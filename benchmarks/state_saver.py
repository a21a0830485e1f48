"""A process that saves states without TensorFlow, to be killed: the target of `kill_campaign.py`.

It reads orders from stdin, one JSON object a line, and forks a child for each, so that a thousand children cost no
thousand starts of Python. A child does what a training does between two epochs: with arrays that follow from the epoch.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pointcnn_cli.checkpoints import Arrays
from pointcnn_cli.errors import PointcnnError
from pointcnn_cli.rundir import RunDir

BEGIN, RESUMED, END = (
    "begin of the start",
    "begin of the save",
    "end of the save",
)  # looked for, so that a trace shows it
_PR_SET_PTRACER, _ANYONE = 0x59616D61, -1  # prctl(2)


def make_arrays(epoch: int, size: int) -> Arrays:
    """Arrays of `size` numbers in all that belong to `epoch` and to no other."""
    rng = np.random.default_rng(epoch)
    return {
        "model/kernel": rng.normal(size=size - 1).astype(np.float32),
        "optimizer/000/iteration": np.array(epoch, np.int64),
    }


def make_history(epoch: int) -> list[dict[str, Any]]:
    """One row for each epoch up to `epoch`."""
    return [{"epoch": e, "loss": 1 / e} for e in range(1, epoch + 1)]


def save_epoch(run: RunDir, epoch: int, size: int) -> None:
    """Everything that a training writes after an epoch."""
    run.write_state(epoch, make_arrays(epoch, size), {"history": make_history(epoch)})
    write_derived(run, epoch, size)


def write_derived(run: RunDir, epoch: int, size: int) -> None:
    """The files that follow from the state of `epoch`; also written at every start, as a kill may leave them behind."""
    arrays = make_arrays(epoch, size)
    run.write_weights(run.last, arrays, epoch)
    run.write_weights(run.best, arrays, epoch)
    run.write_history(make_history(epoch))


def create_run(path: Path, epochs: int, size: int) -> None:
    """A run whose first `epochs` epochs are saved, and that its process has left."""
    manifest = {
        "schema_version": 1, "status": "running", "classes": ["a", "b"], "channel_shapes": [[3, 4, 5]] * 4, "data": {},
        "environment": {},
    }  # fmt: skip
    run = RunDir.create(path, "seed: 0\n", manifest, {"schema_version": 1})
    for epoch in range(1, epochs + 1):
        save_epoch(run, epoch, size)
    run.unlock()


def serve() -> None:
    """Carry out orders until stdin ends; each is answered with the lines of its child and a last one, `ended`."""
    with tempfile.TemporaryDirectory() as folder:  # what is imported late is imported now: traces show no imports
        create_run(Path(folder) / "run", 1, 2)
        RunDir(Path(folder) / "run").read_newest_state()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _obey(order)
        if order["traced"]:
            os.waitpid(child, os.WUNTRACED)
            say(stopped=child)
        _, status = os.waitpid(child, 0)
        say(ended=os.waitstatus_to_exitcode(status))


def _obey(order: dict[str, Any]) -> None:
    """Continue the run by some epochs, or create it, and end with the exit code that `pointcnn` would have."""
    say(pid=os.getpid())
    if order["traced"]:
        with contextlib.suppress(AttributeError):  # where the kernel lets only ancestors trace, let anyone
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYONE)
        os.kill(os.getpid(), signal.SIGSTOP)
    code, problem = 0, {}
    os.access(BEGIN, os.F_OK)
    try:
        if Path(order["run"]).exists():
            _continue(order)
        else:
            create_run(Path(order["run"]), order["epochs"], order["size"])
    except PointcnnError as error:
        code, problem = error.exit_code, {"message": error.message, "hint": error.hint}
    os.access(END, os.F_OK)
    if problem:
        say(**problem)
    os._exit(code)


def _continue(order: dict[str, Any]) -> None:
    run = RunDir.open(Path(order["run"]))
    run.lock()
    found = run.read_newest_state()
    first = 1
    if found is not None:
        first = found[0] + 1
        write_derived(run, found[0], order["size"])
    os.access(RESUMED, os.F_OK)
    for epoch in range(first, first + order["epochs"]):
        save_epoch(run, epoch, order["size"])
        if not order["traced"]:
            say(saved=epoch)


def say(**fact: Any) -> None:
    """One line of JSON in one piece, past Python's buffer, which a kill would take along."""
    os.write(1, (json.dumps(fact) + "\n").encode())


if __name__ == "__main__":
    serve()

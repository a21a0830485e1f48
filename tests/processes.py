"""pointcnn in processes of its own: started, waited for, given faults; and what must hold of a run afterwards."""

import contextlib
import csv
import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from conftest import ROOT

from pointcnn_cli.rundir import RunDir

POINTCNN = [sys.executable, "-m", "pointcnn_cli"]
LIMIT = 300  # seconds; generous, since TensorFlow alone may take a minute to start on a busy machine
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # what a path holds need not be text
SMOKE = str(ROOT / "configs" / "smoke.yaml")
# Root may write anywhere; a process started through this may not.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
UNPRIVILEGED += ["--inh-caps=-dac_override,-dac_read_search"]


def settings(**values: object) -> list[str]:
    """`--set` options for the smallest useful training: `train__epochs=3` sets train.epochs."""
    small = {"data__simulate__windows": 24, "data__simulate__subjects": 4, "model__name": "pointnet_tcn"}
    small |= {"data__simulate__points": 8, "data__simulate__frames": 8, "data__simulate__stride": 4}
    small |= {"train__early_stopping": "null"}
    chosen = [f"{key.replace('__', '.')}={value}" for key, value in (small | values).items()]
    return [part for setting in chosen for part in ("--set", setting)]


def reset_signals() -> None:
    """In a child: the test run itself may be in the background or under nohup, with signals ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def pointcnn(*arguments: object, before: list[str] | None = None, **options) -> subprocess.CompletedProcess[str]:
    """Run pointcnn to its end. `before` is put before the command, as `setpriv ...` is."""
    command = [*(before or []), *POINTCNN, *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **TEXT, **options}
    done = subprocess.run(command, timeout=LIMIT, check=False, preexec_fn=reset_signals, **options)
    assert "Traceback" not in (done.stderr or "")
    return done


def in_terminal(*arguments: object, columns: int = 60, encoding: str = "utf-8", **variables: str) -> tuple[int, str]:
    """Run pointcnn with stdout and stderr on a terminal of so many columns; its exit code and all that was shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "TF_CPP_MIN_LOG_LEVEL")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    environment = {**kept, "TERM": "xterm", "PYTHONIOENCODING": encoding, **variables}
    process = start(*arguments, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # which a terminal gives when the last one that writes to it has ended
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    text = shown.decode(encoding).replace("\r\n", "\n")
    assert "Traceback" not in text
    return process.wait(LIMIT), text


def start(*arguments: object, before: list[str] | None = None, **options) -> subprocess.Popen[str]:
    """Start pointcnn, with a pipe from its stderr unless `options` say otherwise."""
    command = [*(before or []), *POINTCNN, *map(str, arguments)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": ROOT, **TEXT, **options}
    return subprocess.Popen(command, **{"preexec_fn": reset_signals, **options})


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process said on stderr up to the line that holds `text`."""
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it ended with {process.wait(LIMIT)} and never said {text!r}:\n{said}")


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until `condition` holds while the process runs."""
    started = time.monotonic()
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() - started < LIMIT
        time.sleep(0.001)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what is left of stderr."""
    _, said = process.communicate(timeout=LIMIT)
    assert "Traceback" not in said
    return process.returncode, said


def copy_unfinished(trained: RunDir, target: Path) -> RunDir:
    """A copy of the shared run as it was before its last epoch: resuming it must end like the original."""
    shutil.copytree(trained.path, target)
    run = RunDir.open(target)
    max(run.checkpoints.glob("state-*")).unlink()
    run.metrics.unlink()
    run.predictions.unlink()
    run.update_manifest(status="interrupted")
    return run


def check_whole(path: Path) -> int:
    """Invariant K: the newest state loads, history.csv parses, and the next start leaves nothing half written.

    Returns the epoch of the newest state.
    """
    run = RunDir.open(path)
    epoch, _, _, problems = run.read_newest_state()
    assert problems == []
    with run.history.open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) in (epoch - 1, epoch)  # the state is written first
    run.lock()
    run.unlock()
    assert [name for name in os.listdir(run.path) + os.listdir(run.checkpoints) if name.startswith(".tmp-")] == []
    return epoch


def check_same_end(run: RunDir, trained: RunDir) -> None:
    """The same bytes in all that a training leaves, but for seconds and what the manifest says of processes."""
    for name in ("best.safetensors", "last.safetensors"):
        assert (run.checkpoints / name).read_bytes() == (trained.checkpoints / name).read_bytes()
    assert run.split.read_bytes() == trained.split.read_bytes()
    assert run.read_metrics() == trained.read_metrics()
    assert run.predictions.read_bytes() == trained.predictions.read_bytes()
    assert run.read_manifest()["status"] == "finished"
    histories = [csv.DictReader(one.history.read_text().splitlines()) for one in (run, trained)]
    assert [r | {"seconds": ""} for r in histories[0]] == [r | {"seconds": ""} for r in histories[1]]

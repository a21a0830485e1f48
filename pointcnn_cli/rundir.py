"""A run directory: the one owner of its file names, of how they are written, and of the lock on it."""

import contextlib
import csv
import io
import os
import platform
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pointcnn_cli.checkpoints import Arrays, pack, unpack
from pointcnn_cli.documents import cannot_read, read_document, read_sealed, write_document, write_sealed
from pointcnn_cli.errors import OutputError, RunError
from pointcnn_cli.files import check_new, create_folder, lock_folder, output_error, read_regular, sweep, write_whole

HISTORY_COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
MANIFEST_KEYS = {"status": str, "classes": list, "channel_shapes": list, "data": dict, "environment": dict}
"""Keys of the manifest that others read, and their types."""
UNCALIBRATED = "the run was trained without it; train with --set train.calibrate=true"
STATE_NAME = re.compile(r"state-([0-9]+)\.safetensors")
RUNS = "runs"  # the folder of runs: below the working directory, or in a cross-validation
STATES_KEPT = 2  # the newest, and one to fall back on when it is damaged


class RunDir:
    """Paths and files of one run. Every file is written whole or not at all; nothing of another run is touched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.split = path / "split.json"
        self.history = path / "history.csv"
        self.predictions = path / "predictions.csv"
        self.metrics = path / "metrics.json"
        self.report = path / "report.html"
        self.calibration = path / "calibration.json"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.safetensors"
        self.last = self.checkpoints / "last.safetensors"
        self.tensorboard = path / "tensorboard"
        self._lock: int | None = None

    @property
    def resume_command(self) -> str:
        """What continues this run, for a shell."""
        return f"pointcnn train --resume {shlex.quote(str(self.path))}"

    @classmethod
    def create(cls, target: Path, config: str, manifest: Mapping[str, Any], split: Mapping[str, Any]) -> Self:
        """Make the directory, locked: it appears by one rename, with config, manifest and split.

        What killed processes left beside it half made is removed. Raises OutputError when `target` exists or cannot be
        made; then nothing is left of it.
        """
        created = cls(check_new(target))
        names = {path.name for path in (created.config, created.manifest, created.split, created.checkpoints)}

        def fill(folder: Path) -> None:
            draft = cls(folder)
            draft.checkpoints.mkdir()
            write_whole(draft.config, config.encode())
            write_sealed(draft.manifest, {**manifest, "process": _describe_process()})
            write_document(draft.split, split)

        created._lock = create_folder(created.path, names, fill)
        return created

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run. Raises RunError when `path` is not one."""
        run = cls(path.absolute())
        if not os.path.exists(path):
            raise RunError(
                f"{path}: no such run directory", "pointcnn train prints the directory of the run as its last line"
            )
        missing = [p.name for p in (run.config, run.manifest, run.split) if not os.path.isfile(p)]
        if missing:
            below = path / RUNS
            hint = (
                f"name one of the runs in {below}" if below.is_dir() else "name the directory that pointcnn train made"
            )
            raise RunError(f"{path}: not a run directory; it has no {', '.join(missing)}", hint)
        return run

    def lock(self) -> None:
        """Keep other processes out until this one ends, then remove what a killed one left half written or cleared.

        Raises OutputError when another process has the lock.
        """
        self._lock = _lock_run(self.path)
        try:
            for folder in (self.path, self.checkpoints):
                sweep(folder)
            self._clear_states()
            self.update_manifest(process=_describe_process())  # last: the disk may be full of what was just removed
        except BaseException:
            self.unlock()
            raise

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # nothing was written through it
                os.close(self._lock)
            self._lock = None

    def read_manifest(self) -> dict[str, Any]:
        """The manifest. Raises RunError when it is damaged or of a newer pointcnn."""
        return read_sealed(self.manifest, MANIFEST_KEYS)

    def update_manifest(self, **changes: Any) -> None:
        """Write the manifest anew with these keys changed."""
        write_sealed(self.manifest, {**self.read_manifest(), **changes})

    def read_metrics(self) -> dict[str, Any]:
        """The scores. Raises RunError when they are missing or damaged."""
        return read_document(self.metrics)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        write_document(self.metrics, metrics)

    def read_calibration(self) -> dict[str, Any]:
        """The fitted temperature, and what it does. Raises RunError where the run has none."""
        return read_document(self.calibration, UNCALIBRATED)

    def write_calibration(self, calibration: Mapping[str, Any]) -> None:
        """Write calibration.json."""
        write_document(self.calibration, calibration)

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write history.csv: one line an epoch; numbers survive the round trip."""
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.history, text.getvalue().encode())

    def write_weights(self, path: Path, weights: Arrays, epoch: int) -> None:
        """Write a checkpoint of weights by name, unless the same bytes are there."""
        data = pack(weights, {"epoch": epoch})
        with contextlib.suppress(OSError, ValueError):  # missing, larger, or not a file: replaced
            if read_regular(path, len(data)) == data:
                return
        write_whole(path, data)

    def read_weights(self, path: Path) -> tuple[Arrays, int]:
        """Weights by name, and their epoch. Raises RunError when the file is missing or damaged."""
        if not path.is_file():
            raise RunError(
                f"{path}: no such checkpoint",
                f"the run saved no epoch; continue it with: {self.resume_command}",
            )
        arrays, facts = unpack(path)
        return arrays, int(facts["epoch"])

    def write_state(self, epoch: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Write what resuming after `epoch` needs as one file with a digest of it all; of the older ones, the newest
        stays."""
        write_whole(self._state(epoch), pack(arrays, {**facts, "epoch": epoch}))
        self._remove_states(epoch)

    def read_newest_state(self) -> tuple[int, Arrays, dict[str, Any], list[str]] | None:
        """(epoch, arrays, facts, damaged newer files) of the newest whole state; None when no state was ever written.

        Raises RunError when states exist and all are damaged.
        """
        problems: list[str] = []
        for epoch in self._list_states():
            path = self._state(epoch)
            try:
                arrays, facts = unpack(path)
            except RunError as error:
                problems.append(error.message)
                continue
            if facts["epoch"] == epoch:
                return epoch, arrays, facts, problems
            problems.append(f"{path}: holds the state of epoch {facts['epoch']}")
        if problems:
            raise RunError(
                "no state of this run is whole:\n" + "\n".join(problems),
                "train again with: pointcnn train " + str(self.config),
            )
        return None

    def _remove_states(self, epoch: int) -> None:
        """Remove the states before `epoch`, itself whole, but the newest of them. What cannot be removed stays."""
        with contextlib.suppress(OSError, RunError):
            for old in [e for e in self._list_states() if e <= epoch][STATES_KEPT:]:
                self._state(old).unlink()

    def _clear_states(self) -> None:
        """Remove the state that a process would have removed, had it not been killed between writing and removing."""
        with contextlib.suppress(RunError):  # told when the state is to be used
            if len(self._list_states()) > STATES_KEPT and (newest := self.read_newest_state()):
                self._remove_states(newest[0])

    def _state(self, epoch: int) -> Path:
        return self.checkpoints / f"state-{epoch:05d}.safetensors"

    def _list_states(self) -> list[int]:
        """Epochs with a state file, the newest first; by number, never by time stamp.

        Raises RunError where the folder cannot be read: that does not mean that there are none.
        """
        try:
            names = os.listdir(self.checkpoints)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot_read(self.checkpoints, error) from error
        return sorted((int(found[1]) for name in names if (found := STATE_NAME.fullmatch(name))), reverse=True)


def default_target(name: str) -> Path:
    """`runs/NAME/TIME-ID` below the working directory."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path(RUNS) / name / f"{stamp}-{secrets.token_hex(2)}"


def _lock_run(folder: Path) -> int:
    """Lock `folder` until the descriptor that this returns is closed. Raises OutputError."""
    try:
        return lock_folder(folder)
    except BlockingIOError:
        raise OutputError(
            f"{folder}: another pointcnn process ({_name_holder(folder)}) is working on this run",
            "wait until it ends, or stop it",
        ) from None
    except OSError as error:
        raise output_error(folder, error) from error


def _describe_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node()}


def _name_holder(folder: Path) -> str:
    """Who locked `folder`, as its manifest says."""
    with contextlib.suppress(RunError, KeyError, TypeError):
        process = read_document(RunDir(folder).manifest)["process"]
        return f"pid {process['pid']} on {process['host']}"
    return "pid unknown"


def describe_vanished(process: Any) -> str:
    """What is to be known of a process that holds no lock any more and never said how it ended."""
    who = f" (pid {process.get('pid')} on {process.get('host')})" if isinstance(process, dict) else ""
    return (
        f"the last process{who} vanished without a word: killed (out of memory, SIGKILL), or its machine stopped; "
        "nothing but the epoch in progress is lost. If memory was short, a new run with a smaller train.batch_size "
        "needs less"
    )

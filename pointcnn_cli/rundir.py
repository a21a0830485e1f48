"""A run directory: the one owner of its file names, of how they are written, and of the lock on it."""

import contextlib
import csv
import fcntl
import io
import json
import os
import platform
import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pointcnn_cli.checkpoints import RESTORE, Arrays, pack, unpack
from pointcnn_cli.errors import OutputError, RunError
from pointcnn_cli.files import TEMPORARY_PREFIX, output_error, sync_folder, write_whole

SCHEMA_VERSION = 1
HISTORY_COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
MANIFEST_KEYS = {"status": str, "classes": list, "channel_shapes": list, "data": dict, "environment": dict}
"""Keys of the manifest that others read, and their types."""
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
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.safetensors"
        self.last = self.checkpoints / "last.safetensors"
        self._lock: int | None = None

    @classmethod
    def create(cls, target: Path, config: str, manifest: Mapping[str, Any], split: Mapping[str, Any]) -> Self:
        """Make the directory, locked: it appears by one rename, with config, manifest and split.

        Raises OutputError when `target` exists or cannot be made; then nothing is left of it.
        """
        target = check_new(target)
        temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        draft, created = cls(temporary), cls(target)
        try:
            temporary.mkdir(parents=True)
            draft.checkpoints.mkdir()
            created._lock = _lock_folder(temporary)  # a lock goes with its folder when that is renamed
            write_whole(draft.config, config.encode())
            _write_json(draft.manifest, {**manifest, "process": _describe_process()})
            _write_json(draft.split, split)
            os.rename(temporary, target)
            sync_folder(target.parent)
        except BaseException as error:
            created.unlock()
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise output_error(target, error) from error
            if isinstance(error, OutputError):
                raise OutputError(error.message.replace(str(temporary), str(target)), error.hint) from error
            raise
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
            raise RunError(
                f"{path}: not a run directory; it has no {', '.join(missing)}",
                "name the directory that pointcnn train made",
            )
        return run

    def lock(self) -> None:
        """Keep other processes out until this one ends, then remove what a killed one left half written.

        Raises OutputError when another process has the lock.
        """
        self._lock = _lock_folder(self.path)
        self.update_manifest(process=_describe_process())
        for folder in (self.path, self.checkpoints):
            for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
                with contextlib.suppress(OSError):  # not a file, so not ours; or not removable, which harms nothing
                    leftover.unlink()

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read_manifest(self) -> dict[str, Any]:
        """The manifest. Raises RunError when it is damaged or of a newer pointcnn."""
        manifest = _read_json(self.manifest)
        if wrong := [key for key, kind in MANIFEST_KEYS.items() if not isinstance(manifest.get(key), kind)]:
            raise RunError(
                f"{self.manifest}: damaged; it lacks {', '.join(wrong)}, or they are of another type",
                RESTORE,
            )
        return manifest

    def update_manifest(self, **changes: Any) -> None:
        """Write the manifest anew with these keys changed."""
        _write_json(self.manifest, {**self.read_manifest(), **changes})

    def read_metrics(self) -> dict[str, Any]:
        """The scores. Raises RunError when they are missing or damaged."""
        return _read_json(self.metrics)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        _write_json(self.metrics, metrics)

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
        with contextlib.suppress(OSError):
            if path.read_bytes() == data:
                return
        write_whole(path, data)

    def read_weights(self, path: Path) -> tuple[Arrays, int]:
        """Weights by name, and their epoch. Raises RunError when the file is missing or damaged."""
        if not path.is_file():
            raise RunError(
                f"{path}: no such checkpoint",
                f"the run saved no epoch; continue it with: pointcnn train --resume {self.path}",
            )
        arrays, facts = unpack(path)
        return arrays, int(facts["epoch"])

    def write_state(self, epoch: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Write what resuming after `epoch` needs as one file with a digest of it all; of the older ones, the newest
        stays."""
        write_whole(self._state(epoch), pack(arrays, {**facts, "epoch": epoch}))
        for old in [e for e in self._list_states() if e <= epoch][STATES_KEPT:]:
            with contextlib.suppress(OSError):
                self._state(old).unlink()

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

    def _state(self, epoch: int) -> Path:
        return self.checkpoints / f"state-{epoch:05d}.safetensors"

    def _list_states(self) -> list[int]:
        """Epochs with a state file, the newest first; by number, never by time stamp."""
        names = [p.stem.removeprefix("state-") for p in self.checkpoints.glob("state-*.safetensors")]
        return sorted((int(n) for n in names if n.isdecimal()), reverse=True)


def check_new(target: Path) -> Path:
    """The absolute path of a directory to be made. Raises OutputError for what can be known before any work."""
    target = target.absolute()
    if os.path.lexists(target):
        raise OutputError(f"{target}: exists already", "a run is never overwritten; choose another --output")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise OutputError(f"{target}: cannot be made (Not a directory: {parent})", "choose another --output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: no permission to make folders in {parent}", "choose another --output")
    return target


def default_target(name: str) -> Path:
    """`runs/NAME/TIME-ID` below the working directory."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path("runs") / name / f"{stamp}-{secrets.token_hex(2)}"


def _lock_folder(folder: Path) -> int:
    """Lock `folder` until the descriptor that this returns is closed. Raises OutputError."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise output_error(folder, error) from error
        raise OutputError(
            f"{folder}: another pointcnn process ({_name_holder(folder)}) is working on this run",
            "wait until it ends, or stop it",
        ) from None
    return descriptor


def _describe_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node()}


def _name_holder(folder: Path) -> str:
    """Who locked `folder`, as its manifest says."""
    with contextlib.suppress(RunError, KeyError, TypeError):
        process = _read_json(RunDir(folder).manifest)["process"]
        return f"pid {process['pid']} on {process['host']}"
    return "pid unknown"


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode(errors="backslashreplace"))  # bytes of a path that are not text: JSON's \udcxx


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        version = document["schema_version"]
    except FileNotFoundError:
        raise RunError(f"{path}: no such file", "the training did not end; continue it with --resume") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({error})", RESTORE) from error
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema_version is {version}, this pointcnn reads {SCHEMA_VERSION}",
            "use the pointcnn that made it",
        )
    return dict(document)

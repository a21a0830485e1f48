"""A run directory: the one owner of its file names, of how they are written, and of the lock on it."""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import OutputError, RunError
from pointcnn_cli.files import TEMPORARY_PREFIX, output_error, sync_folder, write_whole

SCHEMA_VERSION = 1
HISTORY_COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")
STATES_KEPT = 2  # the newest, and one to fall back on when it is damaged

Arrays = dict[str, NDArray[Any]]


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

        Raises OutputError when `target` exists or cannot be made.
        """
        target = target.absolute()
        if os.path.lexists(target):
            raise OutputError(f"{target}: exists already", "a run is never overwritten; choose another --output")
        temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            temporary.mkdir(parents=True)
            run = cls(temporary)
            run.checkpoints.mkdir()
            lock = _lock_folder(temporary)
            write_whole(run.config, config.encode())
            _write_json(run.manifest, manifest)
            _write_json(run.split, split)
            os.rename(temporary, target)
            sync_folder(target.parent)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise output_error(target, error) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        created = cls(target)
        created._lock = lock
        return created

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run. Raises RunError when `path` is not one."""
        run = cls(path.absolute())
        if not path.exists():
            raise RunError(
                f"{path}: no such run directory", "pointcnn train prints the directory of the run as its last line"
            )
        missing = [p.name for p in (run.config, run.manifest, run.split) if not p.is_file()]
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
        for folder in (self.path, self.checkpoints):
            for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
                leftover.unlink()

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read_manifest(self) -> dict[str, Any]:
        """The manifest. Raises RunError when it is damaged or of a newer pointcnn."""
        return _read_json(self.manifest)

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
        from safetensors.numpy import save

        data = save(weights, {"format": "pointcnn-weights", "epoch": str(epoch)})
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
        arrays, metadata = _read_safetensors(path)
        return arrays, int(metadata.get("epoch", 0))

    def write_state(self, epoch: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Write what resuming after `epoch` needs as one file with a digest of it all; the newest two are kept."""
        from safetensors.numpy import save

        text = json.dumps(facts, sort_keys=True)
        metadata = {"format": "pointcnn-state", "facts": text, "sha256": _digest(arrays, text)}
        write_whole(self._state(epoch), save(arrays, metadata))
        for old in self._list_states()[STATES_KEPT:]:
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
                arrays, metadata = _read_safetensors(path)
                if _digest(arrays, metadata["facts"]) != metadata["sha256"]:
                    raise RunError(f"{path}: damaged; its content does not match its digest")
                facts = json.loads(metadata["facts"])
                if facts["epoch"] != epoch:
                    raise RunError(f"{path}: holds the state of epoch {facts['epoch']}")
                return epoch, arrays, facts, problems
            except (RunError, KeyError, TypeError, ValueError) as error:
                problems.append(str(error) if isinstance(error, RunError) else f"{path}: damaged; {error}")
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
        return sorted((int(n) for n in names if n.isdigit()), reverse=True)


def default_target(name: str) -> Path:
    """`runs/NAME/TIME-ID` below the working directory."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path("runs") / name / f"{stamp}-{secrets.token_hex(2)}"


def _lock_folder(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise OutputError(
            f"{folder}: another pointcnn process is working on this run", "wait until it ends, or stop it"
        ) from None
    return descriptor


def _digest(arrays: Arrays, facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}: damaged or not a checkpoint ({error})", "restore it from a copy, or train again"
        ) from error


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        version = document["schema_version"]
    except FileNotFoundError:
        raise RunError(f"{path}: no such file", "the training did not end; continue it with --resume") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({error})", "restore it from a copy, or train again") from error
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema_version is {version}, this pointcnn reads {SCHEMA_VERSION}",
            "use the pointcnn that made it",
        )
    return dict(document)

"""A cross-validation directory: the one owner of its file names, of how they are written, and of who trains what."""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from pointcnn_cli.config.changes import list_changes, read_stored
from pointcnn_cli.config.load import load_resolved
from pointcnn_cli.config.schema import Config
from pointcnn_cli.documents import read_document, read_sealed, write_document, write_sealed
from pointcnn_cli.errors import RunError
from pointcnn_cli.files import check_new, create_folder, output_error, write_whole
from pointcnn_cli.rundir import RUNS, RunDir

MANIFEST_NAME = "cv.json"
MANIFEST_KEYS = {"folds": int, "seeds": list, "threads": int, "classes": list, "config": dict, "data": dict}
"""Keys of cv.json that others read, and their types."""
FREE_IN_MEMBERS = ("name", "data.memory_limit")  # a stream writes its own limit into the config of its run
NOT_COLLECTED = "not all of it was trained; put together what is there with: pointcnn cv --collect DIR"


@dataclass(frozen=True, order=True)
class Member:
    """One training of a cross-validation."""

    seed: int
    """The `seed` of its config."""
    fold: int
    """Its `split.fold`: the rows that it does not train on."""

    @property
    def name(self) -> str:
        """The name of its run directory."""
        return f"fold-{self.fold}-seed-{self.seed}"


class CvDir:
    """Paths and files of one cross-validation. Every file is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / MANIFEST_NAME
        self.runs = path / RUNS
        self.logs = path / "logs"
        self.predictions = path / "predictions.csv"
        self.metrics = path / "metrics.json"
        self.report = path / "report.html"

    @classmethod
    def create(cls, target: Path, config: str, manifest: Mapping[str, Any]) -> Self:
        """Make the directory: it appears by one rename, with its config and cv.json. Raises OutputError."""
        created = cls(check_new(target))
        names = {path.name for path in (created.config, created.manifest, created.runs, created.logs)}

        def fill(folder: Path) -> None:
            draft = cls(folder)
            draft.runs.mkdir()
            draft.logs.mkdir()
            write_whole(draft.config, config.encode())
            write_sealed(draft.manifest, manifest)

        os.close(create_folder(created.path, names, fill))
        return created

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing one. Raises RunError when `path` is not one."""
        if not is_cv(path):
            what = "not the directory of a cross-validation" if os.path.exists(path) else "no such directory"
            raise RunError(f"{path}: {what}", "name the directory that was given to pointcnn cv as --output")
        return cls(path.absolute())

    def read_manifest(self) -> dict[str, Any]:
        """cv.json. Raises RunError when it is damaged or of a newer pointcnn."""
        return read_sealed(self.manifest, MANIFEST_KEYS)

    def read_metrics(self) -> dict[str, Any]:
        """The scores of the whole. Raises RunError when they are missing or damaged."""
        return read_document(self.metrics, NOT_COLLECTED)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        write_document(self.metrics, metrics)

    def run(self, member: Member) -> RunDir:
        """The run directory of a member, which need not exist yet."""
        return RunDir(self.runs / member.name)

    def is_finished(self, member: Member) -> bool:
        """Whether its run is there and complete. A damaged one is not: resuming it says what is wrong."""
        try:
            return bool(self.run(member).read_manifest()["status"] == "finished")
        except RunError:
            return False

    def log(self, member: Member) -> Path:
        """What the processes of a member said; also what is locked by who trains it."""
        return self.logs / f"{member.name}.log"

    def claim(self, member: Member) -> BinaryIO | None:
        """The log of a member, opened to append and locked until it is closed here and in every process that was
        given it; None where another process has it. Raises OutputError."""
        try:
            self.logs.mkdir(exist_ok=True)
            log = open(self.log(member), "ab")  # noqa: SIM115
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.close()
                return None
            except BaseException:
                log.close()
                raise
        except OSError as error:
            raise output_error(self.log(member), error) from error
        return log


def list_members(manifest: Mapping[str, Any]) -> list[Member]:
    """All members that a cv.json asks for: every fold of the first seed, then of the next."""
    return [Member(int(seed), fold) for seed in manifest["seeds"] for fold in range(manifest["folds"])]


def is_cv(path: Path) -> bool:
    """Whether `path` is the directory of a cross-validation, rather than of a run."""
    return os.path.isfile(path / MANIFEST_NAME)


def read_config(cv: CvDir, manifest: Mapping[str, Any]) -> Config:
    """The config of the whole, as cv.json holds it. Raises RunError."""
    config = read_stored(manifest["config"], cv.manifest)
    if config is None:
        raise RunError(f"{cv.manifest}: it has no config", "begin anew with another --output")
    return config


def build_member_config(config: Config, member: Member) -> Config:
    """The config of one member, from that of the whole."""
    split = config.split.model_copy(update={"fold": member.fold})
    return config.model_copy(update={"seed": member.seed, "split": split})


def check_member(run: RunDir, wanted: Config) -> None:
    """Raise RunError unless `run` was trained as `wanted` says."""
    if changes := list_changes(load_resolved(run.config), wanted, FREE_IN_MEMBERS):
        raise RunError(
            f"{run.path}: not trained as cv.json asks: {'; '.join(changes)}",
            "move it elsewhere and start the same pointcnn cv command again",
        )

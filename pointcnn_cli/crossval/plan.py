"""What a cross-validation consists of: its folds and seeds, checked on the data before anything is trained, and the
config of each member."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pointcnn_cli.config.changes import list_changes, store_config
from pointcnn_cli.config.load import dump_config, resolve_paths
from pointcnn_cli.config.schema import Config
from pointcnn_cli.cvdir import CvDir, Member, is_cv, list_members, read_config
from pointcnn_cli.documents import SCHEMA_VERSION
from pointcnn_cli.errors import ConfigError, DataError, OutputError, RunError
from pointcnn_cli.hdf5.fingerprint import check_fingerprint, compute_fingerprint
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.memory import find_available
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits import build_fold_splits


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    config: Config
    folds: int | None
    """None: as many as the config's split.validation_fraction makes."""
    seeds: int
    jobs: int
    command: Sequence[str]


def open_cv(request: Request, target: Path, reporter: Reporter) -> CvDir:
    """The directory `target`, made now or by an earlier start of the same cross-validation.

    Raises ConfigError for a split that has no folds, DataError for data that cannot be split or are others than then,
    RunError where `target` was made with other settings, OutputError where it is something else.
    """
    config = _settle(request)
    if is_cv(target):
        return _continue(CvDir.open(target), config, request, reporter)
    with open_source(config.data) as source:
        facts = _check_folds(source, config, reporter)
        manifest = _build_manifest(request, config, source, facts)
    try:
        return CvDir.create(target, dump_config(config), manifest)
    except OutputError:
        if not is_cv(target):
            raise
        return _continue(CvDir.open(target), config, request, reporter)  # another process, started beside this one


def _settle(request: Request) -> Config:
    """The config of the whole: paths absolute, one fraction for the folds, and for all members the same threads and
    memory, which decide on bits and on whether rows are streamed."""
    config = resolve_paths(request.config)
    if config.split.strategy in ("tail", "file"):
        raise ConfigError(
            f"split.strategy is '{config.split.strategy}', which makes one split and no folds",
            "set split.strategy to auto",
        )
    folds = request.folds or round(1 / config.split.validation_fraction)
    split = config.split.model_copy(update={"validation_fraction": 1 / folds, "fold": 0})
    threads = config.train.threads or max(1, count_cpus() // request.jobs)
    train = config.train.model_copy(update={"threads": threads})
    limit, available = config.data.memory_limit, find_available()
    if limit is None and available is not None:
        limit = max(1, available.size // 2 // request.jobs)
    data = config.data.model_copy(update={"memory_limit": limit})
    return config.model_copy(update={"data": data, "split": split, "train": train})


def count_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _check_folds(source: Source, config: Config, reporter: Reporter) -> dict[str, Any]:
    """Build every split, so that what is wrong with any is told now. Raises DataError."""
    wanted, index = round(1 / config.split.validation_fraction), source.index
    splits = build_fold_splits(index, config.split)
    if len(splits) != wanted:
        raise DataError(
            f"{wanted} folds were asked for, and these data make {len(splits)}. " + " ".join(splits[0].notes[:1]),
            f"ask for --folds {len(splits)}",
        )
    for note in dict.fromkeys((*index.notes, *(note for split in splits for note in split.notes))):
        reporter.warn(note)
    validated = np.concatenate([split.validation for split in splits])
    aside = splits[0].test
    everything = np.concatenate([validated, *([] if aside is None else [aside])])
    if not np.array_equal(np.sort(everything), np.arange(index.rows)):
        raise DataError(
            f"the {wanted} folds do not hold every row once: {len(validated)} rows of {index.rows}",
            "this is a fault of the split; report it with the config",
        )
    sizes = [len(split.validation) for split in splits]
    reporter.say(f"{wanted} folds of {min(sizes)} to {max(sizes)} rows ({splits[0].strategy}): every row is in one")
    if aside is not None:
        reporter.say(f"split.test_fraction keeps {len(aside)} rows aside: no fold trains on them or holds them")
    return {
        "strategy": splits[0].strategy,
        "rows": len(validated),
        "rows_kept_aside": 0 if aside is None else len(aside),
    }


def _build_manifest(request: Request, config: Config, source: Source, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "folds": round(1 / config.split.validation_fraction),
        "seeds": [config.seed + number for number in range(request.seeds)],
        "threads": config.train.threads,
        "jobs": request.jobs,
        **facts,
        "classes": list(source.index.classes or ()),
        "data": compute_fingerprint(source),
        "config": store_config(config),
        "command": list(request.command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _continue(cv: CvDir, config: Config, request: Request, reporter: Reporter) -> CvDir:
    """`cv`, if it was made for the same thing. Raises RunError and DataError."""
    manifest = cv.read_manifest()
    before = read_config(cv, manifest)
    free = ["name", "split.validation_fraction"]  # the latter is told as --folds
    free += ["train.threads"] * (request.config.train.threads is None)  # settled when it began
    free += ["data.memory_limit"] * (request.config.data.memory_limit is None)
    changes = list_changes(config, before, free)
    for option, then, now in (
        ("--folds", manifest["folds"], round(1 / config.split.validation_fraction)),
        ("--seeds", len(manifest["seeds"]), request.seeds),
    ):
        changes += [f"{option} was {then}, is {now}"] * (then != now)
    if changes:
        raise RunError(
            f"{cv.path}: made with other settings: {'; '.join(changes)}",
            "give the same settings to go on with it, or another --output to begin anew",
        )
    with open_source(before.data, expected_classes=tuple(manifest["classes"])) as source:
        check_fingerprint(source, manifest["data"])
    threads, cpus = manifest["threads"], count_cpus()
    if threads * request.jobs > cpus:
        reporter.warn(
            f"its members were begun with {threads} threads each, and {request.jobs} at once are more than the "
            f"{cpus} CPUs: fewer --jobs may be faster"
        )
    reporter.say(f"going on with {cv.path}")
    return cv


def choose_members(manifest: dict[str, Any], shard: tuple[int, int] | None) -> list[Member]:
    """All members, or the i-th of n parts of them: each n-th, so that parts are equally long."""
    members = list_members(manifest)
    return members if shard is None else members[shard[0] - 1 :: shard[1]]

"""Whether this installation works and what this machine offers: facts, warnings, problems, and a training in miniature.

`packages`, `machine` and `gpus` state facts, `selftest` tries them all; here they are put together and judged.
"""

import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pointcnn_cli import __version__
from pointcnn_cli.doctor.gpus import describe_devices
from pointcnn_cli.doctor.machine import describe_cpu, describe_disk, describe_memory, lacks_avx
from pointcnn_cli.doctor.packages import Package, find_version, list_packages
from pointcnn_cli.doctor.selftest import SelfTest, run_self_test
from pointcnn_cli.errors import MissingDependencyError, PointcnnError
from pointcnn_cli.memory import describe_bytes
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.runtime import NAMES, import_keras, name_backend

SCHEMA_VERSION = 1
LITTLE_DISK = 1_000_000_000
"""Bytes. A run of the default network is some 20 MB; temporary files and further runs should fit beside it."""
LITTLE_MEMORY = 2_000_000_000
"""Bytes. TensorFlow takes 0.5 GB to start, and the default network and 3,000 rows 1.2 GB (see memory.py)."""
ONEDNN_HINT = "unset TF_ENABLE_ONEDNN_OPTS"


def examine(reporter: Reporter) -> tuple[dict[str, Any], PointcnnError | None]:
    """All facts, JSON-ready, and the error with which to end, None where all is well.

    Keys: `versions`, `packages`, `cpu`, `memory`, `disks`, `devices` (None where TensorFlow cannot be used),
    `self_test`, `warnings` and `problems` as {problem, hint}.
    """
    packages, cpu = list_packages(), describe_cpu()
    memory = describe_memory()
    disks = [describe_disk(folder) for folder in _list_folders()]
    warnings = list(_warn(packages, memory, disks))
    devices, self_test, error = None, None, _find_error(packages, cpu)
    if error is None:
        try:
            with reporter.waiting(f"starting {NAMES[name_backend()]}"):
                import_keras()
            devices = describe_devices()
            with reporter.waiting("self-test: training a tiny network"):
                self_test = run_self_test()
            error = self_test.error
        except PointcnnError as failure:
            error = failure
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        warnings.append(_word("oneDNN is switched off: training may take many times as long", ONEDNN_HINT))
    document = {
        "schema_version": SCHEMA_VERSION,
        "ok": error is None,
        "versions": _list_versions(),
        "packages": [vars(package) | {"fits": package.fits} for package in packages],
        "cpu": cpu | {"onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"},
        "memory": memory,
        "disks": disks,
        "devices": devices,
        "self_test": None if self_test is None else _describe_self_test(self_test),
        "warnings": warnings,
        "problems": [] if error is None else [_word(error.message, error.hint)],
    }
    return document, error


def _list_folders() -> list[Path]:
    """The working directory, and the folder for temporary files where there is one."""
    try:
        return [Path.cwd(), Path(tempfile.gettempdir())]
    except OSError:
        return [Path(".")]


def _list_versions() -> dict[str, str | None]:
    """Of what decides the bits of a result, and the HDF5 library that h5py brings."""
    import h5py

    names = ("tensorflow", "keras", "numpy", "h5py")
    return {
        "pointcnn": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: find_version(name) for name in names},
        "hdf5": h5py.version.hdf5_version,
    }


def _find_error(packages: list[Package], cpu: dict[str, Any]) -> PointcnnError | None:
    """What makes it pointless, or dangerous, to start TensorFlow."""
    if lacks_avx(cpu):
        return MissingDependencyError(
            "this processor has no AVX, which TensorFlow's packages need: importing it would end the process",
            "use another machine, or build TensorFlow for this one",
        )
    unfit = [p for p in packages if p.extra is None and not p.fits]
    if not unfit:
        return None
    listed = ", ".join(f"{p.name} {p.found or 'missing'} (needs {p.wanted})" for p in unfit)
    wanted = " ".join(f"'{p.name}{p.wanted}'" for p in unfit)
    return MissingDependencyError(f"packages do not fit: {listed}", f"pip install {wanted}")


def _warn(
    packages: list[Package], memory: list[dict[str, Any]], disks: list[dict[str, Any]]
) -> Iterator[dict[str, str | None]]:
    """What may do harm later, and is no reason to fail now."""
    for package in packages:
        if package.extra is not None and package.found is not None and not package.fits:
            what = f"{package.name} {package.found} is installed, {package.wanted} is wanted"
            yield _word(what, f"pip install '{package.name}{package.wanted}'")
    if memory and memory[0]["available"] < LITTLE_MEMORY:
        size, limiter = describe_bytes(memory[0]["available"]), memory[0]["limiter"]
        yield _word(f"{size} of memory are available; the limit is {limiter}", "close other programs, or raise it")
    for disk in disks:
        if not disk["writable"]:
            yield _word(f"{disk['folder']}: not writable", "runs go into the working directory unless --output is set")
        elif disk["free"] < LITTLE_DISK:
            yield _word(f"{disk['folder']}: {describe_bytes(disk['free'])} are free", "free some space")


def _describe_self_test(test: SelfTest) -> dict[str, Any]:
    return {"passed": test.error is None, "seconds": test.seconds, "device": test.device}


def _word(problem: str, hint: str | None) -> dict[str, str | None]:
    return {"problem": problem, "hint": hint}

"""What the machine offers to a training: processors, memory, disk."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from pointcnn_cli.memory import MACHINE, list_available

INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
"""Of all that /proc/cpuinfo lists, those for which TensorFlow and oneDNN have kernels of their own."""


def describe_cpu(root: Path = Path("/")) -> dict[str, Any]:
    """Processors that this process may use, the time that its cgroup gives it (in processors), and instructions.

    `root` is where /proc and /sys are, for tests. What is not known is None.
    """
    facts = _read_cpuinfo(root / "proc/cpuinfo")
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "model": facts.get("model name") or platform.processor() or None,
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "quota": _read_quota(root / "sys/fs/cgroup/cpu.max"),
        "instructions": [name for name in INSTRUCTIONS if name in flags] if flags else None,
    }


def lacks_avx(cpu: dict[str, Any]) -> bool:
    """Whether TensorFlow's packages, which are built with AVX, would end the process at its first use."""
    found = cpu["instructions"]
    return cpu["machine"] in ("x86_64", "AMD64") and found is not None and "avx" not in found


def describe_memory(root: Path = Path("/")) -> list[dict[str, Any]]:
    """Bytes that may still be taken, by who limits them, the smallest first; a limit above the memory of the machine,
    as version 1 of cgroups states where there is none, limits nothing and is left out."""
    limits = list_available(root)
    most = next((limit.size for limit in limits if limit.limiter == MACHINE), None)
    real = sorted((one for one in limits if most is None or one.size <= most), key=lambda one: one.size)
    return [{"available": max(limit.size, 0), "limiter": limit.limiter} for limit in real]


def describe_disk(folder: Path) -> dict[str, Any]:
    """Free and total bytes where `folder` lies, and whether it may be written to."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return {"folder": str(folder), "free": None, "total": None, "writable": False}
    writable = os.access(folder, os.W_OK | os.X_OK)
    return {"folder": str(folder), "free": usage.free, "total": usage.total, "writable": writable}


def _read_cpuinfo(path: Path) -> dict[str, str]:
    """The lines of the first processor."""
    try:
        first = path.read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = [line.split(":", 1) for line in first.splitlines() if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def _read_quota(path: Path) -> float | None:
    """Of cgroup version 2: `quota period` in microseconds, or `max`."""
    try:
        words = path.read_text().split()
    except OSError:
        return None
    if len(words) != 2 or not all(word.isdecimal() for word in words) or words[1] == "0":
        return None
    return round(int(words[0]) / int(words[1]), 2)

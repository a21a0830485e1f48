"""Whether a training fits into memory: what it needs, what may still be taken, and the batch size that would fit.

The need is an estimate, so only what is clearly too much is refused; what passes and fails all the same is caught where
it happens.
"""

import contextlib
import resource
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pointcnn_cli.errors import PointcnnError, TrainingError

START_BYTES = 100 * 2**20
"""What TensorFlow takes for its first step whatever the batch: 70 to 160 MiB were measured, see STEP_FACTORS."""
STEP_FACTORS = {"pointcnn": 1.1, "pointcnn_original": 1.25, "pointnet_tcn": 2.2}
"""Bytes that a training step takes for each byte of all layers' outputs.

From the peak of resident memory over the first step, less what was resident before (TensorFlow 2.21, two cores, no GPU,
64 points). MiB at batches of 10, 50, 200 and 500 rows of 48 frames, and of 200 rows of 96: pointcnn 179, 278, 642,
1387; 1136, where the outputs have 22, 111, 444, 1110; 888. pointcnn_original 145, 229, 536, 1219 (15, 78, 313, 782).
pointnet_tcn 115, 265, 858, 2340; 1664 (16, 83, 335, 839; 670). Augmentation added 14 and 25 MiB at 200 rows.
"""
REFUSED_SHARE = 0.75
"""Refused is what lacks even this share of its estimate. Of the trainings in STEP_FACTORS the estimate exceeded the
measured peak by 17 % at most (in the smallest); with this share it may by 33 %."""
SHORTAGES = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "Dst tensor is not initialized", "failed to allocate")
"""In the names and texts of TensorFlow's and XLA's errors when memory is short; the third: a copy to a full GPU."""
MACHINE = "the memory of this machine"
_UNITS = {
    f"{prefix}{kind}B": base**power
    for kind, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("kMGT", 1)
}
FREE_MEMORY = "end other programs, raise that limit, take fewer rows, or store the channels as float16"


@dataclass(frozen=True)
class Available:
    """Bytes that may still be taken, and who limits them."""

    size: int
    limiter: str


@dataclass(frozen=True)
class Need:
    """Bytes that a training takes beyond what its process holds once the network is built."""

    rows: int
    """The rows of the training and validation parts, as many as are held at a time."""
    upload: int
    """What is there for a moment only, while the training rows go to the device, before any batch."""
    weights: int
    """Weights, optimiser state, and the copies of both that saving makes."""
    batch_row: int
    """One row of a batch, forth and back through the network; 0 where that is not this machine's memory (GPU)."""

    def total(self, batch_size: int) -> int:
        """All that is needed at once, with batches of this size."""
        return self.rows + max(self.upload, self.weights + START_BYTES + self.batch_row * batch_size)


def estimate_step(network: str, output_bytes: int) -> int:
    """Bytes that a training step of the network of this name takes for each row of its batch; all layers' outputs have
    `output_bytes` a row."""
    return round(STEP_FACTORS[network] * output_bytes)


def estimate_weights(weight_bytes: int, optimizer: str) -> int:
    """Bytes of weights, the optimiser's state (its moments: two for each weight, for sgd one), and all copies at the
    moment of saving.

    On the device: weights and slots. Beside them the best weights, a copy of weights and slots, and the state as one
    block of bytes, which holds all three. Gradients are gone by then, and smaller.
    """
    slots = 1 if optimizer == "sgd" else 2
    return weight_bytes * ((1 + slots) + 1 + (1 + slots) + (2 + slots))


def exceeds(need: Need, batch_size: int, available: Available | None) -> bool:
    """Whether `need` is clearly more than what is available (None: not known, so it is not)."""
    return available is not None and REFUSED_SHARE * need.total(batch_size) > available.size


def check_memory(need: Need, batch_size: int, available: Available | None, cure: str = FREE_MEMORY) -> None:
    """Raise TrainingError where `need` exceeds what is available; `cure` is what to do where no batch size helps."""
    if available is None or not exceeds(need, batch_size, available):
        return
    total = need.total(batch_size)
    hint = f"not even batches of one row would fit: {cure}"
    if need.total(1) <= available.size:
        room = available.size - need.rows - need.weights - START_BYTES
        hint = f"set train.batch_size to {room // need.batch_row} or less"
    raise TrainingError(
        f"training needs about {describe_bytes(total)} of memory with batches of {batch_size} rows "
        f"({describe_bytes(need.rows)} of it for rows, {describe_bytes(need.batch_row * batch_size)} for a batch on "
        f"its way through the network), but {describe_bytes(max(available.size, 0))} are available; the limit is "
        f"{available.limiter}",
        hint,
    )


def find_available(root: Path = Path("/")) -> Available | None:
    """The smallest of what the system, the cgroups and the process limits leave; None where none of them is known.

    Swap counts as memory, and so does what the kernel caches of files: both give way before a process is killed.
    `root` is where /proc and /sys are, for tests.
    """
    return min(list_available(root), key=lambda available: available.size, default=None)


def list_available(root: Path = Path("/")) -> list[Available]:
    """What each of them leaves: the system, the cgroups, the process limits; see `find_available`."""
    return [*_list_system(root), *_list_cgroups(root), *_list_process_limits(root)]


def _list_system(root: Path) -> list[Available]:
    """MemAvailable and free swap of /proc/meminfo."""
    facts = _read_table(root / "proc/meminfo", 1024)
    if "MemAvailable" not in facts:
        return []
    return [Available(facts["MemAvailable"] + facts.get("SwapFree", 0), MACHINE)]


def _list_cgroups(root: Path) -> list[Available]:
    """What each memory cgroup of this process leaves, from its own up to the topmost, of version 2 and 1."""
    swap = _read_table(root / "proc/meminfo", 1024).get("SwapFree", 0)
    found = []
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, files = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top, files = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        # In a container the path may be the host's; then only the topmost folder is there, and is the container's.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:depth])
            left = _read_cgroup(folder, *files)
            if left is not None:
                found.append(Available(left + swap, f"the memory limit of the cgroup {folder}"))
    return found


def _read_cgroup(folder: Path, limit_name: str, usage_name: str, prefix: str) -> int | None:
    """What a cgroup leaves; None where it has no limit."""
    limit, usage = _read_text(folder / limit_name).strip(), _read_text(folder / usage_name).strip()
    if not (limit.isdecimal() and usage.isdecimal()):  # `max`, or no such file
        return None
    facts = _read_table(folder / "memory.stat", 1)
    cached = sum(facts.get(f"{prefix}{kind}", 0) for kind in ("inactive_file", "active_file"))
    return int(limit) - int(usage) + cached


def _list_process_limits(root: Path) -> list[Available]:
    """What `ulimit -v` and `ulimit -d` leave to this process."""
    used = _read_table(root / "proc/self/status", 1024)
    limits = (
        (resource.RLIMIT_AS, "VmSize", "RLIMIT_AS (ulimit -v)"),
        (resource.RLIMIT_DATA, "VmData", "RLIMIT_DATA (ulimit -d)"),
    )
    found = []
    for kind, key, name in limits:
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY and key in used:
            found.append(Available(most - used[key], name))
    return found


def _read_table(path: Path, unit: int) -> dict[str, int]:
    """Lines of `name number` or `name: number kB`, in bytes."""
    words = [line.replace(":", " ").split() for line in _read_text(path).splitlines()]
    return {word[0]: int(word[1]) * unit for word in words if len(word) > 1 and word[1].isdecimal()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def explain_shortage(doing: str, hint: str) -> Iterator[None]:
    """Within the block, running out of memory becomes a TrainingError with this hint."""
    try:
        yield
    except PointcnnError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if not isinstance(error, MemoryError) and not any(word in text for word in SHORTAGES):
            raise
        traceback.clear_frames(error.__traceback__)  # what the failed calls still hold is needed to end well
        raise TrainingError(f"out of memory while {doing}", hint) from error


def suggest_batch(batch_size: int) -> str:
    """What to try when batches of this size did not fit."""
    if batch_size == 1:
        return FREE_MEMORY
    return f"set train.batch_size to {batch_size // 2} or less"


def parse_bytes(size: int | str) -> int:
    """Bytes of `data.memory_limit` as the schema lets it pass: a number, or one with a unit, as in 500MB or 1.5 GiB."""
    if isinstance(size, int):
        return size
    number = size.rstrip("BTGMkKi ")
    unit = size[len(number) :].strip().replace("K", "k")
    return int(float(number) * _UNITS[unit])


def describe_bytes(size: int) -> str:
    """A size in GB or MB (powers of ten), for a message."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{0 if size >= 1e7 else 1}f} MB"

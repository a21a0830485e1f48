"""What memory is there, what a training needs of it, and what is said when it is not enough."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from pydantic import ValidationError

from pointcnn_cli.batches import ResidentRows, count_device_bytes, count_output_bytes
from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError, TrainingError
from pointcnn_cli.memory import (
    STEP_FACTORS,
    Available,
    Need,
    check_memory,
    estimate_weights,
    explain_shortage,
    find_available,
    parse_bytes,
    suggest_batch,
)
from pointcnn_cli.models import BUILDERS

GB = 10**9


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def make_machine(root: Path, cgroups: str = "", **cgroup_files: str) -> Path:
    """A machine with 8 GB left and 1 GB of free swap."""
    meminfo = "MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\nSwapFree:        1000000 kB\nHugePages_Total: 0\n"
    return write_files(root, {"proc/meminfo": meminfo, "proc/self/cgroup": cgroups, **cgroup_files})


# --- what is available ---


def test_the_system_leaves_what_the_kernel_calls_available_and_free_swap(tmp_path):
    assert find_available(make_machine(tmp_path)) == Available(9_000_000 * 1024, "the memory of this machine")


def test_nothing_is_known_where_there_is_no_proc(tmp_path):
    assert find_available(tmp_path) is None


def test_a_cgroup_of_version_2_leaves_its_limit_less_what_is_not_cache(tmp_path):
    folder = "sys/fs/cgroup/user/job"
    stat = "anon 900\nfile 350\ninactive_file 200\nactive_file 100\nshmem 50\n"
    files = {
        f"{folder}/memory.max": f"{3 * GB}\n",
        f"{folder}/memory.current": f"{GB}\n",
        f"{folder}/memory.stat": stat,
    }
    found = find_available(make_machine(tmp_path, "0::/user/job\n", **files))
    assert found.size == 2 * GB + 300 + 1_000_000 * 1024
    assert found.limiter == f"the memory limit of the cgroup {tmp_path / folder}"


def test_the_tightest_cgroup_counts_from_the_own_one_up(tmp_path):
    top = "sys/fs/cgroup"
    files = {
        f"{top}/a/b/memory.max": "max\n",
        f"{top}/a/b/memory.current": "5\n",
        f"{top}/a/memory.max": f"{2 * GB}\n",
        f"{top}/a/memory.current": f"{GB}\n",
        f"{top}/memory.max": f"{6 * GB}\n",
        f"{top}/memory.current": f"{GB}\n",
    }
    found = find_available(make_machine(tmp_path, "0::/a/b\n", **files))
    assert found.size == GB + 1_000_000 * 1024
    assert found.limiter.endswith("cgroup/a")


def test_a_cgroup_of_version_1_has_its_own_names(tmp_path):
    folder = "sys/fs/cgroup/memory/docker/1f"
    files = {
        f"{folder}/memory.limit_in_bytes": f"{4 * GB}\n",
        f"{folder}/memory.usage_in_bytes": f"{GB}\n",
        f"{folder}/memory.stat": "inactive_file 7\ntotal_inactive_file 400\ntotal_active_file 600\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{5 * GB}\n",
    }
    cgroups = "12:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/docker/1f\n"
    found = find_available(make_machine(tmp_path, cgroups, **files))
    assert found.size == 3 * GB + 1000 + 1_000_000 * 1024


@pytest.mark.parametrize("cgroups", ["4:memory:/docker/of/the/host\n", "4:memory:/../../up\n"])
def test_in_a_container_the_topmost_folder_is_its_own(tmp_path, cgroups):
    folder = "sys/fs/cgroup/memory"
    files = {f"{folder}/memory.limit_in_bytes": f"{GB}\n", f"{folder}/memory.usage_in_bytes": "0\n"}
    found = find_available(make_machine(tmp_path, cgroups, **files))
    assert found == Available(GB + 1_000_000 * 1024, f"the memory limit of the cgroup {tmp_path / folder}")


@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [
        (resource.RLIMIT_AS, "VmSize", "RLIMIT_AS (ulimit -v)"),
        (resource.RLIMIT_DATA, "VmData", "RLIMIT_DATA (ulimit -d)"),
    ],
)
def test_a_limit_of_the_process_leaves_what_it_does_not_use_yet(tmp_path, kind, key, name):
    make_machine(tmp_path)
    used = 5_000_000_000  # more than this process has: only the difference matters
    write_files(tmp_path, {"proc/self/status": f"Name:\tpython\n{key}:\t{used // 1024} kB\n"})
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (used + 10**9, before[1]))
    try:
        found = find_available(tmp_path)
    finally:
        resource.setrlimit(kind, before)
    assert found.limiter == name
    assert found.size == pytest.approx(10**9, abs=1024)


# --- what is needed ---


def test_saving_holds_weights_and_moments_several_times():
    assert estimate_weights(100, "adam") == 100 * (3 + 1 + 3 + 4)
    assert estimate_weights(100, "adamw") == estimate_weights(100, "adam")
    assert estimate_weights(100, "sgd") == 100 * (2 + 1 + 2 + 3)


def test_every_network_has_its_factor():
    assert STEP_FACTORS.keys() == BUILDERS.keys()


def test_outputs_count_for_one_row_and_the_input_is_one_of_them():
    import keras

    inputs = keras.Input((3, 2))
    halves = keras.layers.Dense(4, dtype="mixed_float16")(inputs)
    network = keras.Model(inputs, keras.layers.Flatten(dtype="float32")(halves))
    assert count_output_bytes(network) == 4 * 6 + 2 * 12 + 4 * 12


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int32", "uint16"])
def test_rows_on_the_device_take_what_is_counted(dtype):
    channels = tuple(np.zeros((2, depth, 4, 3, 1), dtype) for depth in (3, 1, 1, 1))
    stored = [np.array(variable).nbytes for variable in ResidentRows(channels).stored]
    assert count_device_bytes(channels) == stored


# --- the judgement ---

NEED = Need(rows=2 * GB, upload=GB // 10, weights=10**8, batch_row=10**7)


def test_too_large_a_batch_is_refused_with_one_that_fits():
    limit = Available(4 * GB, "RLIMIT_AS (ulimit -v)")
    with pytest.raises(TrainingError) as raised:
        check_memory(NEED, 1000, limit)
    assert raised.value.exit_code == 7
    for part in ("about 12.2 GB", "batches of 1000 rows", "2.0 GB of it for rows", "10.0 GB for a batch"):
        assert part in raised.value.message
    assert raised.value.message.endswith("4.0 GB are available; the limit is RLIMIT_AS (ulimit -v)")
    fitting = int(raised.value.hint.removeprefix("set train.batch_size to ").removesuffix(" or less"))
    assert NEED.total(fitting) <= limit.size < NEED.total(fitting + 1)
    check_memory(NEED, fitting, limit)


def test_where_the_rows_alone_are_too_much_no_batch_size_is_offered():
    with pytest.raises(TrainingError) as raised:
        check_memory(NEED, 10, Available(GB, "the memory of this machine"))
    assert raised.value.hint.startswith("not even batches of one row would fit: ")
    assert "float16" in raised.value.hint


def test_rows_that_do_not_fit_while_they_go_to_the_device_are_too_many():
    need = Need(rows=2 * GB, upload=2 * GB, weights=10**8, batch_row=10**7)
    assert need.total(1) == 4 * GB
    check_memory(need, 1, Available(4 * GB, "the memory of this machine"))
    with pytest.raises(TrainingError) as raised:
        check_memory(need, 50, Available(28 * GB // 10, "the memory of this machine"))
    assert raised.value.hint.startswith("not even batches of one row would fit")


def test_where_the_batch_is_on_a_gpu_only_the_rows_count():
    need = Need(rows=2 * GB, upload=0, weights=0, batch_row=0)
    check_memory(need, 65_536, Available(2 * GB, "the memory of this machine"))
    with pytest.raises(TrainingError, match=r"2\.1 GB") as raised:
        check_memory(need, 65_536, Available(GB, "the memory of this machine"))
    assert "train.batch_size" not in raised.value.hint


def test_doubt_speaks_for_training():
    needed = NEED.total(50)
    check_memory(NEED, 50, None)
    check_memory(NEED, 50, Available(round(0.76 * needed), "the memory of this machine"))
    with pytest.raises(TrainingError):
        check_memory(NEED, 50, Available(round(0.74 * needed), "the memory of this machine"))


# --- what fails all the same ---


class ResourceExhaustedError(Exception):
    """As TensorFlow's: the name says it, the text may not."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB"),
        ResourceExhaustedError("{{function_node}} OOM when allocating tensor"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes"),
        RuntimeError("Dst tensor is not initialized."),
        RuntimeError("failed to allocate 2.00GiB"),
    ],
)
def test_a_shortage_says_what_was_done_and_what_to_try(error):
    with pytest.raises(TrainingError) as raised, explain_shortage("reading 9 rows", suggest_batch(51)):
        raise error
    assert raised.value.message == "out of memory while reading 9 rows"
    assert raised.value.hint == "set train.batch_size to 25 or less"
    assert raised.value.__cause__ is error


def test_an_allocation_that_really_fails_is_a_shortage():
    with pytest.raises(TrainingError, match="out of memory while reading"), explain_shortage("reading", ""):
        np.empty(2**60, np.uint8)


@pytest.mark.parametrize("error", [ValueError("shapes differ"), DataError("row 3 is NaN"), KeyboardInterrupt()])
def test_other_failures_pass(error):
    with pytest.raises(type(error)) as raised, explain_shortage("reading", "hint"):
        raise error
    assert raised.value is error


def test_a_batch_of_one_row_cannot_be_halved():
    assert "batch_size" not in suggest_batch(1)
    assert suggest_batch(2) == "set train.batch_size to 1 or less"


# --- real limits ---

SETTINGS = ["data.simulate.windows=600", "data.simulate.subjects=8", "train.epochs=1", "train.batch_size=65536"]
CHILD = """
import json, resource, sys
from pathlib import Path
from pointcnn_cli import training
from pointcnn_cli.config.load import load_config
from pointcnn_cli.errors import TrainingError
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.runtime import import_keras

folder, settings = Path(sys.argv[1]), sys.argv[2:]
import_keras()
results = {}
for key, kind in (("VmSize", resource.RLIMIT_AS), ("VmData", resource.RLIMIT_DATA)):
    used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key + ":")) * 1024
    resource.setrlimit(kind, (used + 8 * 10**8, resource.RLIM_INFINITY))
    try:
        training.train(load_config("configs/smoke.yaml", settings), folder / key, ["x"], Reporter())
    except TrainingError as error:
        results[key] = [error.message, error.hint]
    resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps(results))
"""


@pytest.mark.slow
def test_a_limit_that_is_too_tight_is_noticed_before_anything_is_made(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path), *SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for key, name in (("VmSize", "RLIMIT_AS (ulimit -v)"), ("VmData", "RLIMIT_DATA (ulimit -d)")):
        message, hint = results[key]
        assert message.startswith("training needs about 1.")
        assert message.endswith(f"are available; the limit is {name}")
        # Address space goes to threads too, so what is left of it for batches differs between machines.
        assert re.match(r"set train\.batch_size to [1-9]\d* or less|not even batches of one row", hint)
    assert list(tmp_path.iterdir()) == []


# --- data.memory_limit ---


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (12345, 12345),
        ("10kB", 10_000),
        ("500MB", 5 * 10**8),
        ("2GiB", 2**31),
        ("1.5 GiB", 3 * 2**29),
        ("3TB", 3 * 10**12),
    ],
)
def test_a_limit_is_bytes_or_has_a_unit(written, size):
    assert parse_bytes(DataConfig(path="a.h5", memory_limit=written).memory_limit) == size


@pytest.mark.parametrize("written", [0, -1, 1e9, True, "5", "5 parsecs", "GB", "-1GB", "1e3MB", "5b"])
def test_what_is_no_size_is_refused(written):
    with pytest.raises(ValidationError):
        DataConfig(path="a.h5", memory_limit=written)

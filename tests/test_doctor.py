"""`pointcnn doctor`: the facts, the reasons, the self-test, and that nothing is left behind."""

import json
import os
import sys

import numpy as np
import pytest
from conftest import ROOT
from processes import end, pointcnn, start, wait_for

from pointcnn_cli.cli.console import print_table
from pointcnn_cli.cli.doctor import build_table
from pointcnn_cli.doctor import selftest
from pointcnn_cli.doctor.gpus import explain_no_gpu
from pointcnn_cli.doctor.machine import describe_cpu, describe_disk, describe_memory, lacks_avx
from pointcnn_cli.doctor.packages import list_packages
from pointcnn_cli.errors import RunError

CPUINFO = "processor\t: 0\nmodel name\t: Fast 9000\nflags\t\t: fpu sse2 avx avx2 fma\n\nprocessor\t: 1\n"


def make_root(folder, **files: str):
    """A file tree like / with these files; `__` stands for `/`."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# --- why there is no GPU ---


def test_a_machine_without_a_driver_is_told_from_one_that_lacks_the_cuda_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    reason, _ = explain_no_gpu("tensorflow", True, {}, tmp_path)
    assert "no NVIDIA driver" in reason
    make_root(tmp_path, proc__driver__nvidia__version="NVRM")
    reason, hint = explain_no_gpu("tensorflow", True, {}, tmp_path)
    assert "nvidia-cudnn-cu12" in reason
    assert hint == "pip install 'tensorflow[and-cuda]'"
    reason, hint = explain_no_gpu("tensorflow", False, {}, tmp_path)
    assert "built for CPUs alone" in reason
    assert "tensorflow-cpu" in hint


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_the_user_hid_are_said_to_be_hidden(hidden, tmp_path):
    assert "hides" in explain_no_gpu("tensorflow", True, {"CUDA_VISIBLE_DEVICES": hidden}, tmp_path)[0]
    assert "hides" not in explain_no_gpu("tensorflow", True, {"CUDA_VISIBLE_DEVICES": "0"}, tmp_path)[0]


def test_a_tool_of_the_driver_is_a_sign_of_it_too(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert "no NVIDIA driver" not in explain_no_gpu("tensorflow", True, {}, tmp_path)[0]


# --- the machine ---


def test_processors_are_read_with_the_instructions_that_matter_and_the_quota(tmp_path):
    root = make_root(tmp_path, proc__cpuinfo=CPUINFO, sys__fs__cgroup__cpu__max="")
    (root / "sys/fs/cgroup/cpu.max").write_text("150000 100000\n")
    cpu = describe_cpu(root)
    assert cpu["model"] == "Fast 9000"
    assert cpu["instructions"] == ["avx", "avx2", "fma"]
    assert cpu["quota"] == 1.5
    (root / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert describe_cpu(root)["quota"] is None
    assert describe_cpu(tmp_path / "nothing")["instructions"] is None


def test_a_processor_without_avx_is_told_before_tensorflow_crashes_on_it(tmp_path):
    root = make_root(tmp_path, proc__cpuinfo="flags : sse2 ssse3\n")
    assert lacks_avx(describe_cpu(root) | {"machine": "x86_64"})
    assert not lacks_avx(describe_cpu(root) | {"machine": "aarch64"})
    assert not lacks_avx({"machine": "x86_64", "instructions": None})  # not known, so tried


def test_memory_limits_are_all_listed(tmp_path):
    root = make_root(
        tmp_path,
        proc__meminfo="MemAvailable: 4000 kB\nSwapFree: 0 kB\n",
        proc__self__cgroup="0::/job\n",
        sys__fs__cgroup__job__memory="",
    )
    (root / "sys/fs/cgroup/job/memory.max").write_text("2048000\n")
    (root / "sys/fs/cgroup/job/memory.current").write_text("48000\n")
    found = {limit["limiter"]: limit["available"] for limit in describe_memory(root)}
    assert found["the memory of this machine"] == 4_096_000
    assert any("cgroup" in limiter and size == 2_000_000 for limiter, size in found.items())
    (root / "sys/fs/cgroup/job/memory.max").write_text("9223372036854771712\n")  # as version 1 says "no limit"
    assert not any("cgroup" in limit["limiter"] for limit in describe_memory(root))


def test_a_folder_that_is_gone_is_no_disk(tmp_path):
    assert describe_disk(tmp_path)["free"] > 0
    assert describe_disk(tmp_path / "gone") == {
        "folder": str(tmp_path / "gone"), "free": None, "total": None, "writable": False
    }  # fmt: skip


# --- packages ---


def test_packages_are_compared_with_what_the_metadata_ask_for(tmp_path, monkeypatch):
    lines = ["numpy>=2", "h5py>=99", 'nowhere-to-be-found>=1; extra == "magic"', 'numpy[x]>=2; extra == "more"']
    lines += ['pytest; extra == "dev"', 'colorama; sys_platform == "win32"']
    metadata = "\n".join(
        ["Metadata-Version: 2.1", "Name: sample", "Version: 1", *(f"Requires-Dist: {x}" for x in lines)]
    )
    make_root(tmp_path / "sample-1.dist-info", METADATA=metadata)
    monkeypatch.syspath_prepend(tmp_path)
    found = {package.name: package for package in list_packages("sample")}
    assert found.keys() == {"numpy", "h5py", "nowhere-to-be-found"}
    assert found["numpy"].fits
    assert not found["h5py"].fits
    assert found["nowhere-to-be-found"].extra == "magic"
    assert found["nowhere-to-be-found"].found is None
    assert list_packages("not installed at all") == []


# --- the self-test ---


def test_equal_arrays_pass_and_a_single_bit_fails():
    one, other = np.array([1.0, 2.0], np.float32), np.array([1.0, 2.0000002], np.float32)
    selftest._compare("weights", {"a": one}, {"a": one.copy()})
    with pytest.raises(RunError, match="weights differ") as caught:
        selftest._compare("weights", {"a": one}, {"a": other})
    assert "reinstall TensorFlow" in caught.value.hint
    with pytest.raises(RunError):
        selftest._compare("weights", {"a": one}, {})


@pytest.mark.slow
def test_doctor_prints_one_json_document_and_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    done = pointcnn("doctor", "--json", cwd=work, env=environment)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["self_test"]["passed"] is True
    assert document["self_test"]["device"].startswith(("CPU", "GPU"))
    assert document["versions"].keys() >= {"python", "pointcnn", "tensorflow", "keras", "numpy", "h5py", "hdf5"}
    assert {disk["folder"] for disk in document["disks"]} == {str(work), str(temporary)}
    assert document["problems"] == []
    kinds = {device["kind"] for device in document["devices"]["devices"]}
    assert "CPU" in kinds
    assert ("GPU" in kinds) == (document["devices"]["no_gpu_because"] is None)
    assert os.listdir(temporary) == os.listdir(work) == []

    monkeypatch.setenv("COLUMNS", "60")
    print_table(build_table(document))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 60
    words = " ".join(shown.replace("│", " ").split())
    for fact in (document["versions"]["tensorflow"], document["versions"]["hdf5"], "oneDNN on", "passed in"):
        assert fact in words


def test_a_doctor_that_is_stopped_leaves_nothing_behind(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = start("doctor", env=environment)
    wait_for(lambda: list(tmp_path.glob("pointcnn-doctor-*")), process)
    process.terminate()
    code, _ = end(process)
    assert code == 143
    assert os.listdir(tmp_path) == []


def test_without_a_temporary_folder_the_self_test_says_what_to_set(tmp_path):
    outcome = selftest.run_self_test(tmp_path / "missing")
    assert outcome.error.exit_code == 9
    assert "TMPDIR" in outcome.error.hint


def test_a_failing_doctor_exits_with_the_code_of_the_failure_and_says_what_to_do():
    done = pointcnn("doctor", "--json", env={**os.environ, "KERAS_BACKEND": "nonsense"})
    assert done.returncode == 5, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert document["self_test"] is None
    assert "KERAS_BACKEND" in document["problems"][0]["hint"]
    assert "KERAS_BACKEND" in done.stderr

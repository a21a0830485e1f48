"""The devices that Keras's backend sees, and where there is no GPU among them, why, as far as can be told."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointcnn_cli.doctor.packages import list_packages

INSTALL_CUDA = "pip install 'tensorflow[and-cuda]'"


def describe_devices() -> dict[str, Any]:
    """Backend, devices as {name, kind}, and for want of a GPU the reason and what to do. Keras must be imported."""
    import keras

    backend = keras.backend.backend()
    devices = _list_devices(backend)
    reason, hint = None, None
    if not any(device["kind"] == "GPU" for device in devices):
        reason, hint = explain_no_gpu(backend, _is_built_for_cuda(backend), os.environ)
    return {"backend": backend, "devices": devices, "no_gpu_because": reason, "hint": hint}


def explain_no_gpu(
    backend: str, built_for_cuda: bool, environment: Mapping[str, str], root: Path = Path("/")
) -> tuple[str, str | None]:
    """Why no GPU is seen, and what to do, None where that is to be told from the reason alone.

    `root` is where /proc and /dev are, for tests.
    """
    if environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs", "unset CUDA_VISIBLE_DEVICES"
    if sys.platform != "linux":
        return f"the packages of TensorFlow for {sys.platform} use no GPU", "train on Linux, or in WSL 2"
    if not has_driver(root):
        return (
            "no NVIDIA driver: there is no /proc/driver/nvidia and no nvidia-smi, so this machine has no NVIDIA GPU, "
            "or its driver is not installed, or not handed to this container",
            "with a GPU: install its driver; in a container, start it with --gpus all",
        )
    if backend != "tensorflow":
        return f"{backend} sees none, though an NVIDIA driver is there", "install the package of it that is for CUDA"
    if not built_for_cuda:
        return "this TensorFlow was built for CPUs alone", f"pip uninstall tensorflow-cpu, then {INSTALL_CUDA}"
    missing = [p.name for p in list_packages("tensorflow") if p.extra == "and-cuda" and p.found is None]
    if missing:
        return f"CUDA libraries are missing: {', '.join(missing)}", INSTALL_CUDA
    return (
        "driver and CUDA libraries are there, and yet TensorFlow cannot use them",
        "pointcnn -v doctor shows what TensorFlow says; often the driver (nvidia-smi) is older than the libraries",
    )


def has_driver(root: Path = Path("/")) -> bool:
    """Whether there is a sign of an NVIDIA driver: its folder in /proc, or its tool."""
    return (root / "proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def _list_devices(backend: str) -> list[dict[str, str]]:
    if backend == "tensorflow":
        import tensorflow as tf

        return [{"name": device.name, "kind": device.device_type} for device in tf.config.list_physical_devices()]
    if backend == "jax":
        import jax

        return [{"name": str(device), "kind": device.platform.upper()} for device in jax.devices()]
    return []


def _is_built_for_cuda(backend: str) -> bool:
    if backend != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.test.is_built_with_cuda())

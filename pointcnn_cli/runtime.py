"""The engine below Keras: environment variables before it is imported, the device, and what to record of both.

What is TensorFlow's alone stands here.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pointcnn_cli import __version__
from pointcnn_cli.errors import MissingDependencyError

RECORDED_PACKAGES = ("tensorflow", "keras", "numpy", "h5py", "safetensors", "scikit-learn", "jax")


def import_keras() -> None:
    """Import Keras and its backend, quietly unless TF_CPP_MIN_LOG_LEVEL is set; what the user has set stays.

    TensorFlow writes to the process's stderr before its log level is in force, so stderr is set aside for the
    duration and shown only when the import fails; not so where there is no stderr, or no folder for temporary files.
    """
    # On CPUs without AVX-512 TensorFlow leaves oneDNN off, and 3-D convolutions are then up to 25 times slower.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or "keras" in sys.modules:
        _touch_backend()
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        stderr, aside = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115
    except OSError:
        _touch_backend()
        return
    with aside:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(aside.fileno(), 2)
        failed = True
        try:
            _touch_backend()
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                aside.seek(0)
                os.write(2, aside.read())


def _touch_backend() -> None:
    import keras

    _list_gpus(keras.backend.backend())


def choose_device(wanted: str) -> str:
    """Make `wanted` (auto, cpu, gpu) the device of all that follows, and describe it in words.

    Raises MissingDependencyError when a GPU is asked for and none can be used. To be called once, before any tensor
    exists.
    """
    import keras

    backend = keras.backend.backend()
    gpus = _list_gpus(backend)
    if wanted == "gpu" and not gpus:
        raise MissingDependencyError(
            f"train.device is gpu, but {backend} sees no GPU",
            "install the CUDA libraries with: pip install 'tensorflow[and-cuda]', check that nvidia-smi lists the GPU, "
            "or set train.device to auto or cpu",
        )
    if backend == "tensorflow":
        _set_tensorflow_device(gpus if wanted != "cpu" else [])
    elif backend == "jax":
        import jax

        if wanted == "cpu":
            jax.config.update("jax_default_device", jax.devices("cpu")[0])
    return f"GPU ({gpus[0].name})" if gpus and wanted != "cpu" else "CPU"


def _list_gpus(backend: str) -> list[Any]:
    if backend == "tensorflow":
        import tensorflow as tf

        return list(tf.config.list_physical_devices("GPU"))
    if backend == "jax":
        import jax

        return [device for device in jax.devices() if device.platform == "gpu"]
    return []


def _set_tensorflow_device(gpus: list[Any]) -> None:
    import tensorflow as tf

    try:
        tf.config.set_visible_devices(gpus, "GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        # TensorFlow has started already (several runs in one process): its devices stay as they are.
        return


def describe_environment(device: str) -> dict[str, Any]:
    """Versions, machine, threads and switches that decide the bits of a result; JSON-ready."""
    import keras

    backend = keras.backend.backend()
    return {
        "pointcnn": __version__,
        "git_commit": _read_git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _read_versions(),
        "backend": backend,
        "device": device,
        "threads": _read_threads(backend),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
    }


def _read_versions() -> dict[str, str]:
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _read_threads(backend: str) -> dict[str, int | None]:
    threads: dict[str, int | None] = {
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    }
    if backend == "tensorflow":
        import tensorflow as tf

        threads["intra_op"] = tf.config.threading.get_intra_op_parallelism_threads()
        threads["inter_op"] = tf.config.threading.get_inter_op_parallelism_threads()
    return threads


def _read_git_commit() -> str | None:
    """The commit of pointcnn's own source, where it runs from a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

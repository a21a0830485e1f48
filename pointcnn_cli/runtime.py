"""The engine below Keras: environment variables before it is imported, the device, and what to record of both.

What is TensorFlow's or JAX's alone stands here, and in `distribution` where several devices or processes are meant.
"""

import contextlib
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pointcnn_cli import __version__
from pointcnn_cli.errors import MissingDependencyError

RECORDED_PACKAGES = ("tensorflow", "keras", "numpy", "h5py", "safetensors", "scikit-learn", "jax", "jaxlib")
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX"}
BACKENDS = {"tensorflow": "tensorflow keras", "jax": "'pointcnn-cli[jax]'"}
"""What Keras may compute with, and what installs it. Not torch: its 'same' average pools are wrong in Keras 3.15."""


def name_backend() -> str:
    """What Keras computes with, or will once it is imported: the variable KERAS_BACKEND says so, by default TensorFlow.

    What a keras.json says counts for nothing. Raises MissingDependencyError for a backend that is not of `BACKENDS`.
    """
    if "keras" in sys.modules:
        import keras

        return str(keras.backend.backend())
    name = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if name not in BACKENDS:
        raise MissingDependencyError(
            f"KERAS_BACKEND is {name!r}; pointcnn computes with {' or '.join(BACKENDS)}",
            f"unset KERAS_BACKEND, or set it to jax after: pip install {BACKENDS['jax']}",
        )
    return name


def import_keras() -> None:
    """Import Keras and its backend, quietly unless TF_CPP_MIN_LOG_LEVEL is set; what the user has set stays.

    TensorFlow writes to the process's stderr before its log level is in force, so stderr is set aside for the
    duration and shown only when the import fails; not so where there is no stderr, or no folder for temporary files.
    Raises MissingDependencyError when it fails.
    """
    os.environ["KERAS_BACKEND"] = name_backend()
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
        failed = False
        try:
            _touch_backend()
        except Exception:
            failed = True
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                aside.seek(0)
                os.write(2, aside.read())


@contextlib.contextmanager
def redirect_noise(shown: bool) -> Iterator[None]:
    """Within the block, what libraries print goes to stderr where it is `shown`, else nowhere; never to stdout, which
    is for results."""
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    stdout, stderr = os.dup(1), os.dup(2)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            os.dup2(stderr if shown else nowhere, 1)
            os.dup2(stderr if shown else nowhere, 2)
            yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for descriptor in (nowhere, stdout, stderr):
            os.close(descriptor)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Within the block, what is below Python writes nothing to stdout, which is for results: Gloo greets there."""
    try:
        stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is no stdout
        yield
        return
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def _touch_backend() -> None:
    """Import Keras and start its backend. Raises MissingDependencyError where one of them cannot be imported."""
    try:
        import keras  # noqa: F401

        list_gpus()
    except Exception as error:
        raise MissingDependencyError(
            f"Keras or the library below it cannot be used ({type(error).__name__}: {error})",
            f"pip install --force-reinstall {BACKENDS[os.environ['KERAS_BACKEND']]}",
        ) from error
    _ignore_user_settings()


def _ignore_user_settings() -> None:
    """Equal configs give equal networks: what keras.json and the environment say of other work does not count here."""
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


def set_seed(seed: int) -> None:
    """Initial weights and the seeds of random layers follow from `seed` alone.

    On JAX Keras draws all of them from Python's generator; its own function would import TensorFlow for nothing.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
    else:
        random.seed(seed)
        np.random.seed(seed)


def choose_device(wanted: str) -> str:
    """Make `wanted` (auto, cpu, gpu, multi) the device of all that follows, and describe it in words.

    With multi, one device is described here and the others are for `distribution` to take. Raises
    MissingDependencyError when a GPU is asked for and none can be used. To be called once, before any tensor exists.
    """
    import keras

    backend = keras.backend.backend()
    gpus = list_gpus()
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


def limit_threads(threads: int | None) -> None:
    """Compute with so many threads on the CPU; None leaves it to the backend, which takes all CPUs.

    To be called before the backend starts; where it has (several runs in one process) its threads stay.
    """
    if threads is None:
        return
    os.environ["NPROC"] = str(threads)  # what XLA's client for CPUs, which JAX uses, takes for the number of CPUs
    if name_backend() == "tensorflow":
        import_keras()
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)


def enable_determinism() -> None:
    """Make every operation give the same bits each time, for the rest of the process, where a switch for it exists.

    JAX has none that acts after its start: on CPU it needs none, and on a GPU the user sets
    XLA_FLAGS=--xla_gpu_deterministic_ops=true before it.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def list_gpus() -> list[Any]:
    """The GPUs that the backend sees; this starts it."""
    backend = name_backend()
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
        "xla_flags": os.environ.get("XLA_FLAGS"),
    }


def compare_environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two of `describe_environment`, of all that may change the bits of a result."""
    keys = ("pointcnn", "python", "platform", "packages", "backend", "device", "threads", "onednn", "xla_flags")
    return [f"{key} was {before.get(key)}, is {now[key]}" for key in keys if before.get(key) != now[key]]


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
    elif os.environ.get("NPROC", "").isdigit():
        threads["nproc"] = int(os.environ["NPROC"])
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

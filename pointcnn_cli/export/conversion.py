"""Writing a network in another format, as Keras and TensorFlow convert it."""

import errno
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointcnn_cli.errors import MissingDependencyError, PointcnnError, RunError
from pointcnn_cli.export.formats import Arrays, Format
from pointcnn_cli.export.rows import CheckRows, iterate_batches
from pointcnn_cli.runtime import redirect_noise

if TYPE_CHECKING:
    import keras

SPACE_FACTOR = 3  # of the weights: the model, and what a converter writes on its way


def check_backend() -> None:
    """Raise MissingDependencyError unless Keras runs on TensorFlow, whose graph all formats are converted from."""
    import keras

    if (backend := keras.backend.backend()) != "tensorflow":
        raise MissingDependencyError(
            f"the Keras backend is {backend}, and every format is converted from TensorFlow's graph",
            "a run's weights do not depend on the backend; put KERAS_BACKEND=tensorflow before the command",
        )


def convert(
    chosen: Format,
    network: "keras.Model",
    path: Path,
    metadata: str,
    show_noise: bool,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write `network` as `path`, with `metadata` in it. `options` are those of TensorFlow's converter to LiteRT.

    What the libraries print on the way is shown on stderr with `show_noise`, else nowhere. Raises RunError where the
    format cannot hold the network, OSError where the disk is full.
    """
    import tensorflow as tf

    if chosen.name == "litert":  # else Keras allows operations that only a build with all of TensorFlow can run
        options = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}, **(options or {})}
    try:
        with redirect_noise(show_noise), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network.export(str(path), format=chosen.keras_name, verbose=False, **(options or {}))
            chosen.attach(path, metadata)
    except (OSError, PointcnnError):
        raise
    except Exception as error:
        _raise_if_full(path, network, error)
        raise RunError(
            f"the network cannot be written as {chosen.name}: {type(error).__name__}: {_take_first_line(error)}",
            "pointcnn -v export shows what the converter says; another --format may hold it",
        ) from error


def build_quantization(kind: str, rows: CheckRows, names: Sequence[str]) -> dict[str, Any]:
    """Options of the converter to LiteRT for `float16` (weights) or `int8` (weights, and operations as far as the
    format knows them on integers, with ranges taken from training rows that go in by these `names`)."""
    import tensorflow as tf

    options: dict[str, Any] = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    builtins = tf.lite.OpsSet.TFLITE_BUILTINS
    if kind == "float16":
        return {**options, "target_spec": {"supported_ops": [builtins], "supported_types": [tf.float16]}}

    def iterate_rows() -> Iterator[Arrays]:
        yield from iterate_batches(rows.source, rows.pick_training(), names, 1)

    integers = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, builtins]}
    return {**options, "target_spec": integers, "representative_dataset": iterate_rows}


def _raise_if_full(path: Path, network: "keras.Model", error: Exception) -> None:
    """Raise OSError where `error` is one of TensorFlow's or OpenVINO's own for a full disk or a limit."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(code) in str(error):
            raise OSError(code, os.strerror(code)) from error
    needed = SPACE_FACTOR * sum(4 * math.prod(weight.shape) for weight in network.weights)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _take_first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:300]

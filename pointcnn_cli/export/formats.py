"""The formats: what each needs, how Keras writes it, how what belongs to the model goes into it, and how its own
runtime runs it."""

import importlib.metadata
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import MissingDependencyError

Arrays = Mapping[str, NDArray[np.float32]]  # the channels by the name of the model's input
Runner = Callable[[Arrays], NDArray[np.float32]]

METADATA_KEY = "pointcnn"
"""Under which the metadata are found in the model itself."""
METADATA_NAME = f"{METADATA_KEY}.json"
OUTPUT_NAME = "probabilities"


@dataclass(frozen=True)
class Format:
    """One format, and the runtime that it is for."""

    name: str
    keras_name: str
    """As `keras.Model.export` calls it."""
    suffix: str
    """Of the file; empty where the model is a folder."""
    companions: tuple[str, ...]
    """Suffixes of further files that belong to the model."""
    packages: Mapping[str, str]
    """Distribution by module: all that writing, and running what was written, need beside Keras and TensorFlow."""
    runtime: str
    """The distribution that runs it."""
    attach: Callable[[Path, str], None]
    """Put metadata, a JSON text, into a written model."""
    load: Callable[[Path], Runner]
    """Load a written model into its runtime."""

    quantizes: bool = False
    """Whether it can hold smaller numbers than float32 here."""

    @property
    def main_name(self) -> str:
        """The file or folder of the model before it has its final name."""
        return f"model{self.suffix}"

    def describe_runtime(self) -> dict[str, str]:
        """The runtime's name and the version that is installed here."""
        return {"name": self.runtime, "version": importlib.metadata.version(self.runtime)}


def check_packages(chosen: Format) -> None:
    """Raise MissingDependencyError, naming all that must be installed, unless the packages of a format are there."""
    if missing := [name for module, name in chosen.packages.items() if find_spec(module) is None]:
        raise MissingDependencyError(
            f"exporting to {chosen.name} needs {', '.join(chosen.packages.values())}; missing: {', '.join(missing)}",
            f"pip install {' '.join(missing)}",
        )


def _attach_to_savedmodel(path: Path, text: str) -> None:
    # The folder that the format keeps for others' files: nothing in it is loaded with the graph.
    folder = path / "assets.extra"
    folder.mkdir()
    (folder / METADATA_NAME).write_text(text)


def _load_savedmodel(path: Path) -> Runner:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))

    def run(channels: Arrays) -> NDArray[np.float32]:
        feeds = {name: tf.constant(values) for name, values in channels.items()}
        return np.asarray(model.signatures["serving_default"](**feeds)[OUTPUT_NAME])

    return run


def _attach_to_onnx(path: Path, text: str) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    _name_onnx_output(model.graph)
    onnx.save(model, path)


def _name_onnx_output(graph: Any) -> None:
    """The converter gives the output a name of its own, and every batch dimension another one."""
    [output] = graph.output
    for node in graph.node:
        node.output[:] = [OUTPUT_NAME if name == output.name else name for name in node.output]
    output.name = OUTPUT_NAME
    for tensor in (*graph.input, output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"


def _load_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(channels: Arrays) -> NDArray[np.float32]:
        return np.asarray(session.run([OUTPUT_NAME], dict(channels))[0])

    return run


def _attach_to_litert(path: Path, text: str) -> None:
    # As TensorFlow Lite's metadata tools do: a ZIP archive behind the flatbuffer, which readers of either skip.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_NAME, text)


def _load_litert(path: Path) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(str(path)).get_signature_runner()

    def run(channels: Arrays) -> NDArray[np.float32]:
        return np.asarray(signature(**channels)[OUTPUT_NAME])

    return run


def _attach_to_openvino(path: Path, text: str) -> None:
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file of the weights is about to be replaced
    model = core.read_model(path)
    model.set_rt_info(text, [METADATA_KEY])
    model.outputs[0].tensor.set_names({OUTPUT_NAME})
    openvino.serialize(model, path)


def _load_openvino(path: Path) -> Runner:
    import openvino

    # Where the processor has bfloat16 OpenVINO would round to it unasked.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(channels: Arrays) -> NDArray[np.float32]:
        return np.asarray(model(dict(channels))[OUTPUT_NAME])

    return run


FORMATS = {
    chosen.name: chosen
    for chosen in (
        Format("savedmodel", "tf_saved_model", "", (), {}, "tensorflow", _attach_to_savedmodel, _load_savedmodel),
        Format(
            "onnx", "onnx", ".onnx", (), {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"},
            "onnxruntime", _attach_to_onnx, _load_onnx,
        ),
        Format(
            "litert", "litert", ".tflite", (), {"ai_edge_litert": "ai-edge-litert"},
            "ai-edge-litert", _attach_to_litert, _load_litert, quantizes=True,
        ),
        Format(
            "openvino", "openvino", ".xml", (".bin",), {"openvino": "openvino"},
            "openvino", _attach_to_openvino, _load_openvino,
        ),
    )
}  # fmt: skip

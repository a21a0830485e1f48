"""Runs to export, and what is found in an exported model."""

import json
import re
import shutil
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SMOKE

from pointcnn_cli.config.changes import store_config
from pointcnn_cli.config.load import dump_config, load_config
from pointcnn_cli.export.formats import FORMATS
from pointcnn_cli.models import build_model, read_weights
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir

OUTPUTS = {"savedmodel": "model", "onnx": "model.onnx", "litert": "model.tflite", "openvino": "model.xml"}
LANGUAGES = {"savedmodel": "TensorFlow, which", "onnx": "ONNX Runtime", "litert": "LiteRT", "openvino": "OpenVINO"}
CLOSE = 1e-4  # what the issue asks of float formats


def installed(name: str) -> pytest.MarkDecorator:
    missing = [distribution for module, distribution in FORMATS[name].packages.items() if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


EVERY = [pytest.param(name, marks=installed(name)) for name in FORMATS]
LITERT = installed("litert")


class Told(Reporter):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def read_expected(run: RunDir) -> np.ndarray:
    """The probabilities of the run's validation rows, as training wrote them."""
    header, *lines = run.predictions.read_text().splitlines()
    columns = [i for i, name in enumerate(header.split(",")) if name.startswith("p_")]
    return np.array([[float(line.split(",")[i]) for i in columns] for line in lines])


def change_run(run: RunDir, target: Path, *overrides: str) -> RunDir:
    """A copy of the run that began with another config. Weights do not depend on what is changed here."""
    shutil.copytree(run.path, target)
    changed = RunDir.open(target)
    config = load_config(str(run.config), overrides)
    changed.config.write_text(dump_config(config))
    changed.update_manifest(config=store_config(config))
    return changed


def make_untrained_run(target: Path, network: str, depths: tuple[int, ...]) -> RunDir:
    """A run with random weights, whose data are gone."""
    shapes = [(depth, 16, 12) for depth in depths]
    config = load_config(SMOKE, ["data.simulate=null", f"data.path={target}-gone.h5", f"model.name={network}"])
    manifest = {
        "schema_version": 1,
        "status": "finished",
        "classes": ["sit", "walk", "fall"],
        "channel_shapes": [list(shape) for shape in shapes],
        "config": store_config(config),
        "data": {"rows": 9, "files": [], "labels_sha256": "", "sampled_rows_sha256": ""},
        "environment": {},
    }
    run = RunDir.create(target, dump_config(config), manifest, {"schema_version": 1})
    run.unlock()
    rng = np.random.default_rng(0)
    weights = read_weights(build_model(config.model, shapes, 3))
    for path, values in weights.items():
        positive = path.endswith(("moving_variance", "deviation"))
        weights[path] = (
            rng.uniform(0.5, 2, values.shape) if positive else values + rng.normal(0, 0.03, values.shape)
        ).astype(values.dtype)
    run.write_weights(run.best, weights, 1)
    return run


def read_block(name: str) -> str:
    """The lines that docs/export.md shows for a format."""
    text, python = (ROOT / "docs" / "export.md").read_text(), r"<!-- not run: [^\n]* -->\n```python\n(.*?)```"
    [found] = re.findall(rf"\n{LANGUAGES[name]}[^\n]*:\n\n{python}", text, re.DOTALL)
    return found


def read_inner(name: str, model: Path) -> dict:
    """The metadata in the model."""
    if name == "savedmodel":
        return json.loads((model / "assets.extra" / "pointcnn.json").read_text())
    if name == "onnx":
        import onnx

        return json.loads({p.key: p.value for p in onnx.load(model).metadata_props}["pointcnn"])
    if name == "litert":
        return json.loads(zipfile.ZipFile(model).read("pointcnn.json"))
    import openvino

    return json.loads(openvino.Core().read_model(model).get_rt_info("pointcnn").astype(str))


def count_windows(name: str, model: Path) -> Counter[tuple[str, int]]:
    """How many convolutions and pools a written model has, by (kind, number of dimensions that a window spans)."""
    return Counter(
        {"savedmodel": _of_savedmodel, "onnx": _of_onnx, "litert": _of_litert, "openvino": _of_openvino}[name](model)
    )


def _of_savedmodel(model: Path):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    kinds = {"Conv2D": ("conv", 2), "Conv3D": ("conv", 3), "MaxPool": ("pool", 2), "AvgPool": ("pool", 2)}
    kinds |= {"MaxPool3D": ("pool", 3), "AvgPool3D": ("pool", 3)}
    nodes = [node for function in graph.library.function for node in function.node_def] + list(graph.node)
    return [kinds[node.op] for node in nodes if node.op in kinds]


def _of_onnx(model: Path):
    import onnx

    kinds = {"Conv": "conv", "MaxPool": "pool", "AveragePool": "pool"}
    graph = onnx.load(model).graph
    sizes = {node.name: [len(a.ints) for a in node.attribute if a.name == "kernel_shape"] for node in graph.node}
    return [(kinds[node.op_type], sizes[node.name][0]) for node in graph.node if node.op_type in kinds]


def _of_litert(model: Path):
    from ai_edge_litert.interpreter import Interpreter

    kinds = {"CONV_2D": ("conv", 2), "DEPTHWISE_CONV_2D": ("conv", 2), "CONV_3D": ("conv", 3)}
    kinds |= {"MAX_POOL_2D": ("pool", 2), "AVERAGE_POOL_2D": ("pool", 2)}
    names = [operation["op_name"] for operation in Interpreter(str(model))._get_ops_details()]
    assert [name for name in names if name.startswith(("Flex", "CUSTOM"))] == []
    return [kinds[name] for name in names if name in kinds]


def _of_openvino(model: Path):
    import openvino

    kinds = {"Convolution": "conv", "MaxPool": "pool", "AvgPool": "pool"}
    operations = openvino.Core().read_model(model).get_ops()
    return [
        (kinds[one.get_type_name()], len(one.get_output_partial_shape(0)) - 2)
        for one in operations
        if one.get_type_name() in kinds
    ]


def check_lowered(name: str, model: Path) -> None:
    """Raise AssertionError unless all that slides over the input does so in two dimensions."""
    windows = count_windows(name, model)
    assert {dimensions for _, dimensions in windows} == {2}
    assert windows["conv", 2] == 17  # conv1, conv2, conv3 and the shortcut of four branches, and conv4
    assert windows["pool", 2] >= 5  # of four branches, and pool4


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

"""What goes along with an exported model: all that one needs to use it, and to know where it comes from.

The same document goes into the model, where the format has a place for it, and beside it.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from pointcnn_cli import __version__
from pointcnn_cli.config.changes import store_config
from pointcnn_cli.export.formats import OUTPUT_NAME, Format
from pointcnn_cli.export.networks import Networks
from pointcnn_cli.prediction import LoadedRun

SCHEMA_VERSION = 1
INPUT_STATEMENT = (
    "Give the values as they are stored in the data file, as float32. A slot without a point is 0 in all four channels."
)
NORMALIZATION_STATEMENTS = {
    "masked": "In the model: mean and deviation per channel and depth index; slots that are 0 in all channels stay 0.",
    "standard": "In the model: mean and deviation per channel and depth index, in all slots.",
    "none": "None: the network was trained on the values as they are stored.",
}
CALIBRATION_STATEMENT = (
    "Not in the model. Calibrated probabilities are p ** (1 / temperature), divided by their sum over the classes."
)


def describe_export(
    loaded: LoadedRun,
    networks: Networks,
    chosen: Format,
    quantization: str | None,
    calibration: dict[str, Any] | None,
) -> dict[str, Any]:
    """The metadata of an export; JSON-ready."""
    shapes, names = loaded.manifest["channel_shapes"], networks.input_names
    return {
        "schema_version": SCHEMA_VERSION,
        "pointcnn": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "format": chosen.name,
        "quantization": quantization,
        "inputs": [
            {"name": name, "dataset": dataset, "shape": [None, *shape, 1], "dtype": "float32"}
            for name, dataset, shape in zip(names, loaded.config.data.channels, shapes, strict=True)
        ],
        "axes": ["batch", "depth", "points", "frames", "value"],
        "input_values": INPUT_STATEMENT,
        "output": {"name": OUTPUT_NAME, "shape": [None, len(loaded.classes)], "dtype": "float32"},
        "classes": list(loaded.classes),
        "normalization": _describe_normalization(loaded, networks),
        "calibration": calibration,
        "run": {
            "id": loaded.run.path.name,
            "status": loaded.manifest["status"],
            "epoch": networks.epoch,
            "config": _strip_folders(store_config(loaded.config)),
            "data": _strip_folders(loaded.manifest["data"]),
            "environment": loaded.manifest["environment"],
        },
    }


def format_metadata(document: Mapping[str, Any]) -> str:
    """The document as text. ASCII alone, so that no runtime has to agree on an encoding."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _describe_normalization(loaded: LoadedRun, networks: Networks) -> dict[str, Any]:
    kind = loaded.config.model.normalize
    described: dict[str, Any] = {"kind": kind, "statement": NORMALIZATION_STATEMENTS[kind]}
    if kind == "none":
        return described
    mean, deviation = networks.reference.get_layer("normalization").get_weights()
    ends = [sum(int(shape[0]) for shape in loaded.manifest["channel_shapes"][: i + 1]) for i in range(4)]
    for name, values in (("mean", mean), ("deviation", deviation)):
        described[name] = [
            [float(value) for value in values[start:end]] for start, end in zip([0, *ends], ends, strict=False)
        ]
    return described


def describe_calibration(loaded: LoadedRun) -> dict[str, Any] | None:
    """The temperature that training fitted, and how to apply it; None where it fitted none. Raises RunError where its
    file is damaged."""
    if not loaded.run.calibration.exists():
        return None
    return {"temperature": loaded.read_temperature(), "statement": CALIBRATION_STATEMENT}


def _strip_folders(value: Any, key: str = "") -> Any:
    """Of paths the last name alone: where a file lay on the machine that trained is of no use elsewhere."""
    if isinstance(value, dict):
        return {name: _strip_folders(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strip_folders(item, key) for item in value]
    return PurePath(value).name if key in ("path", "file") and isinstance(value, str) else value

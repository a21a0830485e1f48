"""The format of checkpoints: arrays and facts in one safetensors file, with a digest that shows any damage."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import RunError

METADATA_KEY = "pointcnn"  # of the file's metadata: the digest, and the facts in JSON
RESTORE = "restore it from a copy, or train again"

Arrays = dict[str, NDArray[Any]]


def pack(arrays: Arrays, facts: Mapping[str, Any]) -> bytes:
    """A safetensors file of `arrays` and `facts` with a digest of both; equal content gives equal bytes."""
    from safetensors.numpy import save

    text = json.dumps(facts, sort_keys=True)
    # One entry of metadata: of several, safetensors writes now this one first and now that one.
    return save(arrays, {METADATA_KEY: f"{_digest(arrays, text)} {text}"})


def unpack(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """What `pack` packed. Raises RunError for a file that is anything else, or not as it was written."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise RunError(f"{path}: not a file", RESTORE)
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest, _, text = file.metadata()[METADATA_KEY].partition(" ")
        if _digest(arrays, text) != digest:
            raise RunError(f"{path}: damaged; its content does not match its digest", RESTORE)
        facts = json.loads(text)
        return arrays, {**facts, "epoch": int(facts["epoch"])}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{path}: damaged or not a checkpoint of pointcnn ({error})", RESTORE) from error


def _digest(arrays: Arrays, facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()

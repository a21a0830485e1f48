"""A cheap answer to "are these the rows that the run was trained on?"."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.samples import Source

SAMPLED_ROWS = 64
"""Rows hashed, evenly spread: a replaced, reordered or rescaled file shows; one changed value elsewhere may not."""


def compute_fingerprint(source: Source) -> dict[str, Any]:
    """Rows, files with their sizes, SHA-256 of the labels and of about 64 rows of all channels. JSON-ready.

    `labels_sha256` covers the class names in order, then the labels; it is None without labels. A size is None for
    simulated rows. Raises DataError when a sampled row is not finite or cannot be read.
    """
    index = source.index
    labels = None
    if index.labels is not None and index.classes is not None:
        digest = hashlib.sha256("\n".join(index.classes).encode())
        digest.update(index.labels.astype("<i8").tobytes())
        labels = digest.hexdigest()
    rows = np.unique(np.linspace(0, index.rows - 1, min(SAMPLED_ROWS, index.rows)).round().astype(np.int64))
    sampled = hashlib.sha256()
    for channel in source.read(rows):
        little = channel.astype(channel.dtype.newbyteorder("<"), copy=False)
        sampled.update(f"{little.dtype.str}{little.shape}".encode())
        sampled.update(little.tobytes())
    return {
        "rows": index.rows,
        "files": [{"path": span.path, "size": _size(span.path)} for span in index.files],
        "labels_sha256": labels,
        "sampled_rows_sha256": sampled.hexdigest(),
    }


def check_fingerprint(source: Source, wanted: dict[str, Any]) -> None:
    """Raise DataError unless `source` has the rows whose fingerprint is `wanted` (a run's)."""
    paths = ", ".join(span.path for span in source.index.files)
    differing = compare_fingerprints(compute_fingerprint(source), wanted)
    if differing:
        raise DataError(
            f"{paths}: not the data of the run: {differing}",
            "put the original file back, or train a new run on the new data",
        )


def compare_fingerprints(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """What tells the rows of one fingerprint from those of another, in words; None where nothing does. The place and
    size of the files do not count."""
    differing = [key for key in ("rows", "labels_sha256", "sampled_rows_sha256") if found[key] != wanted[key]]
    if not differing:
        return None
    return f"{', '.join(differing)} differ ({found['rows']} rows here, {wanted['rows']} rows then)"


def _size(path: str) -> int | None:
    """Bytes of a file; None for what is not a file (simulated rows)."""
    return os.path.getsize(path) if os.path.isfile(path) else None

"""One pass over the rows: what later checks need of their values, without keeping the values.

Hashes tell equal rows and frames, moments tell scales, and features are a sketch for probes and drift tests.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pointcnn_cli.diagnose.facts import CaseData

BLOCK = 256  # rows read at a time
TIME_BLOCKS = 6  # into which the frames of a row are pooled for its features
POOLED = 64  # means at most into which a row without frames is pooled; fewer values are kept as they are
LARGEST = 1e30  # of a feature; squares of the largest float32 values overflow
VALUES = 32  # places of each coordinate whose values are kept, for quantiles
NO_FRAME = np.uint64(0)  # the hash of a frame without a filled slot
ROW_KEY = 1_000  # of the multipliers for whole rows; smaller ones belong to inputs


@dataclass(frozen=True, eq=False)
class Scan:
    """What one pass saw, row by row. A coordinate is one input and one index of its first (depth) axis."""

    row_hash: NDArray[np.uint64]
    """(rows,) equal for equal float32 values; -0.0 counts as 0.0."""
    frame_hash: NDArray[np.uint64] | None
    """(rows, frames) of all inputs together, `NO_FRAME` for empty ones; None for data without frames."""
    bad_values: NDArray[np.int64]
    """(rows, inputs) how many values are NaN or infinite as float32."""
    filled: NDArray[np.int64]
    """(rows,) slots that are non-zero in any input; values that are non-zero where inputs have different shapes."""
    count: NDArray[np.int64]
    """(rows, coordinates) non-zero finite values."""
    total: NDArray[np.float64]
    """(rows, coordinates) their sum."""
    squares: NDArray[np.float64]
    """(rows, coordinates) the sum of their squares."""
    lowest: NDArray[np.float64]
    """(rows, coordinates) smallest finite value, zeros included."""
    highest: NDArray[np.float64]
    size: NDArray[np.int64]
    """(coordinates,) values of one row, zeros included."""
    coordinates: tuple[str, ...]
    """Names, as `channel_1[0]`."""
    inputs: NDArray[np.int64]
    """(coordinates,) the input that each belongs to."""
    values: NDArray[np.float32]
    """(rows, coordinates, places) finite values at up to `VALUES` places, the same in all rows."""
    features: NDArray[np.float32]
    """(rows, features) finite, standardised over all rows: moments and pooled means of each coordinate."""


def scan_rows(data: "CaseData") -> Scan:
    """Read all rows once, block by block."""
    parts = [_scan_block(data, rows) for rows in np.array_split(np.arange(data.rows), max(1, -(-data.rows // BLOCK)))]
    joined: dict[str, Any] = {
        key: None if parts[0][key] is None else np.concatenate([part[key] for part in parts]) for key in parts[0]
    }
    depths = [shape[0] if len(shape) == 3 else 1 for shape in data.shapes]
    features = np.nan_to_num(joined.pop("features").astype(np.float64), posinf=LARGEST, neginf=-LARGEST)
    center, spread = features.mean(axis=0), features.std(axis=0)
    return Scan(
        **joined,
        size=np.repeat([int(np.prod(s)) // d for s, d in zip(data.shapes, depths, strict=True)], depths),
        coordinates=tuple(
            f"{name}[{i}]" if depth > 1 else name
            for name, depth in zip(data.names, depths, strict=True)
            for i in range(depth)
        ),
        inputs=np.repeat(np.arange(len(depths)), depths),
        features=((features - center) / np.where(spread > 1e-6, spread, 1.0)).astype(np.float32),
    )


def _scan_block(data: "CaseData", rows: NDArray[np.int64]) -> dict[str, Any]:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is counted
        channels = [_drop_last(channel, shape) for channel, shape in zip(data.read(rows), data.shapes, strict=True)]
    bad = [~np.isfinite(c) for c in channels]
    finite = [np.where(b, np.float32(0.0), c) if b.any() else c for b, c in zip(bad, channels, strict=True)]
    planes = _split_coordinates(finite)
    moments = [_measure_plane(plane) for plane in planes]  # (rows, values...) each
    with np.errstate(over="ignore", invalid="ignore"):  # of squares; see LARGEST
        features = np.concatenate([_sketch_plane(plane, data.has_frames) for plane in planes], axis=1)
    frame_hash = _hash_frames(channels) if data.has_frames else None
    return {
        "row_hash": _hash_rows(channels) if frame_hash is None else _hash_last_axis(frame_hash, ROW_KEY),
        "frame_hash": frame_hash,
        "bad_values": np.stack([b.reshape(len(rows), -1).sum(axis=1) for b in bad], axis=1),
        "filled": _count_filled(channels),
        **{key: np.stack([m[key] for m in moments], axis=1) for key in moments[0]},
        "values": _stack_padded([_pick_values(plane) for plane in planes]),
        "features": features,
    }


def _drop_last(channel: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32 rows of `shape`; -0.0 becomes 0.0."""
    return channel.reshape(len(channel), *shape).astype(np.float32) + np.float32(0.0)


def _split_coordinates(channels: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """One array (rows, ...) a coordinate: inputs of three axes fall into the indices of their first one."""
    planes: list[NDArray[np.float32]] = []
    for channel in channels:
        planes += [channel[:, i] for i in range(channel.shape[1])] if channel.ndim == 4 else [channel]
    return planes


def _measure_plane(plane: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    values = plane.reshape(len(plane), -1).astype(np.float64)
    return {
        "count": np.count_nonzero(values, axis=1),
        "total": values.sum(axis=1),
        "squares": np.einsum("ij,ij->i", values, values),
        "lowest": values.min(axis=1),
        "highest": values.max(axis=1),
    }


def _count_filled(channels: list[NDArray[np.float32]]) -> NDArray[np.int64]:
    if all(c.ndim == 4 for c in channels) and len({c.shape[2:] for c in channels}) == 1:
        mask = np.zeros((len(channels[0]), *channels[0].shape[2:]), bool)
        for channel in channels:
            mask |= (channel != 0).any(axis=1)
    else:
        mask = np.concatenate([c.reshape(len(c), -1) != 0 for c in channels], axis=1)
    filled: NDArray[np.int64] = mask.reshape(len(mask), -1).sum(axis=1)
    return filled


def _multipliers(size: int, key: int) -> NDArray[np.uint64]:
    """Odd random numbers: sums of products with them, modulo 2^64, are a universal hash (Dietzfelbinger 1996)."""
    return np.random.default_rng([size, key]).integers(0, 2**63, size, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _hash_last_axis(words: NDArray[Any], key: int) -> NDArray[np.uint64]:
    """Hash of float32 values or 64-bit words along the last axis; zeros add nothing.

    Float32 values that were half floats or small integers end in zero bits, which would stay in all products: the high
    bits are folded onto them first, which keeps different values different.
    """
    if words.dtype == np.float32:
        bits = np.ascontiguousarray(words).view(np.uint32)
        bits = bits ^ (bits >> np.uint32(16))
    else:
        bits = words
    hashed: NDArray[np.uint64] = np.einsum("...i,i->...", bits, _multipliers(bits.shape[-1], key), dtype=np.uint64)
    return hashed ^ (hashed >> np.uint64(29))


def _hash_frames(channels: list[NDArray[np.float32]]) -> NDArray[np.uint64]:
    """(rows, frames): the hash of all inputs at each frame; 0.0 adds nothing, so an empty frame gives `NO_FRAME`."""
    hashes = np.zeros((len(channels[0]), channels[0].shape[-1]), np.uint64)
    for key, channel in enumerate(channels):
        frames = np.moveaxis(channel, -1, 1).reshape(len(channel), channel.shape[-1], -1)
        hashes += _hash_last_axis(frames, key)
    return hashes


def _hash_rows(channels: list[NDArray[np.float32]]) -> NDArray[np.uint64]:
    hashes = np.zeros(len(channels[0]), np.uint64)
    for key, channel in enumerate(channels):
        hashes += _hash_last_axis(channel.reshape(len(channel), -1), ROW_KEY + key)
    return hashes


def _pick_values(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = plane.reshape(len(plane), -1)
    if flat.shape[1] <= VALUES:
        return flat
    return flat[:, np.random.default_rng(flat.shape[1]).choice(flat.shape[1], VALUES, replace=False)]


def _stack_padded(picked: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(rows, coordinates, places); coordinates with fewer places are padded with zeros."""
    width = max(values.shape[1] for values in picked)
    return np.stack([np.pad(values, ((0, 0), (0, width - values.shape[1]))) for values in picked], axis=1)


def _sketch_plane(plane: NDArray[np.float32], has_frames: bool) -> NDArray[np.float32]:
    """Features (rows, ...) of one coordinate: share filled, mean, deviation and extremes of filled values, and, with
    frames, mean and share filled in each of `TIME_BLOCKS` stretches of time, else the values pooled by place."""
    values = plane.reshape(len(plane), -1)
    count = np.count_nonzero(values, axis=1)
    safe = np.maximum(count, 1)
    mean = values.sum(axis=1) / safe
    spread = np.sqrt(np.maximum((values**2).sum(axis=1) / safe - mean**2, 0.0))
    columns = [count / values.shape[1], mean, spread, values.min(axis=1), values.max(axis=1)]
    if has_frames:
        for stretch in np.array_split(np.arange(plane.shape[-1]), min(TIME_BLOCKS, plane.shape[-1])):
            cut = plane[..., stretch].reshape(len(plane), -1)
            filled = np.count_nonzero(cut, axis=1)
            columns += [cut.sum(axis=1) / np.maximum(filled, 1), filled / cut.shape[1]]
    else:
        columns += list(_pool_places(plane).T)
    return np.stack(columns, axis=1).astype(np.float32)


def _pool_places(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means (rows, up to about `POOLED`) over stretches of the first axis, or over tiles of the first two."""
    if plane.ndim < 3:
        stretches = np.array_split(plane.reshape(len(plane), -1), min(POOLED, plane.shape[-1]), axis=1)
        return np.stack([part.mean(axis=1) for part in stretches], axis=1)
    side = int(POOLED**0.5)
    tiles = [
        tile.reshape(len(plane), -1).mean(axis=1)
        for strip in np.array_split(plane, min(side, plane.shape[1]), axis=1)
        for tile in np.array_split(strip, min(side, plane.shape[2]), axis=2)
    ]
    return np.stack(tiles, axis=1)

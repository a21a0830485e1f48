"""Equal frames and rows on both sides of a split: joins of the hashes that one pass over the data left.

Frames that stand still say nothing of where they came from. A match therefore needs frames that move, and windows that
overlap must be equal in the whole of their overlap, up to the end of one and the beginning of the other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.diagnose.facts import Rows
from pointcnn_cli.diagnose.scan import NO_FRAME

SHINGLE = 5  # consecutive frames: single frames of radar recordings collide in 74 to 91 % of clean windows
LEAST_DISTINCT = 3  # different frames that are not empty, in a shingle or a row that counts
OCCURRENCES = 4  # training windows that are tried for one shingle; overlapping windows share many shingles

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class WindowMatches:
    """Pairs of windows that overlap, one a row of the part that was asked about: that with the longest overlap."""

    rows: Rows
    """Rows of the part."""
    partners: Rows
    """Rows of the training part that they overlap with."""
    frames: NDArray[np.int64]
    """Frames that the two share."""


def find_moving_rows(frame_hash: Hashes) -> NDArray[np.bool_]:
    """Rows (rows,) with at least `LEAST_DISTINCT` different frames that are not empty."""
    return _count_distinct(frame_hash) >= LEAST_DISTINCT


def match_windows(frame_hash: Hashes, train: Rows, part: Rows) -> WindowMatches:
    """Windows of `part` that overlap with a window of `train`, and are not equal to it.

    `frame_hash` is (all rows, frames). Windows may be any number of frames apart that leaves `SHINGLE` in common.
    """
    rows, partners, offsets = _find_candidates(frame_hash, train, part)
    frames = frame_hash.shape[1]
    kept = np.zeros(len(rows), bool)
    for offset in np.unique(offsets):
        if offset == 0:  # equal rows are counted as such
            continue
        pairs = np.flatnonzero(offsets == offset)
        a, b = frame_hash[rows[pairs]], frame_hash[partners[pairs]]
        low, high = max(0, -offset), min(frames, frames - offset)
        kept[pairs] = (a[:, low:high] == b[:, low + offset : high + offset]).all(axis=1)
    shared = frames - np.abs(offsets)
    order = np.lexsort((-shared, rows))
    order = order[kept[order]]
    found, first = np.unique(rows[order], return_index=True)
    return WindowMatches(found, partners[order][first], shared[order][first])


def _find_candidates(frame_hash: Hashes, train: Rows, part: Rows) -> tuple[Rows, Rows, NDArray[np.int64]]:
    """Row of `part`, row of `train` and shift in frames of pairs that have a shingle in common."""
    keys, key_rows, key_places = _list_shingles(frame_hash, train)
    wanted, rows, places = _list_shingles(frame_hash, part)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.searchsorted(keys, wanted)
    found = []
    for occurrence in range(OCCURRENCES):
        place = first + occurrence
        hit = np.flatnonzero(place < len(keys))
        hit = hit[keys[place[hit]] == wanted[hit]]
        there = order[place[hit]]
        found.append(np.stack([rows[hit], key_rows[there], key_places[there] - places[hit]]))
    triples = np.unique(np.concatenate(found, axis=1), axis=1)
    return triples[0], triples[1], triples[2]


def _list_shingles(frame_hash: Hashes, rows: Rows) -> tuple[Hashes, Rows, NDArray[np.int64]]:
    """Hash, row and first frame of every shingle of `rows` that moves."""
    windows = np.lib.stride_tricks.sliding_window_view(frame_hash[rows], SHINGLE, axis=1)  # (rows, places, SHINGLE)
    multipliers = np.random.default_rng(SHINGLE).integers(0, 2**63, SHINGLE, dtype=np.uint64) * np.uint64(2)
    hashes = np.einsum("ijk,k->ij", windows, multipliers + np.uint64(1))
    at, place = np.nonzero(_count_distinct(windows) >= LEAST_DISTINCT)
    return hashes[at, place], rows[at], place


def _count_distinct(hashes: Hashes) -> NDArray[np.int64]:
    """Different values along the last axis, `NO_FRAME` not counted."""
    ordered = np.sort(hashes, axis=-1)
    fresh = np.concatenate([np.ones_like(ordered[..., :1], bool), ordered[..., 1:] != ordered[..., :-1]], axis=-1)
    distinct: NDArray[np.int64] = (fresh & (ordered != NO_FRAME)).sum(axis=-1)
    return distinct


@dataclass(frozen=True, eq=False)
class EqualRows:
    """Rows with equal values."""

    shared: Rows
    """Rows of validation that are also in training."""
    partners: Rows
    """A training row that each of them is equal to."""
    conflicting: Rows
    """Rows of either part that are equal to a row with another label."""
    lost: int
    """Rows of both parts that any classifier gets wrong, because their values also occur with a more frequent label."""


def match_rows(row_hash: Hashes, labels: NDArray[np.int64], train: Rows, validation: Rows) -> EqualRows:
    """Equal rows among `train` and `validation`; `labels` is (all rows,), -1 is no label and conflicts with none."""
    known, first = np.unique(row_hash[train], return_index=True)
    place = np.minimum(np.searchsorted(known, row_hash[validation]), max(len(known) - 1, 0))
    hit = known[place] == row_hash[validation] if len(known) else np.zeros(len(validation), bool)
    both = np.concatenate([train, validation])
    both = both[labels[both] >= 0]
    if not len(both):
        return EqualRows(validation[hit], train[first][place[hit]], both, 0)
    codes = np.unique(row_hash[both], return_inverse=True)[1]
    pairs, counts = np.unique(np.stack([codes, labels[both]]), axis=1, return_counts=True)
    largest = np.zeros(codes.max() + 1, np.int64)
    np.maximum.at(largest, pairs[0], counts)
    several = np.bincount(pairs[0], minlength=len(largest)) > 1
    lost = len(both) - int(largest.sum())
    return EqualRows(validation[hit], train[first][place[hit]], np.sort(both[several[codes]]), lost)

"""What the values of some rows say about the channels: which is position, velocity, intensity, range, in what unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import ChannelRole
from pointcnn_cli.proposal.naming import find_role

SAMPLED_PLACES, SAMPLED_ROWS = 20, 10
"""Rows that are read: so many at each of so many places over the file. A few hundred thousand points are enough for a
spread and a sign, and each place may cost the unpacking of a whole chunk."""
DISTANCE_CORRELATION, DISTANCE_FACTOR = 0.99, (0.8, 1.25)
"""A channel is the distance of the points where it goes with it so closely, and is so many times it: in RadHAR's
recordings correlation is 0.9999998 and the factor 1.065."""
SIGNED_SHARE = 0.02
"""A channel has both signs where this share of its values has each; velocities go both ways."""
METRES = (0.1, 5.0)
"""Standard deviations of coordinates that metres would give: people in rooms have about 0.6."""
DECIBELS = (1.0, 20.0)
"""The same of intensities in dB: radars give about 5."""


@dataclass(frozen=True)
class ChannelFacts:
    """What augmentation must know."""

    roles: tuple[ChannelRole, ...]
    reasons: tuple[str, ...]
    """One for each channel."""
    position_spread: float | None
    """Standard deviation of the coordinates, mean over the axes; None without a position."""
    intensity_spread: float | None


def find_roles(names: Sequence[str], channels: Sequence[NDArray[Any]]) -> ChannelFacts:
    """The role of each channel, by its name or its values over filled slots; channels (rows, depth, points, frames,
    1)."""
    filled = np.any([(channel != 0).any(axis=(1, 4)) for channel in channels], axis=0)  # (rows, points, frames)
    values = [_take(channel, filled) for channel in channels]  # (depth, filled)
    roles: list[ChannelRole | None] = [find_role(name) for name in names]
    reasons = ["its name" if role else "" for role in roles]
    distance = _compute_distance(values, roles, reasons)
    for i, (name, one) in enumerate(zip(names, values, strict=True)):
        if roles[i] == "range" and not _is_distance(one, distance):
            roles[i], reasons[i] = "other", f"called {name}, but it is not the distance of the points"
        elif roles[i] is None and "range" not in roles and _is_distance(one, distance):
            roles[i], reasons[i] = "range", "it is the distance of the points"
        elif roles[i] is None and "velocity" not in roles and len(one) == 1 and _has_both_signs(one):
            roles[i], reasons[i] = "velocity", "it has both signs"
    left = [i for i, role in enumerate(roles) if role is None]
    if len(left) == 1 and "intensity" not in roles and {"position", "velocity", "range"} <= set(roles):
        roles[left[0]], reasons[left[0]] = "intensity", "the only one left"
    final: list[ChannelRole] = [role or "other" for role in roles]
    return ChannelFacts(
        tuple(final), tuple(reason or "neither name nor values tell" for reason in reasons),
        _measure_spread(values, final, "position"), _measure_spread(values, final, "intensity"),
    )  # fmt: skip


def _take(channel: NDArray[Any], filled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The values of filled slots, (depth, filled)."""
    return np.stack([channel[:, d, :, :, 0][filled].astype(np.float64) for d in range(channel.shape[1])])


def _compute_distance(
    values: Sequence[NDArray[np.float64]], roles: list[ChannelRole | None], reasons: list[str]
) -> NDArray[np.float64] | None:
    """Finds the position (by name, else the first of depth 3) and gives the distance of its points from the origin."""
    if "position" not in roles:
        deep = [i for i, one in enumerate(values) if len(one) == 3 and roles[i] is None]
        if not deep:
            return None
        roles[deep[0]], reasons[deep[0]] = "position", "it has three coordinates"
    position = values[roles.index("position")]
    return np.sqrt((position**2).sum(axis=0)) if len(position) == 3 else None


def _is_distance(values: NDArray[np.float64], distance: NDArray[np.float64] | None) -> bool:
    if distance is None or len(values) != 1 or not distance.any() or values[0].std() == 0 or distance.std() == 0:
        return False
    factor = np.median(values[0]) / np.median(distance)
    return bool(
        DISTANCE_FACTOR[0] <= factor <= DISTANCE_FACTOR[1]
        and np.corrcoef(values[0], distance)[0, 1] >= DISTANCE_CORRELATION
    )


def _has_both_signs(values: NDArray[np.float64]) -> bool:
    return bool(values.size) and min((values < 0).mean(), (values > 0).mean()) > SIGNED_SHARE


def _measure_spread(
    values: Sequence[NDArray[np.float64]], roles: Sequence[ChannelRole], role: ChannelRole
) -> float | None:
    if role not in roles or not values[roles.index(role)].size:
        return None
    spread = float(values[roles.index(role)].std(axis=1).mean())
    return spread if spread > 0 else None

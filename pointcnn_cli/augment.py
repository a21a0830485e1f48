"""Random changes to training rows, in raw units, inside the training graph. Empty point slots stay empty."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from pointcnn_cli.config.schema import AugmentConfig

AXES = {"x": 0, "y": 1, "z": 2}


class Augment(keras.layers.Layer):
    """Changes each row of a batch by draws of its own; does nothing outside training.

    Takes and gives the channels, each (batch, depth, points, frames, 1), in float32. Draws come from the layer's seed
    generator alone, which training sets from (seed, epoch) before each epoch. Each change is a factor and an offset
    per row and coordinate, plus noise per point, so all of them together are one pass over the data.
    """

    def __init__(self, settings: AugmentConfig, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.settings = settings
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, shapes: list[tuple[int | None, ...]]) -> None:
        self.depths = [int(shape[1] or 0) for shape in shapes]
        roles = self.settings.channel_roles
        self.coordinate_roles = [role for role, depth in zip(roles, self.depths, strict=True) for _ in range(depth)]

    def call(self, channels: list[Any], training: bool | None = None) -> list[Any]:
        if not training:
            return channels
        x = ops.squeeze(ops.concatenate(channels, axis=1), axis=-1)  # (batch, coordinates, points, frames)
        filled = ops.any(ops.not_equal(x, 0.0), axis=1, keepdims=True)
        if self.settings.frame_roll:
            x, filled = self._roll(x, filled)
        if self.settings.point_dropout:
            filled = self._drop_points(filled)
        moved = self._move(x)
        moved = ops.where(filled, moved, 0.0)
        ends = list(np.cumsum(self.depths)[:-1])
        return [ops.expand_dims(part, -1) for part in ops.split(moved, ends, axis=1)]

    def _uniform(self, shape: tuple[Any, ...], low: float, high: float) -> Any:
        return keras.random.uniform(shape, low, high, seed=self.seed_generator)

    def _roll(self, x: Any, filled: Any) -> tuple[Any, Any]:
        """Roll each row in time by up to `frame_roll` frames, end to start."""
        batch, frames = ops.shape(x)[0], x.shape[3]
        largest = min(self.settings.frame_roll, frames - 1)
        shift = ops.cast(ops.floor(self._uniform((batch, 1), -largest, largest + 1)), "int32")
        source = ops.mod(ops.arange(frames, dtype="int32")[None] - shift, frames)  # (batch, frames)
        # Whole frames are taken, from a table of all frames of the batch: number by number took six times as long.
        source = ops.reshape(source + frames * ops.arange(batch, dtype="int32")[:, None], (-1,))
        table = ops.reshape(ops.transpose(x, (0, 3, 1, 2)), (-1, math.prod(x.shape[1:3])))
        rolled = ops.reshape(ops.take(table, source, axis=0), (-1, frames, *x.shape[1:3]))
        rolled = ops.transpose(rolled, (0, 2, 3, 1))
        return rolled, ops.any(ops.not_equal(rolled, 0.0), axis=1, keepdims=True)

    def _drop_points(self, filled: Any) -> Any:
        """Lose a share of the points of each row; the share is drawn up to `point_dropout`."""
        batch, _, points, frames = ops.shape(filled)
        share = self._uniform((batch, 1, 1, 1), 0.0, self.settings.point_dropout)
        return ops.logical_and(filled, self._uniform((batch, 1, points, frames), 0.0, 1.0) >= share)

    def _move(self, x: Any) -> Any:
        """Scale, mirror, shift and jitter; the range channel then follows the position."""
        settings, batch = self.settings, ops.shape(x)[0]
        scale = self._uniform((batch, 1, 1, 1), 1.0 - settings.scale, 1.0 + settings.scale) if settings.scale else 1.0
        rows = list(ops.split(x, len(self.coordinate_roles), axis=1))  # each (batch, 1, points, frames)
        position = [i for i, role in enumerate(self.coordinate_roles) if role == "position"]
        before = _norm([rows[i] for i in position])
        for axis, i in enumerate(position):
            factor = scale
            if settings.mirror and AXES[settings.mirror] == axis:
                factor = factor * ops.where(self._uniform((batch, 1, 1, 1), 0.0, 1.0) < 0.5, -1.0, 1.0)
            rows[i] = self._disturb(rows[i] * factor, settings.position_shift, settings.position_jitter)
        after = _norm([rows[i] for i in position])
        for i, role in enumerate(self.coordinate_roles):
            if role == "intensity":
                rows[i] = self._disturb(rows[i], settings.intensity_shift, settings.intensity_jitter)
            elif role == "range" and len(position) == 3:
                rows[i] = rows[i] + (after - before)
        return ops.concatenate(rows, axis=1)

    def _disturb(self, x: Any, shift: float, jitter: float) -> Any:
        """Move all points of a row together by up to `shift`, and each by noise of standard deviation `jitter`."""
        if shift:
            x = x + self._uniform((ops.shape(x)[0], 1, 1, 1), -shift, shift)
        if jitter:
            x = x + keras.random.normal(ops.shape(x), stddev=jitter, seed=self.seed_generator)
        return x


def _norm(coordinates: list[Any]) -> Any:
    return ops.sqrt(sum(ops.square(c) for c in coordinates)) if coordinates else 0.0

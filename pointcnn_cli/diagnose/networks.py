"""Networks of a case: predicting with them, and building those that a config or a run describes."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose.facts import Block, CaseData, Rows
from pointcnn_cli.models import build_model

BATCH = 128


def predict_inputs(
    model: keras.Model, data: CaseData, rows: Rows, channels: tuple[NDArray[Any], ...] | None = None
) -> NDArray[np.float64]:
    """Class scores (rows, classes) of `model` in inference mode, read and computed batch by batch."""
    outputs = []
    for start in range(0, len(rows), BATCH):
        stop = start + BATCH
        batch = data.read(rows[start:stop]) if channels is None else tuple(c[start:stop] for c in channels)
        outputs.append(keras.ops.convert_to_numpy(model(as_model_inputs(model, batch), training=False)))
    return as_class_scores(model, np.concatenate(outputs).astype(np.float64))


def as_class_scores(model: keras.Model, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """One column for each class: a single unit, which is the probability of the second class or its logit, gives two.

    It is a logit where the loss says so, or where nothing is said and a value is no probability.
    """
    if outputs.ndim != 2 or outputs.shape[1] != 1:
        return outputs
    loss = getattr(model, "loss", None)
    configure = getattr(loss, "get_config", None)
    logit = configure().get("from_logits", False) if configure is not None else None
    if logit is None:
        logit = loss is None and bool((np.abs(outputs - 0.5) > 0.5).any())
    second = 1.0 / (1.0 + np.exp(-np.clip(outputs, -500.0, 500.0))) if logit else outputs
    return np.concatenate([1.0 - second, second], axis=1)


def as_model_inputs(model: keras.Model, channels: Sequence[NDArray[Any]]) -> Any:
    """Arrays as `model` takes them: float32, in the shape of its inputs, a list or a single array."""
    shaped = [
        np.asarray(channel, np.float32).reshape(len(channel), *(-1 if d is None else d for d in wanted.shape[1:]))
        if None not in wanted.shape[1:] else np.asarray(channel, np.float32)
        for channel, wanted in zip(channels, model.inputs, strict=True)
    ]  # fmt: skip
    return shaped if len(shaped) > 1 else shaped[0]


def build_from_config(config: Config, shapes: Sequence[tuple[int, int, int]], classes: int) -> keras.Model:
    """The network of `config`, untrained and not compiled, seeded by it."""
    keras.utils.set_random_seed(config.seed)
    return build_model(config.model, shapes, classes, config.train.precision)


def clone_untrained(model: keras.Model, seed: int) -> Callable[[], keras.Model]:
    """A builder of copies of `model` with fresh weights, compiled like it."""

    def build() -> keras.Model:
        keras.utils.set_random_seed(seed)
        copy = _clone(model)
        _copy_settled_weights(model, copy)
        if model.optimizer is not None:
            optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
            copy.compile(optimizer=optimizer, loss=model.loss)
        return copy

    return build


def _clone(model: keras.Model) -> keras.Model:
    """A copy with fresh weights that is not compiled: Keras would compile it from the config of the loss, and not find
    one that the user wrote."""
    functional = isinstance(model, keras.Sequential) or hasattr(model, "_nodes_by_depth")
    given = {"clone_function": _clone_layer, "recursive": True} if functional else {}
    compiled, model.compiled = model.compiled, False
    try:
        return keras.models.clone_model(model, **given)
    finally:
        model.compiled = compiled


def _clone_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer with fresh weights; the same one where it is only a function, which Keras would not read back."""
    return layer if isinstance(layer, keras.layers.Lambda) else type(layer).from_config(layer.get_config())


def _copy_settled_weights(model: keras.Model, copy: keras.Model) -> None:
    """Give `copy` the weights that no training would change: adapted input statistics, and layers that are frozen."""
    for layer, twin in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        if isinstance(layer, keras.Model) or not layer.weights:
            continue
        if isinstance(layer, keras.layers.Normalization):
            twin.set_weights(layer.get_weights())
            twin.finalize_state()
        elif not layer.trainable:
            twin.set_weights(layer.get_weights())


def read_blocks(model: keras.Model) -> tuple[Block, ...]:
    """The blocks that the builder of `model` declared (`models.declare_block`)."""
    return tuple(Block(b.name, tuple(b.inputs), b.output) for b in getattr(model, "declared_blocks", ()))

"""One backward pass: which weights can have any influence on the output. TensorFlow only; weights are put back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

Gradients = list[NDArray[Any] | None]


def can_differentiate() -> bool:
    """Whether the backend is the one that this module knows."""
    import keras

    return bool(keras.backend.backend() == "tensorflow")


def compute_gradients(model: "keras.Model", inputs: Sequence[NDArray[Any]], rng: np.random.Generator) -> Gradients:
    """Gradients of a random sum of the outputs, in inference mode, for each trainable variable; None where there is
    no path from the variable to the output."""
    import tensorflow as tf

    given = list(inputs) if len(inputs) > 1 else inputs[0]
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(model(given, training=False))
        total = sum(tf.reduce_sum(o * tf.cast(rng.normal(size=o.shape), o.dtype)) for o in outputs)
    gradients = tape.gradient(total, variables)
    return [None if g is None else np.asarray(tf.convert_to_tensor(g)) for g in gradients]


def find_dead_layers(
    model: "keras.Model", inputs: Sequence[NDArray[Any]], rng: np.random.Generator
) -> tuple[list[str], int]:
    """Paths of layers none of whose trainable variables gets a gradient, and the number of layers that have some.

    Constant weights (zeros, ones) are made random first, so that an initial value cannot silence what comes after it;
    a layer is dead when it gets nothing from the given rows nor from random ones, under two draws.
    """
    variables = list(model.variables)
    before = [read_variable(variable) for variable in variables]
    try:
        dead = all_paths = {_name_owner(v) for v in model.trainable_variables}
        for noise in (False, True):
            if not dead:
                break
            _randomize_constants(model, rng)
            given = _draw_like(model, inputs, rng) if noise else inputs
            gradients = compute_gradients(model, given, rng)
            alive = {_name_owner(v) for v, g in zip(model.trainable_variables, gradients, strict=True)
                     if g is not None and np.any(g)}  # fmt: skip
            dead = dead - alive
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
    return sorted(dead), len(all_paths)


def find_stuck_kernels(
    model: "keras.Model", inputs: Sequence[NDArray[Any]], rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Paths of trainable kernels whose values are all equal, and of those among them that no training can change for
    the better: their gradient is zero, or the same for each of their units, on the given rows and on random ones.

    A last layer that starts at zero is constant and healthy: its units get different gradients.
    """
    constant = [v.path for v in model.trainable_variables if is_kernel_variable(v) and np.ptp(read_variable(v)) == 0]
    stuck = set(constant)
    for noise in (False, True):
        if not stuck:
            break
        given = _draw_like(model, inputs, rng) if noise else inputs
        gradients = compute_gradients(model, given, rng)
        stuck &= {v.path for v, g in zip(model.trainable_variables, gradients, strict=True) if _is_uniform(g)}
    return constant, [path for path in constant if path in stuck]


def read_variable(variable: Any) -> NDArray[Any]:
    """A copy of the value of a Keras variable."""
    import keras

    return np.array(keras.ops.convert_to_numpy(variable))


def is_kernel_variable(variable: Any) -> bool:
    """Whether a variable is a kernel (by its name) of more than one unit."""
    return "kernel" in variable.name and len(variable.shape) > 1 and variable.shape[-1] > 1


def _is_uniform(gradient: NDArray[Any] | None) -> bool:
    """Whether all units (the last axis) get the same gradient, up to rounding."""
    if gradient is None or not np.any(gradient):
        return True
    return bool(np.ptp(gradient, axis=-1).max() <= 1e-5 * np.abs(gradient).max())


def _name_owner(variable: Any) -> str:
    return str(variable.path).rpartition("/")[0] or str(variable.path)


def _randomize_constants(model: "keras.Model", rng: np.random.Generator) -> None:
    """Normal values of the size of He's initialisation for kernels, of 0.3 for what has one axis."""
    for variable in model.trainable_variables:
        value = read_variable(variable)
        if value.size and np.ptp(value) == 0:
            scale = np.sqrt(2.0 / max(1, value.size // value.shape[-1])) if value.ndim > 1 else 0.3
            variable.assign(rng.normal(0.0, scale, value.shape))


def _draw_like(
    model: "keras.Model", inputs: Sequence[NDArray[Any]], rng: np.random.Generator
) -> Sequence[NDArray[Any]]:
    """Standard normal values in the shapes of `inputs`; the inputs themselves where those are numbers of words."""
    names = {type(layer).__name__ for layer in model._flatten_layers()}
    whole = any("int" in str(tensor.dtype) or "bool" in str(tensor.dtype) for tensor in model.inputs)
    if whole or names & {"Embedding", "CategoryEncoding", "IntegerLookup", "StringLookup", "Hashing"}:
        return inputs
    return [rng.normal(size=a.shape).astype(np.float32) for a in inputs]

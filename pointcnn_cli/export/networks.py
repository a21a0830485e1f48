"""The networks of an export: the one that Keras is asked with, and its twin of 2-D operations that is written.

Both compute in float32 on the CPU, from the weights of the run.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pointcnn_cli.export.formats import OUTPUT_NAME
from pointcnn_cli.prediction import LoadedRun

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Networks:
    """The networks of one run; they hold the same weights."""

    reference: "keras.Model"
    """With the layers that the run was trained with."""
    lowered: "keras.Model"
    """With the layers that compute 3-D convolutions and pools by 2-D operations; a dictionary with one output."""
    trained: "keras.Model | None"
    """In the run's mixed precision; None where that is float32."""
    precision: str
    """Of the run."""
    epoch: int
    """Of the weights."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the channels in everything that is exported."""
        return tuple(tensor.name for tensor in self.lowered.inputs)


def build_networks(loaded: LoadedRun) -> Networks:
    """The networks of a run. Raises RunError for a missing or damaged checkpoint."""
    import keras

    mixed = loaded.config.train.precision != "float32"
    trained = _build(loaded, loaded.config.model.fast, loaded.config.train.precision)[0] if mixed else None
    reference, epoch = _build(loaded, loaded.config.model.fast, "float32")
    lowered = reference if loaded.config.model.fast else _build(loaded, True, "float32")[0]
    named = keras.Model(lowered.inputs, {OUTPUT_NAME: lowered.output}, name=loaded.config.model.name)
    named([keras.ops.zeros((1, *tensor.shape[1:])) for tensor in named.inputs])  # Keras exports what was called once
    return Networks(reference, named, trained, loaded.config.train.precision, epoch)


def _build(loaded: LoadedRun, fast: bool, precision: str) -> "tuple[keras.Model, int]":
    """The run's model with these layers and this precision, on the CPU: a GPU may round what it multiplies."""
    config = loaded.config.model_copy(
        update={
            "model": loaded.config.model.model_copy(update={"fast": fast}),
            "train": loaded.config.train.model_copy(update={"precision": precision, "device": "cpu"}),
        }
    )
    return replace(loaded, config=config).build_model()

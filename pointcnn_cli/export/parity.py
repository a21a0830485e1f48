"""Whether an exported model, in its own runtime, gives the probabilities that Keras gives."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import PointcnnError, RunError
from pointcnn_cli.export.formats import Format
from pointcnn_cli.export.networks import Networks
from pointcnn_cli.export.rows import CheckRows, iterate_batches
from pointcnn_cli.runtime import redirect_noise

if TYPE_CHECKING:
    import keras

Probabilities = NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest difference of a probability between Keras and a float export: rounding gives about 1e-6, and an operation
that is another one gives 1e-2 and more."""
MOST_MIXED = 128  # rows; a CPU takes its time over half precision


@dataclass(frozen=True)
class Difference:
    """How far two sets of probabilities for the same rows are apart."""

    rows: int
    largest_difference: float
    """Of any probability."""
    equal_argmax: float
    """Share of the rows with the same most probable class."""


@dataclass(frozen=True)
class Comparison:
    """The probabilities (rows, classes) of Keras and of the exported model, and where they come from."""

    expected: Probabilities
    found: Probabilities
    origin: str
    """Of the rows: `validation` or `generated`."""
    compared_on: str
    """The rows in words."""
    runtime: dict[str, str]
    mixed_precision: dict[str, Any] | None
    """How far the export is from the run's own precision; None where that is float32. Its differences are None where
    the run's own network answers with NaN on this machine."""

    @property
    def difference(self) -> Difference:
        """Between the two."""
        return compute_difference(self.expected, self.found)

    def describe(self) -> dict[str, Any]:
        """All but the probabilities themselves; JSON-ready."""
        facts = {"origin": self.origin, "compared_on": self.compared_on, "runtime": self.runtime}
        return {**asdict(self.difference), **facts, "mixed_precision": self.mixed_precision}


def compare_with_keras(
    chosen: Format, model: Path, networks: Networks, rows: CheckRows, show_noise: bool
) -> Comparison:
    """Run the written model and Keras on the same rows. Raises RunError where the model cannot be run, or answers with
    NaN or infinity."""
    expected = _predict_keras(networks.reference, rows)
    try:
        with redirect_noise(show_noise):
            found = _predict_exported(chosen, model, networks.input_names, rows)
    except PointcnnError:
        raise
    except Exception as error:  # each runtime has errors of its own
        text = f"{chosen.runtime} cannot run what was written: {type(error).__name__}: {error}"
        raise RunError(text, f"try another version of {chosen.runtime}, or another --format") from error
    if not np.isfinite(found).all():
        raise RunError(f"as {chosen.name} the network answers with NaN or infinity", "choose another --format")
    mixed = None
    if networks.trained is not None:
        few = rows.first(MOST_MIXED)
        own = _predict_keras(networks.trained, few)
        mixed = {"precision": networks.precision, **asdict(compute_difference(own, found[: len(few.numbers)]))}
        if not np.isfinite(own).all():  # TensorFlow's Conv3D in bfloat16, on CPUs with AMX
            mixed |= {"largest_difference": None, "equal_argmax": None}
    return Comparison(expected, found, rows.origin, rows.describe(), chosen.describe_runtime(), mixed)


def check_parity(compared: Comparison, chosen: Format) -> None:
    """Raise RunError where any probability differs by more than `TOLERANCE`."""
    difference = compared.difference
    if not difference.largest_difference <= TOLERANCE:
        raise RunError(
            f"as {chosen.name} the network gives other probabilities than with Keras: they differ by up to "
            f"{difference.largest_difference:.2g} on {compared.compared_on}, and {TOLERANCE:g} is allowed; the most "
            f"probable class is the same in {difference.equal_argmax:.2%} of them; nothing was written",
            "try another --format, or other versions of "
            + " and ".join([*chosen.packages.values(), "tensorflow"])
            + "; and please report it",
        )


def compute_difference(expected: Probabilities, found: Probabilities) -> Difference:
    """Compare probabilities (rows, classes). Raises ValueError where the shapes differ."""
    if expected.shape != found.shape:
        raise ValueError(f"Expected probabilities of shape {expected.shape}, received {found.shape}")
    equal = expected.argmax(axis=1) == found.argmax(axis=1)
    return Difference(len(expected), float(np.abs(expected - found).max()), float(equal.mean()))


def _predict_keras(network: "keras.Model", rows: CheckRows) -> Probabilities:
    from pointcnn_cli.batches import predict_rows

    return np.concatenate(list(predict_rows(network, rows.source, rows.numbers)))


def _predict_exported(chosen: Format, model: Path, names: tuple[str, ...], rows: CheckRows) -> Probabilities:
    """What the runtime answers; to the first row alone, then to batches: a model that takes one size of batch fails."""
    from pointcnn_cli.batches import PREDICTION_BATCH

    run = chosen.load(model)
    outputs = [run(batch) for batch in iterate_batches(rows.source, rows.numbers[:1], names, 1)]
    outputs += [run(batch) for batch in iterate_batches(rows.source, rows.numbers[1:], names, PREDICTION_BATCH)]
    return np.concatenate(outputs)

"""The patient: everything that may be known of a training, each part of it optional, read at most once.

A case is assembled from a config, a run directory, a directory made by hand, or arrays and a Keras model (`gather`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose.facts import Block, CaseData, FitSettings, LabelledParts, Rows
from pointcnn_cli.diagnose.scan import Scan, scan_rows

if TYPE_CHECKING:
    import keras

PROBE_SEED = 20_240_229  # of everything random in a diagnosis: the same case gives the same answer


@dataclass(eq=False)
class Case:
    """What is known. Checks ask for what they need and say `missing` where it is None."""

    title: str
    data: CaseData | None = None
    train: Rows | None = None
    validation: Rows | None = None
    test: Rows | None = None
    settings: FitSettings = field(default_factory=FitSettings)
    config: Config | None = None
    history: tuple[Mapping[str, float], ...] = ()
    """Rows of `history.csv`: epoch, loss, accuracy and, where there was validation, val_loss and val_accuracy."""
    saved_predictions: NDArray[np.float64] | None = None
    """(validation rows, classes) as the run wrote them."""
    saved_metrics: Mapping[str, Any] | None = None
    manifest: Mapping[str, Any] | None = None
    problems: Sequence[tuple[str, str]] = ()
    """(code, sentence) of what already failed while the case was assembled: damaged files, a changed data file."""
    build: Callable[[], "keras.Model"] | None = None
    """A new, untrained network as configured, compiled as it is (or was) for training."""
    load: Callable[[], "keras.Model"] | None = None
    """The network with the weights that are judged; None before any training."""
    blocks: Callable[[], Sequence[Block]] | None = None
    """The blocks of `build()`'s network as its builder declares them; None where no builder says so."""
    source_files: tuple[str, ...] = ()
    """Python files that may hold the functions which built the network."""

    def rng(self, code: str) -> np.random.Generator:
        """A generator of this case for one check."""
        return np.random.default_rng([PROBE_SEED, *code.encode()])

    def count_steps(self) -> int | None:
        """Steps of the optimiser in the epochs of the history, else in those planned; None where that is not known."""
        epochs, settings = len(self.history) or self.settings.epochs, self.settings
        if not epochs or not settings.batch_size or self.train is None:
            return None
        return epochs * (settings.steps_per_epoch or math.ceil(len(self.train) / settings.batch_size))

    @cached_property
    def scan(self) -> Scan | None:
        """One pass over all rows: hashes, moments and features."""
        return None if self.data is None else scan_rows(self.data)

    @cached_property
    def untrained(self) -> "keras.Model | None":
        """A network as configured, with fresh weights."""
        return None if self.build is None else self.build()

    @cached_property
    def model(self) -> "keras.Model | None":
        """The network with the weights that are judged."""
        return None if self.load is None else self.load()

    @property
    def graph(self) -> "keras.Model | None":
        """Whichever network there is; only its structure means something."""
        return self.model if self.load is not None else self.untrained

    def labels_of(self, rows: Rows) -> NDArray[np.int64]:
        """Class numbers of `rows`. Raises ValueError without labels."""
        if self.data is None or self.data.labels is None:
            raise ValueError("this case has no labels")
        return self.data.labels[rows]

    def groups_of(self, rows: Rows) -> NDArray[np.int64] | None:
        """Groups of `rows`, or recordings where no groups are known; None without either."""
        if self.data is None:
            return None
        units = self.data.groups if self.data.groups is not None else self.data.recordings
        return None if units is None else units[rows]

    @property
    def parts(self) -> LabelledParts | None:
        """Data, labels, and training and validation rows; None where one of them is not known."""
        if self.data is None or self.data.labels is None or self.train is None or self.validation is None:
            return None
        return LabelledParts(self.data, self.data.labels, self.train, self.validation)

    @property
    def has_parts(self) -> bool:
        """Whether `parts` is known."""
        return self.parts is not None

    def predict(self, rows: Rows, channels: tuple[NDArray[Any], ...] | None = None) -> NDArray[np.float64] | None:
        """Class scores (rows, classes) of the judged network in inference mode; None without one.

        `channels` takes the place of the stored inputs of `rows`. Whole parts are predicted once and kept.
        """
        if self.model is None or self.data is None:
            return None
        key = (len(rows), int(rows[0]), int(rows[-1]), int(rows.sum())) if channels is None and len(rows) else None
        if key is not None and key in self._predictions:
            return self._predictions[key]
        from pointcnn_cli.diagnose.networks import predict_inputs

        scores = predict_inputs(self.model, self.data, rows, channels)
        if key is not None:
            self._predictions[key] = scores
        return scores

    @cached_property
    def _predictions(self) -> dict[tuple[int, int, int, int], NDArray[np.float64]]:
        return {}

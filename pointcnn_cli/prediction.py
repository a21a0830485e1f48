"""A trained run brought back to life, and its predictions for files, block by block."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.averaging import average, compute_mutual_information
from pointcnn_cli.calibration import apply_temperature
from pointcnn_cli.checkpoints import RESTORE, Arrays
from pointcnn_cli.config.changes import check_config, read_stored
from pointcnn_cli.config.load import load_resolved, with_overrides
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import DataError, RunError
from pointcnn_cli.hdf5.samples import DataIndex, Source
from pointcnn_cli.memory import FREE_MEMORY, explain_shortage
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.runtime import NAMES, choose_device, import_keras, name_backend
from pointcnn_cli.sources import open_source
from pointcnn_cli.tables import Predictions

if TYPE_CHECKING:
    import keras

DISAGREEMENT = "mutual_information"  # the column that the predictions of an ensemble have besides


@dataclass(frozen=True)
class LoadedRun:
    """What a run says of itself, without its model."""

    run: RunDir
    config: Config
    manifest: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the model's outputs."""
        return tuple(self.manifest["classes"])

    @property
    def weights(self) -> Path:
        """The file of the weights that the run stands for."""
        return self.run.best if self.config.train.keep == "best" else self.run.last

    @property
    def path(self) -> Path:
        """The directory."""
        return self.run.path

    @property
    def runs(self) -> "tuple[LoadedRun, ...]":
        """The run alone; as an ensemble has several."""
        return (self,)

    def build_model(self) -> "tuple[keras.Model, int]":
        """The model with the weights that the run stands for, and their epoch.

        The network is built from the run's config and the weights are assigned by name; no model file is executed.
        Raises RunError for a missing or damaged checkpoint.
        """
        path, weights, epoch = self.read_weights()
        model = self.build_network()
        from pointcnn_cli.models import assign_weights

        assign_weights(model, weights, str(path))
        return model, epoch

    def build_network(self) -> "keras.Model":
        """The network of the run's config, with weights that mean nothing yet."""
        import_keras()
        choose_device(self.config.train.device if self.config.train.device != "gpu" else "auto")
        from pointcnn_cli.models import build_model

        shapes = [(int(d), int(p), int(t)) for d, p, t in self.manifest["channel_shapes"]]
        with explain_shortage("building the network", FREE_MEMORY):
            return build_model(self.config.model, shapes, len(self.classes), self.config.train.precision)

    def read_weights(self) -> tuple[Path, Arrays, int]:
        """Where the weights are that the run stands for, the weights by name, and their epoch. Raises RunError."""
        return self.weights, *self.run.read_weights(self.weights)

    def read_temperature(self) -> float:
        """The temperature that was fitted on the validation rows. Raises RunError where there is none."""
        temperature = self.run.read_calibration().get("temperature")
        if not isinstance(temperature, float) or not 0 < temperature < float("inf"):
            raise RunError(f"{self.run.calibration}: damaged; its temperature is {temperature!r}", RESTORE)
        return temperature

    def build_predictor(self, calibrated: bool = False) -> "Predictor":
        """The network, ready to predict. Raises RunError, also where `calibrated` and the run has no temperature."""
        temperatures = (self.read_temperature(),) if calibrated else None
        model, epoch = self.build_model()
        return Predictor(model, None, temperatures, f"the weights of epoch {epoch}", epoch)


@dataclass(frozen=True)
class Answers:
    """The probabilities of a block of rows."""

    probabilities: NDArray[np.float32]
    """(rows, classes)"""
    members: NDArray[Any] | None
    """(members, rows, classes), what each member of an ensemble answers; None for a single run"""


@dataclass(frozen=True)
class Predictor:
    """A network that is ready to predict: with the weights of one run, or of each member of an ensemble in turn."""

    model: "keras.Model"
    members: tuple[Arrays, ...] | None
    """Weights by name; None where `model` has those of a single run."""
    temperatures: tuple[float, ...] | None
    """Of the run, or of each member; None leaves probabilities as they are."""
    description: str
    """Whose weights these are, for a message."""
    epoch: int | None
    """Of the weights; None where members differ."""

    def predict(self, source: Source, rows: NDArray[np.int64], reporter: Reporter) -> Generator[Answers]:
        """The answers for `rows`, block after block, each read once; of an ensemble the mean over its members."""
        from pointcnn_cli.batches import PREDICTION_ROWS, read_ahead

        reporter.start_rows(len(rows))
        try:
            for block, channels in read_ahead(source, rows, PREDICTION_ROWS):
                yield self._answer(channels)
                reporter.end_rows(len(block))
        finally:
            reporter.end_prediction()

    def _answer(self, channels: tuple[NDArray[Any], ...]) -> Answers:
        from pointcnn_cli.batches import predict_block
        from pointcnn_cli.models import assign_weights

        if self.members is None:
            return Answers(self._calibrate(predict_block(self.model, channels), 0).astype(np.float32), None)
        answers = []
        for number, weights in enumerate(self.members):
            assign_weights(self.model, weights, self.description)
            answers.append(self._calibrate(predict_block(self.model, channels), number))
        members = np.stack(answers)
        return Answers(average(members).astype(np.float32), members)

    def select(self, members: Sequence[int]) -> "Predictor":
        """Only these members of the ensemble, with the same network."""
        if self.members is None:
            raise ValueError("Expected the predictor of an ensemble. Received: that of a single run")
        return replace(
            self,
            members=tuple(self.members[i] for i in members),
            temperatures=None if self.temperatures is None else tuple(self.temperatures[i] for i in members),
        )

    def _calibrate(self, probabilities: NDArray[Any], number: int) -> NDArray[Any]:
        return (
            probabilities if self.temperatures is None else apply_temperature(probabilities, self.temperatures[number])
        )


class Trained(Protocol):
    """What commands need of a RUN: a run, or the ensemble of a cross-validation."""

    @property
    def path(self) -> Path: ...

    @property
    def runs(self) -> tuple[LoadedRun, ...]: ...

    @property
    def config(self) -> Config: ...

    @property
    def manifest(self) -> dict[str, Any]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def build_predictor(self, calibrated: bool = False) -> Predictor: ...


def load_run(path: Path, reporter: Reporter) -> LoadedRun:
    """Read a run's config and manifest. Raises RunError, also for a config that was changed since the run began."""
    run = RunDir.open(path)
    loaded = LoadedRun(run, load_resolved(run.config), run.read_manifest())
    check_config(loaded.config, read_stored(loaded.manifest.get("config"), run.config), run.config)
    if loaded.manifest["status"] != "finished":
        reporter.warn(f"{path} did not finish ({loaded.manifest['status']}); its checkpoints so far are used")
    return loaded


def with_files(config: Config, files: Sequence[Path], overrides: Sequence[str]) -> Config:
    """The run's config with these files as its data."""
    data = config.data.model_copy(update={"path": tuple(str(f) for f in files), "simulate": None})
    changed = config.model_copy(update={"data": data})
    return with_overrides(changed, overrides) if overrides else changed  # a path that is no text fails validation


def check_shapes(index: DataIndex, manifest: dict[str, Any]) -> None:
    """Raise DataError unless the channels have the shapes that the model was trained on."""
    for name, found, wanted in zip(index.channel_names, index.channel_shapes, manifest["channel_shapes"], strict=True):
        if list(found) != wanted:
            raise DataError(
                f"{index.files[0].path}, dataset {name!r}: rows have (depth, points, frames) {found}, "
                f"the run was trained on {tuple(wanted)}",
                "use data of the same layout, or train a run on this one",
            )


def predict_files(
    loaded: Trained, files: Sequence[Path], overrides: Sequence[str], reporter: Reporter, calibrated: bool = False
) -> Generator[Predictions]:
    """Predictions of all rows of `files`, block after block in file order; labels are not needed.

    Headers are checked before the model is built. Raises DataError for files that are malformed or do not fit the run,
    RunError where `calibrated` and there is no temperature.
    """
    config = with_files(loaded.config, files, overrides)
    with open_source(config.data, labels_required=False) as source:
        check_shapes(source.index, loaded.manifest)
        with reporter.waiting(f"starting {NAMES[name_backend()]}"):
            predictor = loaded.build_predictor(calibrated)
        reporter.say(f"predicting {source.index.rows} rows with {predictor.description}")
        yield from predict_source(predictor, source, reporter)


def predict_source(predictor: Predictor, source: Source, reporter: Reporter) -> Generator[Predictions]:
    """Predictions of all rows of `source`, block after block; of an ensemble with the disagreement of its members."""
    first = 0
    for answers in predictor.predict(source, np.arange(source.index.rows), reporter):
        numbers = np.arange(first, first + len(answers.probabilities))
        columns = {}
        if answers.members is not None:
            columns[DISAGREEMENT] = compute_mutual_information(answers.members).astype(np.float32)
        yield Predictions(numbers, source.index.name_files(numbers), answers.probabilities, columns=columns)
        first += len(numbers)

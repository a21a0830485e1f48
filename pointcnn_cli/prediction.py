"""A trained run brought back to life, and its predictions for files, block by block."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointcnn_cli.config.changes import check_config, read_stored
from pointcnn_cli.config.load import load_resolved, with_overrides
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.samples import DataIndex, Source
from pointcnn_cli.memory import FREE_MEMORY, explain_shortage
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.runtime import choose_device, import_keras
from pointcnn_cli.sources import open_source
from pointcnn_cli.tables import Predictions

if TYPE_CHECKING:
    import keras


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

    def build_model(self) -> "tuple[keras.Model, int]":
        """The model with the weights that the run stands for, and their epoch.

        The network is built from the run's config and the weights are assigned by name; no model file is executed.
        Raises RunError for a missing or damaged checkpoint.
        """
        import_keras()
        choose_device(self.config.train.device if self.config.train.device != "gpu" else "auto")
        from pointcnn_cli.models import assign_weights, build_model

        shapes = [(int(d), int(p), int(t)) for d, p, t in self.manifest["channel_shapes"]]
        with explain_shortage("building the network", FREE_MEMORY):
            model = build_model(self.config.model, shapes, len(self.classes), self.config.train.precision)
        weights, epoch = self.run.read_weights(self.weights)
        assign_weights(model, weights, str(self.weights))
        return model, epoch


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
    loaded: LoadedRun, files: Sequence[Path], overrides: Sequence[str], reporter: Reporter
) -> Generator[Predictions]:
    """Predictions of all rows of `files`, block after block in file order; labels are not needed.

    Headers are checked before the model is built. Raises DataError for files that are malformed or do not fit the run.
    """
    config = with_files(loaded.config, files, overrides)
    with open_source(config.data, labels_required=False) as source:
        check_shapes(source.index, loaded.manifest)
        with reporter.waiting("starting TensorFlow"):
            model, epoch = loaded.build_model()
        reporter.say(f"predicting {source.index.rows} rows with the weights of epoch {epoch}")
        reporter.start_rows(source.index.rows)
        try:
            for block in predict_source(model, source):
                yield block
                reporter.end_rows(len(block.probabilities))
        finally:
            reporter.end_prediction()


def predict_source(model: "keras.Model", source: Source) -> Iterator[Predictions]:
    """Predictions of all rows of `source`, block after block."""
    from pointcnn_cli.batches import predict_rows

    first = 0
    for probabilities in predict_rows(model, source, np.arange(source.index.rows)):
        numbers = np.arange(first, first + len(probabilities))
        yield Predictions(numbers, source.index.name_files(numbers), probabilities)
        first += len(probabilities)

"""Finished runs made in a moment, without a network: what a training writes, with answers that are made up."""

from pathlib import Path

import h5py
import numpy as np

from pointcnn_cli.config.changes import store_config
from pointcnn_cli.config.load import dump_config
from pointcnn_cli.config.schema import Config, DataConfig, SplitConfig, TrainConfig
from pointcnn_cli.hdf5.fingerprint import compute_fingerprint
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.metrics import compute_metrics
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits import build_split
from pointcnn_cli.splits.files import split_document
from pointcnn_cli.splits.parts import Split
from pointcnn_cli.tables import Predictions, write_predictions

POINTS, FRAMES = 16, 12
ENVIRONMENT = {"pointcnn": "0.1.0", "python": "3.12", "packages": {"keras": "3.15.1"}, "device": "CPU"}


def write_people(path: Path, classes: list[str], *, rows: int = 120, groups: int | None = 10, seed: int = 0) -> Path:
    """A data file: in each row a cloud that moves, sorted by label; groups are spread over the classes."""
    rng = np.random.default_rng(seed)
    place = rng.normal(0, 0.4, (rows, 3, POINTS, FRAMES, 1)) + np.array([3, 0, 0]).reshape(1, 3, 1, 1, 1)
    channels = [
        place,
        rng.normal(0, 1, (rows, 1, POINTS, FRAMES, 1)),
        rng.uniform(10, 30, (rows, 1, POINTS, FRAMES, 1)),
    ]
    channels.append(np.sqrt((place**2).sum(axis=1, keepdims=True)))
    empty = rng.random((rows, 1, POINTS, FRAMES, 1)) < 0.3
    labels = np.sort(np.arange(rows) % len(classes))
    with h5py.File(path, "w") as file:
        for number, channel in enumerate(channels):
            file[f"channel_{number + 1}"] = np.where(empty, 0, channel).astype("float16")
        file["label"] = labels
        file["label"].attrs.create("classes", classes, dtype=h5py.string_dtype())
        if groups is not None:
            file["group"] = np.arange(rows) % groups
    return path


def make_run(
    target: Path, data: Path, *, epochs: int = 12, accuracy: float = 0.8, strategy: str = "auto", keep: str = "best",
    status: str = "finished", **train: object,
) -> RunDir:  # fmt: skip
    """A run on `data` whose validation rows are answered rightly with chance `accuracy`."""
    config = Config(
        name="made-up",
        data=DataConfig(path=str(data)),
        split=SplitConfig(strategy=strategy, allow_missing_classes=True),
        train=TrainConfig(epochs=epochs, keep=keep, **train),
    )
    with open_source(config.data) as source:
        split = build_split(source.index, config.split)
        manifest = {
            "schema_version": 1, "status": "running", "command": ["pointcnn", "train", "made-up.yaml"],
            "parameters": 1234,
            "started": "2026-01-01T00:00:00+00:00", "classes": list(source.index.classes),
            "data": compute_fingerprint(source),
            "channel_shapes": [list(shape) for shape in source.index.channel_shapes], "config": store_config(config),
            "environment": ENVIRONMENT,
        }  # fmt: skip
        run = RunDir.create(target, dump_config(config), manifest, split_document(source.index, split))
        run.write_history(make_history(epochs, accuracy))
        best = max(1, epochs - 2)
        kept = best if keep == "best" else epochs
        if status == "finished":
            _write_answers(run, source, split, accuracy, kept, config.train.selects_on_validation)
            run.update_manifest(status=status, kept_epoch=kept, best_epoch=best, epochs=epochs)
        else:
            run.update_manifest(status=status, reason="stopped for the test")
    run.unlock()
    return run


def make_history(epochs: int, accuracy: float) -> list[dict[str, float]]:
    """Curves that level off; validation turns up at the end."""
    rows = []
    for epoch in range(1, epochs + 1):
        learned = 1 - np.exp(-epoch / 3)
        rows.append(
            {
                "epoch": epoch, "loss": 1.8 * (1 - 0.9 * learned), "accuracy": 0.15 + 0.8 * learned,
                "val_loss": 1.8 * (1 - 0.7 * learned) + 0.02 * max(0, epoch - epochs + 2),
                "val_accuracy": 0.15 + (accuracy - 0.15) * learned, "learning_rate": 0.001, "seconds": 1.0,
            }
        )  # fmt: skip
    return rows


def _write_answers(run: RunDir, source: Source, split: Split, accuracy: float, epoch: int, selected: bool) -> None:
    index, rng = source.index, np.random.default_rng(1)
    trained = np.unique(index.labels[split.train])
    labels = index.labels[split.validation]
    right = (rng.random(len(labels)) < accuracy) & np.isin(labels, trained)
    answers = np.where(right, labels, rng.choice(trained, len(labels)))
    scores = rng.normal(0, 1, (len(labels), len(index.classes)))
    scores[np.arange(len(labels)), answers] = scores.max(axis=1) + rng.uniform(0.1, 3, len(labels))
    probabilities = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)
    groups = None if index.groups is None else index.groups[split.validation]
    names = None if groups is None else [index.group_names[g] if index.group_names else str(g) for g in groups]
    rows = Predictions(
        split.validation, index.name_files(split.validation), probabilities, [index.classes[i] for i in labels], names
    )
    write_predictions(run.predictions, index.classes, [rows], force=True)
    run.write_metrics(
        compute_metrics(
            labels, probabilities, groups, index.classes, trained, epoch=epoch, selected_on_these_rows=selected
        )
    )

"""A config for a data file that nobody described: what its datasets are, a split, and settings that suit its rows.

`survey` finds what could be what, `choices` and `naming` choose, `values` looks at rows, `settings` fits the rest; here
it becomes a commented YAML text. Nothing is asked, and each assumption stands beside its key.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli import __version__
from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.config.template import render_comment, render_key
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.columns import RECORDING
from pointcnn_cli.hdf5.samples import DataIndex, Source
from pointcnn_cli.proposal.choices import choose_channels, choose_groups, choose_labels, choose_recordings
from pointcnn_cli.proposal.settings import (
    Setting,
    choose_augmentation,
    choose_length,
    choose_split,
    describe_imbalance,
)
from pointcnn_cli.proposal.survey import survey_file
from pointcnn_cli.proposal.values import SAMPLED_PLACES, SAMPLED_ROWS, ChannelFacts, find_roles
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits.parts import Split

MOST_CLASSES = 40  # listed with their rows; more would hide the settings


def propose_config(paths: Sequence[str], wanted: DataConfig) -> str:
    """A commented YAML config for these files, which passes `config validate` and can be trained.

    What `wanted` says of channels, labels and groups is taken; the rest is found in the first file. Raises DataError
    for files without four channels or labels, or that cannot be trained on.
    """
    for path in paths:
        if not path.isprintable():
            raise DataError(f"{path!r}: a config cannot hold this name", "give the file a name of printable characters")
    survey = survey_file(paths[0])
    channels, grid = choose_channels(survey, wanted)
    rows = grid[0]
    labels = choose_labels(survey, rows, wanted)
    groups, notes = choose_groups(survey, rows, labels.names[0], wanted)
    taken = (*labels.names, *(groups.names if groups else ()))
    recordings = choose_recordings(survey, rows, taken)
    data = {
        "path": Setting(paths[0] if len(paths) == 1 else list(paths), ("From the working directory, if relative.",)),
        "channels": Setting(list(channels.names), channels.reasons),
        "labels": Setting(labels.names[0], labels.reasons),
        "groups": Setting(groups.names[0], groups.reasons) if groups else Setting(None, notes or ("There are none.",)),
    }
    if recordings is not None and recordings.names[0] != RECORDING:
        data["recordings"] = Setting(recordings.names[0], recordings.reasons)
    with open_source(DataConfig.model_validate({key: setting.value for key, setting in data.items()})) as source:
        split_settings, split = choose_split(source.index)
        facts = find_roles(channels.names, _read_sample(source))
        text = "\n".join(_render(data, split_settings, source.index, split, facts)) + "\n"
    load_config("-", stdin_text=text)  # what is written must be valid: raises ConfigError with the place
    return text


def _read_sample(source: Source) -> Sequence[NDArray[Any]]:
    """Rows from places all over the files. Raises DataError for NaN among them, as training would."""
    count = source.index.rows
    starts = np.linspace(0, max(count - SAMPLED_ROWS, 0), SAMPLED_PLACES).astype(np.int64)
    rows = np.unique(starts[:, None] + np.arange(SAMPLED_ROWS))
    return source.read(rows[rows < count])


def _render(
    data: Mapping[str, Setting],
    split_settings: Mapping[str, Setting],
    index: DataIndex,
    split: Split,
    facts: ChannelFacts,
) -> Iterator[str]:
    """The lines of the config."""
    _, points, frames = index.channel_shapes[0]
    yield from render_comment(
        f"Written by `pointcnn config init` {__version__}. What was found and assumed stands above each key; read it, "
        "and change what is wrong. Keys that are not here have their defaults: `pointcnn config show` prints them, "
        "`pointcnn config init` without --data explains them. Then, with the name of this file:\n"
        "  pointcnn diagnose THIS.yaml\n  pointcnn train THIS.yaml"
    )
    yield ""
    yield from render_comment(f"{index.rows} rows of {points} point slots and {frames} frames.")
    yield from _render_section("data", data)
    yield ""
    yield from _render_section("split", split_settings)
    yield from (line for note in split.notes for line in render_comment(note, "  "))
    yield ""
    yield from _render_model()
    yield ""
    yield from render_comment("Random changes to training rows; `augment: null` for none.")
    yield from _render_section("augment", choose_augmentation(facts, frames))
    yield ""
    yield from _render_training(index, split)


def _render_section(name: str, settings: Mapping[str, Setting]) -> Iterator[str]:
    yield f"{name}:"
    for key, setting in settings.items():
        for reason in setting.reasons:
            yield from render_comment(reason, "  ")
        yield render_key(key, setting.value, "  ")


def _render_model() -> Iterator[str]:
    yield "model:"
    yield from render_comment("`pointnet_tcn` does not depend on the order of points; try both.", "  ")
    yield render_key("name", "pointcnn", "  ")


def _render_training(index: DataIndex, split: Split) -> Iterator[str]:
    yield from _render_section("train", choose_length(len(split.train)))
    counts = _count_classes(index)
    listed = ", ".join(f"{name} {rows}" for name, rows in list(counts.items())[:MOST_CLASSES])
    more = f" and {len(counts) - MOST_CLASSES} more classes" if len(counts) > MOST_CLASSES else ""
    yield from render_comment(f"Rows of each class: {listed}{more}.", "  ")
    imbalance = describe_imbalance(counts)
    if imbalance:
        yield from render_comment(imbalance, "  ")
        yield from render_comment(render_key("class_weight", "balanced", ""), "  ")
    yield from render_comment(
        "The epoch with the lowest validation loss is kept, which makes its score somewhat too good; to choose nothing "
        "on validation rows:", "  "
    )  # fmt: skip
    yield from render_comment(render_key("keep", "last", ""), "  ")


def _count_classes(index: DataIndex) -> dict[str, int]:
    labels, classes = index.labels, index.classes or ()
    counts = np.bincount(labels, minlength=len(classes)) if labels is not None else np.zeros(len(classes), int)
    return dict(zip(classes, counts.tolist(), strict=True))

"""Settings that suit so many rows, classes and groups, each with the reason: split, augmentation, epochs, batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pointcnn_cli.config.schema import SplitConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.samples import DataIndex
from pointcnn_cli.proposal.values import DECIBELS, METRES, ChannelFacts
from pointcnn_cli.splits import build_split
from pointcnn_cli.splits.parts import Split

FOLDS = 5
STEPS = 1500
"""Steps of a whole training: configs/radhar.yaml takes 1,750 on real radar, configs/base.yaml 580 on simulated."""
EPOCHS = (8, 60)
STEPS_AN_EPOCH = 12
"""Fewer make a noisy epoch; where rows are few, batches become smaller, but not below SMALLEST_BATCH."""
LARGEST_BATCH, SMALLEST_BATCH = 50, 8
UNEVEN = 3
"""Rows of the largest class for one of the smallest, from where it is said. Up to 8:1 is common and harmless."""
SPREAD_OF_BASE = 0.6
"""Metres: the deviation of simulated positions, for which the augmentation of configs/base.yaml was chosen."""


@dataclass(frozen=True)
class Setting:
    """A value, and sentences that say why."""

    value: Any
    reasons: tuple[str, ...]


def choose_split(index: DataIndex) -> tuple[dict[str, Setting], Split]:
    """Groups kept apart where there are any and that works; else rows. Raises DataError where no split does."""
    groups = 0 if index.groups is None else len(np.unique(index.groups))
    folds = min(groups, FOLDS)
    tries = [SplitConfig(strategy="stratified_group", validation_fraction=round(1 / folds, 3), fold=k)
             for k in range(folds)] if folds > 1 else []  # fmt: skip
    failures: list[DataError] = []
    for settings in (*tries, SplitConfig(strategy="stratified")):
        try:
            return _explain_split(settings, groups, failures), build_split(index, settings)
        except DataError as error:
            failures.append(error)
    raise failures[-1]


def _explain_split(settings: SplitConfig, groups: int, failures: list[DataError]) -> dict[str, Setting]:
    folds = round(1 / settings.validation_fraction)
    if settings.strategy == "stratified_group":
        why = [f"Whole groups are on one side, so the score is on unseen ones: {groups} groups in {folds} folds."]
    elif failures:
        why = [f"Groups cannot be kept apart here, so rows are cut by class alone: {failures[0].message}",
               "The score will be on groups that were trained on, and says little of others."]  # fmt: skip
    else:
        why = ["Warning: there are no groups to keep apart. Where rows of one recording or person are on both sides,",
               "scores look better than they are; say who was recorded in data.groups."]  # fmt: skip
    chosen = {
        "strategy": Setting(settings.strategy, tuple(why)),
        "validation_fraction": Setting(settings.validation_fraction, (f"One of {folds} folds.",)),
    }
    if settings.fold:
        reason = f"With fold 0 it cannot be made: {failures[0].message}"
        chosen["fold"] = Setting(settings.fold, (reason,))
    return chosen


def choose_length(rows: int) -> dict[str, Setting]:
    """Epochs and batch size for so many training rows."""
    batch = int(np.clip(rows // STEPS_AN_EPOCH, SMALLEST_BATCH, LARGEST_BATCH))
    steps = -(-rows // batch)
    epochs = int(np.clip(round(STEPS / steps), *EPOCHS))
    return {
        "epochs": Setting(epochs, (f"{steps} steps each for {rows} training rows, {epochs * steps} in all.",)),
        "batch_size": Setting(batch, ()),
    }


def describe_imbalance(counts: dict[str, int]) -> str | None:
    """A sentence where classes differ much in rows."""
    some = {name: rows for name, rows in counts.items() if rows}
    largest, smallest = max(some, key=lambda n: some[n]), min(some, key=lambda n: some[n])
    ratio = some[largest] / some[smallest]
    if ratio < UNEVEN:
        return None
    return (
        f"{largest} has {ratio:.1f} times the rows of {smallest}. If recall of small classes stays low (see "
        "`pointcnn evaluate`), switch this on:"
    )


def choose_augmentation(facts: ChannelFacts, frames: int) -> dict[str, Setting]:
    """That of configs/base.yaml, in the units of these data; nothing for channels that are not understood."""
    listed = "; ".join(f"{role}: {why}" for role, why in zip(facts.roles, facts.reasons, strict=True))
    chosen = {
        "channel_roles": Setting(list(facts.roles), (f"What each channel holds, and how that was told. {listed}.",)),
        "point_dropout": Setting(0.3, ("Radars lose points from frame to frame.",)),
    }
    if facts.position_spread is not None:
        in_metres = METRES[0] <= facts.position_spread <= METRES[1]
        unit = 1.0 if in_metres else facts.position_spread / SPREAD_OF_BASE
        why = f"Coordinates spread by {facts.position_spread:.3g}" + (
            ", so they are taken to be metres."
            if in_metres
            else ", which metres would not; the next two are in proportion."
        )
        chosen["position_jitter"] = Setting(_round(0.02 * unit), (why,))
        chosen["position_shift"] = Setting(_round(0.1 * unit), ())
        chosen["scale"] = Setting(0.1, ())
    if facts.intensity_spread is not None:
        in_decibels = DECIBELS[0] <= facts.intensity_spread <= DECIBELS[1]
        why = f"Intensities spread by {facts.intensity_spread:.3g}" + (", as dB do." if in_decibels else ".")
        chosen["intensity_shift"] = Setting(2.0 if in_decibels else _round(0.4 * facts.intensity_spread), (why,))
    if frames >= 8:
        chosen["frame_roll"] = Setting(frames // 8, (f"An eighth of the {frames} frames.",))
    return chosen


def _round(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")

"""Small cases for the tests of `diagnose`: people who move, seen by a simulated radar, in 16 slots and 24 frames."""

from functools import cache

import numpy as np

from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import CaseData
from pointcnn_cli.simulate import simulate_samples


@cache
def simulate_people(windows=360, subjects=12, seed=3):
    """Samples sorted by label, with overlapping windows; shared, so not to be changed."""
    return simulate_samples(
        SimulateConfig(windows=windows, subjects=subjects, points=16, frames=24, stride=8, seed=seed)
    )


def make_case(train, validation, samples=None, *, channels=None, labels=None, with_groups=True, **known) -> Case:
    """A case of these rows of `samples`; `channels` and `labels` replace theirs."""
    samples = samples or simulate_people()
    channels = samples.channels if channels is None else channels
    labels = samples.labels if labels is None else labels
    data = CaseData(
        read=lambda rows: tuple(channel[rows] for channel in channels),
        rows=len(labels),
        names=("channel_1", "channel_2", "channel_3", "channel_4"),
        shapes=tuple(channel.shape[1:4] for channel in channels),
        labels=labels,
        classes=samples.classes,
        groups=samples.groups if with_groups else None,
        recordings=samples.recordings if with_groups else None,
        start_frames=samples.start_frames if with_groups else None,
    )
    return Case("test", data, np.asarray(train), np.asarray(validation), **known)


def cut_tail(samples, fraction=0.2):
    """Training and validation rows as `validation_split` takes them."""
    cut = int(np.floor(len(samples.labels) * (1 - fraction)))
    return np.arange(cut), np.arange(cut, len(samples.labels))


def hold_out_people(samples, every=5):
    """Training and validation rows that share no person."""
    held = samples.groups % every == 0
    return np.flatnonzero(~held), np.flatnonzero(held)

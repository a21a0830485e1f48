"""All checks, in the order in which they run: what is cheap comes first."""

from pointcnn_cli.diagnose.checks import (
    batchnorm,
    chance,
    classorder,
    curves,
    drift,
    forward,
    heads,
    identity,
    imbalance,
    initial,
    label_noise,
    label_probes,
    leakage,
    network,
    outputs,
    overfitting,
    scaling,
    scores,
    split,
    steps,
    units,
    values,
    wiring,
)
from pointcnn_cli.diagnose.registry import Check, Tier

_MODULES = (
    batchnorm,
    chance,
    classorder,
    curves,
    drift,
    forward,
    heads,
    identity,
    imbalance,
    initial,
    label_noise,
    label_probes,
    leakage,
    network,
    outputs,
    overfitting,
    scaling,
    scores,
    split,
    steps,
    units,
    values,
    wiring,
)
_ORDER = list(Tier)
CHECKS: tuple[Check, ...] = tuple(
    sorted((check for module in _MODULES for check in module.CHECKS), key=lambda check: _ORDER.index(check.tier))
)

"""PC501 and PC502: the size of the optimiser's steps against the size of the weights, before or after training."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.checks.curves import FITTED, read_column, scale_rate
from pointcnn_cli.diagnose.findings import Fix, Measurement
from pointcnn_cli.diagnose.registry import Check, Tier

if TYPE_CHECKING:
    import keras

BOUNDED = ("adam", "adamw", "nadam", "adamax", "lion")
"""Optimisers whose step moves a weight by about the learning rate at most (Kingma and Ba 2015, section 2.1)."""
LONGEST_STEP = 1.0  # of a weight's initial size: one step then undoes what initialisation is for
SHORTEST_WAY = 0.05  # of it, in all steps together: the network is still what it was at the start
USUAL_RATE = 1e-3  # Keras's default for these optimisers


def check_step_size(case: Case) -> Iterator[Measurement]:
    """How far one step, and all steps, can move a weight of typical initial size. Suspected at most."""
    settings, accuracies = case.settings, read_column(case, "accuracy")
    rate, size = settings.learning_rate, None if case.graph is None else compute_typical_weight(case.graph)
    if rate is None or size is None or settings.optimizer not in BOUNDED:
        return  # the curves of the losses, if there are any, must do
    learnt = bool(len(accuracies)) and bool(accuracies[-1] >= FITTED)
    told = f"With {settings.optimizer}, a step moves a weight by up to the learning rate"
    long = rate / size > LONGEST_STEP and not learnt
    yield Measurement(
        "PC501", "test",
        f"{told}, and {rate:g} is {rate / size:.2g} times the standard deviation that weights start with ({size:.2g}).",
        found=long, statistic="learning rate / initial size of weights", value=rate / size, threshold=LONGEST_STEP,
        at_most="SUSPECTED", fix=scale_rate(case, USUAL_RATE / rate, f"Train with a learning rate of {USUAL_RATE:g}.")
        if long else None,
    )  # fmt: skip
    steps = case.count_steps()
    if steps is None:
        return
    way = rate * steps / size
    short = way < SHORTEST_WAY and not learnt
    fix = Fix("Train more steps: more epochs or smaller batches.")
    if rate < USUAL_RATE:
        fix = scale_rate(case, USUAL_RATE / rate, f"Train with a learning rate of {USUAL_RATE:g}.")
    yield Measurement(
        "PC502", "test",
        f"{told}: {steps} steps of {rate:g} come to {way:.2g} times the standard deviation that weights start with "
        f"({size:.2g})" + (", so the network hardly changes." if short else "."),
        found=short, statistic="learning rate x steps / initial size of weights", value=way, threshold=SHORTEST_WAY,
        n=steps, at_most="SUSPECTED", fix=fix if short else None,
    )  # fmt: skip


def compute_typical_weight(model: "keras.Model") -> float | None:
    """Median over kernels of the standard deviation they are initialised with (Glorot and Bengio 2010): from their
    shapes, so that it holds for trained networks too. None for a network without kernels."""
    shapes = [w.shape for w in model.trainable_variables if len(w.shape) >= 2]
    fans = [math.prod(shape[:-2]) * (shape[-2] + shape[-1]) for shape in shapes]
    return float(np.median([math.sqrt(2.0 / fan) for fan in fans])) if fans else None


CHECKS = (Check(("PC501", "PC502"), Tier.GRAPH, check_step_size),)

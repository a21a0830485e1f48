"""The optimiser with its schedule, and how much each training row weighs."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import TrainConfig

OPTIMIZER_NAME = "optimizer"  # part of its variables' names; Keras would count up with each one in a process


def build_optimizer(settings: TrainConfig, steps: int) -> keras.optimizers.Optimizer:
    """The optimiser with its learning-rate schedule, for epochs of `steps` steps."""
    warmup, rate = settings.warmup_epochs * steps, settings.learning_rate
    schedule: Any = rate
    if settings.schedule == "cosine" or warmup:
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            max(settings.epochs * steps - warmup, 1),
            alpha=0.0 if settings.schedule == "cosine" else 1.0,  # 1.0: a cosine that never falls
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    if settings.optimizer == "sgd":
        return keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, name=OPTIMIZER_NAME)
    if settings.optimizer == "adam":
        return keras.optimizers.Adam(schedule, name=OPTIMIZER_NAME)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, name=OPTIMIZER_NAME)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def compute_row_weights(
    settings: TrainConfig, labels: NDArray[np.int64], classes: tuple[str, ...]
) -> NDArray[np.float32] | None:
    """The weight of each training row (rows,), or None where all weigh the same.

    `balanced` is scikit-learn's: rows / (classes * rows of the class).
    """
    if settings.class_weight is None:
        return None
    if settings.class_weight == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        per_class = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        per_class = np.array([settings.class_weight[name] for name in classes])
    return per_class[labels].astype(np.float32)

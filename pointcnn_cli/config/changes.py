"""What was changed in a run's config since the run began, and whether the run can go on with it.

Only `train.epochs` may change, where the epochs that are done would have been the same, where the data lie, and where
curves are shown.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import ConfigError, RunError

EPOCHS = "train.epochs"
# The name has done its part when the directory was made; data may have moved, and their fingerprint is checked. Where
# curves are shown changes nothing.
FREE = (EPOCHS, "name", "data.path", "track", "track.tensorboard", "track.mlflow")
ABSENT = "absent"


def store_config(config: Config) -> dict[str, Any]:
    """The config as a run's manifest holds it; JSON-ready."""
    return config.model_dump(mode="json")


def list_settings(config: Config) -> dict[str, Any]:
    """Every key of the config, dotted as in `--set`, with its value; JSON-ready."""
    return _flatten(store_config(config))


def read_stored(stored: Any, path: Path) -> Config | None:
    """The config that the run of `path` began with, from what `store_config` made; None where `stored` is.

    Keys that came with a newer pointcnn get their defaults. Raises RunError for what is no config.
    """
    if stored is None:
        return None
    try:
        return Config.model_validate_json(json.dumps(stored))
    except ValidationError as error:
        raise RunError(
            f"{path}: the manifest's copy of this config is damaged ({str(error).splitlines()[0]})",
            "restore manifest.json from a copy, or train again",
        ) from error


def check_config(config: Config, before: Config | None, path: Path) -> None:
    """Raise RunError, naming the keys, where `config` (read from `path`) differs from `before` in more than name,
    epochs and the path of the data."""
    if before is None:
        return
    changed = list_changes(config, before, FREE)
    if changed:
        raise RunError(
            f"{path}: changed since the run began: {'; '.join(changed)}",
            f"put the old values back, or train a new run with: pointcnn train {path}",
        )


def list_changes(config: Config, before: Config, free: Collection[str]) -> list[str]:
    """Each key that differs, with both values, except for those in `free`."""
    then, now = list_settings(before), list_settings(config)
    return [
        f"{key} was {_show(then.get(key, ABSENT))}, is {_show(now.get(key, ABSENT))}"
        for key in dict.fromkeys((*then, *now))
        if key not in free and then.get(key, ABSENT) != now.get(key, ABSENT)
    ]


def check_epochs(config: Config, before: Config | None, done: int, path: Path) -> None:
    """Raise ConfigError where the number of epochs was changed and the learning rate depends on it, or where more are
    done."""
    if before is None or before.train.epochs == config.train.epochs:
        return
    changed = f"{path}: {EPOCHS} was {before.train.epochs}, is {config.train.epochs}"
    if config.train.schedule != "constant":
        raise ConfigError(
            f"{changed}; with train.schedule {config.train.schedule} the learning rate of every epoch depends on it, "
            f"so the epochs that are done would have been others",
            f"set {EPOCHS} back to {before.train.epochs}, or train a new run with: pointcnn train {path}",
        )
    if config.train.epochs < done:
        raise ConfigError(f"{changed}, but {done} epochs are done", f"set it to {done} or more")


def _flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of dotted keys."""
    if not isinstance(plain, dict):
        return {prefix: plain}
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

"""The scores that a comparison shows of each run, and how they and settings are written."""

import json
from collections.abc import Callable, Mapping
from typing import Any

SCORES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "accuracy": lambda m: f"{m['accuracy']:.3f}",
    "95 % interval": lambda m: f"{m['accuracy_ci'][0]:.3f} to {m['accuracy_ci'][1]:.3f}",
    "rows": lambda m: str(m["n"]),
    "groups": lambda m: "none" if m["n_groups"] is None else str(m["n_groups"]),
    "best constant answer": lambda m: f"{m['chance_accuracy']:.3f}",
    "ceiling": lambda m: f"{m['ceiling_accuracy']:.3f}",
    "balanced accuracy": lambda m: f"{m['balanced_accuracy']:.3f}",
    "macro F1": lambda m: f"{m['macro_f1']:.3f}",
    "log loss": lambda m: f"{m['log_loss']:.3f}",
    "calibration error": lambda m: f"{m['expected_calibration_error']:.3f}",
    "epoch of the weights": lambda m: str(m["epoch"]),
    "chosen on these rows": lambda m: "yes" if m["selected_on_these_rows"] else "no",
}
"""Title, and a document of metrics as text."""

NEEDED = {"n", "n_groups", "epoch", "accuracy", "accuracy_ci", "balanced_accuracy", "macro_f1", "log_loss"}
NEEDED |= {"expected_calibration_error", "chance_accuracy", "ceiling_accuracy", "selected_on_these_rows"}
"""Keys of metrics.json that are shown."""


def describe_setting(value: Any) -> str:
    """A setting as in a config."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

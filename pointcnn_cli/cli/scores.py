"""The scores of a cross-validation as a table for a person."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

DEVIATIONS = {
    "sd_over_folds": "over folds",
    "sd_over_seeds": "over seeds",
    "sd_of_seeds_within_folds": "of the seeds of one fold",
}
"""Keys of a spread, and what they are."""


def cv_table(metrics: Mapping[str, Any]) -> Table:
    """Accuracy of every member by fold and seed; below it the pooled scores with interval, spread and gain."""
    from pointcnn_cli.crossval.wording import describe_gain

    seeds, pooled, spread = metrics["seeds"], metrics["out_of_fold"], metrics["spread"]["accuracy"]
    table = Table(title="accuracy on the rows of each fold", title_justify="left")
    table.add_column("fold")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    found = {(one["fold"], one["seed"]): one["accuracy"] for one in metrics["members"]}
    for fold in range(metrics["folds"]):
        table.add_row(str(fold), *[_format(found.get((fold, seed))) for seed in seeds])
    table.add_section()
    table.add_row("all", *[_format(pooled["per_seed"].get(str(seed), {}).get("accuracy")) for seed in seeds])
    averaged = pooled["averaged"]
    low, high = averaged["accuracy_ci"]
    first = next(iter(pooled["per_seed"].values()))
    groups = "" if first["n_groups"] is None else f" over {first['n_groups']} groups"
    lines = [
        f"out of fold: accuracy {averaged['accuracy']:.3f} (mean over {_count(averaged['seeds'], 'seed')}), "
        f"95 % interval {low:.3f} to {high:.3f}{groups}",
        f"best constant answer {first['chance_accuracy']:.3f}, ceiling {first['ceiling_accuracy']:.3f}",
        f"balanced accuracy {averaged['balanced_accuracy']:.3f}, macro F1 {averaged['macro_f1']:.3f}, "
        f"log loss {averaged['log_loss']:.3f}, calibration error {averaged['expected_calibration_error']:.3f}",
    ]
    deviations = [f"{where} {spread[key]:.3f}" for key, where in DEVIATIONS.items() if spread[key] is not None]
    if deviations:
        lines.append(f"standard deviation {', '.join(deviations)}")
    if pooled["ensemble_gain"] is not None:
        lines.append(describe_gain(pooled["ensemble_gain"], "the seeds"))
    if first["selected_on_these_rows"]:
        lines.append("the weights were chosen on these rows, so the scores are somewhat too good")
    table.caption, table.caption_justify = "\n".join(lines), "left"
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"

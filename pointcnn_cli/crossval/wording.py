"""Sentences on a cross-validation that the terminal and the page share."""

from collections.abc import Mapping
from typing import Any

from pointcnn_cli.metrics import FEWEST_GROUPS


def describe_gain(gain: Mapping[str, Any], members: str) -> str:
    """By how much an ensemble beats the mean of its members."""
    interval = gain["accuracy_gain_ci"]
    shown = "no interval" if interval is None else f"95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}"
    return (
        f"ensemble of {members}: accuracy {gain['ensemble_accuracy']:.3f}, {gain['accuracy_gain']:+.4f} against the "
        f"mean of its {gain['members']} members ({shown})"
    )


def list_doubts(metrics: Mapping[str, Any]) -> list[str]:
    """Why the scores of a cross-validation are to be believed with care; full sentences."""
    pooled, missing = metrics["out_of_fold"]["ensemble"], metrics["missing"]
    doubts = []
    if pooled["ceiling_accuracy"] < 1:
        doubts.append("Some rows are of classes that the run which answers them never trained.")
    if missing:
        doubts.append(f"Not finished: {', '.join(missing)}; the scores are of the others.")
    if pooled["n_groups"] is None:
        doubts.append("The data name no groups, so rows of one person or recording may be on both sides of a split.")
    elif pooled["n_groups"] < FEWEST_GROUPS:
        doubts.append(f"There are only {pooled['n_groups']} groups.")
    if pooled["selected_on_these_rows"]:
        doubts.append("The weights of each run were chosen on the rows that it is scored on (train.keep: best).")
    if metrics["out_of_fold"]["averaged"]["accuracy_ci"][0] <= pooled["chance_accuracy"]:
        doubts.append("The interval holds the accuracy of the best constant answer.")
    return doubts

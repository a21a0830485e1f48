"""Runs side by side: the settings that differ, their scores, and which is better on the same rows, if that can be told.

`runs` loads and scores them, `pairs` judges two of them, `paired` below holds the statistics.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pointcnn_cli.comparison.pairs import Pair, compare_with_first
from pointcnn_cli.comparison.runs import ComparedRun, load_saved, score_run
from pointcnn_cli.ensemble import load_trained
from pointcnn_cli.errors import UsageError
from pointcnn_cli.reporting import Reporter

SCHEMA_VERSION = 1
ONE_TRAINING = (
    "Interval and p are about these rows and these trained weights; another seed of the same config may change the "
    "order too."
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs, what differs between their configs, and how each compares with the first."""

    runs: list[ComparedRun]
    pairs: list[Pair]
    files: list[str]
    """What all were scored on; empty where each keeps the score on its own validation rows."""
    overrides: tuple[str, ...]
    """Settings for these files."""
    settings: dict[str, list[Any]]
    """The keys that differ, and the value in each run; None also where a run has no such key."""
    warnings: list[str]

    @property
    def next_command(self) -> str | None:
        """What to run where some runs could not be paired, and scoring all on one file would help."""
        apart = any(pair.found is None for pair in self.pairs)
        return f"{self.command} --data FILE" if apart and not self.files else None

    @property
    def command(self) -> str:
        """What makes this comparison again, for a shell."""
        words = ["pointcnn", "compare", *(str(run.path) for run in self.runs)]
        words += [word for file in self.files for word in ("--data", file)]
        return shlex.join([*words, *(word for text in self.overrides for word in ("--set", text))])

    def as_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema_version": SCHEMA_VERSION,
            "rows": "files" if self.files else "validation",
            "files": self.files,
            "baseline": str(self.runs[0].path),
            "runs": [
                {
                    "name": run.name,
                    "run": str(run.path),
                    "status": run.status,
                    "problem": run.problem,
                    "trained_on_these_rows": run.trained_here is not None,
                    "metrics": run.metrics,
                }
                for run in self.runs
            ],
            "settings": self.settings,
            "comparisons": [pair.as_document() for pair in self.pairs],
            "adjustment": "holm",
            "warnings": self.warnings,
            "next": self.next_command,
        }


def compare_runs(
    paths: Sequence[Path], files: Sequence[Path], overrides: Sequence[str], reporter: Reporter
) -> Comparison:
    """Compare finished runs with the first of them, on the validation rows of each or on all rows of `files`.

    `overrides` are `data.*` settings for the files. Raises UsageError for fewer than two runs or the same one twice,
    RunError for what is no whole run, DataError for files that do not fit a run.
    """
    _check_paths(paths)
    names = [_name(number) for number in range(len(paths))]
    if files:
        for path in paths:
            load_trained(path, Reporter())  # what is no run is told before any is scored
        runs = [score_run(name, path, files, overrides, reporter) for name, path in zip(names, paths, strict=True)]
    else:
        runs = [load_saved(name, path) for name, path in zip(names, paths, strict=True)]
    pairs = compare_with_first(runs)
    return Comparison(
        runs, pairs, [str(f) for f in files], tuple(overrides), _list_differing(runs), _list_warnings(runs, pairs)
    )


def _check_paths(paths: Sequence[Path]) -> None:
    if len(paths) < 2:
        raise UsageError("a comparison needs two runs or more", "pointcnn compare RUN RUN")
    places = [os.path.realpath(path) for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UsageError(f"{paths[number]}: named twice", "name each run once")


def _name(number: int) -> str:
    """A, B, ..., Z, then R27, R28, ..."""
    return ascii_uppercase[number] if number < len(ascii_uppercase) else f"R{number + 1}"


def _list_differing(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs, in the order of the schema."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _list_warnings(runs: Sequence[ComparedRun], pairs: Sequence[Pair]) -> list[str]:
    """What makes scores too good, or not quite comparable; one sentence each."""
    warnings = [f"{run.name}: {run.trained_here}; its score on them is too good" for run in runs if run.trained_here]
    scored = [run for run in runs if run.metrics is not None]
    selected = [run.name for run in scored if run.metrics and run.metrics["selected_on_these_rows"]]
    if selected:
        others = [run.name for run in scored if run.name not in selected]
        against = f"; those of {', '.join(others)} were not" if others else ""
        names = ", ".join(selected)
        warnings.append(f"the weights of {names} were chosen on the rows scored here, which flatters them{against}")
    warnings += [
        f"{pair.run.name} and {pair.baseline.name} know different classes"
        for pair in pairs
        if set(pair.run.classes) != set(pair.baseline.classes)
    ]
    return warnings

"""What a search has found so far: every trial, the best one beside the config as it was, and the files that say so."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from pointcnn_cli.config.load import dump_config, with_values
from pointcnn_cli.config.schema import Config
from pointcnn_cli.files import write_whole
from pointcnn_cli.metrics import CONFIDENCE_LEVEL
from pointcnn_cli.tuning.folder import TuneDir
from pointcnn_cli.tuning.search import FOLDS, OWN, REASON, Search, find_root, list_repeated

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SCHEMA_VERSION = 1
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
REPEATED = "repeated"  # failed through no fault of its own; another trial has its values
COLUMNS = (
    "number", "state", "score", "deviation", "low", "high", "folds", "n", "groups", "chance", "seconds", "folder",
    "reason",
)  # fmt: skip
"""Of trials.csv; the keys of the space follow."""


@dataclass(frozen=True)
class TrialResult:
    """One trial. Scores are None unless it is complete."""

    number: int
    state: str
    """complete, pruned, failed, repeated (by a later trial, since its process ended), running or waiting."""
    params: dict[str, Any]
    is_own: bool
    """Whether its values are those that the config itself has."""
    folder: str
    """Where the curves and predictions of its folds are, in the directory of the search."""
    score: float | None = None
    """Mean over the folds."""
    deviation: float | None = None
    """Standard deviation of the folds."""
    interval: tuple[float, float] | None = None
    """Of the mean, at 95 %; None where all folds have the same score."""
    folds: tuple[float, ...] = ()
    n: int | None = None
    """Rows that were scored, in all folds."""
    groups: int | None = None
    chance: float | None = None
    """Accuracy of the best constant answer, mean over the folds."""
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search, in the order in which they began."""

    folder: TuneDir
    config: Config
    metric: str
    maximize: bool
    budget: int
    trials: tuple[TrialResult, ...]
    test_share: float
    """Rows that a fold scores for each row that it trains on."""
    importance: Mapping[str, tuple[float, float]] | None = None
    """For each key its share of the variance of the score, and the share that one in twenty such keys would have if
    the score did not depend on it; None where there are too few trials."""

    @property
    def complete(self) -> list[TrialResult]:
        """The trials that were scored on all folds, the best first; of equals the earlier one."""
        scored = [(trial.score, trial) for trial in self.trials if trial.score is not None]
        return [trial for score, trial in sorted(scored, key=lambda pair: -pair[0] if self.maximize else pair[0])]

    @property
    def best(self) -> TrialResult | None:
        """The complete trial with the best score."""
        return next(iter(self.complete), None)

    @property
    def own(self) -> TrialResult | None:
        """The complete trial with the config's own values."""
        return next((trial for trial in self.complete if trial.is_own), None)

    @property
    def gain(self) -> tuple[float, tuple[float, float] | None] | None:
        """By how much the best trial differs from the config as it was, fold by fold: mean and interval."""
        best, own = self.best, self.own
        if best is None or own is None or best is own:
            return None
        differences = [a - b for a, b in zip(best.folds, own.folds, strict=True)]
        return fmean(differences), compute_fold_interval(differences, self.test_share)

    def count(self, *states: str) -> int:
        """How many trials are in one of these states."""
        return sum(trial.state in states for trial in self.trials)

    def as_document(self) -> dict[str, Any]:
        """JSON-ready."""
        best, own, gain = self.best, self.own, self.gain
        names = ("complete", "pruned", "failed", "running", "waiting", REPEATED)
        return {
            "schema_version": SCHEMA_VERSION,
            "output": str(self.folder.path),
            "best_config": str(self.folder.best) if best else None,
            "metric": self.metric,
            "maximize": self.maximize,
            "budget": self.budget,
            "counts": {state: self.count(state) for state in names},
            "best": asdict(best) if best else None,
            "own": asdict(own) if own else None,
            "gain": None if gain is None else {"mean": gain[0], "interval": gain[1]},
            "importance": None
            if self.importance is None
            else {key: {"share": share, "by_chance": chance} for key, (share, chance) in self.importance.items()},
            "trials": [asdict(trial) for trial in self.trials],
        }


def compute_fold_interval(values: Sequence[float], test_share: float) -> tuple[float, float] | None:
    """A 95 % interval of the mean of `values` over two folds or more; None where all are equal, so that nothing is
    seen of how they vary.

    Student's t with the variance corrected for training rows that folds share: (1/k + n_test/n_train) s^2 (Nadeau and
    Bengio 2003, "Inference for the generalization error").
    """
    from scipy.special import stdtrit

    deviation = stdev(values)
    if deviation == 0:
        return None
    quantile = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE_LEVEL / 2))
    half = quantile * deviation * math.sqrt(1 / len(values) + test_share)
    return fmean(values) - half, fmean(values) + half


def collect_results(search: Search, config: Config, budget: int, test_share: float) -> SearchResult:
    """The trials in the journal as they are now."""
    trials = search.list_trials()
    repeated = list_repeated(trials)
    highest = 1.0 if search.maximize else math.inf
    results = tuple(_describe_trial(trial, search.folder, repeated, test_share, highest) for trial in trials)
    return SearchResult(search.folder, config, search.settings.metric, search.maximize, budget, results, test_share)


def _describe_trial(
    trial: "FrozenTrial", folder: TuneDir, repeated: set[int], test_share: float, highest: float
) -> TrialResult:
    attributes, folds = trial.user_attrs, trial.user_attrs.get(FOLDS, [])
    state = REPEATED if trial.number in repeated else STATES[trial.state.name]
    scores: dict[str, Any] = {}
    if state == "complete":
        values = tuple(fold["score"] for fold in folds)
        interval = compute_fold_interval(values, test_share)
        groups = [fold["n_groups"] for fold in folds]
        scores = {
            "score": trial.value,
            "deviation": stdev(values),
            "interval": interval and (max(interval[0], 0.0), min(interval[1], highest)),
            "folds": values,
            "n": sum(fold["n"] for fold in folds),
            "groups": None if None in groups else sum(groups),
            "chance": fmean(fold["chance_accuracy"] for fold in folds),
        }
    return TrialResult(
        trial.number,
        state,
        dict(trial.params or trial.system_attrs.get("fixed_params", {})),
        is_own=bool(attributes.get(OWN)),
        folder=str(folder.trial(find_root(trial)).relative_to(folder.path)),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        reason=attributes.get(REASON),
        **scores,
    )


def write_results(result: SearchResult) -> None:
    """Write trials.csv, and best.yaml where there is a best trial. Raises OutputError."""
    write_whole(result.folder.table, _build_table(result).encode())
    if result.best is not None:
        found = with_values(result.config, result.best.params, f"trial {result.best.number}")
        text = "".join(f"# {line}\n" for line in describe_best(result)) + dump_config(found)
        write_whole(result.folder.best, text.encode())


def describe_best(result: SearchResult) -> list[str]:
    """What is known of the best trial, and what its score does not say; empty where there is none."""
    best, own, gain = result.best, result.own, result.gain
    if best is None:
        return []
    groups = "" if best.groups is None else f" in {best.groups} groups"
    lines = [
        f"best of {len(result.complete)} scored trials: trial {best.number}, {_describe_score(result.metric, best)}",
        f"scored rows: {best.n}{groups}; accuracy of the best constant answer: {best.chance or 0:.4f}",
    ]
    if own is None:
        lines.append("no trial with the config's own values was scored, so what the search gains is not known")
    elif gain is None:
        lines.append("no trial was better than the config as it was")
    else:
        lines.append(f"the config as it was: trial {own.number}, {_describe_score(result.metric, own)}")
        lines.append(f"difference, fold by fold: {gain[0]:+.4f}{_describe_interval(gain[1], sign='+')}")
    lines.append("the trial was chosen by this score, which is therefore too good: score it on rows that no trial had")
    return lines


def _describe_score(metric: str, trial: TrialResult) -> str:
    interval = _describe_interval(trial.interval)
    return f"{metric} {trial.score:.4f}{interval}, mean of {len(trial.folds)} folds, deviation {trial.deviation:.4f}"


def _describe_interval(interval: tuple[float, float] | None, sign: str = "") -> str:
    return "" if interval is None else f" (95 % interval {interval[0]:{sign}.4f} to {interval[1]:{sign}.4f})"


def _build_table(result: SearchResult) -> str:
    keys = list(result.config.tune.space) if result.config.tune else []
    text = io.StringIO()
    rows = csv.DictWriter(text, (*COLUMNS, *keys), lineterminator="\n")
    rows.writeheader()
    for trial in result.trials:
        low, high = trial.interval or (None, None)
        facts = {key: value for key, value in asdict(trial).items() if key in COLUMNS}
        facts |= {"low": low, "high": high, "folds": len(trial.folds) or None}
        values = {key: _write_value(trial.params[key]) for key in keys if key in trial.params}
        rows.writerow(facts | values)
    return text.getvalue()


def _write_value(value: Any) -> Any:
    """As in YAML, so that null and true can be told from text."""
    return json.dumps(value) if isinstance(value, bool | None) else value

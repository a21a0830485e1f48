"""Which keys mattered: fANOVA over the complete trials, beside what it gives by chance, and a page of plots."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pointcnn_cli.files import write_whole
from pointcnn_cli.tuning.results import SearchResult, TrialResult
from pointcnn_cli.tuning.search import build_distributions, require_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_TRIALS = 4  # complete ones; a forest of regression trees on fewer splits nothing
SHUFFLES = 20  # of the scores, for what importance is had by chance; the largest of 20 is about its 95th percentile
TREES = 16  # of Optuna's 64; with all shuffles a hundred trials then take about 10 s, and the shares hardly differ
COLUMNS = 3


def compute_importance(result: SearchResult) -> dict[str, tuple[float, float]] | None:
    """For each key its share of the variance of the score, the largest first, and the largest share in 20 searches
    whose scores are shuffled. None for fewer than 4 complete trials, or scores that are all equal.

    fANOVA: Hutter, Hoos and Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance".
    """
    trials = [trial for trial in result.complete if trial.score is not None]
    scores = np.array([trial.score for trial in trials], dtype=np.float64)
    if len(trials) < FEWEST_TRIALS or np.ptp(scores) == 0:
        return None
    settings = require_settings(result.config)
    found = _measure(result, trials, scores)
    shuffled = np.random.default_rng(settings.seed)
    by_chance = [_measure(result, trials, shuffled.permutation(scores)) for _ in range(SHUFFLES)]
    return {key: (share, max(other[key] for other in by_chance)) for key, share in found.items()}


def _measure(result: SearchResult, trials: Sequence[TrialResult], scores: np.ndarray) -> dict[str, float]:
    """The share of each key when the trials have these scores."""
    import optuna

    settings = require_settings(result.config)
    space = build_distributions(settings)
    study = optuna.create_study(direction="maximize" if result.maximize else "minimize")
    for trial, score in zip(trials, scores, strict=True):
        study.add_trial(optuna.create_trial(params=trial.params, distributions=space, value=float(score)))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=settings.seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(space))
    return {key: float(share) for key, share in shares.items()}


def write_figure(result: SearchResult) -> None:
    """Write importance.svg: the shares, and the score over each key. Raises OutputError."""
    from matplotlib.figure import Figure

    space = require_settings(result.config).space
    panels = len(space) + 1
    rows = -(-panels // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    _draw_importance(axes[0], result.importance, len(result.complete))
    for panel, (key, search) in zip(axes[1:], space.items(), strict=False):
        _draw_slice(panel, result, key, search.log)
    for panel in axes[panels:]:
        panel.set_axis_off()
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    write_whole(result.folder.figure, stream.getvalue())


def _draw_importance(panel: "Axes", importance: Mapping[str, tuple[float, float]] | None, count: int) -> None:
    panel.set_title(f"share of the variance, {count} trials", fontsize="medium")
    if importance is None:
        panel.text(0.5, 0.5, "too few trials, or equal scores", ha="center", va="center", transform=panel.transAxes)
        panel.set_axis_off()
        return
    keys = list(importance)[::-1]
    panel.barh(keys, [importance[key][0] for key in keys], color="#4c72b0")
    panel.plot([importance[key][1] for key in keys], keys, "|", color="black", markersize=14, label="by chance (95 %)")
    panel.set_xlim(0, 1)
    panel.legend(fontsize="x-small", loc="lower right")
    panel.tick_params(labelsize="small")


def _draw_slice(panel: "Axes", result: SearchResult, key: str, log: bool) -> None:
    """The score of each complete trial over one key, with the deviation of its folds."""
    trials = [trial for trial in result.complete if trial.score is not None]
    values: list[Any] = [trial.params[key] for trial in trials]
    if any(isinstance(value, str | bool | None) for value in values):
        values = [str(value) for value in values]
    scores = [trial.score or 0.0 for trial in trials]
    panel.errorbar(
        values, scores, [trial.deviation or 0.0 for trial in trials],
        fmt="o", color="#4c72b0", ecolor="#b0b0b0", markersize=4,
    )  # fmt: skip
    if result.best is not None:
        best = [trial.number for trial in trials].index(result.best.number)
        panel.plot([values[best]], [scores[best]], "o", color="#c44e52", markersize=7, label="best")
        panel.legend(fontsize="x-small")
    if log:
        panel.set_xscale("log")
    panel.set_xlabel(key, fontsize="small")
    panel.set_ylabel(result.metric, fontsize="small")
    panel.tick_params(labelsize="small")

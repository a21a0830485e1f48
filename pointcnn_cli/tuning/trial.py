"""One trial: its folds are trained one after the other in this process, and its score is their mean."""

import contextlib
import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pointcnn_cli.config.load import with_values
from pointcnn_cli.config.schema import Config
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.signals import StopRequest
from pointcnn_cli.training import TrainedRun, resume, train
from pointcnn_cli.tuning.pruning import compute_progress, is_hopeless, number_step
from pointcnn_cli.tuning.search import Claim, Search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

GO_ON = "go on with the same command"
EPOCH_KEYS = {"accuracy": "val_accuracy", "log_loss": "val_loss"}
"""The column of the history that holds a metric; balanced accuracy is known at the end of a fold only."""


@dataclass(frozen=True)
class Notes:
    """What the user has been told already; every fold of every trial would tell it again."""

    told: set[str]
    reporter: Reporter

    def warn(self, text: str) -> None:
        """Warn once."""
        if text not in self.told:
            self.told.add(text)
            self.reporter.warn(text)


def run_trial(
    search: Search, claim: Claim, config: Config, command: Sequence[str], notes: Notes, stop: StopRequest
) -> tuple[float, list[dict[str, Any]]]:
    """The score of a trial, and what is known of each of its folds.

    Folds that a killed process left are gone on with. Raises optuna.TrialPruned, and the errors of training.
    """
    config = with_values(config, claim.trial.params, f"trial {claim.number}")
    folds: list[dict[str, Any]] = []
    try:
        for number in range(search.settings.folds):
            watch = FoldWatch(search, claim, config, [fold["score"] for fold in folds], notes, stop)
            split = config.split.model_copy(update={"fold": number})
            target = search.folder.fold(claim.root, number)
            trained = _train_fold(config.model_copy(update={"split": split}), target, command, watch)
            folds.append(_describe_fold(number, trained, search.settings.metric))
            notes.reporter.say(
                f"trial {claim.number}, fold {number + 1} of {search.settings.folds}: "
                f"{search.settings.metric} {folds[-1]['score']:.4f}"
            )
            watch.report(None, folds[-1]["score"])
    finally:
        _forget_networks()
    return fmean(fold["score"] for fold in folds), folds


def remove_checkpoints(search: Search, claim: Claim) -> None:
    """Remove the weights of a trial that has ended: no more than its scores and curves is needed."""
    for number in range(search.settings.folds):
        with contextlib.suppress(OSError):
            shutil.rmtree(RunDir(search.folder.fold(claim.root, number)).checkpoints)


def _train_fold(config: Config, target: Path, command: Sequence[str], watch: "FoldWatch") -> TrainedRun:
    return resume(target, watch) if target.exists() else train(config, target, command, watch)


def _describe_fold(number: int, trained: TrainedRun, metric: str) -> dict[str, Any]:
    metrics = trained.metrics
    facts = {key: metrics[key] for key in ("n", "n_groups", "epoch", "chance_accuracy")}
    return {"fold": number, "score": float(metrics[metric]), **facts}


def _forget_networks() -> None:
    """Give back what Keras keeps of networks that nobody uses any more."""
    import keras

    keras.utils.clear_session()
    gc.collect()


class FoldWatch(Reporter):
    """Listens to the training of one fold: reports each epoch to the search, and breaks a hopeless trial off."""

    def __init__(
        self, search: Search, claim: Claim, config: Config, finished: Sequence[float], notes: Notes, stop: StopRequest
    ) -> None:
        self._search = search
        self._claim = claim
        self._keeps_best = config.train.keep == "best"
        self._finished = finished
        self._notes = notes
        self._stop = stop
        self._epochs = find_most_epochs(config, search.settings.space)
        self._values: dict[int, float] = {}

    def say(self, text: str) -> None:
        self._notes.reporter.detail(text)

    def detail(self, text: str) -> None:
        self._notes.reporter.detail(text)

    def warn(self, text: str) -> None:
        self._notes.warn(text)

    def end_step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        self._stop.check(GO_ON)

    def end_epoch(self, row: Mapping[str, float], best_epoch: int) -> None:
        key = EPOCH_KEYS.get(self._search.settings.metric)
        if key is None:
            return
        epoch = int(row["epoch"])
        self._values[epoch] = row[key]
        kept = best_epoch if self._keeps_best else epoch
        self.report(epoch, self._values.get(kept, row[key]))  # of a fold gone on with, earlier epochs are not known

    def report(self, epoch: int | None, value: float) -> None:
        """Report the value of this fold after an epoch, or with None at its end. Raises optuna.TrialPruned."""
        import optuna

        step = number_step(len(self._finished), epoch, self._epochs)
        progress = compute_progress(self._finished, value)
        self._claim.trial.report(progress, step)
        last = epoch is None and len(self._finished) + 1 == self._search.settings.folds
        if last or not self._search.settings.prune:
            return
        others = [trial.intermediate_values for trial in list_complete(self._search.list_trials())]
        if is_hopeless(step, progress, others, self._epochs, maximize=self._search.maximize):
            when = f"fold {len(self._finished) + 1}" + ("" if epoch is None else f", epoch {epoch}")
            raise optuna.TrialPruned(
                f"{self._search.settings.metric} {progress:.4f} after {when} is worse than the median of "
                f"{len(others)} trials"
            )


def find_most_epochs(config: Config, space: Mapping[str, Any]) -> int:
    """The most epochs that a fold of any trial may have."""
    search = space.get("train.epochs")
    if search is None:
        return config.train.epochs
    return int(max(search.choices) if search.choices is not None else search.high)


def list_complete(trials: "Sequence[FrozenTrial]") -> "list[FrozenTrial]":
    """The trials that were scored on all folds."""
    import optuna

    return [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]

"""One search, shared by all processes that work on it: who does which trial, and how many there are in all."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pointcnn_cli.config.schema import Config, TuneConfig
from pointcnn_cli.config.search import as_key_value
from pointcnn_cli.errors import ConfigError
from pointcnn_cli.tuning.folder import TuneDir, describe_process
from pointcnn_cli.tuning.journal import open_study

if TYPE_CHECKING:
    import optuna

MOST_KILLS = 3
"""So often may the process of a trial be killed; then the trial itself is to blame, for its memory perhaps."""
KILLED = "its process was killed"
# Attributes of a trial in the journal.
ROOT, REPEATS, KILLS, OWN, PROCESS, REASON, FOLDS = "root", "repeats", "kills", "own", "process", "reason", "folds"


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken."""

    trial: "optuna.Trial"
    root: int
    """The number of the trial that this one repeats, or its own: the name of its folder."""

    @property
    def number(self) -> int:
        """Its number in the search."""
        return self.trial.number


class Search:
    """The study in a directory, as all its processes see it."""

    def __init__(self, folder: TuneDir, config: Config, data: Mapping[str, Any]) -> None:
        """Begin the search that `config` describes, or join it. `data` is the fingerprint of the rows.

        The first trial of a new one has the config's own values, where they lie in the space. Raises RunError or
        DataError for the search of another config or of other data, OSError.
        """
        self.folder = folder
        self.settings = require_settings(config)
        with folder.locked():
            self.study, is_new = open_study(folder, config, data)
            own = find_own_values(config)
            if is_new and own is not None:
                self.study.enqueue_trial(own, user_attrs={OWN: True})

    @property
    def maximize(self) -> bool:
        """Whether a higher score is a better one."""
        return self.settings.metric != "log_loss"

    def list_trials(self) -> "list[optuna.trial.FrozenTrial]":
        """All trials so far, those that others are repeating too."""
        return self.study.get_trials(deepcopy=False)

    @contextlib.contextmanager
    def claim(self, budget: int) -> "Iterator[Claim | None]":
        """A trial for this process for the length of the block, or None where `budget` trials are done or taken.

        Trials whose process was killed are failed and queued again first; what is queued goes before what is new.
        """
        with self.folder.locked():
            self._recover()
            claim, lock = self._take_next(budget), None
            if claim is not None:
                lock = self.folder.take(claim.root)
                claim.trial.set_user_attr(PROCESS, describe_process())
        if claim is None or lock is None:
            yield None
            return
        with self.folder.working_on(claim.root, lock):
            yield claim

    def give_back(self, claim: Claim, reason: str) -> None:
        """Queue a trial again that this process cannot go on with, through no fault of the trial."""
        with self.folder.locked():
            self._repeat(self._find(claim.number), reason, killed=False)

    def complete(self, claim: Claim, score: float, folds: Sequence[Mapping[str, Any]]) -> None:
        """Record the score of a trial, and what it is the mean of."""
        claim.trial.set_user_attr(FOLDS, [dict(fold) for fold in folds])
        self.study.tell(claim.trial, score)

    def prune(self, claim: Claim, reason: str) -> None:
        """Record that a trial was broken off; its last intermediate value stands for it."""
        import optuna

        claim.trial.set_user_attr(REASON, reason)
        self.study.tell(claim.trial, state=optuna.trial.TrialState.PRUNED)

    def fail(self, claim: Claim, reason: str) -> None:
        """Record that a trial cannot be trained."""
        import optuna

        claim.trial.set_user_attr(REASON, reason)
        self.study.tell(claim.trial, state=optuna.trial.TrialState.FAIL)

    def _find(self, number: int) -> "optuna.trial.FrozenTrial":
        return self.list_trials()[number]

    def _recover(self) -> None:
        """Fail the trials whose process has gone, and queue them again."""
        import optuna

        for trial in self.list_trials():
            if trial.state == optuna.trial.TrialState.RUNNING and self._is_abandoned(trial):
                self._repeat(trial, KILLED, killed=True)

    def _is_abandoned(self, trial: "optuna.trial.FrozenTrial") -> bool:
        return self.folder.is_abandoned(find_root(trial), trial.user_attrs.get(PROCESS))

    def _repeat(self, trial: "optuna.trial.FrozenTrial", reason: str, *, killed: bool) -> None:
        """Fail a trial and queue its values again, in this order of writing: repeat, reason, state. A process that is
        killed in between is followed by another, which finds the repeat there."""
        import optuna

        kills = trial.user_attrs.get(KILLS, 0) + killed
        if kills >= MOST_KILLS:
            reason = f"{reason} {kills} times; it may need more memory than there is"
        elif trial.number not in list_repeated(self.list_trials()):
            attributes = {ROOT: find_root(trial), REPEATS: trial.number, KILLS: kills}
            attributes |= {OWN: True} if trial.user_attrs.get(OWN) else {}
            self.study.enqueue_trial(trial.params, user_attrs=attributes)
        optuna.Trial(self.study, trial._trial_id).set_user_attr(REASON, reason)
        self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def _take_next(self, budget: int) -> Claim | None:
        import optuna

        trials = self.list_trials()
        repeated = list_repeated(trials)
        waiting = [trial for trial in trials if trial.state == optuna.trial.TrialState.WAITING]
        if len(trials) - len(repeated) - len(waiting) >= budget:
            return None
        # Seeded by the search and the trial: what is tried follows from the seed and the trials before, whichever
        # process asks.
        seed = np.random.SeedSequence([self.settings.seed, len(trials)]).generate_state(1)[0]
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
        trial = self.study.ask(build_distributions(self.settings))
        return Claim(trial, trial.user_attrs.get(ROOT, trial.number))


def require_settings(config: Config) -> TuneConfig:
    """The search of a config. Raises ConfigError where it has none."""
    if config.tune is None:
        raise ConfigError(
            "the config has no section 'tune', which says what to search",
            "add, for example:\ntune:\n  space:\n    train.learning_rate: {low: 1e-4, high: 1e-2, log: true}",
        )
    if config.split.strategy in ("tail", "file"):
        raise ConfigError(
            f"split.strategy is {config.split.strategy!r}, which makes one split, and a search scores trials on folds",
            "set split.strategy to auto, stratified or stratified_group",
        )
    return config.tune


def build_distributions(settings: TuneConfig) -> "dict[str, optuna.distributions.BaseDistribution]":
    """The space as Optuna has it, a distribution for each key."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, Any] = {}
    for key, search in settings.space.items():
        if search.choices is not None:
            space[key] = CategoricalDistribution(search.choices)
            continue
        low, high = as_key_value(key, search.low or 0.0), as_key_value(key, search.high or 0.0)
        if isinstance(low, int) and isinstance(high, int):
            space[key] = IntDistribution(low, high, search.log)
        else:
            space[key] = FloatDistribution(low, high, search.log)
    return space


def find_own_values(config: Config) -> dict[str, Any] | None:
    """The config's own values of the keys that are searched; None where one of them lies outside of the space."""
    own: dict[str, Any] = {}
    for key, search in require_settings(config).space.items():
        value: Any = config
        for part in key.split("."):
            if value is None:  # a section that is off has no values
                return None
            value = getattr(value, part)
        if search.choices is not None:
            inside = value in search.choices
        else:
            inside = isinstance(value, int | float) and (search.low or 0.0) <= value <= (search.high or 0.0)
        if not inside:
            return None
        own[key] = value
    return own


def find_root(trial: "optuna.trial.FrozenTrial") -> int:
    """The number of the first trial with these values, of a chain of repeats."""
    return int(trial.user_attrs.get(ROOT, trial.number))


def list_repeated(trials: "Sequence[optuna.trial.FrozenTrial]") -> set[int]:
    """Numbers of the trials that others repeat; they do not count."""
    return {int(trial.user_attrs[REPEATS]) for trial in trials if REPEATS in trial.user_attrs}

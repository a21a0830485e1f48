"""The search for the values of a config that score best on grouped folds, by one process or several on one directory.

`folder` owns the files, `journal` opens Optuna's study, `search` shares out the trials, `trial` trains one, `pruning`
breaks it off, `results` and `importance` say what was found; here they become the command.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

from pointcnn_cli.config.load import resolve_paths
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import Interrupted, PointcnnError, RunError, TrainingError
from pointcnn_cli.files import output_error
from pointcnn_cli.hdf5.fingerprint import compute_fingerprint
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.signals import StopRequest, catch_stop_signals
from pointcnn_cli.sources import open_source
from pointcnn_cli.splits import build_split
from pointcnn_cli.splits.parts import describe_split
from pointcnn_cli.tuning.folder import TuneDir
from pointcnn_cli.tuning.importance import compute_importance, write_figure
from pointcnn_cli.tuning.journal import require_optuna
from pointcnn_cli.tuning.results import SearchResult, collect_results, write_results
from pointcnn_cli.tuning.search import Claim, Search, require_settings
from pointcnn_cli.tuning.trial import GO_ON, Notes, list_complete, remove_checkpoints, run_trial


def tune(
    config: Config,
    output: Path,
    command: Sequence[str],
    reporter: Reporter,
    *,
    trials: int | None = None,
    timeout: float | None = None,
) -> SearchResult:
    """Search as the config's section `tune` says, in the new or existing directory `output`.

    `trials` stands in for `tune.trials`; after `timeout` seconds no further trial is begun. Raises ConfigError without
    a section, RunError or DataError where `output` holds the search of another config or other data, OutputError,
    Interrupted, and TrainingError where no trial could be scored.
    """
    require_optuna()
    started = time.monotonic()
    config, settings = resolve_paths(config), require_settings(config)
    budget = trials or settings.trials
    notes = Notes(set(), reporter)
    with catch_stop_signals() as stop, _explaining_disk(output):
        with open_source(config.data) as source:
            test_share = _check_folds(config, source, notes)
            data = compute_fingerprint(source)
        stop.check(GO_ON)
        search = Search(TuneDir.open(output), config, data)
        while timeout is None or time.monotonic() - started < timeout:
            stop.check(GO_ON)
            with search.claim(budget) as claim:
                if claim is None:
                    break
                _do_trial(search, claim, config, command, notes, stop)
            _write_results(search, config, budget, test_share)
        result = _write_results(search, config, budget, test_share)
        result = replace(result, importance=compute_importance(result))
        with search.folder.locked():
            if len(list_complete(search.list_trials())) == len(result.complete):  # else another draws more of them
                write_figure(result)
    _check_scored(result)
    return result


def _write_results(search: Search, config: Config, budget: int, test_share: float) -> SearchResult:
    """Write what is known now; nobody can write what is older after it."""
    with search.folder.locked():
        result = collect_results(search, config, budget, test_share)
        write_results(result)
    return result


def _check_folds(config: Config, source: Source, notes: Notes) -> float:
    """Rows that a fold scores for each that it trains on. Raises DataError for a fold that these data do not make."""
    shares = []
    for number in range(require_settings(config).folds):
        split = build_split(source.index, config.split.model_copy(update={"fold": number}))
        for note in (*source.index.notes, *split.notes):
            notes.warn(note)
        if number == 0:
            notes.reporter.show_split([asdict(part) for part in describe_split(source.index, split)])
        shares.append(len(split.validation) / len(split.train))
    if config.train.selects_on_validation:
        notes.warn(
            "each fold chooses its epoch on the rows that score it, which makes every trial look better than it is; "
            "train.keep: last with train.early_stopping: null does not"
        )
    return fmean(shares)


def _do_trial(
    search: Search, claim: Claim, config: Config, command: Sequence[str], notes: Notes, stop: StopRequest
) -> None:
    """Train a trial, and record how it ended."""
    import optuna

    reporter = notes.reporter
    values = ", ".join(f"{key} {value}" for key, value in claim.trial.params.items())
    reporter.say(f"trial {claim.number}: {values}")
    try:
        score, folds = run_trial(search, claim, config, command, notes, stop)
        search.complete(claim, score, folds)
        reporter.say(f"trial {claim.number}: {search.settings.metric} {score:.4f}")
    except optuna.TrialPruned as pruned:
        search.prune(claim, str(pruned))
        reporter.say(f"trial {claim.number}: broken off; {pruned}")
    except optuna.exceptions.UpdateFinishedTrialError:
        reporter.warn(f"trial {claim.number}: another process took it over, since this one showed no sign of life")
        return
    except (TrainingError, RunError) as error:
        search.fail(claim, error.message)
        reporter.warn(f"trial {claim.number} failed: {error.message}")
    except Interrupted as error:
        search.give_back(claim, "interrupted")
        message = f"{error.message.partition(';')[0]}; trial {claim.number} is queued again"
        raise Interrupted(
            error.exit_code - 128, message, f"{GO_ON}: the trial goes on after its last whole epoch"
        ) from None
    except PointcnnError as error:
        search.give_back(claim, error.message)
        raise
    remove_checkpoints(search, claim)


def _check_scored(result: SearchResult) -> None:
    """Raise TrainingError where all trials are over and none was scored."""
    failed = [trial for trial in result.trials if trial.state == "failed"]
    if result.best is None and failed and not result.count("running", "waiting"):
        raise TrainingError(
            f"none of {len(failed)} trials could be scored; the last one failed: {failed[-1].reason}",
            f"look at {result.folder.table}; narrow tune.space, or raise --trials to go on",
        )


@contextlib.contextmanager
def _explaining_disk(output: Path) -> Iterator[None]:
    """Within the block, a journal that cannot be written becomes an OutputError."""
    try:
        yield
    except OSError as error:
        raise output_error(output, error) from error

"""Optuna's journal on disk: opened, kept whole after kills, and the study in it compared with what is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pointcnn_cli.config.changes import EPOCHS, FREE, list_changes, read_stored, store_config
from pointcnn_cli.config.load import dump_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import DataError, MissingDependencyError, RunError
from pointcnn_cli.files import write_whole
from pointcnn_cli.hdf5.fingerprint import compare_fingerprints
from pointcnn_cli.tuning.folder import TuneDir

if TYPE_CHECKING:
    import optuna

STUDY = "pointcnn"
SEARCH = "search"  # the study's attribute that says what is searched
SCHEMA_VERSION = 1
MAY_DIFFER = {*FREE, "tune.trials"} - {EPOCHS}
"""Keys that may differ between the processes of a search: as those of a run that is gone on with, but the epochs."""


def require_optuna() -> None:
    """Raise MissingDependencyError where Optuna cannot be imported; it is told to keep its log to itself."""
    try:
        import optuna
    except ImportError as error:
        raise MissingDependencyError(
            f"pointcnn tune needs the package optuna ({error})", "pip install 'optuna>=5,<6'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_study(folder: TuneDir, config: Config, data: Mapping[str, Any]) -> "tuple[optuna.Study, bool]":
    """The study in the journal of `folder`, and whether it is a new one; only for who has locked the folder.

    `data` is the fingerprint of the rows. Raises RunError for a journal that is damaged or of another config,
    DataError for one of other data.
    """
    import optuna

    metric = config.tune.metric if config.tune else ""
    try:
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder.journal), cast(Any, JournalLock(folder.journal)))
        )
        study = optuna.create_study(
            storage=storage, study_name=STUDY, load_if_exists=True, pruner=optuna.pruners.NopPruner(),
            direction="minimize" if metric == "log_loss" else "maximize",
        )  # fmt: skip
        stored = study.user_attrs.get(SEARCH)
    except OSError:
        raise
    except Exception as error:  # what a damaged line does to Optuna is for it to say
        raise RunError(
            f"{folder.journal}: damaged ({type(error).__name__}: {error})",
            "restore it from a copy, or begin a new search in another --output",
        ) from error
    if stored is None:
        write_whole(folder.config, dump_config(config).encode())
        search = {"schema_version": SCHEMA_VERSION, "config": store_config(config), "data": dict(data)}
        study.set_user_attr(SEARCH, search)
        return study, True
    _check_same_search(folder, config, data, stored)
    return study, False


def _check_same_search(folder: TuneDir, config: Config, data: Mapping[str, Any], stored: Any) -> None:
    version = stored.get("schema_version") if isinstance(stored, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{folder.journal}: schema_version is {version}, this pointcnn reads {SCHEMA_VERSION}",
            "use the pointcnn that began the search, or begin a new one in another --output",
        )
    before = read_stored(stored["config"], folder.journal)
    changed = [] if before is None else list_changes(config, before, MAY_DIFFER)
    if changed:
        raise RunError(
            f"{folder.path}: holds the search of another config: {'; '.join(changed)}",
            "put the old values back to go on with it (only tune.trials may change), or choose another --output",
        )
    differing = compare_fingerprints(data, stored["data"])
    if differing:
        raise DataError(
            f"{folder.path}: holds the search of other data: {differing}",
            "put the original data back to go on with it, or choose another --output",
        )


class JournalLock:
    """Optuna's lock on its journal, which any file system can do. Who gets it cuts off the half line that a killed
    process left: the next line would else be glued to it, and nothing after it could be read."""

    def __init__(self, journal: Path) -> None:
        from optuna.storages.journal import JournalFileOpenLock

        self._journal = journal
        self._lock = JournalFileOpenLock(str(journal))

    def acquire(self) -> bool:
        """Wait for the lock."""
        acquired = self._lock.acquire()
        try:
            _cut_half_line(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return acquired

    def release(self) -> None:
        """Let others in."""
        self._lock.release()


def _cut_half_line(journal: Path) -> None:
    with journal.open("r+b") as file:
        end = file.seek(0, 2)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)

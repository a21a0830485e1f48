"""Cross-validation: folds and seeds, each trained as a run of its own, and the scores of all of them together.

`plan` settles what is trained, `workers` trains it in processes, `collect` puts the rest together with `scores`.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointcnn_cli.crossval.collect import collect
from pointcnn_cli.crossval.plan import Request, choose_members, open_cv
from pointcnn_cli.crossval.workers import Failure, train_members
from pointcnn_cli.cvdir import CvDir, list_members, read_config
from pointcnn_cli.errors import PointcnnError, TrainingError
from pointcnn_cli.files import check_target, write_whole
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.signals import catch_stop_signals


@dataclass(frozen=True)
class CrossValidated:
    """What a cross-validation leaves."""

    cv: CvDir
    metrics: dict[str, Any] | None
    """None where other parts of it are not done yet, or nothing could be trained."""
    members: int
    """How many this process was to train."""
    failures: tuple[Failure, ...]

    def check(self) -> None:
        """Raise TrainingError where a member failed."""
        if self.failures:
            told = "\n".join(failure.describe() for failure in self.failures)
            raise TrainingError(
                f"{len(self.failures)} of {self.members} members could not be trained:\n{told}",
                "mend the cause; the same command goes on with what is not finished",
            )


def cross_validate(request: Request, target: Path, shard: tuple[int, int] | None, reporter: Reporter) -> CrossValidated:
    """Train every fold with every seed below `target`, or the part that `shard` (i, n) names, and put it together.

    What is finished is kept, what was interrupted goes on. Raises the errors of `plan.open_cv`, and Interrupted once
    all processes have saved their state. Members that failed are in the result.
    """
    cv = open_cv(request, target, reporter)
    manifest = cv.read_manifest()
    members = choose_members(manifest, shard)
    reporter.say(
        f"{len(members)} to train, {request.jobs} at once with {manifest['threads']} threads each, in {cv.path}"
    )
    with catch_stop_signals() as stop:
        failures = train_members(cv, read_config(cv, manifest), members, request.jobs, reporter, stop)
        stop.check(f"the same command goes on: {shlex.join(['pointcnn', *request.command[1:]])}")
    left = [member for member in list_members(manifest) if not cv.is_finished(member)]
    if shard is not None and left:
        reporter.say(f"{len(left)} of other parts are not finished; when they are: pointcnn cv --collect {cv.path}")
    if (shard is not None and left) or len(left) == len(list_members(manifest)):
        return CrossValidated(cv, None, len(members), tuple(failures))
    return CrossValidated(cv, _conclude(cv, reporter), len(members), tuple(failures))


def collect_directory(path: Path, reporter: Reporter) -> CrossValidated:
    """Put together what is finished in the directory `path`. Raises RunError where nothing is."""
    cv = CvDir.open(path)
    return CrossValidated(cv, _conclude(cv, reporter), 0, ())


def _conclude(cv: CvDir, reporter: Reporter) -> dict[str, Any]:
    """Put together what is finished, with its page. The scores are complete without it, so a warning is enough where
    it cannot be made."""
    metrics = collect(cv, reporter)
    try:
        write_page(cv, metrics, cv.report)
    except Exception as error:
        reason = error.message if isinstance(error, PointcnnError) else f"{type(error).__name__}: {error}"
        again = f"pointcnn cv --collect {shlex.quote(str(cv.path))}"
        reporter.warn(f"the report could not be written ({reason}); all else is complete. Make it with: {again}")
    else:
        reporter.say(f"report: {cv.report}")
    return metrics


def write_report(path: Path, output: Path | None, force: bool) -> Path:
    """Write the page of the cross-validation in `path` anew, or to `output`, and return where it is.

    Raises RunError where nothing was put together yet, OutputError where `output` exists (without `force`).
    """
    cv = CvDir.open(path)
    metrics = cv.read_metrics()
    target = cv.report if output is None else check_target(output, force)
    write_page(cv, metrics, target)
    return target


def write_page(cv: CvDir, metrics: Mapping[str, Any], target: Path) -> None:
    """Write the page to `target`, from the scores as `collect` gives them. Raises OutputError."""
    from pointcnn_cli.crossval.page import build_cv_page

    manifest = cv.read_manifest()
    write_whole(target, build_cv_page(cv, read_config(cv, manifest), manifest, metrics))

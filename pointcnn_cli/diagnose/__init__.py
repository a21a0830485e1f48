"""What is wrong with a training, with the evidence: `pointcnn diagnose` and its twin for Keras scripts.

A case is gathered, checks measure, one place judges. Cheap checks come first: labels and split before any value is
read, values before TensorFlow is imported, and short trainings only with `prove`.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Diagnosis, Measurement
from pointcnn_cli.diagnose.gather import build_case, open_config_case, open_directory_case
from pointcnn_cli.diagnose.judge import judge
from pointcnn_cli.diagnose.plan import CHECKS
from pointcnn_cli.diagnose.registry import Check, Tier
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.splits.parts import Split

if TYPE_CHECKING:
    import keras


def diagnose_config(
    config: Config, reporter: Reporter, *, prove: bool = False, budget: float | None = None
) -> Diagnosis:
    """Diagnose a training before it begins: data, labels, split and network. Raises the errors of opening the data."""
    with open_config_case(config) as case:
        return diagnose_case(case, reporter, prove=prove, budget=budget)


def warn_before_training(config: Config, source: Source, split: Split) -> list[str]:
    """One sentence for each fault that labels and split alone confirm; takes well under a second."""
    case = build_case(config.name or "config", config, source, split)
    diagnosis = diagnose_case(case, Reporter(), tiers=(Tier.STATIC,))
    cures = {f.code: " ".join(f"--set {key}={value}" for key, value in f.fix.set.items()) for f in diagnosis.findings}
    return [
        f"{finding.code}: {finding.title[0].lower()}{finding.title[1:]}"
        + (f". Cure: {cures[finding.code]}" if cures[finding.code] else "")
        + ". For the evidence, run pointcnn diagnose with this config"
        for finding in diagnosis.findings
        if finding.verdict == "CONFIRMED"
    ]


def diagnose_directory(
    path: Path, overrides: Sequence[str], reporter: Reporter, *, prove: bool = False, budget: float | None = None
) -> Diagnosis:
    """Diagnose a run, or a directory made by hand from some of a run's files. Raises RunError where it has none."""
    with open_directory_case(path, overrides) as case:
        return diagnose_case(case, reporter, prove=prove, budget=budget)


def diagnose_fit(
    model: "keras.Model",
    x: Any,
    y: ArrayLike,
    *,
    validation_split: float | None = None,
    validation_data: tuple[Any, ArrayLike] | None = None,
    split: Mapping[str, ArrayLike] | Sequence[ArrayLike] | None = None,
    groups: ArrayLike | None = None,
    history: Any = None,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    class_weight: Mapping[int, float] | None = None,
    steps_per_epoch: int | None = None,
    prove: bool = False,
    budget: float | None = None,
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Diagnose `model.fit(x, y, validation_split=...)` of any compiled Keras classifier, trained or not.

    `x` is an array (rows, ...) or one for each input of the model; (rows, depth, points, frames, 1) are looked at frame
    by frame. `y` is (rows,), (rows, 1) or one-hot (rows, classes). Say how rows were validated as in `fit`
    (`validation_split` takes the last rows), or give `split`: row numbers or masks of `train`, `validation` and maybe
    `test`. `groups` (rows,) are the subjects or recordings that rows came from. `history` is what `fit` returned, or
    its dictionary. The rest are the arguments that `fit` was given. The script that calls is searched for functions
    that build nothing. The model's weights are left as they are.

    Raises UsageError for arguments that do not fit together.
    """
    from pointcnn_cli.diagnose.arrays import build_array_case

    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "steps_per_epoch": steps_per_epoch}
    if class_weight is not None:
        options["class_weight"] = class_weight
    caller = sys._getframe(1).f_globals.get("__file__")
    case = build_array_case(
        model, x, y, validation_split=validation_split, validation_data=validation_data, split=split, groups=groups,
        history=history, options=options, source_files=(caller,) if caller else (),
    )  # fmt: skip
    return diagnose_case(case, reporter or Reporter(), prove=prove, budget=budget)


def diagnose_case(
    case: Case, reporter: Reporter, *, prove: bool = False, budget: float | None = None, tiers: Sequence[Tier] = ()
) -> Diagnosis:
    """Run the checks of `tiers` (default: all, and `experiment` only with `prove`) and judge what they measured.

    `budget` bounds the experiments, in seconds.
    """
    wanted = tiers or [tier for tier in Tier if prove or tier is not Tier.EXPERIMENT]
    measurements = [
        Measurement(code, "proof", sentence, harm=True, statistic="files that do not agree", value=1.0)
        for code, sentence in case.problems
    ]
    for check in CHECKS:
        if check.tier in wanted:
            measurements += _run_check(check, case, reporter)
    if prove:
        from pointcnn_cli.diagnose.experiments import run_experiments

        measurements += run_experiments(case, judge(measurements), budget, reporter)
    return judge(measurements)


def _run_check(check: Check, case: Case, reporter: Reporter) -> list[Measurement]:
    started = time.monotonic()
    try:
        found = list(check.measure(case))
    except Exception as error:  # one check that fails must not cost the user all the others
        sentence = f"Not measured: the check failed ({type(error).__name__}: {error}). This is a bug in pointcnn."
        found = [Measurement(code, "missing", sentence, details={"failed": True}) for code in check.codes]
    reporter.detail(f"{', '.join(check.codes)}: {time.monotonic() - started:.2f} s")
    return found

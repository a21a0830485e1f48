"""How often `pointcnn diagnose` is right: trainings with known faults, combinations of them, and healthy ones.

    python benchmarks/diagnose_bench.py run --half dev --out results.jsonl --severity 1
    python benchmarks/diagnose_bench.py run --half held --shard 1/4 --seeds 4 --prove --fixes --out results.jsonl
    python benchmarks/diagnose_bench.py report results.jsonl

`run` goes on where it was interrupted. One line of JSON for each case; a case takes some 20 s on two quiet cores.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from diagnose_cases_bench.baselines import answer_all
from diagnose_cases_bench.combinations import COMBINATIONS
from diagnose_cases_bench.faults import FAULTS
from diagnose_cases_bench.healthy import HEALTHY
from diagnose_cases_bench.recipes import HALVES, BenchCase, Key, Recipe, make_base
from diagnose_cases_bench.scoring import does_fix_work, judge_tool, write_report
from diagnose_cases_bench.training import Trained, encode, train

from pointcnn_cli.diagnose import diagnose_fit
from pointcnn_cli.diagnose.findings import Diagnosis
from pointcnn_cli.errors import UsageError

CASES = {**FAULTS, **COMBINATIONS, **HEALTHY}
BUDGET = 120.0  # seconds for experiments: the trainings of the cases are over too soon to be a measure
AGREES = 0.1  # validation above test accuracy: up to this, a score is no flattery
Name = tuple[str, int, int]


def list_names(only: str | None, severities: list[int], seeds: int, shard: str) -> list[Name]:
    """Name, severity and seed of the cases of one shard."""
    wanted = only.split(",") if only else list(CASES)
    part, parts = (int(n) for n in shard.split("/"))
    everything = [(name, severity, seed) for seed in range(seeds) for severity in severities for name in wanted]
    return [name for place, name in enumerate(everything) if place % parts == part % parts]


def run_case(name: str, key: Key, *, prove: bool = False, fixes: bool = False) -> dict[str, Any]:
    """Train, diagnose and score one case."""
    case = CASES[name](key)
    trained = train(case.recipe)
    baselines = answer_all(case.recipe, trained)
    started = time.monotonic()
    diagnosis = diagnose(case.recipe, trained, prove=prove)
    seconds = time.monotonic() - started
    healthy = train(make_base(key)).test_accuracy if fixes else None
    record = {
        "name": name, "half": key.half.name, "severity": key.severity, "seed": key.seed, "prove": prove,
        "truth": describe_truth(case), **list_verdicts(diagnosis), "baselines": baselines,
        "validation_accuracy": trained.validation_accuracy, "test_accuracy": trained.test_accuracy,
        "healthy_accuracy": healthy, "training_seconds": round(trained.seconds, 2),
        "diagnosing_seconds": round(seconds, 2), "fix": None,
    }  # fmt: skip
    if healthy is not None:
        record["fix"] = try_fix(case, trained, healthy, record["confirmed"])
    return record


def diagnose(recipe: Recipe, trained: Trained, *, prove: bool) -> Diagnosis:
    """Ask `diagnose_fit` what a user would ask. Names of cases are not in what it gets."""
    known: dict[str, Any] = {"split": {"train": recipe.train, "validation": recipe.validation}}
    if recipe.tail is not None:
        known = {"validation_split": recipe.tail}
    return diagnose_fit(
        trained.model, list(recipe.x), encode(recipe, recipe.y), groups=recipe.people if recipe.groups_known else None,
        history=trained.history, batch_size=recipe.batch_size, shuffle=recipe.shuffle,
        class_weight=recipe.class_weight, prove=prove, budget=BUDGET, **known,
    )  # fmt: skip


def describe_truth(case: BenchCase) -> dict[str, Any]:
    truth = case.truth
    return {
        "roots": [sorted(root) for root in truth.roots], "present": sorted(truth.present),
        "incidental": sorted(truth.incidental), "experiments": sorted(truth.experiments),
    }  # fmt: skip


def list_verdicts(diagnosis: Diagnosis) -> dict[str, Any]:
    found: dict[str, Any] = {
        verdict.lower(): [f.code for f in diagnosis.findings if f.verdict == verdict]
        for verdict in ("CONFIRMED", "PRESENT", "SUSPECTED")
    }
    found["ruled_out"] = sorted({m.code for m in diagnosis.ruled_out})
    measured = [f.measurement for f in diagnosis.findings]
    found["failed"] = [f"{m.code}: {m.sentence}" for m in measured if m.details.get("failed")]
    found["sentences"] = {f.code: f.measurement.sentence for f in diagnosis.findings if f.verdict != "INCONCLUSIVE"}
    return found


def try_fix(case: BenchCase, trained: Trained, healthy: float, confirmed: list[str]) -> dict[str, Any] | None:
    """Do what the fixes of the confirmed codes say and train again; None where none can be done by a machine."""
    repairs = [case.repairs[code] for code in confirmed if code in case.repairs]
    if not repairs:
        return None
    recipe = case.recipe
    for repair in repairs:
        recipe = repair(recipe)
    again = train(replace(recipe, epochs=max(recipe.epochs, 20)))
    if case.truth.misreports:
        works = again.validation_accuracy - again.test_accuracy <= AGREES
    else:
        works = does_fix_work(trained.test_accuracy, again.test_accuracy, healthy, len(recipe.test_y))
        works = works and again.validation_accuracy >= healthy - 2 * AGREES
    return {
        "codes": confirmed,
        "works": bool(works),
        "validation": again.validation_accuracy,
        "test": again.test_accuracy,
    }


def check_radhar(path: Path) -> Iterator[dict[str, Any]]:
    """Split codes on a real file, without training: the tail, a random split and one by groups."""
    from pointcnn_cli.config.load import load_config
    from pointcnn_cli.diagnose import diagnose_case
    from pointcnn_cli.diagnose.gather import open_config_case
    from pointcnn_cli.diagnose.registry import Tier
    from pointcnn_cli.reporting import Reporter

    leaks = [["PC203", "PC204"]]
    recipe = Path(__file__).resolve().parent.parent / "configs" / "radhar.yaml"
    for strategy, roots in (("tail", [["PC201"]]), ("stratified", leaks), ("stratified_group", [])):
        changes = {"data.path": str(path), "split.strategy": strategy, "split.allow_missing_classes": True}
        config = load_config(recipe, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
        started = time.monotonic()
        with open_config_case(config) as case:
            found = list_verdicts(diagnose_case(case, Reporter(), tiers=[Tier.STATIC, Tier.DATA, Tier.PROBE]))
        allowed = ["PC202", "PC203", "PC204"] if roots else []
        unknown = dict.fromkeys(("validation_accuracy", "test_accuracy"), float("nan"))
        yield {
            "name": f"{'F' if roots else 'H'}-radhar-{strategy}", "half": "held", "severity": 1, "seed": 0,
            "prove": False, "truth": {"roots": roots, "present": [], "incidental": allowed, "experiments": []},
            **found, **unknown, "baselines": {}, "healthy_accuracy": None, "training_seconds": 0.0,
            "diagnosing_seconds": time.monotonic() - started, "fix": None,
        }  # fmt: skip


def read_results(path: Path) -> list[dict[str, Any]]:
    """Records of a results file; a last line that was cut short is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def run(arguments: argparse.Namespace) -> int:
    """Run what is not in the results file yet. Returns the number of cases whose set was not exact."""
    half, wrong = HALVES[arguments.half], 0
    done = {(r["half"], r["name"], r["severity"], r["seed"]) for r in read_results(arguments.out)}
    names = list_names(arguments.only, arguments.severity, arguments.seeds, arguments.shard)
    if arguments.radhar:
        for record in check_radhar(arguments.radhar):
            wrong += append(arguments.out, record)
    for name, severity, seed in names:
        if (half.name, name, severity, seed) not in done:
            try:
                record = run_case(name, Key(half, severity, seed), prove=arguments.prove, fixes=arguments.fixes)
            except UsageError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            wrong += append(arguments.out, record)
    return wrong


def append(path: Path, record: dict[str, Any]) -> int:
    """Write one record and a line for the reader; 1 where the answer was not exact."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    judged = judge_tool(record)
    unseen = record["truth"]["present"] and not judged["detected"]
    print(
        f"{record['name']} {record['severity']}/{record['seed']} {'exact' if judged['exact'] else 'WRONG'}"
        f"{' UNSEEN' if unseen else ''}: wanted {record['truth']['roots']}, CONFIRMED {record['confirmed']}, "
        f"PRESENT {record['present']}, SUSPECTED {record['suspected']}; val {record['validation_accuracy']:.2f} "
        f"test {record['test_accuracy']:.2f}; {record['training_seconds']:.0f} + "
        f"{record['diagnosing_seconds']:.0f} s{' FAILED ' + str(record['failed']) if record['failed'] else ''}",
        flush=True,
    )
    return int(not judged["exact"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run cases and append them to a results file")
    runner.add_argument("--half", choices=sorted(HALVES), default="dev")
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--shard", default="0/1", metavar="I/N")
    runner.add_argument("--only", metavar="F01,H03")
    runner.add_argument("--seeds", type=int, default=1)
    runner.add_argument("--severity", type=int, nargs="+", choices=(0, 1, 2), default=[1, 0, 2])
    runner.add_argument("--prove", action="store_true", help="also run the experiments")
    runner.add_argument(
        "--fixes", action="store_true", help="apply the fixes, train again, and train a healthy reference"
    )
    runner.add_argument("--radhar", type=Path, metavar="FILE", help="check split codes on this file first")
    commands.add_parser("report", help="print the tables").add_argument("results", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "run":
        np.seterr(all="ignore")
        run(arguments)
    else:
        print(write_report([record for path in arguments.results for record in read_results(path)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

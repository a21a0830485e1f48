"""What counts as right, and the table of a file of results."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pointcnn_cli.diagnose.statistics import compute_binomial_interval

RECOVERED = 0.9  # share of the gap to the healthy reference that a fix must win back
Record = dict[str, Any]


def judge_record(
    record: Record, confirmed: Iterable[str], suspected: Iterable[str], *, lenient: bool
) -> dict[str, bool]:
    """Whether a case was detected, at least one cause named, and exactly the true set confirmed.

    With `lenient`, causes that only an experiment can confirm count where they are suspected.
    """
    truth, said = record["truth"], set(confirmed)
    open_ones = set(truth["experiments"]) & set(suspected) if lenient else set()
    named = said | open_ones
    hits = [bool(named.intersection(root)) for root in truth["roots"]]
    wanted = {code for root in truth["roots"] for code in root} | set(truth["incidental"])
    clean = not (said - wanted)
    seen_present = not truth["present"] or bool((said | set(suspected)).intersection(truth["present"]))
    detected = bool(named) if hits else bool(truth["present"]) and seen_present
    return {
        "detected": detected, "one right": any(hits) if hits else bool(truth["present"]) and seen_present,
        "exact": all(hits) and clean, "clean": clean,
    }  # fmt: skip


def judge_tool(record: Record) -> dict[str, bool]:
    """Of `diagnose` itself."""
    return judge_record(
        record, record["confirmed"], [*record["present"], *record["suspected"]], lenient=not record["prove"]
    )


def judge_baseline(record: Record, name: str) -> dict[str, bool]:
    """Of a baseline, which confirms all it says."""
    return judge_record(record, record["baselines"][name], (), lenient=False)


def describe_share(hits: int, n: int) -> str:
    """A share with its exact 95 % interval."""
    if not n:
        return "none"
    low, high = compute_binomial_interval(hits, n)
    return f"{hits}/{n} = {hits / n:.1%} [{low:.1%}, {high:.1%}]"


def write_report(records: Sequence[Record]) -> str:
    """All tables as Markdown."""
    parts = [
        _tell_overall(records),
        _tell_codes(records),
        _tell_severities(records),
        _tell_cost(records),
        _tell_misses(records),
    ]
    return "\n\n".join(parts)


def _is_single(record: Record) -> bool:
    return bool(record["name"].startswith("F"))


def _tell_overall(records: Sequence[Record]) -> str:
    judges: dict[str, Callable[[Record], dict[str, bool]]] = {"diagnose": judge_tool}
    for name in records[0]["baselines"] if records else ():
        judges[name] = lambda record, name=name: judge_baseline(record, name)  # type: ignore[misc]
    lines = ["| | detected | >= 1 right | exact (singles) | exact (several) | harmless fault mentioned | over-blamed "
             "| false alarms on healthy |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    healthy = [r for r in records if r["name"].startswith("H")]
    faulty = [r for r in records if not r["name"].startswith("H") and (r["truth"]["roots"] or r["truth"]["present"])]
    for name, judge in judges.items():
        judged = [(r, judge(r)) for r in faulty]
        shares = [
            [j["detected"] for r, j in judged if r["truth"]["roots"]],
            [j["one right"] for r, j in judged if r["truth"]["roots"]],
            [j["exact"] for r, j in judged if _is_single(r)],
            [j["exact"] for r, j in judged if not _is_single(r)],
            [j["detected"] for r, j in judged if not r["truth"]["roots"]],
            [not j["clean"] for _, j in judged],
            [not judge(r)["clean"] for r in healthy],
        ]
        lines.append(f"| {name} | " + " | ".join(describe_share(sum(s), len(s)) for s in shares) + " |")
    fixes = [r["fix"]["works"] for r in records if r.get("fix") and r["fix"]["works"] is not None]
    return "\n".join(lines) + f"\n\nFixes that work: {describe_share(sum(fixes), len(fixes))}"


def _tell_codes(records: Sequence[Record]) -> str:
    codes = sorted(
        {c for r in records for root in r["truth"]["roots"] for c in root}
        | {c for r in records for c in r["confirmed"]}
    )
    lines = ["| code | recall of CONFIRMED | recall, suspected counts | precision of CONFIRMED |", "|---|---|---|---|"]
    for code in codes:
        with_root = [r for r in records if [code] in r["truth"]["roots"]]
        recalled = [code in r["confirmed"] for r in with_root]
        seen = [code in (*r["confirmed"], *r["suspected"], *r["present"]) for r in with_root]
        said = [r for r in records if code in r["confirmed"]]
        right = [any(code in root for root in r["truth"]["roots"]) or code in r["truth"]["incidental"] for r in said]
        shares = [describe_share(sum(s), len(s)) for s in (recalled, seen, right)]
        lines.append(f"| {code} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def _tell_severities(records: Sequence[Record]) -> str:
    lines = ["| severity | exact |", "|---|---|"]
    for severity in sorted({r["severity"] for r in records}):
        exact = [judge_tool(r)["exact"] for r in records if r["severity"] == severity and not r["name"].startswith("H")]
        lines.append(f"| {severity} | {describe_share(sum(exact), len(exact))} |")
    return "\n".join(lines)


def _tell_cost(records: Sequence[Record]) -> str:
    def median(name: str) -> float:
        values = sorted(r[name] for r in records)
        return float(values[len(values) // 2]) if values else 0.0

    return f"Median seconds: training {median('training_seconds'):.1f}, diagnosing {median('diagnosing_seconds'):.1f}."


def _tell_misses(records: Sequence[Record]) -> str:
    lines = ["Misses:"]
    for r in records:
        judged = judge_tool(r)
        if r["failed"] or not judged["exact"] or (r["truth"]["present"] and not judged["detected"]):
            wanted = " + ".join("/".join(root) for root in r["truth"]["roots"]) or "nothing"
            lines.append(
                f"- {r['name']} severity {r['severity']} seed {r['seed']}: wanted {wanted}, "
                f"CONFIRMED {r['confirmed']}, PRESENT {r['present']}, "
                f"SUSPECTED {r['suspected']}; validation {r['validation_accuracy']:.2f}, "
                f"test {r['test_accuracy']:.2f}, healthy {r['healthy_accuracy'] or float('nan'):.2f}"
                + (f"; failed checks {r['failed']}" if r["failed"] else "")
            )
    return "\n".join(lines)


def does_fix_work(faulty: float, repaired: float, healthy: float, rows: int) -> bool:
    """Whether a repair wins back 90 % of the gap in accuracy; what is below two standard errors counts as nothing."""
    noise = 2 * (max(healthy * (1 - healthy), 0.01) / rows) ** 0.5
    return repaired >= faulty + RECOVERED * (healthy - faulty) - noise

"""pointcnn diagnose"""

import json as json_text
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pointcnn_cli.cli.console import ConsoleReporter, make_console, print_json
from pointcnn_cli.cli.streams import read_stdin
from pointcnn_cli.cli.train import JsonOption, SetOption

if TYPE_CHECKING:
    from pointcnn_cli.diagnose.findings import Diagnosis, Finding, Measurement

PROBLEM_FOUND = 3
NOT_MEASURED = "Not measured: "  # how such sentences begin
PAGE_WIDTH = 100  # longer lines are hard to read
STYLES = {"CONFIRMED": "bold red", "PRESENT": "bold", "SUSPECTED": "yellow", "INCONCLUSIVE": "dim"}


def diagnose(
    target: Annotated[str, typer.Argument(metavar="CONFIG|RUN", help="YAML config (- for stdin), or a run directory.")],
    prove: Annotated[bool, typer.Option("--prove", help="Train short arms that tell causes apart.")] = False,
    budget: Annotated[
        float | None,
        typer.Option("--budget", min=1, metavar="SECONDS", help="For --prove. [default: the time of the training]"),
    ] = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Name what is wrong with data, split, labels, network or run, with the evidence and the setting that cures it.

    Example:  [bold]pointcnn diagnose configs/as_asked.yaml[/bold]

    Exits with 3 when a fault is confirmed, with 0 when none is.
    """
    from pointcnn_cli import diagnose as engine
    from pointcnn_cli.config.load import STDIN, load_config

    reporter = ConsoleReporter()
    if Path(target).is_dir():
        diagnosis = engine.diagnose_directory(Path(target), settings or (), reporter, prove=prove, budget=budget)
    else:
        config = load_config(target, settings or (), stdin_text=read_stdin() if target == STDIN else None)
        diagnosis = engine.diagnose_config(config, reporter, prove=prove, budget=budget)
    if json:
        print_json(diagnosis.as_document())
    else:
        print_diagnosis(diagnosis, target, settings or (), proved=prove)
    if diagnosis.confirmed:
        raise typer.Exit(PROBLEM_FOUND)


def print_diagnosis(diagnosis: "Diagnosis", target: str, overrides: Sequence[str], *, proved: bool) -> None:
    """The page for a person, on stdout: the cause first, then the evidence, then what to run next."""
    console = make_console(stderr=False)
    console.print(_headline(diagnosis), style="bold", markup=False, soft_wrap=not console.is_terminal)
    for finding in diagnosis.findings:
        if finding.verdict != "INCONCLUSIVE":
            _print_finding(console, finding)
    _print_ruled_out(console, diagnosis.ruled_out)
    _print_unmeasured(console, [f.measurement for f in diagnosis.findings if f.verdict == "INCONCLUSIVE"])
    console.print()
    console.print(f"Next: {_next_command(diagnosis, target, overrides, proved=proved)}", markup=False)


def _headline(diagnosis: "Diagnosis") -> str:
    verdicts = [finding.verdict for finding in diagnosis.findings]
    if "CONFIRMED" in verdicts:
        return f"Cause: {diagnosis.findings[0].title.lower()}."
    if "SUSPECTED" in verdicts:
        first = diagnosis.findings[verdicts.index("SUSPECTED")]
        return f"No cause is proven. Most likely: {first.title.lower()}."
    return "Nothing was found that spoils the score."


def _print_finding(console: Console, finding: "Finding") -> None:
    console.print()
    title = Text.assemble((finding.verdict, STYLES[finding.verdict]), f"  {finding.code}  {finding.title}")
    console.print(title, soft_wrap=not console.is_terminal)
    _print_paragraph(console, finding.measurement.sentence)
    numbers = _list_numbers(finding.measurement)
    if numbers:
        _print_paragraph(console, numbers, style="dim")
    if finding.fix.text:
        _print_paragraph(console, f"Fix: {finding.fix.text}")
    if finding.fix.set:
        _print_paragraph(console, _format_settings(finding.fix.set), style="bold")


def _list_numbers(m: "Measurement") -> str:
    """The statistics in one line."""
    parts = []
    if m.value is not None:
        held = "" if m.threshold is None else f" (threshold {m.threshold:.3g})"
        parts.append(f"{m.statistic} {m.value:.3g}{held}")
    if m.n is not None:
        parts.append(f"n {m.n}" + ("" if m.groups is None else f" in {m.groups} groups"))
    if m.interval is not None and m.interval_level is not None:
        parts.append(f"{m.interval_level:.3g} interval {m.interval[0]:.3f} to {m.interval[1]:.3f}")
    if m.p is not None:
        parts.append(f"p {m.p:.2g}" + (f" against {m.null}" if m.null else ""))
    return "; ".join(parts)


def _print_ruled_out(console: Console, measurements: "Sequence[Measurement]") -> None:
    if measurements:
        console.print()
        console.print("Ruled out", style="bold")
    for m in measurements:
        _print_paragraph(console, f"{m.code}: {m.sentence}")


def _print_unmeasured(console: Console, measurements: "Sequence[Measurement]") -> None:
    """Codes that lack the same thing share a line."""
    lacking: dict[str, list[str]] = {}
    for m in measurements:
        lacking.setdefault(m.sentence.removeprefix(NOT_MEASURED), []).append(m.code)
    if lacking:
        console.print()
        console.print("Not measured", style="bold")
    for needs, codes in lacking.items():
        _print_paragraph(console, f"{', '.join(codes)}: {needs}")


def _print_paragraph(console: Console, text: str, style: str = "") -> None:
    width = min(console.width, PAGE_WIDTH)
    wrapped = textwrap.fill(
        text, width, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    console.print(Text(wrapped, style), soft_wrap=True)


def _format_settings(settings: Mapping[str, Any]) -> str:
    """As they are pasted behind a command."""
    texts = {key: value if isinstance(value, str) else json_text.dumps(value) for key, value in settings.items()}
    return " ".join(f"--set {shlex.quote(f'{key}={text}')}" for key, text in texts.items())


def _next_command(diagnosis: "Diagnosis", target: str, overrides: Sequence[str], *, proved: bool) -> str:
    confirmed = [finding for finding in diagnosis.findings if finding.verdict == "CONFIRMED"]
    cures = {key: value for finding in reversed(confirmed) for key, value in finding.fix.set.items()}
    given = "".join(f" --set {shlex.quote(text)}" for text in overrides)
    config = shlex.quote(str(Path(target) / "config.yaml") if Path(target).is_dir() else target)
    if cures:
        return f"pointcnn train {config}{given} {_format_settings(cures)}"
    if diagnosis.confirmed:
        return f"do what is said under Fix, then run: pointcnn diagnose {shlex.quote(target)}{given}"
    if not proved and any(finding.verdict == "SUSPECTED" for finding in diagnosis.findings):
        return f"pointcnn diagnose {shlex.quote(target)}{given} --prove"
    if Path(target).is_dir():
        return f"pointcnn evaluate {shlex.quote(target)} --data NEW_RECORDINGS.h5"
    return f"pointcnn train {config}{given}"

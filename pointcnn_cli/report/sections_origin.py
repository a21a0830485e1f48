"""The last parts of a page: what `diagnose` found, and where the run comes from."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from pointcnn_cli.config.load import dump_config
from pointcnn_cli.diagnose.findings import Finding, Measurement
from pointcnn_cli.report.facts import ReportFacts
from pointcnn_cli.report.markup import Html, build_code, build_facts, build_fold, escape, join, tag
from pointcnn_cli.report.page import Section

MOST_CONFIG = 60_000  # characters; a list of thousands of files would take the page over its size


def build_diagnosis(facts: ReportFacts) -> Section:
    """Findings with their evidence and cure, then what was ruled out."""
    command = tag("p", escape("For the rest, the network among it, run:"))
    more = join([command, build_code(f"pointcnn diagnose {shlex.quote(str(facts.run.path))}")])
    words = [facts.undiagnosed]
    if facts.diagnosis is None:
        body = [tag("p", escape(word)) for word in words]
        return Section("diagnosis", "What diagnose found", join([*body, more]))
    told = [f for f in facts.diagnosis.findings if f.verdict != "INCONCLUSIVE"]
    if not told:
        words.insert(0, "Nothing was found that spoils the score.")
    body = [tag("p", escape(word)) for word in words]
    body += [_build_finding(finding) for finding in told]
    if facts.diagnosis.ruled_out:
        lines = [_build_ruled_out(m) for m in facts.diagnosis.ruled_out]
        body.append(build_fold(f"Ruled out: {len(lines)}", tag("ul", *lines)))
    return Section("diagnosis", "What diagnose found", join([*body, more]))


def _build_finding(finding: Finding) -> Html:
    parts = [
        tag("p", tag("span", escape(finding.verdict), class_="mark"), escape(f" {finding.code} {finding.title}")),
        tag("p", escape(finding.measurement.sentence)),
    ]
    if finding.fix.text:
        parts.append(tag("p", escape(f"Fix: {finding.fix.text}")))
    if finding.fix.set:
        parts.append(build_code(_format_settings(finding.fix.set)))
    return tag("div", *parts, class_=f"finding {finding.verdict}")


def _format_settings(settings: Mapping[str, Any]) -> str:
    """As they are pasted behind a command."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return " ".join(f"--set {shlex.quote(f'{key}={text}')}" for key, text in texts.items())


def _build_ruled_out(m: Measurement) -> Html:
    return tag("li", escape(f"{m.code}: {m.sentence}"))


def build_origin(facts: ReportFacts) -> Section:
    """The config, versions, and the commands that made the run and repeat it."""
    manifest, run = facts.manifest, facts.run
    environment = manifest.get("environment", {})
    again = f"pointcnn train {shlex.quote(str(run.config))}"
    packages = environment.get("packages") or {}
    lines = [
        ("Run", escape(run.path)),
        ("Made by", escape(_tell_command(manifest.get("command")))),
        ("Status", escape(_tell_status(facts))),
        ("Parameters", escape(f"{manifest.get('parameters', 0):,}")),
        ("Versions", escape(", ".join(f"{name} {version}" for name, version in packages.items()))),
        ("Machine", escape(", ".join(f"{k} {_flatten(v)}" for k, v in environment.items() if k != "packages"))),
        ("Data", escape(_tell_data(manifest.get("data", {})))),
    ]
    config = dump_config(facts.config)
    if len(config) > MOST_CONFIG:
        config = config[:MOST_CONFIG] + f"\n... (cut; the rest is in {run.config})"
    body = [
        tag("p", escape("Repeat the run with:")), build_code(again),
        build_facts(lines), build_fold("config.yaml, every key", build_code(config)),
    ]  # fmt: skip
    return Section("origin", "Where it comes from", join(body))


def _tell_status(facts: ReportFacts) -> str:
    manifest = facts.manifest
    ended = f", ended {manifest['ended']}" if manifest.get("ended") else ""
    reason = f" ({manifest['reason']})" if manifest.get("reason") else ""
    return f"{manifest['status']}{reason}, started {manifest.get('started', 'at an unknown time')}{ended}"


def _tell_command(command: Any) -> str:
    """As it was given; the path of the program is that of one machine."""
    if not isinstance(command, list) or not command:
        return "unknown"
    return shlex.join(["pointcnn", *map(str, command[1:])])


def _tell_data(data: Mapping[str, Any]) -> str:
    files = [str(one.get("path")) for one in data.get("files", [])]
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return f"{data.get('rows')} rows of {', '.join(files[:5])}{more}; sha256 of labels {data.get('labels_sha256')}"


def _flatten(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_flatten(one)}" for key, one in value.items()) + ")"
    return str(value)

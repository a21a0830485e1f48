"""pointcnn doctor"""

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from pointcnn_cli.cli.console import ConsoleReporter, print_json, print_table
from pointcnn_cli.cli.train import JsonOption
from pointcnn_cli.memory import describe_bytes


def doctor(json: JsonOption = False) -> None:
    """Check this installation and this machine, with a training in miniature of about ten seconds.

    Example:  [bold]pointcnn doctor --json[/bold]

    Shows versions, devices (and why there is no GPU), processors, memory and disk. Exits with 0 when all is well. The
    self-test trains, interrupts, resumes and reloads a tiny network and compares the results bit for bit; it leaves
    nothing behind.
    """
    from pointcnn_cli.doctor import examine

    reporter = ConsoleReporter()
    document, error = examine(reporter)
    if json:
        print_json(document)
    else:
        print_table(build_table(document))
    for warning in document["warnings"]:
        reporter.warn(warning["problem"] + (f"\n  Try: {warning['hint']}" if warning["hint"] else ""))
    if error is not None:
        raise error
    reporter.say("all is well")


def build_table(document: dict[str, Any]) -> Table:
    """What `doctor.examine` found, for a person."""
    table = Table(show_header=False)
    for name, fact in _list_facts(document):
        table.add_row(Text(name), Text(fact))
    return table


def _list_facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and fact of each line."""
    yield from ((name, str(version)) for name, version in document["versions"].items())
    for package in document["packages"]:
        if package["extra"] is not None:
            found = package["found"] or f"not installed (pip install '{package['name']}{package['wanted']}')"
            yield f"extra {package['extra']}", f"{package['name']} {found}"
    yield "processor", _describe_cpu(document["cpu"])
    yield "devices", _describe_devices(document["devices"])
    for limit in document["memory"]:
        yield "memory", f"{describe_bytes(limit['available'])} available; the limit is {limit['limiter']}"
    for disk in document["disks"]:
        free = "not there" if disk["free"] is None else f"{describe_bytes(disk['free'])} free"
        yield "disk", f"{free} in {disk['folder']}" + ("" if disk["writable"] else ", which is not writable")
    test = document["self_test"]
    if test is None:
        yield "self-test", "not run"
    else:
        yield "self-test", f"{'passed' if test['passed'] else 'failed'} in {test['seconds']:.0f} s on {test['device']}"


def _describe_cpu(cpu: dict[str, Any]) -> str:
    quota = "" if cpu["quota"] is None else f", of which the cgroup gives the time of {cpu['quota']:g}"
    instructions = "instructions unknown" if cpu["instructions"] is None else " ".join(cpu["instructions"])
    switch = "on" if cpu["onednn"] else "off"
    return f"{cpu['model'] or cpu['machine']}: {cpu['cpus']} CPUs{quota}; {instructions}; oneDNN {switch}"


def _describe_devices(devices: dict[str, Any] | None) -> str:
    if devices is None:
        return "not looked for"
    names = ", ".join(device["name"] for device in devices["devices"]) or "none"
    if devices["no_gpu_because"] is None:
        return f"{devices['backend']}: {names}"
    hint = f"\nTry: {devices['hint']}" if devices["hint"] else ""
    return f"{devices['backend']}: {names}\nno GPU: {devices['no_gpu_because']}{hint}"

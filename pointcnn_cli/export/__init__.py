"""A run taken elsewhere: its network in the format of another runtime, run there and compared with Keras before it gets
its name.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pointcnn_cli.cvdir import CvDir, is_cv
from pointcnn_cli.errors import RunError, UsageError
from pointcnn_cli.export.conversion import build_quantization, check_backend, convert
from pointcnn_cli.export.cost import compute_cost
from pointcnn_cli.export.formats import FORMATS, METADATA_NAME, Format, check_packages
from pointcnn_cli.export.metadata import describe_calibration, describe_export, format_metadata
from pointcnn_cli.export.networks import Networks, build_networks
from pointcnn_cli.export.output import check_output, drafting, measure_bytes
from pointcnn_cli.export.parity import TOLERANCE, check_parity, compare_with_keras
from pointcnn_cli.export.rows import CheckRows, open_check_rows
from pointcnn_cli.prediction import load_run
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.runtime import import_keras

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class _Job:
    """What is to be written and compared."""

    format: Format
    networks: Networks
    rows: CheckRows
    metadata: str
    show_noise: bool


def export_run(
    path: Path,
    format_name: str,
    output: Path,
    reporter: Reporter,
    *,
    quantization: str | None = None,
    force: bool = False,
    show_noise: bool = False,
) -> dict[str, Any]:
    """Write the network of the run in `path` to `output`; what was written, and what was found of it, JSON-ready.

    Nothing is left of an export that fails. Raises UsageError, MissingDependencyError and OutputError before any work;
    RunError for a run that cannot be exported, or a float export that differs from Keras by more than
    `parity.TOLERANCE`; DataError where quantisation needs rows that are gone.
    """
    chosen = FORMATS[format_name]
    _check_quantization(chosen, quantization)
    target = check_output(chosen, output, force)
    check_packages(chosen)
    _refuse_ensemble(path)
    loaded = load_run(path, reporter)
    calibration = describe_calibration(loaded)
    import_keras()
    check_backend()
    networks = build_networks(loaded)
    document = describe_export(loaded, networks, chosen, quantization, calibration)
    rows_of = open_check_rows(loaded, networks.reference, quantization is not None, reporter)
    with rows_of as rows, drafting(target) as draft:
        reporter.say(f"writing {chosen.name}, and comparing it with Keras on {rows.describe()}")
        job = _Job(chosen, networks, rows, format_metadata(document), show_noise)
        model = draft / chosen.main_name
        findings = _write_float(job, model) if quantization is None else _write_quantized(job, model, quantization)
        (draft / METADATA_NAME).write_text(format_metadata({**document, **findings}))
        size = measure_bytes(draft)
    return {
        "schema_version": SCHEMA_VERSION,
        "format": chosen.name,
        "quantization": quantization,
        "output": str(target.main),
        "files": [str(file) for file in target.files],
        "bytes": size,
        "run": str(loaded.run.path),
        "epoch": networks.epoch,
        **findings,
    }


def _check_quantization(chosen: Format, quantization: str | None) -> None:
    if quantization is not None and not chosen.quantizes:
        able = next(known.name for known in FORMATS.values() if known.quantizes)
        raise UsageError(
            f"--quantize goes with --format {able}, not with --format {chosen.name}",
            f"leave --quantize {quantization} out, or choose --format {able}",
        )


def _refuse_ensemble(path: Path) -> None:
    """Raise RunError for the directory of a cross-validation, naming the runs in it."""
    if not is_cv(path):
        return
    runs = sorted(str(manifest.parent) for manifest in CvDir(path).runs.glob("*/manifest.json"))
    raise RunError(
        f"{path}: is the directory of a cross-validation; its networks together are no single network to export",
        "export its runs one by one, and average their probabilities: " + (", ".join(runs) or "there are none yet"),
    )


def _write_float(job: _Job, model: Path) -> dict[str, Any]:
    """Write the model, and say how it compares. Raises RunError where it gives other probabilities than Keras."""
    convert(job.format, job.networks.lowered, model, job.metadata, job.show_noise)
    compared = compare_with_keras(job.format, model, job.networks, job.rows, job.show_noise)
    check_parity(compared, job.format)
    return {"parity": {"tolerance": TOLERANCE, **compared.describe()}, "quantization_cost": None}


def _write_quantized(job: _Job, model: Path, quantization: str) -> dict[str, Any]:
    """Write the model with `quantization`, and say what that saves and costs beside float32."""
    convert(job.format, job.networks.lowered, model, job.metadata, job.show_noise)
    before = measure_bytes(model)
    model.unlink()
    options = build_quantization(quantization, job.rows, job.networks.input_names)
    convert(job.format, job.networks.lowered, model, job.metadata, job.show_noise, options)
    compared = compare_with_keras(job.format, model, job.networks, job.rows, job.show_noise)
    labels, groups = job.rows.find_truth()
    cost = compute_cost(labels, groups, compared.expected, compared.found)
    sizes = {"bytes_before": before, "bytes_after": measure_bytes(model)}
    return {"parity": {"tolerance": None, **compared.describe()}, "quantization_cost": {**sizes, **asdict(cost)}}

"""The page of a run, `report.html`: what is gathered and measured, how it is drawn, and how it is put together, apart.

Facts come from the run's files and rows (`gather`), words and levels from fixed rules (`verdict`), figures from
`plots_*`, markup from `sections`.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from pointcnn_cli.errors import OutputError, PointcnnError
from pointcnn_cli.files import check_target, output_error, write_whole
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.prediction import load_run
from pointcnn_cli.report.canvas import drawing_style, render_png, render_svg
from pointcnn_cli.report.facts import ReportFacts
from pointcnn_cli.report.figures import FIGURE_NAMES, draw_all
from pointcnn_cli.report.gather import gather_finished, gather_run
from pointcnn_cli.report.page import build_page
from pointcnn_cli.report.sections_mistakes import build_mistakes
from pointcnn_cli.report.sections_origin import build_diagnosis, build_origin
from pointcnn_cli.report.sections_scores import build_calibration, build_classes, build_confusion, build_groups
from pointcnn_cli.report.sections_training import build_split, build_top, build_training
from pointcnn_cli.report.verdict import judge_score
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir

PLOT_FORMATS = {".svg": render_svg, ".png": render_png}


def write_after_training(run: RunDir, source: Source, reporter: Reporter) -> None:
    """Write report.html of a run that has just ended, from its files and `source`, the rows that it was trained on.

    Raises nothing: the run is complete without its page, and a warning says how to make it.
    """
    try:
        facts = gather_finished(load_run(run.path, reporter), source)
        with drawing_style():
            page = build_report(facts)
        write_whole(run.report, page)
    except Exception as error:
        reason = error.message if isinstance(error, PointcnnError) else f"{type(error).__name__}: {error}"
        reporter.warn(
            f"the report could not be written ({reason}); the run is complete without it. "
            f"Make it with: pointcnn report {shlex.quote(str(run.path))}"
        )
        return
    reporter.say(f"report: {run.report}")


def write_report(
    path: Path,
    reporter: Reporter,
    *,
    files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    output: Path | None = None,
    plots: Path | None = None,
    force: bool = False,
) -> Path:
    """Write the page of the run in `path`, finished or not, and return where it is.

    With `files` the score is that on all their rows. Without `output` the page is report.html in the run, which is
    replaced; with `files` it is report-STEM.html there. Every other file that exists is replaced with `force` only.
    `plots` is a folder for each figure as SVG and PNG, made where it is missing.

    Raises RunError, DataError and ConfigError as `gather_run`, OutputError for what cannot be written.
    """
    run = RunDir.open(path)
    target = output or (run.path / f"report-{files[0].stem}.html" if files else run.report)
    own = not files and target.absolute() == run.report
    target = check_target(target, force or own)
    if plots is not None:
        _check_plots(plots, force)
    facts = gather_run(path, files, overrides, reporter)
    with drawing_style():
        page = build_report(facts)
        images = list(_render_plots(facts)) if plots is not None else []
    write_whole(target, page, force=force or own)
    if plots is not None:
        _write_plots(plots, images, force, reporter)
    return target


def build_report(facts: ReportFacts) -> bytes:
    """The page; within `drawing_style`."""
    sections = [build_training(facts), build_split(facts)]
    if facts.scored is not None:
        sections += [build_confusion(facts.scored), build_classes(facts.scored), build_calibration(facts.scored)]
        sections += [build_mistakes(facts), *build_groups(facts.scored)]
    sections += [build_diagnosis(facts), build_origin(facts)]
    return build_page(_name_page(facts), build_top(facts, judge_score(facts)), sections)


def _name_page(facts: ReportFacts) -> str:
    rows = "" if facts.scored is None or facts.own_rows else f", on {facts.scored.what}"
    return f"{facts.config.name or 'run'} / {facts.run.path.name}{rows}"


def _check_plots(folder: Path, force: bool) -> None:
    """Raise OutputError for what can be known before any work."""
    if folder.is_dir():
        for name in FIGURE_NAMES:
            for suffix in PLOT_FORMATS:
                check_target(folder / f"{name}{suffix}", force)
    elif folder.exists():
        raise OutputError(f"{folder}: is not a folder", "name a folder for the plots")


def _render_plots(facts: ReportFacts) -> Iterator[tuple[str, bytes]]:
    for drawing in draw_all(facts):
        for suffix, render in PLOT_FORMATS.items():
            yield f"{drawing.name}{suffix}", render(drawing)


def _write_plots(folder: Path, images: Sequence[tuple[str, bytes]], force: bool, reporter: Reporter) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    for name, data in images:
        write_whole(folder / name, data, force=force)
    reporter.say(f"wrote {len(images)} plots to {folder}")

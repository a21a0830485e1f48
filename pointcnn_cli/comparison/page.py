"""The page of a comparison: the same sentences and tables as on a terminal, with the intervals drawn."""

from collections.abc import Sequence
from pathlib import Path

from pointcnn_cli.comparison import ONE_TRAINING, Comparison
from pointcnn_cli.comparison.pairs import SIGNIFICANT, Pair, describe_pair
from pointcnn_cli.comparison.scores import SCORES, describe_setting
from pointcnn_cli.files import check_target, write_whole
from pointcnn_cli.report.canvas import Drawing, drawing_style, start_figure
from pointcnn_cli.report.markup import Html, build_code, build_facts, build_table, escape, join, tag
from pointcnn_cli.report.page import Section, build_figure, build_page
from pointcnn_cli.report.palette import light

NONE = "none"  # in a table, what there is no number for
LEVELS = {"better": "good", "worse": "good", "not_told_apart": "caution", "not_compared": "bad"}
VERDICTS = {
    "better": "Better than the first, beyond chance",
    "worse": "Worse than the first, beyond chance",
    "not_told_apart": "Cannot be told apart",
    "not_compared": "Not compared",
}
_WIDTH, _LINE = 340, 28  # pixels of a figure, and of a run in it


def write_page(found: Comparison, target: Path, *, force: bool = False) -> None:
    """Write the page. Raises OutputError where `target` exists (without `force`) or cannot be written."""
    place = check_target(target, force)
    with drawing_style():
        page = build_comparison_page(found)
    write_whole(place, page, force=force)


def build_comparison_page(found: Comparison) -> bytes:
    """The page as one HTML file; within `drawing_style`."""
    names = ", ".join(run.path.name for run in found.runs)
    sections = [_build_scores(found), _build_differences(found), _build_settings(found), _build_origin(found)]
    return build_page(f"Comparison of {names}", _build_top(found), sections)


def _build_top(found: Comparison) -> Html:
    boxes = [
        tag(
            "div", tag("p", escape(describe_pair(pair)), class_="sentence"),
            tag("p", escape(VERDICTS[pair.verdict]), class_="level"), class_=f"verdict {LEVELS[pair.verdict]}",
        )
        for pair in found.pairs
    ]  # fmt: skip
    notes = [tag("p", escape(f"Warning: {warning}."), class_="note") for warning in found.warnings]
    if found.next_command:
        notes += [tag("p", escape("All runs on the same rows, of a file that none was trained on:"), class_="note")]
        notes += [build_code(found.next_command)]
    return join([*boxes, *notes])


def _build_scores(found: Comparison) -> Section:
    on = ", ".join(found.files) or "the validation rows of each run"
    columns = ("", *(run.name for run in found.runs))
    rows = [
        (escape(title), *(escape(show(run.metrics)) if run.metrics else escape(NONE) for run in found.runs))
        for title, show in SCORES.items()
    ]
    key = build_facts(
        (run.name, escape(f"{run.path}" + (f"; no score: {run.problem}" if run.problem else ""))) for run in found.runs
    )
    parts = [key, tag("p", escape(f"Scores on {on}."))]
    scored = [run for run in found.runs if run.metrics]
    if scored:
        points = [(run.name, run.metrics["accuracy"], run.metrics["accuracy_ci"]) for run in scored if run.metrics]
        parts.append(build_figure(_draw_intervals("accuracies", "Accuracy with its 95 % interval", points, None)))
    return Section("scores", "Scores", join([*parts, build_table(columns, rows, label="Scores")]))


def _build_differences(found: Comparison) -> Section:
    paired = [pair for pair in found.pairs if pair.found is not None]
    if not paired:
        words = "No two runs were scored on the same rows, so no difference is computed."
        return Section("differences", "Differences", tag("p", escape(words)))
    points = [(pair.run.name, pair.found.difference, pair.found.interval) for pair in paired if pair.found]
    title = f"Accuracy minus that of {found.runs[0].name}, 95 % interval"
    columns = ("run", "difference", "95 % interval", "p", "adjusted p", "smallest p", "only it right",
               f"only {found.runs[0].name} right", "rows", "groups", "test", "interval by")  # fmt: skip
    table = build_table(columns, [_list_pair(pair) for pair in paired], label="Paired differences")
    words = (
        f"{ONE_TRAINING} A difference counts as shown where its adjusted p is at most {SIGNIFICANT:.2g}: p by flipping "
        "the signs of whole groups (McNemar's exact test where there are none), adjusted for the number of comparisons "
        "after Holm. Each interval is for one difference alone."
    )
    figure = build_figure(_draw_intervals("differences", title, points, 0.0))
    return Section("differences", "Differences", join([figure, table, tag("p", escape(words), class_="note")]))


def _list_pair(pair: Pair) -> tuple[Html, ...]:
    document = pair.as_document()
    low, high = document["interval"]
    groups = NONE if document["n_groups"] is None else document["n_groups"]
    return tuple(
        escape(value)
        for value in (
            pair.run.name, f"{document['accuracy_difference']:+.4f}", f"{low:+.4f} to {high:+.4f}",
            f"{document['p']:.2g}", f"{document['p_adjusted']:.2g}", f"{document['smallest_p']:.2g}",
            document["only_run_right"], document["only_baseline_right"], document["n"], groups, document["test"],
            document["interval_method"],
        )
    )  # fmt: skip


def _build_settings(found: Comparison) -> Section:
    if not found.settings:
        return Section("settings", "Settings", tag("p", escape("No setting differs.")))
    columns = ("setting that differs", *(run.name for run in found.runs))
    rows = [
        (escape(key), *(escape(describe_setting(value)) for value in values)) for key, values in found.settings.items()
    ]
    return Section("settings", "Settings", build_table(columns, rows, label="Settings", texts=len(columns)))


def _build_origin(found: Comparison) -> Section:
    facts = [("compared with", escape(found.runs[0].path)), ("command", build_code(found.command))]
    return Section("origin", "Where this comes from", build_facts(facts))


def _draw_intervals(
    name: str, title: str, points: Sequence[tuple[str, float, Sequence[float]]], zero: float | None
) -> Drawing:
    """A line a run: its value as a dot on its interval."""
    figure, axes = start_figure(_WIDTH, 70 + _LINE * len(points), left=40)
    for place, (_, value, (low, high)) in enumerate(points):
        axes.plot([low, high], [place, place], color=light("train"), linewidth=2)
        axes.plot([value], [place], "o", color=light("train"), markersize=7)
    if zero is not None:
        axes.axvline(zero, color=light("chance"), linewidth=1, linestyle="--")
    axes.set_yticks(range(len(points)), [run for run, _, _ in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set_title(title)
    axes.set_xlabel("accuracy" if zero is None else "difference of accuracy; 0 is no difference")
    words = "; ".join(f"{run}: {value:.3f}, interval {low:.3f} to {high:.3f}" for run, value, (low, high) in points)
    return Drawing(name, figure, title, f"{words}.")

"""The part of a page that shows the most confident mistakes."""

from pointcnn_cli.report.canvas import Drawing
from pointcnn_cli.report.facts import Mistake, ReportFacts
from pointcnn_cli.report.markup import Html, escape, join, tag
from pointcnn_cli.report.page import Section, build_figure, build_row
from pointcnn_cli.report.plots_clouds import draw_legend, draw_row, find_scale


def draw_mistakes(facts: ReportFacts) -> list[Drawing]:
    """The drawn mistakes, and before them what their colours mean."""
    found = facts.mistakes
    if found is None or found.view is None or found.undrawn or not found.shown:
        return []
    scale, view = find_scale([one.frames for one in found.shown]), found.view
    rows = [
        draw_row(f"mistake-{i + 1}", one.frames, view, scale, _describe_mistake(one))
        for i, one in enumerate(found.shown)
    ]
    return [draw_legend(view, scale), *rows] if view.coloured_by else rows


def _describe_mistake(one: Mistake) -> str:
    points = ", ".join(f"frame {frame.number}: {frame.points} points" for frame in one.frames)
    return f"A row of class {one.true}, answered with {one.predicted}. {points}."


def build_mistakes(facts: ReportFacts) -> Section:
    """The most confident mistakes, drawn where the rows are at hand."""
    found, parts = facts.mistakes, []
    if found is None or not found.shown:
        return Section("mistakes", "Most confident mistakes", tag("p", escape("There is no mistake.")))
    words = (
        f"{len(found.shown)} of {found.total} mistakes, the most confident first. Of one group and one kind of mistake "
        "the next ones come after all others, since neighbouring rows are alike."
    )
    if found.undrawn:
        words += f" They are not drawn: {found.undrawn}."
    elif found.view is not None:
        across, up = found.view.axes
        words += (
            f" Of each quarter of a row the frame with most points is drawn, {across} to the right and {up} up, in the "
            "units of the file; a few points farther out are cut off."
        )
    drawings = draw_mistakes(facts)
    rows = [drawing for drawing in drawings if drawing.name != "scale"]
    legends = [build_figure(drawing) for drawing in drawings if drawing.name == "scale"]
    captions = [_caption_mistake(one) for one in found.shown]
    if rows:
        figures = [build_figure(row, caption) for row, caption in zip(rows, captions, strict=True)]
        parts = [*legends, build_row(*figures)]
    else:
        parts = [tag("ol", *(tag("li", caption) for caption in captions))]
    return Section("mistakes", "Most confident mistakes", join([tag("p", escape(words), class_="note"), *parts]))


def _caption_mistake(one: Mistake) -> Html:
    group = "" if one.group is None else f", group {one.group}"
    told = (
        f" taken for {one.predicted} with confidence {one.confidence:.3f} (its own class: {one.true_probability:.3g}). "
        f"{one.place}{group}."
    )
    return join([tag("b", escape(one.true)), escape(told)])

"""Every figure of a page, for files of their own."""

from collections.abc import Iterator

from pointcnn_cli.report.canvas import Drawing
from pointcnn_cli.report.facts import ReportFacts
from pointcnn_cli.report.gather import MISTAKES_SHOWN
from pointcnn_cli.report.plots_training import draw_counts
from pointcnn_cli.report.sections_mistakes import draw_mistakes
from pointcnn_cli.report.sections_scores import draw_scores
from pointcnn_cli.report.sections_training import draw_training

FIGURE_NAMES = (
    *("accuracy", "loss", "counts", "confusion", "classes", "reliability", "groups", "scale"),
    *(f"mistake-{number + 1}" for number in range(MISTAKES_SHOWN)),
)
"""Every name that one may have."""


def draw_all(facts: ReportFacts) -> Iterator[Drawing]:
    """The figures of the page, in its order; within `canvas.drawing_style`."""
    yield from draw_training(facts)
    yield draw_counts(facts.parts, facts.classes)
    if facts.scored is not None:
        yield from draw_scores(facts.scored)
        yield from draw_mistakes(facts)

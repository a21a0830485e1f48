"""Parts of a page on a score: confusion, classes, confidence, groups."""

from collections.abc import Iterator, Sequence

import numpy as np

from pointcnn_cli.report.canvas import Drawing
from pointcnn_cli.report.markup import DASH, Html, build_fold, build_table, escape, join, tag
from pointcnn_cli.report.measures import (
    ClassScore,
    GroupScore,
    Share,
    compute_bins,
    compute_class_intervals,
    compute_group_scores,
    list_confusions,
)
from pointcnn_cli.report.page import Section, build_figure, build_row
from pointcnn_cli.report.plots_scores import (
    MOST_GROUPS,
    MOST_MATRIX_CLASSES,
    MOST_ZEROS,
    draw_classes,
    draw_confusion,
    draw_groups,
    draw_reliability,
)
from pointcnn_cli.report.scored import ScoredRows
from pointcnn_cli.report.verdict import percent

MOST_TABLE_GROUPS = 100
MOST_CONFUSIONS = 12
METHODS = {
    "wilson": "Wilson's, with rows taken as independent",
    "wilson-design-effect": "Wilson's for an effective number of rows, which allows for rows of one group being alike",
    "wilson-groups": "Wilson's with each group counted once, where groups or mistakes are too few to tell how alike "
    "they are",
}
"""What `metrics.compute_accuracy_interval` does, for a reader."""


def draw_scores(scored: ScoredRows) -> Iterator[Drawing]:
    """The figures of these parts."""
    yield _draw_confusion(scored)
    yield draw_classes(_score_classes(scored))
    yield _draw_reliability(scored)
    if scored.groups is not None:
        yield _draw_groups(scored)


def build_confusion(scored: ScoredRows) -> Section:
    """The confusion matrix, and the most frequent mistakes as a list."""
    figure = build_figure(_draw_confusion(scored), escape(_explain_confusion(scored)), wide=True)
    pairs = list_confusions(scored.labels, scored.predicted)
    support = {name: one["support"] for name, one in scored.metrics["per_class"].items()}
    rows = [
        (escape(scored.classes[true]), escape(scored.classes[predicted]), escape(count),
         escape(percent(count / support[scored.classes[true]])))
        for true, predicted, count in pairs[:MOST_CONFUSIONS]
    ]  # fmt: skip
    columns = ("true class", "taken for", "rows", "share of the true class")
    table = build_table(columns, rows, label="Most frequent mistakes", texts=2) if rows else Html("")
    head = tag("h3", escape("Most frequent mistakes")) if rows else Html("")
    return Section("confusion", "What is taken for what", join([figure, head, table]))


def _explain_confusion(scored: ScoredRows) -> str:
    words = (
        "Rows are true classes, columns predicted ones. Each cell holds the number of rows and their share of the true "
        "class; the diagonal is right."
    )
    if len(scored.classes) > MOST_ZEROS:
        words += " Empty cells hold no row."
    if len(scored.classes) > MOST_MATRIX_CLASSES:
        words += f" Of {len(scored.classes)} classes those with most mistakes are shown; the others are added up."
    return words


def _draw_confusion(scored: ScoredRows) -> Drawing:
    return draw_confusion(np.array(scored.metrics["confusion_matrix"]), scored.classes)


def build_classes(scored: ScoredRows) -> Section:
    """Precision, recall and F1 of each class, with intervals."""
    scores = _score_classes(scored)
    rows = [
        (escape(one.name), escape(one.recall.rows), *(_write_share(s) for s in (one.precision, one.recall, one.f1)))
        for one in scores
    ]
    table = build_table(("class", "rows", "precision", "recall", "F1"), rows, label="Scores of each class")
    methods = {s.method for one in scores for s in (one.precision, one.recall, one.f1) if s.method}
    words = (
        f"In brackets: 95 % intervals, {'; '.join(METHODS[m] for m in METHODS if m in methods)}. Recall: share of "
        "right answers among rows of the class. Precision: the same among rows answered with the class. The interval "
        "of F1 is that of J, the share of right rows among those of the class or answered with it, since "
        "F1 = 2J / (1 + J). "
        "A dash: no such rows."
    )
    summary = (
        f"Balanced accuracy {percent(scored.metrics['balanced_accuracy'])}, macro F1 {scored.metrics['macro_f1']:.3f}."
    )
    parts = [tag("p", escape(summary)), build_row(build_figure(draw_classes(scores)), table)]
    return Section("classes", "Each class", join([*parts, tag("p", escape(words), class_="note")]))


def _score_classes(scored: ScoredRows) -> tuple[ClassScore, ...]:
    return compute_class_intervals(scored.labels, scored.predicted, scored.groups, scored.classes)


def _write_share(share: Share) -> Html:
    if share.value is None or share.low is None or share.high is None:
        return escape(DASH)
    return escape(f"{share.value:.3f} ({share.low:.2f} to {share.high:.2f})")


def build_calibration(scored: ScoredRows) -> Section:
    """The reliability diagram."""
    m, mean = scored.metrics, float(scored.confidence.mean())
    gap = "more" if mean > m["accuracy"] else "less"
    words = (
        f"The mean confidence is {percent(mean)}, the accuracy {percent(m['accuracy'])}: on the whole the network "
        f"promises {gap} than it keeps. The expected calibration error over 15 bins of equal width is "
        f"{m['expected_calibration_error']:.3f}, the log loss {m['log_loss']:.3f}. Lines are 95 % intervals that allow "
        "for groups as that of the accuracy does. On the dashed line confidence equals accuracy."
    )
    figure = build_figure(_draw_reliability(scored))
    side = tag("div", tag("p", escape(words)), style="flex:1 1 260px")
    return Section("calibration", "Confidence", build_row(figure, side))


def _draw_reliability(scored: ScoredRows) -> Drawing:
    bins = compute_bins(scored.correct, scored.confidence, scored.groups)
    return draw_reliability(bins, scored.metrics["expected_calibration_error"])


def build_groups(scored: ScoredRows) -> Iterator[Section]:
    """The score of each group; no section where there are none."""
    if scored.groups is None:
        return
    scores = _score_groups(scored)
    rows = [
        (escape(scored.group_names[one.group]), escape(_tell_confusion(one, scored.classes)), escape(one.accuracy.rows),
         _write_share(one.accuracy))
        for one in scores[:MOST_TABLE_GROUPS]
    ]  # fmt: skip
    table = build_table(
        ("group", "most frequent mistake", "rows", "accuracy"), rows, label="Accuracy of each group", texts=2
    )
    cut = f" The {MOST_TABLE_GROUPS} worst of {len(scores)} are listed." if len(scores) > MOST_TABLE_GROUPS else ""
    drawn = f" The {MOST_GROUPS} worst are drawn." if len(scores) > MOST_GROUPS else ""
    words = (
        "The worst first; the dashed line is the accuracy on all rows. In brackets: 95 % intervals (Wilson's), as if "
        f"the rows of a group were independent; neighbouring windows are not, so they are too narrow.{drawn}{cut}"
    )
    fold = build_fold(f"Table of {min(len(scores), MOST_TABLE_GROUPS)} groups", table)
    body = build_row(build_figure(_draw_groups(scored)), fold)
    yield Section("groups", "Each group", join([body, tag("p", escape(words), class_="note")]))


def _score_groups(scored: ScoredRows) -> tuple[GroupScore, ...]:
    return () if scored.groups is None else compute_group_scores(scored.labels, scored.predicted, scored.groups)


def _draw_groups(scored: ScoredRows) -> Drawing:
    return draw_groups(_score_groups(scored), scored.group_names, scored.metrics["accuracy"], "group")


def _tell_confusion(one: GroupScore, classes: Sequence[str]) -> str:
    if one.confused is None:
        return DASH
    true, predicted, rows = one.confused
    return f"{classes[true]} taken for {classes[predicted]} ({rows})"

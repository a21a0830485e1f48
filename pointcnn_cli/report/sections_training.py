"""The first parts of a page: the verdict, the curves, the split."""

from pointcnn_cli.report.canvas import Drawing
from pointcnn_cli.report.facts import ReportFacts
from pointcnn_cli.report.markup import DASH, Html, build_table, escape, join, tag
from pointcnn_cli.report.page import Section, build_figure, build_row
from pointcnn_cli.report.plots_training import MOST_CLASSES, draw_accuracy, draw_counts, draw_loss
from pointcnn_cli.report.verdict import Verdict, percent


def build_top(facts: ReportFacts, verdict: Verdict) -> Html:
    """What is seen first: the sentence, what it rests on, and four numbers."""
    reasons = tag("ul", *(tag("li", escape(reason)) for reason in verdict.reasons)) if verdict.reasons else Html("")
    box = tag(
        "div", tag("p", escape(verdict.sentence), class_="sentence"), tag("p", escape(verdict.label), class_="level"),
        reasons, class_=f"verdict {verdict.level}",
    )  # fmt: skip
    problems = join(tag("p", escape(problem), class_="note") for problem in facts.problems)
    return join([box, problems, _build_tiles(facts)])


def _build_tiles(facts: ReportFacts) -> Html:
    if facts.scored is None:
        return Html("")
    m = facts.scored.metrics
    low, high = m["accuracy_ci"]
    tiles = [
        (percent(m["accuracy"]), f"accuracy on {m['n']} {facts.scored.what}"),
        (f"{percent(low)} to {percent(high)}", "95 % interval of the accuracy"),
        (percent(m["chance_accuracy"]), "best constant answer"),
        (percent(m["ceiling_accuracy"]), "ceiling: rows whose class was trained"),
    ]
    return tag("div", *(tag("div", tag("b", escape(n)), tag("span", escape(t))) for n, t in tiles), class_="tiles")


def draw_training(facts: ReportFacts) -> list[Drawing]:
    """Curves of loss and accuracy; none before the first epoch."""
    if not facts.history:
        return []
    validation = next(part for part in facts.parts if part.name == "validation")
    kept = facts.manifest.get("kept_epoch") or (facts.scored.metrics["epoch"] if facts.scored else None)
    ceiling = 1.0 if validation.ceiling is None else validation.ceiling
    return [
        draw_accuracy(facts.history, kept, facts.best_epoch, ceiling, validation.chance or 0.0),
        draw_loss(facts.history, kept, facts.best_epoch, len(facts.classes)),
    ]


def build_training(facts: ReportFacts) -> Section:
    """Curves, with ceiling, chance and the kept epoch."""
    train = facts.config.train
    if not facts.history:
        return Section("training", "Training", tag("p", escape("No epoch was done.")))
    how = f"lowest {train.monitor}" if train.monitor.endswith("loss") else f"highest {train.monitor}"
    words = (
        f"{len(facts.history)} of at most {train.epochs} epochs. The run stands for the weights of its "
        f"{'best epoch (' + how + ')' if train.keep == 'best' else 'last epoch'}. Training values are means over an "
        "epoch, while the weights change, with dropout and augmentation; validation values are taken at its end."
    )
    figures = build_row(*(build_figure(drawing) for drawing in draw_training(facts)))
    return Section("training", "Training", join([figures, tag("p", escape(words), class_="note")]))


def build_split(facts: ReportFacts) -> Section:
    """Rows of each class in each part, and what is to be known of the split."""
    lines = [tag("li", escape(note)) for note in facts.notes]
    strategy, seed = facts.config.split.strategy, facts.config.split.seed
    words = f"Split by split.strategy {strategy!r}, seed {seed}."
    if len(facts.classes) > MOST_CLASSES:
        words += f" The first {MOST_CLASSES} of {len(facts.classes)} classes are shown; split.json counts all."
    rows = [
        (escape(part.name), escape(part.rows), escape(DASH if part.groups is None else part.groups),
         escape(DASH if part.ceiling is None else percent(part.ceiling)),
         escape(DASH if part.chance is None else percent(part.chance)))
        for part in facts.parts
    ]  # fmt: skip
    table = build_table(("part", "rows", "groups", "ceiling", "best constant answer"), rows, label="Parts of the split")
    figure = build_figure(draw_counts(facts.parts, facts.classes))
    side = tag("div", table, tag("p", escape(words), class_="note"), tag("ul", *lines) if lines else Html(""))
    return Section("split", "Classes and parts", build_row(figure, side))

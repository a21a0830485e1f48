"""The page of a cross-validation: how good its runs are on rows that they did not train on, how far they differ, and
what averaging them gains."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pointcnn_cli.config.load import dump_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.crossval.wording import describe_gain, list_doubts
from pointcnn_cli.cvdir import CvDir
from pointcnn_cli.report.canvas import Drawing, drawing_style, start_figure
from pointcnn_cli.report.markup import DASH, Html, build_code, build_facts, build_fold, build_table, escape, join, tag
from pointcnn_cli.report.page import Section, build_figure, build_page
from pointcnn_cli.report.palette import light
from pointcnn_cli.report.plots_scores import draw_confusion

MOST_GROUPS = 200  # in the table, the worst first
MARKERS = "osD^vPX"  # of seeds, so that they are told apart without colour
_WIDTH, _LINE = 340, 26  # pixels of a figure, and of a fold in it


def build_cv_page(cv: CvDir, config: Config, manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> bytes:
    """The page as one HTML file."""
    with drawing_style():
        sections = [
            _build_members(metrics),
            _build_ensemble(metrics),
            _build_confusion(metrics),
            _build_classes(metrics),
            *_build_groups(metrics),
            _build_origin(cv, config, manifest),
        ]
        title = f"{config.name or 'cv'} / {cv.path.name}: {metrics['folds']} folds, {len(metrics['seeds'])} seeds"
        return build_page(title, _build_top(metrics), sections)


def _build_top(metrics: Mapping[str, Any]) -> Html:
    pooled, averaged = metrics["out_of_fold"]["ensemble"], metrics["out_of_fold"]["averaged"]
    low, high = averaged["accuracy_ci"]
    groups = "" if pooled["n_groups"] is None else f", {pooled['n_groups']} groups"
    sentence = (
        f"Right on {averaged['accuracy']:.1%} of {pooled['n']} rows (mean over {len(metrics['seeds'])} seeds; 95 % "
        f"interval {low:.1%} to {high:.1%}{groups}), each answered by runs that did not train on it; the best constant "
        f"answer is right on {pooled['chance_accuracy']:.1%}, and {pooled['ceiling_accuracy']:.1%} is the ceiling."
    )
    doubts = list_doubts(metrics)
    level = "! Believe it with care" if doubts else "✓ A score to believe"
    lines = [tag("p", escape(level), class_="level"), tag("p", escape(sentence), class_="sentence")]
    if doubts:
        lines.append(tag("ul", *(tag("li", escape(doubt)) for doubt in doubts)))
    return tag("div", *lines, class_=f"verdict {'caution' if doubts else 'good'}")


def _build_members(metrics: Mapping[str, Any]) -> Section:
    """Accuracy of each run by fold and seed, with means and spread."""
    seeds, folds = metrics["seeds"], range(metrics["folds"])
    found = {(one["fold"], one["seed"]): one["accuracy"] for one in metrics["members"]}
    rows = []
    for fold in folds:
        values = [found.get((fold, seed)) for seed in seeds]
        rows.append([escape(f"fold {fold}"), *map(_show, values), _show(_mean(values))])
    by_seed = [_mean([found.get((fold, seed)) for fold in folds]) for seed in seeds]
    rows.append([escape("mean"), *map(_show, by_seed), _show(metrics["spread"]["accuracy"]["mean"])])
    columns = ("", *(f"seed {seed}" for seed in seeds), "mean")
    spread_columns = ("score", "mean", "lowest", "highest", "sd over folds", "sd over seeds", "sd of a fold's seeds")
    keys = ("mean", "min", "max", "sd_over_folds", "sd_over_seeds", "sd_of_seeds_within_folds")
    spreads = [
        (escape(name.replace("_", " ")), *(_show(one[key]) for key in keys)) for name, one in metrics["spread"].items()
    ]
    words = (
        "Each number is of the rows of one fold, by a run that trained on the other folds. sd is the standard "
        "deviation (n - 1): over folds of the means over seeds, over seeds of the means over folds, and of the seeds "
        "of one fold."
    )
    body = [
        build_figure(_draw_members(found, metrics)),
        build_table(columns, rows, label="Accuracy by fold and seed"),
        build_table(spread_columns, spreads, label="Mean and spread over folds and seeds"),
        tag("p", escape(words), class_="note"),
    ]
    return Section("members", "Folds and seeds", join(body))


def _draw_members(found: Mapping[tuple[int, int], float], metrics: Mapping[str, Any]) -> Drawing:
    """A line a fold, a mark a seed; the mean of all as a dashed line."""
    count, seeds = metrics["folds"], metrics["seeds"]
    height = 70 + _LINE * count
    figure, axes = start_figure(_WIDTH, height, left=52, top=28)
    for place, seed in enumerate(seeds):
        folds = [fold for fold in range(count) if (fold, seed) in found]
        values = [found[fold, seed] for fold in folds]
        marker = MARKERS[place % len(MARKERS)]
        beside = (place - (len(seeds) - 1) / 2) * 0.5 / len(seeds)  # equal values do not hide each other
        axes.plot(
            values,
            [fold + beside for fold in folds],
            linestyle="none",
            marker=marker,
            markersize=6,
            color=light("train"),
            alpha=0.8,
        )
    axes.axvline(metrics["spread"]["accuracy"]["mean"], color=light("validation"), linewidth=1.4, linestyle=(0, (5, 2)))
    axes.set_yticks(range(count), [f"fold {fold}" for fold in range(count)], color=light("ink"))
    axes.set_ylim(count - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy; a mark a seed, dashed their mean")
    title = "Accuracy of each run"
    figure.text(0.01, 1 - 4 / height, title, weight="bold", fontsize=12, va="top")
    words = "; ".join(f"fold {fold}, seed {seed}: {value:.3f}" for (fold, seed), value in sorted(found.items()))
    return Drawing("members", figure, title, f"{words}.")


def _build_ensemble(metrics: Mapping[str, Any]) -> Section:
    gain = metrics["out_of_fold"]["ensemble_gain"]
    title = "What averaging gains"
    if gain is None:
        words = "There is one seed, so each row has one run that did not train on it, and there is nothing to average."
        return Section("ensemble", title, tag("p", escape(words)))
    loss = metrics["out_of_fold"]["ensemble"]["log_loss"]
    rows = [
        (escape("accuracy"), _show(gain["mean_member_accuracy"]), _show(gain["ensemble_accuracy"]),
         escape(f"{gain['accuracy_gain']:+.4f}"), _show_interval(gain["accuracy_gain_ci"])),
        (escape("log loss"), _show(loss + gain["log_loss_drop"]), _show(loss),
         escape(f"{-gain['log_loss_drop']:+.4f}"), _show_interval(_negate(gain["log_loss_drop_ci"]))),
    ]  # fmt: skip
    columns = ("", "mean of the seeds", "their average", "difference", "95 % interval")
    words = (
        "The probabilities of the seeds of each fold are averaged and compared with the mean of the same seeds, row by "
        "row; the interval allows for rows that come in groups. The ensemble that predict makes of the whole directory "
        "averages the folds too, and has seen every row here: evaluate it on another file."
    )
    body = [
        tag("p", escape(f"The {describe_gain(gain, 'the seeds')}.")),
        build_table(columns, rows, label=title),
        tag("p", escape(words), class_="note"),
    ]
    return Section("ensemble", title, join(body))


def _build_confusion(metrics: Mapping[str, Any]) -> Section:
    pooled = metrics["out_of_fold"]["ensemble"]
    words = (
        "Out of fold: each row is answered by the runs that did not train on it, their probabilities averaged. Rows "
        "are true classes, columns predicted ones; each cell holds the number of rows and their share of the true "
        "class."
    )
    drawing = draw_confusion(np.array(pooled["confusion_matrix"]), metrics["classes"])
    return Section("confusion", "What is taken for what", build_figure(drawing, escape(words), wide=True))


def _build_classes(metrics: Mapping[str, Any]) -> Section:
    columns = ("class", "precision", "recall", "F1", "rows")
    rows = [
        (escape(name), _show(one["precision"]), _show(one["recall"]), _show(one["f1"]), escape(one["support"]))
        for name, one in metrics["out_of_fold"]["ensemble"]["per_class"].items()
    ]
    return Section("classes", "Each class", build_table(columns, rows, label="Scores of each class, out of fold"))


def _build_groups(metrics: Mapping[str, Any]) -> Sequence[Section]:
    groups = metrics["per_group"]
    if groups is None:
        return ()
    worst = sorted(groups, key=lambda one: (one["accuracy"], -one["n"], one["group"]))
    rows = [
        (escape(one["group"]), _show(one["accuracy"]), escape(one["n"]), escape(one["fold"]))
        for one in worst[:MOST_GROUPS]
    ]
    cut = f" The worst {MOST_GROUPS} of {len(groups)} are shown." if len(groups) > MOST_GROUPS else ""
    words = f"Accuracy is the mean over seeds, of the runs that did not train on the group.{cut}"
    table = build_table(("group", "accuracy", "rows", "fold"), rows, label="Accuracy of each group, the worst first")
    body = join([tag("p", escape(words)), build_fold(f"{len(groups)} groups, the worst first", table)])
    return (Section("groups", "Each group", body),)


def _build_origin(cv: CvDir, config: Config, manifest: Mapping[str, Any]) -> Section:
    kept = manifest.get("rows_kept_aside") or 0
    facts = [
        ("Directory", escape(cv.path)),
        ("Made by", escape(shlex.join(map(str, manifest.get("command", []))))),
        ("Started", escape(manifest.get("started", "at an unknown time"))),
        ("Split", escape(f"{manifest.get('strategy')}, split.seed {config.split.seed}, {manifest.get('rows')} rows")),
        ("Kept aside", escape(f"{kept} rows (split.test_fraction), which no run trained on" if kept else "no rows")),
        ("Threads of each run", escape(manifest["threads"])),
    ]
    body = [build_facts(facts), build_fold("config.yaml, every key", build_code(dump_config(config)))]
    return Section("origin", "Where it comes from", join(body))


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _show(value: float | None) -> Html:
    return escape(DASH if value is None else f"{value:.3f}")


def _negate(interval: Sequence[float] | None) -> list[float] | None:
    return None if interval is None else [-interval[1], -interval[0]]


def _show_interval(interval: Sequence[float] | None) -> Html:
    return escape(DASH if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}")

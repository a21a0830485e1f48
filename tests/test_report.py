"""The page of a run: its first sentence, what it shows of every kind of run, and that no text in it can do harm."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import h5py
import pytest
from processes import copy_unfinished
from report_runs import make_run, write_people
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app
from pointcnn_cli.report import build_report, write_after_training
from pointcnn_cli.report.canvas import drawing_style
from pointcnn_cli.report.figures import FIGURE_NAMES
from pointcnn_cli.report.gather import gather_run
from pointcnn_cli.report.verdict import judge_score
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.sources import open_source

SIX = ["box", "jack", "jump", "squat", "walk", "wave"]
SECTIONS = ["training", "split", "confusion", "classes", "calibration", "mistakes", "groups", "diagnosis", "origin"]


class Page(HTMLParser):
    """What a test asks of a page: its tags, its ids, and its text."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html.decode())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def ids(self, tag: str) -> list[str | None]:
        return [attributes["id"] for name, attributes in self.tags if name == tag and "id" in attributes]

    def find(self, **wanted: str) -> list[str]:
        return [name for name, attributes in self.tags if wanted.items() <= attributes.items()]


def write_page(run: RunDir, *arguments: object, code: int = 0) -> Page:
    """Call `pointcnn report`; the page whose path it prints."""
    result = CliRunner().invoke(app, ["report", str(run.path), *map(str, arguments)])
    assert result.exit_code == code, result.output
    return Page(Path(result.stdout.splitlines()[-1]).read_bytes()) if code == 0 else Page(result.stderr.encode())


def tell(run: RunDir) -> str:
    """The first sentence."""
    return judge_score(gather_run(run.path, (), (), Reporter())).sentence.replace("\u00a0", " ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report")
    write_people(path / "six.h5", SIX, rows=240, groups=20)
    return path


@pytest.fixture(scope="module")
def made(folder) -> RunDir:
    """A run with groups of its own in validation; tests must not change it, but for its report."""
    return make_run(folder / "made", folder / "six.h5", accuracy=0.65)


@pytest.fixture(scope="module")
def page(made, folder) -> Page:
    """Its page, with all plots as files."""
    return write_page(made, "--plots", folder / "new" / "plots")


# --- after a training ---


def test_a_training_leaves_its_page_and_making_it_again_gives_the_same_bytes(trained, tmp_path):
    assert [section for section in SECTIONS if section in Page(trained.run.report.read_bytes()).ids("h2")] == SECTIONS
    write_page(trained.run, "--output", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == trained.run.report.read_bytes()


def test_a_page_that_cannot_be_written_is_a_warning_that_says_how_to_make_it(made, folder):
    said = []

    class Listener(Reporter):
        def warn(self, text: str) -> None:
            said.append(text)

    broken = RunDir.open(shutil.copytree(made.path, folder / "broken"))
    broken.report.unlink(missing_ok=True)
    broken.predictions.write_text("index\n")  # damaged
    with open_source(gather_run(made.path, (), (), Reporter()).config.data) as source:
        write_after_training(broken, source, Listener())
    assert not broken.report.exists()
    assert len(said) == 1
    assert f"pointcnn report {broken.path}" in said[0]


# --- the page ---


def test_the_page_holds_every_part_is_small_and_needs_nothing_else(made, page):
    raw = made.report.read_text()
    assert page.ids("h2") == SECTIONS
    assert len(raw) < 2_000_000
    assert not re.search(
        r"<(script|link|img|iframe|object|embed|base)\b|https?://(?!www\.w3\.org)|@import|url\((?!#)", raw
    )
    svgs = [attributes for name, attributes in page.tags if name == "svg"]
    assert len(svgs) == 8 + 6  # with a scale, and six mistakes
    labelled = {name for one in svgs for name in (one["aria-labelledby"] or "").split()}
    assert labelled == set(page.ids("title")) | set(page.ids("desc"))
    assert len(labelled) == 2 * len(svgs)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert {one for one in ids if ids.count(one) > 1 and "-m" not in one and "-p" not in one} == set()
    for wanted in ("pointcnn train", "keras 3.15.1", "rows true, columns predicted", "learning_rate: 0.001", "PC604"):
        assert wanted in page.text, wanted


def test_each_reference_in_a_figure_has_its_target(made, page):
    """Markers, clips and hatches are named in one figure and must not be looked for in another."""
    raw = made.report.read_text()
    wanted = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', raw))
    ids = set(re.findall(r'\bid="([^"]+)"', raw))
    assert wanted
    assert {one or other for one, other in wanted} <= ids


def test_hostile_names_are_shown_and_do_nothing(tmp_path):
    names = [
        "<script>alert(1)</script>",
        "</style><img src=x onerror=alert(1)>",
        "$\\frac{$ & \"'",
        "ordinary",
    ]
    data = write_people(tmp_path / "<b onclick=x>&.h5", names, rows=80, groups=8)
    with h5py.File(data, "a") as file:
        del file["group"]
        file["group"] = [f"<i>{number % 8}</i>" for number in range(80)]
    run = make_run(tmp_path / "run \x1b[31m\u202e<u>", data, accuracy=0.4)
    page = write_page(run)
    assert {name for name, _ in page.tags} & {"script", "img", "i", "u", "b onclick"} == set()
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "<script>alert(1)</script>" in page.text
    assert "run \\x1b[31m\\u202e<u>" in page.text


def test_many_classes_long_names_and_many_groups_fit(tmp_path):
    names = [f"activity number {number} of a very long list of them" for number in range(45)]
    run = make_run(tmp_path / "run", write_people(tmp_path / "many.h5", names, rows=450, groups=225), accuracy=0.5)
    page = write_page(run)
    assert run.report.stat().st_size < 2_000_000
    assert "(others)" in page.text
    assert names[44] in page.text
    assert "The first 40 of 45 classes are shown" in page.text


# --- the first sentence ---


def test_a_class_that_was_never_trained_and_the_ceiling_come_first(folder):
    run = make_run(folder / "tail", folder / "six.h5", strategy="tail", keep="last")
    sentence = tell(run)
    assert sentence.startswith("The class wave was never trained, so no network can pass a ceiling of 16.7 %")
    page = write_page(run)
    assert page.text.index("The class wave was never trained") < page.text.index("accuracy on 48 validation rows")
    assert page.find(**{"class": "verdict bad"}) == ["div"]
    assert "0, never trained" in page.text


def test_a_score_that_weights_were_chosen_on_is_to_be_believed_with_care(made):
    sentence = tell(made)
    assert re.match(
        r"Right on [\d.]+ % of 48 validation rows \(95 % interval [\d.]+ % to [\d.]+ %, 4 groups\)", sentence
    )
    assert "against 16.7 % for the best constant answer and a ceiling of 100 %" in sentence
    assert "believe it with care, for the kept weights were chosen on these rows" in sentence


def test_new_groups_and_weights_kept_at_the_end_are_to_be_believed(folder):
    data = write_people(folder / "broad.h5", ["sit", "walk"], rows=400, groups=40)
    run = make_run(folder / "good", data, keep="last", accuracy=0.9)
    verdict = judge_score(gather_run(run.path, (), (), Reporter()))
    assert verdict.level == "good"
    assert "this can be believed, since none of its 8 groups was trained on" in verdict.sentence


def test_rows_without_groups_are_pointed_out_and_have_no_scores_by_group(tmp_path):
    data = write_people(tmp_path / "plain.h5", ["sit", "walk"], rows=60, groups=None)
    run = make_run(tmp_path / "run", data, keep="last", accuracy=0.9)
    assert "The data name no groups" in " ".join(judge_score(gather_run(run.path, (), (), Reporter())).reasons) or (
        "the data name no groups" in tell(run)
    )
    assert "groups" not in write_page(run).ids("h2")


# --- runs that are not as they should be ---


def test_one_epoch_and_no_mistake_make_a_page(folder):
    run = make_run(folder / "short", folder / "six.h5", epochs=1, accuracy=1.0)
    page = write_page(run)
    assert "There is no mistake." in page.text
    assert "1 of at most 1 epochs" in page.text


def test_metrics_json_is_not_needed(made, folder):
    run = RunDir.open(shutil.copytree(made.path, folder / "unmeasured"))
    run.metrics.unlink()
    assert tell(run) == tell(made)


def test_data_that_moved_cost_the_drawings_and_the_page_says_so(folder, tmp_path):
    data = Path(shutil.copy(folder / "six.h5", tmp_path / "data.h5"))
    run = make_run(tmp_path / "run", data)
    moved = data.rename(tmp_path / "elsewhere.h5")
    page = write_page(run)
    assert "The data of this run cannot be used" in page.text
    assert "They are not drawn: the data are not here, or were changed since." in page.text
    assert "groups" in page.ids("h2")
    again = gather_run(run.path, (), [f"data.path={moved}"], Reporter())
    assert again.problems == ()
    assert again.mistakes.undrawn is None
    assert len(again.mistakes.shown[0].frames) == 4


def test_data_that_changed_since_are_not_drawn(folder, tmp_path):
    data = shutil.copy(folder / "six.h5", tmp_path / "data.h5")
    run = make_run(tmp_path / "run", data)
    with h5py.File(data, "a") as file:
        file["channel_2"][...] = 0.5
    facts = gather_run(run.path, (), (), Reporter())
    assert "sampled_rows_sha256 differ" in facts.problems[0]
    assert [one.frames for one in facts.mistakes.shown] == [()] * len(facts.mistakes.shown)
    assert facts.diagnosis is None
    assert facts.novelty.kind == "unseen"  # as the split's strategy makes sure


def test_a_class_without_validation_rows_has_dashes(tmp_path):
    """One group holds a class alone: where it trains, validation has none of it."""
    data = write_people(tmp_path / "data.h5", ["a", "b", "c"], rows=90, groups=9)
    with h5py.File(data, "a") as file:
        label = file["label"][:]
        file["group"][...] = [100 if one == 2 else number % 10 for number, one in enumerate(label)]
    run = make_run(tmp_path / "run", data, keep="last")
    counts = json.loads(run.split.read_text())["counts"]
    assert counts["validation"]["classes"]["c"] == 0
    page = write_page(run)
    assert re.search(r"\bc 0 (\S+ ){0,4}\u2013", page.text)


def test_a_run_that_ended_before_its_first_epoch_has_a_page_without_score(folder):
    run = make_run(folder / "failed", folder / "six.h5", status="failed")
    run.history.unlink()
    sentence = tell(run)
    assert sentence.startswith("This run has no score to believe or doubt (its training did not end: failed before")
    page = write_page(run)
    assert page.ids("h2") == ["training", "split", "diagnosis", "origin"]
    assert "stopped for the test" in page.text


def test_an_interrupted_run_is_scored_with_the_weights_that_it_saved(trained, tmp_path):
    run = copy_unfinished(trained.run, tmp_path / "run")
    run.report.unlink(missing_ok=True)
    page = write_page(run)
    assert (
        "The training did not end (interrupted)" in page.text or "the training did not end (interrupted)" in page.text
    )
    assert "confusion" in page.ids("h2")


def test_other_rows_are_scored_with_data(trained, simulated_file, tmp_path):
    page = write_page(trained.run, "--data", simulated_file, "--output", tmp_path / "other.html")
    assert f"96 rows of {simulated_file.name}" in page.text
    assert page.text.index("do not believe it, for the network was trained on rows of this very file") > 0
    default = write_page(trained.run, "--data", simulated_file)
    assert default.text == page.text
    target = trained.run.path / "report-simulated.html"
    assert target.exists()
    refusal = write_page(trained.run, "--data", simulated_file, code=9)
    assert "exists already" in refusal.text
    target.unlink()


# --- files ---


def test_plots_are_every_figure_of_the_page_in_two_formats(made, page, folder):
    plots = folder / "new" / "plots"
    names = sorted(path.name for path in plots.iterdir())
    assert names == sorted(f"{name}{suffix}" for name in FIGURE_NAMES for suffix in (".svg", ".png"))
    assert {f"{name}-title" for name in FIGURE_NAMES} == set(page.ids("title"))
    assert (plots / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert b"<title" in (plots / "loss.svg").read_bytes()
    assert "exists already" in write_page(made, "--plots", plots, code=9).text


def test_only_the_runs_own_page_is_replaced_without_force(made, page, folder, tmp_path):
    plots = folder / "new" / "plots"
    before = {path: path.read_bytes() for path in plots.iterdir()}
    target = tmp_path / "mine.html"
    target.write_text("mine")
    assert "exists already" in write_page(made, "--output", target, code=9).text
    assert target.read_text() == "mine"
    write_page(made, "--output", target, "--plots", plots, "--force")
    assert target.read_bytes() == made.report.read_bytes()
    assert {path: path.read_bytes() for path in plots.iterdir()} == before
    assert "there is no folder" in write_page(made, "--output", tmp_path / "no" / "x.html", code=9).text


def test_what_is_no_run_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 8
    assert "not a run directory" in result.stderr


def test_a_damaged_split_is_refused_and_leaves_no_page(made, tmp_path):
    run = RunDir.open(shutil.copytree(made.path, tmp_path / "run"))
    run.report.unlink(missing_ok=True)
    run.split.write_text("{}")
    write_page(run, code=8)
    assert not run.report.exists()


def test_the_same_facts_give_the_same_page_in_any_style_of_the_user(made, tmp_path, monkeypatch):
    import matplotlib

    facts = gather_run(made.path, (), (), Reporter())
    with drawing_style():
        before = build_report(facts)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "text.usetex": True}), drawing_style():
        assert build_report(facts) == before

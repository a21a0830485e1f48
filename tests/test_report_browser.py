"""The page in a real browser: headless Chromium, at the widths of a phone and a desk, light and dark, and on paper."""

import io
import os
import shutil
from pathlib import Path

import pytest
from report_runs import make_run, write_people

from pointcnn_cli.comparison import compare_runs
from pointcnn_cli.comparison.page import write_page
from pointcnn_cli.report import write_report
from pointcnn_cli.report.palette import COLOURS
from pointcnn_cli.reporting import Reporter

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
SMALLEST_TEXT = 9.0  # pixels

FIGURES = """() => [...document.querySelectorAll('figure')].map(figure => {
  const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width;
  const texts = [...svg.querySelectorAll('text')].map(text => {
    const r = text.getBoundingClientRect(), style = getComputedStyle(text);
    return {words: text.textContent, size: parseFloat(style.fontSize) * scale, fill: style.fill,
            left: r.left - box.left, right: r.right - box.left,
            top: r.top - box.top, bottom: r.bottom - box.top};
  });
  return {name: svg.querySelector('title').id, width: box.width, height: box.height, left: box.left,
          right: box.right, scrolls: !!figure.querySelector('.scroll'),
          title: svg.querySelector('title').textContent,
          description: svg.querySelector('desc').textContent, texts};
})"""
OVERFLOWING = """() => [...document.body.querySelectorAll('*')]
  .filter(e => !e.parentElement.closest('.scroll, pre, svg') && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.className)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page with every figure, one of a split that leaves a class out, one of many classes with long names, and a
    comparison of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    six = write_people(folder / "six.h5", ["box", "jack", "jump", "squat", "walk", "wave"], rows=240, groups=20)
    names = [f"activity {number} <b>&amp;" for number in range(20)]
    many = write_people(folder / "many.h5", names, rows=400, groups=40)
    two = write_people(folder / "two.h5", ["fall", "no fall"], rows=60, groups=None)
    runs = {
        "usual": make_run(folder / "usual", six, accuracy=0.65),
        "tail": make_run(folder / "tail", six, strategy="tail", keep="last"),
        "many": make_run(folder / "many", many, accuracy=0.5, epochs=60),
        "short": make_run(folder / "short", two, epochs=1),
    }
    written = {name: write_report(run.path, Reporter()) for name, run in runs.items()}
    better = make_run(folder / "better", six, accuracy=0.9)
    written["comparison"] = folder / "comparison.html"
    write_page(compare_runs([runs["usual"].path, better.path], [], [], Reporter()), written["comparison"])
    return written


@pytest.fixture(scope="module")
def browser():
    # Chromium's own sandbox does not start for root, as in a container.
    with sync_api.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, pages):
    """Open a page and listen: (page, what the console said, what was asked for)."""
    opened = []

    def open_it(name: str, width: int, scheme: str):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page, said, asked

    yield open_it
    for page in opened:
        page.close()


def overlap(one: dict, other: dict) -> float:
    """The share of the smaller of two boxes that lies in the other."""
    wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
    high = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    area = min((b["right"] - b["left"]) * (b["bottom"] - b["top"]) for b in (one, other))
    return max(wide, 0) * max(high, 0) / area if area else 0.0


@pytest.mark.parametrize("name", ["usual", "tail", "many", "short", "comparison"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_there_and_legible_and_nothing_is_loaded(open_page, pages, name, width):
    for scheme in SCHEMES:
        page, said, asked = open_page(name, width, scheme)
        assert said == []
        assert asked == [pages[name].as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERFLOWING) == []
        figures = page.evaluate(FIGURES)
        wanted = {"usual": 14, "tail": 14, "many": 14, "short": 6, "comparison": 2}[name]
        assert len(figures) >= wanted, [figure["name"] for figure in figures]
        for figure in figures:
            check_figure(figure, width, scheme)


def check_figure(figure: dict, width: int, scheme: str) -> None:
    """Seen whole or scrolled inside itself, in words too, with texts that are large enough, whole, apart, and in the
    colours of the scheme."""
    where = figure["name"]
    assert figure["width"] > 100, where
    assert figure["height"] > 40, where
    assert figure["scrolls"] or 0 <= figure["left"] < figure["right"] <= width, where
    assert len(figure["title"]) > 4, where
    assert len(figure["description"]) > 20, where
    colours = {to_rgb(pair[scheme == "dark"]) for pair in COLOURS.values()}
    for text in figure["texts"]:
        assert text["size"] >= SMALLEST_TEXT, (where, text)
        assert text["left"] >= -1, (where, text)
        assert text["right"] <= figure["width"] + 1, (where, text)
        assert text["top"] >= -1, (where, text)
        assert text["bottom"] <= figure["height"] + 1, (where, text)
        assert text["fill"] in colours, (where, text)
    for place, one in enumerate(figure["texts"]):
        for other in figure["texts"][place + 1 :]:
            assert overlap(one, other) < 0.3, (where, one["words"], other["words"])


def to_rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_each_part_of_a_split_has_bars_of_its_own_colour(open_page):
    """A pattern that is not found leaves a bar without any colour."""
    from PIL import Image

    for scheme in SCHEMES:
        page, _, _ = open_page("usual", 400, scheme)
        image = page.locator("svg:has(#counts-title)").screenshot()
        seen = Image.open(io.BytesIO(image)).convert("RGB").getcolors(1 << 20)
        shades = {colour: count for count, colour in seen}
        for part in ("train", "validation"):
            colour = COLOURS[part][scheme == "dark"]
            rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
            assert shades.get(rgb, 0) > 300, (part, scheme)


def test_the_first_screen_says_what_is_wrong(open_page):
    for width in WIDTHS:
        page, _, _ = open_page("tail", width, "light")
        box = page.locator(".verdict .sentence").bounding_box()
        assert box["y"] + box["height"] < 900
        words = page.locator(".verdict").inner_text().replace("\u00a0", " ")
        assert "The class wave was never trained" in words
        assert "ceiling of 16.7 %" in words


def test_paper_is_light_and_shows_all(open_page):
    page, _, _ = open_page("many", 700, "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == to_rgb(COLOURS["paper"][1])
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == to_rgb(COLOURS["paper"][0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.evaluate(OVERFLOWING) == []
    assert page.pdf(format="A4").startswith(b"%PDF")

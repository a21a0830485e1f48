"""The shell of a page: one HTML file that needs nothing else, with a headline, sections, and figures in them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointcnn_cli import __version__
from pointcnn_cli.report.canvas import Drawing, render_inline
from pointcnn_cli.report.markup import Html, escape, tag
from pointcnn_cli.report.style import build_style

# Nothing may be loaded, sent or run, whatever a name in the data says: the style is in the page, images are in it too.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A titled part of a page; `anchor` is its place in links."""

    anchor: str
    title: str
    body: Html


def build_page(title: str, top: Html, sections: Sequence[Section]) -> bytes:
    """The page, in UTF-8. `top` is seen first; the sections follow in their order."""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta name="generator" content="pointcnn {escape(__version__)}">'
        f"<title>{escape(title)}</title><style>{build_style()}</style>"
    )
    links = tag("nav", *(tag("a", escape(one.title), href=f"#{one.anchor}") for one in sections), aria_label="Contents")
    parts = [tag("section", tag("h2", escape(one.title), id=one.anchor), one.body) for one in sections]
    body = tag("header", tag("h1", escape(title)), top, links) + tag("main", *parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'.encode()


def build_figure(drawing: Drawing, caption: Html | None = None, *, wide: bool = False) -> Html:
    """A figure with its alternative text. A `wide` one keeps its size and scrolls inside itself."""
    image = render_inline(drawing)
    if wide:
        image = tag("div", image, class_="scroll", role="region", tabindex="0", aria_label=drawing.title)
    text = tag("figcaption", caption) if caption else Html("")
    return tag("figure", image, text, class_="wide" if wide else "plot")


def build_row(*figures: Html) -> Html:
    """Figures beside each other where there is room, else below each other."""
    return tag("div", *figures, class_="plots")

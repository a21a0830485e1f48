"""matplotlib figures as inline SVG, SVG files and PNG files: the same bytes for the same figure, on every machine.

No pyplot and no window: figures are objects, drawn in the light colours of `palette`. One unit is a pixel of a page.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from pointcnn_cli.report.markup import Html, clean_text
from pointcnn_cli.report.palette import COLOURS, light

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 72  # matplotlib's SVG has one unit a point
PNG_DPI = 200
FONT_SIZE = 11  # pixels; 9.3 where a page of 400 pixels shrinks a figure of 340 to its narrowest
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_VARIABLES = {pair[0]: f"var(--{name})" for name, pair in COLOURS.items()}
_COLOUR = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure, and the words that go with it."""

    name: str
    """Stem of its file names; different for each figure of a page."""
    figure: "Figure"
    title: str
    description: str
    """What a person who cannot see it is to know: the alternative text."""


@contextlib.contextmanager
def drawing_style() -> Iterator[None]:
    """matplotlib as it comes, whatever the user's matplotlibrc says, with our sizes and colours; to be around all
    drawing and rendering."""
    import matplotlib

    logger = logging.getLogger("matplotlib")  # tells of fonts and of its cache folder
    level = logger.level
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # of glyphs that the font for measuring lacks; browsers have others
        try:
            logger.setLevel(logging.ERROR)
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_list_settings())
            yield
        finally:
            logger.setLevel(level)


def _list_settings() -> dict[Any, Any]:
    ink, soft, line = light("ink"), light("soft"), light("line")
    return {
        "figure.dpi": PIXELS_PER_INCH, "font.size": FONT_SIZE, "font.family": "DejaVu Sans",
        "axes.titlesize": FONT_SIZE + 1, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.labelsize": FONT_SIZE, "xtick.labelsize": FONT_SIZE, "ytick.labelsize": FONT_SIZE,
        "legend.fontsize": FONT_SIZE, "legend.frameon": False,
        "text.color": ink, "axes.labelcolor": soft, "axes.titlecolor": ink, "axes.edgecolor": line,
        "xtick.color": line, "ytick.color": line, "xtick.labelcolor": soft, "ytick.labelcolor": soft,
        "axes.grid": True, "grid.color": line, "grid.linewidth": 0.6, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
        "text.parse_math": False,  # a class may be called $x$
        "axes.unicode_minus": True, "svg.fonttype": "none", "svg.hashsalt": "pointcnn",
    }  # fmt: skip


def start_figure(
    width: int, height: int, *, left: int = 44, right: int = 8, top: int = 26, bottom: int = 38
) -> "tuple[Figure, Axes]":
    """A figure of `width` x `height` pixels with axes that leave these margins; within `drawing_style`.

    Names from data go through `markup.shorten` before they are written: SVG cannot hold control characters.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH))
    place = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    return figure, figure.add_axes(place)


def render_png(drawing: Drawing) -> bytes:
    """The figure on white, as a PNG file."""
    return _save(drawing, "png")


def render_svg(drawing: Drawing) -> bytes:
    """The figure on white, as an SVG file with its title and description."""
    root = _parse(drawing)
    root.set("xmlns", _SVG)
    root.insert(2, ElementTree.Element("rect", {"width": "100%", "height": "100%", "fill": light("paper")}))
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode").encode() + b"\n"


def render_inline(drawing: Drawing) -> Html:
    """The figure as an element of a page, whose colours follow the page's."""
    root = _parse(drawing)
    for element in root.iter():
        # Variables are for styles, and hatches have their colours in attributes.
        plain = [f"{key}: {element.attrib.pop(key)}" for key in ("fill", "stroke") if key in element.attrib]
        if style := "; ".join([*plain, *filter(None, [element.get("style")])]):
            element.set("style", _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), style))
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _parse(drawing: Drawing) -> ElementTree.Element:
    """The SVG of a figure as a tree without namespaces, as HTML has it. Its ids begin with the drawing's name, so that
    many fit into one page."""
    root = ElementTree.fromstring(_save(drawing, "svg"))
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
            parent.remove(child)
        parent.tag = parent.tag.removeprefix(f"{{{_SVG}}}")
        _rename(parent, drawing.name)
    root.set("width", str(round(drawing.figure.get_figwidth() * PIXELS_PER_INCH)))
    root.set("height", str(round(drawing.figure.get_figheight() * PIXELS_PER_INCH)))
    root.attrib.pop("version", None)
    for place, (name, text) in enumerate((("title", drawing.title), ("desc", drawing.description))):
        element = ElementTree.Element(name, {"id": f"{drawing.name}-{name}"})
        element.text = clean_text(text)
        root.insert(place, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{drawing.name}-title {drawing.name}-desc")
    return root


def _rename(element: ElementTree.Element, prefix: str) -> None:
    """Give an element's name, and its references to others, the prefix of the figure."""
    if name := element.get("id"):
        element.set("id", f"{prefix}-{name}")
    if target := element.attrib.pop(f"{{{_XLINK}}}href", None):
        element.set("href", f"#{prefix}-{target.removeprefix('#')}")
    for attribute in ("clip-path", "style"):
        if "url(#" in (value := element.get(attribute, "")):
            element.set(attribute, value.replace("url(#", f"url(#{prefix}-"))


def _save(drawing: Drawing, form: str) -> bytes:
    stream = io.BytesIO()
    if form == "svg":
        drawing.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    else:
        drawing.figure.savefig(stream, format="png", dpi=PNG_DPI, facecolor=light("paper"), metadata={"Software": None})
    return stream.getvalue()

"""HTML that is safe to put together: text is escaped where it enters, and only `Html` goes into a page."""

import html
from collections.abc import Iterable, Sequence
from typing import NewType

Html = NewType("Html", str)
"""Text that is markup already. mypy tells it from plain text, which has to go through `escape` first."""

NO_BREAK = "\u00a0"
"""A space at which a line does not break; the only space but the usual one that text may have."""
DASH = "\u2013"
"""In a table, what there is no number for."""


def clean_text(value: object) -> str:
    r"""One line of printable text: control characters, marks that reverse the reading order, and bytes that are no text
    are shown as their escapes (\x1b, \u202e, \udcff)."""
    return "".join(
        c if c.isprintable() or c == NO_BREAK else c.encode("unicode_escape").decode("ascii") for c in str(value)
    )


def shorten(text: str, most: int) -> str:
    """`text` cut to `most` characters in its middle, since names of a kind differ in their ends."""
    cleaned, half = clean_text(text), most // 2
    return cleaned if len(cleaned) <= most else f"{cleaned[: most - half - 1]}…{cleaned[-half:]}"


def escape(value: object) -> Html:
    """`value` as one line of text of a page."""
    return Html(html.escape(clean_text(value), quote=True))


def escape_lines(text: str) -> Html:
    """Text of several lines, for `pre`."""
    return Html("\n".join(escape(line) for line in text.split("\n")))


def join(parts: Iterable[Html], between: str = "") -> Html:
    """Markup after markup."""
    return Html(between.join(parts))


def tag(name: str, *children: Html, **attributes: str) -> Html:
    """An element. An attribute's name ends in `_` where Python has a word of that name, and has `_` for `-`; its value
    is plain text."""
    texts = [f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()]
    return Html(f"<{name}{''.join(texts)}>{''.join(children)}</{name}>")


def build_table(columns: Sequence[str], rows: Iterable[Sequence[Html]], *, label: str, texts: int = 1) -> Html:
    """A table that scrolls inside itself. `label` says what it holds; the first `texts` columns are text, the others
    numbers."""

    def build_cell(place: int, content: Html, name: str = "td") -> Html:
        kind = "text" if place < texts else "number"
        return Html(f'<{name} class="{kind}">{content}</{name}>')

    head = join(build_cell(i, escape(column), "th") for i, column in enumerate(columns))
    lines = [tag("tr", *(build_cell(i, cell) for i, cell in enumerate(row))) for row in rows]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", *lines))
    return tag("div", table, class_="scroll", role="region", tabindex="0", aria_label=label)


def build_facts(facts: Iterable[tuple[str, Html]]) -> Html:
    """Names and values, one below the other."""
    return tag("dl", *(tag("div", tag("dt", escape(name)), tag("dd", value)) for name, value in facts))


def build_fold(summary: str, *content: Html) -> Html:
    """What is shown only to who asks for it; printed all the same."""
    return tag("details", tag("summary", escape(summary)), *content)


def build_code(text: str) -> Html:
    """A command or a file, as it is; long lines scroll."""
    return tag("pre", tag("code", escape_lines(text)), tabindex="0")

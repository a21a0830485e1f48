"""How text and tables fit the width that there is: nothing is cut, so that no number is lost.

A table too wide for a terminal first does without lines, then becomes one paragraph a row.
"""

import os
import textwrap
from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

COMMAND = ": pointcnn "  # what follows is to be pasted, so no line may break in it
NARROWEST_TEXT = 12  # columns of text may be folded, but not below this width
UNLIMITED = 10_000  # off a terminal a row is one line, to be searched and cut by other tools


def wrap_words(text: str, width: int, taken: int = 0) -> str:
    """`text` with its lines broken between words, where `taken` columns of the first are in use already.

    Paths, long words, and a command at the end of a line stay whole.
    """
    lines: list[str] = []
    for line in (" " * taken + text).splitlines():
        head, found, command = line.partition(COMMAND)
        if found and len(head) < NARROWEST_TEXT:
            lines.append(line)
            continue
        start = " " * (len(line) - len(line.lstrip()))
        sentence = (head + (":" if found else "")).strip()
        first_word = sentence.partition(" ")[0]
        if start and len(start) + len(first_word) > width >= len(first_word):
            lines.append(start)
            start = ""
        lines += textwrap.wrap(
            sentence, width, initial_indent=start, break_long_words=False, break_on_hyphens=False
        ) or [""]  # fmt: skip
        if found:
            lines.append(f"  pointcnn {command}")
    return "\n".join(lines)[taken:]


def print_fitting(console: Console, table: Table) -> None:
    """Print title, rows and caption of `table` as wide as they are off a terminal, and within the width of one."""
    title, caption = _take(table, "title"), _take(table, "caption")
    folds = console.is_terminal or "COLUMNS" in os.environ
    width = console.width if folds else UNLIMITED  # not that of the console, which is 80 where there is no terminal
    if title:
        console.print(title if not folds else wrap_words(title, width), markup=False)
    _keep_numbers_whole(table)
    if _measure(table) > width:
        table.box, table.pad_edge, table.show_edge, table.padding = box.SIMPLE_HEAD, False, False, (0, 1, 0, 0)
    if _measure(table) > width:
        for line in _list_paragraphs(table, width):
            console.print(line, markup=False)
    else:
        if not folds:
            console.width = max(console.width, _measure(table, whole=True))
        console.print(table, soft_wrap=False)
    if caption:
        console.print(wrap_words(caption, width) if folds else caption, markup=False)


def _take(table: Table, name: str) -> str:
    """The title or caption, which would be broken at the width of the rows, and is printed by itself instead."""
    text = getattr(table, name)
    setattr(table, name, None)
    return text.plain if isinstance(text, Text) else str(text or "")


def _keep_numbers_whole(table: Table) -> None:
    """Numbers (columns to the right) are never broken; text is folded rather than cut."""
    for column in table.columns:
        column.overflow = "fold"
        if column.justify == "right":
            column.no_wrap = True


def _measure(table: Table, whole: bool = False) -> int:
    """The narrowest width at which nothing is cut, or with `whole` that at which nothing is folded."""
    widths = [_measure_column(table, number, whole) for number in range(len(table.columns))]
    lines = len(widths) + 1 if table.show_edge else len(widths) - 1
    padding = 2 * len(widths) if table.pad_edge else len(widths) - 1
    return sum(widths) + lines + padding


def _measure_column(table: Table, number: int, whole: bool) -> int:
    column = table.columns[number]
    cells = [*column.cells, *([column.header] if table.show_header else [])]
    widest = max((cell_len(line) for cell in cells for line in _plain(cell).splitlines()), default=0)
    return widest if whole or column.no_wrap else min(widest, NARROWEST_TEXT)


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain


def _list_paragraphs(table: Table, width: int) -> Iterator[str]:
    """Each row as `first cell: header cell, header cell`, broken between words."""
    headers = [_plain(column.header) for column in table.columns]
    for row in zip(*(list(column.cells) for column in table.columns), strict=True):
        first, *others = map(_plain, row)
        facts = [f"{h} {cell}".strip() for h, cell in zip(headers[1:], others, strict=True) if cell]
        lines = wrap_words(f"{first or headers[0]}: {', '.join(facts)}", max(width - 2, 1)).splitlines()
        yield "\n".join([lines[0], *(f"  {line}" for line in lines[1:])])

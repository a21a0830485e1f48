"""Text and tables at any width: nothing is lost."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointcnn_cli.cli.layout import print_fitting, wrap_words


def make_table(columns: int, name: str = "a class with a rather long name") -> Table:
    table = Table(title="the score of a run on the rows of a file", title_justify="left")
    table.add_column("class")
    for i in range(columns):
        table.add_column(f"value {i}", justify="right")
    for row in range(3):
        table.add_row(Text(name), *[f"-{row}{i}.125" for i in range(columns)])
    table.caption = "a caption that is longer than many a table is wide, and says what is to be thought of it"
    return table


def show(table: Table, width: int, terminal: bool = True, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(
        file=stream, force_terminal=terminal, width=width, color_system=None, soft_wrap=True, highlight=False
    )
    print_fitting(console, table)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("columns", [1, 3, 5, 9, 20])
@pytest.mark.parametrize("width", [30, 60, 80])
def test_a_terminal_of_any_width_shows_every_number_whole_and_no_line_is_too_long(columns, width):
    text = show(make_table(columns), width)
    for row in range(3):
        for i in range(columns):
            assert f"-{row}{i}.125" in text
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert " ".join(re.sub(r"[^a-z ]", " ", text).split()).count("class") >= 3  # of every row


def test_a_name_of_one_long_word_is_folded_and_not_cut():
    text = show(make_table(4, name="x" * 90), 60)
    assert text.count("x") == 3 * 90
    assert "…" not in text


def test_off_a_terminal_a_row_is_one_line(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = show(make_table(20), 80, terminal=False).splitlines()
    assert [line for line in lines if all(f"-1{i}.125" in line for i in range(20))]
    assert lines[-1] == make_table(1).caption


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_lines_are_drawn_with_what_the_encoding_has(encoding):
    text = show(make_table(3), 80, encoding=encoding)
    assert "+----" in text
    assert text.isascii()


def test_words_are_wrapped_and_commands_and_paths_stay_whole():
    path = "/a/folder/with/a/long/name/that/is/wider/than/the/terminal"
    text = wrap_words(f"the file {path} is damaged, and the way out of it is: pointcnn diagnose {path} --prove", 40)
    assert path in text
    assert f"pointcnn diagnose {path} --prove" in text.splitlines()[-1]
    assert all(len(line) <= 40 for line in text.splitlines() if path not in line)
    assert wrap_words("eight nine ten", 10, taken=9) == "\neight nine\nten"
    assert wrap_words("next: pointcnn train configs/base.yaml", 10) == "next: pointcnn train configs/base.yaml"

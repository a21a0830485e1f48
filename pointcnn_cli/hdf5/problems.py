"""What is wrong with data files: found by `check_` functions, raised together so that one attempt shows everything."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointcnn_cli.errors import DataError

_MOST_SHOWN = 20  # a folder of a thousand wrong files should not scroll the first message away


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (file, dataset), what (found, expected), and what to do."""

    where: str
    what: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def at(file: str, dataset: str) -> str:
    """How messages name a dataset."""
    return f"{file}, dataset {dataset!r}"


def damaged(path: str, error: Exception) -> Problem:
    """HDF5 could not make sense of a structure inside the file."""
    reason = " ".join(str(error).split())
    return Problem(path, f"damaged, not readable as HDF5: {reason}", "copy, download or write it again")


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one DataError for all problems; nothing when there are none.

    A single problem is a one-line message with its hint; several are one line each, the hints gathered once each.
    """
    if not problems:
        return
    lines = [str(problem) for problem in problems[:_MOST_SHOWN]]
    if len(problems) > _MOST_SHOWN:
        lines.append(f"... and {len(problems) - _MOST_SHOWN} more")
    hints = list(dict.fromkeys(p.hint for p in problems[:_MOST_SHOWN] if p.hint))
    message = lines[0] if len(lines) == 1 else "\n".join([f"{len(problems)} problems in the data:", *lines])
    raise DataError(message, "\n".join(hints) or None)

"""Which of a file's datasets are taken as channels, labels, groups and recordings, each with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.columns import START_FRAME
from pointcnn_cli.proposal.naming import (
    LABEL_WORDS,
    PERSON_WORDS,
    POSITION_WORDS,
    RECORDING_WORDS,
    ROLE_WORDS,
    find_role,
    natural_order,
    rank_name,
)
from pointcnn_cli.proposal.survey import ChannelCandidate, ColumnCandidate, Survey

CHANNELS = 4
MOST_CLASSES = 100
"""More distinct values than this, under a name that says nothing, are rather not classes."""
MOST_LISTED = 12
_DEFAULTS = DataConfig(path="FILE")


@dataclass(frozen=True)
class Choice:
    """A dataset (or four), and sentences that say why, and what else there was."""

    names: tuple[str, ...]
    reasons: tuple[str, ...]


def choose_channels(survey: Survey, wanted: DataConfig) -> tuple[Choice, tuple[int, int, int]]:
    """Four channels and their grid (rows, points, frames). Raises DataError where there are no four that go
    together."""
    if wanted.channels != _DEFAULTS.channels:
        return Choice(wanted.channels, ("As given by --set data.channels.",)), _find_grid(survey, wanted.channels)
    by_name = {candidate.name: candidate for candidate in survey.channels}
    if all(name in by_name for name in _DEFAULTS.channels):
        rest = [name for name in by_name if name not in _DEFAULTS.channels]
        return (
            Choice(_DEFAULTS.channels, ("These are the names that pointcnn takes by itself.", *_mention(rest))),
            by_name[_DEFAULTS.channels[0]].grid,
        )
    grid, fellows = _find_fellows(survey)
    named = _order_by_role(fellows)
    if named is not None:
        reasons = ["Found by name: position, velocity, intensity, range."]
    else:
        named = sorted((c.name for c in fellows), key=natural_order)[:CHANNELS]
        why = "only" if len(fellows) == CHANNELS else "first"
        reasons = [
            f"Assumed: the {why} four arrays of {grid[0]} rows, {grid[1]} points and {grid[2]} frames, in the order of "
            "their names. Learning does not depend on the order; keep it the same for all files."
        ]
    rest = [candidate.name for candidate in survey.channels if candidate.name not in named]
    return Choice(tuple(named), (*reasons, *_mention(rest))), grid


def _mention(names: Sequence[str]) -> tuple[str, ...]:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    listed = ", ".join(names[:MOST_LISTED])
    return (f"Not taken, though it could be a channel too: {listed}{more}.",) if names else ()


def _find_grid(survey: Survey, names: Sequence[str]) -> tuple[int, int, int]:
    grids = {candidate.name: candidate.grid for candidate in survey.channels}
    missing = [name for name in names if name not in grids]
    if missing:
        raise DataError(
            f"{survey.path}: no channel is called {', '.join(missing)}; channels could be: "
            f"{', '.join(list(grids)[:MOST_LISTED]) or 'none'}",
            "set data.channels to four of these",
        )
    return grids[names[0]]


def _find_fellows(survey: Survey) -> tuple[tuple[int, int, int], list[ChannelCandidate]]:
    """The candidates of the grid with most rows that has four of them."""
    grids: dict[tuple[int, int, int], list[ChannelCandidate]] = {}
    for candidate in survey.channels:
        grids.setdefault(candidate.grid, []).append(candidate)
    complete = [grid for grid, members in grids.items() if len(members) >= CHANNELS]
    if complete:
        best = max(complete)
        return best, grids[best]
    listed = [f"{c.name} ({c.grid[0]} rows, depth {c.depth}, {c.grid[1]} points, {c.grid[2]} frames)"
              for c in survey.channels[:MOST_LISTED]]  # fmt: skip
    there = f"it has {', '.join(listed)}" if listed else "it has none"
    problems = "".join(f"\n{problem}" for problem in survey.refused[:MOST_LISTED])
    hints = list(dict.fromkeys(problem.hint for problem in survey.refused if problem.hint))
    raise DataError(
        f"{survey.path}: four channels of the same rows, points and frames are needed, each of shape "
        f"(rows, depth 1 to 4, points, frames); {there}{problems}",
        "\n".join([*hints[:3], "`pointcnn data inspect FILE` lists what is in the file; data/README.md says how it "
                   "should look"]),
    )  # fmt: skip


def _order_by_role(fellows: Sequence[ChannelCandidate]) -> list[str] | None:
    """Position, velocity, intensity and range, where the names say which is which."""
    roles = {candidate.name: find_role(candidate.name) for candidate in fellows}
    first = {role: next((name for name, found in roles.items() if found == role), None) for role in ROLE_WORDS}
    names = [name for name in first.values() if name is not None]
    return names if len(names) == CHANNELS else None


def choose_labels(survey: Survey, rows: int, wanted: DataConfig) -> Choice:
    """The label dataset. Raises DataError where none can be."""
    if wanted.labels != _DEFAULTS.labels:
        return Choice((wanted.labels,), ("As given by --set data.labels.",))
    columns = [c for c in survey.columns if c.rows == rows and c.labels and len(c.labels.used_names()) > 1]
    named = [c for c in columns if rank_name(c.name, LABEL_WORDS) is not None]
    if named:
        named.sort(key=lambda c: rank_name(c.name, LABEL_WORDS) or 0)
        others = [c.name for c in named[1:]]
        alternatives = (f"Its name is the nearest; it could also be: {', '.join(others)}.",) if others else ()
        return Choice((named[0].name,), ("Found by its name.", *alternatives))
    unnamed = [c for c in columns if _may_be_label(c, rows)]
    if not unnamed or any(rank_name(c.name, LABEL_WORDS) is not None for c in survey.columns):
        raise _refuse_labels(survey, rows)
    unnamed.sort(key=lambda c: (not c.declared, len(c.labels.used_names()) if c.labels else 0))
    others = [c.name for c in unnamed[1:]]
    reason = "Assumed: no name says label, and it has one value a row, of which there are few."
    return Choice((unnamed[0].name,), (reason, *((f"It could also be: {', '.join(others)}.",) if others else ())))


def _may_be_label(column: ColumnCandidate, rows: int) -> bool:
    taken = (*PERSON_WORDS, *RECORDING_WORDS, *POSITION_WORDS)
    classes = len(column.labels.used_names()) if column.labels else 0
    return column.declared or (rank_name(column.name, taken) is None and classes <= min(MOST_CLASSES, rows // 2))


def _refuse_labels(survey: Survey, rows: int) -> DataError:
    """Why none of the columns can be the labels, those whose names say that they are first."""
    named = [column for column in survey.columns if rank_name(column.name, LABEL_WORDS) is not None]
    reasons = [_object(column, rows) for column in named]
    hints = [column.objection.hint for column in named if column.objection and column.objection.hint]
    others = [column.name for column in survey.columns if column.rows == rows and column not in named]
    if others:
        reasons.append(f"with one value a row there are: {', '.join(others[:MOST_LISTED])}")
    return DataError(
        f"{survey.path}: no dataset can be taken as labels ({rows} whole numbers or texts, or one-hot, of at least two "
        f"classes); {'; '.join(reasons) or 'there is no dataset with one value a row'}",
        "\n".join([*hints, "if there are labels under another name, say so: --set data.labels=NAME"]),
    )


def _object(column: ColumnCandidate, rows: int) -> str:
    if column.objection is not None:
        return f"{column.name}: {column.objection.what}"
    if column.rows != rows:
        return f"{column.name} has {column.rows} rows, the channels have {rows}"
    return f"{column.name} holds one class only"


def choose_groups(survey: Survey, rows: int, labels: str, wanted: DataConfig) -> tuple[Choice | None, tuple[str, ...]]:
    """What must not be shared between parts, best the people; else sentences that say what there was instead."""
    if wanted.groups is None:
        return None, ("Switched off by --set data.groups=null.",)
    if wanted.groups != _DEFAULTS.groups:
        return Choice((wanted.groups,), ("As given by --set data.groups.",)), ()
    columns = [c for c in survey.columns if c.rows == rows and c.groups is not None and c.name != labels]
    notes: list[str] = []
    for words, what in ((PERSON_WORDS, "people"), (RECORDING_WORDS, "recordings")):
        ranked = [c for c in columns if rank_name(c.name, words) is not None]
        for column in sorted(ranked, key=lambda c: rank_name(c.name, words) or 0):
            count = _count(column)
            if 1 < count < rows:
                unit = "groups" if rank_name(column.name, ("group", "groups")) is not None else what
                return Choice((column.name,), (*notes, f"Found by its name: {count} {unit}.", *_caution(what))), ()
            notes.append(
                f"{column.name} is no help: " + ("all rows have one value." if count == 1 else "no two rows share one.")
            )
    others = [f"{c.name} ({_count(c)} values)" for c in columns
              if 1 < _count(c) < rows and rank_name(c.name, (*POSITION_WORDS, *LABEL_WORDS)) is None]  # fmt: skip
    if others:
        notes.append(f"If one of these says who or what was recorded, name it here: {', '.join(others[:MOST_LISTED])}.")
    return None, tuple(notes)


def _caution(what: str) -> tuple[str, ...]:
    if what == "people":
        return ()
    return ("Recordings of one person may still be on both sides: with a dataset of people, name that one here.",)


def _count(column: ColumnCandidate) -> int:
    return len(np.unique(column.groups.codes)) if column.groups else 0


def choose_recordings(survey: Survey, rows: int, taken: Sequence[str]) -> Choice | None:
    """The unit in which `start_frame` counts, where the file has both."""
    names = {column.name for column in survey.columns if column.rows == rows}
    ranked = [name for name in names - set(taken) if rank_name(name, RECORDING_WORDS) is not None]
    if START_FRAME not in names or not ranked:
        return None
    best = min(ranked, key=lambda name: (rank_name(name, RECORDING_WORDS) or 0, name))
    return Choice((best,), (f"{START_FRAME} counts in these: overlapping windows are found by both.",))

"""The tables of `pointcnn data inspect`."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text


def build_tables(found: dict[str, Any]) -> Iterator[Table]:
    """What `hdf5.inspect.inspect_file` found, for a person; a part that could not be read is left out."""
    yield _list_datasets(found)
    if found["classes"]:
        yield _list_classes(found["classes"])
    yield _list_facts(found)
    if found["channels"]:
        yield _list_channels(found["channels"])


def _start_table(title: str, *columns: str, texts: tuple[int, ...] = (0,)) -> Table:
    """A table whose columns are numbers but for those at `texts`."""
    table = Table(title=Text(title), title_justify="left", show_header=bool(columns))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i in texts else "right")
    return table


def _list_datasets(found: dict[str, Any]) -> Table:
    title = f"{found['file']}, {found['size_bytes'] / 1e6:.1f} MB"
    table = _start_table(title, "dataset", "shape", "type", "storage", texts=(0, 2, 3))
    for one in found["datasets"]:
        shape = " x ".join(map(str, one["shape"])) if one.get("shape") is not None else ""
        cells = (one["name"], shape, str(one.get("dtype") or ""), str(one["note"] or one["compression"] or ""))
        table.add_row(*map(Text, cells))
    return table


def _list_classes(classes: dict[str, int]) -> Table:
    table = _start_table("classes", "class", "rows", "share")
    total = sum(classes.values())
    for name, rows in classes.items():
        table.add_row(Text(name), str(rows), f"{rows / total:.1%}")
    return table


def _list_facts(found: dict[str, Any]) -> Table:
    table = _start_table("rows")
    if found["rows"] is not None:
        table.add_row("rows", str(found["rows"]))
    for key in ("groups", "recordings"):
        if found[key]:
            table.add_row(key, f"{found[key]['count']}, of {found[key]['rows_min']} to {found[key]['rows_max']} rows")
    if order := found["row_order"]:
        words = "sorted by label" if order["sorted_by_label"] else "not sorted by label"
        table.add_row(
            "row order",
            f"{words}; longest run of one label {order['longest_run']} rows ({order['longest_run_share']:.1%});\n"
            f"neighbours share a label in {order['same_as_previous_share']:.1%} of cases, "
            f"{order['shuffled_share']:.1%} if shuffled",
        )
    if slots := found["slots"]:
        table.add_row(
            "point slots",
            f"{slots['points']} a frame, {slots['frames']} frames a row; {slots['filled_share']:.1%} filled, "
            f"{slots['mean_filled_per_frame']:.1f} a frame; {slots['empty_rows']} rows are empty",
        )
        if (seen := found["rows_looked_at"]) < found["rows"]:
            table.add_row("values", f"looked at in {seen} rows, spread evenly over the file; in every row with --all")
    return table


def _list_channels(channels: list[dict[str, Any]]) -> Table:
    table = _start_table("values over filled slots", "channel", "depth", "min", "max", "mean", "std", "not finite")
    for channel in channels:
        for depth, values in enumerate(channel["filled"]):
            numbers = ["" if values[key] is None else f"{values[key]:.3f}" for key in ("min", "max", "mean", "std")]
            bad = f"{channel['non_finite_values']} in {channel['non_finite_rows']} rows" if depth == 0 else ""
            table.add_row(Text(channel["name"]), str(depth), *numbers, bad)
    return table

"""Finding datasets in an HDF5 file, and listing them, without ever following a link out of it.

h5py follows soft and external links by itself, also in the middle of a path and inside `name in file`; an external link
opens any file of the host, and hangs on a pipe. So paths are walked part by part, and only hard links are taken.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import h5py

from pointcnn_cli.hdf5.problems import Problem, at

MAX_LISTED = 200  # objects looked at when listing; a file of a million groups must not stall a message


@dataclass(frozen=True)
class Found:
    """An object met while listing: a dataset by its low-level id, or the reason why it is not looked into."""

    name: str
    dataset: h5py.h5d.DatasetID | None
    note: str | None = None


def find_dataset(file: h5py.File, name: str, setting: str) -> h5py.h5d.DatasetID | Problem:
    """The dataset `name`, as a low-level id whose shape has not been asked for yet (see checks.py), or what is wrong.

    `setting` is the config key that gave the name, for the hint.
    """
    where = at(file.filename, name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    place = file.id
    for part in parts:
        if not isinstance(place, h5py.h5g.GroupID):
            return _missing(file, name, setting)
        raw = part.encode("utf-8", "surrogateescape")
        if b"\0" in raw or not place.links.exists(raw):
            return _missing(file, name, setting)
        refused = _link_note(place, raw)
        if refused:
            hint = "only data stored in the file itself is read: copy the dataset in under its own name"
            return Problem(where, f"{part!r} is {refused}, which is not followed", hint)
        try:
            place = h5py.h5o.open(place, raw)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            return Problem(where, f"damaged: {error}", "write the file again")
    if isinstance(place, h5py.h5d.DatasetID):
        return place
    return _missing(file, name, setting)


def is_present(file: h5py.File, name: str) -> bool:
    """Whether the root of the file has a dataset of this (one-part) name, or a link that `find_dataset` refuses."""
    raw = name.encode()
    if not file.id.links.exists(raw):
        return False
    return _link_note(file.id, raw) is not None or isinstance(h5py.h5o.open(file.id, raw), h5py.h5d.DatasetID)


def list_objects(file: h5py.File) -> list[Found]:
    """Datasets and refused links, depth first in name order, each object once (hard links may form cycles)."""
    return list(islice(_walk(file.id, "", set()), MAX_LISTED))


def _walk(group: h5py.h5g.GroupID, prefix: str, seen: set[int]) -> Iterator[Found]:
    """Yield what is below `group`; `seen` holds the addresses of groups already entered."""
    address = h5py.h5o.get_info(group).addr
    if address in seen or len(seen) > MAX_LISTED:
        return
    seen.add(address)
    for raw in islice(group, MAX_LISTED):
        name = prefix + raw.decode("utf-8", "replace")
        refused = _link_note(group, raw)
        if refused:
            yield Found(name, None, f"{refused}, not followed")
            continue
        try:
            item = h5py.h5o.open(group, raw)
        except (KeyError, OSError, RuntimeError, ValueError):
            yield Found(name, None, "damaged")
            continue
        if isinstance(item, h5py.h5d.DatasetID):
            yield Found(name, item)
        elif isinstance(item, h5py.h5g.GroupID):
            yield from _walk(item, f"{name}/", seen)


def _link_note(group: h5py.h5g.GroupID, raw: bytes) -> str | None:
    """None for a hard link, else what it is and where it points."""
    kind = group.links.get_info(raw).type
    if kind == h5py.h5l.TYPE_HARD:
        return None
    if kind == h5py.h5l.TYPE_SOFT:
        return f"a soft link to {_text(group.links.get_val(raw))}"
    if kind == h5py.h5l.TYPE_EXTERNAL:
        target, path = group.links.get_val(raw)
        return f"an external link to {_text(path)} in the file {_text(target)}"
    return "a link of an unknown kind"


def _text(raw: bytes) -> str:
    return repr(raw.decode("utf-8", "replace"))


def _missing(file: h5py.File, name: str, setting: str) -> Problem:
    """No such dataset: what there is instead, the nearest name, and the setting to change."""
    names = [found.name for found in list_objects(file)]
    there = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no dataset at all"
    lowered = {n.lower(): n for n in names} | {n.rpartition("/")[2].lower(): n for n in names}
    near = difflib.get_close_matches(name.rpartition("/")[2].lower(), list(lowered), n=1)
    guess = f"did you mean {lowered[near[0]]!r}? " if near else ""
    what = f"there is no such dataset; the file has: {there}"
    return Problem(at(file.filename, name), what, f"{guess}set {setting} to the name that your file uses")

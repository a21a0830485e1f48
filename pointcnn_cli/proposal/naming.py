"""What the name of a dataset says about what it holds."""

import re
from collections.abc import Sequence
from typing import Final

from pointcnn_cli.config.schema import ChannelRole

ROLE_WORDS: Final[dict[ChannelRole, tuple[str, ...]]] = {
    "position": ("position", "positions", "pos", "xyz", "coordinate", "coordinates", "coord", "coords", "points"),
    "velocity": ("velocity", "velocities", "vel", "doppler", "speed", "v"),
    "intensity": ("intensity", "intensities", "snr", "power", "rcs", "amplitude", "magnitude", "energy", "i"),
    "range": ("range", "ranges", "distance", "dist", "radius", "r"),
}
LABEL_WORDS: Final = (
    *("label", "labels", "y", "target", "targets", "class", "classes", "activity", "activities"),
    *("action", "actions", "gesture", "gestures", "category", "categories", "behaviour", "behavior"),
)
PERSON_WORDS: Final = (
    *("group", "groups", "subject", "subjects", "person", "persons", "people", "participant", "participants"),
    *("user", "users", "volunteer", "volunteers", "patient", "patients", "actor", "individual", "who"),
)
RECORDING_WORDS: Final = (
    *("recording", "recordings", "session", "sessions", "sequence", "sequences", "trial", "trials", "take", "takes"),
    *("file", "files", "video", "clip", "run", "experiment", "day", "room", "scene", "environment"),
)
POSITION_WORDS: Final = ("start", "frame", "frames", "time", "timestamp", "index", "row", "offset")
"""Of columns that say where a window lies, and are no groups."""
SILENT_WORDS: Final = ("id", "ids", "name", "names", "code", "codes", "number", "numbers", "no", "num", "idx")
"""Words that change nothing: `subject_id` is as good as `subject`."""


def split_words(name: str) -> list[str]:
    """The words of a dataset's own name, in lower case: `data/subjectID_2` has subject, id and 2."""
    own = name.rpartition("/")[2]
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", own)]


def rank_name(name: str, words: Sequence[str]) -> int | None:
    """The place of the first of `words` that is in the name, lower is better; None where none is. Names of that word
    alone come before all others: `label_quality` is no label."""
    own = [word for word in split_words(name) if not word.isdecimal() and word not in SILENT_WORDS]
    places = [words.index(word) for word in own if word in words]
    return min(places) + len(words) * (len(own) > 1) if places else None


def find_role(name: str) -> ChannelRole | None:
    """What a channel of this name holds, where the name says exactly one thing."""
    found = [role for role, words in ROLE_WORDS.items() if rank_name(name, words) is not None]
    return found[0] if len(found) == 1 else None


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts `ch2` before `ch10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]

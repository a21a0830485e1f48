"""Where the time of a training goes, and so what bounds it."""

import contextlib
import time
from collections.abc import Iterator

STEPS, INPUT, HOST, VALIDATION, SAVING = "steps", "input", "host", "validation", "saving"
WORDS = {
    STEPS: "steps of the network",
    INPUT: "waiting for rows",
    HOST: "between steps (reading the metrics, Python)",
    VALIDATION: "validation",
    SAVING: "saving",
}
BOUNDS = {STEPS: "compute", INPUT: "input", HOST: "host sync", VALIDATION: "validation", SAVING: "the disk"}


class Clock:
    """Seconds of wall time in each part of a training; parts inside others are counted once, in the inner one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(WORDS, 0.0)
        self._open: list[str] = []
        self._since = time.monotonic()

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """What happens inside is of this part."""
        self._settle()
        self._open.append(part)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def _settle(self) -> None:
        """Give the time since the last change to the part that was open."""
        now = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def describe(self) -> str:
        """The shares of all parts, the largest first, and what it was that bounded the training."""
        total = sum(self.seconds.values())
        if not total:
            return "no step was timed"
        ranked = sorted(self.seconds.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{WORDS[part]} {seconds / total:.0%}" for part, seconds in ranked)
        return f"bounded by {BOUNDS[ranked[0][0]]}: of {total:.1f} s of training, {shares}"

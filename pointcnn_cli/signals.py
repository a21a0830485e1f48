"""Stopping on request: a signal sets a flag that the training loop looks at after each step."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from pointcnn_cli.errors import Interrupted

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class StopRequest:
    """Whether, and by which signal, a stop was asked for."""

    signal_number: int | None = None

    def check(self, resume_hint: str) -> None:
        """Raise Interrupted if a stop was asked for."""
        if self.signal_number is not None:
            word = WORDS[signal.Signals(self.signal_number)]
            raise Interrupted(self.signal_number, f"{word}; all finished epochs are saved", resume_hint)


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP sets the flag; a second one ends the process at once.

    Ending at once is safe: files of a run are written whole or not at all. A signal that the process was started to
    ignore (nohup ignores SIGHUP) stays ignored. Outside the main thread, where Python cannot catch signals, the flag is
    never set.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal_number is not None:
            os._exit(128 + number)
        request.signal_number = number

    try:
        caught = [number for number in CAUGHT if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handle) for number in caught}
    except ValueError:
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Stopping on request: a signal sets a flag that the training loop looks at after each step."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from pointcnn_cli.errors import Interrupted

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
RETRY_SECONDS = 0.05


class Stopped(BaseException):
    """A signal that ends the process. It unwinds the stack, so that what is half written is removed; like
    KeyboardInterrupt it is no Exception, which libraries might catch."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


def raise_on_signals() -> None:
    """From now on, outside of `catch_stop_signals`, SIGINT, SIGTERM and SIGHUP raise Stopped; a second one ends the
    process at once.

    A signal that the process was started to ignore stays ignored. To be called in the main thread.
    """
    raised = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if raised:
            os._exit(128 + number)
        raised = True
        raise Stopped(number)

    for number in CAUGHT:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
    sys.unraisablehook = _raise_again


def ignore_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP do nothing: the command has ended, and its exit code stands.

    Python gives signals back their default while it takes itself down, which lasts half a second once TensorFlow is
    loaded; one that came then would end the process without that code.
    """
    for number in CAUGHT:
        signal.signal(number, signal.SIG_IGN)


def _raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """Where Python cannot raise (while it forks, or destroys an object) it drops what a handler raises: try once more,
    a moment later."""
    stopped = lost.exc_value
    if not isinstance(stopped, Stopped):
        sys.__unraisablehook__(lost)
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise Stopped(stopped.signal_number)

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)


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

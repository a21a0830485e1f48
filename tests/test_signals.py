"""Signals ask for a stop: the first sets a flag, the second ends the process at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pointcnn_cli.errors import Interrupted
from pointcnn_cli.signals import CAUGHT, WORDS, StopRequest, catch_stop_signals

WAIT = """
import sys, time
from pointcnn_cli.errors import Interrupted
from pointcnn_cli.signals import catch_stop_signals
print("starting", flush=True)
try:
    with catch_stop_signals() as stop:
        print("ready", flush=True)
        while stop.signal_number is None:
            time.sleep(0.01)
        print("stopping", flush=True)
        if "again" in sys.argv:
            time.sleep(30)
        stop.check("resume")
except Interrupted as error:
    print(error.message, "|", error.hint, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """The test run itself may be in the background or under nohup, with SIGINT or SIGHUP ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in CAUGHT}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(*arguments: str, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen[str]:
    def prepare() -> None:
        for number in CAUGHT:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", WAIT, *arguments], stdout=subprocess.PIPE, text=True, preexec_fn=prepare
    )
    assert process.stdout.readline() == "starting\n"
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_ends_the_work_in_order(number, code):
    with start() as process:
        process.send_signal(number)
        assert process.wait(10) == code
        assert process.stdout.read() == f"stopping\n{WORDS[number]}; all finished epochs are saved | resume\n"


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGINT, signal.SIGTERM, 143),
        (signal.SIGTERM, signal.SIGHUP, 129),
    ],
)
def test_the_second_signal_ends_the_process_at_once(first, second, code):
    with start("again") as process:
        process.send_signal(first)
        assert process.stdout.readline() == "stopping\n"
        started = time.monotonic()
        process.send_signal(second)
        assert process.wait(10) == code
        assert time.monotonic() - started < 5
        assert process.stdout.read() == ""


def test_a_signal_that_was_ignored_from_the_start_stays_ignored():
    """As under nohup, whose very purpose it is."""
    with start(ignored=(signal.SIGHUP,)) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143


@pytest.mark.parametrize("number", CAUGHT)
def test_a_signal_sets_the_flag_and_nothing_else(number):
    with catch_stop_signals() as stop:
        stop.check("no stop was asked for")
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
        with pytest.raises(Interrupted) as caught:
            stop.check("continue with: that")
    assert caught.value.exit_code == 128 + number
    assert caught.value.hint == "continue with: that"


@pytest.mark.parametrize("error", [None, ValueError])
def test_handlers_are_put_back(error):
    before = [signal.getsignal(number) for number in CAUGHT]
    if error is None:
        with catch_stop_signals():
            assert [signal.getsignal(number) for number in CAUGHT] != before
    else:
        with pytest.raises(error), catch_stop_signals():
            raise error
    assert [signal.getsignal(number) for number in CAUGHT] == before


def test_each_block_has_its_own_flag():
    with catch_stop_signals() as first:
        os.kill(os.getpid(), signal.SIGTERM)
    with catch_stop_signals() as second:
        assert second.signal_number is None
    assert first.signal_number == signal.SIGTERM


def test_work_outside_the_main_thread_goes_without_signals():
    seen: list[StopRequest] = []

    def work() -> None:
        with catch_stop_signals() as stop:
            stop.check("never")
            seen.append(stop)

    before = [signal.getsignal(number) for number in CAUGHT]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert [stop.signal_number for stop in seen] == [None]
    assert [signal.getsignal(number) for number in CAUGHT] == before

"""Processes that train one network together: the place of this one, how they meet, and how they part.

What of it is JAX's alone stands here and in `distribution`.
"""

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pointcnn_cli.errors import MissingDependencyError, TrainingError, UsageError
from pointcnn_cli.runtime import BACKENDS, name_backend

ADDRESSES, COUNT, INDEX = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)  # those of keras.distribution.initialize
HEARTBEAT_SECONDS = 20
"""A process that was silent for so long is lost, and the others end. JAX's default is 100."""
JOIN_SECONDS = 300
"""How long a process waits for the others at the start: containers may come up minutes apart."""
LEAVE_SECONDS = 3600
"""How long a process that is done waits for the others: the first one may still be scoring."""
GRACE_SECONDS = 3.0
"""The first process ends so much after a failure: JAX aborts the others the moment it is gone, and they have something
to say too."""


@dataclass(frozen=True)
class Place:
    """This process among those that train together: `index` 0 to `count` - 1; the first listens at `address`."""

    index: int = 0
    count: int = 1
    address: str = ""


ALONE = Place()


def read_place(environment: Mapping[str, str]) -> Place:
    """The place that the variables KERAS_DISTRIBUTION_* give.

    Raises UsageError where one is missing or wrong, MissingDependencyError where the backend is not JAX.
    """
    if name_backend() != "jax":
        raise MissingDependencyError(
            f"--distributed needs the backend jax; it is {name_backend()}",
            f"set KERAS_BACKEND=jax, after: pip install {BACKENDS['jax']}; several GPUs of one machine need no more "
            "than train.device: multi",
        )
    hint = (
        f"set {ADDRESSES} to HOST:PORT of the first process, {COUNT} to their number and {INDEX} to 0, 1, ... in each"
    )
    if missing := [name for name in (ADDRESSES, COUNT, INDEX) if not environment.get(name)]:
        raise UsageError(f"--distributed takes its place from the environment; not set: {', '.join(missing)}", hint)
    addresses, numbers = environment[ADDRESSES].split(","), (environment[COUNT], environment[INDEX])
    if not all(number.isdecimal() for number in numbers):
        raise UsageError(f"{COUNT} is {numbers[0]!r} and {INDEX} is {numbers[1]!r}; both are numbers", hint)
    count, index = int(numbers[0]), int(numbers[1])
    if not index < count:
        raise UsageError(f"{INDEX} is {index}, but there are {count} processes (0 to {count - 1})", hint)
    if len(addresses) not in (1, count) or ":" not in addresses[0]:
        raise UsageError(f"{ADDRESSES} is {environment[ADDRESSES]!r}: one HOST:PORT, or one for each process", hint)
    return Place(index, count, addresses[0].strip())


def join(place: Place) -> None:
    """Meet the other processes. To be called before Keras is imported.

    Raises MissingDependencyError without JAX, TrainingError when the others do not come.
    """
    try:
        import jax
    except ImportError as error:
        raise MissingDependencyError("--distributed needs JAX", f"pip install {BACKENDS['jax']}") from error
    if jax.distributed.is_initialized():  # several runs in one process
        return
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    failures: list[Exception] = []

    def meet() -> None:
        try:
            jax.distributed.initialize(
                place.address,
                place.count,
                place.index,
                cluster_detection_method="deactivate",
                initialization_timeout=JOIN_SECONDS + 60,  # beyond ours: JAX would abort the process
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=LEAVE_SECONDS,
            )
        except Exception as error:
            failures.append(error)

    # In a thread, so that this one still sees signals while it waits.
    meeting = threading.Thread(target=meet, daemon=True)
    meeting.start()
    meeting.join(JOIN_SECONDS)
    if meeting.is_alive() or failures:
        reason = str(failures[0]).splitlines()[0] if failures else f"waited for {JOIN_SECONDS} s"
        raise TrainingError(
            f"process {place.index} of {place.count} did not meet the others at {place.address} ({reason})",
            f"start all {place.count} processes, and check that each reaches the address of the first",
        )


def leave(failed: bool) -> bool:
    """Part from the other processes: once they are done too, or after a failure without them.

    Whether there are any; then this process has to end at once. What JAX does at the exit of Python may wait for ever
    after a success, and aborts the process after a failure.
    """
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return False
    if not failed:
        jax.distributed.shutdown()
    elif os.environ.get(INDEX) == "0":
        time.sleep(GRACE_SECONDS)
    return True

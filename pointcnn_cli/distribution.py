"""Several devices, or several processes, that train one network together: who takes which rows, and how they meet.

What JAX (processes) and TensorFlow (several GPUs of one process) have of their own for it stands here; training sees a
`Team`.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.errors import ConfigError, DataError, MissingDependencyError, PointcnnError, TrainingError
from pointcnn_cli.joining import Place
from pointcnn_cli.runtime import list_gpus, name_backend, quiet_stdout

LOSSES = ("Gloo", "NCCL", "oordination service", "heartbeat", "Connection closed", "Connection reset", "Socket closed")
"""In the texts of JAX's errors when another process is gone."""
START_AGAIN = "look at what it said, and start all processes again"


class Team:
    """One process with one device, which shares with nobody; others override what differs."""

    index = 0
    """Of this process; the first, 0, writes the run."""
    count = 1
    """Processes."""
    devices = 1
    """Devices that share each batch, of all processes."""
    synchronizes = False
    """Whether batch normalisation must be told to take its statistics from all devices."""
    resume_option = ""
    """What the command that continues the run has to say."""

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Within the block variables are made for, and training runs on, all devices."""
        return contextlib.nullcontext()

    def share(self, order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """The part of `order` that this process trains on, for batches of `size` rows of which it has `size // count`.

        Devices take equal numbers of rows, so of the last batch up to `devices` - 1 rows are left out.
        """
        full = len(order) // size * size
        rest = (len(order) - full) // self.devices * self.devices
        batches = order[:full].reshape(-1, self.count, size // self.count)[:, self.index]
        last = order[full : full + rest].reshape(self.count, -1)[self.index]
        return np.concatenate([batches.reshape(-1), last])

    def count_steps(self, rows: int, size: int) -> int:
        """Steps of an epoch."""
        return rows // size + (rows % size >= self.devices)

    def check_batches(self, rows: int, size: int) -> None:
        """Raise ConfigError where batches of `size` of so many `rows` cannot be shared evenly."""
        if size % self.devices:
            near = [n for n in (size // self.devices * self.devices, -(-size // self.devices) * self.devices) if n]
            raise ConfigError(
                f"train.batch_size is {size}, and {self.devices} devices take equal parts of each batch",
                f"set train.batch_size to {' or '.join(str(n) for n in sorted(set(near)))}",
            )
        if rows < self.devices:
            raise ConfigError(f"{rows} training rows cannot be shared by {self.devices} devices", "use fewer devices")

    def replicate(self, array: NDArray[Any]) -> Any:
        """`array` on all devices."""
        return array

    def gather(self, part: NDArray[Any]) -> NDArray[Any]:
        """The parts of all processes, which are of equal shape, one after the other; in every process."""
        return part

    def tell(self, text: str) -> str:
        """The text of the first process, in every process."""
        return text

    @contextlib.contextmanager
    def explain_loss(self, hint: str) -> Iterator[None]:
        """Within the block, the loss of another process becomes a TrainingError with this hint."""
        yield

    def check_agreement(self, facts: Mapping[str, str]) -> None:
        """Raise ConfigError, or DataError for facts that are not called `config`, where processes differ in them."""
        digests = [list(hashlib.sha256(text.encode()).digest()) for text in facts.values()]
        found = self.gather(np.array([digests], np.uint8))  # (processes, facts, 32)
        for place, name in enumerate(facts):
            if others := np.flatnonzero((found[:, place] != found[0, place]).any(axis=1)).tolist():
                kind = ConfigError if name == "config" else DataError
                raise kind(
                    f"the processes do not train the same: the {name} of process {others[0]} is not that of process 0",
                    "give all the same command and files, and the same version of pointcnn",
                )


class MirroredTeam(Team):
    """Several GPUs of one process, on TensorFlow: each holds the network, and takes an equal part of each batch."""

    synchronizes = True

    def __init__(self, devices: list[str]) -> None:
        import tensorflow as tf

        self._strategy = tf.distribute.MirroredStrategy(devices)
        self.devices = len(devices)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        return self._strategy.scope()  # type: ignore[no-any-return]


class ParallelTeam(Team):
    """Several devices, of one process or many, on JAX: one program over all of them, so every sum over a batch is over
    the whole of it."""

    def __init__(self, devices: list[str], place: Place) -> None:
        import keras

        self._distribution = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        self.kind = devices[0].split(":")[0]  # cpu or gpu
        self.index, self.count, self.devices = place.index, place.count, len(devices)
        self.resume_option = " --distributed" if place.count > 1 else ""

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        return self._distribution.scope()  # type: ignore[no-any-return]

    def replicate(self, array: NDArray[Any]) -> Any:
        """`array` on all devices, without the comparison of all its bytes between processes that JAX makes else."""
        import jax

        mesh = self._distribution.device_mesh.backend_mesh
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.make_array_from_callback(array.shape, everywhere, lambda index: array[index])

    def gather(self, part: NDArray[Any]) -> NDArray[Any]:
        if self.count == 1:
            return part
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(part, tiled=True))

    def tell(self, text: str) -> str:
        data = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
        length = int(self.gather(np.array([len(data)]))[0])
        padded = np.zeros(length, np.uint8)
        padded[: min(length, len(data))] = data[:length]
        return self.gather(padded)[:length].tobytes().decode(errors="surrogateescape")

    @contextlib.contextmanager
    def explain_loss(self, hint: str) -> Iterator[None]:
        try:
            yield
        except PointcnnError:
            raise
        except Exception as error:
            if self.count == 1 or not any(word in str(error) for word in LOSSES):
                raise
            raise TrainingError(
                f"another process of this training is gone (this is process {self.index} of {self.count})", hint
            ) from error


def build_team(wanted: str, place: Place) -> Team:
    """The devices that train together: those of all processes, or with `wanted` multi all GPUs of this one.

    Raises MissingDependencyError where there are fewer than two GPUs for multi, ConfigError where processes have
    different numbers of devices.
    """
    if place.count == 1 and wanted != "multi":
        return Team()
    devices = list_members(wanted)
    if place.count == 1 and len(devices) < 2:
        raise MissingDependencyError(
            f"train.device is multi, but {name_backend()} sees {len(devices) or 'no'} GPU{'s' * (len(devices) != 1)}",
            "check that nvidia-smi lists two or more, or set train.device to auto",
        )
    if name_backend() == "tensorflow":
        return MirroredTeam(devices)
    team = ParallelTeam(devices, place)
    if place.count > 1:
        with team.explain_loss(START_AGAIN):
            _check_equal(team)
    return team


def list_members(wanted: str) -> list[str]:
    """The devices of all processes that are to train together, as the backend names them: GPUs, else for several
    processes CPUs."""
    if name_backend() == "tensorflow":
        return [f"GPU:{i}" for i in range(len(list_gpus()))]
    import keras

    kind = "gpu" if list_gpus() and wanted != "cpu" else "cpu"
    return [] if wanted == "multi" and kind == "cpu" else list(keras.distribution.list_devices(kind))


def _check_equal(team: ParallelTeam) -> None:
    """Raise ConfigError where processes have different numbers of devices. All processes meet here first."""
    import jax

    with quiet_stdout():
        counts = team.gather(np.array([jax.local_device_count(team.kind)])).tolist()
    if team.devices != team.count * counts[0] or len(set(counts)) > 1:
        raise ConfigError(
            f"the processes have {', '.join(str(n) for n in counts)} devices",
            "give each process the same number of GPUs, as with CUDA_VISIBLE_DEVICES",
        )

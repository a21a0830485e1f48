"""Whether the rows of a training are held in memory or streamed, and the `Fit` that gets them either way.

What is too much is refused before any row is read. Keras is imported when a fit is built.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import Config
from pointcnn_cli.distribution import Team
from pointcnn_cli.errors import ConfigError, DataError, TrainingError
from pointcnn_cli.hdf5.samples import ArraySource, PartSource, Samples, Source
from pointcnn_cli.memory import (
    FREE_MEMORY,
    Available,
    Need,
    check_memory,
    describe_bytes,
    estimate_step,
    estimate_weights,
    exceeds,
    explain_shortage,
    find_available,
    parse_bytes,
    suggest_batch,
)
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.splits.parts import Split
from pointcnn_cli.streaming import Plan, plan_stream

if TYPE_CHECKING:
    import keras

    from pointcnn_cli.feeding import PartRows
    from pointcnn_cli.fitting import Fit

STATISTICS_BYTES = 20
"""For each value of a block of rows while its statistics are computed: as read and put together, as float64, and a
mask."""


@dataclass(frozen=True)
class _Sizes:
    """Bytes of one row."""

    stored: int
    """As read from the source."""
    device: tuple[int, ...]
    """Of each channel, as the device or a stream's windows hold it."""
    values: int
    """Not bytes: how many values a row has."""


def begin_fit(
    config: Config, source: Source, split: Split, device: str, reporter: Reporter, team: Team | None = None
) -> "Fit":
    """Build the network of a new run, and hold or stream the rows of both parts, which are checked in either case.

    The fit's config has the memory limit that a stream was planned with. Raises ConfigError or TrainingError where
    memory does not suffice, DataError for values that cannot be used.
    """
    network, available = _build_network(config, source, split), _find_least(team)
    sizes = _measure(source, split)
    held = _estimate_held(config, split, sizes, network, device)
    plan, limit = _choose(config, source, split, sizes, held, available)
    if plan is None:
        check_memory(held, _find_batch(config, split), available)
        return _hold(config, source, split, network, team)
    config = config.model_copy(update={"data": config.data.model_copy(update={"memory_limit": limit})})
    total = sum(sizes.device) * (len(split.train) + len(split.validation))
    reporter.say(
        f"streaming the training rows: all rows take {describe_bytes(total)}, and data.memory_limit lets them take "
        f"{describe_bytes(limit)}; {_describe_plan(plan)}"
    )
    if plan.unpackings > 1:
        reporter.warn(
            f"each chunk of the files ({plan.chunk_rows} rows) is read up to {plan.unpackings} times an epoch: raise "
            f"data.memory_limit, or write the files with chunks of {plan.block_rows} rows or fewer"
        )
    need = _estimate_streamed(config, split, sizes, network, device, plan)
    cure = f"{FREE_MEMORY}; or lower data.memory_limit"
    check_memory(need, _find_batch(config, split), available, cure)
    return _stream(config, source, split, network, plan, team)


def continue_fit(
    config: Config,
    source: Source,
    split: Split,
    device: str,
    plan: Plan | None,
    reporter: Reporter,
    team: Team | None = None,
) -> "Fit":
    """Like `begin_fit` for a run that began with `plan` (None: rows in memory), whatever memory there is now."""
    network, available = _build_network(config, source, split), _find_least(team)
    sizes, size = _measure(source, split), _find_batch(config, split)
    if plan is None:
        check_memory(_estimate_held(config, split, sizes, network, device), size, available)
        return _hold(config, source, split, network, team)
    reporter.say(f"streaming the training rows as the run began; {_describe_plan(plan)}")
    check_memory(_estimate_streamed(config, split, sizes, network, device, plan), size, available)
    return _stream(config, source, split, network, plan, team)


def _choose(
    config: Config, source: Source, split: Split, sizes: _Sizes, held: Need, available: Available | None
) -> tuple[Plan | None, int]:
    """The plan of a stream, with the limit that it keeps; None where rows are to be held, or nothing would help."""
    stated, size = config.data.memory_limit, _find_batch(config, split)
    half = None if available is None else max(available.size // 2, 0)
    limit = half if stated is None else parse_bytes(stated)
    if limit is None:
        return None, 0
    row_bytes = sum(sizes.device)
    within = row_bytes * (len(split.train) + len(split.validation)) <= limit
    if within and not exceeds(held, size, available):
        return None, limit
    if within and half is not None:  # rows are held twice for a moment, which is too much here
        limit = min(limit, half)
    try:
        return plan_stream(source, len(split.train), row_bytes, size, limit), limit
    except ConfigError as error:
        if within:
            return None, limit  # and what is too much is told of held rows
        if stated is not None:
            raise
        raise TrainingError(error.message, f"{FREE_MEMORY}; or {error.hint}") from error


def _find_least(team: Team | None) -> Available | None:
    """What may still be taken of memory; of several processes the least, so that all hold, or stream, the same rows."""
    found = find_available()
    if team is None or team.count == 1:
        return found
    unknown = np.iinfo(np.int32).max
    sizes = team.gather(np.array([unknown if found is None else max(found.size, 0) >> 20], np.int32))  # MiB
    least = int(sizes.min())
    return None if least == unknown else Available(least << 20, f"that of process {int(sizes.argmin())}")


def _describe_plan(plan: Plan) -> str:
    return (
        f"{plan.window_rows} rows are shuffled at a time, drawn from all over the files in blocks of {plan.block_rows}"
    )


def _find_batch(config: Config, split: Split) -> int:
    return min(config.train.batch_size, len(split.train))


def _build_network(config: Config, source: Source, split: Split) -> "keras.Model":
    from pointcnn_cli.fitting import build_network

    with explain_shortage("building the network", _suggest(config, split)):
        return build_network(config, source.index)


def _suggest(config: Config, split: Split) -> str:
    return f"{FREE_MEMORY}; then, if it is still too much, {suggest_batch(_find_batch(config, split))}"


def _measure(source: Source, split: Split) -> _Sizes:
    """From the first training row, since the index does not say how rows are stored."""
    from pointcnn_cli.batches import count_device_bytes

    channels = source.read(split.train[:1])
    return _Sizes(
        sum(channel.nbytes for channel in channels),
        tuple(count_device_bytes(channels)),
        sum(channel.size for channel in channels),
    )


def _estimate_held(config: Config, split: Split, sizes: _Sizes, network: "keras.Model", device: str) -> Need:
    """What training takes of this machine's memory; on a GPU, which has its own, the rows are read here all the same.

    The GPU's memory is not asked: what does not fit there fails with the first batch.
    """
    stored = sizes.stored * (len(split.train) + len(split.validation))
    if device.startswith("GPU"):
        return Need(rows=stored, upload=0, weights=0, batch_row=0)
    resident = [count * len(split.train) for count in sizes.device]
    return Need(
        rows=stored + sum(resident),
        upload=2 * max(resident),  # the channel that is on its way: its first zeros, and a tensor of its values
        weights=_estimate_weights(config, network),
        batch_row=_estimate_step(config, network),
    )


def _estimate_streamed(
    config: Config, split: Split, sizes: _Sizes, network: "keras.Model", device: str, plan: Plan
) -> Need:
    """The same where the training rows are streamed: the windows, and two blocks of validation rows, one of which is
    read while the other is predicted."""
    from pointcnn_cli.batches import BLOCK_ROWS, PREDICTION_BATCH, PREDICTION_ROWS

    training = plan.count_held_rows(_find_batch(config, split)) * sum(sizes.device)
    validation = min(2 * PREDICTION_ROWS, len(split.validation)) * sizes.stored + 4 * PREDICTION_BATCH * sizes.values
    on_gpu = device.startswith("GPU")
    return Need(
        rows=training + validation,
        upload=min(BLOCK_ROWS, len(split.train)) * (sizes.stored + STATISTICS_BYTES * sizes.values),
        weights=0 if on_gpu else _estimate_weights(config, network),
        batch_row=0 if on_gpu else _estimate_step(config, network),
    )


def _estimate_weights(config: Config, network: "keras.Model") -> int:
    return estimate_weights(network.count_params() * 4, config.train.optimizer)  # variables are float32


def _estimate_step(config: Config, network: "keras.Model") -> int:
    from pointcnn_cli.batches import count_output_bytes

    return estimate_step(config.model.name, count_output_bytes(network))


def _hold(config: Config, source: Source, split: Split, network: "keras.Model", team: Team | None) -> "Fit":
    """Read the rows of both parts into memory, checking them."""
    from pointcnn_cli.fitting import Fit

    count = len(split.train) + len(split.validation)
    with explain_shortage(f"reading {count} rows", _suggest(config, split)):
        training, validation = _read_part(source, split.train), _read_part(source, split.validation)
        _set_statistics(config, network, training)
        return Fit(config, source.index, network, training, validation, team=team)


def _stream(
    config: Config, source: Source, split: Split, network: "keras.Model", plan: Plan, team: Team | None
) -> "Fit":
    """Read all rows once, block by block: what is wrong with any is told before the first epoch."""
    from pointcnn_cli.batches import iterate_blocks
    from pointcnn_cli.fitting import Fit

    count = len(split.train) + len(split.validation)
    with explain_shortage(f"reading {count} rows", _suggest(config, split)):
        training, validation = _open_part(source, split.train), _open_part(source, split.validation)
        checked = [validation] if _set_statistics(config, network, training) else [training, validation]
        for part in checked:
            for block in iterate_blocks(np.arange(len(part.labels))):
                part.source.read(block)
        return Fit(config, source.index, network, training, validation, plan, team)


def _set_statistics(config: Config, network: "keras.Model", training: "PartRows") -> bool:
    """Give the network the statistics of the training rows, if it wants them; whether the rows were read for that."""
    from pointcnn_cli.batches import compute_statistics

    if config.model.normalize == "none":
        return False
    numbers = np.arange(len(training.labels))
    statistics = compute_statistics(training.source, numbers, config.model.normalize == "masked")
    network.get_layer("normalization").set_weights(list(statistics))
    return True


def _read_part(source: Source, rows: NDArray[np.int64]) -> "PartRows":
    from pointcnn_cli.feeding import PartRows

    labels, classes = _find_labels(source, rows)
    first, second, third, fourth = source.read(rows)
    return PartRows(rows, ArraySource(Samples((first, second, third, fourth), labels, classes)), labels)


def _open_part(source: Source, rows: NDArray[np.int64]) -> "PartRows":
    from pointcnn_cli.feeding import PartRows

    labels, _ = _find_labels(source, rows)
    return PartRows(rows, PartSource(source, rows), labels)


def _find_labels(source: Source, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    index = source.index
    if index.labels is None or index.classes is None:
        raise DataError("the data have no labels", "name the dataset that holds them in data.labels")
    return index.labels[rows], index.classes

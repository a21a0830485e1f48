"""Rows that are streamed: the plan and its order, what is held, what is read, and whole streamed trainings."""

import json
import shutil
import subprocess
import threading
import time
import tracemalloc
from concurrent.futures import CancelledError
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, SMALL, Listener
from hdf5_files import config as data_config
from hdf5_files import make_channels, write_file
from processes import check_same_end, start, wait_for

from pointcnn_cli import loading, training
from pointcnn_cli.config.load import load_config, load_resolved
from pointcnn_cli.config.schema import Config
from pointcnn_cli.errors import ConfigError, DataError, Interrupted, RunError, TrainingError
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.hdf5.samples import PartSource, Source
from pointcnn_cli.memory import Available, Need
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.splits.parts import Split
from pointcnn_cli.streaming import Plan, Stream, find_blocks, order_windows, plan_stream

CLASSES = 9
ROW_BYTES = 240  # of hdf5_files.make_channels: 6 coordinates of 5 points in 4 frames, float16
DTYPES = ["float16"] * 4


def write_chunked(path: Path, rows: int, chunk: int | None, labels=None, seed: int = 0, **options) -> Path:
    """A file of distinct values with chunks of `chunk` rows (None: contiguous)."""
    write_file(path, rows, labels, classes=[str(i) for i in range(CLASSES)])
    with h5py.File(path, "a") as file:
        for i, values in enumerate(make_channels(rows, seed=seed), 1):
            del file[f"channel_{i}"]
            chunks = (chunk, *values.shape[1:]) if chunk else None
            file.create_dataset(f"channel_{i}", data=values, chunks=chunks, **options)
    return path


def open_stream(source: Source, rows, limit: int, *, batch: int = 10, seed: int = 3, epochs: int = 2) -> Stream:
    plan = plan_stream(source, len(rows), ROW_BYTES, batch, limit)
    return Stream(PartSource(source, rows), rows, source.index.labels[rows], DTYPES, plan, seed, epochs)


def mean_entropy(labels, batch: int) -> float:
    """The mean entropy of the labels of whole batches, in nats."""
    batches = labels[: len(labels) // batch * batch].reshape(-1, batch)
    shares = np.stack([np.bincount(one, minlength=CLASSES) / batch for one in batches])
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return float(-(shares * logs).sum(axis=1).mean())


# --- the plan ---


@pytest.mark.parametrize("chunk", [None, 7, 50, 1000])
@pytest.mark.parametrize("limit", [25_000, 100_000, 1_000_000])
def test_a_plan_holds_as_much_as_the_limit_allows_and_no_more(chunk, limit, tmp_path):
    with open_hdf5(data_config(write_chunked(tmp_path / "a.h5", 2000, chunk))) as source:
        plan = plan_stream(source, 100_000, ROW_BYTES, 10, limit)
    held = plan.count_held_rows(10) * ROW_BYTES
    assert 0.8 * limit < held <= limit
    assert plan.window_rows // plan.block_rows >= min(36, plan.window_rows)  # four blocks for each class
    assert plan.block_rows % (chunk or 1) == 0 or plan.unpackings > 1


def test_a_plan_keeps_chunks_whole_where_the_window_has_room_and_else_cuts_them_evenly(tmp_path):
    with open_hdf5(data_config(write_chunked(tmp_path / "a.h5", 2000, 50))) as source:
        assert plan_stream(source, 10**6, ROW_BYTES, 10, 10**8).block_rows % 50 == 0
        small = plan_stream(source, 10**6, ROW_BYTES, 10, 400_000)
    assert small.window_rows // 36 < 50
    assert small.block_rows == -(-50 // small.unpackings)


def test_a_limit_that_is_too_small_is_refused_with_one_that_suffices(tmp_path):
    with open_hdf5(data_config(write_chunked(tmp_path / "a.h5", 200, 50))) as source:
        with pytest.raises(ConfigError, match="of 1000 bytes is too small: windows of 2 batches of 10 rows") as raised:
            plan_stream(source, 100, ROW_BYTES, 10, 1000)
        assert raised.value.exit_code == 4
        enough = int(raised.value.hint.removeprefix("set data.memory_limit to ").split()[0])
        assert plan_stream(source, 100, ROW_BYTES, 10, enough).window_rows == 20
        with pytest.raises(ConfigError):
            plan_stream(source, 100, ROW_BYTES, 10, enough - 1)


def test_a_plan_survives_json():
    plan = Plan(50, 25, 1000, (700, 800))
    assert Plan.restore(json.loads(json.dumps(asdict(plan)))) == plan
    assert Plan.restore(None) is None


# --- the order ---

PLAN = Plan(chunk_rows=20, block_rows=20, window_rows=800, file_rows=(1500, 2500))
ROWS = np.flatnonzero(np.random.default_rng(1).random(4000) < 0.8)
LABELS = np.sort(np.random.default_rng(2).integers(0, CLASSES, 4000))[ROWS]


def order(seed: int, epoch: int, plan: Plan = PLAN, labels=LABELS) -> list[np.ndarray]:
    return order_windows(find_blocks(ROWS, plan), labels, plan, seed, epoch)


@pytest.mark.parametrize(
    "plan", [PLAN, Plan(30, 10, 400, (1500, 2500)), Plan(1, 1, 36, (4000,)), Plan(7, 7, 9999, (4000,))]
)
def test_an_epoch_has_every_row_once_in_windows_that_are_not_too_large(plan):
    windows = order(0, 1, plan)
    np.testing.assert_array_equal(np.sort(np.concatenate(windows)), np.arange(len(ROWS)))
    assert max(map(len, windows)) <= plan.window_rows


def test_the_order_follows_from_seed_and_epoch():
    whole = np.concatenate(order(5, 2))
    np.testing.assert_array_equal(whole, np.concatenate(order(5, 2)))
    assert not np.array_equal(whole, np.concatenate(order(5, 3)))
    assert not np.array_equal(whole, np.concatenate(order(6, 2)))
    assert {frozenset(window.tolist()) for window in order(5, 2)} != {frozenset(w.tolist()) for w in order(5, 3)}


@pytest.mark.parametrize("sizes", [(20, 20), (30, 10), (8, 24)])
def test_a_block_is_never_in_two_chunks_nor_in_two_files_nor_in_two_windows(sizes):
    chunk, size = sizes
    plan = Plan(chunk, size, 800, (1500, 2500))
    blocks = find_blocks(ROWS, plan)
    inner = np.where(ROWS < 1500, ROWS, ROWS - 1500)
    unit = max(sizes)
    for block in range(blocks[-1] + 1):
        members = np.flatnonzero(blocks == block)
        assert len(set((ROWS[members] < 1500).tolist())) == len(set((inner[members] // unit).tolist())) == 1
        assert np.ptp(ROWS[members]) < size
    of_windows = [set(blocks[window].tolist()) for window in order(0, 1, plan)]
    assert sum(map(len, of_windows)) == len(set.union(*of_windows))


def test_a_sorted_gzip_file_gives_batches_as_mixed_as_a_full_shuffle(tmp_path):
    rows, batch = 5400, 50
    path = write_chunked(tmp_path / "a.h5", rows, 20, np.arange(rows) * CLASSES // rows, compression="gzip")
    with open_hdf5(data_config(path)) as source:
        labels = source.index.labels
        stream = open_stream(source, np.arange(rows), 1100 * ROW_BYTES, batch=batch)
        plan = plan_stream(source, rows, ROW_BYTES, batch, 1100 * ROW_BYTES)
        streamed = np.concatenate([labels[places] for places, _ in stream.iterate_batches(1, batch)])
        stream.close()
    assert plan.window_rows < rows // CLASSES  # less than the run of one class
    shuffled = mean_entropy(np.random.default_rng(0).permutation(labels), batch)
    assert mean_entropy(labels, batch) < 0.05 * shuffled
    assert mean_entropy(streamed, batch) > 0.95 * shuffled


# --- what is read ---


@pytest.fixture(params=["contiguous", "gzip", "large chunks", "several files"])
def source(request, tmp_path):
    kinds = {
        "contiguous": [(600, None)],
        "gzip": [(600, 8)],
        "large chunks": [(600, 250)],
        "several files": [(250, 8), (350, None)],
    }
    paths = [
        write_chunked(tmp_path / f"{i}.h5", rows, chunk, seed=i, **({"compression": "gzip"} if chunk else {}))
        for i, (rows, chunk) in enumerate(kinds[request.param])
    ]
    with open_hdf5(data_config(*paths)) as opened:
        yield opened


def test_batches_hold_the_rows_of_the_order_whatever_was_read_before(source):
    rows = np.flatnonzero(np.arange(600) % 5 != 2)
    stream = open_stream(source, rows, 200 * ROW_BYTES, epochs=3)
    everything = source.read(np.arange(600))
    next(iter(stream.iterate_batches(1, 10)))  # as when one batch is tried
    for epoch in (1, 2, 3):
        places = []
        for batch, channels in stream.iterate_batches(epoch, 10):
            places.append(batch)
            for channel, values in zip(channels, everything, strict=True):
                np.testing.assert_array_equal(channel, values[rows[batch]])
        assert [len(batch) for batch in places] == [10] * 48
        np.testing.assert_array_equal(np.concatenate(places), stream.order_rows(epoch))
    stream.close()


def test_the_last_batch_of_an_epoch_is_what_is_left(source):
    stream = open_stream(source, np.arange(95), 200 * ROW_BYTES)
    assert [len(places) for places, _ in stream.iterate_batches(2, 10)] == [10] * 9 + [5]
    stream.close()


def test_what_is_held_stays_within_the_limit(tmp_path):
    limit = 4_000_000
    path = write_chunked(tmp_path / "a.h5", 60_000, 64, compression="gzip", compression_opts=1)
    with open_hdf5(data_config(path)) as source:
        rows = np.arange(60_000)
        source.read(rows[:100])
        tracemalloc.start()
        stream = open_stream(source, rows, limit, batch=50)
        stream.order_rows(1)
        order = tracemalloc.get_traced_memory()[0] - sum(channel.nbytes for channel in (*stream._held, *stream._spare))
        tracemalloc.reset_peak()
        for _ in stream.iterate_batches(1, 50):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        stream.close()
    assert peak - 2 * order < limit
    assert peak > 0.6 * limit


def test_a_bad_row_ends_a_stream_with_its_place(tmp_path):
    paths = [write_chunked(tmp_path / f"{i}.h5", 300, 8, seed=i, compression="gzip") for i in range(2)]
    with h5py.File(paths[1], "a") as file:
        file["channel_3"][211, 0, 2, 1] = np.inf
    with open_hdf5(data_config(*paths)) as source:
        stream = open_stream(source, np.arange(600), 200 * ROW_BYTES)
        with pytest.raises(DataError, match=r"1\.h5, row 211, dataset 'channel_3': inf at depth 0, point 2, frame 1"):
            list(stream.iterate_batches(1, 10))
        stream.close()


class SlowDisk:
    """A source that takes its time."""

    def __init__(self, source: Source) -> None:
        self.source, self.index, self.chunk_rows = source, source.index, source.chunk_rows

    def read(self, rows, out=None):
        time.sleep(0.5)
        return self.source.read(rows, out)


def test_a_wait_for_rows_can_be_given_up(source):
    class Enough(Exception):
        pass

    def give_up() -> None:
        raise Enough

    rows, plan = np.arange(600), Plan(8, 8, 400, (600,))
    stream = Stream(SlowDisk(source), rows, source.index.labels, DTYPES, plan, 0, 1)
    started = time.monotonic()
    with pytest.raises(Enough):
        stream.prepare(1, give_up)
    consumer = threading.Thread(target=lambda: next(stream.iterate_batches(1, 10)))
    consumer.start()
    while not stream._waiting:
        time.sleep(0.01)
    with pytest.raises(Enough):
        stream.wait(give_up)
    assert time.monotonic() - started < 8 * 0.5  # the calls of one window take as long as that
    stream.wait(lambda: None)
    consumer.join()
    stream.close()


def test_closing_ends_the_reader(source):
    before = threading.active_count()
    stream = open_stream(source, np.arange(600), 200 * ROW_BYTES)
    batches = stream.iterate_batches(1, 10)
    next(batches)
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before
    with pytest.raises((RuntimeError, CancelledError)):  # nothing is made up for what was not read
        list(batches)


# --- whole trainings ---

LIMIT = "data.memory_limit=500kB"


def list_settings(path: Path, *more: str) -> list[str]:
    """A training whose 96 rows of 9.2 kB do not fit into `LIMIT`."""
    network = ["model.name=pointnet_tcn", "train.class_weight=balanced", "train.early_stopping=null"]
    return [f"data.path={path}", *network, "train.epochs=3", "train.batch_size=5", LIMIT, *more]


def train(target: Path, path: Path, *more: str, listener: Reporter | None = None) -> RunDir:
    config = load_config(ROOT / "configs" / "smoke.yaml", list_settings(path, *more))
    return training.train(config, target, ["pointcnn"], listener or Reporter()).run


@pytest.fixture(scope="module")
def streamed(simulated_file, tmp_path_factory):
    """A finished streamed training and what it said; not to be changed."""
    listener = Listener()
    return train(tmp_path_factory.mktemp("runs") / "streamed", simulated_file, listener=listener), listener.said


def test_a_streamed_training_says_so_with_the_sizes_and_keeps_its_plan(streamed):
    run, said = streamed
    (line,) = [text for text in said if text.startswith("streaming")]
    plan = Plan.restore(run.read_manifest()["streaming"])
    assert line == (
        "streaming the training rows: all rows take 0.9 MB, and data.memory_limit lets them take 0.5 MB; "
        f"{plan.window_rows} rows are shuffled at a time, drawn from all over the files in blocks of {plan.block_rows}"
    )
    assert plan.count_held_rows(5) * 9216 <= 500_000
    assert load_resolved(run.config).data.memory_limit == 500_000
    assert len(run.read_metrics()["per_class"]) == 6


def test_a_streamed_training_that_is_interrupted_continues_to_the_same_end_whatever_memory_there_is_then(
    streamed, simulated_file, tmp_path, monkeypatch
):
    with pytest.raises(Interrupted):
        train(tmp_path / "run", simulated_file, listener=Listener(signal_at=(2, 3)))
    monkeypatch.setattr("pointcnn_cli.loading.find_available", lambda: Available(10**12, "a larger machine"))
    listener = Listener()
    training.resume(tmp_path / "run", listener)
    assert "continuing after epoch 1" in listener.said
    assert any(text.startswith("streaming the training rows as the run began; ") for text in listener.said)
    check_same_end(RunDir.open(tmp_path / "run"), streamed[0])


@pytest.mark.slow
def test_a_streamed_training_that_is_killed_continues_to_the_same_end_in_another_process(
    streamed, simulated_file, tmp_path
):
    run = RunDir(tmp_path / "run")
    options = [part for setting in list_settings(simulated_file) for part in ("--set", setting)]
    smoke = ROOT / "configs" / "smoke.yaml"
    process = start("train", smoke, *options, "--output", run.path, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(run.path.glob("checkpoints/state-00001*")), process)
    process.kill()
    process.wait()
    training.resume(run.path, Reporter())
    check_same_end(run, streamed[0])


def test_another_limit_stops_resume_since_it_would_change_the_order(streamed, tmp_path):
    shutil.copytree(streamed[0].path, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("memory_limit: 500000", "memory_limit: 600000"))
    with pytest.raises(RunError, match=r"data\.memory_limit was 500000, is 600000"):
        training.resume(tmp_path / "run", Reporter())


def test_rows_within_the_limit_train_as_they_do_without_one(trained, tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml", [*SMALL, "data.memory_limit=1GiB"])
    run = training.train(config, tmp_path / "run", ["pointcnn"], Reporter()).run
    check_same_end(run, trained.run)
    assert run.read_manifest()["streaming"] is None


def test_bad_rows_of_either_part_end_a_streamed_training_before_it_begins(simulated_file, streamed, tmp_path):
    split = json.loads(streamed[0].split.read_text())
    for part, settings in (("train", ()), ("train", ("model.normalize=none",)), ("validation", ())):
        bad = tmp_path / "bad.h5"
        shutil.copy(simulated_file, bad)
        row = split[part][-2]
        with h5py.File(bad, "a") as file:
            file["channel_2"][row, 0, 3, 4] = np.nan
        with pytest.raises(DataError, match=rf"bad\.h5, row {row}, dataset 'channel_2': nan at depth 0, point 3"):
            train(tmp_path / "run", bad, *settings)
        assert not (tmp_path / "run").exists()


def test_too_small_a_limit_names_one_that_suffices(simulated_file, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.memory_limit of 100000 bytes is too small") as raised:
        train(tmp_path / "run", simulated_file, "data.memory_limit=100kB")
    assert raised.value.hint.startswith("set data.memory_limit to ")


def test_where_neither_held_nor_streamed_rows_fit_no_run_is_made(simulated_file, tmp_path, monkeypatch):
    monkeypatch.setattr("pointcnn_cli.loading.find_available", lambda: Available(10**6, "a tiny machine"))
    with pytest.raises(TrainingError, match=r"training needs about .* the limit is a tiny machine") as raised:
        train(tmp_path / "run", simulated_file, "data.memory_limit=null")
    assert raised.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


# --- held or streamed ---

GB = 10**9


@pytest.mark.parametrize(
    ("stated", "available", "limit"),
    [
        (None, None, None),  # nothing is known, so nothing is streamed
        (None, 10 * GB, None),
        (None, 4 * GB, 2 * GB),  # the rows take 2.4 GB, which is more than half
        (None, 5 * GB, 2.5 * GB),  # they are within half, but not while they are read, when they are there twice
        ("3GB", 5 * GB, 2.5 * GB),
        ("1GB", 100 * GB, 1 * GB),
        ("3GB", 100 * GB, None),
        ("1GB", None, 1 * GB),
    ],
)
def test_rows_are_streamed_where_they_exceed_the_limit_or_do_not_fit(stated, available, limit, tmp_path):
    settings = Config(data={"path": "a.h5", "memory_limit": stated}, train={"batch_size": 10})
    split = Split(np.arange(800), np.arange(800, 1000), None, "auto")
    sizes = loading._Sizes(stored=2_400_000, device=(2_000_000, 400_000), values=1_200_000)
    held = Need(rows=6 * GB, upload=GB, weights=0, batch_row=0)
    memory = None if available is None else Available(available, "this machine")
    with open_hdf5(data_config(write_chunked(tmp_path / "a.h5", 1000, 8))) as source:
        plan, kept = loading._choose(settings, source, split, sizes, held, memory)
    assert (plan is not None) == (limit is not None)
    if plan is not None:
        assert kept == limit
        assert 0.8 * limit < plan.count_held_rows(10) * 2_400_000 <= limit


# --- a stream in the training loop ---


def test_a_row_that_goes_bad_while_a_stream_trains_is_named(simulated_file, tmp_path):
    from pointcnn_cli.feeding import PartRows
    from pointcnn_cli.fitting import Fit, build_network
    from pointcnn_cli.signals import StopRequest

    path = tmp_path / "bad.h5"
    shutil.copy(simulated_file, path)
    with h5py.File(path, "a") as file:
        file["channel_4"][60, 0, 0, 0] = np.nan
    settings = Config(
        data={"path": str(path)},
        model={"name": "pointnet_tcn", "normalize": "none"},
        train={"epochs": 1, "batch_size": 5},
    )
    with open_hdf5(settings.data) as source:
        rows = np.arange(80)
        part = PartRows(rows, PartSource(source, rows), source.index.labels[rows])
        plan = Plan(chunk_rows=4, block_rows=4, window_rows=20, file_rows=(96,))
        fit = Fit(settings, source.index, build_network(settings, source.index), part, part, plan)
        fit.trainer.run_eagerly = fit.model.run_eagerly = True
        run = RunDir.create(tmp_path / "run", "", {}, {})
        with pytest.raises(DataError, match=r"bad\.h5, row 60, dataset 'channel_4': nan"):
            fit.run(run, Reporter(), StopRequest())
        run.unlock()


def test_a_finished_epoch_holds_no_batch():
    """TensorFlow keeps the function that makes batches as long as the process lives."""
    import gc
    import weakref

    from pointcnn_cli.pipelines import arrange_batches

    made = []

    class Batch(np.ndarray):
        """An array that can be referred to weakly."""

    def make_batches(check):
        for _ in range(3):
            batch = np.zeros((2, 5), "float32").view(Batch)
            made.append(weakref.ref(batch))
            yield (batch,), np.zeros((2, 1), "float32")

    signature = ((((None, 5), "float32"),), ((None, 1), "float32"))
    assert len(list(arrange_batches(make_batches, signature, 3, lambda: None))) == 3
    gc.collect()
    assert len(made) == 3
    assert not any(reference() is not None for reference in made)

"""Tables of predictions: the same numbers in every format, written block by block, whole or not at all."""

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pointcnn_cli.errors import DataError, OutputError, RunError, UsageError
from pointcnn_cli.tables import Predictions, read_predictions, write_csv, write_predictions

CLASSES = ("walk", "jump, then 'sit'", 'say "hi"', "=1+1", "früh 🏃", "two\nlines")
NAMES = (".csv", ".jsonl", ".h5", ".parquet")
MISSING = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
SUFFIXES = (*NAMES[:3], pytest.param(".parquet", marks=MISSING))
TABLES = (*NAMES[:2], SUFFIXES[3])
FIRST = ["index", "file", "predicted", "confidence"]


def make_block(rows: int, first: int = 0, *, labelled: bool = False, classes: int = len(CLASSES)) -> Predictions:
    """Probabilities with bits that few decimals would lose, among them the smallest and largest that occur."""
    rng = np.random.default_rng(first)
    p = rng.dirichlet(np.full(classes, 0.3), rows).astype(np.float32)
    p[0] = [np.nextafter(np.float32(1), np.float32(0)), *[np.float32(1e-45)] * (classes - 1)]
    numbers = np.arange(first, first + rows)
    labels = [CLASSES[i % classes] for i in numbers] if labelled else None
    groups = [f"person, {i}" for i in numbers] if labelled else None
    return Predictions(numbers, [f"/data/a '{i % 2}'.h5" for i in numbers], p, labels, groups)


BLOCKS = [make_block(5), make_block(1, 5), make_block(4, 6)]
PROBABILITIES = np.concatenate([block.probabilities for block in BLOCKS])  # (rows, classes)


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


@pytest.mark.parametrize("suffix", TABLES)
def test_every_format_holds_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    assert write_predictions(path, CLASSES, iter(BLOCKS)) == 10
    rows = READERS[suffix](path)
    assert list(rows[0]) == FIRST + [f"p_{name}" for name in CLASSES]
    read = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    assert np.array_equal(read.astype(np.float32), PROBABILITIES)
    assert [int(row["index"]) for row in rows] == list(range(10))
    assert [row["file"] for row in rows] == [name for block in BLOCKS for name in block.files]
    assert [row["predicted"] for row in rows] == [CLASSES[i] for i in PROBABILITIES.argmax(axis=1)]
    confidence = np.array([float(row["confidence"]) for row in rows])
    assert np.array_equal(confidence.astype(np.float32), PROBABILITIES.max(axis=1))


def test_hdf5_holds_the_same_numbers(tmp_path):
    assert write_predictions(tmp_path / "out.h5", CLASSES, iter(BLOCKS)) == 10
    with h5py.File(tmp_path / "out.h5") as file:
        assert set(file) == {"predicted", "probabilities"}
        assert file["probabilities"].dtype == np.float32
        assert np.array_equal(file["probabilities"][()], PROBABILITIES)
        assert np.array_equal(file["predicted"][()], PROBABILITIES.argmax(axis=1))
        assert tuple(file.attrs["classes"]) == tuple(file["predicted"].attrs["classes"]) == CLASSES


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_predictions_give_equal_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        write_predictions(tmp_path / f"{name}{suffix}", CLASSES, iter(BLOCKS))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("bits", [0x00000001, 0x3F7FFFFF, 0x3E4CCCCD, 0x3EAAAAAB, 0x3F800000, 0x0])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_each_bit_of_a_float32_survives_text(tmp_path, suffix, bits):
    value = np.array([[bits]], np.uint32).view(np.float32)  # (1, 1)
    write_predictions(tmp_path / f"out{suffix}", ("one",), [Predictions(np.arange(1), ["a"], value)])
    (row,) = READERS[suffix](tmp_path / f"out{suffix}")
    assert np.float32(row["p_one"]).tobytes() == np.float32(row["confidence"]).tobytes() == value.tobytes()


@pytest.mark.parametrize("suffix", TABLES)
def test_labels_and_groups_come_last_where_known(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_predictions(path, CLASSES, [make_block(3, labelled=True), make_block(2, 3, labelled=True)])
    rows = READERS[suffix](path)
    assert list(rows[0])[-2:] == ["label", "group"]
    assert [row["label"] for row in rows] == list(CLASSES[:5])
    assert [row["group"] for row in rows] == [f"person, {i}" for i in range(5)]


@pytest.mark.parametrize("suffix", TABLES)
def test_labels_without_groups(tmp_path, suffix):
    block = make_block(2, labelled=True)
    path = tmp_path / f"out{suffix}"
    write_predictions(path, CLASSES, [Predictions(block.numbers, block.files, block.probabilities, block.labels)])
    assert list(READERS[suffix](path)[0])[len(FIRST) + len(CLASSES) :] == ["label"]


NO_ROWS = Predictions(np.zeros(0, np.int64), [], np.zeros((0, len(CLASSES)), np.float32))


@pytest.mark.parametrize("blocks", [[], [NO_ROWS]])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows_give_a_valid_file_with_column_names(tmp_path, suffix, blocks):
    path = tmp_path / f"out{suffix}"
    assert write_predictions(path, CLASSES, blocks) == 0
    if suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            assert list(csv.reader(file)) == [FIRST + [f"p_{name}" for name in CLASSES]]
    elif suffix == ".jsonl":
        assert path.read_bytes() == b""
    elif suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        assert (table.num_rows, table.column_names) == (0, FIRST + [f"p_{name}" for name in CLASSES])
    else:
        with h5py.File(path) as file:
            assert file["probabilities"].shape == (0, len(CLASSES))


@pytest.mark.parametrize("suffix", TABLES)
def test_a_file_name_that_is_not_text_is_written_all_the_same(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    name = os.fsdecode(b"/data/\xff.h5")
    write_predictions(path, ("one",), [Predictions(np.arange(1), [name], np.ones((1, 1), np.float32))])
    (row,) = READERS[suffix](path)
    assert row["file"] in (name, "/data/\\udcff.h5")


def test_csv_goes_to_any_stream_line_by_line():
    stream = io.BytesIO()
    assert write_csv(stream, ("a", "b"), [make_block(2, classes=2)]) == 2
    lines = stream.getvalue().decode().split("\n")
    assert lines[0] == "index,file,predicted,confidence,p_a,p_b"
    assert lines[1] == "0,/data/a '0'.h5,a,0.99999994,0.99999994,1.40129846e-45"
    assert lines[3:] == [""]
    assert b"\r" not in stream.getvalue()


# --- whole or not at all ---


def count_blocks(seen: list[int]) -> Iterator[Predictions]:
    for i, block in enumerate(BLOCKS):
        seen.append(i)
        yield block


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_output_is_refused_before_any_work(tmp_path, suffix):
    path, seen = tmp_path / f"out{suffix}", []
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already") as caught:
        write_predictions(path, CLASSES, count_blocks(seen))
    assert (caught.value.exit_code, seen, path.read_text()) == (9, [], "mine")
    assert write_predictions(path, CLASSES, count_blocks(seen), force=True) == 10
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["out", "out.txt", "out.csv.gz", ".csv", "out.CSV", "out."])
def test_an_unknown_suffix_is_wrong_usage_before_any_work(tmp_path, name):
    seen: list[int] = []
    with pytest.raises(UsageError, match=r"none of \.csv, \.jsonl, \.h5, \.parquet") as caught:
        write_predictions(tmp_path / name, CLASSES, count_blocks(seen))
    assert (caught.value.exit_code, seen, os.listdir(tmp_path)) == (2, [], [])


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_that_fail_half_way_leave_nothing(tmp_path, suffix, force):
    def blocks() -> Iterator[Predictions]:
        yield BLOCKS[0]
        raise DataError("row 7 is damaged")

    path = tmp_path / f"out{suffix}"
    if force:
        path.write_text("old")
    with pytest.raises(DataError, match="row 7"):
        write_predictions(path, CLASSES, blocks(), force=force)
    assert os.listdir(tmp_path) == ([path.name] if force else [])
    assert not force or path.read_text() == "old"


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from pointcnn_cli.errors import OutputError
from pointcnn_cli.tables import Predictions, write_predictions
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
block = Predictions(np.arange(4000), ["a"] * 4000, np.random.default_rng(0).random((4000, 3)).astype(np.float32))
for suffix in sys.argv[2:]:
    path = Path(sys.argv[1]) / f"out{suffix}"
    path.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    try:
        write_predictions(path, ("a", "b", "c"), [block, block], force=True)
    except OutputError as error:
        print(error.exit_code, error.message)
"""


def test_a_full_disk_leaves_the_old_file_in_every_format(tmp_path):
    suffixes = NAMES if importlib.util.find_spec("pyarrow") else NAMES[:3]
    command = [sys.executable, "-c", FULL, str(tmp_path), *suffixes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for line, suffix in zip(done.stdout.splitlines(), suffixes, strict=True):
        assert line.startswith(f"9 {tmp_path}/out{suffix}: the disk is full")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {f"out{s}": "old" for s in suffixes}


def test_parquet_without_its_package_names_it():
    code = """
import sys
from pathlib import Path
sys.modules["pyarrow"] = None  # makes the import fail, as if it were not installed
from pointcnn_cli.errors import MissingDependencyError
from pointcnn_cli.tables import choose_writer
choose_writer(Path("out.csv"))
try:
    choose_writer(Path("out.parquet"))
except MissingDependencyError as error:
    print(error.exit_code, error.message, "|", error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "5 writing Parquet needs the package pyarrow | pip install pyarrow\n"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path, suffix):
    def measure(blocks: int) -> int:
        tracemalloc.start()
        write_predictions(tmp_path / f"out{suffix}", CLASSES, (make_block(200, i) for i in range(blocks)), force=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    measure(1)  # whatever is set up once
    assert measure(30) < 1.5 * measure(2)


# --- further columns, and reading back ---


def add_columns(block: Predictions) -> Predictions:
    rng = np.random.default_rng(9)
    doubt = rng.random(len(block.numbers)).astype(np.float32)
    return replace(block, columns={"doubt": doubt, "fold": block.numbers % 3})


@pytest.mark.parametrize("suffix", TABLES)
def test_further_columns_come_last_and_keep_their_values(suffix, tmp_path):
    blocks = [add_columns(make_block(5, labelled=True)), add_columns(make_block(3, 5, labelled=True))]
    write_predictions(tmp_path / f"p{suffix}", CLASSES, blocks)
    rows = READERS[suffix](tmp_path / f"p{suffix}")
    assert list(rows[0])[-4:] == ["label", "group", "doubt", "fold"]
    doubts = np.array([float(row["doubt"]) for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(doubts, np.concatenate([block.columns["doubt"] for block in blocks]))
    assert [str(row["fold"]) for row in rows] == [str(i % 3) for i in range(8)]


def test_further_columns_are_datasets_of_an_hdf5_file(tmp_path):
    blocks = [add_columns(make_block(5)), add_columns(make_block(3, 5))]
    write_predictions(tmp_path / "p.h5", CLASSES, blocks)
    with h5py.File(tmp_path / "p.h5") as file:
        assert sorted(file) == ["doubt", "fold", "predicted", "probabilities"]
        np.testing.assert_array_equal(file["doubt"], np.concatenate([block.columns["doubt"] for block in blocks]))
        np.testing.assert_array_equal(file["fold"], np.arange(8) % 3)


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_read_back_are_those_that_were_written(labelled, tmp_path):
    block = make_block(6, labelled=labelled)
    write_predictions(tmp_path / "p.csv", CLASSES, [add_columns(block)])
    found = read_predictions(tmp_path / "p.csv", CLASSES)
    np.testing.assert_array_equal(found.numbers, block.numbers)
    np.testing.assert_array_equal(found.probabilities, block.probabilities)
    assert (found.files, found.labels, found.groups) == (block.files, block.labels, block.groups)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: data[:-30], "a line is cut off"),
        (lambda data: data.replace(b"p_walk", b"p_run"), "not those of the run's classes"),
        (lambda data: data.replace(b"\n0,", b"\nzero,"), "damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: b"\xff" + data, "damaged"),
        (None, "no such file"),
    ],
)
def test_damaged_predictions_are_told(damage, text, tmp_path):
    path = tmp_path / "p.csv"
    if damage is not None:
        write_predictions(path, CLASSES, [make_block(3)])
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=text):
        read_predictions(path, CLASSES)

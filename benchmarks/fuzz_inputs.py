"""What `fuzz.py` feeds to the readers: generated configs, and sound files with a few bytes changed."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pointcnn_cli.checkpoints import pack
from pointcnn_cli.config.wording import all_keys

ROOT = Path(__file__).resolve().parent.parent
Generator = np.random.Generator
CHANNELS = ("channel_1", "channel_2", "channel_3", "channel_4")
_ROWS, _POINTS, _FRAMES = 12, 5, 4
_LIKELY = 0.75  # share of changes made where they are most likely to mislead

INTERESTING = (0, 1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Numbers at which lengths, counts and addresses overflow."""

SCALARS = (
    "null", "~", "true", "no", "0", "1", "-1", "3", "20", "0.5", "1e-3", "1.5", "1e400", ".inf", "-.inf", ".nan",
    "x.h5", "''", "'*.h5'", "data/*.h5", "tail", "file", "stratified", "stratified_group", "pointcnn", "pointnet_tcn",
    "masked", "balanced", "auto", "best", "last", "gpu", "cosine", "float32", "mixed_float16", "group",
    "9223372036854775808", "0x1f", "1_000", "1:30", "2024-01-02", "\u00e9\u4e2d", "'a b'", '"\\ud800"', '"\\0"',
    '"\\x41"', "!!int 5", "&a 1", "*a", "{", "]", "@x", "|\n  text", ">-\n  text", "9" * 500, "x" * 300, "- 1", "a: b",
    "# only", "\t1", "'open",
)  # fmt: skip
_PIECES = (
    "\n",
    ":",
    ": ",
    "- ",
    "[",
    "}",
    ",",
    "&a",
    "*a",
    "!!str ",
    "? ",
    "'",
    '"',
    "---\n",
    "\t",
    "<<: ",
    "#",
    "\x85",
)


@dataclass(frozen=True)
class Sound:
    """A sound file, and the bytes of it that say how the others are to be read."""

    data: bytes
    likely: np.ndarray  # (n,) their places


def make_config(generator: Generator, shipped: Sequence[bytes]) -> bytes:
    """The text of a config: generated, shipped, or either with damage."""
    written = generator.random() < 0.7
    text = _write_section(generator, _choose_tree(generator), 0).encode() if written else choose(generator, shipped)
    if generator.random() < (0.3 if written else 0.95):
        text = change_bytes(generator, Sound(text, np.arange(len(text))))
    if generator.random() < 0.2:
        place = int(generator.integers(0, len(text) + 1))
        text = text[:place] + choose(generator, _PIECES).encode() + text[place:]
    return text


def read_shipped() -> list[bytes]:
    """The configs of the repository."""
    return [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))]


def _choose_tree(generator: Generator) -> dict[str, Any]:
    """Nested keys of the schema (now and then others) with values for them, right or wrong."""
    tree: dict[str, Any] = {"data": {"path": "x.h5"}} if generator.random() < 0.9 else {}
    for _ in range(int(generator.integers(0, 9))):
        *sections, last = choose(generator, (*all_keys(), "train.epoch", "nope", "a.b.c")).split(".")
        place = tree
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[last] = _choose_likely(generator, last) if generator.random() < 0.7 else _choose_value(generator, 0)
    return tree


def _choose_likely(generator: Generator, name: str) -> str:
    """A value of a kind that a key of this name often has."""
    if name in ("file", "path", "name", "labels", "groups", "recordings"):
        return str(choose(generator, ("x.h5", "a", "group", "auto", "null")))
    if name.endswith(("fraction", "dropout", "rate", "decay", "smoothing")):
        return str(round(float(generator.random()), int(generator.integers(1, 5))))
    return str(choose(generator, ("null", generator.integers(0, 100), "true", "auto", "pointcnn", "tail", "best")))


def _choose_value(generator: Generator, depth: int) -> Any:
    kind = generator.random()
    if kind < 0.1 and depth < 30:
        return [_choose_value(generator, depth + 1) for _ in range(int(generator.integers(0, 5)))]
    if kind < 0.15 and depth < 30:
        return {choose(generator, SCALARS): _choose_value(generator, depth + 1)}
    if kind < 0.4:
        return str(choose(generator, (generator.integers(-5, 200), round(float(generator.normal()), 3))))
    return choose(generator, SCALARS)


def _write_section(generator: Generator, value: Any, indent: int) -> str:
    """YAML in block style, now and then in flow style, now and then wrongly indented."""
    if isinstance(value, str):
        return f" {value}\n"
    if generator.random() < 0.15:
        return " " + json.dumps(value, ensure_ascii=bool(generator.random() < 0.5)).replace('"', "") + "\n"
    lines = [] if indent == 0 else ["\n"]
    step = indent + (2 if generator.random() < 0.97 else 1)
    for key in value if isinstance(value, dict) else [None] * len(value):
        item = value[key] if key is not None else value[len(lines) - (indent > 0)]
        lines.append(" " * indent + (f"{key}:" if key is not None else "-") + _write_section(generator, item, step))
    return "".join(lines) or " {}\n"


def choose(generator: Generator, options: Sequence[Any]) -> Any:
    """One of `options`."""
    return options[int(generator.integers(0, len(options)))]


def change_bytes(generator: Generator, sound: Sound) -> bytes:
    """The file with one to four changes: bits, bytes, telling numbers, blocks moved or blanked, the end cut off."""
    data = bytearray(sound.data)
    for _ in range(int(generator.integers(1, 5))):
        if len(data) == 0:
            break
        place = _choose_place(generator, sound, len(data))
        kind = generator.random()
        if kind < 0.3:
            data[place] ^= 1 << int(generator.integers(0, 8))
        elif kind < 0.5:
            data[place : place + 1] = generator.bytes(1)
        elif kind < 0.6:
            length = int(generator.integers(2, 17))
            data[place : place + length] = generator.bytes(min(length, len(data) - place))
        elif kind < 0.85:
            _write_number(generator, data, place)
        elif kind < 0.97:
            _move_block(generator, data, place)
        else:
            del data[int(generator.integers(0, len(data))) :]
    return bytes(data)


def _choose_place(generator: Generator, sound: Sound, length: int) -> int:
    if len(sound.likely) and generator.random() < _LIKELY:
        return min(int(choose(generator, sound.likely)), length - 1)
    return int(generator.integers(0, length))


def _write_number(generator: Generator, data: bytearray, place: int) -> None:
    """A number of 1, 2, 4 or 8 bytes, low byte first, over what is there, or a step from what is there."""
    width = min(choose(generator, (1, 2, 4, 8)), len(data) - place)
    number = choose(generator, INTERESTING)
    if generator.random() < 0.3:
        number = int.from_bytes(data[place : place + width], "little") + int(generator.integers(-2, 3))
    data[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")


def _move_block(generator: Generator, data: bytearray, place: int) -> None:
    """A block from elsewhere, or zeros, over what is there."""
    length = min(int(generator.integers(4, 257)), len(data) - place)
    source = int(generator.integers(0, len(data) - length + 1))
    block = bytes(length) if generator.random() < 0.3 else bytes(data[source : source + length])
    data[place : place + length] = block


def make_hdf5_files() -> list[Sound]:
    """Small sound files: unpacked, packed by each filter, with and without the last axis, with every kind of label."""
    gzip = {"chunks": True, "compression": "gzip", "shuffle": True}
    lzf = {"chunks": True, "compression": "lzf", "fletcher32": True}
    names = ["walk", "box", "jump"]
    texts = np.array(names * (_ROWS // 3), dtype=h5py.string_dtype())
    codes = np.arange(_ROWS) % 3
    windows = {"recording": np.arange(_ROWS) // 4, "start_frame": np.arange(_ROWS)}
    return [
        _make_hdf5({}, codes, {"group": np.arange(_ROWS) // 2}),
        _make_hdf5(gzip, codes.astype("int8"), windows, names),
        _make_hdf5(lzf, np.eye(3)[codes], {}),
        _make_hdf5(gzip, texts, {"group": np.array([b"anna", b"bob", b"eve"] * (_ROWS // 3))}),
        _make_hdf5({"maxshape": (None, None, None, None, 1), "chunks": (5, 1, 2, 4, 1)}, codes.astype(float), {}),
        _make_hdf5(gzip, codes, {"group": texts}, names, libver="latest"),
    ]  # fmt: skip


def _make_hdf5(
    storage: dict[str, Any], labels: Any, columns: dict[str, Any], names: Any = None, libver: str = "earliest"
) -> Sound:
    generator = np.random.default_rng(0)
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=libver) as file:
        for name, depth in zip(CHANNELS, (3, 1, 1, 1), strict=True):
            values = generator.integers(1, 100, (_ROWS, depth, _POINTS, _FRAMES, 1)).astype("float16")
            file.create_dataset(name, data=values, **storage)
        for name, values in {"label": labels, **columns}.items():
            file.create_dataset(name, data=values)
        if names is not None:
            file["label"].attrs["classes"] = names
        file.create_group("more/below")["other"] = np.arange(3)
    data = stream.getvalue()
    with h5py.File(io.BytesIO(data)) as file:
        taken = np.zeros(len(data), bool)
        for name in CHANNELS:
            _mark_values(file[name], taken)
    return Sound(data, np.flatnonzero(~taken & (np.frombuffer(data, np.uint8) != 0)))


def _mark_values(dataset: h5py.Dataset, taken: np.ndarray) -> None:
    """Mark the bytes that hold values rather than structure."""
    if dataset.chunks is None:
        taken[dataset.id.get_offset() : dataset.id.get_offset() + dataset.id.get_storage_size()] = True
        return
    for number in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(number)
        taken[chunk.byte_offset : chunk.byte_offset + chunk.size] = True


def make_state() -> tuple[dict[str, np.ndarray], dict[str, Any], Sound]:
    """Arrays and facts as a training saves them, and the file of them, whose header is its telling part."""
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        f"weights/{name}/kernel": generator.normal(size=shape).astype("float32")
        for name, shape in (("conv", (3, 3, 2, 4)), ("dense", (16, 3)), ("empty", (0,)))
    }
    arrays |= {"optimizer/iteration": np.array(12), "generators/dropout": generator.integers(0, 2**32, 2, "uint32")}
    facts = {"history": [{"epoch": 1, "loss": 0.5, "val_loss": None}], "callbacks": {"wait": 3}, "epoch": 2}
    data = pack(arrays, facts)
    return arrays, facts, Sound(data, np.arange(8 + int.from_bytes(data[:8], "little")))

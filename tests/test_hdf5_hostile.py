"""Files made to deceive: nothing outside the file is opened, nothing is silently zero, memory stays bounded."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import FRAMES, NAMES, POINTS, config, index_of, refused, write_file

from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.inspect import inspect_file
from pointcnn_cli.hdf5.reading import open_hdf5

SHAPE = (12, 1, POINTS, FRAMES, 1)
VALUES = np.ones(SHAPE, "float32")


def spoil(path: Path, make) -> Path:
    """A good file without channel_2, which `make(file)` then adds in a bad way."""
    write_file(path, channel_2=None)
    with h5py.File(path, "a") as file:
        make(file)
    return path


def low_level(file: h5py.File, shape=SHAPE, chunk=None, filters=(), change=None) -> h5py.h5d.DatasetID:
    """channel_2 with the given filters, through h5py's low-level interface; nothing is written."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk:
        plist.set_chunk(chunk)
    for number in filters:
        options = (4,) if number == 1 else ()
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, options)
    if change:
        change(plist)
    space = h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, b"channel_2", h5py.h5t.IEEE_F32LE, space, plist)


def run_with_timeout(path: Path, names=NAMES) -> str:
    """What opening and inspecting the file in another process says, which must end by itself."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pointcnn_cli.config.schema import DataConfig\n"
        "from pointcnn_cli.errors import DataError\n"
        "from pointcnn_cli.hdf5.reading import open_hdf5\n"
        "from pointcnn_cli.hdf5.inspect import inspect_file\n"
        f"data = DataConfig(path={str(path)!r}, channels={names!r})\n"
        "inspect_file(Path(data.path), data)\n"
        "try: open_hdf5(data)\n"
        "except DataError as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fifo(tmp_path) -> Path:
    """A pipe without a writer: whoever opens it for reading hangs."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def secret(tmp_path) -> Path:
    """A file of bytes that must not come out."""
    path = tmp_path / "secret"
    path.write_bytes(b"TOP-SECRET" * 200)
    return path


# --- links and storage outside the file ---


def test_external_link_to_a_pipe_is_refused_without_opening_it(tmp_path, fifo):
    path = tmp_path / "a.h5"
    spoil(path, lambda file: file.__setitem__("channel_2", h5py.ExternalLink(str(fifo), "x")))
    message = run_with_timeout(path)
    assert "dataset 'channel_2': 'channel_2' is an external link to 'x' in the file" in message
    assert str(fifo) in message


def test_external_link_in_the_middle_of_a_path_is_refused_without_opening_it(tmp_path, fifo):
    path = tmp_path / "a.h5"
    spoil(path, lambda file: file.__setitem__("in", h5py.ExternalLink(str(fifo), "/")))
    message = run_with_timeout(path, ("channel_1", "in/channel_2", "channel_3", "channel_4"))
    assert "'in' is an external link" in message


def test_optional_datasets_are_not_followed_either(tmp_path, fifo):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["group"] = h5py.ExternalLink(str(fifo), "x")
    assert "'group' is an external link" in run_with_timeout(path)


def test_virtual_dataset_over_a_pipe_is_refused_without_opening_it(tmp_path, fifo):
    def make(file):
        space = h5py.h5s.create_simple(SHAPE, (h5py.h5s.UNLIMITED, *SHAPE[1:]))
        space.select_hyperslab((0,) * 5, (1,) * 5, (1,) * 5, (h5py.h5s.UNLIMITED, *SHAPE[1:]))
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_virtual(space, os.fsencode(fifo), b"x", space)
        h5py.h5d.create(file.id, b"channel_2", h5py.h5t.IEEE_F32LE, space, plist)

    # Asking this one for its shape opens the pipe: the source decides how long it is.
    assert "a virtual dataset" in run_with_timeout(spoil(tmp_path / "a.h5", make))


@pytest.mark.parametrize("present", [True, False])
def test_virtual_datasets_are_refused(tmp_path, present):
    source = write_file(tmp_path / "source.h5")
    layout = h5py.VirtualLayout(SHAPE, "float32")
    layout[:] = h5py.VirtualSource(source if present else tmp_path / "gone.h5", "channel_2", SHAPE)
    path = spoil(tmp_path / "a.h5", lambda file: file.create_virtual_dataset("channel_2", layout))
    assert "a virtual dataset" in refused(path)


def test_external_storage_is_refused_and_its_target_named(tmp_path, secret, fifo):
    for target, look in ((secret, refused), (fifo, run_with_timeout)):
        path = tmp_path / f"{target.name}.h5"
        external = [(str(target), 0, h5py.h5f.UNLIMITED)]
        spoil(path, lambda file, e=external: file.create_dataset("channel_2", SHAPE, "float32", external=e))
        assert f"stored outside, in {str(target)!r}" in look(path)


def test_soft_links_loops_and_dangling_ones_are_refused(tmp_path):
    for target in ("/channel_1", "/channel_2", "/nowhere"):
        path = tmp_path / "a.h5"
        spoil(path, lambda file, t=target: file.__setitem__("channel_2", h5py.SoftLink(t)))
        assert f"is a soft link to {target!r}" in refused(path)


def test_hard_link_cycles_do_not_trap_the_listing(tmp_path):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.create_group("loop")["again"] = file["/"]
    names = [line["name"] for line in inspect_file(path, config(path))["datasets"]]
    assert names == [*NAMES, "label"]
    with open_hdf5(config(path, channels=("loop/again/loop/again/channel_1", *NAMES[1:]))) as source:
        assert source.index.rows == 12


def test_inspect_names_refused_links_and_foreign_storage(tmp_path, secret):
    def make(file):
        file.create_dataset("channel_2", SHAPE, "float32", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        file["link"] = h5py.ExternalLink(str(secret), "x")

    path = spoil(tmp_path / "a.h5", make)
    notes = {line["name"]: line["note"] for line in inspect_file(path, config(path))["datasets"]}
    assert notes["channel_2"] == "its values lie in other files, not looked at"
    assert notes["link"].startswith("an external link")


# --- declared against stored ---


@pytest.mark.parametrize("chunk", [None, (4, 1, POINTS, FRAMES, 1)])
def test_a_dataset_that_was_never_written_is_refused(tmp_path, chunk):
    path = spoil(tmp_path / "a.h5", lambda file: low_level(file, chunk=chunk))
    assert "no values were ever written" in refused(path)


@pytest.mark.parametrize("chunk", [None, (1, 1, 64, 48, 1)])
def test_a_shape_of_terabytes_is_refused_in_little_memory(tmp_path, chunk):
    path = spoil(tmp_path / "a.h5", lambda file: low_level(file, (2**31, 1, 64, 48, 1), chunk))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path)
    inspect_file(path, config(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_huge_shape_with_one_chunk_written_is_refused(tmp_path):
    def make(file):
        dataset = file.create_dataset("channel_2", (2**31, 1, 64, 48, 1), "float32", chunks=(1, 1, 64, 48, 1))
        dataset[0] = 1

    message = refused(spoil(tmp_path / "a.h5", make))
    assert "needs 26,388,279,066,624 bytes, but 12,288 are stored" in message


def test_missing_chunks_are_refused_instead_of_read_as_zeros(tmp_path):
    def make(file):
        dataset = file.create_dataset("channel_2", SHAPE, "float32", chunks=(2, 1, POINTS, FRAMES, 1))
        dataset[:9] = 1

    assert "1 of its 6 chunks were never written" in refused(spoil(tmp_path / "a.h5", make))


def test_labels_that_expand_to_gigabytes_are_refused(tmp_path):
    path = write_file(tmp_path / "a.h5", label=None)
    with h5py.File(path, "a") as file:
        dataset = file.create_dataset("label", (12, 900), "S200000", chunks=(1, 1), compression="gzip")
        dataset[0, 0] = b"a"
    assert "dataset 'label'" in refused(path)


@pytest.mark.parametrize("filters", [(1, 1), (1, 32000), (2, 1, 2, 1)])
def test_two_compressors_are_refused(tmp_path, filters):
    def make(file):
        h5py.Dataset(low_level(file, chunk=SHAPE, filters=filters))[:] = 1

    assert "compressed more than once" in refused(spoil(tmp_path / "a.h5", make))


def test_unknown_filters_are_refused_by_number(tmp_path):
    def make(file):
        low_level(file, chunk=SHAPE, filters=(32001,)).write_direct_chunk((0,) * 5, bytes(100))

    message = refused(spoil(tmp_path / "a.h5", make))
    assert "stored with the filter 32001" in message
    assert "deflate (gzip), shuffle, fletcher32, lzf" in message


def test_chunks_beyond_64_mib_are_refused(tmp_path):
    shape = (2**15, 1, 32, 32, 1)

    def make(file):
        low_level(file, shape, shape, (1,)).write_direct_chunk((0,) * 5, bytes(200_000))

    assert "chunks of 134,217,728 bytes; at most 67,108,864" in refused(spoil(tmp_path / "a.h5", make))


@pytest.mark.parametrize(("stored", "mask"), [(VALUES.tobytes()[:100], 1), (VALUES.tobytes() * 40, 0)])
def test_chunks_of_an_impossible_size_are_refused(tmp_path, stored, mask):
    def make(file):
        low_level(file, chunk=SHAPE, filters=(1,)).write_direct_chunk((0,) * 5, stored, mask)

    assert "1 of its 1 chunks have an impossible size" in refused(spoil(tmp_path / "a.h5", make))


def test_chunks_stored_without_their_optional_compression_are_read(tmp_path):
    def make(file):
        low_level(file, chunk=SHAPE, filters=(1,)).write_direct_chunk((0,) * 5, VALUES.tobytes(), 1)

    with open_hdf5(config(spoil(tmp_path / "a.h5", make))) as source:
        assert np.array_equal(source.read(np.arange(12))[1], VALUES)


def test_noise_that_gzip_cannot_compress_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
    path = spoil(tmp_path / "a.h5", lambda file: file.create_dataset("channel_2", data=noise, compression="gzip"))
    with open_hdf5(config(path)) as source:
        assert np.array_equal(source.read(np.arange(12))[1], noise)


def test_a_constant_channel_that_gzip_shrinks_a_thousandfold_is_read(tmp_path):
    zeros = np.zeros((2000, 1, 64, 48), "uint8")
    names = dict.fromkeys(NAMES)
    path = write_file(tmp_path / "a.h5", 2000, **names)
    with h5py.File(path, "a") as file:
        for name in NAMES:
            file.create_dataset(name, data=zeros, chunks=(1000, 1, 64, 48), compression="gzip", compression_opts=9)
    assert index_of(path).rows == 2000


# --- element types ---


@pytest.mark.parametrize(
    ("dtype", "found"),
    [
        ("complex64", "complex64"),
        (bool, "bool"),
        ("S4", "string"),
        (h5py.string_dtype(), "string"),
        ([("x", "f4"), ("y", "f4")], "compound"),
        ("V8", "opaque"),
        ((np.float32, (3,)), "array"),
        (h5py.ref_dtype, "references"),
        (h5py.vlen_dtype("float32"), "variable-length sequences"),
        (h5py.enum_dtype({"a": 0, "b": 1}), "enumeration"),
        (np.longdouble, np.dtype(np.longdouble).name),
    ],
)
def test_other_element_types_are_refused_by_name(tmp_path, dtype, found):
    message = refused(spoil(tmp_path / "a.h5", lambda file: file.create_dataset("channel_2", SHAPE, dtype)))
    assert f"'channel_2': elements are {found}, which is not read" in message
    assert "write it as one of: float16, float32" in message


def test_null_dataspaces_are_refused(tmp_path):
    path = spoil(tmp_path / "a.h5", lambda file: file.create_dataset("channel_2", data=h5py.Empty("float32")))
    assert "null dataspace" in refused(path)


# --- damage and plugins ---


def test_a_changed_byte_under_a_checksum_is_found_when_read(tmp_path):
    path = spoil(tmp_path / "a.h5", lambda file: file.create_dataset("channel_2", data=VALUES, fletcher32=True))
    content = bytearray(path.read_bytes())
    content[content.index(VALUES.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with open_hdf5(config(path)) as source, pytest.raises(DataError, match="'channel_2': rows 0 to 11 cannot be read"):
        source.read(np.arange(12))


def test_mutated_files_are_read_or_refused_but_never_crash(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from pointcnn_cli.config.schema import DataConfig\n"
        "from pointcnn_cli.errors import DataError\n"
        "from pointcnn_cli.hdf5.reading import open_hdf5\n"
        "from pointcnn_cli.hdf5.inspect import inspect_file\n"
        "path, counts = Path(sys.argv[1]), {}\n"
        "whole = np.frombuffer(path.read_bytes(), 'uint8')\n"
        "for seed in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        "    generator = np.random.default_rng(seed)\n"
        "    changed = whole.copy()\n"
        "    changed[generator.integers(0, len(whole), 8)] = generator.integers(0, 256, 8)\n"
        "    path.write_bytes(changed.tobytes())\n"
        "    for look in (inspect_file, lambda p, d: open_hdf5(d)):\n"
        "        try: result = look(path, DataConfig(path=str(path)))\n"
        "        except DataError: continue\n"
        "        if isinstance(result, dict): continue\n"
        "        with result as source:\n"
        "            try: source.read(np.arange(source.index.rows))\n"
        "            except DataError: pass\n"
    )
    path = write_file(tmp_path / "a.h5", group=np.arange(12), start_frame=np.arange(12), classes=["a", "b", "c"])
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), "0", "100"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to make a plugin")
def test_plugins_are_not_loaded(tmp_path):
    (tmp_path / "plugins").mkdir()
    canary, library = tmp_path / "canary", tmp_path / "plugins" / "libh5evil.so"
    source = tmp_path / "evil.c"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ FILE *f = fopen("{canary}", "w"); if (f) fclose(f); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    code = "import h5py; h5py.h5z.filter_avail(32001)"  # searches the plugins
    environment = os.environ | {"HDF5_PLUGIN_PATH": str(library.parent)}
    environment.pop("HDF5_PLUGIN_PRELOAD", None)
    subprocess.run([sys.executable, "-c", f"import pointcnn_cli.hdf5.reading; {code}"], env=environment, check=True)
    assert not canary.exists()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert canary.exists(), "the plugin does not work, so the test shows nothing"

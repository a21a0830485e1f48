"""The child process that tries a data file first: a crash, a hang or a greedy file is an error message and exit code 6.

In processes of their own, since the test process may have imported TensorFlow, after which nothing is tried.
"""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import NAMES, write_file

BAD = {
    "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "abort": "os.abort()",
    "hang": "\n    while True: pass",
    "greed": "bytes(2**32)",
    "grab by pieces": "[bytes(2**26) for _ in range(64)]",
}
WORDS = {
    "crash": "the HDF5 library crashed on it (signal SIGSEGV)",
    "abort": "the HDF5 library crashed on it (signal SIGABRT)",
    "hang": "the HDF5 library does not come to an end with it",
    "greed": "reading its structure takes far more memory",
    "grab by pieces": "reading its structure takes far more memory",
}


def run_python(code: str, *arguments: object) -> str:
    """What `code` prints; it must end by itself, with nothing on stderr."""
    command = [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("kind", BAD)
def test_a_file_on_which_the_library_fails_is_named(tmp_path, kind):
    paths = [tmp_path / name for name in ("sound.h5", "bad.h5", "other.h5")]
    for path in paths:
        path.write_bytes(b"content")
    code = (
        "import os, signal, sys\n"
        "from pointcnn_cli.errors import DataError\n"
        "from pointcnn_cli.hdf5.probe import check_survives\n"
        "def look(path):\n"
        "    if 'bad' not in path: return\n"
        f"    {BAD[kind]}\n"
        "try: check_survives(sys.argv[1:], look)\n"
        "except DataError as error: print(error.exit_code, error.message, error.hint, sep='|')\n"
    )
    number, message, hint = run_python(code, *paths).strip().split("|")
    assert number == "6"
    assert message.startswith(f"{paths[1]}: {WORDS[kind]}")
    assert "write it again from its source" in hint


def test_ordinary_errors_of_the_child_are_met_again_by_the_parent(tmp_path):
    code = (
        "import sys\n"
        "from pointcnn_cli.hdf5.probe import check_survives\n"
        "def look(path): raise OSError('damaged')\n"
        "print(check_survives(sys.argv[1:], look))\n"
    )
    assert run_python(code, tmp_path / "a.h5", tmp_path / "b.h5").strip() == "None"


def test_the_child_leaves_files_and_buffers_of_its_parent_alone(tmp_path):
    code = (
        "import sys\n"
        "from pointcnn_cli.hdf5.probe import check_survives\n"
        "file = open(sys.argv[1], 'w')\n"
        "file.write('once')\n"
        "sys.stdout.write('said once')\n"
        "check_survives([sys.argv[1]], lambda path: print('never seen', flush=True))\n"
        "file.close()\n"
    )
    assert run_python(code, tmp_path / "out") == "said once"
    assert (tmp_path / "out").read_text() == "once"


def loop_of_strings(path: Path) -> Path:
    """A file whose class names lead HDF5 1.14 round in circles: the first string of the heap has no length."""
    write_file(path, classes=["walk", "box", "jump"])
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 24 : heap + 32] = bytes(8)
    path.write_bytes(content)
    return path


def test_commands_end_with_6_on_a_file_that_the_library_does_not_come_to_an_end_with(tmp_path):
    path = loop_of_strings(tmp_path / "a.h5")
    (tmp_path / "a.yaml").write_text(f"data: {{path: {path}}}\n")
    for arguments in (("data", "inspect", path), ("train", tmp_path / "a.yaml", "--output", tmp_path / "run")):
        command = [sys.executable, "-m", "pointcnn_cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 6, done.stderr
        assert done.stderr.startswith(f"Error: {path}: the HDF5 library does not come to an end with it\nTry: ")
        assert not (tmp_path / "run").exists()


TRY = """
import os, sys
import h5py
from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.reading import open_hdf5
setattr(h5py.Dataset, sys.argv[1], lambda *arguments: os.abort())  # as a bug of the library would
for path in sys.argv[2:]:
    try:
        open_hdf5(DataConfig(path=path)).close()
        print("opened")
    except DataError as error:
        print(error.message)
"""


def test_a_crash_while_labels_are_read_is_a_message(tmp_path):
    path = write_file(tmp_path / "a.h5")
    said = run_python(TRY, "__getitem__", path).strip()
    assert said == f"{path}: the HDF5 library crashed on it (signal SIGABRT)"


def test_rows_are_tried_in_small_files_and_only_headers_in_large_ones(tmp_path):
    small, large = tmp_path / "small.h5", tmp_path / "large.h5"
    for path, rows in ((small, 12), (large, 9000)):
        write_file(path, rows, **dict.fromkeys(NAMES))
        with h5py.File(path, "a") as file:
            for name in NAMES:  # in chunks, which HDF5 reads
                file.create_dataset(name, data=np.ones((rows, 1, 32, 32), "uint8"), chunks=(12, 1, 32, 32))
    said = run_python(TRY, "read_direct", small, large).splitlines()
    assert said == [f"{small}: the HDF5 library crashed on it (signal SIGABRT)", "opened"]


def test_nothing_is_tried_where_threads_run(tmp_path):
    code = (
        "import os, threading\n"
        "from pointcnn_cli.hdf5.probe import check_survives\n"
        "end = threading.Event()\n"
        "threading.Thread(target=end.wait).start()\n"
        "check_survives(['x'], lambda path: os.abort())\n"
        "end.set()\n"
    )
    assert run_python(code) == ""


def test_memory_that_the_child_was_refused_is_not_taken_by_its_parent(tmp_path):
    """HDF5 makes an ordinary error of a refused allocation, after which the child ends in peace."""
    code = """
import resource, sys
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.probe import limited_memory
before = resource.getrlimit(resource.RLIMIT_AS)
try:
    with limited_memory(sys.argv[1:]):
        bytes(2**32)
except DataError as error:
    print(error.message)
print(resource.getrlimit(resource.RLIMIT_AS) == before)
"""
    path = tmp_path / "small.h5"
    path.write_bytes(b"x")
    message, restored = run_python(code, path).splitlines()
    assert message.startswith(str(path))
    assert "far more memory" in message
    assert restored == "True"

"""Faults of the surroundings: locale, time zone, home, temporary folders, limits, links, umask, odd names in data."""

import json
import os
import shutil
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

import h5py
import pytest
from conftest import ROOT
from hdf5_files import write_file
from processes import (
    LIMIT,
    POINTCNN,
    TEXT,
    check_same_end,
    check_whole,
    copy_unfinished,
    pointcnn,
    reset_signals,
)

# No UTF-8 anywhere, names that the system lacks, and what users have.
LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "tr_TR.UTF-8", "TZ": ":No/Such"},
    {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu"},
]
ODD_CLASSES = ["früh :bomb:", "[red]spät[/x]", "İ 💥"]


def bare(**variables: str) -> dict[str, str]:
    """An environment with nothing but these variables and what finds Python; no HOME, no LANG."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV") if name in os.environ}
    return {**kept, **variables}


@pytest.fixture
def odd_file(tmp_path) -> Path:
    """A data file with names of classes that a terminal, a locale or a table could stumble over."""
    path = write_file(tmp_path / "früh [x] :bomb:.h5")
    with h5py.File(path, "a") as file:
        file["label"].attrs["classes"] = ODD_CLASSES
    return path


def test_results_are_the_same_bytes_in_every_locale(odd_file):
    """JSON and YAML are UTF-8 whatever the locale; tables show what the terminal can show."""
    documents, configs = set(), set()
    for locale in LOCALES:
        done = pointcnn("data", "inspect", odd_file, "--json", env=bare(**locale))
        assert done.returncode == 0, done.stderr
        documents.add(done.stdout)
        done = pointcnn("config", "show", "-", env=bare(**locale), input="data: {path: früh İ.h5}")
        assert done.returncode == 0, done.stderr
        configs.add(done.stdout.replace(str(ROOT), ""))
    assert len(documents) == len(configs) == 1
    assert list(json.loads(documents.pop())["classes"]) == ODD_CLASSES


def test_tables_and_messages_come_through_without_utf_8(odd_file):
    done = pointcnn("data", "inspect", odd_file, env=bare(**LOCALES[0]))
    assert done.returncode == 0, done.stderr
    assert "[red]sp" in done.stdout
    assert ":bomb:" in done.stdout
    done = pointcnn("data", "inspect", odd_file.parent / "früh 💥.h5", env=bare(**LOCALES[0]))
    assert (done.returncode, "no such file" in done.stderr) == (6, True)


def test_help_and_version_need_no_home_no_locale_and_few_files():
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        done = pointcnn(*arguments, env=bare(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"), before=FEW_FILES)
        assert (done.returncode, done.stderr) == (0, "")


FEW_FILES = ["bash", "-c", 'ulimit -n 64; exec "$0" "$@"']


@pytest.mark.slow
def test_a_training_in_barren_surroundings_ends_the_same(trained, tmp_path):
    """No home, no locale, no temporary folder, few files, another hash seed, time zone and umask, reached by a link,
    in a folder with an odd name whose group is inherited."""
    folder = tmp_path / "with spaces, 'quotes\", {epoch}, 💥,\nand [b] a new line"
    folder.mkdir()
    folder.chmod(0o2777)
    run = copy_unfinished(trained.run, folder / "run")
    link = tmp_path / "-link"
    link.symlink_to(run.path)
    environment = bare(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", TZ=":No/Such", PYTHONHASHSEED="12345")
    environment |= {"TMPDIR": "/nowhere", "TF_ENABLE_ONEDNN_OPTS": os.environ["TF_ENABLE_ONEDNN_OPTS"]}

    def prepare() -> None:
        reset_signals()
        os.umask(0o077)

    done = subprocess.run(
        [*FEW_FILES, *POINTCNN, "train", f"--resume={link}"],
        env={**environment, "PYTHONPATH": str(ROOT)}, cwd=folder, preexec_fn=prepare,
        capture_output=True, timeout=LIMIT, check=False, **TEXT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bit-identical" not in done.stderr
    check_same_end(run, trained.run)
    check_whole(run.path)
    assert stat.S_IMODE(run.metrics.stat().st_mode) == 0o600
    assert stat.S_IMODE(run.last.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert sorted(os.listdir(folder)) == ["run"]  # no .keras and the like in the working directory


USERS_KERAS = {"floatx": "float16", "epsilon": 1e-3, "backend": "jax", "image_data_format": "channels_first"}


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a small file system is mounted with unshare")
def test_a_read_only_home_a_full_temporary_folder_and_other_uses_of_keras_change_nothing(trained, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps(USERS_KERAS))
    small = tmp_path / "small"
    small.mkdir()
    mount = (
        'mount -t tmpfs -o size=8k none "$TMPDIR" || exit 99; head -c 9000 /dev/zero > "$TMPDIR/full"; exec "$0" "$@"'
    )
    variables = bare(HOME="/proc", KERAS_HOME=str(tmp_path), KERAS_MAX_EPOCHS="0", TMPDIR=str(small))
    variables |= {"TF_ENABLE_ONEDNN_OPTS": os.environ["TF_ENABLE_ONEDNN_OPTS"]}
    done = pointcnn(
        "evaluate", trained.run.path, "--json", before=["unshare", "-m", "bash", "-c", mount], env=variables
    )
    if done.returncode == 99:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert score.pop("log_loss") == pytest.approx(trained.metrics["log_loss"], abs=1e-6)
    assert score["confusion_matrix"] == trained.metrics["confusion_matrix"]


@pytest.mark.parametrize("backend", ["none_such", "torch"])
def test_a_backend_that_pointcnn_does_not_know_is_refused(trained, backend):
    done = pointcnn("evaluate", trained.run.path, env={**os.environ, "KERAS_BACKEND": backend})
    assert done.returncode == 5
    assert f"KERAS_BACKEND is '{backend}'; pointcnn computes with tensorflow or jax" in done.stderr
    assert "Try: unset KERAS_BACKEND" in done.stderr


def test_a_keras_that_cannot_be_imported_is_a_missing_package(trained, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no such engine')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "KERAS_BACKEND": "tensorflow"}
    done = pointcnn("evaluate", trained.run.path, env=environment)
    assert done.returncode == 5
    assert "no such engine" in done.stderr
    assert "Try: pip install" in done.stderr


@pytest.mark.skipif(find_spec("jax") is not None, reason="JAX is installed")
def test_a_jax_that_is_not_installed_is_a_missing_package(trained):
    done = pointcnn("evaluate", trained.run.path, env={**os.environ, "KERAS_BACKEND": "jax"})
    assert done.returncode == 5
    assert "Try: pip install --force-reinstall 'pointcnn-cli[jax]'" in done.stderr

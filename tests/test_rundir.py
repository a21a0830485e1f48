"""A run directory: appearing whole, the lock, states and their digests, weights, JSON documents, history."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pointcnn_cli.errors import OutputError, RunError
from pointcnn_cli.rundir import HISTORY_COLUMNS, RunDir, default_target

CONFIG = "seed: 0\n"
SPLIT = {"schema_version": 1, "train": [0, 1], "validation": [2], "test": None}
MANIFEST = {
    "schema_version": 1,
    "status": "running",
    "classes": ["früh", "spät"],
    "channel_shapes": [[3, 4, 5]] * 4,
    "data": {"rows": 3},
    "environment": {"device": "CPU"},
}


def create(target: Path, manifest=MANIFEST) -> RunDir:
    return RunDir.create(target, CONFIG, manifest, SPLIT)


def make_arrays(epoch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(epoch)
    return {
        "model/kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "model/scale": np.array(epoch, np.float32),
        "optimizer/000/iteration": np.array(epoch, np.int64),
        "best/empty": np.zeros((0, 2), np.float32),
    }


def write_states(run: RunDir, *epochs: int) -> None:
    for epoch in epochs:
        run.write_state(epoch, make_arrays(epoch), {"epoch": epoch, "history": [{"loss": 0.1 * epoch}]})


def state_path(run: RunDir, epoch: int) -> Path:
    return run.path / "checkpoints" / f"state-{epoch:05d}.safetensors"


def run_python(code: str, *arguments: object, timeout: float = 20, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)


@pytest.fixture
def run(tmp_path):
    made = create(tmp_path / "run")
    yield made
    made.unlock()


# --- creating ---


def test_a_new_run_holds_config_manifest_and_split_and_nothing_else(tmp_path):
    run = create(tmp_path / "deep" / "er" / "run")
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.name != "checkpoints" and p.is_file())
    assert files == [f"deep/er/run/{name}" for name in ("config.yaml", "manifest.json", "split.json")]
    assert run.checkpoints.is_dir()
    assert run.config.read_text() == CONFIG
    assert json.loads(run.split.read_bytes()) == SPLIT
    assert MANIFEST.items() <= run.read_manifest().items()
    run.unlock()


@pytest.mark.parametrize("kind", ["full", "empty", "file", "dangling"])
def test_an_existing_target_is_refused_and_untouched(tmp_path, kind):
    target = tmp_path / "run"
    if kind == "full":
        target.mkdir()
        (target / "mine").write_text("mine")
    elif kind == "empty":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="exists already") as caught:
        create(target)
    assert caught.value.exit_code == 9
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert target.is_symlink() == (kind == "dangling")


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    rename = os.rename

    def rename_late(source, target):
        Path(target).mkdir()
        (Path(target) / "theirs").write_text("theirs")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_late)
    with pytest.raises(OutputError, match="run: exists already") as caught:
        create(tmp_path / "run")
    assert "--force" not in caught.value.hint
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["run", "run/theirs"]


def test_a_run_appears_by_one_rename_of_a_whole_folder_beside_it(tmp_path, monkeypatch):
    seen = []
    rename = os.rename

    def watch(source, target):
        assert not Path(target).exists()
        seen.append((Path(source), Path(target), sorted(p.name for p in Path(source).iterdir())))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watch)
    create(tmp_path / "run").unlock()
    ((source, target, content),) = seen
    assert source.parent == target.parent == tmp_path
    assert content == ["checkpoints", "config.yaml", "manifest.json", "split.json"]


def test_a_document_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        create(tmp_path / "run", {**MANIFEST, "share": math.nan})
    assert os.listdir(tmp_path) == []


def test_a_failed_creation_lets_go_of_its_lock(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="JSON"):
        create(tmp_path / "run", {**MANIFEST, "share": math.nan})
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_parent_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="Not a directory"):
        create(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_permissions_are_what_the_umask_leaves(tmp_path, umask, folder, file):
    before = os.umask(umask)
    try:
        run = create(tmp_path / "run")
        write_states(run, 1)
        run.write_weights(run.best, make_arrays(1), 1)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (run.path, run.checkpoints)} == {folder}
    assert {p.stat().st_mode & 0o777 for p in run.path.rglob("*") if p.is_file()} == {file}
    run.unlock()


def test_a_full_disk_while_creating_is_told_of_the_run_itself(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from pointcnn_cli.errors import OutputError
from pointcnn_cli.rundir import RunDir
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    RunDir.create(Path(sys.argv[1]), "x" * 10000, {"schema_version": 1}, {})
except OutputError as error:
    print(error.exit_code, error.message)
"""
    done = run_python(code, tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"9 {tmp_path}/run/config.yaml: the disk is full")
    assert os.listdir(tmp_path) == []


def test_default_targets_differ_within_a_second():
    targets = {default_target("base") for _ in range(4)}
    assert {t.parent for t in targets} == {Path("runs/base")}
    assert len(targets) > 1


DIE_WHILE_CREATING = """
import os, signal, sys
from pathlib import Path
from pointcnn_cli.rundir import RunDir
os.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
RunDir.create(Path(sys.argv[1]), "seed: 0", {"schema_version": 1}, {})
"""


def test_the_next_run_clears_away_what_a_killed_creation_left_beside_it(tmp_path):
    assert run_python(DIE_WHILE_CREATING, tmp_path / "run").returncode == -signal.SIGKILL
    (name,) = os.listdir(tmp_path)
    assert name.startswith(".tmp-")
    create(tmp_path / "run").unlock()
    assert os.listdir(tmp_path) == ["run"]


def test_a_draft_that_may_be_anothers_is_left_alone(tmp_path):
    from pointcnn_cli.files import make_draft

    draft, lock = make_draft(tmp_path, ())  # as of a process at work
    others = [tmp_path / f".tmp-{digit * 16}" for digit in "0123"] + [tmp_path / ".tmp-a-folder"]
    for folder in others:
        folder.mkdir()
    (others[0] / "notes.txt").write_text("mine")
    if os.geteuid() == 0:
        os.chown(others[1], 65534, 65534)
    else:
        others[1].rmdir()
    others[2].rmdir()
    others[2].write_text("a file")
    others[3].rmdir()
    others[3].symlink_to(others[0])
    create(tmp_path / "run").unlock()
    kept = {path.name for path in (draft, *others)} - ({others[1].name} if os.geteuid() else set())
    assert set(os.listdir(tmp_path)) == kept | {"run"}
    os.close(lock)
    create(tmp_path / "second").unlock()
    assert not draft.exists()


def test_runs_made_at_the_same_time_in_one_folder_do_not_disturb_each_other(tmp_path):
    code = """
import sys
from pathlib import Path
from pointcnn_cli.rundir import RunDir
for i in range(40):
    RunDir.create(Path(f"{sys.argv[1]}-{i}"), "seed: 0", {"schema_version": 1}, {}).unlock()
"""
    makers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / str(n))]) for n in range(3)]
    assert [maker.wait(60) for maker in makers] == [0, 0, 0]
    assert len(os.listdir(tmp_path)) == 120
    assert all(len(os.listdir(run)) == 4 for run in tmp_path.iterdir())


# --- opening ---


def test_opening_names_what_is_missing(tmp_path):
    with pytest.raises(RunError, match="no such run directory") as caught:
        RunDir.open(tmp_path / "nowhere")
    assert caught.value.exit_code == 8
    (tmp_path / "config.yaml").write_text(CONFIG)
    with pytest.raises(RunError, match=r"it has no manifest\.json, split\.json"):
        RunDir.open(tmp_path)


@pytest.mark.parametrize("name", ["n" * 300, "d/" * 2500])
def test_a_name_that_no_file_can_have_is_no_run(name):
    with pytest.raises(RunError, match="no such run directory"):
        RunDir.open(Path(name))


# --- the lock ---

LOCK = """
import sys
from pathlib import Path
from pointcnn_cli.errors import OutputError
from pointcnn_cli.rundir import RunDir
try:
    RunDir.open(Path(sys.argv[1])).lock()
    print("locked")
except OutputError as error:
    print(error.exit_code, error.message)
"""


def test_a_second_process_is_kept_out_until_the_first_lets_go(run):
    """The lock is taken on the temporary folder, so this also shows that it survives the rename."""
    refused = run_python(LOCK, run.path).stdout
    assert refused.startswith(f"9 {run.path}: another pointcnn process (pid {os.getpid()} on {os.uname().nodename}) ")
    run.unlock()
    assert run_python(LOCK, run.path).stdout == "locked\n"


def test_a_killed_process_leaves_no_lock(run):
    run.unlock()
    code = LOCK + "\nsys.stdout.flush(); import time; time.sleep(30)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(OutputError, match=f"pid {holder.pid} on"):
            RunDir.open(run.path).lock()
        holder.send_signal(signal.SIGKILL)
    again = RunDir.open(run.path)
    again.lock()
    assert again.read_manifest()["process"]["pid"] == os.getpid()
    again.unlock()


def test_a_refused_process_touches_nothing(run):
    leftover = run.checkpoints / ".tmp-0123"
    leftover.write_text("being written by the holder")
    before = run.manifest.read_bytes()
    assert run_python(LOCK, run.path).stdout.startswith("9 ")
    assert leftover.exists()
    assert run.manifest.read_bytes() == before


def test_the_lock_clears_what_a_killed_process_left_half_written(run):
    run.unlock()
    for folder in (run.path, run.checkpoints):
        (folder / ".tmp-0123").write_text("half")
    (run.path / ".tmp-a-folder").mkdir()  # not made by pointcnn, and no reason to fail
    (run.path / "notes.txt").write_text("mine")
    run.lock()
    assert sorted(p.name for p in run.path.rglob(".*")) == [".tmp-a-folder"]
    assert (run.path / "notes.txt").exists()


def test_a_start_that_fails_lets_go_of_the_lock(run):
    run.unlock()
    run.manifest.write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(RunError, match=r"manifest\.json: damaged"):
            RunDir(run.path).lock()


def test_the_lock_clears_the_state_that_a_killed_process_was_about_to_remove(run):
    write_states(run, 1, 2)
    kept = state_path(run, 1).read_bytes()
    write_states(run, 3)
    state_path(run, 1).write_bytes(kept)
    run.unlock()
    run.lock()
    assert sorted(os.listdir(run.checkpoints)) == ["state-00002.safetensors", "state-00003.safetensors"]


def test_the_lock_never_removes_the_last_whole_states(run):
    write_states(run, 1, 2)
    for number in (3, 4):
        state_path(run, number).write_text("damaged")
    run.unlock()
    run.lock()
    assert run.read_newest_state()[0] == 2
    assert state_path(run, 1).exists()


def test_a_disk_that_is_full_at_the_next_start_still_loses_what_was_half_written(run):
    (run.checkpoints / ".tmp-0123").write_text("half")
    run.unlock()
    code = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))\n"
    assert run_python(code + LOCK, run.path).stdout.startswith(f"9 {run.manifest}: the disk is full")
    assert list(run.path.rglob(".tmp-*")) == []
    run.lock()


# --- states ---


def test_a_state_is_read_back_equal(run):
    write_states(run, 3)
    epoch, arrays, facts, problems = run.read_newest_state()
    assert (epoch, problems) == (3, [])
    assert facts == {"epoch": 3, "history": [{"loss": 0.1 * 3}]}
    wanted = make_arrays(3)
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (wanted[name].dtype, wanted[name].shape)
        assert array.tobytes() == wanted[name].tobytes()


def test_a_run_without_states_has_none(run):
    assert run.read_newest_state() is None
    run.checkpoints.rmdir()
    assert run.read_newest_state() is None


def test_states_that_cannot_be_listed_are_not_taken_for_none(run):
    run.checkpoints.rmdir()
    run.checkpoints.write_text("a file")
    with pytest.raises(RunError, match=r"checkpoints: cannot be read \(Not a directory\)"):
        run.read_newest_state()


def test_the_newest_two_states_are_kept(run):
    write_states(run, *range(1, 13))
    assert sorted(os.listdir(run.checkpoints)) == ["state-00011.safetensors", "state-00012.safetensors"]


def test_a_state_is_never_deleted_for_ones_of_higher_numbers(run):
    for number in (50, 60):
        state_path(run, number).write_text("foreign")
    write_states(run, 1, 2, 3)
    assert run.read_newest_state()[0] == 3
    assert not state_path(run, 1).exists()


def test_the_newest_state_is_chosen_by_number_not_by_time(run):
    write_states(run, 9, 10)
    os.utime(state_path(run, 9), (2e9, 2e9))
    os.utime(state_path(run, 10), (1, 1))
    assert run.read_newest_state()[0] == 10


def test_numbers_that_outgrow_the_padding_still_count(run):
    write_states(run, 99999, 100000)
    assert run.read_newest_state()[0] == 100000


@pytest.mark.parametrize("name", ["state-².safetensors", "state-.safetensors", "state-last.safetensors", "state-3.bak"])
def test_files_that_are_no_states_are_ignored(run, name):
    (run.checkpoints / name).write_text("foreign")
    write_states(run, 1)
    assert run.read_newest_state()[0] == 1


def test_a_state_under_the_number_of_another_epoch_is_refused(run):
    write_states(run, 4)
    state_path(run, 4).rename(state_path(run, 9))
    with pytest.raises(RunError, match=r"state-00009\.safetensors: holds the state of epoch 4"):
        run.read_newest_state()


def assert_falls_back(run: RunDir, damage: str) -> None:
    epoch, arrays, _, problems = run.read_newest_state()
    assert epoch == 1, damage
    assert arrays["model/kernel"].tobytes() == make_arrays(1)["model/kernel"].tobytes()
    assert len(problems) == 1, damage
    assert str(state_path(run, 2)) in problems[0], damage


def test_a_state_cut_anywhere_is_noticed(run):
    write_states(run, 1, 2)
    whole = state_path(run, 2).read_bytes()
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        state_path(run, 2).write_bytes(whole[:length])
        assert_falls_back(run, f"cut to {length} of {len(whole)} bytes")
    state_path(run, 2).write_bytes(whole + b"\0")
    assert_falls_back(run, "one byte more")


def test_every_flipped_bit_of_a_state_is_noticed(run):
    write_states(run, 1, 2)
    whole = state_path(run, 2).read_bytes()
    assert len(whole) < 2000
    for bit in range(0, 8 * len(whole), 3):  # a step prime to 8, so that all places in a byte have their turn
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        state_path(run, 2).write_bytes(changed)
        assert_falls_back(run, f"bit {bit % 8} of byte {bit // 8} flipped")


def test_every_zeroed_page_of_a_state_is_noticed(run):
    large = {"model/kernel": np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32)}
    write_states(run, 1)
    run.write_state(2, large, {"history": []})
    whole = state_path(run, 2).read_bytes()
    for start in range(0, len(whole), 1024):
        page = whole[start : start + 1024]
        state_path(run, 2).write_bytes(whole[:start] + bytes(len(page)) + whole[start + 1024 :])
        assert_falls_back(run, f"page at {start} zeroed")


def test_random_bytes_in_a_state_are_always_a_run_error(run):
    """What a damaged header makes safetensors raise must not get past the fall-back."""
    write_states(run, 1, 2)
    whole = np.frombuffer(state_path(run, 2).read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for trial in range(300):
        changed = whole.copy()
        places = rng.integers(0, len(whole), rng.integers(1, 12))
        changed[places] = rng.choice(np.frombuffer(b'0123456789{}[]",:-\\x\0\xffF6', np.uint8), len(places))
        if np.array_equal(changed, whole):
            continue
        state_path(run, 2).write_bytes(changed.tobytes())
        assert_falls_back(run, f"trial {trial}")


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_a_state_that_is_no_file_is_not_opened(run, kind):
    write_states(run, 1, 2)
    state_path(run, 2).unlink()
    if kind == "pipe":
        os.mkfifo(state_path(run, 2))  # opening it would wait for ever
    elif kind == "folder":
        state_path(run, 2).mkdir()
    else:
        state_path(run, 2).symlink_to(state_path(run, 2))
    assert_falls_back(run, kind)


@pytest.mark.parametrize("facts", ["[]", "{}", '{"epoch": "x"}', "[" * 5000, "null", ""])
def test_facts_of_the_wrong_form_are_refused_even_with_a_right_digest(run, facts):
    import hashlib

    from safetensors.numpy import save_file

    digest = hashlib.sha256(facts.encode()).hexdigest()
    save_file({}, state_path(run, 2), {"pointcnn": f"{digest} {facts}"})
    with pytest.raises(RunError, match=r"state-00002\.safetensors: damaged"):
        run.read_newest_state()


def test_when_all_states_are_damaged_each_is_listed(run):
    write_states(run, 1, 2)
    state_path(run, 1).write_bytes(b"")
    state_path(run, 2).write_bytes(state_path(run, 2).read_bytes()[:-1])
    with pytest.raises(RunError) as caught:
        run.read_newest_state()
    assert caught.value.exit_code == 8
    assert str(state_path(run, 1)) in caught.value.message
    assert str(state_path(run, 2)) in caught.value.message
    assert str(run.config) in caught.value.hint


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from pointcnn_cli.errors import OutputError
from pointcnn_cli.rundir import RunDir
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
run = RunDir(Path(sys.argv[1]))
large = {"model/kernel": np.zeros((100, 100), np.float32)}
for write in (
    lambda: run.write_state(2, large, {"history": []}),
    lambda: run.write_weights(run.best, large, 2),
    lambda: run.write_history([{"epoch": i, "loss": 1 / (i + 1)} for i in range(1000)]),
    lambda: run.update_manifest(reason="x" * 5000),
):
    try:
        write()
    except OutputError as error:
        print(error.exit_code, error.message)
"""


def test_a_full_disk_keeps_all_that_was_there(run):
    write_states(run, 1)
    run.write_weights(run.best, make_arrays(1), 1)
    run.write_history([{"epoch": 1}])
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    done = run_python(FULL, run.path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line, path in zip(lines, (state_path(run, 2), run.best, run.history, run.manifest), strict=True):
        assert line.startswith(f"9 {path}: the disk is full")
        assert "MB are free" in line
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


KILL = """
import signal, sys
import numpy as np
from pathlib import Path
from pointcnn_cli.rundir import RunDir
run = RunDir(Path(sys.argv[1]))
run.write_state(1, {"a": np.full(5000, 1.0)}, {"history": []})
print("ready", flush=True)
for epoch in range(2, 100000):
    run.write_state(epoch, {"a": np.full(5000, float(epoch))}, {"history": []})
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_state(run):
    run.unlock()
    for delay in (0.0, 0.011, 0.027):
        writer = subprocess.Popen([sys.executable, "-c", KILL, str(run.path)], stdout=subprocess.PIPE, text=True)
        with writer:
            assert writer.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(delay)
            writer.kill()
        epoch, arrays, _, problems = run.read_newest_state()
        assert problems == []
        assert arrays["a"].tolist() == [epoch] * 5000
        run.lock()
        assert list(run.path.rglob(".tmp-*")) == []
        run.unlock()


# --- weights ---


def test_weights_are_read_back_equal_with_their_epoch(run):
    run.write_weights(run.best, make_arrays(5), 5)
    arrays, epoch = run.read_weights(run.best)
    assert epoch == 5
    assert {n: a.tobytes() for n, a in arrays.items()} == {n: a.tobytes() for n, a in make_arrays(5).items()}


def test_other_tools_can_open_weights(run):
    from safetensors.numpy import load_file

    run.write_weights(run.last, make_arrays(5), 5)
    assert load_file(run.last)["model/kernel"].tobytes() == make_arrays(5)["model/kernel"].tobytes()


def test_equal_weights_leave_the_file_untouched(run):
    run.write_weights(run.best, make_arrays(5), 5)
    os.utime(run.best, (1, 1))
    inode = run.best.stat().st_ino
    for _ in range(20):  # the order of safetensors' metadata is drawn anew each time
        run.write_weights(run.best, make_arrays(5), 5)
    assert (run.best.stat().st_ino, run.best.stat().st_mtime) == (inode, 1)
    run.write_weights(run.best, make_arrays(6), 6)
    assert run.read_weights(run.best)[1] == 6


def test_equal_states_have_equal_bytes_in_any_process(run, tmp_path):
    write_states(run, 1)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from test_rundir import Path, RunDir, write_states
write_states(RunDir(Path(sys.argv[2])), 1)
"""
    (tmp_path / "checkpoints").mkdir()
    assert run_python(code, Path(__file__).parent, tmp_path).returncode == 0
    assert (tmp_path / "checkpoints" / state_path(run, 1).name).read_bytes() == state_path(run, 1).read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "text", "other tool", "epoch"])
def test_damaged_weights_are_never_used(run, damage):
    from safetensors.numpy import save_file

    run.write_weights(run.best, make_arrays(5), 5)
    data = bytearray(run.best.read_bytes())
    if damage == "flip":
        data[-40] ^= 1  # the lowest bit of a weight: a plausible number still
    elif damage == "epoch":
        data = data.replace(b'\\"epoch\\": 5', b'\\"epoch\\": 6')
    run.best.write_bytes({"cut": data[:-1], "text": b"hello"}.get(damage, bytes(data)))
    if damage == "other tool":
        save_file(make_arrays(5), run.best)
    with pytest.raises(RunError, match=r"best\.safetensors: damaged") as caught:
        run.read_weights(run.best)
    assert caught.value.hint


def test_missing_weights_say_how_to_get_them(run):
    with pytest.raises(RunError, match=r"best\.safetensors: no such checkpoint") as caught:
        run.read_weights(run.best)
    assert f"--resume {run.path}" in caught.value.hint


def test_a_link_in_place_of_weights_is_replaced_not_followed(run, tmp_path):
    (tmp_path / "outside").write_text("mine")
    run.best.symlink_to(tmp_path / "outside")
    run.write_weights(run.best, make_arrays(5), 5)
    assert (tmp_path / "outside").read_text() == "mine"
    assert not run.best.is_symlink()


def test_a_pipe_in_place_of_weights_is_replaced_not_waited_for(run):
    os.mkfifo(run.best)
    run.write_weights(run.best, make_arrays(5), 5)
    assert run.read_weights(run.best)[1] == 5


# --- documents ---


@pytest.mark.parametrize("name", ["manifest", "metrics"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [("pipe", "not a regular file"), ("huge", "larger than"), ("folder", "cannot be read"), ("device", "not a reg")],
)
def test_what_is_no_document_is_neither_waited_for_nor_read_without_end(run, name, kind, words):
    path = getattr(run, name)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)  # takes no space on the disk
    with pytest.raises(RunError, match=rf"{name}\.json: .*{words}"):
        getattr(run, f"read_{name}")()


def test_no_flipped_bit_of_the_manifest_changes_what_it_says(run):
    whole, wanted = run.manifest.read_bytes(), run.read_manifest()
    noticed = 0
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        run.manifest.write_bytes(changed)
        try:
            assert wanted.items() <= run.read_manifest().items(), bit  # a space that is another kind of space
        except RunError:
            noticed += 1
    assert noticed > 4 * len(whole)


def test_a_manifest_without_a_digest_is_read(run):
    """As of runs that were made before there was one."""
    run.manifest.write_text(json.dumps(MANIFEST))
    assert run.read_manifest() == MANIFEST


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b"1", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"schema_version": 1', b"1" * 5000],
)
@pytest.mark.parametrize("name", ["manifest", "metrics"])
def test_damaged_documents_are_run_errors(run, name, content):
    path = getattr(run, name)
    path.write_bytes(content)
    with pytest.raises(RunError, match=rf"{name}\.json: damaged") as caught:
        getattr(run, f"read_{name}")()
    assert caught.value.hint


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_documents_of_another_version_are_refused(run, version):
    run.manifest.write_text(json.dumps({**MANIFEST, "schema_version": version}))
    with pytest.raises(RunError, match=r"manifest\.json: schema_version is .*, this pointcnn reads 1"):
        run.read_manifest()


@pytest.mark.parametrize("key", [key for key in MANIFEST if key != "schema_version"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_manifest_names_what_it_lacks(run, key, value):
    run.manifest.write_text(json.dumps({k: v for k, v in {**MANIFEST, key: value}.items() if v is not None}))
    with pytest.raises(RunError, match=rf"manifest\.json: damaged; it lacks {key},"):
        run.read_manifest()


def test_missing_scores_are_told_from_damaged_ones(run):
    with pytest.raises(RunError, match=r"metrics\.json: no such file"):
        run.read_metrics()


def test_updating_the_manifest_keeps_the_rest(run):
    run.update_manifest(status="finished", kept_epoch=3)
    assert run.read_manifest() == {
        **MANIFEST,
        "status": "finished",
        "kept_epoch": 3,
        "process": {"pid": os.getpid(), "host": os.uname().nodename},
    }


def test_a_path_that_is_not_text_survives_the_manifest(run):
    path = os.fsdecode(b"/data/\xff.h5")
    run.update_manifest(command=["pointcnn", "train", path])
    assert run.read_manifest()["command"][2] == path
    run.manifest.read_bytes().decode()


# --- history ---


def test_numbers_in_the_history_survive_the_round_trip(run):
    values = [0.1 + 0.2, 1e-300, 1 / 3, float(np.float32(0.1)), 1e22, 5e-324, 123456789.123456789]
    rows = [dict.fromkeys(HISTORY_COLUMNS, value) | {"epoch": i} for i, value in enumerate(values, 1)]
    run.write_history(rows)
    with run.history.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [{name: float(text) for name, text in row.items()} for row in read] == rows
    assert run.history.read_text().splitlines()[0] == "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds"


def test_a_history_of_nothing_has_its_header(run):
    run.write_history([])
    assert run.history.read_text() == ",".join(HISTORY_COLUMNS) + "\n"


def test_a_moved_run_is_read_as_before(run, tmp_path):
    write_states(run, 1)
    shutil.copytree(run.path, tmp_path / "copy")
    assert RunDir.open(tmp_path / "copy").read_newest_state()[0] == 1

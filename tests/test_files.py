"""Files appear whole or not at all, and what fails is told in words."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointcnn_cli.errors import OutputError
from pointcnn_cli.files import check_target, output_error, read_regular, replacing, sync_folder, write_whole

KEEP_PERMISSIONS = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]


def run_python(code: str, *arguments: object, prefix=()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_a_file_appears_with_its_whole_content_only(tmp_path):
    target = tmp_path / "a"
    with replacing(target) as stream:
        stream.write(b"one")
        stream.flush()
        (name,) = os.listdir(tmp_path)
        assert name.startswith(".tmp-")
        stream.write(b" two")
    assert target.read_bytes() == b"one two"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def write() -> None:
        with replacing(target) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append((name, *a)), real(*a))[1])
    write_whole(tmp_path / "a", b"data")
    assert [call[0] for call in calls] == ["fsync", "replace", "fsync"]
    temporary, target = calls[1][1:]
    assert target == tmp_path / "a"
    assert temporary.parent == tmp_path


def test_a_file_that_appears_meanwhile_is_kept_without_force(tmp_path):
    target = tmp_path / "a"

    def write() -> None:
        with replacing(target, force=False) as stream:
            stream.write(b"new")
            target.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists already"):
        write()
    assert target.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]
    write_whole(target, b"new", force=True)
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_what_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    write_whole(tmp_path / "a", b"data")
    with pytest.raises(OutputError):
        write_whole(tmp_path / "missing" / "a", b"data")
    with pytest.raises(ValueError, match="x"), replacing(tmp_path / "b"):
        raise ValueError("x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_leaves_the_old_file(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from pointcnn_cli.errors import OutputError
from pointcnn_cli.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for size in (5000, 5_000_000):
    try:
        write_whole(Path(sys.argv[1]), b"x" * size)
    except OutputError as error:
        print(error.exit_code, error.message)
"""
    target = tmp_path / "a"
    target.write_bytes(b"old")
    done = run_python(code, target)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    for line in (first, second):
        assert line.startswith(f"9 {target}: the disk is full")
        assert "MB are free" in line
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_at_any_call_is_an_output_error(tmp_path, monkeypatch, call, number):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OutputError) as caught:
            write_whole(tmp_path / "a", b"new")
    assert caught.value.message.startswith(str(tmp_path / "a"))
    assert caught.value.hint
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failing_sync_of_the_folder_is_told(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "failed")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="failed"):
        sync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_no_failure(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)


def test_a_folder_that_may_be_written_but_not_listed_is_enough(tmp_path):
    code = """
import sys
from pathlib import Path
from pointcnn_cli.files import write_whole
write_whole(Path(sys.argv[1]), b"x")
"""
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(0o300)
    done = run_python(code, folder / "a", prefix=KEEP_PERMISSIONS if os.geteuid() == 0 else ())
    folder.chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(folder) == ["a"]


@pytest.mark.parametrize("writing", [False, True])
def test_a_folder_without_permission_is_named_before_and_while_writing(tmp_path, writing):
    code = f"""
import sys
from pathlib import Path
from pointcnn_cli.errors import OutputError
from pointcnn_cli.files import check_target, write_whole
try:
    {"write_whole(Path(sys.argv[1]), b'x')" if writing else "check_target(Path(sys.argv[1]), False)"}
except OutputError as error:
    print(error.exit_code, error.message)
"""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    done = run_python(code, folder / "a", prefix=KEEP_PERMISSIONS if os.geteuid() == 0 else ())
    folder.chmod(0o755)
    assert done.stdout.startswith(f"9 {folder / 'a'}: no permission to write"), done.stderr
    assert os.listdir(folder) == []


# --- what can be known before any work ---


def test_a_free_name_is_taken_as_it_is(tmp_path):
    assert check_target(tmp_path / "a", False) == tmp_path / "a"


def test_an_existing_file_needs_force(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="exists already") as caught:
        check_target(tmp_path / "a", False)
    assert (caught.value.exit_code, "--force" in caught.value.hint) == (9, True)
    assert check_target(tmp_path / "a", True) == tmp_path / "a"


def test_force_follows_a_link_to_a_file(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/a")
    with pytest.raises(OutputError, match="exists already"):  # dangling, but it is someone's
        check_target(tmp_path / "link", False)
    assert check_target(tmp_path / "link", True) == tmp_path / "there" / "a"


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "device"])
def test_force_replaces_nothing_but_files(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path = Path("/dev/null")
    with pytest.raises(OutputError, match="is not a regular file"):
        check_target(path, True)


def test_a_missing_folder_comes_with_its_cure(tmp_path):
    with pytest.raises(OutputError, match="there is no folder") as caught:
        check_target(tmp_path / "no" / "a", False)
    assert caught.value.hint == f"mkdir -p '{tmp_path / 'no'}'"


def test_a_failure_without_a_name_still_says_what_failed(tmp_path):
    error = output_error(tmp_path / "a", OSError(errno.EIO, "Input/output error"))
    assert error.message == f"{tmp_path / 'a'}: cannot be written (Input/output error)"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_how_much_is_needed_and_how_much_is_free(tmp_path, monkeypatch, number):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    for data, needed in ((b"x" * 1_234_567, "1.24"), (b"x", "0.01"), (memoryview(b"12345678").cast("d"), "0.01")):
        with pytest.raises(OutputError, match=rf"\(needs {needed} MB, \d+\.\d\d MB are free\)$"):
            write_whole(tmp_path / "a", data)


# --- reading what a stranger may have put there ---


def test_a_regular_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_regular(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_regular(tmp_path / "a", 4)


def test_nothing_but_regular_files_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            read_regular(path, 5)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 5)

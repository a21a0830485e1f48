"""Where an export goes: a model of one or several files or a folder, and its metadata; all of it or nothing."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pointcnn_cli.errors import OutputError, UsageError
from pointcnn_cli.export.formats import FORMATS, METADATA_NAME, Format
from pointcnn_cli.files import check_target, make_draft, output_error, sync_folder

MODEL_OF_A_FOLDER = "saved_model.pb"  # what tells a SavedModel from any other folder
ASIDE = "replaced"
DRAFT_NAMES = {
    *(ASIDE, METADATA_NAME),
    *(f"model{suffix}" for known in FORMATS.values() for suffix in (known.suffix, *known.companions)),
}
"""What a draft may hold that a killed export of any format left."""


@dataclass(frozen=True)
class Target:
    """The final names of an export, all in one folder."""

    main: Path
    """The model: a file, or a folder."""
    pieces: tuple[tuple[str, Path], ...]
    """(name in the draft, final path) of all there is; the model itself comes last."""
    force: bool

    @property
    def files(self) -> list[Path]:
        """All final paths, the model first."""
        return [path for _, path in reversed(self.pieces)]


def check_output(chosen: Format, output: Path, force: bool) -> Target:
    """Where to write. Raises UsageError for a suffix that is not the format's, OutputError for what can be known before
    any work."""
    if output.suffix != chosen.suffix and chosen.suffix:
        raise UsageError(
            f"{output}: a file of the format {chosen.name} is named *{chosen.suffix}",
            f"--output {output}{chosen.suffix}",
        )
    main = check_target(output, force) if chosen.suffix else _check_folder(output, force)
    companions = [(f"model{suffix}", main.with_suffix(suffix)) for suffix in chosen.companions]
    others = [(METADATA_NAME, main.with_name(f"{main.name}.json")), *companions]
    for _, path in others:
        check_target(path, force)
    return Target(main, (*others, (chosen.main_name, main)), force)


def _check_folder(output: Path, force: bool) -> Path:
    """The folder to make. One that is there is replaced only where it holds a SavedModel."""
    if not os.path.lexists(output):
        return check_target(output, force)
    if not force:
        raise OutputError(f"{output}: exists already", "choose another name, or --force to replace it")
    if os.path.islink(output) or not (output / MODEL_OF_A_FOLDER).is_file():
        raise OutputError(f"{output}: is not a SavedModel, and is not replaced", "name a folder to make")
    return check_target(output / MODEL_OF_A_FOLDER, force).parent


@contextlib.contextmanager
def drafting(target: Target) -> Iterator[Path]:
    """A temporary folder beside the target; what is in it when the block ends without an exception gets its final name.

    Else nothing is left of it. Raises OutputError.
    """
    try:
        draft, lock = make_draft(target.main.parent, DRAFT_NAMES)
    except OSError as error:
        raise output_error(target.main, error) from error
    try:
        yield draft
        _sync(draft)
        _place(target, draft)
    except OSError as error:
        raise output_error(target.main, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(lock)


def measure_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _sync(draft: Path) -> None:
    for folder, _, names in os.walk(draft):
        for name in names:
            with open(Path(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def _place(target: Target, draft: Path) -> None:
    """Give each piece its final name, the model last; before that, what they replace goes aside, the model first, so
    that no model ever stands beside the weights or metadata of another."""
    aside = draft / ASIDE
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for name, path in reversed(target.pieces):
            if os.path.lexists(path):
                if not target.force:
                    raise FileExistsError(errno.EEXIST, "appeared while writing")
                os.rename(path, aside / name)
                moved.append((aside / name, path))
        for name, path in target.pieces:
            os.rename(draft / name, path)
            moved.append((path, draft / name))
        sync_folder(target.main.parent)
    except BaseException:
        for now, before in reversed(moved):
            with contextlib.suppress(OSError):
                os.rename(now, before)
        raise

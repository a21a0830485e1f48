"""JSON documents with a schema version, and where they are sealed a digest that shows damage and edits."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointcnn_cli.checkpoints import RESTORE
from pointcnn_cli.errors import RunError
from pointcnn_cli.files import read_regular, write_whole

SCHEMA_VERSION = 1
DIGEST_KEY = "sha256"  # of a sealed document: over all its other keys; older ones have none
MOST_BYTES = 32 << 20  # of a document that is read; one of 1000 classes takes 15 MB, most take a few kilobytes
NOT_ENDED = "the training did not end; continue it with --resume"


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document` as JSON. Raises OutputError."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode(errors="backslashreplace"))  # bytes of a path that are not text: JSON's \udcxx


def write_sealed(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document` with its digest. Raises OutputError."""
    write_document(path, {**document, DIGEST_KEY: _compute_digest(document)})


def read_document(path: Path, hint_if_absent: str = NOT_ENDED) -> dict[str, Any]:
    """The document in `path`. Raises RunError: it is missing, damaged, or of a newer pointcnn."""
    try:
        document = json.loads(read_regular(path, MOST_BYTES))
        version = document["schema_version"]
    except FileNotFoundError:
        raise RunError(f"{path}: no such file", hint_if_absent) from None
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({error})", RESTORE) from error
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema_version is {version}, this pointcnn reads {SCHEMA_VERSION}",
            "use the pointcnn that made it",
        )
    return dict(document)


def read_sealed(path: Path, kinds: Mapping[str, type], hint_if_absent: str = NOT_ENDED) -> dict[str, Any]:
    """The document in `path`, with `kinds` of the keys that others read. Raises RunError, also where it was edited."""
    document = read_document(path, hint_if_absent)
    digest = document.pop(DIGEST_KEY, None)
    if digest not in (None, _compute_digest(document)):
        raise RunError(f"{path}: damaged or edited; its content does not match its digest", RESTORE)
    if wrong := [key for key, kind in kinds.items() if not isinstance(document.get(key), kind)]:
        raise RunError(f"{path}: damaged; it lacks {', '.join(wrong)}, or they are of another type", RESTORE)
    return document


def cannot_read(path: Path, error: OSError) -> RunError:
    """The failure in words."""
    return RunError(f"{path}: cannot be read ({error.strerror or error})", "check the disk and the permissions")


def _compute_digest(document: Mapping[str, Any]) -> str:
    """Of the content alone: the same however the JSON is laid out."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

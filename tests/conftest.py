"""Fixtures shared by all tests."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def radhar_path() -> Path:
    """Real radar recordings in the project's layout; kept beside the repository, never in it."""
    path = ROOT.parent / "shared" / "data" / "radhar_train.h5"
    if not path.exists():
        pytest.skip(f"real radar data not found at {path}")
    return path

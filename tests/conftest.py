"""Fixtures shared by all tests."""

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As runtime.import_keras does: test modules import Keras before it can, and equal bits need equal kernels.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import pytest

from pointcnn_cli.config.load import load_config
from pointcnn_cli.errors import ConfigError
from pointcnn_cli.reporting import Reporter

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "configs" / "smoke.yaml"
PEOPLE = {"windows": 96, "subjects": 8, "points": 32, "frames": 24, "stride": 8}
SMALL = (*(f"data.simulate.{key}={value}" for key, value in PEOPLE.items()), "train.epochs=3", "train.batch_size=20")


class Listener(Reporter):
    """Keeps what was said; sends a signal to this process at a step, where asked to."""

    def __init__(self, signal_at: tuple[int, int] | None = None) -> None:
        self.said: list[str] = []
        self.details: list[str] = []
        self.signal_at = signal_at

    def say(self, text: str) -> None:
        self.said.append(text)

    warn = say

    def detail(self, text: str) -> None:
        self.details.append(text)

    def end_step(self, epoch, step, logs) -> None:
        if (epoch, step) == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="session")
def radhar_path() -> Path:
    """Real radar recordings in the project's layout; kept beside the repository, never in it."""
    path = ROOT.parent / "shared" / "data" / "radhar_train.h5"
    if not path.exists():
        pytest.skip(f"real radar data not found at {path}")
    return path


@pytest.fixture(scope="session")
def on_jax(tmp_path_factory) -> dict[str, str]:
    """The environment of a process on JAX. Little is computed in tests, so it compiles quickly, and nothing twice."""
    if find_spec("jax") is None:
        pytest.skip("JAX is not installed: pip install 'pointcnn-cli[jax]'")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT), **cache, **flags}


@pytest.fixture(scope="session", autouse=True)
def check_fixes():
    """Whatever `diagnose` offers in any test as settings to paste, the schema takes."""
    from pointcnn_cli.diagnose.findings import Fix

    make = Fix.__init__

    def make_and_check(fix, *arguments, **named):
        make(fix, *arguments, **named)
        try:
            load_config(SMOKE, [f"{key}={json.dumps(value)}" for key, value in fix.set.items()])
        except ConfigError as error:
            pytest.fail(f"not to be pasted: {error.message}")  # no Exception, of which diagnose would make a finding

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fix, "__init__", make_and_check)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """One small finished training, shared by all tests that need a run; they must not change it."""
    from pointcnn_cli import training
    from pointcnn_cli.report import write_after_training

    target = tmp_path_factory.mktemp("runs") / "trained"
    config = load_config(SMOKE, SMALL)
    return training.train(config, target, ["pointcnn", "train"], Reporter(), conclude=write_after_training)


@pytest.fixture(scope="session")
def simulated_file(tmp_path_factory) -> Path:
    """A small labelled HDF5 file of the same people as the shared training."""
    from pointcnn_cli.config.schema import SimulateConfig
    from pointcnn_cli.hdf5.writing import write_samples
    from pointcnn_cli.simulate import simulate_samples

    path = tmp_path_factory.mktemp("data") / "simulated.h5"
    write_samples(path, simulate_samples(SimulateConfig(**PEOPLE)))
    return path

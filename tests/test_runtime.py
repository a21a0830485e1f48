"""The engine below Keras, in processes of its own: quiet imports, the device, and what is recorded."""

import json
import os
import subprocess
import sys

import pytest

NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}


def run_python(code: str, **changes: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")}
    environment = {**kept, **NO_GPU, **changes}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_keras_starts_without_a_word_and_says_what_it_runs_on():
    """One process for all of it, since each import of TensorFlow takes seconds."""
    code = """
import json, os, sys
from pointcnn_cli.errors import MissingDependencyError
from pointcnn_cli.runtime import choose_device, describe_environment, import_keras
before = len(os.listdir("/proc/self/fd"))
print("left of stderr", end="", file=sys.stderr)
import_keras()
import_keras()
print(" and right", file=sys.stderr)
try:
    choose_device("gpu")
except MissingDependencyError as error:
    print(error.exit_code, error.message, "|", error.hint)
print(choose_device("auto"))
print(json.dumps(describe_environment("CPU")))
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "left of stderr and right\n")
    refusal, device, facts = done.stdout.splitlines()
    assert refusal.startswith("5 train.device is gpu, but tensorflow sees no GPU | ")
    assert "tensorflow[and-cuda]" in refusal
    assert device == "CPU"
    environment = json.loads(facts)
    assert environment["onednn"] == "1"
    assert environment["threads"]["cpus"] >= 1
    assert environment["packages"].keys() >= {"tensorflow", "keras", "numpy", "h5py", "safetensors"}
    assert environment["git_commit"] is None or len(environment["git_commit"]) == 40


@pytest.mark.parametrize("obstacle", ["no folder for temporary files", "no stderr"])
def test_what_cannot_be_set_aside_does_not_stop_the_import(obstacle):
    """A stand-in for TensorFlow: what matters here is what happens around its import."""
    code = f"""
import os, sys, tempfile, types
from pointcnn_cli.runtime import import_keras
sys.modules["keras.backend"] = types.SimpleNamespace(backend=lambda: "none")
keras = types.ModuleType("keras")
keras.backend = sys.modules["keras.backend"]
keras.config = types.SimpleNamespace(**dict.fromkeys(
    ("set_floatx", "set_epsilon", "set_image_data_format", "set_max_epochs", "set_max_steps_per_epoch"),
    lambda value: None,
))
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "keras":
            from importlib.machinery import ModuleSpec
            return ModuleSpec("keras", self)
    def create_module(self, spec):
        return keras
    def exec_module(self, module):
        if sys.stderr is not None:
            os.write(2, b"noise")
        print("imported", flush=True)
sys.meta_path.insert(0, Finder())
if {obstacle!r} == "no stderr":
    os.close(2)
    sys.stderr = None
else:
    tempfile.tempdir = "/nowhere"
import_keras()
"""
    done = run_python(code)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_what_a_failed_import_said_is_shown():
    code = """
import os, sys
from pointcnn_cli.runtime import import_keras
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "keras":
            os.write(2, b"the reason, from below Python\\n")
            raise ImportError("no such engine")
sys.meta_path.insert(0, Finder())
import_keras()
"""
    done = run_python(code)
    assert done.returncode == 1
    assert done.stderr.startswith("the reason, from below Python\n")
    assert "no such engine" in done.stderr

"""What the pieces of a training step cost that a bare sketch of the network leaves out, one JSON line.

    python benchmarks/step_pieces.py --rows 2000 --rounds 9

Trains `configs/as_asked.yaml` on simulated rows in memory, whole, and without one piece at a time: the accuracy metric,
the moving averages of batch normalisation, the full 3-D kernels, of which a step takes a part. All in one process, an
epoch each in turns; the first round, which compiles the graphs, is not counted. Validation and checkpoints are not part
of it.
"""

# ruff: noqa: E402 (Keras is brought in by pointcnn, which sets its environment)

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from speed_rounds import compare, describe_machine, summarise, time_call

from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.runtime import import_keras
from pointcnn_cli.sources import open_source

import_keras()

import keras
import numpy as np
from keras import ops

from pointcnn_cli import layers
from pointcnn_cli.feeding import PartRows
from pointcnn_cli.fitting import Fit, build_network

AS_ASKED = Path(__file__).resolve().parent.parent / "configs" / "as_asked.yaml"


class PlaneConv3D(layers.Conv3D):
    """The lowered convolution with just the kernel that it uses, as it uses it: a 2-D one over folded depths."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        depth, channels = input_shape[1], input_shape[-1]
        assert depth is not None
        assert channels is not None
        used, self._windows = layers._find_windows(depth, self.kernel_size[0], self.strides[0])
        shape = (*self.kernel_size[1:], len(used) * channels, self.filters)
        self._kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, inputs: Any) -> Any:
        folded = layers._fold(inputs, self._windows)
        outputs = ops.conv(folded, self._kernel, strides=self.strides[1:], padding="same", data_format="channels_last")
        outputs = self.activation(ops.add(outputs, self.bias))
        return ops.reshape(outputs, (-1, len(self._windows), *outputs.shape[1:]))


class ForgetfulBatchNormalization(layers.BatchNormalization):
    """The fused operation without moving averages."""

    def _move_averages(self, mean: Any, variance: Any, n: Any) -> None:
        """They stay as they began."""


@contextmanager
def replaced(name: str, layer: type[keras.Layer]) -> Iterator[None]:
    """While networks are built in here, they have another layer of this name."""
    own = getattr(layers, name)
    setattr(layers, name, layer)
    try:
        yield
    finally:
        setattr(layers, name, own)


def build_fits(config: Config, source: Source) -> dict[str, Fit]:
    """The training as it is, and those that lack a piece, on all rows of `source`."""
    rows = PartRows(np.arange(source.index.rows), source, source.index.labels)

    def make() -> Fit:
        return Fit(config, source.index, build_network(config, source.index), rows, rows)

    fits = {"whole": make(), "no metric": make()}
    bare, compiled = fits["no metric"], fits["no metric"].trainer
    bare.trainer = bare._feed.build_trainer(bare.model)  # anew: compiled again, the old one would keep its metric
    bare.trainer.compile(optimizer=compiled.optimizer, loss=compiled.loss)
    with replaced("BatchNormalization", ForgetfulBatchNormalization):
        fits["no moving averages"] = make()
    with replaced("Conv3D", PlaneConv3D):
        fits["2-D kernels"] = make()
    return fits


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds of one epoch each, in turns."""
    settings = [f"data.simulate.windows={arguments.rows}", f"train.epochs={arguments.rounds + 1}"]
    config = load_config(AS_ASKED, settings)
    source = open_source(config.data)
    fits = build_fits(config, source)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in fits}
    for epoch in range(1, arguments.rounds + 2):
        for name, fit in fits.items():
            rounds[name].append(time_call(partial(fit._feed.fit, fit.trainer, epoch, [], lambda: None)))
    taken = {name: summarise(values[1:]) for name, values in rounds.items()}
    result: dict[str, Any] = {"rows": source.index.rows, "batch": config.train.batch_size}
    for name, found in taken.items():
        result[name] = {key: round(found[key], 3) for key in ("wall_median", "cpu_median")}
        if name != "whole":
            result[name] |= {"times_as_fast": compare(found, taken["whole"])}
    return result | {"machine": describe_machine()}


def main() -> None:
    """Parse the command line and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()

"""What a case is: simulated rows, a small stock Keras network and the way it is trained, with the truth about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from pointcnn_cli.config.schema import SimulateConfig
from pointcnn_cli.hdf5.samples import Samples
from pointcnn_cli.simulate import simulate_samples

Rows = NDArray[np.int64]
layers = keras.layers
# Fixed units (centre, scale) of metres, m/s, dB and metres, so that inputs have about unit scale and nothing is fitted.
UNITS = ((0.0, 1.2), (0.0, 0.4), (30.0, 7.0), (0.0, 2.0))
TWELVE_BITS = ((-3.0, 455.0), (-5.0, 409.5), (0.0, 70.0), (0.0, 682.5))  # offset and factor of raw sensor values
POINTS, FRAMES = 16, 24
FRAMES_APART = 3  # one frame in three is kept, so that a window of 24 lasts 2.7 s: a whole squat, not half of one
TEST_EVERY, VALIDATE_EVERY = 6, 4  # which people test and validate


@dataclass(frozen=True)
class Half:
    """What differs between the half that thresholds are set on and the half that is reported."""

    name: str
    seed: int
    """Added to the seed of a case."""
    windows: int
    subjects: int
    place: int
    """Which entry of a pair of severities it takes."""


HALVES = {
    "dev": Half("dev", 100, windows=720, subjects=120, place=0),
    "held": Half("held", 7_000, windows=768, subjects=128, place=1),
}


@dataclass(frozen=True)
class Key:
    """Which variant of a case."""

    half: Half
    severity: int
    seed: int

    def pick(self, *levels: Any) -> Any:
        """The value of this severity; a level that is a pair holds the values of the two halves."""
        level = levels[self.severity]
        return level[self.half.place] if isinstance(level, tuple) else level

    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.half.seed, self.severity, self.seed])


@dataclass(frozen=True)
class Network:
    """Options of `build_network`; the default is healthy."""

    filters: int = 32
    hidden: int = 0
    """Units of a dense layer before the last; 0 for none."""
    dropout: float = 0.3
    penalty: float = 0.0
    norm: bool = True
    """Batch normalisation after each convolution."""
    momentum: float = 0.9
    head: str = "softmax"
    """`softmax`, `logits` (with from_logits=True), `linear` (without), or `softmax softmax`."""
    from_logits: bool = False
    metric: str = "accuracy"
    units: int = 6
    initial_bias: float = 0.0
    zero_kernels: bool = False
    identity_blocks: int = 0
    linear_stack: bool = False
    before_pool: bool = False
    """A convolution without activation whose maximum over time follows: not linear."""
    norm_after_relu: bool = False
    branch_inputs: tuple[int, ...] = (0, 1, 2, 3)
    normalization: bool = False
    """A Normalization layer for each input, adapted to the training rows."""


@dataclass(frozen=True)
class Recipe:
    """A training: rows, network, and how it is fitted and validated."""

    x: tuple[NDArray[np.float32], ...]
    y: NDArray[np.int64]
    train: Rows
    validation: Rows
    test: Rows
    """Rows that neither trains nor validates; of people of their own. In the order and form of a healthy case."""
    test_y: NDArray[np.int64]
    test_x: tuple[NDArray[np.float32], ...]
    people: NDArray[np.int64]
    groups_known: bool = True
    tail: float | None = None
    """`validation_split`; the rows of `train` and `validation` are then those of the tail."""
    network: Network = field(default_factory=Network)
    learning_rate: float = 3e-3
    epochs: int = 20
    batch_size: int = 32
    shuffle: bool = True
    class_weight: Mapping[int, float] | None = None
    one_hot: bool = False
    keep_best: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Truth:
    """What a right diagnosis says."""

    roots: tuple[frozenset[str], ...] = ()
    """Causes to be CONFIRMED; each is a set of codes of which one suffices."""
    present: frozenset[str] = frozenset()
    """Faults that are there and do no harm, or cannot be proven: PRESENT or SUSPECTED, never CONFIRMED."""
    incidental: frozenset[str] = frozenset()
    """Codes that follow from a root, so that CONFIRMED is neither wanted nor wrong."""
    experiments: frozenset[str] = frozenset()
    """Roots that only a training can confirm: without `--prove` SUSPECTED counts."""
    misreports: bool = False
    """The score is wrong, not the network: after a cure validation is no longer above the test rows."""


Repair = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class BenchCase:
    """A recipe with its truth."""

    recipe: Recipe
    truth: Truth
    repairs: Mapping[str, Repair] = field(default_factory=dict)
    """What the printed fix of a code comes to."""
    radhar: bool = False


def expect(
    *roots: str, present: str = "", incidental: str = "", experiments: str = "", misreports: bool = False
) -> Truth:
    """A truth from strings such as "PC206 PC208" (either will do)."""

    def split(text: str) -> frozenset[str]:
        return frozenset(text.split())

    return Truth(tuple(map(split, roots)), split(present), split(incidental), split(experiments), misreports)


@lru_cache(maxsize=4)
def simulate(windows: int, subjects: int, stride: int, seed: int) -> Samples:
    """Windows of 24 frames of 16 slots, sorted by label, person, recording and time; `stride` counts kept frames."""
    settings = SimulateConfig(
        windows=windows, subjects=subjects, points=POINTS, frames=FRAMES * FRAMES_APART, stride=stride * FRAMES_APART,
        seed=seed,
    )  # fmt: skip
    samples = simulate_samples(settings)
    a, b, c, d = (channel[:, :, :, ::FRAMES_APART] for channel in samples.channels)
    return replace(samples, channels=(a, b, c, d), start_frames=None)


def scale_inputs(samples: Samples) -> tuple[NDArray[np.float32], ...]:
    """The channels in about unit scale; empty slots stay zero."""
    filled = np.any([(c != 0).any(axis=1, keepdims=True) for c in samples.channels], axis=0)
    return tuple(
        (((c.astype(np.float32) - centre) / scale) * filled).astype(np.float32)
        for c, (centre, scale) in zip(samples.channels, UNITS, strict=True)
    )


def make_base(key: Key, *, subjects: int | None = None, stride: int = 8, windows: int | None = None) -> Recipe:
    """A healthy training: rows in random order, validated on people of their own."""
    half = key.half
    total, people = windows or half.windows, subjects or half.subjects
    samples = simulate(total, people, stride, half.seed + key.seed)
    return reorder(arrange(samples, key), key.rng().permutation)


def arrange(samples: Samples, key: Key) -> Recipe:
    """The same with rows in the order of the simulator: by label, person and time."""
    x, y = scale_inputs(samples), np.asarray(samples.labels, np.int64)
    people = np.asarray(samples.groups)
    test = np.flatnonzero(people % TEST_EVERY == TEST_EVERY - 1)
    rest = np.flatnonzero(people % TEST_EVERY != TEST_EVERY - 1)
    held = people[rest] % VALIDATE_EVERY == 0
    x_rest, y_rest = tuple(c[rest] for c in x), y[rest]
    return Recipe(
        x_rest, y_rest, np.flatnonzero(~held), np.flatnonzero(held), test, y[test], tuple(c[test] for c in x),
        people[rest], seed=key.seed,
    )  # fmt: skip


def make_sorted(key: Key, *, subjects: int | None = None, stride: int = 8, windows: int | None = None) -> Recipe:
    """As `make_base`, but sorted by label."""
    half = key.half
    samples = simulate(windows or half.windows, subjects or half.subjects, stride, half.seed + key.seed)
    return arrange(samples, key)


def reorder(recipe: Recipe, permute: Callable[[Rows], Rows]) -> Recipe:
    """The same training with its rows stored in another order."""
    order = permute(np.arange(len(recipe.y)))
    return take_order(recipe, order)


def take_order(recipe: Recipe, order: Rows) -> Recipe:
    """Rows in this order; parts name the same rows as before."""
    is_train = np.isin(order, recipe.train)
    is_validation = np.isin(order, recipe.validation)
    return replace(
        recipe, x=tuple(c[order] for c in recipe.x), y=recipe.y[order], people=recipe.people[order],
        train=np.flatnonzero(is_train), validation=np.flatnonzero(is_validation),
    )  # fmt: skip


def cut_tail(recipe: Recipe, fraction: float) -> Recipe:
    """Validated on the last rows, as `validation_split` does."""
    cut = int(np.floor(len(recipe.y) * (1.0 - fraction)))
    return replace(
        recipe, tail=fraction, train=np.arange(cut), validation=np.arange(cut, len(recipe.y)), groups_known=False
    )


def split_by_people(recipe: Recipe) -> Recipe:
    """The cure of all faults of a split."""
    held = recipe.people % VALIDATE_EVERY == 0
    return replace(recipe, tail=None, train=np.flatnonzero(~held), validation=np.flatnonzero(held))


def split_randomly(recipe: Recipe, rng: np.random.Generator, share: float = 0.25) -> Recipe:
    held = rng.random(len(recipe.y)) < share
    return replace(recipe, train=np.flatnonzero(~held), validation=np.flatnonzero(held))


def change(**fields: Any) -> Repair:
    """A repair that sets fields of the recipe; `network` holds those of the network."""

    def repair(recipe: Recipe) -> Recipe:
        given = dict(fields)
        if "network" in given:
            given["network"] = replace(recipe.network, **given["network"])
        return replace(recipe, **given)

    return repair

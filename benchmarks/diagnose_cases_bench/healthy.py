"""H01 to H10: healthy trainings that look suspicious. Nothing may be CONFIRMED."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diagnose_cases_bench.faults import as_raw, thin_classes
from diagnose_cases_bench.recipes import (
    BenchCase,
    Key,
    Recipe,
    change,
    cut_tail,
    expect,
    make_base,
    make_sorted,
    take_order,
)


def strong_dropout(key: Key) -> Recipe:
    """H01: validation above training all along."""
    return change(network={"dropout": key.pick(0.4, (0.5, 0.55), 0.6)})(make_base(key))


def kept_best(key: Key) -> Recipe:
    """H02: validation loss rises late, but the best weights were kept."""
    return replace(make_base(key), epochs=key.pick(20, (30, 28), 40), keep_best=True)


def raw_but_normalised(key: Key) -> Recipe:
    """H03: raw values behind a Normalization layer, most of them zero."""
    recipe = as_raw(make_base(key))
    return change(network={"normalization": True})(recipe)


def lagging_statistics(key: Key) -> Recipe:
    """H04: validation is bad in the first epochs and fine at the end."""
    return replace(change(network={"momentum": key.pick(0.95, (0.97, 0.965), 0.98)})(make_base(key)), epochs=20)


def ordered_by_person(key: Key) -> Recipe:
    """H05: the tail holds people of their own, with all classes."""
    recipe = make_sorted(key)
    return cut_tail(take_order(recipe, np.lexsort((recipe.y, recipe.people))), key.pick(0.2, (0.24, 0.26), 0.3))


def sorted_with_lists(key: Key) -> Recipe:
    """H06: sorted by class, split by lists of rows."""
    return make_sorted(key)


def hard_task(key: Key) -> Recipe:
    """H07: so much noise in the sensor that nobody does well."""
    recipe, rng = make_base(key), key.rng()
    level = key.pick(1.0, (1.8, 1.6), 2.5)
    noisy = [tuple((c + level * rng.normal(size=(*c.shape[:2], 1, 1, 1)) * (c != 0)).astype(np.float32) for c in a)
             for a in (recipe.x, recipe.test_x)]  # fmt: skip
    return replace(recipe, x=noisy[0], test_x=noisy[1])


def weighted_classes(key: Key) -> Recipe:
    """H08: unequal classes with the right weights."""
    recipe = make_base(key)
    kept = thin_classes(recipe, (5,), key.pick(4, (8, 7), 8), key.rng())
    counts = np.bincount(recipe.y[kept], minlength=6)
    return replace(recipe, train=kept, class_weight={c: float(len(kept) / (6 * n)) for c, n in enumerate(counts)})


def repeated_frames(key: Key) -> Recipe:
    """H09: all recordings share frames of the empty room, in runs."""
    recipe, rng = make_base(key), key.rng()
    bank = [c[rng.integers(0, len(c), 4)][:, :, :, :1] for c in recipe.x]
    x = tuple(c.copy() for c in recipe.x)
    for row in range(len(recipe.y)):
        start, pick = int(rng.integers(0, 20)), int(rng.integers(0, 4))
        for channel, frames in zip(x, bank, strict=True):
            channel[row, :, :, start : start + key.pick(2, 3, 4)] = frames[pick]
    return replace(recipe, x=x)


def odd_style(key: Key) -> Recipe:
    """H10: a linear convolution before a maximum, softmax with from_logits=True, a low learning rate."""
    recipe = change(network={"before_pool": True, "from_logits": True, "norm_after_relu": True})(make_base(key))
    return replace(recipe, learning_rate=key.pick(2e-3, (1e-3, 1.5e-3), 1e-3), epochs=20)


_BUILDERS = (
    strong_dropout, kept_best, raw_but_normalised, lagging_statistics, ordered_by_person, sorted_with_lists, hard_task,
    weighted_classes, repeated_frames, odd_style,
)  # fmt: skip


def _as_case(build: Callable[[Key], Recipe]) -> Callable[[Key], BenchCase]:
    return lambda key: BenchCase(build(key), expect())


HEALTHY: dict[str, Callable[[Key], BenchCase]] = {f"H{i:02d}": _as_case(build) for i, build in enumerate(_BUILDERS, 1)}

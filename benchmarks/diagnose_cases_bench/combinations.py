"""C01 to C08: several faults at once."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diagnose_cases_bench.data_faults import SPLIT, few_rows_validate, overlapping_random
from diagnose_cases_bench.faults import as_raw, thin_classes
from diagnose_cases_bench.recipes import BenchCase, Key, change, cut_tail, expect, make_base, make_sorted

OVERFIT = {"hidden": 512, "dropout": 0.0}


def as_asked(key: Key) -> BenchCase:
    """C01: a sorted tail, a block that does nothing, a linear stack and raw inputs: only the first explains it."""
    recipe = cut_tail(as_raw(make_sorted(key)), key.pick(0.17, (0.2, 0.19), 0.3))
    recipe = change(network={"identity_blocks": 1, "linear_stack": True})(recipe)
    return BenchCase(recipe, expect("PC201", present="PC401 PC402 PC101", incidental="PC101 PC202 PC404"), SPLIT)


def tail_and_statistics(key: Key) -> BenchCase:
    """C02: a sorted tail and moving averages that never settle."""
    recipe = cut_tail(make_sorted(key), key.pick(0.17, (0.2, 0.19), 0.3))
    recipe = replace(
        change(network={"momentum": key.pick(0.99, (0.99, 0.992), 0.999)})(recipe), epochs=key.pick(6, 4, 8)
    )
    cures = {**SPLIT, "PC404": change(network={"momentum": 0.8})}
    return BenchCase(recipe, expect("PC201", "PC404", incidental="PC202 PC502"), cures)


def leak_and_overfitting(key: Key) -> BenchCase:
    """C03: the leak hides that the network knows its few people by heart."""
    recipe = change(network=OVERFIT)(overlapping_random(key).recipe)
    truth = expect("PC203", "PC504", incidental="PC204 PC205", experiments="PC504", misreports=True)
    return BenchCase(replace(recipe, epochs=30), truth, SPLIT)


def order_and_noise(key: Key) -> BenchCase:
    """C04: another class order, and wrong labels that lower what matching can reach."""
    recipe, rng = make_base(key), key.rng()
    wrong = rng.random(len(recipe.y)) < key.pick(0.05, 0.1, 0.15)
    noisy = np.where(wrong, (recipe.y + rng.integers(1, 6, len(recipe.y))) % 6, recipe.y)
    y = noisy.copy()
    y[recipe.validation] = np.array([1, 2, 0, 3, 4, 5])[y[recipe.validation]]
    return BenchCase(replace(recipe, y=y), expect("PC301", present="PC303"), {"PC301": change(y=noisy)})


def rate_and_scale(key: Key) -> BenchCase:
    """C05: raw inputs and a high learning rate: either cure helps."""
    recipe = replace(as_raw(make_base(key)), learning_rate=key.pick(0.05, (0.5, 0.4), 2.0))
    both = "PC501 PC101"
    cures = {"PC501": change(learning_rate=2e-3), "PC101": change(network={"normalization": True})}
    return BenchCase(recipe, expect(both, incidental="PC603 PC404 PC406", experiments=both), cures)


def scaling_and_statistics(key: Key) -> BenchCase:
    """C06: validation divided by a constant, and moving averages that never settle: both spoil inference only."""
    recipe = make_base(key)
    x = tuple(c.copy() for c in recipe.x)
    for channel in x:
        channel[recipe.validation] /= key.pick(10, (255, 128), 1000)
    faulty = replace(change(network={"momentum": 0.99})(recipe), epochs=key.pick(6, (4, 5), 4), x=x)
    cures = {"PC208": change(x=recipe.x), "PC404": change(network={"momentum": 0.8})}
    return BenchCase(faulty, expect("PC208", "PC404", incidental="PC206 PC502"), cures)


def rare_and_few(key: Key) -> BenchCase:
    """C07: rare classes, and too few validation rows to see it well."""
    recipe = few_rows_validate(replace(key, severity=0)).recipe
    kept = thin_classes(recipe, (4, 5), key.pick(15, (40, 30), 60), key.rng())
    counts = np.bincount(recipe.y[kept], minlength=6)
    balanced = {c: float(len(kept) / (6 * n)) for c, n in enumerate(counts)}
    truth = expect("PC304", present="PC207", incidental="PC202")
    return BenchCase(replace(recipe, train=kept), truth, {"PC304": change(class_weight=balanced)})


def misaligned_and_memorised(key: Key) -> BenchCase:
    """C08: labels that belong to other rows, learnt by heart."""
    recipe = make_base(key)
    y = np.roll(recipe.y, key.pick(1, (3, 4), 7))
    recipe_bad = replace(change(network=OVERFIT)(recipe), y=y, epochs=40, learning_rate=1e-2)
    return BenchCase(recipe_bad, expect("PC302", incidental="PC303"), {"PC302": change(y=recipe.y)})


COMBINATIONS: dict[str, Callable[[Key], BenchCase]] = {
    f"C{number:02d}": build
    for number, build in enumerate(
        (
            as_asked, tail_and_statistics, leak_and_overfitting, order_and_noise, rate_and_scale,
            scaling_and_statistics, rare_and_few, misaligned_and_memorised,
        ),
        1,
    )
}  # fmt: skip

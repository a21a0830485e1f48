"""F15 to F30: faults of classes, of the network, of its training and of what is fed to it; and the list of all."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diagnose_cases_bench import data_faults as data
from diagnose_cases_bench.recipes import (
    TWELVE_BITS,
    UNITS,
    BenchCase,
    Key,
    Recipe,
    change,
    expect,
    make_base,
    make_sorted,
)


def imbalance(key: Key) -> BenchCase:
    """F15: one class is rare; with the last severity class weights are counted from 1."""
    recipe = make_base(key)
    kept = thin_classes(recipe, (4, 5), key.pick(12, (40, 30), 40), key.rng())
    weights = {c + 1: 1.0 for c in range(6)} if key.severity == 2 else None
    counts = np.bincount(recipe.y[kept], minlength=6)
    balanced = {c: float(len(kept) / (6 * n)) for c, n in enumerate(counts)}
    recipe = replace(recipe, train=kept, class_weight=weights)
    # Validation keeps its rows, so that the rare classes can be scored: its class shares do differ (PC202).
    truth = expect("PC304", incidental="PC202")
    if key.severity == 0:
        truth = expect(present="PC304", incidental="PC304 PC202")
    return BenchCase(recipe, truth, {"PC304": change(class_weight=balanced)})


def thin_classes(recipe: Recipe, classes: tuple[int, ...], ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Training rows of which `classes` keep one in `ratio`, two at the least."""
    labels = recipe.y[recipe.train]
    kept = [recipe.train[~np.isin(labels, classes)]]
    for label in classes:
        rows = recipe.train[labels == label]
        kept.append(rng.choice(rows, max(2, round(len(rows) / ratio)), replace=False))
    return np.sort(np.concatenate(kept))


def labels_from_one(key: Key) -> BenchCase:
    """F16: labels 1 to 6 and seven output units."""
    recipe = change(network={"units": 7})(make_base(key))
    return BenchCase(replace(recipe, y=recipe.y + 1, test_y=recipe.test_y + 1), expect("PC305"))


def identity_block(key: Key) -> BenchCase:
    """F17: blocks that give back what they get."""
    return BenchCase(change(network={"identity_blocks": key.pick(1, 2, 3)})(make_base(key)), expect(present="PC401"))


def linear_stack(key: Key) -> BenchCase:
    """F18: two convolutions without an activation between them."""
    return BenchCase(change(network={"linear_stack": True})(make_base(key)), expect(present="PC402"))


def head(key: Key) -> BenchCase:
    """F19: softmax twice, or logits given to a loss that expects probabilities."""
    ends = key.pick("softmax softmax", "linear", "softmax softmax softmax")
    cure = change(network={"head": "softmax"})
    return BenchCase(
        change(network={"head": ends})(make_base(key)), expect("PC403", incidental="PC603"), {"PC403": cure}
    )


def batch_statistics(key: Key) -> BenchCase:
    """F20: moving averages that are far from settled."""
    momentum, epochs = key.pick(0.98, (0.99, 0.992), 0.999), key.pick(6, (4, 5), 12)
    recipe = replace(change(network={"momentum": momentum})(make_base(key)), epochs=epochs)
    truth = expect("PC404", incidental="PC502") if key.severity else expect(present="PC404", incidental="PC404")
    return BenchCase(recipe, truth, {"PC404": change(network={"momentum": 0.8})})


def not_shuffled(key: Key) -> BenchCase:
    """F21: sorted rows in batches of one class."""
    recipe = replace(make_sorted(key), shuffle=False, batch_size=key.pick(64, 32, 16))
    return BenchCase(recipe, expect("PC503", incidental="PC404 PC603"), {"PC503": change(shuffle=True)})


def over_regularised(key: Key) -> BenchCase:
    """F22: dropout and weight penalty that leave little to learn with."""
    dropout, penalty = key.pick(0.6, (0.8, 0.85), 0.95), key.pick(1e-3, (3e-2, 5e-2), 0.1)
    recipe = change(network={"dropout": dropout, "penalty": penalty})(make_base(key))
    cure = change(network={"dropout": 0.3, "penalty": 0.0})
    truth = expect("PC405", incidental="PC603 PC407", experiments="PC405")
    if key.severity == 0:
        truth = expect(present="PC405", incidental="PC405")
    return BenchCase(recipe, truth, {"PC405": cure})


def dead_units(key: Key) -> BenchCase:
    """F23: rectifiers that never open, or kernels that start at zero."""
    # Without batch normalisation, which would take the bias away again.
    bad = {"initial_bias": key.pick(-2.0, (-50.0, -40.0), 0.0), "zero_kernels": key.severity == 2, "norm": False}
    cure = change(network={"initial_bias": 0.0, "zero_kernels": False})
    truth = expect("PC406", incidental="PC603 PC407")
    return BenchCase(change(network=bad)(make_base(key)), truth, {"PC406": cure})


def raw_inputs(key: Key) -> BenchCase:
    """F24: raw 12-bit values, or one channel times a thousand."""
    recipe = as_raw(make_base(key)) if key.severity != 2 else times(make_base(key), 2, 1000.0)
    truth = expect("PC101", incidental="PC603 PC404", experiments="PC101")
    return BenchCase(recipe, truth, {"PC101": change(network={"normalization": True})})


def as_raw(recipe: Recipe) -> Recipe:
    """Inputs as a 12-bit converter gives them; empty slots stay zero."""

    def convert(channels: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        filled = np.any([(c != 0).any(axis=1, keepdims=True) for c in channels], axis=0)
        units = [c * scale + centre for c, (centre, scale) in zip(channels, UNITS, strict=True)]
        return tuple(
            (np.clip(np.round((c - low) * factor), 0, 4095) * filled).astype(np.float32)
            for c, (low, factor) in zip(units, TWELVE_BITS, strict=True)
        )

    return replace(recipe, x=convert(recipe.x), test_x=convert(recipe.test_x))


def times(recipe: Recipe, channel: int, factor: float) -> Recipe:
    """One channel in other units."""
    x, test = list(recipe.x), list(recipe.test_x)
    x[channel], test[channel] = x[channel] * np.float32(factor), test[channel] * np.float32(factor)
    return replace(recipe, x=tuple(x), test_x=tuple(test))


def rate_too_high(key: Key) -> BenchCase:
    """F25."""
    truth = expect("PC501", incidental="PC603 PC406", experiments="PC501")
    recipe = replace(make_base(key), learning_rate=key.pick((0.1, 0.08), (0.5, 0.4), 5.0))
    if key.severity == 0:
        truth = expect(present="PC501", incidental="PC501")
    return BenchCase(recipe, truth, {"PC501": change(learning_rate=3e-3)})


def rate_too_low(key: Key) -> BenchCase:
    """F26: a tiny learning rate, or a handful of steps."""
    truth = expect("PC502", incidental="PC603 PC404", experiments="PC502")
    recipe = replace(make_base(key), learning_rate=key.pick(5e-5, (1e-6, 2e-6), 1e-7))
    return BenchCase(recipe, truth, {"PC502": change(learning_rate=3e-3)})


def overfitting(key: Key) -> BenchCase:
    """F27: few rows, many weights, many epochs."""
    recipe = make_base(key)
    people = np.unique(recipe.people[recipe.train])[: key.pick(24, (16, 18), 10)]
    rows = recipe.train[np.isin(recipe.people[recipe.train], people)]
    recipe = replace(recipe, train=rows, epochs=60, learning_rate=1e-2)
    truth = expect("PC504") if key.severity else expect(present="PC504", incidental="PC504")
    return BenchCase(change(network={"hidden": 512, "dropout": 0.0})(recipe), truth)


def wrong_metric(key: Key) -> BenchCase:
    """F28: binary accuracy of one-hot labels."""
    recipe = change(network={"metric": "binary_accuracy"})(replace(make_base(key), one_hot=True))
    cure = change(network={"metric": "accuracy"})
    return BenchCase(
        replace(recipe, epochs=key.pick(12, 6, 3)),
        expect("PC601", incidental="PC502", misreports=True),
        {"PC601": cure},
    )


def channels_mixed(key: Key) -> BenchCase:
    """F29: channels exchanged in validation, or one read twice and another never."""
    recipe = make_base(key)
    if key.severity == 2:
        return BenchCase(change(network={"branch_inputs": (0, 1, 1, 3)})(recipe), expect("PC103"))
    order = key.pick([0, 1, 3, 2], ([0, 2, 3, 1], [0, 3, 1, 2]))
    x = [c.copy() for c in recipe.x]
    for place, source in enumerate(order):
        x[place][recipe.validation] = recipe.x[source][recipe.validation]
    cure = {"PC103": change(x=recipe.x)}
    return BenchCase(replace(recipe, x=tuple(x)), expect("PC103", incidental="PC206"), cure)


def not_finite(key: Key) -> BenchCase:
    """F30: NaN in a few rows."""
    recipe = make_base(key)
    x = tuple(c.copy() for c in recipe.x)
    rows = key.rng().choice(recipe.train, key.pick(1, 3, 20), replace=False)
    x[1][rows, :, 3, 5] = np.nan
    truth = expect("PC102", incidental="PC501 PC603 PC406 PC407")
    return BenchCase(replace(recipe, x=x), truth, {"PC102": change(x=recipe.x)})


FAULTS: dict[str, Callable[[Key], BenchCase]] = {
    f"F{number:02d}": build
    for number, build in enumerate(
        (
            data.sorted_tail, data.tail_of_runs, data.class_not_trained, data.overlapping_random,
            data.overlapping_blocks, data.shared_people, data.duplicates, data.validation_gain,
            data.validation_divided, data.scaler_on_all, data.few_rows_validate, data.class_order,
            data.labels_off_by_one, data.label_noise, imbalance, labels_from_one, identity_block, linear_stack, head,
            batch_statistics, not_shuffled, over_regularised, dead_units, raw_inputs, rate_too_high, rate_too_low,
            overfitting, wrong_metric, channels_mixed, not_finite,
        ),
        1,
    )
}  # fmt: skip

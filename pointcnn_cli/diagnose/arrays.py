"""Assembling a case from arrays and a compiled Keras model: for the one who has a script and no run of ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.facts import CaseData, FitSettings, Rows
from pointcnn_cli.diagnose.networks import clone_untrained, read_blocks
from pointcnn_cli.errors import UsageError


def build_array_case(
    model: keras.Model,
    x: Any,
    y: ArrayLike,
    *,
    validation_split: float | None,
    validation_data: tuple[Any, ArrayLike] | None,
    split: Mapping[str, ArrayLike] | Sequence[ArrayLike] | None,
    groups: ArrayLike | None,
    history: Any,
    options: Mapping[str, Any],
    source_files: tuple[str, ...],
) -> Case:
    """The case of `model.fit(x, y, ...)`; see `diagnose.diagnose_fit`. Raises UsageError for what does not fit
    together."""
    inputs, labels = _as_inputs(model, x), np.asarray(y)
    if sum(given is not None for given in (validation_split, validation_data, split)) > 1:
        raise UsageError("validation_split, validation_data and split exclude each other", "give one of them")
    trained = len(labels)
    if validation_data is not None:
        more, more_labels = _as_inputs(model, validation_data[0]), np.asarray(validation_data[1])
        _check_lengths(more, more_labels, "validation_data")
        if labels.shape[1:] != more_labels.shape[1:]:
            raise UsageError(
                f"y has shape {labels.shape} and the labels of validation_data {more_labels.shape}",
                "give both in the same form",
            )
        both = [_stack(a, b) for a, b in zip(inputs, more, strict=True)]
        all_labels = np.concatenate([labels, more_labels])
    else:
        both, all_labels = inputs, labels
    _check_lengths(inputs, labels, "x and y")
    train, validation, test, strategy = _find_parts(len(all_labels), trained, validation_split, split)
    codes, classes = _encode_labels(model, all_labels)
    data = CaseData(
        read=lambda rows: tuple(channel[rows] for channel in both),
        rows=len(all_labels),
        names=tuple(_name_input(tensor, i) for i, tensor in enumerate(model.inputs, 1)),
        shapes=tuple(_drop_trailing_one(channel.shape[1:]) for channel in both),
        labels=codes,
        classes=classes,
        raw_labels=all_labels,
        groups=_encode_groups(groups, trained, len(all_labels)),
    )
    rows, facts = _read_history(history)
    return Case(
        title="the model given to diagnose_fit",
        data=data,
        train=train,
        validation=validation,
        test=test,
        settings=_describe_settings(model, strategy, rows, facts, options, len(train)),
        history=rows,
        build=clone_untrained(model, seed=0),
        load=_always(model) if rows or _is_trained(model) else None,
        blocks=lambda: read_blocks(model),
        source_files=source_files,
    )


def _always(model: keras.Model) -> Callable[[], keras.Model]:
    return lambda: model


def _as_inputs(model: keras.Model, x: Any) -> list[NDArray[Any]]:
    if isinstance(x, Mapping):
        names = [_name_input(tensor, i) for i, tensor in enumerate(model.inputs, 1)]
        if set(names) != set(x):
            raise UsageError(f"x has the keys {sorted(x)}, the model the inputs {names}", "name them alike")
        x = [x[name] for name in names]
    values = [np.asarray(v) for v in x] if isinstance(x, (list, tuple)) else [np.asarray(x)]
    if len(values) != len(model.inputs):
        raise UsageError(f"x has {len(values)} arrays, the model {len(model.inputs)} inputs", "give one array for each")
    return values


def _check_lengths(inputs: list[NDArray[Any]], labels: NDArray[Any], name: str) -> None:
    lengths = [len(a) for a in (*inputs, labels)]
    if len(set(lengths)) > 1:
        raise UsageError(f"{name} have different numbers of rows: {lengths}", "give as many labels as rows")


def _stack(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if a.shape[1:] != b.shape[1:]:
        raise UsageError(
            f"training rows have shape {a.shape[1:]}, validation rows {b.shape[1:]}", "give both in the same form"
        )
    return np.concatenate([a, b])


def _drop_trailing_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape


def _name_input(tensor: Any, number: int) -> str:
    """Its own name, but for one that Keras made up."""
    name = str(getattr(tensor, "name", None) or "keras_tensor")
    return f"input {number}" if name.startswith("keras_tensor") else name


def _find_parts(
    total: int, trained: int, validation_split: float | None, split: Any
) -> tuple[Rows, Rows, Rows | None, str | None]:
    """Training, validation and test rows, and the strategy that made them, where it is known."""
    if split is not None:
        parts = (
            dict(split)
            if isinstance(split, Mapping)
            else dict(zip(("train", "validation", "test"), split, strict=False))
        )
        rows = {name: np.sort(_as_rows(part, total)) for name, part in parts.items() if part is not None}
        if not {"train", "validation"} <= rows.keys():
            raise UsageError("split has no 'train' and 'validation'", "give both as row numbers or masks")
        return rows["train"], rows["validation"], rows.get("test"), None
    if validation_split:
        cut = int(np.floor(total * (1.0 - validation_split)))  # as keras.src.trainers.data_adapters does
        return np.arange(cut), np.arange(cut, total), None, "tail"
    return np.arange(trained), np.arange(trained, total), None, None


def _as_rows(part: ArrayLike, total: int) -> Rows:
    rows = np.asarray(part)
    if rows.dtype == bool and rows.shape == (total,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (len(rows) and not (0 <= rows.min() <= rows.max() < total)):
        raise UsageError("split holds something else than row numbers of x", f"give numbers from 0 to {total - 1}")
    return rows.astype(np.int64)


def _encode_labels(model: keras.Model, labels: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers (rows,), -1 for what is no class of the model, and class names."""
    units = int(model.output_shape[-1])
    classes = tuple(f"class {i}" for i in range(max(units, 2)))
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.argmax(axis=1).astype(np.int64), classes
    flat = labels.reshape(len(labels)).astype(np.float64)
    whole = np.isfinite(flat) & (flat == np.round(flat)) & (flat >= 0) & (flat < len(classes))
    return np.where(whole, flat, -1).astype(np.int64), classes


def _encode_groups(groups: ArrayLike | None, trained: int, total: int) -> NDArray[np.int64] | None:
    if groups is None:
        return None
    values = np.asarray(groups)
    if len(values) == total:
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    if len(values) == trained:  # those of the validation rows are unknown, so nothing can be said of both parts
        return None
    raise UsageError(f"groups has {len(values)} entries for {total} rows", "give one for each row")


def _read_history(history: Any) -> tuple[tuple[dict[str, float], ...], Mapping[str, Any]]:
    """Rows as in history.csv, and what Keras says of the fit (epochs, steps)."""
    if history is None:
        return (), {}
    columns: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    facts = getattr(history, "params", None) or {}
    names = {name: _name_column(name) for name in columns}
    length = max((len(values) for values in columns.values()), default=0)
    rows = [
        {"epoch": float(i + 1)} | {names[name]: float(values[i]) for name, values in columns.items() if i < len(values)}
        for i in range(length)
    ]
    return tuple(rows), facts


def _name_column(name: str) -> str:
    """Keras calls every kind of accuracy by its own name; ours is `accuracy`."""
    bare = name.removeprefix("val_")
    known = bare in ("acc", "accuracy") or bare.endswith("_accuracy")
    return ("val_" if name.startswith("val_") else "") + ("accuracy" if known else bare)


def _describe_settings(
    model: keras.Model,
    strategy: str | None,
    rows: tuple[dict[str, float], ...],
    facts: Mapping[str, Any],
    options: Mapping[str, Any],
    trained: int,
) -> FitSettings:
    steps = facts.get("steps")
    loss = getattr(model, "loss", None)
    optimizer = model.optimizer
    return FitSettings(
        split_strategy=strategy,
        loss=loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", None)),
        from_logits=_reads_logits(loss),
        metric=_name_metric(model),
        optimizer=None if optimizer is None else type(optimizer).__name__.lower(),
        learning_rate=None if optimizer is None else float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
        batch_size=options.get("batch_size") or (-(-trained // steps) if steps else None),
        epochs=len(rows) or facts.get("epochs"),
        shuffle=options.get("shuffle"),
        class_weight=options.get("class_weight"),
        class_weight_known="class_weight" in options,
        steps_per_epoch=options.get("steps_per_epoch"),
    )


def _reads_logits(loss: Any) -> bool | None:
    if loss is None or (callable(loss) and not hasattr(loss, "get_config")):
        return None
    return False if isinstance(loss, str) else bool(loss.get_config().get("from_logits", False))


def _name_metric(model: keras.Model) -> str | None:
    """The name of the first metric that counts hits."""
    config = model.get_compile_config() or {}
    names = [
        m if isinstance(m, str) else (m or {}).get("config", {}).get("name", "")
        for m in _flatten(config.get("metrics"))
    ]
    return next((name for name in names if "acc" in name), None)


def _flatten(metrics: Any) -> list[Any]:
    if metrics is None:
        return []
    if isinstance(metrics, (list, tuple)):
        return [m for part in metrics for m in _flatten(part)]
    return [metrics]


def _is_trained(model: keras.Model) -> bool:
    return model.optimizer is not None and int(keras.ops.convert_to_numpy(model.optimizer.iterations)) > 0

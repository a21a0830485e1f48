"""How batches reach Keras's `fit`: in the form that suits the backend. Who feeds need not know which it is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from pointcnn_cli.runtime import name_backend

Check = Callable[[], None]
Batches = Callable[[Check | None], Iterator[tuple[Any, ...]]]


def arrange_arrays(parts: Sequence[NDArray[Any]], size: int) -> dict[str, Any]:
    """What `fit` is given for batches of `size` of these inputs, targets and, where rows weigh differently, weights, in
    this order.
    """
    if name_backend() != "tensorflow":
        return {**dict(zip(("x", "y", "sample_weight"), parts, strict=False)), "batch_size": size}
    import tensorflow as tf

    return {"x": _keep_apart(tf.data.Dataset.from_tensor_slices(tuple(parts)).batch(size))}


def arrange_batches(batches: Batches, signature: Any, steps: int, check: Check) -> Any:
    """What `fit` is given for the first `steps` batches of an iterator: inputs, targets and perhaps weights.

    `signature` has the (shape, dtype) of each, in the same tuples. On TensorFlow a dataset that keeps one batch ready,
    made in a thread of its own, where `check` could not raise; Keras would keep as many ready as TensorFlow likes (none
    where operations are deterministic: TensorFlow leaves out the prefetch then). On JAX the iterator itself, which
    calls `check` while it waits.
    """
    if name_backend() != "tensorflow":
        return batches(check)
    import tensorflow as tf

    def specify(part: Any) -> Any:
        if len(part) == 2 and isinstance(part[1], str):
            return tf.TensorSpec(*part)
        return tuple(specify(inner) for inner in part)

    specs = specify(signature)
    iterator: Iterator[tuple[Any, ...]] = iter(())

    def make(step: int) -> list[NDArray[Any]]:
        nonlocal iterator
        if step == 0:
            iterator = batches(None)
        arrays: list[NDArray[Any]] = tf.nest.flatten(next(iterator))
        if step == steps - 1:
            iterator = iter(())  # TensorFlow never lets go of this function, nor it of what it holds
        return arrays

    def fetch(step: Any) -> Any:
        flat = tf.nest.flatten(specs)
        tensors = tf.numpy_function(make, [step], [spec.dtype for spec in flat])
        for tensor, spec in zip(tensors, flat, strict=True):
            tensor.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(specs, tensors)

    # Not from_generator: it lowers malloc's trim threshold for the whole process (generator_dataset_op.cc), and then
    # every large array, those of the steps too, is made of pages that are new and have to be cleared.
    return _keep_apart(tf.data.Dataset.range(steps).map(fetch).prefetch(1))


def _keep_apart(dataset: Any) -> Any:
    """The same dataset of TensorFlow with a thread of its own.

    One that shares the threads of the step had it run on one core in about every second epoch (2.5 against 5.2 s of
    wall time for 5 s of work, two cores).
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)

"""Data as a network sees them: inputs and targets, in three parts.

Any arrays will do: inputs of any shape behind their first axis, targets that are labels
of any number of classes or numbers of any shape.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """Inputs x, (n, ...), and targets y, (n, ...): labels are integers, (n,)."""

    x: Any
    y: Any


class Dataset(NamedTuple):
    """What is learned (train), watched (valid) and reported (test)."""

    train: Split
    valid: Split
    test: Split


def divide(
    x: Any, y: Any, *, seed: int = 0, valid: float = 1 / 6, test: float = 1 / 6
) -> Dataset:
    """Shuffles examples and divides them into the three parts.

    Args:
        x: inputs, (n, ...).
        y: targets, (n, ...).
        seed: of the shuffle.
        valid: share of the validation set.
        test: share of the test set.

    Raises:
        ValueError: lengths that differ, or a part without an example.

    >>> data = divide(np.ones((12, 3), np.float32), np.arange(12))
    >>> [len(split.y) for split in data]
    [8, 2, 2]
    """
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y):
        raise ValueError(f"targets: expected {len(x)}, one an input, found {len(y)}")
    ends = np.cumsum([round(test * len(x)), round(valid * len(x))])
    order = np.random.default_rng(seed).permutation(len(x))
    test_part, valid_part, train_part = np.split(order, ends)
    parts = (train_part, valid_part, test_part)
    if min(valid, test) < 0 or any(len(part) == 0 for part in parts):
        raise ValueError(f"examples: expected enough for three parts, found {len(x)}")
    return Dataset(*(Split(x[part], y[part]) for part in parts))


def are_labels(y: Any) -> bool:
    """Whether targets are labels: a whole number for each example.

    >>> are_labels(np.array([3, 5])), are_labels(np.array([0.5, 1.5]))
    (True, False)
    """
    return np.ndim(y) == 1 and np.dtype(y.dtype).kind in "iu"


def checked(data: Any, output_shape: tuple[int, ...] | None = None) -> Dataset:
    """The data as three splits, once they can be what a network learns.

    Args:
        data: a ``Dataset``, or three pairs (x, y).
        output_shape: of the network's outputs for one input: labels must be below the
            length of its first axis.

    Raises:
        ValueError: other shapes, other lengths, bytes instead of numbers in [0, 1],
            or labels that are no class.

    >>> x, y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 1])
    >>> checked([(x, y)] * 3, (2,))
    Traceback (most recent call last):
    ValueError: train labels: expected 0 to 1, found 0 to 2
    """
    try:
        whole = Dataset(*(Split(*map(np.asarray, split)) for split in data))
    except TypeError:
        raise ValueError(
            "data: expected (x, y) for train, valid and test, found "
            f"{type(data).__name__}"
        ) from None
    for name, (x, y) in zip(whole._fields, whole, strict=True):
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
            raise ValueError(
                f"{name} data: expected as many targets as inputs, at least 1, found "
                f"shapes {x.shape} and {y.shape}"
            )
        if x.dtype.kind in "OSUb" or (x.dtype.kind == "f" and not np.isfinite(x).all()):
            raise ValueError(
                f"{name} inputs: expected finite numbers, found {x.dtype} "
                f"{'with NaN or infinity' if x.dtype.kind == 'f' else ''}".rstrip()
            )
        if x.dtype == np.uint8:
            raise ValueError(
                f"{name} inputs: expected numbers that a network can use, found bytes "
                "(uint8); divide pixels by 255"
            )
        if x.shape[1:] != whole.train.x.shape[1:]:
            raise ValueError(
                f"{name} inputs: expected shape {whole.train.x.shape[1:]}, as in "
                f"train, found {x.shape[1:]}"
            )
        num_classes = output_shape[0] if output_shape else None
        if are_labels(y) and (y.min() < 0 or (num_classes and y.max() >= num_classes)):
            wanted = f"0 to {num_classes - 1}" if num_classes else "0 and more"
            raise ValueError(
                f"{name} labels: expected {wanted}, found {y.min()} to {y.max()}"
            )
    return whole


def num_classes(data: Dataset) -> int:
    """Of labels from 0 on, in all three splits.

    >>> num_classes(Dataset(*[Split(np.ones((3, 2)), np.array([0, 2, 1]))] * 3))
    3
    """
    return 1 + max(int(np.max(split.y)) for split in data)


def digest(data: Dataset) -> str:
    """SHA-256 of all numbers, by which a run knows its data again."""
    found = hashlib.sha256()
    for split in data:
        for values in map(np.asarray, split):
            found.update(str((values.shape, values.dtype)).encode())
            found.update(np.ascontiguousarray(values).view(np.uint8).data)
    return found.hexdigest()

"""Data of any shape are divided without a loss, and refused before a run, not in it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax.datasets import Dataset, Split, are_labels, checked, digest, divide

X, Y = np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 2, 1])
GOOD = Dataset(Split(X, Y), Split(X, Y), Split(X, Y))


def changed(split: str = "valid", **values: Any) -> Dataset:
    """GOOD, with another x or y in one split."""
    part: Split = getattr(GOOD, split)
    return GOOD._replace(**{split: part._replace(**values)})


def test_divide_keeps_all_examples_and_their_targets() -> None:
    """Each is in one part, with its own target; the order is the seed's."""
    x = np.arange(120).reshape(60, 2)
    y = -x[:, 0]
    data = divide(x, y)
    assert [len(split.y) for split in data] == [40, 10, 10]
    for split in data:
        np.testing.assert_array_equal(split.y, -split.x[:, 0])
    assert sorted(np.concatenate([split.y for split in data])) == sorted(y)
    assert digest(divide(x, y)) == digest(data)
    assert digest(divide(x, y, seed=1)) != digest(data)
    assert not np.array_equal(data.train.x, np.sort(data.train.x, axis=0))
    uneven = divide(jnp.asarray(x), jnp.asarray(y), valid=0.3, test=0.1)
    assert [len(split.y) for split in uneven] == [36, 18, 6]


def test_divide_refuses_what_it_cannot_divide() -> None:
    with pytest.raises(ValueError, match="targets: expected 4, one an input, found 3"):
        divide(X, Y[:3])
    for valid, test in ((0.0, 0.25), (0.25, 0.0), (0.5, 0.5)):
        with pytest.raises(ValueError, match="expected enough for three parts, found"):
            divide(X, Y, valid=valid, test=test)
    with pytest.raises(ValueError, match="examples: expected enough"):
        divide(X[:2], Y[:2])


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (np.array([3, 5]), True),
        (np.array([3, 5], np.uint8), True),
        (jnp.array([3, 5]), True),
        (np.array([3.0, 5.0]), False),
        (np.array([[3], [5]]), False),
    ],
)
def test_labels_are_whole_numbers_in_a_row(y: Any, expected: bool) -> None:
    assert are_labels(y) is expected


@pytest.mark.parametrize(
    ("data", "output_shape"),
    [
        (GOOD, (3,)),
        (GOOD, None),
        (GOOD, ()),
        ([(X, Y), (jnp.asarray(X), jnp.asarray(Y)), (X.tolist(), Y.tolist())], (3,)),
        # 26 classes, of images with a channel; and regression to any shape.
        ([(np.ones((26, 5, 5, 1)), np.arange(26))] * 3, (26,)),
        ([(X, np.array([[9.5, -3.0]] * 4))] * 3, (2,)),
        ([(X, np.array([9.5, -3.0, 1.0, 0.0]))] * 3, ()),
    ],
)
def test_good_data_come_back_as_arrays(data: Any, output_shape: Any) -> None:
    found = checked(data, output_shape)
    assert isinstance(found, Dataset)
    for mine, split in zip(found, data, strict=True):
        for values, expected in zip(mine, split, strict=True):
            assert type(values) is np.ndarray
            np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, r"data: expected \(x, y\) for train, valid and test, found int"),
        ([(X, Y), (X, Y)], "data: expected .* for train, valid and test"),
        ([(X, Y, Y)] * 3, "data: expected .* for train, valid and test"),
        (changed(y=Y[:3]), r"valid data: .* found shapes \(4, 2\) and \(3,\)"),
        # One label would broadcast to all images.
        (changed(y=Y[:1]), r"valid data: .* found shapes \(4, 2\) and \(1,\)"),
        (changed(y=np.array(1)), r"valid data: .* found shapes \(4, 2\) and \(\)"),
        (changed(x=X[:0], y=Y[:0]), "valid data: expected .* at least 1"),
        (
            changed("train", x=(X * 255).astype(np.uint8)),
            r"train inputs: .* found bytes \(uint8\); divide pixels by 255",
        ),
        (
            changed("test", x=X[:, :1]),
            r"test inputs: expected shape \(2,\), as in train, found \(1,\)",
        ),
        (changed("test", y=Y + 1), "test labels: expected 0 to 2, found 1 to 3"),
        (changed("train", y=Y - 1), "train labels: expected 0 to 2, found -1 to 1"),
        (
            changed(y=(Y + 254).astype(np.uint8)),
            "valid labels: expected 0 to 2, found 0 to 255",
        ),
    ],
)
def test_bad_data_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        checked(data, (3,))


def test_digest_knows_data_again_and_sees_every_change() -> None:
    """The same for the same numbers, wherever and in whatever order they are stored."""
    same = [
        GOOD,
        Dataset(*(Split(jnp.asarray(x), y.copy()) for x, y in GOOD)),
        changed(x=np.asfortranarray(X)),
        changed(x=np.repeat(X, 2, axis=0)[::2]),
    ]
    assert len({digest(data) for data in same}) == 1
    other = [
        GOOD,
        changed(x=X + np.float32(1e-7) * (X == 0)),
        changed(x=X[::-1]),
        changed(y=Y[::-1]),
        changed(x=X.astype(float)),
        changed(x=jnp.asarray(X, jnp.bfloat16)),
        changed(x=X.reshape(4, 1, 2)),
        changed(y=Y.astype(np.int32)),
        changed("test", x=X[:3], y=Y[:3]),
        # The same bytes, cut elsewhere.
        changed("train", x=X[:3], y=Y[:3]),
    ]
    assert len({digest(data) for data in other}) == len(other)
    swapped = changed("train", x=X[::-1])
    assert digest(swapped) != digest(
        Dataset(swapped.valid, swapped.train, swapped.test)
    )

"""Losses are safe where exp overflows; the plateau is the best constant prediction."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array

from snn_jax import gradients, losses
from snn_jax.losses import Loss, accuracy, best_constant, label_entropy
from snn_jax.networks import DEEP


def per_image_and_slope(loss: Loss, z: Any, y: Any) -> tuple[Array, Array]:
    """The losses of a batch, and the derivative of their sum by the logits."""

    def total(z: Array) -> tuple[Array, Array]:
        each = loss(z, jnp.asarray(y))
        return each.sum(), each

    (_, each), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(z)
    return each, slope


def test_losses_are_their_definitions(rng: np.random.Generator) -> None:
    """As written in a textbook; derivatives p - e, a - e and (a - e) a (1 - a)."""
    z = rng.normal(0, 3, (20, 10))
    y = rng.integers(0, 10, 20)
    e = np.eye(10)[y]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    a = 1 / (1 + np.exp(-z))
    expected = {
        losses.nll: (-np.log(p[e == 1]), p - e),
        losses.cross_entropy: (
            -(e * np.log(a) + (1 - e) * np.log(1 - a)).sum(axis=1),
            a - e,
        ),
        losses.quadratic: (((a - e) ** 2).sum(axis=1) / 2, (a - e) * a * (1 - a)),
    }
    with jax.enable_x64(True):
        for loss, (value, slope) in expected.items():
            found = per_image_and_slope(loss, z, y)
            np.testing.assert_allclose(found[0], value, rtol=1e-12)
            np.testing.assert_allclose(found[1], slope, rtol=1e-10)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_nll_of_huge_logits(shift: float) -> None:
    """A constant added to all logits changes nothing, exp(1e4) or not."""
    z = np.array([[1, 2, 3]], np.float32) + np.float32(shift)
    loss, slope = per_image_and_slope(losses.nll, z, [1])
    p = np.exp([-1, 0, 1]) / np.exp([-1, 0, 1]).sum()
    np.testing.assert_allclose(loss, -np.log(p[1:2]), rtol=1e-6)
    np.testing.assert_allclose(slope[0], p - [0, 1, 0], rtol=1e-6)


def test_sigmoid_outputs_far_from_the_label() -> None:
    """Wrong by 200: a loss of 200 nats and a slope of 1 or, if quadratic, of 0.

    In the second row right by 80, and what is left has all its digits: ln(1 + exp(-80))
    is exp(-80) to 35 digits.
    """
    z, y = np.array([[200, -200], [-80, 80]], np.float32), np.array([1, 1])
    loss, slope = per_image_and_slope(losses.cross_entropy, z, y)
    np.testing.assert_allclose(loss, [400, 2 * np.exp(-80)], rtol=1e-6)
    np.testing.assert_allclose(slope, [[1, -1], [np.exp(-80), -np.exp(-80)]], rtol=1e-5)
    loss, slope = per_image_and_slope(losses.quadratic, z, y)
    np.testing.assert_array_equal(loss, [1, 0])
    np.testing.assert_array_equal(slope, 0)


def test_squared_error_of_any_shape(rng: np.random.Generator) -> None:
    """Half the sum of squares of each example; the derivative is the difference."""
    outputs, y = rng.normal(size=(2, 5, 2, 3)).astype(np.float32)
    loss, slope = per_image_and_slope(losses.squared_error, outputs, y)
    expected = [((out - want) ** 2).sum() / 2 for out, want in zip(outputs, y)]  # noqa: B905
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_array_equal(slope, outputs - y)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users call it, without the checks of shapes that only the tests make."""
    strict = ("jax_numpy_rank_promotion", "raise")
    jaxtyping.config.update("jaxtyping_disable", True)
    jax.config.update(strict[0], "allow")  # type: ignore[no-untyped-call]
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    jax.config.update(*strict)  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "function", [losses.nll, losses.cross_entropy, losses.quadratic, accuracy]
)
@pytest.mark.parametrize("shape", [(1,), (3,), (4, 1), (4, 2), ()])
def test_labels_are_not_broadcast(
    function: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"^labels: expected shape \(4,\), found \("):
        function(jnp.zeros((4, 2)), np.zeros(shape, int))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(1, 2), (4,), (4, 1), (4, 2, 1)])
def test_targets_are_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^targets: expected shape \(4, 2\), that of"):
        losses.squared_error(jnp.zeros((4, 2)), np.zeros(shape))


def test_accuracy_of_a_broken_network_is_nan() -> None:
    """Argmax calls NaN class 0: silently that would score the share of zeros."""
    measure = jax.jit(accuracy)
    logits, y = np.zeros((4, 10), np.float32), np.array([0, 0, 1, 2])
    assert measure(logits, y) == 0.5
    for broken in (np.nan, np.inf):
        logits[2, 3] = broken
        assert np.isnan(measure(logits, y))


def test_label_entropy_of_known_distributions() -> None:
    """Entropy of 1/2, 1/4, 1/8, 1/8: 7/4 bits; of n equal classes: ln n."""
    y = np.repeat(np.arange(4), [4, 2, 1, 1])
    assert label_entropy(y) == pytest.approx(7 / 4 * np.log(2), rel=1e-15)
    assert label_entropy(jnp.asarray(y)) == label_entropy(y)
    for num_classes in (2, 10, 26, 1000):
        equal = np.tile(np.arange(num_classes), 3)
        assert label_entropy(equal) == pytest.approx(np.log(num_classes), rel=1e-13)
    # A uniform guess costs ln K whatever the labels are.
    assert label_entropy(y, np.full(4, 0.25)) == pytest.approx(np.log(4), rel=1e-15)


def test_entropy_when_a_class_is_absent() -> None:
    assert label_entropy(np.array([3, 3, 3])) == 0
    assert label_entropy(np.array([0]), np.array([0.5, 0.5])) == np.log(2)
    assert np.isinf(label_entropy(np.array([0]), np.array([0.0, 1.0])))


@pytest.mark.parametrize("num_classes", [10, 26])
def test_the_best_constant_pays_the_label_entropy(
    num_classes: int, rng: np.random.Generator
) -> None:
    """Exactly, whatever the number of classes; and any other constant pays more."""
    y = rng.binomial(num_classes - 1, 0.4, 300)
    y[:num_classes] = np.arange(num_classes)
    best = best_constant(losses.nll, y, (num_classes,))

    @jax.jit
    def cost(constant: Array) -> Array:
        return losses.nll(jnp.broadcast_to(constant, (300, num_classes)), y).mean()

    with jax.enable_x64(True):
        h0 = cost(best)
        np.testing.assert_allclose(h0, label_entropy(y), rtol=1e-13)
        for _ in range(5):
            assert cost(best + rng.normal(0, 0.1, num_classes)) > h0


def odds(f: np.ndarray) -> np.ndarray:
    """The z with sigmoid(z) = f."""
    return np.asarray(np.log(f / (1 - f)))


def test_best_constants_of_other_losses(rng: np.random.Generator) -> None:
    """Known optima: sigmoid outputs are the class frequencies, numbers their mean.

    A loss of a user's own is minimized as well: that of ln cosh, symmetric, is least in
    the middle of two numbers.
    """
    y = np.repeat(np.arange(3), [5, 3, 2])
    f = np.array([0.5, 0.3, 0.2])
    for loss in (losses.cross_entropy, losses.quadratic):
        np.testing.assert_allclose(best_constant(loss, y, (3,)), odds(f), atol=1e-6)
    numbers = rng.normal(5, 2, (20, 2, 3)).astype(np.float32)
    found = best_constant(losses.squared_error, numbers, (2, 3))
    np.testing.assert_allclose(found, numbers.mean(axis=0, dtype=float), rtol=1e-7)

    def log_cosh(outputs: Array, y: Array) -> Array:
        return jnp.log(jnp.cosh(outputs - y)).sum(axis=1)

    found = best_constant(log_cosh, np.array([[1.0], [4.0]]), (1,))
    np.testing.assert_allclose(found, [2.5], rtol=1e-7)


def test_best_constant_without_an_example_of_a_class() -> None:
    """Large and finite; half an example of 4 is said to be of class 1."""
    found = best_constant(losses.nll, np.array([0, 0, 2, 2]), (3,))
    np.testing.assert_allclose(found, np.log([1 / 2, 1 / 8, 1 / 2]))
    assert np.isfinite(
        best_constant(losses.cross_entropy, np.array([0, 0]), (2,))
    ).all()


def test_all_zero_weights_pay_ln_10() -> None:
    """Exact limit: a loss of ln 10, and a gradient in the last layer only."""
    shapes = jax.eval_shape(DEEP.init, jax.random.key(0))
    zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
    x, y = np.ones((3, 784), np.float32), np.array([3, 1, 4])
    loss, grads = jax.jit(gradients.by_autodiff(DEEP))(zeros, x, y)
    np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)
    assert [leaf for leaf, grad in grads.items() if np.any(grad)] == ["W6"]

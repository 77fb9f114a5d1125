"""The loss is safe where exp overflows; the plateau is the best constant prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import losses, mnist
from snn_jax.networks import DEEP, init


def test_nll_is_minus_the_log_of_the_softmax(rng: np.random.Generator) -> None:
    z = rng.normal(size=(20, 10))
    y = rng.integers(0, 10, 20)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(20), y])
    with jax.enable_x64(True):
        np.testing.assert_allclose(losses.nll(jnp.asarray(z), y), expected, rtol=1e-14)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_nll_of_huge_logits(shift: float) -> None:
    """A constant added to all logits changes nothing, exp(1e4) or not."""
    z = jnp.array([[1.0, 2.0, 3.0]]) + shift
    gaps = np.array([1.0, 2.0, 3.0]) - 2.0
    expected = np.log(np.exp(gaps).sum())
    np.testing.assert_allclose(losses.nll(z, jnp.array([1]))[0], expected, rtol=1e-3)
    slope = jax.grad(lambda z: losses.nll(z, jnp.array([1]))[0])(z)
    np.testing.assert_allclose(slope.sum(), 0, atol=1e-6)


def test_accuracy_of_a_broken_network_is_nan() -> None:
    """Argmax calls NaN class 0: silently that would score the share of zeros."""
    logits = jnp.zeros((4, 10)).at[2, 3].set(jnp.nan)
    assert jnp.isnan(losses.accuracy(logits, jnp.zeros(4, int)))
    assert losses.accuracy(jnp.zeros((4, 10)), jnp.array([0, 0, 1, 2])) == 0.5


def test_label_entropy_of_mnist(dataset: mnist.Dataset) -> None:
    """From the counts; the best constant prediction pays it, any other pays more."""
    y = dataset.train.y
    share = np.bincount(y) / len(y)
    h0 = float(-(share * np.log(share)).sum())
    np.testing.assert_allclose(losses.label_entropy(jnp.asarray(y)), h0, rtol=1e-6)
    assert h0 < np.log(10)
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(share, jnp.float32)), (len(y), 10))
    np.testing.assert_allclose(losses.nll(logits, y).mean(), h0, rtol=1e-5)
    uniform = losses.label_entropy(jnp.asarray(y), jnp.full(10, 0.1))
    np.testing.assert_allclose(uniform, np.log(10), rtol=1e-6)


def test_entropy_when_a_class_is_absent() -> None:
    assert losses.label_entropy(jnp.array([3, 3, 3])) == 0
    assert jnp.isinf(losses.label_entropy(jnp.array([0]), jnp.array([0.0, 1.0])))


def test_all_zero_weights_pay_ln_10() -> None:
    """Exact limit: a loss of ln 10, and a gradient in the last layer only."""
    zeros = jax.tree.map(jnp.zeros_like, init(jax.random.key(0), DEEP))
    x, y = jnp.ones((3, 784)), jnp.array([3, 1, 4])
    loss, grads = losses.value_and_grad(zeros, x, y, architecture=DEEP)
    np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)
    assert [leaf for leaf, grad in grads.items() if grad.any()] == ["W6"]


def costs_by_definition(z: np.ndarray, y: int) -> tuple[float, float]:
    """Of sigmoid outputs: cross-entropy and half the squared distance, as written."""
    a, e = 1 / (1 + np.exp(-z)), np.eye(len(z))[y]
    return -(e * np.log(a) + (1 - e) * np.log(1 - a)).sum(), ((a - e) ** 2).sum() / 2


def test_costs_of_sigmoid_outputs(rng: np.random.Generator) -> None:
    """By definition; derivatives a - e, and (a - e) a (1 - a), against autodiff."""
    z = rng.normal(0, 3, (20, 10))
    y = rng.integers(0, 10, 20)
    expected = np.array([costs_by_definition(*pair) for pair in zip(z, y, strict=True)])
    a = 1 / (1 + np.exp(-z))
    error = a - np.eye(10)[y]
    with jax.enable_x64(True):
        for i, (cost, slope) in enumerate(
            [(losses.cross_entropy, error), (losses.quadratic, error * a * (1 - a))]
        ):
            found = cost(jnp.asarray(z), y)
            np.testing.assert_allclose(found, expected[:, i], rtol=1e-12)
            gradient = jax.grad(lambda z, cost=cost: cost(z, y).sum())(jnp.asarray(z))
            np.testing.assert_allclose(gradient, slope, rtol=1e-10)


def test_sigmoid_outputs_far_from_the_label() -> None:
    """Wrong by 200: a loss of 200 nats and a slope of 1 or, if quadratic, of 0."""
    z, y = jnp.array([[200.0, -200.0]]), jnp.array([1])
    assert losses.cross_entropy(z, y) == 400
    assert losses.quadratic(z, y) == 1
    slope = jax.grad(lambda z: losses.cross_entropy(z, y)[0])(z)
    np.testing.assert_array_equal(slope, [[1, -1]])
    assert not jax.grad(lambda z: losses.quadratic(z, y)[0])(z).any()
    # Right by as much, and what is left has all its digits.
    assert 0 < losses.cross_entropy(jnp.array([[-80.0, 80.0]]), y)[0] < 1e-30

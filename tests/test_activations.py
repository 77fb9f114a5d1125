"""Slopes are exact however saturated a unit is, for the package's functions and others.

Expected values come from the closed forms in decimal arithmetic of 400 digits, where
1 - tanh(300)^2 = 4 exp(-600) loses nothing.
"""

import decimal
from collections.abc import Callable
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import activations
from snn_jax.activations import ACTIVATIONS, Activation, slope, steepest

DIGITS = decimal.Context(prec=400)
# As binary fractions, so that floats and decimals are the same numbers.
Z = (-300.0, -40.0, -3.25, -0.5, 0.0, 0.5, 3.25, 40.0, 300.0)


def swish(z: jax.Array) -> jax.Array:
    """A function of a user's own, by autodiff alone."""
    return z * jax.nn.sigmoid(z)


def s(z: Decimal) -> Decimal:
    return 1 / (1 + (-z).exp())


def tanh(z: Decimal) -> Decimal:
    return (z.exp() - (-z).exp()) / (z.exp() + (-z).exp())


# Of each function, itself and its derivative, as a textbook writes them.
TEXTBOOK: dict[
    Activation, tuple[Callable[[Decimal], Decimal], Callable[[Decimal], Decimal]]
] = {
    activations.sigmoid: (s, lambda z: s(z) * (1 - s(z))),
    activations.tanh: (tanh, lambda z: 1 - tanh(z) ** 2),
    activations.relu: (lambda z: max(z, Decimal(0)), lambda z: Decimal(int(z > 0))),
    activations.identity: (lambda z: z, lambda z: Decimal(1)),
    activations.centred_sigmoid: (
        lambda z: 2 * s(z) - 1,
        lambda z: 2 * s(z) * (1 - s(z)),
    ),
    activations.scaled_tanh: (
        lambda z: Decimal("1.7159") * tanh(2 * z / 3),
        lambda z: Decimal("1.7159") * 2 / 3 * (1 - tanh(2 * z / 3) ** 2),
    ),
    swish: (lambda z: z * s(z), lambda z: s(z) * (1 + z * (1 - s(z)))),
}


def test_the_textbook_is_complete() -> None:
    assert {*TEXTBOOK} == {*ACTIVATIONS.values(), swish}
    assert [f.__name__ for f in ACTIVATIONS.values()] == [*ACTIVATIONS]


@pytest.mark.parametrize("f", TEXTBOOK, ids=lambda f: f.__name__)
def test_values_and_slopes(f: Activation) -> None:
    with decimal.localcontext(DIGITS):
        values, slopes = (
            np.array([float(formula(Decimal(z))) for z in Z]) for formula in TEXTBOOK[f]
        )
    with jax.enable_x64(True):
        found, derivative, by_grad = jax.jit(
            lambda z: (f(z), slope(f, z), jax.vmap(jax.grad(f))(z))
        )(np.array(Z))
    np.testing.assert_allclose(found, values, rtol=1e-13, atol=0)
    np.testing.assert_allclose(derivative, slopes, rtol=1e-12, atol=0)
    np.testing.assert_allclose(by_grad, slopes, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (activations.sigmoid, np.exp(-40)),
        (activations.tanh, 4 * np.exp(-80)),
        (activations.centred_sigmoid, 2 * np.exp(-40)),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_slopes_in_float32_where_jax_has_none(f: Activation, expected: float) -> None:
    """The first term of the series for large z; jax.grad of JAX's functions is 0."""
    z = jnp.array([40.0, -40.0])
    compiled = jax.jit(slope, static_argnums=0)
    np.testing.assert_allclose(compiled(f, z), expected, rtol=1e-6)
    assert compiled(jax.nn.sigmoid, z)[0] == compiled(jnp.tanh, z)[0] == 0


def test_the_slope_of_a_users_own_derivative() -> None:
    """Forwards and backwards; the function's value stays what it is."""
    f = activations.with_slope(jnp.sin, lambda z: 7 * z)
    z = jnp.float32(0.5)
    assert slope(f, z) == jax.grad(f)(z) == 3.5
    assert f(z) == jnp.sin(z)
    assert f.__name__ == "sin"


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (activations.sigmoid, 1 / 4),
        (activations.scaled_tanh, 1.7159 * 2 / 3),
        # Where swish'' = 0, at z = 2.39936.
        (swish, 1.0998393),
        (lambda z: -3 * z, 3),
    ],
)
def test_steepest(f: Activation, expected: float) -> None:
    assert steepest(f) == pytest.approx(expected, rel=1e-6)


def test_the_scaled_tanh_of_lecun() -> None:
    """f(1) = 1 and f(-1) = -1; normal inputs of variance 1 keep their variance."""
    f = jax.jit(activations.scaled_tanh)
    np.testing.assert_allclose(f(jnp.array([1.0, -1.0])), [1, -1], atol=1e-4)
    z = np.linspace(-8, 8, 4001, dtype=np.float32)
    density = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    assert abs(density @ np.asarray(f(z)) ** 2 - 1) < 0.3

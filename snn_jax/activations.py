"""What a unit does with its sum: functions of z, entry by entry.

Any function of an array will do, a lambda too; autodiff knows its slope. Where autodiff
loses digits, ``with_slope`` gives it an exact one. Theory, signals and the gradient by
hand take slopes from the same function.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

Activation = Callable[[Array], Array]


def with_slope(function: Activation, derivative: Activation) -> Activation:
    """Makes autodiff use the derivative given, instead of its own.

    JAX's own rules for sigmoid and tanh multiply by 1 - a. Once a rounds to 1 that is
    0, and shortly before it has few right digits: at large init scales whole gradients
    would be rounding errors.
    """
    exact = jax.custom_jvp(function)
    exact.defjvps(lambda tangent, _, z: tangent * derivative(z))

    @functools.wraps(function)
    def activation(z: Array) -> Array:
        value: Array = exact(z)
        return value

    return activation


def slope(activation: Activation, z: Array) -> Array:
    """f'(z), entry by entry, of any activation f.

    >>> slope(sigmoid, jnp.array([0.0]))
    Array([0.25], dtype=float32)
    """
    derivative: Array = jax.jvp(activation, (z,), (jnp.ones_like(z),))[1]
    return derivative


@functools.cache
def has_slope(activation: Activation) -> bool:
    """Whether ``slope`` can be taken; not of what has a ``jax.custom_vjp``."""
    try:
        with jax.ensure_compile_time_eval():
            slope(activation, jnp.zeros(1))
    except TypeError:
        return False
    return True


@functools.cache
def steepest(activation: Activation) -> float:
    """The largest |f'|, looked for between -10 and 10.

    >>> steepest(tanh)
    1.0
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return float(jnp.abs(slope(activation, jnp.arange(-2000, 2001) / 200)).max())


# s = 1 / (1 + exp(-z)), so s' = exp(-z) / (1 + exp(-z))^2 = s (1 - s), and
# 1 - s(z) = s(-z) without subtracting.
def _sigmoid_slope(z: Array) -> Array:
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


@functools.partial(with_slope, derivative=_sigmoid_slope)
def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z))."""
    return jax.nn.sigmoid(z)


# tanh(z) = 2 s(2 z) - 1, so tanh' = 4 s'(2 z), which is 1 - tanh^2.
@functools.partial(with_slope, derivative=lambda z: 4 * _sigmoid_slope(2 * z))
def tanh(z: Array) -> Array:
    """The hyperbolic tangent."""
    return jnp.tanh(z)


@functools.partial(with_slope, derivative=lambda z: 2 * _sigmoid_slope(z))
def centred_sigmoid(z: Array) -> Array:
    """2 s(z) - 1 = tanh(z / 2): the sigmoid without its mean of 1/2, twice as steep."""
    return jnp.tanh(z / 2)


@functools.partial(
    with_slope, derivative=lambda z: 1.7159 * 8 / 3 * _sigmoid_slope(4 / 3 * z)
)
def scaled_tanh(z: Array) -> Array:
    """1.7159 tanh(2 z / 3).

    LeCun et al. 1998, "Efficient BackProp", section 4.4: f(1) = 1, f(-1) = -1, and
    inputs of variance 1 give outputs of variance about 1.
    """
    return 1.7159 * jnp.tanh(2 / 3 * z)


def relu(z: Array) -> Array:
    """max(z, 0), with slope 0 at 0.

    The real part decides, so that the complex-step gradient check can pass through.
    """
    return jnp.where(z.real > 0, z, 0)


def identity(z: Array) -> Array:
    """The sum as it is."""
    return z


# By name, for command lines.
ACTIVATIONS: dict[str, Activation] = {
    f.__name__: f for f in (sigmoid, tanh, relu, identity, centred_sigmoid, scaled_tanh)
}

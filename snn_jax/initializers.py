"""How weights are drawn: functions of (key, shape, dtype), as those of JAX.

A matrix has the shape (fan_out, fan_in), so initializers of JAX that look at fans are
made with ``in_axis=1, out_axis=0``. A network multiplies what is drawn by its scale.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import scipy.linalg
from jaxtyping import Array, Float, Key

Initializer = Callable[..., Array]


def centred_orthogonal(
    key: Key[Array, ""], shape: tuple[int, int], dtype: Any = jnp.float32
) -> Float[Array, "fan_out fan_in"]:
    """Rows and columns sum to 0; else, all singular values are 1.

    A sigmoid is a tanh in disguise: s(z) = 1/2 + tanh(z/2) / 2. The 1/2 of all units
    together adds to each z a number that says nothing of the image and pushes the unit
    towards saturation, as a large bias would. Weights whose rows sum to 0 do not see
    it. What is left are the directions along which units differ, one fewer than there
    are units. The rows of a Helmert matrix are orthonormal and span them; an orthogonal
    matrix Q, drawn in these coordinates, turns those of one layer into those of the
    next:

        W = H_out^T Q H_in

    At scale 4, which undoes s'(0) = 1/4, a deep network passes on small differences and
    small errors as they are, at every depth: dynamical isometry (Saxe et al. 2014), on
    all directions but one.

    Its parts are known. Against the mean of the units: rows that sum to 0 in deep
    sigmoid networks, kept so in training (Kutsuna 2019), a negative mean of the weights
    (Yilmaz & Poli 2022), centred units (Schraudolph 1998; Raiko, Valpola & LeCun 2012).
    In other networks: rows centred in training (Huang et al. 2017), and rows of an
    orthogonal matrix, standardized (Gasteiger et al. 2021, GemNet's code). Found
    nowhere: rows and columns centred, isometric on all directions but one, as an
    initialization alone, at scale 4.

    Raises:
        ValueError: a layer of a single unit, which has no such direction.
    """
    fan_out, fan_in = shape
    if min(shape) < 2:
        raise ValueError(
            f"centred_orthogonal: expected at least 2 units a layer, found {min(shape)}"
        )
    Q = orthogonal(key, (fan_out - 1, fan_in - 1), dtype)
    H_out, H_in = scipy.linalg.helmert(fan_out), scipy.linalg.helmert(fan_in)
    # A GPU would round the factors to three digits.
    product = functools.partial(jnp.matmul, precision="highest")
    return product(product(jnp.asarray(H_out.T, dtype), Q), jnp.asarray(H_in, dtype))


def _named(name: str, draw: Any, doc: str) -> Initializer:
    """An initializer of JAX under a name of its own, which results show."""

    def initializer(key: Key[Array, ""], shape: Any, dtype: Any = jnp.float32) -> Array:
        weights: Array = draw(key, shape, dtype)
        return weights

    initializer.__name__ = initializer.__qualname__ = name
    initializer.__doc__ = doc
    return initializer


_scaled = functools.partial(jax.nn.initializers.variance_scaling, in_axis=1, out_axis=0)
normal = _named(
    "normal",
    jax.nn.initializers.normal(1.0),
    "N(0, 1): the scale is the standard deviation of every weight.",
)
lecun = _named(
    "lecun",
    _scaled(1.0, "fan_in", "normal"),
    'Variance 1 / fan_in. LeCun et al. 1998, "Efficient BackProp", eq. 16.',
)
glorot = _named(
    "glorot",
    _scaled(1.0, "fan_avg", "normal"),
    "Variance 2 / (fan_in + fan_out). Glorot & Bengio 2010, eq. 12 and 16.",
)
glorot_uniform = _named(
    "glorot_uniform",
    _scaled(1.0, "fan_avg", "uniform"),
    "As ``glorot``, uniform. Glorot & Bengio 2010, eq. 16.",
)
he = _named(
    "he",
    _scaled(2.0, "fan_in", "normal"),
    "Variance 2 / fan_in, for ReLU. He et al. 2015, eq. 10.",
)
orthogonal = _named(
    "orthogonal",
    jax.nn.initializers.orthogonal(1.0),
    "All singular values equal to 1. Saxe et al. 2014.",
)


def negative_mean(
    key: Key[Array, ""], shape: tuple[int, int], dtype: Any = jnp.float32
) -> Float[Array, "fan_out fan_in"]:
    """Normal, of mean max(-1, -8 / fan_in) and standard deviation 0.1.

    Yilmaz & Poli 2022, "Successfully and efficiently training deep multi-layer
    perceptrons with logistic activation function simply requires initializing the
    weights with an appropriate negative mean". The numbers are those of public code
    that cites it; the abstract says that the mean is inverse to the units of a layer.
    """
    mean = max(-1.0, -8.0 / shape[1])
    return mean + 0.1 * jax.random.normal(key, shape, dtype)


def zero_row_sums(
    key: Key[Array, ""], shape: tuple[int, int], dtype: Any = jnp.float32
) -> Float[Array, "fan_out fan_in"]:
    """As ``lecun``, less the mean of every row: ``remedies.linearly_constrained``."""
    W = lecun(key, shape, dtype)
    return W - W.mean(axis=1, keepdims=True)


# By name, for command lines and labels.
INITIALIZERS: dict[str, Initializer] = {
    f.__name__: f
    for f in (
        *(normal, lecun, glorot, glorot_uniform, he, orthogonal),
        centred_orthogonal,
    )
}

"""What theory predicts for networks before their first step.

Weights are independent normals of standard deviation s, the init scale, so a
pre-activation z = W a is normal with variance s^2 |a|^2. Mean field theory takes a
layer as so wide that |a|^2 is no longer random; then one number a layer, q_l = E z_l^2,
says all (Poole et al. 2016; Schoenholz et al. 2017):

    q_1 = s^2 |x|^2 + sigma_b^2
    q_{l+1} = sigma_w^2 E f(sqrt(q_l) g)^2 + sigma_b^2      g ~ N(0, 1)

with sigma_w^2 = fan-in x s^2. The same numbers are exact at any width in
``exact_gradient_rms``, where |a|^2 stays random.

Expectations over g are sums over a fine grid, in float64. The activation is the very
function that the networks use, any function of z, entry by entry.
"""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.optimize import brentq
from scipy.special import softmax

from snn_jax import initializers
from snn_jax.activations import Activation, slope
from snn_jax.networks import MLP

# Beyond 10 standard deviations lies less than 1e-22 of a normal variable; the step
# resolves a sigmoid of a pre-activation with a standard deviation of 30. Two dimensions
# need not be as fine. Even numbers of points leave out 0, where ReLU has no slope.
GRID, COARSE_GRID = np.linspace(-10, 10, 4000), np.linspace(-10, 10, 400)
WEIGHTS, COARSE_WEIGHTS = softmax(-(GRID**2) / 2), softmax(-(COARSE_GRID**2) / 2)
# The length map is followed so far, if it settles nowhere before.
MAX_LAYERS, MAX_VARIANCE = 10_000, 1e12


def _in_float64(function: Callable[..., Array]) -> Callable[..., np.ndarray]:
    """Compiles function(activation, ...), to be called with NumPy arrays or numbers."""
    compiled = jax.jit(function, static_argnums=0)

    def run(activation: Activation, *numbers: Any) -> np.ndarray:
        with jax.enable_x64(True):
            arrays = [np.asarray(number, float) for number in numbers]
            return np.asarray(compiled(activation, *arrays))

    return run


_value = _in_float64(lambda activation, z: activation(z))
_slope = _in_float64(slope)


def _expected_square(function: Activation, q: Array) -> Array:
    """E function(sqrt(q) g)^2, for each q."""
    square: Array = function(jnp.multiply.outer(jnp.sqrt(q), GRID)) ** 2 @ WEIGHTS
    return square


_mean_square = _in_float64(_expected_square)
_mean_square_slope = _in_float64(
    lambda activation, q: _expected_square(functools.partial(slope, activation), q)
)


@_in_float64
def _settled(activation: Activation, sigma_w: Array, sigma_b: Array) -> Array:
    """The length map applied to 1 again and again, until it moves no more."""

    def unsettled(state: tuple[Array, Array, Array]) -> Array:
        layer, before, q = state
        moves = (jnp.abs(q - before) > 1e-14 * q) & (q <= MAX_VARIANCE)
        return moves & (layer < MAX_LAYERS)

    def next_layer(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        layer, _, q = state
        square = _expected_square(activation, q)
        return layer + 1, q, sigma_w**2 * square + sigma_b**2

    first = (jnp.array(0), jnp.array(0.0), jnp.array(1.0))
    q: Array = jax.lax.while_loop(unsettled, next_layer, first)[2]
    return q


def length_map(
    q: float | np.ndarray,
    *,
    activation: Activation,
    sigma_w: float,
    sigma_b: float = 0.0,
) -> np.ndarray:
    """The variance of the next layer's pre-activations (Poole et al. 2016).

    Args:
        q: variance of this layer's pre-activations, any shape.
        activation: f, any function of z, entry by entry.
        sigma_w: sqrt(fan-in) times the standard deviation of the weights.
        sigma_b: standard deviation of the biases.

    >>> print(length_map(3.0, activation=jnp.abs, sigma_w=2.0).round(9))
    12.0
    """
    return np.asarray(sigma_w**2 * _mean_square(activation, q) + sigma_b**2)


def fixed_point(
    *, activation: Activation, sigma_w: float, sigma_b: float = 0.0
) -> float:
    """q*, the variance that the length map settles at, from q = 1; inf if it grows."""
    q = float(_settled(activation, sigma_w, sigma_b))
    return q if q <= MAX_VARIANCE else np.inf


def chi_1(*, activation: Activation, sigma_w: float, sigma_b: float = 0.0) -> float:
    """Mean square factor of a gradient, and of a small difference, from layer to layer.

    sigma_w^2 E f'(sqrt(q*) g)^2 (Schoenholz et al. 2017): below 1 gradients
    vanish and images become alike, above 1 gradients explode and images part.
    """
    q = fixed_point(activation=activation, sigma_w=sigma_w, sigma_b=sigma_b)
    q = min(max(q, 1e-12), MAX_VARIANCE)  # at 0 and at infinity f' is that near them
    return float(sigma_w**2 * _mean_square_slope(activation, q))


def depth_scale(
    *, activation: Activation, sigma_w: float, sigma_b: float = 0.0
) -> float:
    """Layers over which squared gradients change by a factor e: 1 / |ln chi_1|.

    Below criticality that is xi_c of Schoenholz et al. 2017, the depth to which
    the correlation of two nearby images reaches; infinite at chi_1 = 1.
    """
    factor = chi_1(activation=activation, sigma_w=sigma_w, sigma_b=sigma_b)
    return float(1 / abs(np.log(factor))) if factor != 1 else np.inf


def critical_sigma_w(*, activation: Activation, sigma_b: float = 0.0) -> float:
    """sigma_w at which chi_1 = 1.

    For tanh without biases it is exactly 1, and the length map settles so slowly there
    that what is found is 1.0004.

    Raises:
        ValueError: it is not between 0.1 and 30.

    >>> sigma_w = critical_sigma_w(activation=jnp.tanh, sigma_b=0.05**0.5)
    >>> print(f"{sigma_w**2:.4f}")  # about 1.76 in Schoenholz et al. 2017
    1.7610
    """

    def factor(sigma_w: float) -> float:
        return chi_1(activation=activation, sigma_w=sigma_w, sigma_b=sigma_b)

    low, high = factor(0.1), factor(30.0)
    if not low < 1 < high:
        raise ValueError(
            "chi_1 at sigma_w = 0.1 and 30: expected values below and above 1, found "
            f"{low:g} and {high:g}"
        )
    root = brentq(lambda sigma_w: np.log(factor(sigma_w)), 0.1, 30.0, xtol=1e-10)
    return float(root)


def _expect_covered(network: MLP) -> None:
    """Raises ValueError for networks that no theory here covers."""
    if not network.plain:
        raise ValueError(
            "network: expected no normalization and no residual connections, "
            f"which no theory here covers, found {network}"
        )
    if network.initializer is not initializers.normal:
        raise ValueError(
            "initializer: expected initializers.normal, independent normal weights, "
            f"found {network.initializer}"
        )


def pre_activation_variances(
    network: MLP, scale: float, squared_norms: np.ndarray, *, bias_scale: float = 0.0
) -> np.ndarray:
    """q_1 .. q_L of every image, (L, B); arguments as for ``gradient_rms``."""
    _expect_covered(network)
    q = [scale**2 * np.asarray(squared_norms, float) + bias_scale**2]
    for fan_in in network.sizes[1:-1]:
        mean_square = _mean_square(network.activation, q[-1])
        q.append(fan_in * scale**2 * mean_square + bias_scale**2)
    return np.array(q)


def _difference(activation: Activation, m: Array, h: Array) -> Array:
    """f(m + h) - f(m - h) for h >= 0, with its digits however small h is.

    Where subtracting would leave fewer than 12 of them, it is the integral of f', by
    Gauss's rule of two points, whose error is of the order of h^4.
    """
    upper = activation(m + h)
    difference = upper - activation(m - h)
    inner = h / 3**0.5
    integral = h * (slope(activation, m - inner) + slope(activation, m + inner))
    few_digits = (h < 1e-4) & (jnp.abs(difference) < 1e-4 * jnp.abs(upper))
    return jnp.where(few_digits, integral, difference)


@_in_float64
def _mean_square_difference(activation: Activation, q: Array, d: Array) -> Array:
    """E (f(u) - f(v))^2 of normal u, v with variance q and E (u - v)^2 = d."""
    m = jnp.sqrt(jnp.maximum(q - d / 4, 0)) * COARSE_GRID[:, None]
    # The square is even in h, so |h| will do.
    h = jnp.sqrt(d / 4) * np.abs(COARSE_GRID)[None, :]
    squares = _difference(activation, m, h) ** 2
    mean: Array = COARSE_WEIGHTS @ squares @ COARSE_WEIGHTS
    return mean


def image_differences(
    network: MLP,
    scale: float,
    squared_norm: float,
    squared_distance: float,
    *,
    bias_scale: float = 0.0,
) -> np.ndarray:
    """Mean squared difference of two images' pre-activations, d_1 .. d_L.

    Two images with equal |x|^2 have pre-activations u, v of equal variance q. Then
    their mean m = (u + v) / 2 and half difference h = (u - v) / 2 are independent, with
    variances q - d / 4 and d / 4, and d_{l+1} = sigma_w^2 E (f(m + h) - f(m - h))^2.
    The difference is followed, not the correlation, since 1 - c falls below 1e-20.

    Args:
        network: plain, its weights drawn by ``initializers.normal``.
        scale: standard deviation s of every initial weight.
        squared_norm: |x|^2 of both images.
        squared_distance: |x - x'|^2.
        bias_scale: standard deviation of the initial biases.
    """
    q = pre_activation_variances(
        network, scale, np.array([squared_norm]), bias_scale=bias_scale
    )[:, 0]
    d = [scale**2 * squared_distance]
    for fan_in, variance in zip(network.sizes[1:-1], q[:-1], strict=True):
        square = float(_mean_square_difference(network.activation, variance, d[-1]))
        d.append(fan_in * scale**2 * square)
    return np.array(d)


def _top_error(q: np.ndarray, num_classes: int) -> np.ndarray:
    """E |p - e_y|^2 for logits of variance q and labels that are equally frequent.

    |p - e_y|^2 = |p|^2 - 2 p_y + 1, and p_y is 1 / K on average over the labels.
    """
    normals = np.random.default_rng(0).normal(size=(20_000, num_classes))
    points = np.geomspace(max(q.min(), 1e-12), max(q.max(), 1e-12) * (1 + 1e-9), 24)
    squares = [(softmax(r * normals, axis=1) ** 2).sum(1).mean() for r in points**0.5]
    top: np.ndarray = np.interp(q, points, squares) + 1 - 2 / num_classes
    return top


def gradient_rms(
    network: MLP, scale: float, squared_norms: np.ndarray, *, bias_scale: float = 0.0
) -> np.ndarray:
    """Mean field prediction of ``signals.gradient_rms`` over many networks.

    delta_l = f'(z_l) * (W_{l+1}^T delta_{l+1}), and theory takes the weights on the way
    down as independent of those on the way up: unit by unit E delta_l^2 = s^2 E f'^2
    |delta_{l+1}|^2 (Schoenholz et al. 2017). For one image |dW_l|^2 =
    |delta_l|^2 |a_{l-1}|^2.

    Args:
        network: plain, its weights drawn by ``initializers.normal``.
        scale: standard deviation s of every initial weight.
        squared_norms: |x|^2 of the images, (B,).
        bias_scale: standard deviation of the initial biases.

    Returns:
        (L,), rms over networks, images and weights, in nats per unit of weight.

    Raises:
        ValueError: normalization, residual connections or another initializer.
    """
    f, sizes = network.activation, network.sizes
    q = pre_activation_variances(network, scale, squared_norms, bias_scale=bias_scale)
    hidden = zip(sizes[1:-1], q[:-1], strict=True)
    inputs = [squared_norms, *(size * _mean_square(f, q_l) for size, q_l in hidden)]
    error = _top_error(q[-1], sizes[-1])
    squares = [np.mean(error * inputs[-1])]
    for layer in range(network.num_layers - 1, 0, -1):
        error = sizes[layer] * scale**2 * _mean_square_slope(f, q[layer - 1]) * error
        squares.insert(0, np.mean(error * inputs[layer - 1]))
    return np.sqrt(np.array(squares) / [n * m for n, m in pairwise(sizes)])


def exact_gradient_rms(
    network: MLP,
    scale: float,
    squared_norms: np.ndarray,
    *,
    num_samples: int = 200_000,
    seed: int = 0,
) -> np.ndarray:
    """The same without taking the layers as wide: exact, up to sampling, for any width.

    Derived for this package; no source known. Biases are zero.

    Up. Given a_l, the weights W_{l+1} are fresh, so z_{l+1} = W_{l+1} a_l has
    independent normal entries of variance s^2 |a_l|^2. The forward pass of one image is
    thus a chain that n normals drive from layer to layer, and can be sampled without
    any weights. Down, see ``_one_layer_down``: two numbers a sample are enough, A_l = E
    |delta_l|^2 and B_l = E (z_l . delta_l)^2. At the top, delta_L = p - e_y, the mean
    taken over K equally frequent labels:

        A_L = |p|^2 + 1 - 2 / K
        B_L = (z . p)^2 - 2 (z . p) mean(z) + mean(z^2)

    Args:
        network: as for ``gradient_rms``, without biases.
        scale: standard deviation s of every initial weight.
        squared_norms: |x|^2 of the images, (B,), drawn from with replacement.
        num_samples: forward passes; the error falls with its square root, and is 0.2 %
            at scale 1.
        seed: of the samples.

    Returns:
        (L,), as from ``gradient_rms``.

    Raises:
        ValueError: as from ``gradient_rms``, and biases.
    """
    _expect_covered(network)
    if network.biases:
        raise ValueError("network: expected no biases, found biases")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(squared_norms, float), num_samples)
    input_squares, z, a = [drawn], [], []
    for size in network.sizes[1:]:
        deviation = scale * np.sqrt(input_squares[-1])[:, None]
        z.append(deviation * rng.normal(size=(num_samples, size)))
        a.append(_value(network.activation, z[-1]))
        input_squares.append((a[-1] ** 2).sum(axis=1))

    p = softmax(z[-1], axis=1)
    along = (z[-1] * p).sum(axis=1)
    A = (p**2).sum(axis=1) + 1 - 2 / network.sizes[-1]
    B = along**2 - 2 * along * z[-1].mean(axis=1) + (z[-1] ** 2).mean(axis=1)
    squares = [np.mean(A * input_squares[-2])]
    for layer in range(network.num_layers - 1, 0, -1):
        z_l, a_l = z[layer - 1], a[layer - 1]
        A, B = _one_layer_down(A, B, scale, z_l, a_l, _slope(network.activation, z_l))
        squares.insert(0, np.mean(A * input_squares[layer - 1]))
    return np.sqrt(np.array(squares) / [n * m for n, m in pairwise(network.sizes)])


def _one_layer_down(
    A: np.ndarray,
    B: np.ndarray,
    scale: float,
    z: np.ndarray,
    a: np.ndarray,
    slopes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """A_l and B_l from those of the layer above, and z_l, a_l and f'(z_l).

    Down, the weights are not fresh: the forward pass knows W_{l+1} a_l = z_{l+1}. But
    that is all it knows. Split W_{l+1} along a_l and across it:

        W_{l+1} = z_{l+1} a_l^T / |a_l|^2 + V P,     P = 1 - a_l a_l^T / |a_l|^2

    where V is normal with variance s^2 and independent of the forward pass, since for
    normal weights W a and W P are independent. Write a, z', D for a_l, z_{l+1} and the
    diagonal matrix of f'(z_l), and delta' for delta_{l+1}, which contains only weights
    above, so that V is independent of it too. Then

        delta_l = D W_{l+1}^T delta' = D a (z' . delta') / |a|^2 + D P V^T delta'

    and V^T delta' is normal with variance s^2 |delta'|^2. Take the mean over V; the
    mixed term vanishes:

        A_l = s^2 (S - T / |a|^2) A_{l+1} + T / |a|^4 B_{l+1}
        B_l = s^2 (X - Y / |a|^2) A_{l+1} + Y / |a|^4 B_{l+1}

        S = sum f'^2     T = sum (f' a)^2     X = sum (z f')^2     Y = (sum z f' a)^2

    where sum (...)^2 - T / |a|^2 and the like are |P ...|^2. So two numbers close the
    recursion.
    """
    norm = (a**2).sum(axis=1)
    # ReLUs that are all off: nothing goes up, and P is the identity.
    inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    S, T = (slopes**2).sum(axis=1), ((slopes * a) ** 2).sum(axis=1)
    X, Y = ((z * slopes) ** 2).sum(axis=1), (z * slopes * a).sum(axis=1) ** 2
    return (
        scale**2 * (S - T * inverse) * A + T * inverse**2 * B,
        scale**2 * (X - Y * inverse) * A + Y * inverse**2 * B,
    )

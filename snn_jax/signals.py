"""Per-layer numbers that tell what a network is doing, measured on a set of images.

At small init scales images differ by less than the spacing of float32: give float64
parameters and images (under ``jax.enable_x64(True)``) to see what is still there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from snn_jax import backprop, networks
from snn_jax.networks import Architecture, Images, Labels, Params

# f' relative to its largest value. For the sigmoid 4 a (1 - a) < 0.0396 means that a is
# within 0.01 of 0 or 1; for tanh it is the same point, |a| > 0.98.
SATURATED_DERIVATIVE = 4 * 0.01 * 0.99
# Of the probe's regression, relative to the mean variance of a unit: enough to solve
# the equations when units are copies of each other, too little to hide a direction.
PROBE_RIDGE = 1e-8


class Signals(NamedTuple):
    """What there is to know of each layer, from the input up.

    L numbers, one a layer:

    Attributes:
        gradient_rms: rms over images and weights of single-image gradients, in nats per
            unit of weight: how much one image can move a weight.
        gradient_median: the same of the median image, rms over weights alone: far below
            gradient_rms where a few images carry it, as in saturated networks.
        mean_gradient_rms: rms over weights of the gradient of the mean loss: what is
            left when images have pulled in their different directions. On a plateau it
            is far smaller, and the gradient of a batch is mostly label noise.
        activation_mean: mean over units and images. From here on L - 1 numbers, one a
            hidden layer.
        activation_spread: rms over units of the standard deviation over images: how far
            the layer tells images apart. Two images differ by sqrt(2) of it.
        mean_slope: mean f' over units and images.
        saturation: fraction of (unit, image) pairs that pass on no gradient, f' below
            4 % of its largest value: a sigmoid within 0.01 of 0 or 1, a tanh within
            0.02 of -1 or 1, a ReLU that is off.
        dead: fraction of units that are saturated for every image.
        effective_rank: participation ratio of the covariance C over images, (tr C)^2 /
            tr C^2: from 1, all units say the same, to their number, NaN if they say
            nothing.
        probe_accuracy: fraction of the labels that a linear classifier reads from the
            layer: least squares on every other image, scored on the rest.
    """

    gradient_rms: Float[Array, "*N L"]
    gradient_median: Float[Array, "*N L"]
    mean_gradient_rms: Float[Array, "*N L"]
    activation_mean: Float[Array, "*N H"]
    activation_spread: Float[Array, "*N H"]
    mean_slope: Float[Array, "*N H"]
    saturation: Float[Array, "*N H"]
    dead: Float[Array, "*N H"]
    effective_rank: Float[Array, "*N H"]
    probe_accuracy: Float[Array, "*N H"]


def _rms(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Root mean square that does not underflow: float32 squares vanish below 1e-19."""
    largest = jnp.abs(values).max()
    unit = jnp.where(largest == 0, 1, largest)
    return unit * jnp.sqrt(jnp.mean((values / unit) ** 2))


def _median(values: Float[Array, " B"]) -> Float[Array, ""]:
    """Of numbers that are not negative: their bits, read as integers, have their order.

    XLA sorts integers five times as fast as floats on a CPU. NaN sorts above all.
    """
    integers = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    bits = jax.lax.sort(jax.lax.bitcast_convert_type(jnp.abs(values), integers))
    in_order = jax.lax.bitcast_convert_type(bits, values.dtype)
    half = values.shape[0] // 2
    return (in_order[half] + in_order[-1 - half]) / 2


def _effective_rank(a: Float[Array, "H B"]) -> Float[Array, ""]:
    centred = a - a.mean(axis=1, keepdims=True)
    centred = centred / jnp.abs(centred).max()  # NaN where nothing varies
    covariance = centred @ centred.T
    rank: Array = jnp.trace(covariance) ** 2 / (covariance**2).sum()
    return rank


def main_planes(
    params: Params, x: Images, *, architecture: Architecture
) -> Float[np.ndarray, "H B 2"]:
    """Every image in each hidden layer, in the plane in which images differ most.

    Principal components in float64, scaled to an rms of 1: at small init scales the
    whole cloud is smaller than the spacing of float32.

    Args:
        params: float32 or float64.
        x: images, one a row.
        architecture: of the network, with at least two units a hidden layer; a single
            unit gives a second coordinate of 0.
    """
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        inputs, _ = networks.forward(
            double, jnp.asarray(x, jnp.float64), architecture=architecture
        )
        planes = []
        for a in map(np.asarray, inputs[1:]):
            centred = a - a.mean(axis=1, keepdims=True)
            _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
            plane = np.zeros((2, a.shape[1]))
            plane[: len(lengths)] = (lengths[:, None] * directions)[:2]
            rms = np.sqrt((plane**2).mean())
            planes.append((plane / (rms if rms > 0 else 1)).T)
    return np.array(planes)


def _solve(A: Float[Array, "H H"], B: Float[Array, "H K"]) -> Float[Array, "H K"]:
    """A^-1 B for symmetric positive definite A, by Gauss-Jordan elimination.

    Such matrices need no pivots (Golub & Van Loan 2013, section 4.2). Not
    ``jnp.linalg.solve``: mapped over networks its LAPACK calls wait for each other for
    ever in jax 0.10.2, always so at 100 units.
    """

    def eliminate(i: Array, rows: Array) -> Array:
        row = rows[i] / rows[i, i]
        rows = rows - rows[:, i, None] * row[None, :]
        return rows.at[i].set(row)

    rows = jnp.concatenate([A, B], axis=1)
    solved: Array = jax.lax.fori_loop(0, A.shape[0], eliminate, rows)
    return solved[:, A.shape[0] :]


def _probe_accuracy(
    a: Float[Array, "H B"], y: Labels, num_classes: int
) -> Float[Array, ""]:
    """Of a linear least-squares classifier on the centred, rescaled activations."""
    fit, score = a[:, ::2], a[:, 1::2]
    mean = fit.mean(axis=1, keepdims=True)
    spread = _rms(fit - mean)
    unit = jnp.where(spread == 0, 1, spread)
    fit, score = (fit - mean) / unit, (score - mean) / unit
    # The regression's targets: 1 for the label, 0 elsewhere, less their mean.
    targets = (y[None, ::2] == jnp.arange(num_classes)[:, None]).astype(a.dtype)
    offset = targets.mean(axis=1, keepdims=True)
    ridge = PROBE_RIDGE * fit.shape[1] * jnp.eye(a.shape[0], dtype=a.dtype)
    W = _solve(fit @ fit.T + ridge, fit @ (targets - offset).T).T
    right: Array = (W @ score + offset).argmax(axis=0) == y[1::2]
    return right.mean(dtype=a.dtype)


def _rms_of_columns(values: Float[Array, "H B"]) -> Float[Array, " B"]:
    """``_rms`` of each column.

    The sum is a product of matrices, which the compiler does not take apart: the last
    bit does not depend on what else it compiles.
    """
    largest = jnp.abs(values).max(axis=0)
    unit = jnp.where(largest == 0, 1, largest)
    scaled = values / unit[None]
    squares = jnp.einsum("hb,hb->b", scaled, scaled)
    return unit * jnp.sqrt(squares / values.shape[0])


def _single_image_gradients(passes: backprop.Passes) -> list[Float[Array, " B"]]:
    """Rms over weights for each layer and image: |dW_l| = |delta_l| |a_{l-1}|."""
    return [
        _rms_of_columns(delta) * _rms_of_columns(a)
        for a, delta in zip(passes.inputs, passes.sum_deltas, strict=True)
    ]


def gradient_rms(
    params: Params, x: Images, y: Labels, *, architecture: Architecture
) -> Float[Array, " L"]:
    """The signal of that name alone, in nats per unit of weight."""
    passes = backprop.forward_backward(params, x, y, architecture=architecture)
    return jnp.stack([_rms(images) for images in _single_image_gradients(passes)])


def measure(
    params: Params, x: Images, y: Labels, *, architecture: Architecture
) -> Signals:
    """All signals of one network on a set of images; vmap it over networks.

    Args:
        params: float32 or, to see small differences, float64.
        x: images, one a row; about a thousand.
        y: labels in [0, K).
        architecture: of the network.

    >>> import jax
    >>> from snn_jax.networks import DEEP, init
    >>> params = init(jax.random.key(0), DEEP, gain=0.1)
    >>> x, y = jnp.linspace(0, 1, 4 * 784).reshape(4, 784), jnp.arange(4)
    >>> signals = measure(params, x, y, architecture=DEEP)
    >>> bool(signals.gradient_rms[0] < 1e-4 * signals.gradient_rms[-1])  # it vanishes
    True
    >>> bool(signals.activation_spread[-1] < 1e-3 * signals.activation_spread[0])
    True
    """
    y = jnp.asarray(y)
    activation = networks.ACTIVATIONS[architecture.activation]
    passes = backprop.forward_backward(params, x, y, architecture=architecture)

    single = _single_image_gradients(passes)
    layers = [
        (_rms(images), _median(images), _rms(delta @ a.T / a.shape[1]))
        for images, a, delta in zip(
            single, passes.inputs, passes.sum_deltas, strict=True
        )
    ]
    hidden = []
    for a, z in zip(passes.inputs[1:], passes.pre_activations[:-1], strict=True):
        slope = activation.derivative(z)
        saturated = slope < SATURATED_DERIVATIVE * activation.steepest
        hidden.append(
            (
                a.mean(),
                _rms(a - a.mean(axis=1, keepdims=True)),
                slope.mean(),
                saturated.mean(dtype=a.dtype),
                saturated.all(axis=1).mean(dtype=a.dtype),
                _effective_rank(a),
                _probe_accuracy(a, y, architecture.sizes[-1]),
            )
        )
    return Signals(*jnp.array(layers).T, *jnp.array(hidden).reshape(-1, 7).T)

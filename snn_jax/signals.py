"""Per-layer numbers that tell what a network is doing, measured on a set of images."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from snn_jax import backprop, networks
from snn_jax.networks import Architecture, Images, Labels, Params

# f' relative to its largest value. For the sigmoid 4 a (1 - a) < 0.0396 means that a is
# within 0.01 of 0 or 1; for tanh it is the same point, |a| > 0.98.
SATURATED_DERIVATIVE = 4 * 0.01 * 0.99


def _rms(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Root mean square that does not underflow: float32 squares vanish below 1e-19."""
    largest = jnp.abs(values).max()
    unit = jnp.where(largest == 0, 1, largest)
    return unit * jnp.sqrt(jnp.mean((values / unit) ** 2))


def gradient_rms(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
) -> Float[Array, " L"]:
    """Size of the weight gradient in each layer: the rms over images and weights.

    The rms of single-image gradients, not the gradient of the mean loss: on a plateau
    the latter is mostly label noise, which averages out, and hides how much one image
    can move a layer. No gradient is formed: for one image dW_l = delta_l a_{l-1}^T, so
    |dW_l|^2 = |delta_l|^2 |a_{l-1}|^2.

    Returns:
        One number a layer, from the first to the last, in nats per unit of weight.

    >>> import jax
    >>> from snn_jax.networks import DEEP, init
    >>> params = init(jax.random.key(0), DEEP, gain=0.1)
    >>> x, y = jnp.ones((2, 784)), jnp.array([3, 5])
    >>> rms = gradient_rms(params, x, y, architecture=DEEP)
    >>> bool(rms[0] / rms[-1] < 1e-4)  # the gradient vanishes on its way down
    True
    """
    passes = backprop.forward_backward(params, x, y, architecture=architecture)
    sizes = []
    for a, delta in zip(passes.inputs, passes.deltas, strict=True):
        # The rms of delta_i a_j over j is |delta_i| times the rms of a, image by image.
        sizes.append(_rms(delta * jnp.sqrt(jnp.mean(a**2, axis=0, keepdims=True))))
    return jnp.stack(sizes)


def saturation(
    params: Params, x: Images, *, architecture: Architecture
) -> Float[Array, " H"]:
    """Fraction of (unit, image) pairs in each hidden layer that pass on no gradient.

    A sigmoid counts as saturated within 0.01 of 0 or 1, a tanh within 0.02 of -1 or 1,
    a ReLU when it is off, the identity never.

    Returns:
        One fraction in [0, 1] a hidden layer, L - 1 in all; empty without hidden
        layers.
    """
    activation = networks.ACTIVATIONS[architecture.activation]
    threshold = SATURATED_DERIVATIVE * activation.steepest
    _, z = networks.forward(params, x, architecture=architecture)
    return jnp.array(
        [(activation.derivative(z_l) < threshold).mean() for z_l in z[:-1]]
    )

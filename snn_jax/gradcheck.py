"""Is a gradient right? Four independent ways to compute it, compared leaf by leaf.

    by hand              the equations of ``backprop.py``
    autodiff             ``jax.value_and_grad`` of the loss
    complex step         Im loss(w + i h) / h, one weight at a time
    central difference   (loss(w + h) - loss(w - h)) / 2h, one weight at a time

The first two share one thing, the slopes f' in ``networks.ACTIVATIONS``, which autodiff
is told to use. The last two know nothing of derivatives: they evaluate the loss. The
central difference subtracts two losses of about 2.3 that are known to 16 digits, so it
cannot see a gradient below about 1e-16 * 2.3 / h, and deep in a sigmoid network
gradients are far below that. The complex step (Squire & Trapp 1998; Lyness & Moler
1967) subtracts nothing. The loss is analytic, so loss(w + i h) = loss(w) + i h loss'(w)
- O(h^2): the derivative stands alone in the imaginary part, with all its digits, and h
can be so small that the rest vanishes.

All is done in float64. Two gradients g, h of a leaf are compared by

    |g - h| / (|g| + |h|)

in the Euclidean norm of the leaf, without an absolute tolerance: a first layer whose
gradient is 1e-12 must be right to as many digits as any other. 0 is equality, 1 is what
a wrong sign or a missing leaf gives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from snn_jax import backprop, losses
from snn_jax.networks import Architecture, Images, Labels, Params
from snn_jax.training import ValueAndGrad

# Any h whose square is lost beside 1 will do, as long as no product of h and a gradient
# leaves the range of floats.
COMPLEX_STEP = 1e-20
# The cube root of the rounding error, about where rounding and curvature balance.
CENTRAL_STEP = 1e-5
# What float64 rounding can do to a correct gradient; a factor 1.0001 is a mistake.
AUTODIFF_TOLERANCE = 1e-12
COMPLEX_TOLERANCE = 1e-12
CENTRAL_TOLERANCE = 1e-5


class Check(NamedTuple):
    """One leaf, checked; relative errors are of the gradient by hand.

    Attributes:
        leaf: its name, as in params.
        norm: Euclidean norm of its gradient by autodiff.
        autodiff: relative error against autodiff.
        complex_step: against the complex step.
        central: against the central difference.
        central_floor: relative error that rounding alone gives the central difference.
    """

    leaf: str
    norm: float
    autodiff: float
    complex_step: float
    central: float
    central_floor: float

    @property
    def central_is_blind(self) -> bool:
        """Whether rounding hides mistakes of the size of the tolerance."""
        return self.central_floor > CENTRAL_TOLERANCE / 10

    @property
    def agrees(self) -> bool:
        """Whether all ways that can see this leaf say the same. NaN is disagreement."""
        return (
            self.autodiff <= AUTODIFF_TOLERANCE
            and self.complex_step <= COMPLEX_TOLERANCE
            and (self.central <= CENTRAL_TOLERANCE or self.central_is_blind)
        )


def relative_error(g: np.ndarray | Array, h: np.ndarray | Array) -> float:
    """|g - h| / (|g| + |h|), in the Euclidean norm; 0 if both are zero.

    >>> relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0]))
    0.0
    >>> relative_error(np.array([1e-200]), np.array([-1e-200]))
    1.0
    """
    g, h = np.asarray(g), np.asarray(h)
    total = _norm(g) + _norm(h)
    return 0.0 if total == 0 else _norm(g - h) / total


def _norm(g: np.ndarray | np.floating) -> float:
    """Euclidean; without squares of gradients of 1e-200, which underflow."""
    largest = float(np.abs(g).max())
    return largest * float(np.linalg.norm(g / largest)) if largest > 0 else largest


@partial(jax.jit, static_argnames="architecture")
def complex_step(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
) -> Params:
    """The gradient of the mean loss by the complex step.

    Costs one evaluation of the loss for every weight.

    Args:
        params: float64 leaves, as all that follows: call it under
            ``jax.enable_x64(True)``.
        x: images, one a row.
        y: labels in [0, K).
        architecture: of the network.
    """
    flat, unflatten = ravel_pytree(_cast(params, jnp.complex128))

    def slope(k: Array) -> Array:
        shifted = unflatten(flat.at[k].add(1j * COMPLEX_STEP))
        loss = losses.mean_nll(shifted, x, y, architecture=architecture)
        return loss.imag / COMPLEX_STEP

    return _for_every_weight(slope, params)


@partial(jax.jit, static_argnames="architecture")
def central_difference(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
) -> Params:
    """The gradient of the mean loss by central differences; as ``complex_step``."""
    flat, unflatten = ravel_pytree(params)

    def slope(k: Array) -> Array:
        above, below = (
            losses.mean_nll(
                unflatten(flat.at[k].add(step)), x, y, architecture=architecture
            )
            for step in (CENTRAL_STEP, -CENTRAL_STEP)
        )
        return (above - below) / (2 * CENTRAL_STEP)

    return _for_every_weight(slope, params)


def _for_every_weight(slope: Callable[[Array], Array], params: Params) -> Params:
    flat, unflatten = ravel_pytree(params)
    slopes = jax.lax.map(slope, jnp.arange(flat.size), batch_size=64)
    gradient: Params = unflatten(slopes)
    return gradient


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def check(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
    value_and_grad: ValueAndGrad = backprop.value_and_grad,
) -> list[Check]:
    """Compares a gradient with autodiff, complex step and central difference.

    Args:
        params: of any float dtype; cast to float64.
        x: images, one a row; cast to float64. A few are enough.
        y: labels in [0, K).
        architecture: of the network.
        value_and_grad: the gradient under test.

    Returns:
        One ``Check`` a leaf, layer by layer.

    >>> from snn_jax import networks
    >>> tiny = networks.Architecture((4, 3, 3))
    >>> params = networks.init(jax.random.key(0), tiny, gain=0.01)
    >>> x, y = jnp.eye(2, 4), jnp.array([0, 2])
    >>> [check.agrees for check in check(params, x, y, architecture=tiny)]
    [True, True, True, True]
    >>> wrong = lambda *args, **options: jax.tree.map(
    ...     lambda leaf: 1.001 * leaf, backprop.value_and_grad(*args, **options)
    ... )
    >>> checks = check(params, x, y, architecture=tiny, value_and_grad=wrong)
    >>> [check.agrees for check in checks]
    [False, False, False, False]
    """
    with jax.enable_x64(True):
        leaves = list(params)  # layer by layer; a tree operation sorts them
        params, x = _cast((params, x), jnp.float64)
        loss, by_autodiff = losses.value_and_grad(
            params, x, y, architecture=architecture
        )
        by_hand = value_and_grad(params, x, y, architecture=architecture)[1]
        by_complex_step = complex_step(params, x, y, architecture=architecture)
        by_difference = central_difference(params, x, y, architecture=architecture)
        # Each of the two losses is off by about one rounding.
        noise = float(np.finfo(np.float64).eps * loss) / (2 * CENTRAL_STEP)

        def compare(leaf: str) -> Check:
            norm = _norm(np.asarray(by_autodiff[leaf]))
            floor = noise * by_autodiff[leaf].size ** 0.5
            return Check(
                leaf=leaf,
                norm=norm,
                autodiff=relative_error(by_hand[leaf], by_autodiff[leaf]),
                complex_step=relative_error(by_hand[leaf], by_complex_step[leaf]),
                central=relative_error(by_hand[leaf], by_difference[leaf]),
                central_floor=floor / (floor + 2 * norm),
            )

        return [compare(leaf) for leaf in leaves]


def check_examples(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
    value_and_grad: ValueAndGrad = backprop.value_and_grad,
) -> dict[str, Float[np.ndarray, " B"]]:
    """Compares with autodiff on every image alone: in a mean, mistakes can cancel.

    Returns:
        For every leaf the relative error of each image's own gradient, in float64.

    >>> from snn_jax import networks
    >>> params = networks.init(jax.random.key(0), networks.DEEP, gain=1.0)
    >>> errors = check_examples(
    ...     params, jnp.ones((3, 784)), jnp.arange(3), architecture=networks.DEEP
    ... )
    >>> errors["W1"].shape, bool(max(map(np.max, errors.values())) < 1e-12)
    ((3,), True)
    """
    with jax.enable_x64(True):
        params, x = _cast((params, x), jnp.float64)

        def gradients(of: ValueAndGrad) -> Params:
            def one(image: Array, label: Array) -> Params:
                batch = image[None], label[None]
                return of(params, *batch, architecture=architecture)[1]

            return jax.vmap(one)(jnp.asarray(x), jnp.asarray(y))

        by_hand, by_autodiff = (
            gradients(value_and_grad),
            gradients(losses.value_and_grad),
        )
        return {
            leaf: np.array(
                [
                    relative_error(g, h)
                    for g, h in zip(by_hand[leaf], by_autodiff[leaf], strict=True)
                ]
            )
            for leaf in params
        }

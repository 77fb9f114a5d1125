"""Is a gradient right? Four independent ways to compute it, compared leaf by leaf.

    the gradient in question     ``value_and_grad(params, x, y) -> (loss, grads)``
    autodiff                     ``jax.grad`` of the loss
    complex step                 Im loss(w + i h) / h, one weight at a time
    central difference           (loss(w + h) - loss(w - h)) / 2h, one weight at a time

A gradient by hand and autodiff can share a mistake, such as a slope f' that autodiff is
told to use. The last two know nothing of derivatives: they evaluate the loss, thrice
for every weight, so check a small network of the kind. The central difference subtracts
two losses of about 2.3 that are known to 16 digits, so it cannot see a gradient below
about 1e-16 * 2.3 / h, and deep in a sigmoid network gradients are far below that. The
complex step (Squire & Trapp 1998; Lyness & Moler 1967) subtracts nothing. If the loss
is analytic, loss(w + i h) = loss(w) + i h loss'(w) - O(h^2): the derivative stands
alone in the imaginary part, and h can be so small that the rest vanishes.

What rounding alone does to a right gradient is known too. The sums z of a layer are
rounded, the more the larger they are: autodiff at weights that differ in the last bits
shows how much a leaf minds. And a gradient that begins with outputs minus targets, as
p - e, knows 1 - p_y to an absolute 1e-16, which of an example whose loss is only l nats
is a relative 1e-16 / l. A leaf may be off by a few times the sum of both; if that is
more than a thousandth, nobody can check it, and it counts as blind.

Some losses do not take complex numbers, or lose imaginary parts: in |z|, in a cast, in
JAX's softplus and convolutions. The complex step is then left out, as None: if the loss
raises an error, or if in a leaf that central differences can see these and autodiff
agree, and it does not. The two have nothing in common but the loss, so it is the third
that is wrong. Where central differences are blind nobody can tell: the leaf disagrees.

All is done in float64, and a gradient that casts to less disagrees. Two gradients g, h
of a leaf are compared by

    |g - h| / (|g| + |h|)

in the Euclidean norm of the leaf, without an absolute tolerance: a first layer whose
gradient is 1e-12 must be right to as many digits as any other. 0 is equality, 1 is what
a wrong sign gives. So a leaf whose gradient is 0 because terms cancel, such as a bias
before batch normalization, disagrees: it is nothing but rounding.
"""

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from snn_jax import gradients
from snn_jax.gradients import ValueAndGrad
from snn_jax.networks import Params

# loss(params, x, y), the mean of a batch.
MeanLoss = Callable[[Params, Any, Any], Array]

# Any h whose square is lost beside 1 will do, as long as no product of h and a gradient
# leaves the range of floats.
COMPLEX_STEP = 1e-20
# The cube root of the rounding error, about where rounding and curvature balance.
CENTRAL_STEP = 1e-5
# What float64 rounding can do to a correct gradient; a factor 1.0001 is a mistake.
AUTODIFF_TOLERANCE = 1e-12
COMPLEX_TOLERANCE = 1e-12
CENTRAL_TOLERANCE = 1e-5
BLIND = CENTRAL_TOLERANCE / 10
# A loss of 1e-10 nats is a difference of larger numbers and has six digits.
LOSS_TOLERANCE = 1e-6
EPS = float(np.finfo(np.float64).eps)
# Times the rounding that is expected, a right gradient may be off.
SAFETY = 16
# Weights are moved by so many last bits, so many times, to see the rounding.
MOVED_BITS, NUM_MOVED = 4, 4
# From this rounding on a leaf cannot be checked.
UNKNOWABLE = 1e-3


class Check(NamedTuple):
    """One leaf, checked; relative errors are of the gradient in question.

    Attributes:
        leaf: its name, as from ``gradients.leaf_names``.
        norm: Euclidean norm of its gradient by autodiff.
        autodiff: relative error against autodiff.
        complex_step: against the complex step; None if that is left out.
        central: against the central difference.
        central_floor: relative error that rounding alone gives the central difference.
        loss: relative error of the loss beside the gradient, the same for all leaves.
        rounding: relative error that rounding may give a right gradient.
        loss_rounding: the same for the loss.
    """

    leaf: str
    norm: float
    autodiff: float
    complex_step: float | None
    central: float
    central_floor: float
    loss: float
    rounding: float = 0.0
    loss_rounding: float = 0.0

    @property
    def is_blind(self) -> bool:
        """Whether rounding may be all there is to see: no way can check the leaf."""
        return self.rounding > UNKNOWABLE

    @property
    def central_is_blind(self) -> bool:
        """Whether rounding hides mistakes of the size of the tolerance."""
        return self.central_floor > BLIND

    @property
    def agrees(self) -> bool:
        """Whether loss and leaf are right by all ways that see them; NaN is not."""
        step = 0.0 if self.complex_step is None else self.complex_step
        return (
            self.loss <= max(LOSS_TOLERANCE, self.loss_rounding)
            and self.autodiff <= max(AUTODIFF_TOLERANCE, self.rounding)
            and step <= max(COMPLEX_TOLERANCE, self.rounding)
            and (
                self.central <= max(CENTRAL_TOLERANCE, self.rounding)
                or self.central_is_blind
            )
        )


def relative_error(g: Any, h: Any) -> float:
    """|g - h| / (|g| + |h|), in the Euclidean norm; 0 if both are zero.

    >>> relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0]))
    0.0
    >>> relative_error(np.array([1e-200]), np.array([-1e-200]))
    1.0
    """
    if np.shape(g) != np.shape(h):
        raise ValueError(
            f"shapes: expected equal ones, found {np.shape(g)}, {np.shape(h)}"
        )
    total = _norm(g) + _norm(h)
    return 0.0 if total == 0 else _norm(np.subtract(g, h)) / total


def _norm(g: Any) -> float:
    """Euclidean; without squares of gradients of 1e-200, which underflow."""
    g = np.asarray(g)
    largest = float(np.abs(g).max(initial=0))
    return largest * float(np.linalg.norm(g / largest)) if largest > 0 else largest


def check(
    value_and_grad: ValueAndGrad, params: Params, x: Any, y: Any, *, loss: MeanLoss
) -> list[Check]:
    """Compares a gradient with autodiff, complex step and central difference.

    Args:
        value_and_grad: the gradient in question, in JAX or NumPy.
        params: leaves that are floats are checked, others are constants.
        x: a batch of inputs, a few; floats, here as elsewhere, are cast to float64.
        y: its targets, labels or floats.
        loss: ``loss(params, x, y)`` in JAX, as from ``gradients.mean_loss``.

    Returns:
        One ``Check`` a leaf, in the order of the tree; for an MLP layer by layer.

    Raises:
        GradientError: leaves that are missing or have another shape.

    >>> from snn_jax import backprop, networks
    >>> tiny = networks.MLP((4, 3, 3))
    >>> params = tiny.init(jax.random.key(0), scale=0.01)
    >>> x, y, loss = jnp.eye(2, 4), jnp.array([0, 2]), gradients.mean_loss(tiny)
    >>> by_hand = backprop.value_and_grad(tiny)
    >>> [check.agrees for check in check(by_hand, params, x, y, loss=loss)]
    [True, True, True, True]
    >>> def wrong(params, x, y):
    ...     value, grads = by_hand(params, x, y)
    ...     return value, grads | {"b1": 1.001 * grads["b1"]}
    >>> [check.agrees for check in check(wrong, params, x, y, loss=loss)]
    [True, False, True, True]
    """
    with jax.enable_x64(True):
        params, x, y = _as_float64((params, x, y))
        value, found = _call(value_and_grad, params, x, y)
        expected, grads = _autodiff(params, x, y, loss=loss)
        differences = _one_by_one(params, x, y, loss=loss, imaginary=False)
        steps = _complex_step(params, x, y, loss=loss)
        rounding = _rounding(params, x, y, grads, loss=loss)
    autodiff = _floats(params, grads)
    floors = [_floor(expected, h) for h in autodiff]
    if steps and any(
        floor <= BLIND and _is_alone(*ways)
        for floor, *ways in zip(
            floors, steps, autodiff, differences, rounding, strict=True
        )
    ):
        steps = None
    checks = [
        Check(
            leaf=name,
            norm=_norm(autodiff[i]),
            autodiff=relative_error(found[i], autodiff[i]),
            complex_step=relative_error(found[i], steps[i]) if steps else None,
            central=relative_error(found[i], differences[i]),
            central_floor=floors[i],
            loss=relative_error(value, expected),
            rounding=rounding[i],
            loss_rounding=min(1.0, SAFETY * EPS / max(abs(float(expected)), EPS)),
        )
        for i, name in enumerate(_floats(params, gradients.leaf_names(params)))
    ]
    return _by_layer(checks)


def _by_layer(checks: list[Check]) -> list[Check]:
    """Of an MLP, whose leaves have the numbers of their layers; others as they are."""
    if not all(re.fullmatch(r"[Wbg]\d+", check.leaf) for check in checks):
        return checks
    return sorted(checks, key=lambda check: (int(check.leaf[1:]), check.leaf))


def check_examples(
    value_and_grad: ValueAndGrad, params: Params, x: Any, y: Any, *, loss: MeanLoss
) -> dict[str, Float[np.ndarray, " B"]]:
    """Compares with autodiff on every image alone: in a mean, mistakes can cancel.

    Returns:
        For every leaf the relative error of each image's own gradient, in float64.

    >>> from snn_jax import backprop, networks
    >>> tiny = networks.MLP((4, 3, 3), biases=False)
    >>> by_hand, params = backprop.value_and_grad(tiny), tiny.init(jax.random.key(0))
    >>> x, y, loss = jnp.eye(2, 4), jnp.array([0, 2]), gradients.mean_loss(tiny)
    >>> errors = check_examples(by_hand, params, x, y, loss=loss)
    >>> {leaf: (error < 1e-12).tolist() for leaf, error in errors.items()}
    {'W1': [True, True], 'W2': [True, True]}
    """
    errors = []
    with jax.enable_x64(True):
        params, x, y = _as_float64((params, x, y))
        for i in range(len(x)):
            one = x[i : i + 1], y[i : i + 1]
            found = _call(value_and_grad, params, *one)[1]
            autodiff = _floats(params, _autodiff(params, *one, loss=loss)[1])
            errors.append(list(map(relative_error, found, autodiff)))
    names = _floats(params, gradients.leaf_names(params))
    return dict(zip(names, np.transpose(errors), strict=True))


def _is_float(leaf: Any) -> bool:
    return bool(jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating))


def _as_float64(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64) if _is_float(leaf) else leaf, tree
    )


def _floats(params: Params, tree: Any) -> list[Any]:
    """Of a tree or list like params, what belongs to leaves that are floats."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(tree), strict=True)
    return [leaf for of, leaf in pairs if _is_float(of)]


def _call(
    value_and_grad: ValueAndGrad, params: Params, x: Any, y: Any
) -> tuple[Any, list[Any]]:
    """The loss and the gradient in question."""
    if gradients.traced(value_and_grad, params, x, y):
        value, grads = jax.jit(value_and_grad)(params, x, y)
    else:
        value, grads = gradients.call_numpy(value_and_grad, params, x, y)
    return value, _floats(params, grads)


@partial(jax.jit, static_argnames="loss")
def _autodiff(params: Params, x: Any, y: Any, *, loss: MeanLoss) -> tuple[Any, Params]:
    return jax.value_and_grad(loss, allow_int=True)(params, x, y)


@partial(jax.jit, static_argnames=("loss", "imaginary"))
def _one_by_one(
    params: Params, x: Any, y: Any, *, loss: MeanLoss, imaginary: bool
) -> list[Any]:
    """The complex step or the central difference, for one weight after the other."""
    leaves = jax.tree.leaves(params)
    places = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
    unit, dtype = (1j, jnp.complex128) if imaginary else (1, jnp.float64)
    flat, unflatten = ravel_pytree([leaves[i].astype(dtype) for i in places])

    def beside(k: Array, step: float) -> Array:
        moved, floats = list(leaves), unflatten(flat.at[k].add(step * unit))
        for i, leaf in zip(places, floats, strict=True):
            moved[i] = leaf
        tree = jax.tree.unflatten(jax.tree.structure(params), moved)
        return loss(tree, x, y)

    def slope(k: Array) -> Array:
        if imaginary:
            return beside(k, COMPLEX_STEP).imag / COMPLEX_STEP
        return (beside(k, CENTRAL_STEP) - beside(k, -CENTRAL_STEP)) / (2 * CENTRAL_STEP)

    return list(unflatten(jax.lax.map(slope, jnp.arange(flat.size), batch_size=64)))


def _complex_step(
    params: Params, x: Any, y: Any, *, loss: MeanLoss
) -> list[Any] | None:
    """None if the loss raises an error, which it has not done at real numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imaginary parts that get lost
        try:
            return list(_one_by_one(params, x, y, loss=loss, imaginary=True))
        except Exception:
            return None


def _floor(loss: Any, gradient: Any) -> float:
    """Of a central difference, whose two losses are off by about a rounding each."""
    noise = float(np.finfo(np.float64).eps) * abs(float(loss)) / (2 * CENTRAL_STEP)
    error, norm = noise * np.size(gradient) ** 0.5, _norm(gradient)
    return error / (error + 2 * norm) if norm else 1.0


@partial(jax.jit, static_argnames="loss")
def _of_examples(
    params: Params, x: Any, y: Any, *, loss: MeanLoss
) -> tuple[Any, Params]:
    """Losses of examples alone, and norms of the leaves of their gradients."""

    def one(x: Any, y: Any) -> tuple[Any, Params]:
        value, grads = _autodiff(params, x[None], y[None], loss=loss)
        floats = _floats(params, grads)
        return value, [
            jnp.linalg.norm(g / _largest(g)) * _largest(g)
            for g in map(jnp.ravel, floats)
        ]

    return jax.vmap(one)(x, y)


def _rounding(
    params: Params, x: Any, y: Any, grads: Params, *, loss: MeanLoss
) -> list[float]:
    """Relative error of every leaf that rounding may cause, see the top."""
    found = np.zeros(len(_floats(params, grads)))
    bits = np.random.default_rng(0)
    for _ in range(NUM_MOVED):
        moved = jax.tree.map(
            lambda w: (
                w * (1 + MOVED_BITS * EPS * bits.choice([-1.0, 1.0], w.shape))
                if _is_float(w)
                else w
            ),
            params,
        )
        _, beside = _autodiff(moved, x, y, loss=loss)
        pairs = zip(_floats(params, grads), _floats(params, beside), strict=True)
        found = np.maximum(found, [relative_error(*pair) for pair in pairs])
    if min(np.ndim(x), np.ndim(y)) > 0:  # examples that can be taken apart
        losses, norms = _of_examples(params, x, y, loss=loss)
        relative = EPS / np.clip(np.asarray(losses), EPS, 1)
        for i, whole in enumerate(_floats(params, grads)):
            of_leaf = len(x) * _norm(whole)
            if of_leaf > 0:
                found[i] += float((relative * np.asarray(norms[i])).sum()) / of_leaf
    return [min(1.0, SAFETY * float(value)) for value in found]


def _largest(g: Array) -> Array:
    """Of the absolute values; 1 where all are 0."""
    largest = jnp.abs(g).max()
    return jnp.where(largest > 0, largest, 1)


def _is_alone(step: Any, autodiff: Any, difference: Any, rounding: float) -> bool:
    """Whether the other two, which agree, are against it; if NaN, they are."""
    agrees = relative_error(step, autodiff) <= max(COMPLEX_TOLERANCE, rounding)
    near = relative_error(autodiff, difference)
    return not agrees and not relative_error(step, difference) <= 10 * near

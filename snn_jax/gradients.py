"""Gradients: ``value_and_grad(params, x, y) -> (loss, grads)`` and nothing else.

By autodiff here, by hand in ``backprop``, or a user's own, written in JAX or NumPy:
wherever one is used, so can be another. ``grads`` is a tree like ``params``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from snn_jax.losses import Loss, nll
from snn_jax.networks import Params

ValueAndGrad = Callable[[Params, Any, Any], tuple[Any, Params]]

# What JAX says of a function that needs numbers where it has only shapes.
_NEEDS_NUMBERS = (
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)


class GradientError(ValueError):
    """A gradient that cannot be one: which leaf, what was expected and found."""


def mean_loss(network: Any, loss: Loss = nll) -> Callable[[Params, Any, Any], Array]:
    """What a network is trained to make small: the mean loss of a batch.

    The same network and loss give the same function, so it is compiled once.

    >>> from snn_jax.networks import MLP
    >>> zeros = {"W1": np.zeros((10, 2)), "b1": np.zeros(10)}
    >>> x, y = np.ones((3, 2)), np.array([3, 1, 4])
    >>> loss = mean_loss(MLP((2, 10)))(zeros, x, y)
    >>> print(f"{loss:.4f}")  # ln 10: all are equally likely
    2.3026
    """
    return _mean_loss(network, loss)


# Apart, since a cache tells f(network) from f(network, nll).
@functools.cache
def _mean_loss(network: Any, loss: Loss) -> Callable[[Params, Any, Any], Array]:
    def mean(params: Params, x: Any, y: Any) -> Array:
        return loss(network.apply(params, x), y).mean()

    return mean


def by_autodiff(network: Any, loss: Loss = nll) -> ValueAndGrad:
    """``jax.value_and_grad`` of the mean loss, the same function for the same two."""
    return _value_and_grad(mean_loss(network, loss))


_value_and_grad = functools.cache(jax.value_and_grad)


def check_tree(params: Params, loss: Any, grads: Params) -> None:
    """Raises GradientError unless a gradient has the leaves of the parameters.

    Args:
        params: with leaves that have a shape.
        loss: that came with it, one number.
        grads: to be looked at.

    >>> check_tree({"b": np.zeros(5)}, 0.0, {"b": np.zeros((5, 1))})
    Traceback (most recent call last):
    snn_jax.gradients.GradientError: gradient of b: expected shape (5,), found (5, 1)
    """
    if np.shape(loss) != ():
        raise GradientError(
            f"loss beside the gradient: expected one number, found {np.shape(loss)}"
        )
    wanted = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    found = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(grads)}
    for name in wanted:
        if name not in found:
            there = ", ".join(found) or "none"
            raise GradientError(f"gradient of {name}: expected one, found only {there}")
        if np.shape(found[name]) != np.shape(wanted[name]):
            raise GradientError(
                f"gradient of {name}: expected shape {np.shape(wanted[name])}, found "
                f"{np.shape(found[name])}"
            )
    for name in found:
        if name not in wanted:
            raise GradientError(
                f"gradient of {name}: expected only {', '.join(wanted)}"
            )
    trees: list[Any] = [jax.tree.structure(params), jax.tree.structure(grads)]
    if trees[0] != trees[1]:
        raise GradientError(f"gradient: expected a tree {trees[0]}, found {trees[1]}")


def _name(path: Any) -> str:
    """Of a leaf: W1 for {"W1": ...}, 0.weight for ({"weight": ...},)."""
    return jax.tree_util.keystr(path, simple=True, separator=".") or "the parameters"


def leaf_names(params: Params) -> list[str]:
    """Of all leaves, in the order of the tree.

    >>> leaf_names({"a": [1.0, 2.0], "b": 3.0})
    ['a.0', 'a.1', 'b']
    """
    return [_name(path) for path, _ in jax.tree.leaves_with_path(params)]


def traced(value_and_grad: ValueAndGrad, params: Params, x: Any, y: Any) -> bool:
    """Whether JAX can see into a gradient; if not, it is written in NumPy.

    Args:
        value_and_grad: to be looked into.
        params: arrays, or their shapes and dtypes, like what follows.
        x: a batch of inputs.
        y: its targets.

    Raises:
        GradientError: its result is no gradient.
    """
    try:
        found = jax.eval_shape(value_and_grad, params, x, y)
    except _NEEDS_NUMBERS:
        return False
    check_tree(params, *_pair(found))
    return True


def _pair(found: Any) -> tuple[Any, Params]:
    """What a gradient returned, if it is two things."""
    try:
        loss, grads = found
    except (TypeError, ValueError):
        raise GradientError(
            f"gradient: expected (loss, grads), found {type(found).__name__}"
        ) from None
    return loss, grads


def call_numpy(
    value_and_grad: ValueAndGrad, params: Params, x: Any, y: Any
) -> tuple[Any, Params]:
    """Calls a gradient written in NumPy.

    Args:
        value_and_grad: gets copies, as NumPy arrays, that it may write to.
        params: arrays, like what follows.
        x: a batch of inputs.
        y: its targets.

    Returns:
        What it returned: the loss and the gradient.

    Raises:
        GradientError: that is no gradient.
    """
    loss, grads = _pair(value_and_grad(*jax.tree.map(np.array, (params, x, y))))
    check_tree(params, loss, grads)
    return loss, grads


@functools.cache
def from_numpy(value_and_grad: ValueAndGrad) -> ValueAndGrad:
    """A gradient written in NumPy, called back from compiled code.

    It is given NumPy arrays, and its numbers are cast to what they are numbers for.

    >>> def value_and_grad(params, x, y):
    ...     error = np.dot(x, params) - y
    ...     return 0.5 * np.mean(error**2), x.T @ error / len(y)
    >>> x, y = np.eye(2), np.array([1.0, 2.0])
    >>> jax.jit(from_numpy(value_and_grad))(jax.numpy.zeros(2), x, y)[1]
    Array([-0.5, -1. ], dtype=float32)
    """

    def loss_dtype(params: Params) -> Any:
        # Of all leaves together: one of them alone may be of whole numbers.
        return jax.numpy.result_type(*jax.tree.leaves(params))

    def called(params: Params, x: Any, y: Any) -> Any:
        loss, grads = call_numpy(value_and_grad, params, x, y)
        grads = jax.tree.map(lambda g, p: np.asarray(g, p.dtype), grads, params)
        return np.asarray(loss, loss_dtype(params)), grads

    def gradient(params: Params, x: Any, y: Any) -> Any:
        leaves = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),  # type: ignore[no-untyped-call]
            params,
        )
        loss = jax.ShapeDtypeStruct((), loss_dtype(params))  # type: ignore[no-untyped-call]
        return jax.pure_callback(
            called, (loss, leaves), params, x, y, vmap_method="sequential"
        )

    return gradient

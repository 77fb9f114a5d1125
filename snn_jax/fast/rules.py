"""An epoch with any optimizer whose rule knows nothing but gradients and weights.

An optimizer takes the gradients of one network; ``jax.vmap`` maps it over the last axis
of the arrays here. Its state lies as the weights do, so that nothing is turned over
from step to step: the first layer's are (fan_in, fan_out). A rule may not care.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from snn_jax.datasets import Split
from snn_jax.fast.layers import (
    first_gradient,
    first_layer,
    gradients,
    storing,
    to_first,
    to_last,
)
from snn_jax.networks import MLP, Params

# Rounding that two orders of the same sums may differ by.
ALIKE = 1e-5


def _turned(tree: Any, shape: tuple[int, ...]) -> Any:
    """With all that has the shape of W1 turned over, of one network."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.shape == shape else leaf, tree)


def _to_other_end(tree: Any, shape: tuple[int, ...], *, last: bool) -> Any:
    """A state of N networks, the network axis to the last or back to the first.

    What has the shape of W1 is turned over, as ``layers.to_last`` does.
    """
    ends = (0, -1) if last else (-1, 0)
    inner = shape if last else shape[::-1]

    def moved(leaf: Array) -> Array:
        of_one = leaf.shape[1:] if last else leaf.shape[:-1]
        return leaf.transpose(2, 1, 0) if of_one == inner else jnp.moveaxis(leaf, *ends)

    return jax.tree.map(moved, tree)


def serves(rule: optax.GradientTransformation, params: Params) -> bool:
    """Whether a rule treats W1 and its transpose alike, and wants no more than these.

    Tried on two steps of random gradients, with what it keeps: elementwise rules pass,
    and so do norms and factors that serve rows as columns. A rule that wants the loss
    does not, nor one with numbers of the shape of W1 that go with something else.

    Args:
        rule: made of numbers, not traced.
        params: shapes of one network's parameters.

    >>> like = {"W1": jnp.ones((3, 5)), "W2": jnp.ones((2, 3))}
    >>> serves(optax.adam(0.1), like), serves(optax.lbfgs(0.1), like)
    (True, False)
    """
    rng, shape = np.random.default_rng(0), params["W1"].shape

    def drawn() -> Params:
        return {
            name: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
            for name, leaf in params.items()
        }

    @jax.jit
    def moved(weights: Params, steps: list[Params]) -> tuple[list[Params], Any]:
        state, found = rule.init(weights), []
        for grads in steps:
            updates, state = rule.update(grads, state, weights)
            found.append(updates)
        return found, state

    weights, steps = drawn(), [drawn(), drawn()]
    try:
        expected = _turned(moved(weights, steps), shape)
        found = moved(
            weights | {"W1": weights["W1"].T},
            [grads | {"W1": grads["W1"].T} for grads in steps],
        )
    except Exception:  # whatever it wants, it is not here
        return False
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=ALIKE, atol=1e-30)
        for a, b in pairs
    )


def run_epoch_with(
    make: Callable[[Any], optax.GradientTransformation],
    points: Any,
    many: Params,
    states: Any,
    order: Int[Array, "steps B"],
    train: Split,
    *,
    network: MLP,
) -> tuple[Params, Any, Float[Array, " N"]]:
    """``training.run_epoch`` of N networks, with any rule and the gradient by hand.

    Args:
        make: the rule of a network from its point; one that ``serves``.
        points: a pytree of arrays over networks.
        many: parameters whose leaves have a leading axis of N networks.
        states: of the rule, alike.
        order: of the images, a row a batch, the same for all networks.
        train: what is learned from.
        network: of all, one that ``fits``.

    Returns:
        Parameters and states after the epoch, and the mean loss of the batches of each.
    """
    x, y = jnp.asarray(train.x).reshape(len(train.y), -1), jnp.asarray(train.y)
    batch_size = order.shape[1]
    stored = storing((order[0, 0] < 0).astype(jnp.int32))

    def update(point: Any, grads: Params, state: Any, params: Params) -> Any:
        updates, state = make(point).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    every = jax.vmap(update, in_axes=(0, -1, -1, -1), out_axes=-1)

    def step(carry: tuple[Params, Any], batch: Array) -> tuple[Any, Array]:
        params, state = carry
        z = first_layer(params["W1"], x[batch])
        if network.biases:
            z = z + params["b1"][None]
        found, delta, loss = gradients(params, z, y[batch], network, stored)
        found["W1"] = first_gradient(x[batch], delta)
        grads = {name: found[name] / batch_size for name in params}
        return every(points, grads, state, params), loss

    shape = many["W1"].shape[1:]
    last = to_last(many), _to_other_end(states, shape, last=True)
    (params, state), loss = jax.lax.scan(step, last, order)
    after = to_first(params), _to_other_end(state, shape, last=False)
    return *after, loss.sum(0) / order.size

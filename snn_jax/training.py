"""Training one network, as a pure function: no file, no device, no printing.

An optimizer is any ``optax.GradientTransformation``. A gradient is any function with
the signature of ``losses.value_and_grad``: by automatic differentiation or by hand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from snn_jax import losses, networks, signals
from snn_jax.mnist import Split
from snn_jax.networks import Architecture, Images, Labels, Params

ValueAndGrad = Callable[..., tuple[Array, Params]]

# Signals are measured on this many images, the first of the training set.
NUM_SIGNAL_IMAGES = 1000


class State(NamedTuple):
    """What the next step needs."""

    params: Params
    optimizer_state: Any


class Measurement(NamedTuple):
    """What a reader wants to know after an epoch; losses in nats.

    Attributes:
        train_loss: mean loss of the epoch's batches, each before its update; NaN for
            epoch 0, the initial network.
        valid_loss: mean loss on the validation set.
        valid_accuracy: fraction right there.
        gradient_rms: (L,), ``signals.gradient_rms`` on ``NUM_SIGNAL_IMAGES`` images.
        saturation: (L - 1,), ``signals.saturation`` on the same images.
    """

    train_loss: Float[Array, "*T"]
    valid_loss: Float[Array, "*T"]
    valid_accuracy: Float[Array, "*T"]
    gradient_rms: Float[Array, "*T L"]
    saturation: Float[Array, "*T H"]


def start(params: Params, *, optimizer: optax.GradientTransformation) -> State:
    """The state of a network before its first step."""
    return State(params, optimizer.init(params))


def step(
    state: State,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
    optimizer: optax.GradientTransformation,
    value_and_grad: ValueAndGrad = losses.value_and_grad,
) -> tuple[State, Float[Array, ""]]:
    """One update from one batch.

    Returns:
        The new state, and the loss of the batch before the update.
    """
    loss, grads = value_and_grad(state.params, x, y, architecture=architecture)
    updates, optimizer_state = optimizer.update(
        grads, state.optimizer_state, state.params
    )
    params: Params = optax.apply_updates(state.params, updates)
    return State(params, optimizer_state), loss


def batch_order(
    key: Key[Array, ""], num_examples: int, batch_size: int
) -> Int[Array, "steps B"]:
    """A fresh shuffle of the examples, cut into batches.

    The examples that do not fill a last batch sit this epoch out; the next shuffle
    leaves out others.

    Raises:
        ValueError: batch_size is not in [1, num_examples].

    >>> batch_order(jax.random.key(0), 10, 3).shape
    (3, 3)
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch size: expected 1 to {num_examples}, the number of training images, "
            f"found {batch_size}"
        )
    steps = num_examples // batch_size
    order = jax.random.permutation(key, num_examples)
    return order[: steps * batch_size].reshape(steps, batch_size)


def measure(
    params: Params, train: Split, valid: Split, *, architecture: Architecture
) -> Measurement:
    """The numbers of ``Measurement`` for a network as it is."""
    x, y = train.x[:NUM_SIGNAL_IMAGES], train.y[:NUM_SIGNAL_IMAGES]
    logits = networks.apply(params, valid.x, architecture=architecture)
    return Measurement(
        train_loss=jnp.full((), jnp.nan, logits.dtype),
        valid_loss=losses.nll(logits, valid.y).mean(),
        valid_accuracy=losses.accuracy(logits, valid.y),
        gradient_rms=signals.gradient_rms(params, x, y, architecture=architecture),
        saturation=signals.saturation(params, x, architecture=architecture),
    )


def run_epoch(
    state: State,
    key: Key[Array, ""],
    train: Split,
    valid: Split,
    *,
    architecture: Architecture,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    value_and_grad: ValueAndGrad = losses.value_and_grad,
) -> tuple[State, Measurement]:
    """One pass over the training set in a fresh order, then the measurements.

    Args:
        state: as from ``start`` or the epoch before.
        key: of this epoch's shuffle.
        train: what is learned from; its first images give the signals.
        valid: what loss and accuracy are measured on.
        architecture: of the network.
        optimizer: an optax transformation; what is inside it may be traced.
        batch_size: from 1, true stochastic gradient descent, to the whole set.
        value_and_grad: by default ``losses.value_and_grad``; or
            ``backprop.value_and_grad``, the same by hand.
    """
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)
    order = batch_order(key, x.shape[0], batch_size)

    def run_step(state: State, batch: Array) -> tuple[State, Array]:
        return step(
            state,
            x[batch],
            y[batch],
            architecture=architecture,
            optimizer=optimizer,
            value_and_grad=value_and_grad,
        )

    state, batch_losses = jax.lax.scan(run_step, state, order)
    measurement = measure(state.params, train, valid, architecture=architecture)
    return state, measurement._replace(train_loss=batch_losses.mean())


def train(
    key: Key[Array, ""],
    params: Params,
    train: Split,
    valid: Split,
    *,
    architecture: Architecture,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    batch_size: int,
    value_and_grad: ValueAndGrad = losses.value_and_grad,
) -> tuple[Params, Measurement]:
    """A whole training run, T = num_epochs passes over the training set.

    Epoch t is shuffled with ``fold_in(key, t)``, so a longer run begins like a shorter
    one. Pure: jit, vmap or differentiate it as you like.

    Returns:
        The trained parameters, and the measurements of epochs 0 (the initial network)
        to T along a new first axis.

    >>> split = Split(jnp.ones((8, 4)), jnp.arange(8) % 3)
    >>> net = Architecture((4, 3, 3))
    >>> params = networks.init(jax.random.key(0), net)
    >>> params, history = train(
    ...     jax.random.key(1), params, split, split, architecture=net,
    ...     optimizer=optax.sgd(0.1), num_epochs=5, batch_size=2,
    ... )
    >>> history.valid_loss.shape, history.gradient_rms.shape
    ((6,), (6, 2))
    """
    initial = measure(params, train, valid, architecture=architecture)

    def epoch(state: State, t: Array) -> tuple[State, Measurement]:
        return run_epoch(
            state,
            jax.random.fold_in(key, t),
            train,
            valid,
            architecture=architecture,
            optimizer=optimizer,
            batch_size=batch_size,
            value_and_grad=value_and_grad,
        )

    state, history = jax.lax.scan(
        epoch, start(params, optimizer=optimizer), jnp.arange(1, num_epochs + 1)
    )
    joined = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), initial, history
    )
    return state.params, joined

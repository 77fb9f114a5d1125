"""Training one network, as a pure function: no file, no device, no printing.

An optimizer is any ``optax.GradientTransformation``. A gradient is any function with
the signature of ``losses.value_and_grad``: by automatic differentiation or by hand.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from snn_jax import losses, networks, signals
from snn_jax.mnist import Split
from snn_jax.networks import Architecture, Images, Labels, Params, Reference
from snn_jax.signals import Signals

ValueAndGrad = Callable[..., tuple[Array, Params]]

# Signals are measured on this many images, the first of the training set. Batch
# normalization takes its means and variances from the same ones in an evaluation.
NUM_SIGNAL_IMAGES = 1000


class State(NamedTuple):
    """What the next step needs."""

    params: Params
    optimizer_state: Any


class Epoch(NamedTuple):
    """What happened during an epoch.

    Attributes:
        train_loss: mean loss of its batches, each before its update, in nats.
        weight_change: (L,), |W_l after - W_l before| / |W_l before|, the
            update-to-weight ratio of the whole epoch.
    """

    train_loss: Float[Array, "*T"]
    weight_change: Float[Array, "*T L"]


class Evaluation(NamedTuple):
    """Mean loss in nats and accuracy, a fraction, on a set of images."""

    loss: Float[Array, "*T"]
    accuracy: Float[Array, "*T"]


class History(NamedTuple):
    """A training run, epoch by epoch: T epochs, and T + 1 networks with the initial.

    Attributes:
        epochs: what happened in epochs 1 to T.
        valid: validation loss and accuracy of networks 0 to T.
        signals: of networks 0 to T, on ``NUM_SIGNAL_IMAGES`` training images.
    """

    epochs: Epoch
    valid: Evaluation
    signals: Signals


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


def _permutation(key: Key[Array, ""], n: int) -> Int[Array, " n"]:
    """``jax.random.permutation(key, n)``, to the bit, in a quarter of the time on CPUs.

    Both sort by random numbers, in as many rounds as make ties harmless. XLA sorts
    pairs slowly, and integers fast: a pair is packed into one.
    """
    order = jnp.arange(n)
    for _ in range(math.ceil(3 * math.log(n) / math.log(2**32 - 1))):
        key, round_key = jax.random.split(key)
        bits = jax.random.bits(round_key, (n,), jnp.uint32)
        with jax.enable_x64(True):
            packed = bits.astype(jnp.uint64) << 32 | jnp.arange(n, dtype=jnp.uint64)
            place = (jax.lax.sort(packed) & (2**32 - 1)).astype(jnp.uint32)
        order = order[place]
    return order


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
    order = _permutation(key, num_examples)
    return order[: steps * batch_size].reshape(steps, batch_size)


def part_of_epoch(
    order: Int[Array, "steps B"], part: Int[Array, ""] | int, num_parts: int
) -> Int[Array, "steps_of_part B"]:
    """The batches of one of the equal parts that an epoch is cut into.

    Args:
        order: as from ``batch_order``.
        part: from 0; may be traced.
        num_parts: steps that do not fill a part sit the epoch out.

    Raises:
        ValueError: there are fewer steps than parts.
    """
    steps = order.shape[0] // num_parts
    if steps < 1:
        raise ValueError(
            f"parts: expected at most {order.shape[0]}, the steps of an epoch, found "
            f"{num_parts}"
        )
    found: Array = jax.lax.dynamic_slice_in_dim(order, part * steps, steps)
    return found


def evaluate(
    params: Params,
    split: Split,
    *,
    architecture: Architecture,
    reference: Reference | None = None,
) -> Evaluation:
    """Loss and accuracy; an accuracy of NaN if a logit is not finite.

    Args:
        params: of the network.
        split: what it is asked about.
        architecture: of the network.
        reference: training images, for batch normalization; see ``networks.forward``.
    """
    logits = networks.apply(
        params, split.x, architecture=architecture, reference=reference
    )
    y = jnp.asarray(split.y)
    return Evaluation(losses.nll(logits, y).mean(), losses.accuracy(logits, y))


def run_epoch(
    state: State,
    key: Key[Array, ""],
    train: Split,
    *,
    architecture: Architecture,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    value_and_grad: ValueAndGrad = losses.value_and_grad,
    part: Int[Array, ""] | int = 0,
    num_parts: int = 1,
) -> tuple[State, Epoch]:
    """One pass over the training set in a fresh order, or a part of one.

    Args:
        state: as from ``start`` or the epoch before.
        key: of this epoch's shuffle.
        train: what is learned from.
        architecture: of the network.
        optimizer: an optax transformation; what is inside it may be traced.
        batch_size: from 1, true stochastic gradient descent, to the whole set.
        value_and_grad: by default ``losses.value_and_grad``; or
            ``backprop.value_and_grad``, the same by hand.
        part: the part to run, from 0. The parts of an epoch, with one key and one after
            the other, are the epoch, but for steps left over.
        num_parts: that the epoch is cut into.
    """
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)
    order = part_of_epoch(batch_order(key, x.shape[0], batch_size), part, num_parts)

    def run_step(state: State, batch: Array) -> tuple[State, Array]:
        return step(
            state,
            x[batch],
            y[batch],
            architecture=architecture,
            optimizer=optimizer,
            value_and_grad=value_and_grad,
        )

    after, batch_losses = jax.lax.scan(run_step, state, order)
    changes = [
        jnp.linalg.norm(after.params[leaf] - state.params[leaf])
        / jnp.linalg.norm(state.params[leaf])
        for leaf in (f"W{layer}" for layer in range(1, architecture.num_layers + 1))
    ]
    return after, Epoch(batch_losses.mean(), jnp.stack(changes))


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
) -> tuple[Params, History]:
    """A whole training run, T = num_epochs passes over the training set.

    Epoch t is shuffled with ``fold_in(key, t)``, so a longer run begins like a shorter
    one. Pure: jit, vmap or differentiate it as you like.

    Args:
        key: of the shuffles.
        params: the initial network, as from ``networks.init``.
        train: what is learned from; its first images give the signals.
        valid: what loss and accuracy are measured on.
        architecture: of the network.
        optimizer: an optax transformation.
        num_epochs: T.
        batch_size: from 1 to the size of the training set.
        value_and_grad: as for ``run_epoch``.

    Returns:
        The trained parameters and the history of the run.

    >>> split = Split(jnp.ones((8, 4)), jnp.arange(8) % 3)
    >>> net = Architecture((4, 3, 3))
    >>> params = networks.init(jax.random.key(0), net)
    >>> params, history = train(
    ...     jax.random.key(1), params, split, split, architecture=net,
    ...     optimizer=optax.sgd(0.1), num_epochs=5, batch_size=2,
    ... )
    >>> history.epochs.train_loss.shape, history.valid.loss.shape
    ((5,), (6,))
    >>> history.signals.gradient_rms.shape
    (6, 2)
    """
    x, y = train.x[:NUM_SIGNAL_IMAGES], train.y[:NUM_SIGNAL_IMAGES]

    def look(params: Params) -> tuple[Evaluation, Signals]:
        return (
            evaluate(params, valid, architecture=architecture, reference=x),
            signals.measure(params, x, y, architecture=architecture),
        )

    def epoch(state: State, t: Array) -> tuple[State, Any]:
        state, happened = run_epoch(
            state,
            jax.random.fold_in(key, t),
            train,
            architecture=architecture,
            optimizer=optimizer,
            batch_size=batch_size,
            value_and_grad=value_and_grad,
        )
        return state, (happened, look(state.params))

    state, (epochs, seen) = jax.lax.scan(
        epoch, start(params, optimizer=optimizer), jnp.arange(1, num_epochs + 1)
    )
    valid_history, signal_history = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), look(params), seen
    )
    return state.params, History(epochs, valid_history, signal_history)

"""Training one network, as a pure function: no file, no device, no printing.

The loop knows nothing of layers: it takes any network, loss, gradient and optimizer.
Random keys are folded here and nowhere else, so that seed 0 is the same network in
every study.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from snn_jax import datasets, gradients, losses
from snn_jax.datasets import Dataset, Split
from snn_jax.gradients import ValueAndGrad
from snn_jax.losses import Loss
from snn_jax.networks import Params
from snn_jax.recipe import Recipe, transformation

# Inputs that an evaluation may take for reference, as batch normalization does, the
# first of the training set.
NUM_REFERENCE = 1000

# What a study's key is folded with, for the initial weights and for the shuffles.
WEIGHTS, BATCHES = 0, 1


def weights_key(key: Key[Array, ""], seed: Any) -> Key[Array, ""]:
    """The key of a network's initial weights: of its seed, whatever else it is."""
    return jax.random.fold_in(jax.random.fold_in(key, WEIGHTS), seed)


def batches_key(key: Key[Array, ""], epoch: Any, seed: Any = None) -> Key[Array, ""]:
    """The key of an epoch's shuffle, from epoch 1 on.

    Args:
        key: of the study.
        epoch: so that a longer run begins like a shorter one.
        seed: of a network that has batches of its own; by default all have the same.
    """
    of_epoch = jax.random.fold_in(jax.random.fold_in(key, BATCHES), epoch)
    return of_epoch if seed is None else jax.random.fold_in(of_epoch, seed)


@functools.partial(jax.jit, static_argnames="network")
def drawn(
    key: Key[Array, ""], seed: Any, *, network: Any, scale: Any = 1.0
) -> dict[str, Array]:
    """The initial weights of one network, compiled once for all seeds and scales.

    Args:
        key: of the study.
        seed: of the network.
        network: an MLP.
        scale: multiplies every weight.
    """
    params: dict[str, Array] = network.init(weights_key(key, seed), scale=scale)
    return params


class State(NamedTuple):
    """What the next step needs."""

    params: Params
    optimizer_state: Any


class Evaluation(NamedTuple):
    """Mean loss, and accuracy, a fraction; NaN where targets are no labels."""

    loss: Float[Array, "*T"]
    accuracy: Float[Array, "*T"]


class History(NamedTuple):
    """A training run, epoch by epoch: T epochs, and T + 1 networks with the initial.

    Attributes:
        train_loss: mean loss of the batches of epochs 1 to T, each before its update.
        valid: validation loss and accuracy of networks 0 to T.
        observed: what was observed of networks 0 to T, by name.
    """

    train_loss: Float[Array, " T"]
    valid: Evaluation
    observed: dict[str, Any]


def start(params: Params, optimizer: optax.GradientTransformation) -> State:
    """The state of a network before its first step."""
    return State(params, optimizer.init(params))


def step(
    state: State,
    x: Any,
    y: Any,
    *,
    value_and_grad: ValueAndGrad,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Params, Any, Any], Array] | None = None,
) -> tuple[State, Float[Array, ""]]:
    """One update from one batch.

    Args:
        state: as from ``start`` or the step before.
        x: inputs of the batch.
        y: its targets.
        value_and_grad: the gradient, of the parameters' shapes.
        optimizer: any optax transformation, those too that want the loss or evaluate it
            again, as ``optax.polyak_sgd`` and ``optax.lbfgs`` do.
        loss: ``(params, x, y) -> loss``, for those; by default the gradient's.

    Returns:
        The new state, and the loss of the batch before the update.
    """
    value, grads = value_and_grad(state.params, x, y)
    gradients.check_tree(state.params, value, grads)
    updates, optimizer_state = optax.with_extra_args_support(optimizer).update(
        grads,
        state.optimizer_state,
        state.params,
        value=value,
        grad=grads,
        value_fn=lambda params: (
            value_and_grad(params, x, y)[0] if loss is None else loss(params, x, y)
        ),
    )
    params: Params = optax.apply_updates(state.params, updates)
    return State(params, optimizer_state), value


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


def check_batch_size(batch_size: int, num_examples: int) -> None:
    """Raises ValueError unless it is in [1, num_examples]."""
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch size: expected 1 to {num_examples}, the number of training "
            f"examples, found {batch_size}"
        )


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
    check_batch_size(batch_size, num_examples)
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
    params: Params, split: Split, *, network: Any, loss: Loss, reference: Any = None
) -> Evaluation:
    """Loss and accuracy; an accuracy of NaN if an output is not finite.

    Args:
        params: of the network.
        split: what it is asked about.
        network: with ``apply`` and perhaps ``predict``.
        loss: ``loss(outputs, y) -> (B,)``.
        reference: training inputs, for networks that ``predict`` with them.
    """
    if getattr(network, "predict", None) is not None:
        outputs = network.predict(params, split.x, reference)
    else:
        outputs = network.apply(params, split.x)
    y = jnp.asarray(split.y)
    accuracy = (
        losses.accuracy(outputs, y)
        if datasets.are_labels(y) and outputs.ndim == 2
        else jnp.full((), jnp.nan, outputs.dtype)
    )
    return Evaluation(loss(outputs, y).mean(), accuracy)


def run_epoch(
    state: State,
    order: Int[Array, "steps B"],
    train: Split,
    *,
    value_and_grad: ValueAndGrad,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Params, Any, Any], Array] | None = None,
) -> tuple[State, Float[Array, ""]]:
    """One pass over batches, the only loop over them besides ``fast.run_epoch``.

    Args:
        state: as from ``start`` or the epoch before.
        order: of the examples, a row a batch, as from ``batch_order``.
        train: what is learned from.
        value_and_grad: as for ``step``, like what follows.
        optimizer: an optax transformation; what is inside it may be traced.
        loss: for optimizers that evaluate it.

    Returns:
        The new state, and the mean loss of the batches, each before its update.
    """
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)

    def run_step(state: State, batch: Array) -> tuple[State, Array]:
        return step(
            state,
            x[batch],
            y[batch],
            value_and_grad=value_and_grad,
            optimizer=optimizer,
            loss=loss,
        )

    after, batch_losses = jax.lax.scan(run_step, state, order)
    return after, batch_losses.mean()


def train(
    key: Key[Array, ""], params: Params, data: Dataset, recipe: Recipe, **point: Any
) -> tuple[Params, History]:
    """A whole training run, T passes over the training set.

    Pure: jit, vmap or differentiate it as you like.

    Args:
        key: of the study; its shuffles are those of a sweep with the same key.
        params: the initial network, as from ``network.init``.
        data: what is learned (train) and watched (valid).
        recipe: of the run; looks once an epoch.
        point: values that the optimizer takes, such as ``learning_rate``.

    Returns:
        The trained parameters and the history of the run.

    >>> from snn_jax.networks import MLP
    >>> split = Split(jnp.ones((8, 4)), jnp.arange(8) % 3)
    >>> recipe = Recipe(MLP((4, 3, 3)), num_epochs=5, batch_size=2)
    >>> params = recipe.network.init(jax.random.key(0))
    >>> data = Dataset(split, split, split)
    >>> key = jax.random.key(1)
    >>> _, history = train(key, params, data, recipe, learning_rate=0.1)
    >>> history.train_loss.shape, history.valid.loss.shape
    ((5,), (6,))
    """
    network, num_examples = recipe.network, len(data.train.y)
    optimizer = transformation(recipe.optimizer, point)
    autodiff = gradients.by_autodiff(network, recipe.loss)

    def look(params: Params) -> tuple[Evaluation, dict[str, Any]]:
        reference = data.train.x[:NUM_REFERENCE]
        found = evaluate(
            params, data.valid, network=network, loss=recipe.loss, reference=reference
        )
        return found, {name: f(params) for name, f in recipe.observe.items()}

    def epoch(state: State, t: Array) -> tuple[State, Any]:
        order = batch_order(batches_key(key, t), num_examples, recipe.batch_size)
        state, loss = run_epoch(
            state,
            order,
            data.train,
            value_and_grad=recipe.value_and_grad or autodiff,
            optimizer=optimizer,
            loss=gradients.mean_loss(network, recipe.loss),
        )
        return state, (loss, look(state.params))

    state, (train_loss, seen) = jax.lax.scan(
        epoch, start(params, optimizer), jnp.arange(1, recipe.num_epochs + 1)
    )
    valid, observed = jax.tree.map(
        lambda first, rest: jnp.concatenate([jnp.asarray(first)[None], rest]),
        look(params),
        seen,
    )
    return state.params, History(train_loss, valid, observed)

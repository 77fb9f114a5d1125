"""Many networks at once: init scales x learning rates x seeds under one vmap.

A sweep is ``training.run_epoch`` mapped over networks. All of them see the same batches
in the same order, so that what differs is due to the initialization, and so that the
first layer of all networks is one matrix product. Networks are trained in chunks of a
fixed width: one compilation serves any number of networks, init scales and learning
rates, and memory does not grow with their number.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, Key

from snn_jax import losses, networks, training
from snn_jax.mnist import Dataset, Split
from snn_jax.networks import Architecture
from snn_jax.training import Measurement, State, ValueAndGrad

# Networks trained side by side. Enough to fill the matrix products of the first layer;
# beyond it nothing gets faster, and progress is reported less often.
WIDTH = 64

OptimizerFactory = Callable[[Any], optax.GradientTransformation]

ATTRIBUTES: dict[str, dict[str, str]] = {
    "scale": {"long_name": "init scale (standard deviation of every initial weight)"},
    "learning_rate": {"long_name": "learning rate"},
    "seed": {"long_name": "seed of the initial weights"},
    "epoch": {"long_name": "epoch", "units": "passes over the training set"},
    "layer": {"long_name": "layer, counted from the input"},
    "hidden_layer": {"long_name": "hidden layer, counted from the input"},
    "train_loss": {"long_name": "mean loss of the epoch's batches", "units": "nats"},
    "valid_loss": {"long_name": "validation loss", "units": "nats"},
    "label_information": {
        "long_name": "plateau loss minus validation loss",
        "units": "nats",
    },
    "valid_accuracy": {"long_name": "validation accuracy", "units": "fraction"},
    "test_loss": {"long_name": "test loss after the last epoch", "units": "nats"},
    "test_accuracy": {
        "long_name": "test accuracy after the last epoch",
        "units": "fraction",
    },
    "test_class_frequency": {
        "long_name": "share of each digit in the test set",
        "units": "fraction",
    },
    "gradient_rms": {
        "long_name": "rms of the weight gradient over images and weights",
        "units": "nats per unit of weight",
    },
    "saturation": {
        "long_name": "saturated (unit, image) pairs",
        "units": "fraction",
    },
}


@partial(
    jax.jit,
    static_argnames=("architecture", "initializer", "bias_scale", "optimizer"),
)
def _start(
    key: Key[Array, ""],
    seeds: Int[Array, " N"],
    scales: Float[Array, " N"],
    learning_rates: Float[Array, " N"],
    train: Split,
    valid: Split,
    *,
    architecture: Architecture,
    initializer: str,
    bias_scale: float,
    optimizer: OptimizerFactory,
) -> tuple[State, Measurement]:
    def one(seed: Array, scale: Array, rate: Array) -> tuple[State, Measurement]:
        params = networks.init(
            jax.random.fold_in(key, seed),
            architecture,
            initializer=initializer,
            gain=scale,
            bias_scale=bias_scale,
        )
        state = training.start(params, optimizer=optimizer(rate))
        return state, training.measure(params, train, valid, architecture=architecture)

    return jax.vmap(one)(seeds, scales, learning_rates)


@partial(
    jax.jit,
    static_argnames=("architecture", "optimizer", "batch_size", "value_and_grad"),
    donate_argnames="states",
)
def _run_epoch(
    states: State,
    learning_rates: Float[Array, " N"],
    key: Key[Array, ""],
    train: Split,
    valid: Split,
    *,
    architecture: Architecture,
    optimizer: OptimizerFactory,
    batch_size: int,
    value_and_grad: ValueAndGrad,
) -> tuple[State, Measurement]:
    def one(state: State, rate: Array) -> tuple[State, Measurement]:
        return training.run_epoch(
            state,
            key,
            train,
            valid,
            architecture=architecture,
            optimizer=optimizer(rate),
            batch_size=batch_size,
            value_and_grad=value_and_grad,
        )

    return jax.vmap(one)(states, learning_rates)


@partial(jax.jit, static_argnames="architecture")
def _evaluate(
    states: State, split: Split, *, architecture: Architecture
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    def one(params: networks.Params) -> tuple[Array, Array]:
        logits = networks.apply(params, split.x, architecture=architecture)
        return losses.nll(logits, split.y).mean(), losses.accuracy(logits, split.y)

    return jax.vmap(one)(states.params)


def _chunks(num_networks: int, width: int) -> Iterator[np.ndarray]:
    """The members of each chunk; the last chunk is filled up with its last member."""
    for first in range(0, num_networks, width):
        yield np.minimum(np.arange(first, first + width), num_networks - 1)


def sweep(
    key: Key[Array, ""],
    dataset: Dataset,
    *,
    architecture: Architecture,
    scales: Sequence[float],
    learning_rates: Sequence[float],
    num_seeds: int,
    num_epochs: int,
    batch_size: int,
    initializer: str = "normal",
    bias_scale: float = 0.0,
    optimizer: OptimizerFactory = optax.sgd,
    value_and_grad: ValueAndGrad = losses.value_and_grad,
    width: int = WIDTH,
    report: Callable[[int], Any] = lambda _: None,
) -> xr.Dataset:
    """Trains a network for every init scale, learning rate and seed.

    The initial weights of seed r come from ``fold_in(key, r)`` whatever the scale and
    the learning rate, so every scale sees the same seeds, and a larger grid contains
    the smaller one. The batches come from the same key.

    Args:
        key: typed key of the whole sweep.
        dataset: what is learned (train), watched (valid) and reported (test).
        architecture: of all networks.
        scales: S gains of the initializer; for "normal" the standard deviation of every
            initial weight.
        learning_rates: as many as there are to compare.
        num_seeds: R networks for each scale and learning rate.
        num_epochs: T passes over the training set.
        batch_size: B, from 1 to the size of the training set.
        initializer: a key of ``networks.INITIALIZERS``.
        bias_scale: standard deviation of the initial biases.
        optimizer: makes an optax transformation from a learning rate.
        value_and_grad: ``losses.value_and_grad`` or, by hand,
            ``backprop.value_and_grad``.
        width: networks trained side by side. The last bits of a result depend on it.
        report: called with the number of (network, epoch) pairs just finished.

    Returns:
        A labelled result with dimensions scale, learning_rate, seed, epoch (0 to T, 0
        being the initial network), layer (1 to L) and hidden_layer (1 to L - 1); units
        in the attributes. The attribute ``label_entropy`` is H0 of the training labels;
        ``plateau_loss`` what their prior costs on the validation set, which the
        variable ``label_information`` is measured from.

    Raises:
        ValueError: batch size or initializer out of range.
    """
    init_key, order_key = jax.random.split(key)
    shape = (len(scales), len(learning_rates), num_seeds)
    num_networks = int(np.prod(shape))
    width = min(width, num_networks)
    grid = np.meshgrid(
        np.asarray(scales, np.float32),
        np.asarray(learning_rates, np.float32),
        np.arange(num_seeds),
        indexing="ij",
    )
    member_scales, member_rates, member_seeds = (axis.ravel() for axis in grid)
    train, valid, test = jax.device_put(dataset)
    common: dict[str, Any] = {"architecture": architecture, "optimizer": optimizer}

    histories, tests = [], []
    for members in _chunks(num_networks, width):
        real = len(np.unique(members))  # the others fill the chunk up
        rates = jnp.asarray(member_rates[members])
        states, measurement = _start(
            init_key,
            jnp.asarray(member_seeds[members]),
            jnp.asarray(member_scales[members]),
            rates,
            train,
            valid,
            initializer=initializer,
            bias_scale=bias_scale,
            **common,
        )
        history = [measurement]
        for epoch in range(1, num_epochs + 1):
            states, measurement = _run_epoch(
                states,
                rates,
                jax.random.fold_in(order_key, epoch),
                train,
                valid,
                batch_size=batch_size,
                value_and_grad=value_and_grad,
                **common,
            )
            history.append(jax.tree.map(np.asarray, measurement))
            report(real)
        evaluation = _evaluate(states, test, architecture=architecture)
        histories.append(
            [np.stack(f, axis=1)[:real] for f in zip(*history, strict=True)]
        )
        tests.append([np.asarray(values)[:real] for values in evaluation])

    grid_dims = ("scale", "learning_rate", "seed")
    inner_dims = {"gradient_rms": ("layer",), "saturation": ("hidden_layer",)}

    def labelled(parts: Sequence[np.ndarray], *dims: str) -> xr.Variable:
        values = np.concatenate(parts)
        return xr.Variable(
            (*grid_dims, *dims), values.reshape(*shape, *values.shape[1:])
        )

    variables = {
        name: labelled(parts, "epoch", *inner_dims.get(name, ()))
        for name, parts in zip(
            Measurement._fields, zip(*histories, strict=True), strict=True
        )
    }
    variables["test_class_frequency"] = xr.Variable(
        "digit", np.asarray(losses.class_frequencies(test.y))
    )
    variables["test_loss"], variables["test_accuracy"] = (
        labelled(parts) for parts in zip(*tests, strict=True)
    )
    plateau_loss = float(
        losses.label_entropy(valid.y, losses.class_frequencies(train.y))
    )
    result = xr.Dataset(
        variables,
        coords={
            "scale": np.asarray(scales, float),
            "learning_rate": np.asarray(learning_rates, float),
            "seed": np.arange(num_seeds),
            "epoch": np.arange(num_epochs + 1),
            "layer": np.arange(1, architecture.num_layers + 1),
            "hidden_layer": np.arange(1, architecture.num_layers),
            "digit": np.arange(architecture.sizes[-1]),
        },
        attrs={
            "label_entropy": float(losses.label_entropy(train.y)),
            "plateau_loss": plateau_loss,
            "width": width,
        },
    )
    result["label_information"] = plateau_loss - result.valid_loss
    for name, attributes in ATTRIBUTES.items():
        result[name].attrs.update(attributes)
    return result

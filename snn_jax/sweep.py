"""Init scales x learning rates x seeds: a network for each, and a labelled result.

The networks of the grid are trained in chunks, an ``Ensemble`` at a time: one
compilation serves any number of networks, init scales and learning rates, and memory
does not grow with their number.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Int, Key

from snn_jax import losses, networks, signals
from snn_jax.ensemble import Ensemble, OptimizerFactory
from snn_jax.mnist import Dataset
from snn_jax.networks import Architecture, Images, Labels, Params
from snn_jax.signals import Signals
from snn_jax.training import Epoch, ValueAndGrad

# What a sweep's key is folded with, for the initial weights and for the shuffles.
WEIGHTS, BATCHES = 0, 1

# Names and units of all that a result holds.
NATS, FRACTION = "nats", "fraction"
LABELS: dict[str, tuple[str, str]] = {
    "scale": ("init scale, the standard deviation of every initial weight", ""),
    "learning_rate": ("learning rate", ""),
    "seed": ("seed of the initial weights", ""),
    "epoch": ("epoch, 0 being the initial network", "passes over the training set"),
    "layer": ("layer, from the input", ""),
    "hidden_layer": ("hidden layer, from the input", ""),
    "digit": ("digit", ""),
    "train_loss": ("mean loss of the epoch's batches", NATS),
    "weight_change": ("weight change in the epoch, over the weights' norm", FRACTION),
    "valid_loss": ("validation loss", NATS),
    "valid_accuracy": ("validation accuracy", FRACTION),
    "label_information": ("plateau loss minus validation loss", NATS),
    "test_loss": ("test loss after the last epoch", NATS),
    "test_accuracy": ("test accuracy after the last epoch", FRACTION),
    "test_class_frequency": ("share of each digit in the test set", FRACTION),
    "gradient_rms": ("rms of single-image gradients", "nats per unit of weight"),
    "gradient_median": (
        "rms over weights of the median image's gradient",
        "nats per unit of weight",
    ),
    "mean_gradient_rms": ("rms of the mean gradient", "nats per unit of weight"),
    "activation_mean": ("mean activation", ""),
    "activation_spread": ("standard deviation of activations over images", ""),
    "mean_slope": ("mean slope of the activation function", ""),
    "saturation": ("saturated (unit, image) pairs", FRACTION),
    "dead": ("units saturated for every image", FRACTION),
    "effective_rank": ("effective rank of the layer", "units"),
    "probe_accuracy": ("accuracy of a linear probe of the layer", FRACTION),
}


def initial_params(
    key: Key[Array, ""],
    seed: int | Int[Array, ""],
    architecture: Architecture,
    *,
    scale: float | Float[Array, ""],
    initializer: str = "normal",
    bias_scale: float = 0.0,
) -> Params:
    """The initial parameters of one network of a sweep.

    They depend on the sweep's key and the network's seed, whatever the learning rate;
    two scales of a seed differ by a factor.
    """
    return networks.init(
        jax.random.fold_in(jax.random.fold_in(key, WEIGHTS), seed),
        architecture,
        initializer=initializer,
        gain=scale,
        bias_scale=bias_scale,
    )


@functools.partial(jax.jit, static_argnames="architecture")
def _initial_gradients(
    key: Key[Array, ""],
    seeds: Int[Array, " N"],
    scale: Float[Array, ""],
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
) -> Float[Array, "N L"]:
    def one(seed: Array) -> Array:
        params = initial_params(key, seed, architecture, scale=scale)
        return signals.gradient_rms(params, x, y, architecture=architecture)

    return jax.vmap(one)(seeds)


def initial_gradients(
    key: Key[Array, ""],
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
    scale: float,
    num_networks: int,
    width: int = 256,
) -> Float[np.ndarray, "N L"]:
    """``signals.gradient_rms`` of many untrained networks, to be held against theory.

    Args:
        key: as for ``sweep``; seed r is the same network there.
        x: images, one a row; a few hundred.
        y: labels in [0, K).
        architecture: of all networks.
        scale: standard deviation of every initial weight.
        num_networks: N, rounded up to a multiple of width.
        width: networks at once.
    """
    parts = [
        _initial_gradients(
            key,
            jnp.arange(first, first + width),
            jnp.float32(scale),
            x,
            y,
            architecture=architecture,
        )
        for first in range(0, num_networks, width)
    ]
    return np.concatenate(parts)


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
    value_and_grad: ValueAndGrad | None = None,
    width: int | None = None,
    report: Callable[[int], Any] = lambda _: None,
) -> xr.Dataset:
    """Trains a network for every init scale, learning rate and seed.

    The initial weights depend on the key and the seed alone, whatever the scale and
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
        value_and_grad: as for ``Ensemble``, by default the fastest way.
        width: networks that a device trains side by side; the last bits of a result
            depend on it. By default as many as suit the device.
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
    shape = (len(scales), len(learning_rates), num_seeds)
    num_networks = math.prod(shape)
    ensemble = Ensemble(
        dataset,
        num_networks=num_networks,
        architecture=architecture,
        batch_size=batch_size,
        initializer=initializer,
        bias_scale=bias_scale,
        optimizer=optimizer,
        value_and_grad=value_and_grad,
        width=width,
    )
    grid = np.meshgrid(
        np.asarray(scales, np.float32),
        np.asarray(learning_rates, np.float32),
        np.arange(num_seeds),
        indexing="ij",
    )
    member_scales, member_rates, member_seeds = (axis.ravel() for axis in grid)
    order_key = jax.random.fold_in(key, BATCHES)

    def look(params: Params) -> dict[str, np.ndarray]:
        evaluation = ensemble.evaluate(params, ensemble.valid)
        values = {
            "valid_loss": evaluation.loss,
            "valid_accuracy": evaluation.accuracy,
            **ensemble.measure(params)._asdict(),
        }
        return {name: np.asarray(value) for name, value in values.items()}

    # One dictionary a chunk, of arrays with a leading axis of its networks.
    chunks: list[dict[str, np.ndarray]] = []
    for members in _chunks(num_networks, ensemble.size):
        real = len(np.unique(members))  # the others fill the chunk up
        rates = ensemble.split(member_rates[members])
        states = ensemble.start(
            jax.random.fold_in(key, WEIGHTS),
            member_seeds[members],
            member_scales[members],
            rates,
        )
        nothing_yet = Epoch(
            jnp.full(ensemble.size, jnp.nan),
            jnp.full((ensemble.size, architecture.num_layers), jnp.nan),
        )
        rows = [nothing_yet._asdict() | look(states.params)]
        for epoch in range(1, num_epochs + 1):
            epoch_key = jax.random.fold_in(order_key, epoch)
            states, happened = ensemble.run_epoch(states, rates, epoch_key)
            rows.append(happened._asdict() | look(states.params))
            report(real)
        tested = ensemble.evaluate(states.params, ensemble.test)
        chunk = {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}
        chunk["test_loss"], chunk["test_accuracy"] = map(np.asarray, tested)
        chunks.append({name: values[:real] for name, values in chunk.items()})

    hidden = dict.fromkeys(Signals._fields[3:], "hidden_layer")
    last_dim = hidden | dict.fromkeys(Signals._fields[:3], "layer")
    last_dim["weight_change"] = "layer"
    variables = {}
    for name in chunks[0]:
        values = np.concatenate([chunk[name] for chunk in chunks])
        dims = ["scale", "learning_rate", "seed", "epoch", last_dim.get(name, "")]
        variables[name] = xr.Variable(
            dims[: 2 + values.ndim], values.reshape(*shape, *values.shape[1:])
        )
    variables["test_class_frequency"] = xr.Variable(
        "digit", np.asarray(losses.class_frequencies(dataset.test.y))
    )
    plateau_loss = float(
        losses.label_entropy(dataset.valid.y, losses.class_frequencies(dataset.train.y))
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
            "label_entropy": float(losses.label_entropy(dataset.train.y)),
            "plateau_loss": plateau_loss,
            "width": ensemble.width,
            # What the seeds are folded into: with it, every network can be drawn again.
            "key_data": " ".join(map(str, np.asarray(jax.random.key_data(key)))),
            "sizes": "-".join(map(str, architecture.sizes)),
            "activation": architecture.activation,
        },
    )
    result["label_information"] = plateau_loss - result.valid_loss
    for name, (long_name, units) in LABELS.items():
        result[name].attrs["long_name"] = long_name
        if units:
            result[name].attrs["units"] = units
    return result

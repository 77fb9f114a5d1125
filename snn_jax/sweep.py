"""Init scales x learning rates x seeds: a network for each, and a labelled result.

The networks of the grid are trained in chunks, each a device's worth of networks. A
chunk depends on the settings and its number alone, not on the machine's number of
devices or on what was computed before: chunks can be computed anywhere, in any order,
again. One compilation serves all of them.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
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
from snn_jax.training import Epoch, State, ValueAndGrad

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


# A chunk of results: arrays by name, with a leading axis of networks.
Chunk = dict[str, np.ndarray]


def bytes_per_network(architecture: Architecture, num_epochs: int) -> int:
    """What the result of one network takes, in memory and on disk.

    >>> bytes_per_network(networks.DEEP, 8)
    4148
    """
    layers = architecture.num_layers
    single = 4 * (3 + layers)  # float32: losses, accuracy, weight change
    double = 8 * (3 * layers + 7 * (layers - 1))  # signals
    return (num_epochs + 1) * (single + double) + 8  # and test loss and accuracy


class Sweep:
    """A network for every init scale, learning rate and seed, trained chunk by chunk.

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
        width: networks that a device trains side by side, a chunk; the last bits of a
            result depend on it. By default as many as suit the device.

    Attributes:
        num_networks: in the whole grid.
        num_chunks: how many there are, numbered from 0.
        at_once: chunks that the devices here train at a time.
        settings: what a chunk depends on, in words, by name.

    Raises:
        ValueError: batch size or initializer out of range.
    """

    def __init__(
        self,
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
    ) -> None:
        self.key, self.dataset, self.architecture = key, dataset, architecture
        self.shape = (len(scales), len(learning_rates), num_seeds)
        self.num_networks, self.num_epochs = math.prod(self.shape), num_epochs
        self.ensemble = Ensemble(
            dataset,
            num_networks=self.num_networks,
            architecture=architecture,
            batch_size=batch_size,
            initializer=initializer,
            bias_scale=bias_scale,
            optimizer=optimizer,
            value_and_grad=value_and_grad,
            width=width,
        )
        self.width = self.ensemble.width
        self.at_once = self.ensemble.size // self.width
        self.num_chunks = math.ceil(self.num_networks / self.width)
        grid = np.meshgrid(
            np.asarray(scales, np.float32),
            np.asarray(learning_rates, np.float32),
            np.arange(num_seeds),
            indexing="ij",
        )
        self._scales, self._rates, self._seeds = (axis.ravel() for axis in grid)
        self._coordinates = {
            "scale": np.asarray(scales, float),
            "learning_rate": np.asarray(learning_rates, float),
            "seed": np.arange(num_seeds),
        }
        key_data = " ".join(map(str, np.asarray(jax.random.key_data(key))))
        self.settings = {
            "architecture": repr(architecture),
            "scales": " ".join(repr(float(scale)) for scale in scales),
            "learning rates": " ".join(repr(float(rate)) for rate in learning_rates),
            "seeds": str(num_seeds),
            "epochs": str(num_epochs),
            "batch size": str(batch_size),
            "initializer": initializer,
            "bias scale": repr(float(bias_scale)),
            "optimizer": f"{optimizer.__module__}.{optimizer.__qualname__}",
            "gradient": "fastest"
            if value_and_grad is None
            else f"{value_and_grad.__module__}.{value_and_grad.__qualname__}",
            "chunk width": str(self.width),
            "key": key_data,
        }

    def members(self, chunk: int) -> np.ndarray:
        """The places in the grid of a chunk's networks; the last chunk may have fewer.

        Raises:
            ValueError: there is no such chunk.
        """
        if not 0 <= chunk < self.num_chunks:
            raise ValueError(f"chunk: expected 0 to {self.num_chunks - 1}, got {chunk}")
        first = chunk * self.width
        return np.arange(first, min(first + self.width, self.num_networks))

    def coordinates(self, chunk: int) -> Chunk:
        """Init scale, learning rate and seed of a chunk's networks."""
        places = np.unravel_index(self.members(chunk), self.shape)
        names = ("scale", "learning_rate", "seed")
        return {
            name: self._coordinates[name][place]
            for name, place in zip(names, places, strict=True)
        }

    def run_chunks(
        self,
        chunks: Sequence[int],
        *,
        report: Callable[[int], Any] = lambda _: None,
        saved: Chunk | None = None,
        save: Callable[[Callable[[], Chunk]], Any] = lambda _: None,
    ) -> list[Chunk]:
        """Trains and watches the networks of up to ``at_once`` chunks.

        Args:
            chunks: their numbers.
            report: called after every epoch with the number of networks trained.
            saved: what ``save`` was given earlier for the same chunks, to go on from.
            save: called after every epoch with a function that gives all there is to
                know in arrays, should it be wanted.
        """
        members = [self.members(chunk) for chunk in chunks]
        real = sum(map(len, members))
        # Filled up with copies to the size that everything is compiled for.
        padded = [np.pad(m, (0, self.width - len(m)), mode="edge") for m in members]
        padded += [padded[-1]] * (self.at_once - len(padded))
        places = np.concatenate(padded)
        rates = self.ensemble.split(self._rates[places])
        states = self.ensemble.start(
            jax.random.fold_in(self.key, WEIGHTS),
            self._seeds[places],
            self._scales[places],
            rates,
        )
        order_key = jax.random.fold_in(self.key, BATCHES)
        if saved is None:
            nothing_yet = Epoch(
                jnp.full(len(places), jnp.nan),
                jnp.full((len(places), self.architecture.num_layers), jnp.nan),
            )
            rows = [nothing_yet._asdict() | self._look(states.params)]
        else:
            states, rows = self._restore(states, saved)
            report(real * (len(rows) - 1))
        for epoch in range(len(rows), self.num_epochs + 1):
            epoch_key = jax.random.fold_in(order_key, epoch)
            states, happened = self.ensemble.run_epoch(states, rates, epoch_key)
            rows.append(happened._asdict() | self._look(states.params))
            report(real)
            save(functools.partial(self._state, states, rows))
        tested = self.ensemble.evaluate(states.params, self.ensemble.test)
        together = {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}
        together["test_loss"], together["test_accuracy"] = map(np.asarray, tested)
        found = []
        for i, chunk_members in enumerate(members):
            one = slice(i * self.width, i * self.width + len(chunk_members))
            found.append({name: values[one] for name, values in together.items()})
        return found

    def _look(self, params: Params) -> dict[str, np.ndarray]:
        """What is known of networks between epochs."""
        evaluation = self.ensemble.evaluate(params, self.ensemble.valid)
        values = {
            "valid_loss": evaluation.loss,
            "valid_accuracy": evaluation.accuracy,
            **self.ensemble.measure(params)._asdict(),
        }
        return {name: np.asarray(value) for name, value in values.items()}

    @staticmethod
    def _state(states: State, rows: list[dict[str, Any]]) -> Chunk:
        """A half-trained chunk as arrays; the inverse of ``_restore``."""
        leaves = {f"leaf {i}": leaf for i, leaf in enumerate(jax.tree.leaves(states))}
        history = {f"row {name}": np.stack([r[name] for r in rows]) for name in rows[0]}
        return {name: np.asarray(value) for name, value in (leaves | history).items()}

    def _restore(
        self, like: State, saved: Chunk
    ) -> tuple[State, list[dict[str, np.ndarray]]]:
        leaves, structure = jax.tree.flatten(like)
        states = jax.tree.unflatten(
            structure,
            [self.ensemble.split(saved[f"leaf {i}"]) for i in range(len(leaves))],
        )
        history = {n.removeprefix("row "): v for n, v in saved.items() if "row " in n}
        length = len(next(iter(history.values())))
        return states, [{n: v[t] for n, v in history.items()} for t in range(length)]

    @property
    def bytes_per_network(self) -> int:
        """What the result of one network takes."""
        return bytes_per_network(self.architecture, self.num_epochs)

    def assemble(self, chunks: Iterable[Chunk]) -> xr.Dataset:
        """The labelled result of all chunks, given in their order.

        Returns:
            A dataset with dimensions scale, learning_rate, seed, epoch (0 to T, 0 being
            the initial network), layer (1 to L) and hidden_layer (1 to L - 1); units in
            the attributes. The attribute ``label_entropy`` is H0 of the training
            labels; ``plateau_loss`` what their prior costs on the validation set, which
            the variable ``label_information`` is measured from.
        """
        whole: dict[str, np.ndarray] = {}
        first = 0
        for chunk in chunks:
            for name, values in chunk.items():
                if name not in whole:
                    shape = (self.num_networks, *values.shape[1:])
                    whole[name] = np.empty(shape, values.dtype)
                whole[name][first : first + len(values)] = values
            first += len(next(iter(chunk.values())))
        if first != self.num_networks:
            raise ValueError(f"networks: expected {self.num_networks}, found {first}")

        hidden = dict.fromkeys(Signals._fields[3:], "hidden_layer")
        last_dim = hidden | dict.fromkeys(Signals._fields[:3], "layer")
        last_dim["weight_change"] = "layer"
        variables = {}
        for name, values in whole.items():
            dims = ["scale", "learning_rate", "seed", "epoch", last_dim.get(name, "")]
            variables[name] = xr.Variable(
                dims[: 2 + values.ndim], values.reshape(*self.shape, *values.shape[1:])
            )
        train, valid, test = self.dataset
        variables["test_class_frequency"] = xr.Variable(
            "digit", np.asarray(losses.class_frequencies(test.y))
        )
        prior = losses.class_frequencies(train.y)
        plateau_loss = float(losses.label_entropy(valid.y, prior))
        result = xr.Dataset(
            variables,
            coords=self._coordinates
            | {
                "epoch": np.arange(self.num_epochs + 1),
                "layer": np.arange(1, self.architecture.num_layers + 1),
                "hidden_layer": np.arange(1, self.architecture.num_layers),
                "digit": np.arange(self.architecture.sizes[-1]),
            },
            attrs={
                "label_entropy": float(losses.label_entropy(train.y)),
                "plateau_loss": plateau_loss,
                "width": self.width,
                # What seeds are folded into: with it, every network can be drawn again.
                "key_data": self.settings["key"],
                "sizes": "-".join(map(str, self.architecture.sizes)),
                "activation": self.architecture.activation,
            },
        )
        result["label_information"] = plateau_loss - result.valid_loss
        for name, (long_name, units) in LABELS.items():
            result[name].attrs["long_name"] = long_name
            if units:
                result[name].attrs["units"] = units
        return result


def sweep(
    key: Key[Array, ""],
    dataset: Dataset,
    *,
    report: Callable[[int], Any] = lambda _: None,
    **settings: Any,
) -> xr.Dataset:
    """Trains a network for every init scale, learning rate and seed, in memory.

    Args:
        key: typed key of the whole sweep.
        dataset: what is learned (train), watched (valid) and reported (test).
        report: called with the number of (network, epoch) pairs just finished.
        settings: as for ``Sweep``: architecture, scales, learning_rates, num_seeds,
            num_epochs, batch_size and what else there is.

    Returns:
        The labelled result, as from ``Sweep.assemble``.

    Raises:
        ValueError: batch size or initializer out of range.
    """
    whole = Sweep(key, dataset, **settings)
    chunks: list[Chunk] = []
    for first in range(0, whole.num_chunks, whole.at_once):
        together = range(whole.num_chunks)[first : first + whole.at_once]
        chunks += whole.run_chunks(together, report=report)
    return whole.assemble(chunks)

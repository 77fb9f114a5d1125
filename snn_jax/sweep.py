"""Many networks at once: init scales x learning rates x seeds, over all devices.

A sweep is ``training.run_epoch`` mapped over networks: by ``jax.vmap``, or by
``vectorized``, which does the same faster for plain SGD and narrow layers. All networks
see the same batches in the same order, so that what differs is due to the
initialization, and so that the first layer of all networks is one matrix product. Every
device trains a fixed number of networks at a time: one compilation serves any number of
networks, init scales and learning rates, memory does not grow with their number, and a
network's result does not depend on how many devices there are.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from snn_jax import losses, networks, signals, training, vectorized
from snn_jax.mnist import Dataset, Split
from snn_jax.networks import Architecture, Images, Labels, Params
from snn_jax.signals import Signals
from snn_jax.training import Epoch, Evaluation, State, ValueAndGrad

# Networks that one CPU core trains side by side. Fewer leave vector registers and
# matrix products half empty, more no longer fit its cache.
WIDTH = 64
# Of a GPU, the share of its memory that the networks may take.
GPU_MEMORY_SHARE = 0.5
# Networks whose signals are measured at once, at most: their float64 activations fit a
# core's cache.
MEASURED_AT_ONCE = 8

# What a sweep's key is folded with, for the initial weights and for the shuffles.
WEIGHTS, BATCHES = 0, 1

OptimizerFactory = Callable[[Any], optax.GradientTransformation]

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


# How arrays lie on the devices: split along their first axis, or whole on each.
SPLIT, WHOLE = PartitionSpec("networks"), PartitionSpec()  # type: ignore[no-untyped-call]


def _mesh(num_networks: int, width: int) -> Mesh:
    """As many devices as it takes to train the networks, width on each."""
    devices = jax.devices()[: math.ceil(num_networks / width)]
    return jax.make_mesh(
        (len(devices),), ("networks",), (AxisType.Auto,), devices=devices
    )


@functools.cache
def _compiler_options() -> dict[str, int]:
    """LLVM uses half of an AVX-512 register unless told; nothing changes elsewhere."""
    options = {"xla_cpu_prefer_vector_width": 512}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # a version that knows no such option
        return {}
    return options


def _on_every_device(
    function: Callable[..., Any], mesh: Mesh, split: Sequence[bool], **options: Any
) -> Callable[..., Any]:
    """Compiles function to run on every device, with its share of what is split.

    Devices train their networks without a word to each other.
    """
    in_specs = tuple(SPLIT if each else WHOLE for each in split)
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=SPLIT, check_vma=False
        ),
        compiler_options=_compiler_options(),
        **options,
    )


# What is static is an argument of the following functions. Each returns one compiled
# function, the same one for the same arguments, of the arrays.


@functools.cache
def _start(
    mesh: Mesh,
    architecture: Architecture,
    initializer: str,
    bias_scale: float,
    optimizer: OptimizerFactory,
) -> Callable[..., State]:
    def one(key: Array, seed: Array, scale: Array, rate: Array) -> State:
        params = initial_params(
            key,
            seed,
            architecture,
            scale=scale,
            initializer=initializer,
            bias_scale=bias_scale,
        )
        return training.start(params, optimizer=optimizer(rate))

    networks_of_device = jax.vmap(one, in_axes=(None, 0, 0, 0))
    return _on_every_device(networks_of_device, mesh, (False, True, True, True))


@functools.cache
def _run_epoch(
    mesh: Mesh,
    architecture: Architecture,
    optimizer: OptimizerFactory,
    batch_size: int,
    value_and_grad: ValueAndGrad,
) -> Callable[..., tuple[State, Epoch]]:
    """An epoch by vmap of the plain code, for any optimizer and gradient."""

    def one(
        state: State, rate: Array, key: Array, train: Split, _: Any
    ) -> tuple[State, Epoch]:
        return training.run_epoch(
            state,
            key,
            train,
            architecture=architecture,
            optimizer=optimizer(rate),
            batch_size=batch_size,
            value_and_grad=value_and_grad,
        )

    networks_of_device = jax.vmap(one, in_axes=(0, 0, None, None, None))
    split = (True, True, False, False, False)
    return _on_every_device(networks_of_device, mesh, split, donate_argnums=0)


@functools.cache
def _run_epoch_vectorized(
    mesh: Mesh, architecture: Architecture, batch_size: int
) -> Callable[..., tuple[State, Epoch]]:
    """The same for plain SGD, fast."""

    def networks_of_device(
        states: State, rates: Array, key: Array, train: Split, pixels: Array
    ) -> tuple[State, Epoch]:
        params, epoch = vectorized.run_epoch(
            states.params,
            rates,
            key,
            train,
            pixels,
            architecture=architecture,
            batch_size=batch_size,
        )
        return states._replace(params=params), epoch

    split = (True, True, False, False, False)
    return _on_every_device(networks_of_device, mesh, split, donate_argnums=0)


@functools.cache
def _evaluate(mesh: Mesh, architecture: Architecture) -> Callable[..., Evaluation]:
    def networks_of_device(many: Params, split: Split) -> Evaluation:
        if vectorized.fits(architecture):
            return vectorized.evaluate(many, split, architecture=architecture)
        return jax.vmap(
            lambda params: training.evaluate(params, split, architecture=architecture)
        )(many)

    return _on_every_device(networks_of_device, mesh, (True, False))


@functools.cache
def _measure(mesh: Mesh, architecture: Architecture) -> Callable[..., Signals]:
    def networks_of_device(many: Params, x: Images, y: Labels) -> Signals:
        width = many["W1"].shape[0]
        # All groups of one size: bits depend on it.
        at_once = max(n for n in range(1, MEASURED_AT_ONCE + 1) if width % n == 0)
        found: Signals = jax.lax.map(
            lambda params: signals.measure(params, x, y, architecture=architecture),
            jax.tree.map(lambda leaf: leaf.astype(x.dtype), many),
            batch_size=at_once,
        )
        return found

    return _on_every_device(networks_of_device, mesh, (True, False, False))


def measure(
    many: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
    mesh: Mesh | None = None,
) -> Signals:
    """The signals of N networks in float64, whatever the precision they have.

    Args:
        many: parameters whose leaves have a leading axis of N networks.
        x: images, one a row.
        y: labels in [0, K).
        architecture: of all networks.
        mesh: the devices to use, one by default.

    Returns:
        NumPy arrays with a leading axis of N, float64.
    """
    with jax.enable_x64(True):
        found = _measure(mesh or _mesh(1, 1), architecture)(
            many, jnp.asarray(x, jnp.float64), jnp.asarray(y)
        )
        in_numpy: Signals = jax.tree.map(np.asarray, found)
        return in_numpy


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


def _aligned(values: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 64 bytes.

    JAX uses such memory as it is, on all CPU devices; of other arrays every device gets
    a copy of its own.
    """
    room = np.empty(values.nbytes + 63, np.uint8)
    first = -room.ctypes.data % 64
    copy = room[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _default_width(
    architecture: Architecture, batch_size: int, num_networks: int
) -> int:
    """Networks a device: what fits a core's cache, or as many as a GPU has room for."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return WIDTH
    memory = (device.memory_stats() or {}).get("bytes_limit", 2**33)
    weights = sum(a * b for a, b in itertools.pairwise(architecture.sizes))
    images = max(batch_size, vectorized.BLOCK, vectorized.SLAB)
    # Weights before and after, their gradient and what is donated; activations, slopes
    # and errors of a batch. The room for signals in float64 is in the other half.
    floats = 4 * weights + 6 * images * sum(architecture.sizes[1:])
    room = max(1, int(GPU_MEMORY_SHARE * memory / (4 * floats)))
    needed = math.ceil(num_networks / len(jax.devices()))
    # Powers of two: few widths, so that results of different sweeps can be compared.
    return int(2 ** min(math.floor(math.log2(room)), math.ceil(math.log2(needed))))


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
        value_and_grad: ``losses.value_and_grad`` or, by hand,
            ``backprop.value_and_grad``, under vmap. By default the fastest: where the
            optimizer is ``optax.sgd`` and no layer is wide, that is ``vectorized``.
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
    order_key = jax.random.fold_in(key, BATCHES)
    shape = (len(scales), len(learning_rates), num_seeds)
    num_networks = math.prod(shape)
    fast = (
        value_and_grad is None
        and optimizer is optax.sgd
        and vectorized.fits(architecture)
    )
    if width is None:
        width = _default_width(architecture, batch_size, num_networks)
        width = width if fast else min(width, num_networks)
    mesh = _mesh(num_networks, width)
    grid = np.meshgrid(
        np.asarray(scales, np.float32),
        np.asarray(learning_rates, np.float32),
        np.arange(num_seeds),
        indexing="ij",
    )
    member_scales, member_rates, member_seeds = (axis.ravel() for axis in grid)
    train, pixels = dataset.train, None
    if fast:
        train, pixels = vectorized.without_blank_pixels(train)
        run_epoch = _run_epoch_vectorized(mesh, architecture, batch_size)
    else:
        gradient = value_and_grad or losses.value_and_grad
        run_epoch = _run_epoch(mesh, architecture, optimizer, batch_size, gradient)
    start = _start(mesh, architecture, initializer, bias_scale, optimizer)
    evaluate = _evaluate(mesh, architecture)
    train, pixels, valid, test = jax.device_put(
        jax.tree.map(_aligned, (train, pixels, dataset.valid, dataset.test)),
        NamedSharding(mesh, WHOLE),
    )
    signal_x = dataset.train.x[: training.NUM_SIGNAL_IMAGES]
    signal_y = dataset.train.y[: training.NUM_SIGNAL_IMAGES]

    def look(params: Params) -> dict[str, np.ndarray]:
        evaluation = evaluate(params, valid)
        found = measure(
            params, signal_x, signal_y, architecture=architecture, mesh=mesh
        )
        values = {
            "valid_loss": evaluation.loss,
            "valid_accuracy": evaluation.accuracy,
            **found._asdict(),
        }
        return {name: np.asarray(value) for name, value in values.items()}

    # One dictionary a chunk, of arrays with a leading axis of its networks.
    chunks: list[dict[str, np.ndarray]] = []
    for members in _chunks(num_networks, width * mesh.size):
        real = len(np.unique(members))  # the others fill the chunk up
        rates = jax.device_put(member_rates[members], NamedSharding(mesh, SPLIT))
        states = start(key, member_seeds[members], member_scales[members], rates)
        nothing_yet = Epoch(
            jnp.full(len(members), jnp.nan),
            jnp.full((len(members), architecture.num_layers), jnp.nan),
        )
        rows = [nothing_yet._asdict() | look(states.params)]
        for epoch in range(1, num_epochs + 1):
            epoch_key = jax.random.fold_in(order_key, epoch)
            states, happened = run_epoch(states, rates, epoch_key, train, pixels)
            rows.append(happened._asdict() | look(states.params))
            report(real)
        tested = evaluate(states.params, test)
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
        "digit", np.asarray(losses.class_frequencies(test.y))
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

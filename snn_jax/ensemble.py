"""Many networks, trained at once on all devices: by ``vmap``, or faster.

An ``Ensemble`` maps ``training.run_epoch`` over networks: with ``jax.vmap``, or with
``vectorized``, which does the same faster for plain SGD and narrow layers. All networks
see the same batches in the same order, so that the first layer of all networks is one
matrix product. Every device trains a fixed number of networks at a time: a network's
result depends neither on how many devices there are nor on its neighbours.

JAX takes the whole CPU for one device, unless ``JAX_NUM_CPU_DEVICES`` says more: as
many as there are cores are fastest.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
# So many networks or fewer are faster by vmap, a few on each core.
FEW, WIDTH_OF_FEW = 32, 8
# Of a GPU, the share of its memory that the networks may take.
GPU_MEMORY_SHARE = 0.5
# Networks whose signals are measured at once, at most: their float64 activations fit a
# core's cache.
MEASURED_AT_ONCE = 4

OptimizerFactory = Callable[[Any], optax.GradientTransformation]

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
        params = networks.init(
            jax.random.fold_in(key, seed),
            architecture,
            initializer=initializer,
            gain=scale,
            bias_scale=bias_scale,
        )
        return training.start(params, optimizer=optimizer(rate))

    networks_of_device = jax.vmap(one, in_axes=(None, 0, 0, 0))
    return _on_every_device(networks_of_device, mesh, (False, True, True, True))


@functools.cache
def _start_from(mesh: Mesh, optimizer: OptimizerFactory) -> Callable[..., State]:
    def one(params: Params, rate: Array) -> State:
        return training.start(params, optimizer=optimizer(rate))

    return _on_every_device(jax.vmap(one), mesh, (True, True))


@functools.cache
def _run_epoch(
    mesh: Mesh,
    architecture: Architecture,
    optimizer: OptimizerFactory,
    batch_size: int,
    num_parts: int,
    value_and_grad: ValueAndGrad,
) -> Callable[..., tuple[State, Epoch]]:
    """An epoch by vmap of the plain code, for any optimizer and gradient."""

    def one(
        state: State, rate: Array, key: Array, part: Array, train: Split, _: Any
    ) -> tuple[State, Epoch]:
        return training.run_epoch(
            state,
            key,
            train,
            architecture=architecture,
            optimizer=optimizer(rate),
            batch_size=batch_size,
            value_and_grad=value_and_grad,
            part=part,
            num_parts=num_parts,
        )

    networks_of_device = jax.vmap(one, in_axes=(0, 0, None, None, None, None))
    split = (True, True, False, False, False, False)
    return _on_every_device(networks_of_device, mesh, split, donate_argnums=0)


@functools.cache
def _run_epoch_vectorized(
    mesh: Mesh, architecture: Architecture, batch_size: int, num_parts: int
) -> Callable[..., tuple[State, Epoch]]:
    """The same for plain SGD, fast."""

    def networks_of_device(
        states: State,
        rates: Array,
        key: Array,
        part: Array,
        train: Split,
        pixels: Array,
    ) -> tuple[State, Epoch]:
        params, epoch = vectorized.run_epoch(
            states.params,
            rates,
            key,
            train,
            pixels,
            architecture=architecture,
            batch_size=batch_size,
            part=part,
            num_parts=num_parts,
        )
        return states._replace(params=params), epoch

    split = (True, True, False, False, False, False)
    return _on_every_device(networks_of_device, mesh, split, donate_argnums=0)


@functools.cache
def _evaluate(mesh: Mesh, architecture: Architecture) -> Callable[..., Evaluation]:
    def networks_of_device(many: Params, split: Split, x: Images) -> Evaluation:
        if vectorized.fits(architecture):
            return vectorized.evaluate(many, split, architecture=architecture)
        return jax.vmap(
            lambda params: training.evaluate(
                params, split, architecture=architecture, reference=x
            )
        )(many)

    return _on_every_device(networks_of_device, mesh, (True, False, False))


@functools.cache
def _measure(mesh: Mesh, architecture: Architecture) -> Callable[..., Signals]:
    def networks_of_device(many: Params, x: Images, y: Labels) -> Signals:
        width = many["W1"].shape[0]
        # All groups of one size: bits depend on it.
        at_once = math.gcd(width, MEASURED_AT_ONCE)
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
    architecture: Architecture, batch_size: int, num_networks: int, fast: bool
) -> int:
    """Networks a device: what fits a core's cache, or as many as a GPU has room for."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return WIDTH if fast else min(WIDTH_OF_FEW, num_networks)
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


class Ensemble:
    """What it takes to train N networks at a time: data on the devices, compiled code.

    It holds nothing that changes: states go in and come out. Two ensembles with the
    same settings share their compiled code.

    Args:
        dataset: what is learned (train), watched (valid) and reported (test).
        num_networks: how many there are to train; no more devices are used than needed.
        architecture: of all networks.
        batch_size: B, from 1 to the size of the training set.
        initializer: a key of ``networks.INITIALIZERS``.
        bias_scale: standard deviation of the initial biases.
        optimizer: makes an optax transformation from a learning rate.
        value_and_grad: ``losses.value_and_grad`` or, by hand,
            ``backprop.value_and_grad``, under vmap. By default the fastest: where no
            layer is wide ``vectorized``, its whole epoch if the optimizer is
            ``optax.sgd`` and the networks are many, its gradient otherwise.
        width: networks that a device trains side by side; the last bits of a result
            depend on it. By default as many as suit the device.
        num_parts: that an epoch is cut into, to look at networks more often.

    Attributes:
        width: as above, chosen.
        size: N, networks trained at a time: width times the number of devices.

    Raises:
        ValueError: batch size out of range.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        num_networks: int,
        architecture: Architecture,
        batch_size: int,
        initializer: str = "normal",
        bias_scale: float = 0.0,
        optimizer: OptimizerFactory = optax.sgd,
        value_and_grad: ValueAndGrad | None = None,
        width: int | None = None,
        num_parts: int = 1,
    ) -> None:
        narrow = value_and_grad is None and vectorized.fits(architecture)
        # Few networks would leave most of the vectors empty.
        fast = narrow and optimizer is optax.sgd and num_networks > FEW
        if width is None:
            width = _default_width(architecture, batch_size, num_networks, fast)
        mesh = _mesh(num_networks, width)
        train, pixels = dataset.train, None
        if fast:
            train, pixels = vectorized.without_blank_pixels(train)
            self._run_epoch = _run_epoch_vectorized(
                mesh, architecture, batch_size, num_parts
            )
        else:
            gradient = value_and_grad or (
                vectorized.value_and_grad if narrow else losses.value_and_grad
            )
            self._run_epoch = _run_epoch(
                mesh, architecture, optimizer, batch_size, num_parts, gradient
            )
        self._start = _start(mesh, architecture, initializer, bias_scale, optimizer)
        self._start_from = _start_from(mesh, optimizer)
        self._evaluate = _evaluate(mesh, architecture)
        first = training.NUM_SIGNAL_IMAGES
        reference = dataset.train.x[:first]
        together = (train, pixels, reference, dataset.valid, dataset.test)
        self._train, self._pixels, self._reference, self.valid, self.test = (
            jax.device_put(jax.tree.map(_aligned, together), NamedSharding(mesh, WHOLE))
        )
        with jax.enable_x64(True):
            self._signal_images = jax.device_put(
                (
                    _aligned(dataset.train.x[:first].astype(float)),
                    dataset.train.y[:first],
                ),
                NamedSharding(mesh, WHOLE),
            )
        self._mesh, self._architecture = mesh, architecture
        self.width, self.size = width, width * mesh.size

    def split(self, values: Any) -> Any:
        """Puts arrays with a leading axis of N networks on the devices."""
        return jax.device_put(values, NamedSharding(self._mesh, SPLIT))

    def start(
        self,
        key: Key[Array, ""],
        seeds: Int[np.ndarray, " N"],
        scales: Float[np.ndarray, " N"],
        learning_rates: Float[Array, " N"],
    ) -> State:
        """The states of N networks; the weights come from ``fold_in(key, seed)``."""
        return self._start(key, seeds, scales, learning_rates)

    def start_from(self, many: Params, learning_rates: Float[Array, " N"]) -> State:
        """The states of N networks whose parameters are there already."""
        return self._start_from(self.split(many), learning_rates)

    def run_epoch(
        self,
        states: State,
        learning_rates: Float[Array, " N"],
        key: Key[Array, ""],
        part: int = 0,
    ) -> tuple[State, Epoch]:
        """``training.run_epoch`` of all networks; the states given are used up."""
        return self._run_epoch(
            states, learning_rates, key, jnp.int32(part), self._train, self._pixels
        )

    def evaluate(self, many: Params, split: Split) -> Evaluation:
        """``training.evaluate`` of all networks on the ensemble's valid or test."""
        return self._evaluate(many, split, self._reference)

    def measure(self, many: Params) -> Signals:
        """``measure`` on the first ``training.NUM_SIGNAL_IMAGES`` training images."""
        x, y = self._signal_images
        return measure(many, x, y, architecture=self._architecture, mesh=self._mesh)

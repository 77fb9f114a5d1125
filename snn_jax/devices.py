"""Arrays and compiled functions on all devices of this process."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Networks that a GPU draws at a time.
SIDE_BY_SIDE = 256
# How arrays lie on the devices: split along their first axis, or whole on each.
SPLIT, WHOLE = PartitionSpec("networks"), PartitionSpec()  # type: ignore[no-untyped-call]


def mesh_for(num_networks: int, width: int, one_device: bool = False) -> Mesh:
    """As many devices as it takes to train the networks, width on each."""
    most = 1 if one_device else math.ceil(num_networks / width)
    devices = jax.devices()[:most]
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


def on_every_device(
    function: Callable[..., Any], mesh: Mesh, split: str, **options: Any
) -> Callable[..., Any]:
    """Compiles function to run on every device, with its share of what is split.

    Devices train their networks without a word to each other. ``split`` has a letter
    for each argument: "n" for arrays over networks, "." for what all devices get whole.
    """
    in_specs = tuple(SPLIT if letter == "n" else WHOLE for letter in split)
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=SPLIT, check_vma=False
        ),
        compiler_options=_compiler_options(),
        **options,
    )


def in_groups(function: Callable[[Any], Any], many: Any, most: int) -> Any:
    """Maps function over networks, up to most at once, for want of memory."""
    width = len(jax.tree.leaves(many)[0])
    if width <= most:
        return jax.vmap(function)(many)
    # All groups of one size: bits depend on it.
    return jax.lax.map(function, many, batch_size=math.gcd(width, most))


def in_turn(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Maps function(shared, *of_network) over networks, for programs that run once.

    On a CPU one after the other: weights drawn side by side have the same bits and take
    twice as long to compile. Elsewhere so many at once that there is room for them.
    """

    def mapped(shared: Any, *many: Any) -> Any:
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        return jax.lax.map(
            lambda one: function(shared, *one),
            many,
            batch_size=None if on_cpu else SIDE_BY_SIDE,
        )

    return mapped


def split(values: Any, mesh: Mesh) -> Any:
    """Puts arrays with a leading axis of networks on the devices, each its share."""
    return jax.device_put(values, NamedSharding(mesh, SPLIT))


def whole(values: Any, mesh: Mesh) -> Any:
    """Puts arrays on all devices."""
    return jax.device_put(jax.tree.map(_aligned, values), NamedSharding(mesh, WHOLE))


def _aligned(values: Any) -> np.ndarray:
    """A copy that starts at a multiple of 64 bytes.

    JAX uses such memory as it is, on all CPU devices; of other arrays every device gets
    a copy of its own.
    """
    values = np.asarray(values)
    room = np.empty(values.nbytes + 63, np.uint8)
    first = -room.ctypes.data % 64
    room = room[first : first + values.nbytes]
    copy: np.ndarray = room.view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def as_float64(tree: Any) -> Any:
    """Numbers cast to float64, all else as it is; to be called under 64 bits."""

    def cast(leaf: Any) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.float64) if floating else leaf

    return jax.tree.map(cast, tree)


def shapes(tree: Any, mesh: Mesh | None = None, place: PartitionSpec = SPLIT) -> Any:
    """Shapes and dtypes instead of arrays, as they are on devices.

    Args:
        tree: arrays.
        mesh: the devices that they are on; without it nothing is said of them.
        place: how they lie there.
    """
    on = None if mesh is None else NamedSharding(mesh, place)

    def shape(a: Any) -> jax.ShapeDtypeStruct:
        dtype = a.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(a.shape, dtype, sharding=on)  # type: ignore[no-untyped-call]

    return jax.tree.map(shape, tree)

"""One layer of many networks, laid out for long loops; see the package's docstring."""

import functools
import operator
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from snn_jax.activations import slope
from snn_jax.networks import MLP, Params

# Images whose activations, of 64 networks, stay in the cache.
SLAB = 128

Stored = Callable[[Array], Array]


def storing(never: Int[Array, ""]) -> Stored:
    """A function that makes XLA on a CPU keep its argument instead of recomputing it.

    Cheap results with several uses are computed once for every use, and the ten terms
    of a layer above count as ten. A loop's argument has to exist before the loop, and
    this loop is never entered: the compiler cannot know that ``never`` is 0.
    """

    def on_cpu(value: Array) -> Array:
        kept: Array = jax.lax.fori_loop(0, never, lambda _, kept: kept + 1, value)
        return kept

    def stored(value: Array) -> Array:
        kept: Array = jax.lax.platform_dependent(
            value, cpu=on_cpu, default=lambda value: value
        )
        return kept

    return stored


def term_by_term(terms: Iterable[Array]) -> Array:
    """Of a list of arrays, term by term: the compiler makes one loop of it."""
    return functools.reduce(operator.add, terms)


def to_last(many: Params) -> Params:
    """The network axis from first to last; W1 turned over, its inputs first."""
    return {
        name: jnp.moveaxis(leaf, 0, -1) if name != "W1" else leaf.transpose(2, 1, 0)
        for name, leaf in many.items()
    }


def to_first(many: Params) -> Params:
    """The inverse of ``to_last``."""
    return {
        name: jnp.moveaxis(leaf, -1, 0) if name != "W1" else leaf.transpose(2, 1, 0)
        for name, leaf in many.items()
    }


def first_layer(W1: Float[Array, "D H N"], x: Float[Array, "B D"]) -> Array:
    """W1 x of all networks: (B, H, N)."""
    fan_in, *shape = W1.shape
    return (x @ W1.reshape(fan_in, -1)).reshape(-1, *shape)


def first_gradient(x: Float[Array, "B D"], delta: Float[Array, "B H N"]) -> Array:
    """Sum over images of delta x^T, for all networks: (D, H, N)."""
    batch_size, *shape = delta.shape
    return (x.T @ delta.reshape(batch_size, -1)).reshape(-1, *shape)


def times(W: Float[Array, "O I _"], a: Float[Array, "B I N"]) -> Array:
    """W a: (B, O, N)."""
    return term_by_term(a[:, None, i] * W[None, :, i] for i in range(W.shape[1]))


def transposed_times(W: Float[Array, "O I _"], d: Float[Array, "B O N"]) -> Array:
    """W^T d: (B, I, N)."""
    return term_by_term(d[:, None, o] * W[None, o] for o in range(W.shape[0]))


def gradient(
    delta: Float[Array, "B O N"], a: Float[Array, "B I N"], stored: Stored
) -> Array:
    """Sum over images of delta a^T: (O, I, N).

    Written as groups of eight terms, and a sum over groups: what XLA makes of a plain
    sum over the first axis takes six times as long.
    """
    slabs = []
    for first in range(0, delta.shape[0], SLAB):
        d, b = delta[first : first + SLAB], a[first : first + SLAB]
        grouped = d.shape[0] // 8 * 8
        terms = [d[i, :, None] * b[i, None] for i in range(grouped, d.shape[0])]
        if grouped:
            d = d[:grouped].reshape(-1, 8, *d.shape[1:])
            b = b[:grouped].reshape(-1, 8, *b.shape[1:])
            groups = term_by_term(d[:, i, :, None] * b[:, i, None] for i in range(8))
            terms += [groups[g] for g in range(grouped // 8)]
        slabs.append(stored(term_by_term(terms)))
    return term_by_term(slabs)


def forward(
    many: Params, z: Float[Array, "B H N"], network: MLP, stored: Stored
) -> tuple[list[Array], list[Array]]:
    """Activations a_1 .. a_{L-1} and pre-activations z_1 .. z_L, given z_1."""
    activations, pre_activations = [], [z]
    for layer in range(2, network.num_layers + 1):
        activations.append(network.activation(pre_activations[-1]))
        z = times(many[f"W{layer}"], activations[-1])
        if network.biases:
            z = z + many[f"b{layer}"][None]
        pre_activations.append(stored(z))
    return activations, pre_activations


def loss_and_p(
    logits: Float[Array, "B K N"], on: Float[Array, "_ K _"]
) -> tuple[Float[Array, "B N"], Float[Array, "B K N"]]:
    """Negative log-likelihood and softmax; see ``losses.nll`` for the shift."""
    classes = range(logits.shape[1])
    largest = functools.reduce(jnp.maximum, [logits[:, k] for k in classes])
    shifted = logits - largest[:, None]
    exponentials = jnp.exp(shifted)
    total = term_by_term(exponentials[:, k] for k in classes)
    at_label = term_by_term(shifted[:, k] * on[:, k] for k in classes)
    return jnp.log(total) - at_label, exponentials / total[:, None]


def gradients(
    many: Params,
    z: Float[Array, "B H N"],
    y: Int[Array, " B"],
    network: MLP,
    stored: Stored,
) -> tuple[Params, Array, Array]:
    """The gradient of a batch, of all but the first layer's weights.

    Args:
        many: parameters without W1, the network axis last.
        z: the first layer's pre-activations.
        y: labels.
        network: of all.
        stored: as from ``storing``.

    Returns:
        Sums over the images, by name; the errors delta_1; and the sum of the losses.
    """
    activations, pre_activations = forward(many, z, network, stored)
    on = jax.nn.one_hot(y, network.sizes[-1], dtype=z.dtype)[..., None]
    loss, p = loss_and_p(pre_activations[-1], on)
    loss = stored(loss).sum(0)

    delta = stored(p - on)
    found: Params = {}
    for layer in range(network.num_layers, 0, -1):
        if network.biases:
            found[f"b{layer}"] = delta.sum(0)
        if layer > 1:
            W, a = many[f"W{layer}"], activations[layer - 2]
            found[f"W{layer}"] = gradient(delta, a, stored)
            down = slope(network.activation, pre_activations[layer - 2])
            delta = stored(transposed_times(W, delta) * down)
    return found, delta, loss

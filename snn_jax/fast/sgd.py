"""An epoch of plain SGD, several steps at once; see the package's docstring."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from snn_jax.datasets import Split
from snn_jax.fast.layers import (
    Stored,
    first_gradient,
    first_layer,
    gradients,
    storing,
    to_first,
    to_last,
)
from snn_jax.networks import MLP, Params

# Images in a block of steps. Fewer leave the first layer bound by memory, more make the
# sum over earlier steps longer than what it saves.
BLOCK = 64
# From this batch size on, blocks of steps do not pay.
ONE_STEP = 32


def _step(
    many: Params,
    z: Float[Array, "B H N"],
    y: Int[Array, " B"],
    rate: Float[Array, "1 1 N"],
    network: MLP,
    stored: Stored,
) -> tuple[Params, Array, Array]:
    """One step of all layers but the first weights: new parameters, delta_1, losses."""
    found, delta, loss = gradients(many, z, y, network, stored)
    new = {
        name: many[name] - (rate[0] if name.startswith("b") else rate) * grad
        for name, grad in found.items()
    }
    return new, delta, loss


def _steps(
    many: Params,
    z: Float[Array, "k B H N"],
    images: Float[Array, "kB D"],
    y: Int[Array, "k B"],
    rate: Float[Array, "1 1 N"],
    network: MLP,
    stored: Stored,
) -> tuple[Params, Array, Array]:
    """``_step`` for k steps, given the z_1 that the old first weights give to all.

    Returns:
        New parameters, the errors delta_1 of all images, and the sum of losses.
    """
    k, batch_size, *shape = z.shape
    gram = (images @ images.T).reshape(k, batch_size, -1)

    def run_step(
        carry: tuple[Params, Array], t: Array
    ) -> tuple[tuple[Params, Array], Array]:
        many, deltas = carry  # the errors of steps not yet taken are 0
        seen = gram[t] @ deltas.reshape(k * batch_size, -1)
        z_t = z[t] - rate * seen.reshape(batch_size, *shape)
        if network.biases:
            z_t = z_t + many["b1"][None]
        many, delta, loss = _step(many, stored(z_t), y[t], rate, network, stored)
        deltas = jax.lax.dynamic_update_index_in_dim(deltas, delta, t, 0)
        return (many, deltas), loss

    (many, deltas), loss = jax.lax.scan(
        run_step, (many, jnp.zeros_like(z)), jnp.arange(k)
    )
    return many, deltas.reshape(-1, *shape), loss.sum(0)


def run_epoch(
    many: Params,
    learning_rates: Float[Array, " N"],
    order: Int[Array, "steps B"],
    train: Split,
    pixels: Int[Array, " P"],
    *,
    network: MLP,
) -> tuple[Params, Float[Array, " N"]]:
    """``training.run_epoch`` of N networks, with plain SGD and the gradient by hand.

    Args:
        many: parameters whose leaves have a leading axis of N networks; fastest for
            multiples of 16, and about 64 a core.
        learning_rates: of each network.
        order: of the images, a row a batch, the same for all networks.
        train: what is learned from, reduced by ``without_blank_pixels``.
        pixels: the inputs that are left.
        network: of all, one that ``fits``.

    Returns:
        The parameters after the epoch, and the mean loss of the batches of each.
    """
    before = to_last(many)
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)
    batch_size = order.shape[1]
    stored = storing((order[0, 0] < 0).astype(jnp.int32))
    rate = learning_rates[None, None] / batch_size

    def run_steps(many: Params, batches: Array) -> tuple[Params, Array]:
        """A block of k steps; batches is (k, B)."""
        k = batches.shape[0]
        rest = dict(many)
        W1 = rest.pop("W1")
        images = x[batches.ravel()]
        z = first_layer(W1, images)
        if k == 1:
            if network.biases:
                z = z + rest["b1"][None]
            rest, deltas, loss = _step(rest, z, y[batches[0]], rate, network, stored)
        else:
            z = z.reshape(k, batch_size, *z.shape[1:])
            rest, deltas, loss = _steps(
                rest, z, images, y[batches], rate, network, stored
            )
        W1 = W1 - rate * first_gradient(images, deltas)
        return {"W1": W1, **rest}, loss

    k = min(max(1, BLOCK // batch_size if batch_size < ONE_STEP else 1), order.shape[0])
    blocks = order.shape[0] // k
    after = before | {"W1": before["W1"][pixels]}
    after, block_losses = jax.lax.scan(
        run_steps, after, order[: blocks * k].reshape(blocks, k, batch_size)
    )
    loss = block_losses.sum(0)
    if blocks * k < order.shape[0]:
        after, rest = run_steps(after, order[blocks * k :])
        loss = loss + rest
    after["W1"] = before["W1"].at[pixels].set(after["W1"])
    return to_first(after), loss / order.size

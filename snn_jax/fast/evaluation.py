"""Loss and accuracy of many networks at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from snn_jax.datasets import Split
from snn_jax.fast.layers import SLAB, first_layer, forward, loss_and_p, storing, to_last
from snn_jax.networks import MLP, Images, Labels, Params
from snn_jax.training import Evaluation


def evaluate(many: Params, split: Split, *, network: MLP) -> Evaluation:
    """``training.evaluate`` of N networks whose leaves have a leading axis of N."""
    last = to_last(many)
    x, y = jnp.asarray(split.x).reshape(len(split.y), -1), jnp.asarray(split.y)
    stored = storing((y[0] < 0).astype(jnp.int32))

    def look(x: Images, y: Labels) -> tuple[Array, Array, Array]:
        """Of each network: the sum of losses, the number right, whether all finite."""
        z = first_layer(last["W1"], jnp.asarray(x))
        if network.biases:
            z = z + last["b1"][None]
        _, pre_activations = forward(last, z, network, stored)
        logits = pre_activations[-1]
        on = jax.nn.one_hot(y, logits.shape[1], dtype=z.dtype)[..., None]
        loss, _ = loss_and_p(logits, on)
        best, guess = logits[:, 0], jnp.zeros_like(logits[:, 0], jnp.int32)
        for k in range(1, logits.shape[1]):  # argmax, as long loops
            guess = jnp.where(logits[:, k] > best, k, guess)
            best = jnp.maximum(logits[:, k], best)
        right = (guess == y[:, None]).sum(0)
        return stored(loss).sum(0), right, jnp.isfinite(logits).all((0, 1))

    whole = x.shape[0] // SLAB * SLAB
    slabs = jax.lax.map(
        lambda slab: look(*slab),
        (x[:whole].reshape(-1, SLAB, x.shape[1]), y[:whole].reshape(-1, SLAB)),
    )
    loss, right, finite = slabs[0].sum(0), slabs[1].sum(0), slabs[2].all(0)
    if whole < x.shape[0]:
        last_loss, last_right, last_finite = look(x[whole:], y[whole:])
        loss, right, finite = loss + last_loss, right + last_right, finite & last_finite
    accuracy = right / x.shape[0]
    return Evaluation(loss / x.shape[0], jnp.where(finite, accuracy, jnp.nan))

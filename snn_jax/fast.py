"""The same epoch for many networks at once, fast: ``vmap`` of it, written out.

``jax.vmap`` of the plain code is right, and a student should read that first. It leaves
much of the machine idle, because its hidden layers become thousands of 10 x 10 matrix
products, each too small to be worth a call. Here the same equations, those of
``backprop``, are laid out so that the compiler finds long loops:

*   The network is the last axis of every array: weights are (fan_out, fan_in, N),
    activations (B, units, N). A hidden layer is then a sum over its inputs of products
    of vectors over networks, with no matrix product at all, and a vector register holds
    one weight of 16 networks.
*   The first layer's weights are (fan_in, fan_out, N). All networks see the same images
    x, so z_1 of all of them is one large matrix product, and so is dW_1.
*   Pixels that are 0 in all training images, 67 of MNIST's 784, add nothing to z_1 and
    get no gradient: ``without_blank_pixels`` leaves them out.
*   ``_stored`` decides which intermediate results are kept. The compiler would rather
    compute them again wherever they are used.

With small batches the first layer is bound by memory: every step reads and writes all
of W_1 for a few images. Its k next steps can be done at once, exactly. Let X hold their
images x_1 .. x_k as rows, rate be the learning rate over the batch size, and delta_s
the error of layer 1 at step s. Plain SGD has, by equation (3) of ``backprop``,

    W_1 before step t  =  W_1 - rate * sum_{s<t} delta_s x_s^T

    z_1 at step t  =  W_1 x_t - rate * sum_{s<t} delta_s (x_s^T x_t)

The first term needs only the old W_1: for all k steps it is one product. The numbers
x_s^T x_t are the entries of the Gram matrix X X^T, the same for all networks. After k
steps W_1 -= rate * sum_s delta_s x_s^T is again one product. These are the numbers of
plain SGD, up to the order in which they are added.
"""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from snn_jax.activations import slope
from snn_jax.datasets import Split
from snn_jax.gradients import ValueAndGrad
from snn_jax.networks import MLP, Images, Labels, Params
from snn_jax.training import Evaluation

# Sums over the inputs of a unit are written out, term by term, up to this fan-in.
# Above it matrix products are large enough for vmap.
MAX_FAN_IN = 32
# Images in a block of steps. Fewer leave the first layer bound by memory, more make the
# sum over earlier steps longer than what it saves.
BLOCK = 64
# Images evaluated at once: their activations stay in the cache.
SLAB = 128

Stored = Callable[[Array], Array]


def fits(network: Any) -> bool:
    """Whether all layers but the first are narrow enough to be written out, and plain.

    >>> from snn_jax.networks import DEEP
    >>> fits(DEEP), fits(MLP((784, 300, 10)))
    (True, False)
    """
    return (
        isinstance(network, MLP)
        and network.plain
        and max(network.sizes[1:]) <= MAX_FAN_IN
    )


def _stored(never: Int[Array, ""]) -> Stored:
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


def _sum(terms: Iterable[Array]) -> Array:
    """Of a list of arrays, term by term: the compiler makes one loop of it."""
    return functools.reduce(operator.add, terms)


def without_blank_pixels(train: Split) -> tuple[Split, Int[np.ndarray, " P"]]:
    """The training set without the pixels that are 0 in all images, and which are left.

    >>> train = Split(np.array([[0.0, 0.5, 0.0], [0.0, 0.1, 0.2]]), np.array([1, 0]))
    >>> without_blank_pixels(train)[1]
    array([1, 2])
    """
    x = np.asarray(train.x).reshape(len(train.y), -1)
    used = x.any(axis=0)
    return Split(np.compress(used, x, axis=1), np.asarray(train.y)), np.flatnonzero(
        used
    )


def _to_last(many: Params) -> Params:
    """The network axis from first to last; W1 turned over, its inputs first."""
    return {
        name: jnp.moveaxis(leaf, 0, -1) if name != "W1" else leaf.transpose(2, 1, 0)
        for name, leaf in many.items()
    }


def _to_first(many: Params) -> Params:
    """The inverse of ``_to_last``."""
    return {
        name: jnp.moveaxis(leaf, -1, 0) if name != "W1" else leaf.transpose(2, 1, 0)
        for name, leaf in many.items()
    }


def _first_layer(W1: Float[Array, "D H N"], x: Float[Array, "B D"]) -> Array:
    """W1 x of all networks: (B, H, N)."""
    fan_in, *shape = W1.shape
    return (x @ W1.reshape(fan_in, -1)).reshape(-1, *shape)


def _first_gradient(x: Float[Array, "B D"], delta: Float[Array, "B H N"]) -> Array:
    """Sum over images of delta x^T, for all networks: (D, H, N)."""
    batch_size, *shape = delta.shape
    return (x.T @ delta.reshape(batch_size, -1)).reshape(-1, *shape)


def _times(W: Float[Array, "O I _"], a: Float[Array, "B I N"]) -> Array:
    """W a: (B, O, N)."""
    return _sum(a[:, None, i] * W[None, :, i] for i in range(W.shape[1]))


def _transposed_times(W: Float[Array, "O I _"], d: Float[Array, "B O N"]) -> Array:
    """W^T d: (B, I, N)."""
    return _sum(d[:, None, o] * W[None, o] for o in range(W.shape[0]))


def _gradient(
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
            groups = _sum(d[:, i, :, None] * b[:, i, None] for i in range(8))
            terms += [groups[g] for g in range(grouped // 8)]
        slabs.append(stored(_sum(terms)))
    return _sum(slabs)


def _forward(
    many: Params, z: Float[Array, "B H N"], network: MLP, stored: Stored
) -> tuple[list[Array], list[Array]]:
    """Activations a_1 .. a_{L-1} and pre-activations z_1 .. z_L, given z_1."""
    activations, pre_activations = [], [z]
    for layer in range(2, network.num_layers + 1):
        activations.append(network.activation(pre_activations[-1]))
        z = _times(many[f"W{layer}"], activations[-1])
        if network.biases:
            z = z + many[f"b{layer}"][None]
        pre_activations.append(stored(z))
    return activations, pre_activations


def _loss_and_p(
    logits: Float[Array, "B K N"], on: Float[Array, "_ K _"]
) -> tuple[Float[Array, "B N"], Float[Array, "B K N"]]:
    """Negative log-likelihood and softmax; see ``losses.nll`` for the shift."""
    classes = range(logits.shape[1])
    largest = functools.reduce(jnp.maximum, [logits[:, k] for k in classes])
    shifted = logits - largest[:, None]
    exponentials = jnp.exp(shifted)
    total = _sum(exponentials[:, k] for k in classes)
    at_label = _sum(shifted[:, k] * on[:, k] for k in classes)
    return jnp.log(total) - at_label, exponentials / total[:, None]


def _step(
    many: Params,
    z: Float[Array, "B H N"],
    y: Int[Array, " B"],
    rate: Float[Array, "1 1 N"],
    network: MLP,
    stored: Stored,
) -> tuple[Params, Array, Array]:
    """One step of all layers but the first weights: new parameters, delta_1, losses."""
    activations, pre_activations = _forward(many, z, network, stored)
    on = jax.nn.one_hot(y, network.sizes[-1], dtype=z.dtype)[..., None]
    loss, p = _loss_and_p(pre_activations[-1], on)
    loss = stored(loss).sum(0)

    delta = stored(p - on)
    new: Params = {}
    for layer in range(network.num_layers, 0, -1):
        if network.biases:
            b = many[f"b{layer}"]
            new[f"b{layer}"] = b - rate[0] * delta.sum(0)
        if layer > 1:
            W, a = many[f"W{layer}"], activations[layer - 2]
            new[f"W{layer}"] = W - rate * _gradient(delta, a, stored)
            down = slope(network.activation, pre_activations[layer - 2])
            delta = stored(_transposed_times(W, delta) * down)
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


@functools.cache
def value_and_grad(network: MLP) -> ValueAndGrad:
    """``backprop.value_and_grad`` of one network that ``fits``, faster.

    Alone, a network has its images along the last axis, where elsewhere there are
    networks, and its weights are the same for all of them.
    """

    def by_hand(
        params: Params, x: Images, y: Labels
    ) -> tuple[Float[Array, ""], Params]:
        images = jnp.asarray(x).reshape(len(x), -1)
        last = {name: leaf[..., None] for name, leaf in params.items()}
        z = (params["W1"] @ images.T)[None]
        if network.biases:
            z = z + last["b1"][None]
        activations, pre_activations = _forward(last, z, network, lambda value: value)
        on = jax.nn.one_hot(y, network.sizes[-1], dtype=z.dtype).T[None]
        loss, p = _loss_and_p(pre_activations[-1], on)
        delta = (p - on) / images.shape[0]
        grads: Params = {}
        for layer in range(network.num_layers, 0, -1):
            if network.biases:
                grads[f"b{layer}"] = delta[0].sum(axis=1)
            if layer > 1:
                grads[f"W{layer}"] = delta[0] @ activations[layer - 2][0].T
                down = slope(network.activation, pre_activations[layer - 2])
                delta = _transposed_times(last[f"W{layer}"], delta) * down
        grads["W1"] = delta[0] @ images
        return loss.mean(), grads

    return by_hand


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
    before = _to_last(many)
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)
    batch_size = order.shape[1]
    stored = _stored((order[0, 0] < 0).astype(jnp.int32))
    rate = learning_rates[None, None] / batch_size

    def run_steps(many: Params, batches: Array) -> tuple[Params, Array]:
        """A block of k steps; batches is (k, B)."""
        k = batches.shape[0]
        rest = dict(many)
        W1 = rest.pop("W1")
        images = x[batches.ravel()]
        z = _first_layer(W1, images)
        if k == 1:
            if network.biases:
                z = z + rest["b1"][None]
            rest, deltas, loss = _step(rest, z, y[batches[0]], rate, network, stored)
        else:
            z = z.reshape(k, batch_size, *z.shape[1:])
            rest, deltas, loss = _steps(
                rest, z, images, y[batches], rate, network, stored
            )
        W1 = W1 - rate * _first_gradient(images, deltas)
        return {"W1": W1, **rest}, loss

    k = min(max(1, BLOCK // batch_size if batch_size < 32 else 1), order.shape[0])
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
    return _to_first(after), loss / order.size


def evaluate(many: Params, split: Split, *, network: MLP) -> Evaluation:
    """``training.evaluate`` of N networks whose leaves have a leading axis of N."""
    last = _to_last(many)
    x, y = jnp.asarray(split.x).reshape(len(split.y), -1), jnp.asarray(split.y)
    stored = _stored((y[0] < 0).astype(jnp.int32))

    def look(x: Images, y: Labels) -> tuple[Array, Array, Array]:
        """Of each network: the sum of losses, the number right, whether all finite."""
        z = _first_layer(last["W1"], jnp.asarray(x))
        if network.biases:
            z = z + last["b1"][None]
        _, pre_activations = _forward(last, z, network, stored)
        logits = pre_activations[-1]
        on = jax.nn.one_hot(y, logits.shape[1], dtype=z.dtype)[..., None]
        loss, _ = _loss_and_p(logits, on)
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

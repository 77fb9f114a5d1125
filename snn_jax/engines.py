"""How networks are trained: which engine and whose gradient, chosen and said.

The engine "plain" is ``training.run_epoch`` under ``jax.vmap`` and serves all; "fast"
is ``fast``, the same numbers up to rounding, for plain networks with narrow layers and
nearly all optimizers. Fast it is for many small networks on a CPU; a GPU multiplies
stacks of small matrices well, and there "plain" is up to five times as fast. What was
chosen stands in the result.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from snn_jax import fast, gradients, losses
from snn_jax.datasets import Dataset
from snn_jax.gradients import ValueAndGrad
from snn_jax.networks import MLP, Params
from snn_jax.recipe import Recipe, transformation

# Networks that one CPU core trains side by side, and what each costs there, measured:
# fewer leave vector registers and matrix products half empty, more no longer fit its
# cache.
COSTS = {64: 1.0, 80: 1.01, 48: 1.02, 96: 1.05, 32: 1.4, 16: 1.5}
# So many networks or fewer are faster by vmap; fewer with batches so small that the
# fast engine takes several steps of SGD at once. And so are any number with more
# products of a weight behind the first layer and an image in a step: what lies between
# layers leaves the cache.
FEW, FEW_OF_SMALL_BATCHES = 32, 16
MOST_PRODUCTS = 200_000
# By vmap a core trains at most so many side by side, of so many weights (4 MB), and so
# many numbers with the activations and errors of a batch (16 MB).
MOST_BY_VMAP, MOST_WEIGHTS, MOST_NUMBERS = 32, 2**20, 2**22
# Of a GPU, the share of its memory that the networks may take.
GPU_MEMORY_SHARE = 0.5


class Method(NamedTuple):
    """How networks are trained, with all choices made; hashable.

    Attributes:
        engine: "fast" or "plain".
        gradient: whose it is, in words.
        value_and_grad: the gradient of the plain engine.
        in_numpy: whether it is called back.
        sgd: whether the fast engine may take several steps of plain SGD at once.
    """

    engine: str
    gradient: str
    value_and_grad: ValueAndGrad
    in_numpy: bool
    sgd: bool = False


def is_sgd(
    optimizer: Any,
    traced: Mapping[str, Any],
    static: Mapping[str, Any],
    params: Params,
) -> bool:
    """Whether an optimizer computes what ``optax.sgd`` does, whatever it is called.

    Args:
        optimizer: as in a recipe.
        traced: one of the values that differ between networks, by name.
        static: the values of the others.
        params: of a network, as rules may depend on names and shapes.

    >>> mine, like = lambda rate: optax.chain(optax.sgd(rate)), {"W": jnp.ones((2, 3))}
    >>> is_sgd(mine, {"rate": 0.1}, {}, like)
    True
    >>> is_sgd(optax.sgd(0.1, momentum=0.9), {}, {}, like)
    False
    """
    point = {name: jnp.asarray(value) for name, value in traced.items()}

    def program(make: Any) -> str:
        def update(point: dict[str, Any], grads: Params) -> Any:
            rule = transformation(make, dict(static) | point)
            return rule.update(grads, rule.init(grads), grads)[0]

        return str(jax.make_jaxpr(update)(point, params))

    try:
        found = program(optimizer)
        if point:  # the rate is one of them, whatever its name
            rates = [partial(_sgd_of, name) for name in point]
            if any(found == program(rate) for rate in rates):
                return True
        constant = float(sgd_rate(optimizer, static, params))
        return found == program(optax.sgd(constant))
    except Exception:  # whatever it is, it is another optimizer
        return False


def _sgd_of(name: str, **point: Any) -> optax.GradientTransformation:
    return optax.sgd(point[name])


def sgd_rate(optimizer: Any, point: Mapping[str, Any], params: Params) -> Array:
    """The learning rate of plain SGD: it moves a gradient of 1 by so much."""
    ones = jax.tree.map(lambda leaf: jnp.ones((1,) * len(leaf.shape)), params)
    rule = transformation(optimizer, point)
    rate: Array = -jax.tree.leaves(rule.update(ones, rule.init(ones), ones)[0])[0]
    return rate.reshape(())


def _served(optimizer: Any, point: Mapping[str, Any], params: Params) -> bool:
    """Whether the fast engine serves an optimizer that is not plain SGD."""
    try:
        return fast.serves(transformation(optimizer, point), params)
    except ValueError:  # said in a line where it is used
        return False


def _obstacles(
    recipe: Recipe, traced: Mapping[str, Any], static: Mapping[str, Any], params: Params
) -> list[str]:
    """Why the fast engine does not serve, in words; nothing if it does."""
    fits = fast.fits(recipe.network)
    found = {
        "a gradient of one's own": recipe.value_and_grad is not None,
        "a loss other than losses.nll": recipe.loss is not losses.nll,
        f"layers wider than {fast.MAX_FAN_IN} units or not plain": not fits,
        "batches of each network's own": recipe.own_batches,
        "an optimizer that wants more than gradients": fits
        and not is_sgd(recipe.optimizer, traced, static, params)
        and not _served(recipe.optimizer, dict(static) | dict(traced), params),
    }
    return [words for words, true in found.items() if true]


def _by_vmap(recipe: Recipe, params: Params, count: int) -> bool:
    """Whether vmap is the faster way on a CPU, where both serve."""
    few = FEW if recipe.batch_size >= fast.ONE_STEP else FEW_OF_SMALL_BATCHES
    if count <= few or not fast.fits(recipe.network):
        return True
    hidden = sum(leaf.size for leaf in params.values()) - params["W1"].size
    return bool(hidden * recipe.batch_size > MOST_PRODUCTS)


def choose(
    recipe: Recipe,
    data: Dataset,
    params: Params,
    *,
    traced: Mapping[str, Any],
    static: Mapping[str, Any],
    engine: str,
    count: int,
) -> Method:
    """Chooses an engine and a gradient.

    Args:
        recipe: what is trained; its network is one network.
        data: whose shapes a user's gradient is tried on, like
        params: of one network.
        traced: one of the values that differ between networks, by name.
        static: the values that do not.
        engine: "fast", "plain", or "auto" for whichever is faster.
        count: networks to be trained.

    Raises:
        ValueError: the fast engine is asked for where it does not serve, or an engine
            that does not exist.
        GradientError: a user's gradient that is none.
    """
    if engine not in ("auto", "fast", "plain"):
        raise ValueError(f"engine: expected auto, fast or plain, found {engine}")
    network, own = recipe.network, recipe.value_and_grad
    on_cpu = jax.devices()[0].platform == "cpu"
    # Only then: to try an optimizer, it is compiled.
    asked = engine == "fast" or (
        engine == "auto" and on_cpu and not _by_vmap(recipe, params, count)
    )
    obstacles = _obstacles(recipe, traced, static, params) if asked else []
    if engine == "fast" and obstacles:
        raise ValueError(
            f"engine fast: expected what it serves, found {' and '.join(obstacles)}"
        )
    if asked and not obstacles:
        by_hand = fast.value_and_grad(network)
        sgd = is_sgd(recipe.optimizer, traced, static, params)
        return Method("fast", "by hand", by_hand, in_numpy=False, sgd=sgd)
    if own is None:
        if recipe.loss is losses.nll and fast.by_hand(network):
            by_hand = fast.value_and_grad(network)
            return Method("plain", "by hand", by_hand, in_numpy=False)
        autodiff = gradients.by_autodiff(network, recipe.loss)
        return Method("plain", "autodiff", autodiff, in_numpy=False)
    x, y = (values[:2] for values in data.train)
    if gradients.traced(own, params, x, y):
        return Method("plain", "the user's", own, in_numpy=False)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    gradients.call_numpy(own, zeros, x, y)  # a mistake shows here, in one line
    called = gradients.from_numpy(own)
    return Method("plain", "the user's, in NumPy", called, in_numpy=True)


def default_width(recipe: Recipe, method: Method, params: Params, count: int) -> int:
    """Networks a device: what fits a core's cache, or as many as a GPU has room for.

    On a CPU, as many as leave the fewest empty places on two cores, whatever their
    number: results shall not depend on it.
    """
    device = jax.devices()[0]
    weights: int = sum(leaf.size for leaf in jax.tree.leaves(params))
    units = sum(recipe.network.sizes[1:]) if isinstance(recipe.network, MLP) else 1000
    if device.platform == "cpu":
        if method.engine != "fast":
            numbers = weights + 2 * recipe.batch_size * units
            most = min(MOST_BY_VMAP, MOST_WEIGHTS // max(1, weights))
            most = max(1, min(most, MOST_NUMBERS // numbers))
            return math.ceil(count / 2 / math.ceil(count / 2 / most))

        def cost(width: int) -> float:
            return COSTS[width] * width * math.ceil(count / (2 * width))

        return min(COSTS, key=cost)
    memory = (device.memory_stats() or {}).get("bytes_limit", 2**33)
    images = max(recipe.batch_size, fast.BLOCK, fast.SLAB)
    # Weights before and after, their gradient and what is donated; activations, slopes
    # and errors of a batch. The room for signals in float64 is in the other half.
    floats = 4 * weights + 6 * images * units
    room = max(1, int(GPU_MEMORY_SHARE * memory / (4 * floats)))
    needed = math.ceil(count / len(jax.devices()))
    # Powers of two: few widths, so that results of different sweeps can be compared.
    return int(2 ** min(math.floor(math.log2(room)), math.ceil(math.log2(needed))))

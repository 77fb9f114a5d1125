"""What makes a deep network learn: initial weights, steps and inputs, to be imported.

Pure functions that go with any ``networks.MLP`` and any sweep. Some initial weights
look at images; they have the arguments (key, network, x). Which remedies work is what
``experiments/remedies.py`` finds out.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from snn_jax import initializers, meanfield
from snn_jax.datasets import Dataset, Split
from snn_jax.networks import MLP, Images, Params

# (key, network, x) -> initial parameters of one network; x are images.
Init = Callable[[Key[Array, ""], MLP, Images], Params]
# Makes an optax transformation from a learning rate, perhaps from other values too.
OptimizerFactory = Callable[..., optax.GradientTransformation]


def lsuv(key: Key[Array, ""], network: MLP, x: Images) -> Params:
    """Orthogonal weights, layer after layer scaled until its sums have variance 1.

    Mishkin & Matas 2016, "All you need is a good init": layer-sequential unit variance,
    measured over units and images.

    Args:
        key: typed key.
        network: its sizes, units and biases; weights are drawn orthogonal.
        x: images, one a row.

    >>> params = lsuv(jax.random.key(0), MLP((9, 4, 4, 3)), jnp.eye(9))
    >>> _, z = MLP((9, 4, 4, 3)).forward(params, jnp.eye(9))
    >>> [round(float(layer.std()), 4) for layer in z]
    [1.0, 1.0, 1.0]
    """
    params: Params = _with(network, initializers.orthogonal).init(key)
    for layer in range(1, network.num_layers + 1):
        _, z = network.forward(params, x)
        params[f"W{layer}"] = params[f"W{layer}"] / z[layer - 1].std()
    return params


def matched(sigma_w: float) -> Init:
    """Normal weights under which sums have one variance from the first layer on.

    The variance q of the sums of a wide layer goes from layer to layer to a fixed point
    q*, whatever it was in the first: ``meanfield.fixed_point``. The first layer's
    weights are drawn so that it starts there: s^2 |x|^2 = q*.

    Args:
        sigma_w: sqrt(fan-in) times the standard deviation of the other weights.

    Returns:
        ``init(key, network, x)``.
    """

    def init(key: Key[Array, ""], network: MLP, x: Images) -> Params:
        # Theory knows no traced numbers, and needs none, in a function that is.
        with jax.ensure_compile_time_eval():
            q = meanfield.fixed_point(activation=network.activation, sigma_w=sigma_w)
        params = _with(network, initializers.lecun).init(key, scale=sigma_w)
        unit = _with(network, initializers.normal).init(key)["W1"]
        return params | {"W1": unit * jnp.sqrt(q / (x**2).sum(axis=1).mean())}

    return init


def critical(key: Key[Array, ""], network: MLP, x: Images) -> Params:
    """``matched`` at chi_1 = 1, where gradients keep their size in mean field theory.

    Schoenholz et al. 2017, "Deep information propagation".

    Args:
        key: typed key.
        network: its sizes, units and biases.
        x: images, one a row.

    Raises:
        ValueError: its units have no such point, see ``meanfield.critical_sigma_w``.
    """
    with jax.ensure_compile_time_eval():
        sigma_w = meanfield.critical_sigma_w(activation=network.activation)
    return matched(sigma_w)(key, network, x)


def _with(network: MLP, initializer: initializers.Initializer) -> MLP:
    """The network, its weights drawn in another way."""
    return replace(network, initializer=initializer)


def momentum(learning_rate: Any) -> optax.GradientTransformation:
    """SGD with momentum 0.9 (Polyak 1964)."""
    return optax.sgd(learning_rate, momentum=0.9)


def normalized_gradient(learning_rate: Any) -> optax.GradientTransformation:
    """Every layer's step has the same rms, the learning rate, whatever its gradient's.

    Block-normalized gradients, Yu et al. 2017.
    """

    def unit(grad: Array) -> Array:
        largest = jnp.maximum(jnp.abs(grad).max(), 1e-30)  # squares could underflow
        return grad / (largest * jnp.sqrt(((grad / largest) ** 2).mean() + 1e-30))

    return optax.chain(
        optax.stateless(lambda grads, _: jax.tree.map(unit, grads)),
        optax.scale_by_learning_rate(learning_rate),
    )


@functools.cache
def decayed(optimizer: OptimizerFactory, num_steps: int) -> OptimizerFactory:
    """The same optimizer with a learning rate that falls to 0 on a straight line.

    Args:
        optimizer: makes an optax transformation from a learning rate.
        num_steps: of the whole run.

    Returns:
        A function of the same values; for the same arguments the same function, so that
        it is compiled once.
    """
    fall = optax.schedules.linear_schedule(1.0, 0.0, num_steps)

    @functools.wraps(optimizer)
    def factory(*args: Any, **values: Any) -> optax.GradientTransformation:
        made = optimizer(*args, **values)
        return optax.chain(made, optax.scale_by_schedule(fall))

    return factory


def prepared(data: Dataset, inputs: str) -> Dataset:
    """Images by the training set's means and spreads, pixel by pixel.

    Args:
        data: raw.
        inputs: "raw", "centred" (each pixel's mean subtracted) or "standardized" (and
            divided by its standard deviation; pixels that never vary stay 0).

    Raises:
        ValueError: another word.

    >>> split = Split(np.array([[0.0, 1.0], [0.5, 1.0]], np.float32), np.array([0, 1]))
    >>> prepared(Dataset(split, split, split), "standardized").train.x
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """
    if inputs not in ("raw", "centred", "standardized"):
        raise ValueError(
            f"inputs: expected raw, centred or standardized, found {inputs}"
        )
    if inputs == "raw":
        return data
    x = np.asarray(data.train.x)
    mean = x.mean(axis=0, dtype=float)
    spread = x.std(axis=0, dtype=float) if inputs == "standardized" else 1.0
    divisor = np.where(spread == 0, 1, spread)
    return Dataset(
        *(
            Split(((split.x - mean) / divisor).astype(np.float32), split.y)
            for split in data
        )
    )

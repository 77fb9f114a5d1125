"""What makes a deep network learn: weights, units, steps, inputs; to be imported.

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
import scipy.optimize
from jaxtyping import Array, Key

from snn_jax import activations, initializers, meanfield
from snn_jax.activations import Activation
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


def autoinit(key: Key[Array, ""], network: MLP, x: Images) -> Params:
    """Weights of variance 1 / (fan_in E a^2), a the inputs of their layer.

    Bingham & Miikkulainen 2023, "AutoInit": sums have variance 1, since Var z = fan_in
    Var W E a^2, where E a^2 = Var a + (E a)^2 counts the mean of the units too. Of
    units it is E f(g)^2 of a standard normal g, of pixels that of the images.

    Args:
        key: typed key.
        network: its sizes, units and biases; weights are drawn normal.
        x: images, one a row.
    """
    with jax.ensure_compile_time_eval():
        f = network.activation
        of_units = float(meanfield.length_map(1.0, activation=f, sigma_w=1.0))
    params: Params = _with(network, initializers.lecun).init(key)
    for layer in range(1, network.num_layers + 1):
        moment = (x**2).mean() if layer == 1 else of_units
        params[f"W{layer}"] = params[f"W{layer}"] / jnp.sqrt(moment)
    return params


@functools.cache
def shaped(activation: Activation, slope: float) -> Activation:
    """h(z) = c (f(a z + b) + d), which lets kernels through a deep network as they are.

    Martens et al. 2021, "Deep kernel shaping". Under ``unit_q`` a layer takes the mean
    square q of its sums to Q(q) = E h(sqrt(q) g)^2, g standard normal, and at q = 1 the
    cosine of two inputs to C, a map whose slope at 1 is that of small differences. Four
    conditions give the four numbers:

        Q(1) = E h^2 = 1          Q'(1) = E g h h' = 1
        C(0) = (E h)^2 = 0        C'(1) = E h'^2 = slope

    In a network of D hidden layers the slope is zeta^(1 / D), theirs with zeta = 1.5.

    Args:
        activation: f.
        slope: above 1.

    Returns:
        h; for the same arguments the same function, so that it is compiled once.

    Raises:
        ValueError: no such numbers are found.
    """
    g, weights = meanfield.GRID, meanfield.WEIGHTS

    def centred(a: float, b: float) -> tuple[np.ndarray, np.ndarray, float, float]:
        """F(g) = f(a g + b) less its mean, F'(g), the mean and the variance."""
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            z = jnp.asarray(a * g + b)
            values = np.asarray(activation(z))
            slopes = a * np.asarray(activations.slope(activation, z))
        mean = float(values @ weights)
        return values - mean, slopes, mean, float((values - mean) ** 2 @ weights)

    def errors(numbers: np.ndarray) -> list[float]:
        values, slopes, _, variance = centred(*numbers)
        q_slope = float(g * values * slopes @ weights) / variance
        return [q_slope - 1, float(slopes**2 @ weights) / variance - slope]

    found = scipy.optimize.root(errors, (1.0, 1.0))
    if not found.success:
        raise ValueError(
            f"slope: expected one that {activation} can be shaped to, found {slope:g}"
        )
    a, b = map(float, found.x)
    *_, mean, variance = centred(a, b)

    def h(z: Array) -> Array:
        value: Array = (activation(a * z + b) - mean) / variance**0.5
        return value

    h.__name__ = f"shaped_{getattr(activation, '__name__', 'activation')}"
    return h


def unit_q(key: Key[Array, ""], network: MLP, x: Images) -> Params:
    """Orthogonal weights, the first layer's such that its sums have mean square 1.

    Those of Martens et al. 2021 for layers with no more units than inputs and zero
    biases. They bring every image to mean square 1; here it is the mean over images.

    Args:
        key: typed key.
        network: its sizes and biases, and units as from ``shaped``.
        x: images, one a row.
    """
    params: Params = _with(network, initializers.orthogonal).init(key)
    return params | {"W1": params["W1"] / jnp.sqrt((x**2).mean())}


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


def linearly_constrained(learning_rate: Any) -> optax.GradientTransformation:
    """SGD under the constraint that the weights of every unit sum to 0.

    Kutsuna 2019, "Linearly constrained weights": W = V B, where V is free and the rows
    of B span all vectors that sum to 0. If they are orthonormal, a step of SGD on V
    moves W by -rate dW B^T B = -rate dW (I - 1 1^T / fan_in): by the step on W, less
    the mean of every row. So W is trained as it is, and whatever else its rows sum to,
    by rounding or from the start, goes with the step.
    """

    def constrain(step: Array, W: Array) -> Array:
        return step - (W + step).mean(axis=1, keepdims=True) if W.ndim == 2 else step

    return optax.chain(
        optax.sgd(learning_rate),
        optax.stateless(lambda steps, params: jax.tree.map(constrain, steps, params)),
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

"""Numbers of each layer that tell what a network is doing, on a set of examples.

An ``MLP`` gives all of them. Of a network of one's own gradients are measured leaf by
leaf, and activations layer by layer if it has ``layers``.

At small init scales images differ by less than the spacing of float32: give float64
parameters and images (under ``jax.enable_x64(True)``) to see what is still there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from snn_jax import backprop, gradients, losses
from snn_jax.activations import slope, steepest
from snn_jax.losses import Loss
from snn_jax.networks import MLP, Images, Labels, Params

# Measured on so many examples, the first of the training set.
NUM_EXAMPLES = 1000
# f' relative to its largest value. For the sigmoid 4 a (1 - a) < 0.0396 means that a is
# within 0.01 of 0 or 1; for tanh it is the same point, |a| > 0.98.
SATURATED_DERIVATIVE = 4 * 0.01 * 0.99
# Of the probe's regression, relative to the mean variance of a unit: enough to solve
# the equations when units are copies of each other, too little to hide a direction.
PROBE_RIDGE = 1e-8
# Single-example gradients of networks of one's own that are held at once.
EXAMPLES_AT_ONCE = 25


class Label(NamedTuple):
    """Of a signal: what it runs over besides networks, what it is, and its unit.

    The dimension "layer" are the L weight matrices of an MLP, or "leaf" the arrays of
    other parameters; "hidden_layer" are the layers between.
    """

    dim: str
    long_name: str
    units: str = ""


PER_WEIGHT = "nats per unit of weight"
SIGNALS: dict[str, Label] = {
    # How much one image can move a weight: rms over images and weights.
    "gradient_rms": Label("layer", "rms of single-image gradients", PER_WEIGHT),
    # The same of the median image, rms over weights alone: far below gradient_rms where
    # a few images carry it, as in saturated networks.
    "gradient_median": Label(
        "layer", "rms over weights of the median image's gradient", PER_WEIGHT
    ),
    # What is left when images have pulled in their different directions. On a plateau
    # it is far smaller, and the gradient of a batch is mostly label noise.
    "mean_gradient_rms": Label("layer", "rms of the mean gradient", PER_WEIGHT),
    "weight_norm": Label("layer", "Frobenius norm of the weights"),
    "activation_mean": Label("hidden_layer", "mean activation"),
    # How far the layer tells images apart, rms over units. Two images differ by sqrt(2)
    # of it.
    "activation_spread": Label(
        "hidden_layer", "standard deviation of activations over images"
    ),
    # Participation ratio of the covariance C over images, (tr C)^2 / tr C^2: from 1,
    # all units say the same, to their number, NaN if they say nothing.
    "effective_rank": Label("hidden_layer", "effective rank of the layer", "units"),
    # Least squares on every other image, scored on the rest.
    "probe_accuracy": Label(
        "hidden_layer", "accuracy of a linear probe of the layer", "fraction"
    ),
    "mean_slope": Label("hidden_layer", "mean slope of the activation function"),
    # Pairs that pass on no gradient, f' below 4 % of its largest value: a sigmoid
    # within 0.01 of 0 or 1, a tanh within 0.02 of -1 or 1, a ReLU that is off.
    "saturation": Label("hidden_layer", "saturated (unit, image) pairs", "fraction"),
    "dead": Label("hidden_layer", "units saturated for every image", "fraction"),
}


def _rms(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Root mean square that does not underflow: float32 squares vanish below 1e-19."""
    largest = jnp.abs(values).max()
    unit = jnp.where(largest == 0, 1, largest)
    return unit * jnp.sqrt(jnp.mean((values / unit) ** 2))


def _median(values: Float[Array, " B"]) -> Float[Array, ""]:
    """Of numbers that are not negative: their bits, read as integers, have their order.

    XLA sorts integers five times as fast as floats on a CPU. NaN sorts above all.
    """
    integers = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    bits = jax.lax.sort(jax.lax.bitcast_convert_type(jnp.abs(values), integers))
    in_order = jax.lax.bitcast_convert_type(bits, values.dtype)
    half = values.shape[0] // 2
    return (in_order[half] + in_order[-1 - half]) / 2


def _effective_rank(a: Float[Array, "H B"]) -> Float[Array, ""]:
    centred = a - a.mean(axis=1, keepdims=True)
    centred = centred / jnp.abs(centred).max()  # NaN where nothing varies
    if centred.shape[0] > centred.shape[1]:
        centred = centred.T  # the traces of C and of its square stay
    covariance = centred @ centred.T
    rank: Array = jnp.trace(covariance) ** 2 / (covariance**2).sum()
    return rank


def main_planes(network: MLP, params: Params, x: Images) -> Float[np.ndarray, "H B 2"]:
    """Every image in each hidden layer, in the plane in which images differ most.

    Principal components in float64, scaled to an rms of 1: at small init scales the
    whole cloud is smaller than the spacing of float32.

    Args:
        network: with at least two units a hidden layer; a single unit gives a second
            coordinate of 0.
        params: float32 or float64.
        x: images, one a row.
    """
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        inputs, _ = network.forward(double, jnp.asarray(x, jnp.float64))
        planes = []
        for a in map(np.asarray, inputs[1:]):
            centred = a - a.mean(axis=1, keepdims=True)
            _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
            plane = np.zeros((2, a.shape[1]))
            plane[: len(lengths)] = (lengths[:, None] * directions)[:2]
            rms = np.sqrt((plane**2).mean())
            planes.append((plane / (rms if rms > 0 else 1)).T)
    return np.array(planes)


def _solve(A: Float[Array, "H H"], B: Float[Array, "H K"]) -> Float[Array, "H K"]:
    """A^-1 B for symmetric positive definite A, by Gauss-Jordan elimination.

    Such matrices need no pivots (Golub & Van Loan 2013, section 4.2). Not
    ``jnp.linalg.solve``: mapped over networks its LAPACK calls wait for each other for
    ever in jax 0.10.2, always so at 100 units.
    """

    def eliminate(i: Array, rows: Array) -> Array:
        row = rows[i] / rows[i, i]
        rows = rows - rows[:, i, None] * row[None, :]
        return rows.at[i].set(row)

    rows = jnp.concatenate([A, B], axis=1)
    solved: Array = jax.lax.fori_loop(0, A.shape[0], eliminate, rows)
    return solved[:, A.shape[0] :]


def _probe_accuracy(
    a: Float[Array, "H B"], y: Labels, num_classes: int
) -> Float[Array, ""]:
    """Of a linear least-squares classifier on the centred, rescaled activations."""
    fit, score = a[:, ::2], a[:, 1::2]
    mean = fit.mean(axis=1, keepdims=True)
    spread = _rms(fit - mean)
    unit = jnp.where(spread == 0, 1, spread)
    fit, score = (fit - mean) / unit, (score - mean) / unit
    # The regression's targets: 1 for the label, 0 elsewhere, less their mean.
    targets = (y[None, ::2] == jnp.arange(num_classes)[:, None]).astype(a.dtype)
    offset = targets.mean(axis=1, keepdims=True)
    ridge = PROBE_RIDGE * fit.shape[1] * jnp.eye(min(fit.shape), dtype=a.dtype)
    if fit.shape[0] <= fit.shape[1]:
        W = _solve(fit @ fit.T + ridge, fit @ (targets - offset).T).T
    else:  # (A A^T + r)^-1 A = A (A^T A + r)^-1, with the smaller matrix
        W = (fit @ _solve(fit.T @ fit + ridge, (targets - offset).T)).T
    right: Array = (W @ score + offset).argmax(axis=0) == y[1::2]
    return right.mean(dtype=a.dtype)


def _rms_of_columns(values: Float[Array, "H B"]) -> Float[Array, " B"]:
    """``_rms`` of each column.

    The sum is a product of matrices, which the compiler does not take apart: the last
    bit does not depend on what else it compiles.
    """
    largest = jnp.abs(values).max(axis=0)
    unit = jnp.where(largest == 0, 1, largest)
    scaled = values / unit[None]
    squares = jnp.einsum("hb,hb->b", scaled, scaled)
    return unit * jnp.sqrt(squares / values.shape[0])


def _single_image_gradients(passes: backprop.Passes) -> list[Float[Array, " B"]]:
    """Rms over weights for each layer and image: |dW_l| = |delta_l| |a_{l-1}|."""
    return [
        _rms_of_columns(delta) * _rms_of_columns(a)
        for a, delta in zip(passes.inputs, passes.sum_deltas, strict=True)
    ]


def gradient_rms(
    network: MLP, params: Params, x: Images, y: Labels
) -> Float[Array, " L"]:
    """The signal of that name alone, of an MLP and its negative log-likelihood."""
    passes = backprop.forward_backward(network, params, x, y)
    return jnp.stack([_rms(images) for images in _single_image_gradients(passes)])


def measure(
    network: Any,
    params: Params,
    x: Any,
    y: Any,
    *,
    loss: Loss = losses.nll,
    num_classes: int | None = None,
) -> dict[str, Array]:
    """All signals of one network on a set of examples; vmap it over networks.

    Args:
        network: an ``MLP``, or one of one's own.
        params: float32 or, to see small differences, float64.
        x: inputs, one a row; about a thousand.
        y: labels in [0, K), or other targets.
        loss: whose gradients are measured.
        num_classes: K, for the probe; without it there is none.

    Returns:
        What is known of the names in ``SIGNALS``, each an array of one axis; nothing of
        hidden layers if there are none.

    >>> from snn_jax.networks import DEEP
    >>> params = DEEP.init(jax.random.key(0), scale=0.1)
    >>> x, y = jnp.linspace(0, 1, 4 * 784).reshape(4, 784), jnp.arange(4)
    >>> found = measure(DEEP, params, x, y, num_classes=10)
    >>> bool(found["gradient_rms"][0] < 1e-4 * found["gradient_rms"][-1])  # it vanishes
    True
    >>> bool(found["activation_spread"][-1] < 1e-3 * found["activation_spread"][0])
    True
    """
    y = jnp.asarray(y)
    norms = {"weight_norm": jnp.stack([_norm(W) for W in _arrays(network, params)])}
    if isinstance(network, MLP):
        return norms | _measure_mlp(network, params, x, y, loss, num_classes)
    found = norms | _gradients_of_leaves(network, params, x, y, loss)
    if network_layers(network) is not None:
        activations = network.layers(params, x).values()
        columns = [a.reshape(len(a), -1).T for a in activations]
        found |= _of_activations(columns, y, num_classes)
    return found


def network_layers(network: Any) -> Any:
    """The function ``layers`` of a network, or None."""
    return getattr(network, "layers", None)


def _of_activations(
    layers: list[Float[Array, "..."]], y: Array, num_classes: int | None
) -> dict[str, Array]:
    """Signals of activations alone, given with one example a column."""
    found = {
        "activation_mean": [a.mean() for a in layers],
        "activation_spread": [_rms(a - a.mean(axis=1, keepdims=True)) for a in layers],
        "effective_rank": [_effective_rank(a) for a in layers],
    }
    if num_classes is not None:
        found["probe_accuracy"] = [_probe_accuracy(a, y, num_classes) for a in layers]
    return {name: jnp.array(values) for name, values in found.items() if values}


def _measure_mlp(
    network: MLP,
    params: Params,
    x: Images,
    y: Array,
    loss: Loss,
    num_classes: int | None,
) -> dict[str, Array]:
    passes = backprop.forward_backward(network, params, x, y, loss)
    single = _single_image_gradients(passes)
    means = [
        delta @ a.T / a.shape[1]
        for a, delta in zip(passes.inputs, passes.sum_deltas, strict=True)
    ]
    found: dict[str, Any] = {
        "gradient_rms": [_rms(images) for images in single],
        "gradient_median": [_median(images) for images in single],
        "mean_gradient_rms": [_rms(mean) for mean in means],
    }
    slopes = [slope(network.activation, z) for z in passes.pre_activations[:-1]]
    flat = SATURATED_DERIVATIVE * steepest(network.activation)
    saturated = [jnp.abs(s) < flat for s in slopes]
    dtype = single[0].dtype
    found |= {
        "mean_slope": [s.mean() for s in slopes],
        "saturation": [s.mean(dtype=dtype) for s in saturated],
        "dead": [s.all(axis=1).mean(dtype=dtype) for s in saturated],
    }
    arrays = {name: jnp.array(values) for name, values in found.items() if values}
    return arrays | _of_activations(passes.inputs[1:], y, num_classes)


def _gradients_of_leaves(
    network: Any, params: Params, x: Any, y: Array, loss: Loss
) -> dict[str, Array]:
    """The gradient's signals of any network, by autodiff, an example at a time."""
    mean_loss = gradients.mean_loss(network, loss)

    def leaves(x: Any, y: Any) -> list[Array]:
        return [_rms(g) for g in float_leaves(jax.grad(mean_loss)(params, x, y))]

    x = jnp.asarray(x)
    single = jax.lax.map(
        lambda example: jnp.stack(leaves(example[0][None], example[1][None])),
        (x, y),
        batch_size=EXAMPLES_AT_ONCE,
    )
    return {
        "gradient_rms": jnp.stack([_rms(images) for images in single.T]),
        "gradient_median": jnp.stack([_median(images) for images in single.T]),
        "mean_gradient_rms": jnp.stack(leaves(x, y)),
    }


def float_leaves(params: Params) -> list[Array]:
    """The arrays of numbers that can be trained, in the order of the tree."""
    return [
        leaf
        for leaf in jax.tree.leaves(params)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]


def weight_change(network: Any, before: Params, after: Params) -> Float[Array, " L"]:
    """|W after - W before| / |W before| of each layer, or of each leaf."""
    pairs = zip(_arrays(network, after), _arrays(network, before), strict=True)
    return jnp.stack([_norm(new - old) / _norm(old) for new, old in pairs])


def _arrays(network: Any, params: Params) -> list[Array]:
    """The weights of each layer, or each leaf."""
    if isinstance(network, MLP):
        return [params[f"W{layer}"] for layer in range(1, network.num_layers + 1)]
    return float_leaves(params)


def _norm(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Of all entries, as one vector."""
    return jnp.sqrt((values**2).sum())


def coordinates(network: Any, params: Params, x: Any) -> dict[str, list[Any]]:
    """What the dimensions of signals run over, by name; from shapes alone."""
    if isinstance(network, MLP):
        layers = list(range(1, network.num_layers + 1))
        return {"layer": layers, "hidden_layer": layers[:-1]}
    names = gradients.leaf_names(
        jax.tree.map(
            lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None,
            params,
        )
    )
    found: dict[str, list[Any]] = {"leaf": names}
    if network_layers(network) is not None:
        found["hidden_layer"] = list(jax.eval_shape(network.layers, params, x))
    return found

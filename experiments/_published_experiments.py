"""How the sources built and trained their networks: a sweep for every experiment.

Every network sees the images in an order of its own: the order moves an accuracy as
much as the initial weights do.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from scipy.optimize import minimize_scalar

from snn_jax import gradients, losses, meanfield
from snn_jax.activations import Activation, relu, sigmoid, slope, tanh
from snn_jax.datasets import Dataset, Split
from snn_jax.initializers import Initializer, glorot_uniform, lecun, normal
from snn_jax.networks import MLP, Network, Params
from snn_jax.recipe import Recipe
from snn_jax.sweep import Sweep

SEED = 0
# Images that the sources measure gradients and activations on.
NUM_GRADIENT_IMAGES, NUM_ACTIVATION_IMAGES = 1000, 300
# Of weights with variance 1 / n, it makes what Glorot & Bengio call standard,
# U[-1/sqrt(n), 1/sqrt(n)] with variance 1 / (3 n).
STANDARD = 3**-0.5

# Makes the sweep of an experiment on data, for so many trained networks a row and so
# many untrained ones.
Experiment = Callable[[Dataset, int, int], Sweep]


def net(
    *hidden: int,
    activation: Activation = sigmoid,
    initializer: Initializer = glorot_uniform,
) -> MLP:
    """From pixels to digits, with so many units in the hidden layers."""
    return MLP((784, *hidden, 10), activation, initializer=initializer)


def sgd(learning_rate: float, decay: float) -> optax.GradientTransformation:
    """A step is w - learning_rate (gradient + decay w).

    Args:
        learning_rate: of all parameters.
        decay: lambda / n of an L2 penalty on the weights, not on the biases.
    """

    def weights_alone(params: Params) -> dict[str, bool]:
        return {name: name.startswith("W") for name in params}

    penalty = optax.add_decayed_weights(decay, weights_alone)
    return optax.chain(penalty, optax.sgd(learning_rate))


def joined(data: Dataset) -> Dataset:
    """With the images of train and valid in train, and valid as it was."""
    x, y = (np.concatenate(both) for both in zip(data.train, data.valid, strict=True))
    return data._replace(train=Split(x, y))


def split(data: Dataset, num_images: int) -> Dataset:
    """Trains on the first images of what is joined; the next ones validate.

    Who trains on all of them has no validation set: its numbers are not used.
    """
    x, y = data.train
    end = num_images + len(data.valid.y)
    valid = Split(x[num_images:end], y[num_images:end])
    train = Split(x[:num_images], y[:num_images])
    return Dataset(train, valid if len(valid.y) else data.valid, data.test)


def trained(
    data: Dataset,
    seeds: int,
    _networks: int,
    *,
    network: MLP,
    images: int = 50_000,
    scale: float = 1.0,
    bias_scale: float = 0.0,
    best_of: int = 1,
    **of_recipe: Any,
) -> Sweep:
    """Networks trained as a source says.

    Args:
        data: as from ``joined``.
        seeds: networks that a row counts.
        network: the source's.
        images: how many are trained on.
        scale: multiplies the initial weights.
        bias_scale: standard deviation of the initial biases.
        best_of: networks that the source trained to report the best epoch of all; the
            test set validates, so that every epoch is tested.
        of_recipe: the rest of the ``Recipe``.
    """
    data = split(data, images)
    return Sweep(
        jax.random.key(SEED),
        data if best_of == 1 else data._replace(valid=data.test),
        Recipe(network, own_batches=True, **of_recipe),
        {"scale": [scale], "bias_scale": [bias_scale]},
        seeds=seeds * best_of,
        width=1,  # networks with batches of their own are no faster side by side
        signals=False,
    )


def mean_activations(data: Dataset, seeds: int, networks: int) -> Sweep:
    """Of four sigmoid layers, while they are trained, and what a figure shows."""
    network = net(*(1000,) * 4, initializer=lecun)
    x = data.test.x[:NUM_ACTIVATION_IMAGES]

    def observe(params: Params) -> dict[str, Any]:
        layers = network.layers(params, x).values()
        *others, top = means = jnp.stack([a.mean() for a in layers])
        return {
            "activation_mean": means,
            "top_goes_to_0": top < 0.1,
            "others_increase": (jnp.diff(jnp.stack(others)) > 0).all(),
            "others_above_half": (jnp.stack(others) > 0.5).all(),
        }

    return trained(
        data, seeds, networks, network=network, images=10_000, scale=STANDARD,
        optimizer=optax.sgd(0.1), num_epochs=2, batch_size=10,
        observe={"means": observe},
    )  # fmt: skip


def untrained(
    network: Any, images: Split, observe: Callable[[Params], Any], **options: Any
) -> Sweep:
    """Networks before the first step, which are looked at and not trained.

    Args:
        network: whose initial weights are drawn.
        images: for all that has to be given images.
        observe: gives an array by name.
        options: of the sweep.
    """
    recipe = Recipe(
        network, optimizer=optax.identity(), num_epochs=0, observe={"seen": observe}
    )
    key = jax.random.key(SEED)
    return Sweep(key, [images] * 3, recipe, signals=False, **options)


def bias_gradients(
    data: Dataset, _seeds: int, networks: int, *, depth: int, initializer: Initializer
) -> Sweep:
    """|mean over images of d cost / d b_l|, ``norm_l``."""
    network = net(*(30,) * depth, initializer=initializer)
    images = Split(*(values[:NUM_GRADIENT_IMAGES] for values in data.train))
    gradient = gradients.by_autodiff(network, losses.cross_entropy)

    def observe(params: Params) -> dict[str, Any]:
        _, grads = gradient(params, *images)
        biases = {layer: grads[f"b{layer}"] for layer in range(1, depth + 1)}
        return {f"norm_{layer}": jnp.linalg.norm(b) for layer, b in biases.items()}

    start = {"bias_scale": [1.0]}
    return untrained(network, images, observe, axes=start, seeds=networks)


def singular_values(
    data: Dataset,
    seeds: int,
    _networks: int,
    *,
    initializer: Initializer,
    scale: float,
    width: int = 1000,
) -> Sweep:
    """Of the Jacobians d z_{l+1} / d z_l between five tanh layers: their mean.

    One image and network each, drawn together: ``singular_value``.
    """
    network = net(*(width,) * 5, activation=tanh, initializer=initializer)
    images = Split(*(values[:NUM_ACTIVATION_IMAGES] for values in data.train))

    def init(key: Any) -> Params:
        image_key = jax.random.fold_in(key, 0)  # layers are drawn from 1, 2, ..
        image = jax.random.choice(image_key, jnp.asarray(images.x), (1,))
        return {"weights": network.init(key, scale=scale), "image": image}

    def apply(params: Params, x: Any) -> Any:
        return network.apply(params["weights"], x)

    def observe(params: Params) -> dict[str, Any]:
        W = params["weights"]
        _, z = network.forward(W, params["image"])
        J = jnp.stack([W[f"W{i + 1}"] * slope(tanh, z[i - 1]).T for i in range(1, 5)])
        # One at a time: the LAPACK calls of a batch wait for each other for ever in jax
        # 0.10.2. In float32, which is enough: networks differ in the third digit.
        svd = partial(jnp.linalg.svd, compute_uv=False)
        return {"singular_value": jax.lax.map(svd, J.astype(jnp.float32)).mean()}

    both = Network(init, apply)
    return untrained(both, images, observe, seeds=min(seeds, 4), width=1)


def interval_width(w: float) -> float:
    """Of the inputs a with |w sigmoid'(w a + b)| >= 1; 0 if there are none.

    Nielsen's eq. 123. With z = w a + b and r = exp(z), w sigmoid'(z) = 1 reads
    w r = (1 + r)^2, or r^2 + (2 - w) r + 1 = 0. The roots are r = (w - 2 + sqrt(w^2 -
    4 w)) / 2 and 1/r. So z runs from -ln r to ln r, and a over 2 ln r / w.

    >>> interval_width(4.0)
    0.0
    """
    if w <= 4:  # sigmoid' is at most 1/4
        return 0.0
    return 2 / w * math.log((w - 2 + math.sqrt(w * w - 4 * w)) / 2)


def without_training(data: Dataset) -> xr.Dataset:
    """What is computed without chance."""
    widest = minimize_scalar(
        lambda w: -interval_width(w), bounds=(4, 20), method="bounded"
    )
    sigma_w = meanfield.critical_sigma_w(activation=tanh, sigma_b=0.05**0.5)
    # The linear classifier of least squares, on all 60,000 images.
    x, y = data.train
    A = np.column_stack([x, np.ones(len(x))]).astype(float)
    W = np.linalg.lstsq(A.T @ A, A.T @ np.eye(10)[y], rcond=1e-10)[0]
    answers = (data.test.x @ W[:-1] + W[-1]).argmax(axis=1)
    return xr.Dataset(
        {
            "interval_width": -widest.fun,
            "interval_weight": widest.x,
            "critical_sigma_w_squared": sigma_w**2,
            "least_squares": 100 * (answers == data.test.y).mean(),
        }
    )


def as_published(result: xr.Dataset) -> xr.Dataset:
    """A result with accuracies in percent, and what else rows want to know of them.

    ``best_accuracy`` is that of the best epoch, and ``one_answer`` says whether the
    test accuracy is the share of a class, as of a network with one answer to all.
    """
    share = abs(result.test_accuracy - result.test_class_frequency) < 1e-6
    valid, test = 100 * result.valid_accuracy, 100 * result.test_accuracy
    return result.assign(
        valid_accuracy=valid,
        test_accuracy=test,
        best_accuracy=valid.max("epoch"),
        one_answer=share.any("class"),
    )


def work(sweep: Sweep) -> float:
    """Of an epoch of a network, or a look, in products of a weight and an image."""
    weights = sum(leaf.size for leaf in jax.tree.leaves(sweep.ensemble(0).params))
    return float(weights * len(sweep.data.train.y))


# Chapters 3 and 5: lambda = 5 for 50,000 images, w -> (1 - lr lambda/n) w.
_nielsen = partial(
    trained,
    loss=losses.cross_entropy,
    optimizer=sgd(0.1, decay=5 / 50_000),
    batch_size=10,
    bias_scale=1.0,
)
_course = partial(
    trained, optimizer=optax.sgd(0.03), num_epochs=10, batch_size=50, images=55_000
)
_quadratic = partial(trained, loss=losses.quadratic, batch_size=10)
_lecun = partial(_quadratic, network=net(300), num_epochs=10, images=60_000)

# All but "no-training", by name.
EXPERIMENTS: dict[str, Experiment] = {
    **{
        f"norms-{depth}": partial(bias_gradients, depth=depth, initializer=lecun)
        for depth in (2, 3, 4)
    },
    "norms-wrong": partial(bias_gradients, depth=2, initializer=normal),
    "jacobian-normalized": partial(
        singular_values, initializer=glorot_uniform, scale=1.0
    ),
    "jacobian-standard": partial(singular_values, initializer=lecun, scale=STANDARD),
    "start-large": partial(_nielsen, network=net(30, initializer=normal), num_epochs=1),
    **{
        f"depth-{n}": partial(
            _nielsen, network=net(*(30,) * n, initializer=lecun), num_epochs=30
        )
        for n in (1, 2, 3, 4)
    },
    "first-net": partial(
        _quadratic,
        network=net(30, initializer=normal),
        optimizer=optax.sgd(3.0),
        num_epochs=30,
        bias_scale=1.0,
        best_of=3,
    ),
    "course-0": partial(_course, network=net()),
    "course-1-sigmoid": partial(_course, network=net(100)),
    "course-1-tanh": partial(_course, network=net(100, activation=tanh)),
    "course-1-relu": partial(_course, network=net(100, activation=relu)),
    "course-3-sigmoid": partial(_course, network=net(*(100,) * 3)),
    "course-3-relu": partial(_course, network=net(*(100,) * 3, activation=relu)),
    "course-5-sigmoid": partial(_course, network=net(*(100,) * 5)),
    "course-adam": partial(
        _course, network=net(*(100,) * 10), optimizer=optax.adam(1e-3)
    ),
    "top-layer": mean_activations,
    "lecun-slow": partial(_lecun, optimizer=optax.sgd(0.1)),
    "lecun-fast": partial(_lecun, optimizer=optax.sgd(1.0)),
}

"""Theory beside what is measured, for the labelled result of a study.

Before training: ``predictions``, by ``meanfield``. On the plateau: ``drift``. Both
return new variables, for ``result.update``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import xarray as xr
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from snn_jax import devices, diagnosis, losses, meanfield, signals, training
from snn_jax.activations import sigmoid
from snn_jax.networks import MLP, Images, Labels

# Learning rate from which the noise of the batches moves the top layer within epochs;
# below it the start still matters.
MIN_DRIFT_RATE = 0.1
# Epochs over which it is measured, at most: later networks leave the plateau.
LAST_DRIFT_EPOCH = 4

Numbers = float | np.ndarray | xr.DataArray


@functools.cache
def _initial_gradients(mesh: Mesh, network: MLP) -> Callable[..., Array]:
    def one(shared: tuple[Any, ...], seed: Array) -> Array:
        key, scales, x, y = shared

        def at(scale: Array) -> Array:
            params = network.init(training.weights_key(key, seed), scale=scale)
            return signals.gradient_rms(network, params, x, y)

        return jax.vmap(at)(scales)

    return devices.on_every_device(devices.in_turn(one, mesh), mesh, ".n")


def initial_gradients(
    key: Key[Array, ""],
    network: MLP,
    x: Images,
    y: Labels,
    *,
    scales: Sequence[float],
    num_networks: int,
) -> Float[np.ndarray, "S N L"]:
    """``signals.gradient_rms`` of many untrained networks, to be held against theory.

    Args:
        key: of a study; seed r is the same network there.
        network: an MLP.
        x: images, one a row; a few hundred.
        y: labels in [0, K).
        scales: each multiplies every initial weight of the same N networks.
        num_networks: N.
    """
    mesh = devices.mesh_for(num_networks, width=1)
    seeds = np.arange(math.ceil(num_networks / mesh.size) * mesh.size)
    shared = key, np.asarray(scales, np.float32), x, y
    found = _initial_gradients(mesh, network)(shared, seeds)
    return np.asarray(found)[:num_networks].swapaxes(0, 1)


def predictions(
    result: xr.Dataset,
    key: Key[Array, ""],
    network: MLP,
    x: Images,
    y: Labels,
    *,
    num_networks: int = 4096,
) -> xr.Dataset:
    """What theory predicts of the networks before their first step, and what is so.

    Gradients are measured on many more networks than are trained: their rms is carried
    by few. Spreads are the trained networks' own, since float32 is blind to them.

    Args:
        result: of a study, for its scales and the ``activation_spread`` of its seeds.
        key: of the networks whose gradients are measured; not the study's.
        network: that was trained; weights by ``initializers.normal``, biases from 0.
        x: training images, one a row; a hundred.
        y: their labels.
        num_networks: whose gradients are measured.

    Returns:
        For every scale, and every layer: ``initial_gradient_rms``, over networks;
        ``initial_gradient_typical``, their geometric mean; ``gradient_rms_meanfield``;
        without biases ``gradient_rms_exact``. Every hidden layer: ``initial_spread``
        and ``spread_meanfield``, of activations over images. And ``chi_1`` and
        ``depth_scale`` of the last hidden layer.

    Raises:
        ValueError: a network that ``meanfield`` does not cover.
    """
    x = np.asarray(x).reshape(len(x), -1)
    scales = result.scale.values.tolist()
    with ThreadPoolExecutor() as pool:  # NumPy leaves the other cores idle
        rows = list(pool.map(lambda scale: _of_theory(network, scale, x), scales))
    found = xr.concat(map(xr.Dataset, rows), result.scale)
    found = found.assign_coords(layer=result.layer)
    measured = initial_gradients(
        key, network, x, y, scales=scales, num_networks=num_networks
    ).astype(float)
    with np.errstate(divide="ignore"):  # networks without any make 0 typical
        typical = np.exp(np.log(measured).mean(axis=1))
    dims = ("scale", "layer")
    found["initial_gradient_rms"] = (dims, np.sqrt((measured**2).mean(axis=1)))
    found["initial_gradient_typical"] = (dims, typical)
    # Spreads before the first step, whatever the learning rate.
    spread = result.activation_spread.isel(epoch=0, drop=True)
    spread = spread.isel(learning_rate=0, drop=True, missing_dims="ignore")
    found["initial_spread"] = (spread**2).mean("seed") ** 0.5
    for name, variable in found.data_vars.items():
        variable.attrs["long_name"] = str(name).replace("_", " ")
    return found


def _of_theory(network: MLP, scale: float, x: np.ndarray) -> dict[str, Any]:
    """What needs no networks, by name: dimension and values."""
    squared_norms = (x**2).sum(axis=1)
    # Of two different images: E|x - x'|^2 = 2 E|x - E x|^2.
    distance = 2 * float(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())
    norm = float(squared_norms.mean())
    differences = meanfield.image_differences(network, scale, norm, distance)
    fan_in = np.array(network.sizes[1:-1])
    # The difference of two images is twice the variance over images.
    spread = np.sqrt(differences[1:] / (2 * fan_in * scale**2))
    wide = meanfield.gradient_rms(network, scale, squared_norms)
    deep: dict[str, Any] = {
        "activation": network.activation,
        "sigma_w": network.sizes[-2] ** 0.5 * scale,
    }
    found: dict[str, Any] = {
        "gradient_rms_meanfield": ("layer", wide),
        "spread_meanfield": ("hidden_layer", spread),
        "chi_1": ((), meanfield.chi_1(**deep)),
        "depth_scale": ((), meanfield.depth_scale(**deep)),
    }
    if not network.biases:
        exact = meanfield.exact_gradient_rms(network, scale, squared_norms)
        found["gradient_rms_exact"] = ("layer", exact)
    return found


def drift(result: xr.Dataset, network: MLP, y: Labels, batch_size: int) -> xr.Dataset:
    """How fast the top hidden layer goes to 0 on the plateau, seen and predicted.

    Seen from epoch 1, when the last layer has found the frequencies of the labels, to
    epoch 4 at most, as long as nothing else happens.

    Args:
        result: of a study with scales and learning rates.
        network: that was trained.
        y: all training labels.
        batch_size: B.

    Returns:
        ``drift``, the decay of the mean activation an epoch, and ``drift_meanfield``,
        ``plateau_drift_rate`` times steps, NaN where networks left the plateau, begin
        saturated, or learn too slowly to be in balance. Without variables if the
        network has fewer than two hidden layers, biases or other units than sigmoids,
        or trained for one epoch.
    """
    last = min(int(result.epoch[-1]), LAST_DRIFT_EPOCH)
    plain = network.plain and not network.biases and network.activation is sigmoid
    if not plain or network.num_layers < 3 or last < 2:
        return xr.Dataset()
    used = result[["activation_mean", "mean_slope", "label_information"]]
    window = used.sel(epoch=[1, last]).median("seed")
    middle = window.mean("epoch")
    height = window.activation_mean.isel(hidden_layer=-1, drop=True)
    below = middle.activation_mean.isel(hidden_layer=-2, drop=True)
    begin, end = (height.isel(epoch=i, drop=True) for i in (0, 1))
    seen = np.log(begin / end) / (last - 1)
    predicted = (len(y) // batch_size) * plateau_drift_rate(
        learning_rate=result.learning_rate,
        batch_size=batch_size,
        frequencies=losses.class_frequencies(y),
        input_square=network.sizes[-3] * below**2,
        slope=middle.mean_slope.isel(hidden_layer=-1, drop=True),
        top_square=network.sizes[-2] * height.mean("epoch") ** 2,
    )
    information = window.label_information.isel(epoch=-1, drop=True)
    saturation = result.saturation.isel(epoch=0, drop=True)
    stuck = abs(information) < diagnosis.LEFT_PLATEAU * result.label_entropy
    small = saturation.mean(["seed", "hidden_layer"]) < 0.1
    shown = stuck & small & (result.learning_rate >= MIN_DRIFT_RATE)
    predicted = predicted.where(shown).transpose(*seen.dims)
    return xr.Dataset({"drift": seen, "drift_meanfield": predicted})


def plateau_drift_rate(
    *,
    learning_rate: Numbers,
    batch_size: int,
    frequencies: np.ndarray,
    input_square: Numbers,
    slope: Numbers,
    top_square: Numbers = 0.0,
) -> Any:
    """How fast label noise pushes the top hidden layer to 0 on the plateau.

    Derived for this package; no source known. The effect is Glorot & Bengio's 2010
    (Fig. 2): the top hidden layer of a deep sigmoid network goes to 0 first.

    On the plateau all images look alike: a, the top hidden layer, is one column, and
    the logits z = W_L a are such that p is near f, the frequencies of the labels. Let e
    be the error of the logits. A step of SGD sees g = p - (mean label of the batch) = H
    e + noise, where H = diag(f) - f f^T is the slope of the softmax and the noise of a
    batch of B labels has covariance H / B. With r = learning rate x |a|^2 the logits
    move by -r g, an Ornstein-Uhlenbeck process; in balance r (H C + C H) = r^2 H / B
    for the covariance C of e, so C = r / (2 B), and in discrete steps r / (2 B - r B
    lambda) for an eigenvalue lambda of H, which is near 1 / K.

    The error stays in the weights: W_L = (...) + e a^T / |a|^2. So the error that goes
    down, W_L^T g, has a mean although g has none: a E(e . g) / |a|^2 = a tr(H C) /
    |a|^2 = a x learning rate x tr H / (2 B). Through the slope f' it moves the weights
    below, whose inputs are a', and through f' again the activations:

        change of a a step = -(learning rate^2 / B) (tr H / 2) |a'|^2 f'^2 a

    Args:
        learning_rate: of SGD.
        batch_size: B.
        frequencies: f, of the training labels, (K,).
        input_square: |a'|^2, of the layer below the top hidden layer.
        slope: f' of the top hidden layer's units.
        top_square: |a|^2, for the correction at finite learning rates.

    Returns:
        The fraction by which the top hidden layer shrinks a step.
    """
    f = np.asarray(frequencies, float)
    trace = 1 - float((f**2).sum())
    rate = learning_rate**2 / batch_size * trace / 2 * input_square * slope**2
    return rate / (1 - learning_rate * top_square / (2 * len(f)))

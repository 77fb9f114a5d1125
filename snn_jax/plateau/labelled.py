"""The theory of the plateau beside the labelled result of a study."""

import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from snn_jax import diagnosis, plateau, training
from snn_jax.networks import MLP


def leaving(
    result: xr.Dataset,
    key: Key[Array, ""],
    network: MLP,
    data: plateau.Statistics,
    batch_size: int,
) -> xr.Dataset:
    """When each network of a study leaves the plateau, seen and predicted.

    Args:
        result: of a study with scales, learning rates and seeds, trained by plain SGD.
        key: of the study.
        network: that was trained.
        data: the training set, as from ``plateau.statistics``.
        batch_size: B.

    Returns:
        ``leaves``, the epoch of the first look at which a network has left, inf if none
        is, NaN if it was stopped before; ``leaves_predicted``, from the initial weights
        alone, inf if not within ``diagnosis.LONGEST_HORIZON`` times the epochs of the
        study; ``leaves_earliest`` and ``leaves_latest``, the ends of
        ``plateau.interval``. NaN where theory does not say. Without variables if
        ``plateau`` does not cover the network, or the study has other axes.
    """
    axes = {"scale", "learning_rate", "seed"}
    if not plateau.covers(network) or set(result.test_loss.dims) != axes:
        return xr.Dataset()
    scales, rates = result.scale.values, result.learning_rate.values
    per_epoch = data.num_examples // batch_size
    count = len(scales), len(rates), result.sizes["seed"]
    drawn = [initial(key, network, result.seed.values, s) for s in scales.tolist()]
    # In the order of the dimensions below: every rate has the same initial weights.
    many = {
        name: np.concatenate([few[name] for few in drawn for _ in rates])
        for name in drawn[0]
    }
    leaves = plateau.leaving_steps(
        many,
        data,
        learning_rate=np.tile(np.repeat(rates, count[2]), count[0]),
        batch_size=batch_size,
        steps=float(result.epoch[-1]) * diagnosis.LONGEST_HORIZON * per_epoch,
    )
    dims = ("scale", "learning_rate", "seed")
    epochs = leaves.reshape(count) / per_epoch
    earliest, latest = plateau.interval(epochs)
    found = xr.Dataset(
        {
            "leaves": _first_look(result),
            "leaves_predicted": (dims, epochs),
            "leaves_earliest": (dims, earliest),
            "leaves_latest": (dims, latest),
        },
        {name: result[name] for name in dims},
    )
    for name, variable in found.data_vars.items():
        long_name = str(name).replace("_", ", ").replace("leaves", "leaves the plateau")
        variable.attrs |= {"long_name": long_name, "units": "epochs"}
    return found


def initial(
    key: Key[Array, ""], network: MLP, seeds: np.ndarray, scale: float
) -> dict[str, np.ndarray]:
    """Initial parameters of the networks of a study, with an axis of seeds."""
    # One after the other: that is compiled once, whatever their number.
    drawn = [training.drawn(key, seed, network=network, scale=scale) for seed in seeds]
    return {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}


def course(
    one: xr.Dataset,
    key: Key[Array, ""],
    network: MLP,
    data: plateau.Statistics,
    batch_size: int,
) -> xr.Dataset:
    """What ``plateau`` predicts of one network of a study, until it leaves.

    Args:
        one: of the result, a network: with scale, learning rate and seed.
        key: of the study.
        network: that was trained.
        data: the training set, as from ``plateau.statistics``.
        batch_size: B.

    Returns:
        ``weight_norm`` of layers 2 to L and ``activation_mean``, at times of theory's
        own, in epochs.
    """
    per_epoch = data.num_examples // batch_size
    predicted = plateau.course(
        initial(key, network, np.array([int(one.seed)]), float(one.scale)),
        data,
        learning_rate=float(one.learning_rate),
        batch_size=batch_size,
        steps=float(one.epoch[-1]) * per_epoch,
    )
    layers = one.layer.values
    # A step that was refused was looked at twice.
    times, first = np.unique(predicted.steps[:, 0], return_index=True)
    return xr.Dataset(
        {
            "weight_norm": (("epoch", "layer"), predicted.norms[first, 0]),
            "activation_mean": (
                ("epoch", "hidden_layer"),
                predicted.activations[first, 0],
            ),
        },
        {
            "epoch": times / per_epoch,
            "layer": layers[1:],
            "hidden_layer": layers[:-1],
        },
    )


def _first_look(result: xr.Dataset) -> xr.DataArray:
    """The first epoch at which a network has left the plateau; inf if none."""
    left = result.label_information > plateau.LEFT * result.label_entropy
    first = result.epoch.isel(epoch=left.argmax("epoch")).drop_vars("epoch")
    found: xr.DataArray = first.where(left.any("epoch"), np.inf).astype(float)
    if "stopped_epoch" in result:  # who was stopped before is not known to stay
        found = found.where(left.any("epoch") | result.stopped_epoch.isnull())
    return found

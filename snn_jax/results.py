"""Chunks of numbers, put together and labelled: an ``xarray.Dataset`` with units."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from snn_jax import datasets, losses, signals
from snn_jax.axes import SEED, Axes
from snn_jax.ensemble import Ensemble
from snn_jax.networks import MLP

FRACTION = "fraction"
# Long names and units of what is no signal.
LABELS: dict[str, tuple[str, str]] = {
    "scale": ("init scale, the standard deviation of every initial weight", ""),
    "learning_rate": ("learning rate", ""),
    "seed": ("seed of the initial weights", ""),
    "epoch": ("epoch, 0 being the initial network", "passes over the training set"),
    "layer": ("layer, from the input", ""),
    "leaf": ("array of parameters", ""),
    "hidden_layer": ("hidden layer, from the input", ""),
    "class": ("class", ""),
    "train_loss": ("mean loss of the epoch's batches", "nats"),
    "weight_change": ("weight change in the epoch, over the weights' norm", FRACTION),
    "valid_loss": ("validation loss", "nats"),
    "valid_accuracy": ("validation accuracy", FRACTION),
    "label_information": ("plateau loss minus validation loss", "nats"),
    "plateau_loss": ("validation loss of the best constant output", "nats"),
    "label_entropy": ("training loss of the best constant output", "nats"),
    "test_loss": ("test loss after the last epoch", "nats"),
    "test_accuracy": ("test accuracy after the last epoch", FRACTION),
    "stopped": ("why it was stopped before the end", ""),
    "stopped_epoch": ("epoch after which it was stopped before the end", "epochs"),
    "test_class_frequency": ("share of each class in the test set", FRACTION),
}
# Losses that are measured in nats; another loss has a unit of its own.
IN_NATS = (losses.nll, losses.cross_entropy)


def joined(chunks: Sequence[Mapping[str, np.ndarray]], count: int) -> dict[str, Any]:
    """The arrays of several chunks, one after the other.

    Raises:
        ValueError: they are not those of so many networks.
    """
    whole = {
        name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]
    }
    found = len(next(iter(whole.values())))
    if found != count:
        raise ValueError(f"networks: expected {count}, found {found}")
    return whole


def of_program(ensemble: Ensemble, axes: Axes, whole: dict[str, Any]) -> xr.Dataset:
    """The labelled result of the networks of one program.

    Args:
        ensemble: that trained them.
        axes: of the sweep.
        whole: arrays with a leading axis of networks, in the order of the grid.
    """
    recipe, data = ensemble.recipe, ensemble.data
    grid = (*axes.traced, SEED)
    inner = signals.coordinates(recipe.network, ensemble.params, data.train.x[:2])
    variables = {}
    for name, values in whole.items():
        dims = list(grid)
        if values.ndim > 1:
            dims.append("epoch")
        dims += _inner_dims(name, values.shape[2:], inner)
        variables[name] = xr.Variable(
            dims, values.reshape(*axes.shape, *values.shape[1:])
        )
    epochs = np.arange(recipe.num_looks + 1) / recipe.looks_per_epoch
    coordinates = {name: axes.labels()[name] for name in grid} | {
        "epoch": epochs if recipe.looks_per_epoch > 1 else epochs.astype(int)
    }
    used = {dim for variable in variables.values() for dim in variable.dims}
    coordinates |= {dim: values for dim, values in inner.items() if dim in used}
    result = xr.Dataset(variables, coords=coordinates)
    result = result.assign(best_constant(ensemble))
    result["label_information"] = result.plateau_loss - result.valid_loss
    if not datasets.are_labels(data.train.y):
        result = result.drop_vars(["valid_accuracy", "test_accuracy"])
    method, network = ensemble.method, recipe.network
    result.attrs = {
        "engine": method.engine,
        "gradient": method.gradient,
        "width": ensemble.width,
        "network": str(network) if isinstance(network, MLP) else _name(network),
        "loss": _name(recipe.loss),
    }
    if isinstance(network, MLP):
        result.attrs["activation"] = _name(network.activation)
        result.attrs["sizes"] = "-".join(map(str, network.sizes))
    return result


def _name(thing: Any) -> str:
    return str(getattr(thing, "__name__", type(thing).__name__))


def _inner_dims(
    name: str, shape: tuple[int, ...], inner: Mapping[str, list[Any]]
) -> list[str]:
    """Dimensions of an array behind network and epoch."""
    dim = signals.SIGNALS[name].dim if name in signals.SIGNALS else ""
    if name == "weight_change":
        dim = "layer"
    if dim == "layer" and "leaf" in inner:
        dim = "leaf"
    if dim and shape == (len(inner[dim]),):
        return [dim]
    return [f"{name}_{i}" for i in range(len(shape))]


def best_constant(ensemble: Ensemble) -> dict[str, xr.Variable]:
    """What the best constant output costs, and the frequencies of the classes."""
    loss, (train, valid, test) = ensemble.recipe.loss, ensemble.data
    constant = losses.best_constant(loss, train.y, ensemble.output_shape)

    def cost(y: np.ndarray) -> float:
        with jax.enable_x64(True):
            outputs = jnp.broadcast_to(constant, (len(y), *constant.shape))
            return float(loss(outputs, jnp.asarray(y)).mean())

    found = {
        "plateau_loss": xr.Variable((), cost(valid.y)),
        "label_entropy": xr.Variable((), cost(train.y)),
    }
    if datasets.are_labels(train.y):
        shares = losses.class_frequencies(test.y, ensemble.output_shape[0])
        found["test_class_frequency"] = xr.Variable("class", shares)
    return found


def combined(
    parts: Sequence[tuple[Mapping[str, Any], xr.Dataset]], axes: Axes
) -> xr.Dataset:
    """The results of all programs, along the static axes.

    Args:
        parts: static points with their results; layers that a network has not are NaN.
        axes: of the sweep.
    """
    result = parts[0][1]
    if axes.static:
        result = xr.concat(
            [part for _, part in parts],
            "program",
            join="outer",
            coords="minimal",
            compat="override",
            data_vars="all",
            combine_attrs="drop_conflicts",
        )
        labels = axes.labels()
        points = itertools.product(*(labels[name] for name in axes.static))
        columns = map(np.asarray, zip(*points, strict=True))
        result = result.assign_coords(
            {n: ("program", c) for n, c in zip(axes.static, columns, strict=True)}
        )
        if len(axes.static) == 1:
            result = result.swap_dims(program=axes.static[0])
        else:
            result = result.set_index(program=axes.static).unstack("program")
        result = result.reindex({name: labels[name] for name in axes.static})
        for single in ("plateau_loss", "label_entropy", "test_class_frequency"):
            if single in result:
                result[single] = _without(result[single], axes.static)
        for dim in {"layer", "leaf", "hidden_layer"} & set(result.dims):
            # From the input up, as in the networks: joining may have sorted names.
            found = [part[dim].values.tolist() for _, part in parts if dim in part]
            order = dict.fromkeys(
                itertools.chain(*sorted(found, key=len, reverse=True))
            )
            result = result.reindex({dim: list(order)})
        result = result.transpose(*axes.values, SEED, "epoch", ...)
    for name in result.variables:
        long_name, units = _label(str(name))
        result[name].attrs["long_name"] = long_name
        in_nats = result.attrs.get("loss") in [loss.__name__ for loss in IN_NATS]
        if units and (in_nats or "nats" not in units):
            result[name].attrs["units"] = units
    return result


def _without(values: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    """Without the dimensions along which nothing changes."""
    for dim in dims:
        first = values.isel({dim: 0}, drop=True)
        if bool((values == first).all()):
            values = first
    return values


def _label(name: str) -> tuple[str, str]:
    if name in signals.SIGNALS:
        return signals.SIGNALS[name].long_name, signals.SIGNALS[name].units
    return LABELS.get(name, (name.replace("_", " "), ""))


def to_table(result: xr.Dataset) -> Any:
    """A row for every network, a ``pandas.DataFrame``: for CSV or parquet.

    Curves and layers become columns: ``valid_loss_10`` is the validation loss after
    epoch 10, ``gradient_rms_0_1`` the first layer's gradient before the first step.
    Only epoch 0 and the last are kept.

    Args:
        result: as from ``sweep.sweep``.
    """
    network = result.test_loss.dims
    columns: dict[str, np.ndarray] = {}
    for name, variable in result.data_vars.items():
        if variable.dims[: len(network)] != network:
            continue
        kept = variable.isel(epoch=[0, -1]) if "epoch" in variable.dims else variable
        inner = variable.dims[len(network) :]
        for place in np.ndindex(kept.shape[len(network) :]):
            labels = [
                _text(kept[d].values[i]) for d, i in zip(inner, place, strict=True)
            ]
            values = kept[(..., *place)] if place else kept
            columns["_".join([str(name), *labels])] = values.values.ravel()
    grid = np.meshgrid(*(result[name].values for name in network), indexing="ij")
    index = {name: axis.ravel() for name, axis in zip(network, grid, strict=True)}
    flat = {name: ("network", values) for name, values in {**index, **columns}.items()}
    return xr.Dataset(flat).to_dataframe()


def _text(label: Any) -> str:
    return label if isinstance(label, str) else f"{label:g}"

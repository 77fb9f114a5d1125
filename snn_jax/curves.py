"""What is known of each network of a result, up to where it was stopped.

Curves are arrays over the looks at a network. A network that a rule stopped before the
end (``stopping``) has no numbers after its last look: they are NaN.
"""

import numpy as np
import xarray as xr

from snn_jax.forecast import READY_TO_LEAVE

# Where layers are not known: smallest over largest gradient of the arrays of parameters
# at which a network is ready to leave the plateau.
READY_GRADIENT_RATIO = 1e-3
# A network stands still if none of its arrays would change by more than this share of
# itself if it ran as long again at its present pace.
STANDS_STILL = 0.02


def each_network(result: xr.Dataset, values: xr.DataArray) -> np.ndarray:
    """For every network, networks first, in the order of ``test_loss``."""
    whole = values.broadcast_like(result.test_loss)
    return np.asarray(whole.transpose(*result.test_loss.dims, ...))


def last_look(result: xr.Dataset) -> xr.DataArray:
    """The number of every network's last look, the end of the run or its stop."""
    end = result.sizes["epoch"] - 1
    if "stopped_epoch" not in result:
        all_of_it: xr.DataArray = xr.full_like(result.test_loss, end, int)
        return all_of_it
    went_on = ~(result.epoch > result.stopped_epoch)
    last: xr.DataArray = went_on.sum("epoch") - 1
    return last


def at_last_look(result: xr.Dataset, values: xr.DataArray) -> xr.DataArray:
    """Values over epochs, as they were when each network was looked at last."""
    if "stopped_epoch" not in result:
        return values.isel(epoch=-1)
    return values.isel(epoch=last_look(result)).drop_vars("epoch")


def held(result: xr.Dataset) -> xr.Dataset:
    """A copy in which a stopped network stays where it was stopped, for pictures.

    >>> loss = xr.DataArray([[2.0, 1.0, np.nan]], dims=("seed", "epoch"))
    >>> stops = xr.DataArray([1.0], dims="seed")
    >>> result = xr.Dataset({"valid_loss": loss, "stopped_epoch": stops})
    >>> result = result.assign(epoch=[0, 1, 2], test_loss=stops)
    >>> held(result).valid_loss.values.tolist()
    [[2.0, 1.0, 1.0]]
    """
    if "stopped_epoch" not in result:
        return result
    there = ~(result.epoch > result.stopped_epoch)
    networks = set(result.test_loss.dims)
    found = {
        name: values.where(there, at_last_look(result, values)).assign_attrs(
            values.attrs
        )
        for name, values in result.data_vars.items()
        if "epoch" in values.dims and networks <= set(values.dims)
    }
    return result.assign(found)


def stopped_for(result: xr.Dataset, reason: str) -> xr.DataArray:
    """Whether each network was stopped for a reason."""
    if "stopped" not in result:
        none: xr.DataArray = xr.full_like(result.test_loss, False, bool)
        return none
    attrs, name = result.stopped.attrs, reason.replace(" ", "_")
    pairs = zip(attrs["flag_values"], attrs["flag_meanings"].split(), strict=True)
    values = [value for value, meaning in pairs if meaning == name]
    found: xr.DataArray = result.stopped.isin(values)
    return found


def spread(result: xr.Dataset) -> xr.DataArray:
    """Of each network's own top hidden layer, or what says as much."""
    spread = xr.full_like(result["label_information"], np.nan)
    if "activation_spread" in result:
        layers = result["activation_spread"]
        # Where networks differ in depth, the layers that one has not are NaN.
        there = layers.notnull().any("epoch")
        top = there & ~there.shift(hidden_layer=-1, fill_value=False)
        spread = layers.where(top).sum("hidden_layer", min_count=1)
    if "leaf" in result.dims and "gradient_rms" in result:
        leaves = result["gradient_rms"]
        # Arrays that the loss never depends on tell nothing.
        leaves = leaves.where((leaves > 0).any("epoch"))
        ratio = leaves.min("leaf") / leaves.max("leaf")
        pace = at_last_look(result, result["weight_change"]).max("leaf")
        still = pace * last_look(result) < STANDS_STILL
        growing = READY_TO_LEAVE / READY_GRADIENT_RATIO * ratio
        spread = spread.fillna(growing.where(~still, 0))
    return spread


def saturation(result: xr.Dataset) -> xr.DataArray:
    """Of the hidden layers above the first, or of the only one."""
    if "saturation" not in result:
        return xr.full_like(result["label_information"], np.nan)
    first, above = (
        result["saturation"].isel(hidden_layer=layers).mean("hidden_layer")
        for layers in ([0], slice(1, None))
    )
    return above.fillna(first)


def forecasts(result: xr.Dataset) -> np.ndarray | None:
    """Of every network, in looks; None if there are none, NaN if theory has none."""
    if "leaves_predicted" not in result:
        return None
    names = ("leaves_predicted", "leaves_earliest", "leaves_latest")
    looks_per_epoch = (result.sizes["epoch"] - 1) / float(result.epoch[-1])
    epochs = [each_network(result, result[name]) for name in names]
    found: np.ndarray = looks_per_epoch * np.stack(epochs, axis=-1)
    return found

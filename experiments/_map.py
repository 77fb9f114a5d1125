"""The map of the explorable page: a verdict for every init scale and learning rate.

All networks have one seed, so that neighbours differ in the two numbers alone, and each
is the network that the page trains, in double precision, when its place is chosen.
"""

import base64
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contourpy
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array

from snn_jax import diagnosis, networks, plateau, signals, store
from snn_jax.activations import slope, steepest
from snn_jax.datasets import Dataset
from snn_jax.networks import Params
from snn_jax.plateau import labelled
from snn_jax.recipe import Recipe
from snn_jax.sweep import Sweep

ENDS = {"scale": (0.01, 10.0), "learning_rate": (0.01, 10.0)}
# Small batches: so many images are more steps.
NETWORK, NUM_EPOCHS, BATCH_SIZE, SEED = networks.DEEP, 2, 8, 0
# Images on which layers are measured.
NUM_MEASURED = 128
# Leaving times change smoothly over the map: theory is asked at no more places along a
# side than these, and looks so many steps ahead.
NUM_FORECASTS, FORESEEN = 32, 1e8
# Predicted leaving times that are drawn as lines.
CONTOURS = (1e3, 1e4, 1e5, 1e6)


def axis(name: str, count: int) -> np.ndarray:
    """Numbers evenly along a logarithmic axis, each in the middle of its part."""
    low, high = ENDS[name]
    values = low * (high / low) ** ((np.arange(count) + 0.5) / count)
    # Four digits, as the page's controls will show them.
    return np.array([float(f"{value:.4g}") for value in values])


def sweep_of(data: Dataset, side: int) -> Sweep:
    """A network for every place of a map with so many along a side."""
    images = jnp.asarray(data.train.x[:NUM_MEASURED])

    def passes(params: Params) -> tuple[list[Array], list[Array]]:
        inputs, z = NETWORK.forward(params, images.astype(params["W1"].dtype))
        return inputs[1:], z[:-1]

    def spread(params: Params) -> Array:
        return jnp.stack([jnp.sqrt(a.var(axis=1).mean()) for a in passes(params)[0]])

    def saturation(params: Params) -> Array:
        f = NETWORK.activation
        least = signals.SATURATED_DERIVATIVE * steepest(f)
        return jnp.stack([(slope(f, z) < least).mean() for z in passes(params)[1]])

    recipe = Recipe(
        NETWORK,
        num_epochs=NUM_EPOCHS,
        batch_size=BATCH_SIZE,
        observe={"activation_spread": spread, "saturation": saturation},
    )
    axes = {name: axis(name, side).tolist() for name in ENDS}
    return Sweep(jax.random.key(0), data, recipe, axes, signals=False)


def complete(
    folder: Path, sweep: Sweep, *, restart: bool, report: Callable[[int], Any]
) -> xr.Dataset:
    """The labelled result; what the folder holds already is not computed again."""
    store.complete(folder, sweep, restart=restart, report=report)
    return sweep.assemble(store.read_chunks(folder, sweep))


def forecasts(data: Dataset, count: int) -> xr.DataArray:
    """Steps until networks leave the plateau, by theory, at so many places a side."""
    clouds = plateau.statistics(*data.train)
    places = {name: axis(name, count) for name in ENDS}
    drawn = labelled.initial(jax.random.key(0), NETWORK, np.array([SEED]), 1.0)
    scales, rates = np.meshgrid(*places.values(), indexing="ij")
    many = {
        name: (scales.reshape(-1, 1, 1) * leaf).astype(np.float32)
        for name, leaf in drawn.items()
    }
    steps = plateau.leaving_steps(
        many,
        clouds,
        learning_rate=rates.ravel(),
        batch_size=BATCH_SIZE,
        steps=FORESEEN,
    )
    return xr.DataArray(steps.reshape(scales.shape), places)


def between(places: xr.DataArray, result: xr.Dataset) -> xr.DataArray:
    """Forecasts at every network of the map, by their logarithms between places.

    Beyond the outermost places they are those of the outermost, whose distance is a
    small part of the map; near places where theory does not say, NaN.
    """
    logarithms = places.copy(data=np.log(places.values)).assign_coords(
        {name: np.log(places[name]) for name in ENDS}
    )
    wanted = {n: np.log(result[n].clip(*places[n].values[[0, -1]])) for n in ENDS}
    found = logarithms.interp(wanted)
    found = found.copy(data=np.exp(found.values))
    return found.assign_coords({name: result[name] for name in ENDS})


def drawn(result: xr.Dataset, data: Dataset) -> dict[str, Any]:
    """What the page wants to know of the map, in numbers that JSON can hold.

    Returns:
        ``verdicts`` and ``accuracy`` (in halves of a per cent), a byte a network, rows
        of learning rates from the smallest, in base64; the names of the verdicts; ends
        of the axes; lines of equal predicted leaving time, in shares of the axes.
    """
    places = forecasts(data, min(NUM_FORECASTS, result.sizes["scale"]))
    epochs = between(places, result) / (len(data.train.y) // BATCH_SIZE)
    earliest, latest = plateau.interval(epochs)
    result["leaves_predicted"] = epochs
    result["leaves_earliest"] = epochs.copy(data=earliest)
    result["leaves_latest"] = epochs.copy(data=latest)
    one = result.isel(seed=0).transpose("learning_rate", "scale", ...)
    verdicts = diagnosis.verdicts(result).isel(seed=0).transpose(*one.test_loss.dims)
    halves = (200 * one.test_accuracy.fillna(0)).round()
    return {
        "side": result.sizes["scale"],
        "verdicts": packed(verdicts.values.astype(np.uint8).tobytes()),
        "accuracy": packed(halves.values.astype(np.uint8).tobytes()),
        "names": list(diagnosis.NAMES),
        "ends": ENDS,
        "lines": _lines(places),
        "settings": {"batch": BATCH_SIZE, "seed": SEED, "depth": 5},
        "epochs": NUM_EPOCHS,
        "steps": NUM_EPOCHS * (len(data.train.y) // BATCH_SIZE),
    }


def packed(content: bytes) -> str:
    """Compressed, as text, for ``unpacked`` in page.js."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _lines(places: xr.DataArray) -> list[dict[str, Any]]:
    """Where the predicted leaving time has the values of ``CONTOURS``."""
    shares = (np.arange(len(places)) + 0.5) / len(places)
    height = np.ma.masked_invalid(np.log10(places.values.T))
    generator = contourpy.contour_generator(shares, shares, height)
    return [
        {"steps": steps, "points": np.asarray(line).round(4).tolist()}
        for steps in CONTOURS
        for line in generator.lines(np.log10(steps))
    ]

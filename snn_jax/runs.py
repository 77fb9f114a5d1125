"""A run's folder: the settings, the labelled result, the figures.

    runs/convergence/
        settings.json    what was asked for, with versions, device and commit
        results.nc       the labelled result, NetCDF: runs.load(folder)
        networks.csv     a row a network, for other tools
        report.html      the page, and figures/*.svg, its figures alone

Files are written under a temporary name and renamed when they are complete: a run that
is interrupted leaves the files of the last one, never half a file.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import xarray as xr

PACKAGES = ("snn_jax", "jax", "jaxlib", "optax", "numpy", "xarray")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name to write to; renames it to path when all went well.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['note.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def environment() -> dict[str, str]:
    """Versions and device, by which a result can be told from another machine's."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
    }


def save(folder: Path, result: xr.Dataset, settings: Mapping[str, Any]) -> None:
    """Writes settings.json and results.nc into a run's folder.

    Raises:
        OSError: the folder cannot be written.
    """
    content = {"settings": dict(settings), "environment": environment()}
    with replacing(folder / "settings.json") as file:
        file.write_text(json.dumps(content, indent=2, default=str) + "\n")
    with replacing(folder / "results.nc") as file:
        result.to_netcdf(file, engine="scipy")


def to_table(result: xr.Dataset) -> pd.DataFrame:
    """A row for every network, with numbers and names only: for CSV or parquet.

    Curves and layers become columns: ``valid_loss_10`` is the validation loss after
    epoch 10, ``gradient_rms_0_1`` the first layer's gradient before the first step.
    Only epoch 0 and the last are kept.

    Args:
        result: as from ``sweep.sweep``.
    """
    network = ("scale", "learning_rate", "seed")
    columns: dict[str, np.ndarray] = {}
    for name, variable in result.data_vars.items():
        if variable.dims[:3] != network:
            continue
        kept = variable.isel(epoch=[0, -1]) if "epoch" in variable.dims else variable
        inner = variable.dims[3:]
        for place in np.ndindex(kept.shape[3:]):
            labels = [
                f"{kept[dim].values[i]:g}" for dim, i in zip(inner, place, strict=True)
            ]
            values = kept[(..., *place)] if place else kept
            columns["_".join([str(name), *labels])] = values.values.ravel()
    grid = np.meshgrid(*(result[name].values for name in network), indexing="ij")
    index = {name: axis.ravel() for name, axis in zip(network, grid, strict=True)}
    return pd.DataFrame(index | columns)


def load(folder: str | Path) -> xr.Dataset:
    """The labelled result of a run, in memory.

    Raises:
        FileNotFoundError: there is no result in the folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> result = xr.Dataset({"loss": ("epoch", [2.3, 0.3])})
    >>> save(folder, result, {"seeds": 1})
    >>> float(load(folder).loss.min())
    0.3
    """
    return xr.load_dataset(Path(folder) / "results.nc", engine="scipy")

"""Did the verdicts come true? The whole of a run against what was said early in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from snn_jax import curves
from snn_jax.curves import each_network
from snn_jax.diagnosis import (
    BY_NAME,
    CONVERGED_CHANGE,
    LEARNED,
    LEFT_PLATEAU,
    NAMES,
    WORSE_THAN_PLATEAU,
    verdicts,
)

# Where a network can end.
OUTCOMES = ("on the plateau", "knows something", "has learned", "diverged")


def was_right(verdict: str, known: np.ndarray, num_epochs: int) -> bool:
    """Whether the claim of a verdict after num_epochs came true within its horizon.

    Args:
        verdict: a name.
        known: (more epochs,) the label information of the whole, longer run, as a share
            of the label entropy.
        num_epochs: T, those that the verdict knew of.

    Raises:
        ValueError: the run does not reach the horizon.
    """
    horizon = BY_NAME[verdict].horizon * num_epochs
    if horizon >= len(known):
        raise ValueError(
            f"known: expected more than {horizon} epochs, the horizon, found "
            f"{len(known) - 1}"
        )
    # What happened on the way: noise may take a network over a line and back.
    way = known[num_epochs : horizon + 1]
    then, later = float(way[0]), float(way[-1])
    past = known[: num_epochs + 1]
    best = float(max(past[np.isfinite(past)], default=-np.inf))
    return {
        "converged": abs(later - then) < CONVERGED_CHANGE,
        "learning": later > then,
        "slow": later < LEARNED,
        "overfitting": later < best + CONVERGED_CHANGE,
        "getting worse": later < best + CONVERGED_CHANGE,
        "vanishing": bool((way < LEFT_PLATEAU).all()),
        "saturated": later < LEARNED,
        "diverged": not later > LEFT_PLATEAU,
        "too early to tell": True,  # it claims nothing
    }[verdict]


def _counts(
    found: np.ndarray, ends: np.ndarray, name: str, labels: Sequence[Any]
) -> xr.DataArray:
    """Counts of networks, a row a verdict, a column an end."""
    counts = np.zeros((len(NAMES), len(labels)), int)
    np.add.at(counts, (found.ravel(), ends.ravel()), 1)
    return xr.DataArray(counts, {"verdict": list(NAMES), name: list(labels)})


def confusion(result: xr.Dataset, epoch: int | float) -> xr.DataArray:
    """Verdicts after some epochs against what became of the networks.

    Args:
        result: a sweep that reaches the horizon of every verdict, 4 x epoch.
        epoch: the last epoch that the verdicts may know of.

    Returns:
        (verdict, came_true) counts of networks, without those that were stopped before
        the horizon of their verdict.
    """
    known = each_network(result, result.label_information / result.label_entropy)
    num_looks = int((result.epoch <= epoch).sum()) - 1
    found = verdicts(result, epoch).values
    right = np.zeros_like(found)
    # Nobody knows what would have become of a network that was stopped before.
    last = each_network(result, curves.last_look(result))
    judged = np.array([BY_NAME[name].horizon for name in NAMES])[found]
    judged = last >= np.minimum(judged * num_looks, result.sizes["epoch"] - 1)
    for network in zip(*np.nonzero(judged), strict=True):
        right[network] = was_right(NAMES[found[network]], known[network], num_looks)
    return _counts(found[judged], right[judged], "came_true", [False, True])


def outcomes(result: xr.Dataset, epoch: int | float) -> xr.DataArray:
    """Verdicts after some epochs against where the networks are after all of them.

    Networks that were stopped before are where they were then.

    Args:
        result: as from ``sweep.sweep``.
        epoch: the last epoch that the verdicts may know of.

    Returns:
        (verdict, outcome) counts of networks.
    """
    last = curves.at_last_look(result, result.label_information) / result.label_entropy
    known = each_network(result, last)
    diverged = ~np.isfinite(known) | (known < -WORSE_THAN_PLATEAU)
    ends = np.digitize(known, [LEFT_PLATEAU, LEARNED])
    ends = np.where(diverged, OUTCOMES.index("diverged"), ends)
    return _counts(verdicts(result, epoch).values, ends, "outcome", OUTCOMES)

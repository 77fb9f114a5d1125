"""Pictures of how and when networks leave the plateau."""

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from snn_jax.figures import STYLE, WIDTH, color_legend, scale_colors


def leaving(result: xr.Dataset) -> Figure:
    """When networks leave the plateau, predicted against seen, a dot a network.

    Args:
        result: with the variables of ``plateau.labelled.leaving``.

    Returns:
        Bars run from the last look on the plateau to the first behind it. Triangles at
        the top have not left by the end of the run.

    Raises:
        ValueError: nothing is predicted.
    """
    colors = scale_colors(result.scale)
    last, look = float(result.epoch[-1]), float(result.epoch[1])
    shown = result.leaves_predicted.where(np.isfinite(result.leaves_predicted))
    if not shown.notnull().any():
        raise ValueError("leaves_predicted: expected times, found none that is finite")
    low = max(float(shown.min()), look / 2) / 1.3
    high = max(float(shown.max()), last) * 1.3
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.2))
        axes = figure.subplots()
        for scale, color in colors.items():
            x = shown.sel(scale=scale).values.ravel()
            seen = result.leaves.sel(scale=scale).values.ravel()
            left = np.isfinite(x) & np.isfinite(seen)
            middle, half = seen[left] - look / 2, np.full(left.sum(), look / 2)
            style: dict[str, Any] = {"color": color, "markersize": 4, "alpha": 0.8}
            axes.errorbar(x[left], middle, half, fmt="o", elinewidth=1, **style)
            waits = np.isfinite(x) & np.isinf(seen)
            axes.plot(x[waits], np.full(waits.sum(), 1.15 * last), "^", **style)
        axes.axhline(last, color="black", linestyle="--", linewidth=1)
        _diagonal(axes, low, high, "epochs")
        axes.set(xlim=(low, high), ylim=(low, 1.4 * last))
        color_legend(figure, "init scale", colors)
    return figure


def groups(networks: xr.Dataset) -> Figure:
    """Steps until networks leave, predicted against seen, a colour a depth.

    Triangles had not left when their run ended; at the right edge, later than looked.

    Args:
        networks: ``predicted`` and ``seen``, (group, seed), inf if later than
            ``steps``; and the ``depth`` of each group.
    """
    depths = np.unique(networks.depth)
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(depths)))
    times = np.concatenate([networks.seen.values, networks.predicted.values])
    times = times[np.isfinite(times)]
    first = 0.8 * min(times, default=1)
    last = 1.5 * max(*times, float(networks.steps.max()))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.4))
        axes = figure.subplots()
        for depth, color in zip(depths, shades, strict=True):
            some = networks.isel(group=networks.depth.values == depth)
            style: dict[str, Any] = {"color": color, "markersize": 4, "alpha": 0.8}
            left = np.isfinite(some.seen)
            x = some.predicted.where(np.isfinite(some.predicted), last).values.ravel()
            seen = some.seen.where(left).values.ravel()
            axes.plot(x, seen, "o", label=f"{depth}", **style)
            end = some.steps.broadcast_like(some.seen).where(~left)
            axes.plot(x, end.values.ravel(), "^", **style)
        _diagonal(axes, first, last, "steps")
        axes.set_xlim(first, last * 1.1)
        axes.set_ylim(first, float(networks.steps.max()) * 1.3)
        figure.legend(
            title="hidden layers",
            loc="outside upper center",
            ncols=max(len(depths), 1),
            frameon=False,
        )
    return figure


def mechanism(seen: xr.Dataset, predicted: xr.Dataset) -> Figure:
    """How one network gets off the plateau: theory as lines, the network as dots.

    Args:
        seen: of one network, with ``weight_norm`` and ``activation_mean``.
        predicted: the same names, as from ``labelled.course``.
    """
    panels = {
        "weight_norm": ("layer", "norm of the weights"),
        "activation_mean": ("hidden_layer", "mean activation"),
    }
    end = float(predicted.epoch[-1])
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, seen.sizes["layer"]))
    colors = dict(zip(seen.layer.values, shades, strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.6))
        rows = figure.subplots(2, 1, sharex=True)
        for axes, (name, (dim, label)) in zip(rows, panels.items(), strict=True):
            for layer in predicted[dim].values:
                line, dots = (
                    values[name].sel({dim: layer}) for values in (predicted, seen)
                )
                dots = dots.sel(epoch=slice(0, end))
                axes.plot(line.epoch, line, color=colors[layer])
                axes.plot(dots.epoch, dots, "o", color=colors[layer], markersize=4)
            axes.set_ylabel(label)
        rows[0].set_yscale("log")
        _plain_ticks(rows[0].yaxis)
        rows[-1].set_xlabel("epoch")
        color_legend(figure, "layer", colors)
    return figure


def _diagonal(axes: Axes, low: float, high: float, unit: str) -> None:
    """Where seen is predicted, a factor of 1.25 around it, and what the axes are."""
    line = np.array([low, high])
    axes.plot(line, line, color="black", linewidth=1)
    axes.fill_between(line, line / 1.25, line * 1.25, color="gray", alpha=0.15)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis)
    axes.set_xlabel(f"predicted ({unit})")
    axes.set_ylabel(f"seen ({unit})")


def _plain_ticks(axis: Axis) -> None:
    """Of a logarithmic axis: 1, 2, 5, 10 and so on, written as one says them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter("")

"""Pictures of a sweep's result. They compute nothing but medians and quantiles."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from snn_jax import runs

WIDTH = 6.4  # inches: readable on a phone, where the page is that narrow

STYLE: dict[str, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "grid.alpha": 0.3,
    "svg.hashsalt": "snn_jax",  # else the same figure has other ids every time
}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as SVG; the same figure gives the same bytes."""
    with mpl.rc_context(STYLE), runs.replacing(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})


def _colors(scales: xr.DataArray) -> dict[float, tuple[float, ...]]:
    """From dark for small to bright for large init scales."""
    shades = np.linspace(0.0, 0.85, len(scales))
    colormap = mpl.colormaps["plasma"]
    return {
        float(scale): colormap(shade)
        for scale, shade in zip(np.sort(scales), shades, strict=True)
    }


def _median_and_band(
    axes: Axes, curve: xr.DataArray, x: str, color: tuple[float, ...]
) -> None:
    """The median over seeds as a line, the middle 80 % as a band around it."""
    low, middle, high = curve.quantile([0.1, 0.5, 0.9], dim="seed")
    axes.plot(curve[x], middle, color=color, marker="o", markersize=3)
    axes.fill_between(curve[x], low, high, color=color, alpha=0.2, linewidth=0)


def _scale_legend(figure: Figure, colors: dict[float, tuple[float, ...]]) -> None:
    lines = [Line2D([], [], color=color, linewidth=3) for color in colors.values()]
    figure.legend(
        lines,
        [f"{scale:g}" for scale in colors],
        title="init scale",
        loc="outside upper center",
        ncols=min(len(colors), 8),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )


def loss_curves(result: xr.Dataset) -> Figure:
    """Validation loss against epochs, a panel a learning rate, a colour an init scale.

    Args:
        result: as from ``sweep.sweep``.

    Returns:
        Lines are medians over seeds, bands hold the middle 80 % of them. The dashed
        line is the class-prior plateau: what a constant prediction costs.
    """
    colors = _colors(result.scale)
    rates = result.learning_rate.values
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 2.1 * len(rates)))
        panels = figure.subplots(len(rates), 1, sharex=True, sharey=True, squeeze=False)
        for axes, rate in zip(panels[:, 0], rates, strict=True):
            for scale, color in colors.items():
                curve = result.valid_loss.sel(scale=scale, learning_rate=rate)
                _median_and_band(axes, curve, "epoch", color)
            axes.axhline(
                result.plateau_loss, color="black", linestyle="--", linewidth=1
            )
            axes.set_title(f"learning rate {rate:g}")
            axes.set_ylabel("validation loss (nats)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            # A network that starts far above the plateau would flatten all the others.
            axes.set_ylim(0, 1.5 * result.plateau_loss)
        panels[0, 0].annotate(
            "plateau: one constant prediction",
            (result.epoch[-1], result.plateau_loss),
            xytext=(0, 4),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize="small",
        )
        panels[-1, 0].set_xlabel("epoch")
        _scale_legend(figure, colors)
    return figure


def gradient_per_layer(result: xr.Dataset) -> Figure:
    """Gradient rms of every layer of the initial networks, a colour an init scale.

    Args:
        result: as from ``sweep.sweep``.

    Returns:
        Lines are medians over seeds, bands hold the middle 80 % of them; the learning
        rate plays no part before the first step.
    """
    colors = _colors(result.scale)
    initial = result.gradient_rms.isel(epoch=0, learning_rate=0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2))
        axes = figure.subplots()
        for scale, color in colors.items():
            _median_and_band(axes, initial.sel(scale=scale), "layer", color)
        axes.set_yscale("log")
        axes.set_xticks(result.layer.values)
        axes.set_xlabel("layer, from the input (left) to the output (right)")
        axes.set_ylabel("gradient rms (nats per unit of weight)")
        axes.set_title("Gradient of each layer before the first step")
        _scale_legend(figure, colors)
    return figure

"""Pictures of what ``_league`` gives: a league, and how deep a network may be."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from snn_jax.figures import STYLE, WIDTH

# By where networks start: colour, marker and what is written in the legend.
START_STYLE = {
    "small": ("#3b6fb6", "o", "small: 0.1"),
    "usual": ("#e08214", "s", "usual: LeCun"),
    "saturated": ("#d1495b", "^", "saturated: 3"),
    "own": ("black", "D", "own"),
}


def _starts(result: xr.Dataset) -> list[str]:
    return [start for start in START_STYLE if start in result.start.values]


def _start_legend(figure: Figure, starts: list[str]) -> None:
    figure.legend(
        [
            Line2D([], [], color=color, marker=marker, linewidth=0, markersize=5)
            for color, marker, _ in (START_STYLE[start] for start in starts)
        ],
        [START_STYLE[start][2] for start in starts],
        title="initial weights",
        loc="outside upper center",
        ncols=min(len(starts), 4),
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.0,
    )


def league(result: xr.Dataset) -> Figure:
    """Test accuracy of every remedy, a line each, a marker for each kind of start.

    Markers are medians over seeds at the best learning rate, lines run from the lowest
    to the highest seed. The dashed line is the share of the commonest digit.
    """
    names = list(dict.fromkeys(result.remedy.values.tolist()))
    kinds = [str(result.kind.values[result.remedy.values == name][0]) for name in names]
    # A gap between kinds.
    rows = np.arange(len(names)) + np.cumsum(
        [i > 0 and kind != kinds[i - 1] for i, kind in enumerate(kinds)]
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.25 * (rows[-1] + 1)))
        axes = figure.subplots()
        for i in range(result.sizes["cell"]):
            cell = result.isel(cell=i)
            color, marker, _ = START_STYLE[str(cell.start.values)]
            y = rows[names.index(str(cell.remedy.values))]
            accuracy = 100 * cell.best_test_accuracy
            axes.hlines(y, accuracy.min(), accuracy.max(), color=color, linewidth=1.5)
            axes.plot(accuracy.median(), y, marker, color=color, markersize=5)
        share = 100 * result.attrs["class_share"]
        axes.axvline(share, color="black", linestyle="--", linewidth=1)
        axes.set_yticks(rows, names)
        axes.set_ylim(rows[-1] + 0.7, -0.7)
        axes.set_xlim(0, 100)
        axes.set_xlabel("test accuracy (%)")
        _start_legend(figure, _starts(result))
    return figure


def first_steps(result: xr.Dataset) -> Figure:
    """Test accuracy against how far the first layer moves in the beginning.

    A marker a remedy and start: medians over seeds at the best learning rate.
    """
    best = result.isel(rate=result.best_rate)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.8))
        axes = figure.subplots()
        for start in _starts(result):
            color, marker, _ = START_STYLE[start]
            here = best.isel(cell=(best.start == start).values)
            axes.plot(
                here.first_change.median("seed"),
                100 * here.best_test_accuracy.median("seed"),
                marker,
                color=color,
                markersize=5,
                alpha=0.8,
            )
        share = 100 * result.attrs["class_share"]
        axes.axhline(share, color="black", linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(0, 100)
        axes.set_xlabel(
            f"change of the first layer in {result.attrs['first_images']:,} images\n"
            "(relative to its weights)"
        )
        axes.set_ylabel("test accuracy (%)")
        _start_legend(figure, _starts(result))
    return figure


def recipes(result: xr.Dataset) -> Figure:
    """Validation accuracy of combined remedies against epochs, the upper part."""
    best = result.isel(rate=result.best_rate)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6))
        axes = figure.subplots()
        colors = mpl.colormaps["Dark2"]
        for i, name in enumerate(best.remedy.values):
            curve = 100 * best.isel(cell=i, part=slice(1, None)).valid_accuracy
            low, middle, high = curve.quantile([0.1, 0.5, 0.9], dim="seed")
            marker = "o" if curve.sizes["part"] == 1 else None
            axes.plot(
                curve.epoch, middle,
                color=colors(i), linewidth=1.5, marker=marker, label=str(name),
            )  # fmt: skip
            axes.fill_between(
                curve.epoch, low, high, color=colors(i), alpha=0.15, linewidth=0
            )
        top = 100 * float(best.valid_accuracy.fillna(0).max())
        axes.set_ylim(top - 10, top + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy (%)")
        figure.legend(
            loc="outside upper center", ncols=1, frameon=False, fontsize="small"
        )
    return figure


def trainable_depth(pictures: Mapping[str, xr.Dataset]) -> Figure:
    """Depth x sigma_w, coloured by accuracy, a panel an activation, theory over it.

    The white line is the depth scale of mean field theory, the dotted one, below
    criticality, six times it.
    """
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.8 + 2.6 * len(pictures)))
        panels = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
        for axes, (name, one) in zip(panels, pictures.items(), strict=True):
            places = np.arange(one.sizes["sigma_w"])
            rows = np.arange(one.sizes["depth"])
            image = axes.pcolormesh(
                places, rows, 100 * one.test_accuracy,
                cmap="viridis", vmin=10, vmax=95, shading="nearest",
            )  # fmt: skip
            _draw_depth_scales(axes, one)
            axes.set_xticks(places, [f"{s:g}" for s in one.sigma_w.values])
            axes.set_yticks(rows, [f"{d:g}" for d in one.depth.values])
            axes.set_ylim(-0.5, rows[-1] + 0.5)
            axes.set_title(str(name))
            axes.set_ylabel("hidden layers")
        panels[-1].set_xlabel("sigma_w = standard deviation of weights x sqrt(fan-in)")
        figure.colorbar(image, ax=list(panels), label="test accuracy (%)")
    return figure


def _draw_depth_scales(axes: Axes, one: xr.Dataset) -> None:
    """Lines between the places of depths, beyond which they leave the picture."""
    places, rows = (np.arange(one.sizes[dim]) for dim in ("sigma_w", "depth"))
    depths = np.log(np.asarray(one.depth, float))
    slope = (rows[-1] - rows[0]) / max(depths[-1] - depths[0], 1e-9)
    # Six times it says something below criticality alone.
    peak = int(one.depth_scale.values.argmax())
    for factor, style, last in ((1, "-", places[-1]), (6, ":", peak)):
        wanted = np.log(np.clip(factor * one.depth_scale.values, 1e-3, 1e3))
        line = np.interp(wanted, depths, rows)
        line += slope * np.minimum(wanted - depths[0], 0)
        line += slope * np.maximum(wanted - depths[-1], 0)
        shown = places <= last
        axes.plot(
            places[shown], line[shown], style, color="white", marker="o", markersize=3
        )

"""Pictures of a sweep's result. They compute nothing but medians and quantiles.

Unless they say otherwise, they take a result as from ``sweep.sweep`` with the axes
scale and learning_rate, and with signals.
"""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

WIDTH = 5.8  # inches: narrow enough to be read on a phone

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


def to_svg(figure: Figure) -> str:
    """A figure as SVG text; the same figure gives the same text."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()


def scale_colors(scales: xr.DataArray) -> dict[float, tuple[float, ...]]:
    """Of init scales, from dark for small to bright for large ones."""
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


def _log_scale(axes: Axes, values: xr.DataArray) -> None:
    """A logarithmic axis, unless there is nothing that it could show."""
    if bool((values > 0).any()):
        axes.set_yscale("log")


def color_legend(figure: Figure, title: str, colors: Mapping[Any, Any]) -> None:
    """What the colours of a figure stand for, above it."""
    lines = [Line2D([], [], color=color, linewidth=3) for color in colors.values()]
    figure.legend(
        lines,
        [f"{name:g}" for name in colors],
        title=title,
        loc="outside upper center",
        ncols=min(len(colors), 8),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )


def loss_curves(result: xr.Dataset) -> Figure:
    """Validation loss against epochs, a panel a learning rate, a colour an init scale.

    Lines are medians over seeds, bands hold the middle 80 % of them. The dashed line is
    the plateau: what the best constant prediction costs.
    """
    colors, plateau = scale_colors(result.scale), float(result.plateau_loss)
    rates = result.learning_rate.values
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 2.1 * len(rates)))
        panels = figure.subplots(len(rates), 1, sharex=True, sharey=True, squeeze=False)
        for axes, rate in zip(panels[:, 0], rates, strict=True):
            for scale, color in colors.items():
                curve = result.valid_loss.sel(scale=scale, learning_rate=rate)
                _median_and_band(axes, curve, "epoch", color)
            axes.axhline(plateau, color="black", linestyle="--", linewidth=1)
            axes.set_title(f"learning rate {rate:g}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            # A network that starts far above the plateau would flatten all the others.
            axes.set_ylim(0, 1.5 * plateau)
            # The same curves, read as what has been learned.
            learned = axes.secondary_yaxis(
                "right",
                functions=(lambda loss: plateau - loss, lambda nats: plateau - nats),
            )
            learned.set_ylabel("information")
            axes.set_ylabel("loss (nats)")
        panels[0, 0].annotate(
            "plateau: one constant prediction",
            (result.epoch[-1], plateau),
            xytext=(0, 4),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize="small",
        )
        panels[-1, 0].set_xlabel("epoch")
        color_legend(figure, "init scale", colors)
    return figure


def gradient_per_layer(result: xr.Dataset) -> Figure:
    """Gradient rms of every layer of the initial networks, a colour an init scale.

    Args:
        result: with the variables ``gradient_rms_exact`` and
            ``gradient_rms_meanfield`` (scale, layer) theory is drawn too.

    Returns:
        Dots are the rms over seeds, bars run from the smallest to the largest seed; the
        learning rate plays no part before the first step.
    """
    colors = scale_colors(result.scale)
    initial = result.gradient_rms.isel(epoch=0, learning_rate=0)
    theories = {"gradient_rms_exact": "-", "gradient_rms_meanfield": ":"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2))
        axes = figure.subplots()
        for scale, color in colors.items():
            measured = initial.sel(scale=scale)
            middle = np.sqrt((measured**2).mean("seed").values)
            ends = np.array([measured.min("seed"), measured.max("seed")])
            axes.errorbar(
                result.layer,
                middle,
                yerr=abs(ends - middle),
                color=color,
                fmt="o",
                markersize=4,
            )
            for name, style in theories.items():
                if name in result:
                    axes.plot(
                        result.layer, result[name].sel(scale=scale), style, color=color
                    )
        _log_scale(axes, initial)
        if result.sizes["layer"] <= 20:
            axes.set_xticks(result.layer.values)
        axes.set_xlabel("layer, from the input (left) to the output (right)")
        axes.set_ylabel("gradient rms (nats per unit of weight)")
        color_legend(figure, "init scale", colors)
    return figure


def accuracy_by_scale(result: xr.Dataset) -> Figure:
    """Test accuracy against init scale, a panel a learning rate, a dot a network."""
    rates = result.learning_rate.values
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.5 + 1.7 * len(rates)))
        panels = figure.subplots(len(rates), 1, sharex=True, sharey=True, squeeze=False)
        for axes, rate in zip(panels[:, 0], rates, strict=True):
            accuracy = 100 * result.test_accuracy.sel(learning_rate=rate)
            num_seeds = accuracy.sizes["seed"]
            # Side by side, so that equal accuracies do not hide each other.
            spread = 1.0 + 0.12 * np.linspace(-1, 1, num_seeds) * (num_seeds > 1)
            for scale, color in scale_colors(result.scale).items():
                cell = accuracy.sel(scale=scale)
                axes.plot(scale * spread, cell, "o", color=color, markersize=3)
                axes.hlines(
                    cell.median(), 0.8 * scale, 1.25 * scale, color=color, linewidth=1.5
                )
            axes.axhline(
                100 * float(result.test_class_frequency.max()),
                color="black",
                linestyle="--",
                linewidth=1,
            )
            axes.set_title(f"learning rate {rate:g}")
            axes.set_ylabel("test accuracy (%)")
            axes.set_ylim(0, 100)
        panels[-1, 0].set_xscale("log")
        # Given, for a panel in which all diverged has no limits of its own.
        scales = result.scale.values
        panels[-1, 0].set_xlim(0.6 * scales.min(), 1.6 * scales.max())
        panels[-1, 0].set_xlabel("init scale")
    return figure


VERDICT_COLORS = {
    "converged": "#1a7f37",
    "learning": "#8ccf7e",
    "slow": "#f2c744",
    "too early to tell": "#b8b8b8",
    "vanishing": "#3b6fb6",
    "saturated": "#d1495b",
    "diverged": "#5b2333",
    "overfitting": "#e08e45",
    "getting worse": "#8a6bbd",
}


def cell_id(i: int, j: int) -> str:
    """In the verdict map, of the i-th init scale and the j-th learning rate."""
    return f"cell-{i}-{j}"


def verdict_map(result: xr.Dataset) -> Figure:
    """Init scale x learning rate, coloured by the commonest verdict of the seeds.

    Every cell is a group of the SVG that has its ``cell_id``.
    """
    names = result.verdict.attrs["flag_meanings"].split()
    names = [name.replace("_", " ") for name in names]
    num_seeds = result.sizes["seed"]
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 1.4 + 0.45 * result.sizes["learning_rate"]))
        axes = figure.subplots()
        used: dict[str, str] = {}
        for i, scale in enumerate(result.scale.values):
            for j, rate in enumerate(result.learning_rate.values):
                cell = result.verdict.sel(scale=scale, learning_rate=rate).values
                counts = np.bincount(cell, minlength=len(names))
                name = names[int(counts.argmax())]
                used[name] = VERDICT_COLORS[name]
                color, gid = used[name], cell_id(i, j)
                corner = (i - 0.5, j - 0.5)
                axes.add_patch(
                    Rectangle(corner, 1, 1, color=color, linewidth=0, gid=gid)
                )
                dark = name in ("converged", "vanishing", "saturated", "diverged")
                axes.annotate(
                    f"{counts.max()}",
                    (i, j),
                    color="white" if dark else "black",
                    horizontalalignment="center",
                    verticalalignment="center",
                    fontsize="small",
                )
        axes.set_xlim(-0.5, result.sizes["scale"] - 0.5)
        axes.set_ylim(-0.5, result.sizes["learning_rate"] - 0.5)
        axes.set_xticks(
            range(result.sizes["scale"]), [f"{s:g}" for s in result.scale.values]
        )
        axes.set_yticks(
            range(result.sizes["learning_rate"]),
            [f"{r:g}" for r in result.learning_rate.values],
        )
        axes.set_xlabel(f"init scale (numbers: networks of {num_seeds})")
        axes.set_ylabel("learning rate")
        figure.legend(
            [
                Rectangle((0, 0), 1, 1, color=used[name])
                for name in names
                if name in used
            ],
            [name for name in names if name in used],
            loc="outside upper center",
            ncols=min(len(used), 4),
            frameon=False,
            handlelength=1.2,
            columnspacing=1.2,
        )
    return figure


def signals_per_layer(result: xr.Dataset, epoch: int) -> Figure:
    """Saturation, spread over images and what a probe reads, in each hidden layer.

    Raises:
        ValueError: the network has no hidden layers, or they are not known.
    """
    if "saturation" not in result:
        raise ValueError("signals: expected those of hidden layers, found none")
    colors = scale_colors(result.scale)
    panels = {
        "saturation": "saturated (fraction)",
        "activation_spread": "spread over images",
        "probe_accuracy": "linear probe (fraction right)",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 6.6))
        rows = figure.subplots(len(panels), 1, sharex=True)
        for axes, (name, label) in zip(rows, panels.items(), strict=True):
            values = result[name].sel(epoch=epoch).isel(learning_rate=0)
            for scale, color in colors.items():
                _median_and_band(axes, values.sel(scale=scale), "hidden_layer", color)
            axes.set_ylabel(label)
            if name == "activation_spread":
                _log_scale(axes, values)
            else:
                axes.set_ylim(0, None if name == "probe_accuracy" else 1.03)
        if result.sizes["hidden_layer"] <= 20:
            rows[-1].set_xticks(result.hidden_layer.values)
        rows[-1].set_xlabel("hidden layer, from the input (left) upwards")
        color_legend(figure, "init scale", colors)
    return figure


def representations(maps: xr.DataArray, labels: np.ndarray) -> Figure:
    """Every image as a dot in each hidden layer's plane of largest variance.

    Args:
        maps: (scale, hidden_layer, image, axis), two axes, each plane scaled to its
            own size.
        labels: (image,) classes; the colours serve ten.
    """
    # Of a deep network a few layers, from the first to the last.
    count = min(maps.sizes["hidden_layer"], 8)
    shown = np.linspace(0, maps.sizes["hidden_layer"] - 1, count).round().astype(int)
    maps = maps.isel(hidden_layer=shown)
    rows, columns = maps.sizes["scale"], count
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 0.6 + 1.25 * rows))
        panels = figure.subplots(rows, columns, squeeze=False)
        for i, scale in enumerate(maps.scale.values):
            for j, layer in enumerate(maps.hidden_layer.values):
                axes: Axes = panels[i, j]
                plane = maps.sel(scale=scale, hidden_layer=layer)
                axes.scatter(
                    plane[:, 0], plane[:, 1], c=labels, cmap="tab10", s=2, linewidths=0
                )
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[["top", "right"]].set_visible(True)
                if i == 0:
                    axes.set_title(f"layer {layer}", loc="center", fontsize="small")
                if j == 0:
                    axes.set_ylabel(f"scale {scale:g}", fontsize="small")
    return figure


def depth_map(result: xr.Dataset) -> Figure:
    """Depth x init scale, coloured by median test accuracy, theory's depth over it.

    Args:
        result: ``test_accuracy`` (depth, scale, seed) and ``depth_scale`` (scale), in
            layers.
    """
    accuracy = 100 * result.test_accuracy.median("seed").transpose("depth", "scale")
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 3.6))
        axes = figure.subplots()
        image = axes.pcolormesh(
            np.arange(result.sizes["scale"]), result.depth, accuracy,
            cmap="viridis", vmin=10, vmax=95, shading="nearest",
        )  # fmt: skip
        axes.plot(
            np.arange(result.sizes["scale"]),
            result.depth_scale,
            color="white",
            marker="o",
            markersize=3,
        )
        axes.set_ylim(result.depth[0] - 0.5, result.depth[-1] + 0.5)
        axes.set_yticks(result.depth.values)
        axes.set_xticks(
            range(result.sizes["scale"]), [f"{s:g}" for s in result.scale.values]
        )
        axes.set_xlabel("init scale")
        axes.set_ylabel("hidden layers")
        figure.colorbar(image, label="median test accuracy (%)")
    return figure

"""The speed of snn_jax beside the fastest other tool, in every cell of a grid.

It draws its shuffle itself, the others are handed theirs: 3 ms an epoch of MNIST.
"""

import itertools
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from _contenders import CONTENDERS
from _workers import ContenderError, Worker, order_of, speeds
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

# Those that are the fastest of the others somewhere.
PEERS = ("jax.vmap", "torch.func.vmap", "PyTorch bmm", "NumPy")
# A contender is timed on an epoch of MNIST, or on as many images as are so much useful
# arithmetic, or take so many seconds, and on two batches at least.
EPOCH, MOST_FLOP, SECONDS = 50_000, 4e10, 0.1
# Of a contender that reaches less than this share of the fastest rate so far, one round
# is enough.
FAR_BEHIND = 0.5
# For so many seconds threads of the contender before wait busily for more work.
PAUSE = 0.2
# After a rest a core is slow for so many seconds: of shorter runs the last ones count.
WARM = 0.3


class Cell(NamedTuple):
    """Where contenders are compared."""

    depth: int
    width: int
    networks: int
    batch_size: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units per layer."""
        return (784, *(self.width,) * self.depth, 10)

    @property
    def flop(self) -> int:
        """Useful operations of a network and an image, as ``_workers.FLOP``."""
        weights = [a * b for a, b in itertools.pairwise(self.sizes)]
        return 6 * sum(weights) - 2 * weights[0]


def cells(
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    networks: tuple[int, ...],
    batch_sizes: tuple[int, ...],
) -> Iterator[Cell]:
    """All of a grid."""
    return map(Cell._make, itertools.product(depths, widths, networks, batch_sizes))


def measure(workers: dict[str, Worker], cell: Cell, repeats: int) -> dict[str, Any]:
    """Rates of all contenders in a cell, taking turns, and how far losses differ."""
    trained, losses = {}, {}
    images = min(EPOCH, int(MOST_FLOP / (cell.networks * cell.flop)))
    steps = max(2, images // cell.batch_size)
    for name, worker in workers.items():
        count = 1 if CONTENDERS[name][2] else cell.networks
        of_cell = steps
        options = {"sizes": cell.sizes}
        try:
            if "jax" not in name:  # what is not compiled can be tried on a few first
                few = max(2, steps // 20)
                order = order_of(few * cell.batch_size, cell.batch_size)
                worker.ask("prepare", count, order, options)
                seconds = worker.ask("run")
                of_cell = int(max(few, min(steps, few * SECONDS / seconds)))
            order = order_of(of_cell * cell.batch_size, cell.batch_size)
            _, loss = worker.ask("prepare", count, order, options)
        except ContenderError:
            continue
        trained[name] = count * order.size
        losses[name] = float(loss[0]), order.size
    rates: dict[str, list[float]] = {name: [] for name in trained}
    for _ in range(repeats):
        fastest = max((max(seen, default=0) for seen in rates.values()), default=0)
        for name, size in trained.items():
            if not rates[name] or max(rates[name]) > FAR_BEHIND * fastest:
                rates[name].append(size / _seconds(workers[name]))
    # Of those that saw as many images: all start from the same weights.
    same = [
        abs(one - other)
        for (one, images), (other, as_many) in itertools.combinations(
            losses.values(), 2
        )
        if images == as_many
    ]
    return cell._asdict() | {
        "rates": rates,
        "difference of losses": max(same, default=0),
    }


def _seconds(worker: Worker) -> float:
    """Of a run, with nothing left of what others did."""
    time.sleep(PAUSE)
    seconds: list[float] = []
    while sum(seconds) < WARM:
        seconds.append(worker.ask("run"))
    return median(seconds[-3:])


def ratio(found: dict[str, Any]) -> float:
    """How many times as fast as the fastest other."""
    rates = speeds(found)
    ours = rates.pop("snn_jax", float("nan"))  # no room
    return float(ours / max(rates.values(), default=float("nan")))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def picture(found: list[dict[str, Any]]) -> Figure:
    """A panel for each depth and width, a number for each cell."""
    axes_of = {name: sorted({cell[name] for cell in found}) for name in Cell._fields}
    depths, widths = axes_of["depth"], axes_of["width"]
    networks, batches = axes_of["networks"], axes_of["batch_size"]
    figure = Figure(
        figsize=(
            1.2 + len(widths) * (0.55 * len(batches) + 0.2),
            1.2 + len(depths) * (0.32 * len(networks) + 0.5),
        ),
        layout="constrained",
    )
    panels = figure.subplots(
        len(depths), len(widths), sharex=True, sharey=True, squeeze=False
    )
    for i, j in np.ndindex(panels.shape):
        values = np.full((len(networks), len(batches)), np.nan)
        for cell in found:
            if (cell["depth"], cell["width"]) == (depths[i], widths[j]):
                place = networks.index(cell["networks"])
                values[place, batches.index(cell["batch_size"])] = ratio(cell)
        panel: Any = panels[i, j]
        panel.imshow(
            np.log2(values), cmap="RdBu", norm=TwoSlopeNorm(0, -1, 3), aspect="auto"
        )
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            if np.isfinite(value):
                color = "white" if value > 3.8 or value < 0.6 else "black"
                panel.text(
                    column, row, f"{value:.2g}" if value < 10 else f"{value:.0f}",
                    ha="center", va="center", fontsize=8, color=color,
                )  # fmt: skip
        panel.set_title(f"{_count(depths[i], 'layer')} of {widths[j]}", fontsize=9)
        panel.set_xticks(range(len(batches)), batches)
        panel.set_yticks(range(len(networks)), networks)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    figure.supxlabel("batch size", fontsize=9)
    figure.supylabel("networks", fontsize=9)
    return figure


def report(found: list[dict[str, Any]]) -> list[str]:
    """In words: how many cells, the slowest of them, and who leads there."""
    slowest = sorted((c for c in found if np.isfinite(ratio(c))), key=ratio)
    behind = [cell for cell in slowest if ratio(cell) < 1]
    if not slowest:
        return ["No cell in which there was room for all."]
    lines = [
        f"{len(slowest)} cells; times as fast as the fastest other: median "
        f"{median(map(ratio, slowest)):.2f}, lowest {ratio(slowest[0]):.2f}, highest "
        f"{ratio(slowest[-1]):.1f}; below 1 in {len(behind)}.",
    ]
    for cell in slowest[:10]:
        said = ", ".join(
            f"{name} {rate / 1e6:.3g}" for name, rate in speeds(cell).items()
        )
        lines.append(
            f"{ratio(cell):5.2f}  {_count(cell['networks'], 'network')}, batch size "
            f"{cell['batch_size']}, {_count(cell['depth'], 'layer')} of "
            f"{cell['width']}: {said}"
        )
    return lines

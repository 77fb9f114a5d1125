"""What is behind each cell of the verdict map: curves, gradients, and the evidence.

Every function takes the labelled result of ``sweep.sweep`` with the axes scale and
learning_rate, with signals and the variable ``verdict`` of ``diagnosis.verdicts``.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import xarray as xr
from _words import counted

from snn_jax import diagnosis, figures
from snn_jax.diagnosis import Verdict
from snn_jax.report import Chart, Detail, Lines

# Networks of which the page holds curves, in all cells together; a thousand of them, of
# 20 epochs, take up to 400 kB.
NUM_SHOWN = 2000


def details(result: xr.Dataset) -> dict[str, Detail]:
    """What to show of every cell, by its id in ``figures.verdict_map``."""
    result = result.transpose("scale", "learning_rate", "seed", ...)
    num_scales, num_rates, num_seeds = result.verdict.shape
    num_shown = min(num_seeds, max(1, NUM_SHOWN // (num_scales * num_rates)))
    shown = result.isel(seed=slice(num_shown))
    which = (
        ""
        if num_shown == num_seeds
        else f" of the first {counted(num_shown, 'network')}"
    )
    judged = diagnosis.judged(shown)
    found = {}
    for i, scale in enumerate(result.scale.values):
        for j, rate in enumerate(result.learning_rate.values):
            cell = shown.isel(scale=i, learning_rate=j)
            all_names = [diagnosis.NAMES[n] for n in result.verdict.values[i, j]]
            name, count = frequent(all_names)[0]
            found[figures.cell_id(i, j)] = Detail(
                f"init scale {scale:g}, learning rate {rate:g}: {name}, "
                f"{count} of {counted(num_seeds, 'network')}",
                [loss_chart(cell, f"each{which or ' network'}"), gradient_chart(cell)],
                evidence([judged[i, j, k] for k in range(num_shown)], which),
            )
    return found


def frequent(names: Sequence[str]) -> list[tuple[str, int]]:
    """The names of verdicts that are there, the commonest first, and how many.

    >>> frequent(["slow", "learning", "slow", "converged"])
    [('slow', 2), ('converged', 1), ('learning', 1)]
    """
    counts = Counter(sorted(names, key=diagnosis.NAMES.index))
    return counts.most_common()


def loss_chart(cell: xr.Dataset, name: str) -> Chart:
    """Validation loss, a line a network, and when theory lets it leave the plateau.

    It is as high as the plateau and the middle network want it, once trained: one that
    starts far above or diverges would flatten all the others.

    Args:
        cell: the networks of an init scale and a learning rate.
        name: of the lines.
    """
    loss = cell.valid_loss.transpose("seed", "epoch")
    plateau, end = float(cell.plateau_loss), float(cell.epoch[-1])
    leaves = []
    if "leaves_predicted" in cell:
        leaves = [n for n in cell.leaves_predicted.values.tolist() if np.isfinite(n)]
    level = [0, max([end, *leaves])]
    lines = [
        Lines("plateau", "dashed", level, [[plateau, plateau]]),
        Lines(name, "line", loss.epoch.values.tolist(), loss.values.tolist()),
    ]
    if leaves:
        leaving = f"{counted(len(leaves), 'network')} predicted to leave"
        lines.append(Lines(leaving, "mark", leaves, [[plateau] * len(leaves)]))
    trained = loss.where(np.isfinite(loss)).isel(epoch=slice(1, None))
    highest = float(trained.max("epoch").median("seed"))
    top = max(1.5 * plateau, np.nan_to_num(1.1 * highest))
    return Chart("Validation loss", "epoch", "nats", lines, limits=(0, top))


def gradient_chart(cell: xr.Dataset) -> Chart:
    """Gradient rms of every layer before and after training, a line a network."""
    gradient = cell.gradient_rms.transpose("epoch", "seed", "layer")
    layers, before, after = (
        values.tolist()
        for values in (gradient.layer.values, gradient[0].values, gradient[-1].values)
    )
    return Chart(
        "Gradient of each layer",
        "layer, from the input",
        "rms, nats per unit of weight",
        [
            Lines("before training", "hollow", layers, before),
            Lines(
                f"after {counted(int(cell.epoch[-1]), 'epoch')}", "full", layers, after
            ),
        ],
        log=True,
    )


def evidence(verdicts: Sequence[Verdict], which: str = "") -> list[list[str]]:
    """The verdicts in words, the commonest first, equal ones in one row.

    Args:
        verdicts: of the networks of a cell.
        which: networks they are, if not all.
    """
    rows = [["networks", f"verdict and evidence{which}"]]
    for name, _ in frequent([verdict.kind.name for verdict in verdicts]):
        words = Counter(str(v) for v in verdicts if v.kind.name == name)
        rows += [[str(count), said] for said, count in words.most_common()]
    return rows

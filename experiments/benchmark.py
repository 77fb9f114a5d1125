"""How fast is it? Against other tools, and against what the machine can do.

    python experiments/benchmark.py                  about four minutes on two cores
    python experiments/benchmark.py --preset full    about ten minutes

Everything is measured in one run: the contenders, each in a process of its own, take
turns, and a number is the median of the repeats. Rates are in millions of trained
examples times networks a second. A network and example take 34,360 useful operations,
so that a rate is also a share of what a large float32 matrix product reaches. That all
contenders do the same work shows in their losses, which are compared. One whose library
is missing is left out: pip install -e ".[peers]" brings them.

Writes benchmark.json and figures/speed.svg into runs/benchmark; with --grid, which
measures nothing else, grid.json and figures/grid.svg.

What makes the difference was measured one thing at a time, on two cores with AVX-512,
five hidden layers of 10 units, networks x examples a second and core in millions, at
batch size 32 / 128:

    1.6 / 2.5   vmap of x @ W
    2.2 / 4.1   weights (out, in), images in columns: W @ x.T
    2.7 / 4.5   the gradient by hand instead of autodiff
    2.6 / 2.9   the network as the last axis, hidden layers as sums of vector products
    4.9 / 5.8   and intermediate results stored instead of computed again

And of a single network, at batch size 8 / 32 / 128, layers of 10 and of 30 units:

    0.33 / 0.61 / 1.1     0.23 / 0.45 / 0.69   autodiff of x @ W
    0.47 / 1.1 / 1.6      0.33 / 0.59 / 0.98   the gradient by hand, images in columns
    0.62 / 1.6 / 1.8      0.24 / 0.57 / 0.85   hidden layers as sums of vector products
    0.74 / 1.5 / 1.7      0.49 / 0.71 / 1.2    and intermediate results stored

Further gains, each alone: 64 networks a core instead of 32, 1.8 times (128: 0.9); a
device for each of two cores 1.9 times; 512-bit vectors 1.1 to 1.2; blank pixels left
out 1.05; dW summed in groups of eight images 1.15; shuffles by one sort of integers
1.03, and 1.3 for a network alone; at batch size 1, blocks of 64 steps 2.6, at 8 1.36,
at 16 1.08.

What did not pay: blocks of steps from batch size 32 on (0.97, at 128 0.77), pixels as
bytes, scaled on the fly (1.00; 1.04 for a network alone), updating W_1 one step late so
that it could be fused (0.94), lax.optimization_barrier (the CPU compiler drops it
before it decides what to fuse), products written out under autodiff (0.5 at batch size
128), switching off the threads of the matrix library (1.00).

What bounds it: 31,360 of the 34,360 operations are two products with W_1, whose short
side is the batch. At batch size 128 they run at 94 % of the rate of a large product and
take 118 of 165 ns for a network and example; leaving out blank pixels saves 10 ns. The
hidden layers take 28 ns: their 3,000 operations are no matrix products and reload a
vector for every one, and there are 110 exponentials. Updating W_1 and fetching the
images take 4 ns each; shuffle, copies and the calls themselves the rest. At batch size
32 all of W_1, 1.8 MB a core and more than its cache, is read twice and written once for
a quarter of the images: 14 ns instead of 4.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line
from _workers import (
    FIRST_STEPS,
    FLOP,
    Worker,
    machine,
    not_installed,
    order_of,
    speeds,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Other contenders than snn_jax are timed on as many examples as take about this long.
SECONDS = 0.5
# The networks of the scaling study, unless their number is what varies.
SCALED = 128


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    preset: Literal["quick", "full"] = "quick"
    """Sets the networks and repeats that no other flag sets."""
    networks: tuple[int, ...] = (1, 256)
    """How many are trained at once."""
    batch_sizes: tuple[int, ...] = (1, 32, 128)
    """Images a step."""
    repeats: int = 3
    """Measurements of each kind, of which the median counts."""
    examples: int = 50_000
    """Training images of an epoch."""
    grid: bool = False
    """Only how many times as fast as the fastest other tool, in every cell of networks
    x batch sizes x depths x widths; some 20 seconds a cell, of 72 by default."""
    depths: tuple[int, ...] = (1, 5, 20)
    """Of the grid: hidden layers."""
    widths: tuple[int, ...] = (10, 20, 30, 100)
    """Of the grid: units of a hidden layer."""
    scaling: bool = True
    """Whether to measure how time grows with networks, examples, depth and width."""
    startup: bool = True
    """Whether to time how soon the study shows something."""
    out: Path = Path("runs/benchmark")
    """Folder for the result; what an earlier run left there is replaced."""

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_positive("--networks", self.networks, 1, 10**6)
        command_line.expect_positive("--batch-sizes", self.batch_sizes, 1, 1000)
        command_line.expect_positive("--depths", self.depths, 1, 1000)
        command_line.expect_positive("--widths", self.widths, 1, 10_000)
        command_line.expect_count("--repeats", self.repeats, 1000)
        command_line.expect(
            1000 <= self.examples <= 50_000,
            "--examples",
            "a number from 1000 to 50000",
            self.examples,
        )


QUICK = Settings()
FULL = Settings(preset="full", networks=(1, 16, 64, 256, 1024), repeats=5)


def main(settings: Settings) -> int:
    """Measures, prints the tables and the answer, writes both."""
    command_line.make_folder(settings.out)
    print("Let nothing else run meanwhile: times are measured.", flush=True)
    if settings.grid:
        return main_grid(settings)
    from _contenders import CONTENDERS
    from tqdm import tqdm

    result: dict[str, Any] = {
        "machine": machine(),
        "missing": not_installed(CONTENDERS),
    }
    cells = list(itertools.product(settings.batch_sizes, settings.networks))
    rounds = len(cells) * settings.repeats + 2 + settings.scaling
    with tqdm(total=rounds, desc="measuring", unit="round") as bar:
        if settings.startup:
            result["seconds until"] = first_output()
        bar.update(1)
        workers = {
            name: Worker(name) for name in CONTENDERS if name not in result["missing"]
        }
        result["import"] = {name: w.import_seconds for name, w in workers.items()}
        result["cells"] = [
            measure_cell(workers, n, batch_size, settings, bar)
            for batch_size, n in cells
        ]
        result["memory"] = {name: w.ask("memory") for name, w in workers.items()}
        for name in set(workers) - {"snn_jax"}:
            workers[name].stop()
        result["parts"] = measure_parts(workers["snn_jax"], settings)
        result["optimizers"] = measure_optimizers(workers["snn_jax"], settings)
        bar.update(1)
        if settings.scaling:
            result["scaling"] = scaling(workers["snn_jax"], settings)
            bar.update(1)
        workers["snn_jax"].stop()

    (settings.out / "benchmark.json").write_text(json.dumps(result, indent=1))
    from snn_jax import figures

    path = settings.out / "figures" / "speed.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(figures.to_svg(picture(result)), encoding="utf-8")
    print("\n" + "\n".join(report(result)))
    print(f"\nIn numbers and as a picture: {settings.out}")
    return 0


def main_grid(settings: Settings) -> int:
    """Measures every cell of the grid, writes what is found so far after each."""
    import _grid
    from tqdm import tqdm

    from snn_jax import figures

    cells = list(
        _grid.cells(
            settings.depths, settings.widths, settings.networks, settings.batch_sizes
        )
    )
    missing = not_installed(_grid.PEERS)
    names = [name for name in ("snn_jax", *_grid.PEERS) if name not in missing]
    workers = {name: Worker(name) for name in names}
    result: dict[str, Any] = {"machine": machine(), "missing": missing, "cells": []}
    for cell in tqdm(cells, desc="measuring", unit="cell"):
        result["cells"].append(_grid.measure(workers, cell, settings.repeats))
        (settings.out / "grid.json").write_text(json.dumps(result, indent=1))
    for worker in workers.values():
        worker.stop()
    path = settings.out / "figures" / "grid.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(figures.to_svg(_grid.picture(result["cells"])), encoding="utf-8")
    print("\n" + "\n".join(_grid.report(result["cells"])))
    if missing:
        print(f"Not installed: {', '.join(missing)}.")
    print(f"\nIn numbers and as a picture: {settings.out}")
    return 0


def measure_cell(
    workers: dict[str, Worker], n: int, batch_size: int, settings: Settings, bar: Any
) -> dict[str, Any]:
    """All contenders on n networks: rates, seconds to the first step, losses."""
    from _contenders import CONTENDERS

    few = order_of(FIRST_STEPS * batch_size, batch_size)
    rates: dict[str, list[float]] = {name: [] for name in workers}
    products: list[float] = []
    first_steps, losses, trained = {}, {}, {}
    for name, worker in workers.items():
        count = 1 if CONTENDERS[name][2] else n
        first_steps[name], loss = worker.ask("prepare", count, few, {})
        losses[name] = float(loss[0])
        most = settings.examples
        if name != "snn_jax":
            most = min(most, int(few.size * SECONDS / worker.ask("run")))
        examples = max(most // batch_size * batch_size, few.size)
        worker.ask("prepare", count, order_of(examples, batch_size), {})
        trained[name] = count * examples
    for _ in range(settings.repeats):
        # On all cores at once, and on a device for each: the faster counts.
        jax_workers = (workers["snn_jax"], workers["jax.vmap"])
        products.append(max(worker.ask("product") for worker in jax_workers))
        for name, worker in workers.items():
            rates[name].append(trained[name] / worker.ask("run"))
        bar.update(1)
    return {
        "networks": n,
        "batch_size": batch_size,
        "rates": rates,
        "products": products,
        "seconds to the first 20 steps": first_steps,
        "loss of the first 20 steps": losses,
    }


def measure_parts(worker: Worker, settings: Settings) -> dict[str, float]:
    """Seconds for an epoch, with evaluation, and with all signals."""
    n = min(256, max(settings.networks))
    order = order_of(settings.examples, 32)
    seconds: dict[str, float] = {"networks": n}
    for parts in ("train", "train, evaluate", "train, evaluate, signals"):
        worker.ask("prepare", n, order, {"parts": parts})
        seconds[parts] = median(worker.ask("run") for _ in range(settings.repeats))
    return seconds


def measure_optimizers(worker: Worker, settings: Settings) -> dict[str, float]:
    """Rate of each optimizer as a share of plain SGD's, batch size 32, in turns."""
    from _contenders import OPTIMIZERS

    n, order = min(256, max(settings.networks)), order_of(settings.examples // 5, 32)
    seconds: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    for _ in range(settings.repeats):
        for name, found in seconds.items():
            worker.ask("prepare", n, order, {"optimizer": name})
            found.append(worker.ask("run"))
    plain = median(seconds["SGD"])
    return {name: plain / median(found) for name, found in seconds.items()}


def first_output() -> dict[str, float]:
    """Seconds from the start of the study to what a person sees first."""
    script = Path(__file__).with_name("convergence.py")
    started = time.perf_counter()
    subprocess.run([sys.executable, script, "--help"], capture_output=True, check=True)
    seconds = {"--help": time.perf_counter() - started}
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, script, "--no-compile-cache", "--out", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as running,
    ):
        assert running.stderr is not None
        said = b""
        while more := os.read(running.stderr.fileno(), 1000):
            said += more
            done = re.findall(rb" (\d+)/\d+ \[", said)
            if done:
                seconds.setdefault("progress bar", time.perf_counter() - started)
            if done and int(done[-1]) > 0:
                seconds["first epoch"] = time.perf_counter() - started
                break
        running.kill()
    return seconds


def scaling(worker: Worker, settings: Settings) -> dict[str, Any]:
    """Seconds for an epoch at batch size 32 as one thing grows, and the memory."""

    def seconds(n: int, examples: int, depth: int = 5, width: int = 10) -> float:
        sizes = (784, *(width,) * depth, 10)
        order = order_of(examples, 32)
        worker.ask("prepare", n, order, {"sizes": sizes, "parts": "train, evaluate"})
        return float(median(worker.ask("run") for _ in range(settings.repeats)))

    few = settings.examples // 10
    found: dict[str, Any] = {
        "networks": {n: seconds(n, few) for n in (SCALED, 10 * SCALED)},
        "memory": {SCALED: worker.ask("memory")},
    }
    found["examples"] = {n: seconds(SCALED, n) for n in (few, 10 * few)}
    found["depth"] = {n: seconds(SCALED, few, depth=n) for n in (1, 5, 10, 20)}
    found["width"] = {n: seconds(SCALED, few, width=n) for n in (5, 10, 20, 30)}
    return found


def report(result: dict[str, Any]) -> list[str]:
    """The tables and the answer, line by line."""
    names = list(result["cells"][0]["rates"])
    where = result["machine"]
    lines = [
        f"{where['processor']}, {where['cores']} cores; Python {where['python']}, "
        f"jax {where['jax']}.",
        "Millions of (network x example) a second, medians; in brackets, how many "
        "times as fast",
        "snn_jax is; last, its useful arithmetic as a share of a large matrix "
        "product's rate.",
        "PyTorch, scikit-learn and NumPy train one network after the other.",
        "",
    ]
    table = [["batch", "networks", *names, "share"]]
    for cell in result["cells"]:
        rates = speeds(cell)
        ours = rates["snn_jax"]
        share = ours * FLOP / median(cell["products"])
        row = [str(cell["batch_size"]), str(cell["networks"]), f"{ours / 1e6:.2f}"]
        row += [f"{rates[x] / 1e6:.3g} ({ours / rates[x]:.1f})" for x in names[1:]]
        table.append([*row, f"{share:.0%}"])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += [
        "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        for row in table
    ]
    products = [rate for cell in result["cells"] for rate in cell["products"]]
    spread = max(
        max(rates) / min(rates)
        for cell in result["cells"]
        for rates in cell["rates"].values()
    )
    lines += [
        "",
        f"A large float32 matrix product: {median(products) / 1e9:.0f} GFLOP/s, from "
        f"{min(products) / 1e9:.0f} to {max(products) / 1e9:.0f}. Widest spread of "
        f"repeats: {spread:.2f} times.",
    ]
    if result["missing"]:
        lines.append(f"Not installed: {', '.join(result['missing'])}.")
    gap = max(
        abs(loss - cell["loss of the first 20 steps"]["snn_jax"])
        for cell in result["cells"]
        for loss in cell["loss of the first 20 steps"].values()
        if loss == loss  # scikit-learn starts from weights of its own
    )
    parts = result["parts"]
    n, train, evaluated, all_of_it = parts.values()
    lines += [
        f"Losses of the first 20 steps, from the same weights: within {gap:.0e} nats.",
        "",
        f"An epoch of {n} networks at batch size 32 takes {train:.2f} s; with "
        f"evaluation {evaluated:.2f} s, with",
        f"all signals too {all_of_it:.2f} s, of which signals are "
        f"{1 - evaluated / all_of_it:.1%}.",
        "Optimizers, as shares of the rate of plain SGD: "
        + ", ".join(f"{k} {v:.0%}" for k, v in result["optimizers"].items())
        + ".",
    ]
    until = result.get("seconds until", {})
    lines += [f"The study's {what}: {s:.2f} s." for what, s in until.items()]
    memory = [f"{name} {b / 2**20:.0f}" for name, b in result["memory"].items()]
    lines.append(f"Most memory, MB: {', '.join(memory)}.")
    if "scaling" in result:
        lines += ["", f"Seconds for an epoch at batch size 32, {SCALED} networks:"]
        for what in ("networks", "examples", "depth", "width"):
            found = result["scaling"][what].items()
            values = ", ".join(f"{key}: {value:.3f}" for key, value in found)
            lines.append(f"  {what:9}{values}")
    return lines


def picture(result: dict[str, Any]) -> "Figure":
    """Rates of all contenders as bars, a panel for each cell."""
    from matplotlib.figure import Figure

    cells = result["cells"]
    names = list(cells[0]["rates"])
    columns = len({cell["networks"] for cell in cells})
    rows = -(-len(cells) // columns)
    figure = Figure(
        figsize=(1.5 + 2.6 * columns, 0.6 + 1.9 * rows), layout="constrained"
    )
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for cell, axis in zip(cells, axes.flat, strict=True):
        rates = speeds(cell)
        values = [rates[name] / 1e6 for name in names]
        colors = ["C0" if name == "snn_jax" else "0.7" for name in names]
        axis.barh(range(len(names)), values, color=colors)
        for i, value in enumerate(values):
            label = axis.text(value * 1.1, i, f"{value:.2g}", va="center", fontsize=8)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        bound = median(cell["products"]) / FLOP / 1e6
        axis.axvline(bound, color="C3", linestyle="--", linewidth=1)
        axis.set(xscale="log", yticks=range(len(names)))
        axis.set_yticklabels(names)
        axis.set_xlim(right=30 * bound)
        plural = "network" if cell["networks"] == 1 else "networks"
        axis.set_title(
            f"{cell['networks']} {plural}, batch {cell['batch_size']}", fontsize=9
        )
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.supxlabel(
        "millions of (network x example) a second; dashed: a large matrix product",
        fontsize=9,
    )
    return figure


if __name__ == "__main__":
    presets = {"quick": QUICK, "full": FULL}
    # Compiling is among what is timed.
    command_line.run(main, Settings, __doc__, presets, compile_cache=False)

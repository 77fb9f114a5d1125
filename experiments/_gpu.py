"""What ``gpu.py`` measures: gradients, a rerun, rates beside PyTorch, the tests.

Each part takes the sizes and returns numbers by name, which JSON can hold. With
"passed" among them it says whether all is as it has to be.
"""

import functools
import hashlib
import itertools
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from _workers import (
    FIRST_STEPS,
    NO_ROOM,
    ContenderError,
    Worker,
    not_installed,
    order_of,
)

ROOT = Path(__file__).parents[1]
# Networks x examples that are trained at a time, at most, unless that is FIRST_STEPS.
WORK = 4096 * 50_000
# PyTorch has nothing to do but steps, and so many show how long one takes.
STEPS = 200
# Right gradients in float32 may differ so much, relative to their norms.
TOLERANCE = 1e-5
# Precisions of a product, as JAX and PyTorch call them.
FLOAT32, TF32 = "highest", "high"


class Sizes(NamedTuple):
    """How much is done, and whether for want of a GPU on the CPU."""

    networks: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    repeats: int
    examples: int
    contenders: tuple[str, ...]
    cpu: bool


class Contender(NamedTuple):
    """Who trains, as called in ``_contenders``, and with what."""

    called: str
    options: dict[str, str]
    precision: str = FLOAT32


OF_TORCH = {"device": "cuda"}
CONTENDERS = {
    "snn_jax": Contender("snn_jax", {}),
    "fast engine": Contender("snn_jax", {"engine": "fast"}),
    "torch.func.vmap": Contender("torch.func.vmap", OF_TORCH),
    "PyTorch bmm": Contender("PyTorch bmm", OF_TORCH),
    "snn_jax TF32": Contender("snn_jax", {}, TF32),
    "bmm TF32": Contender("PyTorch bmm", OF_TORCH, TF32),
}


@functools.cache
def images() -> Any:
    """All of MNIST, read once."""
    from snn_jax import mnist

    return mnist.load()


def gradients(sizes: Sizes) -> dict[str, Any]:
    """Of many networks at once, on the device; the largest difference of each leaf."""
    import jax

    from snn_jax import backprop, devices, fast, gradcheck, networks
    from snn_jax.gradients import by_autodiff

    count = min(256, *sizes.networks)
    train = images().train
    x, y = train.x[: sizes.batch_sizes[-1]], train.y[: sizes.batch_sizes[-1]]
    rows = []
    nets = {"SHALLOW": networks.SHALLOW, "DEEP": networks.DEEP}
    cases = list(itertools.product(nets.items(), (0.1, 1.0)))
    for (name, network), scale in cases[: 1 if sizes.cpu else None]:

        def init(key: Any, network: Any = network, scale: float = scale) -> Any:
            return network.init(key, scale=scale, bias_scale=scale)

        many = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), count))

        def of(way: Any, many: Any = many, x: Any = x) -> Any:
            return jax.jit(jax.vmap(way, in_axes=(0, None, None)))(many, x, y)[1]

        auto = by_autodiff(network)
        here = {
            "by hand": of(backprop.value_and_grad(network)),
            "engine": of(fast.value_and_grad(network)),
            "autodiff": of(auto),
        }
        if not sizes.cpu:  # which has no TF32
            with jax.default_matmul_precision(TF32):
                here["engine, TF32"] = of(fast.value_and_grad(network))
        cpu = jax.devices("cpu")[0]
        with jax.enable_x64(True), jax.default_device(cpu):
            exact = devices.as_float64(jax.device_put((many, x), cpu))
            here["float64"] = of(auto, *exact)
        here = jax.device_get(here)
        for leaf in many:
            pairs = [("by hand", "autodiff"), ("engine", "autodiff")]
            pairs += [(way, "float64") for way in here if way != "float64"]
            rows.append(
                {"network": name, "scale": scale, "leaf": leaf}
                | {
                    f"{one} - {other}": max(
                        map(
                            gradcheck.relative_error, here[one][leaf], here[other][leaf]
                        )
                    )
                    for one, other in pairs
                }
            )
    worst = max(v for row in rows for k, v in row.items() if is_float32(k))
    return {"networks": count, "rows": rows, "passed": worst <= TOLERANCE}


def is_float32(column: str) -> bool:
    """Whether a column is of gradients that have to agree."""
    return " - " in column and "TF32" not in column


def compile_again() -> None:
    """No program comes from a folder of compiled ones: who compiles may choose anew."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # type: ignore[no-untyped-call]


def swept(width: int | None, seeds: int, sizes: Sizes) -> dict[str, Any]:
    """A small sweep: the SHA-256 of all its numbers, its losses, how it was trained."""
    import jax

    from snn_jax import networks
    from snn_jax.datasets import Dataset, Split
    from snn_jax.recipe import Recipe
    from snn_jax.sweep import Sweep

    most = min(sizes.examples, 10_000)
    data = Dataset(*(Split(s.x[:most], s.y[:most]) for s in images()))
    axes = {"scale": [0.1, 1.0], "learning_rate": [0.1, 1.0]}
    network = networks.SHALLOW if sizes.cpu else networks.DEEP
    recipe, signals = Recipe(network, num_epochs=1), not sizes.cpu
    whole = Sweep(
        jax.random.key(0), data, recipe, axes, seeds=seeds, width=width, signals=signals
    )
    chunks = []
    for together in whole.together(range(whole.num_chunks)):
        chunks += whole.run_chunks(together)
    result = whole.assemble(chunks)
    digest = hashlib.sha256()
    for name in sorted(map(str, result.data_vars)):
        digest.update(name.encode() + result[name].values.tobytes())
    return {
        "digest": digest.hexdigest(),
        "loss": result.test_loss.values.ravel(),
        "width": whole.widths[0],
        "engine": result.attrs["engine"],
    }


def rerun(sizes: Sizes) -> dict[str, Any]:
    """The same sweep three times, one of them in another process; and half as wide."""
    import numpy as np

    size = (4 if sizes.cpu else 256, sizes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, compile_again) as pool:
        other = pool.submit(swept, None, *size)
        first, again = swept(None, *size), swept(None, *size)
        elsewhere = other.result()
    half = swept(max(1, first["width"] // 2), *size)
    gap = np.abs(half["loss"] - first["loss"])
    return {
        "networks": len(first["loss"]),
        "engine": first["engine"],
        "width": first["width"],
        "digests": [run["digest"] for run in (first, again, elsewhere)],
        "passed": first["digest"] == again["digest"] == elsewhere["digest"],
        "half": {
            "width": half["width"],
            "largest difference of test losses": float(gap.max()),
            "test losses that are equal": float((gap == 0).mean()),
        },
    }


def tests(sizes: Sizes) -> dict[str, Any]:
    """The test suite, on what JAX finds; on the CPU a little of it."""
    chosen = ["-n0", "snn_jax/datasets.py"] if sizes.cpu else []
    command = [sys.executable, "-m", "pytest", "-q", *chosen]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    lines = lines or done.stderr.strip().splitlines() or [""]
    return {
        "returncode": done.returncode,
        "summary": lines[-1],
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "passed": done.returncode == 0,
    }


def rates(sizes: Sizes) -> dict[str, Any]:
    """All contenders at all sizes."""
    from tqdm import tqdm

    without = not_installed({CONTENDERS[name].called for name in sizes.contenders})
    missing = [n for n in sizes.contenders if CONTENDERS[n].called in without]
    names = [name for name in sizes.contenders if name not in missing]
    if sizes.cpu:
        names = [name for name in names if CONTENDERS[name].precision == FLOAT32]
    for precision in (FLOAT32, TF32):  # its memory is taken before that of others
        product(sizes, precision)
    cells = []
    both = list(itertools.product(sizes.batch_sizes, sizes.networks))
    for batch_size, n in tqdm(both, desc="measuring", unit="size"):
        cell = turns(names, n, batch_size, sizes)
        found = cell["contenders"]
        for name in [name for name in names if found[name].get("failed") == NO_ROOM]:
            alone = turns([name], n, batch_size, sizes)
            found[name] = alone["contenders"][name] | {"alone": True}
        cells.append(cell)
    return {"missing": missing, "cells": cells}


def product(sizes: Sizes, precision: str) -> float:
    """Rate of a large product of matrices on all devices."""
    from _contenders import matrix_product

    return matrix_product(True, 256 if sizes.cpu else 8192, precision)()


def width_of(n: int, batch_size: int, **options: str) -> int:
    """Networks that a device trains side by side, as ``engines`` decides it."""
    from _contenders import SIZES

    from snn_jax.ensemble import Ensemble
    from snn_jax.networks import MLP
    from snn_jax.recipe import Recipe

    recipe = Recipe(MLP(SIZES, biases=False), batch_size=batch_size)
    traced = {"learning_rate": 0.1}
    many = Ensemble(recipe, images(), count=n, traced=traced, **options)  # type: ignore[arg-type]
    return many.width


def turns(names: list[str], n: int, batch_size: int, sizes: Sizes) -> dict[str, Any]:
    """Contenders on n networks, one after the other, again and again."""
    workers: dict[str, Worker] = {}
    found: dict[str, dict[str, Any]] = {name: {"rates": []} for name in names}

    def start(name: str) -> None:
        try:
            workers[name] = Worker(CONTENDERS[name].called)
        except ContenderError as error:
            found[name]["failed"] = str(error)

    def ask(name: str, *message: Any) -> Any:
        try:
            return workers[name].ask(*message)
        except ContenderError as error:
            found[name]["failed"] = str(error)
            workers.pop(name).stop()  # its memory is free for the others
            return None

    def prepare(name: str, examples: int) -> None:
        who = CONTENDERS[name]
        options = who.options
        if sizes.cpu and "device" in options:
            options = {"device": "cpu"}
        answer = ask(name, "prepare", n, order_of(examples, batch_size), options)
        if answer and examples == few:
            found[name]["loss of the first steps"] = float(answer[1][0])
        if answer:
            found[name]["seconds to the first epoch"] = answer[0]

    with ThreadPoolExecutor() as pool:
        list(pool.map(start, names))
    few = FIRST_STEPS * batch_size
    trained = {}
    for name in [name for name in names if name in workers]:
        who = CONTENDERS[name]
        most = min(sizes.examples, WORK // n)
        if who.options == OF_TORCH:
            most = min(most, STEPS * batch_size)
        examples = max(most // batch_size * batch_size, few)
        trained[name] = n * examples
        ask(name, "precision", who.precision)
        if n == min(sizes.networks) and examples != few:  # where it is cheap
            prepare(name, few)
        if name in workers:
            prepare(name, examples)
    products: dict[str, list[float]] = {FLOAT32: [], TF32: []}
    for _ in range(sizes.repeats):
        for precision, measured in products.items():
            measured.append(product(sizes, precision))
        for name in list(workers):
            if seconds := ask(name, "run"):
                found[name]["rates"].append(trained[name] / seconds)
    for name in list(workers):
        found[name]["memory"] = ask(name, "device memory")
    for worker in workers.values():
        worker.stop()
    fast = width_of(n, batch_size, engine="fast")
    widths = {"snn_jax": width_of(n, batch_size), "fast engine": fast}
    return {
        "networks": n,
        "batch_size": batch_size,
        "widths": widths,
        "products": products,
        "contenders": found,
    }

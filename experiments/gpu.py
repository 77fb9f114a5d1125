"""What a GPU does to it: the tests, the speed, the gradients and the last bits there.

    python experiments/gpu.py           on a machine with a GPU
    python experiments/gpu.py --cpu     the script itself, on small sizes

In this order, each a part that can be left out:

    gradients   by hand, by the engines' form of it and by autodiff, layer by layer, on
                the GPU, beside each other and beside float64 on the CPU
    rerun       a sweep again, in this process and in another, bit for bit; and how far
                half of the chunk width moves it
    rates       millions of networks x examples a second beside PyTorch on the same GPU,
                taking turns; the width that its memory allows; the memory in use; and
                the share of what a large product of matrices reaches
    tests       the test suite

Numbers are medians of the repeats. Scripts multiply in float32, a library in TF32,
which rounds the factors of a product to three digits: both are measured, each beside a
product in the same precision. PyTorch uses one GPU. A contender that has no room beside
the others is tried alone; if there is none then, that is its result.

Writes gpu.json, after every part, and figures/gpu.svg into runs/gpu. Exits with 1 if
tests fail, gradients disagree or a sweep does not repeat itself.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line
import _gpu
from _gpu import CONTENDERS, FLOAT32, TF32, Sizes
from _workers import FLOP, NO_ROOM, machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part = Literal["gradients", "rerun", "rates", "tests"]


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    parts: tuple[Part, ...] = ("gradients", "rerun", "rates", "tests")
    """What is done."""
    networks: tuple[int, ...] | None = None
    """How many are trained at once (by default 1024 4096 16384 65536)."""
    batch_sizes: tuple[int, ...] = (32, 128)
    """Images a step."""
    repeats: int | None = None
    """Measurements of each kind, of which the median counts (by default 5)."""
    examples: int | None = None
    """Training images of an epoch, fewer of very many networks (by default 50000)."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who is timed; those in TF32 on a GPU only."""
    cpu: bool = False
    """Tries the script without a GPU, on few networks, and on a few of the tests."""
    out: Path = Path("runs/gpu")
    """Folder for the result; what an earlier run left there is replaced."""

    def sizes(self) -> Sizes:
        """With a number for every flag that is not given."""
        usual = (4, 16) if self.cpu else (1024, 4096, 16384, 65536)
        return Sizes(
            networks=usual if self.networks is None else self.networks,
            batch_sizes=self.batch_sizes,
            repeats=(1 if self.cpu else 5) if self.repeats is None else self.repeats,
            examples=(1000 if self.cpu else 50_000)
            if self.examples is None
            else self.examples,
            contenders=self.contenders,
            cpu=self.cpu,
        )

    def validate(self) -> None:
        """Raises SettingError."""
        networks, batch_sizes, repeats, examples, contenders, _ = self.sizes()
        for name in contenders:
            wanted = f"some of {', '.join(CONTENDERS)}"
            command_line.expect(name in CONTENDERS, "--contenders", wanted, name)
        command_line.expect(len(self.parts) > 0, "--parts", "at least one", "none")
        command_line.expect_positive("--networks", networks, 1, 10**6)
        command_line.expect_positive("--batch-sizes", batch_sizes, 1, 1000)
        command_line.expect_count("--repeats", repeats, 1000)
        wanted = "a number from 1000 to 50000"
        command_line.expect(1000 <= examples <= 50_000, "--examples", wanted, examples)


def main(settings: Settings) -> int:
    """Does the parts, prints what they found, writes it."""
    # Several processes share the GPU; each takes what it needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if settings.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for PyTorch, of so few networks
    import jax

    found = jax.devices()[0].platform
    other = f"{found}; --cpu tries the script itself on small sizes"
    command_line.expect(settings.cpu or found == "gpu", "JAX", "a GPU", other)
    if settings.cpu:  # JAX has started already if the user has named a platform
        command_line.expect(found == "cpu", "JAX_PLATFORMS", "unset or cpu", found)
    platforms = os.environ.get("JAX_PLATFORMS") or "cpu"
    command_line.expect("cpu" in platforms, "JAX_PLATFORMS", "cpu too", platforms)
    command_line.make_folder(settings.out)
    result: dict[str, Any] = {"machine": machine() | device()}
    print(described(result["machine"]), flush=True)
    for part, (do, words) in PARTS.items():
        if part in settings.parts:
            result[part] = do(settings.sizes())
            (settings.out / "gpu.json").write_text(json.dumps(result, indent=1))
            print("\n" + "\n".join(words(result[part])), flush=True)
        if part == "rates" and part in result:
            from snn_jax import figures

            path = settings.out / "figures" / "gpu.svg"
            path.parent.mkdir(exist_ok=True)
            path.write_text(figures.to_svg(picture(result[part])), encoding="utf-8")
    print(f"\nIn numbers and as a picture: {settings.out}")
    return 0 if all(result[part].get("passed", True) for part in settings.parts) else 1


def device() -> dict[str, Any]:
    """What JAX trains on, and how much of its memory JAX may take."""
    import jax

    first = jax.devices()[0]
    memory = (first.memory_stats() or {}).get("bytes_limit")
    return {"device": first.device_kind, "devices": len(jax.devices()), "room": memory}


def described(where: dict[str, Any]) -> str:
    """The machine in a line."""
    room = f", {where['room'] / 1e9:.1f} GB for JAX" if where["room"] else ""
    return (
        f"{where['devices']} x {where['device']}{room}; {where['processor']}, "
        f"{where['cores']} cores; Python {where['python']}, jax {where['jax']}."
    )


def of_gradients(found: dict[str, Any]) -> list[str]:
    """The table, with what it says."""
    rows = found["rows"]
    table = [list(rows[0])]
    for row in rows:
        table.append([f"{v:.0e}" if " - " in k else str(v) for k, v in row.items()])
    said = "agree" if found["passed"] else "DISAGREE"
    return [
        f"Gradients of {found['networks']} networks: largest relative differences;",
        "float64 is autodiff on the CPU.",
        command_line.as_text(table, first_column_left=True),
        f"In float32 all {said} to {_gpu.TOLERANCE:g}.",
    ]


def of_rerun(found: dict[str, Any]) -> list[str]:
    """What was the same, and what was not."""
    first, again, elsewhere = found["digests"]
    width, gap, equal = found["half"].values()
    return [
        f"A sweep of {found['networks']} networks (engine {found['engine']}, width "
        f"{found['width']}), all results and signals:",
        f"  again in this process: {'bit-identical' if again == first else 'DIFFERS'}",
        f"  in another process: {'bit-identical' if elsewhere == first else 'DIFFERS'}",
        f"  with width {width}: test losses within {gap:.0e} nats, {equal:.0%} of them "
        "equal",
    ]


def of_rates(found: dict[str, Any]) -> list[str]:
    """The tables of rates and of memory, and what goes with them."""
    cells = found["cells"]
    names = list(cells[0]["contenders"])
    head = ["batch", "networks"]
    columns = [name.replace("snn_jax", "share") for name in shares(cells[0])]
    speeds = [[*head, "width", "fast", *names, *columns]]
    memory = [[*head, *names]]
    for cell in cells:
        who = cell["contenders"]
        start = [str(cell["batch_size"]), str(cell["networks"])]
        speeds.append(
            [*start, *map(str, cell["widths"].values())]
            + [shown(who[name], rate_of(who[name]), 1e6) for name in names]
            + [f"{100 * s:.2g} %" if s else "-" for s in shares(cell).values()]
        )
        memory.append(
            start + [shown(who[name], who[name].get("memory"), 1e9) for name in names]
        )
    lines = [
        "Millions of (network x example) a second, medians. Width: networks that a "
        "device trains",
        "side by side, of snn_jax and of its fast engine. Share: of the rate of a "
        "large product",
        "in the same precision, float32 unless TF32 is named.",
        command_line.as_text(speeds),
        "",
        "Most memory in use on the GPU, GB:",
        command_line.as_text(memory),
        "",
    ]
    for precision, name in ((FLOAT32, "float32"), (TF32, "TF32")):
        rates = [rate for cell in cells for rate in cell["products"][precision]]
        lines.append(
            f"A large {name} product: {median(rates) / 1e12:.3g} TFLOP/s, from "
            f"{min(rates) / 1e12:.3g} to {max(rates) / 1e12:.3g}."
        )
    contenders = [(n, w) for cell in cells for n, w in cell["contenders"].items()]
    spread = max(
        (max(w["rates"]) / min(w["rates"]) for _, w in contenders if w["rates"]),
        default=1,
    )
    lines.append(f"Widest spread of repeats: {spread:.2f} times.")
    for what in ("float32", "TF32"):
        gaps = []
        for cell in cells:  # other batches have other losses
            losses = [
                w["loss of the first steps"]
                for name, w in cell["contenders"].items()
                if w.get("loss of the first steps")
                and (what == "TF32") == ("TF32" in name)
            ]
            gaps += [max(losses) - min(losses)] if losses else []
        if gaps:
            lines.append(
                f"Losses of the first steps in {what}, from the same weights: within "
                f"{max(gaps):.0e} nats."
            )
    if found["missing"]:
        lines.append(f"Not installed: {', '.join(found['missing'])}.")
    failed = {f"{n}: {w['failed']}" for n, w in contenders if "failed" in w}
    return lines + sorted(line for line in failed if NO_ROOM not in line)


def rate_of(found: dict[str, Any]) -> float | None:
    """Median rate of a contender, if it has one."""
    return None if "failed" in found else median(found["rates"])


def shown(found: dict[str, Any], value: float | None, unit: float) -> str:
    """A number of a contender, or why there is none."""
    if "failed" in found:
        return NO_ROOM if found["failed"] == NO_ROOM else "failed"
    return "-" if value is None else f"{value / unit:.3g}"


def shares(cell: dict[str, Any]) -> dict[str, float | None]:
    """Useful arithmetic of snn_jax as a share of a large product's rate."""
    found = {}
    for name in ("snn_jax", "snn_jax TF32"):
        if name not in cell["contenders"]:
            continue
        rate = rate_of(cell["contenders"][name])
        product = median(cell["products"][CONTENDERS[name].precision])
        found[name] = None if rate is None else rate * FLOP / product
    return found


def of_tests(found: dict[str, Any]) -> list[str]:
    """The summary of the suite, and which tests failed."""
    return [f"Tests (exit code {found['returncode']}): {found['summary']}"] + [
        line for line in found["failed"] if line != found["summary"]
    ]


def picture(found: dict[str, Any]) -> "Figure":
    """Rates against the number of networks, a panel for each batch size."""
    from matplotlib.figure import Figure

    cells = found["cells"]
    batch_sizes = list(dict.fromkeys(cell["batch_size"] for cell in cells))
    figure = Figure(figsize=(1.5 + 3.4 * len(batch_sizes), 3.8), layout="constrained")
    panels = figure.subplots(1, len(batch_sizes), sharey=True, squeeze=False)[0]
    for batch_size, axis in zip(batch_sizes, panels, strict=True):
        here = [cell for cell in cells if cell["batch_size"] == batch_size]
        for i, name in enumerate(here[0]["contenders"]):
            points = [
                (cell["networks"], rate / 1e6)
                for cell in here
                if (rate := rate_of(cell["contenders"][name]))
            ]
            style = ":" if "TF32" in name else "-"
            axis.plot(
                *zip(*points, strict=True) if points else ((), ()),
                style,
                marker="o",
                color=f"C{i}",
                label=name,
            )
        for precision, style in ((FLOAT32, "-"), (TF32, ":")):
            rates = [rate for cell in here for rate in cell["products"][precision]]
            axis.axhline(median(rates) / FLOP / 1e6, color="0.6", linestyle=style)
        axis.set(xscale="log", yscale="log", xlabel="networks")
        axis.set_title(f"batch {batch_size}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("millions of (network x example) a second")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(
        "Grey: a large product, in float32 and (dotted) in TF32", fontsize=9
    )
    return figure


# What each part does and says, in this order.
PARTS: dict[str, tuple[Any, Any]] = {
    "gradients": (_gpu.gradients, of_gradients),
    "rerun": (_gpu.rerun, of_rerun),
    "rates": (_gpu.rates, of_rates),
    "tests": (_gpu.tests, of_tests),
}

if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, compile_cache=False)

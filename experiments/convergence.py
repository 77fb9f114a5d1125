"""Is the deep sigmoid network converging? Why? What's wrong?

    python experiments/convergence.py                  about a minute on two cores
    python experiments/convergence.py --preset full    about five minutes

Trains the assignment's second network (five hidden layers of 10 sigmoid units, softmax
output, no biases, SGD) on the full training set for every init scale, learning rate and
seed at once. Prints what became of the networks and the answer in words; writes the
labelled result, the figures and report.html, a page with all of it, into
runs/convergence. Stopped by anything, it goes on where it was when the same command is
given again.
"""

import functools
import re
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from matplotlib.figure import Figure

    from snn_jax.datasets import Dataset
    from snn_jax.networks import MLP
    from snn_jax.plateau import Statistics
    from snn_jax.report import Section
    from snn_jax.sweep import Sweep

# The second sweep, over depth, at one learning rate: it asks how deep a network may be.
NUM_DEPTHS = 5
DEPTH_STUDY: dict[str, dict[str, Any]] = {
    "quick": {"learning_rate": 1.0, "seeds": 3, "epochs": 3},
    "full": {"learning_rate": 1.0, "seeds": 8, "epochs": 10},
}
# The initial networks and images that theory is compared with.
NUM_THEORY_NETWORKS = 4096
NUM_THEORY_IMAGES = 100
# Training images that are shown in the planes of the hidden layers.
NUM_SHOWN_IMAGES = 500
# Results that are larger are not put together in memory.
MAX_RESULT_BYTES = 10**9


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    preset: Literal["quick", "full"] = "quick"
    """Sets the scales, rates, seeds and epochs that no other flag sets."""
    scales: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Init scales: standard deviation of every initial weight, or the gain of another
    initializer."""
    learning_rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Of plain stochastic gradient descent."""
    seeds: int = 8
    """Networks for each scale and learning rate."""
    epochs: int = 8
    """Passes over the training set."""
    batch_size: int = 32
    """Images a step; 1 is true stochastic gradient descent."""
    depth: int = 5
    """Hidden layers."""
    width: int = 10
    """Units in each of them."""
    activation: Literal[
        "sigmoid", "tanh", "relu", "identity", "centred_sigmoid", "scaled_tanh"
    ] = "sigmoid"
    """Of the hidden units."""
    biases: bool = False
    """Whether layers have biases, starting at 0."""
    initializer: Literal[
        "normal",
        "lecun",
        "glorot",
        "glorot_uniform",
        "he",
        "orthogonal",
        "centred_orthogonal",
    ] = "normal"
    """What the init scale multiplies."""
    stop: bool = False
    """Whether to stop networks before the last epoch once their verdict is final."""
    depth_study: bool = True
    """Whether to train networks of smaller depths too."""
    data: command_line.DataPath = None
    out: Path = Path("runs/convergence")
    """Folder for the result. The same command goes on with what is missing there."""
    restart: bool = False
    """Begin anew in a folder that holds a run with other settings, which is lost."""
    shard: str = "1/1"
    """i/n computes only every n-th chunk of networks, from the i-th on, so that n
    processes with a common folder share the work; then the command without it shows
    the result."""
    engine: Literal["local", "ray"] = "local"
    """Where networks are trained: in this process, or as tasks on a Ray cluster."""
    ray_address: str | None = None
    """Of a running cluster, as for ray.init; without it Ray starts one here."""

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_positive("--scales", self.scales)
        command_line.expect_positive("--learning-rates", self.learning_rates)
        command_line.expect_count("--seeds", self.seeds)
        command_line.expect_count("--epochs", self.epochs)
        command_line.expect_count("--batch-size", self.batch_size)
        command_line.expect_count("--depth", self.depth, most=1000)
        command_line.expect_count("--width", self.width, most=10_000)
        part, parts = self.part
        wanted = "i/n with i from 1 to n"
        command_line.expect(1 <= part <= parts, "--shard", wanted, self.shard)
        command_line.expect(
            not (self.restart and parts > 1), "--restart", "no --shard", self.shard
        )

    @property
    def part(self) -> tuple[int, int]:
        """The shard and their number; (0, 0) if it is not written like that."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def num_networks(self) -> int:
        """Of the main sweep."""
        return len(self.scales) * len(self.learning_rates) * self.seeds


QUICK = Settings()
FULL = Settings(
    preset="full",
    scales=(0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0),
    learning_rates=(0.03, 0.1, 0.3, 1.0),
    seeds=16,
    epochs=20,
)


def main(settings: Settings) -> int:
    """Trains the networks, writes everything, prints the table and the answer."""
    command_line.make_folder(settings.out)
    at_most = replace(settings, out=QUICK.out, data=None) == QUICK
    print(
        f"{settings.num_networks} networks ({len(settings.scales)} init scales x "
        f"{len(settings.learning_rates)} learning rates x {settings.seeds} seeds), "
        f"{settings.epochs} epochs each."
        + ("\nAt most 2 minutes on two cores." if at_most else ""),
        flush=True,
    )
    from tqdm import tqdm

    from snn_jax import files, store

    dataset, said = command_line.load(settings.data)
    command_line.expect_batch_size(settings.batch_size, len(dataset.train.y))
    num_bytes = bytes_per_network(settings) * settings.num_networks
    # Chunks, and the result made of them.
    print(f"Takes {files.space(settings.out, 2 * num_bytes)} in {settings.out}.")
    wanted, chunks = sweeps(settings, dataset), settings.out / "chunks"
    total = sum(s.num_networks * s.recipe.num_looks for s in wanted.values())
    with (
        command_line.going_on(settings.out),
        tqdm(total=total, desc="training", unit="epoch") as bar,
    ):
        for name, sweep in wanted.items():
            complete(settings, chunks / name, sweep, bar.update)
    if settings.part != (1, 1):
        print(
            f"Shard {settings.shard} is done. When all are, the command without "
            "--shard shows the result."
        )
    elif num_bytes > MAX_RESULT_BYTES:
        table, folder = settings.out / "networks.csv", chunks / "networks"
        store.write_final_table(table, folder, wanted["networks"])
        print(
            f"Too many networks for one page: {table} has a row for each; all there is "
            f"to know is in {folder}, for store.read_chunks."
        )
    else:
        found = [
            sweep.assemble(store.read_chunks(chunks / name, sweep))
            for name, sweep in wanted.items()
        ]
        show(settings, dataset, said, *found)
    return 0


def network_of(settings: Settings, dataset: "Dataset") -> "MLP":
    """The network that the settings ask for, between pixels and classes."""
    from snn_jax import datasets
    from snn_jax.activations import ACTIVATIONS
    from snn_jax.initializers import INITIALIZERS
    from snn_jax.networks import MLP

    hidden = (settings.width,) * settings.depth
    return MLP(
        (dataset.train.x.shape[1], *hidden, datasets.num_classes(dataset)),
        ACTIVATIONS[settings.activation],
        settings.biases,
        INITIALIZERS[settings.initializer],
    )


def bytes_per_network(settings: Settings) -> int:
    """What the result of one network takes, in memory and on disk."""
    from snn_jax.signals import SIGNALS

    sizes = {"layer": settings.depth + 1, "hidden_layer": settings.depth}
    signals = 8 * sum(sizes[label.dim] for label in SIGNALS.values())  # float64
    # Losses, accuracy and weight change in float32; test loss and accuracy.
    return (settings.epochs + 1) * (4 * (3 + sizes["layer"]) + signals) + 8


def sweeps(settings: Settings, dataset: "Dataset") -> "dict[str, Sweep]":
    """By folder: the networks; and the depths from 1 on, for test accuracy alone."""
    import jax

    from snn_jax import stopping
    from snn_jax.recipe import Recipe
    from snn_jax.sweep import Sweep

    key, deep = jax.random.key(0), network_of(settings, dataset)
    recipe = Recipe(deep, num_epochs=settings.epochs, batch_size=settings.batch_size)
    axes = {"scale": settings.scales, "learning_rate": settings.learning_rates}
    stop = stopping.decided if settings.stop else None
    whole = Sweep(key, dataset, recipe, axes, seeds=settings.seeds, stop=stop)
    found = {"networks": whole}
    if settings.depth_study:
        study = DEPTH_STUDY[settings.preset]
        count = min(NUM_DEPTHS, settings.depth)
        step = (settings.depth - 1) / max(1, count - 1)
        depths = tuple(1 + round(i * step) for i in range(count))
        recipe = replace(
            recipe,
            network=lambda depth: replace(
                deep, sizes=(*deep.sizes[: depth + 1], deep.sizes[-1])
            ),
            num_epochs=study["epochs"],
        )
        axes = {"depth": depths} | axes | {"learning_rate": (study["learning_rate"],)}
        found["depth"] = Sweep(
            key, dataset, recipe, axes, seeds=study["seeds"], signals=False
        )
    return found


def complete(
    settings: Settings, folder: Path, sweep: "Sweep", progress: Callable[[int], Any]
) -> None:
    """Computes what a folder lacks of a sweep, or of a shard of it."""
    from snn_jax import cluster, store

    engine = None
    if settings.engine == "ray":
        engine = cluster.ray_engine(sweep, settings.ray_address)
    store.complete(
        folder,
        sweep,
        restart=settings.restart,
        shard=settings.part,
        engine=engine,
        report=progress,
    )


def show(
    settings: Settings,
    dataset: "Dataset",
    said: str,
    result: "xr.Dataset",
    by_depth: "xr.Dataset | None" = None,
) -> None:
    """Adds verdicts and theory to the result, writes all of it, prints the answer."""
    import _answer
    import _words

    from snn_jax import curves, diagnosis, files, plateau, report, results

    # Where networks diverge or scales are absurd, NaN is the answer, not a warning.
    warnings.simplefilter("ignore", RuntimeWarning)
    network = network_of(settings, dataset)
    clouds = plateau.statistics(*dataset.train) if plateau.covers(network) else None
    add_theory(settings, dataset, result, clouds)
    result["verdict"] = diagnosis.verdicts(result)
    method = {f"training {k}": result.attrs[k] for k in ("engine", "gradient", "width")}
    made_with = asdict(settings) | {"commit": command_line.commit()} | method
    made_with["what was read"] = said
    files.save(settings.out, result, made_with)
    with files.replacing(settings.out / "networks.csv") as file:
        results.to_table(result).to_csv(file, index=False)
    if by_depth is not None:
        by_depth = by_depth[["test_accuracy"]].isel(learning_rate=0, drop=True)
        if "depth_scale" in result:
            by_depth["depth_scale"] = result.depth_scale
        with files.replacing(settings.out / "depth.nc") as file:
            by_depth.to_netcdf(file, engine="scipy")

    # Who was stopped counts as it was then.
    held = curves.held(result)
    facts = _answer.facts(
        held, _answer.of_data(dataset), "class" if settings.data else "digit"
    )
    facts["settings"] = settings
    notes = _words.answers("convergence_notes.md.j2", **facts)
    answers = _words.answers("convergence.md.j2", **facts)
    path = report.write(
        settings.out,
        title="Is it converging? Why? What's wrong?",
        subtitle=notes["subtitle"][0],
        answer=answers,
        sections=page(settings, dataset, result, by_depth, clouds, facts),
        settings=made_with,
    )
    print()
    print(command_line.as_text(_answer.outcome_table(held)))
    print("\n" + textwrap.fill(notes["table"][0], 88))
    command_line.tell(answers, path)


def add_theory(
    settings: Settings,
    dataset: "Dataset",
    result: "xr.Dataset",
    clouds: "Statistics | None",
) -> None:
    """Puts what theory predicts beside what is measured, before and in training."""
    import jax

    from snn_jax import comparison
    from snn_jax.plateau import labelled

    network = network_of(settings, dataset)
    if clouds is not None:  # from the weights themselves, however they were drawn
        result.update(
            labelled.leaving(
                result, jax.random.key(0), network, clouds, settings.batch_size
            )
        )
    if settings.initializer != "normal":
        return  # the formulas are for independent normal weights
    few = [values[:NUM_THEORY_IMAGES] for values in dataset.train]
    predicted = comparison.predictions(
        result, jax.random.key(1), network, *few, num_networks=NUM_THEORY_NETWORKS
    )
    result.update(predicted)
    result.update(
        comparison.drift(result, network, dataset.train.y, settings.batch_size)
    )


def page(
    settings: Settings,
    dataset: "Dataset",
    result: "xr.Dataset",
    by_depth: "xr.Dataset | None",
    clouds: "Statistics | None",
    facts: dict[str, Any],
) -> "list[Section]":
    """The report's sections, in order."""
    import _cells
    import _words

    from snn_jax import curves, figures, meanfield, plateau, signals

    # Who was stopped counts as it was then.
    held = curves.held(result)
    maps, labels = representations(settings, dataset, result)
    drawn: dict[str, Figure | None] = {
        "loss_curves": figures.loss_curves(held),
        "accuracy_by_scale": figures.accuracy_by_scale(result),
        "verdict_map": figures.verdict_map(result),
        "gradient_per_layer": figures.gradient_per_layer(result),
        "signals_per_layer": figures.signals_per_layer(result, epoch=0),
        "representations": figures.representations(maps, labels),
    }
    if clouds is not None:
        network = network_of(settings, dataset)
        drawn |= plateau_figures(network, clouds, settings.batch_size, result)
    critical = None
    if by_depth is not None and "depth_scale" in by_depth:
        drawn["depth_map"] = figures.depth_map(by_depth)
        activation = network_of(settings, dataset).activation
        sigma_w = meanfield.critical_sigma_w(activation=activation)
        critical = sigma_w / settings.width**0.5
    return _words.sections(
        "convergence_page.md.j2",
        drawn,
        tables(held),
        {"verdict_map": _cells.details(result)},
        **facts,
        out=settings.out,
        exact="gradient_rms_exact" in result,
        theory_networks=NUM_THEORY_NETWORKS,
        theory_images=NUM_THEORY_IMAGES,
        signal_images=signals.NUM_EXAMPLES,
        shown_images=NUM_SHOWN_IMAGES,
        study=DEPTH_STUDY[settings.preset],
        critical=critical,
        left=plateau.LEFT * float(result.label_entropy),
    )


def plateau_figures(
    network: "MLP", clouds: "Statistics", batch_size: int, result: "xr.Dataset"
) -> "dict[str, Figure | None]":
    """Leaving times; and how one network leaves, the last whose end is seen."""
    import jax
    import numpy as np

    from snn_jax.plateau import figures, labelled

    found: dict[str, Figure | None] = {}
    if np.isfinite(result.leaves_predicted).any():
        found["leaving"] = figures.leaving(result)
    seen = result.leaves.where(np.isfinite(result.leaves_predicted))
    seen = seen.where(np.isfinite(seen))
    if seen.notnull().any():
        one = result.isel(seen.argmax(list(seen.dims)))
        predicted = labelled.course(one, jax.random.key(0), network, clouds, batch_size)
        found["mechanism"] = figures.mechanism(one, predicted)
    return found


def tables(result: "xr.Dataset") -> dict[str, list[list[str]]]:
    """The page's tables, by section."""
    import _answer

    from snn_jax import diagnosis, hindsight

    found = {
        "outcomes": _answer.outcome_table(result),
        "verdict_list": _answer.verdict_list(),
    }
    if "leaves" in result and len(rows := _answer.leaving_table(result)) > 1:
        found["leaving"] = rows
    if "initial_gradient_rms" in result:
        found["theory"] = _answer.theory_table(result)
        found["differences"] = _answer.difference_table(result)
    if "drift_meanfield" in result and result.drift_meanfield.notnull().any():
        found["drift"] = _answer.drift_table(result)
    early = int(result.epoch[-1]) // diagnosis.LONGEST_HORIZON
    if early >= 1:
        counts = hindsight.confusion(result, early)
        found["confusion"] = _answer.confusion_table(counts)
        found["outcomes_later"] = _answer.outcome_counts(hindsight.outcomes(result, 1))
    return found


def representations(
    settings: Settings, dataset: "Dataset", result: "xr.Dataset"
) -> "tuple[xr.DataArray, np.ndarray]":
    """Images in each hidden layer's main plane, for up to three init scales."""
    import jax
    import numpy as np
    import xarray as xr

    from snn_jax import signals, training

    x, y = (values[:NUM_SHOWN_IMAGES] for values in dataset.train)
    scales = result.scale.values
    chosen = scales[np.unique(np.linspace(0, len(scales) - 1, 3).astype(int))]
    network = network_of(settings, dataset)
    drawn = functools.partial(training.drawn, jax.random.key(0), 0, network=network)
    maps = [signals.main_planes(network, drawn(scale=float(s)), x) for s in chosen]
    dims = ("scale", "hidden_layer", "image", "axis")
    places = {"scale": chosen, "hidden_layer": result.hidden_layer}
    return xr.DataArray(np.array(maps), places, dims), y


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, {"quick": QUICK, "full": FULL})

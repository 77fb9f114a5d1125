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

import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import _command_line as command_line

if TYPE_CHECKING:
    import xarray as xr

    from snn_jax.mnist import Dataset
    from snn_jax.networks import Architecture
    from snn_jax.report import Section

# The second sweep, over depth, at one learning rate: it asks how deep a network may be.
NUM_DEPTHS = 5
DEPTH_STUDY = {
    "quick": {"learning_rate": 1.0, "seeds": 3, "epochs": 3},
    "full": {"learning_rate": 1.0, "seeds": 8, "epochs": 10},
}


# The initial networks and images that theory is compared with.
NUM_THEORY_NETWORKS = 4096
NUM_THEORY_IMAGES = 100
# Learning rate from which the noise of the batches moves the top layer within epochs.
MIN_DRIFT_RATE = 0.1
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

    from snn_jax import answer, diagnosis, mnist, report, runs

    dataset = mnist.load(settings.data)
    command_line.expect_batch_size(settings.batch_size, len(dataset.train.y))
    architecture = architecture_of(settings)
    depth_epochs = depth_study_epochs(settings)
    total = settings.num_networks * settings.epochs + depth_epochs
    print(said_of_space(settings), flush=True)
    with (
        command_line.going_on(settings.out),
        tqdm(total=total, desc="training", unit="epoch") as bar,
    ):
        result = train(settings, dataset, bar.update)
        by_depth = study_depth(settings, dataset, bar.update) if depth_epochs else None
    if settings.part != (1, 1):
        print(
            f"Shard {settings.shard} is done. When all are, the command without "
            "--shard shows the result."
        )
        return 0
    if result is None:
        print(
            f"Too many networks for one page: {settings.out / 'networks.csv'} has a "
            f"row for each; all there is to know is in {settings.out / 'chunks'}, for "
            "runs.read_chunks."
        )
        return 0
    result["verdict"] = diagnosis.verdicts(result)
    # Where networks diverge or scales are absurd, NaN is the answer, not a warning.
    warnings.simplefilter("ignore", RuntimeWarning)
    add_theory(result, dataset, architecture, settings)
    if by_depth is not None and "depth_scale" in result:
        by_depth["depth_scale"] = result.depth_scale

    made_with = asdict(settings) | {"commit": command_line.commit()}
    runs.save(settings.out, result, made_with)
    with runs.replacing(settings.out / "networks.csv") as file:
        runs.to_table(result).to_csv(file, index=False)
    if by_depth is not None:
        with runs.replacing(settings.out / "depth.nc") as file:
            by_depth.to_netcdf(file, engine="scipy")
    words = answer.answer(result)
    sections = page(result, by_depth, dataset, architecture, settings)
    path = report.write(
        settings.out,
        title="Is it converging? Why? What's wrong?",
        subtitle=subtitle(result, architecture, settings),
        answer=words,
        sections=sections,
        settings=made_with,
    )

    print()
    print(command_line.as_text(answer.outcome_table(result)))
    print(
        f"\nMedians over {result.sizes['seed']} seeds after {settings.epochs} epochs: "
        "loss and label information in nats, test\naccuracy, and first over last "
        "layer's rms gradient before the first step. Who knows nothing\nabout the "
        f"images pays {result.plateau_loss:.3f} nats, the class-prior plateau; label "
        "information is what a\nnetwork pays less."
    )
    command_line.tell(words, path)
    return 0


def architecture_of(settings: Settings) -> "Architecture":
    """The network that the settings ask for."""
    from snn_jax import mnist
    from snn_jax.networks import Architecture

    hidden = (settings.width,) * settings.depth
    return Architecture(
        (mnist.NUM_PIXELS, *hidden, mnist.NUM_CLASSES),
        settings.activation,
        settings.biases,
    )


def sweep_settings(settings: Settings) -> dict[str, Any]:
    """The arguments of ``Sweep``."""
    return {
        "architecture": architecture_of(settings),
        "scales": settings.scales,
        "learning_rates": settings.learning_rates,
        "num_seeds": settings.seeds,
        "num_epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "initializer": settings.initializer,
    }


def said_of_space(settings: Settings) -> str:
    """What the run takes on the disk; refuses if it is not there."""
    from snn_jax import runs, sweep

    one = sweep.bytes_per_network(architecture_of(settings), settings.epochs)
    # Chunks, and the result made of them.
    return (
        f"Takes {runs.space(settings.out, 2 * one * settings.num_networks)} in "
        f"{settings.out}."
    )


def train(
    settings: Settings,
    dataset: "Dataset",
    progress: Callable[[int], Any],
    name: str = "networks",
) -> "xr.Dataset | None":
    """A sweep as the settings ask for, computed as far as it is not there yet.

    None if this is a shard of the work, or too much for the memory.
    """
    import jax

    from snn_jax import cluster, runs
    from snn_jax.sweep import Sweep

    whole = Sweep(jax.random.key(0), dataset, **sweep_settings(settings))
    engine = None
    if settings.engine == "ray":
        fixed = sweep_settings(settings) | {"width": whole.width}
        job = cluster.Job(0, settings.data, tuple(fixed.items()))
        engine = cluster.ray_engine(job, settings.ray_address)
    folder = settings.out / "chunks" / name
    runs.complete(
        folder,
        whole,
        restart=settings.restart,
        shard=settings.part,
        engine=engine,
        report=progress,
    )
    if settings.part != (1, 1):
        return None
    if whole.num_networks * whole.bytes_per_network > MAX_RESULT_BYTES:
        runs.write_final_table(settings.out / "networks.csv", folder, whole)
        return None
    return whole.assemble(runs.read_chunks(folder, whole))


def depth_study_epochs(settings: Settings) -> int:
    """(network, epoch) pairs of the sweep over depth."""
    study = DEPTH_STUDY[settings.preset]
    if not settings.depth_study:
        return 0
    per_depth = len(settings.scales) * study["seeds"] * study["epochs"]
    return int(per_depth * len(depths(settings)))


def depths(settings: Settings) -> list[int]:
    """From 1 to the depth asked for."""
    count = min(NUM_DEPTHS, settings.depth)
    return [
        1 + round(i * (settings.depth - 1) / max(1, count - 1)) for i in range(count)
    ]


def study_depth(
    settings: Settings, dataset: "Dataset", progress: Callable[[int], Any]
) -> "xr.Dataset | None":
    """Test accuracy for every depth and init scale; None if this is a shard."""
    import pandas as pd
    import xarray as xr

    study = DEPTH_STUDY[settings.preset]
    shallower = replace(
        settings,
        learning_rates=(study["learning_rate"],),
        seeds=int(study["seeds"]),
        epochs=int(study["epochs"]),
    )
    accuracies = []
    for depth in depths(settings):
        trained = train(
            replace(shallower, depth=depth), dataset, progress, f"depth-{depth}"
        )
        if trained is not None:
            accuracies.append(trained.test_accuracy.isel(learning_rate=0, drop=True))
    if not accuracies:
        return None
    return xr.Dataset(
        {
            "test_accuracy": xr.concat(
                accuracies, pd.Index(depths(settings), name="depth")
            )
        }
    )


def add_theory(
    result: "xr.Dataset",
    dataset: "Dataset",
    architecture: "Architecture",
    settings: Settings,
) -> None:
    """Puts what theory predicts beside what is measured, before and in training.

    Measured on many more networks than are trained: the rms over networks of a gradient
    is carried by few of them.
    """
    import jax
    import numpy as np

    from snn_jax import meanfield
    from snn_jax.sweep import initial_gradients

    if settings.initializer != "normal":
        return  # the formulas are for independent normal weights
    x, y = dataset.train.x[:NUM_THEORY_IMAGES], dataset.train.y[:NUM_THEORY_IMAGES]
    squared_norms = (x**2).sum(axis=1)
    # Of two different images: E|x - x'|^2 = 2 E|x - E x|^2.
    distance = 2 * float(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())
    norm = float(squared_norms.mean())
    width, units = architecture.sizes[-2], architecture.activation
    rows: dict[str, list[Any]] = {}
    for scale in map(float, result.scale):
        gradients = initial_gradients(
            jax.random.key(1),
            x,
            y,
            architecture=architecture,
            scale=scale,
            num_networks=NUM_THEORY_NETWORKS,
        )
        squares = np.asarray(gradients, float) ** 2
        sigma: dict[str, Any] = {"activation": units, "sigma_w": width**0.5 * scale}
        differences = meanfield.image_differences(architecture, scale, norm, distance)
        fan_in = np.array(architecture.sizes[1:-1])
        new = {
            "initial_gradient_rms": np.sqrt(squares.mean(axis=0)),
            "initial_gradient_typical": np.exp(np.log(squares).mean(axis=0) / 2),
            "gradient_rms_meanfield": meanfield.gradient_rms(
                architecture, scale, squared_norms
            ),
            "initial_spread": _float64_spread(result, scale),
            # The difference of two images is twice the variance over images.
            "spread_meanfield": np.sqrt(differences[1:] / (2 * fan_in * scale**2)),
            "chi_1": meanfield.chi_1(**sigma),
            "depth_scale": meanfield.depth_scale(**sigma),
        }
        if not settings.biases:
            new["gradient_rms_exact"] = meanfield.exact_gradient_rms(
                architecture, scale, squared_norms
            )
        for name, values in new.items():
            rows.setdefault(name, []).append(values)
    for name, values in rows.items():
        inner = {0: (), 1: ("hidden_layer",) if "spread" in name else ("layer",)}
        result[name] = (("scale", *inner[np.ndim(values[0])]), np.array(values))
        result[name].attrs["long_name"] = name.replace("_", " ")
    add_drift(result, dataset, settings)


def _float64_spread(result: "xr.Dataset", scale: float) -> Any:
    """Rms over seeds: the trained networks' own, since float32 is blind to it."""
    spread = result.activation_spread.sel(scale=scale).isel(epoch=0, learning_rate=0)
    return ((spread**2).mean("seed") ** 0.5).values


def add_drift(result: "xr.Dataset", dataset: "Dataset", settings: Settings) -> None:
    """Decay of the top layer on the plateau, an epoch, where nothing else happens."""
    import numpy as np

    from snn_jax import diagnosis, meanfield

    if settings.depth < 2 or settings.activation != "sigmoid" or settings.biases:
        return
    steps = len(dataset.train.y) // settings.batch_size
    frequencies = np.bincount(dataset.train.y) / len(dataset.train.y)
    last = min(settings.epochs, 4)
    if last < 2:
        return
    # From epoch 1, when the last layer has found the frequencies, a few epochs on.
    window = result.sel(epoch=[1, last]).median("seed")
    height = window.activation_mean.isel(hidden_layer=-1)
    measured = np.log(height.isel(epoch=0) / height.isel(epoch=1)) / (last - 1)
    middle = window.mean("epoch")
    predicted = steps * meanfield.plateau_drift_rate(
        learning_rate=result.learning_rate.values,
        batch_size=settings.batch_size,
        frequencies=frequencies,
        input_square=settings.width
        * middle.activation_mean.isel(hidden_layer=-2).values ** 2,
        slope=middle.mean_slope.isel(hidden_layer=-1).values,
        top_square=settings.width * height.mean("epoch").values ** 2,
    )
    dims = ("scale", "learning_rate")
    stuck = abs(window.label_information.isel(epoch=-1)) < diagnosis.LEFT_PLATEAU
    small = result.saturation.isel(epoch=0).mean(["seed", "hidden_layer"]) < 0.1
    noisy = result.learning_rate >= MIN_DRIFT_RATE  # below, the start still matters
    shown = (stuck & small & noisy).transpose(*dims)
    result["drift"] = measured.transpose(*dims)
    result["drift_meanfield"] = (dims, np.where(shown, predicted, np.nan))


def subtitle(
    result: "xr.Dataset", architecture: "Architecture", settings: Settings
) -> str:
    """What was run, in a line."""
    sizes = "-".join(map(str, architecture.sizes))
    return (
        f"{result.verdict.size} networks {sizes}, {architecture.activation} units, "
        f"{'with' if architecture.biases else 'no'} biases, softmax output: "
        f"{result.sizes['scale']} init scales, {result.sizes['learning_rate']} "
        f"learning rates, {result.sizes['seed']} seeds; stochastic gradient descent on "
        f"{settings.data or 'MNIST'}, batches of {settings.batch_size}, "
        f"{settings.epochs} epochs."
    )


def page(
    result: "xr.Dataset",
    by_depth: "xr.Dataset | None",
    dataset: "Dataset",
    architecture: "Architecture",
    settings: Settings,
) -> "list[Section]":
    """The report's sections, in order."""
    from snn_jax import answer, diagnosis, figures, training
    from snn_jax.report import Section

    seeds, epochs = result.sizes["seed"], int(result.epoch[-1])
    load = f'result = runs.load("{settings.out}")'
    per_seed = f"{seeds} seeds for each scale"
    sections = [
        Section(
            "loss_curves",
            "How the loss falls, or does not",
            figure=figures.loss_curves(result),
            caption=(
                "Validation loss after each epoch (left axis) and what it says the "
                "network knows about the labels (right axis). A line is the median of "
                f"{seeds} seeds, a band their middle 80 %. Look for the curves that "
                "lie on the dashed line, the class-prior plateau: small scales stay on "
                "it, some leave it late and at once."
            ),
            redraw=f"{load}; figures.loss_curves(result)",
        ),
        Section(
            "accuracy_by_scale",
            "Which init scale learns",
            figure=figures.accuracy_by_scale(result),
            caption=(
                f"Test accuracy after {epochs} epochs; every dot is a network, bars "
                f"are medians of {per_seed}. The dashed line is the share of the "
                "commonest digit: dots on it belong to networks that give every image "
                "one answer."
            ),
            redraw=f"{load}; figures.accuracy_by_scale(result)",
        ),
        Section(
            "verdict_map",
            "The verdicts",
            figure=figures.verdict_map(result),
            caption=(
                f"The commonest verdict of the {seeds} networks of each cell, and how "
                "many have it. Look for the two sides of failure: vanishing to the "
                "left, where weights are small, saturated to the right."
            ),
            redraw=f"{load}; figures.verdict_map(result)",
        ),
        Section(
            "outcomes",
            "Every setting in numbers",
            text=[
                "Loss and label information in nats after the last epoch, medians over "
                f"{seeds} seeds. Who knows nothing about the images pays "
                f"{result.plateau_loss:.3f} nats, the entropy of the labels under the "
                "training set's frequencies. The gradient is the rms over images of "
                "the first layer's over the last layer's, before the first step."
            ],
            table=answer.outcome_table(result),
        ),
        Section(
            "gradient_per_layer",
            "The gradient on its way down",
            text=[
                "Each layer multiplies the error by the transpose of its weights and "
                "by the slope of its units. At small init scales both are small, and "
                "the product over layers is a straight line on this logarithmic axis."
            ],
            figure=figures.gradient_per_layer(result),
            caption=(
                "Rms over images and weights of single-image gradients before the "
                f"first step. Dots: measured, rms of {seeds} networks, bars from the "
                "smallest to the largest. Solid lines: the exact recursion for this "
                "width. Dotted: mean field theory, for wide layers."
            ),
            redraw=f"{load}; figures.gradient_per_layer(result)",
        ),
        *theory_sections(result),
        Section(
            "signals_per_layer",
            "What the layers pass on before the first step",
            figure=figures.signals_per_layer(result, epoch=0),
            caption=(
                "Saturated units, differences between images, and what a linear probe "
                "reads from each hidden layer, in float64; medians and middle 80 % of "
                f"{per_seed}, on {training.NUM_SIGNAL_IMAGES} training images. Look, "
                "at small scales, for images that become alike while the probe reads "
                "as much from the top as from the bottom: nothing is lost. And at "
                "large ones for images that stay apart while the probe reads less and "
                "less."
            ),
            redraw=f"{load}; figures.signals_per_layer(result, epoch=0)",
        ),
    ]
    maps, digits = representations(result, dataset, architecture, settings)
    sections.append(
        Section(
            "representations",
            "The ten digits from layer to layer",
            figure=figures.representations(maps, digits),
            caption=(
                f"{len(digits)} training images in each hidden layer of one untrained "
                "network a row (seed 0), in the plane in which they differ most; a "
                "colour a digit, each panel at its own magnification. Look for clouds "
                "that keep their shape, however small they are, and for clouds that "
                "break into clumps that have nothing to do with the digits."
            ),
            redraw="signals.main_planes(...); figures.representations(...)",
        )
    )
    if by_depth is not None and "depth_scale" in by_depth:
        study = DEPTH_STUDY[settings.preset]
        critical = critical_scale(settings)
        sections.append(
            Section(
                "depth_map",
                "How deep may it be",
                figure=figures.depth_map(by_depth),
                caption=(
                    f"Median test accuracy of {study['seeds']} seeds after "
                    f"{study['epochs']} epochs at learning rate "
                    f"{study['learning_rate']:g}. White line: the depth scale of mean "
                    "field theory, the number of layers over which a gradient changes "
                    "by a factor e, at its fixed point. At small scales it limits the "
                    "depth "
                    f"that trains; above scale {critical:.2g}, where chi_1 is 1, "
                    "saturation does."
                ),
                redraw=f'figures.depth_map(xarray.load_dataset("{settings.out}/depth.nc"))',
            )
        )
    early = epochs // diagnosis.LONGEST_HORIZON
    if early >= 1:
        sections += [
            Section(
                "confusion",
                "Can the verdicts be trusted",
                text=[
                    f"Had the runs been stopped after {early} "
                    f"{'epoch' if early == 1 else 'epochs'}, these verdicts would have "
                    "been given. Each makes a claim about a time up to "
                    f"{diagnosis.LONGEST_HORIZON} times as long, and the rest of the "
                    "runs tells whether it came true."
                ],
                table=answer.confusion_table(diagnosis.confusion(result, early)),
            ),
            Section(
                "outcomes_later",
                f"What became of them, {epochs} times later",
                text=[
                    "Verdicts after one epoch, against where the networks were after "
                    f"{epochs}, far beyond what most verdicts claim: networks called "
                    "vanishing that learn in the end show how long the plateau is."
                ],
                table=answer.outcome_counts(diagnosis.outcomes(result, 1)),
            ),
        ]
    sections.append(
        Section(
            "verdict_list",
            "What the verdicts claim, and what to try first",
            table=[
                ["verdict", "a network that", "for, in epochs seen", "first try"],
                *(
                    [kind.name, kind.claim, f"{kind.horizon} x", kind.advice]
                    for kind in diagnosis.KINDS
                ),
            ],
        )
    )
    return sections


def critical_scale(settings: Settings) -> float:
    """The init scale at which chi_1 = 1 in the hidden layers."""
    from snn_jax import meanfield

    sigma_w = meanfield.critical_sigma_w(activation=settings.activation)
    return float(sigma_w / settings.width**0.5)


def theory_sections(result: "xr.Dataset") -> "list[Section]":
    """Predictions beside measurements, with their ratios."""
    from snn_jax import answer
    from snn_jax.report import Section

    if "initial_gradient_rms" not in result:
        return []
    sections = [
        Section(
            "theory",
            "Theory and measurement",
            text=[
                "Gradients before the first step: rms over "
                f"{NUM_THEORY_NETWORKS} untrained networks, {NUM_THEORY_IMAGES} images "
                "and the weights of a layer, divided by two predictions. The exact "
                "recursion knows the width, mean field theory takes layers as wide. "
                "Neither speaks of the typical network, the geometric mean over "
                "networks: in narrow layers, and most at large scales, few networks "
                "carry the rms, and the typical one has a smaller gradient."
            ],
            table=answer.theory_table(result),
        ),
        Section(
            "differences",
            "How far images stay apart",
            text=[
                "chi_1 is the factor by which the square of a gradient, and of a small "
                "difference between images, changes from layer to layer in a deep "
                "network; the depth scale is 1 / |ln chi_1| layers. The spread of the "
                "top hidden layer over images is measured in float64 on the seeds that "
                "were trained, and predicted by following the squared difference of "
                "two images of average length and distance."
            ],
            table=answer.difference_table(result),
        ),
    ]
    if "drift_meanfield" in result and len(answer.drift_table(result)) > 1:
        sections.append(
            Section(
                "drift",
                "The plateau moves",
                text=[
                    "While a network is stuck, the noise of the labels pushes its top "
                    "hidden layer to 0 (Glorot and Bengio 2010 saw it, Fig. 2). Decay "
                    "of the mean activation an epoch, from the first epoch on, beside "
                    "what an Ornstein-Uhlenbeck process predicts."
                ],
                table=answer.drift_table(result),
            )
        )
    return sections


def representations(
    result: "xr.Dataset",
    dataset: "Dataset",
    architecture: "Architecture",
    settings: Settings,
) -> "tuple[xr.DataArray, Any]":
    """500 images in each hidden layer's main plane, for up to three init scales."""
    import jax
    import numpy as np
    import xarray as xr

    from snn_jax import signals
    from snn_jax.sweep import initial_params

    x, digits = dataset.train.x[:500], dataset.train.y[:500]
    scales = result.scale.values
    chosen = scales[np.unique(np.linspace(0, len(scales) - 1, 3).astype(int))]
    maps = []
    for scale in chosen:
        params = initial_params(
            jax.random.key(0),
            0,
            architecture,
            scale=float(scale),
            initializer=settings.initializer,
        )
        maps.append(signals.main_planes(params, x, architecture=architecture))
    return (
        xr.DataArray(
            np.array(maps),
            dims=("scale", "hidden_layer", "image", "axis"),
            coords={"scale": chosen, "hidden_layer": result.hidden_layer},
        ),
        digits,
    )


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, {"quick": QUICK, "full": FULL})

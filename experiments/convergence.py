"""Is the deep sigmoid network converging? Why? What's wrong?

    python experiments/convergence.py                    about a minute on two cores
    python experiments/convergence.py --preset full      about five minutes

Trains the assignment's second network (five hidden layers of 10 sigmoid units, softmax
output, no biases, SGD) on the full training set for every init scale, learning rate and
seed at once; prints what became of them and the answer in words; writes the labelled
result and two figures into runs/convergence.
"""

import textwrap
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import _command_line as command_line
import numpy as np
import tyro

if TYPE_CHECKING:
    import xarray as xr

PRESETS = {
    "quick": {
        "scales": (0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
        "learning_rates": (0.1, 0.3, 1.0),
        "seeds": 8,
        "epochs": 10,
    },
    "full": {
        "scales": (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0),
        "learning_rates": (0.03, 0.1, 0.3, 1.0),
        "seeds": 16,
        "epochs": 20,
    },
}

# A network that has gained less than this has not left the class-prior plateau. Noise
# alone moves a stuck network's loss by up to 0.005 nats at the learning rates here, and
# one that leaves gains 0.2 within an epoch.
PLATEAU_MARGIN = 0.02
# Accuracies closer than this are the same number of images, in float32.
SAME_ACCURACY = 1e-6
# Half of the ln 10 = 2.3 nats that there are to know.
LEARNED = 1.15
# Share of the hidden units above which a network passes on little of its input.
MOSTLY_SATURATED = 0.6


Floats = Annotated[
    tuple[float, ...] | None,
    tyro.conf.arg(
        metavar="FLOAT [FLOAT ...]", help_behavior_hint="(default: the preset's)"
    ),
]
Count = Annotated[
    int | None,
    tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the preset's)"),
]


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    preset: Literal["quick", "full"] = "quick"
    """Sets whatever no other flag sets."""
    scales: Floats = None
    """Init scales: standard deviation of every initial weight."""
    learning_rates: Floats = None
    """Of plain stochastic gradient descent."""
    seeds: Count = None
    """Networks for each scale and learning rate."""
    epochs: Count = None
    """Passes over the training set."""
    batch_size: int = 32
    """Images a step; 1 is true stochastic gradient descent."""
    depth: int = 5
    """Hidden layers."""
    width: int = 10
    """Units in each of them."""
    activation: Literal["sigmoid", "tanh", "relu", "identity"] = "sigmoid"
    """Of the hidden units."""
    data: command_line.DataPath = None
    out: Path = Path("runs/convergence")
    """Folder for the result; what an earlier run left there is replaced."""

    def with_preset(self) -> "Settings":
        """The same with every open setting filled in from the preset."""
        preset: dict[str, Any] = PRESETS[self.preset]
        return replace(
            self,
            **{name: v for name, v in preset.items() if getattr(self, name) is None},
        )

    def validate(self) -> None:
        """Raises SettingError."""
        filled = self.with_preset()
        command_line.expect_positive("--scales", filled.scales or ())
        command_line.expect_positive("--learning-rates", filled.learning_rates or ())
        for flag in ("seeds", "epochs", "batch_size", "depth", "width"):
            command_line.expect_count(
                "--" + flag.replace("_", "-"), getattr(filled, flag)
            )


def main(settings: Settings) -> int:
    """Trains the networks, saves the result, prints the table and the answer."""
    settings = settings.with_preset()
    scales, rates = settings.scales or (), settings.learning_rates or ()
    seeds, epochs = settings.seeds or 0, settings.epochs or 0
    num_networks = len(scales) * len(rates) * seeds
    command_line.make_folder(settings.out)
    print(
        f"{num_networks} networks ({len(scales)} init scales x {len(rates)} learning "
        f"rates x {seeds} seeds), {epochs} epochs each."
        + ("\nAt most 2 minutes on two cores." if settings.preset == "quick" else ""),
        flush=True,
    )
    import jax
    from tqdm import tqdm

    from snn_jax import figures, mnist, runs
    from snn_jax.networks import Architecture
    from snn_jax.sweep import sweep

    dataset = mnist.load(settings.data)
    command_line.expect_batch_size(settings.batch_size, len(dataset.train.y))
    hidden = (settings.width,) * settings.depth
    architecture = Architecture((784, *hidden, 10), settings.activation, biases=False)
    with tqdm(total=num_networks * epochs, desc="training", unit="epoch") as bar:
        result = sweep(
            jax.random.key(0),
            dataset,
            architecture=architecture,
            scales=scales,
            learning_rates=rates,
            num_seeds=seeds,
            num_epochs=epochs,
            batch_size=settings.batch_size,
            report=bar.update,
        )
    runs.save(settings.out, result, asdict(settings))
    pictures = settings.out / "figures"
    figures.save(figures.loss_curves(result), pictures / "loss_curves.svg")
    figures.save(
        figures.gradient_per_layer(result), pictures / "gradient_per_layer.svg"
    )
    print()
    print(table(result))
    print()
    print(answer(result))
    print(f"\nSaved in {settings.out}: results.nc, figures/*.svg.")
    return 0


def table(result: "xr.Dataset") -> str:
    """A line for each init scale and learning rate: medians over seeds."""
    layout = "{:>7} {:>8} {:>8} {:>12} {:>14} {:>17} {:>12}"
    lines = [
        layout.format(
            "init", "learning", "valid.", "label", "test accuracy", "", "grad."
        ),
        layout.format(
            "scale",
            "rate",
            "loss",
            "information",
            "median",
            "worst to best",
            "first/last",
        ),
    ]
    ratios = gradient_ratio(result).median("seed")
    for scale in result.scale.values:
        for rate in result.learning_rate.values:
            cell = result.sel(scale=scale, learning_rate=rate)
            accuracy = 100 * cell.test_accuracy
            last = cell.isel(epoch=-1).median("seed")
            lines.append(
                layout.format(
                    f"{scale:g}",
                    f"{rate:g}",
                    f"{float(last.valid_loss):.3f}",
                    f"{float(last.label_information):z.3f}",
                    f"{float(accuracy.median()):.2f} %",
                    f"{float(accuracy.min()):.2f} to {float(accuracy.max()):.2f} %",
                    f"{float(ratios.sel(scale=scale)):.1g}",
                )
            )
        lines.append("")
    lines.append(
        f"After {int(result.epoch[-1])} epochs; loss and label information in nats, "
        f"medians over {result.sizes['seed']} seeds.\n"
        f"Who knows nothing about the images pays {result.plateau_loss:.3f} nats, the "
        "class-prior plateau; label\ninformation is what a network pays less. The "
        "gradient is the rms of the first layer's over\nthe last layer's, before the "
        "first step."
    )
    return "\n".join(lines)


def gradient_ratio(result: "xr.Dataset") -> "xr.DataArray":
    """First over last layer's gradient rms before the first step."""
    initial = result.gradient_rms.isel(epoch=0, learning_rate=0)
    ratio: xr.DataArray = initial.isel(layer=0) / initial.isel(layer=-1)
    return ratio


def outcomes(result: "xr.Dataset") -> "xr.Dataset":
    """What became of every network, as booleans: stuck, learned, diverged.

    Stuck on the class-prior plateau: the loss is that of the best constant prediction,
    and the test accuracy is the share of one digit, the same answer for every image.
    """
    information = result.label_information.isel(epoch=-1)
    one_answer = abs(result.test_accuracy - result.test_class_frequency).min("digit")
    return result.drop_vars(result.data_vars).assign(
        diverged=~np.isfinite(information),
        stuck=(abs(information) < PLATEAU_MARGIN) & (one_answer < SAME_ACCURACY),
        learned=information > LEARNED,
    )


def most(outcome: "xr.DataArray") -> list[float]:
    """The init scales at which it holds for more than half of the networks."""
    share = outcome.mean(["learning_rate", "seed"])
    return [float(scale) for scale in share.scale[share > 0.5]]


def count(outcome: "xr.DataArray", scales: list[float]) -> str:
    """How many networks of these scales it holds for."""
    cells = outcome.sel(scale=scales)
    return f"{int(cells.sum())} of {cells.size} networks"


def listed(scales: list[float]) -> str:
    """Numbers as one says them: 0.01, 0.1 and 1."""
    words = [f"{scale:g}" for scale in scales]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def is_it_converging(result: "xr.Dataset", became: "xr.Dataset") -> str:
    """Counts of stuck, learned and other networks."""
    text = []
    epochs = int(result.epoch[-1])
    stuck, learned = most(became.stuck), most(became.learned)
    other = [float(s) for s in result.scale if float(s) not in stuck + learned]
    if stuck:
        text.append(
            f"No at init scale {listed(stuck)}: {count(became.stuck, stuck)} are on "
            f"the class-prior plateau after {epochs} epochs. They know how frequent "
            "the digits are and nothing about the images: their test accuracy is "
            "exactly the share of one digit, which is their answer to every image."
        )
    if learned:
        accuracy = result.test_accuracy.median("seed").sel(scale=learned)
        best = accuracy.isel(accuracy.argmax(["scale", "learning_rate"]))
        text.append(
            f"Yes at init scale {listed(learned)}: {count(became.learned, learned)} "
            "know more than half of what there is to know. The best setting, scale "
            f"{float(best.scale):g} with learning rate {float(best.learning_rate):g}, "
            f"has a median test accuracy of {100 * float(best):.1f} %."
        )
    if other:
        accuracy = result.test_accuracy.sel(scale=other)
        text.append(
            f"Hardly at init scale {listed(other)}: most networks are neither stuck on "
            "the plateau nor have they learned half of what there is to know; their "
            f"median test accuracy is {100 * float(accuracy.median()):.1f} %."
        )
    if bool(became.diverged.any()):
        text.append(f"{int(became.diverged.sum())} networks diverged.")
    return "\n".join(text)


def why(result: "xr.Dataset", became: "xr.Dataset") -> str:
    """Gradients and saturation before the first step."""
    text = []
    scales = [float(scale) for scale in result.scale]
    ratio = gradient_ratio(result).median("seed")
    saturated = result.saturation.isel(epoch=0).mean(
        ["learning_rate", "seed", "hidden_layer"]
    )
    stuck = most(became.stuck)
    if stuck:
        worst, largest = min(stuck), max(scales)
        text.append(
            f"At init scale {worst:g} the first layer's gradient is "
            f"{float(ratio.sel(scale=worst)):.1g} times the last layer's before the "
            f"first step; at scale {largest:g} it is "
            f"{float(ratio.sel(scale=largest)):.1g} times. On the way down each layer "
            "multiplies it by its weights, which are small, and by the slope of its "
            "units, which for a sigmoid is at most 1/4. Only the last layer gets a "
            "gradient to speak of, and all that it can learn alone is how frequent the "
            "digits are: through weights so small it sees the same input for every "
            "image."
        )
    full = [s for s in scales if float(saturated.sel(scale=s)) > MOSTLY_SATURATED]
    if full:
        text.append(
            f"At init scale {listed(full)} gradients do not vanish, but "
            f"{100 * float(saturated.sel(scale=full).mean()):.0f} % of the hidden "
            "units are saturated before the first step: they are 0 or 1 almost "
            "whatever the image, so that what tells the digits apart is lost on the "
            "way up."
        )
    return "\n".join(text) or "Neither gradients nor saturation stand out at the start."


def what_is_wrong(result: "xr.Dataset", became: "xr.Dataset") -> str:
    """The one thing to change, and how far the answer reaches."""
    stuck, learned = most(became.stuck), most(became.learned)
    if stuck and learned:
        accuracy = result.test_accuracy.median(["seed", "learning_rate"])
        best = float(accuracy.idxmax("scale"))
        nearest = min(stuck, key=lambda scale: abs(np.log(scale / best)))
        text = (
            "The init scale. Not the data, not the network and not the gradients, "
            "which agree four ways (experiments/gradients.py): with all of these "
            f"unchanged it learns at init scale {listed(learned)}. To mend it, change "
            f"one number: draw the weights with a standard deviation of {best:g} "
            f"instead of {nearest:g}."
        )
    elif stuck:
        text = (
            "No init scale here trains this network. Try scales around 1, a larger "
            "learning rate, fewer layers or another activation."
        )
    else:
        text = "Nothing that these settings show."
    return text + (
        f"\nAll this is said of {int(result.epoch[-1])} epochs: a network that is "
        "stuck by then may still leave the plateau later."
    )


def answer(result: "xr.Dataset") -> str:
    """The assignment's three questions, from the numbers of the result alone."""
    became = outcomes(result)
    questions = {
        "Is it converging?": is_it_converging(result, became),
        "Why?": why(result, became),
        "What's wrong?": what_is_wrong(result, became),
    }
    return "\n\n".join(
        "\n".join([question, *(textwrap.fill(line, 88) for line in text.splitlines())])
        for question, text in questions.items()
    )


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__)

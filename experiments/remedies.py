"""What makes the deep sigmoid network learn? Remedies in a league table.

    python experiments/remedies.py                      under two minutes on two cores
    python experiments/remedies.py --preset full        about five minutes
    python experiments/remedies.py --depth 10 20 50     about twelve minutes

Each remedy alone, from small, usual and saturated initial weights, with plain SGD and
the learning rate that suits it best, on equal numbers of images; then the best
together. Prints the table and what it says in words; writes the labelled result, the
figures and report.html into runs/remedies. With other depths it also draws how deep a
network can be and still learn, beside theory's depth scale. Stopped by anything, it
goes on where it was when the same command is given again.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import _command_line as command_line

if TYPE_CHECKING:
    import xarray as xr

    from snn_jax.mnist import Dataset
    from snn_jax.networks import Architecture
    from snn_jax.remedies import Cell, Remedy
    from snn_jax.report import Section
    from snn_jax.sweep import Chunk

# The assignment's network, and those as deep.
ASSIGNMENT = 5
# Above this depth, growing a network layer by layer takes longer than it teaches, and
# so do wide layers.
DEEPEST_FOR_ALL = 5
# Networks that get so much of the test set right have been cured.
CURED = 0.85
# More than so much is a difference.
NO_BETTER = 0.005
# A first layer that moves by less in the first images than this share of its weights
# does not take part.
STANDS_STILL = 1e-3
# Remedies whose step does not depend on how large the gradient is.
SIZELESS = ["Adam", "normalized gradient", "LARS", "Muon"]
# An epoch of a remedy alone is cut into so many parts, and networks are looked at after
# each; those together are looked at after whole epochs.
PARTS = 10

START_WORDS = {
    "small": "small weights (init scale 0.1)",
    "usual": "the usual ones (LeCun, variance 1 / fan-in)",
    "saturated": "saturating ones (init scale 3)",
    "own": "others",
}

# The picture of trainable depth: sigma_w around the critical one, and depths.
PICTURE = {
    "sigmoid": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0, 20.0),
    "tanh": (0.4, 0.6, 0.8, 0.9, 1.0, 1.2, 1.6, 2.4),
}
PICTURE_DEPTHS = (1, 2, 5, 10, 20, 35, 50)
PICTURE_RATES = (0.03, 0.3, 3.0)
PICTURE_SEEDS = 2


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    preset: Literal["quick", "full"] = "quick"
    """Sets the seeds and epochs that no other flag sets; quick leaves out wide layers
    and training layer by layer, which take longest."""
    seeds: int = 3
    """Networks for each remedy, start and learning rate."""
    epochs: int = 1
    """Passes over the training set of each remedy alone."""
    recipe_epochs: int = 3
    """Of the combinations; 0 leaves them out."""
    batch_size: int = 32
    """Images a step."""
    depth: tuple[int, ...] = (ASSIGNMENT,)
    """Hidden layers, one or several numbers."""
    only: tuple[str, ...] = ()
    """Names of the remedies to try, as in the table; all by default."""
    data: command_line.DataPath = None
    out: Path = Path("runs/remedies")
    """Folder for the result. The same command goes on with what is missing there."""
    restart: bool = False
    """Begin anew in a folder that holds a run with other settings, which is lost."""

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_count("--seeds", self.seeds)
        command_line.expect_count("--epochs", self.epochs)
        if self.recipe_epochs != 0:
            command_line.expect_count("--recipe-epochs", self.recipe_epochs)
        command_line.expect_count("--batch-size", self.batch_size)
        command_line.expect_positive("--depth", map(float, self.depth), 1, 200)

    @property
    def pictured_depths(self) -> tuple[int, ...]:
        """Those of the picture of trainable depth, if there is to be one."""
        if self.depth == (ASSIGNMENT,):
            return ()
        return tuple(d for d in PICTURE_DEPTHS if d <= max(self.depth))


QUICK = Settings()
FULL = Settings(preset="full", seeds=8, epochs=2, recipe_epochs=15)


def main(settings: Settings) -> int:
    """Trains what is missing, writes everything, prints the table and the answer."""
    command_line.make_folder(settings.out)
    from snn_jax import mnist, networks, remedies, report

    names = [r.name for r in (*remedies.SINGLE, *remedies.COMBINED)]
    for name in settings.only:
        wanted = f"one of {', '.join(names)}"
        command_line.expect(name in names, "--only", wanted, name)
    for depth in settings.depth:
        command_line.expect(
            bool(chosen(settings, depth)),
            "--only",
            f"a remedy for {depth} layers that --recipe-epochs does not leave out",
            " ".join(settings.only),
        )
    dataset = mnist.load(settings.data)
    most = len(dataset.train.y) // PARTS
    command_line.expect(
        settings.batch_size <= most,
        "--batch-size",
        f"at most {most}, a tenth of the training images",
        settings.batch_size,
    )
    with command_line.going_on(settings.out):
        by_depth = {
            depth: race_all(settings, dataset, deep_network(networks.DEEP, depth))
            for depth in settings.depth
        }
        picture = draw_depths(settings, dataset)
    made_with = asdict(settings) | {"commit": command_line.commit()}
    save(settings.out, by_depth, picture, made_with)

    words = answer(by_depth)
    sections = page(by_depth, picture, settings)
    path = report.write(
        settings.out,
        title="What makes the deep network learn?",
        subtitle=subtitle(by_depth, settings),
        answer=words,
        sections=sections,
        settings=made_with,
    )

    for depth, leagues in by_depth.items():
        for league in leagues.values():
            print(f"\n{depth} hidden layers, {league.attrs['examples']:,} images each")
            rows = table(league)
            print(command_line.as_text(rows, first_column_left=True))
    print(
        "\nTest accuracy: median, lowest and highest of the seeds, at the learning "
        "rate that is best on the\nvalidation set. Leaves: epochs until the network "
        "knows 0.02 nats of the labels. Cost: arithmetic\nof a training step, plain "
        "SGD being 1."
    )
    command_line.tell(words, path)
    return 0


def deep_network(base: "Architecture", depth: int) -> "Architecture":
    """The assignment's network with another number of hidden layers."""
    hidden = (base.sizes[1],) * depth
    return replace(base, sizes=(base.sizes[0], *hidden, base.sizes[-1]))


def chosen(settings: Settings, depth: int) -> "dict[str, list[Remedy]]":
    """The remedies to try, those alone and those together."""
    from snn_jax import remedies

    lists = {"alone": list(remedies.SINGLE)}
    if settings.recipe_epochs:
        lists["together"] = list(remedies.COMBINED)
    if depth > DEEPEST_FOR_ALL or (settings.preset == "quick" and not settings.only):
        lists["alone"] = [
            r for r in lists["alone"] if not r.layerwise and "width" not in r.changes
        ]
    if settings.only:
        for title in lists:
            lists[title] = [r for r in lists[title] if r.name in settings.only]
    return {title: found for title, found in lists.items() if found}


def fingerprint(tried: "Iterable[Remedy]") -> str:
    """Of the remedies and the code they are made of: old numbers are not theirs."""
    from snn_jax import networks, remedies

    code = inspect.getsource(remedies) + inspect.getsource(networks)
    what = repr([remedy.name for remedy in tried]) + code
    return hashlib.sha256(what.encode()).hexdigest()[:16]


class Race(NamedTuple):
    """A network and the cells of remedies that can be tried on it together."""

    base: "Architecture"
    cells: "list[Cell]"


def finished(
    settings: Settings,
    dataset: "Dataset",
    name: str,
    races: dict[str, Race],
    *,
    seeds: int,
    epochs: int,
    parts: int = 1,
) -> "dict[str, Chunk]":
    """Results of races, by name, computed as far as they are not in the folder yet.

    Args:
        settings: of the script.
        dataset: raw.
        name: of the folder, and beside the progress bar.
        races: by name.
        seeds: networks for each cell and learning rate.
        epochs: of every network.
        parts: that each is cut into.
    """
    import jax
    from tqdm import tqdm

    from snn_jax import remedies, runs

    work = {
        race: sum(len(cell.remedy.learning_rates) for cell in cells)
        * seeds
        * epochs
        * parts
        for race, (_, cells) in races.items()
    }
    remedies_of = (cell.remedy for _, cells in races.values() for cell in cells)
    mine = {
        "networks": repr({race: base for race, (base, _) in races.items()}),
        "remedies": fingerprint(remedies_of),
        "seeds": str(seeds),
        "epochs": str(epochs),
        "batch size": str(settings.batch_size),
        **runs.surroundings(dataset),
    }
    with tqdm(total=sum(work.values()), desc=name, unit="part") as bar:
        jobs: dict[str, Callable[[], Chunk]] = {
            race: partial(
                remedies.race,
                jax.random.key(0),
                dataset,
                cells,
                base=base,
                num_seeds=seeds,
                num_epochs=epochs,
                batch_size=settings.batch_size,
                parts_per_epoch=parts,
                report=bar.update,
            )
            for race, (base, cells) in races.items()
        }
        return runs.finish(
            settings.out / "chunks" / name.replace(" ", "-"),
            mine,
            jobs,
            restart=settings.restart,
            kept=lambda race: bar.update(work[race]),
        )


def race_all(
    settings: Settings, dataset: "Dataset", base: "Architecture"
) -> "dict[str, xr.Dataset]":
    """The league tables of a depth: of remedies alone and of those together."""
    from snn_jax import remedies

    depth = base.num_layers - 1
    found = {}
    for title, tried in chosen(settings, depth).items():
        epochs = settings.epochs if title == "alone" else settings.recipe_epochs
        together = remedies.groups(tried)
        arrays = finished(
            settings,
            dataset,
            f"{depth} layers {title}",
            {f"group-{i:02d}": Race(base, cells) for i, cells in enumerate(together)},
            seeds=settings.seeds,
            epochs=epochs,
            parts=PARTS if title == "alone" else 1,
        )
        found[title] = remedies.league(
            list(zip(together, arrays.values(), strict=True)),
            dataset,
            base=base,
            batch_size=settings.batch_size,
            num_epochs=epochs,
            names=[remedy.name for remedy in tried],
        )
    return found


def draw_depths(settings: Settings, dataset: "Dataset") -> "dict[str, xr.Dataset]":
    """Accuracy for every sigma_w and depth, by activation, beside theory."""
    from snn_jax import networks, remedies

    depths = settings.pictured_depths
    found = {}
    for activation, sigma_ws in PICTURE.items() if depths else ():
        base = replace(networks.DEEP, activation=activation)
        cells = remedies.cells(
            [remedies.of_sigma_w(sigma_w, PICTURE_RATES) for sigma_w in sigma_ws]
        )
        arrays = finished(
            settings,
            dataset,
            f"how deep {activation}",
            {f"depth-{d}": Race(deep_network(base, d), cells) for d in depths},
            seeds=PICTURE_SEEDS,
            epochs=settings.epochs,
        )
        found[activation] = remedies.trainable_depth(
            {depth: arrays[f"depth-{depth}"] for depth in depths},
            activation=activation,
            sigma_ws=sigma_ws,
        )
    return found


def save(
    out: Path,
    by_depth: "dict[int, dict[str, xr.Dataset]]",
    picture: "dict[str, xr.Dataset]",
    made_with: dict[str, Any],
) -> None:
    """All networks as one result; their curves, and the picture's numbers, apart."""
    import xarray as xr

    from snn_jax import runs

    every = []
    for depth, leagues in by_depth.items():
        for title, league in leagues.items():
            with runs.replacing(out / f"depth-{depth}-{title}.nc") as file:
                league.to_netcdf(file, engine="scipy")
            without = league.drop_dims("part")
            every.append(
                without.assign_coords(depth=("cell", [depth] * len(without.cell)))
            )
    runs.save(out, xr.concat(every, "cell", combine_attrs="drop_conflicts"), made_with)
    for activation, numbers in picture.items():
        with runs.replacing(out / f"picture-{activation}.nc") as file:
            numbers.to_netcdf(file, engine="scipy")


def overview(league: "xr.Dataset") -> list[list[str]]:
    """A row for each remedy: median test accuracy from each kind of start."""
    from snn_jax.answer import percent

    starts = list(START_WORDS)
    rows = [["remedy", *starts, "what to change"]]
    for name in dict.fromkeys(league.remedy.values.tolist()):
        here = league.isel(cell=(league.remedy == name).values)
        accuracy = median_accuracy(here)
        by_start = dict(zip(here.start.values.tolist(), accuracy, strict=True))
        cells = [percent(by_start[s]) if s in by_start else "-" for s in starts]
        rows.append([name, *cells, str(here.line.values[0])])
    return rows


def table(league: "xr.Dataset") -> list[list[str]]:
    """A row for each remedy and kind of start, with all numbers."""
    import numpy as np

    from snn_jax.answer import number, percent

    rows = [["remedy", "from", "test", "lowest to highest", "rate", "leaves", "cost"]]
    for i in range(league.sizes["cell"]):
        cell = league.isel(cell=i)
        accuracy, leaves = cell.best_test_accuracy, float(cell.epochs_to_leave.median())
        rows.append(
            [
                str(cell.remedy.values),
                str(cell.start.values),
                percent(accuracy.median(skipna=False)),
                f"{percent(accuracy.min())} to {percent(accuracy.max())}",
                f"{float(cell.best_learning_rate):g}",
                f"{leaves:.2g}" if np.isfinite(leaves) else "-",
                number(cell.cost),
            ]
        )
    return rows


def signal_table(league: "xr.Dataset") -> list[list[str]]:
    """What each remedy changes: medians over seeds."""
    from snn_jax.answer import number, percent

    rows = [["remedy", "gradient", "spread", "saturated", "moves", "test"]]
    best = league.isel(rate=league.best_rate)
    best = best.isel(cell=best.start.isin(["small", "own"]).values)
    for i in range(best.sizes["cell"]):
        cell = best.isel(cell=i)
        rows.append(
            [
                str(cell.remedy.values),
                number(cell.gradient_ratio.median()),
                number(cell.spread.median()),
                percent(cell.saturation.median()),
                number(cell.first_change.median()),
                percent(cell.best_test_accuracy.median(skipna=False)),
            ]
        )
    return rows


def subtitle(by_depth: "dict[int, dict[str, xr.Dataset]]", settings: Settings) -> str:
    """What was run, in a line."""
    count = sum(
        league.test_accuracy.size
        for leagues in by_depth.values()
        for league in leagues.values()
    )
    league = next(iter(next(iter(by_depth.values())).values()))
    depths = " and ".join(map(str, by_depth))
    return (
        f"{count:,} networks of {depths} hidden layers of 10 units, softmax output, on "
        f"{settings.data or 'MNIST'}: {settings.seeds} seeds for each of "
        f"{league.sizes['rate']} learning rates, batches of {settings.batch_size}."
    )


def median_accuracy(league: "xr.Dataset") -> "xr.DataArray":
    """Of each cell, 0 for networks that diverged."""
    accuracy: xr.DataArray = league.best_test_accuracy.fillna(0).median("seed")
    return accuracy


def best_first(league: "xr.Dataset") -> list[str]:
    """Each remedy with its accuracy, in words, from the best down."""
    from snn_jax.answer import percent

    accuracy = median_accuracy(league)
    order = accuracy.argsort().values[::-1]
    return [f"{league.remedy.values[i]} ({percent(accuracy[i])})" for i in order]


def between(values: "xr.DataArray") -> str:
    """From the smallest to the largest, or the one that there is."""
    from snn_jax.answer import number

    ends = [number(values.min()), number(values.max())]
    return " to ".join(dict.fromkeys(ends))


def joined(words: list[str]) -> str:
    """A list as one says it."""
    if not words:
        return "none of them"
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def answer(by_depth: "dict[int, dict[str, xr.Dataset]]") -> dict[str, list[str]]:
    """What cures it, why, and the line to change; of the first depth, then the rest."""
    depth, leagues = next(iter(by_depth.items()))
    words: dict[str, list[str]] = {}
    if "alone" in leagues:
        words["What makes it converge?"] = what_cures(leagues["alone"])
        words["Why?"] = why(leagues["alone"])
        words["Which line to change?"] = [best_line(leagues["alone"], depth)]
    if "together" in leagues:
        title = "And the best together?"
        words[title] = [best_recipes(leagues["together"])]
    if len(by_depth) > 1:
        words = {
            f"{question} ({depth} hidden layers)": paragraphs
            for question, paragraphs in words.items()
        }
        words["How deep?"] = [
            f"With {depth} hidden layers: {best_of(leagues, depth)}"
            for depth, leagues in by_depth.items()
        ]
    return words


def what_cures(league: "xr.Dataset") -> list[str]:
    """For each kind of start, which remedies learn, and which change nothing."""
    from snn_jax.answer import percent

    images = league.attrs["examples"]
    share = league.attrs["class_share"]
    text = []
    for start in dict.fromkeys(league.start.values.tolist()):
        here = league.isel(cell=(league.start == start).values)
        nothing = here.isel(cell=(here.remedy == "none").values)
        others = here.isel(cell=(here.remedy != "none").values)
        accuracy = median_accuracy(others)
        cured = others.isel(cell=(accuracy > CURED).values)
        if nothing.sizes["cell"]:
            before = median_accuracy(nothing)[0]
            sentence = (
                f"From {START_WORDS[start]}: plain SGD gets {percent(before)} after "
                f"{images:,} images at the best of its rates"
            )
            if abs(float(before) - share) < 0.002:
                sentence += ", the share of one digit"
            sentence += f". Above {percent(CURED)}: {joined(best_first(cured))}."
            useless = others.isel(cell=(accuracy <= before + NO_BETTER).values)
            if useless.sizes["cell"]:
                sentence += f" No better than nothing: {joined(best_first(useless))}."
        else:
            sentence = (
                "Other initial weights, with plain SGD, and ReLU with its own: "
                f"{joined(best_first(others))}."
            )
        text.append(sentence)
    return text


def why(league: "xr.Dataset") -> list[str]:
    """Which signals the cures have changed, from the small start."""
    from snn_jax.answer import number, percent

    start = "small"
    best = league.isel(rate=league.best_rate).median("seed")
    best["best_test_accuracy"] = median_accuracy(league)
    small = best.isel(cell=(best.start == start).values)
    nothing = small.isel(cell=(small.remedy == "none").values)
    others = small.isel(cell=(small.remedy != "none").values)
    text = []
    if nothing.sizes["cell"] and others.sizes["cell"]:
        first = nothing.isel(cell=0)
        cured = others.isel(cell=(others.best_test_accuracy > CURED).values)
        text.append(
            "From small weights, the first layer's gradient is "
            f"{number(first.gradient_ratio)} times the last layer's, and in the first "
            f"{league.attrs['first_images']:,} images plain SGD moves the first layer "
            f"by {number(first.first_change)} of its weights"
            + (
                ": it stands still while the last layer learns how frequent the digits "
                "are."
                if float(first.first_change) < STANDS_STILL
                else "."
            )
        )
        if cured.sizes["cell"]:
            step = cured.isel(cell=cured.remedy.isin(SIZELESS).values)
            rest = cured.isel(cell=(cured.kind != "step").values)
            sentence = (
                "Every cure moves it: the remedies above "
                f"{percent(CURED)} by {between(cured.first_change)} of its weights."
            )
            if rest.sizes["cell"]:
                sentence += (
                    f" {joined(rest.remedy.values.tolist())}: the gradient itself "
                    f"arrives, first over last layer {between(rest.gradient_ratio)}."
                )
            if step.sizes["cell"]:
                sentence += (
                    f" {joined(step.remedy.values.tolist())}: the gradient stays as "
                    "small as it was, and the step no longer depends on its size."
                )
            text.append(sentence)
    saturated = best.isel(cell=(best.start == "saturated").values)
    nothing = saturated.isel(cell=(saturated.remedy == "none").values)
    others = saturated.isel(cell=(saturated.remedy != "none").values)
    if nothing.sizes["cell"] and others.sizes["cell"]:
        top = others.isel(cell=int(others.best_test_accuracy.values.argmax()))
        text.append(
            f"From saturated weights, {percent(nothing.saturation[0])} of the units "
            "are at 0 or 1, where slopes are nearly 0, and plain SGD gets "
            f"{percent(nothing.best_test_accuracy[0])}. The best remedy, "
            f"{top.remedy.values}, gets {percent(top.best_test_accuracy)}, with "
            f"{percent(top.saturation)} of the units saturated."
        )
    return text


def best_line(league: "xr.Dataset", depth: int) -> str:
    """The best initial weights for plain SGD, and the best single remedy of all."""
    from snn_jax.answer import percent

    accuracy = median_accuracy(league)
    top = int(accuracy.values.argmax())
    sentence = (
        f"The best is {league.remedy.values[top]}, {league.line.values[top]}, from "
        f"{league.start.values[top]} weights: {percent(accuracy[top])}."
    )
    own = (league.kind == "initial weights").values
    if own.any():
        lines = league.isel(cell=own)
        best = int(median_accuracy(lines).values.argmax())
        found = percent(median_accuracy(lines)[best])
        sentence = (
            f"{lines.line.values[best]}: {found} with the {depth} layers of sigmoid "
            "units and plain SGD as they were. " + sentence
        )
    return sentence


def best_of(leagues: "dict[str, xr.Dataset]", depth: int) -> str:
    """The best alone and the best together, of what was tried."""
    said = []
    if "alone" in leagues:
        said.append(best_line(leagues["alone"], depth))
    if "together" in leagues:
        said.append(best_recipes(leagues["together"]))
    return " ".join(said)


def best_recipes(league: "xr.Dataset") -> str:
    """The best combination for the unchanged network, and the best of all."""
    from snn_jax.answer import percent

    accuracy = median_accuracy(league)
    epochs = league.attrs["examples"] // league.attrs["train_images"]
    sentences = []
    for kind in dict.fromkeys(league.kind.values.tolist()):
        here = (league.kind == kind).values
        order = accuracy.values[here].argmax()
        one = league.isel(cell=here).isel(cell=order)
        seeds = one.best_test_accuracy
        sentences.append(
            f"{str(kind).removeprefix('together, ').capitalize()}: "
            f"{one.remedy.values}, {percent(accuracy.values[here][order])} after "
            f"{epochs} "
            f"{'epoch' if epochs == 1 else 'epochs'} "
            f"(from {percent(seeds.min())} to {percent(seeds.max())}), at learning "
            f"rate {float(one.best_learning_rate):g}."
        )
    return " ".join(sentences)


def page(
    by_depth: "dict[int, dict[str, xr.Dataset]]",
    picture: "dict[str, xr.Dataset]",
    settings: Settings,
) -> "list[Section]":
    """The report's sections: for each depth the table, the reasons, the recipes."""
    from snn_jax import figures
    from snn_jax.report import Section

    seeds = settings.seeds
    sections = []
    for depth, leagues in by_depth.items():
        deep = "" if len(by_depth) == 1 else f", {depth} hidden layers"
        name = "" if len(by_depth) == 1 else f"_{depth}"
        if "alone" in leagues:
            league = leagues["alone"]
            load = (
                f'league = xarray.load_dataset("{settings.out}/depth-{depth}-alone.nc")'
            )
            sections += [
                Section(
                    f"league{name}",
                    f"One change at a time{deep}",
                    figure=figures.league(league),
                    caption=(
                        f"Test accuracy after {league.attrs['examples']:,} images, "
                        "at the learning rate that is best on the validation set. "
                        f"Markers are medians of {seeds} seeds, lines run from the "
                        "lowest to the highest; the dashed line is the share of one "
                        "digit. Look for remedies whose blue marker is far to the "
                        "right: they cure the small weights that never learn."
                    ),
                    redraw=f"{load}; figures.league(league)",
                ),
                Section(
                    f"overview{name}",
                    f"The league table{deep}",
                    text=[
                        f"Median test accuracy of {seeds} seeds, from small, usual and "
                        "saturating weights (init scale 0.1, LeCun, init scale 3), "
                        "or from the remedy's own."
                    ],
                    table=overview(league),
                ),
                Section(
                    f"first_steps{name}",
                    f"Who learns moves the first layer{deep}",
                    figure=figures.first_steps(league),
                    caption=(
                        "Every marker is a remedy from one kind of initial weights. To "
                        "the left the first layer stands still and nothing is learned. "
                        "Moving it is needed and not enough: saturated units move too, "
                        "without telling images apart."
                    ),
                    redraw=f"{load}; figures.first_steps(league)",
                ),
                Section(
                    f"signals{name}",
                    f"Which signal changed{deep}",
                    text=[
                        "From small weights, or the remedy's own. Before the first "
                        "step: gradient, the first layer's rms over the last's; "
                        "spread, over images, of the top hidden layer's units; "
                        "saturated units. Moves: by how much the first "
                        f"{league.attrs['first_images']:,} images change the first "
                        "layer's weights, relative to their norm."
                    ],
                    table=signal_table(league),
                ),
                Section(
                    f"table{name}",
                    f"Every row in numbers{deep}",
                    text=[
                        f"Test accuracy: median, lowest and highest of {seeds} seeds, "
                        "at the learning rate (rate) that is best on the validation "
                        "set. Leaves: epochs until the median network knows "
                        "0.02 nats of the labels, - if it does not. Cost: "
                        "floating-point operations of a training step, plain SGD on "
                        "the unchanged network being 1."
                    ],
                    table=table(league),
                ),
            ]
        if "together" in leagues:
            league = leagues["together"]
            epochs = settings.recipe_epochs
            sections += [
                Section(
                    f"recipes{name}",
                    f"Remedies together{deep}",
                    figure=figures.recipes(league),
                    caption=(
                        f"Validation accuracy over {epochs} epochs at the best "
                        "learning rate, which falls to 0 on a straight line; medians "
                        f"and middle 80 % of {seeds} seeds."
                    ),
                    redraw=(
                        "league = xarray.load_dataset"
                        f'("{settings.out}/depth-{depth}-together.nc"); '
                        "figures.recipes(league)"
                    ),
                ),
                Section(
                    f"recipe_table{name}",
                    f"The best recipes{deep}",
                    text=[
                        "; ".join(
                            f"{one}: {line}"
                            for one, line in zip(
                                league.remedy.values, league.line.values, strict=True
                            )
                        )
                        + ". Centred orthogonal: initializer "
                        '"centred_orthogonal", gain 4.'
                    ],
                    table=table(league),
                ),
            ]
    if picture:
        sections.append(
            Section(
                "trainable_depth",
                "How deep may it be, from weights alone",
                text=[
                    "Plain SGD from normal weights of variance sigma_w^2 / fan-in, the "
                    f"best of {len(PICTURE_RATES)} learning rates, {PICTURE_SEEDS} "
                    "seeds. Mean field theory has a depth scale: the layers over which "
                    "a squared gradient changes by a factor e. It is infinite at "
                    "criticality. Below, to the left of its peak, what tells two "
                    "images apart shrinks at the same rate, and Schoenholz et al. 2017 "
                    "found that networks train up to about six depth scales."
                ],
                figure=figures.trainable_depth(picture),
                caption=(
                    f"Median test accuracy after {settings.epochs} "
                    f"{'epoch' if settings.epochs == 1 else 'epochs'}. White line: the "
                    "depth scale; dotted, below criticality: six times it."
                ),
                redraw=(
                    "figures.trainable_depth({name: xarray.load_dataset("
                    f'f"{settings.out}/picture-{{name}}.nc") for name in '
                    '("sigmoid", "tanh")})'
                ),
            )
        )
    return sections


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, {"quick": QUICK, "full": FULL})

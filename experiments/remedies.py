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

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line
from _words import answers, number, percent, sections

if TYPE_CHECKING:
    import xarray as xr
    from _catalogue import Remedy
    from _league import Finish

    from snn_jax.datasets import Dataset
    from snn_jax.report import Section
    from snn_jax.sweep import Sweep

# The assignment's network, and those as deep.
ASSIGNMENT = 5
# Above this depth, growing a network layer by layer takes longer than it teaches, and
# so do wide layers.
DEEPEST_FOR_ALL = 5
# An epoch of a remedy alone is cut into so many parts, and networks are looked at after
# each; those together are looked at after whole epochs.
LOOKS = 10
# Depths of the picture of trainable depth.
PICTURE_DEPTHS = (1, 2, 5, 10, 20, 35, 50)
# Results by name, the leagues "alone" and "together", and those of every depth.
Leagues = dict[str, "xr.Dataset"]
ByDepth = dict[int, Leagues]


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


def chosen(settings: Settings, depth: int) -> "dict[str, list[Remedy]]":
    """The remedies to try, those alone and those together."""
    from _catalogue import COMBINED, SINGLE

    lists = {"alone": list(SINGLE)}
    if settings.recipe_epochs:
        lists["together"] = list(COMBINED)
    if depth > DEEPEST_FOR_ALL or (settings.preset == "quick" and not settings.only):
        lists["alone"] = [
            r for r in lists["alone"] if not r.layerwise and "width" not in r.changes
        ]
    if settings.only:
        for title in lists:
            lists[title] = [r for r in lists[title] if r.name in settings.only]
    return {title: found for title, found in lists.items() if found}


@contextmanager
def finishing(settings: Settings, name: str, total: int) -> "Iterator[Finish]":
    """Gives what computes sweeps, as far as they are not in the folder yet.

    Args:
        settings: of the script.
        name: of the folder, and beside the progress bar.
        total: of (network, look) pairs, those that are there already included.
    """
    from tqdm import tqdm

    from snn_jax import store

    folder = settings.out / "chunks" / name.replace(" ", "-")
    with tqdm(total=total, desc=name, unit="part") as bar:

        def finish(name: str, sweep: "Sweep") -> "xr.Dataset":
            where, restart = folder / name, settings.restart
            store.complete(where, sweep, restart=restart, report=bar.update)
            return sweep.assemble(store.read_chunks(where, sweep))

        yield finish


def race_all(settings: Settings, data: "Dataset", depth: int) -> Leagues:
    """The league tables of a depth: of remedies alone and of those together."""
    import _league
    from _catalogue import groups

    from snn_jax.networks import DEEP

    found, base = {}, _league.deep_network(DEEP, depth)
    for title, tried in chosen(settings, depth).items():
        how = (settings.epochs, settings.batch_size, LOOKS)
        if title == "together":
            how = (settings.recipe_epochs, settings.batch_size, 1)
        plan = _league.Plan(base, settings.seeds, *how)
        rates = sum(len(r.learning_rates) * len(r.starts) for r in tried)
        total = rates * plan.seeds * plan.epochs * plan.looks
        with finishing(settings, f"{depth} layers {title}", total) as finish:
            raced = [
                (cells, _league.race(data, cells, plan, f"group-{i:02d}", finish))
                for i, cells in enumerate(groups(tried))
            ]
        found[title] = _league.league(raced, data, plan)
    return found


def draw_depths(settings: Settings, data: "Dataset") -> Leagues:
    """Accuracy for every sigma_w and depth, by activation, beside theory."""
    import _league

    from snn_jax.activations import ACTIVATIONS

    depths, found = settings.pictured_depths, {}
    for name, sigma_ws in _league.SIGMA_WS.items() if depths else ():
        rates, seeds = len(_league.PICTURE_RATES), _league.PICTURE_SEEDS
        total = len(depths) * len(sigma_ws) * rates * seeds * settings.epochs
        with finishing(settings, f"how deep {name}", total) as finish:
            found[name] = _league.trainable_depth(
                data,
                ACTIVATIONS[name],
                depths,
                finish,
                num_epochs=settings.epochs,
                batch_size=settings.batch_size,
            )
    return found


def save(
    out: Path, by_depth: ByDepth, picture: Leagues, made_with: dict[str, Any]
) -> None:
    """All networks as one result; their curves, and the picture's numbers, apart."""
    import xarray as xr

    from snn_jax import files

    every = []
    apart = {f"picture-{name}": numbers for name, numbers in picture.items()}
    for depth, leagues in by_depth.items():
        for title, league in leagues.items():
            apart[f"depth-{depth}-{title}"] = league
            rows = league.drop_dims("part")
            every.append(rows.assign_coords(depth=("cell", [depth] * len(rows.cell))))
    files.save(out, xr.concat(every, "cell", combine_attrs="drop_conflicts"), made_with)
    for name, result in apart.items():
        with files.replacing(out / f"{name}.nc") as file:
            result.to_netcdf(file, engine="scipy")


def rows(league: "xr.Dataset") -> list[dict[str, Any]]:
    """What words and tables say of each cell: medians over seeds at its best rate.

    A network that diverged has an accuracy of 0, and what is shown of it is a dash.
    """
    best = league.isel(rate=league.best_rate)
    accuracy = league.best_test_accuracy
    columns = {
        **{name: best[name] for name in ("remedy", "kind", "line", "start", "cost")},
        "rate": best.learning_rate,
        "accuracy": accuracy.fillna(0).median("seed"),
        "shown": accuracy.median("seed", skipna=False),
        "lowest": accuracy.min("seed"),
        "highest": accuracy.max("seed"),
        "leaves": league.epochs_to_leave.median("seed"),
        **{
            name: best[name].median("seed")
            for name in ("gradient_ratio", "spread", "saturation", "first_change")
        },
    }
    values = zip(*(column.values.tolist() for column in columns.values()), strict=True)
    found = [dict(zip(columns, row, strict=True)) for row in values]
    for row in found:
        row["said"] = f"{row['remedy']} ({percent(row['accuracy'])})"
    return found


def overview(found: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each remedy: median test accuracy from each kind of start."""
    starts = ["small", "usual", "saturated", "own"]
    table = [["remedy", *starts, "what to change"]]
    for name in dict.fromkeys(row["remedy"] for row in found):
        here = {row["start"]: row for row in found if row["remedy"] == name}
        cells = [percent(here[s]["accuracy"]) if s in here else "-" for s in starts]
        table.append([name, *cells, next(iter(here.values()))["line"]])
    return table


def table(found: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each remedy and kind of start, with all numbers."""
    head = ["remedy", "from", "test", "lowest to highest", "rate", "leaves", "cost"]
    return [head] + [
        [
            *(row["remedy"], row["start"], percent(row["shown"])),
            f"{percent(row['lowest'])} to {percent(row['highest'])}",
            f"{row['rate']:g}",
            number(row["leaves"]) if isfinite(row["leaves"]) else "-",
            number(row["cost"]),
        ]
        for row in found
    ]


def signal_table(found: list[dict[str, Any]]) -> list[list[str]]:
    """What each remedy changes, from small weights or its own."""
    return [["remedy", "gradient", "spread", "saturated", "moves", "test"]] + [
        [
            *(row["remedy"], number(row["gradient_ratio"]), number(row["spread"])),
            *(percent(row["saturation"]), number(row["first_change"])),
            percent(row["shown"]),
        ]
        for row in found
        if row["start"] in ("small", "own")
    ]


def described(by_depth: ByDepth) -> list[dict[str, Any]]:
    """Each depth with its leagues: rows, attributes, and the league itself.

    If there are several depths, titles and names of figures say which.
    """
    several = len(by_depth) > 1
    return [
        {
            "depth": depth,
            "which": f" ({depth} hidden layers)" if several else "",
            "deep": f", {depth} hidden layers" if several else "",
            "suffix": f"_{depth}" if several else "",
            **dict.fromkeys(("alone", "together")),
            **{
                title: league.attrs | {"rows": rows(league), "result": league}
                for title, league in leagues.items()
            },
        }
        for depth, leagues in by_depth.items()
    ]


def page(
    settings: Settings, depths: list[dict[str, Any]], picture: Leagues
) -> "list[Section]":
    """The report's sections: for each depth the table, the reasons, the recipes."""
    import _league_figures as figures
    from _league import PICTURE_RATES, PICTURE_SEEDS

    drawn, tables = {}, {}
    for told in depths:
        suffix = told["suffix"]
        if alone := told["alone"]:
            drawn[f"league{suffix}"] = figures.league(alone["result"])
            drawn[f"first_steps{suffix}"] = figures.first_steps(alone["result"])
            tables[f"overview{suffix}"] = overview(alone["rows"])
            tables[f"signals{suffix}"] = signal_table(alone["rows"])
            tables[f"table{suffix}"] = table(alone["rows"])
        if together := told["together"]:
            drawn[f"recipes{suffix}"] = figures.recipes(together["result"])
            tables[f"recipe_table{suffix}"] = table(together["rows"])
    if picture:
        drawn["trainable_depth"] = figures.trainable_depth(picture)
    return sections(
        "remedies_page.md.j2",
        drawn,
        tables,
        depths=depths,
        settings=settings,
        pictured=sorted(picture),
        picture_rates=len(PICTURE_RATES),
        picture_seeds=PICTURE_SEEDS,
    )


def subtitle(by_depth: ByDepth, settings: Settings) -> str:
    """What was run, in a line."""
    leagues = [league for of_depth in by_depth.values() for league in of_depth.values()]
    count = sum(league.test_accuracy.size for league in leagues)
    depths = " and ".join(map(str, by_depth))
    return (
        f"{count:,} networks of {depths} hidden layers of 10 units, softmax output, on "
        f"{settings.data or 'MNIST'}: {settings.seeds} seeds for each of "
        f"{leagues[0].sizes['rate']} learning rates, batches of {settings.batch_size}."
    )


def loaded(settings: Settings) -> "Dataset":
    """The images, once all flags make sense; raises SettingError."""
    from _catalogue import COMBINED, SINGLE

    names = [r.name for r in (*SINGLE, *COMBINED)]
    for name in settings.only:
        wanted = f"one of {', '.join(names)}"
        command_line.expect(name in names, "--only", wanted, name)
    for depth in settings.depth:
        wanted = f"a remedy for {depth} layers that --recipe-epochs does not leave out"
        found = " ".join(settings.only)
        command_line.expect(bool(chosen(settings, depth)), "--only", wanted, found)
    data, _ = command_line.load(settings.data, like_mnist=True)
    size, most = settings.batch_size, len(data.train.y) // LOOKS
    wanted = f"at most {most}, a tenth of the training images"
    command_line.expect(size <= most, "--batch-size", wanted, size)
    return data


def main(settings: Settings) -> int:
    """Trains what is missing, writes everything, prints the table and the answer."""
    command_line.make_folder(settings.out)
    from snn_jax import report

    data = loaded(settings)
    with command_line.going_on(settings.out):
        by_depth = {depth: race_all(settings, data, depth) for depth in settings.depth}
        picture = draw_depths(settings, data)
    made_with = asdict(settings) | {"commit": command_line.commit()}
    save(settings.out, by_depth, picture, made_with)

    depths = described(by_depth)
    words = answers("remedies.md.j2", depths=depths)
    path = report.write(
        settings.out,
        title="What makes the deep network learn?",
        subtitle=subtitle(by_depth, settings),
        answer=words,
        sections=page(settings, depths, picture),
        settings=made_with,
    )
    for told in depths:
        for league in filter(None, (told["alone"], told["together"])):
            images = league["examples"]
            print(f"\n{told['depth']} hidden layers, {images:,} images each")
            print(command_line.as_text(table(league["rows"]), first_column_left=True))
    print(
        "\nTest accuracy: median, lowest and highest of the seeds, at the learning "
        "rate that is best on the\nvalidation set. Leaves: epochs until the network "
        "knows 0.02 nats of the labels. Cost: arithmetic\nof a training step, plain "
        "SGD being 1."
    )
    command_line.tell(words, path)
    return 0


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, {"quick": QUICK, "full": FULL})

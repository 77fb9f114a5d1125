"""When does a deep sigmoid network leave the plateau? Theory, before it is trained.

    python experiments/plateau.py                   about 3 minutes on two cores
    python experiments/plateau.py --preset full     about 20 minutes

Draws networks at random, of all depths, init scales, learning rates, batch sizes and
training sets that the settings name, predicts from their initial weights when each
leaves the plateau, and trains them. Prints how far the predictions were right, and the
laws that follow. Writes the labelled numbers, a figure and report.html, a page with all
of it, into runs/plateau.
"""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    preset: Literal["quick", "full"] = "quick"
    """Sets how many groups of networks are drawn."""
    leaving: int = 6
    """Groups that are predicted to leave within the run."""
    staying: int = 2
    """Groups that are predicted not to."""
    seeds: int = 8
    """Networks in a group: the same settings, other initial weights."""
    depths: tuple[int, ...] = (4, 5, 6, 8)
    """Hidden layers, of 10 units."""
    scales: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3)
    """Init scales."""
    learning_rates: tuple[float, ...] = (0.1, 0.3, 0.5, 1.0, 2.0)
    """Of plain stochastic gradient descent."""
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Images a step."""
    training_sets: tuple[int, ...] = (10_000, 50_000)
    """Training images, the first of the data; at most all of them."""
    images: int = 2_000_000
    """Shown to a network at most, however often."""
    laws: bool = True
    """Whether to say how the time depends on each setting, too."""
    seed: int = 0
    """Of the drawing, and of all initial weights."""
    data: command_line.DataPath = None
    out: Path = Path("runs/plateau")
    """Folder for the result."""

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_count("--leaving", self.leaving)
        command_line.expect_count("--staying", self.staying)
        command_line.expect_count("--seeds", self.seeds)
        command_line.expect_positive("--scales", self.scales)
        command_line.expect_positive("--learning-rates", self.learning_rates)
        for depth in self.depths:
            command_line.expect(depth >= 2, "--depths", "2 or more layers", depth)
        for size in self.batch_sizes:
            command_line.expect_count("--batch-sizes", size)
        for number in self.training_sets:
            command_line.expect_count("--training-sets", number)
        command_line.expect_count("--images", self.images, most=10**9)
        command_line.expect_seed("--seed", self.seed)


QUICK = Settings()
FULL = replace(QUICK, preset="full", leaving=40, staying=14, images=5_000_000)


def main(settings: Settings) -> int:
    """Draws, predicts, trains, compares, prints and writes."""
    command_line.make_folder(settings.out)
    import _plateau
    import _words
    from tqdm import tqdm

    from snn_jax import files, report
    from snn_jax.plateau import figures

    dataset, said = command_line.load(settings.data)
    smallest = min(*settings.training_sets, len(dataset.train.y))
    command_line.expect_batch_size(max(settings.batch_sizes), smallest)
    total = settings.leaving + settings.staying
    with tqdm(total=total, desc="training", unit="group") as bar:
        networks = _plateau.networks(settings, dataset, bar.update)
    tables = {"groups": _plateau.table(networks)}
    if settings.laws:
        tables["laws"] = _plateau.laws(dataset, settings.seed)
    made_with: dict[str, Any] = asdict(settings) | {"commit": command_line.commit()}
    made_with["what was read"] = said
    files.save(settings.out, networks, made_with)
    facts = _plateau.facts(networks) | {"seed": settings.seed}
    answers = _words.answers("plateau.md.j2", **facts)
    page = _words.sections(
        "plateau_page.md.j2",
        {"groups": figures.groups(networks)},
        tables,
        **facts,
        out=settings.out,
    )
    path = report.write(
        settings.out,
        title="When does it leave the plateau?",
        subtitle=_words.answers("plateau_notes.md.j2", **facts)["subtitle"][0],
        answer=answers,
        sections=page,
        settings=made_with,
    )
    for rows in tables.values():
        left = rows is not tables["groups"]
        print(command_line.as_text(rows, first_column_left=left) + "\n")
    command_line.tell(answers, path)
    return 0


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, {"quick": QUICK, "full": FULL})

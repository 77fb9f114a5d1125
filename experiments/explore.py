"""A page on which the deep network trains before one's eyes.

    python experiments/explore.py              under a minute on two cores
    python experiments/explore.py --map 256    about five minutes

Writes runs/explore/explore.html, one file that works offline from a double click: real
digits, the real network and plain SGD, with init scale, learning rate, batch size,
depth, activation, initializer and seed to play with; theory's forecast beside what
happens; and a map of verdicts over init scale and learning rate, from networks that
this script trains. Stopped by anything, it goes on where it was when the same command
is given again.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line

if TYPE_CHECKING:
    from snn_jax.datasets import Dataset

ASSETS = Path(__file__).parent / "explorable"
# What trains, in the order in which the parts use each other; and what is seen.
ENGINE = ("random", "network", "plateau", "meanfield", "measure", "verdict", "worker")
SEEN = ("charts", "views", "page")
# Digits in the page, the first of each set.
NUM_TRAINING, NUM_TEST, MIN_TRAINING = 3000, 500, 512


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    map: int = 64
    """Networks along a side of the map of verdicts; 0 leaves it out."""
    data: command_line.DataPath = None
    out: Path = Path("runs/explore")
    """Folder for the page. The same command goes on with what is missing there."""
    restart: bool = False
    """Begin anew in a folder that holds a map with other settings, which is lost."""

    def validate(self) -> None:
        """Raises SettingError."""
        wanted = "0, or a whole number from 8 to 512"
        command_line.expect(
            self.map == 0 or 8 <= self.map <= 512, "--map", wanted, self.map
        )
        restarts = self.restart and self.map == 0
        command_line.expect(not restarts, "--restart", "a --map to begin anew", "none")


def main(settings: Settings) -> int:
    """Trains the map's networks and writes the page."""
    command_line.make_folder(settings.out)
    dataset, said = command_line.load(settings.data, like_mnist=True)
    data = shown_digits(dataset)
    found = map_of(settings, data) if settings.map else None
    page = settings.out / "explore.html"
    from snn_jax import files

    with files.replacing(page) as file:
        html = render(data, found, said)
        # Of a path whose bytes are no text in this locale.
        file.write_bytes(html.encode("utf-8", "backslashreplace"))
    print(f"Open it in a browser: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    return 0


def shown_digits(dataset: "Dataset") -> "Dataset":
    """The page's digits; those that it is tested on also watch.

    Raises:
        SettingError: a class that none of them is in.
    """
    import numpy as np

    from snn_jax.datasets import Dataset, Split

    train, test = (
        Split(split.x[:count], np.asarray(split.y[:count]))
        for split, count in ((dataset.train, NUM_TRAINING), (dataset.test, NUM_TEST))
    )
    count = len(train.y)
    wanted = f"at least {MIN_TRAINING} images to learn from, for its largest batches"
    command_line.expect(count >= MIN_TRAINING, "--data", wanted, count)
    for split in (train, test):
        missing = sorted(set(range(10)) - set(split.y.tolist()))
        command_line.expect(
            not missing, "--data", "all classes among its first images", missing
        )
    return Dataset(train, test, test)


def map_of(settings: Settings, data: "Dataset") -> dict[str, Any]:
    """What the page wants to know of the map, after training its networks."""
    import _map
    from tqdm import tqdm

    sweep = _map.sweep_of(data, settings.map)
    print(f"{settings.map} x {settings.map} networks, {_map.NUM_EPOCHS} epochs each.")
    begin = time.monotonic()
    with (
        command_line.going_on(settings.out),
        tqdm(total=_map.NUM_EPOCHS * sweep.num_networks, unit="epoch") as bar,
    ):
        result = _map.complete(
            settings.out / "map", sweep, restart=settings.restart, report=bar.update
        )
    print(f"The map took {time.monotonic() - begin:.0f} s.", flush=True)
    return _map.drawn(result, data)


def packed_digits(data: "Dataset") -> str:
    """Pixels, labels and clouds as bytes, for ``load`` in worker.js."""
    import _map
    import numpy as np

    from snn_jax import plateau

    pixels = np.concatenate([data.train.x, data.test.x]) * 255
    parts = (
        pixels.round(),
        data.train.y,
        data.test.y,
        plateau.statistics(*data.train).cloud,
    )
    whole = b"".join(np.asarray(part, np.uint8).tobytes() for part in parts)
    return _map.packed(whole)


def constants() -> dict[str, dict[str, Any]]:
    """Numbers and words of the package that the page's code uses, by its names."""
    from snn_jax import diagnosis, forecast, plateau
    from snn_jax.figures import VERDICT_COLORS
    from snn_jax.plateau import forces, integration

    thresholds = (
        *("LEFT_PLATEAU", "LEARNED", "WORSE_THAN_PLATEAU", "HOPELESS", "SAFETY"),
        *("CONVERGED_GAIN", "LEARNING_GAIN", "CONVERGED_CHANGE", "MOSTLY_SATURATED"),
    )
    kinds = {
        kind.name: {
            "claim": kind.claim,
            "advice": kind.advice,
            "horizon": kind.horizon,
            "color": VERDICT_COLORS[kind.name],
        }
        for kind in diagnosis.KINDS
    }
    of_plateau = ("LEFT", "EARLY", "LATE", "ALIKE", "STABLE")
    return {
        "DIAGNOSIS": {name: getattr(diagnosis, name) for name in thresholds}
        | {
            "READY_TO_LEAVE": forecast.READY_TO_LEAVE,
            "EXTRAPOLATED": forecast.EXTRAPOLATED,
            "kinds": kinds,
        },
        "PLATEAU": {name: getattr(plateau, name) for name in of_plateau}
        | {
            "TOLERANCE": integration.TOLERANCE,
            "MAX_STEPS": integration.MAX_STEPS,
            "POINTS": forces.POINTS.tolist(),
            "SHARES": forces.SHARES.tolist(),
        },
    }


def render(data: "Dataset", found: dict[str, Any] | None, said: str) -> str:
    """The page, as HTML that loads nothing from anywhere."""
    import jinja2

    def source(name: str) -> str:
        return (ASSETS / name).read_text(encoding="utf-8")

    def as_script(value: Any) -> str:
        """JSON that cannot end the script element that it is in."""
        return json.dumps(value).replace("<", "\\u003c")

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("explore.html.j2").render(
        style=source("style.css"),
        engine="\n".join(source(f"{name}.js") for name in ENGINE),
        seen="\n".join(source(f"{name}.js") for name in SEEN),
        constants=as_script(constants()),
        digits=packed_digits(data),
        sizes={"training": len(data.train.y), "test": len(data.test.y)},
        map=as_script(found),
        found=found,
        said=said,
    )


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__)

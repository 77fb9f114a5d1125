"""Networks drawn at random, predicted and trained; and the laws of leaving times."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from _command_line import SettingError
from scipy.stats import spearmanr

from snn_jax import datasets, plateau
from snn_jax.activations import sigmoid
from snn_jax.datasets import Dataset, Split
from snn_jax.networks import MLP
from snn_jax.plateau import labelled
from snn_jax.recipe import Recipe
from snn_jax.sweep import sweep

if TYPE_CHECKING:
    from plateau import Settings

# Groups are trained for so much longer than predicted, and looked at so often.
LONGER, LOOKS = 1.5, 30
# Validation images that a look takes, at most.
NUM_WATCHED = 2000
# Spread of the leaving times in a group from which on their order means something.
SPREAD = 0.1
WIDTH = 10
# Groups that are drawn, at most.
MOST_DRAWN = 500


class Group(NamedTuple):
    """Settings that networks have in common, and when theory has them leave."""

    depth: int
    scale: float
    learning_rate: float
    batch_size: int
    images: int
    key: int
    predicted: np.ndarray

    @property
    def steps_per_epoch(self) -> int:
        """Of SGD."""
        return self.images // self.batch_size

    @property
    def epochs(self) -> float:
        """When the middle network leaves."""
        return float(np.nanmedian(self.predicted)) / self.steps_per_epoch


def _network(dataset: Dataset, depth: int, width: int = WIDTH) -> MLP:
    ends = dataset.train.x.shape[1], datasets.num_classes(dataset)
    return MLP((ends[0], *(width,) * depth, ends[1]), sigmoid, biases=False)


def _first(dataset: Dataset, images: int) -> Dataset:
    """The data with fewer images to train on, and few to watch."""
    few = [Split(*(v[:NUM_WATCHED] for v in split)) for split in dataset[1:]]
    return Dataset(Split(*(values[:images] for values in dataset.train)), *few)


def _drawn(settings: "Settings", dataset: Dataset) -> Iterator[Group]:
    """Groups of networks, with what theory says of each.

    Raises:
        SettingError: too many were drawn in vain.
    """
    rng = np.random.default_rng(settings.seed)
    known: dict[int, plateau.Statistics] = {}
    for trial in range(MOST_DRAWN):
        depth, scale, rate, batch_size, images = (
            rng.choice(values).item()
            for values in (
                settings.depths,
                settings.scales,
                settings.learning_rates,
                settings.batch_sizes,
                settings.training_sets,
            )
        )
        images = min(images, len(dataset.train.y))
        if images not in known:
            known[images] = plateau.statistics(*_first(dataset, images).train)
        key = settings.seed * 10_000 + trial
        many = labelled.initial(
            jax.random.key(key),
            _network(dataset, depth),
            np.arange(settings.seeds),
            scale,
        )
        leaves = plateau.leaving_steps(
            many,
            known[images],
            learning_rate=rate,
            batch_size=batch_size,
            steps=4 * settings.images / batch_size,
        )
        yield Group(depth, scale, rate, batch_size, images, key, leaves)
    raise SettingError(
        f"--leaving and --staying: expected settings of which such groups are found, "
        f"found too few of them in {MOST_DRAWN} drawn"
    )


def networks(
    settings: "Settings", dataset: Dataset, progress: Callable[[int], Any]
) -> xr.Dataset:
    """When networks drawn at random leave, predicted and seen, in steps.

    Returns:
        ``predicted``, ``seen``, inf if not within the run of so many ``steps``, and the
        settings of each ``group``; times are (group, seed).
    """
    missing = {True: settings.leaving, False: settings.staying}
    rows: list[dict[str, Any]] = []
    for group in _drawn(settings, dataset):
        if np.isnan(group.predicted).all():
            continue  # they do not begin on the plateau
        affordable = settings.images / group.images
        goes = LONGER * group.epochs <= affordable
        if not missing[goes]:
            if not any(missing.values()):
                break
            continue
        missing[goes] -= 1
        epochs = math.ceil(LONGER * group.epochs if goes else affordable / 2)
        looks = math.ceil(LOOKS / group.epochs) if goes else 1
        looks = max(1, min(looks, group.steps_per_epoch // 4))
        seen = _seen(
            group, _first(dataset, group.images), settings.seeds, epochs, looks
        )
        rows.append(
            group._asdict()
            | {"seen": seen, "steps": epochs * group.steps_per_epoch, "leaving": goes}
        )
        progress(1)
    arrays = {
        name: (
            ("group", "seed") if np.ndim(rows[0][name]) else "group",
            np.array([row[name] for row in rows]),
        )
        for name in rows[0]
    }
    return xr.Dataset(arrays).sortby(["depth", "scale", "learning_rate"])


def _seen(
    group: Group, dataset: Dataset, seeds: int, epochs: int, looks: int
) -> np.ndarray:
    """Steps until the loss has fallen, between looks on a straight line."""
    recipe = Recipe(
        _network(dataset, group.depth),
        num_epochs=epochs,
        batch_size=group.batch_size,
        looks_per_epoch=looks,
    )
    axes = {"scale": [group.scale], "learning_rate": [group.learning_rate]}
    key = jax.random.key(group.key)
    result = sweep(key, dataset, recipe, axes, seeds=seeds, signals=False)
    known = result.label_information.isel(scale=0, learning_rate=0).values
    target = plateau.LEFT * float(result.label_entropy)
    times = result.epoch.values * group.steps_per_epoch
    found = np.full(seeds, np.inf)
    for seed, curve in enumerate(known):
        after = int(np.argmax(curve > target))
        if curve[after] > target:
            ends = slice(max(after - 1, 0), after + 1)
            found[seed] = np.interp(target, curve[ends], times[ends])
    return found


def _ratios(networks: xr.Dataset) -> np.ndarray:
    """Seen over predicted, of networks that left and of which theory speaks.

    0 where it said that they would not.
    """
    left = np.isfinite(networks.seen) & networks.predicted.notnull()
    ratios: np.ndarray = (networks.seen / networks.predicted).values[left.values]
    return ratios


def _correlations(networks: xr.Dataset) -> list[float]:
    """Of the order of networks in each group in which most left, and not together."""
    found = []
    for seen, predicted in zip(
        networks.seen.values, networks.predicted.values, strict=True
    ):
        both = np.isfinite(seen) & np.isfinite(predicted)
        if both.sum() > 3 and np.ptp(np.log(seen[both])) > SPREAD:
            found.append(float(spearmanr(seen[both], predicted[both]).statistic))
    return found


def facts(networks: xr.Dataset) -> dict[str, Any]:
    """What the words say of the predictions."""
    ratios, correlations = _ratios(networks), _correlations(networks)
    away = np.abs(np.log(np.maximum(ratios, 1e-9)))
    late = networks.predicted >= networks.steps
    early, latest = plateau.interval(1.0)
    return {
        "networks": networks.seen.size,
        "left": len(ratios),
        "near": float((away < math.log(1.25)).mean()) if len(ratios) else math.nan,
        "error": float(np.expm1(np.median(away))) if len(ratios) else math.nan,
        "middle": float(np.median(ratios)) if len(ratios) else math.nan,
        "inside": float(((ratios > early) & (ratios < latest)).mean())
        if len(ratios)
        else math.nan,
        "unsaid": int(networks.predicted.isnull().sum()),
        "interval": (early, latest),
        "correlation": float(np.median(correlations)) if correlations else math.nan,
        "groups": len(correlations),
        "late": int(late.sum()),
        "stayed": int((late & ~np.isfinite(networks.seen)).sum()),
        "depths": sorted(set(networks.depth.values.tolist())),
    }


def table(networks: xr.Dataset) -> list[list[str]]:
    """A row for each group: settings, steps predicted and seen."""
    head = "depth, scale, rate, batch, training set, predicted, seen, ratio, have left"
    rows = [head.split(", ")]
    for group in range(networks.sizes["group"]):
        one = networks.isel(group=group)
        left = np.isfinite(one.seen)
        ratio = float((one.seen / one.predicted).where(left).median())
        rows.append(
            [
                *(f"{one[name].item():g}" for name in ("depth", "scale")),
                f"{one.learning_rate.item():g}",
                *(str(one[name].item()) for name in ("batch_size", "images")),
                _steps(one.predicted),
                _steps(one.seen),
                f"{ratio:.2f}" if np.isfinite(ratio) else "-",
                f"{int(left.sum())}/{left.size}",
            ]
        )
    return rows


def _steps(times: xr.DataArray) -> str:
    """The middle of some times, as one says it."""
    middle = float(times.median())
    return f"{float(f'{middle:.3g}'):,.0f}" if np.isfinite(middle) else "later"


def _even(data: plateau.Statistics) -> plateau.Statistics:
    """The same clouds, of classes that are equally frequent."""
    count = len(data.frequencies)
    shares = data.shares / (count * data.frequencies[data.labels])
    return data._replace(frequencies=np.full(count, 1 / count), shares=shares)


def laws(dataset: Dataset, seed: int, seeds: int = 16) -> list[list[str]]:
    """How leaving times depend on the settings around depth 5, scale 0.1, by theory."""
    data = plateau.statistics(*dataset.train)

    def times(**changes: Any) -> np.ndarray:
        """Steps of each seed; noise=0 is full-batch gradient flow."""
        at: dict[str, Any] = {
            "depth": 5,
            "width": WIDTH,
            "scale": 0.1,
            "learning_rate": 0.3,
        }
        at |= {"batch_size": 32, "noise": 1.0, "data": data} | changes
        network = _network(dataset, int(at.pop("depth")), int(at.pop("width")))
        scale = at.pop("scale")
        key = jax.random.key(seed)
        many = labelled.initial(key, network, np.arange(seeds), scale)
        return plateau.leaving_steps(many, steps=1e30, **at)

    rows = [["leaving time", "law", "median", "middle half of networks"]]

    def say(name: str, text: str, values: np.ndarray, digits: int = 2) -> None:
        """A row: the middle half of the networks."""
        low, middle, high = (
            f"{value:.{digits}f}" for value in np.nanquantile(values, [0.25, 0.5, 0.75])
        )
        rows.append([name, text, middle, f"{low} to {high}"])

    def law(name: str, text: str, axis: str, values: list[Any], **others: Any) -> None:
        """The exponent of each seed between the ends of an axis."""
        ends = [np.log(times(**others, **{axis: value})) for value in values]
        say(name, text, (ends[1] - ends[0]) / math.log(values[1] / values[0]))

    scales = [0.02, 0.05, 0.1]
    three = [times(scale=scale) for scale in scales]
    for first, scale in enumerate(scales[:-1]):
        slope = (three[first] - three[first + 1]) / math.log(scales[first + 1] / scale)
        name = f"init scale {scale:g} to {scales[first + 1]:g}"
        text = "share of the time at 0.1, per unit of ln(1 / s)"
        say(name, text, slope / three[-1])
    law("learning rate 0.1 to 0.3", "power of r", "learning_rate", [0.1, 0.3])
    law("learning rate 0.3 to 1", "power of r", "learning_rate", [0.3, 1.0])
    law("batch size 8 to 32", "power of B", "batch_size", [8, 32])
    law("batch size 32 to 128", "power of B", "batch_size", [32, 128])
    law("width 10 to 20", "power of the width", "width", [10, 20])
    for depth in (4, 5, 6):
        more = times(depth=depth + 1) / times(depth=depth)
        say(f"depth {depth} to {depth + 1}", "factor", more[np.isfinite(more)], 1)
    for depth in (3, 4, 5, 6):
        for kind, statistics in (("", data), (", even classes", _even(data))):
            law(
                f"gradient flow, depth {depth}{kind}",
                "power of s",
                "scale",
                [0.01, 0.03],
                noise=0.0,
                depth=depth,
                data=statistics,
            )
    return rows

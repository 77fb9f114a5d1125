"""What a study of init scales shows: numbers for the words, and tables.

Every function takes the labelled result of ``sweep.sweep`` with the axes scale and
learning_rate and the variable ``verdict`` of ``diagnosis.verdicts``.
"""

import math
from typing import Any

import numpy as np
import xarray as xr
from _words import counted, listed, number, percent

from snn_jax import diagnosis, stopping
from snn_jax.datasets import Dataset

# First over last layer's gradient below which "vanishing" is a word for it: scale 1,
# which trains, lies at 0.01.
VANISHING_RATIO = 1e-3
# Of what a probe reads from the first hidden layer, what it reads from the last where
# nothing is lost.
KEPT = 0.8
# Images that the linear classifier is fitted to and tried on, and its ridge.
NUM_FITTED = 5000
RIDGE = 1e-3
# Accuracies closer than this are the same number of images, in float32.
SAME_ACCURACY = 1e-6


class Groups:
    """The init scales, grouped by the verdict that most of their networks have."""

    def __init__(self, result: xr.Dataset) -> None:
        self.result = result
        self.commonest: dict[float, str] = {}
        for scale in result.scale.values:
            counts = np.bincount(result.verdict.sel(scale=scale).values.ravel())
            self.commonest[float(scale)] = diagnosis.NAMES[int(counts.argmax())]
        self.stuck = self.scales("vanishing", "too early to tell")
        self.learned = self.scales("converged", "learning")
        self.failed = [s for s in self.commonest if s not in self.learned]

    def scales(self, *names: str) -> list[float]:
        """Those of which most networks have one of these verdicts."""
        return [scale for scale, name in self.commonest.items() if name in names]

    def count(self, scales: list[float], *names: str) -> str:
        """How many networks of these scales have one of these verdicts."""
        cells = self.result.verdict.sel(scale=scales).values
        wanted = [diagnosis.NAMES.index(name) for name in names]
        return (
            f"{int(np.isin(cells, wanted).sum())} of {counted(cells.size, 'network')}"
        )

    def median_loss(self, scales: list[float]) -> float:
        """On validation images, in the end."""
        last = self.result.valid_loss.isel(epoch=-1)
        return float(last.sel(scale=scales).median(skipna=True))

    def on_plateau(self, scales: list[float]) -> bool:
        """Whether the loss in the middle is that of the best constant output."""
        away = self.median_loss(scales) - float(self.result.plateau_loss)
        entropy = float(self.result.label_entropy)
        return abs(away) < diagnosis.LEFT_PLATEAU * entropy

    def fastest(self, scales: list[float]) -> float:
        """Share by which the layer that moves most moved in the last epoch."""
        last = self.result.weight_change.isel(epoch=-1)
        return float(last.sel(scale=scales).max("layer").median(skipna=True))

    def median_accuracy(self, scales: list[float]) -> float:
        """On test images, of the networks that have one."""
        return float(self.result.test_accuracy.sel(scale=scales).median(skipna=True))

    def dead(self, scales: list[float]) -> float:
        """Share of hidden units that are saturated for every image in the end."""
        return float(self.result.dead.isel(epoch=-1).sel(scale=scales).mean())

    def constant(self, scales: list[float]) -> int:
        """How many networks are right exactly as often as a class is shown."""
        accuracy = self.result.test_accuracy.sel(scale=scales)
        of_one_class = abs(accuracy - self.result.test_class_frequency).min("class")
        return int((of_one_class < SAME_ACCURACY).sum())


def first_over_last(result: xr.Dataset) -> xr.DataArray:
    """First over last layer's gradient rms before the first step, (scale,)."""
    initial = result["gradient_rms"].isel(epoch=0, learning_rate=0)
    return (initial.isel(layer=0) / initial.isel(layer=-1)).median("seed")


def of_scale(result: xr.Dataset, scale: float) -> dict[str, Any]:
    """What the words say of an init scale: medians over seeds before the first step."""
    here = result.sel(scale=scale)
    initial = here.isel(epoch=0, learning_rate=0).median("seed")
    typical = initial.gradient_median
    found = {
        "ratio": first_over_last(result).sel(scale=scale),
        "typical_ratio": typical.isel(layer=0) / typical.isel(layer=-1),
        "top_spread": initial.activation_spread.isel(hidden_layer=-1),
        "bottom_probe": initial.probe_accuracy.isel(hidden_layer=0),
        "top_probe": initial.probe_accuracy.isel(hidden_layer=-1),
        "saturated": initial.saturation.mean(),
        "saturated_later": here.saturation.isel(epoch=-1).mean(),
    }
    if "gradient_rms_exact" in result:
        theory = here.gradient_rms_exact
        found["predicted_ratio"] = theory.isel(layer=0) / theory.isel(layer=-1)
    return {name: float(value) for name, value in found.items()}


def of_data(dataset: Dataset) -> dict[str, Any]:
    """What the words say of the data, before they blame the network.

    ``linear`` is the accuracy on validation images of a linear classifier of the
    pixels, fitted by least squares: whether there is anything to read.
    """
    x, y = (values[:NUM_FITTED] for values in dataset.train)
    labels = np.unique(y)
    x_valid, y_valid = (values[:NUM_FITTED] for values in dataset.valid)
    mean = x.mean(axis=0, dtype=float)
    x, x_valid = x - mean, x_valid - mean
    # A ridge: there may be fewer images than pixels.
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1])
    shares = (y[:, None] == labels).mean(axis=0)
    weights = np.linalg.solve(gram, x.T @ ((y[:, None] == labels) - shares))
    said = labels[(x_valid @ weights + shares).argmax(axis=1)]
    linear = float((said == y_valid).mean())
    commonest = float((y_valid == labels[shares.argmax()]).mean())
    noise = 3 * math.sqrt(commonest * (1 - commonest) / len(y_valid))
    return {
        "train": len(dataset.train.y),
        "same": bool((dataset.train.x == dataset.train.x[0]).all()),
        "largest": float(dataset.train.x.max()),
        "linear": linear,
        "commonest": commonest,
        "readable": linear > commonest + noise,
    }


def facts(
    result: xr.Dataset, data: dict[str, Any], kind: str = "digit"
) -> dict[str, Any]:
    """All that the words need to know, by name; kind is "digit", or else "class".

    Args:
        result: of the sweep, with verdicts.
        data: as from ``of_data``.
        kind: what the images show.
    """
    groups = Groups(result)
    at = {scale: of_scale(result, scale) for scale in groups.commonest}
    verdicts = dict.fromkeys(groups.commonest.values())
    diverged = int((result.verdict == diagnosis.NAMES.index("diverged")).sum())
    found: dict[str, Any] = result.attrs | {
        "class": kind,
        "classes": "classes" if kind == "class" else f"{kind}s",
        "plateau": float(result.plateau_loss),
        "entropy": float(result.label_entropy),
        "groups": groups,
        "data": data,
        "KEPT": KEPT,
        "at": at,
        "forecasts": forecasts(result, groups.stuck),
        "small": [s for s in groups.stuck if at[s]["ratio"] < VANISHING_RATIO],
        "epochs": int(result.epoch[-1]),
        "seeds": result.sizes["seed"],
        "networks": result.verdict.size,
        "per_scale": result.verdict.size // result.sizes["scale"],
        "diverged": diverged,
        "stopped": stopping.counts(result),
        "kinds": [diagnosis.BY_NAME[n] for n in verdicts],
        "horizon": diagnosis.BY_NAME["vanishing"].horizon,
        "longest_horizon": diagnosis.LONGEST_HORIZON,
        "early": int(result.epoch[-1]) // diagnosis.LONGEST_HORIZON,
        "num_hidden": result.sizes["hidden_layer"],
    }
    if groups.learned:
        accuracy = result.test_accuracy.sel(scale=groups.learned)
        medians = accuracy.median("seed", skipna=False).fillna(-1)
        best = medians.isel(medians.argmax(["scale", "learning_rate"]))
        seeds = accuracy.sel(scale=best.scale, learning_rate=best.learning_rate)
        good = float(accuracy.median(["seed", "learning_rate"]).idxmax("scale"))
        failed = sorted(groups.failed, key=lambda scale: abs(np.log(scale / good)))
        found |= {
            "best": best,
            "best_seeds": seeds,
            "good": good,
            "nearest": failed[0] if failed else None,
        }
    return found


def forecasts(result: xr.Dataset, scales: list[float]) -> list[str]:
    """When networks of these scales leave the plateau, by theory, in words."""
    if "leaves_predicted" not in result:
        return []
    found = []
    ahead = diagnosis.LONGEST_HORIZON * int(result.epoch[-1])
    for scale in scales:
        parts, never = [], []
        for rate in result.learning_rate.values:
            predicted = result.leaves_predicted.sel(scale=scale, learning_rate=rate)
            predicted = predicted.dropna("seed")
            if predicted.size and np.isfinite(predicted.median()):
                text = epoch_range(predicted, ahead)
                parts.append(f"in epoch {text} at learning rate {rate:g}")
            elif predicted.size:
                never.append(float(rate))
        if never:
            parts.append(f"not within {ahead} epochs at learning rate {listed(never)}")
        if parts:
            found.append(f"at init scale {scale:g} {', '.join(parts)}")
    return found


def outcome_table(result: xr.Dataset) -> list[list[str]]:
    """A row for each init scale and learning rate; medians over seeds."""
    head = "scale, rate, loss, information, accuracy, lowest to highest, gradient"
    rows = [[*head.split(", "), "verdict"]]
    ratio = first_over_last(result)
    for scale in result.scale.values:
        for rate in result.learning_rate.values:
            cell = result.sel(scale=scale, learning_rate=rate)
            last = cell.isel(epoch=-1).median("seed", skipna=False)
            accuracy = 100 * cell.test_accuracy
            middle = float(accuracy.median(skipna=False))
            counts = np.bincount(cell.verdict.values, minlength=len(diagnosis.NAMES))
            rows.append(
                [
                    f"{scale:g}",
                    f"{rate:g}",
                    f"{float(last.valid_loss):.3f}",
                    f"{float(last.label_information):z.3f}",
                    f"{middle:.2f} %" if np.isfinite(middle) else "-",
                    f"{float(accuracy.min()):.2f} to {float(accuracy.max()):.2f}",
                    number(ratio.sel(scale=scale)),
                    f"{diagnosis.NAMES[int(counts.argmax())]} "
                    f"{counts.max()}/{counts.sum()}",
                ]
            )
    return rows


def epoch_range(epochs: xr.DataArray, ahead: float) -> str:
    """The median of some networks' epochs, with the first and the last.

    Args:
        epochs: inf if not within so many ahead.
        ahead: how far it was looked.

    >>> epoch_range(xr.DataArray([4.2, 5.1, np.inf]), 32)
    '6 (5 to >32)'
    """
    numbers = (float(value) for value in (epochs.median(), epochs.min(), epochs.max()))
    middle, low, high = (
        f"{math.ceil(n)}" if np.isfinite(n) else f">{ahead:g}" for n in numbers
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def leaving_table(result: xr.Dataset) -> list[list[str]]:
    """Epochs in which networks leave the plateau, predicted and seen.

    Needs the variables of ``plateau.labelled.leaving``.
    """
    head = "scale, learning rate, predicted, seen, have left, within one look"
    rows = [head.split(", ")]
    last, look = float(result.epoch[-1]), float(result.epoch[1])
    for scale in result.scale.values:
        for rate in result.learning_rate.values:
            at = result.sel(scale=scale, learning_rate=rate)
            at = at[["leaves", "leaves_predicted"]]
            both = at.leaves_predicted.notnull() & at.leaves.notnull()
            at = at.where(both, drop=True)
            if not at.sizes["seed"]:
                continue
            left = np.isfinite(at.leaves)
            away = at.leaves_predicted - (at.leaves - look / 2)
            near = int((left & (abs(away) <= 1.5 * look)).sum())
            count = int(left.sum())
            rows.append(
                [
                    f"{scale:g}",
                    f"{rate:g}",
                    epoch_range(at.leaves_predicted, last * diagnosis.LONGEST_HORIZON),
                    epoch_range(at.leaves, last),
                    f"{count}/{left.size}",
                    f"{near}/{count}" if count else "-",
                ]
            )
    return rows


def confusion_table(counts: xr.DataArray) -> list[list[str]]:
    """Verdicts, how many, and how many of them came true."""
    rows = [["verdict", "networks", "came true", "share"]]
    for name in counts.verdict.values:
        wrong, right = (int(n) for n in counts.sel(verdict=name))
        if wrong + right == 0:
            continue
        came_true = [str(right), percent(right / (wrong + right))]
        claims_nothing = name == "too early to tell"
        rows.append(
            [
                str(name),
                str(wrong + right),
                *(["-", "-"] if claims_nothing else came_true),
            ]
        )
    decided = counts.drop_sel(verdict="too early to tell")
    right, total = int(decided.sel(came_true=True).sum()), int(decided.sum())
    share = percent(right / total) if total else "-"
    rows.append(["all that claim something", str(total), str(right), share])
    return rows


def outcome_counts(counts: xr.DataArray) -> list[list[str]]:
    """Verdicts against outcomes, a row a verdict that was given."""
    rows = [["verdict", *(str(name) for name in counts.outcome.values)]]
    for name in counts.verdict.values:
        cells = counts.sel(verdict=name).values
        if cells.any():
            rows.append([str(name), *(str(int(n)) for n in cells)])
    return rows


def verdict_list() -> list[list[str]]:
    """What every verdict claims, for how long, and what to try first."""
    head = ["verdict", "a network that", "for, in epochs seen", "first try"]
    return [head] + [
        [kind.name, kind.claim, f"{kind.horizon} x", kind.advice]
        for kind in diagnosis.KINDS
    ]


def theory_table(result: xr.Dataset) -> list[list[str]]:
    """Measured over predicted gradient rms, layer by layer, before the first step.

    Needs ``initial_gradient_rms`` and ``initial_gradient_typical``, measured on many
    networks, and the predictions, as from ``comparison.predictions``.
    """
    rows = [["scale", "gradient", *(f"layer {i}" for i in result.layer.values)]]
    ratios = {
        "/ exact": ("initial_gradient_rms", "gradient_rms_exact"),
        "/ mean field": ("initial_gradient_rms", "gradient_rms_meanfield"),
        "typical / exact": ("initial_gradient_typical", "gradient_rms_exact"),
    }
    for scale in result.scale.values:
        at = result.sel(scale=scale)
        measured = [f"{float(v):.2e}" for v in at.initial_gradient_rms]
        rows.append([f"{scale:g}", "measured", *measured])
        for name, (above, below) in ratios.items():
            if below in result:
                cells = (f"{float(v):.3f}" for v in at[above] / at[below])
                rows.append(["", name, *cells])
    return rows


def difference_table(result: xr.Dataset) -> list[list[str]]:
    """chi_1, depth scale, and the top layer's differences beside the difference map."""
    head = "scale, chi_1, depth scale, spread in the top layer, predicted"
    rows = [[*head.split(", "), "measured / predicted"]]
    for scale in result.scale.values:
        at = result.sel(scale=scale)
        measured = at.initial_spread.isel(hidden_layer=-1)
        predicted = at.spread_meanfield.isel(hidden_layer=-1)
        rows.append(
            [
                f"{scale:g}",
                number(at.chi_1),
                number(at.depth_scale),
                f"{float(measured):.2e}",
                f"{float(predicted):.2e}",
                f"{float(measured / predicted):.2f}",
            ]
        )
    return rows


def drift_table(result: xr.Dataset) -> list[list[str]]:
    """Decay of the top layer's mean activation, measured over predicted."""
    rows = [["scale", "learning rate", "decay an epoch", "predicted", "ratio"]]
    for scale in result.scale.values:
        for rate in result.learning_rate.values:
            at = result.sel(scale=scale, learning_rate=rate)
            if np.isfinite(at.drift_meanfield):
                decay, predicted = float(at.drift), float(at.drift_meanfield)
                rows.append(
                    [
                        f"{scale:g}",
                        f"{rate:g}",
                        f"{decay:.4f}",
                        f"{predicted:.4f}",
                        f"{decay / predicted:.2f}",
                    ]
                )
    return rows

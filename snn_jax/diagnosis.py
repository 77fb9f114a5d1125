"""What is wrong with a network: one verdict each, with the numbers that decided it.

A verdict is drawn from three curves over the epochs seen so far, T of them:

    information   H0 - loss in nats: what the network knows of the labels
    spread        standard deviation over images of the top hidden layer: the plateau is
                  a saddle, and long before the loss moves the differences between
                  images grow, by a factor an epoch, until they are large enough to use
    saturation    fraction of saturated units in the hidden layers above the first

Every verdict says how far it reaches (its horizon), so that it can be wrong; the
thresholds were set on one set of networks (depth 5, batch 32) and hold on others (other
depths, learning rates, seeds and batch sizes), see ``tests/test_diagnosis.py``.
"""

import math
from typing import NamedTuple

import numpy as np
import xarray as xr

# Nats. On the plateau the noise of the batches moves the loss by up to 0.005 at
# learning rates to 1; a network that leaves it gains 0.2 within an epoch or two, when
# the first digit stands out. Anything between 0.01 and 0.1 separates the two.
LEFT_PLATEAU = 0.02
# Share of the label entropy, all that there is to know, that counts as having learned.
LEARNED = 0.5
# Of ten equally frequent classes, in nats.
LABEL_ENTROPY = math.log(10)
# A loss this far above H0 is worse than knowing nothing, by more than noise.
WORSE_THAN_PLATEAU = 0.3
# Nats that a network would gain at its present rate if it ran as long again. A
# converged one gains less than the first, one that learns more than the second.
CONVERGED_GAIN = 0.1
LEARNING_GAIN = 0.25
# From this share of saturated units on, layer after layer, the image hardly matters.
MOSTLY_SATURATED = 0.7
# Spread at which differences between images begin to feed their own growth: networks
# with more than this leave the plateau sooner than their past growth tells.
READY_TO_LEAVE = 2e-4
# Growth speeds up before the end; a network is called stuck only if it would take twice
# as long as the horizon at the growth seen so far.
SAFETY = 2


class Kind(NamedTuple):
    """A verdict: its name, what it claims, for how long, and what to try first.

    ``horizon`` is in units of the epochs seen: the claim is for horizon x T epochs.
    """

    name: str
    claim: str
    horizon: int
    advice: str


KINDS = (
    Kind(
        "converged",
        "has learned, and will gain or lose less than 0.3 nats",
        4,
        "nothing, or a wider network",
    ),
    Kind("learning", "will know more than now", 4, "train longer"),
    Kind(
        "slow",
        "has left the plateau but will not have learned half of what there is to know",
        2,
        "a larger learning rate",
    ),
    Kind(
        "vanishing",
        "is stuck on the class-prior plateau and will still be",
        2,
        "a larger init scale, so that gradients reach the first layer",
    ),
    Kind(
        "saturated",
        "has most units at 0 or 1 and will not learn half of what there is to know",
        4,
        "a smaller init scale, so that units can move",
    ),
    Kind("diverged", "has no finite loss, or one worse than guessing", 4,
         "a smaller learning rate"),
    Kind(
        "too early to tell",
        "is on the plateau, and may leave it within four times as many epochs",
        4,
        "train longer before judging",
    ),
)  # fmt: skip
NAMES = tuple(kind.name for kind in KINDS)
BY_NAME = {kind.name: kind for kind in KINDS}
LONGEST_HORIZON = max(kind.horizon for kind in KINDS)


class Verdict(NamedTuple):
    """The verdict on one network and its evidence.

    Attributes:
        kind: name, claim, horizon, first thing to try.
        information: what the network knows of the labels after T epochs, in nats.
        gain: what it would gain in another T epochs at the rate of the last quarter.
        saturation: of the hidden layers above the first.
        epochs_to_leave: for a network on the plateau, epochs until its images differ
            enough to leave, at the growth of the second half; else 0.
    """

    kind: Kind
    information: float
    gain: float
    saturation: float
    epochs_to_leave: float

    def __str__(self) -> str:
        evidence = f"information {self.information:.3f} nats"
        if self.kind.name in ("converged", "learning", "slow", "diverged"):
            evidence += f", gain {self.gain:+.3f} in as many epochs again"
        if self.kind.name == "saturated":
            evidence += f", {100 * self.saturation:.0f} % of the units saturated"
        if self.kind.name in ("vanishing", "too early to tell"):
            far = "never" if np.isinf(self.epochs_to_leave) else "about"
            epochs = "" if far == "never" else f" {self.epochs_to_leave:.0f} epochs"
            evidence += f", to leave the plateau: {far}{epochs}"
        return f"{self.kind.name}: {evidence}; first try {self.kind.advice}"


def _epochs_to_leave(spread: np.ndarray) -> float:
    """At the exponential growth of the second half of the curve; inf if none."""
    num_epochs = len(spread) - 1
    back = max(1, num_epochs // 2)
    now, before = float(spread[-1]), float(spread[-1 - back])
    if now >= READY_TO_LEAVE:
        return 0.0
    if not 0 < before < now:
        return np.inf
    growth = np.log(now / before) / back
    return float(np.log(READY_TO_LEAVE / now) / growth)


def diagnose(
    information: np.ndarray,
    spread: np.ndarray,
    saturation: np.ndarray,
    *,
    label_entropy: float = LABEL_ENTROPY,
) -> Verdict:
    """The verdict on one network from its first T epochs.

    Args:
        information: (T + 1,) label information H0 - loss after epochs 0 to T, in nats.
        spread: (T + 1,) of the top hidden layer's activations over images, float64.
        saturation: (T + 1,) mean saturated fraction of the hidden layers above the
            first, or of the first if it is the only one.
        label_entropy: H0 in nats, all that there is to know.

    Raises:
        ValueError: fewer than one epoch.

    >>> flat = np.zeros(11)
    >>> print(diagnose(flat, 1e-9 * np.ones(11), flat))
    vanishing: information 0.000 nats, to leave the plateau: never; first try a larger \
init scale, so that gradients reach the first layer
    """
    num_epochs = len(information) - 1
    if num_epochs < 1:
        raise ValueError(f"epochs: expected at least 1, found {num_epochs}")
    back = max(1, num_epochs // 4)
    now = float(information[-1])
    gain = (now - float(information[-1 - back])) * num_epochs / back
    saturated = float(saturation[-1])
    to_leave = 0.0

    if not np.isfinite(now) or (now < -WORSE_THAN_PLATEAU and gain < LEARNING_GAIN):
        name = "diverged"
    elif now >= LEARNED * label_entropy:
        name = "converged" if gain < CONVERGED_GAIN else "learning"
    elif saturated > MOSTLY_SATURATED and (now < LEFT_PLATEAU or gain < LEARNING_GAIN):
        name = "saturated"
    elif now > LEFT_PLATEAU:
        name = "learning" if gain > LEARNING_GAIN else "slow"
    else:
        to_leave = _epochs_to_leave(spread)
        beyond = (BY_NAME["vanishing"].horizon - 1) * num_epochs
        name = "vanishing" if to_leave > SAFETY * beyond else "too early to tell"
    return Verdict(BY_NAME[name], now, gain, saturated, to_leave)


def _curves(result: xr.Dataset, epoch: int) -> tuple[np.ndarray, ...]:
    """Information, spread and saturation of every network up to an epoch."""
    seen = result.sel(epoch=slice(0, epoch))
    above_first = slice(1, None) if result.sizes["hidden_layer"] > 1 else slice(None)
    saturation = seen.saturation.isel(hidden_layer=above_first).mean("hidden_layer")
    curves = (
        seen.label_information,
        seen.activation_spread.isel(hidden_layer=-1),
        saturation,
    )
    return tuple(curve.transpose(..., "epoch").values for curve in curves)


def verdicts(result: xr.Dataset, epoch: int | None = None) -> xr.DataArray:
    """The verdict on every network of a sweep.

    Args:
        result: as from ``sweep.sweep``, with at least one hidden layer.
        epoch: the last epoch that the verdicts may know of; all of them by default.

    Returns:
        (scale, learning_rate, seed), an index into ``NAMES``, with the names in the
        attribute ``flag_meanings`` as the CF conventions want them.
    """
    last = int(result.epoch[-1]) if epoch is None else epoch
    information, spread, saturation = _curves(result, last)
    found = np.zeros(information.shape[:-1], np.int32)
    for network in np.ndindex(found.shape):
        verdict = diagnose(
            information[network],
            spread[network],
            saturation[network],
            label_entropy=result.attrs["label_entropy"],
        )
        found[network] = NAMES.index(verdict.kind.name)
    return xr.DataArray(
        found,
        dims=("scale", "learning_rate", "seed"),
        coords={name: result[name] for name in ("scale", "learning_rate", "seed")},
        attrs={
            "long_name": f"verdict after {last} epochs",
            "flag_values": np.arange(len(NAMES), dtype=np.int32),
            "flag_meanings": " ".join(name.replace(" ", "_") for name in NAMES),
        },
    )


def was_right(
    verdict: str,
    information: np.ndarray,
    num_epochs: int,
    *,
    label_entropy: float = LABEL_ENTROPY,
) -> bool:
    """Whether the claim of a verdict after num_epochs came true within its horizon.

    Args:
        verdict: a name.
        information: (more epochs,) the label information of the whole, longer run.
        num_epochs: T, those that the verdict knew of.
        label_entropy: H0 in nats.

    Raises:
        ValueError: the run does not reach the horizon.
    """
    horizon = BY_NAME[verdict].horizon * num_epochs
    if horizon >= len(information):
        raise ValueError(
            f"information: expected more than {horizon} epochs, the horizon, found "
            f"{len(information) - 1}"
        )
    then, later = float(information[num_epochs]), float(information[horizon])
    # What happened on the way: noise may take a network over a line and back.
    way = information[num_epochs : horizon + 1]
    return {
        "converged": abs(later - then) < 0.3,
        "learning": later > then,
        "slow": later < LEARNED * label_entropy,
        "vanishing": bool((way < LEFT_PLATEAU).all()),
        "saturated": later < LEARNED * label_entropy,
        "diverged": not later > LEFT_PLATEAU,
        # It claims nothing: what counts is how rarely it is needed.
        "too early to tell": True,
    }[verdict]


def confusion(result: xr.Dataset, epoch: int) -> xr.DataArray:
    """Verdicts after some epochs against what became of the networks.

    Args:
        result: a sweep that reaches the horizon of every verdict, 4 x epoch.
        epoch: the last epoch that the verdicts may know of.

    Returns:
        (verdict, came_true) counts of networks.
    """
    information, _, _ = _curves(result, int(result.epoch[-1]))
    found = verdicts(result, epoch).values
    counts = np.zeros((len(NAMES), 2), int)
    for network in np.ndindex(found.shape):
        right = was_right(
            NAMES[found[network]],
            information[network],
            epoch,
            label_entropy=result.attrs["label_entropy"],
        )
        counts[found[network], int(right)] += 1
    return xr.DataArray(
        counts,
        dims=("verdict", "came_true"),
        coords={"verdict": list(NAMES), "came_true": [False, True]},
    )


OUTCOMES = ("on the plateau", "knows something", "has learned", "diverged")


def outcomes(result: xr.Dataset, epoch: int) -> xr.DataArray:
    """Verdicts after some epochs against where the networks are after all of them.

    Args:
        result: as from ``sweep.sweep``.
        epoch: the last epoch that the verdicts may know of.

    Returns:
        (verdict, outcome) counts of networks.
    """
    information, _, _ = _curves(result, int(result.epoch[-1]))
    found = verdicts(result, epoch).values
    counts = np.zeros((len(NAMES), len(OUTCOMES)), int)
    for network in np.ndindex(found.shape):
        last = float(information[network][-1])
        if not np.isfinite(last) or last < -WORSE_THAN_PLATEAU:
            outcome = 3
        elif last >= LEARNED * result.attrs["label_entropy"]:
            outcome = 2
        else:
            outcome = int(last > LEFT_PLATEAU)
        counts[found[network], outcome] += 1
    return xr.DataArray(
        counts,
        dims=("verdict", "outcome"),
        coords={"verdict": list(NAMES), "outcome": list(OUTCOMES)},
    )

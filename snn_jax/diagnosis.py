"""What is wrong with a network: one verdict each, with the numbers that decided it.

A verdict is drawn from curves over the epochs seen so far, T of them:

    information   plateau loss - loss: what the network knows of the targets
    training      the same of the training loss
    spread        standard deviation over examples of the top hidden layer: the plateau
                  is a saddle, and long before the loss moves the differences between
                  examples grow, by a factor an epoch, until they are large enough to
                  use
    saturation    fraction of saturated units in the hidden layers above the first

All that there is to know is H0, the label entropy: the loss of the best constant
output. Thresholds of information are shares of it, for any loss and number of classes.
On the plateau theory says when it ends, if it covers the network (``plateau``) and its
forecast is in the result (``plateau.labelled.leaving``); elsewhere the growth of what
differs between examples is extrapolated, far less well.

With several looks an epoch, read "looks" for "epochs" throughout.

Every verdict says how far it reaches (its horizon), so that it can be wrong; the
thresholds were set on one set of networks (depth 5, batch 32) and hold on others (other
depths, learning rates, seeds and batch sizes), see ``tests/test_diagnosis.py``.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from snn_jax import curves
from snn_jax.curves import each_network
from snn_jax.forecast import EXTRAPOLATED, Forecast, extrapolated

# Shares of the label entropy, set in nats on ten equally frequent classes.
TEN_CLASSES = math.log(10)
# On the plateau the noise of the batches moves the loss by up to 0.005 nats at learning
# rates to 1; a network that leaves it gains 0.2 within an epoch or two, when the first
# class stands out. Anything between 0.01 and 0.1 separates the two.
LEFT_PLATEAU = 0.02 / TEN_CLASSES
# What counts as having learned.
LEARNED = 0.5
# A loss this far above H0 is worse than knowing nothing, by more than noise.
WORSE_THAN_PLATEAU = 0.3 / TEN_CLASSES
# And one this far above it, and above where it was, does not come back.
HOPELESS = 10.0
# What a network would gain at its present rate if it ran as long again. A converged one
# gains less than the first, one that learns more than the second.
CONVERGED_GAIN = 0.1 / TEN_CLASSES
LEARNING_GAIN = 0.25 / TEN_CLASSES
# A converged network stays within this of where it is; one that is this much below its
# own best has lost something.
CONVERGED_CHANGE = 0.3 / TEN_CLASSES
# From this share of saturated units on, layer after layer, the input hardly matters.
MOSTLY_SATURATED = 0.7
# Growth speeds up before the end; a network is called stuck only if it would take twice
# as long as the horizon at the growth seen so far.
SAFETY = 2
# Why a sweep may stop a network before its first step: it is said to be vanishing.
BEYOND = "forecast beyond the run"
NOT_IN_SIGHT = Forecast(math.inf, math.inf, math.inf)


class Kind(NamedTuple):
    """A verdict: its name, what it claims, for how long, and what to try first.

    ``horizon`` is in units of the epochs seen: the claim is for horizon x T epochs.
    """

    name: str
    claim: str
    horizon: int
    advice: str


KINDS = (
    Kind("converged",
         f"has learned, and will gain or lose less than {100 * CONVERGED_CHANGE:.0f} % "
         "of what there is to know", 4, "nothing, or a wider network"),
    Kind("learning", "will know more than now", 4, "train longer"),
    Kind("slow",
         "moves, but too little to learn half of what there is to know", 2,
         "a larger learning rate"),
    Kind("vanishing",
         "is stuck on the plateau, no better than one constant output, and will still "
         "be", 2, "a larger init scale, so that gradients reach the first layer"),
    Kind("saturated",
         "has most units saturated and will not learn half of what there is to know",
         4, "a smaller init scale, so that units can move"),
    Kind("diverged",
         "has no finite loss, or one worse than guessing and than before training", 4,
         "a smaller learning rate"),
    Kind("too early to tell",
         "knows nothing yet, and may learn within four times as many epochs",
         4, "train longer before judging"),
    Kind("overfitting",
         "knows less of new examples than at its best, though it knows the training "
         "examples better, and will not get far beyond its best", 4,
         "to stop at its best epoch, more data or a smaller network"),
    Kind("getting worse",
         "knows less than at its best, and will not get far beyond it", 4,
         "a smaller learning rate, or to stop at its best epoch"),
)  # fmt: skip
NAMES = tuple(kind.name for kind in KINDS)
BY_NAME = {kind.name: kind for kind in KINDS}
LONGEST_HORIZON = max(kind.horizon for kind in KINDS)


class Verdict(NamedTuple):
    """The verdict on one network and its evidence.

    Attributes:
        kind: name, claim, horizon, first thing to try.
        information: what the network knows of the targets after T epochs, in the unit
            of the loss.
        label_entropy: all that there is to know.
        gain: what it would gain in another T epochs at the rate of the last quarter.
        saturation: of the hidden layers above the first; NaN if not known.
        epochs_to_leave: for a network on the plateau, epochs until its examples differ
            enough to leave, at the growth of the second half, NaN if not known; else 0.
        best: the information at its best epoch.
        forecast: theory's, if known.
    """

    kind: Kind
    information: float
    label_entropy: float
    gain: float
    saturation: float
    epochs_to_leave: float
    best: float
    forecast: Forecast | None = None

    def __str__(self) -> str:
        evidence = f"information {self.information:.3f} of {self.label_entropy:.3f}"
        moves = self.kind.name in ("converged", "learning", "slow", "diverged")
        if moves and np.isfinite(self.gain):
            evidence += f", gain {self.gain:+.3f} in as many epochs again"
        if self.kind.name in ("overfitting", "getting worse"):
            evidence += f", {self.best:.3f} at its best"
        if self.kind.name == "saturated":
            evidence += f", {100 * self.saturation:.0f} % of the units saturated"
        above = self.information < -WORSE_THAN_PLATEAU * self.label_entropy
        if self.kind.name in ("vanishing", "too early to tell") and not above:
            evidence += f", to leave the plateau: {self._leaving()}"
        return f"{self.kind.name}: {evidence}; first try {self.kind.advice}"

    def _leaving(self) -> str:
        """When, by theory, else by the curves."""
        if self.forecast is not None:
            return str(self.forecast)
        if np.isfinite(self.epochs_to_leave):
            low, high = (share * self.epochs_to_leave for share in EXTRAPOLATED)
            return f"in {low:.0f} to {high:.0f} epochs"
        return "never" if np.isinf(self.epochs_to_leave) else "unknown"


def _gain(known: np.ndarray) -> float:
    """In as many epochs again, at the pace of the last quarter; NaN skipped."""
    num_epochs = len(known) - 1
    latest = num_epochs - max(1, num_epochs // 4)
    seen = [i for i in range(latest + 1) if np.isfinite(known[i])]
    if not seen:
        return float("nan")
    back = num_epochs - seen[-1]
    return float(known[-1] - known[seen[-1]]) * num_epochs / back


def _check_curves(*curves: Any) -> None:
    """Raises ValueError unless all are of one network and the same epochs."""
    shapes = [np.shape(curve) for curve in curves]
    if len(shapes[0]) != 1 or set(shapes) != {shapes[0]}:
        raise ValueError(f"curves: expected one of each, (T + 1,), found {shapes}")
    if shapes[0][0] < 2:
        raise ValueError(f"epochs: expected at least 1, found {shapes[0][0] - 1}")


def diagnose(
    information: Any,
    spread: Any,
    saturation: Any,
    *,
    label_entropy: float,
    training: Any = None,
    forecast: Forecast | None = None,
) -> Verdict:
    """The verdict on one network from its first T epochs.

    Args:
        information: (T + 1,) plateau loss - loss after epochs 0 to T.
        spread: (T + 1,) of the top hidden layer's activations over examples, float64;
            NaN if not known: then it is too early to call a network vanishing.
        saturation: (T + 1,) mean saturated fraction of the hidden layers above the
            first, or of the first if it is the only one; NaN if not known: then no
            network is called saturated.
        label_entropy: H0, all that there is to know, in the unit of the information.
        training: (T + 1,) H0 - training loss, if known: it tells overfitting.
        forecast: theory's, if it covers the network; one that has not come true by now
            is left aside.

    Raises:
        ValueError: fewer than one epoch, curves of different lengths, or nothing to
            know.

    >>> flat = np.zeros(11)
    >>> print(diagnose(flat, 1e-9 * np.ones(11), flat, label_entropy=np.log(10)))
    vanishing: information 0.000 of 2.303, to leave the plateau: never; first try a \
larger init scale, so that gradients reach the first layer
    """
    if training is None:
        training = np.full(np.shape(information), np.nan)
    _check_curves(information, spread, saturation, training)
    if not label_entropy > 0:
        raise ValueError(f"label_entropy: expected above 0, found {label_entropy}")
    H0 = float(label_entropy)
    known, seen = np.asarray(information) / H0, np.asarray(training) / H0
    saturated = float(saturation[-1])
    gain, now = _gain(known), float(known[-1])
    best = float(max(known[np.isfinite(known)], default=np.nan))
    to_leave = 0.0
    if (name := _without_layers(known, gain, best, seen[-1])) is not None:
        pass
    elif saturated > MOSTLY_SATURATED and (now < LEFT_PLATEAU or gain < LEARNING_GAIN):
        name = "saturated"
    elif now > LEFT_PLATEAU:
        name = "learning" if gain > LEARNING_GAIN else "slow"
    elif now < -WORSE_THAN_PLATEAU:
        name = "too early to tell" if gain > LEARNING_GAIN else "slow"
    else:
        to_leave = extrapolated(np.asarray(spread))
        end = len(known) - 1
        if forecast is not None and not forecast.latest > end:
            forecast = None  # it failed, or theory does not say
        if forecast is not None:
            stuck = forecast.earliest > BY_NAME["vanishing"].horizon * end
        else:
            beyond = (BY_NAME["vanishing"].horizon - 1) * end
            stuck = to_leave > SAFETY * beyond
        name = "vanishing" if stuck else "too early to tell"
    return Verdict(
        BY_NAME[name],
        H0 * now,
        H0,
        H0 * gain,
        saturated,
        to_leave,
        H0 * best,
        forecast if name in ("vanishing", "too early to tell") else None,
    )


def _without_layers(
    known: np.ndarray, gain: float, best: float, seen: float
) -> str | None:
    """The verdict if the loss alone decides it, else None; all as shares of H0.

    Args:
        known: information after epochs 0 to T.
        gain: as from ``_gain``.
        best: the largest of known.
        seen: of the training examples at the end; NaN if not known.
    """
    start, now = float(known[0]), float(known[-1])
    recovers = gain >= LEARNING_GAIN
    if not np.isfinite(now):
        return "diverged"
    if best - now > CONVERGED_CHANGE and not recovers:
        if seen - now > CONVERGED_CHANGE and seen > LEFT_PLATEAU:
            return "overfitting"
        if best > LEFT_PLATEAU and now > -WORSE_THAN_PLATEAU:
            return "getting worse"
    lost = now < -HOPELESS or not recovers
    if now < -WORSE_THAN_PLATEAU and not now >= start and lost:
        return "diverged"
    if now >= LEARNED:
        if gain < -LEARNING_GAIN:
            return "getting worse"
        return "converged" if gain < CONVERGED_GAIN else "learning"
    return None


def judged(
    result: xr.Dataset, epoch: int | float | None = None
) -> dict[tuple[int, ...], Verdict]:
    """The verdict on every network of a sweep, with its evidence.

    Of a network whose layers are not known the evidence is ``gradient_rms``, by which
    one array of its parameters is reached so much less than another, and
    ``weight_change``, if it stands still. Nothing is called vanishing without signals,
    saturated without ``saturation``, overfitting without ``train_loss``. A network that
    was stopped before the end is judged by what is known up to there.

    Args:
        result: as from ``sweep.sweep``, with any axes and any loss.
        epoch: the last epoch that the verdicts may know of; all of them by default.

    Returns:
        By the network's place in ``test_loss``.

    Raises:
        ValueError: fewer than one epoch, or a loss that is 0 for a constant output.
    """
    seen = result.sel(epoch=slice(0, epoch))
    information = each_network(seen, seen.label_information)
    spread = each_network(seen, curves.spread(seen))
    saturation = each_network(seen, curves.saturation(seen))
    entropy = each_network(seen, seen.label_entropy)
    unknown = xr.full_like(seen.label_information, np.nan)
    of_training = seen.get("train_loss", unknown)
    training = each_network(seen, seen.label_entropy - of_training)
    forecasts = curves.forecasts(seen)
    last = each_network(seen, curves.last_look(seen))
    late = each_network(seen, curves.stopped_for(seen, BEYOND))
    found = {}
    for network in np.ndindex(information.shape[:-1]):
        end, forecast = int(last[network]), None
        if forecasts is not None:
            forecast = Forecast(*forecasts[network])
        if end == 0 < seen.sizes["epoch"] - 1:
            found[network] = _untrained(
                float(information[network][0]),
                float(saturation[network][0]),
                float(entropy[network]),
                _of_theory(forecast) if late[network] else None,
                seen.sizes["epoch"] - 1,
            )
            continue
        found[network] = diagnose(
            information[network][: end + 1],
            spread[network][: end + 1],
            saturation[network][: end + 1],
            label_entropy=float(entropy[network]),
            training=training[network][: end + 1],
            forecast=forecast,
        )
    return found


def _of_theory(forecast: Forecast | None) -> Forecast:
    """That of a network which a forecast stopped, known or not."""
    known = forecast is not None and not np.isnan(forecast.epoch)
    return forecast if known and forecast is not None else NOT_IN_SIGHT


def _untrained(
    information: float,
    saturation: float,
    entropy: float,
    late: Forecast | None,
    num_looks: int,
) -> Verdict:
    """On a network that was stopped before its first step, perhaps by a forecast.

    As of one that was trained for as long as the others and is where it was.
    """
    stuck = BY_NAME["vanishing"].horizon * num_looks
    vanishing = late is not None and late.earliest > stuck
    name = "vanishing" if vanishing else "too early to tell"
    if not np.isfinite(information):
        name = "diverged"
    unknown = float("nan")
    return Verdict(
        BY_NAME[name], information, entropy, unknown, saturation, unknown,
        information, late,
    )  # fmt: skip


def verdicts(result: xr.Dataset, epoch: int | float | None = None) -> xr.DataArray:
    """The names of the verdicts of ``judged``, which takes and raises the same.

    Returns:
        An index into ``NAMES`` for every network, with the dimensions of ``test_loss``
        and the names in the attribute ``flag_meanings`` as the CF conventions want.
    """
    last = float(result.epoch[-1]) if epoch is None else epoch
    found = np.zeros(result.test_loss.shape, np.int32)
    for network, verdict in judged(result, epoch).items():
        found[network] = NAMES.index(verdict.kind.name)
    attrs = {
        "long_name": f"verdict after {last:g} epochs",
        "flag_values": np.arange(len(NAMES), dtype=np.int32),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in NAMES),
    }
    return xr.DataArray(
        found, result.test_loss.coords, result.test_loss.dims, attrs=attrs
    )

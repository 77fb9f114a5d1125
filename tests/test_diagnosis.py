"""Verdicts: on each side of every threshold, and against what networks become."""

import jax
import numpy as np
import pytest
import xarray as xr

from snn_jax import diagnosis, mnist
from snn_jax.diagnosis import NAMES, diagnose
from snn_jax.networks import Architecture
from snn_jax.sweep import sweep

T = 8
EPOCHS = np.arange(T + 1)
TINY = np.full(T + 1, 1e-9)
LARGE = np.full(T + 1, 0.3)
NONE = np.zeros(T + 1)
HALF = diagnosis.LEARNED * diagnosis.LABEL_ENTROPY


def name(
    information: np.ndarray, spread: np.ndarray = LARGE, saturation: np.ndarray = NONE
) -> str:
    return diagnose(information, spread, saturation).kind.name


def ramp(last: float, gain: float) -> np.ndarray:
    """Ends at ``last``; at its slope it would gain ``gain`` in as many epochs again."""
    return last + gain * (EPOCHS - T) / T


def test_learned_and_still_learning() -> None:
    edge = diagnosis.CONVERGED_GAIN
    assert name(ramp(2.0, edge - 0.01)) == "converged"
    assert name(ramp(2.0, edge + 0.01)) == "learning"
    assert name(ramp(HALF + 0.01, 0.0)) == "converged"
    assert name(ramp(HALF - 0.01, 0.0)) == "slow"


def test_left_the_plateau() -> None:
    edge = diagnosis.LEARNING_GAIN
    assert name(ramp(0.3, edge + 0.01)) == "learning"
    assert name(ramp(0.3, edge - 0.01)) == "slow"
    left = diagnosis.LEFT_PLATEAU
    assert name(ramp(left + 0.001, 0.0), TINY) == "slow"
    assert name(ramp(left - 0.001, 0.0), TINY) == "vanishing"


def test_saturated() -> None:
    edge = diagnosis.MOSTLY_SATURATED
    for information in (ramp(0.0, 0.0), ramp(0.3, 0.0)):
        assert name(information, LARGE, np.full(T + 1, edge + 0.01)) == "saturated"
        assert name(information, LARGE, np.full(T + 1, edge - 0.01)) != "saturated"
    # Learning in spite of it is not a failure.
    assert name(ramp(0.5, 0.4), LARGE, np.ones(T + 1)) == "learning"
    assert name(ramp(1.5, 0.0), LARGE, np.ones(T + 1)) == "converged"


@pytest.mark.parametrize("last", [np.nan, np.inf, -np.inf, -5.0])
def test_diverged(last: float) -> None:
    information = ramp(0.0, 0.0)
    information[T // 2 :] = last
    assert name(information) == "diverged"


def test_bad_but_falling_is_not_diverged() -> None:
    edge = -diagnosis.WORSE_THAN_PLATEAU
    assert name(ramp(edge - 0.1, 2.0)) != "diverged"
    assert name(ramp(edge - 0.1, 0.0)) == "diverged"
    assert name(ramp(edge + 0.1, 0.0)) != "diverged"


def test_when_will_it_leave() -> None:
    """Growth by a factor g an epoch leaves after ln(ready / now) / ln g epochs.

    "vanishing" needs more than twice (SAFETY) the T epochs up to its horizon of 2 T.
    """
    flat = ramp(0.0, 0.0)
    for epochs_to_leave, expected in ((2.1 * T, "vanishing"), (1.9 * T, "too early")):
        growth = 1.5
        spread = diagnosis.READY_TO_LEAVE * growth ** (EPOCHS - T - epochs_to_leave)
        verdict = diagnose(flat, spread, NONE)
        assert verdict.kind.name.startswith(expected)
        np.testing.assert_allclose(verdict.epochs_to_leave, epochs_to_leave, rtol=1e-9)
    assert name(flat, np.full(T + 1, 1.1 * diagnosis.READY_TO_LEAVE)) == (
        "too early to tell"
    )
    # Shrinking or no differences at all: it never leaves.
    assert diagnose(flat, TINY * 0.9**EPOCHS, NONE).epochs_to_leave == np.inf
    assert name(flat, NONE) == "vanishing"


def test_no_epoch_no_verdict() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        diagnose(np.zeros(1), np.zeros(1), np.zeros(1))


def test_evidence_is_printed() -> None:
    for information, spread, words in (
        (ramp(2.0, 0.0), LARGE, "converged: information 2.000 nats, gain"),
        (ramp(0.0, 0.0), TINY, "to leave the plateau: never; first try a larger init"),
        (ramp(np.nan, 0.0), LARGE, "diverged: information nan"),
    ):
        assert words in str(diagnose(information, spread, NONE))


def test_what_counts_as_right() -> None:
    stays, leaves = np.zeros(21), np.zeros(21)
    leaves[7:] = 1.5
    assert diagnosis.was_right("vanishing", stays, 5)
    assert not diagnosis.was_right("vanishing", leaves, 5)
    assert diagnosis.was_right("vanishing", leaves, 3)  # its horizon is 6
    assert diagnosis.was_right("learning", leaves, 5)
    assert not diagnosis.was_right("learning", stays, 5)
    assert not diagnosis.was_right("slow", leaves, 5)
    assert not diagnosis.was_right("converged", leaves, 5)
    assert diagnosis.was_right("diverged", np.full(21, np.nan), 5)
    with pytest.raises(ValueError, match="horizon"):
        diagnosis.was_right("vanishing", stays, 11)


@pytest.fixture(scope="module")
def trained(dataset: mnist.Dataset) -> xr.Dataset:
    """Depth 4, batches of 64, other rates and seeds than the thresholds were set on."""
    return sweep(
        jax.random.key(2024),
        dataset,
        architecture=Architecture((784, 10, 10, 10, 10, 10), biases=False),
        scales=[0.02, 0.3, 1.0, 7.0],
        learning_rates=[0.15, 0.6],
        num_seeds=3,
        num_epochs=8,
        batch_size=64,
    )


@pytest.mark.parametrize("epoch", [1, 2])
def test_verdicts_come_true(trained: xr.Dataset, epoch: int) -> None:
    """At least 95 % of all that claim something, and most claim something."""
    counts = diagnosis.confusion(trained, epoch)
    claims = counts.sel(verdict=[n for n in NAMES if n != "too early to tell"])
    wrong, right = (int(claims.sel(came_true=c).sum()) for c in (False, True))
    assert right / (right + wrong) >= 0.95
    assert right + wrong >= 0.5 * int(counts.sum())
    # No network that learns within the horizon is called vanishing.
    assert int(counts.sel(verdict="vanishing", came_true=False)) == 0


def test_verdicts_of_known_settings(trained: xr.Dataset) -> None:
    """Small scales vanish, middle ones learn, large ones saturate."""
    found = diagnosis.verdicts(trained)
    assert found.attrs["flag_meanings"].split()[3] == "vanishing"
    small = found.sel(scale=0.02, learning_rate=0.15).values
    assert set(small) == {NAMES.index("vanishing")}
    middle = found.sel(scale=1.0).values.ravel()
    assert set(middle) <= {NAMES.index("learning"), NAMES.index("converged")}
    large = found.sel(scale=7.0, learning_rate=0.15).values
    assert set(large) <= {NAMES.index("saturated"), NAMES.index("slow")}


def test_a_verdict_does_not_look_ahead(trained: xr.Dataset) -> None:
    early = diagnosis.verdicts(trained, epoch=2)
    alone = diagnosis.verdicts(trained.sel(epoch=slice(0, 2)))
    xr.testing.assert_equal(early, alone)

"""Verdicts: on each side of every threshold, and against what networks become."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from snn_jax import diagnosis, forecast, hindsight, losses
from snn_jax.datasets import Dataset, Split, divide
from snn_jax.diagnosis import NAMES, diagnose
from snn_jax.networks import MLP, Network
from snn_jax.recipe import Recipe
from snn_jax.sweep import sweep

T = 8
EPOCHS = np.arange(T + 1)
TINY = np.full(T + 1, 1e-9)
LARGE = np.full(T + 1, 0.3)
NONE = np.zeros(T + 1)
UNKNOWN = np.full(T + 1, np.nan)
# Ten classes: the thresholds in nats.
H0 = np.log(10)


def name(
    information: np.ndarray,
    spread: np.ndarray = LARGE,
    saturation: np.ndarray = NONE,
    label_entropy: float = H0,
) -> str:
    verdict = diagnose(information, spread, saturation, label_entropy=label_entropy)
    return verdict.kind.name


def ramp(last: float, gain: float) -> np.ndarray:
    """Ends at ``last``; at its slope it would gain ``gain`` in as many epochs again."""
    return last + gain * (EPOCHS - T) / T


def made_up(
    information: Any, dims: tuple[str, ...] = ("scale", "seed"), **variables: Any
) -> xr.Dataset:
    """A result of ten classes with curves as wanted, (*dims, epoch) each."""
    information = xr.DataArray(information, dims=(*dims, "epoch"))
    found = xr.Dataset({"label_information": information} | variables)
    found["test_loss"] = H0 - information.isel(epoch=-1)
    found["label_entropy"] = H0
    return found.assign_coords({dim: np.arange(found.sizes[dim]) for dim in found.dims})


def test_learned_and_still_learning() -> None:
    assert name(ramp(2.0, 0.09)) == "converged"
    assert name(ramp(2.0, 0.11)) == "learning"
    assert name(ramp(H0 / 2 + 0.01, 0.0)) == "converged"
    assert name(ramp(H0 / 2 - 0.01, 0.0)) == "slow"


def test_left_the_plateau() -> None:
    assert name(ramp(0.3, 0.26)) == "learning"
    assert name(ramp(0.3, 0.24)) == "slow"
    assert name(ramp(0.021, 0.0), TINY) == "slow"
    assert name(ramp(0.019, 0.0), TINY) == "vanishing"


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
    assert name(ramp(-0.4, 2.0)) != "diverged"
    # Nor is it stuck, however alike the images are.
    assert name(ramp(-0.4, 2.0), TINY) == "too early to tell"
    assert name(np.linspace(0, -0.4, T + 1)) == "diverged"
    assert name(np.linspace(0, -0.2, T + 1)) != "diverged"


def path(*points: float) -> np.ndarray:
    """A curve through points at equal distances, nine epochs."""
    return np.interp(np.linspace(0, 1, 9), np.linspace(0, 1, len(points)), points)


# By what they are: information, what else is known, and the verdict.
NAN = float("nan")
CURVES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "overfitting": (path(0, 2.0, 1.3), {"training": path(0, 2.1, 2.3)}, "overfitting"),
    "overfitting, below half": (
        path(0, 1.5, 0.9),
        {"training": path(0, 1.6, 2.2)},
        "overfitting",
    ),
    "overfitting, below nothing": (
        path(0, 1.5, -0.2),
        {"training": path(0, 1.6, 2.3)},
        "overfitting",
    ),
    "overfitting, far below": (
        path(0, 1.5, -4),
        {"training": path(0, 1.6, 2.3)},
        "overfitting",
    ),
    "labels of noise, learned by heart": (
        path(-0.3, 0, -2),
        {"training": path(NAN, 0.5, 2.0)},
        "overfitting",
    ),
    "forgetting, training unknown": (path(0, 2.0, 1.3), {}, "getting worse"),
    "forgetting, training too": (
        path(0, 2.0, 1.3),
        {"training": path(0, 2.0, 1.3)},
        "getting worse",
    ),
    "collapse in the last epoch": (
        [0, 1.5, 1.8, 1.9, 2, 2, 2, 2, 1.2],
        {},
        "getting worse",
    ),
    "collapse to the plateau": ([0, 1.5, 1.8, 1.9, 2, 2, 2, 0, 0], {}, "getting worse"),
    "collapse, far below": ([0, 1.5, 1.8, 1.9, 2, 2, 2, -9, -9], {}, "diverged"),
    "a dip, over": ([0, 1.5, 1.8, 1.9, 1.2, 1.9, 2, 2, 2.0], {}, "converged"),
    "recovers from a collapse": ([0, 1.5, 2, 0, 0, 0.3, 0.6, 0.8, 1.1], {}, "learning"),
    "a rate too small, from below": (path(-2.9, -2.85), {}, "slow"),
    "a rate too small, on the plateau": (path(0.001, 0.002), {}, "too early to tell"),
    "a rate too small, alike": (path(0.001, 0.002), {"spread": TINY[:9]}, "vanishing"),
    "a rate of nothing": (path(-2.9, -2.9), {}, "slow"),
    "falls fast, still below": (path(-5.9, -2.0), {}, "too early to tell"),
    "rose, and falls now": (path(-0.1, -6, -2), {}, "too early to tell"),
    "diverges": (path(-0.1, -3), {}, "diverged"),
    "below, up and down": (
        [0, -1, -4, -1, -5, -1, -6, -1, -2],
        {},
        "too early to tell",
    ),
    "a rate of 1e30": (
        [0, *[-1e29] * 7, -1e28],
        {"saturation": np.ones(9)},
        "diverged",
    ),
    "NaN at the end": ([0, 1, 1, 1, 1, 1, NAN, NAN, NAN], {}, "diverged"),
    "infinite at the end": ([0, 1, 1, 1, 1, 1, 1, 1, -np.inf], {}, "diverged"),
    "NaN on the way, learning": ([0, 0.5, 1, *[NAN] * 4, 1.2, 1.9], {}, "learning"),
    "NaN where the gain begins": (
        [0, 0.3, 0.5, 0.8, 1.1, 1.4, NAN, 1.7, 1.9],
        {},
        "learning",
    ),
    "NaN on the way, converged": ([0, 2, 2, *[NAN] * 4, 2, 2], {}, "converged"),
    "all NaN": ([NAN] * 9, {}, "diverged"),
    "NaN but for the end": ([*[NAN] * 8, 2.0], {}, "learning"),
    "converged": (path(0, 2.0, 2.0, 2.0), {}, "converged"),
    "learning": (path(0, 0.5, 1.4), {}, "learning"),
    "learning, from below": (path(-5, -1, 0.5), {}, "learning"),
    "slow": (path(0, 0.1), {}, "slow"),
    "slow and off": (path(0, 0.2), {"saturation": np.full(9, 0.6)}, "slow"),
    "saturated": (path(0, 0.02), {"saturation": np.full(9, 0.9)}, "saturated"),
    "saturated from below": (
        path(-4, -3.9),
        {"saturation": np.full(9, 0.9)},
        "saturated",
    ),
    "saturated and learning": (
        path(0, 1.9),
        {"saturation": np.full(9, 0.9)},
        "learning",
    ),
    "stuck": (path(0, 0), {"spread": TINY[:9]}, "vanishing"),
    "stuck, all images the same": (path(0, 0), {"spread": NONE[:9]}, "vanishing"),
    "stuck, layers unknown": (path(0, 0), {"spread": UNKNOWN[:9]}, "too early to tell"),
    "on the plateau, about to leave": (path(0, 0), {}, "too early to tell"),
    "large steps around 1.5": (
        [0, 1.9, 1.0, 1.9, 1.0, 1.9, 1.0, 1.9, 1.0],
        {},
        "getting worse",
    ),
    "one epoch": ([0.0, 0.01], {}, "too early to tell"),
    "one epoch, worse": ([0.0, -1.0], {}, "diverged"),
}


@pytest.mark.parametrize("kind", CURVES)
def test_made_up_curves(kind: str) -> None:
    """The verdict by its name, and no evidence that is no number."""
    information, known, expected = CURVES[kind]
    length = len(information)
    verdict = diagnose(
        information,
        known.get("spread", np.full(length, 0.3)),
        known.get("saturation", np.zeros(length)),
        training=known.get("training"),
        label_entropy=H0,
    )
    assert verdict.kind.name == expected
    assert "gain +nan" not in str(verdict)
    assert "gain -inf" not in str(verdict)


@pytest.mark.parametrize("lengths", [(9, 1, 9), (9, 4, 9), (9, 9, 1), (2, 9, 9)])
def test_curves_of_other_lengths_are_refused(lengths: tuple[int, ...]) -> None:
    """As are the curves of many networks at once."""
    with pytest.raises(ValueError, match="curves: expected one of each"):
        diagnose(*(np.zeros(n) for n in lengths), label_entropy=H0)
    with pytest.raises(ValueError, match="curves: expected one of each"):
        diagnose(*(np.zeros((4, 9)),) * 3, label_entropy=H0)


def test_when_will_it_leave() -> None:
    """Growth by a factor g an epoch leaves after ln(ready / now) / ln g epochs.

    "vanishing" needs more than twice (SAFETY) the T epochs up to its horizon of 2 T.
    """
    flat = ramp(0.0, 0.0)
    for epochs_to_leave, expected in ((2.1 * T, "vanishing"), (1.9 * T, "too early")):
        growth = 1.5
        spread = forecast.READY_TO_LEAVE * growth ** (EPOCHS - T - epochs_to_leave)
        verdict = diagnose(flat, spread, NONE, label_entropy=H0)
        assert verdict.kind.name.startswith(expected)
        np.testing.assert_allclose(verdict.epochs_to_leave, epochs_to_leave, rtol=1e-9)
    ready = np.full(T + 1, 1.1 * forecast.READY_TO_LEAVE)
    assert name(flat, ready) == "too early to tell"
    # Shrinking or no differences at all: it never leaves.
    shrinking = diagnose(flat, TINY * 0.9**EPOCHS, NONE, label_entropy=H0)
    assert shrinking.epochs_to_leave == np.inf
    assert name(flat, NONE) == "vanishing"


def test_what_is_not_known_is_not_claimed() -> None:
    """Without spread no network is vanishing, without saturation none saturated."""
    assert name(NONE, UNKNOWN) == "too early to tell"
    assert name(NONE, TINY, UNKNOWN) == "vanishing"
    assert name(ramp(0.3, 0.0), LARGE, UNKNOWN) == "slow"


@pytest.mark.parametrize("unit", [np.log(2), 1e-6, 1e6])
def test_thresholds_are_shares_of_the_label_entropy(unit: float) -> None:
    """Two classes, or a loss in another unit: what counts is the share known."""
    for last in (0.019, 0.021, 1.1, 1.2, 2.0, -0.2, -0.4):
        for gain in (0.0, 0.09, 0.11, 0.24, 0.26):
            curve = ramp(last, gain)
            scaled = diagnose(curve * unit / H0, TINY, NONE, label_entropy=unit)
            assert scaled.kind.name == name(curve, TINY), (last, gain)
            np.testing.assert_allclose(scaled.information, last * unit / H0)
            np.testing.assert_allclose(scaled.gain, gain * unit / H0, atol=1e-12 * unit)
    # A hundredth of a nat is little of ln 10, and enough of the ln 2 of two classes.
    assert name(ramp(0.01, 0.0), TINY) == "vanishing"
    assert name(ramp(0.01, 0.0), TINY, label_entropy=np.log(2)) == "slow"


def test_no_verdict_on_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        diagnose(np.zeros(1), np.zeros(1), np.zeros(1), label_entropy=H0)
    for nothing in (0.0, np.nan):
        with pytest.raises(ValueError, match="label_entropy: expected above 0"):
            diagnose(NONE, NONE, NONE, label_entropy=nothing)


def test_evidence_is_printed() -> None:
    for information, spread, words in (
        (ramp(2.0, 0.0), LARGE, "converged: information 2.000 of 2.303, gain"),
        (NONE, TINY, "to leave the plateau: never; first try a larger init"),
        (NONE, UNKNOWN, "to leave the plateau: unknown; first try"),
        (ramp(np.nan, 0.0), LARGE, "diverged: information nan"),
    ):
        assert words in str(diagnose(information, spread, NONE, label_entropy=H0))


def test_what_counts_as_right() -> None:
    stays, leaves = np.zeros(21), np.zeros(21)
    leaves[7:] = 0.65
    assert hindsight.was_right("vanishing", stays, 5)
    assert not hindsight.was_right("vanishing", leaves, 5)
    assert hindsight.was_right("vanishing", leaves, 3)  # its horizon is 6
    assert hindsight.was_right("learning", leaves, 5)
    assert not hindsight.was_right("learning", stays, 5)
    assert not hindsight.was_right("slow", leaves, 5)
    assert not hindsight.was_right("converged", leaves, 5)
    assert hindsight.was_right("diverged", np.full(21, np.nan), 5)
    with pytest.raises(ValueError, match="horizon"):
        hindsight.was_right("vanishing", stays, 11)


def test_each_network_is_judged_by_its_own_layers() -> None:
    """Of networks with one to three hidden layers, what one has not is NaN."""
    dims, lacks = ("depth", "epoch", "hidden_layer"), np.nan

    def judged(saturation: list[list[float]]) -> list[str]:
        # Images are alike in the top layer alone.
        spread = [[1e-9, lacks, lacks], [0.3, 1e-9, lacks], [0.3, 0.3, 1e-9]]
        curves = {
            name: (dims, np.repeat(np.array(values)[:, None], T + 1, axis=1))
            for name, values in (
                ("activation_spread", spread),
                ("saturation", saturation),
            )
        }
        found = diagnosis.verdicts(made_up(np.zeros((3, T + 1)), ("depth",), **curves))
        return [NAMES[i] for i in found.values]

    low = [[0.1, lacks, lacks], [0.1, 0.1, lacks], [0.1, 0.1, 0.1]]
    assert judged(low) == ["vanishing"] * 3
    # Saturated in the first layer: that counts where there is no other.
    first = [[0.9, lacks, lacks], [0.9, 0.1, lacks], [0.9, 0.1, 0.1]]
    assert judged(first) == ["saturated", "vanishing", "vanishing"]
    above = [[0.1, lacks, lacks], [0.1, 0.9, lacks], [0.1, 0.8, 0.8]]
    assert judged(above) == ["vanishing", "saturated", "saturated"]


@pytest.mark.parametrize(
    ("gradients", "moves", "expected"),
    [
        ([0.1, 0.3, 0.2], [0.1, 0.2, 0.1], "too early to tell"),
        # The gradient hardly reaches one array, whatever it does to the others;
        ([1e-9, 0.3, 0.2], [0.0, 0.2, 0.1], "vanishing"),
        # or it is as small everywhere, and nothing moves: 1 % in as many epochs again.
        ([1e-9, 3e-9, 2e-9], [1e-5, 0.01 / T, 1e-5], "vanishing"),
        ([1e-9, 3e-9, 2e-9], [1e-5, 0.03 / T, 1e-5], "too early to tell"),
        # An array that the loss does not depend on says nothing; nor do biases that
        # begin at 0, of which no change is small.
        ([0.0, 0.3, 0.2], [0.0, 0.2, 0.1], "too early to tell"),
        ([0.1, 0.3, 0.2], [1e-5, 1e-5, np.inf], "too early to tell"),
        ([0.1, 0.3, 0.2], [1e-5, 1e-5, np.nan], "vanishing"),
    ],
)
def test_without_layers_arrays_of_parameters_are_looked_at(
    gradients: list[float], moves: list[float], expected: str
) -> None:
    dims = ("network", "epoch", "leaf")
    result = made_up(
        np.zeros((1, T + 1)),
        ("network",),
        gradient_rms=(dims, np.ones((1, T + 1, 3)) * gradients),
        weight_change=(dims, np.ones((1, T + 1, 3)) * moves),
    )
    assert NAMES[int(diagnosis.verdicts(result)[0])] == expected


def test_looks_are_counted_not_epochs() -> None:
    """Ten looks an epoch: the same curves, verdicts and counts, at tenths of epochs."""
    information = np.stack([np.zeros(41), np.r_[np.zeros(5), np.full(36, 1.5)]])
    spread = (("rate", "epoch", "hidden_layer"), np.full((2, 41, 1), 1e-9))
    whole = made_up(information, ("rate",), activation_spread=spread)
    parts = whole.assign_coords(epoch=whole.epoch / 10)
    for looks in (1, 3, 10):
        xr.testing.assert_equal(
            diagnosis.verdicts(whole, looks), diagnosis.verdicts(parts, looks / 10)
        )
        xr.testing.assert_equal(
            hindsight.confusion(whole, looks), hindsight.confusion(parts, looks / 10)
        )
    # The second leaves after 5 looks: what is said of it after 3 reaches to 6.
    stuck = hindsight.confusion(parts, 0.3).sel(verdict="vanishing")
    assert stuck.values.tolist() == [1, 1]
    assert diagnosis.verdicts(parts, 0.3).attrs["long_name"].endswith("0.3 epochs")


def test_outcomes_count_every_network() -> None:
    """Rows are what the verdicts say, columns where the networks are in the end."""
    ends = np.array([[0.0, 0.019, 0.021], [1.2, -0.4, np.nan]])
    information = np.zeros((2, 3, T + 1))
    information[..., 2:] = ends[..., None]
    counts = hindsight.outcomes(made_up(information), 1)
    assert counts.sum("verdict").values.tolist() == [2, 1, 1, 2]
    assert int(counts.sel(verdict="too early to tell").sum()) == 6


def test_verdicts_come_true(dataset: Dataset) -> None:
    """Depth 4, other rates, batches, data and seeds than the thresholds were set on.

    At least 95 % of all that claim something, and most claim something; so too if the
    layers were not known, and all that is known are gradients.
    """
    part = Dataset(
        *(
            Split(split.x[:n], split.y[:n])
            for split, n in zip(dataset, (5000, 2000, 500), strict=True)
        )
    )
    recipe = Recipe(MLP((784, *[10] * 4, 10), biases=False), batch_size=10)
    axes = {"scale": [0.02, 0.3, 1.0, 7.0], "learning_rate": [0.15, 0.6]}
    trained = sweep(jax.random.key(2024), part, recipe, axes, seeds=3)
    names = ["label_information", "label_entropy", "test_loss"]
    leaves = trained[["gradient_rms", "weight_change"]].rename(layer="leaf")
    blind = trained[names].merge(leaves)
    for result, share in ((trained, 0.5), (blind, 0.4)):
        for epoch in (1, 2):
            counts = hindsight.confusion(result, epoch)
            claims = counts.drop_sel(verdict="too early to tell")
            wrong, right = (int(claims.sel(came_true=c).sum()) for c in (False, True))
            assert right / (right + wrong) >= 0.95
            assert right + wrong >= share * int(counts.sum())
            # No network that learns within the horizon is called vanishing.
            assert counts.sel(verdict="vanishing").values.tolist()[0] == 0
            assert int(counts.sel(verdict="vanishing", came_true=True)) > 0

    # Small scales vanish, middle ones learn, large ones saturate.
    early, late = diagnosis.verdicts(trained, epoch=2), diagnosis.verdicts(trained)
    assert late.attrs["flag_meanings"].split()[3] == "vanishing"
    small, middle, large = (late.sel(scale=scale) for scale in (0.02, 1.0, 7.0))
    assert set(early.sel(scale=small.scale, learning_rate=0.15).values) == {3}
    assert set(middle.values.ravel()) <= {0, 1}
    assert NAMES.index("saturated") in large.values
    # A verdict does not look ahead.
    alone = diagnosis.verdicts(trained.sel(epoch=slice(0, 2)))
    xr.testing.assert_equal(early, alone)


def test_a_regression_by_a_network_of_ones_own() -> None:
    """No layers, no classes: it vanishes at small scales, learns, or diverges."""

    def init(key: jax.Array, scale: jax.Array) -> dict[str, jax.Array]:
        first, inside, last = jax.random.split(key, 3)
        return {
            "in": scale * jax.random.normal(first, (4, 8)),
            "inside": scale * jax.random.normal(inside, (2, 8, 8)),
            "out": scale * jax.random.normal(last, (8, 1)),
        }

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        a = jnp.tanh(x @ params["in"])
        for W in params["inside"]:
            a = jnp.tanh(a @ W)
        return a @ params["out"]

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 4)).astype(np.float32)
    y = np.sin(x @ np.array([[2], [-2], [1], [0]], np.float32))
    recipe = Recipe(Network(init, apply), losses.squared_error, batch_size=8)
    axes = {"learning_rate": [0.05, 100.0], "scale": [0.02, 0.5]}
    result = sweep(jax.random.key(0), divide(x, y), recipe, axes, seeds=2)
    found = diagnosis.verdicts(result)
    assert found.dims == ("learning_rate", "scale", "seed")
    names = [[{NAMES[i] for i in cell} for cell in row] for row in found.values]
    assert names[0][0] == {"vanishing"}
    assert names[0][1] <= {"learning", "converged"}
    assert names[1] == [{"diverged"}] * 2
    # Half of the variance explained, which is what the loss of a constant is.
    explained = 1 - result.test_loss / (y.var() / 2)
    assert (explained.sel(learning_rate=0.05, scale=0.5) > 0.5).all()
    counts = hindsight.confusion(result, 2)
    assert int(counts.sel(came_true=False).sum()) == 0

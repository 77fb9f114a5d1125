"""Networks whose verdict is final are stopped, and nothing else changes.

The rule of most tests is a user's: it stops a network after as many epochs as its seed
says.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from snn_jax import curves, diagnosis, hindsight, losses, plateau, pool, stopping, store
from snn_jax.datasets import Dataset, Split
from snn_jax.ensemble import Ensemble
from snn_jax.forecast import Forecast
from snn_jax.identity import RunError, identity_of, rule_digest
from snn_jax.networks import MLP
from snn_jax.pool import Networks
from snn_jax.recipe import Recipe
from snn_jax.stopping import Decided, decided
from snn_jax.sweep import Sweep, sweep

NET = MLP((784, 6, 5, 10), biases=False)
KEY = jax.random.key(7)
RECIPE = Recipe(NET, num_epochs=4, batch_size=16)
# 40 networks in pools of 32 and 8.
AXES = {"scale": (0.1, 1.0), "learning_rate": (1.0,)}
OPTIONS: dict[str, Any] = {"seeds": 20, "width": 2, "signals": False}
GROUP = 2 * len(jax.devices())


def by_seed(after: int = 1) -> Callable[..., Any]:
    """Stops seed s after s % 5 + after looks."""

    def rule(networks: Networks) -> np.ndarray:
        return np.where(networks.seeds % 5 + after == networks.look, 0, -1)

    rule.reasons = ("its seed",)  # type: ignore[attr-defined]
    return rule


# After so many looks, by seed; four, and five, are no stop.
ENDS = np.minimum(np.arange(20) % 5 + 1, 4)


@pytest.fixture(scope="module")
def data(small: Dataset) -> Dataset:
    """Tested on what is watched, so that the test loss can be found in the curve."""
    return small._replace(test=small.valid)


@pytest.fixture(scope="module")
def full(data: Dataset) -> xr.Dataset:
    """All trained to the end, by the fast engine."""
    return sweep(KEY, data, RECIPE, AXES, **OPTIONS)


@pytest.fixture(scope="module")
def stopped(data: Dataset) -> xr.Dataset:
    return sweep(KEY, data, RECIPE, AXES, **OPTIONS, stop=by_seed())


def same_until_the_stop(stopped: xr.Dataset, full: xr.Dataset) -> None:
    """To the bit; then nothing."""
    there = ~(full.epoch > stopped.stopped_epoch)
    for name in ("valid_loss", "valid_accuracy", "train_loss", "weight_change"):
        assert stopped[name].dtype == full[name].dtype
        xr.testing.assert_equal(stopped[name], full[name].where(there))


def test_networks_are_what_they_would_be(full: xr.Dataset, stopped: xr.Dataset) -> None:
    expected = np.where(ENDS < 4, ENDS, np.nan)
    np.testing.assert_array_equal(
        stopped.stopped_epoch.squeeze("learning_rate"), [expected, expected]
    )
    same_until_the_stop(stopped, full)
    last = full.valid_loss.isel(epoch=xr.DataArray(ENDS, dims="seed"))
    xr.testing.assert_equal(stopped.test_loss, last.drop_vars("epoch"))
    assert stopping.counts(stopped) == {"its seed": 2 * 12}
    assert stopped.stopped.attrs["flag_meanings"] == "not_stopped its_seed"
    held = curves.held(stopped).valid_loss
    xr.testing.assert_equal(held.isel(epoch=-1, drop=True), stopped.test_loss)


def test_the_ranks_are_closed(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of 32 and one of 8: so many groups a round as its living networks need."""
    groups = 0
    run_epoch = Ensemble.run_epoch

    def counted(ensemble: Ensemble, *arguments: Any) -> Any:
        nonlocal groups
        groups += 1
        return run_epoch(ensemble, *arguments)

    monkeypatch.setattr(Ensemble, "run_epoch", counted)
    reported: list[int] = []
    sweep(KEY, data, RECIPE, AXES, **OPTIONS, stop=by_seed(), report=reported.append)
    # Of the second scale's 20 seeds, 12 are in the first pool.
    in_pools = [*ENDS, *ENDS[:12]], ENDS[12:]
    needed = [
        -(-int((np.array(ends) >= epoch).sum()) // GROUP)
        for ends in in_pools
        for epoch in (1, 2, 3, 4)
    ]
    assert groups == sum(needed)
    assert sum(reported) == 40 * 4


def test_a_killed_run_goes_on(
    data: Dataset,
    stopped: xr.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the last round, whoever was stopped before; with no other rule."""
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)
    made = Sweep(KEY, data, RECIPE, AXES, **OPTIONS, stop=by_seed())
    assert [len(made.members(i)) for i in range(made.num_chunks)] == [32, 8]
    rounds = 0
    save = store.Store.write

    def killed(folder: store.Store, name: str, arrays: Any) -> str:
        nonlocal rounds
        rounds += 1
        digest = save(folder, name, arrays)
        if rounds == 2:
            raise KeyboardInterrupt
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            store.complete(tmp_path, made)
    assert [path.name[:7] for path in tmp_path.glob("state*")] == ["state-0"]
    reported: list[int] = []
    assert store.complete(tmp_path, made, report=reported.append)
    # 14 have been stopped by now, 18 have trained for two epochs.
    assert reported[0] == 14 * 4 + 18 * 2
    assert sum(reported) == 40 * 4
    found = made.assemble(store.read_chunks(tmp_path, made))
    xr.testing.assert_identical(found, stopped)
    table = tmp_path / "table.csv"
    store.write_final_table(table, tmp_path, made)
    assert "stopped,stopped_epoch" in table.read_text().splitlines()[0]
    for other in (by_seed(2), decided, None):
        another = Sweep(KEY, data, RECIPE, AXES, **OPTIONS, stop=other)
        with pytest.raises(RunError, match="stop its seed"):
            store.complete(tmp_path, another)


def test_rules_are_known_by_what_they_do(data: Dataset) -> None:
    """Constants and methods of a class are part of it, names of variables are not."""

    def made(limit: float, more: Any) -> Any:
        class Rule:
            reasons = ("long",)
            most = limit

            def helper(self, networks: Networks) -> Any:
                return more(networks.look)

            def __call__(self, networks: Networks) -> Any:
                return self.helper(networks)

        return Rule()

    rules = [
        *(made(1.0, abs), made(2.0, abs), made(1.0, lambda look: look + 1)),
        *(Decided(), Decided(safety=2.0), Decided(first_look=5)),
    ]
    assert len(set(map(rule_digest, rules))) == len(rules)
    assert rule_digest(made(1.0, abs)) == rule_digest(rules[0])
    before = rule_digest(decided)
    pickle.dumps(RECIPE)  # leaves a note in the classes that a rule names
    assert rule_digest(Decided()) == before
    without = Sweep(KEY, data, RECIPE, AXES, **OPTIONS)
    assert "stop" not in identity_of(without).words


def test_any_axes_and_optimizers(data: Dataset) -> None:
    """Two sets of data, Adam, two looks an epoch, by vmap; some never train."""

    def rule(networks: Networks) -> np.ndarray:
        assert networks.point["shift"] == networks.data.train.y[0] - data.train.y[0]
        late = (networks.look == 3) & (networks.point["scale"] > 0.5)
        return np.where((networks.seeds == 0) & (networks.look == 0), 1, -1 + late)

    def shifted(shift: int) -> Dataset:
        return Dataset(*(Split(x, (y + shift) % 10) for x, y in data))

    rule.reasons = "late", "never"  # type: ignore[attr-defined]
    recipe = Recipe(NET, optimizer=optax.adam(0.01), num_epochs=2, looks_per_epoch=2)
    axes: dict[str, Any] = {"shift": [0, 1], "scale": [0.1, 1.0]}
    options: dict[str, Any] = {"seeds": 3, "width": 2, "signals": False}
    options["engine"] = "plain"
    full = sweep(KEY, shifted, recipe, axes, **options)
    found = sweep(KEY, shifted, recipe, axes, **options, stop=rule)
    same_until_the_stop(found, full)
    assert found.stopped.dtype == np.int32
    assert found.stopped_epoch.isel(seed=0).values.tolist() == [[0.0, 0.0]] * 2
    assert found.stopped_epoch.sel(scale=1.0).isel(seed=1).values.tolist() == [1.5] * 2
    with pytest.raises(ValueError, match="stop: expected 6 whole numbers from -1 to 0"):
        sweep(KEY, shifted, recipe, axes, **options, stop=Wrong())
    with pytest.raises(ValueError, match="stop: expected a function of networks with"):
        sweep(KEY, shifted, recipe, axes, **options, stop=lambda networks: None)


class Wrong:
    """Answers what is no place of a reason."""

    reasons = ("wrong",)

    def __call__(self, networks: Networks) -> np.ndarray:
        """The second reason, of one."""
        return np.ones(len(networks.seeds), int)


def told(curves: Any, looks: int, weight: Any = 0.0, data: Any = None) -> Networks:
    """Networks with such information; the run has so many looks."""
    information = np.atleast_2d(np.array(curves))
    count = len(information)
    rows = {"valid_loss": 2.3 - information, "train_loss": 2.3 - information}
    params = {"W1": np.broadcast_to(np.reshape(weight, (-1, 1)), (count, 3))}
    return Networks(
        Recipe(NET, num_epochs=looks), data, {}, np.arange(count),
        information.shape[1] - 1, rows, params, 2.3, 2.3,
    )  # fmt: skip


HAND_MADE: dict[str, tuple[Networks, str]] = {
    "flat at the top": (told([0, 1, 2, 2, 2, 2], 20), "converged"),
    "for one look": (told([0, 1, 1.2, 1.6, 2, 2], 20), ""),
    "too few looks": (told([0, 2, 2, 2], 10), ""),
    "the claim ends before the run": (told([0, 1, 2, 2, 2, 2], 21), ""),
    "still learning": (told([0, 1, 1.5, 1.7, 1.8, 1.9], 20), ""),
    "flat on the plateau": (told([0, 0, 0, 0, 0, 0], 20), ""),
    "no loss": (told([0, np.nan], 20, np.nan), "diverged"),
    "a loss without bound": (told([0, -np.inf], 20), ""),
    "for two looks": (told([0, -np.inf, -np.inf], 20), "diverged"),
    "hopeless": (told([0, -30, -40], 20), "diverged"),
    "hopeless once": (told([0, -3, -40], 20), ""),
    "as bad from the start": (told([-50, -45, -40], 20), ""),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_reasons(case: str) -> None:
    networks, expected = HAND_MADE[case]
    (answer,) = decided(networks)
    assert (decided.reasons[answer] if answer >= 0 else "") == expected
    if expected:  # the verdict says the same
        curve = 2.3 - networks.rows["valid_loss"][0]
        unknown = np.full(len(curve), np.nan)
        if len(curve) > 1:
            verdict = diagnosis.diagnose(curve, unknown, unknown, label_entropy=2.3)
            assert verdict.kind.name == expected


def test_forecasts(rng: np.random.Generator) -> None:
    """A network that theory sees leave within 1.5 times the run is trained."""
    y = np.arange(320) % 3
    centres = 0.2 * rng.normal(size=(3, 20))
    x = (centres[y] + rng.normal(size=(320, 20))).astype(np.float32)
    data, network = Dataset(*[Split(x, y)] * 3), MLP((20, 6, 5, 3), biases=False)
    keys, scales = jax.random.split(KEY, 3), jnp.array([0.1, 0.1, 5.0])
    many = jax.vmap(lambda key, scale: network.init(key, scale=scale))(keys, scales)
    params = {name: np.asarray(leaf) for name, leaf in many.items()}
    clouds = plateau.statistics(x, y)
    rates = np.array([0.5, 1.0, 1.0], np.float32)
    leaves = plateau.leaving_steps(
        params, clouds, learning_rate=rates, batch_size=16, steps=1e6
    )
    assert np.isfinite(leaves[:2]).all()
    assert leaves[0] > 1.2 * leaves[1]
    assert np.isnan(leaves[2])  # does not begin on the plateau
    # The run is as long as the first allows and the second does not.
    epochs = int(np.sqrt(leaves[0] * leaves[1]) / 1.5 / 20)
    assert leaves[1] < 1.5 * 20 * epochs < leaves[0]
    networks = told(np.zeros((3, 1)), epochs, data=data)._replace(
        params=params, point={"learning_rate": rates}
    )

    def answers(**fields: Any) -> list[int]:
        options: dict[str, Any] = {"network": network, "num_epochs": epochs}
        recipe = Recipe(**options | {"batch_size": 16} | fields)
        found: list[int] = decided(networks._replace(recipe=recipe)).tolist()
        return found

    assert answers() == [2, -1, -1]
    assert answers(num_epochs=2 * epochs) == [-1, -1, -1]
    assert answers(num_epochs=1) == [2, 2, -1]
    for others in (
        {"optimizer": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9)},
        {"loss": losses.cross_entropy},
        {"value_and_grad": lambda params, x, y: None},
        {"network": MLP((20, 6, 3))},
    ):
        assert answers(**others, num_epochs=1) == [-1, -1, -1]
    assert Decided(safety=np.inf)(networks).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="stop: expected a safety of 1 or more"):
        Decided(safety=0.5)


def test_verdicts_are_of_what_is_known(full: xr.Dataset, stopped: xr.Dataset) -> None:
    judged = diagnosis.judged(stopped)
    for (i, j, seed), verdict in judged.items():
        known = diagnosis.judged(full, int(ENDS[seed]))
        assert str(verdict) == str(known[i, j, seed])
    early = diagnosis.judged(stopped, 1)
    assert list(map(str, early.values())) == list(
        map(str, diagnosis.judged(full, 1).values())
    )
    # Of 24 networks nobody knows whether it came true.
    assert int(hindsight.confusion(stopped, 1).sum()) == 2 * 8
    assert int(hindsight.outcomes(stopped, 1).sum()) == 40


def test_verdicts_without_a_step() -> None:
    """By theory alone, for the horizon of a run of two epochs; NaN is diverged."""
    loss = np.full((4, 3), np.nan)
    loss[:, 0] = 2.3, 2.3, 2.3, np.nan
    by_network = {
        "stopped": np.array([2, 2, -1, 2]),
        "stopped_epoch": np.zeros(4),
        "leaves_predicted": np.array([9.0, 3.5, np.nan, 9.0]),
    }
    result = xr.Dataset(
        {name: ("seed", values) for name, values in by_network.items()}
        | {"valid_loss": (("seed", "epoch"), loss), "label_entropy": 2.3},
        {"epoch": [0, 1, 2], "seed": range(4)},
    )
    result["test_loss"] = result.stopped_epoch
    result["label_information"] = 2.3 - result.valid_loss
    result["leaves_earliest"] = result["leaves_latest"] = result.leaves_predicted
    result = pool.labelled(result, decided)
    found = list(diagnosis.judged(result).values())
    assert [verdict.kind.name for verdict in found] == [
        *("vanishing", "too early to tell", "too early to tell", "diverged"),
    ]
    assert found[0].forecast == Forecast(9.0, 9.0, 9.0)
    assert "in epoch 9 (9 to 9)" in str(found[0])
    without = diagnosis.judged(result.drop_vars("leaves_predicted"))
    assert "vanishing" in str(without[(1,)])
    assert "not in sight" in str(without[(1,)])
    names = [diagnosis.NAMES[i] for i in diagnosis.verdicts(result).values]
    assert names == [verdict.kind.name for verdict in found]

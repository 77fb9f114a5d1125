"""Verdicts on both sides of their thresholds; what is measured, by other means."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from published import Recipe, Row, Settings
from scipy.optimize import brentq

from snn_jax import losses, mnist, networks, runs
from snn_jax.networks import Architecture


def row(number: str, rule: published.Rule = "a run") -> Row:
    return Row("Nobody 1999, p. 1: nothing", "x", number, (), lambda _: 0, rule)


# --- Verdicts -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 8, 400])
def test_one_more_run_lies_in_the_band_98_times_in_100(
    count: int, rng: np.random.Generator
) -> None:
    """Few normal runs or many: the promise that verdicts are made by, simulated."""
    inside = []
    for _ in range(2000):
        *ours, one_more = rng.normal(3.0, 0.2, count + 1)
        low, _middle, high = published.band(np.array(ours))
        inside.append(low <= one_more <= high)
    # Standard error 0.003; quantiles of 400 fall 0.25 % short.
    assert 0.968 < np.mean(inside) < 0.989


@pytest.mark.parametrize(
    ("number", "agrees"),
    [("0.45", True), ("0.46", False), ("0.44", False), ("0.4", True), ("0.448", True)],
)
def test_what_is_exact_agrees_to_the_last_digit(number: str, agrees: bool) -> None:
    assert published.judge(row(number), np.array([0.4477])).agrees == agrees


def test_a_run_on_both_sides_of_the_band() -> None:
    """Half a unit of the last digit further, and no more."""
    ours = np.array([96.3, 96.5, 96.6, 96.4])
    t = 4.5407  # 99 % quantile, 3 degrees of freedom, from a table
    high = ours.mean() + t * ours.std(ddof=1) * math.sqrt(1 + 1 / 4)
    inside, outside = f"{high:.2f}", f"{high + 0.01:.2f}"
    assert published.judge(row(inside), ours).agrees
    assert not published.judge(row(outside), ours).agrees
    assert published.judge(row(outside, "rejected"), ours).agrees
    assert not published.judge(row(inside, "rejected"), ours).agrees


def test_ranges_and_yes_or_no() -> None:
    few, many = np.array([20.0] * 2 + [99.0] * 6), np.array([20.0] + [99.0] * 7)
    for sign in (1, -1):  # beyond either end
        number = "17.8 to 21.7" if sign == 1 else "-21.7 to -17.8"
        assert published.judge(row(number, "a range"), sign * few).agrees
        assert not published.judge(row(number, "a range"), sign * many).agrees
    yes = np.array([True, True])
    assert published.judge(row("yes", "holds"), yes).agrees
    assert not published.judge(row("yes", "holds"), np.array([True, False])).agrees


def test_how_many_lie_beyond_a_range(rng: np.random.Generator) -> None:
    """Runs of one kind, simulated: 3 or more of 4 beyond the largest of 5."""
    runs = rng.normal(size=(20_000, 9))
    count = (runs[:, :4] > runs[:, 4:].max(axis=1, keepdims=True)).sum(axis=1)
    # Standard error 0.0015.
    assert abs((count >= 3).mean() - published.beyond(3, 4)) < 0.006


def test_a_difference_without_a_reason_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was computed once is not computed again."""
    calls = []

    def experiment(*_: object) -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.array([0.5])}

    monkeypatch.setitem(published.EXPERIMENTS, "no-training", experiment)
    rows = [
        row(number)._replace(
            needs=("no-training",), measured=published._take("no-training", "x")
        )
        for number in ("0.5", "0.7")
    ]
    settings = Settings(only=("no-training",), out=tmp_path)
    monkeypatch.setattr(published, "ROWS", tuple(rows))
    assert published.main(settings) == 1
    assert "DIFFERS" in capsys.readouterr().out
    explained = rows[1]._replace(explained="Planted.")
    monkeypatch.setattr(published, "ROWS", (rows[0], explained))
    assert published.main(settings) == 0
    assert "Planted." in capsys.readouterr().out
    assert list(runs.load(tmp_path).verdict.values) == ["agrees", "explained"]
    assert len(calls) == 1


def test_other_settings_and_data_are_kept_apart(small: mnist.Dataset) -> None:
    def name(settings: Settings, dataset: mnist.Dataset = small) -> str:
        data = mnist.digest(dataset)
        return published.stored_name("depth-1", settings, data)

    shorter = small._replace(test=mnist.Split(small.test.x[1:], small.test.y[1:]))
    names = {name(Settings()), name(Settings(seeds=5)), name(Settings(), shorter)}
    assert len(names) == 3
    assert name(Settings(out=Path("elsewhere"))) in names


def test_rows_are_complete() -> None:
    """Enough numbers and sources, each with a year; no experiment is idle."""
    needed = {name for row in published.ROWS for name in row.needs}
    assert needed == set(published.EXPERIMENTS)
    assert set(published.SLOW) < needed
    assert len(published.ROWS) >= 20
    years = {row.source.split(",")[0].split(":")[0] for row in published.ROWS}
    assert len(years) >= 4
    assert all(any(word.isdigit() for word in year.split()) for year in years)
    places = [(row.source, row.what) for row in published.ROWS]
    assert len(set(places)) == len(places)
    for row in published.ROWS:
        if row.rule != "holds":
            low, high = published.printed_range(row.published)
            assert low < high


# --- What is measured ---------------------------------------------------------------


@pytest.mark.parametrize("w", [4.5, 6.9, 15.0])
def test_equation_123_by_root_finding(w: float) -> None:
    def excess(a: float) -> float:
        return w / (2 + math.exp(w * a) + math.exp(-w * a)) - 1

    root = brentq(excess, 0, 10 / w)
    assert published.interval_width(w) == pytest.approx(2 * root, rel=1e-10)


def test_singular_values_of_a_square_matrix(dataset: mnist.Dataset) -> None:
    """The quarter circle law: mean 8 / (3 pi) for variance 1/n, where tanh' = 1."""
    gain = 1e-3
    found = published.mean_singular_value(
        Settings(seeds=2), dataset, initializer="lecun", gain=gain, width=200
    )
    expected = 8 / (3 * math.pi) * gain
    np.testing.assert_allclose(found["singular_value"], expected, rtol=0.01)


def test_decay_acts_on_weights_alone() -> None:
    """A step is w - lr (g + decay w), and b - lr g."""
    params = {"W1": jnp.full((2, 2), 3.0), "b1": jnp.full(2, 3.0)}
    grads = {name: jnp.full_like(leaf, 5.0) for name, leaf in params.items()}
    rule = published.optimizer(False, 0.1)(0.01)
    updates, _ = rule.update(grads, rule.init(params), params)
    np.testing.assert_allclose(updates["W1"], -0.01 * (5 + 0.1 * 3), rtol=1e-6)
    np.testing.assert_allclose(updates["b1"], -0.01 * 5, rtol=1e-6)


def test_no_image_is_lost_by_another_split(small: mnist.Dataset) -> None:
    split = published.split(small, 500)
    assert [len(part.y) for part in split] == [500, 140, 320]
    for i in (0, 1):
        before = np.concatenate([small.train[i], small.valid[i]])
        after = np.concatenate([split.train[i], split.valid[i]])
        np.testing.assert_array_equal(before, after)


def test_a_stuck_network_answers_with_one_class(small: mnist.Dataset) -> None:
    stuck = Recipe((8,) * 5, learning_rate=0.01, batch_size=20, epochs=1, images=320)
    found = published.train(stuck, small, 2)
    assert found["one_class"].all()
    assert found["activation_mean"].shape == (2, 1, 5)


def test_a_recipe_trains_as_by_hand(small: mnist.Dataset) -> None:
    """An epoch of one batch: one step, written out, gives the same accuracy."""
    recipe = Recipe(
        (), 5.0, batch_size=320, epochs=1, images=320, cost="quadratic", decay=0.01
    )
    found = published.train(recipe, small, 1)
    net = Architecture((784, 10))
    key = jax.random.fold_in(jax.random.key(published.SEED), 0)
    params = networks.init(
        jax.random.fold_in(key, 0), net, initializer="glorot_uniform"
    )
    grads = jax.grad(losses.mean_quadratic)(
        params, small.train.x, small.train.y, architecture=net
    )
    after = {
        name: leaf - 5.0 * (grads[name] + 0.01 * leaf * name.startswith("W"))
        for name, leaf in params.items()
    }
    logits = networks.apply(after, small.valid.x, architecture=net)
    expected = 100 * losses.accuracy(logits, jnp.asarray(small.valid.y))
    # The batch is summed in another order: an image more or less.
    np.testing.assert_allclose(found["valid_accuracy"], expected, atol=0.35)
    assert not found["one_class"].any()

"""Verdicts on both sides of their thresholds; what is measured, by other means."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import _published_experiments as experiments
import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import xarray as xr
from _published_rows import EXPERIMENTS, SLOW, Found, Row, Rule
from published import Settings
from scipy.optimize import brentq

from snn_jax import files, gradients, losses, training
from snn_jax.datasets import Dataset
from snn_jax.identity import RunError
from snn_jax.initializers import lecun
from snn_jax.sweep import Sweep


def row(number: str, rule: Rule = "a run", variable: str = "x") -> Row:
    ours = {"no-training": variable}
    return Row("Nobody 1999, p. 1: nothing", "x", number, ours, rule=rule)


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
    measured = xr.Dataset({"x": 0.5})
    monkeypatch.setattr(experiments, "without_training", lambda _: measured)
    rows = (row("0.5"), row("0.7"))
    settings = Settings(only=("no-training",), out=tmp_path)
    monkeypatch.setattr(published, "ROWS", rows)
    assert published.main(settings) == 1
    printed = capsys.readouterr().out
    assert "DIFFERS" in printed
    assert "No explanation is known." in printed
    explained = rows[1]._replace(explained="Planted.", note="Sown.")
    monkeypatch.setattr(published, "ROWS", (rows[0], explained))
    assert published.main(settings) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "No explanation" not in printed
    for words in ("Planted.", "Sown."):
        assert words in printed
        assert words in page
    assert list(files.load(tmp_path).verdict.values) == ["agrees", "explained"]


def test_rows_are_complete() -> None:
    """Enough numbers and sources, each with a year; no experiment is idle."""
    needed = {name for row in published.ROWS for name in row.ours}
    assert needed == set(EXPERIMENTS)
    assert needed == {"no-training", *experiments.EXPERIMENTS}
    assert set(SLOW) < needed
    assert len(published.ROWS) >= 20
    years = {row.source.split(",")[0].split(":")[0] for row in published.ROWS}
    assert len(years) >= 4
    assert all(any(word.isdigit() for word in year.split()) for year in years)
    places = [(row.source, row.what) for row in published.ROWS]
    assert len(set(places)) == len(places)
    for row in published.ROWS:
        assert row.rule in ("a run", "a range", "holds", "rejected")
        assert len(row.ours) == (1 if row.between is None else 2)
        if row.rule != "holds":
            low, high = published.printed_range(row.published)
            assert low < high


def test_what_a_row_takes_from_results() -> None:
    """An epoch; the best of some networks; a number between two of ours."""
    curves = xr.DataArray(
        np.arange(12.0).reshape(4, 3),
        dims=["seed", "epoch"],
        coords={"epoch": range(3)},
    )
    found = {"no-training": xr.Dataset({"x": curves, "low": 3.0})}
    at = row("1")._replace(epoch=1)
    np.testing.assert_array_equal(at.measured(found), [1, 4, 7, 10])
    best = at._replace(best_of=2)
    np.testing.assert_array_equal(best.measured(found), [4, 10])
    both = {"a": found["no-training"], "b": xr.Dataset({"x": curves.max("epoch")})}
    between = row("yes")._replace(ours={"a": "low", "b": "x"}, between=5.0)
    np.testing.assert_array_equal(between.measured(both), [False, False, True, True])
    above = between._replace(between=2.5)
    assert not above.measured(both).any()


# --- What is measured ---------------------------------------------------------------


@pytest.mark.parametrize("w", [4.5, 6.9, 15.0])
def test_equation_123_by_root_finding(w: float) -> None:
    def excess(a: float) -> float:
        return w / (2 + math.exp(w * a) + math.exp(-w * a)) - 1

    root = brentq(excess, 0, 10 / w)
    assert experiments.interval_width(w) == pytest.approx(2 * root, rel=1e-10)


def test_singular_values_of_a_square_matrix(small: Dataset) -> None:
    """The quarter circle law: mean 8 / (3 pi) for variance 1/n, where tanh' = 1."""
    scale = 1e-3
    sweep = experiments.singular_values(
        small, 2, 0, initializer=lecun, scale=scale, width=200
    )
    params = sweep.recipe.network.init(jax.random.key(0))
    found = sweep.recipe.observe["seen"](params)["singular_value"]
    assert found == pytest.approx(8 / (3 * math.pi) * scale, rel=0.01)
    assert (small.train.x == params["image"]).all(axis=1).any()


def test_what_a_figure_shows_of_layers(small: Dataset) -> None:
    """Without weights, a layer's mean is the sigmoid of its biases, on either side."""
    sweep = experiments.mean_activations(small, 2, 0)
    shapes = jax.eval_shape(sweep.recipe.network.init, jax.random.key(0))
    observe = sweep.recipe.observe["means"]

    def seen(*means: float) -> dict[str, Any]:
        params = {name: np.zeros(leaf.shape) for name, leaf in shapes.items()}
        for layer, mean in enumerate(means, start=1):
            params[f"b{layer}"] += math.log(mean / (1 - mean))
        found = observe(params)
        np.testing.assert_allclose(found.pop("activation_mean"), means, rtol=1e-5)
        return {name: bool(value) for name, value in found.items()}

    names = ["top_goes_to_0", "others_increase", "others_above_half"]
    assert seen(0.51, 0.55, 0.73, 0.09) == dict.fromkeys(names, True)
    assert seen(0.73, 0.55, 0.49, 0.11) == dict.fromkeys(names, False)
    assert not seen(0.49, 0.55, 0.73, 0.09)["others_above_half"]


def test_accuracies_as_published() -> None:
    """In percent; one answer to all images is right as often as its class comes."""
    shares = xr.DataArray([0.25, 0.75], dims="class")
    valid = xr.DataArray([[0.1, 0.9, 0.8], [0.1, 0.2, 0.3]], dims=["seed", "epoch"])
    test = xr.DataArray(np.array([0.75, 0.7501], np.float32), dims="seed")
    result = xr.Dataset(
        {"valid_accuracy": valid, "test_accuracy": test, "test_class_frequency": shares}
    )
    found = experiments.as_published(result)
    np.testing.assert_allclose(found.best_accuracy, [90, 30])
    np.testing.assert_allclose(found.test_accuracy, [75, 75.01])
    assert list(found.one_answer.values) == [True, False]


def test_decay_acts_on_weights_alone() -> None:
    """A step is w - lr (g + decay w), and b - lr g."""
    params = {"W1": jnp.full((2, 2), 3.0), "b1": jnp.full(2, 3.0)}
    grads = {name: jnp.full_like(leaf, 5.0) for name, leaf in params.items()}
    rule = experiments.sgd(0.01, decay=0.1)
    updates, _ = rule.update(grads, rule.init(params), params)
    np.testing.assert_allclose(updates["W1"], -0.01 * (5 + 0.1 * 3), rtol=1e-6)
    np.testing.assert_allclose(updates["b1"], -0.01 * 5, rtol=1e-6)


def test_images_are_split_in_their_order(small: Dataset) -> None:
    joined = experiments.joined(small)
    for count, validate in ((100, 320), (500, 140)):
        split = experiments.split(joined, count)
        assert [len(part.y) for part in split] == [count, validate, 320]
        for i in (0, 1):
            before = np.concatenate([small.train[i], small.valid[i]])
            after = np.concatenate([split.train[i], split.valid[i]])
            np.testing.assert_array_equal(after, before[: count + validate])
    everything = experiments.split(joined, 640)
    assert len(everything.train.y) == 640
    assert everything.valid is joined.valid


def test_every_epoch_is_tested_where_the_best_counts(small: Dataset) -> None:
    joined, best = experiments.joined(small), experiments.EXPERIMENTS["first-net"]
    sweep = best(joined, 4, 0)
    assert sweep.num_networks == 3 * 4
    assert sweep.data.valid.x is joined.test.x


NETWORK = experiments.net()
SCALE, BIAS_SCALE = 2.0, 0.5


@pytest.fixture(scope="module")
def one_step(
    small: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Found]]:
    """A run of one experiment: one step, from a batch of all images."""
    experiment = partial(
        experiments.trained,
        network=NETWORK,
        images=320,
        loss=losses.quadratic,
        optimizer=experiments.sgd(2.0, decay=0.05),
        num_epochs=1,
        batch_size=320,
        scale=SCALE,
        bias_scale=BIAS_SCALE,
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(experiments.EXPERIMENTS, "course-0", experiment)
        folder = tmp_path_factory.mktemp("published")
        settings = Settings(only=("course-0",), seeds=2, out=folder)
        yield settings, published.measure(settings, small)


def test_an_experiment_trains_as_by_hand(
    one_step: tuple[Settings, Found], small: Dataset
) -> None:
    """One step, written out, gives the same network."""
    found = one_step[1]["course-0"]
    for seed in (0, 1):
        key = training.weights_key(jax.random.key(experiments.SEED), seed)
        params = NETWORK.init(key, scale=SCALE, bias_scale=BIAS_SCALE)
        _, grads = gradients.by_autodiff(NETWORK, losses.quadratic)(
            params, *small.train
        )
        after = {
            name: leaf - 2.0 * (grads[name] + 0.05 * leaf * name.startswith("W"))
            for name, leaf in params.items()
        }
        logits = NETWORK.apply(after, small.valid.x)
        y = jnp.asarray(small.valid.y)
        ours = found.isel(scale=0, bias_scale=0).sel(seed=seed, epoch=1)
        expected = losses.quadratic(logits, y).mean()
        np.testing.assert_allclose(ours.valid_loss, expected, rtol=1e-5)
        np.testing.assert_allclose(
            ours.valid_accuracy, 100 * losses.accuracy(logits, y), rtol=1e-5
        )


def test_what_is_finished_is_kept(
    one_step: tuple[Settings, Found], small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command computes nothing again, other settings are refused."""
    calls = []
    run_chunks = Sweep.run_chunks

    def counted(sweep: Sweep, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return run_chunks(sweep, *arguments, **options)

    monkeypatch.setattr(Sweep, "run_chunks", counted)
    settings, found = one_step
    again = published.measure(settings, small)
    assert again["course-0"].identical(found["course-0"])
    more = replace(settings, seeds=3)
    with pytest.raises(RunError, match="seeds 2 there and 3 here"):
        published.measure(more, small)
    assert not calls
    anew = published.measure(replace(more, restart=True), small)
    assert anew["course-0"].sizes["seed"] == 3

"""Remedies are what they say, and the league chooses as it says."""

from dataclasses import replace
from typing import Any

import _league_figures
import _words
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from _catalogue import COMBINED, SINGLE, Cell, Remedy, cells, drawn, groups
from _league import KEY, Plan, cost, layer_by_layer, league, race, trainable_depth
from remedies import Settings, described, page

from snn_jax import losses, meanfield, remedies, signals, training
from snn_jax.activations import sigmoid, tanh
from snn_jax.datasets import Dataset, Split
from snn_jax.initializers import lecun, normal
from snn_jax.networks import DEEP, MLP
from snn_jax.recipe import Recipe, takes
from snn_jax.sweep import Sweep

BASE = MLP((784, 6, 6, 10), biases=False)


def test_lsuv(small: Dataset) -> None:
    """Every layer's sums have variance 1; the weights are orthogonal but for scale."""
    x = jnp.asarray(small.train.x[:200])
    params = remedies.lsuv(KEY, BASE, x)
    _, z = BASE.forward(params, x)
    np.testing.assert_allclose([layer.std() for layer in z], 1, rtol=1e-4)
    W = params["W2"]
    np.testing.assert_allclose(W @ W.T / (W[0] @ W[0]), np.eye(6), atol=1e-5)


@pytest.mark.parametrize("sigma_w", [4.0, None])
def test_sums_start_at_the_fixed_point(sigma_w: float | None, small: Dataset) -> None:
    """In 300 units a layer the variance of the sums is q* from the first layer on.

    Compiled or not: what theory says is worked out beforehand.
    """
    net = MLP((784, 300, 300, 300, 300), biases=False)
    x = jnp.asarray(small.train.x[:50])
    if sigma_w is None:
        params = jax.jit(lambda key: remedies.critical(key, net, x))(KEY)
        sigma_w = meanfield.critical_sigma_w(activation=sigmoid)
    else:
        params = remedies.matched(sigma_w)(KEY, net, x)
    q = meanfield.fixed_point(activation=sigmoid, sigma_w=sigma_w)
    _, z = net.forward(params, x)
    # The first layer's variance is that of each image's length, q* on the average.
    np.testing.assert_allclose([(layer**2).mean() for layer in z], q, rtol=0.2)
    np.testing.assert_allclose(params["W3"].std() * 300**0.5, sigma_w, rtol=0.02)


@pytest.mark.parametrize("size", [1e-25, 1e-3, 1e4])
def test_normalized_gradients_have_one_size(size: float) -> None:
    grads = {"W1": size * jnp.array([[3.0, -4.0]]), "W2": jnp.array([[1.0]])}
    optimizer = remedies.normalized_gradient(0.1)
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    rms = (12.5) ** 0.5
    np.testing.assert_allclose(updates["W1"], [[-0.3 / rms, 0.4 / rms]], rtol=1e-5)
    np.testing.assert_allclose(updates["W2"], [[-0.1]], rtol=1e-5)


def test_rates_decay_on_a_straight_line() -> None:
    """Ten steps at gradient 1 with factors 1, 0.9 .. 0.1 are 5.5 steps at full rate."""
    optimizer = remedies.decayed(optax.sgd, 10)(0.2)
    position, state = jnp.zeros(()), optimizer.init(jnp.zeros(()))
    for _ in range(10):
        update, state = optimizer.update(jnp.ones(()), state)
        position += update
    np.testing.assert_allclose(position, -0.2 * 5.5, rtol=1e-5)
    assert remedies.decayed(optax.sgd, 10) is remedies.decayed(optax.sgd, 10)
    # What the optimizer takes can still be an axis.
    assert takes(remedies.decayed(optax.adam, 10)) == takes(optax.adam)


def test_pixels_are_prepared_by_the_training_set(rng: np.random.Generator) -> None:
    x = rng.normal(3.0, 2.0, (3, 50, 4)).astype(np.float32)
    x[..., 3] = 0.0  # a pixel that never varies
    data = Dataset(*(Split(part, np.zeros(50, int)) for part in x))
    for inputs in ("centred", "standardized"):
        found = remedies.prepared(data, inputs)
        np.testing.assert_allclose(found.train.x.mean(axis=0), 0, atol=1e-6)
        assert abs(found.test.x.mean(axis=0)).max() > 1e-2  # not by its own
        if inputs == "standardized":
            np.testing.assert_allclose(found.train.x.std(axis=0), [1, 1, 1, 0], 1e-5)
    assert remedies.prepared(data, "raw") is data
    with pytest.raises(ValueError, match="inputs: expected raw, centred or standard"):
        remedies.prepared(data, "whitened")


def test_every_remedy_is_tried_fairly() -> None:
    """From three kinds of weights or its own, and with five rates."""
    names = [remedy.name for remedy in (*SINGLE, *COMBINED)]
    assert len(set(names)) == len(names)
    for remedy in (*SINGLE, *COMBINED):
        assert len(set(remedy.learning_rates)) == 5
        assert len(remedy.starts) == (3 if remedy.init is None else 1)


def test_groups_hold_every_cell_once() -> None:
    together = groups(SINGLE)
    flat = [cell for group in together for cell in group]
    assert len(flat) == len(cells(SINGLE)) == len(set(map(id, flat)))
    for group in together:
        assert len({cell.remedy.network(DEEP) for cell in group}) == 1
        assert len({cell.remedy.optimizer for cell in group}) == 1
        assert len({cell.remedy.learning_rates for cell in group}) == 1


def test_cost_is_that_of_the_matrix_products() -> None:
    """And a little more: up, to the weights, and down again but for the first layer."""
    products = 2 * (2 * 784 * 10) + 3 * 2 * (4 * 10 * 10 + 10 * 10)
    found = cost(SINGLE[0], DEEP, batch_size=32)
    assert products < found < 1.1 * products


def in_memory(_: str, sweep: Sweep) -> xr.Dataset:
    """All chunks of a sweep, trained and labelled."""
    together = sweep.together(range(sweep.num_chunks))
    return sweep.assemble([c for chunks in together for c in sweep.run_chunks(chunks)])


TANH = Remedy("tanh", "", "", changes={"activation": tanh}, learning_rates=(0.1, 1.0))


def test_a_race_is_training(small: Dataset) -> None:
    """Two epochs with two looks in each are ``training.train``, by another road.

    Cells, rates and seeds land where they belong, and what a cell's weights are like
    before the first step stands beside what became of them.
    """
    together = cells([TANH])
    plan = Plan(BASE, seeds=2, epochs=2, batch_size=32, looks=2)
    found = race(small, together, plan, "tanh", in_memory)
    assert dict(found.valid_loss.sizes) == {"cell": 3, "rate": 2, "seed": 2, "part": 5}
    net = TANH.network(BASE)

    x, y = small.train

    @jax.jit
    def expected(params: Any, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        recipe = Recipe(net, num_epochs=2, batch_size=32)
        trained, _ = training.train(KEY, params, small, recipe, learning_rate=rate)
        loss = losses.nll(net.apply(trained, small.test.x), small.test.y).mean()
        gradient = signals.gradient_rms(net, params, x, y)
        return loss, gradient[0] / gradient[-1]

    for cell, rate, seed in ((0, 0, 1), (1, 1, 0), (1, 0, 1)):
        init = together[cell].remedy.starts[together[cell].start]
        params = init(training.weights_key(KEY, seed), net, x)
        loss, ratio = expected(params, jnp.float32(TANH.learning_rates[rate]))
        one = found.isel(cell=cell, seed=seed)
        np.testing.assert_allclose(one.test_loss[rate], loss, rtol=1e-3)
        np.testing.assert_allclose(one.gradient_ratio, ratio, rtol=1e-3)


def test_layers_are_added_one_by_one() -> None:
    """What was trained stays, one fresh layer is added, the output is the last's.

    Training adds 1 here. Every image is seen once an epoch, whoever sees it.
    """
    net = MLP((4, 3, 3, 3, 3, 2), biases=False)
    fresh = {f"W{i}": np.full((1, 3, 3), float(i), np.float32) for i in range(1, 6)}
    images = Split(np.arange(20), np.arange(20))
    asked = []

    def train(_: str, recipe: Recipe, part: Split, initial: Any) -> xr.Dataset:
        asked.append((recipe, part, initial))
        dims = ("cell", "rate", "seed", "epoch", "i", "j")
        after = {
            name: (leaf + 1.0)[:, None, None, None] for name, leaf in initial.items()
        }
        return xr.Dataset({name: (dims, leaf) for name, leaf in after.items()})

    recipe = Recipe(net, num_epochs=2, looks_per_epoch=10)
    layer_by_layer(train, recipe, images, fresh)
    values = [{n: leaf.mean() for n, leaf in initial.items()} for *_, initial in asked]
    assert values == [
        {"W1": 1, "W2": 5},
        {"W1": 2, "W2": 2, "W3": 5},
        {"W1": 3, "W2": 3, "W3": 3, "W4": 5},
        {"W1": 4, "W2": 4, "W3": 4, "W4": 4, "W5": 5},
        {"W1": 5, "W2": 5, "W3": 5, "W4": 5, "W5": 6},
    ]
    assert [recipe.network.num_layers for recipe, *_ in asked] == [2, 3, 4, 5, 5]
    assert sum(recipe.num_looks for recipe, *_ in asked) == 20
    seen = np.concatenate([part.y for _, part, _ in asked])
    np.testing.assert_array_equal(seen, [*range(20), *range(20)])
    assert all(leaf.dtype == np.float32 for *_, p in asked for leaf in p.values())


def test_a_layerwise_race_goes_on_with_its_own_networks(
    rng: np.random.Generator,
) -> None:
    """The second stage starts from what the first ends with, each from its own."""
    x, y = rng.normal(size=(40, 8)).astype(np.float32), rng.integers(0, 3, 40)
    data = Dataset(*[Split(x, y)] * 3)
    grown = replace(TANH, layerwise=True, init=drawn(normal))
    sweeps: list[Any] = []
    results: list[xr.Dataset] = []

    def finish(name: str, sweep: Sweep) -> xr.Dataset:
        sweeps.append(sweep)
        results[:] = results or [in_memory(name, sweep)]
        return results[0]  # the second stage is not trained

    plan = Plan(MLP((8, 4, 4, 3), biases=False), 2, epochs=1, batch_size=2, looks=4)
    found = race(data, cells([grown]), plan, "grown", finish)
    assert found.sizes["part"] == 3  # the initial network, and one look in each stage
    first, second = (sweep.initial["W1"] for sweep in sweeps)
    place = np.ravel_multi_index((0, 1, 0), (1, 2, 2))  # of the second rate
    ends = results[0].W1.isel(cell=0, learning_rate=1, seed=0)
    np.testing.assert_array_equal(first[place], ends.isel(epoch=0))
    np.testing.assert_array_equal(second[place], ends.isel(epoch=-1))
    assert second.dtype == np.float32
    assert abs(second - first).max() > 0.01


def made_up(valid: np.ndarray, test: np.ndarray) -> xr.Dataset:
    """What comes of a race of one cell, two rates and three seeds."""
    loss = np.full((1, 2, 3, 3), 2.5)
    loss[0, 1, 0, 1:] = 1.0  # leaves in the first part
    loss[0, 1, 1, 2:] = 1.0  # in the second
    grid = ("cell", "rate", "seed")
    before = ("gradient_ratio", "spread", "saturation")
    return xr.Dataset(
        {
            "valid_accuracy": ((*grid, "part"), np.stack([valid[None]] * 3, -1)),
            "valid_loss": ((*grid, "part"), loss),
            "test_accuracy": (grid, test[None]),
            "first_change": (grid, np.full((1, 2, 3), 1e-6)),
            **{name: (("cell", "seed"), np.full((1, 3), 0.5)) for name in before},
        },
        coords={"seed": np.arange(3)},
    )


VALID = np.array([[0.99, 0.5, np.nan], [0.6, 0.61, 0.62]])
TEST = np.array([[0.9, 0.9, 0.9], [0.5, 0.6, 0.7]])
PLAN = Plan(DEEP, seeds=3, epochs=1, batch_size=32, looks=2)


def test_the_rate_is_chosen_on_the_validation_set(small: Dataset) -> None:
    """By the median of all seeds, those that diverged counting as nothing.

    Rate 0 is better on the test set, and by the best and the mean of its seeds.
    """
    remedy = replace(SINGLE[0], learning_rates=(0.1, 1.0))
    found = league([([Cell(remedy, "small")], made_up(VALID, TEST))], small, PLAN)
    assert int(found.best_rate[0]) == 1
    assert float(found.best_learning_rate[0]) == 1.0
    np.testing.assert_allclose(found.best_test_accuracy[0], [0.5, 0.6, 0.7])
    np.testing.assert_allclose(found.epochs_to_leave[0], [0.5, 1.0, np.inf])
    assert found.attrs["first_images"] == 160


def test_the_words_say_what_the_numbers_say(small: Dataset) -> None:
    """Small weights stand still, tanh and Muon cure them, two of the Adams diverge."""
    accuracies = {"none": [0.1], "tanh": [0.9], "biases": [0.104], "Muon": [0.95]}
    accuracies["Adam"] = [np.nan, np.nan, 0.95]
    raced = []
    for remedy in SINGLE:
        if remedy.name in accuracies:
            two_rates = replace(remedy, learning_rates=(0.1, 1.0))
            test = np.broadcast_to(accuracies[remedy.name], (2, 3))
            raced.append(([Cell(two_rates, "small")], made_up(VALID, test)))
    found = league(raced, small, PLAN)
    found.attrs["class_share"] = 0.1
    leagues = {"alone": found, "together": found}
    depths = described({5: leagues, 50: leagues})
    words = _words.answers("remedies.md.j2", depths=depths)
    (cures,) = words["What makes it converge? (5 hidden layers)"]
    for part in (
        "plain SGD gets 10.0 % after 320 images at the best of its rates, the share of",
        "Above 85.0 %: Muon (95.0 %) and tanh (90.0 %).",
        "No better than nothing: biases (10.4 %) and Adam (0.0 %).",
    ):
        assert part in cures.replace("\xa0", " ")
    first, second = words["Why? (5 hidden layers)"]
    assert "moves the first layer by 1e-06 of its weights: it stands still" in first
    assert "tanh: the gradient itself arrives, first over last layer 0.5." in second
    assert "Muon: the gradient stays as small as it was" in second
    assert words["How deep?"][1].startswith("With 50 hidden layers: The best is Muon, ")
    sections = {section.name: section for section in page(Settings(), depths, {})}
    assert {"league_5", "signals_50", "recipe_table_50"} < set(sections)
    assert all(s.figure or s.table for s in sections.values())
    assert sections["table_5"].table[3][2:4] == ["-", "95.0\xa0% to 95.0\xa0%"]


def test_the_picture_of_trainable_depth() -> None:
    """Accuracy at the best rate; six depth scales are drawn below criticality alone."""

    def finish(name: str, sweep: Sweep) -> xr.Dataset:
        """The largest rate is the best on the validation set, and only there."""
        assert name == "sigmoid"
        for i, depth in enumerate((1, 5)):
            sizes = (784, *(10,) * depth, 10)
            wanted = MLP(sizes, sigmoid, biases=False, initializer=lecun)
            assert sweep.ensemble(i).recipe.network == wanted
        valid = np.broadcast_to([[0.1], [0.2], [0.9]], (2, 8, 3, 2))
        dims = ("depth", "scale", "learning_rate", "seed")
        return xr.Dataset(
            {
                "valid_accuracy": ((*dims, "epoch"), valid[..., None]),
                "test_accuracy": (dims, 1 - valid),
            },
            coords={name: list(values) for name, values in sweep.axes.values.items()},
        )

    split = Split(np.zeros((8, 784), np.float32), np.arange(8))
    data = Dataset(split, split, split)
    picture = trainable_depth(data, sigmoid, (1, 5), finish, num_epochs=1, batch_size=4)
    np.testing.assert_allclose(picture.test_accuracy, 0.1)
    assert float(picture.depth_scale.idxmax("sigma_w")) == 10.0  # near 10.15
    (axes, _) = _league_figures.trainable_depth({"sigmoid": picture}).axes
    assert [np.size(line.get_xdata()) for line in axes.lines] == [8, 6]

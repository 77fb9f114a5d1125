"""Training is the textbook loop; gradients by hand train the same network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snn_jax import backprop, gradients, losses, training
from snn_jax.datasets import Dataset, Split
from snn_jax.networks import DEEP, MLP, SHALLOW
from snn_jax.recipe import Recipe

NETS = {"shallow": SHALLOW, "deep": DEEP}


def numpy_sgd_step(
    params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, rate: float
) -> dict[str, np.ndarray]:
    """One step in the row convention of most courses, written without the package."""
    num_layers = sum(leaf.startswith("W") for leaf in params)
    activations = [x]
    for layer in range(1, num_layers + 1):
        z = activations[-1] @ params[f"W{layer}"].T + params.get(f"b{layer}", 0.0)
        activations.append(1 / (1 + np.exp(-z)) if layer < num_layers else z)
    scores = np.exp(activations[-1] - activations[-1].max(axis=1, keepdims=True))
    delta = scores / scores.sum(axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    new = dict(params)
    for layer in range(num_layers, 0, -1):
        below = activations[layer - 1]
        new[f"W{layer}"] = params[f"W{layer}"] - rate * delta.T @ below
        if f"b{layer}" in params:
            new[f"b{layer}"] = params[f"b{layer}"] - rate * delta.sum(axis=0)
        delta = delta @ params[f"W{layer}"] * below * (1 - below)
    return new


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("way", [gradients.by_autodiff, backprop.value_and_grad])
def test_a_hundred_steps_are_those_of_numpy(
    name: str, way: Any, batch_size: int, dataset: Dataset
) -> None:
    """Same weights, same batches, float64: every weight within 1e-10."""
    net = NETS[name]
    with jax.enable_x64(True):
        start = net.init(jax.random.key(0), scale=0.5, bias_scale=0.5)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), start)
        x = jnp.asarray(dataset.train.x[: 100 * batch_size], jnp.float64)
        y = jnp.asarray(dataset.train.y[: 100 * batch_size])
        optimizer = optax.sgd(0.5)
        state = training.start(params, optimizer)
        expected = {leaf: np.asarray(value) for leaf, value in params.items()}
        step = jax.jit(
            lambda state, x, y: training.step(
                state,
                x,
                y,
                optimizer=optimizer,
                value_and_grad=way(net),
            )
        )
        for batch in np.arange(100 * batch_size).reshape(100, batch_size):
            state, _ = step(state, x[batch], y[batch])
            expected = numpy_sgd_step(
                expected, np.asarray(x[batch]), np.asarray(y[batch]), 0.5
            )
        moved = 0.0
        for leaf, value in state.params.items():
            np.testing.assert_allclose(value, expected[leaf], rtol=0, atol=1e-10)
            moved = max(moved, float(jnp.abs(value - params[leaf]).max()))
        assert moved > 0.1


def test_both_gradients_give_one_learning_curve(dataset: Dataset) -> None:
    """Three epochs of the shallow network in float64, by hand and by autodiff."""
    with jax.enable_x64(True):
        train, valid = (
            Split(s.x[:1600].astype(np.float64), s.y[:1600])
            for s in (dataset.train, dataset.valid)
        )
        data = Dataset(train, valid, valid)
        params = SHALLOW.init(jax.random.key(0), scale=0.1)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        histories = []
        for way in (gradients.by_autodiff, backprop.value_and_grad):
            recipe = Recipe(SHALLOW, value_and_grad=way(SHALLOW), num_epochs=3)
            train_it = jax.jit(
                lambda params, recipe=recipe: training.train(
                    jax.random.key(1), params, data, recipe, learning_rate=0.3
                )[1]
            )
            histories.append(jax.tree.map(np.asarray, train_it(params)))
    autodiff, by_hand = histories
    for mine, other in zip(
        jax.tree.leaves(by_hand), jax.tree.leaves(autodiff), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-9)
    assert by_hand.valid.loss[-1] < 0.8 * by_hand.valid.loss[0]


def test_an_epoch_shows_every_example_once() -> None:
    order = training.batch_order(jax.random.key(3), 64, 8)
    assert order.shape == (8, 8)
    assert sorted(order.ravel().tolist()) == list(range(64))
    assert order.ravel().tolist() != list(range(64))
    again = training.batch_order(jax.random.key(4), 64, 8)
    assert (order != again).any()


def test_what_does_not_fill_a_batch_changes_every_epoch() -> None:
    left_out = {
        frozenset(range(10))
        - frozenset(training.batch_order(jax.random.key(k), 10, 4).ravel().tolist())
        for k in range(8)
    }
    assert len(left_out) > 1
    assert all(len(examples) == 2 for examples in left_out)


@pytest.mark.parametrize("batch_size", [0, 11])
def test_impossible_batch_sizes(batch_size: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 10"):
        training.batch_order(jax.random.key(0), 10, batch_size)


def test_full_batch_descent_descends(small: Dataset) -> None:
    """With the whole set as one batch and a small step the loss falls every epoch."""
    params = SHALLOW.init(jax.random.key(0), scale=0.1)
    recipe = Recipe(SHALLOW, num_epochs=10, batch_size=len(small.train.y))
    data = small._replace(valid=small.train)
    _, history = training.train(
        jax.random.key(1), params, data, recipe, learning_rate=0.1
    )
    assert (jnp.diff(history.valid.loss) < 0).all()
    # One batch an epoch: its loss is that of the whole set before the step.
    np.testing.assert_allclose(history.train_loss, history.valid.loss[:-1], rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.3, momentum=0.9),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01)),
        optax.sgd(optax.schedules.cosine_decay_schedule(0.5, 200)),
        optax.partition(
            {"W": optax.adam(0.01), "b": optax.sgd(0.1)},
            {"W1": "W", "b1": "b", "W2": "W", "b2": "b"},
        ),
        # These want the loss, or evaluate it again.
        optax.polyak_sgd(max_learning_rate=0.3),
        optax.lbfgs(0.1),
        optax.chain(optax.adam(0.01), optax.contrib.reduce_on_plateau(patience=20)),
    ],
)
def test_any_optax_optimizer_trains(optimizer: Any, small: Dataset) -> None:
    net = MLP((784, 6, 10))
    params = net.init(jax.random.key(0), scale=0.1)
    recipe = Recipe(net, optimizer=optimizer, num_epochs=5, batch_size=32)
    data = small._replace(valid=small.train)
    _, history = training.train(jax.random.key(1), params, data, recipe)
    assert history.valid.loss[-1] < 0.95 * history.valid.loss[0]


def test_a_longer_run_begins_like_a_shorter_one(small: Dataset) -> None:
    net = MLP((784, 5, 10))

    def run(num_epochs: int) -> training.History:
        recipe = Recipe(net, num_epochs=num_epochs, batch_size=64)
        params = net.init(jax.random.key(0))
        return training.train(
            jax.random.key(1), params, small, recipe, learning_rate=0.3
        )[1]

    np.testing.assert_allclose(run(3).valid.loss[:2], run(1).valid.loss, rtol=1e-6)


def test_observations_stand_beside_the_loss(small: Dataset) -> None:
    net = MLP((784, 5, 10))
    norm = {"norm": lambda params: jnp.linalg.norm(params["W1"])}
    recipe = Recipe(net, num_epochs=2, batch_size=160, observe=norm)
    params = net.init(jax.random.key(0))
    final, history = training.train(
        jax.random.key(1), params, small, recipe, learning_rate=0.3
    )
    assert history.observed["norm"].shape == (3,)
    np.testing.assert_allclose(history.observed["norm"][0], norm["norm"](params))
    np.testing.assert_allclose(history.observed["norm"][-1], norm["norm"](final))


def test_a_network_that_predicts_is_asked_with_the_reference() -> None:
    """An image's answer under batch normalization does not depend on the others."""
    net = MLP((4, 3, 2), normalization="batch")
    params = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (12, 4))
    y = jnp.arange(12) % 2
    whole = training.evaluate(
        params, Split(x[:8], y[:8]), network=net, loss=losses.nll, reference=x[8:]
    )
    halves = [
        training.evaluate(
            params, Split(x[i : i + 4], y[i : i + 4]), network=net, loss=losses.nll,
            reference=x[8:],
        ).loss
        for i in (0, 4)
    ]  # fmt: skip
    np.testing.assert_allclose(whole.loss, np.mean(halves), rtol=1e-6)


def test_measurements_are_what_they_say(small: Dataset) -> None:
    params = DEEP.init(jax.random.key(0))
    found = training.evaluate(params, small.valid, network=DEEP, loss=losses.nll)
    logits = DEEP.apply(params, small.valid.x)
    p = jax.nn.softmax(logits, axis=1)
    right = np.asarray(p)[np.arange(320), small.valid.y]
    np.testing.assert_allclose(found.loss, -np.log(right).mean(), rtol=1e-5)
    share = (np.asarray(p).argmax(axis=1) == small.valid.y).mean()
    np.testing.assert_allclose(found.accuracy, share, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 50_000])
def test_the_shuffle_is_the_librarys(n: int) -> None:
    """A faster way to the same permutation, not another one."""
    found = training.batch_order(jax.random.key(n), n, 1)[:, 0]
    expected = jax.random.permutation(jax.random.key(n), n)
    np.testing.assert_array_equal(found, expected)


def test_keys_are_folded_in_one_place() -> None:
    """Seeds, epochs and own batches: different keys, and the same ones every time."""
    key = jax.random.key(3)
    keys = [
        *(training.weights_key(key, seed) for seed in range(3)),
        *(training.batches_key(key, epoch) for epoch in range(1, 4)),
        *(training.batches_key(key, 1, seed) for seed in range(3)),
    ]
    data = {tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}
    assert len(data) == len(keys)
    again = jax.random.fold_in(jax.random.fold_in(key, training.WEIGHTS), 2)
    assert (jax.random.key_data(keys[2]) == jax.random.key_data(again)).all()

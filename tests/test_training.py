"""Training is the textbook loop; gradients by hand train the same network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snn_jax import backprop, losses, mnist, networks, training
from snn_jax.mnist import Split
from snn_jax.networks import DEEP, SHALLOW, Architecture

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
@pytest.mark.parametrize("way", [losses, backprop])
def test_a_hundred_steps_are_those_of_numpy(
    name: str, way: Any, batch_size: int, dataset: mnist.Dataset
) -> None:
    """Same weights, same batches, float64: every weight within 1e-10."""
    net = NETS[name]
    with jax.enable_x64(True):
        start = networks.init(jax.random.key(0), net, gain=0.5, bias_scale=0.5)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), start)
        x = jnp.asarray(dataset.train.x[: 100 * batch_size], jnp.float64)
        y = jnp.asarray(dataset.train.y[: 100 * batch_size])
        optimizer = optax.sgd(0.5)
        state = training.start(params, optimizer=optimizer)
        expected = {leaf: np.asarray(value) for leaf, value in params.items()}
        step = jax.jit(
            lambda state, x, y: training.step(
                state,
                x,
                y,
                architecture=net,
                optimizer=optimizer,
                value_and_grad=way.value_and_grad,
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


def test_both_gradients_give_one_learning_curve(dataset: mnist.Dataset) -> None:
    """Three epochs of the shallow network in float64, by hand and by autodiff."""
    with jax.enable_x64(True):
        train, valid = (
            Split(s.x[:3200].astype(np.float64), s.y[:3200])
            for s in (dataset.train, dataset.valid)
        )
        params = networks.init(jax.random.key(0), SHALLOW, gain=0.1)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        histories = [
            jax.jit(
                lambda params, way=way: training.train(
                    jax.random.key(1),
                    params,
                    train,
                    valid,
                    architecture=SHALLOW,
                    optimizer=optax.sgd(0.3),
                    num_epochs=3,
                    batch_size=32,
                    value_and_grad=way.value_and_grad,
                )[1]
            )(params)
            for way in (losses, backprop)
        ]
    autodiff, by_hand = (jax.tree.map(np.asarray, history) for history in histories)
    for mine, other in zip(
        jax.tree.leaves(by_hand), jax.tree.leaves(autodiff), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-9)
    assert by_hand.valid.loss[-1] < 0.5 * by_hand.valid.loss[0]


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


def test_full_batch_descent_descends(small: mnist.Dataset) -> None:
    """With the whole set as one batch and a small step the loss falls every epoch."""
    params = networks.init(jax.random.key(0), SHALLOW, gain=0.1)
    _, history = training.train(
        jax.random.key(1),
        params,
        small.train,
        small.train,
        architecture=SHALLOW,
        optimizer=optax.sgd(0.1),
        num_epochs=10,
        batch_size=len(small.train.y),
    )
    assert (jnp.diff(history.valid.loss) < 0).all()
    # One batch an epoch: its loss is that of the whole set before the step.
    np.testing.assert_allclose(
        history.epochs.train_loss, history.valid.loss[:-1], rtol=1e-5
    )


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.3, momentum=0.9), optax.adam(0.01), optax.chain(optax.sgd(0.3))],
)
def test_any_optax_optimizer_trains(optimizer: Any, small: mnist.Dataset) -> None:
    params = networks.init(jax.random.key(0), SHALLOW, gain=0.1)
    _, history = training.train(
        jax.random.key(1),
        params,
        small.train,
        small.train,
        architecture=SHALLOW,
        optimizer=optimizer,
        num_epochs=5,
        batch_size=8,
        value_and_grad=backprop.value_and_grad,
    )
    assert history.valid.loss[-1] < 0.7 * history.valid.loss[0]
    assert history.signals.gradient_rms.shape == (6, 2)


def test_a_longer_run_begins_like_a_shorter_one(small: mnist.Dataset) -> None:
    def run(num_epochs: int) -> training.History:
        return training.train(
            jax.random.key(1),
            networks.init(jax.random.key(0), Architecture((784, 5, 10))),
            small.train,
            small.valid,
            architecture=Architecture((784, 5, 10)),
            optimizer=optax.sgd(0.3),
            num_epochs=num_epochs,
            batch_size=16,
        )[1]

    np.testing.assert_allclose(run(4).valid.loss[:3], run(2).valid.loss, rtol=1e-6)


def test_measurements_are_what_they_say(small: mnist.Dataset) -> None:
    params = networks.init(jax.random.key(0), DEEP)
    found = training.evaluate(params, small.valid, architecture=DEEP)
    logits = networks.apply(params, small.valid.x, architecture=DEEP)
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

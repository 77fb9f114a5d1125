"""Remedies are what they say, and the league chooses as it says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snn_jax import figures, losses, meanfield, mnist, networks, remedies, training
from snn_jax.networks import DEEP, Architecture
from snn_jax.remedies import COMBINED, SINGLE, Cell, Remedy

KEY = jax.random.key(0)


def test_every_remedy_is_tried_fairly() -> None:
    """From three kinds of weights or its own, and with at least five rates."""
    names = [remedy.name for remedy in (*SINGLE, *COMBINED)]
    assert len(set(names)) == len(names)
    for remedy in (*SINGLE, *COMBINED):
        assert len(set(remedy.learning_rates)) >= 5
        assert len(remedy.starts) == (3 if remedy.init is None else 1)


def test_groups_hold_every_cell_once() -> None:
    together = remedies.groups(SINGLE)
    flat = [cell for group in together for cell in group]
    assert len(flat) == len(remedies.cells(SINGLE)) == len(set(map(id, flat)))
    for group in together:
        assert len({cell.remedy.architecture(DEEP) for cell in group}) == 1
        assert len({cell.remedy.optimizer for cell in group}) == 1
        assert len({cell.remedy.learning_rates for cell in group}) == 1


def test_lsuv(dataset: mnist.Dataset) -> None:
    """Every layer's sums have variance 1; the weights are orthogonal but for scale."""
    x = jnp.asarray(dataset.train.x[:200])
    params = remedies.lsuv(KEY, DEEP, x)
    _, z = networks.forward(params, x, architecture=DEEP)
    np.testing.assert_allclose([layer.std() for layer in z], 1, rtol=1e-4)
    W = params["W3"]
    np.testing.assert_allclose(W @ W.T / (W[0] @ W[0]), np.eye(10), atol=1e-5)


@pytest.mark.parametrize("sigma_w", [4.0, None])
def test_sums_start_at_the_fixed_point(
    sigma_w: float | None, dataset: mnist.Dataset
) -> None:
    """In 300 units a layer the variance of the sums is q* from the first layer on."""
    net = Architecture((784, 300, 300, 300, 300), biases=False)
    x = jnp.asarray(dataset.train.x[:50])
    if sigma_w is None:
        params = remedies.critical(KEY, net, x)
        sigma_w = meanfield.critical_sigma_w(activation="sigmoid")
    else:
        params = remedies.matched(sigma_w)(KEY, net, x)
    q = meanfield.fixed_point(activation="sigmoid", sigma_w=sigma_w)
    _, z = networks.forward(params, x, architecture=net)
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


def test_pixels_are_prepared_by_the_training_set(dataset: mnist.Dataset) -> None:
    for inputs in ("centred", "standardized"):
        data = remedies.prepared(dataset, inputs)
        np.testing.assert_allclose(data.train.x.mean(axis=0), 0, atol=1e-4)
        assert abs(data.test.x.mean(axis=0)).max() > 1e-3  # not by its own
        spread = data.train.x.std(axis=0)
        if inputs == "standardized":
            varies = dataset.train.x.any(axis=0)
            np.testing.assert_allclose(spread[varies], 1, atol=1e-3)
            assert not spread[~varies].any()
    assert remedies.prepared(dataset, "raw") is dataset


TANH = Remedy("tanh", "", "", changes={"activation": "tanh"}, learning_rates=(0.1, 1.0))


def test_a_race_is_training(small: mnist.Dataset) -> None:
    """Two epochs in two parts each are ``training.run_epoch`` twice, by another road.

    Cells, rates and seeds land where they belong.
    """
    together = remedies.cells([TANH])
    found = remedies.race(
        KEY, small, together, base=DEEP, num_seeds=2, num_epochs=2, batch_size=32,
        parts_per_epoch=2,
    )  # fmt: skip
    assert found["valid_loss"].shape == (3, 2, 2, 5)
    net = TANH.architecture(DEEP)
    order = jax.random.fold_in(KEY, remedies.ORDER)

    @jax.jit
    def loss_of(params: networks.Params, rate: jax.Array) -> jax.Array:
        optimizer = optax.sgd(rate)
        state = training.start(params, optimizer=optimizer)
        for epoch in range(2):
            state, _ = training.run_epoch(
                state, jax.random.fold_in(order, epoch), small.train,
                architecture=net, optimizer=optimizer, batch_size=32,
            )  # fmt: skip
        logits = networks.apply(state.params, small.test.x, architecture=net)
        return losses.nll(logits, jnp.asarray(small.test.y)).mean()

    for cell, rate, seed in ((0, 0, 1), (1, 1, 0), (1, 0, 1)):
        init = together[cell].remedy.starts[together[cell].start]
        x = jnp.asarray(small.train.x)
        params = init(jax.random.fold_in(KEY, seed), architecture=net, x=x)
        expected = loss_of(params, jnp.float32(TANH.learning_rates[rate]))
        np.testing.assert_allclose(
            found["test_loss"][cell, rate, seed], expected, rtol=1e-3
        )


def test_a_network_grows_layer_by_layer() -> None:
    """What was trained stays, one fresh layer is added, the output is the last's."""
    remedy = replace(SINGLE[-1], name="grown")
    assert remedy.layerwise
    stages = remedies._stages(remedy, DEEP, 20)
    assert [len(net.sizes) - 2 for net, _ in stages] == [1, 2, 3, 4, 5]
    assert sum(parts for _, parts in stages) == 20  # no more images than the others
    with pytest.raises(ValueError, match="parts: expected at least 5, one for each"):
        remedies._stages(remedy, DEEP, 4)
    fresh = {name: np.asarray(leaf) for name, leaf in networks.init(KEY, DEEP).items()}
    first = remedies._grown({}, fresh, 2)
    assert set(first) == {"W1", "W2"}
    np.testing.assert_array_equal(first["W2"], fresh["W6"])
    trained = {name: jnp.asarray(leaf) + 1 for name, leaf in first.items()}
    second = remedies._grown(trained, fresh, 3)
    np.testing.assert_array_equal(second["W1"], fresh["W1"] + 1)
    np.testing.assert_array_equal(second["W2"], fresh["W2"])
    np.testing.assert_array_equal(second["W3"], fresh["W6"])


def made_up(valid: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Results of a race of one cell, two rates and three seeds."""
    zeros = np.zeros((1, 2, 3))
    loss = np.full((1, 2, 3, 3), 2.3)
    loss[0, 1, 0, 1:] = 1.0  # leaves in the first part
    loss[0, 1, 1, 2:] = 1.0  # in the second
    return {
        "valid_accuracy": np.repeat(valid[None, :, :, None], 3, axis=3),
        "valid_loss": loss,
        "test_accuracy": test[None],
        "test_loss": zeros,
        "gradient_ratio": zeros,
        "spread": zeros,
        "saturation": zeros,
        "first_change": zeros,
    }


def test_the_rate_is_chosen_on_the_validation_set(small: mnist.Dataset) -> None:
    """By the median of all seeds, those that diverged counting as nothing.

    Rate 0 is better on the test set, and by the best and the mean of its seeds.
    """
    valid = np.array([[0.99, 0.5, np.nan], [0.6, 0.61, 0.62]])
    test = np.array([[0.9, 0.9, 0.9], [0.5, 0.6, 0.7]])
    cell = Cell(TANH, "small")
    league = remedies.league(
        [([cell], made_up(valid, test))], small,
        base=DEEP, batch_size=32, num_epochs=1, names=["tanh"],
    )  # fmt: skip
    assert int(league.best_rate[0]) == 1
    assert float(league.best_learning_rate[0]) == 1.0
    np.testing.assert_allclose(league.best_test_accuracy[0], [0.5, 0.6, 0.7])
    np.testing.assert_allclose(league.epochs_to_leave[0], [0.5, 1.0, np.inf])
    assert league.attrs["first_images"] == 160


def test_the_picture_of_trainable_depth() -> None:
    """Accuracy at the best rate; six depth scales are drawn below criticality alone."""
    valid = np.array([[[[0.1]], [[0.9]]]] * 3)  # (sigma_w, rate, seed, part)
    test = np.array([[[0.2], [0.8]]] * 3)
    chunk = {"valid_accuracy": valid, "test_accuracy": test}
    picture = remedies.trainable_depth(
        {1: chunk, 5: chunk}, activation="sigmoid", sigma_ws=(4.0, 10.0, 20.0)
    )
    np.testing.assert_allclose(picture.test_accuracy, 0.8)
    assert int(picture.depth_scale.argmax("sigma_w")) == 1  # near 10.15
    (axes, _) = figures.trainable_depth({"sigmoid": picture}).axes
    assert [np.size(line.get_xdata()) for line in axes.lines] == [3, 2]

"""The gradient by hand is the gradient: identities, bounds, symmetries, autodiff."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import backprop, losses, mnist, networks, shallow
from snn_jax.gradcheck import complex_step, relative_error
from snn_jax.networks import DEEP, SHALLOW, Architecture

NETS = {"shallow": SHALLOW, "deep": DEEP}


@functools.cache
def both_ways(net: Architecture) -> Callable[..., Any]:
    """Loss and gradient by hand, and by autodiff, compiled once."""
    return jax.jit(
        lambda *batch: (
            backprop.value_and_grad(*batch, architecture=net),
            losses.value_and_grad(*batch, architecture=net),
        )
    )


def worst_error(
    net: Architecture, scale: float, dataset: mnist.Dataset, dtype: type
) -> float:
    """By hand against autodiff: worst leaf over 20 seeds and batches of 1, 2, 32."""
    both = both_ways(net)
    worst = 0.0
    for seed, size in itertools.product(range(20), (1, 2, 32)):
        params = networks.init(jax.random.key(seed), net, gain=scale, bias_scale=scale)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        rows = slice(32 * seed, 32 * seed + size)
        x = jnp.asarray(dataset.train.x[rows], dtype)
        by_hand, by_autodiff = both(params, x, dataset.train.y[rows])
        assert relative_error(by_hand[0], by_autodiff[0]) < 1e-6
        worst = max(
            worst,
            *(relative_error(by_hand[1][k], by_autodiff[1][k]) for k in params),
        )
    return worst


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("net", NETS)
def test_float64_agrees_with_autodiff(
    net: str, scale: float, dataset: mnist.Dataset
) -> None:
    with jax.enable_x64(True):
        assert worst_error(NETS[net], scale, dataset, jnp.float64) <= 1e-14


@pytest.mark.parametrize("scale", [0.01, 0.03, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("net", NETS)
def test_float32_agrees_with_autodiff(
    net: str, scale: float, dataset: mnist.Dataset
) -> None:
    """Up to scale 1: beyond, rounding is amplified, as the next test shows."""
    assert worst_error(NETS[net], scale, dataset, jnp.float32) <= 1e-6


@pytest.mark.parametrize("scale", [3.0, 10.0])
def test_float32_is_as_good_as_autodiff(scale: float, dataset: mnist.Dataset) -> None:
    """Where rounding is amplified, both are equally near to the float64 gradient."""
    errors: dict[str, list[float]] = {"hand": [], "autodiff": []}
    for seed in range(20):
        params = networks.init(jax.random.key(seed), DEEP, gain=scale)
        x, y = dataset.train.x[2 * seed :][:2], dataset.train.y[2 * seed :][:2]
        ways = {
            "hand": backprop.value_and_grad(params, x, y, architecture=DEEP)[1],
            "autodiff": losses.value_and_grad(params, x, y, architecture=DEEP)[1],
        }
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
            truth = losses.value_and_grad(
                exact, jnp.asarray(x, jnp.float64), y, architecture=DEEP
            )[1]
        for way, grads in ways.items():
            errors[way] += [relative_error(grads[k], truth[k]) for k in grads]
    assert np.median(errors["hand"]) < 1.5 * np.median(errors["autodiff"])
    assert np.max(errors["hand"]) < 3 * np.max(errors["autodiff"])


@pytest.mark.parametrize("activation", networks.ACTIVATIONS)
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("sizes", [(6, 4), (6, 5, 4), (6, 5, 3, 7, 4)])
def test_every_kind_of_network(
    activation: str, biases: bool, sizes: tuple[int, ...], rng: np.random.Generator
) -> None:
    net = Architecture(sizes, activation, biases)
    params = networks.init(jax.random.key(1), net, bias_scale=0.5)
    x = rng.normal(size=(8, 6)).astype(np.float32)
    y = rng.integers(0, 4, 8).astype(np.int32)
    with jax.enable_x64(True):
        params, x64 = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
        (loss, grads), expected = both_ways(net)(params, x64, y)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-15)
    assert grads.keys() == expected[1].keys()
    for leaf, grad in grads.items():
        assert grad.dtype == params[leaf].dtype
        assert relative_error(grad, expected[1][leaf]) < 1e-14


@pytest.mark.parametrize("normalization", ["none", "layer", "batch"])
def test_remedies_are_in_the_gradient(
    normalization: str, rng: np.random.Generator
) -> None:
    """By autodiff and by the complex step, with residual connections where they fit.

    Gains and biases are far from 1 and 0, and from each other.
    """
    net = Architecture((6, 5, 5, 4), "tanh", True, normalization, residual=True)
    params = networks.init(jax.random.key(1), net, bias_scale=0.5)
    for layer in (1, 2):
        if normalization != "none":
            params[f"g{layer}"] = jnp.asarray(rng.normal(size=5).astype(np.float32))
    x = rng.normal(size=(7, 6)).astype(np.float32)
    y = rng.integers(0, 4, 7).astype(np.int32)
    with jax.enable_x64(True):
        params, x64 = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
        (loss, grads), expected = both_ways(net)(params, x64, y)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-15)
        assert grads.keys() == expected[1].keys() == params.keys()
        steps = complex_step(params, x64, y, architecture=net)
        for leaf, grad in grads.items():
            assert relative_error(grad, expected[1][leaf]) < 1e-13
            assert relative_error(grad, steps[leaf]) < 1e-12


def test_residual_connections_carry_errors_past_dead_layers() -> None:
    """With W_2 .. W_4 zero, layers add f(0) = 1/2 and the error passes as it is."""
    net = Architecture((6, 5, 5, 5, 5, 4), biases=False, residual=True)
    params = networks.init(jax.random.key(1), net)
    for layer in (2, 3, 4):
        params[f"W{layer}"] = jnp.zeros((5, 5))
    x, y = jnp.ones((1, 6)), jnp.array([2])
    passes = backprop.forward_backward(params, x, y, architecture=net)
    a1 = jax.nn.sigmoid(params["W1"] @ x.T)
    np.testing.assert_allclose(passes.inputs[4], a1 + 1.5, rtol=1e-6)
    expected = (params["W5"].T @ passes.deltas[-1]) * a1 * (1 - a1)
    np.testing.assert_allclose(passes.deltas[0], expected, rtol=1e-5)


def test_the_assignments_functions_are_the_batch_of_one(
    dataset: mnist.Dataset,
) -> None:
    """shallow.py, backprop.py and autodiff of shallow.loss, image by image."""
    with jax.enable_x64(True):
        params = networks.init(jax.random.key(2), SHALLOW, gain=0.3, bias_scale=0.3)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        for image, label in zip(dataset.train.x[:5], dataset.train.y[:5], strict=True):
            x, y = jnp.asarray(image, jnp.float64), jnp.asarray(label)
            loss, grads = backprop.value_and_grad(
                params, x[None], y[None], architecture=SHALLOW
            )
            by_hand = shallow.gradient(params, x, y)
            by_autodiff = jax.grad(shallow.loss)(params, x, y)
            np.testing.assert_allclose(shallow.loss(params, x, y), loss, rtol=1e-14)
            np.testing.assert_allclose(
                shallow.loss(params, x, y),
                -jnp.log(shallow.predict(params, x)[label]),
                rtol=1e-13,
            )
            for leaf in params:
                assert relative_error(by_hand[leaf], grads[leaf]) < 1e-14
                assert relative_error(by_hand[leaf], by_autodiff[leaf]) < 1e-14


def test_shallow_is_safe_for_huge_scores() -> None:
    params = networks.init(jax.random.key(0), SHALLOW, gain=1e4)
    x = jnp.ones(784)
    assert jnp.isfinite(shallow.loss(params, x, 3))
    for leaf in shallow.gradient(params, x, 3).values():
        assert jnp.isfinite(leaf).all()


def batch(dataset: mnist.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return dataset.train.x[:16], dataset.train.y[:16]


def test_a_batch_is_the_mean_of_its_images(dataset: mnist.Dataset) -> None:
    x, y = batch(dataset)
    params = networks.init(jax.random.key(0), DEEP)
    whole = backprop.value_and_grad(params, x, y, architecture=DEEP)[1]
    single = jax.vmap(
        lambda image, label: backprop.value_and_grad(
            params, image[None], label[None], architecture=DEEP
        )[1]
    )(jnp.asarray(x), jnp.asarray(y))
    for leaf, grad in whole.items():
        assert relative_error(grad, single[leaf].mean(axis=0)) < 1e-5


def test_what_one_class_gains_the_others_lose(dataset: mnist.Dataset) -> None:
    """delta_L = p - e_y sums to 0, so db of the last layer does."""
    x, y = batch(dataset)
    params = networks.init(jax.random.key(0), SHALLOW)
    grads = backprop.value_and_grad(params, x, y, architecture=SHALLOW)[1]
    assert abs(grads["b2"].sum()) < 1e-6 * jnp.abs(grads["b2"]).sum()


def test_permuting_hidden_units_permutes_the_gradient(dataset: mnist.Dataset) -> None:
    x, y = batch(dataset)
    order = jax.random.permutation(jax.random.key(9), 20)
    params = networks.init(jax.random.key(0), SHALLOW, bias_scale=1.0)

    def permuted(tree: networks.Params) -> networks.Params:
        return tree | {
            "W1": tree["W1"][order], "b1": tree["b1"][order], "W2": tree["W2"][:, order]
        }  # fmt: skip

    _, grads = backprop.value_and_grad(params, x, y, architecture=SHALLOW)
    _, moved = backprop.value_and_grad(permuted(params), x, y, architecture=SHALLOW)
    for leaf, expected in permuted(grads).items():
        np.testing.assert_allclose(moved[leaf], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 5.0])
def test_the_vanishing_gradient_is_a_theorem(
    scale: float, dataset: mnist.Dataset
) -> None:
    """|delta_l| <= 1/4 ||W_{l+1}|| |delta_{l+1}|, for every image: sigma' <= 1/4."""
    x, y = batch(dataset)
    params = networks.init(jax.random.key(3), DEEP, gain=scale)
    deltas = backprop.forward_backward(params, x, y, architecture=DEEP).deltas
    for layer in range(1, 6):
        below, above = (
            jnp.linalg.norm(d, axis=0) for d in deltas[layer - 1 : layer + 1]
        )
        bound = 0.25 * jnp.linalg.norm(params[f"W{layer + 1}"], 2) * above
        assert (below <= bound * (1 + 1e-5)).all()


def test_under_jit_and_vmap(dataset: mnist.Dataset) -> None:
    """Three networks at once are each network alone."""
    x, y = batch(dataset)
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.vmap(lambda key: networks.init(key, DEEP))(keys)
    _, grads = jax.jit(
        jax.vmap(lambda p: backprop.value_and_grad(p, x, y, architecture=DEEP))
    )(many)
    for member in range(3):
        alone = jax.tree.map(lambda leaf, i=member: leaf[i], many)
        expected = backprop.value_and_grad(alone, x, y, architecture=DEEP)[1]
        for leaf in expected:
            assert relative_error(grads[leaf][member], expected[leaf]) < 1e-5

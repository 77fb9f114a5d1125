"""The gradient by hand is the gradient: identities, bounds, symmetries, autodiff."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import activations, backprop, gradcheck, gradients, shallow
from snn_jax.datasets import Dataset
from snn_jax.gradcheck import relative_error
from snn_jax.networks import DEEP, MLP, SHALLOW, Params

NETS = {"shallow": SHALLOW, "deep": DEEP}
# Networks, and images in the batch of each: few shapes, so that little is compiled.
NUM_SEEDS, BATCH = 20, 8


@functools.cache
def by_hand(net: MLP) -> Any:
    return jax.jit(backprop.value_and_grad(net))


@functools.cache
def both_ways(net: MLP) -> Any:
    """Loss and gradient of many networks, by hand and by autodiff."""
    ways = backprop.value_and_grad(net), gradients.by_autodiff(net)
    return jax.jit(jax.vmap(lambda *batch: tuple(way(*batch) for way in ways)))


@functools.cache
def init(net: MLP) -> Any:
    def many(scale: Any) -> Params:
        keys = jax.random.split(jax.random.key(0), NUM_SEEDS)
        return jax.vmap(lambda key: net.init(key, scale=scale, bias_scale=scale))(keys)

    return jax.jit(many)


def initial(net: MLP, scale: float) -> Params:
    """The parameters of all seeds."""
    return jax.device_get(init(net)(np.float32(scale)))


def one(net: MLP, scale: float = 1.0) -> Params:
    return jax.tree.map(lambda leaf: leaf[0], initial(net, scale))


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def batches(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """A batch for every seed."""
    x, y = (part[: NUM_SEEDS * BATCH] for part in dataset.train)
    return x.reshape(NUM_SEEDS, BATCH, 784), y.reshape(NUM_SEEDS, BATCH)


def errors(found: Params, expected: Params) -> np.ndarray:
    """Of every leaf of every network."""
    return np.array(
        [
            relative_error(found[leaf][seed], expected[leaf][seed])
            for leaf in expected
            for seed in range(NUM_SEEDS)
        ]
    )


def worst_error(net: MLP, scale: float, dataset: Dataset, dtype: Any) -> float:
    """By hand against autodiff, the worst leaf of 20 networks."""
    x, y = batches(dataset)
    params, x = cast((initial(net, scale), x), dtype)
    hand, autodiff = jax.device_get(both_ways(net)(params, x, y))
    assert relative_error(hand[0], autodiff[0]) < 1e-6
    return float(errors(hand[1], autodiff[1]).max())


@pytest.mark.parametrize("net", NETS)
def test_float64_agrees_with_autodiff(net: str, dataset: Dataset) -> None:
    for scale in (0.01, 0.1, 1.0, 3.0, 10.0):
        with jax.enable_x64(True):
            assert worst_error(NETS[net], scale, dataset, jnp.float64) <= 1e-14


@pytest.mark.parametrize("net", NETS)
def test_float32_agrees_with_autodiff(net: str, dataset: Dataset) -> None:
    """Up to scale 1: beyond, rounding is amplified, as the next test shows."""
    for scale in (0.01, 0.03, 0.1, 0.3, 1.0):
        assert worst_error(NETS[net], scale, dataset, jnp.float32) <= 1e-6


def test_float32_is_as_good_as_autodiff(dataset: Dataset) -> None:
    """Where rounding is amplified, both are equally near to the float64 gradient."""
    x, y = batches(dataset)
    for scale in (3.0, 10.0):
        params = initial(DEEP, scale)
        ways = jax.device_get(both_ways(DEEP)(params, x, y))
        with jax.enable_x64(True):
            exact = cast((params, x), jnp.float64)
            truth = jax.device_get(both_ways(DEEP)(*exact, y)[1][1])
        hand, autodiff = (errors(grads, truth) for _, grads in ways)
        assert np.median(hand) < 1.5 * np.median(autodiff)
        assert np.max(hand) < 3 * np.max(autodiff)


def sine(z: Any) -> Any:
    """A user's own."""
    return jnp.sin(z)


def example(net: MLP, rng: np.random.Generator) -> tuple[Params, Any, Any]:
    """Gains and biases are far from 1 and 0, and from each other."""
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = {name: rng.normal(size=leaf.shape) for name, leaf in shapes.items()}
    return params, rng.normal(size=(7, 6)), rng.integers(0, 4, 7)


@pytest.mark.parametrize(
    "net",
    [
        *(MLP((6, 5, 7, 4), f) for f in (*activations.ACTIVATIONS.values(), sine)),
        MLP((6, 5, 3, 7, 4), biases=False),
        MLP((6, 4)),
    ],
    ids=str,
)
def test_every_kind_of_network(net: MLP, rng: np.random.Generator) -> None:
    one_network = jax.tree.map(lambda leaf: leaf[None], example(net, rng))
    with jax.enable_x64(True):
        (loss, grads), expected = both_ways(net)(*one_network)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-15)
    assert grads.keys() == expected[1].keys()
    for leaf, grad in grads.items():
        assert grad.dtype == jnp.float64
        assert relative_error(grad, expected[1][leaf]) < 1e-14


@pytest.mark.parametrize("normalization", ["none", "layer", "batch"])
def test_remedies_are_in_the_gradient(
    normalization: str, rng: np.random.Generator
) -> None:
    """Four ways agree, with residual connections where they fit."""
    net = MLP((6, 5, 5, 4), activations.tanh, True, normalization=normalization)
    net = dataclasses.replace(net, residual=True)
    checks = gradcheck.check(
        backprop.value_and_grad(net),
        *example(net, rng),
        loss=gradients.mean_loss(net),
    )
    assert len(checks) == (6 if normalization == "none" else 8)
    for check in checks:
        assert check.agrees, check
        assert check.complex_step is not None
        assert not check.central_is_blind
        assert check.autodiff < 1e-13


def test_residual_connections_carry_errors_past_dead_layers(
    rng: np.random.Generator,
) -> None:
    """With W_2 .. W_4 zero, layers add f(0) = 1/2 and the error passes as it is."""
    net = MLP((6, 5, 5, 5, 5, 4), biases=False, residual=True)
    params, x, y = example(net, rng)
    params, x = cast((params, x), jnp.float32)
    for layer in (2, 3, 4):
        params[f"W{layer}"] = jnp.zeros((5, 5))
    passes = jax.jit(functools.partial(backprop.forward_backward, net))(params, x, y)
    a1 = jax.nn.sigmoid(params["W1"] @ x.T)
    np.testing.assert_allclose(passes.inputs[4], a1 + 1.5, rtol=1e-6)
    expected = (params["W5"].T @ passes.deltas[-1]) * a1 * (1 - a1)
    np.testing.assert_allclose(passes.deltas[0], expected, rtol=1e-4, atol=1e-6)


def test_the_assignments_functions_are_the_batch_of_one(
    dataset: Dataset,
) -> None:
    """shallow.py, backprop.py and autodiff of shallow.loss, image by image."""

    @jax.jit
    def of_shallow(params: Params, x: Any, y: Any) -> Any:
        loss, by_autodiff = jax.value_and_grad(shallow.loss)(params, x, y)
        p = shallow.predict(params, x)
        return loss, p, shallow.gradient(params, x, y), by_autodiff

    params = one(SHALLOW, 0.3)
    with jax.enable_x64(True):
        params, images = cast((params, dataset.train.x[:5]), jnp.float64)
        for x, y in zip(images, dataset.train.y[:5], strict=True):
            loss, grads = by_hand(SHALLOW)(params, x[None], y[None])
            found, p, gradient, by_autodiff = of_shallow(params, x, y)
            np.testing.assert_allclose(found, loss, rtol=1e-14)
            np.testing.assert_allclose(found, -np.log(p[y]), rtol=1e-13)
            for leaf in params:
                assert relative_error(gradient[leaf], grads[leaf]) < 1e-14
                assert relative_error(gradient[leaf], by_autodiff[leaf]) < 1e-14


def test_shallow_is_safe_for_huge_scores() -> None:
    params, x = one(SHALLOW, 1e4), np.ones(784, np.float32)
    loss, gradient = jax.jit(
        lambda *example: (shallow.loss(*example), shallow.gradient(*example))
    )(params, x, 3)
    assert jnp.isfinite(loss)
    for leaf in gradient.values():
        assert jnp.isfinite(leaf).all()


def batch(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return dataset.train.x[:BATCH], dataset.train.y[:BATCH]


def test_a_batch_is_the_mean_of_its_images(dataset: Dataset) -> None:
    x, y = batch(dataset)
    params = one(SHALLOW)
    whole = by_hand(SHALLOW)(params, x, y)[1]
    single = [
        by_hand(SHALLOW)(params, x[i : i + 1], y[i : i + 1])[1] for i in range(BATCH)
    ]
    for leaf, grad in whole.items():
        mean = np.mean([grads[leaf] for grads in single], axis=0)
        assert relative_error(grad, mean) < 1e-5


def test_what_one_class_gains_the_others_lose(dataset: Dataset) -> None:
    """delta_L = p - e_y sums to 0, so db of the last layer does."""
    params = one(SHALLOW)
    grads = by_hand(SHALLOW)(params, *batch(dataset))[1]
    assert abs(grads["b2"].sum()) < 1e-6 * jnp.abs(grads["b2"]).sum()


def test_permuting_hidden_units_permutes_the_gradient(dataset: Dataset) -> None:
    order = np.random.default_rng(9).permutation(20)
    params = one(SHALLOW)

    def permuted(tree: Params) -> Params:
        return tree | {
            "W1": tree["W1"][order], "b1": tree["b1"][order], "W2": tree["W2"][:, order]
        }  # fmt: skip

    _, grads = by_hand(SHALLOW)(params, *batch(dataset))
    _, moved = by_hand(SHALLOW)(permuted(params), *batch(dataset))
    for leaf, expected in permuted(grads).items():
        np.testing.assert_allclose(moved[leaf], expected, rtol=1e-4, atol=1e-7)


def test_the_vanishing_gradient_is_a_theorem(dataset: Dataset) -> None:
    """|delta_l| <= 1/4 ||W_{l+1}|| |delta_{l+1}|, for every image: sigma' <= 1/4."""
    deltas_of = jax.jit(lambda *batch: backprop.forward_backward(DEEP, *batch).deltas)
    for scale in (0.01, 0.3, 1.0, 5.0):
        params = one(DEEP, scale)
        deltas = deltas_of(params, *batch(dataset))
        for layer in range(1, 6):
            below, above = (
                np.linalg.norm(d, axis=0) for d in deltas[layer - 1 : layer + 1]
            )
            bound = 0.25 * np.linalg.norm(params[f"W{layer + 1}"], 2) * above
            assert (below <= bound * (1 + 1e-5)).all()


def test_under_jit_and_vmap(dataset: Dataset) -> None:
    """Many networks at once are each network alone."""
    params, (x, y) = initial(SHALLOW, 1.0), batches(dataset)
    grads = both_ways(SHALLOW)(params, x, y)[0][1]
    for member in range(3):
        alone = jax.tree.map(lambda leaf, i=member: leaf[i], params)
        expected = by_hand(SHALLOW)(alone, x[member], y[member])[1]
        for leaf in expected:
            assert relative_error(grads[leaf][member], expected[leaf]) < 1e-5

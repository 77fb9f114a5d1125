"""Per-layer numbers against their definitions."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import backprop, losses, networks, signals
from snn_jax.activations import identity, relu, sigmoid, tanh
from snn_jax.datasets import Dataset
from snn_jax.networks import DEEP, MLP, SHALLOW, Network


@partial(jax.jit, static_argnames=("network", "loss"))
def measure(network: Any, params: Any, x: Any, y: Any, loss: Any = losses.nll) -> Any:
    """Compiled as a whole: operation by operation it takes three times as long."""
    return signals.measure(network, params, x, y, loss=loss, num_classes=10)


def measure_one(params: Any, x: Any, y: Any, *, network: Any) -> Any:
    """The signals as attributes."""
    found = measure(network, params, x, y)
    return SimpleNamespace(**jax.tree.map(np.asarray, found))


@pytest.mark.parametrize("net", [SHALLOW, DEEP])
def test_gradient_rms_is_that_of_single_image_gradients(
    net: MLP, small: Dataset
) -> None:
    """The short cut |delta|^2 |a|^2 against every gradient written out."""
    x, y = small.train.x[:20], small.train.y[:20]
    params = net.init(jax.random.key(0))
    gradient = jax.jit(backprop.value_and_grad(net))
    singles = [gradient(params, x[i : i + 1], y[i : i + 1])[1] for i in range(20)]
    found = measure_one(params, x, y, network=net)
    for layer in range(1, net.num_layers + 1):
        squares = [np.square(np.asarray(grads[f"W{layer}"])) for grads in singles]
        rms = np.sqrt(np.mean(squares))
        np.testing.assert_allclose(found.gradient_rms[layer - 1], rms, rtol=1e-5)
        median = np.median(np.sqrt(np.mean(squares, axis=(1, 2))))
        np.testing.assert_allclose(found.gradient_median[layer - 1], median, rtol=1e-5)


def test_gradient_rms_where_squares_underflow(small: Dataset) -> None:
    """Scale 1e-5 puts the first layer at 1e-26, whose square is 0 in float32."""
    x, y = small.train.x[:5], small.train.y[:5]
    params = DEEP.init(jax.random.key(0), scale=1e-5)
    of = jax.jit(partial(signals.gradient_rms, DEEP))
    single = of(params, x, y)
    with jax.enable_x64(True):
        double = of(
            jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params),
            jnp.asarray(x, jnp.float64),
            y,
        )
    assert 0 < float(double[0]) < 1e-20
    np.testing.assert_allclose(single, double, rtol=1e-5)


def test_gradient_rms_of_a_dead_network_is_zero(small: Dataset) -> None:
    params = DEEP.init(jax.random.key(0), scale=0.0)
    found = signals.gradient_rms(DEEP, params, small.train.x[:5], small.train.y[:5])
    assert (found[:-1] == 0).all()
    assert found[-1] > 0


def saturation_at(activation: Any, z: list[float]) -> float:
    """Of one layer with the pre-activations z: x is 1, the weights are z."""
    net = MLP((1, len(z), 2), activation, biases=False)
    params = {"W1": jnp.array(z)[:, None], "W2": jnp.zeros((2, len(z)))}
    x, y = jnp.ones((2, 1)), jnp.array([0, 1])
    return float(measure_one(params, x, y, network=net).saturation[0])


def test_saturation_on_each_side_of_its_threshold() -> None:
    """A sigmoid saturates at 0.99, where z = ln 99 = 4.595; a tanh at half of that."""
    edge = float(np.log(99))
    for sign in (1, -1):
        assert saturation_at(sigmoid, [sign * (edge - 1e-3)]) == 0
        assert saturation_at(sigmoid, [sign * (edge + 1e-3)]) == 1
        assert saturation_at(tanh, [sign * (edge / 2 - 1e-3)]) == 0
        assert saturation_at(tanh, [sign * (edge / 2 + 1e-3)]) == 1
    assert saturation_at(relu, [-1.0, 1e-3, 5.0, 100.0]) == 0.25
    assert saturation_at(identity, [-100.0, 100.0]) == 0


def test_no_hidden_layer_has_no_saturation() -> None:
    net = MLP((3, 2))
    params = net.init(jax.random.key(0))
    x, y = jnp.ones((2, 3)), jnp.array([0, 1])
    found = measure_one(params, x, y, network=net)
    assert not hasattr(found, "saturation")
    assert found.gradient_rms.shape == (1,)


def identity_layer(a: np.ndarray) -> tuple[networks.Params, MLP]:
    """A network whose hidden layer is its input."""
    units = a.shape[1]
    params = {"W1": jnp.eye(units), "W2": jnp.zeros((10, units))}
    return params, MLP((units, units, 10), identity, biases=False)


def test_signals_of_a_known_layer(rng: np.random.Generator) -> None:
    """A hidden layer with chosen activations: mean, spread and effective rank.

    Three independent directions with variances 4, 4 and 1: the participation ratio is
    (4 + 4 + 1)^2 / (16 + 16 + 1) = 2.45.
    """
    a = rng.normal(size=(4000, 3)) * [2.0, 2.0, 1.0] + 5.0
    params, net = identity_layer(a)
    with jax.enable_x64(True):
        x, y = jnp.asarray(a), jnp.arange(4000) % 10
        found = measure_one(params, x, y, network=net)
    np.testing.assert_allclose(found.activation_mean[0], a.mean(), rtol=1e-12)
    spread = np.sqrt(a.var(axis=0).mean())
    np.testing.assert_allclose(found.activation_spread[0], spread, rtol=1e-12)
    np.testing.assert_allclose(found.effective_rank[0], 81 / 33, rtol=0.03)
    assert found.mean_slope[0] == 1
    assert found.dead[0] == found.saturation[0] == 0


def test_effective_rank_at_its_ends() -> None:
    """1 when all units say the same, their number when all say something else."""
    t = np.linspace(-1, 1, 100)
    y = jnp.arange(100) % 10
    for a, expected in (
        (np.stack([t, t, -t], 1), 1.0),
        (np.eye(100)[:, :4], 4.0),
    ):
        params, net = identity_layer(a)
        x = jnp.asarray(a, jnp.float32)
        found = measure_one(params, x, y, network=net)
        np.testing.assert_allclose(found.effective_rank[0], expected, rtol=0.02)


@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_the_probe_reads_what_is_there(size: float, rng: np.random.Generator) -> None:
    """Separated classes at any scale: all; noise: about one in ten."""
    y = rng.integers(0, 10, 1000)
    separated = 0.5 + size * (np.eye(10)[y] + 0.01 * rng.normal(size=(1000, 10)))
    noise = 0.5 + size * rng.normal(size=(1000, 10))
    params, net = identity_layer(noise)
    with jax.enable_x64(True):
        best, worst = (
            float(
                measure_one(
                    params, jnp.asarray(a), jnp.asarray(y), network=net
                ).probe_accuracy[0]
            )
            for a in (separated, noise)
        )
    assert best == 1
    assert 0.03 < worst < 0.2


def test_dead_units_and_mean_gradient(small: Dataset) -> None:
    """Two ReLUs, one of which no image switches on; the mean of opposite gradients."""
    net = MLP((2, 2, 2), relu, biases=False)
    params = {"W1": jnp.array([[1.0, 1.0], [-1.0, -1.0]]), "W2": jnp.zeros((2, 2))}
    x, y = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([0, 1])
    found = measure_one(params, x, y, network=net)
    assert found.dead[0] == 0.5
    # p = 1/2 for both classes: the errors are +-1/2 and cancel over the two labels.
    assert found.mean_gradient_rms[-1] == 0
    np.testing.assert_allclose(found.gradient_rms[-1], 0.5 / 2**0.5, rtol=1e-6)
    images, labels = small.train.x[:50], small.train.y[:50]
    params = DEEP.init(jax.random.key(0))
    found = measure_one(params, images, labels, network=DEEP)
    grads = backprop.value_and_grad(DEEP)(params, images, labels)[1]
    for layer in range(1, 7):
        expected = jnp.sqrt(jnp.mean(grads[f"W{layer}"] ** 2))
        np.testing.assert_allclose(
            found.mean_gradient_rms[layer - 1], expected, rtol=1e-5
        )


def test_float64_sees_what_float32_cannot(small: Dataset) -> None:
    """At scale 0.01 the last hidden layer differs by 1e-11 from image to image.

    float32 has a spacing of 6e-8 at 0.5; a probe of the float64 layer still reads the
    labels, so the information is small, not gone.
    """
    params = DEEP.init(jax.random.key(0), scale=0.01)
    x, y = small.train.x, small.train.y
    single = measure_one(params, x, y, network=DEEP)
    with jax.enable_x64(True):
        in_double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        double = measure_one(in_double, jnp.asarray(x, jnp.float64), y, network=DEEP)
    spread = float(double.activation_spread[-1])
    assert 1e-13 < spread < 1e-9
    assert float(single.activation_spread[-1]) > 100 * spread  # rounding, all of it
    assert double.probe_accuracy[-1] > 0.3


@pytest.mark.parametrize("size", [1, 10, 100])
def test_solving_as_numpy_does(size: int, rng: np.random.Generator) -> None:
    """Also where directions are as weak as the probe's ridge lets them be."""
    half = rng.normal(size=(size, 500)) * np.geomspace(1, 1e-6, size)[:, None]
    A = half @ half.T
    A += 1e-8 * np.trace(A) / size * np.eye(size)
    B = rng.normal(size=(size, 10))
    with jax.enable_x64(True):
        found = np.asarray(signals._solve(jnp.asarray(A), jnp.asarray(B)))
    np.testing.assert_allclose(A @ found, B, atol=1e-9)


def test_a_network_of_ones_own(small: Dataset) -> None:
    """Leaf by leaf and layer by layer it has the signals that an MLP has."""
    net = MLP((784, 6, 5, 10), tanh, biases=False)
    own = Network(net.init, net.apply, net.layers)
    params = net.init(jax.random.key(0))
    x, y = small.train.x[:40], small.train.y[:40]
    expected = measure(net, params, x, y)
    found = measure(own, params, x, y)
    assert set(expected) - set(found) == {"mean_slope", "saturation", "dead"}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-5, err_msg=name)
    names = signals.coordinates(own, params, x)
    assert names == {"leaf": ["W1", "W2", "W3"], "hidden_layer": [1, 2]}


def test_gradients_of_another_loss(small: Dataset) -> None:
    """Of sigmoid outputs: by hand below the top, as autodiff of the whole."""
    net = MLP((784, 6, 10))
    params = net.init(jax.random.key(0), scale=0.1)
    x, y = small.train.x[:9], small.train.y[:9]
    found = measure(net, params, x, y, losses.quadratic)
    own = Network(net.init, net.apply)
    expected = measure(own, params, x, y, losses.quadratic)
    weights = [
        signals.coordinates(own, params, x)["leaf"].index(n) for n in ("W1", "W2")
    ]
    np.testing.assert_allclose(
        found["gradient_rms"], expected["gradient_rms"][jnp.array(weights)], rtol=2e-5
    )


def test_wide_layers_have_the_same_numbers(rng: np.random.Generator) -> None:
    """More units than examples: the smaller matrix is used, and says the same."""
    a = rng.normal(size=(12, 30))
    y = jnp.arange(30) % 3
    with jax.enable_x64(True):
        tall, wide = jnp.asarray(np.vstack([a, np.zeros((8, 30))])), jnp.asarray(a)
        for of in (signals._effective_rank, lambda a: signals._probe_accuracy(a, y, 3)):
            compiled = jax.jit(of)
            np.testing.assert_allclose(compiled(tall), compiled(wide), rtol=1e-6)

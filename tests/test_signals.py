"""Per-layer numbers against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import backprop, mnist, networks, signals
from snn_jax.ensemble import measure
from snn_jax.networks import DEEP, SHALLOW, Architecture

# Compiled as a whole: operation by operation it takes three times as long.
measure_one = jax.jit(signals.measure, static_argnames="architecture")


@pytest.mark.parametrize("net", [SHALLOW, DEEP])
def test_gradient_rms_is_that_of_single_image_gradients(
    net: Architecture, small: mnist.Dataset
) -> None:
    """The short cut |delta|^2 |a|^2 against every gradient written out."""
    x, y = small.train.x[:20], small.train.y[:20]
    params = networks.init(jax.random.key(0), net)
    singles = [
        backprop.value_and_grad(params, x[i : i + 1], y[i : i + 1], architecture=net)[1]
        for i in range(20)
    ]
    found = measure_one(params, x, y, architecture=net)
    for layer in range(1, net.num_layers + 1):
        squares = [np.square(np.asarray(grads[f"W{layer}"])) for grads in singles]
        rms = np.sqrt(np.mean(squares))
        np.testing.assert_allclose(found.gradient_rms[layer - 1], rms, rtol=1e-5)
        median = np.median(np.sqrt(np.mean(squares, axis=(1, 2))))
        np.testing.assert_allclose(found.gradient_median[layer - 1], median, rtol=1e-5)


def test_gradient_rms_where_squares_underflow(small: mnist.Dataset) -> None:
    """Scale 1e-5 puts the first layer at 1e-26, whose square is 0 in float32."""
    x, y = small.train.x[:5], small.train.y[:5]
    params = networks.init(jax.random.key(0), DEEP, gain=1e-5)
    single = signals.gradient_rms(params, x, y, architecture=DEEP)
    with jax.enable_x64(True):
        double = signals.gradient_rms(
            jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params),
            jnp.asarray(x, jnp.float64),
            y,
            architecture=DEEP,
        )
    assert 0 < float(double[0]) < 1e-20
    np.testing.assert_allclose(single, double, rtol=1e-5)


def test_gradient_rms_of_a_dead_network_is_zero(small: mnist.Dataset) -> None:
    params = networks.init(jax.random.key(0), DEEP, gain=0.0)
    found = signals.gradient_rms(
        params, small.train.x[:5], small.train.y[:5], architecture=DEEP
    )
    assert (found[:-1] == 0).all()
    assert found[-1] > 0


def saturation_at(activation: str, z: list[float]) -> float:
    """Of one layer with the pre-activations z: x is 1, the weights are z."""
    net = Architecture((1, len(z), 2), activation, biases=False)
    params = {"W1": jnp.array(z)[:, None], "W2": jnp.zeros((2, len(z)))}
    x, y = jnp.ones((2, 1)), jnp.array([0, 1])
    return float(measure_one(params, x, y, architecture=net).saturation[0])


def test_saturation_on_each_side_of_its_threshold() -> None:
    """A sigmoid saturates at 0.99, where z = ln 99 = 4.595; a tanh at half of that."""
    edge = float(np.log(99))
    for sign in (1, -1):
        assert saturation_at("sigmoid", [sign * (edge - 1e-3)]) == 0
        assert saturation_at("sigmoid", [sign * (edge + 1e-3)]) == 1
        assert saturation_at("tanh", [sign * (edge / 2 - 1e-3)]) == 0
        assert saturation_at("tanh", [sign * (edge / 2 + 1e-3)]) == 1
    assert saturation_at("relu", [-1.0, 1e-3, 5.0, 100.0]) == 0.25
    assert saturation_at("identity", [-100.0, 100.0]) == 0


def test_no_hidden_layer_has_no_saturation() -> None:
    net = Architecture((3, 2))
    params = networks.init(jax.random.key(0), net)
    x, y = jnp.ones((2, 3)), jnp.array([0, 1])
    found = measure_one(params, x, y, architecture=net)
    assert found.saturation.shape == (0,)
    assert found.gradient_rms.shape == (1,)


def identity_layer(a: np.ndarray) -> tuple[networks.Params, Architecture]:
    """A network whose hidden layer is its input."""
    units = a.shape[1]
    params = {"W1": jnp.eye(units), "W2": jnp.zeros((10, units))}
    return params, Architecture((units, units, 10), "identity", biases=False)


def test_signals_of_a_known_layer(rng: np.random.Generator) -> None:
    """A hidden layer with chosen activations: mean, spread and effective rank.

    Three independent directions with variances 4, 4 and 1: the participation ratio is
    (4 + 4 + 1)^2 / (16 + 16 + 1) = 2.45.
    """
    a = rng.normal(size=(4000, 3)) * [2.0, 2.0, 1.0] + 5.0
    params, net = identity_layer(a)
    with jax.enable_x64(True):
        x, y = jnp.asarray(a), jnp.arange(4000) % 10
        found = jax.tree.map(np.asarray, measure_one(params, x, y, architecture=net))
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
        found = measure_one(params, x, y, architecture=net)
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
                    params, jnp.asarray(a), jnp.asarray(y), architecture=net
                ).probe_accuracy[0]
            )
            for a in (separated, noise)
        )
    assert best == 1
    assert 0.03 < worst < 0.2


def test_dead_units_and_mean_gradient(small: mnist.Dataset) -> None:
    """Two ReLUs, one of which no image switches on; the mean of opposite gradients."""
    net = Architecture((2, 2, 2), "relu", biases=False)
    params = {"W1": jnp.array([[1.0, 1.0], [-1.0, -1.0]]), "W2": jnp.zeros((2, 2))}
    x, y = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([0, 1])
    found = measure_one(params, x, y, architecture=net)
    assert found.dead[0] == 0.5
    # p = 1/2 for both classes: the errors are +-1/2 and cancel over the two labels.
    assert found.mean_gradient_rms[-1] == 0
    np.testing.assert_allclose(found.gradient_rms[-1], 0.5 / 2**0.5, rtol=1e-6)
    images, labels = small.train.x[:50], small.train.y[:50]
    params = networks.init(jax.random.key(0), DEEP)
    found = measure_one(params, images, labels, architecture=DEEP)
    grads = backprop.value_and_grad(params, images, labels, architecture=DEEP)[1]
    for layer in range(1, 7):
        expected = jnp.sqrt(jnp.mean(grads[f"W{layer}"] ** 2))
        np.testing.assert_allclose(
            found.mean_gradient_rms[layer - 1], expected, rtol=1e-5
        )


def test_float64_sees_what_float32_cannot(small: mnist.Dataset) -> None:
    """At scale 0.01 the last hidden layer differs by 1e-11 from image to image.

    float32 has a spacing of 6e-8 at 0.5; a probe of the float64 layer still reads the
    labels, so the information is small, not gone.
    """
    params = networks.init(jax.random.key(0), DEEP, gain=0.01)
    x, y = small.train.x, small.train.y
    single = measure_one(params, x, y, architecture=DEEP)
    many = jax.tree.map(lambda leaf: leaf[None], params)
    double = measure(many, x, y, architecture=DEEP)
    spread = float(double.activation_spread[0, -1])
    assert 1e-13 < spread < 1e-9
    assert float(single.activation_spread[-1]) > 100 * spread  # rounding, all of it
    assert double.probe_accuracy[0, -1] > 0.3


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

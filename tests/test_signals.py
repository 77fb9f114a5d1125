"""Per-layer numbers against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import backprop, mnist, networks, signals
from snn_jax.networks import DEEP, SHALLOW, Architecture


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
    found = signals.gradient_rms(params, x, y, architecture=net)
    for layer in range(1, net.num_layers + 1):
        squares = [np.square(np.asarray(grads[f"W{layer}"])) for grads in singles]
        np.testing.assert_allclose(
            found[layer - 1], np.sqrt(np.mean(squares)), rtol=1e-5
        )


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
    found = signals.saturation(params, jnp.ones((1, 1)), architecture=net)
    assert found.shape == (1,)
    return float(found[0])


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
    assert signals.saturation(params, jnp.ones((1, 3)), architecture=net).shape == (0,)

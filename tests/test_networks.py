"""Initial weights have the spread that theory says; the forward pass is the formula."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import networks
from snn_jax.networks import DEEP, SHALLOW, Architecture

KEY = jax.random.key(0)


def test_the_assignments_networks() -> None:
    shallow = {k: v.shape for k, v in networks.init(KEY, SHALLOW).items()}
    assert shallow == {"W1": (20, 784), "b1": (20,), "W2": (10, 20), "b2": (10,)}
    deep = {k: v.shape for k, v in networks.init(KEY, DEEP).items()}
    hidden = {f"W{layer}": (10, 10) for layer in range(2, 7)}
    assert deep == {"W1": (10, 784)} | hidden


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        ("normal", 1.0),
        ("lecun", 1 / 300),
        ("glorot", 2 / 700),
        ("glorot_uniform", 2 / 700),
        ("he", 2 / 300),
        # 300 orthonormal columns of length 400: each entry's mean square is 1 / 400.
        ("orthogonal", 1 / 400),
    ],
)
def test_variance_of_initial_weights(initializer: str, variance: float) -> None:
    """120,000 weights: the sample variance is within 2 % (5 sigma) of the formula."""
    net = Architecture((300, 400))
    W = networks.init(KEY, net, initializer=initializer, gain=3.0)["W1"]
    assert W.dtype == jnp.float32
    np.testing.assert_allclose(W.var(), 9 * variance, rtol=0.02)
    assert abs(W.mean()) < 5 * (9 * variance / W.size) ** 0.5


def test_orthogonal_weights_keep_lengths() -> None:
    """All singular values of W are the gain, whichever side is longer."""
    params = networks.init(KEY, Architecture((30, 20, 40)), initializer="orthogonal")
    for W in (params["W1"], params["W2"]):
        np.testing.assert_allclose(
            np.linalg.svd(W, compute_uv=False), np.ones(20), rtol=1e-5
        )


@pytest.mark.parametrize(("fan_in", "fan_out"), [(10, 10), (30, 8), (8, 30)])
def test_centred_orthogonal_weights(fan_in: int, fan_out: int) -> None:
    """They do not see what all units share, and keep the lengths of all that is left.

    A difference between two images in which no unit changes more than the others on
    the whole passes as it is; the smaller of the two layers has one direction less than
    units.
    """
    net = Architecture((fan_in, fan_out))
    W = networks.init(KEY, net, initializer="centred_orthogonal", gain=4.0)["W1"]
    np.testing.assert_allclose(W.sum(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(W.sum(axis=1), 0, atol=1e-5)
    values = np.linalg.svd(W, compute_uv=False)
    np.testing.assert_allclose(values[:-1], 4, rtol=1e-5)
    assert values[-1] < 1e-5


def test_dynamical_isometry_of_fifty_sigmoid_layers() -> None:
    """Near the centre of its sigmoids the whole network is an isometry at gain 4.

    From the logits back to layer 1, through 50 layers, 9 of the 10 singular values of
    the Jacobian are 1; with orthogonal weights that are not centred the 1/2 of
    the units pushes them out of their centre, and the Jacobian all but vanishes.
    """
    net = Architecture((20, *[10] * 50, 10), biases=False)

    def jacobian(initializer: str) -> np.ndarray:
        params = networks.init(KEY, net, initializer=initializer, gain=4.0)
        _, z = networks.forward(params, jnp.zeros((1, 20)), architecture=net)
        J = np.eye(10)
        for layer in range(2, 52):
            slope = networks.ACTIVATIONS["sigmoid"].derivative(z[layer - 2][:, 0])
            J = np.asarray(params[f"W{layer}"]) * np.asarray(slope)[None] @ J
        return np.linalg.svd(J, compute_uv=False)

    centred = jacobian("centred_orthogonal")
    np.testing.assert_allclose(centred[:9], 1, rtol=1e-4)
    assert jacobian("orthogonal")[0] < 1e-3


def test_centred_weights_need_two_units() -> None:
    with pytest.raises(ValueError, match="expected at least 2 units a layer, found 1"):
        networks.init(KEY, Architecture((3, 1)), initializer="centred_orthogonal")


def test_scales_share_their_draws_and_layers_do_not() -> None:
    """Two scales of one seed differ by a factor; two layers are unrelated."""
    small = networks.init(KEY, DEEP, gain=0.25)
    large = networks.init(KEY, DEEP, gain=4.0)
    for leaf in small:
        np.testing.assert_array_equal(large[leaf], 16 * small[leaf])
    assert not np.allclose(small["W2"], small["W3"])
    assert not networks.init(KEY, SHALLOW)["b1"].any()
    assert networks.init(KEY, SHALLOW, bias_scale=1.0)["b1"].std() > 0.5


def test_draws_do_not_depend_on_the_precision() -> None:
    with jax.enable_x64(True):
        double = networks.init(jax.random.key(0), SHALLOW, gain=0.1)
    single = networks.init(jax.random.key(0), SHALLOW, gain=0.1)
    for leaf in single:
        assert double[leaf].dtype == jnp.float32
        np.testing.assert_array_equal(double[leaf], single[leaf])


TEXTBOOK: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "identity": lambda z: z,
    "centred_sigmoid": lambda z: 2 / (1 + np.exp(-z)) - 1,
    "scaled_tanh": lambda z: 1.7159 * np.tanh(2 * z / 3),
}


@pytest.mark.parametrize("activation", networks.ACTIVATIONS)
@pytest.mark.parametrize("biases", [True, False])
def test_apply_is_the_formula(
    activation: str, biases: bool, rng: np.random.Generator
) -> None:
    """Image by image in NumPy, with the functions as a textbook writes them."""
    textbook = TEXTBOOK[activation]
    net = Architecture((7, 5, 4, 3), activation, biases)
    params = networks.init(KEY, net, bias_scale=1.0)
    x = rng.random((6, 7), np.float32)
    logits = networks.apply(params, jnp.asarray(x), architecture=net)
    for image, row in zip(x, logits, strict=True):
        a = image
        for layer in (1, 2, 3):
            z = np.asarray(params[f"W{layer}"]) @ a
            z = z + (np.asarray(params[f"b{layer}"]) if biases else 0)
            a = textbook(z)
        np.testing.assert_allclose(row, z, rtol=1e-5, atol=1e-6)


def test_the_scaled_tanh_of_lecun() -> None:
    """f(1) = 1 and f(-1) = -1; normal inputs of variance 1 keep their variance."""
    f = networks.ACTIVATIONS["scaled_tanh"].function
    np.testing.assert_allclose(f(jnp.array([1.0, -1.0])), [1, -1], atol=1e-4)
    z = np.linspace(-8, 8, 4001, dtype=np.float32)
    density = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    assert abs(density @ np.asarray(f(jnp.asarray(z))) ** 2 - 1) < 0.3


@pytest.mark.parametrize("normalization", ["layer", "batch"])
def test_normalized_sums(normalization: str, rng: np.random.Generator) -> None:
    """Mean 0, variance 1, along units or images; whatever the scale of the weights."""
    net = Architecture((7, 6, 6, 3), "tanh", False, normalization)
    x = rng.random((50, 7), np.float32)
    logits = []
    for gain in (1.0, 100.0):
        params = networks.init(KEY, net, gain=gain)
        params["W3"] = jnp.ones((3, 6))
        _, z = networks.forward(params, x, architecture=net)
        axis = 0 if normalization == "layer" else 1
        for sums in z[:2]:
            np.testing.assert_allclose(sums.mean(axis=axis), 0, atol=1e-5)
            np.testing.assert_allclose(sums.std(axis=axis), 1, atol=2e-3)
        logits.append(z[2])
    np.testing.assert_allclose(logits[0], logits[1], atol=5e-2)


def test_an_image_is_judged_alone(rng: np.random.Generator) -> None:
    """With reference images a prediction does not depend on who else is asked about.

    And where the reference is the batch itself, both ways are one.
    """
    net = Architecture((7, 6, 3), normalization="batch")
    params = networks.init(KEY, net)
    reference, x = rng.random((20, 7), np.float32), rng.random((9, 7), np.float32)
    together = networks.apply(params, x, architecture=net, reference=reference)
    alone = networks.apply(params, x[4:5], architecture=net, reference=reference)
    np.testing.assert_allclose(together[4:5], alone, rtol=1e-5)
    same = networks.apply(params, x, architecture=net, reference=x)
    np.testing.assert_allclose(
        same, networks.apply(params, x, architecture=net), rtol=1e-5
    )
    assert not np.allclose(same, together, rtol=1e-3)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_slope_where_floats_saturate(activation: str) -> None:
    """At z = 50, 1 - a is 0 in float64; the slope, by its series, is not.

    For large z the sigmoid's slope is exp(-z) (1 - 2 exp(-z) + ..), and that of tanh 4
    exp(-2 z). jax.grad of jax.nn.sigmoid and jnp.tanh give 0 there.
    """
    with jax.enable_x64(True):
        function, slope, steepest = networks.ACTIVATIONS[activation]
        z = jnp.float64(50.0)
        expected = np.exp(-50.0) if activation == "sigmoid" else 4 * np.exp(-100.0)
        for sign in (1, -1):
            np.testing.assert_allclose(slope(sign * z), expected, rtol=1e-14)
            np.testing.assert_allclose(
                jax.grad(function)(sign * z), expected, rtol=1e-14
            )
        assert jax.grad(jnp.tanh)(z) == jax.grad(jax.nn.sigmoid)(z) == 0
        assert slope(jnp.float64(0.0)) == steepest


def test_relu_slope_at_zero() -> None:
    function, slope, _ = networks.ACTIVATIONS["relu"]
    assert slope(jnp.float32(0)) == jax.grad(function)(jnp.float32(0)) == 0


@pytest.mark.parametrize(
    ("sizes", "activation", "message"),
    [
        ((784,), "sigmoid", "two or more sizes"),
        ((784, 0, 10), "sigmoid", "at least 1"),
        ((784, 10), "logistic", "found logistic"),
    ],
)
def test_impossible_architectures(
    sizes: tuple[int, ...], activation: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(sizes, activation)
    with pytest.raises(ValueError, match="found xavier"):
        networks.init(KEY, DEEP, initializer="xavier")

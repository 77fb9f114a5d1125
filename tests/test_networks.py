"""Initial weights have the spread that theory says; the forward pass is the formula."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from snn_jax import activations, initializers
from snn_jax.activations import Activation, slope
from snn_jax.networks import DEEP, MLP, SHALLOW

KEY = jax.random.key(0)
# Few shapes in all tests, so that little is compiled.
SMALL = MLP((6, 6, 6, 3))


@pytest.fixture(scope="module")
def params() -> dict[str, Array]:
    """Of SMALL, for any activation."""
    drawn: dict[str, Array] = SMALL.init(KEY, bias_scale=1.0)
    return drawn


def shapes(net: MLP) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in jax.eval_shape(net.init, KEY).items()}


def test_the_assignments_networks() -> None:
    assert shapes(SHALLOW) == {
        **{"W1": (20, 784), "b1": (20,)},
        **{"W2": (10, 20), "b2": (10,)},
    }
    hidden = {f"W{layer}": (10, 10) for layer in range(2, 7)}
    assert shapes(DEEP) == {"W1": (10, 784)} | hidden


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        ("normal", 1.0),
        ("lecun", 1 / 300),
        ("glorot", 2 / 700),
        ("glorot_uniform", 2 / 700),
        ("he", 2 / 300),
    ],
)
def test_variance_of_initial_weights(initializer: str, variance: float) -> None:
    """120,000 weights: the sample variance is within 2 % (5 sigma) of the formula."""
    draw = initializers.INITIALIZERS[initializer]
    net = MLP((300, 400), biases=False, initializer=draw)
    W = np.asarray(net.init(KEY, scale=3.0)["W1"])
    assert W.dtype == np.float32
    np.testing.assert_allclose(W.var(), 9 * variance, rtol=0.02)
    assert abs(W.mean()) < 5 * (9 * variance / W.size) ** 0.5


@pytest.mark.parametrize(("fan_in", "fan_out"), [(10, 10), (30, 8), (8, 30)])
def test_orthogonal_weights(fan_in: int, fan_out: int) -> None:
    """All singular values are 1, whichever side is longer.

    Centred ones do not see what all units share, and keep the lengths of all that is
    left: a difference between two images in which no unit changes more than the others
    on the whole passes as it is; the smaller of the two layers has one direction less
    than units.
    """
    Q = initializers.orthogonal(jax.random.key(1), (fan_out - 1, fan_in - 1))
    values = np.linalg.svd(Q, compute_uv=False)
    np.testing.assert_allclose(values, 1, rtol=1e-5)
    W = np.asarray(
        initializers.centred_orthogonal(jax.random.key(1), (fan_out, fan_in))
    )
    np.testing.assert_allclose(W.sum(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(W.sum(axis=1), 0, atol=1e-5)
    values = np.linalg.svd(W, compute_uv=False)
    np.testing.assert_allclose(values[:-1], 1, rtol=1e-5)
    assert values[-1] < 1e-5


def test_dynamical_isometry_of_twenty_sigmoid_layers() -> None:
    """Near the centre of its sigmoids the whole network is an isometry at scale 4.

    From the logits back to layer 1, through 20 layers, 9 of the 10 singular values of
    the Jacobian are 1; with orthogonal weights that are not centred the 1/2 of
    the units pushes them out of their centre, and the Jacobian all but vanishes.
    """

    def values(initializer: initializers.Initializer) -> np.ndarray:
        net = MLP((10,) * 22, biases=False, initializer=initializer)
        params = net.init(KEY, scale=4.0)
        _, z = net.forward(params, jnp.zeros((1, 10)))
        slopes = slope(activations.sigmoid, jnp.concatenate(z, axis=1))
        J = np.eye(10)
        for layer in range(2, 22):
            W, below = params[f"W{layer}"], slopes[:, layer - 2]
            J = np.asarray(W) * np.asarray(below)[None] @ J
        return np.linalg.svd(J, compute_uv=False)

    centred = values(initializers.centred_orthogonal)
    np.testing.assert_allclose(centred[:9], 1, rtol=1e-4)
    assert values(initializers.orthogonal)[0] < 1e-3


def test_centred_weights_need_two_units() -> None:
    with pytest.raises(ValueError, match="expected at least 2 units a layer, found 1"):
        initializers.centred_orthogonal(KEY, (1, 3))


def test_scales_share_their_draws_and_layers_do_not() -> None:
    """Two scales of one seed differ by a factor; two layers are unrelated."""
    small, large = SMALL.init(KEY, scale=0.25), SMALL.init(KEY, scale=4.0)
    for leaf in small:
        np.testing.assert_array_equal(large[leaf], 16 * np.asarray(small[leaf]))
    assert not np.allclose(small["W1"], small["W2"])
    assert not np.any(small["b1"])


def test_biases_have_a_scale_of_their_own(params: dict[str, Array]) -> None:
    larger = SMALL.init(KEY, bias_scale=4.0)
    for layer in (1, 2, 3):
        b, W = np.asarray(params[f"b{layer}"]), params[f"W{layer}"]
        np.testing.assert_array_equal(larger[f"b{layer}"], 4 * b)
        np.testing.assert_array_equal(larger[f"W{layer}"], W)
        assert b.std() > 0.5


def test_draws_do_not_depend_on_the_precision() -> None:
    net = MLP((6, 6))
    single = net.init(jax.random.key(0), scale=0.1, bias_scale=1.0)
    with jax.enable_x64(True):
        double = net.init(jax.random.key(0), scale=0.1, bias_scale=1.0)
    for leaf in single:
        assert double[leaf].dtype == jnp.float32
        np.testing.assert_array_equal(double[leaf], single[leaf])


TEXTBOOK: dict[Activation, Callable[[Any], Any]] = {
    activations.sigmoid: lambda z: 1 / (1 + np.exp(-z)),
    activations.relu: lambda z: np.maximum(z, 0),
    jnp.cos: np.cos,  # as a user would pass a function
}


@pytest.mark.parametrize("activation", TEXTBOOK, ids=lambda f: f.__name__)
@pytest.mark.parametrize("biases", [True, False])
def test_apply_is_the_formula(
    activation: Activation,
    biases: bool,
    params: dict[str, Array],
    rng: np.random.Generator,
) -> None:
    """Image by image in NumPy, with the functions as a textbook writes them."""
    net = MLP(SMALL.sizes, activation, biases)
    x = rng.random((5, 6), np.float32)
    logits = jax.jit(net.apply)(params, x)
    for image, row in zip(x, logits, strict=True):
        a = image
        for layer in (1, 2, 3):
            z = np.asarray(params[f"W{layer}"]) @ a
            z = z + (np.asarray(params[f"b{layer}"]) if biases else 0)
            a = TEXTBOOK[activation](z)
        np.testing.assert_allclose(row, z, rtol=1e-5, atol=1e-6)


def test_residual_layers_add_to_their_inputs(rng: np.random.Generator) -> None:
    """Where two layers have as many units, and never the last: a2 = a1 + f(z2)."""
    net = MLP((6, 6, 6, 3, 3), activations.tanh, biases=False, residual=True)
    assert [net.skips(layer) for layer in (1, 2, 3, 4)] == [False, True, False, False]
    params = net.init(KEY)
    W = [np.asarray(params[f"W{layer}"]) for layer in (1, 2, 3, 4)]
    x = rng.random((5, 6), np.float32)
    a1 = np.tanh(W[0] @ x.T)
    a2 = a1 + np.tanh(W[1] @ a1)
    a3 = np.tanh(W[2] @ a2)
    found = jax.jit(lambda x: (net.layers(params, x), net.apply(params, x)))(x)
    assert [*found[0]] == [1, 2, 3]
    for layer, a in zip(found[0].values(), (a1, a2, a3), strict=True):
        np.testing.assert_allclose(layer, a.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], (W[3] @ a3).T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalization", ["layer", "batch"])
def test_normalized_sums(normalization: str, rng: np.random.Generator) -> None:
    """Mean 0, variance 1, along units or images; whatever the scale of the weights."""
    net = MLP(SMALL.sizes, activations.tanh, False, normalization=normalization)
    x = rng.random((50, 6), np.float32)
    params = net.init(KEY)
    forward = jax.jit(net.forward)
    logits = []
    for scale in (1.0, 100.0):
        scaled = params | {name: scale * params[name] for name in ("W1", "W2")}
        _, z = forward(scaled, x)
        axis = 0 if normalization == "layer" else 1
        for sums in map(np.asarray, z[:2]):
            np.testing.assert_allclose(sums.mean(axis=axis), 0, atol=1e-5)
            np.testing.assert_allclose(sums.std(axis=axis), 1, atol=2e-3)
        logits.append(z[2])
    np.testing.assert_allclose(logits[0], logits[1], atol=5e-2)
    # The gain of a unit multiplies what is normalized.
    _, z = forward(params | {"g1": 3 * params["g1"]}, x)
    np.testing.assert_allclose(np.mean(np.square(z[0])), 9, rtol=1e-2)


def test_an_image_is_judged_alone(rng: np.random.Generator) -> None:
    """With reference images a prediction does not depend on who else is asked about.

    And where the reference is the batch itself, both ways are one.
    """
    net = MLP((6, 6, 3), normalization="batch")
    params = net.init(KEY)
    reference, x = rng.random((20, 6), np.float32), rng.random((9, 6), np.float32)
    predict = jax.jit(net.predict)
    together = predict(params, x, reference)
    alone = predict(params, x[4:5], reference)
    np.testing.assert_allclose(together[4:5], alone, rtol=1e-5)
    same = predict(params, x, x)
    np.testing.assert_allclose(same, jax.jit(net.apply)(params, x), rtol=1e-5)
    assert not np.allclose(same, together, rtol=1e-3)


def test_inputs_of_other_shapes(
    params: dict[str, Array], rng: np.random.Generator
) -> None:
    """More axes than one are run together; one image alone is no batch."""
    net = MLP((12, 6, 6, 3))
    params = params | {"W1": jnp.ones((6, 12))}
    x = rng.random((2, 3, 4), np.float32)
    apply = jax.jit(net.apply)
    np.testing.assert_array_equal(apply(params, x), apply(params, x.reshape(2, 12)))
    for wrong in (x[0, 0], x[:, 0], x.reshape(24)):
        with pytest.raises(ValueError, match=r"images: expected shape \(B, 12\), fou"):
            net.apply(params, wrong)
    # Of a network with one input, too.
    with pytest.raises(ValueError, match=r"expected shape \(B, 1\), found \(6,\)"):
        MLP((1, 3)).apply({}, x[0, 0, :1].repeat(6))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": (784,)}, "two or more sizes"),
        ({"sizes": (784, 0, 10)}, "at least 1"),
        ({"normalization": "group"}, "expected none, layer or batch, found group"),
    ],
)
def test_impossible_networks(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**({"sizes": (784, 10)} | wrong))


def test_labels_and_hashes_of_networks() -> None:
    """A function without a name is called what it is."""
    assert str(DEEP) == "784-10-10-10-10-10-10, sigmoid, no biases"
    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.3)
    assert str(MLP((2, 2), leaky, residual=True)) == "2-2, partial, residual"
    assert hash(MLP((2, 2))) == hash(MLP((2, 2)))

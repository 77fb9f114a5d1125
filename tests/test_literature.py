"""Remedies from the literature are what their papers say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
from _catalogue import SINGLE
from _league import KEY
from scipy.special import expit

from snn_jax import gradients, initializers, remedies
from snn_jax.activations import Activation, sigmoid, tanh
from snn_jax.datasets import Dataset
from snn_jax.networks import DEEP, MLP, Params

BY_NAME = {remedy.name: remedy for remedy in SINGLE}


@pytest.mark.parametrize(
    ("name", "fan_in", "mean", "deviation"),
    [
        # 400 Var W (1/4)^2 (1 + (1/2)^2) = 1, which he rounds by 0.6 %.
        ("Kumar", 400, 0.0, 12.8**0.5 / 20),
        ("negative mean", 400, -0.02, 0.1),
        ("negative mean", 4, -1.0, 0.1),
    ],
)
def test_moments_of_weights(
    name: str, fan_in: int, mean: float, deviation: float
) -> None:
    """Of 120,000 weights, within 5 standard errors."""
    net, count = MLP((fan_in, 120_000 // fan_in), biases=False), 120_000
    init = BY_NAME[name].init
    assert init is not None
    W = jax.jit(lambda key: init(key, net, jnp.zeros((1, fan_in))))(KEY)["W1"]
    W = np.asarray(W, float)
    assert abs(W.mean() - mean) < 5 * deviation / count**0.5
    np.testing.assert_allclose(W.std(), deviation, rtol=5 / (2 * count) ** 0.5)


@pytest.mark.parametrize("activation", [sigmoid, tanh])
def test_autoinit_gives_all_sums_variance_1(
    activation: Activation, small: Dataset
) -> None:
    """In wide layers; the variance of weights is that of SciPy's integral."""
    net = MLP((784, 400, 400, 400, 400), activation, biases=False)
    x = jnp.asarray(small.train.x)

    @jax.jit
    def drawn(key: Any) -> tuple[Params, list[jax.Array]]:
        params = remedies.autoinit(key, net, x)
        return params, [(layer**2).mean() for layer in net.forward(params, x)[1]]

    params, mean_squares = drawn(KEY)
    np.testing.assert_allclose(mean_squares, 1, rtol=0.15)
    f = expit if activation is sigmoid else np.tanh
    moment, _ = scipy.integrate.quad(
        lambda g: f(g) ** 2 * scipy.stats.norm.pdf(g), -10, 10
    )
    np.testing.assert_allclose(400 * params["W3"].var() * moment, 1, rtol=0.02)


def test_a_constrained_step_is_that_of_free_coordinates(small: Dataset) -> None:
    """100 steps of SGD on V, where W = V B, and on W itself, end at the same weights.

    B is SciPy's basis of the vectors that sum to 0. The rows still sum to 0 up to
    rounding, biases are free, and rows that did not sum to 0 do after one step.
    """
    net = MLP((20, 6, 10), initializer=initializers.zero_row_sums)
    bases = {
        f"W{layer}": scipy.linalg.null_space(np.ones((1, n))).T.astype("float32")
        for layer, n in enumerate(net.sizes[:-1], start=1)
    }
    x, y = small.train.x[:, 300:320], small.train.y
    gradient = gradients.by_autodiff(net)
    optimizer = remedies.linearly_constrained(0.5)

    def moved(W: Params, grads: Params) -> Params:
        updates, _ = optimizer.update(grads, optimizer.init(W), W)
        return optax.apply_updates(W, updates)

    def of_free(V: Params) -> Params:
        return {n: a @ bases[n] if n in bases else a for n, a in V.items()}

    def step(i: Any, both: tuple[Params, Params]) -> tuple[Params, Params]:
        W, V = both
        batch = [jax.lax.dynamic_slice_in_dim(part, 3 * i, 20) for part in (x, y)]
        of_V = jax.grad(lambda V: gradient(of_free(V), *batch)[0])(V)
        V = jax.tree.map(lambda a, da: a - 0.5 * da, V, of_V)
        return moved(W, gradient(W, *batch)[1]), V

    @jax.jit
    def run(key: Any) -> tuple[Params, ...]:
        first = net.init(key, scale=4.0)
        V = {n: a @ bases[n].T if n in bases else a for n, a in first.items()}
        W, V = jax.lax.fori_loop(0, 100, step, (first, V))
        shifted = jax.tree.map(lambda leaf: leaf + 0.1, first)
        back = moved(shifted, jax.tree.map(jnp.zeros_like, first))
        return first, W, of_free(V), back

    first, W, expected, back = jax.tree.map(np.asarray, run(KEY))
    for name in W:
        assert abs(W[name] - first[name]).max() > 0.1
        np.testing.assert_allclose(W[name], expected[name], atol=1e-4)
        if name in bases:
            assert abs(W[name].sum(axis=1)).max() < 1e-6 * abs(W[name]).sum(1).max()
            np.testing.assert_allclose(back[name], first[name], atol=1e-6)
        else:
            np.testing.assert_array_equal(back[name], first[name] + np.float32(0.1))


def kernel_map(h: Activation, q: float, c: float) -> float:
    """E h(u) h(v) of normal u, v of variance q and correlation c, by Gauss-Hermite."""
    g, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    u = np.broadcast_to(g[:, None], (200, 200))
    v = c * u + (1 - c**2) ** 0.5 * g[None]
    with jax.enable_x64(True):
        hu, hv = (np.asarray(h(jnp.asarray(q**0.5 * part))) for part in (u, v))
    return float(weights @ (hu * hv) @ weights)


@pytest.mark.parametrize("depth", [1, 5, 50])
@pytest.mark.parametrize("activation", [sigmoid, tanh])
def test_shaped_units_pass_kernels_on(activation: Activation, depth: int) -> None:
    """The maps of a layer themselves, and their differences, not the equations solved.

    All layers together multiply a small difference by zeta = 1.5 (squared, in mean).
    """
    h, e = remedies.shaped(activation, 1.5 ** (1 / depth)), 1e-4
    np.testing.assert_allclose(kernel_map(h, 1.0, 1.0), 1, rtol=1e-9)
    np.testing.assert_allclose(kernel_map(h, 1.0, 0.0), 0, atol=1e-9)
    q_slope = (kernel_map(h, 1 + e, 1.0) - kernel_map(h, 1 - e, 1.0)) / (2 * e)
    np.testing.assert_allclose(q_slope, 1, rtol=1e-6)
    # C(1) - C(1 - e) and twice as far: one-sided, of second order.
    near, far = (1 - kernel_map(h, 1.0, 1 - d) for d in (e, 2 * e))
    c_slope = (4 * near - far) / (2 * e)
    np.testing.assert_allclose(c_slope**depth, 1.5, rtol=1e-5)


def test_shaped_networks_start_at_mean_square_1(rng: np.random.Generator) -> None:
    """The sums of every layer, whatever the inputs'; the units know the depth."""
    remedy, x = BY_NAME["kernel shaping"], 3 * rng.normal(size=(200, 120))
    net = remedy.network(MLP((120, 100, 100, 100), biases=False))

    @jax.jit
    def mean_squares(key: Any) -> list[jax.Array]:
        _, z = net.forward(remedies.unit_q(key, net, jnp.asarray(x)), x)
        return [(layer**2).mean() for layer in z]

    np.testing.assert_allclose(mean_squares(KEY), 1, rtol=0.05)
    assert net.activation is remedies.shaped(sigmoid, 1.5 ** (1 / 2))
    assert remedy.network(DEEP).activation is remedies.shaped(sigmoid, 1.5 ** (1 / 5))


def test_a_line_has_no_shape() -> None:
    with pytest.raises(ValueError, match=r"expected one that .* shaped to, found 1\.1"):
        remedies.shaped(jnp.asarray, 1.1)

"""The check passes right gradients, catches wrong ones, and says where it is blind."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import activations, backprop, gradcheck, gradients, losses, networks
from snn_jax.datasets import Dataset
from snn_jax.gradients import GradientError, ValueAndGrad
from snn_jax.networks import MLP, Network, Params

# The two networks of the assignment, in small: every kind of leaf, and the depth.
NETS = {"shallow": MLP((12, 6, 4)), "deep": MLP((12, *[4] * 6), biases=False)}
Batch = tuple[np.ndarray, np.ndarray]


def initial(net: MLP, scale: float) -> Params:
    """Drawn with NumPy, which has nothing to compile."""
    rng = np.random.default_rng(0)
    params: Params = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(net.sizes), start=1):
        params[f"W{layer}"] = scale * rng.normal(size=(fan_out, fan_in))
        if net.biases:
            params[f"b{layer}"] = scale * rng.normal(size=fan_out)
    return params


def checked(
    net: MLP, scale: float, batch: Batch, gradient: ValueAndGrad | None = None
) -> list[gradcheck.Check]:
    """By hand, unless it is a gradient of another kind."""
    by_hand, loss = backprop.value_and_grad(net), gradients.mean_loss(net)
    return gradcheck.check(gradient or by_hand, initial(net, scale), *batch, loss=loss)


@pytest.fixture
def batch(rng: np.random.Generator) -> Batch:
    """Two images with a few bright pixels, and their labels."""
    return rng.uniform(size=(2, 12)) ** 2, np.array([2, 1])


@pytest.mark.parametrize("net", NETS)
def test_no_false_alarm(net: str, batch: Batch) -> None:
    """Four ways agree at every scale; the complex step to 1e-12 in every leaf."""
    names = (
        ["W1", "b1", "W2", "b2"] if net == "shallow" else list(initial(NETS[net], 1))
    )
    for scale in (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0):
        checks = checked(NETS[net], scale, batch)
        assert [check.leaf for check in checks] == names
        for check in checks:
            assert check.agrees, check
            assert check.autodiff <= 1e-14
            assert check.complex_step is not None
            assert check.loss <= 1e-14
            assert net == "deep" or scale > 1 or not check.central_is_blind


@pytest.mark.parametrize(("scale", "seed"), [(30.0, 5), (100.0, 5), (100.0, 6)])
def test_rounding_of_large_weights_is_no_alarm(
    scale: float, seed: int, dataset: Dataset
) -> None:
    """Where a label is known to 1e-7, or to 1e-17, 1 - p_y has few digits, or none.

    A mistake in what can be seen is one still, in leaves that are not blind.
    """
    x, y = dataset.train.x[:2], dataset.train.y[:2]
    params = networks.DEEP.init(jax.random.key(seed), scale=scale)
    loss = gradients.mean_loss(networks.DEEP)
    by_hand = backprop.value_and_grad(networks.DEEP)

    def wrong(params: Any, x: Any, y: Any) -> Any:
        value, grads = by_hand(params, x, y)
        return value, {name: 1.0001 * grad for name, grad in grads.items()}

    right = gradcheck.check(by_hand, params, x, y, loss=loss)
    assert all(check.agrees for check in right)
    seen = [check for check in right if not check.is_blind]
    assert len(seen) >= 3
    for check in gradcheck.check(wrong, params, x, y, loss=loss):
        assert check.is_blind or not check.agrees


@pytest.mark.full
@pytest.mark.parametrize("net", [networks.SHALLOW, networks.DEEP])
def test_no_false_alarm_in_two_hundred_seeds(net: MLP, dataset: Dataset) -> None:
    """At scales from 1e-3 to 100, one for each seed."""
    x, y = dataset.train.x[:2], dataset.train.y[:2]
    loss, by_hand = gradients.mean_loss(net), backprop.value_and_grad(net)
    for seed, scale in enumerate(np.geomspace(1e-3, 100, 200)):
        params = net.init(jax.random.key(seed), scale=scale, bias_scale=scale)
        for check in gradcheck.check(by_hand, params, x, y, loss=loss):
            assert check.agrees, (seed, scale, check)


def test_rounding_explains_where_differences_are_blind(batch: Batch) -> None:
    """The predicted floor is the measured error, within a factor of 5, over 9 decades.

    At scale 0.01 the first layer's gradient is 1e-11 and nothing of it is seen, while
    the complex step has all its digits.
    """
    checks = checked(NETS["deep"], 0.01, batch)
    for check in checks:
        assert check.central_floor / 5 < check.central < 5 * check.central_floor
    assert [check.central_is_blind for check in checks] == [True] * 4 + [False] * 2
    assert checks[0].central > 0.1
    assert checks[0].complex_step is not None
    assert checks[0].complex_step < 1e-14


# --- mistakes that people make, in NumPy ----------------------------------------------


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def softmax(z: Any) -> Any:
    powers = np.exp(z - z.max(axis=0))
    return powers / powers.sum(axis=0)


TOPS: dict[str, Callable[[Any, Any], Any]] = {
    "nll": lambda z, one_hot: softmax(z) - one_hot,
    "cross_entropy": lambda z, one_hot: sigmoid(z) - one_hot,
    "quadratic": lambda z, one_hot: (sigmoid(z) - one_hot) * sigmoid(z) * sigmoid(-z),
}
COSTS: dict[str, Callable[[Any, Any], Any]] = {
    "nll": lambda z, one_hot: -np.log((softmax(z) * one_hot).sum(axis=0)),
    "cross_entropy": lambda z, one_hot: (
        -np.log(np.where(one_hot, sigmoid(z), sigmoid(-z))).sum(axis=0)
    ),
    "quadratic": lambda z, one_hot: ((sigmoid(z) - one_hot) ** 2).sum(axis=0) / 2,
}


def rederived(
    cost: str = "nll",
    top: Callable[[Any, Any], Any] | None = None,
    down: Callable[[Any, Any, Any], Any] = lambda W, d, slope: (W.T @ d) * slope,
    weights: Callable[[Any, list[Any], int], Any] = lambda d, a, layer: d @ a[layer].T,
    biases: Callable[[Any], Any] = lambda delta: delta.mean(axis=1),
    change: Callable[[Params, int], Params] = lambda grads, _: grads,
) -> ValueAndGrad:
    """Backpropagation with one step replaced; ``change`` is told the batch size."""

    def value_and_grad(params: Params, x: Any, y: Any) -> tuple[Any, Params]:
        num_layers = max(int(leaf[1:]) for leaf in params)
        a, z = [np.asarray(x).T], []
        for layer in range(1, num_layers + 1):
            bias = params.get(f"b{layer}", np.zeros(1))[:, None]
            z.append(params[f"W{layer}"] @ a[-1] + bias)
            a.append(sigmoid(z[-1]))
        one_hot = np.eye(len(z[-1]))[y].T
        delta = (top or TOPS[cost])(z[-1], one_hot)
        grads: Params = {}
        for layer in range(num_layers - 1, -1, -1):
            grads[f"W{layer + 1}"] = weights(delta, a, layer) / len(x)
            if f"b{layer + 1}" in params:
                grads[f"b{layer + 1}"] = biases(delta)
            if layer:
                slope = a[layer] * sigmoid(-z[layer - 1])
                delta = down(params[f"W{layer + 1}"], delta, slope)
        return COSTS[cost](z[-1], one_hot).mean(), change(grads, len(x))

    return value_and_grad


def below_the_top(grads: Params) -> list[str]:
    top = max(leaf[1:] for leaf in grads)
    return [leaf for leaf in grads if leaf[1:] != top]


MISTAKES: dict[str, ValueAndGrad] = {
    "sign": rederived(change=lambda g, _: {k: -v for k, v in g.items()}),
    "missing 1/B": rederived(change=lambda g, n: {k: v * n for k, v in g.items()}),
    "factor 1.001": rederived(change=lambda g, _: {k: v * 1.001 for k, v in g.items()}),
    "first layer doubled": rederived(change=lambda g, _: g | {"W1": 2 * g["W1"]}),
    "zeroed below the top": rederived(
        change=lambda g, _: g | {k: np.zeros_like(g[k]) for k in below_the_top(g)}
    ),
    "missing sigma'": rederived(down=lambda W, d, _: W.T @ d),
    "sigma' twice": rederived(down=lambda W, d, slope: (W.T @ d) * slope**2),
    "untransposed W": rederived(
        down=lambda W, d, slope: ((W if W.shape[0] == W.shape[1] else W.T) @ d) * slope
    ),
    "p instead of p - e": rederived(top=lambda z, _: softmax(z)),
    "softmax slope of a squared error": rederived(
        top=lambda z, one_hot: (softmax(z) - one_hot) * softmax(z) * (1 - softmax(z))
    ),
    "layer off by one": rederived(
        weights=lambda d, a, layer: (
            d @ (a[layer - 1] if layer > 1 else np.roll(a[layer], 1, axis=0)).T
        )
    ),
    "bias summed over the batch, not averaged": rederived(
        biases=lambda delta: delta.sum(axis=1)
    ),
    "one image's error for all": rederived(
        weights=lambda d, a, layer: d[:, :1].repeat(d.shape[1], 1) @ a[layer].T
    ),
    "bias summed over units": rederived(
        biases=lambda delta: np.full(delta.shape[0], delta.sum() / delta.shape[1])
    ),
}
# Mistakes that these networks cannot make: deep has no biases, shallow no square W.
NOT_IN = {
    "deep": {"bias summed over the batch, not averaged", "bias summed over units"},
    "shallow": {"untransposed W"},
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("net", NETS)
def test_planted_mistakes_are_caught(net: str, mistake: str, batch: Batch) -> None:
    """By both of the exact ways, whatever central differences can see."""
    if mistake in NOT_IN[net]:
        return
    for scale in (0.01, 0.1, 1.0, 5.0):
        checks = checked(NETS[net], scale, batch, MISTAKES[mistake])
        caught = [check for check in checks if not check.agrees]
        assert caught, f"not caught at scale {scale}"
        for check in caught:
            assert check.loss < 1e-14
            assert check.autodiff > gradcheck.AUTODIFF_TOLERANCE
            assert check.complex_step is not None
            assert check.complex_step > gradcheck.COMPLEX_TOLERANCE


@pytest.mark.parametrize("cost", COSTS)
def test_a_gradient_is_right_for_its_own_loss_alone(cost: str, batch: Batch) -> None:
    """Derived for each loss in NumPy: Nielsen 2015, eq. BP1, with the three deltas."""
    net = NETS["shallow"]
    loss = gradients.mean_loss(net, getattr(losses, cost))
    for of in COSTS:
        checks = gradcheck.check(rederived(of), initial(net, 0.3), *batch, loss=loss)
        assert [check.agrees for check in checks] == [of == cost] * 4


def test_mistakes_that_cancel_in_the_mean(batch: Batch) -> None:
    """Swapping the gradients of two images is invisible in the batch, not per image."""
    net, (x, y) = NETS["shallow"], batch
    right = rederived()

    def swapped(params: Params, a: Any, b: Any) -> Any:
        if len(a) == 2:
            return right(params, a, b)
        other = 1 if np.array_equal(a[0], x[0]) else 0
        return right(params, x[[other]], y[[other]])

    params, loss = initial(net, 0.1), gradients.mean_loss(net)
    whole = gradcheck.check(swapped, params, x, y, loss=loss)
    assert all(check.agrees for check in whole)
    for value_and_grad, right_is in ((swapped, False), (right, True)):
        examples = gradcheck.check_examples(value_and_grad, params, x, y, loss=loss)
        assert list(examples) == ["W1", "W2", "b1", "b2"]
        for errors in examples.values():
            assert errors.shape == (2,)
            assert ((errors < 1e-14) if right_is else (errors > 0.1)).all()


def test_a_wrong_loss_beside_a_right_gradient(batch: Batch) -> None:
    """Summed over two images instead of averaged: |2 - 1| / |2 + 1|."""

    def summed(*args: Any) -> Any:
        value, grads = rederived()(*args)
        return 2 * value, grads

    for check in checked(NETS["shallow"], 0.3, batch, summed):
        np.testing.assert_allclose(check.loss, 1 / 3, rtol=1e-12)
        assert not check.agrees
        assert check._replace(loss=0.0).agrees


# --- any network, any tree ------------------------------------------------------------


def test_regression_in_numpy(rng: np.random.Generator) -> None:
    """For y = A x^2 + b, dA = (error) (x^2)^T / B and db is the mean error.

    The parameters are a tuple, the targets float32, and the power is a whole number: a
    constant of the network.
    """
    A = rng.normal(size=(3, 5)).astype(np.float32)
    params = A, {"b": np.zeros(3)}, np.int32(2)
    x, y = rng.normal(size=(4, 5)), rng.normal(size=(4, 3)).astype(np.float32)

    def apply(params: Params, x: Any) -> Any:
        A, b, power = params
        return x**power @ A.T + b["b"][None]

    def value_and_grad(params: Params, x: Any, y: Any) -> Any:
        x = np.asarray(x)
        error = apply(params, x) - y
        assert error.dtype == np.float64
        grads = (error.T @ x**2 / len(x), {"b": error.mean(axis=0)}, np.int32(0))
        return float((error**2).sum() / 2 / len(x)), grads

    loss = gradients.mean_loss(Network(lambda: params, apply), losses.squared_error)
    checks = gradcheck.check(value_and_grad, params, x, y, loss=loss)
    assert [check.leaf for check in checks] == ["0", "1.b"]
    assert all(check.agrees for check in checks)
    assert checks[0].complex_step is not None


def test_what_cannot_be_a_gradient(batch: Batch) -> None:
    """Said as such, not as an error of 1.57 or a KeyError."""
    net = NETS["shallow"]
    params, loss = initial(net, 0.3), gradients.mean_loss(net)
    column = rederived(change=lambda g, _: g | {"b1": g["b1"][:, None]})
    with pytest.raises(GradientError, match=r"b1: expected shape \(6,\), found \(6, 1"):
        gradcheck.check(column, params, *batch, loss=loss)
    missing = rederived(change=lambda g, _: {k: g[k] for k in ("W1", "W2", "b2")})
    with pytest.raises(GradientError, match="gradient of b1: expected one, found only"):
        gradcheck.check_examples(missing, params, *batch, loss=loss)


# --- losses that the complex step cannot be used with ---------------------------------


def two_layers(params: Params, x: Any) -> Any:
    return jnp.tanh(x @ params["inner"]["W"]) @ params["outer"]["W"]


def convolution(params: Params, x: Any) -> Any:
    """Refuses arguments of two dtypes."""
    kernel = params["inner"]["W"][:9, 0].reshape(1, 1, 3, 3)
    hidden = jax.lax.conv(x.reshape(-1, 1, 3, 4), kernel, (1, 1), "SAME")
    return jnp.tanh(hidden).reshape(-1, 12)[:, :5] @ params["outer"]["W"]


def stable(logits: Any, y: Any) -> Any:
    """All that people do against overflow, which JAX can do with complex numbers."""
    logits = logits - jnp.max(logits, axis=1, keepdims=True)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]


def binary(logits: Any, y: Any) -> Any:
    labels = jax.nn.one_hot(y, 3)
    return (jax.nn.softplus(logits) - labels * logits).sum(axis=1)


USERS: dict[str, tuple[Any, Any, bool]] = {
    "log_softmax and max": (two_layers, stable, True),
    "softplus loses imaginary parts": (two_layers, binary, False),
    "convolution raises": (convolution, stable, False),
    "a millionth of the loss": (
        two_layers,
        lambda logits, y: stable(logits, y) + 1e-6 * jnp.abs(logits).sum(axis=1),
        False,
    ),
}


@pytest.mark.parametrize("user", USERS)
def test_the_complex_step_is_left_out(user: str, rng: np.random.Generator) -> None:
    """Where it cannot be used, and nowhere else; the other two still judge."""
    apply, loss, is_used = USERS[user]
    params = {
        "inner": {"W": rng.normal(size=(12, 5))},
        "outer": {"W": rng.normal(size=(5, 3))},
    }
    x, y = rng.normal(size=(2, 12)), np.array([2, 1])
    mean = gradients.mean_loss(Network(lambda: params, apply), loss)
    by_autodiff = jax.jit(jax.value_and_grad(mean))

    def right(params: Params, x: Any, y: Any) -> Any:
        return by_autodiff(params, np.asarray(x), y)

    checks = gradcheck.check(right, params, x, y, loss=mean)
    assert [check.leaf for check in checks] == ["inner.W", "outer.W"]
    assert all(check.agrees for check in checks)
    assert [check.complex_step is not None for check in checks] == [is_used] * 2

    def wrong(*args: Any) -> Any:
        value, grads = right(*args)
        return value, grads | {"outer": {"W": 1.001 * grads["outer"]["W"]}}

    checks = gradcheck.check(wrong, params, x, y, loss=mean)
    assert [check.agrees for check in checks] == [True, False]
    assert checks[1].central > gradcheck.CENTRAL_TOLERANCE


TOLD = activations.with_slope(
    activations.sigmoid, lambda z: 1.001 * activations.slope(activations.sigmoid, z)
)


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_a_mistake_that_autodiff_shares(scale: float, batch: Batch) -> None:
    """A slope that is told wrong is seen in every leaf below a sigmoid.

    By the complex step even where central differences are blind: it is not left out for
    standing alone against the gradient and autodiff.
    """
    checks = checked(MLP(NETS["deep"].sizes, TOLD, biases=False), scale, batch)
    assert [check.agrees for check in checks] == [False] * 5 + [True]
    for check in checks:
        assert check.autodiff < 1e-14
        assert check.complex_step is not None
    assert scale == 1.0 or checks[0].central_is_blind


def test_a_gradient_that_vanishes_for_autodiff_alone() -> None:
    """1e-20 is nothing beside a loss of 1: differences give 0, and prove nothing."""

    def loss(params: Params, x: Any, y: Any) -> Any:
        lost = jax.lax.stop_gradient(1e-20 * params["lost"])
        return (params["seen"] ** 2 + lost) * x.sum() + y.sum()

    one = np.ones(())
    params = {"lost": one, "seen": one}
    checks = gradcheck.check(jax.value_and_grad(loss), params, one, one, loss=loss)
    assert [check.agrees for check in checks] == [False, True]
    assert (checks[0].autodiff, checks[0].central, checks[0].complex_step) == (0, 0, 1)


def test_shapes_do_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"equal ones, found \(5, 1\), \(5,\)"):
        gradcheck.relative_error(np.ones((5, 1)), np.ones(5))


def test_nan_is_a_disagreement() -> None:
    right = gradcheck.Check("W1", 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert right.agrees
    nan = float("nan")
    assert not right._replace(autodiff=nan).agrees
    assert not right._replace(complex_step=nan).agrees
    assert not right._replace(central=nan).agrees
    assert not right._replace(loss=nan).agrees

"""The check passes right gradients, catches wrong ones, and says where it is blind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import backprop, gradcheck, losses, mnist, networks
from snn_jax.networks import DEEP, SHALLOW, Architecture, Params

NETS = {"shallow": SHALLOW, "deep": DEEP}
Gradient = Callable[..., tuple[Any, Params]]


def initial(net: Architecture, scale: float, seed: int = 0) -> Params:
    return networks.init(jax.random.key(seed), net, gain=scale, bias_scale=scale)


@pytest.mark.parametrize(
    ("net", "scale"),
    [
        *(("deep", scale) for scale in (0.01, 0.1, 1.0, 5.0, 10.0)),
        *(("shallow", scale) for scale in (0.01, 10.0)),
    ],
)
def test_no_false_alarm(net: str, scale: float, dataset: mnist.Dataset) -> None:
    """Four ways agree at every scale; the complex step to 1e-12 in every leaf."""
    x, y = dataset.train.x[:2], dataset.train.y[:2]
    for seed in range(3):
        params = initial(NETS[net], scale, seed)
        for check in gradcheck.check(params, x, y, architecture=NETS[net]):
            assert check.agrees, check
            assert check.autodiff <= 1e-14
            assert check.complex_step <= 1e-12


def test_central_differences_on_the_shallow_network(dataset: mnist.Dataset) -> None:
    x, y = dataset.train.x[:2], dataset.train.y[:2]
    errors = [
        check.central
        for scale in (0.1, 1.0)
        for check in gradcheck.check(
            initial(SHALLOW, scale), x, y, architecture=SHALLOW
        )
    ]
    assert np.median(errors) <= 1e-6


def test_rounding_explains_where_differences_are_blind(dataset: mnist.Dataset) -> None:
    """The predicted floor is the measured error, within a factor of 5, over 7 decades.

    At scale 0.01 the first layer's gradient is 1e-10 and nothing of it is seen, while
    the complex step has all its digits.
    """
    x, y = dataset.train.x[:2], dataset.train.y[:2]
    checks = gradcheck.check(initial(DEEP, 0.01), x, y, architecture=DEEP)
    for check in checks:
        assert check.central_floor / 5 < check.central < 5 * check.central_floor
    assert [check.central_is_blind for check in checks] == [True] * 4 + [False] * 2
    assert checks[0].central > 0.1
    assert checks[0].complex_step < 1e-14


# --- twelve mistakes that people make
# ---------------------------------------------------


def changed(change: Callable[[Params, int], Params]) -> Gradient:
    """The gradient by hand, changed; the change is told the batch size."""

    def value_and_grad(
        params: Params, x: Any, y: Any, *, architecture: Architecture
    ) -> tuple[Any, Params]:
        loss, grads = backprop.value_and_grad(params, x, y, architecture=architecture)
        return loss, change(dict(grads), x.shape[0])

    return value_and_grad


def rederived(
    top: Callable[[Any, Any], Any] = lambda p, one_hot: p - one_hot,
    down: Callable[[Any, Any, Any], Any] = lambda W, d, slope: (W.T @ d) * slope,
    weights: Callable[[Any, list[Any], int], Any] = lambda d, a, layer: d @ a[layer].T,
    biases: Callable[[Any], Any] = lambda delta: delta.mean(axis=1),
) -> Gradient:
    """Backpropagation with one step replaced."""

    def value_and_grad(
        params: Params, x: Any, y: Any, *, architecture: Architecture
    ) -> tuple[Any, Params]:
        derivative = networks.ACTIVATIONS[architecture.activation].derivative
        a, z = networks.forward(params, x, architecture=architecture)
        p = jax.nn.softmax(z[-1], axis=0)
        delta = top(p, jax.nn.one_hot(y, p.shape[0], axis=0, dtype=p.dtype))
        grads: Params = {}
        for layer in range(architecture.num_layers - 1, -1, -1):
            grads[f"W{layer + 1}"] = weights(delta, a, layer) / x.shape[0]
            if architecture.biases:
                grads[f"b{layer + 1}"] = biases(delta)
            if layer:
                W = params[f"W{layer + 1}"]
                delta = down(W, delta, derivative(z[layer - 1]))
        return losses.mean_nll(params, x, y, architecture=architecture), grads

    return value_and_grad


def square(W: Any) -> bool:
    return bool(W.shape[0] == W.shape[1])


MISTAKES: dict[str, Gradient] = {
    "sign": changed(lambda g, _: {k: -v for k, v in g.items()}),
    "missing 1/B": changed(lambda g, n: {k: v * n for k, v in g.items()}),
    "factor 1.001": changed(lambda g, _: {k: v * 1.001 for k, v in g.items()}),
    "first layer doubled": changed(lambda g, _: g | {"W1": 2 * g["W1"]}),
    "zeroed below the top": changed(
        lambda g, _: (
            g
            | {k: jnp.zeros_like(v) for k, v in g.items() if k[1:] != str(top_layer(g))}
        )
    ),
    "missing sigma'": rederived(down=lambda W, d, _: W.T @ d),
    "sigma' twice": rederived(down=lambda W, d, slope: (W.T @ d) * slope**2),
    "untransposed W": rederived(
        down=lambda W, d, slope: ((W if square(W) else W.T) @ d) * slope
    ),
    "p instead of p - e": rederived(top=lambda p, _: p),
    "softmax slope of a squared error": rederived(
        top=lambda p, one_hot: (p - one_hot) * p * (1 - p)
    ),
    "layer off by one": rederived(
        weights=lambda d, a, layer: (
            d @ a[layer - 1 if layer and a[layer - 1].shape == a[layer].shape else 0].T
            if d.shape[0] == a[0].shape[0] or layer > 1
            else d @ jnp.roll(a[layer], 1, axis=0).T
        )
    ),
    "bias summed over the batch, not averaged": rederived(
        biases=lambda delta: delta.sum(axis=1)
    ),
    "one image's error for all": rederived(
        weights=lambda d, a, layer: d[:, :1].repeat(d.shape[1], 1) @ a[layer].T
    ),
    "bias summed over units": rederived(
        biases=lambda delta: jnp.full(delta.shape[0], delta.sum() / delta.shape[1])
    ),
}
# Mistakes that these networks cannot make: DEEP has no biases, SHALLOW has no square W.
NOT_IN = {
    "deep": {"bias summed over the batch, not averaged", "bias summed over units"},
    "shallow": {"untransposed W"},
}


def top_layer(grads: Params) -> int:
    return max(int(leaf[1:]) for leaf in grads)


def test_the_frame_of_the_mistakes_is_right(dataset: mnist.Dataset) -> None:
    x, y = dataset.train.x[:2], dataset.train.y[:2]
    for net in NETS.values():
        checks = gradcheck.check(
            initial(net, 0.3), x, y, architecture=net, value_and_grad=rederived()
        )
        assert all(check.agrees for check in checks)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("net", NETS)
def test_planted_mistakes_are_caught(
    net: str, mistake: str, dataset: mnist.Dataset
) -> None:
    if mistake in NOT_IN[net]:
        return
    # Every second row and column of the images: as telling, and a tenth of the time.
    x = dataset.train.x[:2].reshape(2, 28, 28)[:, ::2, ::2].reshape(2, 196)
    y = dataset.train.y[:2]
    architecture = replace(NETS[net], sizes=(196, *NETS[net].sizes[1:]))
    for scale in (0.01, 0.1, 1.0, 5.0):
        checks = gradcheck.check(
            initial(architecture, scale),
            x,
            y,
            architecture=architecture,
            value_and_grad=MISTAKES[mistake],
        )
        caught = [check for check in checks if not check.agrees]
        assert caught, f"not caught at scale {scale}"
        # By both of the exact ways, whatever central differences can see.
        for check in caught:
            assert check.autodiff > gradcheck.AUTODIFF_TOLERANCE
            assert check.complex_step > gradcheck.COMPLEX_TOLERANCE


def test_mistakes_that_cancel_in_the_mean(dataset: mnist.Dataset) -> None:
    """Swapping the gradients of two images is invisible in the batch, not per image."""
    x, y = dataset.train.x[:2], dataset.train.y[:2]

    def swapped(params: Params, x: Any, y: Any, *, architecture: Architecture) -> Any:
        other = jnp.where((x == x1).all(), x0, x1), jnp.where((x == x1).all(), y0, y1)
        batch = other if x.shape[0] == 1 else (x, y)
        return backprop.value_and_grad(params, *batch, architecture=architecture)

    with jax.enable_x64(True):
        x0, x1 = (jnp.asarray(image[None], jnp.float64) for image in x)
        y0, y1 = (jnp.asarray(label[None]) for label in y)
    params = initial(SHALLOW, 0.1)
    batch = gradcheck.check(params, x, y, architecture=SHALLOW, value_and_grad=swapped)
    assert all(check.agrees for check in batch)
    examples = gradcheck.check_examples(
        params, x, y, architecture=SHALLOW, value_and_grad=swapped
    )
    assert all((errors > 0.1).all() for errors in examples.values())


def test_nan_is_a_disagreement() -> None:
    nan = float("nan")
    assert not gradcheck.Check("W1", 1.0, nan, 0.0, 0.0, 0.0).agrees
    assert not gradcheck.Check("W1", 1.0, 0.0, 0.0, nan, 0.0).agrees
    assert gradcheck.Check("W1", 1.0, 0.0, 0.0, 0.0, 0.0).agrees

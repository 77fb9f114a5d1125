"""A gradient in NumPy does what one in JAX does; what is none is said in a line."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import gradients, losses
from snn_jax.gradients import GradientError
from snn_jax.networks import MLP, Network, Params

NET = MLP((4, 3))


def in_numpy(params: Params, x: Any, y: Any) -> Any:
    """Softmax regression: dW = (p - e) x^T / B, db = mean(p - e)."""
    x, y = np.asarray(x), np.asarray(y)
    z = x @ params["W1"].T + params["b1"]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    return loss, {"b1": p.mean(axis=0), "W1": p.T @ x / len(y)}


@pytest.fixture
def point(rng: np.random.Generator) -> tuple[Params, np.ndarray, np.ndarray]:
    params = {
        "W1": rng.normal(size=(3, 4)).astype(np.float32),
        "b1": rng.normal(size=3).astype(np.float32),
    }
    x = rng.normal(size=(5, 4)).astype(np.float32)
    return params, x, rng.integers(0, 3, 5).astype(np.int32)


Point = tuple[Params, np.ndarray, np.ndarray]


def assert_same(found: Any, expected: Any) -> None:
    def same(leaf: Any, wanted: Any) -> None:
        assert leaf.dtype == wanted.dtype
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-7)

    jax.tree.map(same, found, expected)


def test_numpy_is_jax_under_jit_and_vmap(point: Point) -> None:
    """Three networks, each with a batch of its own."""
    called = gradients.from_numpy(in_numpy)
    by_autodiff = jax.jit(gradients.by_autodiff(NET))
    assert_same(jax.jit(called)(*point), by_autodiff(*point))
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1, 0 * leaf]), point)
    many = many[0], many[1], np.stack([point[2], point[2][::-1], point[2]])
    assert_same(jax.jit(jax.vmap(called))(*many), jax.jit(jax.vmap(by_autodiff))(*many))
    with jax.enable_x64(True):
        double = (jax.tree.map(np.float64, point[0]), np.float64(point[1]), point[2])
        assert_same(jax.jit(called)(*double), by_autodiff(*double))


def test_numpy_gets_arrays_of_its_own(point: Point) -> None:
    """It may write to them: the network it is given does not change."""

    def writes(params: Params, x: Any, y: Any) -> Any:
        result = in_numpy(params, x, y)
        for leaf in (*params.values(), x):
            assert type(leaf) is np.ndarray
            leaf *= 0
        return result

    params, x, y = jax.tree.map(jnp.asarray, point)
    loss, _ = gradients.from_numpy(writes)(params, x, y)
    again, _ = gradients.from_numpy(writes)(params, x, y)
    assert float(loss) == float(again) > 0


def test_the_loss_is_no_whole_number() -> None:
    """Though the first leaf is: dtypes are taken from all of them together."""
    params = {"a_count": np.int32(3), "w": np.float32(2)}

    def gradient(_: Params, x: Any, y: Any) -> Any:
        return 0.5, {"a_count": 0, "w": float(x[0] * y[0])}

    called = jax.jit(gradients.from_numpy(gradient))
    loss, grads = called(params, np.array([3.0]), np.array([0.5]))
    assert (loss, loss.dtype) == (0.5, jnp.float32)
    assert (grads["w"], grads["w"].dtype) == (1.5, jnp.float32)
    assert grads["a_count"].dtype == jnp.int32


def test_what_jax_can_see_into(point: Point) -> None:
    """Numbers are needed by NumPy, by an ``if`` and by a mask."""
    by_autodiff = gradients.by_autodiff(NET)
    assert gradients.traced(by_autodiff, *point)

    def branches(params: Params, x: Any, y: Any) -> Any:
        loss, grads = by_autodiff(params, x, y)
        return (loss, grads) if loss > 0 else (0.0, grads)

    def masks(params: Params, x: Any, y: Any) -> Any:
        return by_autodiff(params, x[y > 0], y[y > 0])

    for gradient in (in_numpy, branches, masks):
        assert not gradients.traced(gradient, *point)
    # Shapes are enough, and nothing is computed.
    shapes = jax.eval_shape(lambda *point: point, *point)
    assert gradients.traced(by_autodiff, *shapes)

    def fails(*_: Any) -> Any:
        raise TypeError("of the user")

    with pytest.raises(TypeError, match="of the user"):
        gradients.traced(fails, *point)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            (0.0, {"W1": (3, 4), "b1": (3, 1)}),
            r"b1: expected shape \(3,\), found \(3, 1",
        ),
        (
            (0.0, {"W1": (4, 3), "b1": (3,)}),
            r"W1: expected shape \(3, 4\), found \(4, 3",
        ),
        ((0.0, {"W1": (3, 4)}), "gradient of b1: expected one, found only W1"),
        ((0.0, {}), "gradient of W1: expected one, found only none"),
        (
            (0.0, {"W1": (3, 4), "b1": (3,), "c": ()}),
            "gradient of c: expected only W1, b1",
        ),
        ((0.0, (3, 4)), "gradient of W1: expected one, found only the parameters"),
        (("each", {"W1": (3, 4), "b1": (3,)}), r"expected one number, found \(5,\)"),
        (({"W1": (3, 4), "b1": (3,)},), r"expected \(loss, grads\), found tuple"),
        (None, r"expected \(loss, grads\), found NoneType"),
    ],
)
def test_what_is_no_gradient(found: Any, said: str, point: Point) -> None:
    """Leaf, expected and found; the same of JAX and of NumPy."""

    def gradient(*_: Any) -> Any:
        def arrays(tree: Any) -> Any:
            return jax.tree.map(
                np.zeros, tree, is_leaf=lambda part: isinstance(part, tuple)
            )

        if found is None or len(found) == 1:
            return found
        return np.zeros(5) if found[0] == "each" else found[0], arrays(found[1])

    for check in (gradients.traced, gradients.call_numpy):
        with pytest.raises(GradientError, match=said):
            check(gradient, *point)


def test_trees_of_another_kind() -> None:
    """Leaves of the same names in a tuple, where a list is expected."""
    leaves = [np.zeros(2), np.zeros(3)]
    gradients.check_tree(leaves, 0.0, leaves)
    with pytest.raises(
        GradientError, match=r"expected a tree .*\[\*, \*\].*found .*\(\*"
    ):
        gradients.check_tree(leaves, 0.0, tuple(leaves))


def test_the_same_network_and_loss_are_the_same_function() -> None:
    """Equal networks too: what is compiled for one serves the other."""
    assert gradients.mean_loss(NET) is gradients.mean_loss(MLP((4, 3)))
    assert gradients.mean_loss(NET) is not gradients.mean_loss(NET, losses.quadratic)
    assert gradients.by_autodiff(NET) is gradients.by_autodiff(MLP((4, 3)), losses.nll)


def test_any_loss_of_any_network() -> None:
    """Of a line through one point: loss (w x - y)^2 / 2, dw = (w x - y) x."""
    line = Network(lambda: None, lambda w, x: w * x)
    x, y, w = jnp.full((1, 1), 3.0), jnp.ones((1, 1)), jnp.float32(2.0)
    loss, dw = gradients.by_autodiff(line, losses.squared_error)(w, x, y)
    assert (float(loss), float(dw)) == (12.5, 15.0)
    assert gradients.leaf_names(w) == ["the parameters"]

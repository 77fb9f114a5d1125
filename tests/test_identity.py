"""What makes a result another one is noticed; what does not, is not.

All by the text of the lowered program, with the key, the data and the surroundings.
"""

import functools
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snn_jax import activations, gradients, identity, losses
from snn_jax.datasets import Dataset, Split
from snn_jax.identity import Identity, code_digest
from snn_jax.networks import MLP, Network
from snn_jax.recipe import Recipe
from snn_jax.sweep import Sweep

X = np.random.default_rng(0).random((40, 6)).astype(np.float32)
DATA = Dataset(*[Split(X, np.arange(40) % 3)] * 3)
NET = MLP((6, 4, 3))


def known(data: Any = DATA, key: Any = None, width: int = 2, **fields: Any) -> Identity:
    """Of a small sweep; without signals, which take longest to lower."""
    defaults: dict[str, Any] = {"network": NET, "num_epochs": 1, "batch_size": 8}
    recipe = Recipe(**defaults | fields)
    axes = {"scale": [0.1, 1.0]}
    if not isinstance(recipe.optimizer, optax.GradientTransformation):
        axes["learning_rate"] = [0.1]
    sweep = Sweep(
        jax.random.key(0) if key is None else key, data, recipe, axes,
        seeds=2, width=width, signals=False,
    )  # fmt: skip
    return Identity(sweep)


@pytest.fixture(scope="module")
def plain() -> Identity:
    return known()


def expect(one: Identity, other: Identity, *, same: bool) -> None:
    """In words and in the names of chunks."""
    assert (one.differences(other.words) == []) == same
    assert (one.of_chunk(0) == other.of_chunk(0)) == same


# --- what has to be noticed -----------------------------------------------------------


def momentum(m: float) -> Callable[[Any], Any]:
    """A constant in a closure."""
    return lambda learning_rate: optax.sgd(learning_rate, momentum=m)


def power(p: float) -> Callable[[Any], Any]:
    def activation(z: Any) -> Any:
        return jnp.tanh(z) ** p

    return activation


def scaled(c: float) -> Callable[[Any, Any], Any]:
    def loss(outputs: Any, y: Any) -> Any:
        return c * losses.nll(outputs, y)

    return loss


def by_hand(c: float) -> Callable[[Any, Any, Any], Any]:
    def gradient(params: Any, x: Any, y: Any) -> Any:
        loss, grads = gradients.by_autodiff(NET)(params, x, y)
        return loss, jax.tree.map(lambda g: c * g, grads)

    return gradient


def drawn(c: float) -> Network:
    return Network(lambda key, *, scale: NET.init(key, scale=c * scale), NET.apply)


CODE: dict[str, Callable[[float], dict[str, Any]]] = {
    "constant in a closure": lambda c: {"optimizer": momentum(0.1 * c)},
    "keyword of a partial": lambda c: {
        "optimizer": functools.partial(optax.sgd, momentum=0.1 * c)
    },
    "edited lambda": lambda c: {
        "optimizer": (lambda learning_rate: optax.adam(learning_rate))
        if c == 1
        else (lambda learning_rate: optax.adam(learning_rate / 2))
    },
    "edited activation": lambda c: {"network": MLP((6, 4, 3), power(c))},
    "edited loss": lambda c: {"loss": scaled(c)},
    "edited gradient": lambda c: {"value_and_grad": by_hand(c)},
    "edited observation": lambda c: {
        "observe": {"norm": lambda params: c * jnp.abs(params["W1"]).max()}
    },
    "edited initial weights": lambda c: {"network": drawn(c)},
}


@pytest.mark.parametrize("change", CODE)
def test_edited_code_is_another_program(change: str) -> None:
    """The same names, other numbers: the program tells them apart."""
    one, again, other = (known(**CODE[change](c)) for c in (1.0, 1.0, 2.0))
    expect(one, again, same=True)
    expect(one, other, same=False)
    assert all(said.startswith("program of ") for said in one.differences(other.words))


def test_data_and_their_dtype(plain: Identity) -> None:
    y = DATA.train.y.copy()
    y[0] = 1
    expect(plain, known(DATA._replace(train=Split(X, y))), same=False)
    double = Dataset(*(Split(s.x.astype(np.float64), s.y) for s in DATA))
    expect(plain, known(double), same=False)


def test_key_and_generator(plain: Identity) -> None:
    expect(plain, known(key=jax.random.key(1)), same=False)
    expect(plain, known(key=jax.random.key(0, impl="rbg")), same=False)
    # A flag that changes what a key draws, as for one shard of several.
    with jax.threefry_partitionable(False):
        other = known()
    expect(plain, other, same=False)
    assert any("random generator" in said for said in plain.differences(other.words))


def test_precision_and_width(plain: Identity) -> None:
    with jax.default_matmul_precision("tensorfloat32"):
        expect(plain, known(), same=False)
    expect(plain, known(width=4), same=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax", "0.0.1"),
        ("device", "cuda"),
        ("instruction set", "x86_64 avx"),
        ("XLA flags", "--xla_cpu_max_isa=AVX"),
    ],
)
def test_surroundings(
    name: str, value: str, plain: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = identity.surroundings()
    monkeypatch.setattr(identity, "surroundings", lambda: there | {name: value})
    expect(plain, known(), same=False)


def test_the_surroundings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = identity.surroundings()
    assert found["jax"] == jax.__version__
    assert len(found["instruction set"].split()) >= 2
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_max_isa=AVX"
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert identity.surroundings()["XLA flags"] == "--xla_cpu_max_isa=AVX"


# --- what is the same -----------------------------------------------------------------


def test_names_and_places_play_no_part(plain: Identity) -> None:
    """A renamed local, an edited comment, a function moved to another file."""

    def optimizer(learning_rate: Any) -> Any:
        # Another comment.
        rate = learning_rate
        return optax.sgd(rate)

    source = (
        "def moved(learning_rate):\n    r = optax.sgd(learning_rate)\n    return r\n"
    )
    names: dict[str, Any] = {"optax": optax}
    exec(compile(source, "elsewhere.py", "exec"), names)
    for other in (optimizer, names["moved"], functools.partial(optax.sgd)):
        expect(plain, known(optimizer=other), same=True)

    @jax.jit
    def renamed(z: Any) -> Any:
        return activations.sigmoid(z)

    @jax.jit
    def otherwise(z: Any) -> Any:
        return activations.sigmoid(z)

    one, other = (known(network=MLP((6, 4, 3), f)) for f in (renamed, otherwise))
    expect(one, other, same=True)


def test_another_process_is_the_same(plain: Identity) -> None:
    """On one device instead of two, from another folder."""
    script = "import test_identity\nprint(test_identity.known().of_chunk(1))\n"
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, cwd="/",
        env=os.environ | {"PYTHONPATH": here, "JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == plain.of_chunk(1)


# --- gradients in NumPy ---------------------------------------------------------------


def numpy_gradient(c: float) -> Callable[[Any, Any, Any], Any]:
    factor = np.full(3, c)

    def gradient(params: Any, x: Any, y: Any) -> Any:
        # What it does, JAX cannot see.
        grads = {name: factor[0] * np.asarray(leaf) for name, leaf in params.items()}
        return np.float32(np.asarray(x).sum() + len(y)), grads

    return gradient


def test_numpy_code_is_looked_into() -> None:
    one, again, other = (
        known(value_and_grad=numpy_gradient(c)) for c in (1.0, 1.0, 2.0)
    )
    expect(one, again, same=True)
    expect(one, other, same=False)


def helper(x: Any) -> Any:
    return 2 * x


def test_code_digests() -> None:
    """Constants, closures, partials and what is called; not names and comments."""

    def f(x: Any) -> Any:
        return helper(x) + 1

    def g(y: Any) -> Any:
        # The same.
        return helper(y) + 1

    def h(x: Any) -> Any:
        return helper(x) + 2

    def other_helper(x: Any) -> Any:
        return 3 * x

    def calls(helper: Any) -> Callable[[Any], Any]:
        return lambda x: helper(x) + 1

    assert code_digest(f) == code_digest(g)
    assert code_digest(f) != code_digest(h)
    assert code_digest(calls(helper)) != code_digest(calls(other_helper))
    power_2, power_3 = (functools.partial(pow, exp=p) for p in (2, 3))
    assert code_digest(power_2) != code_digest(power_3)


def test_other_callbacks_cannot_be_known_again() -> None:
    def activation(z: Any) -> Any:
        shape = jax.eval_shape(jnp.tanh, z)
        return jax.pure_callback(np.tanh, shape, z, vmap_method="expand_dims")

    net = Network(
        lambda key: jnp.zeros((6, 3)), lambda params, x: activation(x @ params)
    )
    recipe = Recipe(
        net, optimizer=optax.sgd(0.1), num_epochs=0, batch_size=8,
        value_and_grad=lambda params, x, y: (jnp.zeros(()), params),
    )  # fmt: skip
    sweep = Sweep(jax.random.key(0), DATA, recipe, signals=False)
    with pytest.raises(identity.RunError, match="found a callback to Python"):
        Identity(sweep)


# Code with a helper that is reached in another way each; and two constants for it.
HELPERS = {
    "inside a lambda": "def f(x): return (lambda v: helper(v))(x)",
    "inside a comprehension": "def f(x): return [helper(v) for v in x]",
    "inside an inner function": "def f(x):\n def g(v): return helper(v)\n return g(x)",
    "keyword default": "def f(x, *, factor=CONSTANT): return x * factor",
    "of a module": "def f(x): return mine.helper(x)",
}


@pytest.mark.parametrize("way", HELPERS)
@pytest.mark.parametrize("module", ["__main__", "somewhere"])
def test_an_edited_helper_is_another_code(way: str, module: str) -> None:
    """Of a gradient in NumPy, however the helper is reached; notebooks have no file."""

    def made(constant: float) -> Any:
        code = f"def helper(v): return v * CONSTANT\n{HELPERS[way]}"
        names: dict[str, Any] = {"__name__": module, "mine": types.ModuleType("mine")}
        names["mine"].__file__ = "mine.py"
        exec(code.replace("CONSTANT", repr(constant)), names)
        names["mine"].helper = names["helper"]
        return names["f"]

    first, same, other = (identity.code_digest(made(c)) for c in (2.0, 2.0, 3.0))
    assert first == same
    assert first != other

"""The fast path computes what the plain code computes: same steps, other order of sums.

In float64 the two agree to 13 digits, for every batch size, with blocks of steps and
remainders of all kinds; the plain code is itself held against NumPy elsewhere.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snn_jax import fast, gradients, losses, networks, training
from snn_jax.activations import relu, tanh
from snn_jax.datasets import Dataset, Split
from snn_jax.fast import layers
from snn_jax.initializers import lecun
from snn_jax.networks import MLP, Params

NETS = {
    "deep": networks.DEEP,
    "biases": MLP((784, 7, 5, 10), tanh, biases=True),
    "one hidden layer": MLP((784, 12, 10), relu, biases=False),
}
NUM_NETWORKS = 3


def some_networks(net: MLP, scale: float = 1.0) -> Params:
    keys = jax.random.split(jax.random.key(1), NUM_NETWORKS)

    net = replace(net, initializer=lecun)

    def draw(key: jax.Array) -> Params:
        return net.init(key, scale=scale, bias_scale=0.3 * net.biases)

    return jax.vmap(draw)(keys)


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [
        *(("deep", size) for size in (1, 7, 150)),
        *(("biases", size) for size in (1, 32)),
        ("one hidden layer", 33),
    ],
)
def test_an_epoch_is_the_plain_epoch(
    name: str, batch_size: int, small: Dataset
) -> None:
    """300 images: at batch size 1 four blocks of 64 steps and one of 44."""
    net = NETS[name]
    with jax.enable_x64(True):
        train = Split(small.train.x[:300].astype(float), small.train.y[:300])
        many = jax.tree.map(lambda leaf: leaf.astype(float), some_networks(net))
        rates = jnp.array([0.01, 0.02, 0.03])  # at 0.1, chaos at batch size 1

        def alone(params: Params, rate: jax.Array) -> tuple[Params, jax.Array]:
            optimizer = optax.sgd(rate)
            state, loss = training.run_epoch(
                training.start(params, optimizer),
                training.batch_order(jax.random.key(2), 300, batch_size),
                train,
                value_and_grad=gradients.by_autodiff(net),
                optimizer=optimizer,
            )
            return state.params, loss

        reduced, pixels = fast.without_blank_pixels(train)
        assert 400 < len(pixels) < 717  # of 784, fewer than in the whole set

        @jax.jit
        def together(many: Params) -> tuple[Params, jax.Array]:
            return fast.run_epoch(
                many,
                rates,
                training.batch_order(jax.random.key(2), 300, batch_size),
                reduced,
                jnp.asarray(pixels),
                network=net,
            )

        expected, found = jax.jit(jax.vmap(alone))(many, rates), together(many)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13),
        found,
        expected,
    )


def chained(rate: jax.Array) -> optax.GradientTransformation:
    """Norms over all layers, other rules for other layers, a schedule, weight decay."""
    rules = {
        "first": optax.adamw(rate, weight_decay=0.01),
        "rest": optax.sgd(rate, 0.9),
    }
    labels = {f"W{layer}": "rest" for layer in range(2, 7)} | {"W1": "first"}
    return optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.multi_transform(rules, labels),
        optax.scale_by_schedule(optax.linear_schedule(1.0, 0.5, 20)),
    )


RULES: dict[str, tuple[str, Callable[..., optax.GradientTransformation]]] = {
    "nesterov": ("biases", partial(optax.sgd, momentum=0.9, nesterov=True)),
    "adam": ("deep", partial(optax.adam, eps=1e-5)),
    "chain": ("deep", chained),
}


@pytest.mark.parametrize("rule", RULES)
def test_an_epoch_with_any_rule_is_the_plain_epoch(rule: str, small: Dataset) -> None:
    """Two epochs, so that the state of the rule is handed on."""
    name, make = RULES[rule]
    net = NETS[name]
    assert fast.serves(make(0.01), net.init(jax.random.key(0)))
    with jax.enable_x64(True):
        train = Split(small.train.x[:100].astype(float), small.train.y[:100])
        many = jax.tree.map(lambda leaf: leaf.astype(float), some_networks(net))
        rates = jnp.array([0.001, 0.002, 0.003])
        orders = [
            training.batch_order(jax.random.key(epoch), 100, 7) for epoch in (2, 3)
        ]

        def alone(params: Params, rate: jax.Array) -> tuple[training.State, jax.Array]:
            state, losses = training.start(params, make(rate)), []
            for order in orders:
                state, loss = training.run_epoch(
                    state,
                    order,
                    train,
                    value_and_grad=gradients.by_autodiff(net),
                    optimizer=make(rate),
                )
                losses.append(loss)
            return state, jnp.stack(losses)

        @jax.jit
        def together(params: Params) -> tuple[training.State, jax.Array]:
            states, losses = jax.vmap(lambda p, r: make(r).init(p))(params, rates), []
            for order in orders:
                params, states, loss = fast.run_epoch_with(
                    make, rates, params, states, order, train, network=net
                )
                losses.append(loss)
            return training.State(params, states), jnp.stack(losses, axis=1)

        expected, found = jax.jit(jax.vmap(alone))(many, rates), together(many)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
        found,
        expected,
    )


def test_rules_that_are_not_served() -> None:
    """Those that want the loss, or that do not treat rows as they treat columns."""
    params = networks.SHALLOW.init(jax.random.key(0))

    def by_row(updates: Params, _: Params | None) -> Params:
        return jax.tree.map(lambda g: g / (1 + abs(g).max(-1, keepdims=True)), updates)

    assert not fast.serves(optax.polyak_sgd(0.1), params)
    assert not fast.serves(optax.lbfgs(0.1), params)
    assert not fast.serves(optax.stateless(by_row), params)
    for rule in (optax.adam(0.1), optax.lars(0.1), optax.rmsprop(0.1, momentum=0.5)):
        assert fast.serves(rule, params)


@pytest.mark.parametrize("name", NETS)
def test_an_evaluation_is_the_plain_evaluation(name: str, small: Dataset) -> None:
    """320 images are two slabs and a half."""
    net = NETS[name]
    many = some_networks(net)
    many["W1"] = many["W1"].at[2].set(jnp.nan)
    evaluate = jax.jit(partial(fast.evaluate, network=net))
    found = evaluate(many, small.valid)
    for i in range(NUM_NETWORKS):
        params = {leaf: values[i] for leaf, values in many.items()}
        expected = training.evaluate(params, small.valid, network=net, loss=losses.nll)
        np.testing.assert_allclose(found.loss[i], expected.loss, rtol=1e-6)
        np.testing.assert_allclose(found.accuracy[i], expected.accuracy, rtol=1e-6)
        assert np.isfinite(expected.accuracy) == (i < 2 or net.activation is relu)


def test_of_equal_logits_the_first_counts(small: Dataset) -> None:
    """A network of zeros answers 0, as argmax does, and costs ln 10."""
    many = jax.tree.map(jnp.zeros_like, some_networks(networks.DEEP))
    found = fast.evaluate(many, small.valid, network=networks.DEEP)
    np.testing.assert_allclose(found.loss, np.log(10), rtol=1e-6)
    np.testing.assert_allclose(found.accuracy, (small.valid.y == 0).mean())


def test_blank_pixels_keep_their_weights(small: Dataset) -> None:
    """Not one bit changes: they get no gradient."""
    train, pixels = fast.without_blank_pixels(small.train)
    many = some_networks(networks.DEEP)
    after, _ = fast.run_epoch(
        many,
        jnp.full(NUM_NETWORKS, 1.0),
        training.batch_order(jax.random.key(0), 320, 32),
        train,
        jnp.asarray(pixels),
        network=networks.DEEP,
    )
    blank = np.setdiff1d(np.arange(784), pixels)
    assert (small.train.x[:, blank] == 0).all()
    np.testing.assert_array_equal(after["W1"][..., blank], many["W1"][..., blank])
    assert (after["W1"][..., pixels] != many["W1"][..., pixels]).any()


def test_probabilities_at_extreme_logits() -> None:
    """Softmax and loss where exp would overflow, as ``losses.nll``."""
    logits = jnp.array([[1000.0, 0.0, -1000.0], [-90.0, 90.0, 0.0]])[..., None]
    y = jnp.array([2, 1])
    on = jax.nn.one_hot(y, 3)[..., None]
    loss, p = layers.loss_and_p(logits, on)
    np.testing.assert_allclose(loss[..., 0], losses.nll(logits[..., 0], y))
    np.testing.assert_allclose(p[..., 0], jax.nn.softmax(logits[..., 0]), atol=1e-38)


def test_what_the_gradient_by_hand_leaves_to_autodiff() -> None:
    """A straight-through step has no slope forward; a subclass may be another network.

    Labels of a byte count further than a byte does.
    """

    @jax.custom_vjp
    def step(z: jax.Array) -> jax.Array:
        return jnp.sign(z)

    step.defvjp(lambda z: (step(z), None), lambda _, g: (g,))

    class Mine(MLP):
        pass

    sizes = (20, 40, 10)
    assert fast.by_hand(MLP(sizes))
    assert not fast.by_hand(MLP(sizes, step))
    assert not fast.by_hand(Mine(sizes))
    net = MLP((20, 300))
    params, y = net.init(jax.random.key(0)), np.arange(8)
    one, other = (
        fast.value_and_grad(net)(params, jnp.ones((8, 20)), jnp.asarray(labels))[0]
        for labels in (y, y.astype(np.int8))
    )
    assert one == other


@pytest.mark.parametrize(
    ("name", "images"),
    [*((name, 9) for name in NETS), ("biases", 1), ("wide", 9), ("wide", 33)],
)
def test_a_network_alone_has_the_same_gradient(
    name: str, images: int, small: Dataset
) -> None:
    """With sums written out, and as matrix products of images in rows or columns."""
    net = (NETS | {"wide": MLP((784, 40, 33, 10), biases=True)})[name]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf[0].astype(float), some_networks(net))
        x, y = small.train.x[:images].astype(float), small.train.y[:images]
        found = jax.jit(fast.value_and_grad(net))(params, x, y)
        expected = jax.jit(gradients.by_autodiff(net))(params, x, y)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15),
        found,
        expected,
    )

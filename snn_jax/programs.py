"""The compiled functions that train and watch the networks of one program.

What is static is an argument. Each function returns one compiled function, the same one
for the same arguments, of the arrays.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from snn_jax import devices, fast, gradients, signals, training
from snn_jax.datasets import Split
from snn_jax.engines import Method, sgd_rate
from snn_jax.networks import Params
from snn_jax.recipe import Observation, Recipe, given, transformation
from snn_jax.training import Evaluation, State

# Networks that are observed at once, at most: their float64 activations fit a core's
# cache.
OBSERVED_AT_ONCE = 4
# And evaluated: 20 MB of activations a unit, for 10,000 images. A GPU trains more.
EVALUATED_AT_ONCE = 512

# Values of a point, by name, each an array over networks.
Points = dict[str, Any]
# The key of the study, an epoch, and the part of it.
When = tuple[Array, Array, Array]
Compiled = Any
Static = tuple[tuple[str, Any], ...]


class Core(NamedTuple):
    """Of a recipe, what training and evaluation depend on; hashable."""

    network: Any
    loss: Any
    optimizer: Any
    batch_size: int
    looks_per_epoch: int
    own_batches: bool


def core_of(recipe: Recipe) -> Core:
    """The core of a recipe.

    Raises:
        ValueError: it has no hash, by which compiled functions are known again.
    """
    core = Core(*(getattr(recipe, name) for name in Core._fields))
    try:
        hash((core, recipe.value_and_grad, tuple(recipe.observe.items())))
    except TypeError as error:
        raise ValueError(
            f"recipe: expected functions and other hashable things, found {error}"
        ) from None
    return core


@functools.cache
def start(mesh: Mesh, recipe: Core, static: Static) -> Compiled:
    """The states of networks, each from its seed and point."""

    def one(key: Array, seed: Array, point: Points) -> State:
        whole = dict(static) | point
        init = recipe.network.init
        params = init(training.weights_key(key, seed), **given(init, whole))
        return training.start(params, transformation(recipe.optimizer, whole))

    return devices.on_every_device(devices.in_turn(one, mesh), mesh, ".nn")


@functools.cache
def start_from(mesh: Mesh, recipe: Core, static: Static) -> Compiled:
    """The states of networks whose parameters are there already."""

    def one(params: Params, point: Points) -> State:
        optimizer = transformation(recipe.optimizer, dict(static) | point)
        return training.start(params, optimizer)

    return devices.on_every_device(jax.vmap(one), mesh, "nn")


@functools.cache
def run_epoch(mesh: Mesh, recipe: Core, method: Method, static: Static) -> Compiled:
    """An epoch, or a part of one, and what happened in it."""

    def order_of(key: Array, epoch: Array, part: Array, y: Array, seed: Any) -> Array:
        own = training.batches_key(key, epoch, seed if recipe.own_batches else None)
        order = training.batch_order(own, len(y), recipe.batch_size)
        return training.part_of_epoch(order, part, recipe.looks_per_epoch)

    def changed(loss: Array, before: Params, after: Params) -> dict[str, Array]:
        change = signals.weight_change(recipe.network, before, after)
        return {"train_loss": loss, "weight_change": change}

    def one(
        state: State,
        seed: Array,
        point: Points,
        when: When,
        train: Split,
        _: Any,
    ) -> tuple[State, dict[str, Array]]:
        after, loss = training.run_epoch(
            state,
            order_of(*when, train.y, seed),
            train,
            value_and_grad=method.value_and_grad,
            optimizer=transformation(recipe.optimizer, dict(static) | point),
            loss=gradients.mean_loss(recipe.network, recipe.loss),
        )
        return after, changed(loss, state.params, after.params)

    def rate_of(point: Points, params: Params) -> Array:
        return sgd_rate(recipe.optimizer, dict(static) | point, params)

    def rule_of(point: Points) -> Any:
        return transformation(recipe.optimizer, dict(static) | point)

    def all_fast(
        states: State, _: Array, points: Points, when: When, train: Split, left: Any
    ) -> tuple[State, dict[str, Array]]:
        order = order_of(*when, train.y, None)
        if method.sgd:
            rates = jax.vmap(rate_of)(points, states.params)
            params, loss = fast.run_epoch(
                states.params, rates, order, train, left, network=recipe.network
            )
            after = states._replace(params=params)
        else:
            params, rule_states, loss = fast.run_epoch_with(
                rule_of, points, *states, order, train, network=recipe.network
            )
            after = State(params, rule_states)
        return after, jax.vmap(changed)(loss, states.params, after.params)

    def mapped(*arguments: Any) -> tuple[State, dict[str, Array]]:
        if len(arguments[1]) > 1:
            over = jax.vmap(one, in_axes=(0, 0, 0, None, None, None))
            many: tuple[State, dict[str, Array]] = over(*arguments)
            return many
        # A vmap of one network takes a fifth longer than the network.
        alone = jax.tree.map(lambda leaf: leaf[0], arguments[:3])
        added: tuple[State, dict[str, Array]] = jax.tree.map(
            lambda leaf: jnp.expand_dims(leaf, 0), one(*alone, *arguments[3:])
        )
        return added

    function = all_fast if method.engine == "fast" else mapped
    return devices.on_every_device(function, mesh, "nnn...", donate_argnums=0)


@functools.cache
def evaluate(mesh: Mesh, recipe: Core, method: Method) -> Compiled:
    """Loss and accuracy on a split, some networks at a time."""

    def networks_of_device(many: Params, split: Split, x: Any) -> Evaluation:
        if method.engine == "fast":
            return fast.evaluate(many, split, network=recipe.network)

        def one(params: Params) -> Evaluation:
            return training.evaluate(
                params, split, network=recipe.network, loss=recipe.loss, reference=x
            )

        found: Evaluation = devices.in_groups(one, many, EVALUATED_AT_ONCE)
        return found

    return devices.on_every_device(networks_of_device, mesh, "n..")


@functools.cache
def observe(
    mesh: Mesh,
    recipe: Core,
    observations: tuple[tuple[str, Observation], ...],
    num_classes: int | None,
    with_signals: bool,
) -> Compiled:
    """Signals and observations, in float64, a few networks at a time."""

    def networks_of_device(many: Params, x: Any, y: Any) -> dict[str, Array]:
        def one(params: Params) -> dict[str, Array]:
            found: dict[str, Any] = {}
            if with_signals:
                found |= signals.measure(
                    recipe.network, params, x, y,
                    loss=recipe.loss, num_classes=num_classes,
                )  # fmt: skip
            for name, observation in observations:
                value = observation(params)
                found |= value if isinstance(value, dict) else {name: value}
            return {name: jnp.asarray(value) for name, value in found.items()}

        found: dict[str, Array] = devices.in_groups(
            one, devices.as_float64(many), OBSERVED_AT_ONCE
        )
        return found

    return devices.on_every_device(networks_of_device, mesh, "n..")

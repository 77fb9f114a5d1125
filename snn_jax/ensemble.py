"""Many networks of one program, trained at once on all devices.

An ``Ensemble`` maps the functions of ``training`` over networks: with ``jax.vmap``, the
engine "plain", or with ``fast``, which does the same faster for plain SGD and narrow
layers. Every device trains a fixed number of networks at a time: a network's result
depends neither on how many devices there are nor on its neighbours.

JAX takes the whole CPU for one device, unless ``JAX_NUM_CPU_DEVICES`` says more: as
many as there are cores are fastest.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from snn_jax import datasets, devices, fast, gradients, signals, training
from snn_jax.datasets import Dataset, Split
from snn_jax.engines import Method, choose, default_width, sgd_rate
from snn_jax.networks import Params
from snn_jax.recipe import Observation, Recipe, given, takes, transformation
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
# What is static is an argument of the following functions. Each returns one compiled
# function, the same one for the same arguments, of the arrays.
Static = tuple[tuple[str, Any], ...]


@functools.cache
def _start(mesh: Mesh, recipe: "Core", static: Static) -> Compiled:
    def one(key: Array, seed: Array, point: Points) -> State:
        whole = dict(static) | point
        init = recipe.network.init
        params = init(training.weights_key(key, seed), **given(init, whole))
        return training.start(params, transformation(recipe.optimizer, whole))

    return devices.on_every_device(jax.vmap(one, in_axes=(None, 0, 0)), mesh, ".nn")


@functools.cache
def _start_from(mesh: Mesh, recipe: "Core", static: Static) -> Compiled:
    def one(params: Params, point: Points) -> State:
        optimizer = transformation(recipe.optimizer, dict(static) | point)
        return training.start(params, optimizer)

    return devices.on_every_device(jax.vmap(one), mesh, "nn")


@functools.cache
def _run_epoch(mesh: Mesh, recipe: "Core", method: Method, static: Static) -> Compiled:
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

    mapped = jax.vmap(one, in_axes=(0, 0, 0, None, None, None))
    function = all_fast if method.engine == "fast" else mapped
    return devices.on_every_device(function, mesh, "nnn...", donate_argnums=0)


@functools.cache
def _evaluate(mesh: Mesh, recipe: "Core", method: Method) -> Compiled:
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
def _observe(
    mesh: Mesh,
    recipe: "Core",
    observations: tuple[tuple[str, Observation], ...],
    num_classes: int | None,
    with_signals: bool,
) -> Compiled:
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


class Core(NamedTuple):
    """Of a recipe, what training and evaluation depend on; hashable."""

    network: Any
    loss: Any
    optimizer: Any
    batch_size: int
    looks_per_epoch: int
    own_batches: bool


def _core(recipe: Recipe) -> Core:
    core = Core(*(getattr(recipe, name) for name in Core._fields))
    try:
        hash((core, recipe.value_and_grad, tuple(recipe.observe.items())))
    except TypeError as error:
        raise ValueError(
            f"recipe: expected functions and other hashable things, found {error}"
        ) from None
    return core


class Ensemble:
    """What it takes to train N networks at a time: data on the devices, compiled code.

    It holds nothing that changes: states go in and come out. Two ensembles with the
    same settings share their compiled code.

    Args:
        recipe: what is trained; its network is one network.
        data: what is learned (train), watched (valid) and reported (test).
        count: networks to be trained; no more devices are used than needed.
        traced: one of the values that differ between networks, by name.
        static: the other values of their point.
        engine: "auto", "fast" or "plain", see ``engines``.
        width: networks that a device trains side by side; the last bits of a result
            depend on it. By default as many as suit the device.
        with_signals: whether ``signals`` are observed too.

    Attributes:
        method: engine and gradient, chosen.
        width: as above, chosen.
        size: N, networks trained at a time: width times the number of devices.

    Raises:
        ValueError: of the recipe, what cannot be.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        *,
        count: int,
        traced: Mapping[str, Any] | None = None,
        static: Mapping[str, Any] | None = None,
        engine: str = "auto",
        width: int | None = None,
        with_signals: bool = True,
    ) -> None:
        static = dict(static or {})
        self.recipe, self.data = recipe, data
        self.traced = dict(traced or {})
        self._core = _core(recipe)
        # What nobody here takes, such as an axis of the data, makes no other program.
        by_init, any_init = takes(recipe.network.init)
        by_optimizer, any_optimizer = takes(recipe.optimizer)
        taken = by_init | by_optimizer
        self._static = tuple(
            (name, value)
            for name, value in static.items()
            if any_init or any_optimizer or name in taken
        )
        point = static | self.traced
        self.params = jax.eval_shape(
            lambda key: recipe.network.init(key, **given(recipe.network.init, point)),
            jax.random.key(0),
        )
        self.method = choose(
            recipe,
            data,
            self.params,
            traced=self.traced,
            static=static,
            engine=engine,
            count=count,
        )
        self.width = width or default_width(recipe, self.method, self.params, count)
        self.mesh = devices.mesh_for(count, self.width, one_device=self.method.in_numpy)
        self.size = self.width * self.mesh.size
        self.output_shape = self._checked()
        self._observed = (
            tuple(recipe.observe.items()),
            self.output_shape[-1] if datasets.are_labels(data.train.y) else None,
            with_signals,
        )

    def _checked(self) -> tuple[int, ...]:
        """The shape of one output, once network, loss and data go together."""
        x, y = (values[:2] for values in self.data.train)
        network, loss = self.recipe.network, self.recipe.loss
        outputs = jax.eval_shape(network.apply, self.params, x)
        datasets.checked(self.data, outputs.shape[1:])
        training.check_batch_size(self.recipe.batch_size, len(self.data.train.y))
        if y.dtype.kind not in "uifb":
            raise ValueError(f"targets: expected numbers, found {y.dtype}")
        try:
            found = jax.eval_shape(loss, outputs, jnp.asarray(y))
        except TypeError as error:
            said = str(error).split("\n")[0]
            raise ValueError(
                f"loss: expected one that takes targets of {y.dtype} {y.shape}: {said}"
            ) from None
        if found.shape != (len(y),):
            raise ValueError(
                f"loss: expected a number for each of {len(y)} examples, found shape "
                f"{found.shape}"
            )
        return tuple(outputs.shape[1:])

    @functools.cached_property
    def _placed(self) -> dict[str, Any]:
        """The data on the devices."""
        together = {
            "learned from": self._learned_from(),
            "reference": self.data.train.x[: training.NUM_REFERENCE],
            "valid": self.data.valid,
            "test": self.data.test,
        }
        placed = devices.whole(together, self.mesh)
        with jax.enable_x64(True):
            placed["observed"] = devices.whole(self._observed_examples(), self.mesh)
        return dict(placed)

    def _learned_from(self) -> tuple[Split, Any]:
        """The training set, and the pixels that are left of it, if not all."""
        if self.method.sgd:  # other rules may move weights that have no gradient
            return fast.without_blank_pixels(self.data.train)
        return self.data.train, None

    def _observed_examples(self) -> Split:
        x, y = (values[: signals.NUM_EXAMPLES] for values in self.data.train)
        return Split(*devices.as_float64((x, y)))

    def split(self, values: Any) -> Any:
        """Puts arrays with a leading axis of N networks on the devices."""
        return devices.split(values, self.mesh)

    def start(self, key: Key[Array, ""], seeds: Any, points: Points) -> State:
        """The states of N networks, each from its seed and point."""
        states: State = _start(self.mesh, self._core, self._static)(key, seeds, points)
        return states

    def start_from(self, many: Params, points: Points) -> State:
        """The states of N networks whose parameters are there already."""
        start = _start_from(self.mesh, self._core, self._static)
        states: State = start(self.split(many), points)
        return states

    def run_epoch(
        self,
        states: State,
        seeds: Any,
        points: Points,
        key: Key[Array, ""],
        epoch: int,
        part: int = 0,
    ) -> tuple[State, dict[str, Array]]:
        """An epoch of all networks, or a part; the states given are used up.

        Args:
            states: as from ``start`` or the epoch before.
            seeds: of the networks, like what follows with an axis of N.
            points: their values.
            key: of the study.
            epoch: from 1.
            part: from 0, of ``looks_per_epoch``.

        Returns:
            The new states; and ``train_loss`` (N,) and ``weight_change`` (N, L).
        """
        run = _run_epoch(self.mesh, self._core, self.method, self._static)
        when = (key, jnp.int32(epoch), jnp.int32(part))
        after: tuple[State, dict[str, Array]] = run(
            states, seeds, points, when, *self._placed["learned from"]
        )
        return after

    def evaluate(self, many: Params, split: str) -> Evaluation:
        """Loss and accuracy of all networks on "valid" or "test"."""
        run = _evaluate(self.mesh, self._core, self.method)
        placed = self._placed
        found: Evaluation = run(many, placed[split], placed["reference"])
        return found

    def observe(self, many: Params) -> dict[str, Any]:
        """Signals and observations of all networks, in float64, as NumPy arrays."""
        with jax.enable_x64(True):
            run = _observe(self.mesh, self._core, *self._observed)
            found = run(many, *self._placed["observed"])
            return {name: np.asarray(value) for name, value in found.items()}

    def lowered(self, platform: str | None = None) -> dict[str, Any]:
        """The programs of one device, by what they do, lowered and not compiled.

        The platform need not be here: what "cuda" lacks is a NotImplementedError.
        """

        def lower(program: Compiled, *arguments: Any) -> Any:
            platforms = platform and (platform,)
            return program.trace(*arguments).lower(lowering_platforms=platforms)

        key, seeds = jax.random.key(0), np.zeros(self.width, np.int32)
        points = {n: np.full(self.width, value) for n, value in self.traced.items()}
        here = devices.mesh_for(1, 1), self._core
        start = _start(*here, self._static)
        states = jax.eval_shape(start, key, seeds, points)
        run = _run_epoch(*here, self.method, self._static)
        when = (key, jnp.int32(1), jnp.int32(0))
        x = self.data.train.x[: training.NUM_REFERENCE]
        learned, split = devices.shapes((self._learned_from(), (self.data.test, x)))
        found = {
            "initial weights": lower(start, key, seeds, points),
            "training": lower(run, states, seeds, points, when, *learned),
            "evaluation": lower(_evaluate(*here, self.method), states.params, *split),
        }
        with jax.enable_x64(True):
            observe = _observe(*here, *self._observed)
            examples = devices.shapes(self._observed_examples())
            found["observations"] = lower(observe, states.params, *examples)
        return found

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
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from snn_jax import datasets, devices, fast, programs, signals, training
from snn_jax.datasets import Dataset, Split
from snn_jax.engines import choose, default_width
from snn_jax.networks import Params
from snn_jax.programs import Points
from snn_jax.recipe import Recipe, given, takes
from snn_jax.training import Evaluation, State


class Ensemble:
    """What it takes to train N networks at a time: data on the devices, compiled code.

    It holds no state of training: states go in and come out. Two ensembles with the
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
        self._core = programs.core_of(recipe)
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
        self._compiled = False
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
        start = programs.start(self.mesh, self._core, self._static)
        states: State = start(key, seeds, points)
        return states

    def start_from(self, many: Params, points: Points) -> State:
        """The states of N networks whose parameters are there already."""
        start = programs.start_from(self.mesh, self._core, self._static)
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
        run = programs.run_epoch(self.mesh, self._core, self.method, self._static)
        when = (key, jnp.int32(epoch), jnp.int32(part))
        after: State
        after, happened = run(
            states, seeds, points, when, *self._placed["learned from"]
        )
        return after, happened

    def evaluate(self, many: Params, split: str) -> Evaluation:
        """Loss and accuracy of all networks on "valid" or "test"."""
        run = programs.evaluate(self.mesh, self._core, self.method)
        placed = self._placed
        found: Evaluation = run(many, placed[split], placed["reference"])
        return found

    def observe(self, many: Params) -> dict[str, Any]:
        """Signals and observations of all networks, in float64, as NumPy arrays."""
        if not self._observes:
            return {}
        with jax.enable_x64(True):
            run = programs.observe(self.mesh, self._core, *self._observed)
            found = run(many, *self._placed["observed"])
            return {name: np.asarray(value) for name, value in found.items()}

    def look(self, many: Params) -> dict[str, Any]:
        """What is known of all networks between epochs, by name."""
        valid = self.evaluate(many, "valid")
        seen = {"valid_loss": valid.loss, "valid_accuracy": valid.accuracy}
        return seen | self.observe(many)

    @property
    def _observes(self) -> bool:
        observations, _, with_signals = self._observed
        return bool(observations) or with_signals

    def compile(self) -> None:
        """Compiles all that training and watching take, side by side on the cores.

        Without it, each program is compiled when it is first used.
        """
        if not self._compiled:
            with ThreadPoolExecutor() as pool:
                found = self.lowered(here=True).values()
                list(pool.map(lambda lowered: lowered.compile(), found))
            self._compiled = True

    def lowered(
        self, platform: str | None = None, *, here: bool = False
    ) -> dict[str, Any]:
        """The programs by what they do, lowered and not compiled.

        Args:
            platform: need not be here, such as "cuda".
            here: for the devices of this ensemble; by default for one.

        Raises:
            NotImplementedError: of what a platform lacks.
        """

        def lower(program: Any, *arguments: Any) -> Any:
            platforms = platform and (platform,)
            return program.trace(*arguments).lower(lowering_platforms=platforms)

        mesh = self.mesh if here else devices.mesh_for(1, 1)
        split = functools.partial(devices.shapes, mesh=mesh if here else None)
        whole = functools.partial(split, place=devices.WHOLE)
        count, key, placed = self.width * mesh.size, jax.random.key(0), self._placed
        seeds = split(np.zeros(count, np.int32))
        points = split({name: np.full(count, v) for name, v in self.traced.items()})
        start = programs.start(mesh, self._core, self._static)
        states = split(jax.eval_shape(start, key, seeds, points))
        run = programs.run_epoch(mesh, self._core, self.method, self._static)
        when = (key, jnp.int32(1), jnp.int32(0))
        evaluate = programs.evaluate(mesh, self._core, self.method)
        found = {
            "initial weights": lower(start, key, seeds, points),
            "training": lower(
                run, states, seeds, points, when, *whole(placed["learned from"])
            ),
            "evaluation": lower(
                evaluate, states.params, *whole((placed["test"], placed["reference"]))
            ),
        }
        if self._observes:
            with jax.enable_x64(True):
                observe = programs.observe(mesh, self._core, *self._observed)
                examples = whole(placed["observed"])
                found["observations"] = lower(observe, states.params, *examples)
        return found

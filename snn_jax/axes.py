"""What a sweep varies: named axes, and who takes their values.

An axis is a name and values. It may be

*   a value that ``network.init`` or the optimizer takes, ``scale`` or ``learning_rate``
    or ``momentum``: numbers are traced, so that one program serves all of them;
*   a field of the recipe, ``optimizer`` or ``loss`` or ``batch_size``;
*   an argument of a function of axes that stands in the place of the network or of the
    data: ``lambda depth, activation: MLP(...)``.

The last two, and values that are no numbers, fix a program: they are static, and every
combination of them is a program of its own.
"""

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from snn_jax.datasets import Dataset
from snn_jax.recipe import Recipe, takes

# Fields of a recipe that change what a result looks like: they cannot be axes.
SHAPES = ("num_epochs", "looks_per_epoch", "observe")
# The axis that every sweep has, and the last.
SEED = "seed"


class Axes(NamedTuple):
    """Names and values, in order; ``static`` are the names that fix a program."""

    values: dict[str, tuple[Any, ...]]
    static: tuple[str, ...]
    seeds: int

    @property
    def traced(self) -> tuple[str, ...]:
        """The other names."""
        return tuple(name for name in self.values if name not in self.static)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the networks of one program: traced axes, then seeds."""
        return (*(len(self.values[name]) for name in self.traced), self.seeds)

    @property
    def per_program(self) -> int:
        """How many networks one program trains."""
        return math.prod(self.shape)

    def combinations(self) -> Iterator[dict[str, Any]]:
        """All static points."""
        for found in product(*(self.values[name] for name in self.static)):
            yield dict(zip(self.static, found, strict=True))

    def points(self, places: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Seeds and traced values of networks, given by their places in a program."""
        *found, seeds = np.unravel_index(places, self.shape)
        return seeds.astype(np.int32), {
            name: as_numbers(self.values[name])[place]
            for name, place in zip(self.traced, found, strict=True)
        }

    def examples(self) -> dict[str, np.generic]:
        """One value of each traced axis, by name."""
        return {name: as_numbers(self.values[name])[0] for name in self.traced}

    def labels(self) -> dict[str, np.ndarray]:
        """What stands at the axes of a result."""
        found = {name: labelled(values) for name, values in self.values.items()}
        return found | {SEED: np.arange(self.seeds)}


def as_numbers(values: Sequence[Any]) -> np.ndarray:
    """The values of a traced axis: int32 if all are whole and fit, else float32."""
    whole = all(
        isinstance(value, numbers.Integral) and abs(int(value)) < 2**31
        for value in values
    )
    return np.asarray(values, np.int32 if whole else np.float32)


def is_number(value: Any) -> bool:
    """Whether a value can be traced.

    >>> is_number(0.1), is_number(True), is_number("relu")
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)


def labelled(values: Sequence[Any]) -> np.ndarray:
    """Numbers as they are, functions by their names, all else as text; all different.

    >>> labelled([0.1, 1]), labelled([np.tanh, lambda z: z])
    (array([0.1, 1. ]), array(['tanh', '<lambda>'], dtype='<U8'))
    """
    if all(is_number(value) for value in values):
        return np.asarray(values)
    names: list[str] = []
    for value in values:
        name = getattr(value, "__name__", None) or str(value)
        while name in names:  # two lambdas
            name += "'"
        names.append(name)
    return np.asarray(names)


def resolve(
    recipe: Recipe, data: Any, axes: Mapping[str, Iterable[Any]], seeds: int
) -> Axes:
    """Finds out which axes are static, and that every one is taken by somebody.

    Args:
        recipe: whose functions may take values.
        data: a ``Dataset``, or a function of axes.
        axes: names and values.
        seeds: networks for each point.

    Raises:
        ValueError: an axis without values, with equal ones, or that nobody takes.

    >>> from snn_jax.networks import DEEP
    >>> resolve(Recipe(DEEP), None, {"scale": [1.0], "batch_size": [8, 32]}, 2).static
    ('batch_size',)
    >>> resolve(Recipe(DEEP), None, {"momentun": [0.9]}, 1)
    Traceback (most recent call last):
    ValueError: axis momentun: expected something that takes it, found only the \
optimizer with accumulator_dtype, learning_rate, momentum, nesterov, the network's \
init with bias_scale, scale and the recipe with network, loss, optimizer, \
value_and_grad, batch_size, own_batches
    """
    settable = [f.name for f in fields(Recipe) if f.name not in SHAPES]
    fixing = set(settable)
    for factory in (recipe.network, data):
        if is_factory(factory):
            fixing |= takes(factory)[0]
    values: dict[str, tuple[Any, ...]] = {}
    static = []
    for name, given in axes.items():
        values[name] = (
            tuple(np.asarray(given).tolist()) if _array(given) else tuple(given)
        )
        _check_values(name, values[name])
        if name in fixing or not all(map(is_number, values[name])):
            static.append(name)
    found = Axes(values, tuple(static), seeds)
    if SEED in values or not (is_number(seeds) and seeds >= 1):
        raise ValueError(
            f"seeds: expected a number of at least 1 and no axis {SEED}, found {seeds}"
        )
    for point in found.combinations():
        _check_taken(at(recipe, point), set(values) - fixing, settable)
    return found


def _array(values: Any) -> bool:
    return hasattr(values, "dtype")


def _check_values(name: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise ValueError(f"axis {name}: expected at least one value, found none")
    if all(map(is_number, values)):
        single = as_numbers(values)
        if not np.isfinite(single).all():
            raise ValueError(f"axis {name}: expected finite numbers, found {values}")
        if len(np.unique(single)) < len(values):
            raise ValueError(
                f"axis {name}: expected numbers that float32 tells apart, found "
                f"{values}"
            )


def _check_taken(recipe: Recipe, names: set[str], settable: list[str]) -> None:
    by_optimizer, any_of_optimizer = takes(recipe.optimizer)
    by_init, any_of_init = takes(recipe.network.init)
    by_init -= {"key"}
    if any_of_optimizer or any_of_init:
        return
    for name in sorted(names - by_optimizer - by_init):
        raise ValueError(
            f"axis {name}: expected something that takes it, found only the optimizer "
            f"with {', '.join(sorted(by_optimizer)) or 'nothing'}, the network's init "
            f"with {', '.join(sorted(by_init)) or 'nothing'} and the recipe with "
            f"{', '.join(settable)}"
        )


def is_factory(thing: Any) -> bool:
    """Whether it is a function of axes that gives a network or data, not one itself."""
    return callable(thing) and not (hasattr(thing, "init") or hasattr(thing, "train"))


def at(recipe: Recipe, point: Mapping[str, Any]) -> Recipe:
    """The recipe at a static point: fields set, the network made."""
    settable = {f.name for f in fields(Recipe)}
    found = replace(
        recipe, **{name: value for name, value in point.items() if name in settable}
    )
    if is_factory(found.network):
        found = replace(found, network=_made(found.network, point, "network"))
    if not (hasattr(found.network, "init") and hasattr(found.network, "apply")):
        raise ValueError(
            "network: expected init(key, ..) and apply(params, x), found "
            f"{type(found.network).__name__}"
        )
    return found


def data_at(data: Any, point: Mapping[str, Any]) -> Dataset:
    """The data at a static point."""
    found: Dataset = _made(data, point, "data") if is_factory(data) else data
    return found


def _made(factory: Any, point: Mapping[str, Any], what: str) -> Any:
    names, _ = takes(factory)
    try:
        return factory(**{name: point[name] for name in point if name in names})
    except TypeError as error:
        raise ValueError(
            f"{what}: expected a function of axes {', '.join(point) or 'none'}: {error}"
        ) from None

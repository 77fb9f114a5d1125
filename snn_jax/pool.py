"""A pool of networks, trained until a rule ends them, the others closing the ranks.

The states of all networks of a pool wait on the host. Every round the living ones are
packed into groups of as many as the devices train at a time, each group is trained for
an epoch, or a part of one, and looked at; then the rule is asked. So the devices train
living networks alone, but for what fills up the last group of a round. A network's
numbers depend neither on its group nor on its place there.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from snn_jax import results, signals
from snn_jax.datasets import Dataset
from snn_jax.ensemble import Ensemble
from snn_jax.networks import Params
from snn_jax.recipe import Recipe
from snn_jax.training import State

# A pool is so many times the networks of a device: on two devices one place in 16 is
# empty on average, and a pool of the assignment's networks takes 34 MB.
DEVICES_FULL = 16
# What a rule says of a network that goes on.
GOES_ON = -1

# Arrays by name, with a leading axis of networks.
Arrays = dict[str, np.ndarray]


class Networks(NamedTuple):
    """What a rule is told of n networks in training, all of one program.

    Attributes:
        recipe: that trains them; its network is one network.
        data: what is learned (train), watched (valid) and reported (test).
        point: their values by name: (n,) if traced, else one for all.
        seeds: (n,).
        look: how often they were looked at since the first step; 0 before it.
        rows: what was seen, by name, (n, look + 1, ...): ``valid_loss``,
            ``valid_accuracy``, ``train_loss`` and ``weight_change`` (NaN before the
            first step), signals and observations.
        params: their parameters now, each leaf with a leading axis of n.
        plateau_loss: validation loss of the best constant output.
        label_entropy: training loss of it, all that there is to know.
    """

    recipe: Recipe
    data: Dataset
    point: dict[str, Any]
    seeds: np.ndarray
    look: int
    rows: Arrays
    params: Params
    plateau_loss: float
    label_entropy: float


class Members(NamedTuple):
    """Of a pool: seeds, traced values, static values, parameters to start from."""

    seeds: np.ndarray
    points: Arrays
    static: dict[str, Any]
    initial: Params | None


class _Pool(NamedTuple):
    """What changes in training, all on the host.

    ``leaves`` are those of the states, ``rows`` have room for all looks, ``stopped`` is
    the reason why each network was stopped, at ``stopped_at``.
    """

    leaves: list[np.ndarray]
    rows: Arrays
    stopped: np.ndarray
    stopped_at: np.ndarray

    def living(self) -> np.ndarray:
        return np.flatnonzero(self.stopped == GOES_ON)


def checked(rule: Any) -> Any:
    """The rule as it is.

    Raises:
        ValueError: it is no function of networks with reasons.

    >>> checked(lambda networks: None)
    Traceback (most recent call last):
    ValueError: stop: expected a function of networks with reasons, a tuple of \
different names, found None
    """
    reasons: Any = getattr(rule, "reasons", None)
    named = isinstance(reasons, tuple) and all(isinstance(r, str) for r in reasons)
    if not callable(rule) or not named or not 0 < len(set(reasons)) == len(reasons):
        raise ValueError(
            "stop: expected a function of networks with reasons, a tuple of different "
            f"names, found {reasons}"
        )
    return rule


def labelled(result: xr.Dataset, rule: Any) -> xr.Dataset:
    """A result with what its numbers of stopped networks mean, as CF flags.

    Args:
        result: of networks that were trained with a rule.
        rule: the same.
    """
    meanings = ["not stopped", *rule.reasons]
    stopped = result.stopped.astype(np.int32).assign_attrs(
        flag_values=np.arange(GOES_ON, len(rule.reasons), dtype=np.int32),
        flag_meanings=" ".join(name.replace(" ", "_") for name in meanings),
    )
    found = result.assign(stopped=stopped)
    for name in {"test_loss", "test_accuracy"} & set(found):
        what = name.replace("_", " ")
        found[name].attrs["long_name"] = f"{what} after the last epoch, or at the stop"
    return found


def run(
    ensemble: Ensemble,
    rule: Any,
    key: Key[Array, ""],
    members: Members,
    *,
    report: Callable[[int], Any],
    saved: Arrays | None,
    save: Callable[[Callable[[], Arrays]], Any],
) -> Arrays:
    """Trains and watches networks until a rule stops them, or to the end.

    Args:
        ensemble: that trains them.
        rule: as ``stopping`` says.
        key: of the study.
        members: the networks.
        report: called with the number of (network, look) pairs just finished; the looks
            that a stopped network spares are finished with it.
        saved: what ``save`` was given earlier for the same networks, to go on from.
        save: called after every round with a function that gives all there is to know.

    Returns:
        What was seen of every network, NaN after its stop; ``test_loss`` and
        ``test_accuracy`` then; ``stopped``, the place of the reason, -1 if there is
        none; and ``stopped_epoch``, NaN if there is none.
    """
    recipe, count = ensemble.recipe, len(members.seeds)
    constant = results.best_constant(ensemble)
    losses = [float(constant[n]) for n in ("plateau_loss", "label_entropy")]

    def ask(now: int) -> None:
        living = pool.living()
        if now == recipe.num_looks or not len(living):
            return
        networks = Networks(
            recipe,
            ensemble.data,
            members.static | {n: v[living] for n, v in members.points.items()},
            members.seeds[living],
            now,
            {name: values[living, : now + 1] for name, values in pool.rows.items()},
            _params(structure, pool, living),
            *losses,
        )
        answer = _answer(rule, networks)
        ended = living[answer != GOES_ON]
        pool.stopped[living], pool.stopped_at[ended] = answer, now
        if len(ended):
            report(len(ended) * (recipe.num_looks - now))

    structure, pool = _started(ensemble, key, members, only_first=saved is not None)
    first = 0
    if saved is None:
        ask(0)
    else:
        first, pool = int(saved["look"]), _restored(saved)
        living = len(pool.living())
        report(living * first + (count - living) * recipe.num_looks)
    for now in range(first, recipe.num_looks):
        epoch, part = divmod(now, recipe.looks_per_epoch)
        for places, real in _groups(pool.living(), ensemble.size):
            seeds, points = ensemble.split(_of(members, places))
            states, happened = ensemble.run_epoch(
                _states(ensemble, structure, pool, places),
                seeds, points, key, epoch + 1, part,
            )  # fmt: skip
            _put(pool, places[:real], now + 1, happened | ensemble.look(states.params))
            for kept, leaf in zip(pool.leaves, jax.tree.leaves(states), strict=True):
                kept[places[:real]] = np.asarray(leaf)[:real]
            report(real)
        ask(now + 1)
        save(functools.partial(_saved, pool, now + 1))
    tested = np.empty((2, count), np.float32)
    for places, real in _groups(np.arange(count), ensemble.size):
        states = _states(ensemble, structure, pool, places)
        found = ensemble.evaluate(states.params, "test")
        tested[:, places[:real]] = np.stack(found)[:, :real]
    return pool.rows | {
        "test_loss": tested[0],
        "test_accuracy": tested[1],
        "stopped": pool.stopped,
        "stopped_epoch": pool.stopped_at / recipe.looks_per_epoch,
    }


def _groups(places: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Networks in groups, the last one filled up with copies; and how many are real."""
    for first in range(0, len(places), size):
        group = places[first : first + size]
        yield np.pad(group, (0, size - len(group)), mode="edge"), len(group)


def _of(members: Members, places: np.ndarray) -> tuple[np.ndarray, Arrays]:
    points = {name: values[places] for name, values in members.points.items()}
    return members.seeds[places], points


def _started(
    ensemble: Ensemble, key: Key[Array, ""], members: Members, only_first: bool
) -> tuple[Any, _Pool]:
    """All networks before their first step, or one group; and what a state is."""
    count, recipe = len(members.seeds), ensemble.recipe
    pool = _Pool(
        [], {}, np.full(count, GOES_ON, np.int32), np.full(count, np.nan, np.float64)
    )
    structure = None
    for places, real in _groups(np.arange(count), ensemble.size):
        seeds, points = ensemble.split(_of(members, places))
        if members.initial is None:
            states = ensemble.start(key, seeds, points)
        else:
            chosen = jax.tree.map(lambda leaf, p=places: leaf[p], members.initial)
            states = ensemble.start_from(chosen, points)
        leaves, structure = jax.tree.flatten(states)
        if only_first:
            break
        for i, leaf in enumerate(map(np.asarray, leaves)):
            if len(pool.leaves) == i:
                pool.leaves.append(np.empty((count, *leaf.shape[1:]), leaf.dtype))
            pool.leaves[i][places[:real]] = leaf[:real]
        _put(pool, places[:real], 0, _nothing_yet(ensemble, len(places)), recipe)
        _put(pool, places[:real], 0, ensemble.look(states.params), recipe)
    return structure, pool


def _nothing_yet(ensemble: Ensemble, count: int) -> Arrays:
    """What happened before the first step, in the shapes of what will happen."""
    change = functools.partial(signals.weight_change, ensemble.recipe.network)
    shape = jax.eval_shape(change, ensemble.params, ensemble.params).shape
    return {
        "train_loss": np.full(count, np.nan, np.float32),
        "weight_change": np.full((count, *shape), np.nan, np.float32),
    }


def _put(
    pool: _Pool,
    places: np.ndarray,
    now: int,
    seen: dict[str, Any],
    recipe: Recipe | None = None,
) -> None:
    """Writes what was seen at a look into the rows; the first makes room for all."""
    for name, values in seen.items():
        values = np.asarray(values)[: len(places)]
        if name not in pool.rows and recipe is not None:
            shape = len(pool.stopped), recipe.num_looks + 1, *values.shape[1:]
            # What has no NaN becomes a float, for what is not known after a stop.
            inexact = np.issubdtype(values.dtype, np.inexact)
            pool.rows[name] = np.full(shape, np.nan, values.dtype if inexact else float)
        pool.rows[name][places, now] = values


def _states(
    ensemble: Ensemble, structure: Any, pool: _Pool, places: np.ndarray
) -> State:
    leaves = [ensemble.split(leaf[places]) for leaf in pool.leaves]
    states: State = jax.tree.unflatten(structure, leaves)
    return states


def _params(structure: Any, pool: _Pool, places: np.ndarray) -> Params:
    """On the host."""
    states: State = jax.tree.unflatten(
        structure, [leaf[places] for leaf in pool.leaves]
    )
    return states.params


def _answer(rule: Any, networks: Networks) -> np.ndarray:
    """What the rule says, if it can be."""
    answer, count = np.asarray(rule(networks)), len(networks.seeds)
    whole = answer.shape == (count,) and np.issubdtype(answer.dtype, np.integer)
    if not whole or not ((answer >= GOES_ON) & (answer < len(rule.reasons))).all():
        raise ValueError(
            f"stop: expected {count} whole numbers from -1 to {len(rule.reasons) - 1}, "
            f"the place of the reason, found {answer.dtype} {answer.shape}: "
            f"{np.unique(answer)[:8]}"
        )
    return answer


def _saved(pool: _Pool, now: int) -> Arrays:
    """A half-trained pool as arrays; the inverse of ``_restored``."""
    leaves = {f"leaf {i}": leaf for i, leaf in enumerate(pool.leaves)}
    rows = {f"row {name}": values for name, values in pool.rows.items()}
    ends = {"stopped": pool.stopped, "stopped_at": pool.stopped_at}
    return leaves | rows | ends | {"look": np.array(now)}


def _restored(saved: Arrays) -> _Pool:
    count = sum(name.startswith("leaf ") for name in saved)
    return _Pool(
        [saved[f"leaf {i}"].copy() for i in range(count)],
        {n[4:]: v.copy() for n, v in saved.items() if n.startswith("row ")},
        saved["stopped"].copy(),
        saved["stopped_at"].copy(),
    )

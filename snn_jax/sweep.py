"""A network for every point of named axes and every seed, and a labelled result.

The networks are trained in chunks, each a device's worth of networks of one program. A
chunk depends on the settings and its number alone, not on the machine's number of
devices or on what was computed before: chunks can be computed anywhere, in any order,
again.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from snn_jax import axes as named
from snn_jax import datasets, pool, results
from snn_jax.ensemble import Ensemble
from snn_jax.networks import Params
from snn_jax.recipe import Recipe
from snn_jax.training import State

# A chunk of results: arrays by name, with a leading axis of networks.
Chunk = dict[str, np.ndarray]


class Sweep:
    """A network for every point and seed, trained chunk by chunk.

    The initial weights depend on the key, the seed and what ``network.init`` takes of
    the point: two scales of a seed differ by a factor, two learning rates start alike,
    and a larger grid contains the smaller one. The batches come from the same key.

    Args:
        key: typed key of the whole sweep.
        data: three pairs (x, y): what is learned (train), watched (valid) and reported
            (test); or a function of axes that gives them.
        recipe: what a training run is.
        axes: names and values, see ``axes``.
        seeds: R networks for each point.
        engine: "auto" for the faster one, "plain" or "fast", see ``engines``.
        width: networks that a device trains side by side, a chunk; the last bits of a
            result depend on it. By default as many as suit the device.
        initial: parameters to start from, instead of ``network.init``: leaves with a
            leading axis of all networks, in the order of the grid.
        signals: whether to measure what ``signals`` can, at every look.
        stop: a rule that ends networks before the end, as ``stopping.decided``; a chunk
            is then a ``pool`` of many widths. By default all are trained to the end.

    Attributes:
        num_networks: in the whole grid.
        num_chunks: how many there are, numbered from 0.
        settings: what was asked for, in words, by name.

    Raises:
        ValueError: an axis that nobody takes, labels that are no class, a batch size
            out of range, a gradient of another shape, a rule without reasons, all
            before anything is trained.
    """

    def __init__(
        self,
        key: Key[Array, ""],
        data: Any,
        recipe: Recipe,
        axes: Mapping[str, Iterable[Any]] | None = None,
        *,
        seeds: int = 1,
        engine: str = "auto",
        width: int | None = None,
        initial: Params | None = None,
        signals: bool = True,
        stop: Any = None,
    ) -> None:
        self.stop = None if stop is None else pool.checked(stop)
        self.key, self.recipe, self.initial = key, recipe, initial
        self.axes = named.resolve(recipe, data, axes or {}, seeds)
        self.data = data if named.is_factory(data) else datasets.checked(data)
        self._options: dict[str, Any] = {
            "engine": engine,
            "width": width,
            "with_signals": signals,
        }
        self.points = list(self.axes.combinations())
        self.num_networks = len(self.points) * self.axes.per_program
        self._current: tuple[int, Ensemble] | None = None
        # All programs are looked at before anything is trained.
        self.widths = [self.ensemble(i).width for i in range(len(self.points))]
        # Networks of a chunk, by program.
        times = 1 if stop is None else pool.DEVICES_FULL
        self.sizes = [times * width for width in self.widths]
        counts = [math.ceil(self.axes.per_program / size) for size in self.sizes]
        # Chunks of program i have the numbers _first[i] to _first[i + 1] - 1.
        self._first = np.cumsum([0, *counts])
        self.num_chunks = int(self._first[-1])
        for leaf in jax.tree.leaves(initial):
            if len(self.points) > 1 or len(leaf) != self.num_networks:
                raise ValueError(
                    f"initial: expected {self.num_networks} networks of one program, "
                    f"found {len(leaf)} and {len(self.points)} programs"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to another process as what it was made from."""
        options = {
            "engine": self._options["engine"],
            # The machine there may have another width of its own.
            "width": self.widths[0] if len(set(self.widths)) == 1 else None,
            "signals": self._options["with_signals"],
            "seeds": self.axes.seeds,
            "stop": self.stop,
            "initial": jax.tree.map(np.asarray, self.initial),
        }
        key = (
            np.asarray(jax.random.key_data(self.key)),
            str(jax.random.key_impl(self.key)),
        )
        return _rebuilt, (key, self.data, self.recipe, self.axes.values, options)

    def ensemble(self, program: int) -> Ensemble:
        """What trains the networks of a program; one at a time holds its data."""
        if self._current is None or self._current[0] != program:
            point = self.points[program]
            made = Ensemble(
                named.at(self.recipe, point),
                datasets.checked(named.data_at(self.data, point)),
                count=self.axes.per_program,
                traced=self.axes.examples(),
                static=point,
                **self._options,
            )
            self._current = (program, made)
        return self._current[1]

    def program_of(self, chunk: int) -> int:
        """Which program trains a chunk.

        Raises:
            ValueError: there is no such chunk.
        """
        if not 0 <= chunk < self.num_chunks:
            raise ValueError(f"chunk: expected 0 to {self.num_chunks - 1}, got {chunk}")
        return int(np.searchsorted(self._first, chunk, side="right")) - 1

    def members(self, chunk: int) -> np.ndarray:
        """The places of a chunk's networks in the grid of its program."""
        program = self.program_of(chunk)
        size = self.sizes[program]
        first = (chunk - int(self._first[program])) * size
        return np.arange(first, min(first + size, self.axes.per_program))

    def coordinates(self, chunk: int) -> dict[str, np.ndarray]:
        """Values of the axes and seed of a chunk's networks, as labels."""
        places = self.members(chunk)
        labels = self.axes.labels()
        point = self.points[self.program_of(chunk)]
        found = np.unravel_index(places, self.axes.shape)
        traced = dict(zip((*self.axes.traced, named.SEED), found, strict=True))
        return {
            name: labels[name][traced[name]]
            if name in traced
            else np.full(
                len(places), labels[name][self.axes.values[name].index(point[name])]
            )
            for name in labels
        }

    def together(self, chunks: Iterable[int]) -> Iterator[list[int]]:
        """Chunks in the groups that the devices here train at a time."""
        for program, of_program in itertools.groupby(chunks, self.program_of):
            waiting = list(of_program)
            ensemble = self.ensemble(program)
            at_once = 1 if self.stop is not None else ensemble.size // ensemble.width
            for first in range(0, len(waiting), at_once):
                yield waiting[first : first + at_once]

    def run_chunks(
        self,
        chunks: Sequence[int],
        *,
        report: Callable[[int], Any] = lambda _: None,
        saved: Chunk | None = None,
        save: Callable[[Callable[[], Chunk]], Any] = lambda _: None,
    ) -> list[Chunk]:
        """Trains and watches the networks of chunks that can run together.

        Args:
            chunks: their numbers, as from ``together``.
            report: called after every look with the number of networks trained.
            saved: what ``save`` was given earlier for the same chunks, to go on from.
            save: called after every look with a function that gives all there is to
                know in arrays, should it be wanted.
        """
        ensemble = self.ensemble(self.program_of(chunks[0]))
        if self.initial is None:
            ensemble.compile()
        members = [self.members(chunk) for chunk in chunks]
        if self.stop is not None:
            places = np.concatenate(members)
            initial = jax.tree.map(lambda leaf: np.asarray(leaf)[places], self.initial)
            point = self.points[self.program_of(chunks[0])]
            whole = pool.run(
                ensemble,
                self.stop,
                self.key,
                pool.Members(*self.axes.points(places), point, initial),
                report=report,
                saved=saved,
                save=save,
            )
            ends = np.cumsum([len(of_chunk) for of_chunk in members])[:-1]
            parts = {name: np.split(values, ends) for name, values in whole.items()}
            return [{n: v[i] for n, v in parts.items()} for i in range(len(chunks))]
        real = sum(map(len, members))
        # Filled up with copies to the size that everything is compiled for.
        padded = [np.pad(m, (0, ensemble.width - len(m)), mode="edge") for m in members]
        padded += [padded[-1]] * (ensemble.size // ensemble.width - len(padded))
        places = np.concatenate(padded)
        seeds, points = map(ensemble.split, self.axes.points(places))
        if self.initial is None:
            states = ensemble.start(self.key, seeds, points)
        else:
            chosen = jax.tree.map(lambda leaf: np.asarray(leaf)[places], self.initial)
            states = ensemble.start_from(chosen, points)
        if saved is None:
            rows: list[dict[str, Any]] = [ensemble.look(states.params)]
        else:
            states, rows = _restored(ensemble, states, saved)
            report(real * (len(rows) - 1))
        recipe = ensemble.recipe
        for look in range(len(rows) - 1, recipe.num_looks):
            epoch, part = divmod(look, recipe.looks_per_epoch)
            states, happened = ensemble.run_epoch(
                states, seeds, points, self.key, epoch + 1, part
            )
            rows.append(happened | ensemble.look(states.params))
            report(real)
            save(functools.partial(_saved, states, rows))
        # Before the first epoch nothing has happened.
        for name in rows[-1].keys() - rows[0].keys():
            rows[0][name] = np.full_like(rows[-1][name], np.nan)
        tested = ensemble.evaluate(states.params, "test")
        whole = {
            name: np.stack([np.asarray(r[name]) for r in rows], 1) for name in rows[0]
        }
        whole["test_loss"], whole["test_accuracy"] = map(np.asarray, tested)
        found = []
        for i, of_chunk in enumerate(members):
            one = slice(i * ensemble.width, i * ensemble.width + len(of_chunk))
            found.append({name: values[one] for name, values in whole.items()})
        return found

    def assemble(self, chunks: Iterable[Chunk]) -> xr.Dataset:
        """The labelled result of all chunks, given in their order.

        Returns:
            A dataset whose dimensions are the axes, seed, epoch (0 to T, 0 being the
            initial network), and layer or leaf and hidden_layer; see ``results``.
        """
        waiting = iter(chunks)
        parts = []
        for program, point in enumerate(self.points):
            count = int(self._first[program + 1] - self._first[program])
            found = list(itertools.islice(waiting, count))
            whole = results.joined(found, self.axes.per_program)
            ensemble = self.ensemble(program)
            parts.append((point, results.of_program(ensemble, self.axes, whole)))
        result = results.combined(parts, self.axes)
        if self.stop is not None:
            result = pool.labelled(result, self.stop)
        # What seeds are folded into: with it, every network can be drawn again.
        result.attrs["key_data"] = " ".join(map(str, jax.random.key_data(self.key)))
        return result


def sweep(
    key: Key[Array, ""],
    data: Any,
    recipe: Recipe,
    axes: Mapping[str, Iterable[Any]] | None = None,
    *,
    report: Callable[[int], Any] = lambda _: None,
    **options: Any,
) -> xr.Dataset:
    """Trains a network for every point of the axes and every seed, in memory.

    Args:
        key: typed key of the whole sweep.
        data: three pairs (x, y), or a function of axes that gives them.
        recipe: what a training run is.
        axes: names and values, see ``axes``.
        report: called with the number of (network, look) pairs just finished.
        options: further arguments of ``Sweep``: seeds, engine, width, initial, signals,
            stop.

    Returns:
        The labelled result, as from ``Sweep.assemble``.

    >>> from snn_jax.networks import MLP
    >>> x, y = np.eye(6, dtype=np.float32), np.arange(6) % 3
    >>> recipe = Recipe(MLP((6, 4, 3)), num_epochs=2, batch_size=3)
    >>> axes = {"scale": [0.1, 1.0], "learning_rate": [0.1]}
    >>> result = sweep(jax.random.key(0), [(x, y)] * 3, recipe, axes, seeds=2)
    >>> dict(result.valid_loss.sizes)
    {'scale': 2, 'learning_rate': 1, 'seed': 2, 'epoch': 3}
    """
    whole = Sweep(key, data, recipe, axes, **options)
    chunks: list[Chunk] = []
    for together in whole.together(range(whole.num_chunks)):
        chunks += whole.run_chunks(together, report=report)
    return whole.assemble(chunks)


def _saved(states: State, rows: list[dict[str, Any]]) -> Chunk:
    """A half-trained chunk as arrays; the inverse of ``_restored``."""
    leaves = {f"leaf {i}": leaf for i, leaf in enumerate(jax.tree.leaves(states))}
    first = {f"first {name}": value for name, value in rows[0].items()}
    rest = {f"row {name}": np.stack([r[name] for r in rows[1:]]) for name in rows[-1]}
    return {name: np.asarray(v) for name, v in (leaves | first | rest).items()}


def _restored(
    ensemble: Ensemble, like: State, saved: Chunk
) -> tuple[State, list[dict[str, Any]]]:
    leaves, structure = jax.tree.flatten(like)
    states = jax.tree.unflatten(
        structure, [ensemble.split(saved[f"leaf {i}"]) for i in range(len(leaves))]
    )
    first = {n[6:]: v for n, v in saved.items() if n.startswith("first ")}
    rest = {n[4:]: v for n, v in saved.items() if n.startswith("row ")}
    length = len(next(iter(rest.values())))
    return states, [first] + [{n: v[t] for n, v in rest.items()} for t in range(length)]


def _rebuilt(key: tuple[Any, str], *arguments: Any) -> Sweep:
    """The inverse of ``Sweep.__reduce__``."""
    typed = jax.random.wrap_key_data(jnp.asarray(key[0]), impl=key[1])
    *things, options = arguments
    return Sweep(typed, *things, **options)

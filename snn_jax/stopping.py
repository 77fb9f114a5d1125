"""When to stop training a network: once its verdict is final.

A rule is a function of ``Networks`` with ``reasons``, a tuple of names. It is asked
before the first step and after every look, and says of each network -1, it goes on, or
the place of a reason. ``Sweep(.., stop=rule)`` ends the networks that it names, and the
others close the ranks (``pool``):

    def good_enough(networks):
        right = networks.rows["valid_accuracy"][:, -1]
        return np.where(right > 0.9, 0, -1)

    good_enough.reasons = ("good enough",)

``decided`` is such a rule: it stops networks of which it is known what becomes of them
until the end of the run. It says one thing each of three verdicts:

    diverged      a weight is not a finite number, which it never becomes again; or the
                  loss is hopeless (``diagnosis``) at two looks in a row
    converged     ``diagnosis`` says so at two looks in a row, of which the first comes
                  after three, and its claim reaches to the end of the run
    vanishing     theory follows a network from its initial weights (``plateau``), for
                  longer than the run, and it does not leave: no step is made
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import xarray as xr

from snn_jax import datasets, diagnosis, engines, losses, plateau
from snn_jax.datasets import Split
from snn_jax.pool import GOES_ON, Networks

__all__ = ["Decided", "Networks", "counts", "decided"]

# Theory has to say that a network stays for so many times the run: of 310 networks, 309
# left within a factor 1.25 of the step that it said.
SAFETY = 1.5
# A converged network is stopped after so many looks, or later.
FIRST_LOOK = 4


@dataclass(frozen=True)
class Decided:
    """Stops a network once it is known what becomes of it until the end of the run.

    Attributes:
        safety: a network that theory sees on the plateau for so many times the run is
            not trained; ``inf`` trains all.
        first_look: a converged network is stopped there, or later.
    """

    safety: float = SAFETY
    first_look: int = FIRST_LOOK
    reasons: ClassVar[tuple[str, ...]] = ("diverged", "converged", diagnosis.BEYOND)

    def __post_init__(self) -> None:
        if not (self.safety >= 1 and self.first_look >= 2):
            raise ValueError(
                "stop: expected a safety of 1 or more and a first look of 2 or more, "
                f"found {self.safety} and {self.first_look}"
            )

    def __call__(self, networks: Networks) -> np.ndarray:
        """The place of the reason for each network, -1 if it goes on."""
        found = np.full(len(networks.seeds), GOES_ON)
        if networks.look == 0 and np.isfinite(self.safety):
            found[_beyond(networks, self.safety)] = 2
        found[_converged(networks, self.first_look)] = 1
        found[_diverged(networks)] = 0
        return found


decided = Decided()


def counts(result: xr.Dataset) -> dict[str, int]:
    """How many networks of a result were stopped, by reason."""
    if "stopped" not in result:
        return {}
    attrs = result.stopped.attrs
    pairs = zip(attrs["flag_values"], attrs["flag_meanings"].split(), strict=True)
    return {
        meaning.replace("_", " "): int((result.stopped == value).sum())
        for value, meaning in pairs
        if value != GOES_ON
    }


def _information(networks: Networks) -> np.ndarray:
    """What each knows of the targets at every look."""
    loss: np.ndarray = networks.rows["valid_loss"].astype(float)
    return networks.plateau_loss - loss


def _agreed(networks: Networks, candidates: np.ndarray, verdict: str) -> np.ndarray:
    """Which of the candidates have a verdict at both of the last two looks."""
    entropy, unknown = networks.label_entropy, np.full(networks.look + 1, np.nan)
    information = _information(networks)
    training = entropy - networks.rows["train_loss"].astype(float)

    def says(network: int, end: int) -> bool:
        found = diagnosis.diagnose(
            information[network, :end],
            unknown[:end],
            unknown[:end],
            label_entropy=entropy,
            training=training[network, :end],
        )
        return found.kind.name == verdict

    agreed = np.zeros(len(candidates), bool)
    for network in np.flatnonzero(candidates).tolist():
        ends = networks.look + 1, networks.look
        agreed[network] = all(says(network, end) for end in ends)
    return agreed


def _converged(networks: Networks, first_look: int) -> np.ndarray:
    """Those that have learned, and will keep it until the end."""
    reach = diagnosis.BY_NAME["converged"].horizon * networks.look
    early = networks.look < first_look or reach < networks.recipe.num_looks
    if early or not networks.label_entropy > 0:
        return np.zeros(len(networks.seeds), bool)
    least = diagnosis.LEARNED * networks.label_entropy
    before, now = _information(networks)[:, -2:].T
    return _agreed(networks, (before >= least) & (now >= least), "converged")


def _diverged(networks: Networks) -> np.ndarray:
    """Those with a weight that is no number, and those that do not come back."""
    lost = ~np.isfinite(networks.rows["valid_loss"][:, -1])
    finite = np.ones_like(lost)
    for leaf in jax.tree.leaves(networks.params):
        if np.issubdtype(leaf.dtype, np.inexact):
            finite &= np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
    found: np.ndarray = lost & ~finite
    if networks.look >= 2 and networks.label_entropy > 0:
        least = -diagnosis.HOPELESS * networks.label_entropy
        before, now = _information(networks)[:, -2:].T
        above = (before >= least) | (now >= least)
        found |= _agreed(networks, ~above & ~found, "diverged")
    return found


def _beyond(networks: Networks, safety: float) -> np.ndarray:
    """Those that theory sees on the plateau for longer than the run."""
    recipe, train = networks.recipe, networks.data.train
    found = np.zeros(len(networks.seeds), bool)
    if not plateau.covers(recipe.network) or not _plain(networks):
        return found
    rates = _rates(networks)
    moving = np.flatnonzero(rates > 0)
    if not len(moving):
        return found
    per_look = len(train.y) // recipe.batch_size // recipe.looks_per_epoch
    ahead = safety * per_look * recipe.num_looks
    leaves = plateau.leaving_steps(
        {name: leaf[moving] for name, leaf in networks.params.items()},
        _statistics(_Kept(train)),
        learning_rate=rates[moving],
        batch_size=recipe.batch_size,
        steps=ahead,
    )
    # NaN is no answer; what is called inf was followed for as long.
    found[moving] = leaves >= ahead
    return found


def _plain(networks: Networks) -> bool:
    """Whether loss, gradient and labels are those that theory is about."""
    recipe, y = networks.recipe, networks.data.train.y
    if recipe.loss is not losses.nll or recipe.value_and_grad is not None:
        return False
    classes = np.arange(recipe.network.sizes[-1])
    return datasets.are_labels(y) and np.array_equal(np.unique(y), classes)


def _rates(networks: Networks) -> np.ndarray:
    """The learning rates of plain SGD; NaN if that is not how they learn."""
    count, optimizer = len(networks.seeds), networks.recipe.optimizer
    one = jax.tree.map(lambda leaf: leaf[0], networks.params)
    traced = {n: v for n, v in networks.point.items() if isinstance(v, np.ndarray)}
    static = {n: v for n, v in networks.point.items() if n not in traced}
    example = {name: values[0] for name, values in traced.items()}
    if not engines.is_sgd(optimizer, example, static, one):
        return np.full(count, np.nan)

    def rate(point: dict[str, Any]) -> Any:
        return engines.sgd_rate(optimizer, static | point, one)

    if not traced:
        return np.full(count, float(rate({})))
    return np.asarray(jax.vmap(rate)(traced), float)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A training set, known by where it is."""

    train: Split

    def __hash__(self) -> int:
        return hash((id(self.train.x), id(self.train.y)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Kept):
            return NotImplemented
        pairs = zip(self.train, other.train, strict=True)
        return all(mine is theirs for mine, theirs in pairs)


@functools.lru_cache(maxsize=1)
def _statistics(kept: _Kept) -> plateau.Statistics:
    """Of all pools of a program the same."""
    return plateau.statistics(*kept.train)

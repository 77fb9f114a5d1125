"""Which hypothesis an answer is, and the factor beside it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from snn_jax.review.mistakes import APART, FITS, SINGLE, Reference


class Fit(NamedTuple):
    """The hypothesis that explains an answer at all probes, or none.

    Attributes:
        wrong: its mistakes, each a part and a name; None unless it is certain.
        nearest: those of the nearest hypothesis.
        residual: of that.
        runner_up: of the nearest that says something else.
        factors: c, at every probe.
        decay: of the weights, that was added, beside the mean; at every probe.
    """

    wrong: tuple[tuple[str, str], ...] | None
    nearest: tuple[tuple[str, str], ...]
    residual: float
    runner_up: float
    factors: tuple[float, ...]
    decay: tuple[float, ...] = ()


def fit(leaf: str, answers: Sequence[np.ndarray], at: Sequence[Reference]) -> Fit:
    """What explains a leaf's gradient at all probes; the simplest wins a tie."""
    tables = [reference.table(leaf) for reference in at]
    names = tables[0][0]
    residuals = np.zeros(len(names))
    factors, directions = [], []
    for g, (_, h, squares) in zip(answers, tables, strict=True):
        g = g.ravel()
        # What sums to 0 but for rounding explains nothing.
        zero = squares < 1e-24 * squares.max()
        norms = np.where(zero, 1, squares)
        c = h @ g / norms
        rest = np.linalg.norm(g - c[:, None] * h, axis=1) / np.linalg.norm(g)
        residuals = np.maximum(residuals, np.where(zero, 1, rest))
        factors.append(c)
        directions.append(h / np.sqrt(norms)[:, None])
    fitting = np.flatnonzero(residuals <= FITS)
    if not fitting.size:
        fitting = np.flatnonzero(residuals <= SINGLE)
    best = int(fitting[0]) if fitting.size else int(residuals.argmin())
    # Those that say the same at every probe are no rivals.
    same = np.ones(len(names), bool)
    for h in directions:
        same &= np.abs(np.abs(h @ h[best]) - 1) < 1e-12
    rivals = residuals[~same]
    runner_up = float(rivals.min()) if rivals.size else float("nan")
    certain = bool(fitting.size) and not runner_up < APART
    if not fitting.size and (decayed := _with_decay(leaf, answers, at)) is not None:
        return decayed
    return Fit(
        names[best] if certain else None,
        names[best],
        float(residuals[best]),
        runner_up,
        tuple(float(c[best]) for c in factors),
    )


def _with_decay(
    leaf: str, answers: Sequence[np.ndarray], at: Sequence[Reference]
) -> Fit | None:
    """Whether a gradient is right but for a multiple of the parameters themselves."""
    factors, decay, residual = [], [], 0.0
    for g, reference in zip(answers, at, strict=True):
        right = reference.table(leaf)[1][0]
        own = reference.at.params[leaf].ravel()
        both = np.stack([right, own], axis=1)
        (c, d), *_ = np.linalg.lstsq(both, g.ravel(), rcond=None)
        rest = np.linalg.norm(g.ravel() - both @ [c, d]) / np.linalg.norm(g)
        residual = max(residual, float(rest))
        factors.append(float(c))
        decay.append(float(d))
    if residual > SINGLE or min(map(abs, factors)) < SINGLE:
        return None
    return Fit((), (), residual, float("nan"), tuple(factors), tuple(decay))


class Law(NamedTuple):
    """A factor that is number * B^power at every probe."""

    number: float
    power: int

    def over(self, other: "Law") -> "Law":
        """The ratio of two."""
        return Law(self.number / other.number, self.power - other.power)

    def __str__(self) -> str:
        return _in_words(self)


def law_of(factors: Sequence[float], sizes: Sequence[int]) -> Law | None:
    """None if no law fits."""
    for power in (0, 1, -1, -2, 2):
        numbers = [c / B**power for c, B in zip(factors, sizes, strict=True)]
        if np.ptp(numbers) <= SINGLE * abs(numbers[0]):
            number = float(np.mean(numbers))
            usual = min(USUAL, key=lambda u: abs(abs(number) / u - 1))
            if abs(abs(number) / usual - 1) <= SINGLE:
                number = np.copysign(usual, number)
            return Law(float(number), power)
    return None


# Factors that are meant, if a number is as near as single precision allows.
USUAL = (1.0, 2.0, 0.5, 10.0, 0.1)


def is_usual(factor: float, B: int) -> bool:
    """Whether a factor at one probe is one that is meant, times a power of B."""
    sizes = (abs(factor) / B**power for power in (0, 1, -1, -2, 2))
    return any(abs(size / u - 1) <= SINGLE for size in sizes for u in USUAL)


def _in_words(law: Law) -> str:
    """As a student reads it: "1", "-1", "1/B", "2"."""
    number = law.number
    sign = "-" if number < 0 else ""
    size = abs(number)
    whole = f"{size:g}" if size >= 1 else f"1/{1 / size:g}"
    power = {0: "", 1: "B", -1: "/B", -2: "/B^2", 2: "B^2"}[law.power]
    if size == 1 and law.power > 0:
        return sign + power
    return sign + whole + (f" {power}" if law.power > 0 else power)

"""The flow of ``forces`` followed in time, by steps as long as the weights allow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from snn_jax.plateau.forces import Kernel, Problem, Weights, flow, turned

# The error of a step, as a share of the weights; they change by up to 14 % in one.
TOLERANCE = 0.02
# After so many steps a network creeps, at another saddle, and theory gives up.
MAX_STEPS = 300
# Of the method, see ``_step``.
GAMMA = 1 - 0.5**0.5


class Course(NamedTuple):
    """What is predicted of N networks.

    Attributes:
        leaves: steps until each has left; inf if it does not in time, NaN if theory
            does not say: it does not begin on the plateau, its learning rate is too
            large to settle there, or it stops at another saddle on its way.
        steps: a row for each step of the integration, when it was; (T, N), NaN after
            the end of a network, like what follows.
        loss: with that of the noise, in nats, (T, N).
        norms: Frobenius norms of W_2 .. W_L, (T, N, L - 1).
        activations: mean activation of each hidden layer, (T, N, L - 1).
    """

    leaves: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    norms: np.ndarray
    activations: np.ndarray


def stiff(kernel: Kernel, problem: Problem, steps: np.ndarray) -> Callable[..., Any]:
    """(1 + steps x A)^{-1}, A the linear pull of the mean output to f.

    A = r D J D^T, where D^T d is what a change d does to the logits of the mean image,
    and D q = (B_l q h_{l-1}^T)_l; D^T D = Theta. So it takes a K x K matrix:
    (1 + c D J D^T)^{-1} = 1 - D c J (1 + c Theta J)^{-1} D^T.
    """
    J, c, shares = problem.slope, problem.rate * steps, problem.shares
    M = c * (J @ np.linalg.inv(np.eye(len(J)) + c * (kernel.theta @ J)))
    values, errors = kernel.layers.values, kernel.errors

    def solve(change: Weights) -> Weights:
        moved = turned(errors[0]) @ (change[0] @ shares)[..., None]
        pairs = zip(errors[1:], change[1:], values, strict=True)
        moved = moved + sum(turned(B) @ (W @ h) for B, W, h in pairs)
        q = M @ moved
        first = change[0] - (errors[0] @ q) * (problem.products @ shares)
        pairs = zip(errors[1:], change[1:], values, strict=True)
        return [first, *(W - (B @ q) * turned(h) for B, W, h in pairs)]

    return solve


def _combined(*terms: tuple[Any, Weights]) -> Weights:
    """A sum of weights times numbers."""
    return [
        sum(number * part for (number, _), part in zip(terms, parts, strict=True))
        for parts in zip(*(weights for _, weights in terms), strict=True)
    ]


def _share(change: Weights, weights: Weights) -> np.ndarray:
    """The largest change of a layer relative to itself, (N,); of z_1, to 1."""
    shares = [
        np.linalg.norm(d, axis=(1, 2)) / (np.linalg.norm(W, axis=(1, 2)) + 1e-6)
        for d, W in zip(change[1:], weights[1:], strict=True)
    ]
    z = weights[0]
    size = np.sqrt((z**2).sum((1, 2)) + z[0].size)
    shares.append(np.linalg.norm(change[0], axis=(1, 2)) / size)
    largest: np.ndarray = np.max(shares, axis=0)
    return largest


def _step(
    weights: Weights, problem: Problem, steps: np.ndarray
) -> tuple[Weights, Weights, np.ndarray, Kernel]:
    """The change over so many steps of SGD, an estimate of its error, loss + R.

    ROS2 of Verwer et al. (1999): second order, and stable however fast the linear pull
    of the output is, which alone is treated implicitly.
    """
    total, k1, kernel = flow(weights, problem)
    solve = stiff(kernel, problem, GAMMA * steps)
    k1 = solve(k1)
    _, k2, _ = flow(_combined((1, weights), (steps, k1)), problem)
    k2 = solve(_combined((1, k2), (-2, k1)))
    change = _combined((1.5 * steps, k1), (0.5 * steps, k2))
    return change, _combined((0.5 * steps, k1), (0.5 * steps, k2)), total, kernel


def integrate(
    weights: Weights,
    problem: Problem,
    known: np.ndarray,
    steps: float,
    target: float,
    tolerance: float,
) -> Course:
    """Follows networks until their loss falls below the target, or for so many steps.

    Those that are done are dropped on the way, and those not known at once.
    """
    count = len(known)
    leaves, active = np.full(count, np.nan), np.flatnonzero(known)
    weights, problem = [W[known] for W in weights], problem.of(known)
    now, length = np.zeros(len(active)), np.ones(len(active))
    # Where the loss was last, to know when between two steps it crossed.
    before, loss_before = np.zeros((2, len(active)))
    rows = []
    for _ in range(MAX_STEPS):
        change, error, loss, kernel = _step(weights, problem, length[:, None, None])
        row = np.full((count, 2 + 2 * (len(weights) - 1)), np.nan)
        row[active] = np.column_stack([now, loss, *_looks(weights, kernel)])
        rows.append(row)
        out = (loss < target) & (now > 0)
        fall = np.maximum(loss_before - loss, 1e-12)
        share = np.clip((loss_before - target) / fall, 0, 1)
        leaves[active[out]] = (before + share * (now - before))[out]
        late = ~out & (now >= steps)
        leaves[active[late]] = np.inf
        keep = ~out & ~late
        if not keep.any():
            break
        share = _share(error, weights)
        taken = share < 2 * tolerance
        grown = length * np.clip(np.sqrt(tolerance / (share + 1e-300)), 0.3, 2)
        before, loss_before = now, loss
        weights = [
            W + np.where(taken[:, None, None], d, 0)
            for W, d in zip(weights, change, strict=True)
        ]
        now = np.where(taken, now + length, now)
        length = np.where(np.isfinite(grown), grown, 0.3 * length)
        length = np.minimum(length, np.maximum(steps - now, 1))
        if not keep.all():
            weights = [W[keep] for W in weights]
            problem = problem.of(keep)
            now, length, active = now[keep], length[keep], active[keep]
            before, loss_before = before[keep], loss_before[keep]
    looks = np.stack(rows)
    half = (looks.shape[2] - 2) // 2
    return Course(
        leaves,
        looks[..., 0],
        looks[..., 1],
        looks[..., 2 : 2 + half],
        looks[..., 2 + half :],
    )


def _looks(weights: Weights, kernel: Kernel) -> list[np.ndarray]:
    """Norms of W_2 .. W_L and mean activations, each (N,)."""
    norms = [np.linalg.norm(W, axis=(1, 2)) for W in weights[1:]]
    slopes = kernel.layers.slopes
    means = [
        h[:, : s.shape[1]].mean((1, 2))
        for h, s in zip(kernel.layers.values, slopes, strict=True)
    ]
    return [*norms, *means]

"""A training set as a few clouds: all that the theory of the plateau knows of it."""

from typing import Any, NamedTuple

import numpy as np

from snn_jax import losses

# Images whose covariance is taken, evenly from all: its error is 1 %.
NUM_MEASURED = 10_000


class Statistics(NamedTuple):
    """What the forecast knows of K classes of images with D pixels, as M clouds.

    Attributes:
        frequencies: of the labels, (K,).
        labels: of the clouds, (M,).
        shares: of the clouds in all images, (M,).
        means: the mean image of each cloud, (M, D).
        covariance: of images about the mean of their cloud, (D, D).
        num_examples: how many there are.
        cloud: which one each image is in, (n,).
    """

    frequencies: np.ndarray
    labels: np.ndarray
    shares: np.ndarray
    means: np.ndarray
    covariance: np.ndarray
    num_examples: int
    cloud: np.ndarray


def statistics(x: Any, y: Any, *, halvings: int = 2) -> Statistics:
    """Of a training set.

    Args:
        x: images, (n, ...).
        y: labels in [0, K), each of them there.
        halvings: how many directions part the images of a class.

    Raises:
        ValueError: labels that are no integers from 0 on, a class without images, or
            another number of labels than of images.
    """
    x, y = np.asarray(x, np.float32).reshape(len(x), -1), np.asarray(y)
    whole = y.shape == (len(x),) and np.issubdtype(y.dtype, np.integer)
    if not whole or not np.array_equal(np.unique(y), np.arange(y.max(initial=0) + 1)):
        raise ValueError(
            f"y: expected {len(x)} labels, all of 0, 1 .. K - 1, found {y.shape} of "
            f"{y.dtype}: {', '.join(map(str, np.unique(y)[:12]))}"
        )
    y = y.astype(int)
    f, halvings = losses.class_frequencies(y), min(halvings, x.shape[1])
    centres = _means(x, y)
    inner = x - centres[y].astype(np.float32)
    some = inner[:: max(1, len(x) // NUM_MEASURED)]
    covariance = (some.T @ some).astype(float) / len(some)
    # From the smallest to the largest variance.
    directions = np.linalg.eigh(covariance)[1][:, x.shape[1] - halvings :]
    sides = inner @ directions.astype(np.float32) > 0
    part = y * 2**halvings + sides @ 2 ** np.arange(halvings)
    parts, cloud, counts = np.unique(part, return_inverse=True, return_counts=True)
    means = _means(x, cloud)
    shares = counts / len(x)
    # What is within a class is within its parts or between them.
    between = means - centres[parts // 2**halvings]
    covariance -= (shares * between.T) @ between
    labels = parts // 2**halvings
    return Statistics(f, labels, shares, means, covariance, len(x), cloud)


def _means(x: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Of the rows of each kind, the kinds being numbered from 0."""
    counts = np.bincount(which)
    of_kind = (np.arange(len(counts))[:, None] == which).astype(np.float32)
    means: np.ndarray = (of_kind @ x).astype(float) / counts[:, None]
    return means

"""A training set as a few clouds: all that the theory of the plateau knows of it."""

from typing import Any, NamedTuple

import numpy as np

from snn_jax import losses


class Statistics(NamedTuple):
    """What the forecast knows of K classes of images with D pixels, as M clouds.

    Attributes:
        frequencies: of the labels, (K,).
        labels: of the clouds, (M,).
        shares: of the clouds in all images, (M,).
        means: the mean image of each cloud, (M, D).
        covariance: of images about the mean of their cloud, (D, D).
        num_examples: how many there are.
    """

    frequencies: np.ndarray
    labels: np.ndarray
    shares: np.ndarray
    means: np.ndarray
    covariance: np.ndarray
    num_examples: int


def statistics(x: Any, y: Any, *, halvings: int = 2) -> Statistics:
    """Of a training set.

    Args:
        x: images, (n, ...).
        y: labels in [0, K), each of them there.
        halvings: how many directions part the images of a class.
    """
    x, y = np.asarray(x, np.float32).reshape(len(x), -1), np.asarray(y)
    f = losses.class_frequencies(y)
    centres = np.array([x[y == label].mean(axis=0) for label in range(len(f))])
    inner = x - centres[y]
    # From the smallest to the largest variance.
    _, directions = np.linalg.eigh((inner.T @ inner).astype(float))
    sides = inner @ directions[:, -halvings:] > 0
    part = y * 2**halvings + sides @ 2 ** np.arange(halvings)
    parts, cloud, counts = np.unique(part, return_inverse=True, return_counts=True)
    means = np.array([x[part == number].mean(axis=0, dtype=float) for number in parts])
    inner = x - means[cloud].astype(np.float32)
    covariance = (inner.T @ inner).astype(float) / len(x)
    shares = counts / len(x)
    return Statistics(f, parts // 2**halvings, shares, means, covariance, len(x))

"""The same epoch for many networks at once, fast: ``vmap`` of it, written out.

``jax.vmap`` of the plain code is right, and a student should read that first. It leaves
much of the machine idle, because its hidden layers become thousands of 10 x 10 matrix
products, each too small to be worth a call. Here the same equations, those of
``backprop``, are laid out so that the compiler finds long loops:

*   The network is the last axis of every array: weights are (fan_out, fan_in, N),
    activations (B, units, N). A hidden layer is then a sum over its inputs of products
    of vectors over networks, with no matrix product at all, and a vector register holds
    one weight of 16 networks.
*   The first layer's weights are (fan_in, fan_out, N). All networks see the same images
    x, so z_1 of all of them is one large matrix product, and so is dW_1.
*   Pixels that are 0 in all training images, 67 of MNIST's 784, add nothing to z_1 and
    get no gradient: ``without_blank_pixels`` leaves them out.
*   ``layers.storing`` decides which intermediate results are kept. The compiler would
    rather compute them again wherever they are used.

With small batches the first layer is bound by memory: every step reads and writes all
of W_1 for a few images. Its k next steps can be done at once, exactly. Let X hold their
images x_1 .. x_k as rows, rate be the learning rate over the batch size, and delta_s
the error of layer 1 at step s. Plain SGD has, by equation (3) of ``backprop``,

    W_1 before step t  =  W_1 - rate * sum_{s<t} delta_s x_s^T

    z_1 at step t  =  W_1 x_t - rate * sum_{s<t} delta_s (x_s^T x_t)

The first term needs only the old W_1: for all k steps it is one product. The numbers
x_s^T x_t are the entries of the Gram matrix X X^T, the same for all networks. After k
steps W_1 -= rate * sum_s delta_s x_s^T is again one product. These are the numbers of
plain SGD, up to the order in which they are added.

Another rule than plain SGD sees the same gradients, in the same layout, step by step
(``rules``).

    layers        a layer up and down, of many networks
    sgd           an epoch of plain SGD, in blocks of steps
    rules         an epoch with any other optimizer
    evaluation    loss and accuracy
    alone         the gradient of a single network
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from snn_jax.activations import has_slope
from snn_jax.datasets import Split
from snn_jax.fast.alone import MAX_TERMS, value_and_grad
from snn_jax.fast.evaluation import evaluate
from snn_jax.fast.layers import SLAB
from snn_jax.fast.rules import run_epoch_with, serves
from snn_jax.fast.sgd import BLOCK, ONE_STEP, run_epoch
from snn_jax.networks import MLP

__all__ = [
    "BLOCK",
    "ONE_STEP",
    "SLAB",
    "by_hand",
    "evaluate",
    "fits",
    "run_epoch",
    "run_epoch_with",
    "serves",
    "value_and_grad",
    "without_blank_pixels",
]

# Sums over the inputs of a unit are written out, term by term, up to this fan-in.
# Above it matrix products are large enough for vmap.
MAX_FAN_IN = MAX_TERMS


def by_hand(network: Any) -> bool:
    """Whether ``value_and_grad`` serves a network: plain, with few classes.

    Classes are written out. A class made from MLP may compute something else, and an
    activation with a ``jax.custom_vjp`` has no slope forward.

    >>> by_hand(MLP((784, 300, 10))), by_hand(MLP((784, 300, 1000)))
    (True, False)
    """
    return (
        type(network) is MLP
        and network.plain
        and network.sizes[-1] <= MAX_FAN_IN
        and has_slope(network.activation)
    )


def fits(network: Any) -> bool:
    """Whether all layers but the first are narrow enough to be written out, too.

    >>> from snn_jax.networks import DEEP
    >>> fits(DEEP), fits(MLP((784, 300, 10)))
    (True, False)
    """
    return by_hand(network) and max(network.sizes[1:]) <= MAX_FAN_IN


def without_blank_pixels(train: Split) -> tuple[Split, Int[np.ndarray, " P"]]:
    """The training set without the pixels that are 0 in all images, and which are left.

    >>> train = Split(np.array([[0.0, 0.5, 0.0], [0.0, 0.1, 0.2]]), np.array([1, 0]))
    >>> without_blank_pixels(train)[1]
    array([1, 2])
    """
    x = np.asarray(train.x).reshape(len(train.y), -1)
    used = x.any(axis=0)
    return Split(np.compress(used, x, axis=1), np.asarray(train.y)), np.flatnonzero(
        used
    )

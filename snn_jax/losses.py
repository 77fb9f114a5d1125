"""What a network is asked to minimize, and what its loss is compared with.

Losses are in nats (natural logarithm): guessing one of ten classes at random costs
ln 10 = 2.3026 nats an image. A loss of one's own is a function of a batch of outputs
and its targets, with a number for each example.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Inexact
from scipy.special import xlogy

from snn_jax.activations import sigmoid
from snn_jax.networks import Labels

# loss(outputs, y) -> (B,), one number an example.
Loss = Callable[[Any, Any], Array]


def _check_labels(logits: Inexact[Array, "B K"], y: Any) -> None:
    """Raises ValueError unless each row has a label: a single one would broadcast."""
    if y.shape != logits.shape[:1]:
        raise ValueError(f"labels: expected shape {logits.shape[:1]}, found {y.shape}")


def nll(logits: Inexact[Array, "B K"], y: Labels) -> Inexact[Array, " B"]:
    """Negative log-likelihood of each label, in nats.

    With p = softmax(z), -ln p_y = ln(sum_k exp(z_k)) - z_y. Computed literally, exp
    overflows in float32 from z = 89 on; and adding a constant to all logits changes
    nothing, so the largest is subtracted first and no exponent is above 0.

    Args:
        logits: z; large ones do not overflow.
        y: labels in [0, K).

    Returns:
        One loss per image, at least 0.

    >>> nll(jnp.array([[0.0, 0.0], [1000.0, 0.0]]), jnp.array([0, 1]))
    Array([6.931472e-01, 1.000000e+03], dtype=float32)
    """
    _check_labels(logits, y)
    # The real part alone, so that the complex-step check can pass: the shift cancels in
    # the value and in the gradient, whatever it is.
    shift = jax.lax.stop_gradient(logits.real.max(axis=1, keepdims=True))
    shifted = logits - shift
    log_sum = jnp.log(jnp.exp(shifted).sum(axis=1))
    return log_sum - jnp.take_along_axis(shifted, y[:, None], axis=1)[:, 0]


def _errors(logits: Inexact[Array, "B K"], y: Labels) -> Inexact[Array, "B K"]:
    """The logits t of the errors of K sigmoid outputs: sigmoid(t_k) = |a_k - e_k|.

    Output k should be e_k, 1 for the label and 0 elsewhere. It is a_k = sigmoid(z_k),
    so its error is sigmoid(z_k), and for the label 1 - sigmoid(z_y) = sigmoid(-z_y),
    which this way has all its digits however small it is.
    """
    _check_labels(logits, y)
    labels = jnp.arange(logits.shape[1])[None, :] == y[:, None]
    return jnp.where(labels, -logits, logits)


def cross_entropy(logits: Inexact[Array, "B K"], y: Labels) -> Inexact[Array, " B"]:
    """Cross-entropy of K sigmoid outputs, summed over them, in nats.

    Each output is taken for the probability of a yes or no of its own:

        -ln a_y - sum_{k != y} ln(1 - a_k) = sum_k ln(1 + exp(t_k))

    since 1 - sigmoid(t) = 1 / (1 + exp(t)), with t of ``_errors``. The derivative by
    z_k is sigmoid(t_k) where e_k = 0, and -sigmoid(t_k) for the label: a - e, as for
    the softmax (Nielsen 2015, "Neural Networks and Deep Learning", eq. 63 and 68).

    Args:
        logits: z; large ones do not overflow.
        y: labels in [0, K).

    Returns:
        One loss per image, at least 0.

    >>> print(cross_entropy(jnp.array([[0.0, 0.0], [1000.0, -9.0]]), jnp.array([0, 1])))
    [   1.3862944 1009.0001   ]
    """
    t = _errors(logits, y)
    # ln(1 + exp(t)) without overflow; the sign of the real part decides, so that the
    # complex-step check can pass.
    positive = t.real > 0
    small = jnp.log1p(jnp.exp(jnp.where(positive, -t, t)))
    return (small + jnp.where(positive, t, 0)).sum(axis=1)


def quadratic(logits: Inexact[Array, "B K"], y: Labels) -> Inexact[Array, " B"]:
    """Half the squared distance of K sigmoid outputs from the one-hot label.

    1/2 |a - e|^2 (Nielsen 2015, eq. 6). The derivative by z_k is (a_k - e_k)
    sigmoid'(z_k): an output that is saturated and wrong learns nothing.

    Args:
        logits: z.
        y: labels in [0, K).

    Returns:
        One loss per image, from 0 to K / 2.

    >>> quadratic(jnp.array([[0.0, 0.0], [1000.0, 0.0]]), jnp.array([0, 1]))
    Array([0.25 , 0.625], dtype=float32)
    """
    return (sigmoid(_errors(logits, y)) ** 2).sum(axis=1) / 2


def squared_error(
    outputs: Inexact[Array, "B ..."], y: Inexact[Array | np.ndarray, "B ..."]
) -> Inexact[Array, " B"]:
    """Half the squared distance of outputs from numbers wanted, for regression.

    Args:
        outputs: as they are, without a sigmoid.
        y: numbers, in the shape of the outputs.

    Raises:
        ValueError: shapes that differ; they would broadcast without a word.

    >>> squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]]))
    Array([2.5], dtype=float32)
    """
    if outputs.shape != y.shape:
        raise ValueError(
            f"targets: expected shape {outputs.shape}, that of the outputs, found "
            f"{y.shape}"
        )
    squares = (outputs - jnp.asarray(y)) ** 2
    return squares.reshape(len(outputs), -1).sum(axis=1) / 2


def accuracy(logits: Inexact[Array, "B K"], y: Labels) -> Float[Array, ""]:
    """Fraction of images whose largest logit is the label's.

    NaN where a logit is not finite: argmax calls an all-NaN row class 0, and a network
    that is broken would score the share of that class.

    >>> accuracy(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1, 1]))
    Array(0.5, dtype=float32)
    """
    _check_labels(logits, y)
    correct = (logits.argmax(axis=1) == y).mean()
    return jnp.where(jnp.isfinite(logits).all(), correct, jnp.nan)


def class_frequencies(
    y: Labels, num_classes: int | None = None
) -> Float[np.ndarray, " K"]:
    """Fraction of the labels in each class.

    Args:
        y: labels in [0, K).
        num_classes: K; by default as many as the largest label needs.

    >>> class_frequencies(np.array([0, 1, 1, 1]))
    array([0.25, 0.75])
    """
    y = np.asarray(y)
    return np.bincount(y, minlength=num_classes or 0) / len(y)


def label_entropy(y: Labels, prior: Float[np.ndarray, " K"] | None = None) -> float:
    """H0, the loss of the best constant prediction, in nats: the class-prior plateau.

    A network that has learned how frequent the classes are, and nothing about the
    images, predicts the same p for all of them. Its loss, -sum_k f_k ln p_k, is least
    at p = f (Gibbs' inequality), where it is the entropy of the labels.

    Args:
        y: labels in [0, K).
        prior: the constant prediction; the frequencies of y by default. Pass those of
            the training labels to know what the plateau costs on another set: infinite
            if that has a class that training has not.

    >>> print(f"{label_entropy(np.arange(26)):.4f}")  # 26 equal classes: ln 26
    3.2581
    """
    frequencies = class_frequencies(y, None if prior is None else len(prior))
    # xlogy: an absent class costs nothing, though ln 0 is -inf.
    return float(-xlogy(frequencies, frequencies if prior is None else prior).sum())


def best_constant(
    loss: Loss, y: np.ndarray, output_shape: tuple[int, ...]
) -> np.ndarray:
    """The outputs that cost least if they are the same for all inputs.

    What they cost is the plateau of any task: a network that costs less knows something
    about the inputs. For ``nll`` they are the logarithms of the class frequencies.

    Args:
        loss: ``loss(outputs, y) -> (B,)``.
        y: targets to be fitted, (n, ...).
        output_shape: of the outputs for one input.

    Returns:
        Of that shape, float64. An output that had best be infinite, for a class that is
        absent, is only large: the frequency of that class is taken as half an example.

    >>> best_constant(squared_error, np.array([[0.0], [3.0]]), (1,)).round(6)
    array([1.5])
    """
    if loss is nll and len(output_shape) == 1:
        counts = np.bincount(y, minlength=output_shape[0])
        return np.asarray(np.log(np.maximum(counts, 0.5) / len(y)))
    with jax.enable_x64(True):
        # Equal targets cost the same: with labels, as many as there are classes.
        values, counts = np.unique(y, axis=0, return_counts=True)
        targets = jnp.asarray(
            values.astype(float) if values.dtype.kind == "f" else values
        )
        weights = jnp.asarray(counts / len(y))

        @jax.jit
        @jax.value_and_grad
        def cost(constant: Array) -> Array:
            outputs = jnp.broadcast_to(constant, (len(targets), constant.size))
            return weights @ loss(outputs.reshape(-1, *output_shape), targets)

        found = scipy.optimize.minimize(
            lambda constant: [np.asarray(part, float) for part in cost(constant)],
            np.zeros(int(np.prod(output_shape))),
            jac=True,
            method="BFGS",
            options={"gtol": 1e-9},
        )
    return np.asarray(found.x.reshape(output_shape))

"""What a network is asked to minimize, and what its loss is compared with.

Losses are in nats (natural logarithm): guessing one of ten classes at random costs
ln 10 = 2.3026 nats an image.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from snn_jax.networks import ACTIVATIONS, Architecture, Images, Labels, Params, apply


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
    # The real part alone, so that the complex-step check can pass: the shift cancels in
    # the value and in the gradient, whatever it is.
    shift = jax.lax.stop_gradient(logits.real.max(axis=1, keepdims=True))
    shifted = logits - shift
    log_sum = jnp.log(jnp.exp(shifted).sum(axis=1))
    return log_sum - jnp.take_along_axis(shifted, y[:, None], axis=1)[:, 0]


def mean_nll(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
) -> Inexact[Array, ""]:
    """The loss of the assignment: mean negative log-likelihood of a batch, in nats.

    >>> from snn_jax.networks import DEEP, init
    >>> zeros = jax.tree.map(jnp.zeros_like, init(jax.random.key(0), DEEP))
    >>> x, y = jnp.ones((3, 784)), jnp.array([3, 1, 4])
    >>> loss = mean_nll(zeros, x, y, architecture=DEEP)
    >>> print(f"{loss:.4f}")  # ln 10: all classes are equally likely
    2.3026
    """
    return nll(apply(params, x, architecture=architecture), y).mean()


# (params, x, y, *, architecture) -> (loss, gradient), by automatic differentiation; its
# twin by hand is backprop.value_and_grad.
value_and_grad = jax.value_and_grad(mean_nll)


def _errors(logits: Inexact[Array, "B K"], y: Labels) -> Inexact[Array, "B K"]:
    """The logits t of the errors of K sigmoid outputs: sigmoid(t_k) = |a_k - e_k|.

    Output k should be e_k, 1 for the label and 0 elsewhere. It is a_k = sigmoid(z_k),
    so its error is sigmoid(z_k), and for the label 1 - sigmoid(z_y) = sigmoid(-z_y),
    which this way has all its digits however small it is.
    """
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
    return jax.nn.softplus(_errors(logits, y)).sum(axis=1)


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
    sigmoid = ACTIVATIONS["sigmoid"].function
    return (sigmoid(_errors(logits, y)) ** 2).sum(axis=1) / 2


def mean_cross_entropy(
    params: Params, x: Images, y: Labels, *, architecture: Architecture
) -> Inexact[Array, ""]:
    """``cross_entropy``, the mean of a batch; ``jax.value_and_grad`` of it trains."""
    return cross_entropy(apply(params, x, architecture=architecture), y).mean()


def mean_quadratic(
    params: Params, x: Images, y: Labels, *, architecture: Architecture
) -> Inexact[Array, ""]:
    """``quadratic``, the mean of a batch; ``jax.value_and_grad`` of it trains."""
    return quadratic(apply(params, x, architecture=architecture), y).mean()


def accuracy(logits: Inexact[Array, "B K"], y: Labels) -> Float[Array, ""]:
    """Fraction of images whose largest logit is the label's.

    NaN where a logit is not finite: argmax calls an all-NaN row class 0, and a network
    that is broken would score the share of that class.

    >>> accuracy(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1, 1]))
    Array(0.5, dtype=float32)
    """
    correct = (logits.argmax(axis=1) == y).mean()
    return jnp.where(jnp.isfinite(logits).all(), correct, jnp.nan)


def class_frequencies(y: Labels, num_classes: int = 10) -> Float[Array, " K"]:
    """Fraction of the labels in each class.

    >>> class_frequencies(jnp.array([0, 1, 1, 1]), num_classes=2)
    Array([0.25, 0.75], dtype=float32)
    """
    return (y[:, None] == jnp.arange(num_classes)[None, :]).mean(axis=0)


def label_entropy(
    y: Labels, prior: Float[Array, " K"] | None = None
) -> Float[Array, ""]:
    """H0, the loss of the best constant prediction, in nats: the class-prior plateau.

    A network that has learned how frequent the classes are, and nothing about the
    images, predicts the same p for all of them. Its loss, -sum_k f_k ln p_k, is least
    at p = f (Gibbs' inequality), where it is the entropy of the labels.

    Args:
        y: labels in [0, K).
        prior: the constant prediction; the frequencies of y by default. Pass those of
            the training labels to know what the plateau costs on another set.

    >>> print(f"{label_entropy(jnp.arange(10)):.4f}")  # ten equal classes: ln 10
    2.3026
    """
    frequencies = class_frequencies(y, 10 if prior is None else prior.shape[0])
    # xlogy: an absent class costs nothing, though ln 0 is -inf.
    return -jax.scipy.special.xlogy(
        frequencies, frequencies if prior is None else prior
    ).sum()

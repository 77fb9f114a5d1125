"""What a network is asked to minimize, and what its loss is compared with.

Losses are in nats (natural logarithm): guessing one of ten classes at random costs
ln 10 = 2.3026 nats an image.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from snn_jax.networks import Architecture, Images, Labels, Params, apply


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

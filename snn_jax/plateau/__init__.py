r"""When a deep sigmoid network leaves the plateau, from its initial weights.

A network on the plateau gives every image the same output, the frequencies f of the
labels, and plain SGD seems to do nothing. Yet after a time it leaves, early or late by
its weights, its rate and its batches. Two forces act meanwhile; here they are followed
without any image and without any batch.

**The network.** With all images alike, there is one input, their mean. Let h_l be what
it makes of it in layer l of L, s_l the slopes of the units there, p the output. One
label y gives the error p - e_y at the top, and

    B_L = identity (K x K),    B_l = diag(s_l) W_{l+1}^T B_{l+1}

carry it down: the gradient of W_l is B_l (p - e_y) h_{l-1}^T. A step that moves all
weights against it, by a learning rate r, moves the logits by -r Theta (p - e_y), where

    Theta = sum_l |h_{l-1}|^2 B_l^T B_l                    (h_0 is the mean image)

is K x K, the tangent kernel of the mean image.

**The first force: label noise.** A batch of B labels has the error p - f + xi, where xi
has mean 0 and covariance J / B, J = diag(f) - f f^T. Near the plateau the loss is a
valley, flat along most directions, and steep along those that move the output: with its
second derivative H and weights that are d off the bottom, a step makes

    d  <-  d - r (H d + noise),     covariance of the noise H / B

for the same labels that make the curvature make the noise. That is an
Ornstein-Uhlenbeck process, soon in balance. A covariance C that no longer changes obeys
C = (1 - r H) C (1 - r H) + r^2 H / B, so that in the steep directions

    C = (r / 2B) (1 - r H / 2)^{-1}

The labels of one batch push a network nowhere: the output answers in the next ones, and
with it whatever pushes along steep directions. But the gradient at weights that shake
is not the gradient at their mean. A small change dH of the curvature changes the mean
loss by tr(dH C) / 2, so on average SGD follows the gradient flow of

    loss + R,    R = -(1 / 2B) tr log(1 - r H / 2)  ~  (r / 4B) tr H

and looks for valleys that are wide. (With label noise of one size this is the formula
of Damian, Ma & Lee 2021.) On the plateau the eigenvalues of H that are not 0 are those
of J Theta, so

    R = -(1 / 2B) tr log(1 - r J Theta / 2)

``comparison.plateau_drift_rate`` is its first effect: Theta falls if |h_{L-1}| does, so
W_{L-1} turns against its input. Then W_{L-2} is in reach, then the next: label noise
builds the network from the top down.

**The second force: the labels.** What differs between images is small. The images of a
class enter as four clouds, quartered by the two directions in which images differ most
within a class; each has its mean image x_c, its share w_c of all images and the common
covariance Sigma. A unit of layer 1 sees a normal variable with mean z_1 = w . x_c and
variance v = w . Sigma w, and passes on its mean activation. From there on a cloud is
one input. So

    loss = sum_c w_c nll(network(cloud c), its label)

has the gradient of a network with 4 K inputs, tiny at first: it needs weights to pass
the classes up and errors to pass down. Those R builds. Then it explodes.

**Time** enters as steps: d(weights) / d(step) = -r gradient(loss + R). Nothing here is
fitted to a trained network. A step of the integration is as long as the weights take to
change by a tenth, hundreds of steps of SGD: that is why it costs so little. Biases are
the weights of one more unit, always 1, in every layer. What is left out: v stays as it
is, clouds pass the upper layers as points, the curvature is that of their mean (of h_1,
the mean over clouds), J stays that of f, batches are drawn with replacement, and
weights have no random walk. The last is why a network that stands at a saddle, whose
deterministic way out takes long, leaves earlier than predicted.

Gradient flow alone (``noise=0``) leaves by a power law: for L layers of weights of init
scale s and classes that are equally frequent the time grows like s^{-(L - 2)}, as Rawal
& DeWeese (2026) derive for L small layers. Unequal classes pull the last layer off its
small scale at once, and those below a little; the exponent is less. With noise the time
grows like ln(1 / s), as long as units differ: from s of about 0.01 down all units of a
layer stay copies of each other, and networks stop half way, with some 0.05 nats.

That SGD on average lowers the trace of the Hessian in a valley is Wei & Schwab's, "How
noise affects the Hessian spectrum" (2019); with label noise Blanc et al.'s, "Implicit
regularization for deep neural networks driven by an Ornstein-Uhlenbeck like process"
(2020), and Damian, Ma & Lee's, "Label noise SGD provably prefers flat global
minimizers" (2021); at finite steps Smith et al.'s, "On the origin of implicit
regularization in SGD" (2021). Rawal & DeWeese: "A theory of saddle escape in deep
nonlinear networks". Saxe et al. (2014) integrate the plateau of deep linear networks;
Arnaboldi et al., "Escaping mediocrity" (2023), predict by a deterministic flow when
two-layer networks leave theirs; Ziyin et al. (arXiv 2303.13093) and Chen, Kunin et al.,
"Stochastic collapse" (2023), study SGD at saddles.

    clouds        a training set as a few clouds
    forces        both forces, with their gradients by hand
    integration   the flow followed in time
    labelled      theory beside the labelled result of a study
    figures       pictures of how and when networks leave
"""

from typing import Any

import numpy as np

from snn_jax.activations import sigmoid
from snn_jax.networks import MLP, Params
from snn_jax.plateau.clouds import Statistics, statistics
from snn_jax.plateau.forces import prepared, spread, stability
from snn_jax.plateau.integration import TOLERANCE, Course, integrate

__all__ = [
    "Course",
    "Statistics",
    "course",
    "covers",
    "interval",
    "leaving_steps",
    "statistics",
]

# A network has left when its loss, noise included, is this share of H0 below H0: 0.1
# nats of ten equally frequent classes.
LEFT = 0.1 / np.log(10)
# Of what is predicted: four networks in five left between these, of 265 in 34 groups
# drawn as ``experiments/plateau.py`` draws them, none of them with its default seed.
EARLY, LATE = 0.93, 1.052
# A network whose logits differ by more over the clouds, in standard deviation, is not
# on the plateau: its images are not alike.
ALIKE = 0.1
# Largest r J Theta / 2 at which the output settles on the plateau at once.
STABLE = 0.9
# Networks integrated at once: their arrays stay in the cache.
GROUP = 128


def interval(leaves: Any) -> tuple[Any, Any]:
    """Where four networks in five leave, whose predicted time is so many steps."""
    leaves = np.asarray(leaves, float)
    return EARLY * leaves, LATE * leaves


def covers(network: Any) -> bool:
    """Whether forecasts are for it: an MLP of two or more hidden layers of sigmoids.

    >>> from snn_jax.networks import DEEP, SHALLOW
    >>> covers(DEEP), covers(SHALLOW)
    (True, False)
    """
    plain = isinstance(network, MLP) and network.plain
    return plain and network.activation is sigmoid and network.num_layers > 2


def course(
    many: Params,
    data: Statistics,
    *,
    learning_rate: Any,
    batch_size: Any,
    steps: float,
    left: float = LEFT,
    noise: float = 1.0,
    tolerance: float = TOLERANCE,
) -> Course:
    """What plain SGD will do with networks on the plateau, until they leave it.

    Args:
        many: initial parameters as from ``MLP.init``, each with a leading axis of N.
        data: as from ``statistics``, of the training set.
        learning_rate: of SGD, one for all or (N,).
        batch_size: images a step, one for all or (N,).
        steps: of SGD, to look ahead.
        left: a network has left when its loss is this share of H0 below H0.
        noise: 1; 0 follows gradient flow, without the noise of the batches.
        tolerance: of the integration; a quarter moves times by less than 2 %.

    Raises:
        ValueError: parameters of another kind of network, or other numbers of inputs
            or outputs than the data have; rates or batch sizes that are not above 0.
    """
    _check(many, data, learning_rate=learning_rate, batch_size=batch_size)
    count = len(many["W1"])
    rate, size = (
        np.broadcast_to(np.asarray(values, float), (count,))[:, None, None]
        for values in (learning_rate, batch_size)
    )
    weights, problem = prepared(many, data, rate=rate, batch_size=size, noise=noise)
    f = data.frequencies
    target = -(1 - left) * float((f * np.log(f)).sum())
    known = spread(weights, problem) < ALIKE
    known &= noise * stability(weights, problem) < STABLE
    # A network that is not understood after all may grow beyond all bounds.
    with np.errstate(all="ignore"):
        return integrate(weights, problem, known, steps, target, tolerance)


def _check(
    many: Params, data: Statistics, *, learning_rate: Any, batch_size: Any
) -> None:
    """Raises ValueError for what would give numbers that mean nothing."""
    layers = sum(name.startswith("W") for name in many)
    wanted = {f"{kind}{i}" for kind in "Wb" for i in range(1, layers + 1)}
    ends = data.means.shape[1], len(data.frequencies)
    shapes = {name: np.shape(leaf) for name, leaf in many.items()}
    plain = layers > 2 and set(many) <= wanted and f"W{layers}" in many
    if not plain or any(
        len(shapes[f"W{i}"]) != 3 or shapes[f"W{i}"][2] != fan_in
        for i, fan_in in (
            (1, ends[0]),
            *((i + 1, shapes[f"W{i}"][1]) for i in range(1, layers)),
        )
    ):
        raise ValueError(
            "many: expected W1 .. WL, and b1 .. bL or none, of two or more hidden "
            f"layers, with an axis of networks and {ends[0]} inputs; found {shapes}"
        )
    if shapes[f"W{layers}"][1] != ends[1]:
        raise ValueError(
            f"many: expected {ends[1]} outputs, found {shapes[f'W{layers}'][1]}"
        )
    for name, values in {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    }.items():
        if not (np.asarray(values) > 0).all():
            raise ValueError(f"{name}: expected above 0, found {values}")


def leaving_steps(
    many: Params,
    data: Statistics,
    *,
    learning_rate: Any,
    batch_size: Any,
    **options: Any,
) -> np.ndarray:
    """``Course.leaves`` of any number of networks, (N,).

    Args:
        many: as for ``course``.
        data: as for ``course``.
        learning_rate: of SGD, one for all or (N,).
        batch_size: images a step, one for all or (N,).
        options: the other arguments of ``course``.
    """
    count = len(many["W1"])
    rates, sizes = (
        np.broadcast_to(np.asarray(values, float), (count,))
        for values in (learning_rate, batch_size)
    )

    def of_group(begin: int) -> np.ndarray:
        group = slice(begin, begin + GROUP)
        few = {name: leaf[group] for name, leaf in many.items()}
        found = course(
            few, data, learning_rate=rates[group], batch_size=sizes[group], **options
        )
        return found.leaves

    parts = [of_group(begin) for begin in range(0, count, GROUP)]
    return np.concatenate([np.zeros(0), *parts])

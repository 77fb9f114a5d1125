r"""When a deep sigmoid network leaves the plateau, from its initial weights.

A network on the plateau gives every image the same output, the frequencies f of the
labels, and plain SGD seems to do nothing. Yet after a time it leaves, early or late by
its weights, its rate and its batches. Two forces act meanwhile; here they are followed
without any image and without any batch.

**The network.** With all images alike, there is one input, their mean. Let h_l be what
it makes of it in layer l, s_l and t_l the first and second derivative of the units
there, p the output. One label y gives the error p - e_y at the top, and

    B_L = 1,    B_l = diag(s_l) W_{l+1}^T B_{l+1}

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

The labels of one batch push a network nowhere: the output answers in the next ones. But
the gradient at weights that shake is not the gradient at their mean. A change dH of the
curvature changes the mean loss by tr(dH C) / 2, so on average SGD follows the gradient
flow of

    loss + R,    R = -(1 / 2B) tr log(1 - r H / 2)  ~  (r / 4B) tr H

and looks for valleys that are wide (Blanc et al. 2020; Damian, Ma & Lee 2021). On the
plateau H has the eigenvalues of J Theta, so

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
change by some per cent, hundreds of steps of SGD: that is why it costs so little. What
is left out: v stays as it is, clouds pass the upper layers as points, p answers as if J
were that of f, and weights have no random walk. The last is why a network that stands
at a saddle, whose deterministic way out takes long, leaves earlier than predicted.

Gradient flow alone (``noise=0``) leaves by a power law: for L layers of weights of init
scale s and classes that are equally frequent the time grows like s^{-(L - 2)}, as Rawal
& DeWeese (2026) derive for L small layers. Unequal classes pull the last layer off its
small scale at once, and those below a little; the exponent is less. With noise the time
grows like ln(1 / s), as long as units differ: from s of about 0.01 down all units of a
layer stay copies of each other, and networks stop half way, with some 0.05 nats.

That SGD on average lowers the trace of the Hessian in a valley is Wei & Schwab's
(2019), with label noise Blanc et al.'s (2020) and Damian, Ma & Lee's (2021), at finite
steps Smith et al.'s (2021). Saxe et al. (2014) integrate the plateau of deep linear
networks; Arnaboldi et al. (2023) predict by a deterministic flow when two-layer
networks leave theirs; Ziyin et al. (2023) and Chen, Kunin et al. (2023) study SGD at
saddles.

    clouds        a training set as a few clouds
    forces        both forces, with their gradients by hand
    integration   the flow followed in time
    labelled      theory beside the labelled result of a study
    figures       pictures of how and when networks leave
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from snn_jax.activations import sigmoid
from snn_jax.networks import MLP, Params
from snn_jax.plateau.clouds import Statistics, statistics
from snn_jax.plateau.forces import prepared, spread
from snn_jax.plateau.integration import TOLERANCE, Course, integrate

__all__ = ["Course", "Statistics", "course", "covers", "interval", "statistics"]

# A network has left when its loss, noise included, is this share of H0 below H0: 0.1
# nats of ten equally frequent classes.
LEFT = 0.1 / np.log(10)
# Of what is predicted: four networks in five left between these, of 265 drawn at random
# as ``experiments/plateau.py`` draws them.
EARLY, LATE = 0.93, 1.044
# A network whose logits differ by more over the clouds, in standard deviation, is not
# on the plateau: its images are not alike.
ALIKE = 0.1
# Networks integrated at once: their arrays stay in the cache.
WIDTH = 64


def interval(leaves: Any) -> tuple[Any, Any]:
    """Where four networks in five leave, whose predicted time is so many steps."""
    leaves = np.asarray(leaves, float)
    return EARLY * leaves, LATE * leaves


def covers(network: Any) -> bool:
    """Whether forecasts are for it: an MLP of two or more layers of sigmoid units.

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
        tolerance: of the integration; 0.005 moves times by some 1 %.
    """
    count = len(many["W1"])
    rate, size = (
        np.broadcast_to(np.asarray(values, float), (count,))[:, None, None]
        for values in (learning_rate, batch_size)
    )
    weights, problem = prepared(many, data, rate=rate, batch_size=size, noise=noise)
    f = data.frequencies
    target = -(1 - left) * float((f * np.log(f)).sum())
    found = integrate(weights, problem, steps, target, tolerance)
    alike = spread(weights, problem) < ALIKE
    return found._replace(leaves=np.where(alike, found.leaves, np.nan))


def leaving_steps(
    many: Params, data: Statistics, *, learning_rate: Any, **options: Any
) -> np.ndarray:
    """``Course.leaves`` of any number of networks, (N,).

    Args:
        many: as for ``course``.
        data: as for ``course``.
        learning_rate: of SGD, one for all or (N,).
        options: the other arguments of ``course``.
    """
    count = len(many["W1"])
    rates = np.broadcast_to(np.asarray(learning_rate, float), (count,))

    def of_group(begin: int) -> np.ndarray:
        group = slice(begin, begin + WIDTH)
        few = {name: leaf[group] for name, leaf in many.items()}
        return course(few, data, learning_rate=rates[group], **options).leaves

    # NumPy lets go of the interpreter in its loops.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(of_group, range(0, count, WIDTH))))

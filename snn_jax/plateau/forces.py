"""The two forces on a network on the plateau, with their gradients by hand.

Networks are the first axis of every array. Names are those of the package's docstring:
B_l, Theta, J, C; a trailing axis of clouds or classes are the columns.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp

from snn_jax.networks import Params
from snn_jax.plateau.clouds import Statistics

# A normal variable as a few points with weights, exact for polynomials to degree 13.
POINTS, SHARES = np.polynomial.hermite_e.hermegauss(7)
SHARES = SHARES / SHARES.sum()

# z_1 of every cloud, (N, H, M), then W_2 .. W_L; with biases, a column more in each.
Weights = list[np.ndarray]


class Problem(NamedTuple):
    """What stays as it is while N networks train.

    Attributes:
        f: frequencies of the K labels.
        shares: of the M clouds in all images.
        targets: the labels of the clouds, one-hot, (K, M).
        products: of the mean images with each other, (M, M).
        v: variance of z_1 of each unit over the images of a cloud, (N, H).
        rate: learning rate, (N, 1, 1).
        batch_size: B, (N, 1, 1).
        biases: whether the networks have them.
        noise: 1, or 0 for gradient flow.
    """

    f: np.ndarray
    shares: np.ndarray
    targets: np.ndarray
    products: np.ndarray
    v: np.ndarray
    rate: np.ndarray
    batch_size: np.ndarray
    biases: bool
    noise: float

    @property
    def slope(self) -> np.ndarray:
        """J, of the softmax at f."""
        return np.diag(self.f) - np.outer(self.f, self.f)

    def of(self, networks: np.ndarray) -> "Problem":
        """The same of some of the networks."""
        return self._replace(
            v=self.v[networks],
            rate=self.rate[networks],
            batch_size=self.batch_size[networks],
        )


class Layers(NamedTuple):
    """A forward pass: values, slopes and curvatures of the hidden layers.

    Each is a list of (N, H, columns); values have a row of ones more with biases.
    """

    values: list[np.ndarray]
    slopes: list[np.ndarray]
    curvatures: list[np.ndarray]


def prepared(
    many: Params,
    data: Statistics,
    *,
    rate: np.ndarray,
    batch_size: np.ndarray,
    noise: float = 1.0,
) -> tuple[Weights, Problem]:
    """What ``flow`` takes, of N networks; rates and batch sizes are (N, 1, 1)."""
    biases = "b1" in many
    layers = range(2, 1 + sum(name.startswith("W") for name in many))
    W1 = np.asarray(many["W1"], float)
    rows = W1.reshape(-1, W1.shape[2])  # of all networks: one large product
    v = np.maximum(((rows @ data.covariance) * rows).sum(1), 0)  # rounding
    v = v.reshape(W1.shape[:2])
    weights = [W1 @ data.means.T]
    weights += [np.asarray(many[f"W{layer}"], float) for layer in layers]
    if biases:
        b1, *b = (np.asarray(many[f"b{layer}"], float) for layer in (1, *layers))
        pairs = zip(weights[1:], b, strict=True)
        columns = [np.concatenate([W, b_l[..., None]], axis=2) for W, b_l in pairs]
        weights = [weights[0] + b1[..., None], *columns]
    problem = Problem(
        f=data.frequencies,
        shares=data.shares,
        targets=np.eye(len(data.frequencies))[:, data.labels],
        # A bias is the weight of one more pixel, 1 in all images.
        products=data.means @ data.means.T + biases,
        v=v,
        rate=rate,
        batch_size=batch_size,
        biases=biases,
        noise=noise,
    )
    return weights, problem


def turned(matrix: np.ndarray) -> np.ndarray:
    """The transpose of each of many matrices."""
    return matrix.swapaxes(-1, -2)


def _inputs(values: np.ndarray, biases: bool) -> np.ndarray:
    """With a 1 for the bias."""
    ones = np.ones_like(values[:, :1])
    return np.concatenate([values, ones], axis=1) if biases else values


def _down(W: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """W^T, without the column of biases."""
    return turned(W[..., : slopes.shape[-2]])


def first_layer(z: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean value, slope and curvature of sigmoids of normal z with variance v."""
    value, slope, curvature = np.zeros((3, *z.shape))
    spread = np.sqrt(v)[..., None]
    for point, share in zip(POINTS, SHARES, strict=True):
        a = expit(z + point * spread)
        s = a * (1 - a)
        value += share * a
        slope += share * s
        curvature += share * s * (1 - 2 * a)
    return value, slope, curvature


def _forward(
    weights: Weights, first: tuple[np.ndarray, ...], biases: bool
) -> tuple[Layers, np.ndarray]:
    """All hidden layers above the first, and the logits."""
    layers = Layers([_inputs(first[0], biases)], [first[1]], [first[2]])
    for W in weights[1:-1]:
        a = expit(W @ layers.values[-1])
        s = a * (1 - a)
        layers.values.append(_inputs(a, biases))
        layers.slopes.append(s)
        layers.curvatures.append(s * (1 - 2 * a))
    return layers, weights[-1] @ layers.values[-1]


def _loss(
    weights: Weights, clouds: Layers, logits: np.ndarray, problem: Problem
) -> tuple[np.ndarray, Weights]:
    """The loss of all clouds, (N,), and its gradient, by the equations of backprop."""
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    loss = -(log_p * (problem.targets * problem.shares)).sum((1, 2))
    error = (np.exp(log_p) - problem.targets) * problem.shares
    gradient = []
    for layer in range(len(weights) - 1, 0, -1):
        gradient.append(error @ turned(clouds.values[layer - 1]))
        slopes = clouds.slopes[layer - 1]
        error = slopes * (_down(weights[layer], slopes) @ error)
    return loss, [error, *gradient[::-1]]


class Kernel(NamedTuple):
    """The mean image's pass: its layers, B_1 .. B_L, |h_0|^2 .. |h_{L-1}|^2, Theta."""

    layers: Layers
    errors: list[np.ndarray]
    squares: list[np.ndarray]
    theta: np.ndarray


def _kernel(
    weights: Weights, first: tuple[np.ndarray, ...], problem: Problem
) -> Kernel:
    """Of the mean over clouds of layer 1."""
    f, shares = problem.f, problem.shares
    mean = tuple((part @ shares)[..., None] for part in first)
    layers, _ = _forward(weights, mean, problem.biases)
    B = np.broadcast_to(np.eye(len(f)), (len(weights[0]), len(f), len(f)))
    errors = [B]
    for layer in range(len(weights) - 1, 0, -1):
        slopes = layers.slopes[layer - 1]
        errors.insert(0, slopes * (_down(weights[layer], slopes) @ errors[0]))
    mean_square = np.full((len(B), 1, 1), shares @ problem.products @ shares)
    squares = [mean_square, *(turned(h) @ h for h in layers.values)]
    pairs = zip(squares, errors, strict=True)
    theta: np.ndarray = sum(square * (turned(B) @ B) for square, B in pairs)
    return Kernel(layers, errors, squares, theta)


def _penalty(
    weights: Weights, kernel: Kernel, first: tuple[np.ndarray, ...], problem: Problem
) -> tuple[np.ndarray, Weights]:
    """R, (N,), and its gradient.

    dR = tr(C dTheta) with C = (r / 4B) (1 - X)^{-1} J, X = r J Theta / 2. Each |h|^2
    and each B_l is in Theta, so the derivative goes first up, through the B_l, then
    down, through the h_l.

    (1 - X)^{-1} is the sum of X^0 to X^7, and R that of its integrals, so that nothing
    breaks where X comes near 1 on the way.
    """
    one = np.eye(len(problem.f))
    X = problem.rate / 2 * (problem.slope @ kernel.theta)
    X2 = X @ X
    X4 = X2 @ X2
    inverse = (one + X) @ (one + X2) @ (one + X4)
    C = problem.rate / (4 * problem.batch_size) * (inverse @ problem.slope)
    powers = [X, X2, X @ X2, X4, X @ X4, X2 @ X4, X @ X2 @ X4, X4 @ X4]
    traces = [np.trace(P, axis1=1, axis2=2) / (i + 1) for i, P in enumerate(powers)]
    R = sum(traces) / (2 * problem.batch_size[:, 0, 0])

    values, slopes, curvatures = kernel.layers
    gradient = [np.zeros_like(W) for W in weights]
    of_slopes = []
    of_error = 2 * kernel.squares[0] * (kernel.errors[0] @ C)
    for layer in range(1, len(weights)):
        W, B, s = weights[layer], kernel.errors[layer], slopes[layer - 1]
        below = s * of_error
        of_slopes.append((of_error * (_down(W, s) @ B)).sum(2, keepdims=True))
        gradient[layer][..., : s.shape[1]] += B @ turned(below)
        direct = 2 * kernel.squares[layer] * (B @ C)
        of_error = direct + W[..., : s.shape[1]] @ below
    of_z = np.zeros(0)
    for layer in range(len(weights) - 1, 0, -1):
        W, B, s = weights[layer], kernel.errors[layer], slopes[layer - 1]
        strength = (turned(B) @ B * C).sum((1, 2), keepdims=True)
        of_value = 2 * strength * values[layer - 1][:, : s.shape[1]]
        if of_z.size:
            gradient[layer] += of_z @ turned(values[layer - 1])
            of_value = of_value + _down(W, s) @ of_z
        of_z = s * of_value + curvatures[layer - 1] * of_slopes[layer - 1]
        if layer == 1:
            # The mean over clouds of what differs from cloud to cloud.
            of_z = first[1] * of_value + first[2] * of_slopes[0]
            of_z = of_z * problem.shares
    gradient[0] = of_z
    return R, gradient


def flow(weights: Weights, problem: Problem) -> tuple[np.ndarray, Weights, Kernel]:
    """Loss and R together, (N,), and how the weights change per step of SGD."""
    first = first_layer(weights[0], problem.v)
    clouds, logits = _forward(weights, first, problem.biases)
    loss, of_loss = _loss(weights, clouds, logits, problem)
    kernel = _kernel(weights, first, problem)
    R, of_noise = _penalty(weights, kernel, first, problem)
    change = [
        -problem.rate * (a + problem.noise * b)
        for a, b in zip(of_loss, of_noise, strict=True)
    ]
    # z_1 moves by the gradient of W_1, seen by the mean images.
    change[0] = change[0] @ problem.products
    return loss + problem.noise * R, change, kernel


def stability(weights: Weights, problem: Problem) -> np.ndarray:
    """The largest eigenvalue of r J Theta / 2, (N,): from 1 on SGD does not settle."""
    kernel = _kernel(weights, first_layer(weights[0], problem.v), problem)
    X = problem.rate / 2 * (problem.slope @ kernel.theta)
    largest: np.ndarray = np.abs(np.linalg.eigvals(X)).max(1)
    return largest


def spread(weights: Weights, problem: Problem) -> np.ndarray:
    """Standard deviation of the logits over clouds, (N,)."""
    first = first_layer(weights[0], problem.v)
    _, logits = _forward(weights, first, problem.biases)
    away = logits - (logits @ problem.shares)[..., None]
    spread: np.ndarray = np.sqrt((away**2 @ problem.shares).mean(1))
    return spread

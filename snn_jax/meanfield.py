"""What theory predicts for the networks before their first step, and on the plateau.

Weights are independent normals of standard deviation s, the init scale, so a
pre-activation z = W a is normal with variance s^2 |a|^2. Mean field theory takes a
layer as so wide that |a|^2 is no longer random; then one number a layer, q_l = E z_l^2,
says all (Poole et al. 2016; Schoenholz et al. 2017):

    q_1 = s^2 |x|^2 + sigma_b^2
    q_{l+1} = sigma_w^2 E f(sqrt(q_l) g)^2 + sigma_b^2      g ~ N(0, 1)

with sigma_w^2 = fan-in x s^2. The same numbers are exact at any width in
``exact_gradient_rms``, where |a|^2 stays random.

Expectations over g are sums over a fine grid; everything is float64 NumPy.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, softmax

from snn_jax.networks import Architecture

Function = Callable[[np.ndarray], np.ndarray]

# f and f' of each activation.
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (expit, lambda z: expit(z) * expit(-z)),
    "tanh": (np.tanh, lambda z: 4 * expit(2 * z) * expit(-2 * z)),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "identity": (lambda z: z, np.ones_like),
    "centred_sigmoid": (
        lambda z: np.tanh(z / 2),
        lambda z: 2 * expit(z) * expit(-z),
    ),
    "scaled_tanh": (
        lambda z: 1.7159 * np.tanh(2 / 3 * z),
        lambda z: (1.7159 * 8 / 3) * expit(4 / 3 * z) * expit(-4 / 3 * z),
    ),
}

# Beyond 10 standard deviations lies less than 1e-22 of a normal variable; the step
# resolves a sigmoid of a pre-activation with a standard deviation of 30.
# An even number of points leaves out 0, where ReLU has no slope.
GRID = np.linspace(-10, 10, 4000)
WEIGHTS = np.exp(-(GRID**2) / 2)
WEIGHTS /= WEIGHTS.sum()


def _mean_square(function: Function, q: float | np.ndarray) -> np.ndarray:
    """E function(sqrt(q) g)^2, for each q."""
    z = np.sqrt(np.asarray(q, float))[..., None] * GRID
    return np.asarray(function(z) ** 2 @ WEIGHTS)


def length_map(
    q: float | np.ndarray, *, activation: str, sigma_w: float, sigma_b: float = 0.0
) -> np.ndarray:
    """The variance of the next layer's pre-activations (Poole et al. 2016).

    Args:
        q: variance of this layer's pre-activations, any shape.
        activation: a key of ``FUNCTIONS``.
        sigma_w: sqrt(fan-in) times the standard deviation of the weights.
        sigma_b: standard deviation of the biases.

    >>> float(length_map(3.0, activation="identity", sigma_w=2.0)).__round__(9)
    12.0
    """
    return np.asarray(
        sigma_w**2 * _mean_square(FUNCTIONS[activation][0], q) + sigma_b**2
    )


def fixed_point(*, activation: str, sigma_w: float, sigma_b: float = 0.0) -> float:
    """q*, the variance that the length map settles at, from q = 1; inf if it grows."""
    q = 1.0
    for _ in range(10_000):
        new = float(
            length_map(q, activation=activation, sigma_w=sigma_w, sigma_b=sigma_b)
        )
        if abs(new - q) <= 1e-14 * new:
            return new
        if new > 1e12:
            return np.inf
        q = new
    return q


def chi_1(*, activation: str, sigma_w: float, sigma_b: float = 0.0) -> float:
    """Mean square factor of a gradient, and of a small difference, from layer to layer.

    sigma_w^2 E f'(sqrt(q*) g)^2 (Schoenholz et al. 2017): below 1 gradients
    vanish and images become alike, above 1 gradients explode and images part.
    """
    q = fixed_point(activation=activation, sigma_w=sigma_w, sigma_b=sigma_b)
    q = min(max(q, 1e-12), 1e12)  # at 0 and at infinity f' is that near them
    return float(sigma_w**2 * _mean_square(FUNCTIONS[activation][1], q))


def depth_scale(*, activation: str, sigma_w: float, sigma_b: float = 0.0) -> float:
    """Layers over which squared gradients change by a factor e: 1 / |ln chi_1|.

    Below criticality that is xi_c of Schoenholz et al. 2017, the depth to which
    the correlation of two nearby images reaches; infinite at chi_1 = 1.
    """
    factor = chi_1(activation=activation, sigma_w=sigma_w, sigma_b=sigma_b)
    return float(1 / abs(np.log(factor))) if factor != 1 else np.inf


def critical_sigma_w(*, activation: str, sigma_b: float = 0.0) -> float:
    """sigma_w at which chi_1 = 1.

    For tanh without biases it is exactly 1, and the length map settles so slowly there
    that what is found is 1.0004.

    >>> sigma_w = critical_sigma_w(activation="tanh", sigma_b=0.05**0.5)
    >>> print(f"{sigma_w**2:.4f}")  # about 1.76 in Schoenholz et al. 2017
    1.7610
    """

    def excess(sigma_w: float) -> float:
        factor = chi_1(activation=activation, sigma_w=sigma_w, sigma_b=sigma_b)
        return float(np.log(factor))

    return float(brentq(excess, 0.1, 30.0, xtol=1e-10))


def _expect_plain(architecture: Architecture) -> None:
    if not architecture.plain:
        raise ValueError(
            "architecture: expected no normalization and no residual connections, "
            f"which no theory here covers, found {architecture}"
        )


def pre_activation_variances(
    architecture: Architecture,
    scale: float,
    squared_norms: np.ndarray,
    *,
    bias_scale: float = 0.0,
) -> np.ndarray:
    """q_1 .. q_L of every image.

    Args:
        architecture: of the network.
        scale: standard deviation s of every initial weight.
        squared_norms: |x|^2 of the images, (B,).
        bias_scale: standard deviation of the initial biases.

    Returns:
        (L, B).

    Raises:
        ValueError: layers that normalize or have residual connections.
    """
    _expect_plain(architecture)
    q = [scale**2 * np.asarray(squared_norms, float) + bias_scale**2]
    for fan_in in architecture.sizes[1:-1]:
        q.append(
            length_map(
                q[-1],
                activation=architecture.activation,
                sigma_w=fan_in**0.5 * scale,
                sigma_b=bias_scale,
            )
        )
    return np.array(q)


def _difference(activation: str, m: np.ndarray, h: np.ndarray) -> np.ndarray:
    """f(m + h) - f(m - h) for h >= 0, with all its digits however small h is."""
    if activation == "sigmoid":
        # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), and a - b = 2 h.
        return np.asarray(expit(m + h) * expit(h - m) * -np.expm1(-2 * h))
    if activation == "tanh":
        doubled: np.ndarray = 2 * _difference("sigmoid", 2 * m, 2 * h)
        return doubled
    if activation == "centred_sigmoid":
        return 2 * _difference("sigmoid", m, h)
    if activation == "scaled_tanh":
        return 1.7159 * _difference("tanh", 2 / 3 * m, 2 / 3 * h)
    if activation == "relu":
        return np.asarray(np.where(m - h >= 0, 2 * h, np.maximum(m + h, 0)))
    return np.asarray(2 * h + 0 * m)


def image_differences(
    architecture: Architecture,
    scale: float,
    squared_norm: float,
    squared_distance: float,
    *,
    bias_scale: float = 0.0,
) -> np.ndarray:
    """Mean squared difference of two images' pre-activations, d_1 .. d_L.

    Two images with equal |x|^2 have pre-activations u, v of equal variance q. Then
    their mean m = (u + v) / 2 and half difference h = (u - v) / 2 are independent, with
    variances q - d / 4 and d / 4, and d_{l+1} = sigma_w^2 E (f(m + h) - f(m - h))^2.
    The difference is followed, not the correlation, since 1 - c falls below 1e-20.

    Args:
        architecture: of the network.
        scale: standard deviation s of every initial weight.
        squared_norm: |x|^2 of both images.
        squared_distance: |x - x'|^2.
        bias_scale: standard deviation of the initial biases.
    """
    q = pre_activation_variances(
        architecture, scale, np.array([squared_norm]), bias_scale=bias_scale
    )[:, 0]
    grid = np.linspace(-10, 10, 400)  # two dimensions need not be as fine
    weights = np.exp(-(grid**2) / 2)
    weights /= weights.sum()
    d = [scale**2 * squared_distance]
    for fan_in, variance in zip(architecture.sizes[1:-1], q[:-1], strict=True):
        m = np.sqrt(max(variance - d[-1] / 4, 0.0)) * grid[:, None]
        # The square is even in h, so |h| will do.
        h = np.sqrt(d[-1] / 4) * np.abs(grid)[None, :]
        squares = _difference(architecture.activation, m, h) ** 2
        d.append(fan_in * scale**2 * float(weights @ squares @ weights))
    return np.array(d)


def _top_error(q: np.ndarray, num_classes: int) -> np.ndarray:
    """E |p - e_y|^2 for logits of variance q and labels that are equally frequent.

    |p - e_y|^2 = |p|^2 - 2 p_y + 1, and p_y is 1 / K on average over the labels.
    """
    normals = np.random.default_rng(0).normal(size=(20_000, num_classes))
    points = np.geomspace(max(q.min(), 1e-12), max(q.max(), 1e-12) * (1 + 1e-9), 24)
    squares = [(softmax(r * normals, axis=1) ** 2).sum(1).mean() for r in points**0.5]
    top: np.ndarray = np.interp(q, points, squares) + 1 - 2 / num_classes
    return top


def gradient_rms(
    architecture: Architecture,
    scale: float,
    squared_norms: np.ndarray,
    *,
    bias_scale: float = 0.0,
) -> np.ndarray:
    """Mean field prediction of ``signals.gradient_rms`` over many networks.

    delta_l = f'(z_l) * (W_{l+1}^T delta_{l+1}), and theory takes the weights on the way
    down as independent of those on the way up: unit by unit E delta_l^2 = s^2 E f'^2
    |delta_{l+1}|^2 (Schoenholz et al. 2017). For one image |dW_l|^2 =
    |delta_l|^2 |a_{l-1}|^2.

    Args:
        architecture: of the network.
        scale: standard deviation s of every initial weight.
        squared_norms: |x|^2 of the images, (B,).
        bias_scale: standard deviation of the initial biases.

    Returns:
        (L,), rms over networks, images and weights, in nats per unit of weight.
    """
    function, derivative = FUNCTIONS[architecture.activation]
    sizes = architecture.sizes
    q = pre_activation_variances(
        architecture, scale, squared_norms, bias_scale=bias_scale
    )
    error = _top_error(q[-1], sizes[-1])
    squares = np.zeros(architecture.num_layers)
    for layer in range(architecture.num_layers, 0, -1):
        if layer < architecture.num_layers:
            slopes = _mean_square(derivative, q[layer - 1])
            error = sizes[layer] * scale**2 * slopes * error
        if layer == 1:
            inputs = np.asarray(squared_norms, float)
        else:
            inputs = sizes[layer - 1] * _mean_square(function, q[layer - 2])
        squares[layer - 1] = np.mean(error * inputs) / (sizes[layer] * sizes[layer - 1])
    return np.sqrt(squares)


def exact_gradient_rms(
    architecture: Architecture,
    scale: float,
    squared_norms: np.ndarray,
    *,
    num_samples: int = 200_000,
    seed: int = 0,
) -> np.ndarray:
    """The same without taking the layers as wide: exact, up to sampling, for any width.

    Derived for this package; no source known. Biases are zero.

    Up. Given a_l, the weights W_{l+1} are fresh, so z_{l+1} = W_{l+1} a_l has
    independent normal entries of variance s^2 |a_l|^2. The forward pass of one image is
    thus a chain that n normals drive from layer to layer, and can be sampled without
    any weights.

    Down. Now the weights are not fresh: the forward pass knows W_{l+1} a_l = z_{l+1}.
    But that is all it knows. Split W_{l+1} along a_l and across it:

        W_{l+1} = z_{l+1} a_l^T / |a_l|^2 + V P,     P = 1 - a_l a_l^T / |a_l|^2

    where V is normal with variance s^2 and independent of the forward pass, since for
    normal weights W a and W P are independent. Write a, z', D for a_l, z_{l+1} and the
    diagonal matrix of f'(z_l), and delta' for delta_{l+1}, which contains only weights
    above, so that V is independent of it too. Then

        delta_l = D W_{l+1}^T delta' = D a (z' . delta') / |a|^2 + D P V^T delta'

    and V^T delta' is normal with variance s^2 |delta'|^2. Take the mean over V; the
    mixed term vanishes. With A_l = E |delta_l|^2 and B_l = E (z_l . delta_l)^2:

        A_l = s^2 (S - T / |a|^2) A_{l+1} + T / |a|^4 B_{l+1}
        B_l = s^2 (X - Y / |a|^2) A_{l+1} + Y / |a|^4 B_{l+1}

        S = sum f'^2     T = sum (f' a)^2     X = sum (z f')^2     Y = (sum z f' a)^2

    where sum (...)^2 - T / |a|^2 and the like are |P ...|^2. So two numbers close the
    recursion. It starts at the top with delta_L = p - e_y, the mean taken over K
    equally frequent labels:

        A_L = |p|^2 + 1 - 2 / K
        B_L = (z . p)^2 - 2 (z . p) mean(z) + mean(z^2)

    Args:
        architecture: of the network, without biases.
        scale: standard deviation s of every initial weight.
        squared_norms: |x|^2 of the images, (B,), drawn from with replacement.
        num_samples: forward passes; the error falls with its square root, and is 0.2 %
            at scale 1.
        seed: of the samples.

    Returns:
        (L,), as from ``gradient_rms``.

    Raises:
        ValueError: biases, normalization or residual connections.
    """
    _expect_plain(architecture)
    if architecture.biases:
        raise ValueError("architecture: expected no biases, found biases")
    function, derivative = FUNCTIONS[architecture.activation]
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(squared_norms, float), num_samples)
    input_squares, z, a = [drawn], [], []
    for size in architecture.sizes[1:]:
        deviation = scale * np.sqrt(input_squares[-1])[:, None]
        z.append(deviation * rng.normal(size=(num_samples, size)))
        a.append(function(z[-1]))
        input_squares.append((a[-1] ** 2).sum(axis=1))

    p = softmax(z[-1], axis=1)
    along = (z[-1] * p).sum(axis=1)
    A = (p**2).sum(axis=1) + 1 - 2 / architecture.sizes[-1]
    B = along**2 - 2 * along * z[-1].mean(axis=1) + (z[-1] ** 2).mean(axis=1)
    squares = np.zeros(architecture.num_layers)
    for layer in range(architecture.num_layers, 0, -1):
        if layer < architecture.num_layers:
            slope, a_l, z_l = derivative(z[layer - 1]), a[layer - 1], z[layer - 1]
            norm = input_squares[layer]
            # ReLUs that are all off: nothing goes up, and P is the identity.
            inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
            S, T = (slope**2).sum(axis=1), ((slope * a_l) ** 2).sum(axis=1)
            X = ((z_l * slope) ** 2).sum(axis=1)
            Y = (z_l * slope * a_l).sum(axis=1) ** 2
            A, B = (
                scale**2 * (S - T * inverse) * A + T * inverse**2 * B,
                scale**2 * (X - Y * inverse) * A + Y * inverse**2 * B,
            )
        weights = architecture.sizes[layer] * architecture.sizes[layer - 1]
        squares[layer - 1] = np.mean(A * input_squares[layer - 1]) / weights
    return np.sqrt(squares)


def plateau_drift_rate(
    *,
    learning_rate: float,
    batch_size: int,
    frequencies: np.ndarray,
    input_square: float | np.ndarray,
    slope: float | np.ndarray,
    top_square: float | np.ndarray = 0.0,
) -> float | np.ndarray:
    """How fast label noise pushes the top hidden layer to 0 on the plateau.

    Derived for this package; no source known. The effect is Glorot & Bengio's 2010
    (Fig. 2): the top hidden layer of a deep sigmoid network goes to 0 first.

    On the plateau all images look alike: a, the top hidden layer, is one column, and
    the logits z = W_L a are such that p is near f, the frequencies of the labels. Let e
    be the error of the logits. A step of SGD sees g = p - (mean label of the batch) = H
    e + noise, where H = diag(f) - f f^T is the slope of the softmax and the noise of a
    batch of B labels has covariance H / B. With r = learning rate x |a|^2 the logits
    move by -r g, an Ornstein-Uhlenbeck process; in balance r (H C + C H) = r^2 H / B
    for the covariance C of e, so C = r / (2 B), and in discrete steps r / (2 B - r B
    lambda) for an eigenvalue lambda of H, which is near 1 / K.

    The error stays in the weights: W_L = (...) + e a^T / |a|^2. So the error that goes
    down, W_L^T g, has a mean although g has none: a E(e . g) / |a|^2 = a tr(H C) /
    |a|^2 = a x learning rate x tr H / (2 B). Through the slope f' it moves the weights
    below, whose inputs are a', and through f' again the activations:

        change of a a step = -(learning rate^2 / B) (tr H / 2) |a'|^2 f'^2 a

    Args:
        learning_rate: of SGD.
        batch_size: B.
        frequencies: f, of the training labels, (K,).
        input_square: |a'|^2, of the layer below the top hidden layer.
        slope: f' of the top hidden layer's units.
        top_square: |a|^2, for the correction at finite learning rates.

    Returns:
        The fraction by which the top hidden layer shrinks a step.
    """
    f = np.asarray(frequencies, float)
    trace = 1 - float((f**2).sum())
    rate = learning_rate**2 / batch_size * trace / 2 * input_square * slope**2
    return rate / (1 - learning_rate * top_square / (2 * len(f)))

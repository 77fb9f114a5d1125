"""Networks as pure functions over a pytree of parameters.

A network of L layers maps an image a_0 = x to its logits z_L:

    z_l = W_l a_{l-1} + b_l      pre-activations of layer l = 1 .. L
    a_l = f(z_l)                 activations of the hidden layers l = 1 .. L - 1

and softmax(z_L) are the probabilities of the classes. Weights are stored as
(fan_out, fan_in), so the code reads like the equation. A batch is a matrix with one
image a column: then the same line, ``W @ a + b``, serves one image and many.

Two remedies change these lines. With normalization the sums u_l = W_l a_{l-1} of a
hidden layer get mean 0 and variance 1, and a gain of their own: z_l = g_l n(u_l) + b_l.
With residual connections a hidden layer adds to its input instead of replacing it,
a_l = a_{l-1} + f(z_l), wherever the two have as many units.

Axis letters, once for the package: S init scales, R seeds (runs), N networks, B batch,
D inputs, H hidden units, K classes, L layers, T epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Inexact, Int, Key

# One leaf per array of the mathematics: {"W1": ..., "b1": ..., "W2": ...}. A gradient
# is the same dictionary, so grads["W1"] is dW1.
Params = dict[str, Array]

# A batch, one image a row, pixels in [0, 1]; and its labels in [0, K). A ``Dataset``
# holds NumPy arrays, and they can be passed as they are.
Images = Inexact[Array | np.ndarray, "B D"]
Labels = Int[Array | np.ndarray, " B"]
# Other images beside a batch, as many as there are.
Reference = Inexact[Array | np.ndarray, "_ D"]


class Activation(NamedTuple):
    """f, its derivative f' as a function of z, and the largest value f' takes."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    steepest: float


def _differentiable(activation: Activation) -> Activation:
    """Makes autodiff use the derivative given.

    JAX's own rules for sigmoid and tanh multiply by 1 - a. Once a rounds to 1 that is
    0, and shortly before it has few right digits: at large init scales whole gradients
    would be rounding errors.
    """
    function = jax.custom_jvp(activation.function)
    function.defjvps(lambda tangent, _, z: tangent * activation.derivative(z))
    return activation._replace(function=function)


ACTIVATIONS: dict[str, Activation] = {
    # s = 1 / (1 + exp(-z)), so s' = exp(-z) / (1 + exp(-z))^2 = s (1 - s), and
    # 1 - s(z) = s(-z) without subtracting.
    "sigmoid": _differentiable(
        Activation(
            jax.nn.sigmoid, lambda z: jax.nn.sigmoid(z) * jax.nn.sigmoid(-z), 0.25
        )
    ),
    # tanh(z) = 2 s(2 z) - 1, so tanh' = 4 s'(2 z), which is 1 - tanh^2.
    "tanh": _differentiable(
        Activation(
            jnp.tanh, lambda z: 4 * jax.nn.sigmoid(2 * z) * jax.nn.sigmoid(-2 * z), 1.0
        )
    ),
    # The real part decides, so that the complex-step gradient check can pass through.
    # At z = 0 the derivative is 0 by convention.
    "relu": Activation(
        lambda z: jnp.where(z.real > 0, z, 0),
        lambda z: (z.real > 0).astype(z.dtype),
        1.0,
    ),
    "identity": Activation(lambda z: z, jnp.ones_like, 1.0),
    # 2 s(z) - 1 = tanh(z / 2): the sigmoid without its mean of 1/2, twice as steep.
    "centred_sigmoid": _differentiable(
        Activation(
            lambda z: jnp.tanh(z / 2),
            lambda z: 2 * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z),
            0.5,
        )
    ),
    # LeCun et al. 1998, "Efficient BackProp", section 4.4: f(1) = 1, f(-1) = -1, and
    # inputs of variance 1 give outputs of variance about 1.
    "scaled_tanh": _differentiable(
        Activation(
            lambda z: 1.7159 * jnp.tanh(2 / 3 * z),
            lambda z: (
                (1.7159 * 8 / 3)
                * jax.nn.sigmoid(4 / 3 * z)
                * jax.nn.sigmoid(-4 / 3 * z)
            ),
            1.7159 * 2 / 3,
        )
    ),
}

# What is normalized together: the units of one image (Ba, Kiros & Hinton 2016, "Layer
# normalization"), or the images of a batch for one unit (Ioffe & Szegedy 2015, "Batch
# normalization"). Axis 0 of a layer's matrix runs over units, axis 1 over images.
NORMALIZED_AXIS = {"layer": 0, "batch": 1}
# Added to the variance, as in both papers, so that equal numbers do no harm.
EPSILON = 1e-5


def _variance_scaling(
    variance: float, mode: Any, distribution: Any
) -> Callable[..., Array]:
    return jax.nn.initializers.variance_scaling(
        variance, mode, distribution, in_axis=1, out_axis=0
    )


def _centred_orthogonal(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    """Rows and columns sum to 0; else, all singular values are 1.

    A sigmoid is a tanh in disguise: s(z) = 1/2 + tanh(z/2) / 2. The 1/2 of all units
    together adds to each z a number that says nothing of the image and pushes the unit
    towards saturation, as a large bias would. Weights whose rows sum to 0 do not see
    it. What is left are the directions along which units differ, one fewer than there
    are units. The rows of a Helmert matrix are orthonormal and span them; an orthogonal
    matrix Q, drawn in these coordinates, turns those of one layer into those of the
    next:

        W = H_out^T Q H_in

    At gain 4, which undoes s'(0) = 1/4, a deep network passes on small differences and
    small errors as they are, at every depth: dynamical isometry (Saxe et al. 2014), on
    all directions but one. We know of no earlier source for sigmoid units.
    """
    fan_out, fan_in = shape
    if min(shape) < 2:
        raise ValueError(
            f"centred_orthogonal: expected at least 2 units a layer, found {min(shape)}"
        )
    draw = jax.nn.initializers.orthogonal(1.0)
    Q: Array = draw(key, (fan_out - 1, fan_in - 1), dtype)
    H_out, H_in = scipy.linalg.helmert(fan_out), scipy.linalg.helmert(fan_in)
    return jnp.asarray(H_out.T, dtype) @ Q @ jnp.asarray(H_in, dtype)


# Each draws a (fan_out, fan_in) matrix at gain 1.
INITIALIZERS: dict[str, Callable[..., Array]] = {
    # N(0, 1): the gain is the standard deviation of every weight.
    "normal": jax.nn.initializers.normal(1.0),
    # LeCun et al. 1998, "Efficient BackProp", eq. 16: variance 1 / fan_in.
    "lecun": _variance_scaling(1.0, "fan_in", "normal"),
    # Glorot & Bengio 2010, eq. 12 and 16: variance 2 / (fan_in + fan_out).
    "glorot": _variance_scaling(1.0, "fan_avg", "normal"),
    "glorot_uniform": _variance_scaling(1.0, "fan_avg", "uniform"),
    # He et al. 2015, eq. 10: variance 2 / fan_in, for ReLU.
    "he": _variance_scaling(2.0, "fan_in", "normal"),
    # Saxe et al. 2014: all singular values equal to 1.
    "orthogonal": jax.nn.initializers.orthogonal(1.0),
    "centred_orthogonal": _centred_orthogonal,
}


@dataclass(frozen=True)
class Architecture:
    """What fixes the shapes of a network; hashable, so jit can take it as static.

    Attributes:
        sizes: units per layer, from the inputs D to the classes K.
        activation: of the hidden layers, a key of ``ACTIVATIONS``.
        biases: whether every layer has a bias vector.
        normalization: of hidden layers: "none", "layer" or "batch".
        residual: whether hidden layers add to their inputs.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown activation or
            normalization.

    >>> DEEP.num_layers
    6
    >>> Architecture((784, 30, 10), "swish")
    Traceback (most recent call last):
    ValueError: activation: expected one of sigmoid, tanh, relu, identity, \
centred_sigmoid, scaled_tanh, found swish
    """

    sizes: tuple[int, ...]
    activation: str = "sigmoid"
    biases: bool = True
    normalization: str = "none"
    residual: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))  # a list has no hash
        if len(self.sizes) < 2 or any(size < 1 for size in self.sizes):
            raise ValueError(
                f"sizes: expected two or more sizes of at least 1, found {self.sizes}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {', '.join(ACTIVATIONS)}, "
                f"found {self.activation}"
            )
        if self.normalization not in ("none", *NORMALIZED_AXIS):
            raise ValueError(
                "normalization: expected none, layer or batch, found "
                f"{self.normalization}"
            )

    @property
    def plain(self) -> bool:
        """Whether layers are z = W a + b and a = f(z), and nothing else."""
        return self.normalization == "none" and not self.residual

    def normalizes(self, layer: int) -> bool:
        """Whether layer 1 .. L normalizes its sums: all but the last, if any."""
        return self.normalization != "none" and layer < self.num_layers

    def skips(self, layer: int) -> bool:
        """Whether layer 1 .. L adds to its input."""
        inside = 1 < layer < self.num_layers
        return self.residual and inside and self.sizes[layer - 1] == self.sizes[layer]

    @property
    def num_layers(self) -> int:
        """L, the number of weight matrices."""
        return len(self.sizes) - 1


# The two networks of the assignment.
SHALLOW = Architecture((784, 20, 10), "sigmoid", biases=True)
DEEP = Architecture((784, 10, 10, 10, 10, 10, 10), "sigmoid", biases=False)


def init(
    key: Key[Array, ""],
    architecture: Architecture,
    *,
    initializer: str = "normal",
    gain: Float[Array, ""] | float = 1.0,
    bias_scale: Float[Array, ""] | float = 0.0,
) -> Params:
    """Draws the initial parameters of one network, in float32.

    Args:
        key: typed key; the weights of layer l depend on (key, l) alone.
        architecture: shapes of the leaves.
        initializer: a key of ``INITIALIZERS``.
        gain: multiplies every weight; for "normal" it is the init scale, the standard
            deviation of every weight. May be traced: a new gain never compiles again.
        bias_scale: standard deviation of the biases, 0 for zero biases.

    Returns:
        Leaves ``W1 .. WL`` of shape (fan_out, fan_in); with biases, ``b1 .. bL`` of
        shape (fan_out,); and, with normalization, gains of 1, ``g1 .. g(L-1)``.

    Raises:
        ValueError: unknown initializer.

    >>> params = init(jax.random.key(0), SHALLOW, gain=0.1)
    >>> {name: leaf.shape for name, leaf in params.items()}
    {'W1': (20, 784), 'b1': (20,), 'W2': (10, 20), 'b2': (10,)}
    """
    if initializer not in INITIALIZERS:
        raise ValueError(
            f"initializer: expected one of {', '.join(INITIALIZERS)}, "
            f"found {initializer}"
        )
    draw = INITIALIZERS[initializer]
    params: Params = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(architecture.sizes), start=1):
        W_key, b_key = jax.random.split(jax.random.fold_in(key, layer))
        # float32 whatever the precision of the run: float64 draws are other numbers.
        W = gain * draw(W_key, (fan_out, fan_in), jnp.float32)
        params[f"W{layer}"] = W.astype(jnp.float32)
        if architecture.biases:
            b = bias_scale * jax.random.normal(b_key, (fan_out,), jnp.float32)
            params[f"b{layer}"] = b.astype(jnp.float32)
        if architecture.normalizes(layer):
            params[f"g{layer}"] = jnp.ones(fan_out, jnp.float32)
    return params


def normalize(
    u: Inexact[Array, "H B"], normalization: str, *, num_reference: int = 0
) -> tuple[Inexact[Array, "H B"], Inexact[Array, "..."]]:
    """Subtracts the mean and divides by the standard deviation.

    Args:
        u: sums of a layer, one image a column.
        normalization: "layer", over the units of each image, or "batch", over images.
        num_reference: for "batch", the number of images, the first ones, that mean and
            variance are taken from; by default all.

    Returns:
        The normalized sums, and the standard deviations divided by: (1, B) or (H, 1).

    >>> n, std = normalize(jnp.array([[1.0, 3.0], [5.0, 5.0]]), "batch")
    >>> print(n.round(2), std.round(2))
    [[-1.  1.]
     [ 0.  0.]] [[1.]
     [0.]]
    """
    axis = NORMALIZED_AXIS[normalization]
    of = u[:, :num_reference] if axis == 1 and num_reference else u
    mean = of.mean(axis=axis, keepdims=True)
    # Not jnp.var: of complex numbers, in the complex-step check, it takes |.|^2.
    variance = ((of - mean) ** 2).mean(axis=axis, keepdims=True)
    std = jnp.sqrt(variance + EPSILON)
    return (u - mean) / std, std


def forward(
    params: Params,
    x: Images,
    *,
    architecture: Architecture,
    reference: Reference | None = None,
) -> tuple[list[Array], list[Array]]:
    """The forward pass, with everything that a backward pass needs.

    Args:
        params: as from ``init``.
        x: images, one a row, pixels in [0, 1].
        architecture: of the network.
        reference: for batch normalization, the images that mean and variance are taken
            from, passed through the network beside x; by default x itself, as in
            training. What is predicted for one image must not depend on the others: an
            evaluation gives training images here.

    Returns:
        The inputs ``[a_0, .., a_{L-1}]`` and the pre-activations ``[z_1, .., z_L]`` of
        the layers 1 to L, each with one image a column: (fan_in, B) and (fan_out, B).
        The last pre-activation holds the logits.

    Raises:
        ValueError: x is not a batch.
    """
    if x.ndim != 2:  # biases would broadcast one image to a batch without a word
        raise ValueError(f"images: expected shape (B, D), found {x.shape}")
    activation = ACTIVATIONS[architecture.activation].function
    inputs, pre_activations = [], []
    a, num_reference = jnp.asarray(x).T, 0
    if reference is not None and architecture.normalization == "batch":
        num_reference = reference.shape[0]
        a = jnp.concatenate([jnp.asarray(reference).T, a], axis=1)
    for layer in range(1, architecture.num_layers + 1):
        z = params[f"W{layer}"] @ a
        if architecture.normalizes(layer):
            z, _ = normalize(z, architecture.normalization, num_reference=num_reference)
            z = params[f"g{layer}"][:, None] * z
        if architecture.biases:
            z = z + params[f"b{layer}"][:, None]
        inputs.append(a[:, num_reference:])
        pre_activations.append(z[:, num_reference:])
        a = a + activation(z) if architecture.skips(layer) else activation(z)
    return inputs, pre_activations


def apply(
    params: Params,
    x: Images,
    *,
    architecture: Architecture,
    reference: Reference | None = None,
) -> Inexact[Array, "B K"]:
    """The logits of a batch of images, one image a row; arguments as for ``forward``.

    >>> params = init(jax.random.key(0), DEEP, gain=1.0)
    >>> apply(params, jnp.zeros((32, 784)), architecture=DEEP).shape
    (32, 10)
    """
    _, pre_activations = forward(
        params, x, architecture=architecture, reference=reference
    )
    return pre_activations[-1].T

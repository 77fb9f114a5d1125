"""Networks: two pure functions, ``init(key, **point)`` and ``apply(params, x)``.

``Network`` holds any such pair. ``MLP`` is the family that this package is about. A
network of L layers maps an image a_0 = x to its logits z_L:

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

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Int, Key

from snn_jax.activations import Activation, sigmoid
from snn_jax.initializers import Initializer, normal

# Of an MLP, one leaf per array of the mathematics, {"W1": ..., "b1": ..., "W2": ...};
# of other networks any pytree. A gradient is the same tree, so grads["W1"] is dW1.
Params = Any

# A batch, an example a row, behind which inputs have any shape; and its labels in
# [0, K). NumPy arrays can be passed as they are.
Images = Inexact[Array | np.ndarray, "B ..."]
Labels = Int[Array | np.ndarray, " B"]
# Other images beside a batch, as many as there are.
Reference = Inexact[Array | np.ndarray, "_ ..."]


class Network(NamedTuple):
    """A network of one's own: pure functions over any pytree of parameters.

    Attributes:
        init: ``init(key, **point) -> params``; what it names besides the key can be an
            axis of a sweep.
        apply: ``apply(params, x) -> outputs``, of a batch.
        layers: ``layers(params, x) -> {name: activations}``, for numbers of each layer.
        predict: ``predict(params, x, reference) -> outputs``, if a network that is
            evaluated differs from one in training; reference are training inputs.
    """

    init: Callable[..., Params]
    apply: Callable[[Params, Any], Any]
    layers: Callable[[Params, Any], Mapping[Any, Array]] | None = None
    predict: Callable[[Params, Any, Any], Any] | None = None


# What is normalized together: the units of one image (Ba, Kiros & Hinton 2016, "Layer
# normalization"), or the images of a batch for one unit (Ioffe & Szegedy 2015, "Batch
# normalization"). Axis 0 of a layer's matrix runs over units, axis 1 over images.
NORMALIZED_AXIS = {"layer": 0, "batch": 1}
# Added to the variance, as in both papers, so that equal numbers do no harm.
EPSILON = 1e-5


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


@dataclass(frozen=True)
class MLP:
    """A network of layers of units, each connected to all of the layer before.

    Hashable, so jit can take it as static.

    Attributes:
        sizes: units per layer, from the inputs D to the outputs K.
        activation: of the hidden layers, any function of z, entry by entry.
        biases: whether every layer has a bias vector.
        initializer: draws weights at scale 1, as ``jax.nn.initializers`` do with
            ``in_axis=1, out_axis=0``.
        normalization: of hidden layers: "none", "layer" or "batch".
        residual: whether hidden layers add to their inputs.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown normalization.

    >>> DEEP.num_layers
    6
    >>> MLP((784, 0, 10))
    Traceback (most recent call last):
    ValueError: sizes: expected two or more sizes of at least 1, found (784, 0, 10)
    """

    sizes: tuple[int, ...]
    activation: Activation = sigmoid
    biases: bool = True
    initializer: Initializer = normal
    normalization: str = "none"
    residual: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))  # a list has no hash
        if len(self.sizes) < 2 or any(size < 1 for size in self.sizes):
            raise ValueError(
                f"sizes: expected two or more sizes of at least 1, found {self.sizes}"
            )
        if not callable(self.activation):
            raise ValueError(
                "activation: expected a function, such as activations.tanh, found "
                f"{self.activation!r}"
            )
        if self.normalization not in ("none", *NORMALIZED_AXIS):
            raise ValueError(
                "normalization: expected none, layer or batch, found "
                f"{self.normalization}"
            )

    def __str__(self) -> str:
        """In a few words, for labels."""
        f = self.activation
        name = getattr(f, "__name__", type(f).__name__)  # a partial has none
        words = ["-".join(map(str, self.sizes)), name]
        words += ["no biases"] * (not self.biases)
        words += [f"{self.normalization} norm"] * (self.normalization != "none")
        return ", ".join(words + ["residual"] * self.residual)

    @property
    def num_layers(self) -> int:
        """L, the number of weight matrices."""
        return len(self.sizes) - 1

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

    def init(
        self, key: Key[Array, ""], *, scale: Any = 1.0, bias_scale: Any = 0.0
    ) -> Params:
        """Draws the initial parameters, in float32.

        Args:
            key: typed key; the weights of layer l depend on (key, l) alone.
            scale: multiplies every weight; with ``normal`` it is the init scale, the
                standard deviation of every weight. May be traced: a new scale never
                compiles again.
            bias_scale: standard deviation of the biases, 0 for zero biases.

        Returns:
            Leaves ``W1 .. WL`` of shape (fan_out, fan_in); with biases, ``b1 .. bL`` of
            shape (fan_out,); and, with normalization, gains of 1, ``g1 .. g(L-1)``.

        >>> params = SHALLOW.init(jax.random.key(0), scale=0.1)
        >>> {name: leaf.shape for name, leaf in params.items()}
        {'W1': (20, 784), 'b1': (20,), 'W2': (10, 20), 'b2': (10,)}
        """
        params = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(self.sizes), start=1):
            W_key, b_key = jax.random.split(jax.random.fold_in(key, layer))
            # float32 whatever the precision of the run: float64 draws other numbers.
            W = scale * self.initializer(W_key, (fan_out, fan_in), jnp.float32)
            params[f"W{layer}"] = W.astype(jnp.float32)
            if self.biases:
                b = bias_scale * jax.random.normal(b_key, (fan_out,), jnp.float32)
                params[f"b{layer}"] = b.astype(jnp.float32)
            if self.normalizes(layer):
                params[f"g{layer}"] = jnp.ones(fan_out, jnp.float32)
        return params

    def forward(
        self, params: Params, x: Images, *, reference: Reference | None = None
    ) -> tuple[list[Array], list[Array]]:
        """The forward pass, with everything that a backward pass needs.

        Args:
            params: as from ``init``.
            x: images, one a row; more axes than one are run together.
            reference: for batch normalization, the images that mean and variance are
                taken from, passed through the network beside x; by default x itself, as
                in training. What is predicted for one image must not depend on the
                others: an evaluation gives training images here.

        Returns:
            The inputs ``[a_0, .., a_{L-1}]`` and the pre-activations ``[z_1, .., z_L]``
            of the layers 1 to L, each with one image a column: (fan_in, B) and
            (fan_out, B). The last pre-activation holds the logits.

        Raises:
            ValueError: x is not a batch of D numbers each.
        """
        # Biases would broadcast one image to a batch without a word.
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.sizes[0]:
            raise ValueError(
                f"images: expected shape (B, {self.sizes[0]}), found {x.shape}"
            )
        inputs, pre_activations = [], []
        a, num_reference = jnp.asarray(x).reshape(len(x), -1).T, 0
        if reference is not None and self.normalization == "batch":
            num_reference = len(reference)
            first = jnp.asarray(reference).reshape(num_reference, -1).T
            a = jnp.concatenate([first, a], axis=1)
        for layer in range(1, self.num_layers + 1):
            z = params[f"W{layer}"] @ a
            if self.normalizes(layer):
                z, _ = normalize(z, self.normalization, num_reference=num_reference)
                z = params[f"g{layer}"][:, None] * z
            if self.biases:
                z = z + params[f"b{layer}"][:, None]
            inputs.append(a[:, num_reference:])
            pre_activations.append(z[:, num_reference:])
            a = a + self.activation(z) if self.skips(layer) else self.activation(z)
        return inputs, pre_activations

    def predict(
        self, params: Params, x: Images, reference: Reference | None
    ) -> Inexact[Array, "B K"]:
        """The logits of a network in use; arguments as for ``forward``."""
        _, pre_activations = self.forward(params, x, reference=reference)
        return pre_activations[-1].T

    def apply(self, params: Params, x: Images) -> Inexact[Array, "B K"]:
        """The logits of a batch of images, one image a row.

        >>> params = DEEP.init(jax.random.key(0))
        >>> DEEP.apply(params, jnp.zeros((32, 784))).shape
        (32, 10)
        """
        return self.predict(params, x, None)

    def layers(self, params: Params, x: Images) -> dict[int, Inexact[Array, "B H"]]:
        """The activations of the hidden layers, by their number from the input up."""
        inputs, _ = self.forward(params, x)
        return {layer: a.T for layer, a in enumerate(inputs[1:], start=1)}


# The two networks of the assignment.
SHALLOW = MLP((784, 20, 10), sigmoid, biases=True)
DEEP = MLP((784, 10, 10, 10, 10, 10, 10), sigmoid, biases=False)

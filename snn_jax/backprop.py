"""The gradient of the loss, derived by hand, for a network of any depth.

One image x with label y goes forward through

    a_0 = x,   z_l = W_l a_{l-1} + b_l,   a_l = f(z_l),   p = softmax(z_L),
    loss = -ln p_y

Write delta_l = d loss / d z_l, the error of layer l: a column with one entry per unit.
Four steps give every derivative.

(1) The top. loss = ln(sum_k exp(z_k)) - z_y, with z = z_L. Differentiate by z_i: the
    first term gives exp(z_i) / sum_k exp(z_k) = p_i; the second gives -1 if i = y, else
    0. With e_y the one-hot column of the label:

        delta_L = p - e_y

    Its entries sum to 0: what one class gains, the others lose.

(2) One layer down. z_{l+1} depends on z_l only through a_l = f(z_l), unit by unit. By
    the chain rule, unit j collects from all units i of the layer above:

        d loss / d z_l[j] = sum_i delta_{l+1}[i] W_{l+1}[i, j] f'(z_l[j])

    As columns, with * entry by entry:

        delta_l = (W_{l+1}^T delta_{l+1}) * f'(z_l)

    f' stands in ``networks.ACTIVATIONS``, next to f; for the sigmoid it is f (1 - f).
    This line is the vanishing gradient: the sigmoid's f' is at most 1/4, so
    |delta_l| <= 1/4 ||W_{l+1}|| |delta_{l+1}|, once for every layer on the way down.

(3) The weights. z_l[i] contains W_l[i, j] a_{l-1}[j], and W_l[i, j] appears nowhere
    else, so d loss / d W_l[i, j] = delta_l[i] a_{l-1}[j]:

        dW_l = delta_l a_{l-1}^T

(4) The biases. z_l[i] contains b_l[i] with factor 1:

        db_l = delta_l

For a batch of B images the loss is the mean of their losses, so the gradient is the
mean of their gradients. With one image a column, delta_l and a_l become matrices of B
columns; the sum over images inside the matrix product delta_l a_{l-1}^T is then exactly
the sum wanted, and the sum over columns of delta_l the one for the biases.

The method is Rumelhart, Hinton & Williams 1986, "Learning representations by
back-propagating errors".
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from snn_jax import losses, networks
from snn_jax.networks import Architecture, Images, Labels, Params


class Passes(NamedTuple):
    """What the forward and the backward pass know of layers 1 to L, in lists of L.

    Column b of each matrix belongs to image b; delta_l is the derivative of that
    image's own loss, not divided by B.

    Attributes:
        inputs: a_0 .. a_{L-1}, each (fan_in, B).
        pre_activations: z_1 .. z_L, each (fan_out, B); the last holds the logits.
        deltas: delta_1 .. delta_L, each (fan_out, B).
    """

    inputs: list[Array]
    pre_activations: list[Array]
    deltas: list[Array]


def forward_backward(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
) -> Passes:
    """The errors delta_l of every layer and image, by equations (1) and (2).

    Args:
        params: as from ``networks.init``.
        x: images, one a row.
        y: labels in [0, K).
        architecture: of the network.
    """
    derivative = networks.ACTIVATIONS[architecture.activation].derivative
    inputs, z = networks.forward(params, x, architecture=architecture)
    p = jax.nn.softmax(z[-1], axis=0)
    delta = p - jax.nn.one_hot(y, p.shape[0], dtype=p.dtype, axis=0)  # (1)
    deltas = [delta]
    for layer in range(architecture.num_layers - 1, 0, -1):
        delta = (params[f"W{layer + 1}"].T @ delta) * derivative(z[layer - 1])  # (2)
        deltas.insert(0, delta)
    return Passes(inputs, z, deltas)


def value_and_grad(
    params: Params,
    x: Images,
    y: Labels,
    *,
    architecture: Architecture,
) -> tuple[Float[Array, ""], Params]:
    """The mean loss of a batch and its gradient, by the equations above.

    The same arguments and the same result as ``losses.value_and_grad``, which is
    ``jax.value_and_grad`` of the loss: wherever one is used, so can be the other.

    Returns:
        loss: mean negative log-likelihood, in nats.
        grads: a dictionary like params; ``grads["W1"]`` is dW1.

    >>> params = networks.init(jax.random.key(0), networks.SHALLOW, gain=0.1)
    >>> x, y = jax.numpy.ones((2, 784)), jax.numpy.array([3, 5])
    >>> loss, grads = value_and_grad(params, x, y, architecture=networks.SHALLOW)
    >>> {name: grad.shape for name, grad in grads.items()}
    {'W1': (20, 784), 'b1': (20,), 'W2': (10, 20), 'b2': (10,)}
    >>> bool(abs(grads["b2"].sum()) < 1e-6)  # since delta_L sums to 0
    True
    """
    inputs, z, deltas = forward_backward(params, x, y, architecture=architecture)
    loss = losses.nll(z[-1].T, y).mean()
    batch_size = x.shape[0]
    grads: Params = {}
    for layer, (a, delta) in enumerate(zip(inputs, deltas, strict=True), start=1):
        grads[f"W{layer}"] = delta @ a.T / batch_size  # (3)
        if architecture.biases:
            grads[f"b{layer}"] = delta.mean(axis=1)  # (4)
    return loss, grads

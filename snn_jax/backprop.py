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

    f' comes from ``activations.slope``; for the sigmoid it is f (1 - f).
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

Two additions, for networks that have them:

(5) Residual connections. Where a_l = a_{l-1} + f(z_l), a change of a_{l-1} reaches a_l
    on a second path, at rate 1. Rates add up:

        d loss / d a_{l-1} = W_l^T delta_l + d loss / d a_l

    The second term skips the layer, its weights and its slope: errors no longer shrink
    on the way down.

(6) Normalization. Of N sums u (the units of one image, or the images of one unit) with
    mean m and variance v, n = (u - m) / s with s = sqrt(v + epsilon), and z = g n + b.
    Change u by du. Then dm = mean(du), dv = 2 mean((u - m) du), ds = dv / (2 s) =
    mean(n du), and

        dn = (du - dm) / s - n ds / s = (du - mean(du) - n mean(n du)) / s

    This takes du to dn by a symmetric matrix: entry (i, j) is (1[i = j] - 1/N - n_i n_j
    / N) / s. On the way down the transpose is wanted, which is the same. With e = g
    delta, the error of n,

        d loss / d u = (e - mean(e) - n mean(n e)) / s

    It takes the place of delta in (3) and in W^T delta. And since z[i] = g[i] n[i] +
    b[i], dg_l = delta_l n_l.

That is every ``networks.MLP``, with the loss of the assignment. With another loss only
(1) changes: its derivative by the outputs, one image alone, is left to autodiff.
"""

import functools
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from snn_jax import losses, networks
from snn_jax.activations import slope
from snn_jax.gradients import ValueAndGrad
from snn_jax.losses import Loss
from snn_jax.networks import MLP, Images, Params


class Passes(NamedTuple):
    """What the forward and the backward pass know of layers 1 to L, in lists of L.

    Column b of each matrix belongs to image b; delta_l is the derivative of that
    image's own loss, not divided by B. Batch normalization makes all losses depend on
    every image: there it is the derivative of their sum.

    Attributes:
        inputs: a_0 .. a_{L-1}, each (fan_in, B).
        pre_activations: z_1 .. z_L, each (fan_out, B); the last holds the logits.
        deltas: delta_1 .. delta_L, each (fan_out, B).
        sum_deltas: d loss / d (W_l a_{l-1}), which is delta_l unless the layer is
            normalized; the gradient of the weights is made of it.
        normalized: n_l of the layers that are normalized, by their number.
    """

    inputs: list[Array]
    pre_activations: list[Array]
    deltas: list[Array]
    sum_deltas: list[Array]
    normalized: dict[int, Array]


def forward_backward(
    network: MLP, params: Params, x: Images, y: Any, loss: Loss = losses.nll
) -> Passes:
    """The errors of every layer and image, by equations (1), (2), (5) and (6).

    Args:
        network: whose parameters they are.
        params: as from ``network.init``.
        x: images, one a row.
        y: labels in [0, K), or what else the loss wants.
        loss: of a batch of outputs.
    """
    inputs, z = network.forward(params, x)
    if loss is losses.nll:
        p = jax.nn.softmax(z[-1], axis=0)
        delta = p - jax.nn.one_hot(y, p.shape[0], dtype=p.dtype, axis=0)  # (1)
    else:
        delta = jax.grad(lambda z: loss(z.T, y).sum())(z[-1])
    deltas, sum_deltas, normalized = [delta], [delta], {}
    above = params[f"W{network.num_layers}"].T @ delta  # d loss / d a_{L-1}
    for layer in range(network.num_layers - 1, 0, -1):
        delta = above * slope(network.activation, z[layer - 1])  # (2)
        sum_delta = delta
        if network.normalizes(layer):  # (6)
            kind = network.normalization
            n, std = networks.normalize(params[f"W{layer}"] @ inputs[layer - 1], kind)
            axis = networks.NORMALIZED_AXIS[kind]
            e = params[f"g{layer}"][:, None] * delta
            mean_e = e.mean(axis=axis, keepdims=True)
            mean_ne = (n * e).mean(axis=axis, keepdims=True)
            sum_delta = (e - mean_e - n * mean_ne) / std
            normalized[layer] = n
        deltas.insert(0, delta)
        sum_deltas.insert(0, sum_delta)
        if layer > 1:
            below = params[f"W{layer}"].T @ sum_delta
            above = below + above if network.skips(layer) else below  # (5)
    return Passes(inputs, z, deltas, sum_deltas, normalized)


@functools.cache
def value_and_grad(network: MLP, loss: Loss = losses.nll) -> ValueAndGrad:
    """The mean loss of a batch and its gradient, by the equations above.

    Its twin by machine is ``gradients.by_autodiff(network, loss)``.

    Returns:
        A function of (params, x, y) that gives

        loss: the mean of the batch, in nats for ``losses.nll``;
        grads: a dictionary like params; ``grads["W1"]`` is dW1.

    >>> from snn_jax.networks import SHALLOW
    >>> params = SHALLOW.init(jax.random.key(0), scale=0.1)
    >>> x, y = jax.numpy.ones((2, 784)), jax.numpy.array([3, 5])
    >>> loss, grads = value_and_grad(SHALLOW)(params, x, y)
    >>> {name: grad.shape for name, grad in grads.items()}
    {'W1': (20, 784), 'b1': (20,), 'W2': (10, 20), 'b2': (10,)}
    >>> bool(abs(grads["b2"].sum()) < 1e-6)  # since delta_L sums to 0
    True
    """

    def by_hand(params: Params, x: Images, y: Any) -> tuple[Float[Array, ""], Params]:
        passes = forward_backward(network, params, x, y, loss)
        value = loss(passes.pre_activations[-1].T, y).mean()
        grads: Params = {}
        for i, (a, delta) in enumerate(zip(passes.inputs, passes.deltas, strict=True)):
            layer = i + 1
            grads[f"W{layer}"] = passes.sum_deltas[i] @ a.T / len(y)  # (3)
            if network.biases:
                grads[f"b{layer}"] = delta.mean(axis=1)  # (4)
            if network.normalizes(layer):
                n = passes.normalized[layer]
                grads[f"g{layer}"] = (delta * n).mean(axis=1)  # (6)
        return value, grads

    return by_hand

"""The gradient of one network, in the same form, for the plain engine."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from snn_jax.activations import slope
from snn_jax.fast.layers import forward, loss_and_p, transposed_times
from snn_jax.gradients import ValueAndGrad
from snn_jax.networks import MLP, Images, Labels, Params


@functools.cache
def value_and_grad(network: MLP) -> ValueAndGrad:
    """``backprop.value_and_grad`` of one network that ``fits``, faster.

    Alone, a network has its images along the last axis, where elsewhere there are
    networks, and its weights are the same for all of them.
    """

    def by_hand(
        params: Params, x: Images, y: Labels
    ) -> tuple[Float[Array, ""], Params]:
        images = jnp.asarray(x).reshape(len(x), -1)
        last = {name: leaf[..., None] for name, leaf in params.items()}
        z = (params["W1"] @ images.T)[None]
        if network.biases:
            z = z + last["b1"][None]
        activations, pre_activations = forward(last, z, network, lambda value: value)
        on = jax.nn.one_hot(y, network.sizes[-1], dtype=z.dtype).T[None]
        loss, p = loss_and_p(pre_activations[-1], on)
        delta = (p - on) / images.shape[0]
        grads: Params = {}
        for layer in range(network.num_layers, 0, -1):
            if network.biases:
                grads[f"b{layer}"] = delta[0].sum(axis=1)
            if layer > 1:
                grads[f"W{layer}"] = delta[0] @ activations[layer - 2][0].T
                down = slope(network.activation, pre_activations[layer - 2])
                delta = transposed_times(last[f"W{layer}"], delta) * down
        grads["W1"] = delta[0] @ images
        return loss.mean(), grads

    return by_hand

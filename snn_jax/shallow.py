"""The assignment's two-layer network, written out: one image, one function a question.

The network takes an image x, a column of D = 784 pixels, through H = 20 sigmoid units
to K = 10 probabilities, one a digit:

    z1 = W1 x + b1         (H,)    W1 is (H, D), b1 is (H,)
    a1 = sigmoid(z1)       (H,)
    z2 = W2 a1 + b2        (K,)    W2 is (K, H), b2 is (K,)
    p  = softmax(z2)       (K,)

and pays loss = -ln p[y] nats when the digit is y: nothing if it was sure of it, much if
it was sure of another.

Params are a dictionary with the leaves W1, b1, W2, b2, as ``networks.SHALLOW.init``
makes it. The functions keep to one image so that every line is a line of mathematics;
``backprop.py`` is the same for any depth and for batches.

How to read the derivations: we ask how much the loss changes when one number changes a
little, and follow that change through the network. The chain rule says: multiply the
rates of change along a path, and add up the paths.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Params = dict[str, Array]
Image = Float[Array | np.ndarray, " D"]
Label = int | Int[Array | np.ndarray, ""] | np.integer


def sigmoid(z: Float[Array, " H"]) -> Float[Array, " H"]:
    """1 / (1 + exp(-z)), entry by entry: squeezes any number into (0, 1).

    >>> sigmoid(jnp.array([-1000.0, 0.0, 1000.0]))
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    # With exp(-|z|), which is at most 1, nothing overflows: for z < 0 the fraction is
    # 1 / (1 + exp(-z)) = exp(z) / (exp(z) + 1).
    small = jnp.exp(-jnp.abs(z))
    return jnp.where(z >= 0, 1, small) / (1 + small)


def softmax(z: Float[Array, " K"]) -> Float[Array, " K"]:
    """exp(z[k]) / sum_i exp(z[i]): turns scores into probabilities.

    Adding a constant c to every score multiplies numerator and denominator by exp(c)
    and changes nothing. So subtract the largest score first: every exponent is then at
    most 0, and exp cannot overflow (in float32 exp(89) already does).

    >>> softmax(jnp.array([1000.0, 1000.0]))
    Array([0.5, 0.5], dtype=float32)
    """
    powers = jnp.exp(z - z.max())
    return powers / powers.sum()


def hidden(params: Params, x: Image) -> Float[Array, " H"]:
    """a1 = sigmoid(W1 x + b1), what the hidden units put out."""
    return sigmoid(params["W1"] @ x + params["b1"])


def predict(params: Params, x: Image) -> Float[Array, " K"]:
    """p, the probability of each digit; the entries are positive and sum to 1.

    >>> from snn_jax.networks import SHALLOW
    >>> p = predict(SHALLOW.init(jax.random.key(0)), jnp.ones(784))
    >>> p.shape, bool(abs(p.sum() - 1) < 1e-6)
    ((10,), True)
    """
    return softmax(params["W2"] @ hidden(params, x) + params["b2"])


def loss(params: Params, x: Image, y: Label) -> Float[Array, ""]:
    """Negative log-likelihood of the label y, in nats: -ln p[y].

    ln p[y] = z2[y] - ln sum_k exp(z2[k]). Taking ln of the softmax instead would give
    ln 0 = -inf as soon as p[y] is too small for a float; this form has no such limit.
    """
    z2 = params["W2"] @ hidden(params, x) + params["b2"]
    shifted = z2 - z2.max()
    return jnp.log(jnp.exp(shifted).sum()) - shifted[y]


def db2(params: Params, x: Image, y: Label) -> Float[Array, " K"]:
    """The gradient d loss / d b2, (K,). Derived first: the others are built on it.

    Start at the top, with the scores z2. Written out,

        loss = ln( sum_k exp(z2[k]) ) - z2[y]

    Change one score z2[i] a little.
      First term: the derivative of ln S is (1/S) dS. In S = sum_k exp(z2[k]) only the
      term k = i contains z2[i], and its derivative is exp(z2[i]). Together:
      exp(z2[i]) / S, which is p[i].
      Second term: z2[y] changes at rate 1 if i is y, and not at all otherwise.
    So, with e the one-hot column of y (1 at place y, 0 elsewhere),

        delta2 = d loss / d z2 = p - e

    the error: what was predicted minus what was right. Its entries sum to 1 - 1 = 0.

    Now b2. z2[i] = (...) + b2[i], so z2[i] changes exactly as much as b2[i]: rate 1,
    and no other score is touched. Hence

        db2 = delta2 = p - e
    """
    p = predict(params, x)
    e = jax.nn.one_hot(y, p.shape[0], dtype=p.dtype)
    return p - e


def dW2(params: Params, x: Image, y: Label) -> Float[Array, "K H"]:
    """The gradient d loss / d W2, (K, H): one number for each weight, like W2.

    z2[i] = sum_j W2[i, j] a1[j] + b2[i]. The weight W2[i, j] sits in one term of one
    score, with factor a1[j]: when it grows by a little, z2[i] grows by a1[j] times
    that. The loss follows at rate delta2[i]. Chain rule, one path:

        dW2[i, j] = delta2[i] a1[j],     as matrices:  dW2 = delta2 a1^T

    a column (K, 1) times a row (1, H). A unit that is silent (a1[j] = 0) had no part in
    the error, and its weights get no blame.
    """
    delta2 = db2(params, x, y)
    return jnp.outer(delta2, hidden(params, x))


def db1(params: Params, x: Image, y: Label) -> Float[Array, " H"]:
    """The gradient d loss / d b1, (H,): the error, carried one layer down.

    Let hidden unit j put out a little more. Every score feels it: z2[i] contains
    W2[i, j] a1[j], so it changes at rate W2[i, j], and the loss at rate delta2[i]
    behind it. There are K paths; add them up:

        d loss / d a1[j] = sum_i delta2[i] W2[i, j],    as matrices:  W2^T delta2

    Rows have become columns, hence the transpose: (H, K) times (K,).

    From a1 to z1: a1[j] = sigmoid(z1[j]). With s = 1 / (1 + exp(-z)) the quotient rule
    gives s' = exp(-z) / (1 + exp(-z))^2. The first factor 1 / (1 + exp(-z)) is s, the
    other, exp(-z) / (1 + exp(-z)), is 1 - s. So s' = s (1 - s), and

        delta1 = d loss / d z1 = (W2^T delta2) * a1 * (1 - a1)      entry by entry

    From z1 to b1 the rate is 1, as at the top:

        db1 = delta1

    Note a1 (1 - a1): it is at most 1/4, when a1 = 1/2, and nearly 0 when the unit is
    near 0 or 1. Here the deep network's trouble begins.
    """
    a1 = hidden(params, x)
    return (params["W2"].T @ db2(params, x, y)) * a1 * (1 - a1)


def dW1(params: Params, x: Image, y: Label) -> Float[Array, "H D"]:
    """The gradient d loss / d W1, (H, D).

    As for W2, one layer down: z1[i] contains W1[i, j] x[j], so

        dW1[i, j] = delta1[i] x[j],     as matrices:  dW1 = delta1 x^T

    A pixel that is black (x[j] = 0) moves no weight.
    """
    return jnp.outer(db1(params, x, y), jnp.asarray(x))


def gradient(params: Params, x: Image, y: Label) -> Params:
    """All four at once, as a dictionary like params.

    >>> from snn_jax.networks import SHALLOW
    >>> params = SHALLOW.init(jax.random.key(0), scale=0.1)
    >>> by_hand = jax.jit(gradient)(params, jnp.ones(784), 7)
    >>> by_machine = jax.jit(jax.grad(loss))(params, jnp.ones(784), 7)
    >>> all(np.allclose(by_hand[k], by_machine[k], atol=1e-6) for k in params)
    True
    """
    return {
        "W1": dW1(params, x, y),
        "b1": db1(params, x, y),
        "W2": dW2(params, x, y),
        "b2": db2(params, x, y),
    }

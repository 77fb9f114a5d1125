# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["command-line"]
"""The assignment, answered in order: a notebook as a script.

    python experiments/tutorial.py            about 60 s: runs/tutorial/tutorial.html

Builds the two-layer network, derives its gradients by hand and checks each one, trains
it; then asks why the deep network does not learn, and makes it learn. The command
executes the notebook and writes it, with all that it found, as a page and as .ipynb.
It speaks of MNIST: with other data a claim may fail, and the command says which.
"""

if "get_ipython" not in globals():  # from the command line, not in a notebook
    import _render

    _render.run(__file__, __doc__)

# %% [markdown]
# # Two networks for handwritten digits, and why the second does not learn
#
# The assignment has two parts.
#
# 1. Build a network with one hidden layer: 20 sigmoid units, then 10 softmax outputs,
#    one for each digit. Its loss is the negative log-likelihood. Derive by hand how the
#    loss changes with every weight and bias.
# 2. Build a deeper one: five hidden layers of 10 sigmoid units, softmax output, no
#    biases, trained with stochastic gradient descent. Is it converging? Why? What's
#    wrong?
#
# You need a little calculus (the chain rule), matrix products, and some Python.
# Everything else is explained when it is used.
#
# How to read this: results are never typed into the text. Code computes them and prints
# them below itself. A line that begins with `assert` is a claim; if it were false, the
# notebook would stop there.

# %% [markdown]
# ## The digits
#
# First the tools: JAX for arrays and derivatives, matplotlib for pictures, and the
# library that goes with this notebook.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib_inline.backend_inline import set_matplotlib_formats

from snn_jax import (
    backprop,
    diagnosis,
    ensemble,
    figures,
    gradcheck,
    losses,
    meanfield,
    mnist,
    networks,
    shallow,
    signals,
    sweep,
    training,
)
from snn_jax.networks import Architecture

set_matplotlib_formats("svg")
plt.rcParams.update(figures.STYLE | {"font.size": 11})
np.set_printoptions(precision=3, suppress=True)


def percent(fraction):
    """0.1234 as "12.34 %"."""
    return f"{100 * fraction:.2f} %"


# %% tags=["parameters"]
DATA = None  # a path to mnist.pkl.gz; None is the MNIST that comes with the package

# %%
data = mnist.load(DATA)
for name, split in zip(data._fields, data, strict=True):
    print(f"{name:5} images {split.x.shape}, labels {split.y.shape}")

# %% [markdown]
# MNIST is a collection of handwritten digits. Each comes with its label: the digit that
# the writer meant. The *training* set is what a network learns from. The *validation*
# set is looked at on the way, to see how learning goes. The *test* set is for the end:
# how good is the network on images that played no part before?

# %% jupyter={"source_hidden": true}
figure, panels = plt.subplots(3, 6, figsize=(figures.WIDTH, 3.3))
for axes, image, label in zip(panels.flat, data.train.x, data.train.y, strict=False):
    axes.imshow(image.reshape(28, 28), cmap="gray_r", interpolation="none")
    axes.set_title(f"label {label}", loc="center", fontsize="medium")
    axes.axis("off")
plt.show()

# %% [markdown]
# To the network an image is a column of 784 numbers, 28 rows of 28 pixels one after the
# other. 0 is the background, 1 is full ink. Here is the middle of the first image, in
# percent of full ink:

# %%
x, y = data.train.x[0], int(data.train.y[0])
middle = (100 * x.reshape(28, 28)[6:20, 9:19]).astype(int)
print("\n".join(" ".join(f"{pixel:3}" for pixel in row) for row in middle))
print(f"{x.size} pixels from {x.min():g} to {x.max():g}; this is a {y}")
blank = (data.train.x == 0).mean()
print(f"{percent(blank)} of all pixels of all images are 0")
assert blank > 0.5

# %% [markdown]
# ## A label as a column
#
# A label is a name, not a quantity: a 9 is not three times a 3. So a label is written
# as a column $e$ of ten numbers, all 0 except for a 1 at its place. This is called
# *one-hot*. It can be read as a probability: all of it on the right digit.

# %%
e = jax.nn.one_hot(y, 10)
print(f"digit {y} is", e)

# %% [markdown]
# ## From scores to probabilities: softmax
#
# The network will give every digit a score, any number, positive or negative. Softmax
# turns ten scores $z$ into ten probabilities $p$:
#
# $$
# p[k] = \frac{\exp(z[k])}{\sum_i \exp(z[i])}
# $$
#
# The exponential makes every score positive; the division makes them sum to 1. The
# largest score gets the largest probability.

# %%
z = jnp.array([2.0, 1.0, 0.0, -1.0])
p = shallow.softmax(z)
print("scores       ", z)
print("probabilities", p)
assert abs(p.sum() - 1) < 1e-6

# %% [markdown]
# **Only differences count.** Add the same constant $c$ to all scores. Above and below
# the line everything is multiplied by $\exp(c)$, which cancels. The probabilities stay
# as they are.

# %%
print("all scores + 5", shallow.softmax(z + 5.0))
assert jnp.allclose(shallow.softmax(z + 5.0), p, rtol=1e-5)

# %% [markdown]
# **Why it needs care.** A 32-bit float ends near $3.4 \cdot 10^{38}$, and the
# exponential gets there quickly. Beyond it there is only infinity, and infinity divided
# by infinity is not a number (`nan`):

# %%
z = jnp.array([100.0, 99.0, 0.0])
print("exp(88), exp(89):", jnp.exp(jnp.array([88.0, 89.0])))
print("as written:", jnp.exp(z) / jnp.exp(z).sum())
print("with care: ", shallow.softmax(z))

# %% [markdown]
# The care is the constant $c$ from above. `shallow.softmax` subtracts the largest score
# from all of them first. Then the largest exponent is 0, nothing overflows, and the
# probabilities are the same.

# %% [markdown]
# ## The two-layer network
#
# The image $x$ goes through two layers:
#
# $$
# z_1 = W_1 x + b_1 \qquad a_1 = \sigma(z_1)
# $$
#
# $$
# z_2 = W_2 a_1 + b_2 \qquad p = \mathrm{softmax}(z_2)
# $$
#
# The sigmoid $\sigma(z) = 1 / (1 + \exp({-z}))$ is applied to each entry. It squeezes
# any number into the range from 0 to 1. Without it the two layers would be one: a
# matrix times a matrix is just another matrix.
#
# | symbol | shape | what it is |
# | --- | --- | --- |
# | $x$ | 784 | the image |
# | $W_1$, $b_1$ | 20 × 784, 20 | weights of each unit, and its bias |
# | $a_1$ | 20 | what the hidden units put out |
# | $W_2$, $b_2$ | 10 × 20, 10 | weights of each digit, and its bias |
# | $z_2$ | 10 | scores |
# | $p$ | 10 | probabilities |
#
# At the start the weights are random: each is drawn from a normal distribution with
# mean 0 and standard deviation 0.1. That number is called the *init scale*. Remember
# it. The biases start at 0.

# %%
params = networks.init(jax.random.key(0), networks.SHALLOW, gain=0.1)
for name, leaf in params.items():
    print(name, leaf.shape)
print(sum(leaf.size for leaf in params.values()), "numbers to learn")

# %%
p = shallow.predict(params, x)
for digit in range(10):
    print(f"{digit}: {percent(p[digit])}", "(the label)" if digit == y else "")
print(f"sum: {percent(p.sum())}")

# %% [markdown]
# Before training these ten probabilities mean nothing. We need a way to say how wrong
# they are.

# %% [markdown]
# ## The loss
#
# The network said $p$, and the digit is $y$. It pays
#
# $$
# \mathrm{loss} = {-\ln p[y]}
# $$
#
# the *negative log-likelihood* of the label. If it was sure of the right digit,
# $p[y] = 1$, it pays nothing. The less it believed in the right digit, the more it
# pays. The unit is called *nat*, because the logarithm is the natural one.

# %%
for belief in (1.0, 0.5, 0.1, 0.01):
    print(f"p[y] = {belief:4}: loss {max(0.0, -np.log(belief)):.3f} nats")
print(f"our untrained network pays {shallow.loss(params, x, y):.3f} nats for image 0")

# %% [markdown]
# Two numbers are worth knowing by heart. They are what a network pays that does not
# look at the image at all.
#
# - **ln 10**: it says 10 % for every digit. Then $p[y]$ is 1/10 whatever $y$ is.
# - **H0**, read "H zero": it knows how frequent each digit is, $f[k]$, and says $p = f$
#   to every image. It then pays ${-\sum_k f[k]\, \ln f[k]}$ on average, the *entropy*
#   of the labels. No constant answer is cheaper.

# %%
f = losses.class_frequencies(data.train.y)
H0 = float(losses.label_entropy(data.train.y))
for digit in range(10):
    print(f"{digit}: {percent(f[digit])} of the training images")
print(f"ln 10 = {np.log(10):.4f} nats, H0 = {H0:.4f} nats")
assert 0 < np.log(10) - H0 < 0.01

# %% [markdown]
# The digits are almost equally frequent, so the two numbers are close. But they are not
# equal, and the difference will matter: a loss of H0 is the signature of a network that
# has learned how frequent the digits are, and nothing about the images.

# %% [markdown]
# ## The gradients, by hand
#
# To learn is to change the weights so that the loss falls. For each weight we need to
# know: if it grows by a little, how much does the loss change? These rates of change
# together are the *gradient*. One is needed for each of $W_1$, $b_1$, $W_2$, $b_2$; we
# call them `dW1`, `db1`, `dW2`, `db2`, and each has the shape of its own weights.
#
# The tool is the chain rule. Follow a small change from the weight to the loss.
# **Multiply the rates along a path. Add up the paths.**
#
# We go from the top down: `db2`, `dW2`, `db1`, `dW1`. The loss sits at the top, and
# every path from a lower weight ends with a stretch that has already been walked. Going
# down, each stretch is worked out once and used again. That is all there is to
# *back-propagation*.
#
# As a judge we use `jax.grad`, which differentiates the program by itself and knows
# nothing of our derivation.

# %%
judge = jax.jit(jax.grad(shallow.loss))(params, x, y)


def compare(leaf, by_hand):
    """Prints how far a gradient is from the judge's, relative to its size."""
    error = gradcheck.relative_error(by_hand, judge[leaf])
    print(f"d{leaf} {by_hand.shape}: relative error {error:.1g}")
    assert by_hand.shape == params[leaf].shape
    assert error < 1e-6


# %% [markdown]
# ### db2
#
# Write the loss in terms of the scores $z_2$. The logarithm of a fraction is a
# difference:
#
# $$
# \mathrm{loss} = {-\ln p[y]} = \ln S - z_2[y]
# $$
#
# where $S = \sum_k \exp(z_2[k])$ is the sum below the line of the softmax.
#
# Let one score $z_2[i]$ grow a little.
#
# - The first term: $\ln S$ changes at the rate $1/S$ with $S$. In the sum $S$ only the
#   term $k = i$ contains $z_2[i]$, and it changes at the rate $\exp(z_2[i])$. Multiply
#   along the path: $\exp(z_2[i]) / S$. That is the probability $p[i]$.
# - The second term: $-z_2[y]$ changes at the rate $-1$ if $i$ is $y$, and not at all
#   otherwise. That is $-e[i]$, with the one-hot column $e$ of the label.
#
# Together, the *error* of the second layer is
#
# $$
# \delta_2[i] = \frac{\partial\,\mathrm{loss}}{\partial z_2[i]} = p[i] - e[i]
# $$
#
# what was predicted minus what was right. It could not be simpler. And because both
# columns sum to 1, its entries sum to 0: what one digit gains, the others lose.
#
# Now the bias. $z_2[i]$ is a sum in which $b_2[i]$ stands alone. If the bias grows by a
# little, the score grows by exactly as much: rate 1. So
#
# $$
# \mathrm{db}_2 = \delta_2 = p - e
# $$

# %%
delta2 = shallow.predict(params, x) - jax.nn.one_hot(y, 10)
compare("b2", delta2)
assert abs(delta2.sum()) < 1e-6
assert jnp.array_equal(delta2, shallow.db2(params, x, y))  # as in the library

# %% [markdown]
# ### dW2
#
# A score is a weighted sum:
#
# $$
# z_2[i] = \sum_j W_2[i, j]\, a_1[j] + b_2[i]
# $$
#
# The weight $W_2[i, j]$ appears once, in the score $i$, with the factor $a_1[j]$. So
# the score changes at the rate $a_1[j]$ with it, and the loss at the rate $\delta_2[i]$
# with the score. One path, two rates:
#
# $$
# \mathrm{dW}_2[i, j] = \delta_2[i]\, a_1[j] \qquad \mathrm{dW}_2 = \delta_2\, a_1^\top
# $$
#
# On the right is the same for the whole matrix: a column times a row. In words: the
# blame of a weight is the error at its upper end, times the activity at its lower end.
# A unit that was silent gets no blame.

# %%
a1 = shallow.hidden(params, x)
compare("W2", jnp.outer(delta2, a1))
assert jnp.array_equal(jnp.outer(delta2, a1), shallow.dW2(params, x, y))

# %% [markdown]
# ### db1
#
# One layer down. Let the output $a_1[j]$ of a hidden unit grow a little. *All* ten
# scores feel it, the score $i$ at the rate $W_2[i, j]$, and the loss follows each score
# at the rate $\delta_2[i]$. Ten paths; add them up:
#
# $$
# \frac{\partial\,\mathrm{loss}}{\partial a_1[j]} = \sum_i \delta_2[i]\, W_2[i, j]
# $$
#
# As matrices this is $W_2^\top \delta_2$. The transpose is there because the sum now
# runs over the rows of $W_2$: the same weights, walked backwards.
#
# Next, from $a_1$ to $z_1$. We need the slope of the sigmoid. With the quotient rule,
#
# $$
# \sigma'(z) = \frac{\exp({-z})}{(1 + \exp({-z}))^2}
# $$
#
# This is a product of two fractions:
#
# $$
# \frac{1}{1 + \exp({-z})} \cdot \frac{\exp({-z})}{1 + \exp({-z})}
# $$
#
# The first is $\sigma(z)$, the second is $1 - \sigma(z)$. So
#
# $$
# \sigma'(z) = \sigma(z)\,(1 - \sigma(z))
# $$
#
# The slope is $a_1 (1 - a_1)$, which costs nothing to compute: $a_1$ is known.
# Multiply along the path, and get the error of the first layer:
#
# $$
# \delta_1 = \left(W_2^\top \delta_2\right) \odot a_1 \odot (1 - a_1)
# $$
#
# where $\odot$ multiplies entry by entry. From $z_1$ to $b_1$ the rate is 1, as above:
#
# $$
# \mathrm{db}_1 = \delta_1
# $$

# %%
delta1 = (params["W2"].T @ delta2) * a1 * (1 - a1)
compare("b1", delta1)
assert jnp.array_equal(delta1, shallow.db1(params, x, y))

# %% [markdown]
# Look at the slope. It is largest in the middle, where $a = 1/2$: there it is
# $1/2 \cdot 1/2 = 1/4$. To both sides it goes to 0, and the unit is called *saturated*.
# Keep this picture in mind for the second part.

# %% jupyter={"source_hidden": true}
grid = np.linspace(-8, 8, 201)
s = np.asarray(jax.nn.sigmoid(grid))
figure, axes = plt.subplots(figsize=(figures.WIDTH, 2.6))
axes.plot(grid, s, label="sigmoid")
axes.plot(grid, s * (1 - s), label="its slope")
axes.axhline(0.25, color="black", linestyle="--", linewidth=1)
axes.annotate("1/4", (-8, 0.27))
axes.set_xlabel("z")
axes.legend(frameon=False)
assert (s * (1 - s)).max() <= 0.25
plt.show()

# %% [markdown]
# ### dW1
#
# The same as for $W_2$, one layer down. $W_1[i, j]$ appears once, in $z_1[i]$, with the
# factor $x[j]$:
#
# $$
# \mathrm{dW}_1[i, j] = \delta_1[i]\, x[j] \qquad \mathrm{dW}_1 = \delta_1\, x^\top
# $$
#
# A pixel without ink, $x[j] = 0$, moves no weight.

# %%
compare("W1", jnp.outer(delta1, x))
assert jnp.array_equal(jnp.outer(delta1, x), shallow.dW1(params, x, y))

# %% [markdown]
# All four agree with the judge to the last digits that a 32-bit float has. Each line is
# also a function of the library, in `snn_jax/shallow.py`.

# %% [markdown]
# ## A check that knows no calculus
#
# There is a second judge. Take one weight, make it larger by a small $h$, then smaller
# by $h$, and see how the loss changes:
#
# $$
# \frac{\mathrm{loss}(w + h) - \mathrm{loss}(w - h)}{2h}
# $$
#
# For small $h$ this is the slope. How small should $h$ be? Let us try all sizes, for
# one weight, with 32-bit and with 64-bit floats.


# %%
@jax.jit
def errors(params, x, steps):
    """Relative error of the quotient for one weight, W2[y, 0], for each h."""

    def loss(change):
        W2 = params["W2"].at[y, 0].add(change)
        return shallow.loss(params | {"W2": W2}, x, y)

    right = shallow.dW2(params, x, y)[y, 0]
    above, below = jax.vmap(loss)(steps), jax.vmap(loss)(-steps)
    return abs((above - below) / (2 * steps) / right - 1)


steps = np.logspace(-12, 0, 37)
in_float32 = np.asarray(errors(params, x, jnp.asarray(steps, jnp.float32)))
with jax.enable_x64(True):
    doubled = jax.tree.map(lambda leaf: leaf.astype(float), (params, x))
    in_float64 = np.asarray(errors(*doubled, jnp.asarray(steps)))

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(figures.WIDTH, 3))
axes.loglog(steps, np.maximum(in_float32, 1e-12), "o-", markersize=3, label="32-bit")
axes.loglog(steps, np.maximum(in_float64, 1e-12), "o-", markersize=3, label="64-bit")
axes.set_xlabel("h")
axes.set_ylabel("relative error of the slope")
axes.legend(frameon=False)
plt.show()

# %%
for bits, found in (("32", in_float32), ("64", in_float64)):
    best = int(np.argmin(found))
    print(f"{bits}-bit: best h {steps[best]:.0e}, error {found[best]:.0e}")
assert in_float64.min() < 1e-7 < 0.1 * in_float32.max()
assert in_float64.min() < in_float32.min()

# %% [markdown]
# Read the curve from the right. At first the error comes from the curvature of the loss
# between $w - h$ and $w + h$, and it falls with $h^2$. But then it rises again. The two
# losses are nearly equal, they are known to a fixed number of digits, and few of these
# are left in their difference. In the end they are equal, the quotient is 0, and the
# error is 1. So check gradients in 64-bit floats, with $h$ near the bottom of the
# curve.
#
# And never train this way. It costs two passes through the network for each weight;
# back-propagation gets all gradients with about the work of three passes.

# %% [markdown]
# ## Training
#
# *Stochastic gradient descent* repeats one step. Take the next few images, a *batch*;
# compute the mean of their gradients; move every weight a little against it:
#
# $$
# W \leftarrow W - \eta\,\mathrm{dW}
# $$
#
# The *learning rate* $\eta$ says how little. One pass over all training images is an
# *epoch*. For a batch the library uses the same equations, written for any number of
# layers in `snn_jax/backprop.py`. We check that this is the mean of what we derived:

# %%
few = data.train.x[:32], data.train.y[:32]
_, by_batch = backprop.value_and_grad(params, *few, architecture=networks.SHALLOW)
one_by_one = jax.jit(jax.vmap(shallow.gradient, (None, 0, 0)))(params, *few)
for name in params:
    mean = one_by_one[name].mean(axis=0)
    assert gradcheck.relative_error(by_batch[name], mean) < 1e-6

# %%
on_device = jax.device_put(data)


@partial(jax.jit, static_argnames=("architecture", "num_epochs"))
def run(data, params, architecture, rate, num_epochs):
    """Plain SGD with the gradients derived by hand; the test at the end."""
    params, history = training.train(
        jax.random.key(1),  # the order of the images
        params,
        data.train,
        data.valid,
        architecture=architecture,
        optimizer=optax.sgd(rate),
        num_epochs=num_epochs,
        batch_size=32,
        value_and_grad=backprop.value_and_grad,
    )
    test = training.evaluate(params, data.test, architecture=architecture)
    return params, history, test


def train(params, architecture, rate=0.1, num_epochs=20):
    """The same training for all networks of this notebook."""
    return run(on_device, params, architecture, rate, num_epochs)


# %%
learned, history, test = train(params, networks.SHALLOW)
print(f"test accuracy: {percent(test.accuracy)}")
print(f"test loss: {test.loss:.3f} nats; untrained, about {np.log(10):.3f}")
assert 0.94 < test.accuracy < 0.97


# %% jupyter={"source_hidden": true}
def over_epochs(axes, label):
    """Names the axes of a learning curve."""
    axes.set_xlim(0, 20)
    axes.set_xticks(range(0, 21, 5))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)


epochs = np.arange(21)
figure, (above, below) = plt.subplots(2, 1, figsize=(figures.WIDTH, 4.6), sharex=True)
above.plot(epochs[1:], history.epochs.train_loss, label="training, mean of the epoch")
above.plot(epochs, history.valid.loss, label="validation")
above.axhline(H0, color="black", linestyle="--", linewidth=1)
above.annotate("H0: knows nothing of the images", (19.8, H0 - 0.2), ha="right")
above.set_ylim(0, 2.5)
over_epochs(above, "loss (nats)")
above.set_xlabel("")
above.legend(frameon=False, loc="center right")
below.plot(epochs, 100 * history.valid.accuracy, color="C1")
below.set_ylim(0, 100)
over_epochs(below, "validation accuracy (%)")
plt.show()

# %% [markdown]
# The network learns. Most of it happens in the first epochs; after that the curve
# flattens. Now let us look inside.
#
# ### What the hidden units look for
#
# Each hidden unit has one weight for each pixel, so its weights can be drawn as an
# image. Where it is red, ink pushes the unit towards 1; where it is blue, towards 0.

# %% jupyter={"source_hidden": true}
W1 = np.asarray(learned["W1"])
limit = np.quantile(abs(W1), 0.995)
figure, panels = plt.subplots(4, 5, figsize=(figures.WIDTH, 4.8))
for axes, weights in zip(panels.flat, W1, strict=True):
    image = weights.reshape(28, 28)
    axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none")
    axes.axis("off")
plt.show()

# %% [markdown]
# Pieces of strokes and arcs stand out. Nobody told the units to look for them. The
# speckle at the rims is what is left of the random start: pixels that carry no ink in
# any image have a gradient of 0 (remember $\delta_1 x^\top$), and their weights never
# move:

# %%
no_ink = (data.train.x == 0).all(axis=0)
print(f"{no_ink.sum()} of 784 pixels have no ink in any training image")
assert (learned["W1"][:, no_ink] == params["W1"][:, no_ink]).all()

# %% [markdown]
# ### Its mistakes
#
# These are the test images on which it is most sure of the wrong digit. Would you have
# known?

# %%
logits = networks.apply(learned, data.test.x, architecture=networks.SHALLOW)
p_test = np.asarray(jax.nn.softmax(logits))
said = p_test.argmax(axis=1)
wrong = np.flatnonzero(said != data.test.y)
worst = wrong[np.argsort(-p_test[wrong, said[wrong]])[:12]]
print(f"{len(wrong)} of {len(said)} test images are read wrong")

# %% jupyter={"source_hidden": true}
figure, panels = plt.subplots(3, 4, figsize=(figures.WIDTH, 4.9))
for axes, i in zip(panels.flat, worst, strict=True):
    axes.imshow(data.test.x[i].reshape(28, 28), cmap="gray_r", interpolation="none")
    sure = f"{100 * p_test[i, said[i]]:.1f} % sure"
    title = f"{data.test.y[i]}, read as {said[i]}\n{sure}"
    axes.set_title(title, loc="center", fontsize="medium")
    axes.axis("off")
plt.show()

# %% [markdown]
# The *confusion matrix* counts them all: the row is the label, the column is what the
# network said. Right answers are left out.

# %% jupyter={"source_hidden": true}
confusion = np.zeros((10, 10), int)
np.add.at(confusion, (data.test.y, said), 1)
np.fill_diagonal(confusion, 0)
figure, axes = plt.subplots(figsize=(figures.WIDTH, 4.9))
axes.grid(visible=False)
axes.imshow(confusion, cmap="Reds")
for (row, column), count in np.ndenumerate(confusion):
    if count:
        color = "white" if count > 0.6 * confusion.max() else "black"
        axes.annotate(str(count), (column, row), ha="center", va="center", color=color)
axes.set_xticks(range(10))
axes.set_yticks(range(10))
axes.set_xlabel("read as")
axes.set_ylabel("label")
plt.show()

# %%
for count in np.unique(confusion)[:-4:-1]:
    for meant, read in np.argwhere(confusion == count):
        print(f"a {meant} is read as a {read} {count} times")

# %% [markdown]
# ## The deep network
#
# Now the second part: five hidden layers of 10 sigmoid units, no biases. One would
# hope that more layers do better, or at least no worse. Nothing else changes: the same
# init scale of 0.1, the same images in the same order, the same learning rate, the same
# number of epochs.

# %%
DEEP = networks.DEEP
fresh = networks.init(jax.random.key(0), DEEP, gain=0.1)
stuck, stuck_history, stuck_test = train(fresh, DEEP)
print("layers:", " - ".join(map(str, DEEP.sizes)))
print(f"test accuracy: {percent(stuck_test.accuracy)}")
print(f"test loss: {stuck_test.loss:.4f} nats; H0 = {H0:.4f}")
assert abs(stuck_history.valid.loss[1:] - H0).max() < 0.01

# %% jupyter={"source_hidden": true}
figure, (above, below) = plt.subplots(2, 1, figsize=(figures.WIDTH, 4.6), sharex=True)
above.plot(epochs, history.valid.loss, label="two layers")
above.set_ylim(0, 2.5)
above.set_title("validation loss (nats)")
below.set_ylim(H0 - 0.02, H0 + 0.02)
below.set_title("the same, enlarged")
for axes in (above, below):
    axes.plot(epochs, stuck_history.valid.loss, color="C1", label="deep")
    axes.axhline(H0, color="black", linestyle="--", linewidth=1, label="H0")
    over_epochs(axes, "")
above.set_xlabel("")
above.legend(frameon=False, loc="center right")
plt.show()

# %% [markdown]
# The loss lies on H0, epoch after epoch. So: **Is it converging? Why? What's wrong?**
#
# (Enlarged, it is a hair above H0. The frequencies of the digits in the validation set
# are slightly different, so that saying $p = f$ costs a little more there.)
#
# First of all: is there a bug? Check the gradients of the deep network too. There are
# two judges again, `jax.grad` and the *complex step*: a numerical difference that
# subtracts nothing, so that no digits are lost (`snn_jax/gradcheck.py` explains it).

# %%
plateau = float(losses.label_entropy(data.valid.y, f))
print(f"p = f costs {plateau:.4f} nats in the validation set")
assert plateau > H0
few = data.train.x[:2], data.train.y[:2]
print("relative error: jax.grad, complex step")
for check in gradcheck.check(fresh, *few, architecture=DEEP):
    print(f"d{check.leaf}: {check.autodiff:.1g}, {check.complex_step:.0e}")
    assert check.agrees

# %% [markdown]
# No bug. Let us collect evidence.

# %% [markdown]
# ### Evidence 1: it gives the same answer to every image
#
# These are its probabilities for two test images, and the frequency of the digits in
# the training set. Then the spread (standard deviation) of its probabilities over all
# test images, for the digit for which it is largest.

# %%
deep_logits = networks.apply(stuck, data.test.x, architecture=DEEP)
p_deep = np.asarray(jax.nn.softmax(deep_logits))
print("digit  image 0  image 1  frequency")
for digit, row in enumerate(zip(p_deep[0], p_deep[1], f, strict=True)):
    print(f"{digit:5}", *(f" {percent(value)}".rjust(8) for value in row))
spread = p_deep.std(axis=0).max()
print(f"largest spread over all images: {spread:.0e}")
assert spread < 1e-4

# %% [markdown]
# It has learned how frequent the digits are, roughly, and nothing more. Its accuracy is
# then no riddle. It names the same digit for every image, and is right whenever that
# digit happens to come:

# %%
answer = int(p_deep[0].argmax())
share = (data.test.y == answer).mean()
assert (p_deep.argmax(axis=1) == answer).all()
assert abs(stuck_test.accuracy - share) < 1e-6
print(f"It always says {answer}.")
print(f"share of the {answer} among test images: {percent(share)}")
print(f"test accuracy of the network:     {percent(stuck_test.accuracy)}")

# %% [markdown]
# An accuracy that is exactly the share of one class should always make you suspicious.

# %% [markdown]
# ### Evidence 2: the lower layers have hardly moved
#
# How far is each weight matrix from where it started, relative to its size?

# %%
moved = {}
for name, start in fresh.items():
    change = stuck[name] - start
    moved[name] = jnp.linalg.norm(change) / jnp.linalg.norm(start)
    print(f"{name} moved by {percent(moved[name])} of its size")
assert moved["W1"] < 0.01
assert moved["W6"] > 0.1

# %% [markdown]
# ### Evidence 3: the gradient vanishes on its way down
#
# The lower layers did not move because they were hardly pushed. We can see it before
# the first step. For each layer, take the gradient of single images, and its typical
# size for one weight (root mean square, *rms*). We compare three fresh networks that
# differ in one number, the init scale: 0.1 as above, 1 and 10. This is done in 64-bit
# floats, because the numbers get small.

# %%
scales = (0.1, 1.0, 10.0)
starts = [networks.init(jax.random.key(0), DEEP, gain=scale) for scale in scales]
stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
x1000, y1000 = data.train.x[:1000], data.train.y[:1000]
seen = ensemble.measure(stacked, x1000, y1000, architecture=DEEP)
for scale, sizes in zip(scales, seen.gradient_rms, strict=True):
    print(f"scale {scale:4}: first / last layer = {sizes[0] / sizes[-1]:.1e}")
assert seen.gradient_rms[1, 0] > 1e-3 * seen.gradient_rms[1, -1]
assert seen.gradient_rms[0, 0] < 1e-4 * seen.gradient_rms[0, -1]


# %% jupyter={"source_hidden": true}
def per_layer(axes, values, label):
    """A line for each init scale."""
    for scale, line, color in zip(scales, values, ("C0", "C2", "C3"), strict=True):
        layers = np.arange(1, len(line) + 1)
        axes.plot(layers, line, "o-", color=color, label=f"init scale {scale:g}")
    axes.set_xticks(layers)
    axes.set_ylabel(label)


figure, axes = plt.subplots(figsize=(figures.WIDTH, 3.2))
per_layer(axes, seen.gradient_rms, "gradient rms (nats per weight)")
axes.set_yscale("log")
axes.set_xlabel("layer, from the image (left) to the output (right)")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# At scale 0.1 the line falls steeply from right to left: each layer passes on only a
# small part of the error that it receives. At scale 1 it falls much less. (The step to
# the first layer has another reason too: most of its 784 pixels are blank, and then the
# gradient of a typical weight is small.)

# %% [markdown]
# ### Evidence 4: images become alike on their way up
#
# The same happens in the other direction. Send 1,000 images through the network and ask
# how much a unit's output differs from image to image (the standard deviation). Then
# ask a simple classifier, a linear *probe*, how many digits it can read from the
# outputs of that layer.

# %% jupyter={"source_hidden": true}
figure, (above, below) = plt.subplots(2, 1, figsize=(figures.WIDTH, 5.4), sharex=True)
per_layer(above, seen.activation_spread, "spread over images")
above.set_yscale("log")
above.legend(frameon=False)
per_layer(below, 100 * seen.probe_accuracy, "read by a probe (%)")
below.axhline(100 * float(f.max()), color="black", linestyle="--", linewidth=1)
below.annotate("always the commonest digit", (1, 100 * float(f.max()) - 5))
below.set_ylim(0, None)
below.set_xlabel("hidden layer, from the image (left) upwards")
plt.show()

# %%
for scale, probe in zip(scales, seen.probe_accuracy, strict=True):
    first, top = percent(probe[0]), percent(probe[-1])
    print(f"scale {scale:4}: first layer {first}, top {top}")
small, _, large = seen.probe_accuracy
assert small[-1] > 0.9 * small[0] > 2 * f.max()
assert large[-1] < 0.6 * large[0]
assert seen.activation_spread[0, -1] < 1e-4 < 0.1 < seen.activation_spread[2, -1]

# %% [markdown]
# Two different failures are in this picture.
#
# - **Scale 0.1.** All images look almost the same to the top layer. But the probe,
#   which may enlarge small differences as it likes, reads as much from the top layer as
#   from the first. Nothing is lost. It is only too small for the network to learn from.
# - **Scale 10.** The spread is large, and yet the probe reads less and less. Here
#   information is destroyed. Why?

# %% [markdown]
# ### Evidence 5: too large is wrong as well
#
# A unit is called saturated here when its output is within 0.01 of 0 or 1. How many
# are?

# %%
for scale, saturated in zip(scales, seen.saturation, strict=True):
    print(f"scale {scale:4}: {percent(saturated.mean())} of all units")
assert seen.saturation[0].mean() < 0.01
assert seen.saturation[2].mean() > 0.7

# %% [markdown]
# With large weights most of them are. They act as switches: many different images set
# them the same way, and where the sigmoid is flat a small change of a weight changes
# nothing.

# %% [markdown]
# ## Why: a little theory
#
# Take the equation for `db1` and write it for any layer $l$:
#
# $$
# \delta_l = \left(W_{l+1}^\top \delta_{l+1}\right) \odot \sigma'(z_l)
# $$
#
# Going down one layer multiplies the error by the weights and by a slope. The slope is
# at most 1/4. A matrix can make a column longer, but at most by a certain factor,
# $\lVert W \rVert$ (its largest singular value). So for the lengths
#
# $$
# \lVert \delta_l \rVert \le
# \frac{1}{4}\, \lVert W_{l+1} \rVert\, \lVert \delta_{l+1} \rVert
# $$
#
# for every image and every sigmoid network. If the factor is below 1, errors shrink; if
# that happens five times in a row, little is left. Compare the bound with the largest
# ratio found on 1,000 images:

# %%
with jax.enable_x64(True):
    in_64_bits = jax.tree.map(lambda leaf: leaf.astype(float), fresh)
    passes = backprop.forward_backward(in_64_bits, x1000, y1000, architecture=DEEP)
    lengths = [np.linalg.norm(delta, axis=0) for delta in passes.deltas]
print("layers   bound  largest found")
for layer in range(5, 0, -1):
    bound = np.linalg.norm(fresh[f"W{layer + 1}"], 2) / 4
    ratio = (lengths[layer - 1] / lengths[layer]).max()
    print(f"{layer + 1} to {layer}   {bound:.3f}  {ratio:.3f}")
    assert ratio <= bound * (1 + 1e-6)

# %% [markdown]
# How large are these factors in general? Random weights of standard deviation $s$
# between layers of $n$ units make the squared length of a column $n s^2$ times what it
# was, on average. The slopes contribute $(1/4)^2$. So the root mean square changes by
# the factor
#
# $$
# \frac{\sqrt{n}\, s}{4}
# $$
#
# from one layer to the next. The same factor holds upwards for small differences
# between images, because they too pass through weights and slopes; then $n$ counts the
# inputs of a unit. For 784 inputs an init scale of 0.1 is about right. For ten it is
# not.

# %%
for inputs in (784, 10):
    print(f"theory for {inputs:3} inputs: {np.sqrt(inputs) * 0.1 / 4:.3f}")
spread = seen.activation_spread[0]
print("upwards:  ", spread[1:] / spread[:-1])
rms = np.array([np.sqrt((length**2).mean()) for length in lengths])
print("downwards:", (rms[:-1] / rms[1:])[::-1])

# %% [markdown]
# A single small network scatters around the theory. Average over many networks and it
# becomes precise. `snn_jax/meanfield.py` has two versions: *mean field* theory treats
# the layers as very wide; the *exact* recursion knows that there are ten units.

# %%
x200, y200 = data.train.x[:200], data.train.y[:200]
many = sweep.initial_gradients(
    jax.random.key(2),
    x200,
    y200,
    architecture=DEEP,
    scale=0.1,
    num_networks=256,
)
measured = np.sqrt((many**2).mean(axis=0))
squares = (x200.astype(float) ** 2).sum(axis=1)
wide = meanfield.gradient_rms(DEEP, 0.1, squares)
exact = meanfield.exact_gradient_rms(DEEP, 0.1, squares, num_samples=50_000)
print("gradient rms of 256 fresh networks")
print("layer  measured     exact  mean field")
for layer in range(6):
    row = measured[layer], exact[layer], wide[layer]
    print(f"{layer + 1:5}  {row[0]:.2e}  {row[1]:.2e}    {row[2]:.2e}")
assert abs(exact / measured - 1).max() < 0.1

# %% [markdown]
# ## Verdict
#
# One network proves little. So train one for every combination of six init scales, two
# learning rates and four seeds (other random numbers), all at once, for eight epochs.
# Each gets a verdict by rules that are written down in `snn_jax/diagnosis.py`.

# %%
result = sweep.sweep(
    jax.random.key(0),
    data,
    architecture=DEEP,
    scales=[0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
    learning_rates=[0.1, 1.0],
    num_seeds=4,
    num_epochs=8,
    batch_size=32,
)
result["verdict"] = diagnosis.verdicts(result)

# %% [markdown]
# First their test accuracies. A dot is a network; the dashed line is the share of the
# commonest digit.

# %%
figures.accuracy_by_scale(result)

# %% [markdown]
# And their verdicts. The colour is the commonest verdict of the four seeds, the number
# says how many of them got it. Each verdict claims something about the future:

# %%
for kind in diagnosis.KINDS:
    print(f"{kind.name}: {kind.claim}")

# %%
figures.verdict_map(result)

# %% [markdown]
# This is the verdict on a network like the one that we watched, with its evidence.
# *Information* is what it has learned about the labels, H0 minus its loss.

# %%
one = result.sel(scale=0.1, learning_rate=0.1, seed=0)
verdict = diagnosis.diagnose(
    one.label_information.values,
    one.activation_spread.isel(hidden_layer=-1).values,
    one.saturation.isel(hidden_layer=slice(1, None)).mean("hidden_layer").values,
)
print(verdict)
assert verdict.kind.name == "vanishing"
vanishing = diagnosis.NAMES.index("vanishing")
assert (result.verdict.sel(scale=0.1, learning_rate=0.1) == vanishing).all()

# %% [markdown]
# So here are the answers.
#
# > **Is it converging?** No. Its loss has stopped falling, but not at a solution. It
# > sits on a plateau where the loss is H0 and the answer to every image is the same.
# >
# > **Why?** On the way down every layer multiplies the error by small weights and by a
# > slope of at most 1/4. What reaches the first layer hardly moves it. On the way up,
# > differences between images shrink in the same way, so the last layers, which do
# > learn, are not told one digit from another. All that they can learn is how frequent
# > the digits are.
# >
# > **What's wrong?** The init scale. It is about right for 784 inputs, and far too
# > small for ten. Depth multiplies the mistake.
#
# One caution. The plateau is not a trap for all time; it is a *saddle*, flat but with a
# way down. Small differences between images grow, slowly, and a network may leave it
# after long training or at a larger learning rate. So a verdict reaches only so far:

# %%
horizon = verdict.kind.horizon * int(result.epoch[-1])
print(f"The verdict is that it will still be there after {horizon} epochs.")
information = result.label_information.sel(scale=0.1)
for rate in (0.1, 1.0):
    last = information.sel(learning_rate=rate, epoch=8)
    left = int((last > diagnosis.LEFT_PLATEAU).sum())
    print(f"learning rate {rate:3}: {left} of 4 have begun to leave")
assert (information.sel(learning_rate=0.1) < diagnosis.LEFT_PLATEAU).all()

# %% [markdown]
# ## The cure is one line
#
# ### Init scale 1
#
# The simplest cure changes one number. With $s = 1$ the factor $\sqrt{n}\, s / 4$ is
# not far from 1.

# %%
print(f"factor at scale 1: {np.sqrt(10) * 1.0 / 4:.2f} a layer")
fixed = networks.init(jax.random.key(0), DEEP, gain=1.0)  # the line
_, fixed_history, fixed_test = train(fixed, DEEP)
faster = result.test_accuracy.sel(scale=1.0, learning_rate=1.0)
print(f"learning rate 0.1, 20 epochs: {percent(fixed_test.accuracy)}")
print(f"learning rate 1, 8 epochs: {percent(float(faster.median()))}")
assert fixed_test.accuracy > 0.8
assert float(faster.median()) > 0.88

# %% [markdown]
# It learns, though it starts slowly and likes a larger learning rate. We can do better
# if we look at the sigmoid once more.
#
# ### A sigmoid is a tanh in disguise
#
# $$
# \sigma(z) = \frac{1}{2} + \frac{1}{2} \tanh\frac{z}{2}
# $$
#
# The second part is the useful one: it is antisymmetric, and near 0 it is a straight
# line with slope 1/4. The first part, the 1/2, says nothing about the image. Yet the
# next layer adds it up, over all units and weights: $\frac{1}{2} \sum_j W[i, j]$. That
# sum pushes unit $i$ to one side, as a large bias would, and the same for every image.
#
# Two requirements follow.
#
# - **Cancel the 1/2.** Draw weights whose rows sum to 0. Then the halves cancel.
# - **Undo the slope 1/4.** Let the weights be 4 times a matrix that changes no lengths.
#   Such matrices are called *orthogonal*; they rotate. Then a small difference passes
#   through the layer, weights times slope, at its full length. Going down, so does an
#   error.
#
# The rows can sum to 0 only if one direction is given up: the one along which all units
# agree. In all others the lengths are kept. This is `initializer="centred_orthogonal"`
# with `gain=4.0`.

# %%
cured = networks.init(
    jax.random.key(0), DEEP, initializer="centred_orthogonal", gain=4.0
)
W = cured["W3"]
print(f"largest sum of a row: {abs(W.sum(axis=1)).max():.0e}")
print("singular values / 4:")
print(np.linalg.svd(W, compute_uv=False) / 4)
assert np.allclose(jax.nn.sigmoid(grid), 0.5 + 0.5 * np.tanh(grid / 2), atol=1e-6)
assert abs(W.sum(axis=1)).max() < 1e-5

# %%
_, cured_history, cured_test = train(cured, DEEP)
print(f"test accuracy: {percent(cured_test.accuracy)}")
assert cured_test.accuracy > 0.9

# %% jupyter={"source_hidden": true}
figure, axes = plt.subplots(figsize=(figures.WIDTH, 3))
for past, label in (
    (cured_history, "centred orthogonal, gain 4"),
    (fixed_history, "init scale 1"),
    (stuck_history, "init scale 0.1"),
):
    axes.plot(epochs, 100 * past.valid.accuracy, label=label)
axes.set_ylim(0, 100)
over_epochs(axes, "validation accuracy (%)")
axes.legend(frameon=False, loc=(0.45, 0.2))
plt.show()

# %% [markdown]
# The same network, the same learning rate, the same images. Only the line that draws
# the first weights is different.

# %% [markdown]
# ## Twenty layers
#
# If the reason is right, depth itself is not the problem. So take 20 hidden layers, and
# start them with the same line.

# %%
TWENTY = Architecture((784, *[10] * 20, 10), "sigmoid", biases=False)
deeper = {
    "init scale 1": networks.init(jax.random.key(0), TWENTY, gain=1.0),
    "centred orthogonal": networks.init(
        jax.random.key(0), TWENTY, initializer="centred_orthogonal", gain=4.0
    ),
}
look = jax.jit(signals.gradient_rms, static_argnames="architecture")
accuracies = {}
for name, begin in deeper.items():
    sizes = look(begin, x1000, y1000, architecture=TWENTY)
    _, past, last_test = train(begin, TWENTY, num_epochs=8)
    accuracies[name] = past.valid.accuracy
    print(f"{name}:")
    print(f"  gradient, second layer / last: {sizes[1] / sizes[-1]:.0e}")
    print(f"  test accuracy: {percent(last_test.accuracy)}")
assert accuracies["init scale 1"].max() < 0.2
assert accuracies["centred orthogonal"][-1] > 0.9
assert sizes[1] > 0.1 * sizes[-1]
for five_or_twenty in (cured_history.valid.accuracy, accuracies["centred orthogonal"]):
    assert five_or_twenty[1] > 0.85  # after one epoch

# %% [markdown]
# Init scale 1, good for five layers, fails at twenty: a factor that is only nearly 1
# still vanishes if it is multiplied often enough. The centred orthogonal start keeps
# the factor near 1, and twenty layers have learned most of it after one epoch, as five
# layers had.

# %% [markdown]
# ## Exercises
#
# 1. **All weights 0.** Start the two-layer network with `gain=0.0`. Which of the four
#    gradients is zero? *Pointer: which of the equations contain $W_2$?*
# 2. **Two classes.** Show that softmax of two scores is a sigmoid of their difference.
#    *Pointer: divide above and below by the larger term.*
# 3. **Break it.** Leave out the factor $1 - a_1$ in `delta1`, and see which checks
#    notice. Then train with the wrong gradient: `training.train` takes any
#    `value_and_grad`. *Pointer: it may learn all the same; that is why gradients must
#    be checked and not judged by the learning curve.*
# 4. **Learning rate.** Train the two-layer network with `rate=0.01`, `1.0` and `10.0`.
#    What does the loss do in each case?
# 5. **Tanh.** Replace the sigmoid by tanh in the derivation of `db1`. Then train
#    `Architecture((784, 10, 10, 10, 10, 10, 10), "tanh", biases=False)` with
#    `initializer="lecun"`. *Pointer: $\tanh' = 1 - \tanh^2$, at most 1 instead of 1/4.*
# 6. **Patience.** Train the stuck network with `rate=1.0` for 8, 16 and 32 epochs. Does
#    it leave the plateau? Does the verdict see it coming? *Pointer: look at
#    `activation_spread` of the top layer in the result of a `sweep`.*
# 7. **Biases.** Would they have helped? Give the deep network biases and repeat.
#    *Pointer: `biases=True`. What can a bias do to the gradient of the layer below?*
# 8. **Another optimizer.** Replace `optax.sgd` by `optax.adam` with a rate of 0.001.
#    *Pointer: Adam divides each gradient by its own typical size.*
# 9. **The critical scale.** At which init scale does the factor equal 1 in a deep
#    network without biases? *Pointer: `meanfield.critical_sigma_w`, divided by
#    $\sqrt{n}$. Compare with $4 / \sqrt{n}$, and say why the true answer is larger.*
# 10. **How deep?** Try 50 or 100 layers with the centred orthogonal start.

# %% [markdown]
# ## Where to read on
#
# - D. Rumelhart, G. Hinton, R. Williams, *Learning representations by back-propagating
#   errors* (1986). The paper that made back-propagation widely known; four pages.
# - M. Nielsen, *Neural Networks and Deep Learning* (2015), a free online book. Chapter
#   2 derives back-propagation; chapter 5 asks why deep networks are hard to train.
# - S. Hochreiter, *Untersuchungen zu dynamischen neuronalen Netzen* (1991). A diploma
#   thesis, in German, in which vanishing gradients are analysed, in recurrent nets.
# - Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, *Efficient BackProp* (1998). Practical
#   rules with reasons: centre the inputs, prefer symmetric sigmoids such as tanh, and
#   draw smaller weights the more inputs a unit has.
# - X. Glorot, Y. Bengio, *Understanding the difficulty of training deep feedforward
#   neural networks* (2010). They look at activations and gradients layer by layer, as
#   we did, and derive an init scale from them.
# - A. Saxe, J. McClelland, S. Ganguli, *Exact solutions to the nonlinear dynamics of
#   learning in deep linear neural networks* (2014). Why orthogonal weights help.
# - S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein, *Deep information
#   propagation* (2017). How deep a signal can reach, by mean field theory.
#
# In this package, read `snn_jax/shallow.py`, then `backprop.py` and `training.py`. For
# the full study of the deep network run `python experiments/convergence.py`, and for
# 28 cures side by side `python experiments/remedies.py`.

# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two networks for handwritten digits
#
# You build a network that reads digits, derive its gradient by hand, and check the
# derivation. Then you look at a deeper one and say what is wrong with it.
#
# Fill in the functions that say `not done yet`. Write for **one image at a time**:
#
# | name | what it is | shape |
# | --- | --- | --- |
# | `x` | an image, pixels from 0 to 1 | `(784,)` |
# | `y` | its digit | a number from 0 to 9 |
# | `W1`, `b1` | weights and biases of the hidden layer | `(20, 784)`, `(20,)` |
# | `W2`, `b2` | of the output layer | `(10, 20)`, `(10,)` |
#
# For as long as you like, ask for a review: save the notebook, then
#
#     python experiments/review.py assignment.ipynb
#
# says of every function whether it is right, and if not, which mistake it is. It does
# not tell you the formula. If you prefer batches, rows or columns: do as you like, it
# finds out by itself.

# %%
import matplotlib.pyplot as plt
import numpy as np

from snn_jax import mnist

data = mnist.load()
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1. The data
#
# 50,000 images to learn from, 10,000 to watch, 10,000 for the end.

# %%
figure, axes = plt.subplots(1, 10, figsize=(10, 1.2))
for axis, image, digit in zip(axes, data.train.x, data.train.y, strict=False):
    axis.imshow(image.reshape(28, 28), cmap="gray_r")
    axis.set_title(digit)
    axis.axis("off")

# %% [markdown]
# ## 2. The network
#
# 20 sigmoid units, then 10 softmax outputs. Written out, with `z` before and `a` after
# the sigmoid:
#
# $$z_1 = W_1 x + b_1, \quad a_1 = \sigma(z_1), \quad z_2 = W_2 a_1 + b_2, \quad
# p = \mathrm{softmax}(z_2)$$
#
# `Pred` gives the ten probabilities. *Hint: what becomes of `exp(1000)`?*


# %%
def sigmoid(z):
    """Squeezes any number between 0 and 1."""
    return 1 / (1 + np.exp(-np.clip(z, -500, 500)))


def initial(scale=0.1):
    """Random weights to begin with."""
    return (
        rng.normal(0, scale, (20, 784)),
        np.zeros(20),
        rng.normal(0, scale, (10, 20)),
        np.zeros(10),
    )


def Pred(W1, b1, W2, b2, x):
    """Probabilities of the ten digits, (10,)."""
    raise NotImplementedError("not done yet")


# %% [markdown]
# The loss is the negative log-likelihood: what the network pays for the probability
# that it gave to the right digit.


# %%
def loss(W1, b1, W2, b2, x, y):
    """Minus the logarithm of the right digit's probability, a number."""
    raise NotImplementedError("not done yet")


# %% [markdown]
# ## 3. The gradient, by hand
#
# Derive each on paper first, from the top down, then write it. No autodiff here.


# %%
def db2(W1, b1, W2, b2, x, y):
    """How the loss changes with b2, (10,)."""
    raise NotImplementedError("not done yet")


def dW2(W1, b1, W2, b2, x, y):
    """How it changes with W2, (10, 20)."""
    raise NotImplementedError("not done yet")


def db1(W1, b1, W2, b2, x, y):
    """How it changes with b1, (20,)."""
    raise NotImplementedError("not done yet")


def dW1(W1, b1, W2, b2, x, y):
    """How it changes with W1, (20, 784)."""
    raise NotImplementedError("not done yet")


# %% [markdown]
# **Question 1.** The entries of `db2` always sum to the same number. Which, and why?
#
# **Question 2.** Which weights of `W1` get no gradient from an image, and why?
#
# **Question 3.** Compare one entry of each gradient with a difference quotient
# $(\ell(w + h) - \ell(w - h)) / 2h$. Which $h$ is good? Why is a smaller one worse?

# %% [markdown]
# ## 4. Training
#
# Stochastic gradient descent, one image a step. A learning rate of 0.1 will do; after
# one pass about nine of ten digits should be right.

# %%
W1, b1, W2, b2 = initial()
# Your loop.

# %% [markdown]
# ## 5. A deeper network
#
# Five hidden layers of 10 sigmoid units, softmax output, no biases: weights `W1` of
# shape `(10, 784)`, then five times `(10, 10)`. Its gradient is the same rule, once for
# every layer. `weights` is a list of the six matrices.


# %%
def deep_gradients(weights, x, y):
    """The gradient of each matrix, a list of arrays of their shapes."""
    raise NotImplementedError("not done yet")


# %% [markdown]
# Train it with the same initial weights `N(0, 0.1^2)`, and watch loss and accuracy.
#
# **Question 4.** Is it converging? Show the numbers that say so.
#
# **Question 5.** Why? Compare the gradients of the six layers for a few images. What
# multiplies them on their way down?
#
# **Question 6.** What's wrong? Change one thing so that it learns, and show that it
# does.

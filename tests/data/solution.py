"""A right solution of the assignment, for the tests."""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def Pred(W1, b1, W2, b2, x):
    n = len(x)
    z1 = x @ W1 + b1
    a1 = sigmoid(z1)
    z2 = a1 @ W2 + b2
    p = softmax(z2)
    return p


def loss(W1, b1, W2, b2, x, y):
    n = len(x)
    z1 = x @ W1 + b1
    a1 = sigmoid(z1)
    z2 = a1 @ W2 + b2
    p = softmax(z2)
    t = y
    loss = -(t * np.log(p)).sum() / n
    return loss


def dW1(W1, b1, W2, b2, x, y):
    n = len(x)
    z1 = x @ W1 + b1
    a1 = sigmoid(z1)
    z2 = a1 @ W2 + b2
    p = softmax(z2)
    t = y
    d2 = (p - t) / n
    slope = a1 * (1 - a1)
    d1 = (d2 @ W2.T) * slope
    dW1 = x.T @ d1
    return dW1


def db1(W1, b1, W2, b2, x, y):
    n = len(x)
    z1 = x @ W1 + b1
    a1 = sigmoid(z1)
    z2 = a1 @ W2 + b2
    p = softmax(z2)
    t = y
    d2 = (p - t) / n
    slope = a1 * (1 - a1)
    d1 = (d2 @ W2.T) * slope
    db1 = d1.sum(axis=0)
    return db1


def dW2(W1, b1, W2, b2, x, y):
    n = len(x)
    z1 = x @ W1 + b1
    a1 = sigmoid(z1)
    z2 = a1 @ W2 + b2
    p = softmax(z2)
    t = y
    d2 = (p - t) / n
    dW2 = a1.T @ d2
    return dW2


def db2(W1, b1, W2, b2, x, y):
    n = len(x)
    z1 = x @ W1 + b1
    a1 = sigmoid(z1)
    z2 = a1 @ W2 + b2
    p = softmax(z2)
    t = y
    d2 = (p - t) / n
    db2 = d2.sum(axis=0)
    return db2

"""Mistakes in hand-written gradients: every part of one, right and wrong.

``gradcheck`` says whether a gradient is right. Here a wrong one is explained. The
gradient of a layer is built of parts, each of which people get wrong in a handful of
ways:

    gradient of W_l  =  reduction over images of  delta_l * input of the layer
    delta_l          =  (W_{l+1}^T delta_{l+1}) * slope,      delta_L = the top error

Every combination of a top error, a slope, the weights on the way down, an input and a
reduction is a hypothesis h. The answer g of a student is compared with all of them, up
to one factor: c = <h, g> / <h, h>, and what is left over is

    residual = |g - c h| / |g|

At 1e-9 or less in float64 the hypothesis is that formula, to all its digits. With
weights of scale 1, biases and sizes that differ pairwise, two hypotheses are 1e-2 apart
or more; where the second best is nearer than that, or where batches of other sizes
disagree, no mistake is named. The factor is compared between batches of 7 and 13
images: as a power of the batch size B it tells a sum from a mean, and a mean taken
twice.

What cannot be told: a sum from a mean, a factor or a sign, if there is no loss to go
with the gradient, since all of them are a learning rate; anything about B in code that
takes one image.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Params = dict[str, np.ndarray]

# A hypothesis fits if this is left over; it is certain if the next leaves over as much.
FITS, APART = 1e-9, 1e-2
# What single precision leaves over of a right answer.
SINGLE = 1e-5


class Probe(NamedTuple):
    """A small network and a batch at which a student's functions are asked.

    Attributes:
        params: W1 (fan_out, fan_in), b1 (fan_out,), W2, .., in float64; without biases
            there are no leaves b1, b2, ...
        x: images, a row each, (B, D).
        y: labels, (B,).
        rate: of a step, for code that does not return gradients but takes steps.
    """

    params: Params
    x: np.ndarray
    y: np.ndarray
    rate: float = 0.37

    @property
    def num_layers(self) -> int:
        """L."""
        return sum(name.startswith("W") for name in self.params)

    @property
    def onehot(self) -> np.ndarray:
        """e, a row for each image, (B, K)."""
        classes = len(self.params[f"W{self.num_layers}"])
        found: np.ndarray = np.eye(classes)[self.y]
        return found


def probe(
    sizes: Sequence[int] = (13, 5, 10),
    batch_size: int = 7,
    *,
    biases: bool = True,
    seed: int = 0,
) -> Probe:
    """A network of scale 1 and a batch in which no number occurs twice.

    >>> probe().params["W1"].shape, probe(batch_size=13).x.shape
    ((5, 13), (13, 13))
    """
    rng = np.random.default_rng([seed, batch_size])
    params: Params = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        params[f"W{layer}"] = rng.normal(size=(fan_out, fan_in)) / fan_in**0.5 * 2
        if biases:
            params[f"b{layer}"] = rng.normal(size=fan_out)
    x = rng.uniform(0.1, 1, size=(batch_size, sizes[0]))
    y = rng.integers(sizes[-1], size=batch_size)
    if batch_size > 1:  # who counts the classes in the labels finds all of them
        y[-1] = sizes[-1] - 1
    return Probe(params, x, y)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-z))
    return found


def _softmax(z: np.ndarray, axis: int | None = 1) -> np.ndarray:
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    found: np.ndarray = e / e.sum(axis=axis, keepdims=True)
    return found


# name: f, and f' of (z, a).
HIDDEN: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (_sigmoid, lambda z, a: a * (1 - a)),  # noqa: ARG005
    "tanh": (np.tanh, lambda z, a: 1 - a**2),  # noqa: ARG005
    "ReLU": (lambda z: np.maximum(z, 0), lambda z, a: 1.0 * (z > 0)),  # noqa: ARG005
    "no activation": (lambda z: z, lambda z, a: np.ones_like(z)),  # noqa: ARG005
}

OUTPUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "softmax over the images": lambda z: _softmax(z, axis=0),
    "softmax over images and classes": lambda z: _softmax(z, axis=None),
    "no softmax": lambda z: z,
    "sigmoid outputs": _sigmoid,
    "exp without the division": np.exp,
    "log-probabilities": lambda z: np.log(_softmax(z)),
}

# Hidden activation, output, and the layers whose bias is left out.
RIGHT_FORWARD = ("sigmoid", "softmax", "")


class Passed(NamedTuple):
    """Of a forward pass: a_0 .. a_{L-1}, z_1 .. z_L, and p, a row an image."""

    a: list[np.ndarray]
    z: list[np.ndarray]
    p: np.ndarray
    slope: Callable[..., Any]


def forward(at: Probe, variant: tuple[str, str, str] = RIGHT_FORWARD) -> Passed:
    """The forward pass, right or with a mistake.

    Args:
        at: network and images.
        variant: names of the hidden activation and the output, and the layers whose
            bias is left out, such as "1".
    """
    hidden, output, without = variant
    f, slope = HIDDEN[hidden]
    a, z = [at.x], []
    for layer in range(1, at.num_layers + 1):
        bias = at.params.get(f"b{layer}", np.zeros(1))
        used = 0 if str(layer) in without else bias
        z.append(a[-1] @ at.params[f"W{layer}"].T + used)
        a.append(f(z[-1]))
    return Passed(a[:-1], z, OUTPUTS[output](z[-1]), slope)


def forward_variants(num_layers: int, biases: bool) -> list[tuple[str, str, str]]:
    """All of them, the right one first."""
    layers = "".join(map(str, range(1, num_layers + 1)))
    without = ["", *layers, layers] if biases else [""]
    found = list(itertools.product(HIDDEN, OUTPUTS, without))
    return sorted(found, key=lambda v: sum(map(str.__ne__, v, RIGHT_FORWARD)))


def variant_of(
    preds: Sequence[np.ndarray], probes: Sequence[Probe]
) -> tuple[str, str, str] | None:
    """The forward pass that gives these predictions, or None."""
    for variant in forward_variants(probes[0].num_layers, "b1" in probes[0].params):
        passes = [forward(at, variant).p for at in probes]
        if max(map(difference, preds, passes)) <= SINGLE:
            return variant
    return None


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative; 1 for another shape."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return 1.0
    size = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / size) if size > 0 else 1.0


# Nearly the right error times a number: looked for alone.
RARE = ("an extra sigmoid slope at p",)


def top_errors(passed: Passed, e: np.ndarray) -> dict[str, np.ndarray]:
    """delta_L of every image, right first, then by the mistake."""
    p, z = passed.p, passed.z[-1]
    s = _sigmoid(z)
    both = p - e
    safe = np.where(np.abs(p) < 1e-300, 1e-300, p)
    found = {
        "": both,
        "scores for probabilities": z - e,
        "an extra sigmoid slope": both * s * (1 - s),
        "an extra slope p (1 - p)": both * p * (1 - p),
        "multiplied by the scores": both * z,
        "an extra sigmoid slope at p": both * _sigmoid(p) * (1 - _sigmoid(p)),
        "slope of the loss by p, without the softmax": -e / safe,
        "a diagonal softmax slope": -e * (1 - p),
        "the target left out": p,
        "the prediction left out": -e,
        "p + e for p - e": p + e,
        "labels one class too high": p - np.roll(e, 1, axis=1),
        "labels one class too low": p - np.roll(e, -1, axis=1),
        "the guess for the probabilities": np.eye(p.shape[1])[p.argmax(axis=1)] - e,
        "squared error": p * (both - (both * p).sum(axis=1, keepdims=True)),
        "sigmoid outputs": s - e,
        "squared error of sigmoid outputs": (s - e) * s * (1 - s),
        "the square of p - e": both**2,
        "the size of p - e": np.abs(both),
    }
    if np.ptp(p) < 0.5:  # then it is the same for all p, as good as a factor
        found[RARE[0]] = np.zeros_like(p)
    return found


def _slopes(z: np.ndarray, a: np.ndarray, right: Any) -> dict[str, np.ndarray]:
    s = _sigmoid(a)
    found = {
        "": right(z, a),
        "the slope of sigmoid": _sigmoid(z) * (1 - _sigmoid(z)),
        "the slope is missing": np.ones_like(z),
        "the slope is taken at a for z": s * (1 - s),
        "the slope a (1 - a) with z for a": z * (1 - z),
        "a * a for the slope": a * a,
        "1 - a for the slope": 1 - a,
        "a for the slope": a,
        "the slope of tanh": 1 - a**2,
        "the slope of tanh at z": 1 - np.tanh(z) ** 2,
        "the slope of ReLU": 1.0 * (z > 0),
        "z for the slope": z,
        "a (1 + a) for the slope": a * (1 + a),
        "the slope twice": right(z, a) ** 2,
        "exp(-z) for the slope": np.exp(-z),
    }
    if np.allclose(found["the slope of sigmoid"], found[""]):
        del found["the slope of sigmoid"]
    else:
        found["the slope of sigmoid, a (1 - a)"] = a * (1 - a)
    return found


Hypothesis = tuple[tuple[tuple[str, str], ...], np.ndarray]


def deltas(
    at: Probe, passed: Passed, layer: int
) -> Iterable[tuple[tuple[tuple[str, str], ...], np.ndarray]]:
    """delta_l of every hypothesis, with what is wrong in each: (part, mistake)."""
    L, tops = at.num_layers, top_errors(passed, at.onehot)
    if layer == L:
        for name, top in tops.items():
            yield ((("top", name),) if name else ()), top
        return
    right_dW = {}
    delta = tops[""]
    for m in range(L, 1, -1):
        right_dW[m] = delta.T @ passed.a[m - 1] / len(at.y)
        delta = (
            delta @ at.params[f"W{m}"] * passed.slope(passed.z[m - 2], passed.a[m - 1])
        )
    slopes = {
        m: _slopes(passed.z[m - 1], passed.a[m], passed.slope) for m in range(layer, L)
    }
    downs = {
        "": {m: at.params[f"W{m}"] for m in right_dW},
        "weights that are updated already": {
            m: at.params[f"W{m}"] - at.rate * dW for m, dW in right_dW.items()
        },
        "the size of the weights": {m: abs(at.params[f"W{m}"]) for m in right_dW},
    }
    # In deep networks the slope is wrong everywhere, or in this layer alone.
    everywhere = [True, False] if layer < L - 1 else [True]
    names = slopes[layer]
    choices = itertools.product(tops.items(), names, downs.items(), everywhere)
    for (top, delta), name, (down, weights), all_layers in choices:
        if (not all_layers and not name) or (top and down and name):
            continue
        if top in RARE and (down or name):
            continue
        wrong = [("top", top)] if top else []
        wrong += [("weights", down)] if down else []
        wrong += [("slope", name if all_layers else f"{name}, in this layer alone")][
            : bool(name)
        ]
        for m in range(L, layer, -1):
            here = name if all_layers or m == layer + 1 else ""
            delta = delta @ weights[m] * slopes[m - 1][here]
        yield tuple(wrong), delta


def hypotheses(at: Probe, passed: Passed, leaf: str) -> list[Hypothesis]:
    """What a leaf's gradient of the mean loss is, right first, and by every mistake."""
    layer, B = int(leaf[1:]), len(at.y)
    a = passed.a[layer - 1]
    found: list[Hypothesis] = []
    for wrong, delta in deltas(at, passed, layer):
        if len(wrong) > 1:  # a third mistake in one leaf is too rare to look for
            same = delta.T @ a / B if leaf[0] == "W" else delta.mean(axis=0)
            found.append((wrong, same))
        elif leaf[0] == "W":
            inputs = {"": a, "the input left out": np.ones_like(a)}
            if layer > 1:
                inputs["z for the activation"] = passed.z[layer - 2]
                inputs["the slope for the activation"] = passed.slope(
                    passed.z[layer - 2], a
                )
            for name, values in inputs.items():
                more = (("input", name),) if name else ()
                found.append((wrong + more, delta.T @ values / B))
            if B > 1:
                mean = np.outer(delta.mean(axis=0), a.mean(axis=0))
                last = np.outer(delta[-1], a[-1])
                mixed = "a product of means for the mean of products"
                found.append(((*wrong, ("reduction", mixed)), mean))
                found.append(((*wrong, ("reduction", "the last image alone")), last))
        else:
            found.append((wrong, delta.mean(axis=0)))
            if B > 1:
                part = ("reduction", "the last image alone")
                found.append(((*wrong, part), delta[-1]))
            if not wrong:
                from_dW = (delta * a.sum(axis=1, keepdims=True)).mean(axis=0)
                found.append(((("reduction", "summed from dW"),), from_dW))
                same = np.full(delta.shape[1], delta.mean())
                found.append(((("reduction", "summed over everything"),), same))
    return sorted(found, key=lambda h: len(h[0]))


# What people add to a probability, so that its logarithm is finite.
EPSILONS = tuple(10.0**-n for n in range(4, 17))


def losses(passed: Passed, e: np.ndarray) -> dict[str, float]:
    """Means over the images, the right one first."""
    with np.errstate(all="ignore"):
        p = passed.p
        values = {
            "": -(e * np.log(p)),
            **{f"{s:g} in the logarithm": -(e * np.log(p + s)) for s in EPSILONS},
            "squared error": (p - e) ** 2,
            "cross-entropy of every output": -(e * np.log(p) + (1 - e) * np.log(1 - p)),
            "the logarithms of all classes": -np.log(p),
            "labels one class too high": -(np.roll(e, 1, axis=1) * np.log(p)),
            "labels one class too low": -(np.roll(e, -1, axis=1) * np.log(p)),
            "no logarithm": 1 - (e * p).sum(axis=1),
            "the probability of the label": e * p,
        }
        return {name: float(v.sum() / len(e)) for name, v in values.items()}


class Reference:
    """A probe and one forward pass on it, with every hypothesis computed once.

    Attributes:
        at: the probe.
        on: the forward pass.
        top_error: delta_L that functions are given: the right one, or a student's own.
    """

    def __init__(
        self, at: Probe, variant: tuple[str, str, str] = RIGHT_FORWARD
    ) -> None:
        self.at, self.variant, self.on = at, variant, forward(at, variant)
        self.top_error = self.on.p - at.onehot
        self._tables: dict[str, Any] = {}

    def table(self, leaf: str) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """What is wrong in every hypothesis, as rows what it says, their squares."""
        if leaf not in self._tables:
            found = hypotheses(self.at, self.on, leaf)
            h = np.array([values.ravel() for _, values in found])
            self._tables[leaf] = [w for w, _ in found], h, (h**2).sum(axis=1)
        names, h, squares = self._tables[leaf]
        return names, h, squares

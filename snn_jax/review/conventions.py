"""How people lay out images, weights and labels, and what they call them.

Nothing of it is right or wrong: rows or columns, one image or a batch, weights either
way, labels as numbers or one-hot, and arguments in any order and of many names.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from snn_jax.review.mistakes import Probe, Reference


class Convention(NamedTuple):
    """How arrays are laid out.

    Attributes:
        layout: "rows", an image each; "columns"; "column", one image (D, 1); or
            "vector", one image (D,).
        weights: "in_out", (fan_in, fan_out), or "out_in".
        bias: "n" for (n,), "1n" or "n1".
        labels: "onehot", "int", or "n1" for numbers as (B, 1), of columns (1, B).
    """

    layout: str
    weights: str
    bias: str
    labels: str

    @property
    def one_image(self) -> bool:
        """Whether the functions take an image alone."""
        return self.layout in ("column", "vector")

    def __str__(self) -> str:
        images = {
            "rows": "images as rows", "columns": "images as columns",
            "column": "one image, a column (D, 1)", "vector": "one image, (D,)",
        }[self.layout]  # fmt: skip
        weights = {"in_out": "(fan_in, fan_out)", "out_in": "(fan_out, fan_in)"}
        bias = {"n": "(n,)", "1n": "(1, n)", "n1": "(n, 1)"}
        labels = {"int": "numbers", "onehot": "one-hot", "n1": "numbers, a column"}
        return (
            f"{images}; weights {weights[self.weights]}; biases {bias[self.bias]}; "
            f"labels {labels[self.labels]}"
        )


CONVENTIONS = [
    Convention(layout, weights, bias, labels)
    for layout, biases in (
        ("rows", ("n", "1n")),
        *((layout, ("n1",)) for layout in ("columns", "column")),
        ("vector", ("n",)),
    )
    for weights in ("in_out", "out_in")
    for bias in biases
    for labels in ("onehot", "int", "n1")
    if labels != "n1" or layout in ("rows", "columns")
]

# What an argument may be called, by what it is; the first that fits is the likeliest.
NAMES: dict[str, str] = {
    "x": r"x|xs|images?|imgs?|pics?|pictures?|rows?|inputs?|data|a0|"
    r"x_?(train|batch|i)|batch|pixels|samples?|features|below|a?_?prev|inp|feature_?vector|example",
    "y": r"y|t|ys|lbls?|targets?|labels?|one_?hot|y_?(true|train|batch|i|oh)|truth|"
    r"true|expected|desired|answers?|lab|gold|digits?|tgt",
    "p": r"p|ps|y_?p|preds?|predictions?|predicted|guess|prob(s|abilities)?|y_?hat|"
    r"y_?pred|outputs?|out|o|a2|softmax|y|q|estimate|forward_out",
    "a1": r"a1|h|hs|h1|hidden|z|act(ivations?)?|below|a|hid|s1|out1|hidden_?out|"
    r"a_?prev",
    "z1": r"z1|z|pre1?|hidden_?in|net1?|n1|s1|u1|h_?in|in1|pre_?act(ivations?)?",
    "z2": r"z2|scores?|logits?|s|s2|net2|o|u2|z|pre2|zo",
    "W1": r"w_?1|v|w_?h|w_?hidden|w_?(ih|xh)|weights?_?1|theta1|a|u|w_?in|w_?0|wi|w",
    "b1": r"b_?1|c|b_?h|c1|bias_?1|b_?hidden|a|b_?0|bi|b",
    "W2": r"w_?2|w|w_?o|w_?out|w_?(ho|hy)|weights?_?2|theta2|b|u|v|w_?above|w_?next|wo",
    "b2": r"b_?2|d|b_?o|c2|bias_?2|b_?out|b|by|c",
    "d2": r"d2|delta_?2?|d_?z_?2?|dz_?(above|next|out)|err(or)?s?(_?2)?|e2|e|top|upper|"
    r"d_?out|grad_?z2|delta_?(out|above|next|o)|dscores|dlogits",
    "rate": r"(learning_?)?rate|lr|alpha|eta|step(_?size)?|learn_?rate",
    "n": r"n|m|b|batch_?size|num(_?(images|samples|examples))?|count",
    "K": r"k|num_?classes|classes|n_?classes|c",
    "sizes": r"sizes|dims?|dimensions|layers|shape|layer_?sizes|arch(itecture)?",
    "theta": r"theta|params?|parameters|flat|w|weights|vector|p",
    "params": r"params?|parameters|net(work)?|model|weights|p|theta|state|w|nn|ws|wb",
    "decay": r"la?m(b?da?)?_?|reg(ularization)?(_?(strength|param|rate))?|decay|l2"
    r"(_?reg)?|weight_?decay|wd|lambd|lmbda",
    "cache": r"cache|memory|store|stored|saved|tape|ctx|context|intermediates?|aux|"
    r"forward_?(pass|out|cache|results?)|acts|activations",
    "layers": r"layers|network|net|model|params?|parameters|nn|weights",
    "Ws": r"ws|weights|w|thetas?",
    "bs": r"bs|biases|b|bias",
}

ANY = ("x", "y", "p", "a1", "W1", "b1", "W2", "b2", "z1", "z2", "d2", "n")


def roles_of(name: str) -> list[str]:
    """What an argument of this name may be, the likeliest first.

    >>> roles_of("Z"), roles_of("Y"), roles_of("learning_rate")
    (['z1', 'a1', 'z2'], ['y', 'p'], ['rate'])
    """
    words = _by_words(name)
    name = name.lower().strip("_")
    if gradient := re.fullmatch(r"(?:d|grad|g|delta)_?([wb])_?([12])", name):
        return [f"d{gradient[1].upper() if gradient[1] == 'w' else 'b'}{gradient[2]}"]
    if re.fullmatch(r"grads?|gradients?", name):
        return ["grads"]
    deep = re.fullmatch(r"(w|b)_?(\d+)", name)
    if deep and int(deep[2]) > 2:
        return [f"{deep[1].upper() if deep[1] == 'w' else 'b'}{deep[2]}"]
    ranked = [
        (pattern.split("|").index(name) if name in pattern.split("|") else 4, role)
        for role, pattern in NAMES.items()
        if re.fullmatch(pattern, name)
    ]
    found = [role for _, role in sorted(ranked, key=lambda pair: pair[0])]
    return found or words


WEIGHTS = {"w", "ws", "weight", "weights", "theta", "kernel", "syn", "synapse", "mat"}
BIASES = {"b", "bias", "biases", "beta", "offset", "intercept"}
ABOVE = {
    *("output", "outputs", "out", "o", "ho", "hy", "second", "top", "final", "fin"),
    "last",
}
BELOW = {"input", "inputs", "in", "ih", "xh", "first", "bottom", "i", "x"}
HIDDEN_WORDS = {"hidden", "hid", "h"}


def _by_words(name: str) -> list[str]:
    """What a longer name says: weights_input_hidden, output_bias, layer1_w.

    >>> _by_words("weights_hidden_output"), _by_words("biasHidden"), _by_words("syn0")
    (['W2'], ['b1'], ['W1'])
    >>> _by_words("output_error"), _by_words("true_labels"), _by_words("stuff")
    (['d2'], ['y'], [])
    """
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    words = set(re.findall(r"[a-z]+|\d", spaced))
    kind = "W" if words & WEIGHTS else "b" if words & BIASES else ""
    if kind:
        if "0" in words or (words & BELOW and not words & ABOVE):
            return [f"{kind}1"]
        if "2" in words or words & ABOVE:
            return [f"{kind}2"]
        if "1" in words:  # counted from 1, or from 0
            return [f"{kind}1", f"{kind}2"]
        return [f"{kind}1"] if words & HIDDEN_WORDS else []
    for role, meant in (
        ("d2", {"err", "error", "errors", "delta", "deltas"}),
        ("y", {"label", "labels", "target", "targets", "true", "truth", "onehot"}),
        ("p", {"pred", "preds", "prob", "probs", "prediction", "predicted", "softmax"}),
        ("a1", HIDDEN_WORDS),
        ("x", {"image", "images", "img", "sample", "samples", "pixels", *BELOW}),
        ("p", ABOVE),
    ):
        if words & meant:
            return [role, "z1"] if role == "a1" else [role]
    return []


def _laid_out(values: np.ndarray, convention: Convention) -> np.ndarray:
    """A quantity of every image, (B, n), as the student has it."""
    if convention.layout == "rows":
        return values
    return values[0] if convention.layout == "vector" else values.T


def _bias(values: np.ndarray, convention: Convention) -> np.ndarray:
    return {"n": values, "1n": values[None], "n1": values[:, None]}[convention.bias]


def leaf_as(name: str, values: np.ndarray, convention: Convention) -> np.ndarray:
    """A parameter as the student has it."""
    if name[0] == "b":
        return _bias(values, convention)
    return values if convention.weights == "out_in" else values.T


def leaves_as(at: Probe, convention: Convention) -> dict[str, np.ndarray]:
    """All of them, W1 first."""
    return {name: leaf_as(name, v, convention) for name, v in at.params.items()}


def value_of(
    role: str, keys: Sequence[str], reference: Reference, convention: Convention
) -> Any:
    """What is put in for an argument of this role.

    Raises:
        KeyError: there is nothing of that role.
    """
    at, on = reference.at, reference.on
    leaves = leaves_as(at, convention)
    L = at.num_layers
    if role in leaves:
        return leaves[role]
    quantities = {"x": on.a[0], "p": on.p, "z2": on.z[-1], "d2": reference.top_error}
    if L >= 2:
        quantities |= {"a1": on.a[1], "z1": on.z[0]}
    if role in quantities:
        return _laid_out(quantities[role], convention)
    if role == "y":
        if convention.labels == "onehot":
            return _laid_out(at.onehot, convention)
        if convention.labels == "n1":
            return _laid_out(at.y[:, None], convention)
        return int(at.y[0]) if convention.one_image else at.y
    if role[:1] == "d" and role[1:] in leaves:
        return known_gradient(leaves[role[1:]])
    if role == "grads":
        named = {key: roles_of(key)[:1] for key in keys}
        usual = {f"d{name}": known_gradient(values) for name, values in leaves.items()}
        return usual | {
            key: known_gradient(leaves[found[0][1:]])
            for key, found in named.items()
            if found and found[0][1:] in leaves
        }
    sizes = [at.x.shape[1], *(len(at.params[f"W{m}"]) for m in range(1, L + 1))]
    if role == "params":
        if not keys:
            return leaves
        matched = _keys_to_leaves(keys, list(leaves))
        own = {key: leaves[leaf] for key, leaf in matched.items()}
        # A function that is called with it may look up more.
        missing = {k: v for k, v in leaves.items() if k not in matched.values()}
        return own | missing
    return {
        "rate": at.rate,
        "n": len(at.y),
        "K": sizes[-1],
        "sizes": tuple(sizes),
        "theta": np.concatenate([v.ravel() for v in leaves.values()]),
        "list": list(leaves.values()),
        "pairs": [(leaves[f"W{m}"], leaves.get(f"b{m}")) for m in range(1, L + 1)],
        "decay": 0.1,
        "Ws": [leaves[f"W{m}"] for m in range(1, L + 1)],
        "bs": [leaves[f"b{m}"] for m in range(1, L + 1) if f"b{m}" in leaves],
    }[role]


def known_gradient(values: np.ndarray) -> np.ndarray:
    """What is given to a function that takes a gradient, to see what it does with it.

    Any numbers will do that are not the parameters'.
    """
    found: np.ndarray = np.cos(3 * values) + 2
    return found


def _keys_to_leaves(keys: Sequence[str], leaves: Sequence[str]) -> dict[str, str]:
    """Which parameter is looked up by which key."""
    found = {key: key for key in keys if key in leaves}
    for key in keys:
        for role in roles_of(key):
            if key not in found and role in leaves and role not in found.values():
                found[key] = role
    return found


def as_rows(
    array: np.ndarray, convention: Convention, B: int, size: int
) -> np.ndarray | None:
    """(B, size) of a quantity of every image, or None for another shape."""
    wanted = {
        "rows": (B, size), "columns": (size, B), "column": (size, 1), "vector": (size,)
    }[convention.layout]  # fmt: skip
    if array.shape != wanted:
        return None
    return array if convention.layout == "rows" else array.reshape(size, B).T


def as_leaf(
    array: np.ndarray, leaf: str, at: Probe, convention: Convention
) -> np.ndarray | None:
    """A gradient in the probe's layout, or None for another shape."""
    shape = at.params[leaf].shape
    if array.shape != leaf_as(leaf, at.params[leaf], convention).shape:
        if leaf[0] == "b" and array.shape in ((shape[0],), (1, *shape), (*shape, 1)):
            return array.reshape(shape)
        return None
    if leaf[0] == "b":
        return array.reshape(shape)
    return array if convention.weights == "out_in" else array.T

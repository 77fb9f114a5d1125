"""The judge names the mistake that was planted, and is silent where all is right."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import review as script
from solutions import FORMS, LAYOUTS, Style, right_styles, solution

from snn_jax import backprop, gradients, losses, review, shallow
from snn_jax.networks import MLP
from snn_jax.review import fits, mistakes
from snn_jax.review.evidence import Verdict
from snn_jax.review.mistakes import APART, FITS, Reference
from snn_jax.student import functions as student_code


def judged(source: str) -> dict[str, Verdict]:
    """The verdicts on a source, in this process."""
    student = student_code.Student(source)

    def ask(request: Any) -> Any:
        with np.errstate(all="ignore"):
            return student_code.answer(student, request)

    functions = review.student_functions(ask)
    found = review.judged(functions, lambda c: ask({"do": "call", "calls": c}))
    return {v.function: v for v in found.verdicts}


def wrong_in(verdicts: dict[str, Verdict]) -> dict[str, Any]:
    """What is not right: of each function its mistakes, or what it follows from."""
    return {
        v.function: v.follows if v.status == "follows" else v.mistakes
        for v in verdicts.values()
        if v.status in ("wrong", "follows")
    }


# The reference and the hypotheses, without any student.


@pytest.mark.parametrize("sizes", [(13, 5, 10), (13, 5, 6, 4, 10)])
def test_the_reference_is_the_gradient(sizes: tuple[int, ...]) -> None:
    """The first hypothesis of every leaf, against the package's own and autodiff."""
    at = mistakes.probe(sizes, biases=len(sizes) == 3)
    network = MLP(sizes, biases=len(sizes) == 3)
    with jax.enable_x64(True):
        for by in (backprop.value_and_grad(network), gradients.by_autodiff(network)):
            loss, grads = by(at.params, at.x, at.y)
            for leaf, grad in grads.items():
                wrong, right = mistakes.hypotheses(at, mistakes.forward(at), leaf)[0]
                assert wrong == ()
                np.testing.assert_allclose(right, grad, rtol=1e-12, atol=1e-15)
        expected = losses.nll(network.apply(at.params, at.x), at.y).mean()
    assert mistakes.losses(mistakes.forward(at), at.onehot)[""] == pytest.approx(
        float(expected), rel=1e-12
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("leaf", ["W2", "b2", "W1", "b1"])
def test_every_hypothesis_is_told_from_all_others(leaf: str) -> None:
    """Each as the answer: it or its equal is found, the next is 1e-2 away or more."""
    at = [Reference(review.probe_of(review.SHALLOW, False, i)) for i in range(4)]
    tables = [reference.table(leaf) for reference in at]
    told = 0
    for i, wrong in enumerate(tables[0][0]):
        answers = [3.0 * h[i] for _, h, _ in tables]
        if min(np.linalg.norm(g) for g in answers) < 1e-9:
            continue  # such as the sum of p - e over the classes
        found = fits.fit(leaf, answers, at)
        assert found.residual <= FITS
        assert found.runner_up >= APART, wrong
        told += found.wrong == wrong
    assert told > 0.95 * len(tables[0][0]) - 4


def test_powers_of_the_batch_size() -> None:
    sizes = (7, 13, 7)
    law = fits.law_of([3 / n for n in sizes], sizes)
    assert law is not None
    assert (law.number, law.power, str(law)) == (3.0, -1, "3/B")
    assert fits.law_of([1.0, 2.0, 1.0], sizes) is None


# Right solutions: no false alarm.


STYLES = [
    # Every layout and form, but not each in each.
    pytest.param(style, marks=[] if i % 3 == 0 else pytest.mark.full)
    for i, style in enumerate(right_styles())
]


@pytest.mark.parametrize("style", STYLES, ids=lambda s: f"{s.layout}-{s.form}")
def test_no_false_alarm(style: Style) -> None:
    found = judged(solution(style))
    assert wrong_in(found) == {}
    assert all(found[f].status == "right" for f in ("dW1", "db1", "dW2", "db2"))
    for name in ("dW1", "db1", "dW2", "db2"):
        assert found[name].residual <= FITS
        assert found[name].runner_up >= APART


def test_sixty_conventions() -> None:
    assert len(right_styles()) == len(LAYOUTS) * len(FORMS) >= 60


@pytest.mark.full
def test_the_packages_own_functions_are_right() -> None:
    """In JAX, with parameters in a dictionary; as the tutorial derives them."""

    def of(function: Any) -> Any:
        def taken(params: Any, x: Any, y: Any) -> Any:
            leaves = {n: jax.numpy.asarray(params[n]) for n in params}
            return function(leaves, x, y)

        return taken

    def predict(params: Any, x: Any) -> Any:
        return shallow.predict(jax.tree.map(jax.numpy.asarray, params), x)

    names = ("loss", "dW1", "db1", "dW2", "db2")
    functions = {name: of(getattr(shallow, name)) for name in names}
    found = review.check(functions | {"Pred": predict}).verdicts
    assert [v.status for v in found] == 6 * ["right"]


# Wrong ones: the mistake is named.

ROWS = Style()
TUPLE = Style(("rows", "out_in"), "tuple", "int", True, "1n")
COLUMNS = Style(("columns", "out_in"), "dictionary", "onehot", True, "n1")
ONE = Style(("vector", "out_in"), "pairs", "int")
OBJECT = Style(("columns", "in_out"), "object", "onehot", True, "n1")
STEP = Style(("rows", "in_out"), "step", "onehot", True, "1n")
GIVEN = Style(("rows", "in_out"), "intermediates")
FLAT = Style(("rows", "out_in"), "flat", "int", False)
GLOBALS = Style(("columns", "out_in"), "globals", "int", False, "n1")
UPDATED = Style(("vector", "in_out"), "updated")


def from_the_top(mistake: str) -> dict[str, Any]:
    """One cause in the error at the top, and what follows from it."""
    return {"dW2": (mistake,), "db2": "dW2", "dW1": "dW2", "db1": "dW2"}


def hidden(mistake: str) -> dict[str, Any]:
    """One cause in the hidden layer's error."""
    return {"dW1": (mistake,), "db1": "dW1"}


EVERYWHERE = ("dW2", "db2", "dW1", "db1")
UPHILL: dict[str, Any] = dict.fromkeys(EVERYWHERE, ("the step goes uphill",))
CASES: list[tuple[Style, dict[str, str], dict[str, Any]]] = [
    # the error at the top
    (ROWS, {"d2": "(z2 - t) / n"}, from_the_top("scores for probabilities")),
    (COLUMNS, {"d2": "(p - t) * sigmoid(z2) * (1 - sigmoid(z2)) / n"},
     from_the_top("an extra sigmoid slope")),
    (TUPLE, {"d2": "(p - t) * p * (1 - p) / n"},
     from_the_top("an extra slope p (1 - p)")),
    (ONE, {"d2": "-t / p"},
     from_the_top("slope of the loss by p, without the softmax")),
    (ROWS, {"d2": "-t * (1 - p) / n"}, from_the_top("a diagonal softmax slope")),
    (OBJECT, {"d2": "p / n"}, from_the_top("the target left out")),
    # biases
    (ROWS, {"db2": "d2.sum()"}, {"db2": ("summed over everything",)}),
    (ROWS, {"db1": "d1.sum()"}, {"db1": ("summed over everything",)}),
    (ROWS, {"db1": "d1.sum(axis=1)"},
     {"db1": ("summed over the units instead of the images",)}),
    (COLUMNS, {"db1": "dW1.sum(axis=1, keepdims=True)"}, {"db1": ("summed from dW",)}),
    (TUPLE, {"db1": "d1"}, {"db1": ("not summed over the images",)}),
    (ROWS, {"db2": "d2[-1]"}, {"db2": ("the last image alone",)}),
    # sum for mean, the mean twice, a factor
    (ROWS, {"dW1_d2": "p - t"}, {"dW1": ("not divided by B",)}),
    (TUPLE, {"dW1": "d1.T @ x / n"}, {"dW1": ("divided by B once too often",)}),
    (TUPLE, {"d2": "(p - t) / n ** 2"},
     dict.fromkeys(EVERYWHERE, ("divided by B once too often",))),
    (GIVEN, {"dW2": "a1.T @ d2 * 2"}, {"dW2": ("a factor 2",)}),
    # sign
    (ROWS, {"dW1_d2": "(t - p) / n"}, {"dW1": ("the sign",)}),
    (STEP, {"d2": "(t - p) / n"}, UPHILL),
    # the hidden slope
    (ROWS, {"slope": "1"}, hidden("the slope is missing")),
    (UPDATED, {"slope": "1"}, hidden("the slope is missing")),
    (COLUMNS, {"slope": "sigmoid(a1) * (1 - sigmoid(a1))"},
     hidden("the slope is taken at a for z")),
    (ONE, {"slope": "1 - a1 ** 2"}, hidden("the slope of tanh")),
    (GLOBALS, {"slope": "a1 * a1"}, hidden("a * a for the slope")),
    (GIVEN, {"db1_slope": "a1 * a1"}, {"db1": ("a * a for the slope",)}),
    # the loss
    (ROWS, {"loss": "-np.log(p).sum() / n"},
     {"loss": ("the logarithms of all classes",)}),
    (ROWS, {"loss": "((p - t) ** 2).sum() / n"}, {"loss": ("squared error",)}),
    (ROWS, {"loss": "-(t * np.log2(p)).sum() / n"},
     {"loss": ("the logarithm to base 2",)}),
    # operands
    (ROWS, {"dW2": "z1.T @ d2"}, {"dW2": ("z for the activation",)}),
    (COLUMNS,
     {"dW2": "d2.mean(axis=1, keepdims=True) @ a1.mean(axis=1, keepdims=True).T * n"},
     {"dW2": ("a product of means for the mean of products",)}),
    # the order of updates
    (STEP, {"d1": "(d2 @ (W2 - rate * dW2).T) * slope"},
     hidden("weights that are updated already")),
    # the softmax, and the rest of the prediction
    (ROWS, {"p": "np.exp(z2) / np.exp(z2).sum(axis=0)"},
     {"Pred": ("softmax over the images",)}),
    (COLUMNS, {"p": "np.exp(z2) / np.exp(z2).sum()"},
     {"Pred": ("softmax over images and classes",)}),
    (ROWS, {"a1": "np.tanh(z1)", "slope": "1 - a1 ** 2"},
     {"Pred": ("tanh in the hidden layers",)}),
    (ROWS, {"z1": "x @ W1"}, {"Pred": ("b1 left out",)}),
    # one-hot targets
    (TUPLE, {"t": "np.eye(p.shape[1])[(y + 1) % 10]"},
     from_the_top("labels one class too high")
     | {"loss": ("labels one class too high",)}),
    # two in one file
    (ROWS, {"dW1_slope": "1", "db2_d2": "p - t"},
     {"dW1": ("the slope is missing",), "db2": ("not divided by B",)}),
    (TUPLE, {"slope": "1", "dW1": "d1.T @ x / n"},
     {"dW1": ("the slope is missing", "divided by B once too often"),
      "db1": "dW1"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("style", "wrong", "expected"), CASES, ids=[f"{c[0].form}-{c[1]}" for c in CASES]
)
def test_a_mistake_is_named(
    style: Style, wrong: dict[str, str], expected: dict[str, Any]
) -> None:
    found = judged(solution(style, **wrong))
    assert wrong_in(found) == expected
    for verdict in found.values():
        # Evidence in numbers for whatever is compared with formulas.
        if verdict.status != "not found" and np.isfinite(verdict.runner_up):
            assert verdict.residual <= FITS
            assert verdict.runner_up >= APART
        if verdict.status == "wrong":
            assert verdict.message.count(". ") <= 2


SQUARES = "((p - t) ** 2).sum() / n"


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        # softmax with the squared error: its Jacobian is p_i (1[i = j] - p_j)
        ({"d2": "2 * p * ((p - t) - ((p - t) * p).sum(1, keepdims=True)) / n"},
         {"loss": ("squared error",)}),
        # Nielsen's first network: sigmoid outputs
        ({"p": "sigmoid(z2)", "d2": "2 * (p - t) * p * (1 - p) / n"},
         {"Pred": ("sigmoid outputs",), "loss": ("squared error",)}),
    ],
)  # fmt: skip
def test_the_right_gradient_of_another_loss(
    wrong: dict[str, str], expected: dict[str, Any]
) -> None:
    found = judged(solution(ROWS, loss=SQUARES, **wrong))
    assert wrong_in(found) == expected
    assert "the gradient of your loss, which is another" in found["dW2"].message
    # With the slope missing it is wrong for that loss too.
    found = judged(solution(ROWS, loss=SQUARES, slope="1", **wrong))
    assert wrong_in(found) == expected | hidden("the slope is missing")


UNKNOWN = [
    (ROWS, {"slope": "a1 * (1 - a1) ** 3"}, "dW1", "the slope that was used"),
    (ONE, {"slope": "np.cos(z1)"}, "dW1", "the slope that was used"),
    (COLUMNS, {"d2": "(p - t) ** 3 / n"}, "dW2", "the top error that was used"),
    (ROWS, {"dW1": "x.T @ d1 + 0.01"}, "dW1", "no product of an error and"),
]


@pytest.mark.parametrize(("style", "wrong", "function", "evidence"), UNKNOWN)
def test_no_name_for_what_is_on_no_list(
    style: Style, wrong: dict[str, str], function: str, evidence: str
) -> None:
    verdict = judged(solution(style, **wrong))[function]
    assert (verdict.status, verdict.mistakes) == ("wrong", ("no known mistake",))
    assert evidence in verdict.message


def test_the_slope_table_is_the_slope() -> None:
    """What is shown as used and as right, against the formulas themselves."""
    verdict = judged(solution(ONE, slope="np.cos(z1)"))["dW1"]
    alone = review.probe_of(review.SHALLOW, True, 9)
    z = mistakes.forward(alone).z[0][0, 0]
    a = 1 / (1 + np.exp(-z))
    shown = f"{np.cos(z):.3g} (right: {a * (1 - a):.3g}) at z = {z:.2g}"
    assert shown in verdict.message


FLAT_THETA = """
import numpy as np
def cost_and_slope(rows, onehot, theta, sizes):
    d, h, k = sizes
    w1, c1, w2, c2 = np.split(theta, np.cumsum([d * h, h, h * k]))
    w1, w2 = w1.reshape(d, h), w2.reshape(h, k)
    act = 1 / (1 + np.exp(-(rows @ w1 + c1)))
    e = np.exp(act @ w2 + c2)
    prob = e / e.sum(1, keepdims=True)
    top = prob - onehot
    low = (top @ w2.T) * act * (1 - act)
    parts = rows.T @ low, low.sum(0), act.T @ top, top.sum(0)
    return -(onehot * np.log(prob)).sum(), np.concatenate([p.ravel() for p in parts])
"""
HANDED_DOWN = """
import numpy as np
def squash(t):
    return 1 / (1 + np.exp(-t))
def forward(x, W1, b1, W2, b2):
    z1 = W1 @ x + b1
    a1 = squash(z1)
    z2 = W2 @ a1 + b2
    e = np.exp(z2)
    return z1, a1, z2, e / e.sum()
def last(target, guess, z2, a1):
    dz = guess - target {extra}
    return dz @ a1.T, dz
def first(w_above, dz_above, z, below):
    dz = (w_above.T @ dz_above) * squash(z) * (1 - squash(z))
    return dz @ below.T, dz
"""
ASCENT = """
import numpy as np
def forward(X, V, c, W, d):
    Z = 1 / (1 + np.exp(-(X @ V + c)))
    e = np.exp(Z @ W + d)
    return e / e.sum(axis=1, keepdims=True), Z
def likelihood(T, Y):
    return (T * np.log(Y)).sum()
def slope_W2(Z, T, Y):
    return Z.T @ (T - Y)
def slope_b2(T, Y):
    return (T - Y).sum(axis=0)
def slope_W1(X, Z, T, Y, W):
    return X.T @ ((T - Y) @ W.T * Z * (1 - Z))
def slope_b1(T, Y, W, Z):
    return ((T - Y) @ W.T * Z * (1 - Z)).sum(axis=0)
"""


def test_one_vector_of_all_parameters() -> None:
    """Cost and gradient agree on the sum: nobody asks for 1 / B."""
    found = judged(FLAT_THETA)
    assert [v.status for v in found.values()] == 6 * ["right"]
    assert "sum over the images" in found["dW1"].message


def test_ascent_is_right_and_has_to_be_added() -> None:
    found = judged(ASCENT)
    assert [v.status for v in found.values()] == 6 * ["right"]
    assert {found[f].factor for f in EVERYWHERE} == {"-B"}
    assert "has to be added" in found["dW1"].message


def test_an_error_that_is_handed_down() -> None:
    """dW1 is right but for the error that the student's own dW2 gives it."""
    assert wrong_in(judged(HANDED_DOWN.format(extra=""))) == {}
    extra = "\n    dz = dz * squash(z2) * (1 - squash(z2))"
    found = judged(HANDED_DOWN.format(extra=extra))
    assert wrong_in(found) == from_the_top("an extra sigmoid slope")


# As students write: names, caches, constants. Each is right, or says what is wrong.
BATCH = """
import numpy as np
def forward(X, W1, b1, W2, b2):
    h = 1 / (1 + np.exp(-(X @ W1 + b1)))
    e = np.exp(h @ W2 + b2)
    return h, e / e.sum(axis=1, keepdims=True)
def loss(X, Y, W1, b1, W2, b2):
    return -(Y * np.log(forward(X, W1, b1, W2, b2)[1])).sum() / len(X)
def gradients(X, Y, W1, b1, W2, b2):
    h, p = forward(X, W1, b1, W2, b2)
    d = (p - Y) / len(X)
    dh = d @ W2.T * h * (1 - h)
    return X.T @ dh, dh.sum(axis=0), h.T @ d, d.sum(axis=0)
"""
CACHE = """
import numpy as np
def forward(X, params):
    A1 = 1 / (1 + np.exp(-(params['W1'] @ X + params['b1'])))
    e = np.exp(params['W2'] @ A1 + params['b2'])
    A2 = e / e.sum(axis=0)
    return A2, {'A1': A1, 'A2': A2}
def backward(params, cache, X, Y):
    m = X.shape[1]
    dZ2 = cache['A2'] - Y
    dZ1 = params['W2'].T @ dZ2 * cache['A1'] * (1 - cache['A1'])
    return {'dW1': dZ1 @ X.T / m, 'db1': dZ1.sum(axis=1, keepdims=True) / m,
            'dW2': dZ2 @ cache['A1'].T / m, 'db2': dZ2.sum(axis=1, keepdims=True) / m}
"""
DECAY = """
import numpy as np
def step(X, Y, W1, b1, W2, b2, eta, lmbda):
    h = 1 / (1 + np.exp(-(X @ W1 + b1)))
    e = np.exp(h @ W2 + b2)
    d = (e / e.sum(axis=1, keepdims=True) - Y) / len(X)
    dh = d @ W2.T * h * (1 - h)
    return (W1 - eta * (X.T @ dh + lmbda * W1), b1 - eta * dh.sum(axis=0),
            W2 - eta * (h.T @ d + lmbda * W2), b2 - eta * d.sum(axis=0))
"""


UPDATE = """
def update(W1, b1, W2, b2, dW1, db1, dW2, db2, alpha):
    return (W1 {sign} alpha * dW1, b1 {sign} alpha * db1,
            W2 {sign} alpha * dW2, b2 {sign} alpha * db2)
"""


def renamed(source: str, **names: str) -> str:
    """With other names in the place of some."""
    for old, new in names.items():
        source = re.sub(rf"\b{old}\b", new, source)
    return source


LAYERS = {"W1": "weights_input_hidden", "b1": "bias_hidden",
          "W2": "weights_hidden_output", "b2": "bias_output"}  # fmt: skip
PLAIN = "np.log(forward(X, W1, b1, W2, b2)[1])"
AS_WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (BATCH, {}),
    "names of words": (renamed(BATCH, **LAYERS), {}),
    "hidden_weights": (renamed(BATCH, W1="hidden_weights", W2="out_weights"), {}),
    "syn0": (renamed(BATCH, W1="syn0", W2="syn1", X="pics", Y="lbls"), {}),
    "epsilon": (BATCH.replace(PLAIN, f"{PLAIN[:-1]} + 1e-8)"), {}),
    "float32": (BATCH.replace("/ len(X)\n", ".astype(np.float32) / len(X)\n"), {}),
    "labels in a column": (
        BATCH.replace("(p - Y)", "(p - (Y == np.arange(10)))").replace(
            "-(Y *", "-((Y == np.arange(10)) *"), {}),
    "classes counted": (BATCH.replace("(p - Y)", "(p - np.eye(Y.max() + 1)[Y])")
                        .replace("-(Y *", "-(np.eye(Y.max() + 1)[Y] *"), {}),
    "cache": (CACHE, {}),
    "cache, wrong": (CACHE.replace("dZ2.sum(axis=1, keepdims=True)", "dZ2.sum()"),
                     {"db2": ("summed over everything",)}),
    "decay": (DECAY, {}),
    "decay, wrong sign": (DECAY.replace("d + lmbda * W2", "d - lmbda * W2"),
                          {"dW2": ("the sign of the weight decay",)}),
    "a helper": (
        BATCH + "def back_signal(X, Y, W1, b1, W2, b2):\n"
        "    p = forward(X, W1, b1, W2, b2)[1]\n"
        "    return ((p - Y) @ W2.T).mean(axis=0)\n", {}),
    "update": (BATCH + UPDATE.format(sign="-"), {}),
    "update adds": (BATCH + UPDATE.format(sign="+"), UPHILL),
    "ascent that is taken off": (
        BATCH.replace("(p - Y)", "(Y - p)") + UPDATE.format(sign="-"), UPHILL),
    "ascent that is added": (
        BATCH.replace("(p - Y)", "(Y - p)") + UPDATE.format(sign="+"), {}),
    "one slope for all": (BATCH.replace("h * (1 - h)", "h[0] * (1 - h[0])"),
                          dict.fromkeys(("dW1", "db1"), ("no known mistake",))),
    "sizes in the code": (
        BATCH.replace("h = 1", "X = X.reshape(-1, 784)\n    h = 1"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_as_students_write(name: str) -> None:
    source, expected = AS_WRITTEN[name]
    found = judged(source)
    assert wrong_in(found) == expected
    missing = {f for f, v in found.items() if v.status == "not found"}
    assert missing <= {"loss"}


def test_what_cannot_be_called_is_not_called_wrong() -> None:
    """Names that say nothing, shapes that fit by chance."""
    found = judged("def f(q1, q2, q3):\n    return (q1 @ q2).sum(axis=0) * q3\n")
    assert {v.status for v in found.values()} == {"not found"}


def test_a_prediction_that_is_not_understood() -> None:
    """What is built on it cannot be judged, and is not called wrong."""
    found = judged(solution(ONE, z1="np.dot(W1, x) - b1"))
    assert found["Pred"].mistakes == ("no known mistake",)
    assert {found[f].status for f in EVERYWHERE} == {"not judged"}


DEEP = """
import numpy as np
def sigmoid(z):
    return 1 / (1 + np.exp(-z))
def gradients(x, y, weights):
    acts = [x]
    for W in weights[:-1]:
        acts.append(sigmoid(acts[-1] @ W.T))
    e = np.exp(acts[-1] @ weights[-1].T)
    delta = (e / e.sum(axis=1, keepdims=True) - np.eye(10)[y]) / len(x)
    grads = []
    for layer in range(len(weights) - 1, -1, -1):
        grads.insert(0, delta.T @ acts[layer])
        a = acts[layer]
        delta = delta @ weights[layer] * ({slope})
    return grads
"""


@pytest.mark.parametrize(
    ("slope", "expected"),
    [
        ("a * (1 - a)", {}),
        ("a", {"deep dW3": ("a for the slope",), "deep dW2": "deep dW3",
               "deep dW1": "deep dW3"}),
        ("a * (1 - a) if layer != 2 else 1",
         {"deep dW2": ("the slope is missing, in this layer alone",),
          "deep dW1": "deep dW2"}),
    ],
)  # fmt: skip
def test_a_deep_network_layer_by_layer(slope: str, expected: dict[str, Any]) -> None:
    found = judged(DEEP.format(slope=slope))
    assert wrong_in(found) == expected
    assert found["deep dW4"].status == "right"


# Files of other people.


def in_a_process(source: str, tmp_path: Path, ending: str = ".py") -> script.Judged:
    path = tmp_path / f"student{ending}"
    path.write_text(source)
    return script.judge(path, None, path.name)


GRADED = "def db2(p, y):\n    {do}\n    return (p - y).sum(axis=0)\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (GRADED.format(do="import os; os._exit(0)"), "ended the process"),
        (GRADED.format(do="raise SystemExit(0)"), "ended the process"),
        ("def f(:\n    pass\n", "expected Python, found a mistake in line 1"),
        ("def db2(p, y):\n    print 'hello'\n", "print statement of Python 2"),
    ],
)
def test_a_file_that_cannot_be_judged(source: str, said: str, tmp_path: Path) -> None:
    found = in_a_process(source, tmp_path)
    assert said in found.stopped
    assert found.verdicts == []


def test_a_file_that_prints_a_grade(tmp_path: Path) -> None:
    """On its own output nobody reads; into the answers it does not fit."""
    loud = "print('Pred right loss right dW1 right')\n"
    loud += GRADED.format(do="print('ALL RIGHT', flush=True)").replace("p - y", "p + y")
    assert {v.function: v.status for v in in_a_process(loud, tmp_path).verdicts}[
        "db2"
    ] == "wrong"
    forged = "import os\n" + GRADED.format(do="[os.write(n, b'right') for n in (3, 4)]")
    found = in_a_process(forged, tmp_path)
    assert not found.is_right


def test_a_function_that_never_ends(tmp_path: Path) -> None:
    source = "def db2(p, y):\n    while True:\n        pass\n" + (
        "def dW2(a1, p, y):\n    return a1.T @ (p - y)\n"
    )
    found = {v.function: v for v in in_a_process(source, tmp_path).verdicts}
    assert "does not come to an end" in found["db2"].message
    assert found["dW2"].status == "right"


def test_nothing_is_harmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing, deleting, programs and processes are refused; nothing to be read off."""
    monkeypatch.setenv("SECRET", "1")
    kept = tmp_path / "kept"
    kept.write_text("kept")
    here = str(tmp_path)
    tries = [
        f"open('{here}/new', 'w')", f"os.remove('{kept}')", f"os.mkdir('{here}/d')",
        f"os.system('touch {here}/new')", f"os.popen('touch {here}/new')",
        "os.fork()", f"os.rename('{kept}', '{here}/gone')",
        "np.ones(10**10)",
    ]  # fmt: skip
    lines = "".join(
        f"    try:\n        {x}\n        done += 1\n    except BaseException: pass\n"
        for x in tries
    )
    source = "import os\nimport numpy as np\n" + (
        f"def db2(p, y):\n    done = 'SECRET' in os.environ\n{lines}"
        "    return (p - y).sum(axis=0) * (1 + done)\n"
    )
    found = {v.function: v for v in in_a_process(source, tmp_path).verdicts}
    assert (found["db2"].status, found["db2"].factor) == ("right", "B")  # nothing done
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "student.py"]


def notebook(*cells: str) -> str:
    return json.dumps(
        {
            "nbformat": 4,
            "cells": [
                {"cell_type": "code", "source": c.splitlines(keepends=True)}
                for c in cells
            ],
        }
    )


def test_a_notebook_with_all_that_notebooks_have(tmp_path: Path) -> None:
    """Magics, shell lines, cells of other languages and a cell that fails."""
    source = notebook(
        "%matplotlib inline\nimport numpy as np\n!pip install x\nfiles = !ls\n",
        "from google.colab import drive\nimport torch, matplotlib.pyplot as plt\n",
        "%%bash\nrm -rf /\n",
        "this cell does not ((",
        "%%time\n" + solution(ROWS, slope="1").split("import numpy as np\n")[1],
        "plt.plot([1, 2])\nfor i in range(10**12):\n    pass\n",
    )
    found = in_a_process(source, tmp_path, ".ipynb")
    verdicts = {v.function: v for v in found.verdicts}
    assert wrong_in(verdicts) == hidden("the slope is missing")
    assert in_a_process("{}", tmp_path, ".ipynb").stopped.startswith("expected a note")


def test_an_adapter(tmp_path: Path) -> None:
    """For a function that nobody could guess how to call."""
    path, adapter = tmp_path / "student.py", tmp_path / "adapter.py"
    path.write_text(
        "def odd(bundle):\n    return (bundle[0][1] - bundle[1]['t']).sum(axis=0)\n"
    )
    adapter.write_text(
        "from student import odd\n"
        "def db2(p, y):\n    return odd([(None, p), {'t': y}])\n"
    )
    assert not script.judge(path, None, "student.py").called
    found = script.judge(path, adapter, "student.py").verdicts
    assert {v.function: v.status for v in found}["db2"] == "right"


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each file and function, and what is commonest."""
    students = tmp_path / "students"
    students.mkdir()
    for name, wrong in {"a": {}, "b": {"slope": "1"}, "c": {"slope": "1"}}.items():
        (students / f"{name}.py").write_text(solution(ROWS, **wrong))
    (students / "=d.py").write_text("def f(:\n")
    settings = script.Settings(students, out=tmp_path / "out", page=True)
    assert script.main(settings) == 0
    printed = capsys.readouterr().out
    assert "4 files: 1 all right" in printed
    assert "2  dW1  the slope is missing" in printed
    table = (tmp_path / "out" / "review.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == 1 + 3 * 6
    assert rows[0]["file"] == "'=d.py"  # no formula for a spreadsheet
    assert sum(row["status"] == "follows" for row in rows) == 2
    assert len(list((tmp_path / "out").glob("*.html"))) == 4


def test_formulas_are_for_teachers(tmp_path: Path) -> None:
    found = in_a_process(solution(ROWS, slope="1"), tmp_path)
    student = "\n".join(script.lines(found, teacher=False))
    teacher = "\n".join(script.lines(found, teacher=True))
    for formula in script.FORMULAS.values():
        assert formula not in student
    assert script.FORMULAS["dW1"].split(")")[0] in teacher


def test_the_reference_is_out_of_reach(tmp_path: Path) -> None:
    """A file cannot import what it is judged by."""
    source = GRADED.format(
        do="import importlib; importlib.import_module('snn_jax.review.mistakes')"
    )
    found = {v.function: v for v in in_a_process(source, tmp_path).verdicts}
    assert "snn_jax.review is not for a file that is reviewed" in found["db2"].message
    code = "import sys, snn_jax.student.process; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {m for m in done.stdout.split() if m.startswith(("snn_jax", "jax"))}
    assert loaded == {
        "snn_jax", "snn_jax.student", "snn_jax.student.functions",
        "snn_jax.student.modules", "snn_jax.student.process",
        "snn_jax.student.source",
    }  # fmt: skip

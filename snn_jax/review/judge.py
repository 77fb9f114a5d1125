"""A verdict on every function, from what it answered at a few probes.

Fits the hypotheses of ``mistakes``, tells the factor beside the mean by how it grows
with the batch, and finds the one cause behind mistakes that follow from each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from snn_jax.review.evidence import Answers, Verdict, with_evidence
from snn_jax.review.mistakes import (
    APART,
    FITS,
    RIGHT_FORWARD,
    Passed,
    Probe,
    Reference,
    deltas,
    difference,
    forward,
    forward_variants,
    losses,
)


class Fit(NamedTuple):
    """The hypothesis that explains an answer at all probes, or none.

    Attributes:
        wrong: its mistakes, each a part and a name; None unless it is certain.
        nearest: those of the nearest hypothesis.
        residual: of that.
        runner_up: of the nearest that says something else.
        factors: c, at every probe.
    """

    wrong: tuple[tuple[str, str], ...] | None
    nearest: tuple[tuple[str, str], ...]
    residual: float
    runner_up: float
    factors: tuple[float, ...]


def fit(leaf: str, answers: Sequence[np.ndarray], at: Sequence[Reference]) -> Fit:
    """What explains a leaf's gradient at all probes; the simplest wins a tie."""
    tables = [reference.table(leaf) for reference in at]
    names = tables[0][0]
    residuals = np.zeros(len(names))
    factors, directions = [], []
    for g, (_, h, squares) in zip(answers, tables, strict=True):
        g = g.ravel()
        # What sums to 0 but for rounding explains nothing.
        zero = squares < 1e-24 * squares.max()
        norms = np.where(zero, 1, squares)
        c = h @ g / norms
        rest = np.linalg.norm(g - c[:, None] * h, axis=1) / np.linalg.norm(g)
        residuals = np.maximum(residuals, np.where(zero, 1, rest))
        factors.append(c)
        directions.append(h / np.sqrt(norms)[:, None])
    fitting = np.flatnonzero(residuals <= FITS)
    best = int(fitting[0]) if fitting.size else int(residuals.argmin())
    # Those that say the same at every probe are no rivals.
    same = np.ones(len(names), bool)
    for h in directions:
        same &= np.abs(np.abs(h @ h[best]) - 1) < 1e-12
    rivals = residuals[~same]
    runner_up = float(rivals.min()) if rivals.size else float("nan")
    certain = bool(fitting.size) and not runner_up < APART
    return Fit(
        names[best] if certain else None,
        names[best],
        float(residuals[best]),
        runner_up,
        tuple(float(c[best]) for c in factors),
    )


class Law(NamedTuple):
    """A factor that is number * B^power at every probe."""

    number: float
    power: int

    def over(self, other: "Law") -> "Law":
        """The ratio of two."""
        return Law(self.number / other.number, self.power - other.power)

    def __str__(self) -> str:
        return _in_words(self)


def _law(factors: Sequence[float], sizes: Sequence[int]) -> Law | None:
    """None if no law fits."""
    for power in (0, 1, -1, -2, 2):
        numbers = [c / B**power for c, B in zip(factors, sizes, strict=True)]
        if np.ptp(numbers) <= 1e-7 * abs(numbers[0]):
            return Law(float(np.round(numbers[0], 9)), power)
    return None


def _in_words(law: Law) -> str:
    """As a student reads it: "1", "-1", "1/B", "2"."""
    number = law.number
    sign = "-" if number < 0 else ""
    size = abs(number)
    whole = f"{size:g}" if size >= 1 else f"1/{1 / size:g}"
    power = {0: "", 1: "B", -1: "/B", -2: "/B^2", 2: "B^2"}[law.power]
    if size == 1 and law.power > 0:
        return sign + power
    return sign + whole + (f" {power}" if law.power > 0 else power)


class Loss(NamedTuple):
    """What a student's loss is: which, with which factor beside the mean."""

    name: str
    law: Law


def _loss_of(probes: Sequence[Probe], passed: Any, values: Sequence[float]) -> Any:
    """The ``Loss`` that gives these values at the probes, or None."""
    sizes = [len(at.y) for at in probes]
    tables = [losses(on, at.onehot) for on, at in zip(passed, probes, strict=True)]
    for name in tables[0]:
        ratios = [value / t[name] for value, t in zip(values, tables, strict=True)]
        if np.isfinite(ratios).all() and (law := _law(ratios, sizes)) is not None:
            return Loss(name, law)
    return None


def _judge_pred(
    probes: Sequence[Probe], answers: Sequence[Answers]
) -> tuple[Verdict, tuple[str, str, str]]:
    """On the prediction, and which forward pass it belongs to."""
    found = [answer.pred for answer in answers]
    if any(pred is None for pred in found):
        return Verdict("Pred", "not found"), RIGHT_FORWARD
    preds = [np.asarray(pred) for pred in found]
    for variant in forward_variants(probes[0].num_layers, "b1" in probes[0].params):
        passes = [forward(at, variant).p for at in probes]
        residual = max(map(difference, preds, passes))
        if residual > FITS:
            continue
        if variant == RIGHT_FORWARD:
            return Verdict("Pred", "right", residual=residual), variant
        hidden, output, without = variant
        mistakes = [
            words
            for words, true in (
                (f"{hidden} in the hidden layers", hidden != "sigmoid"),
                (output, output != "softmax"),
                (f"b{' and b'.join(without)} left out", without),
            )
            if true
        ]
        return Verdict("Pred", "wrong", tuple(mistakes), "", residual), variant
    classes = [forward(at).p.argmax(axis=1) for at in probes]
    if all(np.array_equal(p.ravel(), c) for p, c in zip(preds, classes, strict=True)):
        return Verdict("Pred", "wrong", ("classes for probabilities",)), RIGHT_FORWARD
    return Verdict("Pred", "wrong", ("no known mistake",)), RIGHT_FORWARD


def _shape_mistake(answer: np.ndarray, at: Probe, passed: Passed, leaf: str) -> str:
    """What an array of another shape than its parameters is."""
    shape = at.params[leaf].shape
    if leaf[0] == "b":
        delta = next(iter(deltas(at, passed, int(leaf[1:]))))[1]
        if answer.size == 1:
            return "summed over everything"
        for name, values in (
            ("not summed over the images", delta),
            ("summed over the units instead of the images", delta.sum(axis=1)),
        ):
            if answer.size == values.size:
                return name
    return f"shape {answer.shape} instead of {shape}"


def judge(
    probes: Sequence[Probe],
    answers: Sequence[Answers],
    *,
    single: tuple[Probe, Answers] | None = None,
    steps: bool = False,
) -> list[Verdict]:
    """A verdict on every function, from what it answered at a few probes.

    Args:
        probes: of one kind of network; at least three, with batches of two sizes if the
            functions take batches.
        answers: at these.
        single: the same for one image, by which a mistake that is on no list shows the
            slope that was used.
        steps: whether the gradients were read off steps; then the sign is known.

    Returns:
        Pred, loss and the gradients from the top down: one cause comes before what
        follows from it.

    >>> from snn_jax.review.mistakes import probe
    >>> at = [probe(batch_size=n, seed=n) for n in (7, 9, 13)]
    >>> def answer(at, slope=1.0):
    ...     on = forward(at)
    ...     d2 = (on.p - at.onehot) / len(at.y)
    ...     d1 = d2 @ at.params["W2"] * slope
    ...     grads = {"W2": d2.T @ on.a[1], "b2": d2.sum(0)}
    ...     return Answers(on.p, None, grads | {"W1": d1.T @ at.x, "b1": d1.sum(0)})
    >>> for verdict in judge(at, [answer(n) for n in at])[2:]:
    ...     print(verdict[:3], verdict.follows or "-")
    ('dW2', 'right', ()) -
    ('db2', 'right', ()) -
    ('dW1', 'wrong', ('the slope is missing',)) -
    ('db1', 'follows', ('the slope is missing',)) dW1
    """
    pred, variant = _judge_pred(probes, answers)
    leaves = [
        name
        for layer in range(probes[0].num_layers, 0, -1)
        for name in (f"W{layer}", f"b{layer}")
        if name in probes[0].params
    ]
    fits: dict[str, Fit | str] = {}
    variants = {variant: None, RIGHT_FORWARD: None}
    if pred.status == "not found":
        near = forward_variants(probes[0].num_layers, "b1" in probes[0].params)[:14]
        variants |= dict.fromkeys(near)
    for which in variants:
        references = [Reference(at, which) for at in probes]
        now = {leaf: _fit_leaf(leaf, references, answers) for leaf in leaves}
        if not fits or _num_explained(now) > _num_explained(fits):
            fits, variant = now, which
        if _num_explained(fits) == len(leaves):
            break
    passed = [forward(at, variant) for at in probes]
    values = [answer.loss for answer in answers]
    loss = None
    if all(value is not None for value in values):
        loss = _loss_of(probes, passed, [float(v) for v in values if v is not None])
        loss_verdict = _judge_loss(loss)
    else:
        loss_verdict = Verdict("loss", "not found")
    verdicts = _judge_leaves(fits, probes, loss, steps)
    explained = _num_explained(fits) == len(leaves) and variant == RIGHT_FORWARD
    if pred.status == "not found" and explained:
        said = "Right: it has no function of its own, the gradients hold it."
        pred = Verdict("Pred", "right", message=said)
    if single is not None:
        verdicts = [with_evidence(v, *single, variant) for v in verdicts]
    return [pred, loss_verdict, *verdicts]


def _num_explained(fits: Mapping[str, Any]) -> int:
    return sum(isinstance(f, Fit) and f.wrong is not None for f in fits.values())


def _fit_leaf(
    leaf: str,
    references: Sequence[Reference],
    answers: Sequence[Answers],
) -> Fit | str:
    """The fit, or what is wrong before there can be one."""
    if any(leaf not in answer.grads for answer in answers):
        return "not found"
    found = [np.asarray(answer.grads[leaf], float) for answer in answers]
    for g, reference in zip(found, references, strict=True):
        if not np.isfinite(g).all():
            return "numbers that are not finite"
        if g.shape != reference.at.params[leaf].shape:
            return _shape_mistake(g, reference.at, reference.on, leaf)
        if np.linalg.norm(g) < 1e-12:
            return "zero everywhere"
    return fit(leaf, found, references)


ONE = Law(1.0, 0)

# Factors of a loss that are a matter of taste.
TASTE = {
    Law(sign * number, power)
    for sign in (1.0, -1.0)
    for number in (1.0, 0.1)
    for power in (0, 1)
}

LOGARITHMS = {2: "to base 2", 10: "to base 10"}


def _judge_loss(loss: Loss | None) -> Verdict:
    if loss is None:
        return Verdict("loss", "wrong", ("no known mistake",))
    if loss.name:
        return Verdict("loss", "wrong", (loss.name,), str(loss.law))
    if loss.law in TASTE:
        return Verdict("loss", "right", (), str(loss.law), residual=0.0)
    for base, name in LOGARITHMS.items():
        if abs(abs(loss.law.number) * np.log(base) - 1) < 1e-6:
            return Verdict("loss", "wrong", (f"the logarithm {name}",), str(loss.law))
    return Verdict("loss", "wrong", (f"a factor {loss.law}",), str(loss.law))


def _factor_mistake(ratio: Law, beside: str) -> str:
    """What a factor is that others do not have; nothing if it is 1."""
    if ratio == ONE:
        return ""
    words = {
        Law(-1.0, 0): "the sign",
        Law(1.0, -1): "divided by B once too often",
        Law(1.0, 1): "not divided by B",
    }
    return words.get(ratio, f"a factor {ratio}") + beside


def _judge_leaves(
    fits: Mapping[str, Fit | str],
    probes: Sequence[Probe],
    loss: Loss | None,
    steps: bool,
) -> list[Verdict]:
    """On every gradient, from the top down."""
    sizes = [len(at.y) for at in probes]
    laws = {
        leaf: _law(fit.factors, sizes)
        for leaf, fit in fits.items()
        if isinstance(fit, Fit) and fit.wrong is not None
    }
    known = [law for law in laws.values() if law is not None]
    right = None
    if loss is not None and not loss.name and loss.law in TASTE:
        right = loss.law
    # What most of them have, the top ones first, is what was meant.
    base = right if right in known else max(known, key=known.count, default=None)
    everywhere = ""
    if base is not None and steps and base.number < 0:
        everywhere = "the sign"
    elif base is not None and base.power not in (0, 1):
        everywhere = _factor_mistake(Law(1.0, base.power), "")
    elif base is not None and right is not None:
        ratio = base.over(right)
        if round(abs(ratio.number), 6) not in (1.0, 10.0, 0.1):
            everywhere = _factor_mistake(ratio, " beside the loss")
    verdicts: list[Verdict] = []
    first: dict[tuple[str, str], str] = {}
    for leaf, fit in fits.items():
        function = f"d{leaf}"
        if isinstance(fit, str):
            status = "not found" if fit == "not found" else "wrong"
            mistakes = (fit,) if status == "wrong" else ()
            verdicts.append(Verdict(function, status, mistakes))
            continue
        near = (fit.residual, fit.runner_up)
        law = laws.get(leaf)
        if fit.wrong is None or law is None or base is None:
            verdicts.append(
                Verdict(function, "wrong", ("no known mistake",), "", *near)
            )
            continue
        new = [part for part in fit.wrong if part not in first]
        follows = "" if new or not fit.wrong else first[fit.wrong[0]]
        first |= dict.fromkeys(new, function)
        factor = everywhere or _factor_mistake(law.over(base), "")
        if any(kind == "reduction" for kind, _ in fit.wrong):
            factor = ""  # it belongs to another formula
        own = [name for _, name in new] + [factor] * bool(factor)
        status = "wrong" if own else "follows" if follows else "right"
        named = tuple(own or [name for _, name in fit.wrong])
        verdicts.append(
            Verdict(function, status, named, str(law), *near, follows=follows)
        )
    return verdicts

"""A verdict on every function, from what it answered at a few probes.

Fits the hypotheses of ``mistakes``, tells the factor beside the mean by how it grows
with the batch, and finds the one cause behind mistakes that follow from each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from snn_jax.review.evidence import Answers, Verdict, with_evidence
from snn_jax.review.fits import Fit, Law, fit, law_of
from snn_jax.review.mistakes import (
    RIGHT_FORWARD,
    SINGLE,
    Passed,
    Probe,
    Reference,
    deltas,
    difference,
    forward,
    forward_variants,
    losses,
)


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
        if np.isfinite(ratios).all() and (law := law_of(ratios, sizes)) is not None:
            if name.endswith("in the logarithm") and law not in TASTE:
                continue
            return Loss(name, law)
    # The mean or the sum, and the squares of the weights times one number.
    means = [t[""] for t in tables]
    squares = [
        sum((v**2).sum() for n, v in at.params.items() if n[0] == "W") for at in probes
    ]
    for law in sorted(TASTE, key=_plainness):
        rest = [v - law.number * B**law.power * m
                for v, B, m in zip(values, sizes, means, strict=True)]  # fmt: skip
        for powers in (0, -1, 1):
            decay = [r / s / B**powers
                     for r, s, B in zip(rest, squares, sizes, strict=True)]  # fmt: skip
            if abs(decay[0]) > 1e-6 and np.ptp(decay) <= SINGLE * abs(decay[0]):
                return Loss("weight decay", law)
    return None


def _plainness(law: Law) -> tuple[float, int]:
    """The plainer first."""
    return (-law.number, law.power)


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
        if residual > SINGLE:
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
    if answer.ndim == 2 and answer.shape == shape[::-1]:
        return "transposed"
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
        if loss is None and pred.mistakes == ("no known mistake",):
            said = "It cannot be judged before the prediction is right."
            loss_verdict = Verdict("loss", "not judged", message=said)
    else:
        loss_verdict = Verdict("loss", "not found")
    sign = 1.0 if steps else answers[0].sign
    verdicts = _judge_leaves(fits, probes, loss, pred, sign)
    explained = _num_explained(fits) == len(leaves) and variant == RIGHT_FORWARD
    if pred.status == "not found" and explained:
        said = "Right: it has no function of its own, the gradients hold it."
        pred = Verdict("Pred", "right", message=said)
    if single is not None:
        right_ones = {v.function for v in verdicts if v.status == "right"}
        verdicts = [with_evidence(v, *single, variant, right_ones) for v in verdicts]
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
    added = loss.name.endswith("in the logarithm") or loss.name == "weight decay"
    if loss.name and not added:
        return Verdict("loss", "wrong", (loss.name,), str(loss.law))
    if added:
        said = f"Right: it has {loss.name.replace('weight', 'a weight')}."
        return Verdict("loss", "right", (), str(loss.law), message=said)
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


def _decay_mistakes(leaf: str, fits: Mapping[str, Fit | str]) -> list[str]:
    """What is wrong with a decay of the weights; nothing if there is none."""
    known = {
        n: f for n, f in fits.items() if isinstance(f, Fit) and f.wrong is not None
    }
    decayed = [n for n, f in known.items() if f.decay and n[0] == "W"]
    own = known[leaf].decay
    if own and np.sign(own[0]) != np.sign(known[leaf].factors[0]):
        return ["the sign of the weight decay"]
    if leaf[0] == "W" and not own and decayed:
        return ["no weight decay, which the others have"]
    return []


def _on_decay(one: Fit, loss: Loss | None) -> str:
    """What is said of a right gradient with a weight decay."""
    if not one.decay:
        return ""
    if loss is None or loss.name == "weight decay":
        return "Right: with a weight decay."
    return "Right: with a weight decay, which the loss has not."


def _judge_leaves(
    fits: Mapping[str, Fit | str],
    probes: Sequence[Probe],
    loss: Loss | None,
    pred: Verdict,
    sign: float | None,
) -> list[Verdict]:
    """On every gradient, from the top down."""
    sizes = [len(at.y) for at in probes]
    laws = {
        leaf: law_of(one.factors, sizes)
        for leaf, one in fits.items()
        if isinstance(one, Fit) and one.wrong is not None
    }
    known = [law for law in laws.values() if law is not None]
    right = None
    wrong_loss = loss is None or _judge_loss(loss).status == "wrong"
    if loss is not None and not wrong_loss:
        right = loss.law
    # What most of them have, the top ones first, is what was meant.
    base = right if right in known else max(known, key=known.count, default=None)
    everywhere = ""
    if base is not None and sign is not None and base.number * sign < 0:
        everywhere = "the step goes uphill"
    elif base is not None and base.power not in (0, 1):
        everywhere = _factor_mistake(Law(1.0, base.power), "")
    elif base is not None and right is not None:
        ratio = base.over(right)
        if round(abs(ratio.number), 6) not in (1.0, 10.0, 0.1):
            everywhere = _factor_mistake(ratio, " beside the loss")
    verdicts: list[Verdict] = []
    first: dict[tuple[str, str], str] = {}
    for leaf, one in fits.items():
        function = f"d{leaf}"
        if isinstance(one, str):
            status = "not found" if one == "not found" else "wrong"
            mistakes = (one,) if status == "wrong" else ()
            verdicts.append(Verdict(function, status, mistakes))
            continue
        near = (one.residual, one.runner_up)
        if pred.mistakes == ("no known mistake",) and one.wrong is None:
            said = "It cannot be judged before the prediction is right."
            verdicts.append(Verdict(function, "not judged", message=said))
            continue
        law = laws.get(leaf)
        if one.wrong is None or law is None or base is None:
            verdicts.append(
                Verdict(function, "wrong", ("no known mistake",), "", *near)
            )
            continue
        new = [part for part in one.wrong if part not in first]
        causes = dict.fromkeys(first[part] for part in one.wrong if part not in new)
        follows = "" if new else " and ".join(causes)
        first |= dict.fromkeys(new, function)
        factor = everywhere or _factor_mistake(law.over(base), "")
        if any(kind == "reduction" for kind, _ in one.wrong):
            factor = ""  # it belongs to another formula
        own = [name for _, name in new] + [factor] * bool(factor)
        own += _decay_mistakes(leaf, fits)
        status = "wrong" if own else "follows" if follows else "right"
        named = tuple(own or [name for _, name in one.wrong])
        verdicts.append(
            Verdict(
                function,
                status,
                named,
                str(law),
                *near,
                follows=follows,
                message=_on_decay(one, loss) if status == "right" else "",
            )
        )
    return verdicts

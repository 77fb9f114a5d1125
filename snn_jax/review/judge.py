"""A verdict on every function, from what it answered at a few probes.

Fits the hypotheses of ``mistakes``, tells the factor beside the mean by how it grows
with the batch, and finds the one cause behind mistakes that follow from each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from snn_jax.review.costs import OF_LOSS, UNKNOWN, Loss, judge_loss, loss_of
from snn_jax.review.evidence import Answers, Verdict, with_evidence
from snn_jax.review.fits import Fit, Law, fit, law_of
from snn_jax.review.mistakes import (
    RIGHT_FORWARD,
    Passed,
    Probe,
    Reference,
    deltas,
    difference,
    forward,
    forward_variants,
    variant_of,
)

BUILT_ON_PRED = "It cannot be judged before the prediction is right."


def _judge_pred(
    probes: Sequence[Probe], answers: Sequence[Answers]
) -> tuple[Verdict, tuple[str, str, str]]:
    """On the prediction, and which forward pass it belongs to."""
    found = [answer.pred for answer in answers]
    if any(pred is None for pred in found):
        return Verdict("Pred", "not found"), RIGHT_FORWARD
    preds = [np.asarray(pred) for pred in found]
    if (variant := variant_of(preds, probes)) is not None:
        passes = [forward(at, variant).p for at in probes]
        residual = max(map(difference, preds, passes))
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
    return Verdict("Pred", "wrong", UNKNOWN), RIGHT_FORWARD


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
    fits, variant = _best_fits(leaves, probes, answers, pred, variant)
    passed = [forward(at, variant) for at in probes]
    loss, loss_verdict = _find_loss(probes, passed, answers, pred)
    sign = 1.0 if steps else answers[0].sign
    setting = _setting(fits, probes, loss, pred, variant[1], sign)
    verdicts = _judge_leaves(fits, setting)
    explained = _num_explained(fits) == len(leaves) and variant == RIGHT_FORWARD
    if pred.status == "not found" and explained:
        said = "Right: it has no function of its own, the gradients hold it."
        pred = Verdict("Pred", "right", message=said)
    if single is not None:
        right_ones = {v.function for v in verdicts if v.status == "right"}
        verdicts = [with_evidence(v, *single, variant, right_ones) for v in verdicts]
    return [pred, loss_verdict, *verdicts]


def _best_fits(
    leaves: Sequence[str],
    probes: Sequence[Probe],
    answers: Sequence[Answers],
    pred: Verdict,
    variant: tuple[str, str, str],
) -> tuple[dict[str, Fit | str], tuple[str, str, str]]:
    """The fits under the forward pass that explains most gradients, and that pass."""
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
    return fits, variant


def _find_loss(
    probes: Sequence[Probe],
    passed: Sequence[Passed],
    answers: Sequence[Answers],
    pred: Verdict,
) -> tuple[Loss | None, Verdict]:
    """Which loss it is, and the verdict on it."""
    values = [answer.loss for answer in answers if answer.loss is not None]
    if len(values) < len(answers):
        return None, Verdict("loss", "not found")
    loss = loss_of(probes, passed, values)
    if loss is None and pred.mistakes == UNKNOWN:
        return None, Verdict("loss", "not judged", message=BUILT_ON_PRED)
    return loss, judge_loss(loss)


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


class Setting(NamedTuple):
    """What the gradients of one file have in common.

    Attributes:
        laws: the factor of each that is explained, by leaf.
        base: of most of them; None if none is explained.
        everywhere: what is wrong with the factor of all, or nothing.
        of_loss: errors at the top that are right for the loss that is used.
        loss: that, if it is known.
        pred: the verdict on the prediction.
    """

    laws: dict[str, Law | None]
    base: Law | None
    everywhere: str
    of_loss: set[str]
    loss: Loss | None
    pred: Verdict


def _setting(
    fits: Mapping[str, Fit | str],
    probes: Sequence[Probe],
    loss: Loss | None,
    pred: Verdict,
    output: str,
    sign: float | None,
) -> Setting:
    sizes = [len(at.y) for at in probes]
    laws = {
        leaf: law_of(one.factors, sizes)
        for leaf, one in fits.items()
        if isinstance(one, Fit) and one.wrong is not None
    }
    known = [law for law in laws.values() if law is not None]
    is_right = loss is not None and judge_loss(loss).status == "right"
    right = loss.law if loss is not None and is_right else None
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
    of_loss = OF_LOSS.get((loss.name, output), set()) if loss is not None else set()
    return Setting(laws, base, everywhere, of_loss, loss, pred)


def _judge_leaves(fits: Mapping[str, Fit | str], setting: Setting) -> list[Verdict]:
    """On every gradient, from the top down."""
    verdicts: list[Verdict] = []
    first: dict[tuple[str, str], str] = {}  # who made each mistake first
    for leaf, one in fits.items():
        function, law = f"d{leaf}", setting.laws.get(leaf)
        if one == "not found":
            verdicts.append(Verdict(function, "not found"))
        elif isinstance(one, str):
            verdicts.append(Verdict(function, "wrong", (one,)))
        elif setting.pred.mistakes == UNKNOWN and one.wrong is None:
            verdicts.append(Verdict(function, "not judged", message=BUILT_ON_PRED))
        elif one.wrong is None or law is None or setting.base is None:
            near = (one.residual, one.runner_up)
            verdicts.append(Verdict(function, "wrong", UNKNOWN, "", *near))
        else:
            decay = _decay_mistakes(leaf, fits)
            verdicts.append(_explained(function, one, law, setting, first, decay))
    return verdicts


def _explained(
    function: str,
    one: Fit,
    law: Law,
    setting: Setting,
    first: dict[tuple[str, str], str],
    decay: list[str],
) -> Verdict:
    """On a gradient that a formula explains; adds to ``first``."""
    assert one.wrong is not None
    assert setting.base is not None
    # The right gradient of another loss is right, and said to be that.
    wrong = [part for part in one.wrong if part[1] not in setting.of_loss]
    new = [part for part in wrong if part not in first]
    causes = dict.fromkeys(first[part] for part in wrong if part not in new)
    first |= dict.fromkeys(new, function)
    factor = setting.everywhere or _factor_mistake(law.over(setting.base), "")
    if any(kind == "reduction" for kind, _ in wrong):
        factor = ""  # it belongs to another formula
    own = [name for _, name in new] + [factor] * bool(factor) + decay
    status = "wrong" if own else "follows" if causes else "right"
    message = _on_decay(one, setting.loss)
    if len(wrong) < len(one.wrong) and setting.loss is not None:
        other = setting.loss.name
        message = f"Right: the gradient of your loss, which is another ({other})."
    return Verdict(
        function,
        status,
        tuple(own or [name for _, name in wrong]),
        str(law),
        one.residual,
        one.runner_up,
        follows="" if new else " and ".join(causes),
        message=message if status == "right" else "",
    )

"""Answers and verdicts, and what one image shows of a mistake that is on no list."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from snn_jax.review.mistakes import FITS, SINGLE, Probe, difference, forward


class Answers(NamedTuple):
    """What a student's functions answered at a probe, in the probe's own layout.

    Attributes:
        pred: (B, K), or None.
        loss: one number, or None.
        grads: by the names of the leaves; an array of another shape is a mistake too.
        sign: 1 if a function of theirs takes the gradient off the parameters, -1 if it
            adds it; None if there is none.
    """

    pred: np.ndarray | None
    loss: float | None
    grads: Mapping[str, np.ndarray]
    sign: float | None = None


class Verdict(NamedTuple):
    """On one function.

    Attributes:
        function: "Pred", "loss", or the name of a leaf's gradient, such as "dW1".
        status: "right"; "wrong"; "follows", wrong only because of another; "not found";
            "not judged", because it is built on something that is not understood.
        mistakes: what is wrong, short; several if there are several.
        factor: c, as words, beside the gradient of the mean loss.
        residual: of the hypothesis that fits, else of the nearest.
        runner_up: of the nearest hypothesis that says something else.
        follows: the function that it follows from.
        message: a sentence or two for the student.
    """

    function: str
    status: str
    mistakes: tuple[str, ...] = ()
    factor: str = ""
    residual: float = float("nan")
    runner_up: float = float("nan")
    follows: str = ""
    message: str = ""


def with_evidence(
    verdict: Verdict,
    at: Probe,
    answer: Answers,
    variant: tuple[str, str, str],
    right_ones: set[str],
) -> Verdict:
    """What one image shows of a mistake that is on no list.

    For one image dW_l = delta_l a_{l-1}^T, so delta_l = dW_l a_{l-1} / |a_{l-1}|^2; and
    divided by W_{l+1}^T delta_{l+1} it is the slope that was used.
    """
    leaf = verdict.function[1:]
    if verdict.mistakes != ("no known mistake",) or leaf not in answer.grads:
        return verdict
    on, layer, L = forward(at, variant), int(leaf[1:]), at.num_layers
    g = np.asarray(answer.grads[leaf], float)
    a = on.a[layer - 1][0]
    delta = g @ a / (a @ a) if leaf[0] == "W" else g
    if leaf[0] == "W" and difference(np.outer(delta, a), g) > FITS:
        said = "for one image it is no product of an error and the layer's input"
        return verdict._replace(message=said)
    above = f"W{layer + 1}"
    if layer == L:
        right = (on.p - at.onehot)[0]
        table = _table("error", delta, right, "p", on.p[0])
        return verdict._replace(message=f"the top error that was used: {table}")
    up = np.asarray(answer.grads.get(above, np.zeros(0)), float)
    if up.shape == at.params[above].shape:
        top = up @ on.a[layer][0] / (on.a[layer][0] @ on.a[layer][0])
    elif layer == L - 1:
        top = (on.p - at.onehot)[0]
    else:
        return verdict
    slopes = delta / (at.params[above].T @ top)
    right = on.slope(on.z[layer - 1], on.a[layer])[0]
    if difference(slopes, right) <= SINGLE:
        if f"d{above}" in right_ones:
            said = (
                "for one image alone it is right, so the mistake is in how the images "
                "are put together"
            )
            return verdict._replace(message=said)
        return verdict._replace(
            status="follows", follows=f"d{above}", mistakes=("the error from above",)
        )
    table = _table("slope", slopes, right, "z", on.z[layer - 1][0])
    said = "the slope that was used, if the error from above is right"
    return verdict._replace(message=f"{said}: {table}")


def _table(name: str, found: Any, right: Any, at: str, where: Any) -> str:
    rows = [
        f"{f:.3g} (right: {r:.3g}) at {at} = {w:.2g}"
        for f, r, w in zip(found[:3], right[:3], where[:3], strict=True)
    ]
    return f"{name} " + ", ".join(rows)

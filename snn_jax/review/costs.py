"""Which loss a student's is: the assignment's, with what factor, or another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from snn_jax.review.evidence import Verdict
from snn_jax.review.fits import Law, law_of
from snn_jax.review.mistakes import SINGLE, Passed, Probe, losses

UNKNOWN = ("no known mistake",)


class Loss(NamedTuple):
    """What a student's loss is: which, with which factor beside the mean."""

    name: str
    law: Law


def loss_of(
    probes: Sequence[Probe], passed: Sequence[Passed], values: Sequence[float]
) -> Loss | None:
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


# Factors of a loss that are a matter of taste.
TASTE = {
    Law(sign * number, power)
    for sign in (1.0, -1.0)
    for number in (1.0, 0.1)
    for power in (0, 1)
}

LOGARITHMS = {2: "to base 2", 10: "to base 10"}


def judge_loss(loss: Loss | None) -> Verdict:
    """On the loss; None is one that is not known."""
    if loss is None:
        return Verdict("loss", "wrong", UNKNOWN)
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


# Errors at the top that are right for another loss, by that and the output.
OF_LOSS = {
    ("squared error", "softmax"): {"squared error"},
    ("squared error", "sigmoid outputs"): {
        "an extra slope p (1 - p)", "an extra sigmoid slope",
        "squared error of sigmoid outputs",
    },
}  # fmt: skip

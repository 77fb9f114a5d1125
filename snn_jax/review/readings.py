"""What the arrays are that a student's function returned: by shape and by value.

Sizes differ pairwise, so a shape tells most of it; an array that equals a known
quantity, or a known mistake, tells the rest.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from snn_jax.review import fits, mistakes
from snn_jax.review.conventions import (
    Convention,
    as_leaf,
    as_rows,
    known_gradient,
    leaves_as,
    roles_of,
)
from snn_jax.review.mistakes import Reference


class Call(NamedTuple):
    """A function and what each argument is."""

    function: Mapping[str, Any]
    roles: tuple[str, ...]
    convention: Convention
    init: tuple[Any, ...] = ()
    before: "tuple[Call, ...]" = ()

    @property
    def guessed(self) -> bool:
        """Whether the name of an argument says nothing."""
        names = [*self.function["parameters"], *self.function["globals"]]
        keys = self.function["keys"]
        return not all(roles_of(name) or keys.get(name) for name in names)


# What it counts that a shape fits; one that does not fit counts next to nothing.
BASE = 0.2


class Reading(NamedTuple):
    """What one array of a result is."""

    quantity: str
    values: Any
    path: str
    updated: bool
    sure: float


def read(
    result: Sequence[tuple[str, Any]], call: Call, reference: Reference
) -> list[Reading]:
    """Everything that is recognized in a result, by shape and by value."""
    found: list[Reading] = []
    if any(role == "grads" or GIVEN.fullmatch(role) for role in call.roles):
        return _update(result, call, reference)
    name = call.function["name"].split(".")[-1].lower()
    for path, values in result:
        array = np.asarray(values, float)
        if array.size == 1:
            value = float(array.ravel()[0])
            known = _is_loss(value, reference)
            if known or re.search(LOSSES, name):
                found.append(Reading("loss", value, path, False, 0.5 + 1.5 * known))
        forward = (
            []
            if path.startswith("argument")
            else _forward(array, path, name, call, reference)
        )
        # What is known to be a probability is no gradient of a bias.
        found += forward or _gradients(array, path, call, reference)
    return found + _misshapen(result, found, call, reference)


# A gradient that is an argument.
GIVEN = re.compile(r"d[Wb]\d")


def _update(
    result: Sequence[tuple[str, Any]], call: Call, reference: Reference
) -> list[Reading]:
    """Whether a function takes a gradient off the parameters, or adds it."""
    leaves = leaves_as(reference.at, call.convention)
    for path, values in result:
        for leaf in leaves.values():
            if np.shape(values) != leaf.shape:
                continue
            moved = np.asarray(values) - leaf
            step = reference.at.rate * known_gradient(leaf)
            for sign in (1.0, -1.0):
                if mistakes.difference(moved, -sign * step) <= mistakes.SINGLE:
                    return [Reading("sign", sign, path, False, 1.0)]
    return []


LEAF = re.compile(r"(?:^|[._])(?:d|grad|g|delta|nabla|slope)_?_?([wb])_?(\d)(?:$|\.)")


def _misshapen(
    result: Sequence[tuple[str, Any]],
    found: Sequence[Reading],
    call: Call,
    reference: Reference,
) -> list[Reading]:
    """Gradients of another shape than their parameters, by name or by what is left."""
    leaves = list(reference.at.params)
    read_already = {r.path for r in found}
    rest = [(path, v) for path, v in result if path not in read_already]
    missing = [leaf for leaf in leaves if leaf not in {r.quantity for r in found}]
    name = call.function["name"].lower()
    more = []
    for path, values in rest:
        said = LEAF.search(f"{name}.{path.lower()}") or re.search(
            r"\.([wb])_?(\d)$", path.lower()
        )
        leaf = f"{said[1].upper() if said[1] == 'w' else 'b'}{said[2]}" if said else ""
        if leaf in missing:
            more.append(Reading(leaf, np.asarray(values), path, False, 0.05 - BASE))
    rest = [(path, v) for path, v in rest if path.startswith("return")]
    if not more and len(rest) == 1 == len(missing) and len(leaves) > 2:
        path, values = rest[0]
        more.append(Reading(missing[0], np.asarray(values), path, False, 0.05 - BASE))
    return more


FORWARD = r"pred|forward|feed|prob|classif|guess|output|infer|fprop|hypothesis"

LOSSES = r"loss|cost|nll|likelihood|energy|objective|entropy|error"


def _forward(
    array: np.ndarray, path: str, name: str, call: Call, reference: Reference
) -> list[Reading]:
    """Whether an array is a quantity of the forward pass, or takes its place."""
    at, on = reference.at, reference.on
    K = at.onehot.shape[1]
    for quantity, right in (
        ("p", on.p),
        ("a1", on.a[1]),
        ("z1", on.z[0]),
        ("z2", on.z[-1]),
    ):
        back = as_rows(array, call.convention, len(at.y), right.shape[1])
        if back is not None and mistakes.difference(back, right) <= mistakes.SINGLE:
            if quantity == "p" and not _sees_images(call):
                return [Reading("softmax", back, path, False, 0.0)]  # no prediction
            named = bool(re.search(FORWARD, name))
            return [Reading(quantity, back, path, False, 2.0 + 0.1 * named)]
    back = as_rows(array, call.convention, len(at.y), K)
    if back is None:
        return []
    if re.search(FORWARD, name) and "back" not in name and _sees_images(call):
        variant = mistakes.variant_of([back], [at])
        known = variant is not None and not call.guessed
        return [Reading("p", back, path, False, 1.5 if known else 0.3)]
    if not call.convention.one_image:
        for delta in mistakes.top_errors(on, at.onehot).values():
            c = (back * delta).sum() / max((delta**2).sum(), 1e-300)
            if mistakes.difference(back, c * delta) <= mistakes.SINGLE:
                return [Reading("d2", back, path, False, 1.5)]
    return []


def _sees_images(call: Call) -> bool:
    return "x" in call.roles or bool(call.before)


def _gradients(
    array: np.ndarray, path: str, call: Call, reference: Reference
) -> list[Reading]:
    """The leaves whose shape an array has, or that it holds one after the other."""
    convention, at = call.convention, reference.at
    leaves = leaves_as(at, convention)
    ends = np.cumsum([values.size for values in leaves.values()])
    if array.size == ends[-1] and len(leaves) > 1:
        parts = np.split(array.ravel(), ends[:-1])
        shaped = [
            (leaf, f"{path}#{leaf}", part.reshape(leaves[leaf].shape))
            for leaf, part in zip(leaves, parts, strict=True)
        ]
    else:
        shaped = [(leaf, path, array) for leaf in leaves]
    found = []
    for leaf, where, part in shaped:
        values = as_leaf(part, leaf, at, convention)
        if values is not None:
            found.append(_gradient(leaf, values, where, call, reference))
    return found


def _gradient(
    leaf: str, values: Any, path: str, call: Call, reference: Reference
) -> Reading:
    """A leaf's gradient, or what it was updated to; the nearer to right, the surer."""
    at = reference.at
    in_place = path.startswith(("argument", "self.", "global"))
    rate = at.rate if "rate" in call.roles else 1.0
    as_it_is = _fit_at(leaf, values, reference)
    # The parameter itself, less something like its gradient.
    share = as_it_is.decay[0] if as_it_is is not None and as_it_is.decay else 0.0
    is_updated = abs(share - 1) < 1e-6 or ("rate" in call.roles and 0.5 < share < 2)
    given = [(values, False, as_it_is)]
    if "rate" in call.roles or in_place or is_updated:
        g = (at.params[leaf] - values) / rate
        given.append((g, True, _fit_at(leaf, g, reference)))
    best = Reading(leaf, values, path, False, -1.0)
    for g, updated, fit in given:
        sure = 0.0
        if fit is not None:
            if not updated and is_updated:
                sure = -0.5
            elif fit.residual <= mistakes.SINGLE:
                sure = 2.0 - 0.3 * len(fit.nearest)
                if not fits.is_usual(fit.factors[0], len(at.y)):
                    sure -= 0.5
            elif updated and (in_place and "d" not in path.split(".")[-1][:1].lower()):
                sure = 0.1
        if sure > best.sure:
            best = Reading(leaf, g, path, updated, sure)
    return best


def _fit_at(leaf: str, g: np.ndarray, reference: Reference) -> fits.Fit | None:
    """What explains it, unless it is nothing or not finite."""
    if not np.isfinite(g).all() or np.linalg.norm(g) <= 1e-12:
        return None
    return fits.fit(leaf, [g], [reference])


def _is_loss(value: float, reference: Reference) -> bool:
    at = reference.at
    mean = mistakes.losses(reference.on, at.onehot)[""]
    ratio = abs(value / mean) if mean else 0.0
    B, K = len(at.y), at.onehot.shape[1]
    return any(abs(ratio / r - 1) < 1e-6 for r in (1, B, 1 / K, B / K))

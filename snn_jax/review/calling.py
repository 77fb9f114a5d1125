"""How a student's functions want to be called, found by calling them.

People write the same gradient for rows or columns, one image or a batch, with weights
either way, labels as numbers or one-hot, in any order of arguments. Nothing of that is
right or wrong. It is found by trying: a ``Convention`` says how arrays are laid out, a
``Role`` what an argument is, guessed from its name in order of likelihood, and a call
that works returns arrays whose sizes, which differ pairwise, tell what they are.

    functions, as described by ``student``     names, parameters, keys, globals
    -> every convention, every assignment of roles, the likeliest first
    -> ``Found``: how each quantity is asked for, which ``answers`` repeats at any probe
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from snn_jax.review import mistakes
from snn_jax.review.conventions import (
    ANY,
    CONVENTIONS,
    Convention,
    leaves_as,
    roles_of,
    value_of,
)
from snn_jax.review.evidence import Answers
from snn_jax.review.mistakes import Probe, Reference
from snn_jax.review.readings import BASE, FORWARD, LEAF, Call, Reading, read
from snn_jax.student.functions import FROM, ITEM

# Calls a function is tried with in one convention, and if nothing works at all.
TRIES, MORE_TRIES = 60, 600


class Found(NamedTuple):
    """How everything is asked for.

    Attributes:
        convention: of all functions.
        calls: by quantity ("p", "loss", a leaf, "d2"): the call, where in what it
            returned, whether that is an updated parameter, and how sure it is.
        notes: what was tried for functions that could not be called.
    """

    convention: Convention | None
    calls: Mapping[str, tuple[Call, str, bool, float]]
    notes: Sequence[str]


def _assignments(
    function: Mapping[str, Any],
    locked: Mapping[str, str],
    preferred: Mapping[str, str],
    limit: int,
) -> Iterator[tuple[str, ...]]:
    """Roles for all arguments, the likeliest first; none twice."""
    choices = []
    optional = set(function["optional"])
    for name in [*function["parameters"], *function["globals"]]:
        if name in locked:
            choices.append([locked[name]])
            continue
        if function["keys"].get(name):
            known = roles_of(name)
            if "cache" in known:
                choices.append(["cache", "cache.1", "cache.0"])
            else:
                choices.append(["grads"] if "grads" in known else ["params"])
            continue
        roles = list(roles_of(name))
        if (likely := preferred.get(name)) in roles:
            roles = [likely, *(role for role in roles if role != likely)]
        if name in optional and roles[:1] not in (["x"], ["y"], ["rate"]):
            roles = ["default", *roles]
        if "params" in roles or "theta" in roles or "layers" in roles:
            roles = [r for r in roles if r != "layers"] + ["list", "pairs"]
        if "cache" in roles:
            roles += ["cache.1", "cache.0", "cache.2"]
        choices.append(roles or list(ANY))
    ranked = itertools.islice(itertools.product(*map(enumerate, choices)), 200_000)
    sums = sorted(
        (sum(i for i, _ in pick), tuple(role for _, role in pick)) for pick in ranked
    )
    count = 0
    for _, picked in sums:
        named = [r.split(".")[0] for r in picked if r not in ("default", "n", "K")]
        if len(set(named)) == len(named):
            count += 1
            yield picked
        if count >= limit:
            return


def request(call: Call, reference: Reference) -> dict[str, Any]:
    """The call as ``student`` takes it; KeyError where that makes no sense."""
    function, convention = call.function, call.convention
    names = [*function["parameters"], *function["globals"]]
    values: dict[str, Any] = {}
    if "Ws" in call.roles and "bs" not in call.roles and "b1" in reference.at.params:
        raise KeyError("weights alone, where there are biases")
    for name, role in zip(names, call.roles, strict=True):
        if role.startswith("cache"):
            if not call.before:
                raise KeyError(role)
            values[name] = {FROM: request(call.before[-1], reference), ITEM: role[6:]}
        elif role != "default":
            keys = function["keys"].get(name, ())
            values[name] = value_of(role, keys, reference, convention)
    given = []
    for name in function["parameters"]:
        if name not in values:  # the rest keep their defaults
            break
        given.append(values[name])
    asked: dict[str, Any] = {
        "function": function["name"],
        "args": given,
        "globals": {n: values[n] for n in function["globals"] if n in values},
    }
    if "." in function["name"]:
        asked["init"] = list(call.init)
        asked["attributes"] = _attributes(
            function["attributes"], reference.at, convention
        )
        asked["before"] = [
            [c.function["name"].split(".")[1], request(c, reference)["args"]]
            for c in call.before
        ]
    return asked


def _attributes(
    held: Sequence[tuple[str, Any]], at: Probe, convention: Convention
) -> dict[str, Any]:
    """Of an object: its parameters, by the shapes that it began with."""
    leaves = leaves_as(at, convention)
    found: dict[str, Any] = {}
    for path, array in held:
        for leaf, values in leaves.items():
            if values.shape == np.shape(array):
                name, _, place = path.partition(".")
                if place.isdecimal():
                    found.setdefault(name, []).append(values)
                elif place:
                    found.setdefault(name, {})[place] = values
                else:
                    found[name] = values
                del leaves[leaf]
                break
    return found


Caller = Callable[[list[dict[str, Any]]], list[Any]]

# Functions that train or show and are not asked for gradients.
WORK = re.compile(
    r"(.*\.)?_*(train|fit|main|plot|load|save|show|display|run|test|check|read|"
    r"download|epochs?|accuracy|evaluate|init|initiali[sz]e|initial)(_.*)?$",
    re.IGNORECASE,
)


def search(
    functions: Sequence[Mapping[str, Any]],
    caller: Caller,
    reference_of: Callable[[Convention], Reference],
) -> Found:
    """How a file's functions are called.

    Args:
        functions: as described by ``student``; of methods with ``attributes`` and
            ``init_values``.
        caller: calls many at once; of each the result, or a text if it raised.
        reference_of: the network of a convention.

    Returns:
        The convention in which most is recognized, and how everything is asked for.
    """
    best: tuple[float, Found] = (0.0, Found(None, {}, ()))
    batches = any(function["sums_columns"] for function in functions)
    # With one image alone, mistakes of batches would be hidden.
    possible = [c for c in CONVENTIONS if not (batches and c.layout == "column")]
    for limit in (TRIES, MORE_TRIES):
        for convention in _predicting(functions, caller, reference_of, possible, limit):
            found = _in_convention(functions, caller, reference_of, convention, limit)
            if found[0] > best[0] + 1e-9 or not (best[0] or best[1].notes):
                best = found
        if best[0] > 0:
            return best[1]
    return best[1]._replace(convention=None)


def _predicting(
    functions: Sequence[Mapping[str, Any]],
    caller: Caller,
    reference_of: Callable[[Convention], Reference],
    possible: Sequence[Convention],
    limit: int,
) -> Sequence[Convention]:
    """Those in which the prediction is right, if any: the rest need no try."""
    first = [f for f in functions if re.search(FORWARD, f["name"].lower())]
    if not first:
        return possible
    # Labels play no part in it, and a bias (n,) or (1, n) little.
    plain = {(c.layout, c.weights, c.bias): c for c in possible}
    right = set()
    for kind, convention in plain.items():
        _, found = _in_convention(first, caller, reference_of, convention, limit)
        pred = found.calls.get("p")
        if pred is not None and pred[3] >= 2:
            right.add(kind)
    # One image alone proves nothing about batches: a softmax over all images is right.
    if not any(layout in ("rows", "columns") for layout, *_ in right):
        return possible
    return [c for c in possible if (c.layout, c.weights, c.bias) in right]


def _in_convention(
    functions: Sequence[Mapping[str, Any]],
    caller: Caller,
    reference_of: Callable[[Convention], Reference],
    convention: Convention,
    limit: int,
) -> tuple[float, Found]:
    """What is recognized in one convention, and how much that is."""
    reference = reference_of(convention)
    # What a T or Y is, once a function shows it; a W is likely what it was before.
    locked: dict[str, str] = {}
    preferred: dict[str, str] = {}
    calls: Calls = {}
    notes = []
    before: tuple[Call, ...] = ()  # methods that fill an object
    forward: tuple[Call, ...] = ()  # the function that returns what is stored
    for function in _in_order(functions):
        tries = []
        for roles in _assignments(function, locked, preferred, limit):
            init = tuple(function.get("init_values", ()))
            stored = any(role.startswith("cache") for role in roles)
            called = before if "." in function["name"] else stored * forward
            tries.append(Call(function, roles, convention, init, called))
        found, error = _likeliest(tries, caller, reference)
        if found is None:
            notes.append(f"{function['name']}: {error}")
            continue
        call, readings = found
        names = [*function["parameters"], *function["globals"]]
        if max(r.sure for r in readings) >= 2:
            pairs = dict(zip(names, call.roles, strict=True))
            locked |= {n: role for n, role in pairs.items() if role in ("y", "p")}
            preferred |= pairs
        if any(r.quantity in ("p", "a1") for r in readings):
            if "." in function["name"]:
                before = (*before, call)
            elif "x" in call.roles:
                forward = (call,)
        for reading in readings:
            variant = None
            if reading.quantity == "p" and 1 < reading.sure < 2:
                variant = mistakes.variant_of([reading.values], [reference.at])
            if variant is not None:
                reference = Reference(reference.at, variant)
            old = calls.get(reading.quantity)
            if old is None or reading.sure > old[0] + 1e-9:
                calls[reading.quantity] = (
                    reading.sure, call, reading.path, reading.updated,
                )  # fmt: skip
    calls = _without_helpers(calls)
    score = sum((sure + BASE for sure, *_ in calls.values()), 0.0)
    if not _makes_sense(calls):
        score, calls = 0.0, {}
    return score, Found(
        convention,
        {name: (c, path, up, sure) for name, (sure, c, path, up) in calls.items()},
        notes,
    )


def _likeliest(
    tries: Sequence[Call], caller: Caller, reference: Reference
) -> tuple[tuple[Call, list[Reading]] | None, str]:
    """The call that most is recognized of; or none, and what it raised."""
    possible, asked = [], []
    for call in tries:
        try:
            asked.append(request(call, reference))
        except KeyError:
            continue
        possible.append(call)
    results = caller(asked)
    ranked = []
    for rank, (call, result) in enumerate(zip(possible, results, strict=True)):
        if isinstance(result, str):
            continue
        readings = _believed(read(result, call, reference), call)
        total = sum(r.sure + BASE for r in readings)
        if readings:
            ranked.append((total - 0.01 * rank, -rank, call, readings))
    if not ranked:
        return None, next((r for r in results if isinstance(r, str)), "nothing")
    _, _, call, readings = max(ranked, key=lambda r: r[:2])
    return (call, readings), ""


GRADIENTS = re.compile(
    r"grad|back|delta|step|update|slope|nabla|deriv|descent|bprop|^_*[dg]_?[a-z]_?\d?$"
)


def _believed(readings: list[Reading], call: Call) -> list[Reading]:
    """Without arrays that are like a gradient in nothing but their shape.

    Where the names of arguments say nothing, what is not right may be the wrong
    argument: only what is right is believed.
    """
    if call.guessed:
        return [r for r in readings if r.sure >= 2]
    if any(r.quantity == "sign" for r in readings):
        return readings
    named = GRADIENTS.search(call.function["name"].split(".")[-1].lower())
    if named or max((r.sure for r in readings), default=0) >= 1:
        return readings
    return [r for r in readings if r.quantity[0] not in "Wb"]


# A function that is meant to be one gradient, of whatever is called so.
OWN_GRADIENT = re.compile(r"grad|nabla|deriv|slope|^_*[dg]_?[a-z]{1,2}_?\d?$")
Calls = dict[str, tuple[float, Call, str, bool]]


def _without_helpers(calls: Calls) -> Calls:
    """Without what only looks like a bias: a helper's error, where there is none."""
    found = dict(calls)
    for leaf, (sure, call, *_) in calls.items():
        if leaf[0] != "b" or sure >= 2:
            continue
        weights = calls.get(f"W{leaf[1:]}")
        name = call.function["name"].split(".")[-1].lower()
        if weights is None or weights[0] < 2 or weights[1].function is call.function:
            continue
        if not (LEAF.search(f"{name}.") or OWN_GRADIENT.search(name)):
            del found[leaf]
    return found


def _makes_sense(calls: Calls) -> bool:
    """Whether anything but a softmax is recognized."""
    return any(sure >= 0 for name, (sure, *_) in calls.items() if name != "softmax")


def _in_order(functions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Predictions first, then losses, then the rest: names say what a T or Y is."""

    def place(function: Mapping[str, Any]) -> int:
        name = function["name"].lower()
        if re.search(r"pred|forward|feed|prob|guess", name):
            return 0
        return 1 if re.search(r"loss|cost|nll|likelihood|entropy", name) else 2

    asked = [f for f in functions if not WORK.match(f["name"])]
    return sorted(asked or functions, key=place)


def answers(found: Found, caller: Caller, reference: Reference) -> Answers:
    """What the functions answer at a probe.

    One that takes the error at the top gets the student's own, so that what is right
    but for it is seen to follow from it.
    """
    calls = {id(call): call for call, *_ in found.calls.values()}
    values: dict[str, Any] = {}
    for with_error in (False, True):
        asked = [c for c in calls.values() if ("d2" in c.roles) == with_error]
        results = caller([request(call, reference) for call in asked])
        for call, result in zip(asked, results, strict=True):
            if isinstance(result, str):
                continue
            readings = {(r.quantity, r.path): r for r in read(result, call, reference)}
            for quantity, (of, path, *_) in found.calls.items():
                if of is call and (quantity, path) in readings:
                    values[quantity] = readings[quantity, path].values
        own = values.get("d2")
        if own is None and call_is_single(found):
            own = values["b2"][None] if "b2" in values else None
        if own is not None and own.shape == reference.top_error.shape:
            reference.top_error = own
    grads = {name: v for name, v in values.items() if name in reference.at.params}
    return Answers(values.get("p"), values.get("loss"), grads, values.get("sign"))


def call_is_single(found: Found) -> bool:
    """Whether the functions take one image, whose error is the bias's gradient."""
    return found.convention is not None and found.convention.one_image

"""A student's functions judged: which is right, which is wrong, and by which mistake.

    student's functions --calling--> answers at a few probes --judge--> verdicts

    mistakes       every part of a gradient, right and by every known mistake
    fits           which of them an answer is, and the factor beside it
    costs          which loss it is
    judge          a verdict on each function, and what follows from what
    evidence       what one image shows of a mistake that is on no list
    feedback       what a student reads
    conventions    layouts and names
    readings       what the arrays are that a function returned
    calling        how functions want to be called, found by calling them

For a file of somebody else's, ``experiments/review.py`` does the same with the
functions in a process of their own, where no verdict is made.
"""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from snn_jax.review import calling, feedback, judge, mistakes
from snn_jax.review.calling import Caller
from snn_jax.review.conventions import Convention, roles_of
from snn_jax.review.evidence import Answers, Verdict
from snn_jax.review.mistakes import Probe, Reference
from snn_jax.student import functions as student_code

# The networks at which functions are asked; sizes differ pairwise, to be told apart.
SHALLOW = (13, 5, 10)
HIDDEN_SIZES = (5, 6, 4, 8, 9, 11, 12, 14, 15, 16)
BATCHES = (7, 13, 7, 13)
NUM_SINGLE = 6
# Of eight tried, the one whose closest hypotheses are farthest apart: 2e-2.
FIRST_SEED = 70
# What a list of layers' weights may be called.
DEEP_NAMES = {"ws", "w", "weights", "params", "parameters", "theta", "layers", "net"}


class Review(NamedTuple):
    """Of one file.

    Attributes:
        verdicts: on Pred, loss and the gradients; of a deep network's too, whose names
            begin with "deep".
        convention: how the functions take images, weights and labels, in words.
        called: for each quantity, the function that was asked and its arguments.
        notes: what could not be called, and what was tried.
    """

    verdicts: list[Verdict]
    convention: str
    called: dict[str, str]
    notes: list[str]


@cache
def probe_of(sizes: tuple[int, ...], one_image: bool, number: int) -> Probe:
    """The probe of a number; deep networks, of more than two layers, have no biases."""
    batch_size = 1 if one_image else BATCHES[number % len(BATCHES)]
    biases = len(sizes) == len(SHALLOW)
    return mistakes.probe(sizes, batch_size, biases=biases, seed=FIRST_SEED + number)


@cache
def _reference_of(sizes: tuple[int, ...], one_image: bool) -> Reference:
    """What functions are tried at: its hypotheses are computed once for all files."""
    return Reference(probe_of(sizes, one_image, 0))


def check(functions: Mapping[str, Callable[..., Any]]) -> Review:
    """Judges functions in memory, in JAX or NumPy, in any usual convention.

    Args:
        functions: by name; as in the assignment ``Pred``, ``loss``, ``dW1``, ``db1``,
            ``dW2``, ``db2``, or any others that compute these.

    Returns:
        A verdict on each.

    >>> import numpy as np
    >>> def dW2(a1, p, y):
    ...     return a1.T @ (p - y)
    >>> def dW1(x, a1, p, y, W2):
    ...     return x.T @ ((p - y) @ W2.T)
    >>> for verdict in check({"dW2": dW2, "dW1": dW1}).verdicts:
    ...     if verdict.status != "not found":
    ...         print(verdict.function, verdict.status, *verdict.mistakes)
    dW2 right
    dW1 wrong the slope is missing
    """
    student = student_code.Student(functions=dict(functions))

    def caller(calls: list[dict[str, Any]]) -> list[Any]:
        found: list[Any] = student_code.answer(student, {"do": "call", "calls": calls})
        return found

    # JAX functions are judged to all their digits too.
    digits: Any = contextlib.nullcontext()
    if "jax" in sys.modules:
        import jax

        digits = jax.enable_x64(True)
    with digits:
        described = student_functions(lambda r: student_code.answer(student, r))
        return judged(described, caller)


def student_functions(ask: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The functions of a student, as described; objects with what they begin with."""
    functions: list[dict[str, Any]] = ask({"do": "describe"})["functions"]
    # A dictionary of one name is one dictionary, in whatever function.
    keys: dict[str, dict[str, None]] = {}
    for function in functions:
        for name, found in function["keys"].items():
            keys.setdefault(name, {}).update(dict.fromkeys(found))
    for function in functions:
        function["keys"] = {n: list(keys[n]) for n in function["keys"]}
        if "." not in function["name"]:
            continue
        kind = function["name"].split(".")[0]
        for values in _initials(function["init"] or []):
            held = ask({"do": "attributes", "kind": kind, "init": values})
            if not isinstance(held, str):
                break
        else:
            held = []
        function["init_values"] = values
        function["attributes"] = held
    return functions


def _initials(names: Sequence[str]) -> list[list[Any]]:
    """What an object may be made with: sizes in order, or a list of them."""
    sizes = iter(SHALLOW)
    one_by_one: list[Any] = []
    for name in names:
        is_rate = "rate" in roles_of(name)[:1]
        one_by_one.append(0.37 if is_rate else next(sizes, 1))
    rest = [0.37 if "rate" in roles_of(n)[:1] else 1 for n in names[1:]]
    if not names:
        return [[]]
    first = [[list(SHALLOW), *rest]]
    return [one_by_one, *first] if len(names) >= 3 else [*first, one_by_one]


def judged(functions: Sequence[Mapping[str, Any]], caller: Caller) -> Review:
    """The review of functions that something else calls.

    Args:
        functions: as from ``student_functions``.
        caller: of many calls the results, as ``student.functions`` gives them.
    """
    shallow = _judged(functions, caller, SHALLOW)
    if not shallow.called:  # some write the sizes into their code
        shallow = _judged(functions, caller, (784, 20, 10))
    depth = _depth(functions)
    statuses = [v.status for v in shallow.verdicts[2:]]
    if depth is None or "right" in statuses or statuses.count("not found") < 2:
        return shallow
    sizes = (SHALLOW[0], *HIDDEN_SIZES[: depth - 1], SHALLOW[-1])
    deep = _judged(functions, caller, sizes)
    if not any(v.status != "not found" for v in deep.verdicts):
        return shallow
    verdicts = [
        v._replace(
            function=f"deep {v.function}", follows=v.follows and f"deep {v.follows}"
        )
        for v in deep.verdicts
    ]
    found = [v for v in shallow.verdicts if v.status != "not found"]
    return Review(
        [*found, *verdicts],
        shallow.convention or deep.convention,
        deep.called | shallow.called,
        [*shallow.notes, *deep.notes],
    )


def _told(verdict: Verdict, pred: Verdict, notes: Sequence[str]) -> Verdict:
    """With its message; of a function that is there by name, the error it raised."""
    verdict = verdict._replace(message=feedback.message(verdict, pred))
    if verdict.status != "not found":
        return verdict
    for note in notes:
        name, _, error = note.partition(": ")
        if name.split(".")[-1].lower() == verdict.function.lower() and error:
            said = "it returns nothing of this kind" if error == "nothing" else error
            return verdict._replace(message=f"{name} could not be judged: {said}.")
    return verdict


def _depth(functions: Sequence[Mapping[str, Any]]) -> int | None:
    """Layers of a deep network, if a function looks as if it were of one."""
    names = [
        name.lower()
        for function in functions
        for name in (
            *function["parameters"],
            *function["globals"],
            *(key for keys in function["keys"].values() for key in keys),
        )
    ]
    numbers = [int(n[1:].strip("_")) for n in names if n[:1] == "w" and
               n[1:].strip("_").isdecimal()]  # fmt: skip
    if max(numbers, default=0) > 2:
        return min(max(numbers), len(HIDDEN_SIZES) + 1)
    return 4 if DEEP_NAMES & set(names) else None


def _judged(
    functions: Sequence[Mapping[str, Any]], caller: Caller, sizes: tuple[int, ...]
) -> Review:
    def of_convention(convention: Convention) -> Reference:
        return _reference_of(sizes, convention.one_image)

    found = calling.search(functions, caller, of_convention)
    if found.convention is None:
        at = [probe_of(sizes, one_image=False, number=0)]
        nothing = [Answers(None, None, {})]
        tried = list(found.notes) or ["no function with images, weights or errors"]
        verdicts = [_told(v, v, tried) for v in judge.judge(at, nothing)]
        return Review(verdicts, "", {}, tried)
    one = found.convention.one_image
    probes = [
        probe_of(sizes, one, i) for i in range(NUM_SINGLE if one else len(BATCHES))
    ]
    answers = [calling.answers(found, caller, Reference(at)) for at in probes]
    alone = probe_of(sizes, one_image=True, number=9)
    single = alone, calling.answers(found, caller, Reference(alone))
    steps = any(updated for _, _, updated, _ in found.calls.values())
    called = {
        quantity: f"{call.function['name']}({', '.join(call.roles)})"
        for quantity, (call, *_) in found.calls.items()
        if quantity != "softmax"
    }
    verdicts = judge.judge(probes, answers, single=single, steps=steps)
    return Review(
        [_told(v, verdicts[0], found.notes) for v in verdicts],
        str(found.convention),
        called,
        list(found.notes),
    )

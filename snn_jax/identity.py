"""What computes a result: by this a stored number is known again.

A program is known by the SHA-256 of its lowered text (StableHLO, without locations and
names), not by what its functions are called: a constant in a closure, an edited lambda
or another version of an activation make another program, a renamed variable or a moved
function do not. With the program go the key, the data and the points of the grid, and
what else bits depend on: versions, device, instruction set, random generator.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import platform
import re
import sysconfig
import types
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snn_jax import datasets
from snn_jax.ensemble import Ensemble
from snn_jax.sweep import Sweep

# What XLA is told that changes no bits.
HARMLESS_FLAGS = ("--xla_force_host_platform_device_count",)


class RunError(ValueError):
    """A run that cannot go on in a folder: what was expected and what was found."""


# Where Python keeps its own modules.
STANDARD_LIBRARY = sysconfig.get_path("stdlib")


def _sha(*parts: bytes | str) -> str:
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(str(len(content)).encode() + b":" + content)
    return found.hexdigest()


def text_of(lowered: Any) -> str:
    """The text of a lowered program, in which functions have numbers for names.

    >>> import jax.numpy as jnp
    >>> def double(z): return 2 * z
    >>> def twice(x): return 2 * x
    >>> one, other = (jax.jit(f).lower(jnp.ones(3)) for f in (double, twice))
    >>> text_of(one) == text_of(other)
    True
    """
    text = re.sub(r"(?<=module )@\S+", "@", lowered.as_text())
    names = re.findall(r"func\.func \w+ @([\w.$]+)\(", text)
    numbers = {name: str(i) for i, name in enumerate(names)}
    return re.sub(r"@([\w.$]+)", lambda m: "@" + numbers.get(m[1], m[1]), text)


def programs(ensemble: Ensemble) -> dict[str, str]:
    """SHA-256 of the programs of an ensemble, by what they do.

    Raises:
        RunError: a program calls back into Python, where it cannot be seen what for.
    """
    found = {}
    for name, lowered in ensemble.lowered().items():
        text = text_of(lowered)
        code = ""
        if "callback" in text:
            if not (name == "training" and ensemble.method.in_numpy):
                raise RunError(
                    f"{name}: expected a program that JAX can see whole, to know its "
                    "results again, found a callback to Python"
                )
            code = code_digest(ensemble.recipe.value_and_grad)
        found[name] = _sha(text, code)
    return found


def code_digest(function: Any) -> str:
    """SHA-256 of what a Python function does: its bytecode, constants and closure.

    Functions, numbers and arrays that it names are looked into too; comments, names of
    variables and the place of the file play no part.
    """
    seen: set[int] = set()

    def digest(thing: Any) -> str:
        if isinstance(thing, np.ndarray | jax.Array):
            values = np.asarray(thing)
            return _sha(str((values.shape, values.dtype)), values.tobytes())
        if isinstance(thing, types.CodeType):
            constants = [digest(constant) for constant in thing.co_consts]
            return _sha(thing.co_code, *constants, *thing.co_names)
        if isinstance(thing, functools.partial):
            named = [digest(pair) for pair in sorted(thing.keywords.items())]
            return _sha(digest(thing.func), *map(digest, thing.args), *named)
        if isinstance(thing, tuple | list | frozenset):
            return _sha(
                *sorted(map(digest, thing))
                if isinstance(thing, frozenset)
                else map(digest, thing)
            )
        if isinstance(thing, dict):
            return _sha(*(digest(pair) for pair in thing.items()))
        if inspect.ismethod(thing):
            return _sha(digest(thing.__func__), digest(vars(thing.__self__)))
        if isinstance(thing, types.FunctionType):
            if id(thing) in seen:
                return "seen"
            seen.add(id(thing))
            outer = [digest(value) for value in _named_by(thing)]
            defaults = digest((thing.__defaults__, thing.__kwdefaults__))
            return _sha(digest(thing.__code__), *outer, defaults)
        if callable(thing) and hasattr(thing, "__dict__"):
            return _sha(type(thing).__qualname__, digest(vars(thing)))
        # Where an object lies in memory is no part of it, nor is what Python notes in a
        # class when one of its objects is pickled.
        noted = r" at 0x[0-9a-f]+|, '__slotnames__': \[[^\]]*\]"
        shown = re.sub(noted, "", repr(thing))
        return _sha(type(thing).__name__, shown)

    return digest(function)


def rule_digest(rule: Any) -> str:
    """SHA-256 of what a rule of ``stopping`` does: its code and its constants."""
    parts = [code_digest(tuple(rule.reasons)), code_digest(rule)]
    if not inspect.isroutine(rule):
        # Of an object, what its class and their bases define, methods included.
        for of_class in type(rule).__mro__[:-1]:
            for name, value in sorted(vars(of_class).items()):
                if name == "__call__" or not name.startswith("__"):
                    value = value.fget if isinstance(value, property) else value
                    parts += [name, code_digest(getattr(value, "__func__", value))]
            slots = getattr(of_class, "__slots__", ())
            parts += [code_digest(getattr(rule, name, None)) for name in slots]
    return _sha(*parts)


def _named_by(function: types.FunctionType) -> list[Any]:
    """What its code names, inner functions too, and no installed package defines.

    What packages define is known by their versions.
    """

    def names_in(code: types.CodeType) -> set[str]:
        inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
        return set(code.co_names).union(*map(names_in, inner))

    names = sorted(names_in(function.__code__))
    found = []
    for name in names:
        value = function.__globals__.get(name)
        if inspect.ismodule(value):
            if not _installed(value):
                found += [
                    getattr(value, inner)
                    for inner in names
                    if isinstance(getattr(value, inner, None), types.FunctionType)
                ]
        elif name in function.__globals__:
            found.append(value)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            if not inspect.ismodule(cell.cell_contents):
                found.append(cell.cell_contents)
    return [value for value in found if not _installed(value)]


def _installed(value: Any) -> bool:
    """Whether it is a function or class of an installed package, or the package."""
    if not callable(value) and not inspect.ismodule(value):
        return False
    module = value if inspect.ismodule(value) else inspect.getmodule(value)
    if module is None or module.__name__ == "__main__":  # a notebook has no file
        return False
    file = getattr(module, "__file__", None)
    return file is None or "site-packages" in file or file.startswith(STANDARD_LIBRARY)


@functools.cache
def instruction_set() -> str:
    """What the processor can do with numbers; compiled code, and bits, depend on it."""
    machine, cpuinfo = platform.machine(), Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return f"{machine} {platform.processor()}"
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    wanted = r"(?:sse|ssse|avx|fma|f16c|bmi|amx|asimd|neon|sve)\S*"
    flags = sorted(re.findall(rf"\b{wanted}", line[1] if line else ""))
    best = next((f for f in ("avx512f", "avx2", "avx", "sve") if f in flags), "")
    return " ".join(filter(None, [machine, best, _sha(*flags)[:8]]))


def surroundings() -> dict[str, str]:
    """What bits depend on beside program, key, data and points, in words."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    config = jax.config
    return {
        "jax": metadata.version("jax"),
        "jaxlib": metadata.version("jaxlib"),
        "device": jax.devices()[0].device_kind,
        "instruction set": instruction_set(),
        "XLA flags": " ".join(f for f in flags if not f.startswith(HARMLESS_FLAGS)),
        "matrix precision": str(config.jax_default_matmul_precision),  # type: ignore[attr-defined]
        "random generator": str(config.jax_default_prng_impl)  # type: ignore[attr-defined]
        + ("" if config.jax_threefry_partitionable else ", not partitionable"),  # type: ignore[attr-defined]
    }


class Identity:
    """Of a sweep: what all of its chunks depend on, and each of them.

    Attributes:
        words: by name, for people to read and for folders to compare.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        recipe, axes = sweep.recipe, sweep.axes
        self.words = {
            **{f"axis {name}": _words(axes.labels()[name]) for name in axes.values},
            "seeds": str(axes.seeds),
            "epochs": str(recipe.num_epochs),
            "batch size": str(recipe.batch_size),
            "key": " ".join(map(str, np.asarray(jax.random.key_data(sweep.key))))
            + f" {jax.random.key_impl(sweep.key)}",
            **surroundings(),
        }
        if sweep.stop is not None:
            names = ", ".join(sweep.stop.reasons)
            self.words["stop"] = f"{names} {rule_digest(sweep.stop)[:16]}"
        if sweep.initial is not None:
            leaves = map(np.asarray, jax.tree.leaves(sweep.initial))
            self.words["initial parameters"] = _sha(*(v.tobytes() for v in leaves))[:16]
        self._of_program = []
        for program, point in enumerate(sweep.points):
            ensemble = sweep.ensemble(program)
            place = ", ".join(f"{name} {_label(v)}" for name, v in point.items())
            where = f" at {place}" if place else ""
            found = {
                "engine": ensemble.method.engine,
                "chunk width": str(ensemble.width),
                "data": datasets.digest(ensemble.data)[:16],
                **{
                    f"program of {name}": digest[:16]
                    for name, digest in programs(ensemble).items()
                },
            }
            self.words |= {name + where: value for name, value in found.items()}
            self._of_program.append(_sha(*found.values()))

    def of_chunk(self, chunk: int) -> str:
        """SHA-256 of all that the bits of a chunk depend on."""
        program = self.sweep.program_of(chunk)
        members = self.sweep.members(chunk)
        seeds, points = self.sweep.axes.points(members)
        everywhere = ["key", "initial parameters", "epochs", *surroundings()]
        # What a rule is told depends on the length of the run, and what it decides is
        # part of the result.
        everywhere += ["stop"] * (self.sweep.stop is not None)
        return _sha(
            self._of_program[program],
            *(self.words.get(name, "") for name in everywhere),
            seeds.tobytes(),
            *(name.encode() + values.tobytes() for name, values in points.items()),
            members.tobytes() if self.sweep.initial is not None else b"",
        )

    def differences(self, there: Mapping[str, Any]) -> list[str]:
        """What another identity says otherwise, in words."""
        here = self.words
        return [
            f"{name} {there.get(name, 'none')} there and {here.get(name, 'none')} here"
            for name in {**here, **there}
            if there.get(name) != here.get(name)
        ]


@functools.lru_cache(maxsize=4)  # a study has more sweeps than one
def identity_of(sweep: Sweep) -> Identity:
    """The identity of a sweep, worked out once: its programs have to be lowered."""
    return Identity(sweep)


def _words(labels: np.ndarray) -> str:
    return " ".join(map(_label, labels.tolist()))


def _label(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value)

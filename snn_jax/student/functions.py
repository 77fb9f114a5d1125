"""A student's functions, in a file or in memory: described and called.

Of a file, imports, functions, classes and plain constants are executed; loops, prints
and calls at the top, such as training, are not. Nothing here knows of right and wrong.
"""

import ast
import contextlib
import copy
import dis
import inspect
import re
import signal
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from snn_jax.student.modules import module_named
from snn_jax.student.source import tree_of

# In an argument's place: the call whose result it is, and which item, "" for all.
FROM, ITEM = "what this call returns", "its item"

# Who sums over columns has a batch of them.
COLUMN_SUM = re.compile(
    r"axis\s*=\s*(1|-1)|(sum|mean)\(\s*(-?1|[^()]*,\s*-?1)\s*[,)]|shape\[-?1\]"
)

# A call may take so long, a file so much processor time and memory.
CALL_SECONDS, CPU_SECONDS = 2.0, 20

MEMORY, MEMORY_WITH_JAX = 2**31, 2**34


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer, if the system can; 0 is never."""
    here = threading.current_thread() is threading.main_thread() and seconds > 0
    if not hasattr(signal, "setitimer") or not here:
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _source_of_function(function: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def _is_constant(node: ast.AST) -> bool:
    """Whether an assignment at the top is a definition and not work."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            root: Any = part.func
            while isinstance(root, ast.Attribute):
                root = root.value
            known = isinstance(root, ast.Name) and root.id in {
                *("np", "numpy", "jnp", "jax", "math", "partial", "functools"),
                *("int", "float", "range", "list", "tuple", "dict", "len"),
            }
            if not known and not isinstance(node, ast.Lambda):
                return False
        if isinstance(part, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
            return False
    return True


class Student:
    """A file's functions, or functions in memory.

    Args:
        source: of a file.
        functions: instead of a file, by name.
        beside: the student of whom the source, an adapter, imports functions.
    """

    def __init__(
        self,
        source: str = "",
        functions: dict[str, Any] | None = None,
        beside: "Student | None" = None,
    ) -> None:
        self.module = types.ModuleType("student" if beside is None else "adapter")
        self.names: dict[str, Any] = vars(self.module)
        sys.modules[self.module.__name__] = self.module
        self.problems: list[str] = []
        self.slow: dict[str, int] = {}
        # What JAX does for the first time, it compiles; who gives functions waits.
        self.seconds = CALL_SECONDS * (10 if "jax" in source else 1)
        if functions is not None:
            self.seconds = 0.0
            source = "\n".join(map(_source_of_function, functions.values()))
            self.tree, self.source = tree_of(source), source
            self.names.update(functions)
            self.own = set(map(id, functions.values()))
            return
        self.tree, self.source = tree_of(source), source
        for node in self.tree.body:
            self._execute(node)
        self.own = {
            id(value)
            for value in self.names.values()
            if getattr(value, "__module__", None) == self.module.__name__
        }

    def _execute(self, node: ast.stmt) -> None:
        try:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef) or (
                isinstance(node, ast.Assign | ast.AnnAssign)
                and node.value is not None
                and (isinstance(node.value, ast.Lambda) or _is_constant(node.value))
            ):
                code = compile(ast.Module([node], []), "student", "exec")
                exec(code, self.names)
            elif isinstance(node, ast.If | ast.Try | ast.With):
                for inner in [*node.body, *getattr(node, "orelse", [])]:
                    if isinstance(inner, ast.Import | ast.ImportFrom | ast.FunctionDef):
                        self._execute(inner)
        except Exception as error:  # whatever it is, the rest may do
            self.problems.append(f"line {node.lineno}: {type(error).__name__}")

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = module_named(alias.name)
                if alias.asname is None:
                    module = module_named(alias.name.split(".")[0])
                self.names[alias.asname or alias.name.split(".")[0]] = module
            return
        module = module_named(node.module or "")
        for alias in node.names:
            if alias.name == "*":
                self.names.update(
                    (k, v) for k, v in vars(module).items() if k[0] != "_"
                )
            else:
                found = getattr(module, alias.name, None)
                if found is None:
                    found = module_named(f"{node.module}.{alias.name}")
                self.names[alias.asname or alias.name] = found

    def describe(self) -> list[dict[str, Any]]:
        """Of every function and method: its name and what it takes."""
        defined = {
            node.name: node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef)
        }
        found = []
        for name, value in list(self.names.items()):
            if id(value) not in self.own:
                continue
            if inspect.isclass(value):
                methods = [
                    (f"{name}.{key}", f)
                    for key, f in vars(value).items()
                    if inspect.isfunction(f) and not key.startswith("__")
                ]
                init = vars(value).get("__init__")
                found += [self._one(full, f, defined, init) for full, f in methods]
            elif callable(value):
                found.append(self._one(name, value, defined, None))
        return found

    def _one(self, name: str, f: Any, defined: Any, init: Any) -> dict[str, Any]:
        try:
            parameters = list(inspect.signature(f).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        if "." in name:
            parameters = parameters[1:]
        plain = [
            p
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        node = defined.get(name.split(".")[-1])
        return {
            "name": name,
            "parameters": [p.name for p in plain],
            "optional": [p.name for p in plain if p.default is not p.empty],
            "keys": {p.name: _keys(node, p.name) for p in plain} if node else {},
            "globals": self._globals(f, set()),
            "sums_columns": COLUMN_SUM.search(self.source) is not None,
            "init": None
            if init is None
            else list(inspect.signature(init).parameters)[1:],
        }

    def _globals(self, f: Any, seen: set[str]) -> list[str]:
        """Names that a function, or one that it calls, takes from outside."""
        code = getattr(inspect.unwrap(f), "__code__", None)
        if code is None:
            return []
        import builtins

        found: list[str] = []
        for name in _names(code):
            value = inspect.unwrap(f).__globals__.get(name)
            if name in seen or (value is None and hasattr(builtins, name)):
                continue
            seen.add(name)
            if value is None or isinstance(value, np.ndarray):
                found.append(name)
            elif id(value) in self.own:
                found += self._globals(value, seen)
        return found

    def call_in_time(self, what: dict[str, Any]) -> Any:
        """``call``, or in a word why there is no result."""
        name = what["function"]
        if self.slow.get(name, 0) >= 2:
            return "it does not come to an end"
        try:
            with limited(self.seconds):
                return self.call(what)
        except TimeoutError:
            self.slow[name] = self.slow.get(name, 0) + 1
            return "it does not come to an end"
        except NotImplementedError:
            return "it is not done yet"
        except Exception as error:
            words = " ".join(str(error).split())
            short = words if len(words) <= 80 else words[:80].rsplit(" ", 1)[0] + " .."
            return f"{type(error).__name__}: {short}"

    def call(self, what: dict[str, Any]) -> list[tuple[str, Any]]:
        """Calls a function; what it returned, and what it changed, by where it was."""
        arguments = [self._own(value) for value in what["args"]]
        given = copy.deepcopy(arguments)
        for name, value in copy.deepcopy(what.get("globals", {})).items():
            self.names[name] = value
        function = what["function"]
        found: list[tuple[str, Any]] = []
        if "." in function:
            kind, method = function.split(".")
            it = self.names[kind](*copy.deepcopy(what["init"]))
            for name, value in copy.deepcopy(what["attributes"]).items():
                setattr(it, name, value)
            for before, args in what["before"]:
                getattr(it, before)(*copy.deepcopy(args))
            state = copy.deepcopy(vars(it))
            returned = getattr(it, method)(*given)
            _flatten("return", returned, found)
            for name, value in vars(it).items():
                changed: list[tuple[str, Any]] = []
                _flatten(f"self.{name}", value, changed)
                old: list[tuple[str, Any]] = []
                _flatten(f"self.{name}", state.get(name), old)
                found += [c for c in changed if not _among(c, old)]
        else:
            returned = self.names[function](*given)
            _flatten("return", returned, found)
        after: list[tuple[str, Any]] = []
        before_: list[tuple[str, Any]] = []
        _flatten("argument", given, after)
        _flatten("argument", arguments, before_)
        found += [c for c in after if not _among(c, before_)]
        for name, value in what.get("globals", {}).items():
            _flatten(f"global.{name}", self.names[name], after := [])
            _flatten(f"global.{name}", value, before_ := [])
            found += [c for c in after if not _among(c, before_)]
        return found

    def _own(self, value: Any) -> Any:
        """What another function of the file returned, where that is asked for."""
        if not (isinstance(value, dict) and FROM in value):
            return value
        asked, item = value[FROM], value[ITEM]
        for name, given in copy.deepcopy(asked.get("globals", {})).items():
            self.names[name] = given
        returned = self.names[asked["function"]](*copy.deepcopy(asked["args"]))
        return returned[int(item)] if item else returned

    def attributes(self, kind: str, init: list[Any]) -> list[tuple[str, Any]]:
        """The arrays that a new object holds."""
        it = self.names[kind](*init)
        found: list[tuple[str, Any]] = []
        for name, value in vars(it).items():
            _flatten(name, value, found)
        return found


def _names(code: Any) -> list[str]:
    """Names that are looked up outside of the function."""
    found = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    for constant in code.co_consts:
        if inspect.iscode(constant):
            found += _names(constant)
    return found


def _keys(node: ast.AST, name: str) -> list[str]:
    """Strings by which a parameter is looked up: p["W1"]."""
    found = [
        part.slice.value
        for part in ast.walk(node)
        if isinstance(part, ast.Subscript)
        and isinstance(part.value, ast.Name)
        and part.value.id == name
        and isinstance(part.slice, ast.Constant)
        and isinstance(part.slice.value, str)
    ]
    return list(dict.fromkeys(found))


def _flatten(path: str, value: Any, found: list[tuple[str, Any]]) -> None:
    """Arrays and numbers in nested containers, by where they are."""
    if len(found) > 200:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(f"{path}.{key}", inner, found)
    elif isinstance(value, list | tuple):
        try:
            whole = np.asarray(value, float) if _is_row(value) else None
        except (TypeError, ValueError):
            whole = None
        if whole is not None:
            found.append((path, whole))
        else:
            for i, inner in enumerate(value):
                _flatten(f"{path}.{i}", inner, found)
    elif isinstance(value, bool | int | float | complex) or hasattr(value, "__array__"):
        try:
            array = np.array(value)
        except Exception:  # an array of somebody's own
            return
        if array.dtype == object:
            for i, inner in enumerate(array.ravel()[:50]):
                _flatten(f"{path}.{i}", inner, found)
        elif array.dtype.kind in "buif" and array.size <= 100_000:
            found.append((path, array.astype(float)))


def _is_row(value: Any) -> bool:
    """A list of many numbers, which is an array; but not a few scalars."""
    numbers = all(isinstance(v, bool | int | float | np.number) for v in value)
    return bool(value) and numbers and isinstance(value, list) and len(value) > 2


def _among(one: tuple[str, Any], others: list[tuple[str, Any]]) -> bool:
    return any(
        one[0] == path and np.array_equal(one[1], value, equal_nan=True)
        for path, value in others
    )


def answer(student: Student, request: Any) -> Any:
    """One request; of a call that raises, the error in a word."""
    if request["do"] == "describe":
        return {"functions": student.describe(), "problems": student.problems}
    if request["do"] == "attributes":
        try:
            return student.attributes(request["kind"], request["init"])
        except Exception as error:
            return f"{type(error).__name__}"
    return [student.call_in_time(call) for call in request["calls"]]

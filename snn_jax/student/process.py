"""The process that a student's file runs in: arrays come in, arrays go out.

It imports nothing of the package but the student's half, and knows nothing of right
and wrong. A frame is its length in 8 bytes and arrays without pickles, the first a
JSON text.
"""

import contextlib
import io
import json
import os
import re
import sys
import warnings
from typing import Any

import numpy as np

from snn_jax.student.functions import (
    CPU_SECONDS,
    MEMORY,
    MEMORY_WITH_JAX,
    Student,
    answer,
    limited,
)  # fmt: skip
from snn_jax.student.source import RefusedError, source_of


def pack(value: Any, arrays: list[Any]) -> Any:
    """A tree whose arrays are put into the list."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"a": len(arrays) - 1}
    if isinstance(value, dict):
        return {"d": [[key, pack(inner, arrays)] for key, inner in value.items()]}
    if isinstance(value, tuple | list):
        kind = "t" if isinstance(value, tuple) else "l"
        return {kind: [pack(inner, arrays) for inner in value]}
    if isinstance(value, np.generic):
        return {"v": value.item()}
    return {"v": value}


def unpack(tree: Any, arrays: list[Any]) -> Any:
    """The tree again."""
    ((kind, value),) = tree.items()
    if kind == "a":
        return arrays[value]
    if kind == "d":
        return {key: unpack(inner, arrays) for key, inner in value}
    if kind in "tl":
        found = [unpack(inner, arrays) for inner in value]
        return tuple(found) if kind == "t" else found
    return value


def to_bytes(value: Any) -> bytes:
    """A frame."""
    arrays: list[Any] = []
    text = json.dumps(pack(value, arrays)).encode()
    file = io.BytesIO()
    for array in [np.frombuffer(text, np.uint8), *arrays]:
        np.lib.format.write_array(file, array, allow_pickle=False)
    content = file.getvalue()
    return len(content).to_bytes(8, "little") + content


def from_bytes(content: bytes) -> Any:
    """What was sent; ValueError if it is no frame."""
    file = io.BytesIO(content)
    arrays = []
    while file.tell() < len(content):
        arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    return unpack(json.loads(arrays[0].tobytes()), arrays[1:])


# What a file may not do, as Python reports it before it happens.
FORBIDDEN = re.compile(
    r"os\.(remove|rename|link|symlink|mkdir|rmdir|truncate|chmod|chown|chflags|utime|"
    r"kill|killpg|system|exec|fork|forkpty|posix_spawn|spawn|startfile|putenv|"
    r"setxattr|removexattr|lockf)|shutil\.|subprocess\.|socket\.|pty\.|ftplib\.|"
    r"urllib\.|webbrowser\.|signal\.pthread_kill|syslog\.|resource\.|mmap\."
)

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and (
        (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
        or (isinstance(arguments[2], int) and arguments[2] & WRITING)
    )
    if writes or FORBIDDEN.match(event):
        raise PermissionError(f"{event} is not for a file that is reviewed")


class _NoReference:
    """What a file is judged by is not there to be imported."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Raises ImportError for the package itself."""
        if name.split(".")[0] == "snn_jax":
            raise ImportError(f"{name} is not for a file that is reviewed")


def _limit(with_jax: bool) -> None:
    """Gives up what a gradient does not need; where the system has such limits."""
    try:
        import resource
    except ImportError:
        return
    memory = MEMORY_WITH_JAX if with_jax else MEMORY
    seconds = CPU_SECONDS * (3 if with_jax else 1)
    for what, most in (
        ("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CORE", 0), ("RLIMIT_NPROC", 256 if with_jax else 0),
    ):  # fmt: skip
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, what), (most, most))


def serve(path: str, adapter: str | None = None) -> None:
    """The life of the process; an adapter's functions take the place of the file's."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    np.ones((4, 4)) @ np.ones((4, 4))  # what it starts, it starts before the limits
    replies = os.fdopen(os.dup(1), "wb")
    requests = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # what a file prints or asks goes nowhere
        os.dup2(nothing, number)
    said: Any = "ready"
    student = Student()
    try:
        source = source_of(path)
        _limit("jax" in source)
        sys.addaudithook(_forbid)
        sys.meta_path.insert(0, _NoReference())
        with limited(CPU_SECONDS):
            student = Student(source)
            if adapter is not None:
                # It imports what it needs from "student", the module just made.
                adapted = source_of(adapter)
                student = Student(adapted, beside=student)
    except RefusedError as error:
        said = {"refused": str(error)}
    except TimeoutError:
        said = {"refused": "expected definitions, found work that does not end"}
    while True:
        replies.write(to_bytes(said))
        replies.flush()
        if not (length := requests.read(8)):
            return
        request = from_bytes(requests.read(int.from_bytes(length, "little")))
        said = answer(student, request)

"""A student's file in a process of its own, which gets arrays and gives arrays.

What surrounds it: an environment with nothing in it, a temporary folder, limits on
time, memory, file size and processes, and a hook by which Python refuses to write,
delete, start programs or open connections. It never sees a reference or a verdict. This
keeps mistakes and pranks harmless. It is no wall against an attacker who knows the
interpreter: for files of people who may mean harm, run the whole command in a
container without a network, as ``review.py --help`` shows.
"""

import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from snn_jax.student import process as frames

# What the process runs, from the package that this one runs from.
ROOT = str(Path(frames.__file__).parents[2])
SERVE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from snn_jax.student.process import serve; serve(*sys.argv[2:])"
)
# Of a whole file, in seconds.
TIMEOUT = 60.0


class StoppedError(Exception):
    """The process has ended, or had to be ended; says why."""


# Of a function's description.
FIELDS: dict[str, Any] = {
    "name": str, "parameters": list, "optional": list, "keys": dict, "globals": list,
    "sums_columns": bool, "init": list | None,
}  # fmt: skip


def _expect(condition: bool) -> None:
    """A file that plays with its process can send anything."""
    if not condition:
        raise StoppedError("it answered what was not asked")


def _is_result(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], np.ndarray)
        and pair[1].dtype.kind == "f"
        for pair in found
    )


class Process:
    """A file that is asked for what it has.

    Args:
        path: a script or notebook.
        adapter: a file of somebody trusted, whose functions call those of ``student``.

    Raises:
        StoppedError: the file cannot be read or does not come to an end.
    """

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="review-")
        self.ends = time.monotonic() + TIMEOUT
        environment = {
            "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }  # fmt: skip
        if os.name == "nt":  # without it Windows starts no process
            environment["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", "")
        command = [sys.executable, "-I", "-c", SERVE, ROOT, str(path.resolve())]
        if adapter is not None:
            command.append(str(adapter.resolve()))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder.name,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        try:
            said = self._receive()
            if said != "ready":
                raise StoppedError(said["refused"])
        except BaseException:
            self.close()
            raise

    def ask(self, request: Any) -> Any:
        """One request and its answer.

        Raises:
            StoppedError: there is none.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(frames.to_bytes(request))
        except OSError:
            raise StoppedError("it ended the process that it was in") from None
        return self._receive()

    def describe(self, request: Any) -> Any:
        """Its functions, or what an object holds; of the expected form."""
        found = self.ask(request)
        if request["do"] == "attributes":
            _expect(isinstance(found, str) or _is_result(found))
            return found
        _expect(isinstance(found, dict) and isinstance(found.get("functions"), list))
        for function in found["functions"]:
            _expect(isinstance(function, dict) and set(function) == set(FIELDS))
            for field, kind in FIELDS.items():
                _expect(isinstance(function[field], kind))
        return found

    def call(self, calls: list[dict[str, Any]]) -> list[Any]:
        """Many calls at once."""
        found: list[Any] = self.ask({"do": "call", "calls": calls})
        _expect(isinstance(found, list) and len(found) == len(calls))
        for result in found:
            _expect(isinstance(result, str) or _is_result(result))
        return found

    def _receive(self) -> Any:
        content = self._read(int.from_bytes(self._read(8), "little"))
        try:
            return frames.from_bytes(content)
        except Exception:  # whatever it sent, it is no answer
            raise StoppedError("it answered what was not asked") from None

    def _read(self, count: int) -> bytes:
        if count > 2**28:
            raise StoppedError("it answered what was not asked")
        assert self.process.stdout is not None
        found = b""
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while len(found) < count:
                if not ready.select(max(0.0, self.ends - time.monotonic())):
                    raise StoppedError(f"it was stopped after {TIMEOUT:.0f} s")
                part = os.read(self.process.stdout.fileno(), count - len(found))
                if not part:
                    raise StoppedError("it ended the process that it was in")
                found += part
        return found

    def close(self) -> None:
        """Ends it, and whatever it has started."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.folder.cleanup()

"""Processes that train what they are asked to, for the scripts that measure speed.

Each contender of ``_contenders`` has one of its own and imports its library there. What
it has no room for is an answer, and so is whatever else it fails at.
"""

import contextlib
import importlib
import multiprocessing
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Useful operations for a network and an example: two for each weight in the forward
# pass, two for its gradient, two for the errors of all layers but the first.
FLOP = 34_360
# Steps that all contenders take first, from the same weights.
FIRST_STEPS = 20
NO_ROOM = "no room"
# By these words of an error one knows a want of memory.
WANT_OF_MEMORY = (
    *("RESOURCE_EXHAUSTED", "out of memory", "OUT_OF_MEMORY", "ALLOC_FAILED"),
    *("can't allocate memory", "MemoryError"),
)


class ContenderError(RuntimeError):
    """What a contender could not do, in a line: ``NO_ROOM``, or another reason."""


def failure(error: Exception) -> ContenderError:
    """An error of any library as a line."""
    said = f"{type(error).__name__}: {error}"
    if any(words in said for words in WANT_OF_MEMORY):
        return ContenderError(NO_ROOM)
    return ContenderError(said.split("\n")[0])


class Worker:
    """A contender's process, which is idle until asked."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, name), daemon=True)
        self.process.start()
        theirs.close()
        self.import_seconds = self._answer()

    def ask(self, *message: Any) -> Any:
        """Sends a message and waits for the answer.

        Raises:
            ContenderError: it could not be done.
        """
        return self._answer(*message)

    def _answer(self, *message: Any) -> Any:
        try:
            if message:
                self.connection.send(message)
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            raise ContenderError(f"its process ended with code {code}") from None
        if isinstance(answer, ContenderError):
            raise answer
        return answer

    def stop(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):  # it has ended already
            self.connection.send(("stop",))
        self.process.join()


def work(connection: Connection, name: str) -> None:
    """The life of a contender's process: prepares and runs what it is asked to.

    Messages are ("prepare", n, order, options), answered with the seconds that it
    took, first epoch included, and its losses; ("run",), answered with seconds;
    ("precision", "highest" or "high"), of products from then on; ("product",), with
    the rate of a large matrix product; ("memory",), with the most memory so far, in
    bytes; and ("device memory",), with the same of a GPU, or None.
    """
    from _contenders import CONTENDERS, SIZES, Task, matrix_product

    if name == "snn_jax":
        import _command_line

        _command_line.use_all_cores()
    started = time.perf_counter()
    function, library, _ = CONTENDERS[name]
    imported = importlib.import_module(library)
    connection.send(time.perf_counter() - started)

    from snn_jax import mnist

    dataset = mnist.load()
    x, y = dataset.train.x, dataset.train.y
    idle: Callable[[], Any] = lambda: None  # noqa: E731
    epoch = idle

    def answer(message: str, *arguments: Any) -> Any:
        nonlocal epoch
        started = time.perf_counter()
        if message == "prepare":
            n, order, options = arguments
            sizes = options.pop("sizes", SIZES)
            epoch = idle  # what was there before is free
            epoch = function(Task(x, y, order, n, sizes), **options)
            losses = epoch()
            return time.perf_counter() - started, losses
        if message == "run":
            epoch()
            return time.perf_counter() - started
        if message == "precision":
            return set_precision(imported, *arguments)
        if message == "product":
            return matrix_product(name == "snn_jax")()
        if message == "memory":
            import resource  # not on Windows

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak * (1 if sys.platform == "darwin" else 1024)
        return device_memory(imported)

    while True:
        message = connection.recv()
        if message == ("stop",):
            os._exit(0)
        try:
            connection.send(answer(*message))
        except Exception as error:
            found = failure(error)
            if str(found) != NO_ROOM:
                traceback.print_exc()
            connection.send(found)


def set_precision(library: Any, precision: str) -> None:
    """JAX and PyTorch have the same words for it: "highest" is float32, "high" TF32."""
    if library.__name__ == "torch":
        library.set_float32_matmul_precision(precision)
    elif library.__name__ == "jax":
        library.config.update("jax_default_matmul_precision", precision)


def device_memory(library: Any) -> int | None:
    """Most bytes in use so far on all GPUs; None where there is none."""
    if library.__name__ == "torch":
        return library.cuda.max_memory_allocated() or None
    if library.__name__ == "jax":
        stats = [device.memory_stats() or {} for device in library.local_devices()]
        return sum(found.get("peak_bytes_in_use", 0) for found in stats) or None
    return None


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import jax

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*: (.*)", cpuinfo.read_text())
        model = found[1] if found else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def not_installed(names: Iterable[str]) -> list[str]:
    """Those contenders whose library is missing."""
    from _contenders import CONTENDERS

    return [name for name in names if not find_spec(CONTENDERS[name][1])]


def speeds(cell: dict[str, Any]) -> dict[str, float]:
    """Median rate of each contender, in networks x examples a second."""
    return {name: median(rates) for name, rates in cell["rates"].items()}


def order_of(num_examples: int, batch_size: int) -> "np.ndarray":
    """The batches of epoch 1 of a study with key 0."""
    import jax
    import numpy as np

    from snn_jax import training

    key = training.batches_key(jax.random.key(0), epoch=1)
    return np.asarray(training.batch_order(key, num_examples, batch_size))

"""Many machines: chunks of a sweep as tasks of Ray, https://docs.ray.io.

A sweep is a bag of chunks without communication, which is what Ray's tasks are for: it
spreads them over the cluster, retries those of lost workers, and starts a cluster on
this machine if none is named. The process that asks keeps nothing but the chunks that
are on their way to the disk. Optional: pip install 'snn_jax[ray]'.
"""

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_jax.runs import Engine, RunError, identity
from snn_jax.sweep import Chunk, Sweep

# Tasks under way or waiting, for each that can run: enough to keep all workers busy,
# few enough that finished chunks do not pile up.
IN_FLIGHT = 2


@dataclass(frozen=True)
class Job:
    """What a worker needs to build the sweep again; travels by pickle.

    Attributes:
        seed: of the sweep's key.
        data: for ``mnist.load``; the same path on all machines, or None.
        settings: further arguments of ``Sweep``, by name.
    """

    seed: int
    data: Path | None
    settings: tuple[tuple[str, Any], ...]

    def build(self) -> Sweep:
        """The sweep; the data are read and placed."""
        import jax

        from snn_jax import mnist

        key = jax.random.key(self.seed)
        return Sweep(key, mnist.load(self.data), **dict(self.settings))


@functools.lru_cache(maxsize=1)
def _built(job: Job) -> Sweep:
    return job.build()


def _run_chunk(job: Job, chunk: int) -> tuple[dict[str, str], Chunk]:
    """A task: what the chunk's bits depend on here, and the chunk."""
    sweep = _built(job)
    (found,) = sweep.run_chunks([chunk])
    return identity(sweep), found


def ray_engine(job: Job, address: str | None = None) -> Engine:
    """An engine for ``runs.complete`` that computes chunks on a Ray cluster.

    Args:
        job: the sweep; its settings must contain the width, since machines may differ.
        address: of a running cluster, as for ``ray.init``; None starts one here.

    Raises:
        RunError: Ray is not installed; or, from the engine, a worker has other
            versions, data or devices than the process that asks.
    """
    try:
        import ray
    except ImportError:
        raise RunError(
            "--engine ray: expected Ray, found none; pip install 'snn_jax[ray]'"
        ) from None

    def engine(
        todo: list[int], report: Callable[[int], Any]
    ) -> Iterator[tuple[int, Chunk]]:
        if not todo:
            return
        # A task has one core, and no other device for JAX to find.
        environment = {"env_vars": {"JAX_NUM_CPU_DEVICES": "1"}}
        with warnings.catch_warnings():
            # Ray starts processes by a fork; they are other programs at once, and what
            # JAX warns of cannot happen to them.
            warnings.simplefilter("ignore", RuntimeWarning)
            ray.init(
                address,
                runtime_env=environment,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        resources = ray.cluster_resources()
        gpus = resources.get("GPU", 0)
        slots = int(gpus or resources.get("CPU", 1))
        task = ray.remote(
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            max_retries=-1,
            retry_exceptions=False,
        )(_run_chunk)
        shared = ray.put(job)
        mine = identity(_built(job))
        num_epochs = dict(job.settings)["num_epochs"]
        waiting = list(reversed(todo))
        flying: dict[Any, int] = {}
        try:
            while waiting or flying:
                while waiting and len(flying) < IN_FLIGHT * slots:
                    chunk = waiting.pop()
                    flying[task.remote(shared, chunk)] = chunk
                (done, *_), _ = ray.wait(list(flying), num_returns=1)
                chunk = flying.pop(done)
                theirs, arrays = ray.get(done)
                for name, value in mine.items():
                    if theirs[name] != value:
                        raise RunError(
                            f"a worker: expected {name} {value}, as here, found "
                            f"{theirs[name]}"
                        )
                report(len(arrays["test_loss"]) * num_epochs)
                yield chunk, arrays
        finally:
            for reference in flying:
                ray.cancel(reference, force=True)

    return engine

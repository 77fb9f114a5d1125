"""Many machines: chunks of a sweep as tasks of Ray, https://docs.ray.io.

A sweep is a bag of chunks without communication, which is what Ray's tasks are for: it
spreads them over the cluster, retries those of lost workers, and starts a cluster on
this machine if none is named. Ray ships the sweep as it is, with the user's functions.
The process that asks keeps nothing but the chunks that are on their way to the disk.
Optional: pip install 'snn_jax[ray]'.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from snn_jax.identity import RunError, identity_of
from snn_jax.store import Engine
from snn_jax.sweep import Chunk, Sweep

# Tasks under way or waiting, for each that can run: enough to keep all workers busy,
# few enough that finished chunks do not pile up.
IN_FLIGHT = 2


# The sweep that this worker has built, by its reference: it may hold all the data.
_built: dict[str, Sweep] = {}


def _run_chunk(shared: list[Any], chunk: int) -> tuple[dict[str, str], Chunk]:
    """A task: what the chunk's bits depend on here, and the chunk."""
    import ray

    name = shared[0].hex()
    if name not in _built:
        _built.clear()
        _built[name] = ray.get(shared[0])
    sweep = _built[name]
    (found,) = sweep.run_chunks([chunk])
    return identity_of(sweep).words, found


def _start(ray: Any, address: str | None) -> tuple[int, int]:
    """Joins a cluster or starts one; its GPUs, and tasks that can run at a time."""
    # A task has one core, and no other device for JAX to find.
    environment = {"env_vars": {"JAX_NUM_CPU_DEVICES": "1"}}
    with warnings.catch_warnings():
        # Ray starts processes by a fork; they are other programs at once, and what JAX
        # warns of cannot happen to them.
        warnings.simplefilter("ignore", RuntimeWarning)
        ray.init(
            address,
            runtime_env=environment,
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    return gpus, gpus or int(resources.get("CPU", 1))


def ray_engine(sweep: Sweep, address: str | None = None) -> Engine:
    """An engine for ``store.complete`` that computes chunks on a Ray cluster.

    Args:
        sweep: whose chunks are asked for; ``store.complete`` has to be given the same.
        address: of a running cluster, as for ``ray.init``; None starts one here.

    Raises:
        RunError: Ray is not installed; or, from the engine, a worker has other
            versions, programs, data or devices than the process that asks.
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
        gpus, slots = _start(ray, address)
        task = ray.remote(
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            max_retries=-1,
            retry_exceptions=False,
        )(_run_chunk)
        # In a list, so that a worker gets the reference and unpacks the sweep once.
        shared = [ray.put(sweep)]
        mine = identity_of(sweep)
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
                if different := mine.differences(theirs):
                    raise RunError(
                        f"a worker: expected the same as here, found {different[0]}"
                    )
                report(len(arrays["test_loss"]) * sweep.recipe.num_looks)
                yield chunk, arrays
        finally:
            for reference in flying:
                ray.cancel(reference, force=True)

    return engine

"""Strict settings for all tests, set before the package is imported.

Shapes and dtypes in the signatures are checked at run time, arrays of different rank do
not broadcast silently, and a random key that is used twice raises.
"""

import atexit
import os
import shutil
import tempfile

# What one worker or script has compiled, no other compiles again: a private folder,
# which is gone at the end.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="snn_jax-compiled-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Compiled in less than half the time: most of what the suite takes is compiling.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=1"
# Two devices, as on a machine with two cores, so that networks are split over them.
os.environ["JAX_NUM_CPU_DEVICES"] = "2"

# As the scripts do, so that their processes agree with this one.
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

install_import_hook("snn_jax", "beartype.beartype")

from snn_jax import mnist  # noqa: E402
from snn_jax.datasets import Dataset, Split  # noqa: E402

for setting, value in (
    ("jax_numpy_rank_promotion", "raise"),
    ("jax_debug_key_reuse", True),
):
    jax.config.update(setting, value)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """All of MNIST."""
    return mnist.load()


@pytest.fixture(scope="session")
def small(dataset: Dataset) -> Dataset:
    """A few hundred images of each split, for tests that train."""
    return Dataset(*(Split(s.x[:320], s.y[:320]) for s in dataset))


@pytest.fixture
def rng() -> np.random.Generator:
    """For inputs that may be anything."""
    return np.random.default_rng(20260101)

"""Strict settings for all tests, set before the package is imported.

Shapes and dtypes in the signatures are checked at run time, arrays of different rank do
not broadcast silently, and a random key that is used twice raises.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real one, without a window.

    Tests that want it are skipped where there is none, unless SNN_JAX_BROWSER is set.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if "SNN_JAX_BROWSER" not in os.environ:
        pytest.importorskip("playwright.sync_api")
        if chromium is None:
            pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address at a width, as Playwright's page.

    At the end nothing has been said to the console or loaded from elsewhere.
    """
    said: list[str] = []

    def loaded(request: Any) -> None:
        if not request.url.startswith(("file:", "blob:", "data:")):
            said.append(request.url)

    def opened(address: str, width: int = 1280, **options: Any) -> Any:
        size = {"width": width, "height": 800}
        page = browser.new_context(viewport=size, **options).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", loaded)
        page.goto(address)
        return page

    yield opened
    for context in browser.contexts:
        context.close()
    assert not said

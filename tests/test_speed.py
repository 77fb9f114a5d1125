"""What makes runs short: widths, the cache of compiled code, the grid of speeds."""

import os
import subprocess
import sys
from pathlib import Path

import _grid
import jax
import numpy as np
import pytest

from snn_jax import engines, fast, gradients
from snn_jax.engines import Method
from snn_jax.networks import DEEP, MLP
from snn_jax.recipe import Recipe

PARAMS = jax.eval_shape(DEEP.init, jax.random.key(0))


@pytest.mark.parametrize("count", [33, 100, 144, 256, 1000, 10**6])
def test_networks_fill_two_cores(count: int) -> None:
    """At most a quarter of what two cores train are copies, whatever the number."""
    by_hand = fast.value_and_grad(DEEP)
    method = Method("fast", "by hand", by_hand, in_numpy=False)
    width = engines.default_width(Recipe(DEEP), method, PARAMS, count)
    assert width % 16 == 0
    trained = -(-count // (2 * width)) * 2 * width
    assert trained <= max(64, 1.28 * count)


def test_few_networks_are_halved() -> None:
    """Plain: 18 networks are two chunks of nine, one is one."""
    method = Method("plain", "autodiff", gradients.by_autodiff(DEEP), in_numpy=False)
    recipe = Recipe(DEEP)
    widths = [engines.default_width(recipe, method, PARAMS, n) for n in (1, 18, 64)]
    assert widths == [1, 9, 16]


@pytest.mark.parametrize("width", [10, 20])
def test_a_network_alone_has_the_gradient_of_autodiff(
    width: int, rng: np.random.Generator
) -> None:
    """Sums written out and matrix products, whichever is faster at a width."""
    network = MLP((30, width, width, 5))
    params = network.init(jax.random.key(1), bias_scale=1.0)
    x, y = rng.uniform(size=(7, 30)).astype(np.float32), np.arange(7) % 5
    loss, grads = fast.value_and_grad(network)(params, x, y)
    expected, autodiff = gradients.by_autodiff(network)(params, x, y)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, leaf in autodiff.items():
        np.testing.assert_allclose(grads[name], leaf, rtol=1e-4, atol=1e-7)


USE = """
import _command_line
_command_line.use_compile_cache()
import jax
print(jax.config.jax_compilation_cache_dir)
"""


def test_compiled_code_is_kept_where_nobody_else_writes(tmp_path: Path) -> None:
    """In the user's own cache folder; never where others could leave code to be run."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "JAX_COMPILATION_CACHE_DIR"
    } | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}

    def place() -> str:
        folder = Path(__file__).parents[1] / "experiments"
        done = subprocess.run(
            [sys.executable, "-c", USE], cwd=folder, env=environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    if os.name != "posix":
        pytest.skip("other systems have other rights")
    found = Path(place())
    assert found.is_relative_to(tmp_path)
    for folder in (found, found.parent):
        assert folder.stat().st_mode & 0o077 == 0
        folder.chmod(0o770)
        assert place() == "None"
        folder.chmod(0o700)


def test_the_grid_names_the_slowest_cell_first() -> None:
    """Beside the fastest other, by medians; what was not measured is left out."""
    cell = _grid.Cell(depth=5, width=10, networks=1, batch_size=32)
    assert cell.sizes == (784, 10, 10, 10, 10, 10, 10)
    rates = {"snn_jax": [3e6, 1e6, 2e6], "jax.vmap": [4e6] * 3, "NumPy": [1e6] * 3}
    slow = cell._asdict() | {"rates": rates}
    fast = cell._replace(networks=16)._asdict()
    fast |= {"rates": {"snn_jax": [6e6], "jax.vmap": [2e6]}}
    assert (_grid.ratio(slow), _grid.ratio(fast)) == (0.5, 3.0)
    lines = _grid.report([fast, slow])
    assert "2 cells" in lines[0]
    assert "below 1 in 1" in lines[0]
    assert lines[1].startswith(" 0.50  1 networks, batch size 32, 5 layers of 10")
    words = [text.get_text() for text in _grid.picture([fast, slow]).axes[0].texts]
    assert words == ["0.5", "3"]

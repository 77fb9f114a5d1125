"""What makes runs short: widths, the cache of compiled code, the grid of speeds."""

import os
import subprocess
import sys
from pathlib import Path

import _grid
import _workers
import jax
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
    """Plain: 18 are two chunks of nine, 66 are four of 17; fewer if they are large."""
    method = Method("plain", "autodiff", gradients.by_autodiff(DEEP), in_numpy=False)

    def widths(network: MLP, batch_size: int = 32) -> list[int]:
        params = jax.eval_shape(network.init, jax.random.key(0))
        recipe = Recipe(network, batch_size=batch_size)
        return [engines.default_width(recipe, method, params, n) for n in (1, 18, 66)]

    assert widths(DEEP) == [1, 9, 17]
    assert widths(MLP((784, 300, 10))) == [1, 3, 4]
    assert widths(DEEP, batch_size=10_000) == [1, 3, 3]


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
    # What the benchmark counts for the deep network, 5 layers of 10.
    assert cell.flop == _workers.FLOP
    lines = _grid.report([fast, slow])
    assert "2 cells" in lines[0]
    assert "below 1 in 1" in lines[0]
    assert lines[1].startswith(" 0.50  1 network, batch size 32, 5 layers of 10")
    words = [text.get_text() for text in _grid.picture([fast, slow]).axes[0].texts]
    assert words == ["0.5", "3"]

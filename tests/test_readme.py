"""The README's examples run as written; its eight doors are open all the way through.

Every door trains, is stored, resumes and is shared between shards with the same bits,
travels to another process as Ray ships it, has signals and gets a verdict.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import cloudpickle
import jax
import numpy as np
import pytest

from snn_jax import diagnosis, mnist, store
from snn_jax.datasets import Dataset
from snn_jax.recipe import Recipe
from snn_jax.sweep import Sweep, sweep

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NAMES = (
    *("activation", "network", "equinox", "flax", "loss", "gradient", "optimizer"),
    *("data", "axes"),
)
DOORS = dict(zip(NAMES, BLOCKS[2:-1], strict=True))


def test_library_example(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    gradients, stuck, cured = capsys.readouterr().out.splitlines()
    assert "'W6'" in gradients
    assert float(stuck.split()[1]) < 0.12  # the share of one digit
    assert 0.9 < float(cured.split()[1]) < 0.95


def test_forecast_example(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Times of eight networks, spread by their weights; fewer images, longer epochs."""
    data = names["mnist"].load()
    exec(compile(BLOCKS[-1], "README.md", "exec"), names | {"data": data})
    epochs = np.fromstring(capsys.readouterr().out.strip("[]\n"), sep=" ")
    assert epochs.shape == (8,)
    assert (epochs > 100).all()


def test_stopping_example(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Theory stops the smaller scale before its first step; nobody is good enough."""
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    decided, good_enough = capsys.readouterr().out.split("not_stopped good_enough")
    assert decided.startswith("not_stopped diverged converged forecast_beyond_the_run")
    assert "[[[ 0.  0.  0.  0.]]" in decided
    assert good_enough.count("nan") == 8


@pytest.fixture
def names(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the first block imports, with a few hundred images."""
    monkeypatch.setattr(mnist, "load", lambda: small)
    imports = BLOCKS[0].split("x, y = ")[0]
    found: dict[str, Any] = {}
    exec(imports, found)
    # Doors may go on from the one before.
    found["swish"] = lambda z: z * jax.nn.sigmoid(z)
    found["axes"] = {"scale": [0.1, 0.5], "learning_rate": [0.1]}
    return found


def opened(code: str, names: dict[str, Any]) -> tuple[Any, Sweep]:
    """The result of a door's code, and the sweep that it asked for."""
    asked: list[Sweep] = []

    def watched(
        key: Any, data: Any, recipe: Recipe, axes: Any = None, **options: Any
    ) -> Any:
        asked.append(Sweep(key, data, recipe, axes, **options))
        return sweep(key, data, recipe, axes, **options)

    names["sweep"] = watched
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 10, "a door has at most ten lines"
    exec(compile(code, "README.md", "exec"), names)
    return names["result"], asked[0]


@pytest.mark.parametrize("door", DOORS)
def test_a_door_is_open(door: str, names: dict[str, Any], tmp_path: Path) -> None:
    result, asked = opened(DOORS[door], names)
    assert np.isfinite(result.test_loss).all()
    start, end = result.train_loss.isel(epoch=1), result.valid_loss.isel(epoch=-1)
    assert float(end.min()) < float(start.max())
    # Signals, of layers or leaves, and a verdict on every network.
    assert np.isfinite(result.gradient_rms.isel(epoch=0)).any()
    verdicts = diagnosis.verdicts(result)
    assert verdicts.shape == result.test_loss.shape
    # In a folder, in two shards; and again, with nothing left to do.
    for part in (1, 2):
        store.complete(tmp_path, asked, shard=(part, 2))
    assert store.complete(tmp_path, asked)
    chunks = list(store.read_chunks(tmp_path, asked))
    again = asked.assemble(chunks)
    for name in result.data_vars:
        np.testing.assert_array_equal(again[name], result[name], err_msg=str(name))
    # As Ray ships it: by value, rebuilt in another process.
    shipped = pickle.loads(cloudpickle.dumps(asked))
    (found,) = shipped.run_chunks([asked.num_chunks - 1])
    for name, values in chunks[-1].items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # Ray forks from this process
@pytest.mark.parametrize("door", DOORS)
def test_a_door_on_ray(door: str, names: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from snn_jax import cluster

    result, asked = opened(DOORS[door], names)
    store.complete(tmp_path, asked, engine=cluster.ray_engine(asked))
    again = asked.assemble(store.read_chunks(tmp_path, asked))
    np.testing.assert_array_equal(again.test_loss, result.test_loss)


def test_exactly_two_commands() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)


def test_every_module_and_script_is_named() -> None:
    root = Path(__file__).parents[1]
    for path in [*root.glob("snn_jax/[a-z]*.py"), *root.glob("experiments/[a-z]*.py")]:
        assert path.name in README

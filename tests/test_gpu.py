"""What can be known of a GPU without one: programs lower for it, and what is said."""

import re
from collections.abc import Callable
from typing import Any

import _gpu
import _workers
import gpu
import jax
import pytest
from test_experiments import run

from snn_jax import gradients, networks
from snn_jax.datasets import Dataset
from snn_jax.ensemble import Ensemble
from snn_jax.recipe import Recipe

TRACED = {"scale": 1.0, "learning_rate": 0.1}


def ensemble(data: Dataset, engine: str, **options: Any) -> Ensemble:
    recipe = Recipe(networks.DEEP, batch_size=32, **options)
    return Ensemble(recipe, data, count=8, traced=TRACED, engine=engine, width=4)


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_all_programs_lower_for_a_gpu(engine: str, small: Dataset) -> None:
    """Start, training, evaluation and observation, without a GPU."""
    found = ensemble(small, engine).lowered("cuda")
    here = ensemble(small, engine).lowered()
    assert list(found) == list(here)
    for name, program in found.items():
        assert "func.func public @main" in program.as_text(), name
    # Random numbers are drawn otherwise there: the platform is heeded.
    name = "initial weights"
    if jax.devices()[0].platform == "cpu":
        assert found[name].as_text() != here[name].as_text()


def schur_of(params: Any) -> Any:
    """JAX has a Schur decomposition on the CPU alone."""
    return jax.scipy.linalg.schur(params["W2"])[0].sum()


def with_schur(params: Any, x: Any, y: Any) -> Any:
    loss, grads = gradients.by_autodiff(networks.DEEP)(params, x, y)
    return loss + 0 * schur_of(params), grads


PLANTED: dict[str, dict[str, Any]] = {
    "observation": {"observe": {"planted": schur_of}},
    "training": {"value_and_grad": with_schur},
}


@pytest.mark.parametrize("where", PLANTED)
def test_what_only_a_cpu_can_do_is_seen(where: str, small: Dataset) -> None:
    many = ensemble(small, "plain", **PLANTED[where])
    many.lowered("cpu")
    with pytest.raises(NotImplementedError, match="schur"):
        many.lowered("cuda")


def test_without_a_gpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = run("gpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: JAX: expected a GPU, found cpu; --cpu tries the script itself on small "
        "sizes"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "no room"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "no room"),
        (MemoryError(), "no room"),
        (AssertionError("Torch not compiled\nat all"), "AssertionError: Torch not com"),
    ],
)
def test_want_of_memory_is_known(error: Exception, said: str) -> None:
    found = str(_workers.failure(error))
    assert found.startswith(said)
    assert "\n" not in found


class Fake:
    """A worker that has not room for more than 100 networks, or breaks."""

    def __init__(self, name: str, alone: Callable[[], bool]) -> None:
        self.name, self.alone, self.stopped = name, alone, False

    def ask(self, message: str, *arguments: Any) -> Any:
        """As a worker answers."""
        if message == "prepare" and self.name == "torch.func.vmap":
            raise _workers.ContenderError("ValueError: broken")
        if message == "prepare" and arguments[0] > 100 and not self.alone():
            raise _workers.ContenderError(_workers.NO_ROOM)
        answers = {"prepare": (2.0, [2.5]), "run": 0.5, "device memory": 3 * 10**9}
        return answers.get(message)

    def stop(self) -> None:
        """Ends what has not begun."""
        self.stopped = True


@pytest.mark.parametrize("room_alone", [True, False])
def test_no_room_is_a_result(room_alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again without the others; what fails otherwise is not."""
    started: list[Fake] = []

    def start(name: str) -> Fake:
        started.append(Fake(name, alone))
        return started[-1]

    def alone() -> bool:
        return room_alone and sum(not worker.stopped for worker in started) == 1

    monkeypatch.setattr(_gpu, "Worker", start)
    monkeypatch.setattr(_gpu, "product", lambda *_: 1e12)
    monkeypatch.setattr(_gpu, "not_installed", lambda _: [])
    monkeypatch.setattr(_gpu, "order_of", lambda *_: None)
    monkeypatch.setattr(_gpu, "width_of", lambda n, *_, **__: n)
    names = ("PyTorch bmm", "torch.func.vmap", "snn_jax TF32", "bmm TF32")
    sizes = _gpu.Sizes((64, 256), (32,), 2, 50_000, names, cpu=False)
    found = _gpu.rates(sizes)
    assert all(worker.stopped for worker in started if worker.name != "torch.func.vmap")
    few, many = (cell["contenders"] for cell in found["cells"])
    assert few["PyTorch bmm"]["rates"] == [64 * 6400 / 0.5] * 2
    assert few["snn_jax TF32"]["rates"] == [64 * 49_984 / 0.5] * 2
    assert ("failed" in many["PyTorch bmm"]) != room_alone
    assert many["PyTorch bmm"]["alone"]
    assert "alone" not in many["torch.func.vmap"]
    printed = "\n".join(gpu.of_rates(found))
    assert printed.count("no room") == (0 if room_alone else 6)
    assert "torch.func.vmap: ValueError: broken" in printed
    assert re.search(r"A large TF32 product: 1 TFLOP/s", printed)
    gpu.picture(found)


TINY = _gpu.Sizes((4,), (50,), 1, 1000, (), cpu=True)


def test_gradients_agree() -> None:
    """By hand, by the engine and by autodiff, and all with float64."""
    found = _gpu.gradients(TINY)
    assert found["passed"]
    assert {row["leaf"] for row in found["rows"]} == {"W1", "b1", "W2", "b2"}
    assert "In float32 all agree to 1e-05." in gpu.of_gradients(found)
    # Two precisions have been compared, not one with itself.
    assert all(row["autodiff - float64"] > 1e-9 for row in found["rows"])


def test_a_sweep_repeats_itself() -> None:
    """In this process and in another; another width is another program."""
    found = _gpu.rerun(TINY)
    assert found["passed"]
    assert (found["width"], found["half"]["width"]) == (8, 4)
    assert found["half"]["largest difference of test losses"] < 1e-5
    assert "in another process: bit-identical" in "\n".join(gpu.of_rerun(found))


def test_what_disagrees_is_said() -> None:
    """Each part's words follow its numbers."""
    row = {"network": "DEEP", "leaf": "W1", "by hand - autodiff": 0.1}
    found: dict[str, Any] = {"networks": 4, "rows": [row], "passed": False}
    assert gpu.of_gradients(found)[-1] == "In float32 all DISAGREE to 1e-05."
    half = {"width": 2, "largest difference": 1e-6, "equal": 0.5}
    found = {"networks": 8, "engine": "plain", "width": 4, "half": half}
    found["digests"] = ["a", "a", "b"]
    lines = gpu.of_rerun(found)
    assert lines[1].endswith("in this process: bit-identical")
    assert lines[2].endswith("in another process: DIFFERS")
    found = {"returncode": 1, "summary": "1 failed", "failed": ["FAILED tests/x.py"]}
    assert "Tests (exit code 1): 1 failed" in gpu.of_tests(found)[0]
    assert gpu.of_tests(found)[1] == "FAILED tests/x.py"

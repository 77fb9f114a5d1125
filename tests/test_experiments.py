"""Every script runs at a tiny size; bad flags and bad data get one line and code 2."""

import base64
import gzip
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _command_line
import _contenders
import jax.numpy as jnp
import numpy as np
import published
import pytest
import test_tutorial

from snn_jax import backprop, files

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "experiments").glob("*.py")
    if not path.stem.startswith("_")
)
# A script that is not named here fails test_every_script_has_a_tiny_run.
TINY: dict[str, list[str]] = {
    "assignment": [],
    "benchmark": [
        *("--networks", "3", "--batch-sizes", "100", "--examples", "1000"),
        *("--repeats", "1", "--no-scaling", "--no-startup"),
    ],
    "convergence": [
        *("--scales", "0.1", "1", "--learning-rates", "1", "--seeds", "2"),
        *("--epochs", "4", "--batch-size", "500", "--depth", "2"),
    ],
    "explore": ["--map", "8"],
    "gpu": [
        *("--cpu", "--networks", "4", "--batch-sizes", "50"),
        *("--contenders", "snn_jax", "--parts", "rates", "tests"),
    ],
    "gradients": ["--scales", "0.01"],
    "plateau": [
        *("--leaving", "1", "--staying", "1", "--seeds", "4", "--depths", "4"),
        *("--scales", "0.1", "0.3", "--learning-rates", "1", "--batch-sizes", "32"),
        *("--training-sets", "2000", "--images", "40000", "--no-laws"),
    ],
    "published": [
        *("--only", "no-training", "norms-2", "norms-wrong"),
        *("--networks", "100", "--seeds", "2"),
    ],
    "remedies": [
        *("--only", "none", "centred orthogonal x 4", "centred orthogonal, SGD"),
        *("--seeds", "1", "--recipe-epochs", "1", "--batch-size", "100"),
    ],
    "review": [str(ROOT / "tests" / "data" / "solution.py"), "--page", "--teacher"],
    "shallow": ["--gradient", "manual", "--epochs", "1", "--batch-size", "100"],
    "tutorial": [],
}
# Run as a person would, each in a process of its own; the others in this one.
ALONE = {"benchmark", "gpu", "shallow", "tutorial"}
WITHOUT_OUT = {"gradients"}
WITHOUT_RESULT = {
    *("assignment", "benchmark", "explore", "gpu", "plateau", "published", "review"),
    "tutorial",
}
WITHOUT_DATA = {"assignment", "benchmark", "gpu", "review"}


class Done(NamedTuple):
    """What is left of a script that has run."""

    returncode: int
    stdout: str
    stderr: str


def run(script: str, *flags: str) -> Done:
    """As a person would, from the command line."""
    # They train more than the tests, and less of their time is compiling.
    level = {"XLA_FLAGS": "--xla_backend_optimization_level=1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"} | level,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The same in this process, which has JAX already: in half the time."""

    def run_script(script: str, *flags: str) -> Done:
        module = importlib.import_module(script)
        presets = None
        if hasattr(module, "QUICK"):
            presets = {"quick": module.QUICK, "full": module.FULL}
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
        monkeypatch.setenv("COLUMNS", "100")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            _command_line.run(
                module.main, module.Settings, module.__doc__ or "", presets
            )
        assert isinstance(stop.value.code, int)
        return Done(stop.value.code, *capsys.readouterr())

    return run_script


def test_every_script_has_a_tiny_run() -> None:
    assert set(TINY) == set(SCRIPTS)


def check_convergence(printed: str, out: Path) -> None:
    """Answers in words and pictures."""
    for part in ("Is it converging?", "Why?", "What's wrong?", "accuracy"):
        assert part in printed
    # The last line names the folder, of any length.
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    figures = {file.name for file in (out / "figures").iterdir()}
    assert {"gradient_per_layer.svg", "loss_curves.svg", "depth_map.svg"} < figures
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure ") == len(figures)
    # Each cell of the verdict map is a part of the picture, and has details.
    for name in ("cell-0-0", "cell-1-0"):
        assert f'<g id="{name}">' in page
        assert f'["{name}",{{"title":"init scale ' in page
    assert len((out / "networks.csv").read_text().splitlines()) == 1 + 4


def check_gradients(printed: str, out: Path) -> None:
    """Says where differences are blind, and writes nothing."""
    assert "agree (blind)" in printed
    assert "drowns in rounding" in printed
    assert "DISAGREE" not in printed
    assert not out.exists()


def check_benchmark(printed: str, out: Path) -> None:
    """Contenders do the same work, and every number is there."""
    found = re.search(r"from the same weights: within (\S+) nats", printed)
    assert found, printed
    assert float(found.group(1)) < 1e-5
    result = json.loads((out / "benchmark.json").read_text())
    (cell,) = result["cells"]
    assert result["optimizers"].keys() == _contenders.OPTIMIZERS.keys()
    assert all(0 < share < 20 for share in result["optimizers"].values())
    assert {"snn_jax", "jax.vmap", "NumPy"} <= set(cell["rates"])
    assert (out / "figures" / "speed.svg").exists()


def check_gpu(printed: str, out: Path) -> None:
    """Timed and tested; the other parts have tests of their own."""
    assert re.search(r"Tests \(exit code 0\): \d+ passed", printed)
    result = json.loads((out / "gpu.json").read_text())
    assert set(result) == {"machine", "rates", "tests"}
    (cell,) = result["rates"]["cells"]
    assert cell["widths"] == {"snn_jax": 2, "fast engine": 16}
    assert len(cell["contenders"]["snn_jax"]["rates"]) == 1
    assert not any("failed" in found for found in cell["contenders"].values())
    assert (out / "figures" / "gpu.svg").exists()


def check_published(printed: str, out: Path) -> None:
    """A verdict on every number, in a table, a page and files."""
    assert "DIFFERS" not in printed
    assert "6 of 6 published results, from 2 publications, agree" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    result = files.load(out)
    assert list(result.verdict.values) == ["agrees"] * 6
    # A norm that forgets a factor, such as sigmoid' = 1/4, is noticed.
    for row, ours in zip(published.ROWS[:2], result.ours.values, strict=False):
        assert not published.judge(row, 4 * ours).agrees
        assert not published.judge(row, ours / 4).agrees
    assert len((out / "published.csv").read_text().splitlines()) == 1 + 6
    assert (out / "figures" / "published.svg").exists()
    assert "0.0657" in (out / "report.html").read_text(encoding="utf-8")


def check_plateau(printed: str, out: Path) -> None:
    """One group leaves when predicted, the other stays; the laws stand below."""
    assert "4 networks that left" in printed
    assert "100.0 % did so within a factor of 1.25" in " ".join(printed.split())
    assert "4 networks that were not predicted to leave" in " ".join(printed.split())
    networks = files.load(out)
    assert networks.seen.shape == networks.predicted.shape == (2, 4)
    assert (out / "figures" / "groups.svg").exists()


def check_explore(printed: str, out: Path) -> None:
    """One page of the right size, with a map whose corners are as they must be."""
    path = out / "explore.html"
    assert str(path) in printed
    assert path.stat().st_size < 3e6
    page = path.read_text(encoding="utf-8")
    found = json.loads(re.findall(r"const MAP = (.*);\n", page)[0])
    packed = (base64.b64decode(found[name]) for name in ("verdicts", "accuracy"))
    verdicts, halves = (
        np.frombuffer(gzip.decompress(part), np.uint8).reshape(8, 8) for part in packed
    )
    # Rows are learning rates, from the smallest; columns are init scales.
    assert found["names"][verdicts[0, 0]] == "vanishing"
    assert found["names"][verdicts[4, 7]] == "saturated"
    assert found["names"][verdicts[5, 5]] == "learning"
    assert halves[5, 5] > 2 * 40 > 2 * 20 > halves[0, 0]
    lines = [line for line in found["lines"] if line["steps"] == 1e4]
    assert lines
    # Theory's line is above the networks that stay, and falls with the scale.
    assert all(0 < share < 1 for line in lines for share in np.ravel(line["points"]))


def check_remedies(printed: str, out: Path) -> None:
    """The cure is named, with its line; pictures, also of the depths."""
    for part in ("What makes it converge?", "Why?", "Which line to change?", "rate"):
        assert part in printed
    assert "initializer=centred_orthogonal).init(.., scale=4.0)" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    result = files.load(out)
    accuracy = result.best_test_accuracy.isel(seed=0)
    by_name = dict(zip(result.remedy.values, accuracy.values, strict=True))
    assert by_name["centred orthogonal x 4"] > 0.8
    figures = {file.name for file in (out / "figures").iterdir()}
    assert figures == {"league.svg", "first_steps.svg", "recipes.svg"}


def check_shallow(printed: str, _: Path) -> None:
    """The last line is the one that a program looks for."""
    found = re.search(r"^test accuracy: (\d+\.\d\d) %$", printed, re.MULTILINE)
    assert found, printed
    assert printed.rstrip().endswith(found.group())
    assert float(found.group(1)) > 80


def check_assignment(printed: str, out: Path) -> None:
    """A notebook with a blank for every function, which the judge calls not done."""
    assert printed.rstrip().endswith("assignment.ipynb")
    cells = json.loads((out / "assignment.ipynb").read_text())["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    for name in ("Pred", "loss", "dW1", "db1", "dW2", "db2", "deep_gradients"):
        assert f"def {name}(" in code
    assert code.count("not done yet") == 7


def check_review(printed: str, out: Path) -> None:
    """All six are right, and a page says so."""
    assert "All 6 functions are right." in printed
    page = (out / "solution.py.html").read_text(encoding="utf-8")
    assert page.count("<td>right</td>") == 6


CHECKS = {
    "assignment": check_assignment,
    "review": check_review,
    "benchmark": check_benchmark,
    "convergence": check_convergence,
    "explore": check_explore,
    "gpu": check_gpu,
    "gradients": check_gradients,
    "plateau": check_plateau,
    "published": check_published,
    "remedies": check_remedies,
    "shallow": check_shallow,
    "tutorial": test_tutorial.check,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_tiny_run(script: str, tmp_path: Path, run_here: Callable[..., Done]) -> None:
    folder = tmp_path / "run"
    out = [] if script in WITHOUT_OUT else ["--out", str(folder)]
    done = (run if script in ALONE else run_here)(script, *TINY[script], *out)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    CHECKS[script](done.stdout, folder)
    if out and script not in WITHOUT_RESULT:
        assert files.load(folder).test_accuracy.notnull().all()
        assert '"snn_jax"' in (folder / "settings.json").read_text()
        assert not list(tmp_path.rglob("*.partial"))


def test_gradients_exits_with_1_on_a_disagreement(
    run_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sigma' replaced by 1/4 in the gradient by hand, and nothing else."""
    monkeypatch.setattr(backprop, "slope", lambda _, z: jnp.full_like(z, 0.25))
    # A batch size of its own: nothing compiled before or after has these shapes.
    done = run_here("gradients", "--scales", "1", "--batch-size", "7")
    assert done.returncode == 1, done.stderr
    assert "DISAGREE" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_instant(script: str) -> None:
    """No jax in sight: importing it alone takes a second."""
    path = ROOT / "experiments" / f"{script}.py"
    code = (
        "import atexit, runpy, sys\n"
        "heavy = ('jax', 'xarray', 'matplotlib')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules]))\n"
        f"sys.path.insert(0, {str(path.parent)!r})\n"
        f"sys.argv = [{str(path)!r}, '--help']\n"
        f"runpy.run_path({str(path)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


BAD_FLAGS = [
    (
        "convergence",
        ["--scales", "nan"],
        "--scales: expected numbers from 1e-30 to 1e+30, found nan",
    ),
    (
        "convergence",
        ["--scales", "0"],
        "--scales: expected numbers from 1e-30 to 1e+30, found 0.0",
    ),
    ("convergence", ["--scales", "1", "1"], "--scales: expected different numbers"),
    ("convergence", ["--scales"], "--scales: expected at least one number, found none"),
    (
        "convergence",
        ["--learning-rates", "-1"],
        "--learning-rates: expected numbers fr",
    ),
    ("convergence", ["--learning-rates", "inf"], "--learning-rates: expected numbers "),
    ("convergence", ["--seeds", "0"], "--seeds: expected a whole number from 1 to"),
    (
        "convergence",
        ["--epochs", "-3"],
        "--epochs: expected a whole number from 1 to",
    ),
    ("convergence", ["--depth", "0"], "--depth: expected a whole number from 1 to"),
    ("convergence", ["--width", "0"], "--width: expected a whole number from 1 to"),
    (
        "convergence",
        ["--batch-size", "0"],
        "--batch-size: expected a whole number from",
    ),
    ("convergence", ["--batch-size", "50001"], "--batch-size: expected at most 50000"),
    (
        "shallow",
        ["--learning-rate", "nan"],
        "--learning-rate: expected numbers from",
    ),
    ("shallow", ["--seed", "4294967296"], "--seed: expected a whole number from 0 to"),
    ("shallow", ["--seed", "-1"], "--seed: expected a whole number from 0 to"),
    ("gradients", ["--scales", "-0.1"], "--scales: expected numbers from 1e-06"),
    ("convergence", ["--scales", "1e300"], "--scales: expected numbers from 1e-30 to"),
    ("convergence", ["--scales", "1", "1.00000001"], "--scales: expected different n"),
    ("convergence", ["--width", "1000000000"], "--width: expected a whole number from"),
    (
        "convergence",
        ["--seeds", "99999999999999999999"],
        "--seeds: expected a whole nu",
    ),
    (
        "convergence",
        ["--seeds", "1.5"],
        "Error parsing --seeds: invalid literal for in",
    ),
    (
        "convergence",
        ["--scales", "abc"],
        "Error parsing --scales: Could not find valid",
    ),
    ("shallow", ["--seedz", "3"], "Unrecognized options: --seedz, 3 Perhaps you meant"),
    (
        "shallow",
        ["--gradient", "magic"],
        "invalid choice 'magic' for argument '--gradi",
    ),
    ("gradients", ["--batch-size", "0"], "--batch-size: expected a whole number"),
    ("remedies", ["--depth", "0"], "--depth: expected numbers from 1 to 200"),
    (
        "remedies",
        ["--only", "tanh, Adam", "--recipe-epochs", "0"],
        "--only: expected a remedy for 5 layers that --recipe-epochs does not leave",
    ),
    ("remedies", ["--only", "prayer"], "--only: expected one of none, init scale 1"),
    ("published", ["--seeds", "1"], "--seeds: expected at least 2, found 1"),
    ("published", ["--networks", "99"], "--networks: expected at least 100, found 99"),
    (
        "published",
        ["--only", "lecun-slow"],
        "--only: expected all that a row needs, found lecun-slow",
    ),
    ("published", ["--only", "magic"], "--only: expected one of no-training, norms-2"),
]


@pytest.mark.parametrize(("script", "flags", "message"), BAD_FLAGS)
def test_bad_flags(
    script: str,
    flags: list[str],
    message: str,
    tmp_path: Path,
    run_here: Callable[..., Done],
) -> None:
    out = [] if script in WITHOUT_OUT else ["--out", str(tmp_path / "run")]
    done = run_here(script, *flags, *out)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line]
    assert error.startswith(f"error: {message}")


@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - WITHOUT_DATA))
def test_bad_data(script: str, tmp_path: Path, run_here: Callable[..., Done]) -> None:
    """One line, no traceback, and what was in the folder is still there."""
    data = tmp_path / "mnist.pkl.gz"
    data.write_text("<html>404</html>")
    out = tmp_path / "run"
    out.mkdir()
    (out / "results.nc").write_text("precious")
    flags = [] if script in WITHOUT_OUT else ["--out", str(out)]
    done = run_here(script, "--data", str(data), *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {data}: expected ")
    assert done.stderr.count("\n") == 1
    assert (out / "results.nc").read_text() == "precious"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("convergence", "--out", str(tmp_path / "file" / "run"))
    assert done.returncode == 2
    assert "--out: expected a folder to write to" in done.stderr
    assert "training" not in done.stderr  # before the work, not after it


def of_classes(count: int, side: int = 8, per_class: int = 24) -> dict[str, Any]:
    """A class an image, with noise; in turn, so that the last sixth is like all."""
    rng = np.random.default_rng(count)
    y = np.arange(count * per_class) % count
    x = rng.integers(0, 200, (count, side, side))[y] + rng.integers(0, 56, (side, side))
    noise = rng.integers(-20, 20, x.shape)
    x = np.clip(x + noise, 0, 255).astype(np.uint8)
    return {"images": x, "labels": y}


def other_data() -> dict[str, dict[str, Any]]:
    """Data of every kind that is not MNIST."""
    ten = of_classes(10)
    rng = np.random.default_rng(0)
    x, y = ten["images"], ten["labels"]
    train, test = {"train_images": x, "train_labels": y}, {"test_images": x[:60]}
    test["test_labels"] = y[:60]
    valid = {"val_images": x[:50], "val_labels": y[:50] % 9}
    return {
        "26 classes of 8 x 8": of_classes(26),
        "2 classes": of_classes(2),
        "3 classes": of_classes(3),
        "47 classes": of_classes(47),
        "32 x 32": of_classes(10, side=32),
        "no class 9 to validate": train | valid | test,
        "all the same": ten | {"images": np.full_like(ten["images"], 7 * 36)},
        "labels of noise": ten | {"labels": rng.permutation(ten["labels"])},
        "twenty images": of_classes(4, per_class=5),
    }  # fmt: skip


DATA = [
    pytest.param(name, marks=[] if i == 0 else pytest.mark.full)
    for i, name in enumerate(other_data())
]


@pytest.mark.parametrize("name", DATA)
def test_other_data(name: str, tmp_path: Path, run_here: Callable[..., Done]) -> None:
    """To the end, with a page, in words that fit; what was read is stored."""
    file, out = tmp_path / "data.npz", tmp_path / "run"
    np.savez(file, **other_data()[name])
    few = ["--batch-size", "2", "--epochs", "2", "--data", str(file)]
    more = ["--scales", "1", "--learning-rates", "1", "--seeds", "1", "--depth", "2"]
    done = run_here("convergence", *few, *more, "--no-depth-study", "--out", str(out))
    assert done.returncode == 0, done.stderr
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "digit" not in done.stdout + page
    said = next(line for line in done.stdout.splitlines() if "divided by 255" in line)
    stored = json.loads((out / "settings.json").read_text())["settings"]
    assert stored["what was read"] in said
    assert ("all images are the same" in done.stdout) == (name == "all the same")
    done = run_here("shallow", *few, "--out", str(tmp_path / "shallow"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^test accuracy: ", done.stdout, re.MULTILINE)


# By what goes wrong: flags, data, what is said and what must not be.
PATHOLOGICAL: dict[str, tuple[list[str], str, tuple[str, ...], tuple[str, ...]]] = {
    "rate too small": (
        ["--scales", "1", "3", "--learning-rates", "1e-5"], "32 x 32",
        ("move too little", "a larger learning rate"),
        ("diverged", "is that of one constant prediction", "a smaller learning rate"),
    ),
    "rate too small, at the plateau": (
        ["--scales", "0.1", "--learning-rates", "1e-5"], "32 x 32",
        ("class-prior plateau",), ("diverged", "a smaller learning rate"),
    ),
    "stopped": (
        ["--scales", "1", "--learning-rates", "1e30", "1e-5", "--stop"], "32 x 32",
        ("4 of 4 networks were stopped", "2 diverged, 2 forecast beyond the run"),
        ("converged", "saturated at", "Yes at"),
    ),
    "rate too large": (
        ["--scales", "1", "--learning-rates", "1e30"], "32 x 32",
        ("diverged", "a smaller learning rate"), ("saturated at", "Yes at"),
    ),
    "all black": (
        ["--scales", "0.1", "1", "--learning-rates", "1"], "all the same",
        ("The data: no network can tell",),
        ("a larger init scale", "Nothing is lost", "Change one number"),
    ),
    "labels of noise": (
        ["--scales", "0.1", "--learning-rates", "1"], "labels of noise",
        ("the labels have little to do with the images",), ("Yes at",),
    ),
    "overfitting": (
        ["--scales", "1", "--learning-rates", "2", "--epochs", "60", "--depth", "1",
         "--width", "60"], "labels of noise",
        ("learn the training images by heart", "stop at its best epoch"),
        ("Yes at", "smaller learning rate", "steps were too large"),
    ),
    "one unit a layer": (
        ["--scales", "0.3", "--learning-rates", "1", "--width", "1"], "3 classes",
        ("class-prior plateau",), ("Yes at", "diverged"),
    ),
    "depth 40": (
        ["--scales", "0.1", "--learning-rates", "1", "--depth", "40"], "3 classes",
        ("class-prior plateau", "is lost"), ("Nothing is lost", "Yes at"),
    ),
    "depth 100": (
        ["--scales", "0.1", "--learning-rates", "1", "--depth", "100", "--seeds", "1"],
        "3 classes", ("class-prior plateau", "is lost"), ("Nothing is lost", "Yes at"),
    ),
    "ReLU at a large rate": (
        ["--scales", "1", "--learning-rates", "30", "--activation", "relu"],
        "3 classes", (), ("Yes at",),
    ),
    "no images of class 9 to watch": (
        ["--scales", "1", "--learning-rates", "0.5", "--epochs", "20", "--depth", "1"],
        "no class 9 to validate", ("Yes at",), ("diverged",),
    ),
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_pathological_runs(
    name: str, tmp_path: Path, run_here: Callable[..., Done]
) -> None:
    """What is said is true, and what is not true is not said."""
    flags, data, said, not_said = PATHOLOGICAL[name]
    np.savez(tmp_path / "data.npz", **other_data()[data])
    done = run_here(
        "convergence",
        *("--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run")),
        *("--seeds", "2", "--epochs", "4", "--batch-size", "4", "--no-depth-study"),
        *flags,
    )
    assert done.returncode == 0, done.stderr
    answer = " ".join(done.stdout.split("Is it converging?")[1].split())
    assert "nan" not in answer
    for words in said:
        assert words in answer
    for words in not_said:
        assert words not in answer

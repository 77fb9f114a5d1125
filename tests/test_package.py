"""The package's shape: who imports whom, what is documented, what is never used."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import snn_jax

PACKAGE = Path(snn_jax.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

# Data goes down this list and never back up.
MAY_IMPORT: dict[str, set[str]] = {
    "mnist": set(),
    "networks": set(),
    "losses": {"networks"},
    "shallow": {"networks"},
    "backprop": {"networks", "losses"},
    "signals": {"networks", "backprop"},
    "training": {"mnist", "networks", "losses", "signals"},
    "gradcheck": {"networks", "losses", "backprop", "training"},
    "vectorized": {"mnist", "networks", "training"},
    "ensemble": {"mnist", "networks", "losses", "signals", "training", "vectorized"},
    "sweep": {"mnist", "networks", "losses", "signals", "training", "ensemble"},
    "runs": {"mnist", "sweep"},
    "cluster": {"mnist", "runs", "sweep"},
    "meanfield": {"networks"},
    "diagnosis": set(),
    "answer": {"diagnosis"},
    "remedies": {
        "mnist",
        "networks",
        "losses",
        "training",
        "ensemble",
        "meanfield",
        "diagnosis",
    },
    "figures": set(),
    "report": {"figures", "runs"},
}


def imported(module: str) -> set[str]:
    """Names that a module of the package imports, as top.second."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return names


def test_every_module_has_a_place() -> None:
    assert set(MAY_IMPORT) == set(MODULES)
    listed = snn_jax.__doc__ or ""
    assert all(f"    {module} " in listed for module in MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_import_table(module: str) -> None:
    names = imported(module)
    inside = {
        name.split(".")[1] for name in names if name.startswith("snn_jax.")
    } & set(MODULES)
    assert inside == MAY_IMPORT[module]
    assert not {name.split(".")[0] for name in names} & {"experiments", "tests"}


def test_data_are_read_with_numpy_alone() -> None:
    assert not any(name.startswith("jax") for name in imported("mnist"))


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_are_documented(module: str) -> None:
    """Each says what it does; the arguments it lists are the arguments it has."""
    found = importlib.import_module(f"snn_jax.{module}")
    for name, thing in vars(found).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != found.__name__:
            continue
        if not (inspect.isfunction(thing) or inspect.isclass(thing)):
            continue
        doc = inspect.getdoc(thing)
        assert doc, f"{module}.{name} has no docstring"
        if inspect.isfunction(thing) and "\nArgs:\n" in doc:
            section = doc.split("\nArgs:\n")[1].split("\n\n")[0]
            documented = [
                line.strip().split(":")[0]
                for line in section.splitlines()
                if line.startswith("    ") and line[4] != " "
            ]
            assert documented == list(inspect.signature(thing).parameters), name


@pytest.mark.parametrize("module", MODULES)
def test_nothing_executes_what_it_reads(module: str) -> None:
    """No eval, no exec, no shell, no unrestricted pickle."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {
                "eval", "exec", "os.system", "pickle.load", "pickle.loads", "np.load"
            }  # fmt: skip
            assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords)
        if isinstance(node, ast.Import):
            assert "subprocess" not in {alias.name for alias in node.names}

"""The package's shape: who imports whom, what is documented, what is never used."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import snn_jax

PACKAGE = Path(snn_jax.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)

# Data goes down this list and never back up.
MAY_IMPORT: dict[str, set[str]] = {
    "datasets": set(),
    "_pickles": set(),
    "sources": set(),
    "tables": {"sources"},
    "containers": {"_pickles", "sources", "tables"},
    "mnist": {"containers", "datasets", "sources"},
    "activations": set(),
    "initializers": set(),
    "networks": {"activations", "initializers"},
    "losses": {"activations", "networks"},
    "gradients": {"losses", "networks"},
    "shallow": set(),
    "backprop": {"activations", "gradients", "losses", "networks"},
    "gradcheck": {"gradients", "networks"},
    "recipe": {"gradients", "losses", "networks"},
    "training": {"datasets", "gradients", "losses", "networks", "recipe"},
    "signals": {"activations", "backprop", "gradients", "losses", "networks"},
    "fast.layers": {"activations", "networks"},
    "fast.sgd": {"datasets", "fast.layers", "networks"},
    "fast.rules": {"datasets", "fast.layers", "networks"},
    "fast.evaluation": {"datasets", "fast.layers", "networks", "training"},
    "fast.alone": {"activations", "fast.layers", "gradients", "networks"},
    "fast": {
        *("activations", "datasets", "fast.alone", "fast.evaluation", "fast.layers"),
        *("fast.rules", "fast.sgd", "networks"),
    },
    "engines": {"datasets", "fast", "gradients", "losses", "networks", "recipe"},
    "devices": set(),
    "programs": {
        *("datasets", "devices", "engines", "fast", "gradients", "networks"),
        *("recipe", "signals", "training"),
    },
    "ensemble": {
        *("datasets", "devices", "engines", "fast", "networks", "programs"),
        *("recipe", "signals", "training"),
    },
    "axes": {"datasets", "recipe"},
    "results": {"axes", "datasets", "ensemble", "losses", "networks", "signals"},
    "pool": {
        *("datasets", "ensemble", "networks", "recipe", "results", "signals"),
        "training",
    },
    "sweep": {
        *("axes", "datasets", "ensemble", "networks", "pool", "recipe", "results"),
        "training",
    },
    "identity": {"datasets", "ensemble", "sweep"},
    "files": {"identity"},
    "store": {"files", "identity", "sweep"},
    "cluster": {"identity", "store", "sweep"},
    "meanfield": {"activations", "initializers", "networks"},
    "comparison": {
        *("activations", "devices", "diagnosis", "losses", "meanfield"),
        *("networks", "signals", "training"),
    },
    "plateau.clouds": {"losses"},
    "plateau.forces": {"networks", "plateau.clouds"},
    "plateau.integration": {"plateau.forces"},
    "plateau": {
        *("activations", "networks", "plateau.clouds", "plateau.forces"),
        "plateau.integration",
    },
    "plateau.labelled": {"diagnosis", "networks", "plateau", "training"},
    "plateau.figures": {"figures"},
    "forecast": set(),
    "curves": {"forecast"},
    "diagnosis": {"curves", "forecast"},
    "hindsight": {"curves", "diagnosis"},
    "stopping": {"datasets", "diagnosis", "engines", "losses", "plateau", "pool"},
    "remedies": {"activations", "datasets", "initializers", "meanfield", "networks"},
    "figures": set(),
    "report": {"figures", "files"},
    "student": set(),
    "student.source": set(),
    "student.modules": set(),
    "student.functions": {"student.modules", "student.source"},
    "student.process": {"student.functions", "student.source"},
    "review.mistakes": set(),
    "review.evidence": {"review.mistakes"},
    "review.fits": {"review.mistakes"},
    "review.costs": {"review.evidence", "review.fits", "review.mistakes"},
    "review.judge": {
        *("review.costs", "review.evidence", "review.fits", "review.mistakes"),
    },
    "review.feedback": {"review.evidence", "review.mistakes"},
    "review.conventions": {"review.mistakes"},
    "review.readings": {"review.conventions", "review.fits", "review.mistakes"},
    "review.calling": {
        *("review.conventions", "review.evidence", "review.mistakes"),
        *("review.readings", "student.functions"),
    },
    "review": {
        *("review.calling", "review.conventions", "review.evidence"),
        *("review.feedback", "review.judge", "review.mistakes", "student.functions"),
    },
}
# What a student's file does, it does in a process of its own.
EXECUTES = {"student.functions"}


def source_of(module: str) -> str:
    """The file of a module or package."""
    path = PACKAGE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def imported(module: str) -> set[str]:
    """Names that a module of the package imports, as top.second."""
    tree = ast.parse(source_of(module))
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
    for module in MODULES:
        package, _, name = module.rpartition(".")
        home = importlib.import_module(f"snn_jax.{package}" if package else "snn_jax")
        assert name.startswith("_") or f"    {name} " in str(home.__doc__)


@pytest.mark.parametrize("module", MODULES)
def test_import_table(module: str) -> None:
    names = imported(module)
    inside = {name.removeprefix("snn_jax.") for name in names} & set(MODULES)
    # A package whose module is imported is no import of its own.
    inside -= {name.split(".")[0] for name in inside if "." in name}
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
    tree = ast.parse(source_of(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {
                "eval", "os.system", "pickle.load", "pickle.loads", "np.load"
            }  # fmt: skip
            assert called != "exec" or module in EXECUTES
            pickles = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            assert all(ast.unparse(value) == "False" for value in pickles)
        if isinstance(node, ast.Import):
            assert "subprocess" not in {alias.name for alias in node.names}

"""Terminals, environments and folders as people have them: it works, or one line."""

import os
import subprocess
import sys
from pathlib import Path

import _command_line
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# A script that prints what the answers print, and writes where it is told.
SCRIPT = """\
import sys
sys.path.insert(0, EXPERIMENTS)
from dataclasses import dataclass
from pathlib import Path
import _command_line

@dataclass(frozen=True)
class Settings:
    out: Path = Path("run")
    def validate(self): pass

def main(settings):
    _command_line.make_folder(settings.out)
    for i in range(2000):
        print(f"11.3\\xa0% in {settings.out}", flush=i == 0)
    (settings.out / "done").write_text("")
    return 0

_command_line.run(main, Settings, "")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    text = SCRIPT.replace("EXPERIMENTS", repr(str(EXPERIMENTS)))
    path.write_text(text, encoding="utf-8")
    return path


def run(
    script: Path, out: str, *flags: str, shell: str = "", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """In its own folder; shell is what follows the command, such as a redirection."""
    command = [sys.executable, *flags, str(script), "--out", out]
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *command],
        cwd=script.parent,
        capture_output=True,
        check=False,
        env=os.environ | env,
    )


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp1252", "latin-1", "utf-8"])
def test_any_encoding(encoding: str, script: Path) -> None:
    """Letters that a terminal lacks are spelled; the space of 11.3 % is a space."""
    done = run(script, "\u00f6 \u4e2d", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)
    assert ("11.3\xa0%" if "\xa0".encode(encoding, "ignore") else "11.3 %") in shown
    assert ("\u00f6" if "\u00f6".encode(encoding, "ignore") else "\\xf6") in shown
    assert (script.parent / "\u00f6 \u4e2d" / "done").exists()


@pytest.mark.parametrize("shell", [">&-", "2>&-", "| head -1"])
def test_an_output_that_is_closed(shell: str, script: Path) -> None:
    """The work is done though nobody reads about it."""
    done = run(script, "run", shell=shell)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (script.parent / "run" / "done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_an_output_that_is_full(script: Path) -> None:
    done = run(script, "run", shell="> /dev/full")
    assert done.returncode == 2
    assert done.stderr == (
        b"error: standard output: expected room to print, found No space left on "
        b"device\n"
    )


@pytest.mark.parametrize("flags", [["-O"], ["-W", "error"], ["-I"]])
def test_flags_of_python(flags: list[str], script: Path) -> None:
    done = run(script, "run", *flags)
    assert (done.returncode, done.stderr) == (0, b"")


UNFIT = {
    "JAX_NUM_CPU_DEVICES": ("0", "abc", "-1", "1.5", ""),
    "JAX_DISABLE_JIT": ("1", "true"),
    "JAX_DEBUG_NANS": ("True",),
    "JAX_NUMPY_DTYPE_PROMOTION": ("strict",),
    "JAX_TRANSFER_GUARD": ("disallow",),
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": ("log",),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in UNFIT for v in UNFIT[n]])
def test_settings_of_jax(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would end in a traceback is said in a line that names it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(_command_line.SettingError, match=f"^{name}: expected .* found"):
        _command_line.check_environment()
    harmless = {"JAX_NUM_CPU_DEVICES": "2", "JAX_NUMPY_DTYPE_PROMOTION": "standard"}
    monkeypatch.setenv(name, harmless.get(name, "0"))
    _command_line.check_environment()


# Whole scripts, with what is around them.
SURROUNDINGS: dict[str, tuple[dict[str, str], list[str], str]] = {
    "ASCII": ({"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}, [], ""),
    "GBK": ({"PYTHONIOENCODING": "gbk"}, [], ""),
    "cp1252": ({"PYTHONIOENCODING": "cp1252"}, [], ""),
    "dumb terminal": ({"TERM": "dumb"}, [], ""),
    "no home": ({"HOME": "/nonexistent"}, [], ""),
    "closed": ({}, [], ">&-"),
    "head": ({}, [], "| head -1"),
    "optimized": ({}, ["-O"], ""),
    "warnings": ({}, ["-W", "error"], ""),
    "isolated": ({}, ["-I"], ""),
    "double precision": ({"JAX_ENABLE_X64": "1"}, [], ""),
}
QUICKLY = {
    "convergence": ["--scales", "1", "--learning-rates", "1", "--seeds", "1",
                    "--epochs", "1", "--batch-size", "500", "--depth", "1",
                    "--no-depth-study"],
    "shallow": ["--epochs", "1", "--batch-size", "500"],
    "remedies": ["--only", "none", "--seeds", "1", "--recipe-epochs", "0",
                 "--batch-size", "500"],
    "published": ["--only", "no-training", "--seeds", "2", "--networks", "100"],
    "gradients": ["--scales", "1", "--batch-size", "1"],
    "assignment": [],
    "review": [str(Path(__file__).parent / "data" / "solution.py"), "--page"],
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("name", QUICKLY)
def test_a_script_in_its_surroundings(around: str, name: str, tmp_path: Path) -> None:
    """From another folder, into one with a space and an umlaut."""
    env, flags, shell = SURROUNDINGS[around]
    out = [] if name == "gradients" else ["--out", "o \u00e4"]
    script = str(EXPERIMENTS / f"{name}.py")
    command = [sys.executable, *flags, script, *QUICKLY[name], *out]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *command],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env=os.environ | env,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert b"Traceback" not in done.stderr
    assert not out or list((tmp_path / "o \u00e4").iterdir())

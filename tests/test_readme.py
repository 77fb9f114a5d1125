"""The README's library example runs as written."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_library_example(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    gradients, stuck, cured = capsys.readouterr().out.splitlines()
    assert "'W6'" in gradients
    assert float(stuck.split()[-1]) < 0.12  # the share of one digit
    assert 0.9 < float(cured.split()[-1]) < 0.95


def test_exactly_two_commands() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)


def test_every_module_and_script_is_named() -> None:
    root = Path(__file__).parents[1]
    for path in [*root.glob("snn_jax/[a-z]*.py"), *root.glob("experiments/[a-z]*.py")]:
        assert path.name in README

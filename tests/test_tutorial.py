"""What the tutorial shows: it is executed once, in ``test_experiments.py``."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "tutorial.py"
# The smallest notebook of the same form: a command line, then a cell that fails.
FAILING = """\
# %% tags=["command-line"]
if "get_ipython" not in globals():
    import _render

    _render.run(__file__, "Fails.")

# %% [markdown]
# # A notebook
#
# ## The part that fails

# %%
assert 1 + 1 == 3, "no"
"""


class _Addresses(HTMLParser):
    """Collects the attributes by which a page can load something."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [
            str(value)
            for name, value in attrs
            if name in {"src", "srcset", "data", "poster", "xlink:href"}
            or (name == "href" and tag != "a")
        ]


def check(printed: str, out: Path) -> None:
    """Of a folder written by the script: the notebook, the page and their claims."""
    assert "tutorial.html" in printed
    notebook = jupytext.read(out / "tutorial.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream", "display_data", "execute_result"
    }  # fmt: skip
    streams = [output for output in outputs if output.output_type == "stream"]
    # Nothing warns.
    assert [output.text for output in streams if output.name == "stderr"] == []
    pictures = [
        output
        for output in outputs
        if output.output_type != "stream" and "image/svg+xml" in output.data
    ]
    assert len(pictures) == 13

    said = "".join(output.text for output in streams)
    shallow, deep, *_ = map(float, re.findall(r"test accuracy: +(\d+\.\d\d) %", said))
    assert 94 < shallow < 97
    assert 9 < deep < 12

    page = (out / "tutorial.html").read_text(encoding="utf-8")
    addresses = _Addresses()
    addresses.feed(page)
    assert all(address.startswith("data:") for address in addresses.loaded)
    assert len(addresses.loaded) == len(pictures) + 1  # and the icon
    assert not addresses.tags & {"script", "iframe"}
    assert not re.search(r"@import|url\(", page)
    formulas = sum(
        cell.source.count("$$") // 2
        for cell in notebook.cells
        if cell.cell_type == "markdown"
    )
    assert page.count('display="block"') == formulas > 10
    visible = re.sub("(?s)<(style|pre|math).*?</\\1>", "", page)
    assert "$" not in visible  # no formula was left as it was written
    assert "command-line" not in page  # nor the cell that is not for readers


def test_every_number_in_the_text_is_computed() -> None:
    """Decimal fractions and percentages in the words are settings, not findings."""
    words = " ".join(
        cell.source
        for cell in jupytext.read(SCRIPT).cells
        if cell.cell_type == "markdown"
    )
    found = set(re.findall(r"\d+\.\d+|\d+(?= %)", re.sub(r"`.*?`", "", words)))
    # Init scales, the largest float, what one in ten is, and what counts as saturated.
    assert found <= {"0.1", "3.4", "10", "0.01", "0.001", "0.5"}


def test_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A space in ln p, none in exp(z), none inside an exponent; primes raised once."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from _render import as_mathml

    space = '<mspace width="0.17em" />'
    assert f"<mi>ln</mi>{space}<mi>p</mi>" in as_mathml(r"\ln p")
    assert space not in as_mathml(r"\exp(z) + \ln(p)")
    assert "<msup><mi>tanh</mi><mn>2</mn></msup>" in as_mathml(r"\tanh^2")
    assert "<msup>" not in as_mathml(r"\sigma'(z)")
    assert 'display="block"' in as_mathml("x", "block")


def test_a_failing_cell_is_named(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parent)},
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (
        'error: cell 2 under "The part that fails" (assert 1 + 1 == 3, "no"): '
        "AssertionError: no"
    )
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run").iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """One line that says what to install, and code 2."""
    code = (
        "import importlib.util as util, sys\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"sys.argv = ['tutorial.py', '--out', {str(tmp_path / 'run')!r}]\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda n, *a: None if n == 'jupytext' else find(n, *a)\n"
        "import _render\n"
        f"_render.run({str(SCRIPT)!r}, '')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: jupytext: expected it to be installed "
        '(pip install -e ".[tutorial]"), found nothing of that name\n'
    )
    assert not (tmp_path / "run").exists()

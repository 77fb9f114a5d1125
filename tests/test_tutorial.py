"""What the tutorial shows: it is executed once, in ``test_experiments.py``."""

import importlib.util as util
import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import jupytext
import optax
import pytest
import tutorial

from snn_jax import initializers, meanfield, networks, shallow

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# A small notebook with a cell that fails.
FAILING = """\
# A notebook

## The part before it

## The part that fails

```python
assert 1 + 1 == 3, "no"
```
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
    assert len(pictures) == 14

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


def test_every_number_in_the_text_is_computed() -> None:
    """Decimal fractions and percentages in the words are settings, not findings."""
    words = " ".join(
        cell.source
        for cell in jupytext.read(tutorial.TEXT).cells
        if cell.cell_type == "markdown"
    )
    found = set(re.findall(r"\d+\.\d+|\d+(?= %)", re.sub(r"`.*?`", "", words)))
    # Init scales, the largest float, what one in ten is, and what counts as saturated.
    assert found <= {"0.1", "3.4", "10", "0.01", "0.001", "0.5"}


def test_names_in_the_text_exist() -> None:
    """A pointer of an exercise leads somewhere: to a function, or to a file."""
    known = {"jax": jax, "jnp": jax.numpy, "optax": optax, "DEEP": networks.DEEP}
    known |= {m.__name__.split(".")[1]: m for m in (initializers, meanfield, shallow)}
    cells = jupytext.read(tutorial.TEXT).cells
    words = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = " ".join(re.findall("`(.*?)`", words))
    names = set(re.findall(r"[a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)+", code))
    assert {"optax.adam", "meanfield.critical_sigma_w", "shallow.py"} < names
    for name in names:
        if name.endswith(".py"):
            assert list(EXPERIMENTS.parent.glob(f"*/{name}")), name
        else:
            eval(name, known)


def test_formulas() -> None:
    """A space in ln p, none in exp(z), none inside an exponent; primes raised once."""
    as_mathml = tutorial.as_mathml
    space = '<mspace width="0.17em" />'
    assert f"<mi>ln</mi>{space}<mi>p</mi>" in as_mathml(r"\ln p")
    assert space not in as_mathml(r"\exp(z) + \ln(p)")
    assert "<msup><mi>tanh</mi><mn>2</mn></msup>" in as_mathml(r"\tanh^2")
    assert "<msup>" not in as_mathml(r"\sigma'(z)")
    assert 'display="block"' in as_mathml("x", "block")


def test_a_failing_cell_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "failing.md"
    text.write_text(FAILING)
    out = tmp_path / "run"
    assert tutorial.main(tutorial.Settings(out=out), text) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        'error: cell 2 under "The part that fails" (assert 1 + 1 == 3, "no"): '
        "AssertionError: no"
    )
    assert list(out.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install."""
    find = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda n: None if n == "jupytext" else find(n)
    )
    with pytest.raises(ValueError, match=r'jupytext: expected .* -e "\.\[tutorial\]"'):
        tutorial.Settings().validate()

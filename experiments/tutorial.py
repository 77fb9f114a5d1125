"""The assignment, answered in order: a notebook as a text.

    python experiments/tutorial.py            about 60 s: runs/tutorial/tutorial.html

Builds the two-layer network, derives its gradients by hand and checks each one, trains
it; then asks why the deep network does not learn, and makes it learn. The text
with its code is words/tutorial.md, which Jupyter opens as a notebook (with jupytext).
The command executes it and writes it, with all that it found, as .ipynb and as a page
that stands alone: figures are in it as SVG, formulas as MathML, and it loads nothing.
It speaks of MNIST: with other data a claim may fail, and the command says which.
"""

import base64
import html
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line

if TYPE_CHECKING:
    from nbformat import NotebookNode

# The cell that --data changes.
PARAMETERS = "parameters"
TEXT = Path(__file__).parent / "words" / "tutorial.md"
PACKAGES = "ipykernel", "jupytext", "latex2mathml", "mistune", "nbclient", "pygments"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    data: command_line.DataPath = None
    out: Path = Path("runs/tutorial")
    """Folder for the notebook and the page."""

    def validate(self) -> None:
        """Raises SettingError if a package is missing."""
        for package in PACKAGES:
            found = importlib.util.find_spec(package) is not None
            expected = 'it to be installed (pip install -e ".[tutorial]")'
            command_line.expect(found, package, expected, "nothing of that name")


def main(settings: Settings, text: Path = TEXT) -> int:
    """Writes <name>.ipynb and <name>.html; returns 1 if a cell fails."""
    command_line.make_folder(settings.out)
    import jupytext

    notebook = jupytext.read(text)
    if settings.data is not None:
        from snn_jax import mnist

        mnist.load(settings.data)  # bad data are refused now, not minutes later
        (parameters,) = (
            c for c in notebook.cells if PARAMETERS in c.metadata.get("tags", [])
        )
        parameters.source = f"DATA = {str(settings.data.resolve())!r}"

    if failure := execute(notebook):
        print(f"error: {failure}", file=sys.stderr)
        return 1
    from snn_jax import files  # not before: it takes jax along

    for suffix, content in (
        (".ipynb", jupytext.writes(notebook, fmt="ipynb")),
        (".html", page(notebook)),
    ):
        files.write(settings.out / (text.stem + suffix), content.encode())
    print(f"To read: {settings.out / text.stem}.html. To change: .ipynb beside it.")
    return 0


def execute(notebook: "NotebookNode") -> str | None:
    """Runs all cells in a new kernel of this Python; says which cell failed, if any."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from tqdm import tqdm

    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    client = NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        coalesce_streams=True,
        # Else it warns that messages between two processes here are not encrypted, and
        # of being stopped by Ctrl-C.
        extra_arguments=["--log-level=CRITICAL"],
    )
    # Without folders to look in, "python3" is ipykernel's own: this very Python, and
    # not what some other installation has registered under that name.
    client.km = AsyncKernelManager(
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )
    heading = ""
    with (
        client.setup_kernel(),
        tqdm(total=len(notebook.cells), desc="executing", unit="cell") as bar,
    ):
        for number, cell in enumerate(notebook.cells):
            *_, heading = heading, *_headings(cell.source)
            try:
                client.execute_cell(cell, number)
            except (CellExecutionError, DeadKernelError) as error:
                what = [getattr(error, name, "") for name in ("ename", "evalue")]
                said = ": ".join(filter(None, what)) or "the kernel died"
                first_line = cell.source.splitlines()[0]
                return (
                    f'cell {number + 1} under "{heading}" ({first_line}): '
                    f"{' '.join(said.split())[:200]}"
                )
            bar.update()
    return None


def _headings(markdown: str) -> Iterator[str]:
    return (line.lstrip("# ") for line in markdown.splitlines() if line[:2] == "##")


def as_mathml(latex: str, display: Literal["inline", "block"] = "inline") -> str:
    """A formula that browsers draw by themselves, set a little more like in a book."""
    from latex2mathml.converter import convert

    mathml: str = convert(latex, display=display)
    # A prime stands raised in the font already, and would be raised twice.
    mathml = re.sub(
        "<msup>(<mi>[^<]*</mi>)<mi>(&#x02032;)</mi></msup>",
        r'\1<mo lspace="0" rspace="0">\2</mo>',
        mathml,
    )
    mathml = mathml.replace("<mo>/</mo>", '<mo lspace="0" rspace="0">/</mo>')
    # ln p, but exp(z).
    return re.sub(
        "(?<!<msup>)(<mi>(?:ln|tanh)</mi>)(?=<mi>|<msub>|<mfrac>)",
        r'\1<mspace width="0.17em" />',
        mathml,
    )


def page(notebook: "NotebookNode") -> str:
    """The executed notebook as HTML that loads nothing from anywhere."""
    import jinja2
    import mistune
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    contents: list[tuple[str, str]] = []

    class Renderer(mistune.HTMLRenderer):
        """Formulas as MathML, tables that scroll, headings that can be linked to."""

        def inline_math(self, text: str) -> str:
            return as_mathml(text)

        def block_math(self, text: str) -> str:
            return f'<div class="scroll">{as_mathml(text, "block")}</div>\n'

        def heading(self, text: str, level: int, **attrs: Any) -> str:
            name = re.sub(r"\W+", "-", re.sub("<.*?>", "", text).lower()).strip("-")
            if level == 2:
                contents.append((name, text))
            return super().heading(text, level, **attrs | {"id": name})

    to_html = mistune.create_markdown(
        renderer=Renderer(escape=True), plugins=["math", "table"]
    )
    formatter = HtmlFormatter(style="friendly", cssclass="code scroll")

    def shown(output: "NotebookNode") -> str:
        if output.output_type == "stream":
            return f'<pre class="said">{html.escape(output.text)}</pre>'
        if svg := output.data.get("image/svg+xml"):
            data = base64.b64encode(svg.encode()).decode()
            alt = html.escape(re.sub("<.*?>", "", contents[-1][1]))
            return f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'
        return f'<pre class="said">{html.escape(output.data["text/plain"])}</pre>'

    cells: list[dict[str, Any]] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cells.append({"text": to_html(cell.source)})
            continue
        cells.append(
            {
                "code": highlight(cell.source, PythonLexer(), formatter),
                "folded": cell.metadata.get("jupyter", {}).get("source_hidden", False),
                "outputs": [shown(output) for output in cell.outputs],
            }
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined
    )
    first_line = notebook.cells[0].source.splitlines()[0]
    return environment.get_template("_page.html.j2").render(
        title=html.escape(first_line.lstrip("# ")),
        contents=contents,
        cells=cells,
        code_style=formatter.get_style_defs(".code"),
    )


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__)

"""Words for people: templates beside the scripts, and how numbers are said.

A template (``words/*.md.j2``, Jinja) is a text in blocks. A block begins with a line
``## ...``, paragraphs are separated by empty lines, and what is said depends on the
numbers it is given. Of a block for the page, the line is ``## name: Title``; a
paragraph that begins with ``Figure:`` is the caption of the figure of that name, one
that begins with ``Redraw:`` the line of Python that draws it again, one that begins
with ``Choose:`` the line that says that parts of it can be chosen.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snn_jax.report import Detail, Section

TEMPLATES = Path(__file__).parent / "words"


def number(value: Any) -> str:
    """A number as one says it: two digits, without a needless exponent.

    >>> [number(value) for value in (0.0000021, 0.0123, 1.0, 2.345, 40.0)]
    ['2.1e-06', '0.012', '1', '2.3', '40']
    """
    return f"{float(value):.2g}"


def listed(values: Sequence[Any]) -> str:
    """Several numbers or words as one says them.

    >>> listed([0.01, 0.1, 1.0]), listed(["LSUV", "tanh"]), listed([])
    ('0.01, 0.1 and 1', 'LSUV and tanh', 'none of them')
    """
    words = [v if isinstance(v, str) else f"{float(v):g}" for v in values]
    if not words:
        return "none of them"
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def percent(fraction: Any) -> str:
    r"""A fraction in per cent, to a tenth; of a diverged network a dash.

    >>> percent(0.1135), percent(float("nan"))
    ('11.3\xa0%', '-')
    """
    # A space at which no line is broken.
    return f"{100 * float(fraction):.1f}\xa0%" if np.isfinite(fraction) else "-"


def counted(count: int, noun: str) -> str:
    """How many, in grammar.

    >>> counted(1, "network"), counted(2, "epoch")
    ('1 network', '2 epochs')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _blocks(
    template: str, values: Mapping[str, Any]
) -> Iterator[tuple[str, list[str]]]:
    """The rendered blocks of a template: what stands behind ``##``, and paragraphs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "listed": listed}
    environment.globals |= {"counted": counted}
    text = environment.get_template(template).render(values)
    for block in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        head, _, rest = block.partition("\n")
        # Not split(): that takes the space at which no line is broken.
        paragraphs = [re.sub(r"[ \n]+", " ", p).strip(" ") for p in rest.split("\n\n")]
        yield head.strip(), [p for p in paragraphs if p.strip()]


def answers(template: str, **values: Any) -> dict[str, list[str]]:
    """Questions with the paragraphs that answer them."""
    return dict(_blocks(template, values))


def sections(
    template: str,
    figures: "Mapping[str, Figure | None]",
    tables: Mapping[str, Sequence[Sequence[str]]],
    details: "Mapping[str, Mapping[str, Detail]] | None" = None,
    **values: Any,
) -> "list[Section]":
    """The sections of a page, with the figures, tables and details of their names.

    The template sees figures and tables, and may leave out what is not there: ``{% if
    "map" in figures %}``.
    """
    from snn_jax.report import Section

    found = []
    there = {"figures": figures, "tables": tables}
    for head, paragraphs in _blocks(template, there | values):
        name, _, title = head.partition(": ")
        special = {"Figure: ": "", "Redraw: ": "", "Choose: ": ""}
        text = []
        for paragraph in paragraphs:
            kind = next((kind for kind in special if paragraph.startswith(kind)), None)
            if kind is None:
                text.append(paragraph)
            else:
                special[kind] = paragraph.removeprefix(kind)
        found.append(
            Section(
                name,
                title,
                text,
                figures.get(name),
                special["Figure: "],
                special["Redraw: "],
                tables.get(name, ()),
                (details or {}).get(name, {}),
                special["Choose: "],
            )
        )
    return found

"""One self-contained page with the answer, the figures and the tables of a study."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure

from snn_jax import figures, files


class Section(NamedTuple):
    """A part of the page: words, then a figure with its caption, then a table.

    Attributes:
        name: identifier in the page, and of the figure's file.
        title: heading.
        text: paragraphs.
        figure: drawn into the page as SVG.
        caption: what to see in it, and of how many networks it is.
        redraw: a line of Python that draws it again.
        table: rows of cells, the first being the head.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    figure: Figure | None = None
    caption: str = ""
    redraw: str = ""
    table: Sequence[Sequence[str]] = ()


def _inline(figure: Figure) -> str:
    """The figure's <svg> element, to be as wide as the page wants it."""
    element = figures.to_svg(figure)
    element = element[element.index("<svg") :]
    head, body = element.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return f'{head} role="img">{body}'


def render(
    title: str,
    subtitle: str,
    answer: Mapping[str, Sequence[str]],
    sections: Sequence[Section],
    made_with: Mapping[str, str],
) -> str:
    """The page, as HTML that loads nothing from anywhere.

    Args:
        title: of the page.
        subtitle: a line on what was run.
        answer: questions and the paragraphs that answer them, first on the page.
        sections: the rest of the page, in order.
        made_with: settings and versions, at its end.

    Raises:
        jinja2.UndefinedError: the template names something that is not given.

    >>> page = render("Why?", "", {"Is it?": ["No & never."]}, [], {})
    >>> "<p>No &amp; never.</p>" in page, "http" in page
    (True, False)
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("snn_jax", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    drawn = [
        section._asdict()
        | {"figure": _inline(section.figure) if section.figure else None}
        for section in sections
    ]
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        answer=answer,
        sections=drawn,
        made_with=made_with,
    )
    # Of a path whose bytes are no text in this locale.
    return page.encode("utf-8", "backslashreplace").decode()


def write(
    folder: Path,
    title: str,
    subtitle: str,
    answer: Mapping[str, Sequence[str]],
    sections: Sequence[Section],
    settings: Mapping[str, Any],
) -> Path:
    """Puts the page and its figures, each as an SVG of its own, into a run's folder.

    Args:
        folder: of the run; ``report.html`` and ``figures/*.svg`` in it are replaced.
        title: as for ``render``, like what follows.
        subtitle: a line on what was run.
        answer: questions and their answers.
        sections: the rest of the page.
        settings: what was asked for; versions and device are added.

    Returns:
        Where the page is.

    Raises:
        OSError: with the path and the reason.
    """
    for section in sections:
        if section.figure is not None:
            path = folder / "figures" / f"{section.name}.svg"
            with files.replacing(path) as file:
                file.write_text(figures.to_svg(section.figure), encoding="utf-8")
    made_with = {**settings, **files.environment()}
    words = {name: str(value) for name, value in made_with.items()}
    page = folder / "report.html"
    with files.replacing(page) as file:
        html = render(title, subtitle, answer, sections, words)
        file.write_text(html, encoding="utf-8")
    return page

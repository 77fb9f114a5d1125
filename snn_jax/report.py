"""One self-contained page with the answer, the figures and the tables of a study.

A part of a figure can be chosen by a visitor: a ``Detail`` says what is shown then. It
lies in the page as JSON and is drawn by ``report.js``; without scripts the figure is a
picture like any other.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
from matplotlib.figure import Figure

from snn_jax import figures, files

# Of the numbers of a chart, which are for looking at.
DIGITS = 4


class Lines(NamedTuple):
    """Lines of a chart that mean the same: a line a network, for example.

    Attributes:
        name: in the chart's legend.
        kind: how they are drawn; "hollow" and "full" are lines with dots, "mark" is a
            triangle at every point.
        x: places, the same for all of them.
        y: for each line a number a place; where one is NaN or infinite, the line has a
            gap.
    """

    name: str
    kind: Literal["line", "dashed", "hollow", "full", "mark"]
    x: Sequence[float]
    y: Sequence[Sequence[float]]


class Chart(NamedTuple):
    """Lines over two axes.

    Attributes:
        title: heading.
        x_label: of the axis from left to right.
        y_label: of the other.
        lines: one on the other.
        log: whether y is logarithmic; then only numbers above 0 are shown.
        limits: ends of y; by default the smallest and the largest number.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Lines]
    log: bool = False
    limits: tuple[float, float] | None = None


class Detail(NamedTuple):
    """What is shown when a part of a figure is chosen, and what the part is called.

    Attributes:
        title: heading; for a screen reader it is the name of the part.
        charts: next to each other where there is room.
        table: rows of cells, the first being the head.
    """

    title: str
    charts: Sequence[Chart] = ()
    table: Sequence[Sequence[str]] = ()


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
        details: what is shown when a part of the figure is chosen, by the part's id in
            the SVG (matplotlib: ``artist.set_gid``); the first is chosen in the
            beginning.
        choose: a line that says that there is something to choose.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    figure: Figure | None = None
    caption: str = ""
    redraw: str = ""
    table: Sequence[Sequence[str]] = ()
    details: Mapping[str, Detail] = {}
    choose: str = ""


def _inline(svg: str) -> str:
    """A figure's <svg> element, to be as wide as the page wants it."""
    element = svg[svg.index("<svg") :]
    head, body = element.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return f'{head} role="img">{body}'


def _rounded(value: float) -> float | int | None:
    """A number as JSON has it, None if it is not finite.

    >>> [_rounded(value) for value in (2.302585, 3.0, 1.23456e-9, float("nan"))]
    [2.303, 3, 1.235e-09, None]
    """
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e6 else short


def _drawable(chart: Chart) -> dict[str, Any]:
    """A chart in plain numbers, of which a logarithm shows only those above 0."""
    lowest = 0.0 if chart.log else -math.inf
    lines = [
        group._asdict()
        | {
            "x": [_rounded(float(x)) for x in group.x],
            "y": [
                [_rounded(float(y)) if y > lowest else None for y in line]
                for line in group.y
            ],
        }
        for group in chart.lines
    ]
    limits = [_rounded(float(end)) for end in chart.limits] if chart.limits else None
    return chart._asdict() | {"lines": lines, "limits": limits}


def _as_json(details: Mapping[str, Detail]) -> str:
    r"""Details by id, as JSON that can stand in a <script>, whatever its texts are.

    >>> _as_json({"a": Detail("</script>")})
    '[["a",{"title":"\\u003c/script>","charts":[],"table":[]}]]'
    """
    plain = [
        (name, detail._asdict() | {"charts": [_drawable(c) for c in detail.charts]})
        for name, detail in details.items()
    ]
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # in JSON there is none but in a string


def _check_ids(sections: Sequence[Section], pictures: Sequence[str]) -> None:
    """Raises ValueError unless all that can be chosen is there, and nowhere else."""
    everywhere = " ".join(pictures)
    for section, picture in zip(sections, pictures, strict=True):
        for name in section.details:
            id_ = f' id="{name}"'
            if not picture.count(id_) == everywhere.count(id_) == 1:
                raise ValueError(
                    f"details: expected {name} in {section.name}, once in all figures"
                )


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
        ValueError: details of what is not in the figure, or there twice.

    >>> page = render("Why?", "", {"Is it?": ["No & never."]}, [], {})
    >>> "<p>No &amp; never.</p>" in page, "http" in page
    (True, False)
    """
    return _rendered(title, subtitle, answer, sections, _drawn(sections), made_with)


def _drawn(sections: Sequence[Section]) -> list[str]:
    """The SVG of each section's figure, empty where there is none."""
    return [figures.to_svg(s.figure) if s.figure else "" for s in sections]


def _rendered(
    title: str,
    subtitle: str,
    answer: Mapping[str, Sequence[str]],
    sections: Sequence[Section],
    pictures: Sequence[str],
    made_with: Mapping[str, str],
) -> str:
    """``render`` of what is drawn already."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("snn_jax", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    drawn = [
        section._asdict()
        | {"figure": _inline(picture) if picture else None}
        | {"details": _as_json(section.details) if section.details else None}
        for section, picture in zip(sections, pictures, strict=True)
    ]
    _check_ids(sections, [section["figure"] or "" for section in drawn])
    script = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        answer=answer,
        sections=drawn,
        made_with=made_with,
        script=script,
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
        ValueError: as from ``render``.
    """
    pictures = _drawn(sections)
    for section, picture in zip(sections, pictures, strict=True):
        if picture:
            path = folder / "figures" / f"{section.name}.svg"
            with files.replacing(path) as file:
                file.write_text(picture, encoding="utf-8")
    made_with = {**settings, **files.environment()}
    words = {name: str(value) for name, value in made_with.items()}
    page = folder / "report.html"
    with files.replacing(page) as file:
        html = _rendered(title, subtitle, answer, sections, pictures, words)
        file.write_text(html, encoding="utf-8")
    return page

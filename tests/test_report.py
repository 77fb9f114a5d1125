"""The page is one file that loads nothing, and its words come from the numbers."""

import itertools
import json
import re
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import _answer
import _cells
import _words
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from snn_jax import diagnosis, figures, hindsight, report, results
from snn_jax.report import Chart, Detail, Lines, Section

SCALES, RATES, SEEDS, EPOCHS, LAYERS = [0.01, 1.0, 30.0], [0.1, 0.3], 2, 8, 5


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    """As of a sweep: small scales are stuck, middle ones learn, large ones saturate."""
    rng = np.random.default_rng(0)
    grid = (len(SCALES), len(RATES), SEEDS)
    dims = ("scale", "learning_rate", "seed", "epoch")

    def by_scale(values: list[float], *inner: int) -> np.ndarray:
        """A number a scale, for every network and epoch, not quite the same."""
        shape = (*grid, EPOCHS + 1, *inner)
        noise = rng.uniform(1, 1.01, shape)
        return np.reshape(values, (-1, *(1,) * (len(shape) - 1))) * noise

    epochs = np.arange(EPOCHS + 1)
    information = by_scale([0.0, 1.9, 0.1]) * (1 - np.exp(-epochs))
    found = xr.Dataset(
        {
            "label_information": (dims, information),
            "valid_loss": (dims, np.log(10) - information),
            "plateau_loss": np.log(10),
            "label_entropy": np.log(10),
            "test_class_frequency": ("class", np.linspace(0.09, 0.11, 10)),
        },
        {"scale": SCALES, "learning_rate": RATES, "seed": [0, 1], "epoch": epochs},
        {"activation": "sigmoid", "engine": "plain", "loss": "nll"},
    )
    accuracy = np.broadcast_to([0.1, 0.85, 0.2], (2, 2, 3)).T + rng.uniform(
        0, 0.05, grid
    )
    accuracy[0] = found.test_class_frequency[-1]
    found["test_accuracy"] = (dims[:3], accuracy)
    found["test_loss"] = found.valid_loss.isel(epoch=-1)
    for name, values in {
        "activation_spread": [1e-10, 0.2, 0.4],
        "saturation": [0.0, 0.1, 0.9],
        "dead": [0.0, 0.0, 0.3],
        "probe_accuracy": [0.4, 0.6, 0.2],
    }.items():
        found[name] = ((*dims, "hidden_layer"), by_scale(values, LAYERS - 1))
    down = np.array([1e-8, 1e-2, 3.0])[:, None] ** np.linspace(1, 0, LAYERS)
    found["weight_change"] = ((*dims, "layer"), by_scale([0.01] * 3, LAYERS))
    for name in ("gradient_rms", "gradient_median"):
        gradients = by_scale([1.0] * 3, LAYERS) * down[:, None, None, None]
        found[name] = ((*dims, "layer"), gradients)
    found["verdict"] = diagnosis.verdicts(found)
    return found.assign_coords(
        layer=np.arange(1, LAYERS + 1), hidden_layer=np.arange(1, LAYERS)
    )


# What the words are told of MNIST.
DATA = {
    "train": 50_000, "same": False, "largest": 1.0,
    "linear": 0.84, "commonest": 0.11, "readable": True,
}  # fmt: skip


def answer(result: xr.Dataset) -> dict[str, list[str]]:
    return _words.answers("convergence.md.j2", **_answer.facts(result, DATA))


def test_answer_counts_what_the_result_holds(result: xr.Dataset) -> None:
    words = answer(result)
    assert list(words) == ["Is it converging?", "Why?", "What's wrong?"]
    converging = " ".join(words["Is it converging?"])
    vanishing = int((result.verdict.sel(scale=0.01) == 3).sum())
    assert f"No at init scale 0.01: {vanishing} of 4 networks" in converging
    constant = "4 of all 4 networks at this scale is exactly the share of one digit"
    assert constant in converging
    learned = int((result.verdict.sel(scale=1.0) <= 1).sum())
    assert f"Yes at init scale 1: {learned} of 4 networks" in converging
    best = 100 * float(result.test_accuracy.median("seed").max())
    assert f"{best:.1f}\xa0%" in converging
    assert "Change one number: use 1 instead of" in " ".join(words["What's wrong?"])
    # First over last layer, as the gradients were made up.
    ratio = "1e-08 times as much as the last layer's; at scale 1 it is 0.01 times"
    assert ratio in " ".join(words["Why?"])


@pytest.mark.parametrize("verdict", diagnosis.NAMES)
def test_every_verdict_has_its_words(result: xr.Dataset, verdict: str) -> None:
    """A sweep in which all networks have one verdict: the answer names no other."""
    one = result.copy()
    one["verdict"] = xr.full_like(result.verdict, diagnosis.NAMES.index(verdict))
    words = answer(one)
    converging = " ".join(words["Is it converging?"])
    assert re.search("12 of (all )?12 networks", converging)
    starts = [start for start in ("No at", "Not yet", "Yes", "Slowly", "Hardly",
                                  "No longer")
              if start in converging]  # fmt: skip
    assert len(starts) == (0 if verdict == "diverged" else 1)
    wrong = " ".join(words["What's wrong?"])
    if verdict in ("converged", "learning"):
        assert "Nothing that these settings show" in wrong
    else:
        advice = diagnosis.BY_NAME[verdict].advice
        assert advice in wrong
        assert "Change one number" not in wrong
    for paragraph in itertools.chain.from_iterable(words.values()):
        # What is left out leaves no hole, and no sentence without its end.
        assert not re.search(r"  | [,.;:)]|\( |\.\.", paragraph)
        assert paragraph.endswith(".")


def test_tables(result: xr.Dataset) -> None:
    rows = _answer.outcome_table(result)
    assert len(rows) == 1 + 3 * 2
    assert {len(row) for row in rows} == {8}
    cell = result.sel(scale=1.0, learning_rate=0.3)
    (row,) = (row for row in rows[1:] if row[:2] == ["1", "0.3"])
    assert row[4] == f"{100 * float(cell.test_accuracy.median()):.2f} %"
    counts = xr.zeros_like(hindsight.confusion(result, 2))
    counts.loc["learning"], counts.loc["too early to tell"] = [1, 3], [0, 5]
    assert _answer.confusion_table(counts)[1:] == [
        ["learning", "4", "3", "75.0\xa0%"],
        ["too early to tell", "5", "-", "-"],
        ["all that claim something", "4", "3", "75.0\xa0%"],
    ]


def test_outcomes_count_every_network(result: xr.Dataset) -> None:
    rows = _answer.outcome_counts(hindsight.outcomes(result, 1))
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 12


def test_a_diverged_network_has_no_accuracy(result: xr.Dataset) -> None:
    """Its row says so, instead of leaving it out of a median."""
    broken = result.copy(deep=True)
    broken.test_accuracy.loc[{"scale": 1.0, "learning_rate": 0.3, "seed": 0}] = np.nan
    rows = _answer.outcome_table(broken)
    (row,) = (row for row in rows[1:] if row[:2] == ["1", "0.3"])
    assert row[4] == "-"


def test_figures_of_nothing_but_divergence(result: xr.Dataset) -> None:
    """All NaN: empty pictures, and words that say so, but no error."""
    lost = result.where(result.seed < 0)  # floats become NaN
    lost.attrs = result.attrs
    lost.update(result[["plateau_loss", "label_entropy", "test_class_frequency"]])
    lost["verdict"] = diagnosis.verdicts(lost)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for section in sections(lost):
            if section.figure is not None:
                assert "<svg" in figures.to_svg(section.figure)
        words = answer(lost)
    assert "12 of all 12 networks diverged" in words["Is it converging?"][0]


def test_images_of_something_else_are_not_called_digits(result: xr.Dataset) -> None:
    facts = _answer.facts(result, DATA, "class")
    words = str(_words.answers("convergence.md.j2", **facts))
    assert "how frequent the classes are" in words
    assert "digit" not in words


def sections(result: xr.Dataset) -> list[Section]:
    drawn = {
        "loss": figures.loss_curves(result),
        "accuracy": figures.accuracy_by_scale(result),
        "verdicts": figures.verdict_map(result),
        "signals": figures.signals_per_layer(result, epoch=0),
        "gradients": figures.gradient_per_layer(result),
    }
    return [
        Section(name, f"On {name}", ["Words."], figure, "Look.", "figures.draw()")
        for name, figure in drawn.items()
    ] + [Section("table", "Numbers", table=_answer.outcome_table(result))]


@pytest.fixture(scope="module")
def page(result: xr.Dataset) -> str:
    return report.render(
        "Why?", "a test", answer(result), sections(result), {"jax": "1"}
    )


class Loads(HTMLParser):
    """Collects whatever would make a browser fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.figures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser for every element."""
        self.figures += tag == "figure"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                inside = str(value).startswith(("#", "data:"))
                if not inside:
                    self.found.append(f"{tag} {name}={value}")
        if tag in ("script", "iframe", "object", "embed"):
            self.found.append(tag)


def test_the_page_loads_nothing(page: str) -> None:
    loads = Loads()
    loads.feed(page)
    assert loads.found == []
    assert loads.figures == 5
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(page) < 3_000_000


def test_what_is_not_ours_is_escaped() -> None:
    page = report.render(
        "<script>x</script>", "", {"a<b": ["c&d"]}, [], {"data": '"><img src=x>'}
    )
    assert "<script>" not in page
    assert "<img" not in page
    assert "c&amp;d" in page


def test_the_same_result_gives_the_same_page(result: xr.Dataset, page: str) -> None:
    again = report.render(
        "Why?", "a test", answer(result), sections(result), {"jax": "1"}
    )
    assert again == page


def test_numbers_and_table_for_other_tools(result: xr.Dataset, tmp_path: Path) -> None:
    """A row a network; the numbers are those of the labelled result."""
    table = results.to_table(result)
    assert len(table) == 12
    assert table.columns[:3].tolist() == ["scale", "learning_rate", "seed"]
    row = table[
        (table.scale == 1.0) & (table.learning_rate == 0.1) & (table.seed == 1)
    ].iloc[0]
    cell = result.sel(scale=1.0, learning_rate=0.1, seed=1)
    assert row.test_accuracy == float(cell.test_accuracy)
    assert row.valid_loss_8 == float(cell.valid_loss.sel(epoch=8))
    assert row.gradient_rms_0_1 == float(cell.gradient_rms.sel(epoch=0, layer=1))
    assert all(dtype.kind in "if" for dtype in table.dtypes)
    table.to_csv(tmp_path / "networks.csv", index=False)


SHOWN = """() => [...document.querySelectorAll('figure svg')].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width > 200 && box.height > 80;
}).length"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("choose", [False, True])
def test_in_a_browser(
    page: str,
    result: xr.Dataset,
    width: int,
    choose: bool,
    tmp_path: Path,
    open_page: Callable[..., Any],
) -> None:
    """All figures visible, nothing wider than the window."""
    file = tmp_path / "page.html"
    file.write_text(choosable(result) if choose else page, encoding="utf-8")
    opened = open_page(file.as_uri(), width)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.evaluate(SHOWN) == (1 if choose else 5)


def choosable(result: xr.Dataset) -> str:
    """A page with the verdict map, of which a cell can be chosen."""
    figure, details = figures.verdict_map(result), _cells.details(result)
    one = Section("map", "The map", (), figure, details=details, choose="Choose!")
    return report.render("Why?", "", {}, [one], {})


def stored(page: str) -> dict[str, Any]:
    """The details that lie in a page, by id."""
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page)

    def refuse(name: str) -> None:
        raise AssertionError(f"JSON has no {name}")

    found: list[tuple[str, Any]] = json.loads(text, parse_constant=refuse)
    return dict(found)


def as_array(y: list[list[float | None]]) -> np.ndarray:
    return np.array(y, float)  # None becomes NaN


def test_a_cell_shows_its_own_networks(result: xr.Dataset) -> None:
    """Curves, gradients and evidence in the page are those of the result."""
    predicted = 10 + result.test_loss  # epochs, another for every network
    known = result.assign(
        leaves_predicted=predicted,
        leaves_earliest=0.9 * predicted,
        leaves_latest=1.1 * predicted,
    )
    known["verdict"] = diagnosis.verdicts(known)
    page = choosable(known)
    cells = stored(page)
    assert len(cells) == 3 * 2
    for i, scale in enumerate(SCALES):
        for j, rate in enumerate(RATES):
            cell = known.sel(scale=scale, learning_rate=rate)
            assert page.count(f'<g id="cell-{i}-{j}">') == 1
            shown = cells[f"cell-{i}-{j}"]
            loss, gradient = shown["charts"]
            plateau, curves, marks = loss["lines"]
            assert plateau["y"] == [[2.303, 2.303]]
            assert curves["x"] == list(range(EPOCHS + 1))
            np.testing.assert_allclose(curves["y"], cell.valid_loss, rtol=6e-4)
            np.testing.assert_allclose(marks["x"], cell.leaves_predicted, rtol=6e-4)
            assert gradient["log"]
            for lines, epoch in zip(gradient["lines"], (0, EPOCHS), strict=True):
                there = cell.gradient_rms.sel(epoch=epoch)
                np.testing.assert_allclose(lines["y"], there, rtol=6e-4)
            names = [diagnosis.NAMES[n] for n in cell.verdict.values]
            commonest = max(names, key=names.count)
            assert shown["title"] == (
                f"init scale {scale:g}, learning rate {rate:g}: {commonest}, "
                f"{names.count(commonest)} of 2 networks"
            )
            assert sum(int(row[0]) for row in shown["table"][1:]) == 2
            said = [row[1].split(":")[0] for row in shown["table"][1:]]
            assert set(said) == set(names)
            for information in cell.label_information.isel(epoch=-1).values:
                assert f"information {information:.3f} of 2.303" in str(shown["table"])


def test_equal_evidence_is_said_once(result: xr.Dataset) -> None:
    """The verdicts that most networks have stand first."""
    judged = diagnosis.judged(result)
    stuck, learns = judged[0, 0, 0], judged[1, 0, 0]
    rows = _cells.evidence([learns, stuck, stuck])
    assert rows[1:] == [["2", str(stuck)], ["1", str(learns)]]


def test_of_very_many_networks_the_first_are_shown(
    result: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are counted, and the page says of whom it shows curves."""
    monkeypatch.setattr(_cells, "NUM_SHOWN", 6)
    (first, *_) = _cells.details(result).values()
    assert first.title.endswith(" of 2 networks")
    curves = first.charts[0].lines[1]
    assert (curves.name, len(curves.y)) == ("each of the first 1 network", 1)
    assert sum(int(row[0]) for row in first.table[1:]) == 1


def test_details_of_diverged_networks(result: xr.Dataset) -> None:
    """What is not finite, or 0 where an axis is logarithmic, is a gap."""
    lost = result.copy(deep=True)
    at = {"scale": 1.0, "learning_rate": 0.3}
    lost.valid_loss.loc[at | {"seed": 0, "epoch": [3, 4]}] = [np.inf, np.nan]
    lost.label_information.loc[at | {"seed": 0}] = np.nan
    lost.gradient_rms.loc[at | {"seed": 1, "layer": 2}] = 0.0
    everything = {"scale": 30.0, "learning_rate": 0.1}
    for name in ("valid_loss", "label_information", "gradient_rms"):
        lost[name].loc[everything] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        lost["verdict"] = diagnosis.verdicts(lost)
        cells = stored(choosable(lost))
    loss, gradient = cells["cell-1-1"]["charts"]
    gaps = np.isnan(as_array(loss["lines"][1]["y"]))
    assert np.argwhere(gaps).tolist() == [[0, 3], [0, 4]]
    gaps = np.isnan(as_array(gradient["lines"][0]["y"]))
    assert np.argwhere(gaps).tolist() == [[1, 1]]
    empty = cells["cell-2-0"]
    assert empty["title"].endswith("diverged, 2 of 2 networks")
    assert np.isnan(as_array(empty["charts"][0]["lines"][1]["y"])).all()


def test_the_details_of_the_full_study_are_small(result: xr.Dataset) -> None:
    """44 cells of 16 networks and 20 epochs, no two numbers alike: below 300 kB."""
    places = {"scale": 11, "learning_rate": 4, "seed": 16, "epoch": 21, "layer": 6}
    full = result.isel(
        {name: np.arange(n) % result.sizes[name] for name, n in places.items()}
    ).assign_coords({name: np.arange(n) for name, n in places.items()})
    rng = np.random.default_rng(0)
    for name in ("valid_loss", "label_information", "gradient_rms"):
        full[name] = full[name] * rng.uniform(0.5, 1, full[name].shape)
    full["verdict"] = diagnosis.verdicts(full)
    bare = Section("map", "The map", (), figures.verdict_map(full))
    more = len(choosable(full)) - len(report.render("Why?", "", {}, [bare], {}))
    assert 150_000 < more < 300_000


def picture(*names: str) -> Figure:
    """A figure with parts of these ids."""
    figure = Figure(figsize=(4, 3))
    lines = figure.subplots().plot(np.eye(len(names)))
    for line, name in zip(lines, names, strict=True):
        line.set_gid(name)
    return figure


HOSTILE = "</script><script>alert('\u2028\udcff')</script><!--<script>&amp;\"\\"


def test_no_text_breaks_out_of_the_script() -> None:
    lines = Lines(HOSTILE, "line", [0, 1], [[0.0, np.nan]])
    detail = Detail(
        HOSTILE, [Chart(HOSTILE, HOSTILE, HOSTILE, [lines])], [[HOSTILE], [HOSTILE]]
    )
    section = Section("p", "P", (), picture("a"), details={"a": detail}, choose=HOSTILE)
    page = report.render("Why?", "", {}, [section], {})
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page.partition("</figure>")[2]
    loads = Loads()
    loads.feed(page)
    assert loads.found == ["script", "script"]
    shown = stored(page)["a"]
    texts = shown["title"], shown["table"][1][0], shown["charts"][0]["lines"][0]["name"]
    assert texts == (HOSTILE,) * 3


def test_details_need_their_part_of_the_figure() -> None:
    """An id that is not there, or there twice, is no click that does nothing."""
    detail = Detail("A part")
    here = Section("here", "Here", (), picture("a", "b"), details={"a": detail})
    report.render("Why?", "", {}, [here], {})
    for other in (
        Section("none", "None", (), picture("c"), details={"d": detail}),
        Section("twice", "Twice", (), picture("a")),
        Section("elsewhere", "Elsewhere", details={"b": detail}),
    ):
        with pytest.raises(ValueError, match=r"details: expected [abd] in"):
            report.render("Why?", "", {}, [here, other], {})


def test_a_page_without_details_has_no_script(page: str) -> None:
    assert "<script" not in page
    assert "choosable" not in page
    assert 'class="detail"' not in page


# Walks to the cell on the right with the keys, chooses it, and says what is shown.
def test_choosing_in_a_browser(
    result: xr.Dataset, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    """The first cell is chosen, then the one that the keys lead to."""
    page = choosable(result)
    cells = stored(page)
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    opened = open_page(file.as_uri())
    chosen = opened.locator("figure [role=button][aria-pressed=true]")
    assert opened.text_content(".detail h3") == cells["cell-0-0"]["title"]
    chosen.focus()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Enter")
    title = cells["cell-1-0"]["title"]
    assert chosen.get_attribute("aria-label") == title
    assert opened.text_content(".detail h3") == title
    counts = {
        ".detail svg[role=img]": 2,
        ".detail svg svg path.line": SEEDS,
        ".detail tbody tr": len(cells["cell-1-0"]["table"]) - 1,
    }
    for part, count in counts.items():
        assert opened.locator(part).count() == count, part


def test_a_hundred_layers_have_room() -> None:
    """Of so many a few are shown, the first and the last among them."""
    rng = np.random.default_rng(0)
    layers = {"scale": [0.1], "hidden_layer": np.arange(1, 101)}
    dims = ("scale", "hidden_layer", "image", "axis")
    maps = xr.DataArray(rng.normal(size=(1, 100, 20, 2)), layers, dims)
    figure = figures.representations(maps, np.arange(20) % 10)
    titles = [axes.get_title() for axes in figure.axes]
    assert (titles[0], titles[-1], len(titles)) == ("layer 1", "layer 100", 8)
    figures.to_svg(figure)  # a warning would be an error

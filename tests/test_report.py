"""The page is one file that loads nothing, and its words come from the numbers."""

import itertools
import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path

import _answer
import _words
import numpy as np
import pytest
import xarray as xr

from snn_jax import diagnosis, figures, hindsight, report, results
from snn_jax.report import Section

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
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


# A window of Chromium is at least 500 pixels wide, a frame in it as narrow as wanted.
FRAME = """<!DOCTYPE html><title>waiting</title><body><script>
const frame = document.createElement('iframe');
frame.style.cssText = 'width: WIDTHpx; height: 900px; border: 0';
frame.srcdoc = PAGE;
frame.onload = () => {
  const page = frame.contentDocument;
  const shown = [...page.querySelectorAll('figure svg')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 200 && box.height > 80;
  });
  document.title = [frame.contentWindow.innerWidth,
    page.documentElement.scrollWidth, shown.length].join(' ');
};
document.body.append(frame);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(page: str, width: int, tmp_path: Path) -> None:
    """All figures visible, no console error, nothing wider than the window."""
    file = tmp_path / "frame.html"
    quoted = json.dumps(page).replace("</", "<\\/")
    file.write_text(
        FRAME.replace("WIDTH", str(width)).replace("PAGE", quoted), encoding="utf-8"
    )
    browser = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
            "--no-first-run", "--disable-background-networking",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000", "--dump-dom", file.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    title = re.search(r"<title>(\d+) (\d+) (\d+)</title>", browser.stdout)
    assert title, browser.stdout[:500]
    inner, scroll, shown = map(int, title.groups())
    assert inner == width
    assert scroll <= width
    assert shown == 5
    assert "CONSOLE" not in browser.stderr


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

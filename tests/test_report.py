"""The page is one file that loads nothing, and its words come from the numbers."""

import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from snn_jax import answer, diagnosis, figures, mnist, report, runs
from snn_jax.networks import Architecture
from snn_jax.report import Section
from snn_jax.sweep import sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def result(dataset: mnist.Dataset) -> xr.Dataset:
    """A small sweep with its verdicts, on a tenth of the training set."""
    tenth = dataset._replace(
        train=mnist.Split(dataset.train.x[:5000], dataset.train.y[:5000])
    )
    found = sweep(
        jax.random.key(0),
        tenth,
        architecture=Architecture((784, 10, 10, 10, 10), biases=False),
        scales=[0.01, 1.0, 30.0],
        learning_rates=[0.1, 0.3],
        num_seeds=2,
        num_epochs=8,
        batch_size=20,
    )
    found["verdict"] = diagnosis.verdicts(found)
    return found


def test_answer_counts_what_the_result_holds(result: xr.Dataset) -> None:
    words = answer.answer(result)
    assert list(words) == ["Is it converging?", "Why?", "What's wrong?"]
    converging = " ".join(words["Is it converging?"])
    vanishing = int((result.verdict.sel(scale=0.01) == 3).sum())
    assert f"No at init scale 0.01: {vanishing} of 4 networks" in converging
    learned = int((result.verdict.sel(scale=1.0) <= 1).sum())
    assert f"Yes at init scale 1: {learned} of 4 networks" in converging
    best = 100 * float(result.test_accuracy.median("seed").max())
    assert f"{best:.1f}\xa0%" in converging
    assert "Change one number: use 1 instead of" in " ".join(words["What's wrong?"])
    ratio = answer.first_over_last(result).sel(scale=0.01)
    assert f"{answer.number(ratio)} times" in " ".join(words["Why?"])


@pytest.mark.parametrize("verdict", diagnosis.NAMES)
def test_every_verdict_has_its_words(result: xr.Dataset, verdict: str) -> None:
    """A sweep in which all networks have one verdict: the answer names no other."""
    one = result.copy()
    one["verdict"] = xr.full_like(result.verdict, diagnosis.NAMES.index(verdict))
    words = answer.answer(one)
    converging = " ".join(words["Is it converging?"])
    assert re.search("12 of (all )?12 networks", converging)
    starts = [start for start in ("No at", "Not yet", "Yes", "Slowly", "Hardly")
              if start in converging]  # fmt: skip
    assert len(starts) == (0 if verdict == "diverged" else 1)
    wrong = " ".join(words["What's wrong?"])
    if verdict in ("converged", "learning"):
        assert "Nothing that these settings show" in wrong
    else:
        advice = diagnosis.BY_NAME[verdict].advice
        assert advice in wrong
        assert "Change one number" not in wrong


def test_tables(result: xr.Dataset) -> None:
    rows = answer.outcome_table(result)
    assert len(rows) == 1 + 3 * 2
    assert {len(row) for row in rows} == {8}
    cell = result.sel(scale=1.0, learning_rate=0.3)
    (row,) = (row for row in rows[1:] if row[:2] == ["1", "0.3"])
    assert row[4] == f"{100 * float(cell.test_accuracy.median()):.2f} %"
    counts = diagnosis.confusion(result, 2)
    table = answer.confusion_table(counts)
    claims = 12 - int(counts.sel(verdict="too early to tell").sum())
    assert table[-1][:2] == ["all that claim something", str(claims)]


def test_outcomes_count_every_network(result: xr.Dataset) -> None:
    """Rows are what the verdicts say, columns what the last loss says."""
    counts = diagnosis.outcomes(result, 1)
    assert int(counts.sum()) == 12
    information = result.label_information.isel(epoch=-1)
    half = diagnosis.LEARNED * result.label_entropy
    learned = int(counts.sel(outcome="has learned").sum())
    assert learned == int((information >= half).sum()) > 0
    rows = answer.outcome_counts(counts)
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 12


def test_a_diverged_network_has_no_accuracy(result: xr.Dataset) -> None:
    """Its row says so, instead of leaving it out of a median."""
    broken = result.copy(deep=True)
    broken.test_accuracy.loc[{"scale": 1.0, "learning_rate": 0.3, "seed": 0}] = np.nan
    rows = answer.outcome_table(broken)
    (row,) = (row for row in rows[1:] if row[:2] == ["1", "0.3"])
    assert row[4] == "-"


def test_figures_of_nothing_but_divergence(result: xr.Dataset) -> None:
    """All NaN: empty pictures, and words that say so, but no error."""
    lost = result.where(result.seed < 0)  # floats become NaN
    lost.attrs = result.attrs
    lost["test_class_frequency"] = result.test_class_frequency
    lost["verdict"] = diagnosis.verdicts(lost)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for section in sections(lost):
            if section.figure is not None:
                assert "<svg" in figures.to_svg(section.figure)
        words = answer.answer(lost)
    assert "12 of all 12 networks diverged" in words["Is it converging?"][0]


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
    ] + [Section("table", "Numbers", table=answer.outcome_table(result))]


@pytest.fixture(scope="module")
def page(result: xr.Dataset) -> str:
    return report.render(
        "Why?", "a test", answer.answer(result), sections(result), {"jax": "1"}
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
        "Why?", "a test", answer.answer(result), sections(result), {"jax": "1"}
    )
    assert again == page


def test_numbers_and_table_for_other_tools(result: xr.Dataset, tmp_path: Path) -> None:
    """A row a network; the numbers are those of the labelled result."""
    table = runs.to_table(result)
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

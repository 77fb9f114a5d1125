"""Published figures against ours, row by row.

    python experiments/published.py                  about 1.5 minutes on two cores
    python experiments/published.py --preset full    about six minutes: all rows

Every number comes from a network built and trained as its source says: its width,
cost, regularization, optimizer and training set. Rows name author, year and place; a
row's note says what the source leaves open or what could only be read second hand.

How a verdict is made. A published number is one more run, by someone else, of what we
run many times. So a row agrees if the number lies in our band, where one more run of
ours would lie 98 times in 100:

    a run      from 100 networks on, the 1 % and 99 % quantiles; of fewer, R, the band
               is mean +- t s sqrt(1 + 1/R), with t the 99 % quantile of Student's
               distribution with R - 1 degrees of freedom. Of what is computed without
               chance, the number itself.
    a range    of five runs of the source: so many of ours lie beyond an end as would
               at least once in 100 times if all were runs of one kind, see ``beyond``.
               Our own range is shown beside it instead of a band.
    holds      a yes or no, the same in all our networks.
    rejected   a number that a wrong setting must not give: it lies outside our band.

The published number is widened by half a unit of its last digit, and by nothing else:
source and we measure on the same 10,000 images, so what is particular about them is in
both numbers. About one true row in fifty falls outside by chance. With few networks the
band is wide: eight make it 3.2 standard deviations, four 5.1. The order of the images
is part of the chance: with one order for all, some bands were a third as wide, and the
means of two orders lay up to 0.4 points apart.

A row that differs and has no explanation gives the exit code 1. What is finished is
kept in the folder, and the same command goes on from there.
"""

import sys
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line
from _published_rows import EXPERIMENTS, SLOW, Found, Row, read_rows

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from matplotlib.figure import Figure

    from snn_jax.datasets import Dataset
    from snn_jax.report import Section

ROWS = read_rows()
# Runs of a source that gives a range.
RUNS_OF_A_RANGE = 5
# Networks from which on quantiles are used instead of Student's distribution.
MANY = 100


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    preset: Literal["quick", "full"] = "quick"
    """full: twice the networks, and the experiments that take long."""
    seeds: int = 4
    """Networks trained for each row."""
    networks: int = 200
    """Untrained networks for each gradient norm."""
    only: tuple[str, ...] = ()
    """Experiments to run, by name, instead of those of the preset."""
    data: command_line.DataPath = None
    out: Path = Path("runs/published")
    """Folder for the result. The same command goes on with what is missing there."""
    restart: bool = False
    """Begin anew in a folder that holds a run with other settings, which is lost."""

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_count("--seeds", self.seeds, most=1000)
        command_line.expect(self.seeds > 1, "--seeds", "at least 2", self.seeds)
        command_line.expect_count("--networks", self.networks, most=10**5)
        wanted = f"at least {MANY}"
        command_line.expect(self.networks >= MANY, "--networks", wanted, self.networks)
        for name in self.only:
            known = f"one of {', '.join(EXPERIMENTS)}"
            command_line.expect(name in EXPERIMENTS, "--only", known, name)
        command_line.expect(
            any(set(row.ours) <= set(chosen(self)) for row in ROWS),
            "--only",
            "all that a row needs",
            " ".join(self.only),
        )


# --- Verdicts -----------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of a row.

    Attributes:
        row: the published number.
        ours: ours, a value for each network.
        low: lower end of our band or range.
        middle: mean, or median of many networks and where the source has a range.
        high: upper end.
        agrees: whether the published number agrees with ours.
    """

    row: Row
    ours: "np.ndarray"
    low: float
    middle: float
    high: float
    agrees: bool

    @property
    def words(self) -> str:
        """In a word or two."""
        if self.agrees:
            return "agrees"
        return "explained" if self.row.explained else "DIFFERS"


def printed_range(published: str) -> tuple[float, float]:
    """The numbers that may have been rounded to what is printed.

    >>> printed_range("0.0600")
    (0.05995, 0.06005)
    >>> printed_range("17.8 to 21.7")
    (17.75, 21.75)
    """
    ends = published.split(" to ")
    half = [0.5 * 10.0 ** -len(end.partition(".")[2]) for end in ends]
    # Without the last bits that 0.06 - 0.00005 leaves.
    low, high = float(ends[0]) - half[0], float(ends[-1]) + half[-1]
    return float(f"{low:.12g}"), float(f"{high:.12g}")


def band(ours: "np.ndarray") -> tuple[float, float, float]:
    """Low end, middle and high end of where one more run lies 98 times in 100.

    The middle is the median if there are many runs, and else the mean. With R runs of
    normal spread s, the mean and one more run differ by a normal of variance
    s^2 (1 + 1/R), and s is estimated too: Student's distribution.
    """
    import numpy as np
    from scipy.stats import t

    ours = np.asarray(ours, float)
    if len(ours) >= MANY:
        low, middle, high = np.quantile(ours, [0.01, 0.5, 0.99])
        return float(low), float(middle), float(high)
    middle = float(ours.mean())
    if len(ours) == 1:
        return middle, middle, middle
    reach = t.ppf(0.99, len(ours) - 1) * ours.std(ddof=1) * (1 + 1 / len(ours)) ** 0.5
    return middle - float(reach), middle, middle + float(reach)


def beyond(ours: int, count: int, theirs: int = RUNS_OF_A_RANGE) -> float:
    """How often so many of our runs, or more, lie beyond the last of the source's.

    If all are runs of one kind, every order of them is equally likely. With R runs of
    ours and n of theirs, the last k are ours with the probability R / (R + n) x
    (R - 1) / (R + n - 1) x ..., k factors.

    >>> round(1 / beyond(4, 4))  # 9! / (4! 5!)
    126
    """
    chance = 1.0
    for i in range(ours):
        chance *= (count - i) / (count + theirs - i)
    return chance


def judge(row: Row, ours: "np.ndarray") -> Verdict:
    """Whether a published number agrees with ours, by the row's rule."""
    import numpy as np

    if row.rule == "holds":
        share = float(np.mean(ours))
        return Verdict(row, ours, share, share, share, bool(np.all(ours)))
    first, last = printed_range(row.published)
    if row.rule == "a range":
        low, middle, high = (float(q) for q in np.quantile(ours, [0, 0.5, 1]))
        ends = (int((ours < first).sum()), int((ours > last).sum()))
        agrees = all(beyond(end, len(ours)) >= 0.01 for end in ends)
    else:
        low, middle, high = band(ours)
        agrees = (low <= last and first <= high) != (row.rule == "rejected")
    return Verdict(row, ours, low, middle, high, agrees)


# --- The run ------------------------------------------------------------------------


def chosen(settings: Settings) -> list[str]:
    """Names of the experiments to run."""
    if settings.only:
        return [name for name in EXPERIMENTS if name in settings.only]
    return [n for n in EXPERIMENTS if settings.preset == "full" or n not in SLOW]


def measure(settings: Settings, data: "Dataset") -> Found:
    """Results of all experiments asked for; what is finished is not computed again."""
    import _published_experiments as experiments
    from tqdm import tqdm

    from snn_jax import store

    data, found, sweeps = experiments.joined(data), {}, {}
    for name in chosen(settings):
        if name == "no-training":
            found[name] = experiments.without_training(data)
        else:
            experiment = experiments.EXPERIMENTS[name]
            sweeps[name] = experiment(data, settings.seeds, settings.networks)
    work = {name: experiments.work(sweep) for name, sweep in sweeps.items()}
    looks = {name: s.num_networks * s.recipe.num_looks for name, s in sweeps.items()}
    # What is not trained has to be compiled at least.
    whole = {name: max(1e11, work[name] * looks[name]) for name in sweeps}
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with (
        command_line.going_on(settings.out),
        tqdm(total=sum(whole.values()), desc="training", bar_format=form) as bar,
    ):
        for name, one in work.items():
            sweep = sweeps.pop(name)  # so that its data leave the memory
            folder = settings.out / "chunks" / name

            def report(count: int, one: float = one) -> None:
                bar.update(one * count)

            store.complete(folder, sweep, restart=settings.restart, report=report)
            result = sweep.assemble(store.read_chunks(folder, sweep))
            found[name] = experiments.as_published(result)
            bar.update(whole[name] - one * looks[name])
    return found


def digits(published: str, value: float) -> str:
    """A number of ours with a digit more than a coarse published one."""
    decimals = len(published.partition(" ")[0].partition(".")[2])
    return f"{value:.{max(decimals, 2 if value >= 10 else 3)}f}"


def shown(verdict: Verdict) -> list[str]:
    """A row's cells, as in ``HEAD``."""
    row, count = verdict.row, len(verdict.ours)
    if row.rule == "holds":
        ours, reach = f"{int(verdict.ours.sum())} of {count}", ""
    else:
        ours = digits(row.published, verdict.middle)
        ends = [digits(row.published, end) for end in (verdict.low, verdict.high)]
        reach = "" if count == 1 else " .. ".join(ends)
    published = ("not " if row.rule == "rejected" else "") + row.published
    return [row.what, published, ours, verdict.words, reach, str(count)]


HEAD = ["", "published", "ours", "verdict", "98 % band", "networks"]


def by_source(verdicts: list[Verdict]) -> dict[str, list[Verdict]]:
    """In the order in which sources are first named."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.row.source, []).append(verdict)
    return found


def as_text(verdicts: list[Verdict]) -> str:
    """The table, sources as headings."""
    table = [HEAD, *map(shown, verdicts)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(cells: list[str]) -> str:
        aligned = [
            cell.ljust(width) if i in (0, 3) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(["", *aligned]).rstrip()

    lines = [line(HEAD)]
    for source, some in by_source(verdicts).items():
        lines += [source, *(line(shown(verdict)) for verdict in some)]
    return "\n".join(lines)


def to_dataset(verdicts: list[Verdict]) -> "xr.Dataset":
    """A row a published number; ``ours`` (row, network) is filled up with NaN."""
    import numpy as np
    import xarray as xr

    columns: dict[str, list[Any]] = {
        name: [getattr(v.row, name) for v in verdicts]
        for name in ("source", "what", "published", "rule", "note", "explained")
    }
    columns["verdict"] = [v.words for v in verdicts]
    for name in ("low", "middle", "high"):
        columns[name] = [getattr(v, name) for v in verdicts]
    result = xr.Dataset({name: ("row", values) for name, values in columns.items()})
    ours = np.full((len(verdicts), max(len(v.ours) for v in verdicts)), np.nan)
    for i, verdict in enumerate(verdicts):
        ours[i, : len(verdict.ours)] = verdict.ours
    result["ours"] = (("row", "network"), ours)
    return result


def picture(verdicts: list[Verdict]) -> "Figure | None":
    """Our bands with the published numbers on them, a panel for each source."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from snn_jax import figures

    rules = ("a run", "a range")
    panels = by_source([v for v in verdicts if v.row.rule in rules and len(v.ours) > 1])
    if not panels:
        return None
    heights = [len(panel) + 1.5 for panel in panels.values()]
    wide: dict[str, Any] = {"color": "C0", "alpha": 0.35, "linewidth": 7}
    wide["solid_capstyle"] = "butt"  # else a line is longer than its ends are apart
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(figures.WIDTH, 0.26 * sum(heights) + 0.3))
        grid = figure.subplots(
            len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axes, (source, panel) in zip(grid[:, 0], panels.items(), strict=True):
            for i, verdict in enumerate(panel):
                reach, ours = [verdict.low, verdict.high], verdict.middle
                axes.plot(reach, [i, i], **wide)
                axes.plot(ours, i, "|", color="C0", markersize=10, markeredgewidth=2)
                color = "black" if verdict.agrees else "C3"
                ends = [float(end) for end in verdict.row.published.split(" to ")]
                rounded = printed_range(verdict.row.published)
                axes.plot(rounded, [i, i], color=color, linewidth=1.5)
                axes.plot(ends, [i] * len(ends), "o", color=color, markersize=4)
            axes.set_yticks(range(len(panel)), [verdict.row.what for verdict in panel])
            axes.set_ylim(len(panel) - 0.5, -0.5)
            if "norm" in source:
                axes.set_xscale("log")
            axes.annotate(
                source,
                (0, 1),
                xytext=(2, 6),
                xycoords=("figure fraction", "axes fraction"),
                textcoords="offset points",
                fontweight="bold",
                fontsize="small",
            )
    return figure


def page(verdicts: list[Verdict]) -> "list[Section]":
    """The report's sections, in order."""
    from _words import sections

    sources, figure = by_source(verdicts), picture(verdicts)
    names = {source: f"source_{i}" for i, source in enumerate(sources)}
    return sections(
        "published.md.j2",
        {"published": figure},
        {names[s]: [HEAD, *map(shown, some)] for s, some in sources.items()},
        drawn=figure is not None,
        names=names,
        sources=sources,
    )


def answer(verdicts: list[Verdict]) -> dict[str, list[str]]:
    """The outcome in words."""
    from _words import answers

    places = {verdict.row.source.split(",")[0].split(":")[0] for verdict in verdicts}
    return answers(
        "published_answer.md.j2",
        agree=sum(verdict.agrees for verdict in verdicts),
        count=len(verdicts),
        publications=len(places),
        differ=[(v.row, shown(v)[2]) for v in verdicts if not v.agrees],
    )


def main(settings: Settings) -> int:
    """Runs the experiments, writes everything, prints the table and the answer."""
    command_line.make_folder(settings.out)
    from snn_jax import files, report

    data, _ = command_line.load(settings.data, like_mnist=True)
    found = measure(settings, data)
    rows = [row for row in ROWS if set(row.ours) <= set(found)]
    verdicts = [judge(row, row.measured(found)) for row in rows]
    made_with = asdict(settings) | {"commit": command_line.commit()}
    result = to_dataset(verdicts)
    files.save(settings.out, result, made_with)
    with files.replacing(settings.out / "published.csv") as file:
        result.drop_vars("ours").to_dataframe().to_csv(file, index=False)
    words = answer(verdicts)
    path = report.write(
        settings.out,
        title="Published figures against ours",
        subtitle=f"{settings.seeds} trained networks a row, {settings.networks} "
        f"untrained ones, on {settings.data or 'MNIST'}.",
        answer=words,
        sections=page(verdicts),
        settings=made_with,
    )

    print()
    print(as_text(verdicts))
    for row in rows:
        if row.note:
            note = f"{row.source.split(':')[0]}, {row.what}: {row.note}"
            print(textwrap.fill(note, 88, subsequent_indent="  "))
    command_line.tell(words, path)
    wrong = any(not (v.agrees or v.row.explained) for v in verdicts)
    return int(wrong)


QUICK = Settings()
FULL = Settings(preset="full", seeds=8, networks=400)

if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, {"quick": QUICK, "full": FULL})

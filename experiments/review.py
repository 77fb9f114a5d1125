r"""Hand-written gradients judged: which function is wrong, and which mistake it is.

    python experiments/review.py solution.py            a second
    python experiments/review.py solution.ipynb --page  and a page to hand back
    python experiments/review.py submissions/           a table of a whole class

Takes a script or notebook with the assignment's functions, in NumPy or JAX, in whatever
layout: rows or columns, one image or a batch, any order of arguments. Loops, prints and
training at the top of the file are not run. Exits with 1 if something is wrong in a
file; for a folder with 0, and writes review.csv with a line for each file and function.

Files of other people run in processes of their own, without environment, with limits on
time, memory, files and programs, and see neither reference nor verdict. That keeps
mistakes and pranks harmless; it is no wall against an attack on the interpreter. For
that, use a container without a network, of an image with this package:

    docker run --rm --network none -v "$PWD:/work" -w /work \
        IMAGE python experiments/review.py submissions/

If the functions cannot be called, it says what was tried; --adapter takes a file of
yours whose functions call the student's: "from student import f", then
"def dW1(W1, b1, W2, b2, x, y): return f(..)", for example.
"""

import csv
import multiprocessing
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line
import tyro

if TYPE_CHECKING:
    from snn_jax.review.evidence import Verdict

ENDINGS = (".py", ".ipynb")
# For teachers: what is right, by function; a student gets no formula.
FORMULAS = {
    "Pred": "p = softmax(W2 sigmoid(W1 x + b1) + b2)",
    "loss": "-ln p[y]",
    "dW2": "(p - e) a1^T",
    "db2": "p - e",
    "dW1": "((W2^T (p - e)) * a1 * (1 - a1)) x^T",
    "db1": "(W2^T (p - e)) * a1 * (1 - a1)",
}


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    path: Annotated[Path, tyro.conf.Positional]
    """A script (.py), a notebook (.ipynb), or a folder of them."""
    page: bool = False
    """Whether to write a page for each file."""
    teacher: bool = False
    """Whether to show the right formula beside what is wrong."""
    adapter: Path | None = None
    """A file of yours whose functions call the student's."""
    out: Path = Path("runs/review")
    """Folder for pages and table."""

    def validate(self) -> None:
        """Raises SettingError."""
        expected = "a script, a notebook, or a folder of them"
        command_line.expect(self.path.exists(), "path", expected, self.path)
        fits = self.path.is_dir() or self.path.suffix.lower() in ENDINGS
        command_line.expect(fits, "path", expected, self.path)
        if self.adapter is not None:
            there = self.adapter.is_file()
            command_line.expect(there, "--adapter", "a file", self.adapter)


class Judged(NamedTuple):
    """One file: verdicts, or why there are none."""

    name: str
    verdicts: "list[Verdict]"
    convention: str = ""
    called: dict[str, str] = {}  # noqa: RUF012 - never written to
    notes: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def is_right(self) -> bool:
        """Whether something was found, and nothing wrong."""
        found = [v.status for v in self.verdicts if v.status != "not found"]
        return bool(found) and set(found) == {"right"}

    @property
    def is_whole(self) -> bool:
        """Whether no gradient is missing."""
        return bool(self.verdicts) and not any(
            v.status == "not found" and v.function.split()[-1][0] == "d"
            for v in self.verdicts
        )


def judge(path: Path, adapter: Path | None, name: str) -> Judged:
    """The verdicts on a file."""
    from _sandbox import Process, StoppedError

    from snn_jax import review

    try:
        process = Process(path, adapter)
    except (StoppedError, OSError) as error:
        return Judged(name, [], stopped=str(error))
    try:
        functions = review.student_functions(process.describe)
        found = review.judged(functions, process.call)
    except StoppedError as error:
        return Judged(name, [], stopped=str(error))
    finally:
        process.close()
    return Judged(
        name, found.verdicts, found.convention, found.called, tuple(found.notes)
    )


def main(settings: Settings) -> int:
    """Prints the verdicts; writes pages and, for a folder, the table."""
    if settings.path.is_dir():
        return review_folder(settings)
    judged = judge(settings.path, settings.adapter, settings.path.name)
    print("\n".join(lines(judged, settings.teacher)))
    if settings.page:
        print(f"\nAs a page: {write_page(judged, settings)}")
    return 0 if judged.is_right and judged.is_whole else 1


def lines(judged: Judged, teacher: bool) -> list[str]:
    """What is said of a file."""
    import textwrap

    found = [judged.name]
    if judged.stopped:
        return [*found, f"  not judged: {judged.stopped}"]
    if judged.convention:
        found.append(f"  read as: {judged.convention}")
    width = max(len(v.function) for v in judged.verdicts) + 2
    for verdict in judged.verdicts:
        head = f"  {verdict.function:{width}}{verdict.status:11}"
        words = said(verdict, teacher)
        text = textwrap.wrap(words, 100 - len(head)) or [""]
        found.append((head + text[0]).rstrip())
        found += [" " * len(head) + line for line in text[1:]]
    found += ["", summary(judged)]
    messages = " ".join(v.message for v in judged.verdicts)
    others = [
        note
        for note in judged.notes
        if not note.endswith(": nothing") and note.split(": ")[-1] not in messages
    ]
    if others and not judged.is_whole:
        found.append(f"Tried without a result: {'; '.join(others[:6])}.")
        found.append("A small adapter may help: see --help.")
    return found


def said(verdict: "Verdict", teacher: bool) -> str:
    """The message; with the formula for teachers."""
    words = verdict.message
    if verdict.status == "right":  # as the column beside it says
        words = words.removeprefix("Right").lstrip(".: ")
        words = words[:1].upper() + words[1:]
    formula = FORMULAS.get(verdict.function)
    if teacher and verdict.status == "wrong" and formula:
        words += f" Right would be, for one image: {formula}."
    return words


def summary(judged: Judged) -> str:
    """One line on the whole file."""
    from _words import counted, listed

    if judged.stopped:
        return f"Not judged: {judged.stopped}."
    found = [v for v in judged.verdicts if v.status != "not found"]
    wrong = [v for v in found if v.status == "wrong"]
    follows = [v.function for v in found if v.status == "follows"]
    if not found:
        return "None of the functions asked for was found."
    missing = [v.function for v in judged.verdicts if v.status == "not found"]
    if not wrong and not follows:
        if missing:
            return f"Right as far as it goes; not found: {listed(missing)}."
        return f"All {len(found)} functions are right."
    words = [f"{v.function} ({', '.join(v.mistakes)})" for v in wrong]
    text = f"Wrong: {listed(words)}."
    if unclear := [v.function for v in found if v.status == "not judged"]:
        text += f" {listed(unclear)}: to be judged once that is right."
    if missing:
        text += f" Not found: {listed(missing)}."
    if follows:
        text += f" {listed(follows)}: nothing wrong but what follows from that."
    right = sum(v.status == "right" for v in found)
    return f"{text} {counted(right, 'function')} right."


def write_page(judged: Judged, settings: Settings) -> Path:
    """The page of a file."""
    from snn_jax import files, report
    from snn_jax.report import Section

    command_line.make_folder(settings.out)
    there = bool(judged.verdicts)
    table = [["function", "verdict", "what is to be said"]]
    table += [
        [v.function, v.status, said(v, settings.teacher)] for v in judged.verdicts
    ]
    numbers = [["function", "mistake", "factor", "left over", "next best"]]
    numbers += [
        [
            v.function,
            ", ".join(v.mistakes) or "none",
            v.factor or "-",
            _number(v.residual),
            _number(v.runner_up),
        ]
        for v in judged.verdicts
    ]
    called = [["what", "asked as"], *([k, v] for k, v in judged.called.items())]
    sections = [
        Section("verdicts", "Function by function", table=table if there else ()),
        Section(
            "evidence",
            "The evidence",
            (
                "Each gradient was compared with the formulas of all known mistakes, "
                "at several small networks in double precision. Left over is what "
                "the nearest formula does not explain, as a share; next best, what "
                "the nearest other formula leaves. The factor is beside the gradient "
                "of the mean loss of B images.",
            ),
            table=numbers if there else (),
        ),
        Section("calls", "How the functions were called",
                (f"Read as: {judged.convention or 'nothing that could be called'}.",
                 *judged.notes), table=called if judged.called else ()),
    ]  # fmt: skip
    page = report.render(
        f"Review of {judged.name}",
        "Hand-written gradients of a two-layer network, function by function",
        {"Is it right?": [summary(judged)]},
        sections,
        files.environment(),
    )
    path = settings.out / f"{judged.name.replace('/', '_')}.html"
    files.write(path, page.encode())
    return path


def _number(value: float) -> str:
    return "-" if value != value else "0" if value == 0 else f"{value:.0e}"


def review_folder(settings: Settings) -> int:
    """All files of a folder, on all cores: a CSV and what is commonest."""
    from tqdm import tqdm

    command_line.make_folder(settings.out)
    paths = sorted(
        path
        for path in settings.path.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file()
        and ".ipynb_checkpoints" not in path.parts
    )  # fmt: skip
    wanted = "scripts or notebooks"
    command_line.expect(bool(paths), "path", wanted, f"none in {settings.path}")
    names = {path: path.relative_to(settings.path).as_posix() for path in paths}
    found: dict[Path, Judged] = {}
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), fresh) as pool:
        tasks = {
            pool.submit(judge, path, settings.adapter, names[path]): path
            for path in paths
        }
        for task in tqdm(as_completed(tasks), total=len(paths), unit="file"):
            found[tasks[task]] = task.result()
    everyone = [found[path] for path in paths]
    table = settings.out / "review.csv"
    write_table(table, everyone)
    if settings.page:
        for judged in everyone:
            write_page(judged, settings)
    print("\n".join(class_report(everyone)))
    print(f"\nA line for each file and function: {table}")
    return 0


def write_table(path: Path, everyone: list[Judged]) -> None:
    """The CSV; spreadsheets take no cell for a formula."""
    head = ("file", "function", "status", "mistakes", "factor", "left over",
            "next best", "follows from", "message")  # fmt: skip
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for judged in everyone:
            name = "'" + judged.name if judged.name[:1] in "=+-@" else judged.name
            if judged.stopped:
                writer.writerow(
                    [name, "", "not judged", "", "", "", "", "", judged.stopped]
                )
            for v in judged.verdicts:
                factor = f"'{v.factor}" if v.factor.startswith("-") else v.factor
                row = [name, v.function, v.status, "; ".join(v.mistakes), factor]
                numbers = [_number(v.residual), _number(v.runner_up)]
                writer.writerow([*row, *numbers, v.follows, v.message])


def class_report(everyone: list[Judged]) -> list[str]:
    """Of a folder: how many are right, and the commonest mistakes."""
    from _words import counted

    right = [judged for judged in everyone if judged.is_right]
    whole = sum(judged.is_whole for judged in right)
    stopped = [judged for judged in everyone if judged.stopped]
    found = [
        f"{counted(len(everyone), 'file')}: {whole} all right, {len(right) - whole} "
        "right as far as they go."
    ]
    mistakes = Counter(
        (mistake, v.function)
        for judged in everyone
        for v in judged.verdicts
        if v.status == "wrong"
        for mistake in v.mistakes
    )
    table = [["files", "in", "mistake"]]
    table += [[str(n), where, what] for (what, where), n in mistakes.most_common(12)]
    if mistakes:
        widths = [max(len(row[i]) for row in table) for i in range(2)]
        found += ["", "The commonest mistakes:"]
        found += [f"  {a:>{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in table]
    nothing = [j.name for j in everyone if not j.stopped and not j.called]
    if nothing:
        found += ["", f"No function could be called in: {', '.join(nothing)}"]
    if stopped:
        found += ["", "Not judged:", *(f"  {j.name}: {j.stopped}" for j in stopped)]
    return found


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__)

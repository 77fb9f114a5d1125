"""What all scripts share: settings from flags, one line for bad input, exit codes.

Nothing here may import jax, so that ``--help`` is instant.
"""

import argparse
import codecs
import contextlib
import dataclasses
import hashlib
import io
import itertools
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import platformdirs
import tyro

if TYPE_CHECKING:
    from snn_jax.datasets import Dataset

DataPath = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="PATH",
        help="mnist.pkl.gz, npz, IDX, CSV, ARFF or Parquet, or a folder of them.",
        help_behavior_hint="(default: the MNIST that comes with the package)",
    ),
]


# What is kept of compiled code; the oldest goes first.
MAX_CACHE_BYTES = 2**30


class SettingError(ValueError):
    """A flag whose value makes no sense: which, what was expected and found."""


class Settings(Protocol):
    """A frozen dataclass; tyro makes a flag of every field."""

    def validate(self) -> None:
        """Raises SettingError."""


SettingsT = TypeVar("SettingsT", bound=Settings)


def expect(condition: bool, flag: str, expected: str, found: Any) -> None:
    """Raises SettingError in one line unless condition holds."""
    if not condition:
        raise SettingError(f"{flag}: expected {expected}, found {found}")


def expect_positive(
    flag: str, values: Iterable[float], least: float = 1e-30, most: float = 1e30
) -> None:
    """Different numbers that float32 can hold, none of them 0 or below."""
    values = list(values)
    expect(len(values) > 0, flag, "at least one number", "none")
    for i, value in enumerate(values):
        wanted = f"numbers from {least:g} to {most:g}"
        expect(math.isfinite(value) and least <= value <= most, flag, wanted, value)
        # float32 has seven digits: closer numbers would be the same network twice.
        same = any(math.isclose(value, other, rel_tol=1e-6) for other in values[:i])
        expect(not same, flag, "different numbers", f"{value} twice")


def expect_count(flag: str, value: int, most: int = 10**6) -> None:
    """A whole number of at least 1."""
    expect(1 <= value <= most, flag, f"a whole number from 1 to {most}", value)


def expect_seed(flag: str, value: int) -> None:
    """JAX keeps 32 bits of a seed: 2**32 + 5 would silently be 5."""
    expect(0 <= value < 2**32, flag, "a whole number from 0 to 2**32 - 1", value)


def expect_batch_size(value: int, num_examples: int) -> None:
    """Not more than there are images to fill one batch with."""
    expect(
        value <= num_examples,
        "--batch-size",
        f"at most {num_examples}, the number of training images",
        value,
    )


def load(path: Path | None, *, like_mnist: bool = False) -> "tuple[Dataset, str]":
    """The data, and in a line what was decided about them, which is printed too.

    Args:
        path: as the flag gives it; None is MNIST.
        like_mnist: whether nothing but 784 pixels and 10 classes makes sense.

    Raises:
        DataError: the files cannot be used.
        SettingError: they are not like MNIST.
    """
    from snn_jax import datasets, mnist

    data, notes = mnist.read(path)
    num_pixels, num_classes = data.train.x.shape[1], datasets.num_classes(data)
    expect(
        not like_mnist or (num_pixels, num_classes) == (784, 10),
        "--data",
        "images of 784 pixels in 10 classes, as in MNIST",
        f"{num_pixels} pixels, {num_classes} classes",
    )
    counts = " + ".join(str(len(split.y)) for split in data)
    said = (
        f"{counts} images to learn from, to watch and to test on, of {num_pixels} "
        f"pixels in {num_classes} classes; {'; '.join(notes)}"
    )
    if path is not None:
        print(f"{path}: {said}.", flush=True)
    return data, said


def _try_folder(path: Path, mode: int = 0o777) -> None:
    """Makes a folder if need be, and a file in it; raises OSError."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path):
        pass


def make_folder(path: Path) -> None:
    """Makes the output folder and tries it before the work starts, not after it."""
    try:
        _try_folder(path)
    except OSError as error:
        expect(False, "--out", "a folder to write to", f"{path} ({error.strerror})")


@contextlib.contextmanager
def going_on(folder: Path) -> Iterator[None]:
    """Says, when Ctrl-C ends what can be gone on with, what to type."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"\nWhat is finished is in {folder}; the same command goes on from there.",
            file=sys.stderr,
        )
        raise


def as_text(table: list[list[str]], *, first_column_left: bool = False) -> str:
    """Rows of cells as lines, columns aligned to the right.

    By default a gap where the first column changes; with the first column on the left,
    its repetitions are left out instead.
    """
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for previous, row in zip([[""], *table], table, strict=False):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        if first_column_left:
            shown = "" if row[0] == previous[0] else row[0]
            cells[0] = shown.ljust(widths[0])
        elif previous[0] not in (row[0], ""):
            lines.append("")
        lines.append("  ".join(cells))
    return "\n".join(lines)


def tell(answer: Mapping[str, Sequence[str]], page: Path) -> None:
    """Prints the questions with their answers, and where the page is."""
    for question, paragraphs in answer.items():
        print(f"\n{question}")
        for paragraph in paragraphs:
            print(textwrap.fill(paragraph, 88))
    print(f"\nRead it with pictures: {page}")


def commit() -> str:
    """Of the code that runs, if it runs from a git checkout."""
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


# Settings of JAX by the environment under which the scripts cannot work, and why.
UNFIT = {
    "JAX_DISABLE_JIT": "everything is compiled",
    "JAX_DEBUG_NANS": "networks that diverge are results",
    "JAX_DEBUG_INFS": "networks that diverge are results",
    "JAX_NUMPY_DTYPE_PROMOTION": "numbers of several types meet",
    "JAX_TRANSFER_GUARD": "data move between host and devices",
}
HARMLESS = ("", "0", "false", "f", "no", "n", "off", "standard", "allow")


def check_environment() -> None:
    """Raises SettingError for settings of JAX that would end in a traceback."""
    for name, value in os.environ.items():
        for unfit, why in UNFIT.items():
            wrong = name.startswith(unfit) and value.lower() not in HARMLESS
            expect(not wrong, name, f"it unset, as {why}", value)
    count = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    good = count.isdecimal() and int(count) >= 1
    expect(good, "JAX_NUM_CPU_DEVICES", "a whole number of at least 1", count)
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        import jax

        try:
            jax.devices()
        except (RuntimeError, AssertionError):  # both occur
            wanted = "devices that are here, or unset"
            expect(False, "JAX_PLATFORMS", wanted, platforms)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What a terminal without such letters shows instead of them."""
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end].replace("\xa0", " ")
    return letters.encode("ascii", "backslashreplace").decode(), error.end


class _Lasting(io.FileIO):
    """Standard output that goes on when nobody listens any more, as behind head."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return len(content)


def use_any_terminal() -> None:
    """Makes every print safe: on any encoding, on a closed or abandoned output."""
    codecs.register_error("plain", _plain)
    # Windows has no such pipes, and a console that takes letters, not bytes.
    lasting = os.name == "posix" and sys.stdout is sys.__stdout__
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and lasting and name == "stdout":
            raw = _Lasting(stream.fileno(), "w", closefd=False)
            sys.stdout = io.TextIOWrapper(
                io.BufferedWriter(raw), stream.encoding, "plain",
                line_buffering=stream.line_buffering,
            )  # fmt: skip
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def use_all_cores() -> None:
    """Makes JAX see a device for every core, unless the user has chosen otherwise.

    Networks are then split over the cores, and no core waits for another. Has to happen
    before JAX starts.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores or os.cpu_count() or 1))


def use_all_digits() -> None:
    """Makes float32 mean float32, unless the user has chosen otherwise.

    GPUs round the factors of a product to three digits by default (TF32): gradients by
    hand and by autodiff then agree to no more than that. On a CPU nothing changes. Has
    to happen before JAX starts.
    """
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")


def _private(folder: Path) -> bool:
    """Makes a folder if need be; whether the user alone may write to it."""
    try:
        _try_folder(folder, mode=0o700)
        found = folder.stat()
    except OSError:
        return False
    return os.name != "posix" or (
        found.st_uid == os.getuid() and not found.st_mode & 0o022
    )


def _processor() -> str:
    """Compiled code is of no use, or worse, on another."""
    cpuinfo, words = Path("/proc/cpuinfo"), [platform.machine(), platform.node()]
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        wanted = ("model name", "flags", "Features")
        words += sorted({line for line in lines if line.startswith(wanted)})
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def use_compile_cache() -> None:
    """Keeps what JAX compiles for the next run, unless the user has chosen a place.

    What is read there is run: it is in the user's own cache folder, in folders that
    nobody else may write to, or else nothing is kept. Has to happen before JAX starts.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    root = Path(platformdirs.user_cache_dir("snn_jax", appauthor=False))
    folder = root / f"jax-{metadata.version('jax')}-{_processor()}"
    if not (_private(root) and _private(folder)):
        return
    with contextlib.suppress(OSError):  # another run tidies up too
        kept = sorted(root.glob("jax-*/*"), key=lambda path: -path.stat().st_mtime)
        sizes = itertools.accumulate(path.stat().st_size for path in kept)
        for path, size in zip(kept, sizes, strict=True):
            if size > MAX_CACHE_BYTES:
                path.unlink()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")


def _parse(
    settings: type[SettingsT], doc: str, default: SettingsT | None, compile_cache: bool
) -> tuple[SettingsT, bool]:
    """Tyro's parser, with what it says of a mistake in one line instead of a box.

    Returns:
        The settings, and the value of a flag that all scripts have, --compile-cache.
    """
    said = io.StringIO()
    names = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    cache = Annotated[
        bool,
        tyro.conf.arg(
            help="Keep what is compiled for the next run, in the user's cache folder."
        ),
    ]
    both = dataclasses.make_dataclass(
        settings.__name__, [("compile_cache", cache, compile_cache)], bases=(settings,),
        frozen=True,
    )  # fmt: skip
    start = None if default is None else both(**vars(default))
    try:
        with contextlib.redirect_stderr(said):
            parsed: Any = tyro.cli(both, description=doc, default=start)
            values = {name: getattr(parsed, name) for name in names}
            return settings(**values), parsed.compile_cache
    except SystemExit as stop:
        if stop.code:
            # Without the title and the box that tyro draws, which is of Unicode or,
            # where that is not to be had, of ASCII.
            lines = [
                line.strip("\u2502\u2500\u256d\u256e\u256f\u2570| \n")
                for line in said.getvalue().splitlines()[1:]
            ]
            text = " ".join(line for line in lines if line.strip("-+ "))
            words = text.split("Argument helptext")[0].split("For full")[0]
            print(f"error: {words.strip()} (see --help)", file=sys.stderr)
        raise


def run(
    main: Callable[[SettingsT], int],
    settings: type[SettingsT],
    doc: str,
    presets: Mapping[str, SettingsT] | None = None,
    *,
    compile_cache: bool = True,
) -> None:
    """Parses the flags, runs main and leaves with its exit code.

    0: done. 1: a check failed. 2: bad input, with one line that says what. 130: Ctrl-C.

    Args:
        main: takes the settings.
        settings: a frozen dataclass.
        doc: the text above the flags in --help.
        presets: by the value of --preset, what the other flags are if they are not
        given.
        compile_cache: what the flag of that name is if it is not given.
    """
    default = None
    if presets:
        preset = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        preset.add_argument("--preset")
        default = presets.get(str(preset.parse_known_args()[0].preset))
    use_any_terminal()
    parsed, keep = _parse(settings, doc, default, compile_cache)
    try:
        parsed.validate()
        use_all_cores()
        use_all_digits()
        if keep:
            use_compile_cache()
        check_environment()
        code = main(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        code = 130
    except OSError as error:
        said = str(error)
        if error.filename is None and error.errno is not None:
            said = f"standard output: expected room to print, found {error.strerror}"
            # Python would try to write it once more.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        print(f"error: {said}", file=sys.stderr)
        code = 2
    except ValueError as error:
        from snn_jax.gradients import GradientError
        from snn_jax.identity import RunError
        from snn_jax.sources import DataError

        # Mistakes of the user. Those of the program keep their traceback.
        if not isinstance(error, SettingError | DataError | RunError | GradientError):
            raise
        print(f"error: {error}", file=sys.stderr)
        code = 2
    raise SystemExit(code)

"""What all scripts share: settings from flags, one line for bad input, exit codes.

Nothing here may import jax, so that ``--help`` is instant.
"""

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import tyro

DataPath = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="PATH",
        help="mnist.pkl.gz, an npz or a folder of IDX files.",
        help_behavior_hint="(default: the MNIST that comes with the package)",
    ),
]


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


def expect_positive(flag: str, values: Iterable[float]) -> None:
    """Numbers above 0, none of them infinite or NaN, none twice."""
    values = list(values)
    expect(len(values) > 0, flag, "at least one number", "none")
    for value in values:
        expect(math.isfinite(value) and value > 0, flag, "numbers above 0", value)
        expect(values.count(value) == 1, flag, "different numbers", f"{value} twice")


def expect_count(flag: str, value: int) -> None:
    """A whole number of at least 1."""
    expect(value >= 1, flag, "a whole number of at least 1", value)


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


def make_folder(path: Path) -> None:
    """Makes the output folder before the work starts, not after it is done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"--out: expected a folder to write to, found {path} ({error.strerror})"
        ) from None


def run(main: Callable[[SettingsT], int], settings: type[SettingsT], doc: str) -> None:
    """Parses the flags, runs main and leaves with its exit code.

    0: done. 1: a check failed. 2: bad input, with one line that says what. 130: Ctrl-C.
    """
    parsed = tyro.cli(settings, description=doc)
    try:
        parsed.validate()
        code = main(parsed)
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        code = 130
    except ValueError as error:
        # Mistakes of the user, not of the program: those keep their traceback.
        if type(error).__name__ not in ("SettingError", "DataError"):
            raise
        print(f"error: {error}", file=sys.stderr)
        code = 2
    raise SystemExit(code)

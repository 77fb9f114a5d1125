"""A data file as it is read: what it may unpack to, and how it is refused."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

# MNIST compresses 5 : 1 as IDX and 14 : 1 as a pickle of float32; gzip reaches
# 1028 : 1. Up to FREE_SIZE bytes any ratio is harmless, above it a file that expands
# more than MAX_RATIO : 1 is taken for a bomb.
MAX_RATIO = 30
FREE_SIZE = 2**24


class DataError(ValueError):
    """A data file that cannot be used: where it is, what was expected and found."""

    def __init__(self, path: str | Path, expected: str, found: str) -> None:
        # What is found may come from the file: keep it short, and off the terminal.
        found = "".join(c if c.isprintable() else "?" for c in found[:160])
        super().__init__(f"{path}: expected {expected}, found {found}")


class Source:
    """A file that is read, and how many bytes may still come out of it.

    Archives may hold archives: what all of them unpack to counts together.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.left = max(FREE_SIZE, MAX_RATIO * size)

    def take(self, size: int) -> None:
        """Raises a DataError if there is not so much left."""
        self.left -= size
        if self.left < 0:
            raise DataError(
                self.path,
                f"a file that expands at most {MAX_RATIO} : 1",
                f"{(MAX_RATIO * self.size - self.left) // max(self.size, 1)} : 1 or "
                "more",
            )


class Item(NamedTuple):
    """An array of a file: where it is from, as path/in/archive/name, and its values."""

    name: str
    values: np.ndarray

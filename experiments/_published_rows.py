"""Published numbers, as read from ``published.toml``, which says what their fields are.

Nothing here may import jax, so that ``--help`` is instant.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import xarray as xr

# Names of the experiments, in the order in which they are run; the slow ones are not in
# the quick preset.
SLOW = (
    *("depth-2", "depth-3", "depth-4", "first-net"),
    *("top-layer", "lecun-slow", "lecun-fast"),
)
EXPERIMENTS = (
    *("no-training", "norms-2", "norms-3", "norms-4", "norms-wrong"),
    *("jacobian-normalized", "jacobian-standard", "start-large", "depth-1"),
    *("course-0", "course-1-sigmoid", "course-1-tanh", "course-1-relu"),
    *("course-3-sigmoid", "course-3-relu", "course-5-sigmoid", "course-adam"),
    *SLOW,
)

Rule = Literal["a run", "a range", "holds", "rejected"]
# Results of experiments, by name.
Found = Mapping[str, "xr.Dataset"]


class Row(NamedTuple):
    """A published number, ``source`` being the author, the year and the place."""

    source: str
    what: str
    published: str
    ours: Mapping[str, str]
    epoch: int | None = None
    best_of: int = 1
    between: float | None = None
    rule: Rule = "a run"
    note: str = ""
    explained: str = ""

    def measured(self, found: Found) -> Any:
        """Our number of every network, as an array."""
        values = [found[name][variable] for name, variable in self.ours.items()]
        if self.epoch is not None:
            values = [value.sel(epoch=self.epoch) for value in values]
        if self.between is None:
            (numbers,) = values
        else:
            low, high = values
            numbers = (low < self.between) & (self.between < high)
        return numbers.values.reshape(-1, self.best_of).max(axis=1)


def read_rows() -> tuple[Row, ...]:
    """All published numbers, in their order."""
    with Path(__file__).with_name("published.toml").open("rb") as file:
        sources = tomllib.load(file)["source"]
    return tuple(
        Row(source["name"], **{k: _in_line(v) for k, v in row.items()})
        for source in sources
        for row in source["rows"]
    )


def _in_line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value

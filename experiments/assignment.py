"""The assignment as a notebook to hand out: blanks for six functions, then questions.

    python experiments/assignment.py            writes runs/assignment/assignment.ipynb

Its text is experiments/words/assignment.py, a notebook in jupytext's percent format;
experiments/review.py judges what students make of it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # python -I does not look there
import _command_line as command_line

TEXT = Path(__file__).parent / "words" / "assignment.py"


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    out: Path = Path("runs/assignment")
    """Folder for the notebook."""

    def validate(self) -> None:
        """Nothing can be wrong."""


def main(settings: Settings) -> int:
    """Writes the notebook."""
    command_line.make_folder(settings.out)
    import jupytext

    from snn_jax import files

    notebook = jupytext.read(TEXT)
    path = settings.out / "assignment.ipynb"
    files.write(path, jupytext.writes(notebook, fmt="ipynb").encode())
    print(f"To hand out: {path}")
    return 0


if __name__ == "__main__":
    command_line.run(main, Settings, __doc__)

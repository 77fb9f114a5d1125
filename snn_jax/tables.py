"""Images and labels out of tables: CSV, ARFF and Parquet, a row an image."""

import io
import math
import re
from typing import Any

import numpy as np

from snn_jax.sources import DataError, Item, Source

# By this ending a text is a table, though it has one column.
ENDINGS = (".csv", ".tsv", ".tra", ".tes")
# Columns that count the rows; what pandas writes has none or "Unnamed: 0" for a name.
COUNTING_COLUMNS = {"", "id", "imageid", "index", "unnamed: 0"}
LABEL_COLUMNS = {"label", "labels", "class", "target", "y", "digit"}


def csv(source: Source, name: str, content: bytes) -> list[Item]:
    """A row an image, with or without a line of names, the label in a column."""
    import pandas as pd

    content = content.removeprefix(b"\xef\xbb\xbf")  # as Excel begins a file
    first = content.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    separator = next((s for s in (",", ";", "\t") if s in first), r"\s+")
    cells = [cell.strip(" \"'") for cell in re.split(separator, first)]
    if not first or (len(cells) < 2 and not name.lower().endswith(ENDINGS)):
        raise DataError(
            source.path,
            "a table or another data file",
            f"text that begins {first[:30]!r}",
        )
    # A line of names has a name for most columns; a label may be a word in any line.
    words = sum(not re.fullmatch(r"[-+\d.eE]*", cell) for cell in cells)
    named = words > len(cells) / 2
    frame = pd.read_csv(io.BytesIO(content), sep=separator, header=0 if named else None)
    return _of_table(source, name, frame, named)


def is_arff(content: bytes) -> bool:
    """Whether the first line that is no comment says @relation."""
    for line in io.BytesIO(content):
        text = line.strip()
        if text and not text.startswith(b"%"):
            return text.lower().startswith(b"@relation")
    return False


def arff(source: Source, name: str, content: bytes) -> list[Item]:
    """Weka's format: lines of attributes, then a CSV, with comments behind %."""
    import pandas as pd

    head, rows = re.split(rb"(?im)^[ \t]*@data\b.*$", content, maxsplit=1)
    names = [
        found.decode("utf-8", "replace")
        for found in re.findall(
            rb"""(?im)^[ \t]*@attribute[ \t]+('[^']*'|"[^"]*"|\S+)""", head
        )
    ]
    if rows.lstrip().startswith(b"{"):
        raise DataError(
            source.path, "an ARFF file with all values of a row", "a sparse one"
        )
    frame = pd.read_csv(
        io.BytesIO(rows), header=None, comment="%", quotechar="'", skipinitialspace=True
    )
    if len(names) != frame.shape[1]:
        wanted = f"{len(names)} values a row, as many as attributes"
        raise DataError(source.path, wanted, f"{frame.shape[1]}")
    frame.columns = pd.Index([n.strip("'\"") for n in names])
    return _of_table(source, name, frame, True)


def parquet(source: Source, name: str, content: bytes) -> list[Item]:
    """Columns of pixels, or a column of PNG images as on the Hugging Face hub."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        wanted = "pyarrow, to read Parquet: pip install pyarrow pillow"
        raise DataError(source.path, wanted, "it is not installed") from None
    file = ParquetFile(io.BytesIO(content))
    source.take(8 * file.metadata.num_rows * file.metadata.num_columns)
    frame = file.read().to_pandas()
    if "image" in frame.columns:
        from PIL import Image

        label = [c for c in frame.columns if str(c).lower() in LABEL_COLUMNS]
        images = []
        for cell in frame["image"]:
            picture = Image.open(io.BytesIO(cell["bytes"]), formats=["PNG"])
            source.take(math.prod(picture.size))
            images.append(np.asarray(picture))
        return [
            Item(f"{name}/images", np.stack(images)),
            *(Item(f"{name}/labels", frame[c].to_numpy()) for c in label[:1]),
        ]
    return _of_table(source, name, frame, True)


def _of_table(source: Source, name: str, frame: Any, named: bool) -> list[Item]:
    """Images and labels of a table; images alone if no column is the label's."""
    if frame.shape[1] == 1:  # a column in a file of its own, as y_train.csv
        return [Item(name, frame.iloc[:, 0].to_numpy())]
    counting = [c for c in frame if str(c).lower() in COUNTING_COLUMNS]
    frame = frame.drop(columns=counting) if named else frame
    column = _label_column(source, frame, named)
    pixels = frame if column is None else frame.drop(columns=column)
    if pixels.shape[1] < 2:
        return []  # no images: names of files, say, or a submission
    x = pixels.to_numpy()
    if x.dtype.kind not in "uif" or (x.dtype.kind == "f" and np.isnan(x.sum())):
        wrong = [c for c in pixels if pixels[c].dtype.kind not in "uif"]
        found = f"something else in column {wrong[0]}" if wrong else "missing values"
        raise DataError(source.path, "numbers for pixels", found)
    items = [Item(f"{name}/images", x)]
    if column is not None:
        items.append(Item(f"{name}/labels", frame[column].to_numpy()))
    return items


def _label_column(source: Source, frame: Any, named: bool) -> Any:
    """By its name; without names the first or the last, whichever counts classes."""
    columns = list(frame.columns)
    if named:
        found = [c for c in columns if str(c).strip().lower() in LABEL_COLUMNS]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            names = ", ".join(map(str, found))
            raise DataError(source.path, "one column of labels", names)
    if math.isqrt(len(columns)) ** 2 == len(columns):
        return None
    if math.isqrt(len(columns) - 1) ** 2 != len(columns) - 1:
        if len(columns) < 3:
            return None
        wanted = "a square of pixels and a label in each row, the label named or first"
        raise DataError(source.path, wanted, f"{len(columns)} columns")

    def counts(column: Any) -> bool:
        if frame[column].dtype.kind not in "iu":
            return bool(frame[column].dtype.kind == "O")  # names of classes
        values = np.unique(frame[column].to_numpy())
        return len(values) > 1 and np.array_equal(
            values, np.arange(len(values)) + values[0]
        )

    ends = [c for c in (columns[0], columns[-1]) if counts(c)]
    if len(ends) != 1:
        wanted = "labels in the first column, or a column named label"
        raise DataError(
            source.path, wanted, f"{len(ends)} columns that could be labels"
        )
    return ends[0]

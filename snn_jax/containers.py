"""Named arrays out of the files that image sets come in.

Whatever holds them (npz and npy, IDX, pickles, tables as CSV, ARFF or Parquet, folders,
zip and tar archives of any of these), ``read`` gives arrays with the names that they
have there; what they mean is for ``mnist`` to say.

Files are not trusted. One that is damaged, hostile or holds something else gives one
``DataError``; nothing in it is executed, and a small file cannot fill the memory.
"""

import gzip
import io
import math
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snn_jax import _pickles

# MNIST compresses 5 : 1 as IDX and 14 : 1 as a pickle of float32; gzip reaches
# 1028 : 1. Up to FREE_SIZE bytes any ratio is harmless, above it a file that expands
# more than MAX_RATIO : 1 is taken for a bomb.
MAX_RATIO = 30
FREE_SIZE = 2**24
BLOCK_SIZE = 2**20
# More files than this in a folder or archive are no data set of this kind.
MAX_FILES = 100
MAX_DEPTH = 3

GZIP, ZIP, NPY, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"\x93NUMPY", b"PAR1"
# Of IDX, whose third byte says the type: 8 is uint8.
IDX_MAGIC = b"\0\0\x08"
# Pickles of protocol 0 begin with "(", of protocol 2 and later with 0x80.
PICKLE = (b"(", b"\x80")
# In a folder the files of the first kind count that it holds.
KINDS = {
    "IDX": r"ubyte(\.gz)?$",
    "NumPy": r"\.np[yz]$",
    "CSV": r"\.(csv|tsv|tra|tes)(\.gz)?$",
    "Parquet": r"\.parquet$",
    "ARFF": r"\.arff(\.gz)?$",
    "pickle": r"\.(pkl|pickle)(\.gz)?$",
    "archive": r"\.(zip|tar|tgz|tar\.gz)$",
}
EXPECTED = (
    "mnist.pkl.gz, an npz, IDX files, CSV, ARFF, Parquet, or a folder, zip or tar of "
    "these"
)
LABEL_COLUMNS = {"label", "labels", "class", "target", "y", "digit"}


class DataError(ValueError):
    """A data file that cannot be used: where it is, what was expected and found."""

    def __init__(self, path: str | Path, expected: str, found: str) -> None:
        # What is found may come from the file: keep it short, and off the terminal.
        found = "".join(c if c.isprintable() else "?" for c in found[:160])
        super().__init__(f"{path}: expected {expected}, found {found}")


class Item(NamedTuple):
    """An array of a file: where it is from, as path/in/archive/name, and its values."""

    name: str
    values: np.ndarray


def read(path: Path) -> list[Item]:
    """All arrays of a file or folder.

    Raises:
        DataError: the file is missing, damaged, hostile or holds something else.
    """
    try:
        if path.is_dir():
            return list(_of_folder(path))
        return list(_of_file(path, path.name, _content(path)))
    except OSError as error:
        found = error.strerror or str(error)
        raise DataError(path, "a readable file or folder", found) from None
    except MemoryError:
        raise DataError(path, "data that fit in memory", "more") from None


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(path, "a file or folder", "something else, a pipe or a device")
    with path.open("rb") as file:
        head = file.read(300)
        # Before a large file is read: is there any use for it?
        _check_idx_size(path, head, path.stat().st_size)
        return head + file.read()


def _of_folder(folder: Path) -> Iterator[Item]:
    found = [
        path
        for pattern in ("*", "*/*", "*/*/*")
        for path in sorted(folder.glob(pattern))
        if path.is_file()
        and any(re.search(k, path.name.lower()) for k in KINDS.values())
    ]
    if len(found) > MAX_FILES:
        raise DataError(
            folder, f"a folder of at most {MAX_FILES} data files", f"{len(found)}"
        )
    for kind in KINDS.values():
        # Unpacked beside packed: one of the two.
        chosen = [path for path in found if re.search(kind, path.name.lower())]
        chosen = [
            p for p in chosen if p.with_suffix("") not in chosen or p.suffix != ".gz"
        ]
        if chosen:
            break
    else:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:6])
        raise DataError(
            folder,
            "a folder with data: train-images-idx3-ubyte and the like, npz, CSV, ..",
            names or "an empty folder",
        )
    for path in chosen:
        name = path.relative_to(folder).as_posix()
        yield from _of_file(path, name, _content(path))


def _of_file(
    path: Path, name: str, content: bytes, depth: int = 0, packed: bool = False
) -> Iterator[Item]:
    """The arrays of a file's content; path is what is said to be wrong."""
    lower = name.lower()
    if content.startswith(GZIP):
        if packed:
            expected = "a file that is gzipped once"
            raise DataError(path, expected, "gzip inside gzip; unpack it once")
        name = re.sub(r"(?i)\.gz$", "", name)
        yield from _of_file(path, name, _gunzip(path, content), depth, True)
    elif content.startswith(ZIP):
        yield from _of_zip(path, name, content, depth)
    elif content[257:262] == b"ustar":
        yield from _of_tar(path, name, content, depth)
    elif content.startswith(NPY):
        yield Item(name, _guarded(path, "npy", lambda: _npy(path, name, content)))
    elif content.startswith(b"\0\0") and len(content) > 3:
        yield Item(name, _idx(path, content))
    elif content.startswith(PARQUET):
        yield from _guarded(path, "Parquet", lambda: _parquet(path, name, content))
    elif content.startswith(PICKLE) and not re.search(KINDS["CSV"], lower):
        yield from _pickle(path, content)
    elif re.match(rb"\s*(%.*\s*)*@relation", content[:4000], re.IGNORECASE):
        yield from _guarded(path, "ARFF", lambda: _arff(path, name, content))
    elif re.search(KINDS["CSV"], lower) or re.match(rb'["\w.,;\t -]+\r?\n', content):
        yield from _guarded(path, "CSV", lambda: _csv(path, name, content))
    else:
        magic = content[:4]
        found = f"a file that begins with {magic!r}" if magic else "an empty file"
        raise DataError(path, EXPECTED, found)


def _guarded(path: Path, what: str, make: Callable[[], Any]) -> Any:
    """What make gives; a damaged file can fail in any way."""
    try:
        return make()
    except (DataError, MemoryError):
        raise
    except Exception as error:
        message = str(error).split("\n")[0][:100] or type(error).__name__
        raise DataError(path, f"a whole {what} file", f"damage ({message})") from None


# --- packing ------------------------------------------------------------------------


def _check_expansion(path: Path, name: str, size: int, packed: int) -> None:
    if size > max(FREE_SIZE, MAX_RATIO * packed):
        raise DataError(
            path,
            f"{name} that expands at most {MAX_RATIO} : 1",
            f"{size // max(packed, 1)} : 1 or more",
        )


def _gunzip(path: Path, content: bytes) -> bytes:
    """What is in a gzip file.

    It is unpacked once keeping nothing: bombs and damage show before memory is taken.
    """
    size = 0
    try:
        with gzip.open(io.BytesIO(content)) as file:
            while block := file.read(BLOCK_SIZE):
                size += len(block)
                _check_expansion(path, "a gzip file", size, len(content))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, "a whole gzip file", f"damage ({error})") from None
    return gzip.decompress(content)


def _of_zip(path: Path, name: str, content: bytes, depth: int) -> Iterator[Item]:
    def members() -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            size = sum(info.file_size for info in infos)
            _check_expansion(path, "an archive", size, len(content))
            _check_count(path, len(infos))
            for info in infos:
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    wanted = f"{info.filename} stored or deflated"
                    raise DataError(path, wanted, "another packing")
                with archive.open(info) as file:
                    yield info.filename, file.read(info.file_size)

    found = _guarded(path, "zip", lambda: list(members()))
    yield from _of_members(path, name, found, depth)


def _of_tar(path: Path, name: str, content: bytes, depth: int) -> Iterator[Item]:
    def members() -> Iterator[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            infos = [info for info in archive if info.isfile()]
            _check_count(path, len(infos))
            for info in infos:
                file = archive.extractfile(info)
                yield info.name, file.read() if file else b""

    found = _guarded(path, "tar", lambda: list(members()))
    yield from _of_members(path, name, found, depth)


def _check_count(path: Path, count: int) -> None:
    if count > MAX_FILES:
        raise DataError(path, f"an archive of at most {MAX_FILES} files", f"{count}")


def _of_members(
    path: Path, name: str, members: list[tuple[str, bytes]], depth: int
) -> Iterator[Item]:
    if depth >= MAX_DEPTH:
        raise DataError(path, "an archive of data", "archives in archives")
    if not members:
        raise DataError(path, "an archive of data", "an empty archive")
    arrays = [m for m in members if m[0].lower().endswith(".npy")]
    kinds = [arrays] + [
        [m for m in members if re.search(kind, m[0].lower())] for kind in KINDS.values()
    ]
    chosen = next(filter(None, kinds), None)
    if chosen is None:
        names = ", ".join(member for member, _ in members[:6])
        raise DataError(path, f"an archive of data: {EXPECTED}", names)
    for member, content in chosen:
        inside = f"{name}/{member}".removesuffix(".npy")
        yield from _of_file(path, inside, content, depth + 1)


# --- arrays -------------------------------------------------------------------------


def _check_idx_size(path: Path, head: bytes, size: int) -> None:
    """Raises a DataError unless an IDX file is as long as it says."""
    num_dims = head[3] if head.startswith(IDX_MAGIC) and len(head) > 3 else 0
    if not 1 <= num_dims <= 4 or len(head) < 4 + 4 * num_dims:
        return
    shape = struct.unpack(f">{num_dims}I", head[4 : 4 + 4 * num_dims])
    expected = 4 + 4 * num_dims + math.prod(shape)
    if size != expected:
        wanted = f"{expected} bytes for shape {shape}"
        raise DataError(path, wanted, f"{size} bytes")


def _idx(path: Path, content: bytes) -> np.ndarray:
    """Bytes 0, 0, 8 (uint8), the number of dimensions, each size as int32, the data."""
    num_dims = content[3]
    start = 4 + 4 * num_dims
    if (
        not content.startswith(IDX_MAGIC)
        or not 1 <= num_dims <= 4
        or len(content) < start
    ):
        wanted = "an IDX file of bytes: 0, 0, 8, the number of dimensions, their sizes"
        raise DataError(path, wanted, f"{content[:16]!r}")
    _check_idx_size(path, content, len(content))
    shape = struct.unpack(f">{num_dims}I", content[4:start])
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _npy(path: Path, name: str, content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "uifbU":  # objects above all: they would be a pickle
        raise DataError(path, f"numbers in {name}", f"dtype {dtype}")
    return _array(path, content[file.tell() :], dtype, shape, fortran)


def _array(
    path: Path, content: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool
) -> np.ndarray:
    """An array from its bytes, if there are as many as its shape needs."""
    expected = dtype.itemsize * math.prod(shape)
    if len(shape) > 4:
        wanted = "arrays of at most 4 dimensions, as images (n, 28, 28, 1)"
        raise DataError(path, wanted, f"{len(shape)}")
    if len(content) != expected or any(size < 0 for size in shape):
        raise DataError(
            path,
            f"{expected} bytes for shape {shape!s:.60} of {dtype}",
            f"{len(content)} bytes",
        )
    if dtype.itemsize == 0:
        raise DataError(path, "values of at least one byte", f"{dtype}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _pickle(path: Path, content: bytes) -> Iterator[Item]:
    try:
        found = _pickles.read(io.BytesIO(content), len(content))
        for name, raw in found:
            values = raw if isinstance(raw, np.ndarray) else _array(path, *raw)
            yield Item(name, values)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken program can fail in any way
        message = str(error)[:100] or type(error).__name__
        raise DataError(
            path,
            "a pickle of ((x, y), (x, y), (x, y)), of two pairs or of six arrays",
            f"another ({message})",
        ) from None


# --- tables -------------------------------------------------------------------------


def _csv(path: Path, name: str, content: bytes) -> list[Item]:
    """A row an image, with or without a line of names, the label in a column."""
    import pandas as pd

    first = content[: content.find(b"\n")].decode("utf-8", "replace").strip()
    separator = next((s for s in (",", ";", "\t") if s in first), r"\s+")
    cells = [cell.strip(" \"'") for cell in re.split(separator, first)]
    if not first or len(cells) < 2:
        raise DataError(path, EXPECTED, f"text that begins {first[:30]!r}")
    named = not all(re.fullmatch(r"[-+\d.eE]+", cell) for cell in cells)
    frame = pd.read_csv(io.BytesIO(content), sep=separator, header=0 if named else None)
    return _of_table(path, name, frame, named)


def _arff(path: Path, name: str, content: bytes) -> list[Item]:
    """Weka's format: lines of attributes, then a CSV, with comments behind %."""
    import pandas as pd

    head, rows = re.split(rb"(?im)^\s*@data\b.*$", content, maxsplit=1)
    names = [
        found.decode("utf-8", "replace")
        for found in re.findall(
            rb"""(?im)^\s*@attribute\s+('[^']*'|"[^"]*"|\S+)""", head
        )
    ]
    if rows.lstrip().startswith(b"{"):
        raise DataError(path, "an ARFF file with all values of a row", "a sparse one")
    frame = pd.read_csv(
        io.BytesIO(rows), header=None, comment="%", quotechar="'", skipinitialspace=True
    )
    if len(names) != frame.shape[1]:
        wanted = f"{len(names)} values a row, as many as attributes"
        raise DataError(path, wanted, f"{frame.shape[1]}")
    frame.columns = pd.Index([n.strip("'\"") for n in names])
    return _of_table(path, name, frame, True)


def _parquet(path: Path, name: str, content: bytes) -> list[Item]:
    """Columns of pixels, or a column of PNG images as on the Hugging Face hub."""
    import pandas as pd

    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except ImportError:
        wanted = "pyarrow, to read Parquet: pip install pyarrow pillow"
        raise DataError(path, wanted, "it is not installed") from None
    if "image" in frame.columns:
        from PIL import Image

        label = [c for c in frame.columns if str(c).lower() in LABEL_COLUMNS]
        images = [
            np.asarray(Image.open(io.BytesIO(cell["bytes"]), formats=["PNG"]))
            for cell in frame["image"]
        ]
        return [
            Item(f"{name}/images", np.stack(images)),
            *(Item(f"{name}/labels", frame[c].to_numpy()) for c in label[:1]),
        ]
    return _of_table(path, name, frame, True)


def _of_table(path: Path, name: str, frame: Any, named: bool) -> list[Item]:
    """Images and labels of a table; images alone if no column is the label's."""
    column = _label_column(path, frame, named)
    pixels = frame if column is None else frame.drop(columns=column)
    if pixels.shape[1] < 2:
        return []  # no images: names of files, say, or a submission
    x = pixels.to_numpy()
    if x.dtype.kind not in "uif" or (x.dtype.kind == "f" and np.isnan(x.sum())):
        wrong = [c for c in pixels if pixels[c].dtype.kind not in "uif"]
        found = f"something else in column {wrong[0]}" if wrong else "missing values"
        raise DataError(path, "numbers for pixels", found)
    items = [Item(f"{name}/images", x)]
    if column is not None:
        items.append(Item(f"{name}/labels", frame[column].to_numpy()))
    return items


def _label_column(path: Path, frame: Any, named: bool) -> Any:
    """By its name; without names the first or the last, whichever counts classes."""
    columns = list(frame.columns)
    if named:
        found = [c for c in columns if str(c).strip().lower() in LABEL_COLUMNS]
        if len(found) == 1:
            return found[0]
    if math.isqrt(len(columns)) ** 2 == len(columns):
        return None
    if math.isqrt(len(columns) - 1) ** 2 != len(columns) - 1:
        if len(columns) < 3:
            return None
        wanted = "a square of pixels and a label in each row, the label named or first"
        raise DataError(path, wanted, f"{len(columns)} columns")

    def counts(column: Any) -> bool:
        values = np.unique(frame[column].to_numpy())
        return len(values) > 1 and np.array_equal(
            values, np.arange(len(values)) + values[0]
        )

    ends = [c for c in (columns[0], columns[-1]) if counts(c)]
    if len(ends) != 1:
        wanted = "labels in the first column, or a column named label"
        raise DataError(path, wanted, f"{len(ends)} columns that could be labels")
    return ends[0]

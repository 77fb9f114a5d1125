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
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snn_jax import _pickles, tables
from snn_jax.sources import DataError, Item, Source

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
    "CSV": rf"({'|'.join(map(re.escape, tables.ENDINGS))})(\.gz)?$",
    "Parquet": r"\.parquet$",
    "ARFF": r"\.arff(\.gz)?$",
    "pickle": r"\.(pkl|pickle)(\.gz)?$",
    "archive": r"\.(zip|tar|tgz|tar\.gz)$",
}
EXPECTED = (
    "mnist.pkl.gz, an npz, IDX files, CSV, ARFF, Parquet, or a folder, zip or tar of "
    "these"
)


def read(path: Path) -> list[Item]:
    """All arrays of a file or folder.

    Raises:
        DataError: the file is missing, damaged, hostile or holds something else.
    """
    try:
        if path.is_dir():
            return list(_of_folder(path))
        content = _content(path)
        return list(_of_file(Source(path, len(content)), path.name, content))
    except OSError as error:
        found = error.strerror or str(error)
        raise DataError(path, "a readable file or folder", found) from None


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(path, "a file or folder", "something else, a pipe or a device")
    with path.open("rb") as file:
        head = file.read(300)
        # Before a large file is read: is there any use for it?
        _check_idx_size(path, head, path.stat().st_size)
        return head + file.read()


def _kind(name: str) -> int:
    """Which of ``KINDS`` a file is by its name, from 1; 0 if it is none or hidden."""
    parts = name.split("/")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return 0
    kinds = enumerate(KINDS.values(), start=1)
    return next((i for i, kind in kinds if re.search(kind, parts[-1].lower())), 0)


def _of_first_kind(names: Collection[str]) -> list[str]:
    """Of the files of a folder or archive those that count."""
    first = min(filter(None, map(_kind, names)), default=0)
    return [name for name in names if first and _kind(name) == first]


def _of_folder(folder: Path) -> Iterator[Item]:
    found = {
        path.relative_to(folder).as_posix(): path
        for pattern in ("*", "*/*", "*/*/*")
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }
    found = {name: path for name, path in found.items() if _kind(name)}
    if len(found) > MAX_FILES:
        raise DataError(
            folder, f"a folder of at most {MAX_FILES} data files", f"{len(found)}"
        )
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:6])
        raise DataError(
            folder,
            "a folder with data: train-images-idx3-ubyte and the like, npz, CSV, ..",
            there or "an empty folder",
        )
    chosen = _of_first_kind(found)
    for name in chosen:
        # Unpacked beside packed: one of the two.
        if name.endswith(".gz") and name.removesuffix(".gz") in chosen:
            continue
        content = _content(found[name])
        yield from _of_file(Source(found[name], len(content)), name, content)


def _of_file(
    source: Source, name: str, content: bytes, depth: int = 0, packed: bool = False
) -> Iterator[Item]:
    """The arrays of a file's content; source is what it came out of."""
    lower = name.lower()
    if content.startswith(GZIP):
        if packed:
            expected = "a file that is gzipped once"
            raise DataError(source.path, expected, "gzip inside gzip; unpack it once")
        name = re.sub(r"(?i)\.gz$", "", name)
        yield from _of_file(source, name, _gunzip(source, content), depth, True)
    elif content.startswith(ZIP):
        yield from _of_zip(source, name, content, depth)
    elif content[257:262] == b"ustar":
        yield from _of_tar(source, name, content, depth)
    elif content.startswith(NPY):
        yield Item(name, _guarded(source, "npy", lambda: _npy(source, name, content)))
    elif content.startswith(b"\0\0") and len(content) > 3:
        yield Item(name, _idx(source, content))
    elif content.startswith(PARQUET):
        yield from _guarded(
            source, "Parquet", lambda: tables.parquet(source, name, content)
        )
    elif content.startswith(PICKLE) and not re.search(KINDS["CSV"], lower):
        yield from _pickle(source, content)
    elif tables.is_arff(content):
        yield from _guarded(source, "ARFF", lambda: tables.arff(source, name, content))
    elif re.search(KINDS["CSV"], lower) or re.match(rb'["\w.,;\t -]+\r?\n', content):
        yield from _guarded(source, "CSV", lambda: tables.csv(source, name, content))
    else:
        magic = content[:4]
        found = f"a file that begins with {magic!r}" if magic else "an empty file"
        raise DataError(source.path, EXPECTED, found)


def _guarded(source: Source, what: str, make: Callable[[], Any]) -> Any:
    """What make gives; a damaged file can fail in any way."""
    try:
        return make()
    except (DataError, MemoryError):
        raise
    except Exception as error:
        message = str(error).split("\n")[0][:100] or type(error).__name__
        raise DataError(
            source.path, f"a whole {what} file", f"damage ({message})"
        ) from None


# --- packing ------------------------------------------------------------------------


def _gunzip(source: Source, content: bytes) -> bytes:
    """What is in a gzip file.

    It is unpacked once keeping nothing: bombs and damage show before memory is taken.
    """
    try:
        with gzip.open(io.BytesIO(content)) as file:
            while block := file.read(BLOCK_SIZE):
                source.take(len(block))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(source.path, "a whole gzip file", f"damage ({error})") from None
    return gzip.decompress(content)


def _of_zip(source: Source, name: str, content: bytes, depth: int) -> Iterator[Item]:
    def members() -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            source.take(sum(info.file_size for info in infos))
            _check_count(source, len(infos))
            for info in infos:
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    wanted = f"{info.filename} stored or deflated"
                    raise DataError(source.path, wanted, "another packing")
                with archive.open(info) as file:
                    yield info.filename, file.read(info.file_size)

    found = _guarded(source, "zip", lambda: list(members()))
    yield from _of_members(source, name, found, depth)


def _of_tar(source: Source, name: str, content: bytes, depth: int) -> Iterator[Item]:
    def members() -> Iterator[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            infos = [info for info in archive if info.isfile()]
            _check_count(source, len(infos))
            source.take(sum(info.size for info in infos))  # sparse ones are small
            for info in infos:
                file = archive.extractfile(info)
                yield info.name, file.read() if file else b""

    found = _guarded(source, "tar", lambda: list(members()))
    yield from _of_members(source, name, found, depth)


def _check_count(source: Source, count: int) -> None:
    if count > MAX_FILES:
        raise DataError(
            source.path, f"an archive of at most {MAX_FILES} files", f"{count}"
        )


def _of_members(
    source: Source, name: str, members: list[tuple[str, bytes]], depth: int
) -> Iterator[Item]:
    if depth >= MAX_DEPTH:
        raise DataError(source.path, "an archive of data", "archives in archives")
    if not members:
        raise DataError(source.path, "an archive of data", "an empty archive")
    chosen = _of_first_kind([member for member, _ in members])
    if not chosen:
        names = ", ".join(member for member, _ in members[:6])
        raise DataError(source.path, f"an archive of data: {EXPECTED}", names)
    for member, content in members:
        if member in chosen:
            inside = f"{name}/{member}".removesuffix(".npy")
            yield from _of_file(source, inside, content, depth + 1)


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


def _idx(source: Source, content: bytes) -> np.ndarray:
    """Bytes 0, 0, 8 (uint8), the number of dimensions, each size as int32, the data."""
    num_dims = content[3]
    start = 4 + 4 * num_dims
    if (
        not content.startswith(IDX_MAGIC)
        or not 1 <= num_dims <= 4
        or len(content) < start
    ):
        wanted = "an IDX file of bytes: 0, 0, 8, the number of dimensions, their sizes"
        raise DataError(source.path, wanted, f"{content[:16]!r}")
    _check_idx_size(source.path, content, len(content))
    shape = struct.unpack(f">{num_dims}I", content[4:start])
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _npy(source: Source, name: str, content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "uifbU":  # objects above all: they would be a pickle
        raise DataError(source.path, f"numbers in {name}", f"dtype {dtype}")
    return _array(source, content[file.tell() :], dtype, shape, fortran)


def _array(
    source: Source,
    content: bytes,
    dtype: np.dtype,
    shape: tuple[int, ...],
    fortran: bool,
) -> np.ndarray:
    """An array from its bytes, if there are as many as its shape needs."""
    expected = dtype.itemsize * math.prod(shape)
    if len(shape) > 4:
        wanted = "arrays of at most 4 dimensions, as images (n, 28, 28, 1)"
        raise DataError(source.path, wanted, f"{len(shape)}")
    if len(content) != expected or any(size < 0 for size in shape):
        raise DataError(
            source.path,
            f"{expected} bytes for shape {shape!s:.60} of {dtype}",
            f"{len(content)} bytes",
        )
    if dtype.itemsize == 0:
        raise DataError(source.path, "values of at least one byte", f"{dtype}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _pickle(source: Source, content: bytes) -> Iterator[Item]:
    try:
        found = _pickles.read(io.BytesIO(content), len(content))
        for name, raw in found:
            values = raw if isinstance(raw, np.ndarray) else _array(source, *raw)
            yield Item(name, values)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken program can fail in any way
        message = str(error)[:100] or type(error).__name__
        raise DataError(
            source.path,
            "a pickle of ((x, y), (x, y), (x, y)), of two pairs or of six arrays",
            f"another ({message})",
        ) from None

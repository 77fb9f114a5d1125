"""MNIST: the embedded data set, and readers for the files people have.

``load()`` gives all of MNIST without a network. ``load(path)`` reads

    mnist.pkl.gz             the assignment's file: a (gzipped) pickle of ((x, y), (x,
                             y), (x, y)) for train, valid and test, of Python 2 or 3
    a folder of IDX files    MNIST's own format, gzipped or not
    an npz                   with x_train, y_train, x_test, y_test

and any data set of that shape: images of 784 pixels, labels 0 to 9. Where a format has
no validation set, the last sixth of the training set is it: 10,000 of 60,000.

Files are not trusted. A file that is damaged, hostile or holds something else gives one
``DataError``; nothing in it is executed, and a small file cannot fill the memory.
"""

import gzip
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from snn_jax import _pickles
from snn_jax.datasets import Dataset, Split

EMBEDDED = Path(__file__).parent / "data" / "mnist.npz"
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
NUM_PIXELS = 784
NUM_CLASSES = 10

# MNIST compresses 5 : 1 as IDX and 14 : 1 as a pickle of float32; gzip reaches
# 1028 : 1. Up to FREE_SIZE bytes any ratio is harmless, above it a file that expands
# more than MAX_RATIO : 1 is taken for a bomb.
MAX_RATIO = 30
FREE_SIZE = 2**24
BLOCK_SIZE = 2**20
GZIP = b"\x1f\x8b"

Pair = tuple[np.ndarray, np.ndarray]


class DataError(ValueError):
    """A data file that cannot be used: where it is, what was expected and found."""

    def __init__(self, path: str | Path, expected: str, found: str) -> None:
        # What is found may come from the file: keep it short, and off the terminal.
        found = "".join(c if c.isprintable() else "?" for c in found[:160])
        super().__init__(f"{path}: expected {expected}, found {found}")


def load(path: str | Path | None = None) -> Dataset:
    """Reads a data set.

    Args:
        path: a file or folder as described at the top of this module; by default the
            embedded MNIST.

    Returns:
        The data set; pixels are scaled by 1/255 where the file holds bytes.

    Raises:
        DataError: the file is missing, damaged, hostile or holds something else.

    >>> [len(split.y) for split in load()]
    [50000, 10000, 10000]
    """
    path = EMBEDDED if path is None else Path(path)
    try:
        if path.is_dir():
            return _read_idx_folder(path)
        magic = _magic(path)
        if magic.startswith(b"PK\x03\x04"):
            return _read_npz(path)
        # Pickles of protocol 0 begin with "(", of protocol 2 and later with 0x80.
        if magic.startswith((GZIP, b"(", b"\x80")):
            return _read_pickle(path)
    except OSError as error:
        found = error.strerror or str(error)
        raise DataError(path, "a readable file or folder", found) from None
    except MemoryError:
        raise DataError(path, "data that fit in memory", "more") from None
    found = f"a file that begins with {magic!r}" if magic else "an empty file"
    raise DataError(path, "mnist.pkl.gz, an npz or a folder of IDX files", found)


def _check_split(path: Path, name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Raises a DataError unless these can be images and labels."""
    are_numbers = x.dtype.kind in "uif" and y.dtype.kind in "ui"
    are_rows = x.ndim > 1 and y.ndim == 1 and len(x) == len(y)
    if not (are_numbers and are_rows and x[:1].size == NUM_PIXELS):
        raise DataError(
            path,
            f"{name} images, numbers (n, {NUM_PIXELS}) or (n, 28, 28), and labels, "
            "integers (n,), n >= 1",
            f"{x.dtype} {x.shape} and {y.dtype} {y.shape}",
        )
    if y.min() < 0 or y.max() >= NUM_CLASSES:
        raise DataError(
            path,
            f"{name} labels from 0 to {NUM_CLASSES - 1}",
            f"{y.min()} to {y.max()}",
        )
    low, high = x.min(), x.max()  # NaN if there is one
    top = 1 if x.dtype.kind == "f" else 255
    if not (low >= 0 and high <= top):
        kind = "pixels in [0, 1]" if top == 1 else "pixels from 0 to 255"
        raise DataError(path, f"{name} {kind}", f"{low} to {high}")


def _dataset(path: Path, train: Pair, test: Pair, valid: Pair | None = None) -> Dataset:
    """Arrays in the package's form; all are checked before one is copied.

    The validation set is cut off the end of the training set if there is none.
    """
    for name, pair in (("train", train), ("valid", valid), ("test", test)):
        if pair is not None:
            _check_split(path, name, *pair)
    x, y = train
    if len(np.unique(y)) < 2:
        raise DataError(path, "training labels of two or more classes", "one class")
    if valid is None:
        num_train = len(y) - len(y) // 6
        if num_train == len(y):
            raise DataError(path, "at least 6 training images", f"{len(y)}")
        train, valid = (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])
    return Dataset(*(_split(x, y) for x, y in (train, valid, test)))


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    pixels = x.reshape(len(x), NUM_PIXELS).astype(np.float32)
    if x.dtype.kind != "f":
        pixels /= np.float32(255)
    return Split(pixels, y.astype(np.int32))


def _magic(path: Path) -> bytes:
    """The first four bytes of a file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(path, "a file or folder", "something else, a pipe or a device")
    with path.open("rb") as file:
        return file.read(4)


def _check_expansion(path: Path, name: str, size: int) -> None:
    on_disk = path.stat().st_size
    if size > max(FREE_SIZE, MAX_RATIO * on_disk):
        raise DataError(
            path,
            f"{name} that expands at most {MAX_RATIO} : 1",
            f"{size // max(on_disk, 1)} : 1 or more",
        )


def _open(path: Path) -> tuple[io.BufferedIOBase, int]:
    """A file's content, unpacked if gzipped, and its size.

    A gzip file is read to its end once, keeping nothing: bombs and damage show before
    memory is taken.
    """
    if not _magic(path).startswith(GZIP):
        return path.open("rb"), path.stat().st_size
    size = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(BLOCK_SIZE):
                size += len(block)
                _check_expansion(path, "a gzip file", size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, "a whole gzip file", f"damage ({error})") from None
    return gzip.open(path), size


def _read_idx_folder(folder: Path) -> Dataset:
    train, test = (
        (
            _read_idx(_idx_file(folder, f"{prefix}-images", 3), 3),
            _read_idx(_idx_file(folder, f"{prefix}-labels", 1), 1),
        )
        for prefix in ("train", "t10k")
    )
    return _dataset(folder, train, test)


def _idx_file(folder: Path, stem: str, num_dims: int) -> Path:
    for separator in "-.":  # some archives spell train-images.idx3-ubyte
        for suffix in ("", ".gz"):
            file = folder / f"{stem}{separator}idx{num_dims}-ubyte{suffix}"
            if file.exists():
                return file
    raise DataError(
        folder, f"{stem}-idx{num_dims}-ubyte, gzipped or not", "no such file"
    )


def _read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Bytes 0, 0, 8 (uint8), the number of dimensions, each size as int32, the data."""
    magic = bytes([0, 0, 8, num_dims])
    header_size = 4 + 4 * num_dims
    file, size = _open(path)
    with file:
        header = file.read(header_size)
        if header[:4] != magic or len(header) < header_size:
            raise DataError(
                path,
                f"an IDX file that begins with {magic!r} and {num_dims} sizes",
                f"{header!r}",
            )
        shape = struct.unpack(f">{num_dims}I", header[4:])
        expected = header_size + math.prod(shape)
        if size != expected:
            raise DataError(
                path, f"{expected} bytes for shape {shape}", f"{size} bytes"
            )
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def _read_npz(path: Path) -> Dataset:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in NPZ_ARRAYS:
                if f"{name}.npy" not in names:
                    found = ", ".join(names[:6]) or "an empty archive"
                    raise DataError(path, f"an array {name}", found)
            members = [archive.getinfo(f"{name}.npy") for name in NPZ_ARRAYS]
            _check_expansion(path, "an npz", sum(info.file_size for info in members))
            x_train, y_train, x_test, y_test = (
                _read_npy(path, archive, info) for info in members
            )
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise DataError(path, "a whole npz file", f"damage ({error})") from None
    return _dataset(path, (x_train, y_train), (x_test, y_test))


def _read_npy(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(path, f"{info.filename} stored or deflated", "another packing")
    with archive.open(info) as file:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, fortran, dtype = read_header(file)
        if dtype.kind not in "uif":  # objects above all: they would be a pickle
            raise DataError(path, f"numbers in {info.filename}", f"dtype {dtype}")
        # Whatever size the archive announces, no more is read than the array needs.
        num_bytes = dtype.itemsize * math.prod(shape)
        content = file.read(min(info.file_size, num_bytes + 1))
    return _array(path, content, dtype, shape, fortran)


def _array(
    path: Path, content: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool
) -> np.ndarray:
    """An array from its bytes, if there are as many as its shape needs."""
    expected = dtype.itemsize * math.prod(shape)
    if len(content) != expected or any(size < 0 for size in shape) or len(shape) > 3:
        raise DataError(
            path,
            f"{expected} bytes for shape {shape!s:.60} of {dtype}, 1 to 3 dimensions",
            f"{len(content)} bytes",
        )
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _read_pickle(path: Path) -> Dataset:
    file, size = _open(path)
    try:
        with file:
            pairs = _pickles.read(file, size)
        train, valid, test = ((_array(path, *x), _array(path, *y)) for x, y in pairs)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken program can fail in any way
        message = str(error)[:100] or type(error).__name__
        raise DataError(
            path,
            "a pickle of ((x, y), (x, y), (x, y)), arrays of numbers",
            f"another ({message})",
        ) from None
    return _dataset(path, train, test, valid)

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
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, NoReturn

import numpy as np

NUM_PIXELS = 784
NUM_CLASSES = 10

# MNIST compresses 5 : 1 as IDX and 10 : 1 as a pickle of float32, gzip reaches 1028 :
# 1. Below FREE_SIZE bytes any ratio is harmless, above it a file that expands more than
# MAX_RATIO : 1 is taken for a bomb.
MAX_RATIO = 100
FREE_SIZE = 2**24
BLOCK_SIZE = 2**20


class DataError(ValueError):
    """A data file that cannot be used: where it is, what was expected and found."""

    def __init__(self, path: str | Path, expected: str, found: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {found}")


class Split(NamedTuple):
    """Images x, (n, 784) float32 in [0, 1], and labels y, (n,) int32 in [0, 10)."""

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """A data set, split as in the assignment: for MNIST 50,000 / 10,000 / 10,000."""

    train: Split
    valid: Split
    test: Split


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
    if path is None:
        embedded = resources.files("snn_jax") / "data" / "mnist.npz"
        with resources.as_file(embedded) as file:
            return load(file)
    path = Path(path)
    try:
        if path.is_dir():
            return _read_idx_folder(path)
        with path.open("rb") as file:
            magic = file.read(4)
        if magic.startswith(b"PK\x03\x04"):
            return _read_npz(path)
        # Pickles of protocol 0 begin with "(", of protocol 2 and later with 0x80.
        if magic.startswith((b"\x1f\x8b", b"(", b"\x80")):
            return _read_pickle(path)
    except OSError as error:
        raise DataError(
            path, "a readable file or folder", error.strerror or str(error)
        ) from None
    except MemoryError:
        raise DataError(path, "data that fit in memory", "more") from None
    found = f"a file that begins with {magic!r}" if magic else "an empty file"
    raise DataError(path, "mnist.pkl.gz, an npz or a folder of IDX files", found)


def one_hot(y: np.ndarray, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """Labels as unit vectors: row i holds a 1 in column y[i] and 0 elsewhere.

    Args:
        y: (n,) integers in [0, num_classes).
        num_classes: K.

    Returns:
        (n, num_classes) float32.

    Raises:
        ValueError: a label out of range.

    >>> one_hot(np.array([2, 0]), num_classes=3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    y = np.asarray(y)
    if y.size and not (y.min() >= 0 and y.max() < num_classes):
        raise ValueError(
            f"labels: expected 0 to {num_classes - 1}, found {y.min()} to {y.max()}"
        )
    encoded: np.ndarray = y[:, None] == np.arange(num_classes)
    return encoded.astype(np.float32)


# --- checks on what was read
# -----------------------------------------------------------


def _split(path: Path, name: str, x: np.ndarray, y: np.ndarray) -> Split:
    """Images and labels in the package's form, or a DataError."""
    if x.dtype.kind not in "uif" or y.dtype.kind not in "ui":
        raise DataError(
            path,
            f"numbers as {name} images and integers as labels",
            f"dtypes {x.dtype} and {y.dtype}",
        )
    if x.ndim < 2 or y.ndim != 1 or x[:1].size != NUM_PIXELS or len(x) != len(y):
        raise DataError(
            path,
            f"{name} images (n, {NUM_PIXELS}) or (n, 28, 28) and labels (n,), n >= 1",
            f"shapes {x.shape} and {y.shape}",
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
    x = x.reshape(len(x), NUM_PIXELS).astype(np.float32)
    return Split(x / np.float32(255) if top == 255 else x, y.astype(np.int32))


def _dataset(path: Path, train_and_valid: Split, test: Split) -> Dataset:
    """Cuts the validation set off the end of the training set."""
    x, y = train_and_valid
    num_train = len(y) - len(y) // 6
    if num_train == len(y):
        raise DataError(path, "at least 6 training images", f"{len(y)}")
    return Dataset(
        Split(x[:num_train], y[:num_train]), Split(x[num_train:], y[num_train:]), test
    )


# --- bytes, without trusting their number
# ----------------------------------------------


def _check_expansion(path: Path, name: str, compressed: int, size: int) -> None:
    if size > max(FREE_SIZE, MAX_RATIO * compressed):
        raise DataError(
            path,
            f"{name} that expands at most {MAX_RATIO} : 1",
            f"more than {size // max(compressed, 1)} : 1",
        )


def _read_bytes(path: Path) -> bytes:
    """A file's content, unpacked if gzipped; checked to the end before it is kept."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if not zipped:
        return path.read_bytes()
    try:
        # The first pass keeps nothing: bombs and damage show before memory is taken.
        size, compressed = 0, path.stat().st_size
        with gzip.open(path) as file:
            while block := file.read(BLOCK_SIZE):
                size += len(block)
                _check_expansion(path, "a gzip file", compressed, size)
        with gzip.open(path) as file:
            return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, "a whole gzip file", f"damage ({error})") from None


# --- IDX
# -------------------------------------------------------------------------------


def _read_idx_folder(folder: Path) -> Dataset:
    splits = {}
    for name, prefix in (("train", "train"), ("test", "t10k")):
        x = _read_idx(_idx_file(folder, f"{prefix}-images", 3), 3)
        y = _read_idx(_idx_file(folder, f"{prefix}-labels", 1), 1)
        splits[name] = _split(folder, name, x, y)
    return _dataset(folder, splits["train"], splits["test"])


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
    content = _read_bytes(path)
    magic = bytes([0, 0, 8, num_dims])
    if content[:4] != magic:
        raise DataError(path, f"an IDX file with magic {magic!r}", f"{content[:4]!r}")
    header = 4 + 4 * num_dims
    if len(content) < header:
        raise DataError(
            path, f"an IDX header of {header} bytes", f"{len(content)} bytes"
        )
    shape = [int(size) for size in np.frombuffer(content, ">u4", num_dims, offset=4)]
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(
            path, f"{expected} bytes for shape {tuple(shape)}", f"{len(content)} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


# --- npz
# -------------------------------------------------------------------------------


def _read_npz(path: Path) -> Dataset:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                name: _read_npy(path, archive, f"{name}.npy")
                for name in ("x_train", "y_train", "x_test", "y_test")
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(path, "a whole npz file", f"damage ({error})") from None
    except RuntimeError as error:  # how zipfile says: encrypted
        raise DataError(path, "a plain npz file", str(error)) from None
    train = _split(path, "train", arrays["x_train"], arrays["y_train"])
    test = _split(path, "test", arrays["x_test"], arrays["y_test"])
    return _dataset(path, train, test)


def _read_npy(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if name not in archive.namelist():
        found = ", ".join(archive.namelist()[:6])
        raise DataError(path, f"an array {name}", f"{found or 'an empty archive'}")
    info = archive.getinfo(name)
    _check_expansion(path, name, info.compress_size, info.file_size)
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = read_header(file)
        except (ValueError, KeyError) as error:
            raise DataError(path, f"a NumPy array as {name}", f"{error}") from None
        if dtype.kind not in "uif":  # objects above all: they would be a pickle
            raise DataError(path, f"numbers in {name}", f"dtype {dtype}")
        content = file.read()
    return _array(path, content, dtype, shape, fortran)


def _array(
    path: Path, content: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool
) -> np.ndarray:
    """An array from its bytes, if there are as many as its shape needs."""
    expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(content) != expected or any(size < 0 for size in shape):
        raise DataError(
            path,
            f"{expected} bytes for shape {shape} of {dtype}",
            f"{len(content)} bytes",
        )
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


# --- pickle
# ----------------------------------------------------------------------------
#
# A pickle is a program. Ours runs with nothing to call but the four constructors below,
# which build an array from bytes and can do nothing else; NumPy's own are not among
# them, since they would take memory for any shape that the file asks for.


class _Constructor:
    """A function that a pickle may call, and may neither change nor look into."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it sets the attribute {name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("it sets the state of a function")


class _PickledDtype:
    """Stands for numpy.dtype(code), then state (version, byte order, ...)."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        if isinstance(code, bytes):
            code = code.decode("latin1")
        if code not in ("f4", "f8", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
            raise pickle.UnpicklingError(f"it holds values of dtype {code!r:.20}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds the byte order {order!r:.20}")
        self.dtype = self.dtype.newbyteorder(order)


class _PickledArray:
    """Stands for numpy.ndarray: its state or its buffer makes the array."""

    __slots__ = ("arguments",)

    def __init__(self, *_: Any) -> None:
        self.arguments: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.arguments = (content, dtype, shape, fortran)

    @classmethod
    def from_buffer(cls, buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
        """What NumPy calls in pickles of protocol 5."""
        array = cls()
        array.arguments = (buffer, dtype, shape, order == "F")
        return array

    def build(self, path: Path) -> np.ndarray:
        if not self.arguments:
            raise pickle.UnpicklingError("it holds an array without content")
        content, dtype, shape, fortran = self.arguments
        if isinstance(content, str):
            content = content.encode("latin1")
        if not (
            isinstance(content, bytes | bytearray)
            and isinstance(dtype, _PickledDtype)
            and isinstance(shape, tuple)
            and all(type(size) is int for size in shape)
        ):
            raise pickle.UnpicklingError("it holds an array of something else")
        return _array(path, bytes(content), dtype.dtype, shape, bool(fortran))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes in protocol 2, as text in latin1."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something other than latin1 text")
    return text.encode("latin1")


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickles tuples of arrays and nothing else. Exact names, never prefixes.

    Built on Python's unpickler in Python: the one in C makes room for any length and
    any memo index that a file announces, before it looks whether there is so much.
    """

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        content = self.read(size)  # type: ignore[attr-defined]
        self.append(bytearray(content))  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

    def find_class(self, module: str, name: str) -> Any:
        # numpy.core was renamed to numpy._core in NumPy 2.
        functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy.core.numeric", "_frombuffer"): _PickledArray.from_buffer,
            ("numpy._core.numeric", "_frombuffer"): _PickledArray.from_buffer,
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledDtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in functions:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Constructor(functions[module, name])

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to {pid!r:.20}, outside the file")


class _BoundedBytes(io.BytesIO):
    """Reads no more than there is: a pickle may announce any length."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.getbuffer().nbytes - self.tell():
            raise EOFError("it announces more bytes than it has")
        return super().read(size)


def _read_pickle(path: Path) -> Dataset:
    file: IO[bytes] = _BoundedBytes(_read_bytes(path))
    try:
        # latin1 is how NumPy's bytes survive from Python 2.
        content = _ArrayUnpickler(file, encoding="latin1").load()
        (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = content
        splits = [
            _split(path, name, x.build(path), y.build(path))
            for name, x, y in (
                ("train", train_x, train_y),
                ("valid", valid_x, valid_y),
                ("test", test_x, test_y),
            )
        ]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken program can fail in any way
        message = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            path,
            "a pickle of ((x, y), (x, y), (x, y)), arrays of numbers",
            f"another ({message:.120})",
        ) from None
    return Dataset(*splits)

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
import hashlib
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

NUM_PIXELS = 784
NUM_CLASSES = 10

# MNIST compresses 5 : 1 as IDX and 14 : 1 as a pickle of float32; gzip reaches
# 1028 : 1. Up to FREE_SIZE bytes any ratio is harmless, above it a file that expands
# more than MAX_RATIO : 1 is taken for a bomb.
MAX_RATIO = 30
FREE_SIZE = 2**24
BLOCK_SIZE = 2**20
GZIP = b"\x1f\x8b"
# A pickle of six arrays takes about a hundred operations.
MAX_OPERATIONS = 2000


class DataError(ValueError):
    """A data file that cannot be used: where it is, what was expected and found."""

    def __init__(self, path: str | Path, expected: str, found: str) -> None:
        # What is found may come from the file: keep it short, and off the terminal.
        found = "".join(c if c.isprintable() else "?" for c in found[:160])
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


def digest(dataset: Dataset) -> str:
    """SHA-256 of all images and labels, by which a run knows its data again."""
    found = hashlib.sha256()
    for split in dataset:
        for values in split:
            found.update(str((values.shape, values.dtype)).encode())
            found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


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


# --- checks on what was read --------------------------------------------------------


def _check_split(path: Path, name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Raises a DataError unless these can be images and labels."""
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


def _splits(
    path: Path, arrays: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, Split]:
    """Images and labels in the package's form; all are checked before one is copied."""
    for name, (x, y) in arrays.items():
        _check_split(path, name, x, y)
    if len(np.unique(arrays["train"][1])) < 2:
        raise DataError(path, "training labels of two or more classes", "one class")
    splits = {}
    for name, (x, y) in arrays.items():
        pixels = x.reshape(len(x), NUM_PIXELS).astype(np.float32)
        if x.dtype.kind != "f":
            pixels /= np.float32(255)
        splits[name] = Split(pixels, y.astype(np.int32))
    return splits


def _dataset(path: Path, splits: dict[str, Split]) -> Dataset:
    """Cuts the validation set off the end of the training set."""
    x, y = splits["train"]
    num_train = len(y) - len(y) // 6
    if num_train == len(y):
        raise DataError(path, "at least 6 training images", f"{len(y)}")
    return Dataset(
        Split(x[:num_train], y[:num_train]),
        Split(x[num_train:], y[num_train:]),
        splits["test"],
    )


# --- bytes, without trusting their number -------------------------------------------


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


# --- IDX ----------------------------------------------------------------------------


def _read_idx_folder(folder: Path) -> Dataset:
    arrays = {}
    for name, prefix in (("train", "train"), ("test", "t10k")):
        x = _read_idx(_idx_file(folder, f"{prefix}-images", 3), 3)
        y = _read_idx(_idx_file(folder, f"{prefix}-labels", 1), 1)
        arrays[name] = (x, y)
    return _dataset(folder, _splits(folder, arrays))


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
        if header[:4] != magic:
            raise DataError(
                path, f"an IDX file with magic {magic!r}", f"{header[:4]!r}"
            )
        if len(header) < header_size:
            raise DataError(path, f"a header of {header_size} bytes", f"{size} bytes")
        shape = struct.unpack(f">{num_dims}I", header[4:])
        expected = header_size + math.prod(shape)
        if size != expected:
            raise DataError(
                path, f"{expected} bytes for shape {shape}", f"{size} bytes"
            )
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


# --- npz ----------------------------------------------------------------------------


NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


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
    arrays = {"train": (x_train, y_train), "test": (x_test, y_test)}
    return _dataset(path, _splits(path, arrays))


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
        content = file.read(min(info.file_size, _num_bytes(shape, dtype) + 1))
    return _array(path, content, dtype, shape, fortran)


def _num_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(dtype.itemsize) * math.prod(shape)


def _array(
    path: Path, content: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool
) -> np.ndarray:
    """An array from its bytes, if there are as many as its shape needs."""
    expected = _num_bytes(shape, dtype)
    if len(content) != expected or any(size < 0 for size in shape) or len(shape) > 3:
        raise DataError(
            path,
            f"{expected} bytes for shape {shape!s:.60} of {dtype}, 1 to 3 dimensions",
            f"{len(content)} bytes",
        )
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


# --- pickle -------------------------------------------------------------------------
#
# A pickle is a program. Ours runs with nothing to call but the constructors below,
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
    CODES = tuple(f"{kind}{size}" for kind in "uif" for size in (1, 2, 4, 8))

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        # Only text is shown: the repr of nested tuples can be endless.
        if not isinstance(code, str) or code not in self.CODES:
            shown = code[:20] if isinstance(code, str) else type(code).__name__
            raise pickle.UnpicklingError(f"it holds values of dtype {shown}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds an unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


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


class _BoundedFile:
    """Reads no more than there is: a pickle may announce any length."""

    def __init__(self, file: io.BufferedIOBase, size: int) -> None:
        self.file = file
        self.left = size

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise EOFError("it announces more bytes than it has")
        self.left -= size
        return self.file.read(size)

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line


# What it takes to say six arrays in tuples or lists, in any protocol. There are no
# dictionaries among them: hashing nested tuples can take for ever.
_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE),
    *(pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1),
    *(pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.STRING, pickle.BINSTRING),
    *(pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES),
    *(pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.EMPTY_TUPLE, pickle.TUPLE),
    *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.LIST),
    *(pickle.APPEND, pickle.APPENDS, pickle.GLOBAL, pickle.STACK_GLOBAL),
    *(pickle.REDUCE, pickle.BUILD, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT),
    *(pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
)


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickles tuples of arrays and nothing else. Exact names, never prefixes.

    Built on Python's unpickler in Python: the one in C makes room for any length and
    any memo index that a file announces, before it looks whether there is so much.
    """

    def __init__(self, file: _BoundedFile) -> None:
        # latin1 is how NumPy's bytes survive from Python 2.
        super().__init__(file, encoding="latin1")
        self.num_operations = 0
        self.bytes_to_encode = file.left

    def count(self) -> None:
        self.num_operations += 1
        if self.num_operations > MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"it takes over {MAX_OPERATIONS} operations")

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        content = self.read(size)  # type: ignore[attr-defined]
        self.append(bytearray(content))  # type: ignore[attr-defined]

    def refuse(self) -> NoReturn:
        raise pickle.UnpicklingError("it does more than make arrays")

    def encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """How Python 3 writes bytes in protocol 2, as text in latin1."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("it encodes something other than latin1 text")
        self.bytes_to_encode -= len(text)  # one text can be encoded many times
        if self.bytes_to_encode < 0:
            raise pickle.UnpicklingError("it makes more bytes than it has")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        # numpy.core was renamed to numpy._core in NumPy 2.
        functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy.core.numeric", "_frombuffer"): _PickledArray.from_buffer,
            ("numpy._core.numeric", "_frombuffer"): _PickledArray.from_buffer,
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledDtype,
            ("_codecs", "encode"): self.encode,
        }
        if (module, name) not in functions:
            raise pickle.UnpicklingError(f"it asks for {module[:60]}.{name[:60]}")
        return _Constructor(functions[module, name])


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def operation(unpickler: _ArrayUnpickler) -> None:
        unpickler.count()
        load(unpickler)

    return operation


_ArrayUnpickler.dispatch = {
    code: _counted(load) if bytes([code]) in _OPCODES else _ArrayUnpickler.refuse
    for code, load in pickle._Unpickler.dispatch.items()
} | {pickle.BYTEARRAY8[0]: _counted(_ArrayUnpickler.load_bytearray8)}


def _read_pickle(path: Path) -> Dataset:
    file, size = _open(path)
    try:
        with file:
            content = _ArrayUnpickler(_BoundedFile(file, size)).load()
        train, valid, test = content
        arrays = {
            name: (x.build(path), y.build(path))
            for name, (x, y) in (("train", train), ("valid", valid), ("test", test))
        }
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a broken program can fail in any way
        message = str(error)[:100] or type(error).__name__
        raise DataError(
            path,
            "a pickle of ((x, y), (x, y), (x, y)), arrays of numbers",
            f"another ({message})",
        ) from None
    return Dataset(**_splits(path, arrays))

"""Arrays out of pickles that nobody vouches for.

A pickle is a program. Ours runs with nothing to call but the constructors below, which
note what an array is said to be and can do nothing else; NumPy's own are not among
them, since they would take memory for any shape that the file asks for.
"""

import io
import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np

# A pickle of six arrays takes about a hundred operations. A label that is a NumPy
# number may take a few more; whole numbers in a list are not counted.
MAX_OPERATIONS = 2000
OPERATIONS_A_NUMBER = 24
SPLITS = ("train", "valid", "test")


class RawArray(NamedTuple):
    """What a file says of an array, and its bytes: whether they fit is not checked."""

    content: bytes
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool


def read(file: io.BufferedIOBase, size: int) -> list[tuple[str, RawArray | np.ndarray]]:
    """The arrays of a pickle ((x, y), (x, y), (x, y)), named train/x, train/y, ..

    Two pairs are train and test; six or four arrays are x, y, x, y, .. or all x and
    then all y. Labels may be a list of numbers.

    Args:
        file: open at the beginning of the pickle.
        size: of the file, in bytes, beyond which nothing is read.

    Raises:
        pickle.UnpicklingError: it does or holds anything else. A broken program can
            also fail in any other way.
    """
    found = _ArrayUnpickler(_BoundedFile(file, size)).load()
    if not isinstance(found, tuple | list) or len(found) not in (2, 3, 4, 6):
        raise pickle.UnpicklingError("it holds something else than pairs of arrays")
    if len(found) in (4, 6) and isinstance(found[0], _PickledArray):
        half = len(found) // 2
        parts = [_values(part) for part in found]
        # x, x, x, y, y, y: the second is like the first.
        blocks = parts[1].shape[1:] == parts[0].shape[1:]
        xs, ys = (parts[:half], parts[half:]) if blocks else (parts[::2], parts[1::2])
    else:
        if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in found):
            raise pickle.UnpicklingError("it holds something else than pairs (x, y)")
        xs, ys = zip(*((_values(x), _values(y)) for x, y in found), strict=True)
    names = SPLITS if len(xs) == 3 else ("train", "test")
    if len(names) != len(xs):
        raise pickle.UnpicklingError(f"it holds {len(xs)} pairs")
    return [
        (f"{name}/{role}", values)
        for name, x, y in zip(names, xs, ys, strict=True)
        for role, values in (("x", x), ("y", y))
    ]


def _values(part: Any) -> "RawArray | np.ndarray":
    """An array, or the labels of a list of numbers."""
    if isinstance(part, _PickledArray):
        return part.raw()
    if isinstance(part, list | tuple) and part:
        if all(isinstance(value, _PickledScalar) for value in part):
            part = [value.number() for value in part]
        if all(type(value) in (int, bool) and abs(value) < 2**31 for value in part):
            return np.array(part, np.int64)
    raise pickle.UnpicklingError("it holds something else than arrays")


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
        # Only text is shown: the repr of nested tuples can be endless.
        if not isinstance(code, str) or code not in self.CODES:
            shown = code[:20] if isinstance(code, str) else type(code).__name__
            raise pickle.UnpicklingError(f"it holds values of dtype {shown}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds an unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _PickledScalar:
    """Stands for numpy.int64(..) and the like, as NumPy pickles them."""

    __slots__ = ("content", "dtype")

    def __init__(self, dtype: Any, content: Any) -> None:
        self.dtype, self.content = dtype, content

    def number(self) -> int:
        """Its value, a whole number."""
        content = self.content
        if isinstance(content, str):
            content = content.encode("latin1")
        if not (isinstance(self.dtype, _PickledDtype) and isinstance(content, bytes)):
            raise pickle.UnpicklingError("it holds a number of something else")
        dtype = self.dtype.dtype
        if dtype.kind not in "ui" or len(content) != dtype.itemsize:
            raise pickle.UnpicklingError("it holds labels that are no whole numbers")
        return int(np.frombuffer(content, dtype)[0])


class _PickledArray:
    """Stands for numpy.ndarray: keeps what its state or its buffer says."""

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

    def raw(self) -> RawArray:
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
        return RawArray(bytes(content), dtype.dtype, shape, bool(fortran))


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

    def scalar(self, *args: Any) -> "_PickledScalar":
        self.num_operations -= OPERATIONS_A_NUMBER
        return _PickledScalar(*args)

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
            ("numpy.core.multiarray", "scalar"): self.scalar,
            ("numpy._core.multiarray", "scalar"): self.scalar,
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


# What lists of whole numbers are made of: as many as there are bytes do no harm.
_FREE = (pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.APPEND)


def _allowed(code: int, load: Callable[[Any], None]) -> Callable[[Any], None]:
    """What happens at an opcode."""
    if bytes([code]) in _FREE:
        return load
    return _counted(load) if bytes([code]) in _OPCODES else _ArrayUnpickler.refuse


_ArrayUnpickler.dispatch = {
    code: _allowed(code, load) for code, load in pickle._Unpickler.dispatch.items()
} | {pickle.BYTEARRAY8[0]: _counted(_ArrayUnpickler.load_bytearray8)}

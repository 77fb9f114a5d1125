"""Pickles of arrays are read whoever wrote them, and none can do harm."""

import builtins
import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from test_mnist import GOOD, Hostile, X, Y, floats, pickled, refused

from snn_jax import mnist
from snn_jax.datasets import Dataset, Split

HERE = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["python2_protocol0", "python2_protocol2"])
def test_reads_the_assignments_pickle(name: str, dataset: Dataset) -> None:
    """Python 2 wrote pixel / 256; the same images are embedded as pixel / 255."""
    read = mnist.load(HERE / f"{name}.pkl.gz")
    for mine, whole in zip(read, dataset, strict=True):
        n = len(mine.y)
        np.testing.assert_array_equal(mine.y, whole.y[:n])
        np.testing.assert_array_equal(np.rint(mine.x * 256), np.rint(whole.x[:n] * 255))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("packed", [False, True])
def test_reads_pickles_of_python_3(
    protocol: int, packed: bool, tmp_path: Path, dataset: Dataset
) -> None:
    few = [Split(x[:20], y[:20].astype(np.int64)) for x, y in dataset]
    content = pickle.dumps(tuple(map(tuple, few)), protocol=protocol)
    path = tmp_path / "mnist.pkl"
    path.write_bytes(gzip.compress(content) if packed else content)
    for mine, expected in zip(mnist.load(path), few, strict=True):
        np.testing.assert_array_equal(mine.x, expected.x)
        np.testing.assert_array_equal(mine.y, expected.y)


BROKEN_PICKLES: dict[str, bytes] = {
    "cut": GOOD[: len(GOOD) // 2],
    "without an end": GOOD[:-1],
    "of a number": pickle.dumps(3),
    "of one split": pickled((X, Y)),
    "of four splits": pickled((X, Y), (X, Y), (X, Y), (X, Y)),
    "of five arrays": pickled(X, Y, X, Y, X),
    "of a split of three": pickled((X, Y, Y), (X, Y), (X, Y)),
    "of lists": pickled(([1.0], [1]), ([1.0], [1]), ([1.0], [1])),
    "of objects": pickled((X.astype(object), Y), (X, Y), (X, Y)),
    "of text": pickled((X.astype(str), Y), (X, Y), (X, Y)),
    "of complex": pickled((X.astype(complex), Y), (X, Y), (X, Y)),
    "of fractions for labels": pickled((X, Y + 0.5), (X, Y), (X, Y)),
    "of NumPy floats for labels": pickled((X, [np.float64(1)] * 12), (X, Y), (X, Y)),
    "of NaN": pickled((floats(np.nan), Y), (X, Y), (X, Y)),
    "of infinity": pickled((X, Y), (floats(np.inf), Y), (X, Y)),
    "of pixels to 100": pickled((X * 100, Y), (X, Y), (X, Y)),
    "of negative pixels": pickled((X, Y), (X, Y), (-X, Y)),
    "of label 10": pickled((X, Y), (X, Y + 1), (X, Y)),
    "of label -1": pickled((X, Y - 1), (X, Y), (X, Y)),
    "of fewer labels": pickled((X, Y[:-1]), (X, Y), (X, Y)),
    "of no images": pickled((X[:0], Y[:0]), (X, Y), (X, Y), protocol=4),
    "of 783 pixels": pickled((X[:, 1:], Y), (X, Y), (X, Y)),
    "of a scalar": pickled((X, np.int64(3)), (X, Y), (X, Y)),
    "of two-hot labels": pickled((X, 2 * np.eye(12)), (X, Y), (X, Y)),
}


@pytest.mark.parametrize("name", BROKEN_PICKLES)
def test_broken_pickle(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN_PICKLES[name])
    refused(path)


def call(module: str, name: str, argument: bytes = b"S'x'\n") -> bytes:
    """A pickle, protocol 2, that calls one function."""
    return PROTO + f"c{module}\n{name}\n(".encode() + argument + b"tR."


PROTO = b"\x80\x02"
RECONSTRUCT = PROTO + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"

MANY_PAIRS = b"q\x00h\x00\x86" * 60  # ((..), (..)), 60 deep, of two to the 60 leaves
MORE = "it does more than make arrays"
# Each with the reason for which it must be refused: others would be found too late.
HOSTILE_PICKLES: dict[str, tuple[bytes, str]] = {
    "reduce": (pickle.dumps(Hostile()), "builtins.exec"),
    "reduce among arrays": (
        pickled((Hostile(), Y), (X, Y), (X, Y)),
        "__builtin__.exec",
    ),
    "reduce.gz": (gzip.compress(pickle.dumps(Hostile())), "builtins.exec"),
    "system": (call("os", "system"), "os.system"),
    "exec": (call("builtins", "exec"), "builtins.exec"),
    "getattr": (call("builtins", "getattr"), "builtins.getattr"),
    "eval of Python 2": (call("__builtin__", "eval"), "__builtin__.eval"),
    "numpy.load": (call("numpy", "load"), "numpy.load"),
    "numpy runstring": (
        call("numpy.testing._private.utils", "runstring"),
        "numpy.testing._private.utils.runstring",
    ),
    "prefix": (
        call("numpy.core.multiarray.os", "system"),
        "numpy.core.multiarray.os.system",
    ),
    "dots in a name": (call("numpy", "ndarray.tofile"), "numpy.ndarray.tofile"),
    "pickle in a pickle": (call("pickle", "loads"), "pickle.loads"),
    "the package itself": (call("snn_jax.mnist", "load"), "snn_jax.mnist.load"),
    "instance": (b"(S'x'\nios\nsystem\n.", MORE),
    "persistent id": (PROTO + b"Pid\n.", MORE),
    "state of a function": (
        PROTO + b"c_codecs\nencode\n(S'_function'\nI1\ntb.",
        "it sets the state of a function",
    ),
    "attributes of a function": (
        PROTO + b"c_codecs\nencode\n}S'_function'\nI1\nsb.",
        MORE,
    ),
    "attribute of a class": (PROTO + b"cnumpy\nndarray\n(NNtb.", "sets the state"),
    "huge array": (
        RECONSTRUCT + b"(L100000000000L\ntS'b'\ntR.",
        "something else than pairs",
    ),
    "huge shape": (
        RECONSTRUCT
        + b"(I0\ntS'b'\ntR(I1\n(L1000000000000L\ntcnumpy\ndtype\n"
        + b"(S'f4'\nI0\nI1\ntRI0\nS'x'\ntbq\x00h\x00\x86q\x01h\x01h\x01\x87.",
        "found 1 bytes",
    ),
    "huge memo": (PROTO + b"Nr\xff\xff\xff\x0f.", "something else than pairs"),
    "huge string": (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.", "announces"),
    "huge bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.", "announces"),
    "endless hash": (PROTO + b"})" + MANY_PAIRS + b"Ns.", MORE),
    "endless name": (PROTO + b")" + MANY_PAIRS + b"Q.", MORE),
    "endless dtype": (
        PROTO + b"cnumpy\ndtype\n)" + MANY_PAIRS + b"\x85R.",
        "dtype tuple",
    ),
    "many empty lists.gz": (
        gzip.compress(PROTO + b"]" * 1_000_000 + b".", 1),
        "it takes over 2000 operations",
    ),
    "many dictionaries.gz": (gzip.compress(PROTO + b"}" * 400_000 + b".", 1), MORE),
    "one text encoded many times": (
        PROTO
        + b"X"
        + struct.pack("<I", 2**20)
        + b"a" * 2**20
        + b"q\x00c_codecs\nencode\nq\x01"
        + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 90
        + b".",
        "it makes more bytes than it has",
    ),
    "escape sequences": (PROTO + b"c\x1b[31mred\nx\n.", "it asks for ?[31mred.x"),
    "a long module name": (PROTO + b"c" + b"x" * 2**22 + b"\nx\n.", "asks for xxx"),
}


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_hostile_pickle(name: str, tmp_path: Path) -> None:
    """Refused in time, for what is hostile in it; nothing is executed."""
    content, reason = HOSTILE_PICKLES[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert reason in refused(path)


def test_the_bad_pickles_would_do_harm() -> None:
    """That the hostile pickle is one: the standard library executes it."""
    pickle.loads(HOSTILE_PICKLES["reduce"][0])
    assert builtins.SNN_JAX_WAS_HERE  # type: ignore[attr-defined]
    del builtins.SNN_JAX_WAS_HERE  # type: ignore[attr-defined]

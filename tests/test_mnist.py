"""The embedded data are MNIST, and no file can do more harm than a DataError."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_jax import mnist

HERE = Path(__file__).parent / "data"
NAMES = (
    "train-images-idx3",
    "train-labels-idx1",
    "t10k-images-idx3",
    "t10k-labels-idx1",
)


def idx(array: np.ndarray) -> bytes:
    """MNIST's own format, written from its specification."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def embedded_idx() -> dict[str, bytes]:
    """The four IDX files, from the embedded archive."""
    with np.load(Path(mnist.__file__).parent / "data" / "mnist.npz") as archive:
        arrays = (archive[name] for name in ("x_train", "y_train", "x_test", "y_test"))
        return {name: idx(array) for name, array in zip(NAMES, arrays, strict=True)}


def test_embedded_data_are_the_published_files() -> None:
    """SHA-256 of the uncompressed IDX files, as published with MNIST."""
    published = {
        "train-images-idx3": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    }
    files = embedded_idx()
    assert {n: hashlib.sha256(c).hexdigest() for n, c in files.items()} == published


def test_split_and_types(dataset: mnist.Dataset) -> None:
    assert [split.x.shape for split in dataset] == [
        (50000, 784),
        (10000, 784),
        (10000, 784),
    ]
    for x, y in dataset:
        assert x.dtype == np.float32
        assert y.dtype == np.int32
        assert x.min() == 0
        assert x.max() == 1
    # MNIST's first training labels, and the share of "1" in its test set.
    assert dataset.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert (dataset.test.y == 1).sum() == 1135


@pytest.mark.parametrize("name", ["python2_protocol0", "python2_protocol2"])
def test_reads_the_assignments_pickle(name: str, dataset: mnist.Dataset) -> None:
    """Python 2 wrote pixel / 256; the same images are embedded as pixel / 255."""
    read = mnist.load(HERE / f"{name}.pkl.gz")
    for mine, whole in zip(read, dataset, strict=True):
        n = len(mine.y)
        np.testing.assert_array_equal(mine.y, whole.y[:n])
        np.testing.assert_array_equal(np.rint(mine.x * 256), np.rint(whole.x[:n] * 255))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("packed", [False, True])
def test_reads_pickles_of_python_3(
    protocol: int, packed: bool, tmp_path: Path, small: mnist.Dataset
) -> None:
    content = pickle.dumps(
        tuple((x, y.astype(np.int64)) for x, y in small), protocol=protocol
    )
    path = tmp_path / "mnist.pkl"
    path.write_bytes(gzip.compress(content) if packed else content)
    for mine, expected in zip(mnist.load(path), small, strict=True):
        np.testing.assert_array_equal(mine.x, expected.x)
        np.testing.assert_array_equal(mine.y, expected.y)


@pytest.mark.parametrize("suffix", ["-ubyte", "-ubyte.gz"])
@pytest.mark.parametrize("separator", ["-", "."])
def test_reads_a_folder_of_idx_files(
    suffix: str, separator: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Of any number of images; the last sixth of the training set is for validation."""
    x, y = rng.integers(0, 256, (18, 28, 28)), rng.integers(0, 10, 18)
    for name, content in zip(NAMES, map(idx, (x, y, x[:5], y[:5])), strict=True):
        stem, kind = name.rsplit("-", 1)
        packed = gzip.compress(content) if suffix.endswith("gz") else content
        (tmp_path / f"{stem}{separator}{kind}{suffix}").write_bytes(packed)
    read = mnist.load(tmp_path)
    assert [len(split.y) for split in read] == [15, 3, 5]
    pixels = np.concatenate([read.train.x, read.valid.x])
    np.testing.assert_array_equal(pixels, x.reshape(18, 784).astype(np.float32) / 255)
    np.testing.assert_array_equal(read.test.y, y[:5])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_an_npz(
    dtype: Any, save: Callable[..., None], tmp_path: Path, rng: np.random.Generator
) -> None:
    """Integers are pixels from 0 to 255, floats pixels in [0, 1]."""
    x, y = rng.integers(0, 256, (12, 28, 28)), rng.integers(0, 10, 12)
    is_float = np.dtype(dtype).kind == "f"
    images = (x / 255 if is_float else x).astype(dtype)
    flat = np.asfortranarray(images.reshape(12, 784))
    path = tmp_path / "fashion.npz"
    save(path, x_train=images, y_train=y, x_test=flat, y_test=y)
    read = mnist.load(path)
    np.testing.assert_allclose(read.test.x, x.reshape(12, 784) / 255, rtol=1e-6, atol=0)
    assert [len(split.y) for split in read] == [10, 2, 12]


def test_one_hot_refuses_labels_out_of_range() -> None:
    np.testing.assert_array_equal(mnist.one_hot(np.arange(10)), np.eye(10))
    for label in (-1, 10):
        with pytest.raises(ValueError, match="expected 0 to 9"):
            mnist.one_hot(np.array([3, label]))


# --- files that must be refused
# --------------------------------------------------------


def arrays(**changes: Any) -> dict[str, Any]:
    """A valid small data set, with changes."""
    x = np.linspace(0, 1, 12 * 784, dtype=np.float32).reshape(12, 784)
    y = np.arange(12) % 10
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | changes


def npz(**changes: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{k: v for k, v in arrays(**changes).items() if v is not None})
    return file.getvalue()


def zipped(name: str, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A valid npz in which one member's bytes are replaced."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for key, value in arrays().items():
            member = io.BytesIO()
            np.save(member, value)
            data = content if f"{key}.npy" == name else member.getvalue()
            archive.writestr(f"{key}.npy", data)
    return file.getvalue()


def npy_header(shape: str, dtype: str = "'|u1'") -> bytes:
    return npy_text(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}")


def npy_text(header: str) -> bytes:
    text = header.ljust(117)
    return (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"
    )


def pickled(*splits: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(splits, protocol=protocol)


def pair(**changes: Any) -> tuple[Any, Any]:
    values = arrays(**changes)
    return values["x_train"], values["y_train"]


def floats(value: float) -> np.ndarray:
    x: np.ndarray = arrays()["x_train"].copy()
    x[3, 5] = value
    return x


class Hostile:
    """A pickle that would leave a trace if it were executed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import builtins; builtins.SNN_JAX_WAS_HERE = True",)


def call(module: str, name: str, argument: bytes = b"S'x'\n") -> bytes:
    """A pickle, protocol 0, that calls one function."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(" + argument + b"tR."


X, Y = pair()
GOOD = pickled((X, Y), (X, Y), (X, Y))
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"

BAD_FILES: dict[str, bytes] = {
    # not a data file at all
    "empty": b"",
    "html.pkl.gz": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "text": b"hello",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "idx outside of a folder": idx(np.zeros((2, 28, 28))),
    # gzip
    "gzip cut.gz": gzip.compress(GOOD)[:-100],
    "gzip cut in its header.gz": gzip.compress(GOOD)[:6],
    "gzip wrong checksum.gz": gzip.compress(GOOD)[:-8] + bytes(8),
    "gzip flipped.gz": gzip.compress(GOOD)[:400] + b"\xff" + gzip.compress(GOOD)[401:],
    "gzip of html.gz": gzip.compress(b"<html></html>"),
    "gzip bomb.gz": gzip.compress(b"(" + bytes(2**30), compresslevel=1),
    "gzip bomb in a pickle string.gz": gzip.compress(
        b"\x80\x02T" + struct.pack("<i", 2**28) + bytes(2**28) + b".", compresslevel=1
    ),
    # pickles: broken
    "pickle cut": GOOD[: len(GOOD) // 2],
    "pickle without an end": GOOD[:-1],
    "pickle of a number": pickle.dumps(3),
    "pickle of two splits": pickled((X, Y), (X, Y)),
    "pickle of a split of three": pickled((X, Y, Y), (X, Y), (X, Y)),
    "pickle of lists": pickled(([1.0], [1]), ([1.0], [1]), ([1.0], [1])),
    "pickle of objects": pickled((X.astype(object), Y), (X, Y), (X, Y)),
    "pickle of text": pickled((X.astype(str), Y), (X, Y), (X, Y)),
    "pickle of complex": pickled((X.astype(complex), Y), (X, Y), (X, Y)),
    "pickle of float labels": pickled((X, Y.astype(float)), (X, Y), (X, Y)),
    "pickle of NaN": pickled((floats(np.nan), Y), (X, Y), (X, Y)),
    "pickle of infinity": pickled((X, Y), (floats(np.inf), Y), (X, Y)),
    "pickle of unscaled floats": pickled((X * 255, Y), (X, Y), (X, Y)),
    "pickle of negative pixels": pickled((X, Y), (X, Y), (-X, Y)),
    "pickle of label 10": pickled((X, Y), (X, Y + 1), (X, Y)),
    "pickle of label -1": pickled((X, Y - 1), (X, Y), (X, Y)),
    "pickle of fewer labels": pickled((X, Y[:-1]), (X, Y), (X, Y)),
    "pickle of no images": pickled((X[:0], Y[:0]), (X, Y), (X, Y)),
    "pickle of 783 pixels": pickled((X[:, 1:], Y), (X, Y), (X, Y)),
    "pickle of a scalar": pickled((X, np.int64(3)), (X, Y), (X, Y)),
    "pickle of one-hot labels": pickled((X, np.eye(12)), (X, Y), (X, Y)),
    # pickles: hostile
    "hostile reduce": pickle.dumps(Hostile()),
    "hostile reduce.gz": gzip.compress(pickle.dumps(((Hostile(), Y), (X, Y), (X, Y)))),
    "hostile system": call("os", "system"),
    "hostile exec": call("builtins", "exec"),
    "hostile getattr": call("builtins", "getattr"),
    "hostile eval of Python 2": call("__builtin__", "eval"),
    "hostile numpy.load": call("numpy", "load"),
    "hostile numpy runstring": call("numpy.testing._private.utils", "runstring"),
    "hostile prefix": call("numpy.core.multiarray.os", "system"),
    "hostile pickle in a pickle": call("pickle", "loads"),
    "hostile find_class": call("snn_jax.mnist", "load"),
    "hostile instance": b"(S'x'\nios\nsystem\n.",
    "hostile persistent id": b"Pid\n.",
    "hostile state of a function": b"c_codecs\nencode\n}S'_function'\nI1\nsb.",
    "hostile attribute of a class": b"cnumpy\nndarray\n(}}S'build'\nI1\nstb.",
    "huge array": RECONSTRUCT + b"(L100000000000L\ntS'b'\ntR.",
    "huge shape": RECONSTRUCT
    + b"(I0\ntS'b'\ntR(I1\n(L1000000000000L\ntcnumpy\ndtype\n"
    + b"(S'f4'\nI0\nI1\ntRI0\nS'x'\ntb.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\x0f.",
    "huge string": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",
    "endless hash": b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "endless name": b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"Q.",
    "endless dtype": b"\x80\x02cnumpy\ndtype\n)" + b"q\x00h\x00\x86" * 60 + b"\x85R.",
    "many empty lists.gz": gzip.compress(b"\x80\x02" + b"]" * 10_000_000 + b".", 1),
    "many dictionaries.gz": gzip.compress(b"\x80\x02" + b"}" * 400_000 + b".", 1),
    "one text encoded many times": b"\x80\x02X"
    + struct.pack("<I", 2**20)
    + b"a" * 2**20
    + b"q\x00c_codecs\nencode\nq\x01"
    + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 90
    + b".",
    "escape sequences": b"c\x1b[31mred\nx\n.",
    "a long module name": b"c" + b"x" * 2**22 + b"\nx\n.",
    # npz
    "npz header of an open bracket": zipped("x_train.npy", npy_text("(")),
    "npz header of bad indentation": zipped("x_train.npy", npy_text("  a\n b")),
    "npz header of mixed keys": zipped("x_train.npy", npy_text("{1: 2, 'a': 3}")),
    "npz header of unhashable keys": zipped("x_train.npy", npy_text("{[]: 1}")),
    "npz header of an empty dtype": zipped("x_train.npy", npy_header("(1,)", "()")),
    "npz of a hundred dimensions": zipped("x_train.npy", npy_header(str((1,) * 100))),
    "npz of nothing times a lot": zipped("x_train.npy", npy_header(f"(0, {10**30})")),
    "npz packed with LZMA": zipped("x_train.npy", npz(), zipfile.ZIP_LZMA),
    "npz packed with bzip2": zipped("x_train.npy", npz(), zipfile.ZIP_BZIP2),
    "npz of one class": npz(y_train=Y * 0),
    "npz cut": npz()[:-200],
    "npz cut to its first bytes": npz()[:40],
    "npz flipped": npz()[:5000] + b"\xff\xfe" + npz()[5002:],
    "npz without y_test": npz(y_test=None),
    "npz without arrays": npz(x_train=None, y_train=None, x_test=None, y_test=None),
    "npz of objects": npz(x_train=X.astype(object)),
    "npz of text": npz(y_train=Y.astype(str)),
    "npz of NaN": npz(x_train=floats(np.nan)),
    "npz of unscaled floats": npz(x_test=X * 255),
    "npz of pixel 256": npz(x_train=np.full((12, 784), 256)),
    "npz of label 10": npz(y_train=Y + 1),
    "npz of a flat image": npz(x_train=X.ravel()),
    "npz of four training images": npz(x_train=X[:4], y_train=Y[:4]),
    "npz with an empty member": zipped("x_train.npy", b""),
    "npz with a member of html": zipped("x_train.npy", b"<html></html>"),
    "npz that announces a terabyte": zipped("x_train.npy", npy_header("(2**40,)")),
    "npz of a huge shape": zipped("x_train.npy", npy_header(f"({2**40}, 784)")),
    "npz of a negative shape": zipped("x_train.npy", npy_header("(-1, 784)")),
    "npz with code in its header": zipped(
        "x_train.npy", npy_header("__import__('os').system('true')")
    ),
    "npz with an object dtype in its header": zipped(
        "x_train.npy", npy_header("(1, 784)", "'|O'") + pickle.dumps(Hostile())
    ),
    "npz bomb": zipped(
        "x_train.npy", npy_header(f"({2**18}, 784)") + bytes(2**18 * 784)
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str, tmp_path: Path) -> None:
    """One line with path, expected and found; nothing executed; memory bounded."""
    path = tmp_path / name
    path.write_bytes(BAD_FILES[name])
    tracemalloc.start()
    try:
        with pytest.raises(mnist.DataError) as caught:
            mnist.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert ", found " in message
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300
    assert peak < 64 * 2**20
    import builtins

    assert not hasattr(builtins, "SNN_JAX_WAS_HERE")


def test_the_bad_pickles_would_do_harm() -> None:
    """That the hostile pickle is one: the standard library executes it."""
    import builtins

    pickle.loads(BAD_FILES["hostile reduce"])
    assert builtins.SNN_JAX_WAS_HERE  # type: ignore[attr-defined]
    del builtins.SNN_JAX_WAS_HERE  # type: ignore[attr-defined]


def write_idx_folder(folder: Path, **changes: bytes | None) -> None:
    x, y = np.zeros((12, 28, 28)), np.arange(12) % 10
    contents = dict(zip(NAMES, map(idx, (x, y, x, y)), strict=True))
    for name in NAMES:
        content = changes.get(name.replace("-", "_"), contents[name])
        if content is not None:
            (folder / f"{name}-ubyte").write_bytes(content)


IMAGES, LABELS = idx(np.zeros((12, 28, 28))), idx(np.arange(12) % 10)
BAD_IDX: dict[str, dict[str, bytes | None]] = {
    "missing images": {"train_images_idx3": None},
    "missing labels": {"t10k_labels_idx1": None},
    "empty file": {"train_images_idx3": b""},
    "magic of labels": {"train_images_idx3": LABELS},
    "magic of float data": {"train_images_idx3": b"\0\0\x0d\3" + IMAGES[4:]},
    "header cut": {"train_images_idx3": IMAGES[:10]},
    "data cut": {"train_images_idx3": IMAGES[:-1]},
    "data too long": {"train_labels_idx1": LABELS + b"\0"},
    "sizes of a terabyte": {"train_images_idx3": IMAGES[:4] + b"\xff" * 12 + bytes(99)},
    "no images": {"t10k_images_idx3": idx(np.zeros((0, 28, 28)))},
    "images of 27 rows": {"train_images_idx3": idx(np.zeros((12, 27, 28)))},
    "fewer labels": {"train_labels_idx1": idx(np.arange(11) % 10)},
    "label 10": {"t10k_labels_idx1": idx(np.arange(12))},
    "gzip bomb": {"train_images_idx3": gzip.compress(bytes(2**28), 1)},
    "gzip cut": {"train_images_idx3": gzip.compress(IMAGES)[:-9]},
}


@pytest.mark.parametrize("name", BAD_IDX)
def test_bad_idx_folder(name: str, tmp_path: Path) -> None:
    write_idx_folder(tmp_path, **BAD_IDX[name])
    tracemalloc.start()
    try:
        with pytest.raises(mnist.DataError, match=r"expected .*, found ") as caught:
            mnist.load(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert peak < 64 * 2**20


def test_the_unchanged_idx_folder_is_good(tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    assert len(mnist.load(tmp_path).train.y) == 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(mnist.DataError, match="a pipe or a device"):
        mnist.load(tmp_path / "pipe")


def test_idx_size_is_checked_before_it_is_read(tmp_path: Path) -> None:
    """A gigabyte of nothing, for which the header has no use."""
    write_idx_folder(tmp_path)
    with (tmp_path / "train-images-idx3-ubyte").open("r+b") as file:
        file.truncate(2**30)
    tracemalloc.start()
    with pytest.raises(mnist.DataError, match=f"found {2**30} bytes"):
        mnist.load(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(mnist.DataError, match="No such file"):
        mnist.load(tmp_path / "nowhere.pkl.gz")
    with pytest.raises(mnist.DataError, match="train-images-idx3-ubyte"):
        mnist.load(tmp_path)


def check_mutation(
    folder: Path, which: bytes, place: float, replacement: bytes
) -> None:
    """Overwriting a few bytes anywhere gives a DataError or a well-formed data set."""
    start = int(place * len(which))
    path = folder / "data"
    path.write_bytes(which[:start] + replacement + which[start + len(replacement) :])
    try:
        read = mnist.load(path)
    except mnist.DataError:
        return
    for x, y in read:
        assert x.shape == (len(y), 784)
        assert 0 <= x.min() <= x.max() <= 1
        assert 0 <= y.min() <= y.max() <= 9


MUTATIONS = given(
    which=st.sampled_from([GOOD, pickled((X, Y), (X, Y), (X, Y), protocol=0), npz()]),
    place=st.floats(0, 1),
    replacement=st.binary(max_size=8),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@settings(max_examples=150, deadline=None, derandomize=True)
@MUTATIONS
def test_any_mutation_is_refused_or_read(
    folder: Path, which: bytes, place: float, replacement: bytes
) -> None:
    check_mutation(folder, which, place, replacement)


@pytest.mark.full
@settings(max_examples=10_000, deadline=None, derandomize=True)
@MUTATIONS
def test_ten_thousand_mutations(
    folder: Path, which: bytes, place: float, replacement: bytes
) -> None:
    check_mutation(folder, which, place, replacement)

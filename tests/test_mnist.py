"""The embedded data are MNIST, and no file can do more harm than a DataError."""

import builtins
import gzip
import hashlib
import io
import os
import pickle
import re
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
from snn_jax.datasets import Dataset

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


def test_the_embedded_data_are_the_published_files(dataset: Dataset) -> None:
    """SHA-256 of the uncompressed IDX files, as published with MNIST.

    The files are made of what is loaded: the last 10,000 of 60,000 training images are
    the validation set, and pixels are bytes / 255.
    """
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
    assert [len(split.y) for split in dataset] == [50000, 10000, 10000]
    for x, y in dataset:
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(x[:99], np.rint(255 * x[:99]) / np.float32(255))
    images = [(255 * x + 0.5).astype(np.uint8).reshape(-1, 28, 28) for x, _ in dataset]
    labels = [y for _, y in dataset]
    train = (np.concatenate(images[:2]), np.concatenate(labels[:2]))
    files = (*train, images[2], labels[2])
    found = [hashlib.sha256(idx(array)).hexdigest() for array in files]
    assert dict(zip(NAMES, found, strict=True)) == published


@pytest.mark.parametrize("suffix", ["-ubyte", "-ubyte.gz"])
@pytest.mark.parametrize("separator", ["-", "."])
def test_reads_a_folder_of_idx_files(
    suffix: str, separator: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Of any number of images; the last sixth of the training set is for validation."""
    x, y = rng.integers(0, 256, (18, 28, 28)), np.arange(18) % 10
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
    x, y = rng.integers(0, 256, (12, 28, 28)), np.arange(12) % 10
    is_float = np.dtype(dtype).kind == "f"
    images = (x / 255 if is_float else x).astype(dtype)
    flat = np.asfortranarray(images.reshape(12, 784))
    path = tmp_path / "fashion.npz"
    save(path, x_train=images, y_train=y, x_test=flat, y_test=y)
    read = mnist.load(path)
    np.testing.assert_allclose(read.test.x, x.reshape(12, 784) / 255, rtol=1e-6, atol=0)
    assert [len(split.y) for split in read] == [10, 2, 12]


# --- files that must be refused -----------------------------------------------------


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
    """A valid npz in which the bytes of one member, or of none, are replaced."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
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


X, Y = pair()
GOOD = pickled((X, Y), (X, Y), (X, Y))
PACKED = gzip.compress(GOOD)
# A gigabyte in 64 parts: what is unpacked from the parts of a gzip file is one content.
ZEROS = gzip.compress(bytes(2**24), 1) * 64
BAD_FILES: dict[str, bytes] = {
    # not a data file at all
    "empty": b"",
    "html.pkl.gz": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "text": b"hello",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "idx outside of a folder": idx(np.zeros((2, 28, 28))),
    # gzip
    "gzip cut.gz": PACKED[:-100],
    "gzip cut in its header.gz": PACKED[:6],
    "gzip wrong checksum.gz": PACKED[:-8] + bytes(8),
    "gzip flipped.gz": PACKED[:400] + b"\xff" + PACKED[401:],
    "gzip of html.gz": gzip.compress(b"<html></html>"),
    "gzip bomb.gz": gzip.compress(b"(") + ZEROS,
    "gzip bomb in a pickle string.gz": gzip.compress(
        b"\x80\x02T" + struct.pack("<i", 2**30)
    )
    + ZEROS
    + gzip.compress(b"."),
    # npz
    "npz header of an open bracket": zipped("x_train.npy", npy_text("(")),
    "npz header of bad indentation": zipped("x_train.npy", npy_text("  a\n b")),
    "npz header of mixed keys": zipped("x_train.npy", npy_text("{1: 2, 'a': 3}")),
    "npz header of unhashable keys": zipped("x_train.npy", npy_text("{[]: 1}")),
    "npz header of an empty dtype": zipped("x_train.npy", npy_header("(1,)", "()")),
    "npz of a hundred dimensions": zipped("x_train.npy", npy_header(str((1,) * 100))),
    "npz of nothing times a lot": zipped("x_train.npy", npy_header(f"(0, {10**30})")),
    "npz packed with LZMA": zipped("", b"", zipfile.ZIP_LZMA),
    "npz packed with bzip2": zipped("", b"", zipfile.ZIP_BZIP2),
    "npz of one class": npz(y_train=Y * 0),
    "npz cut": npz()[:-200],
    "npz cut to its first bytes": npz()[:40],
    "npz flipped": npz()[:5000] + b"\xff\xfe" + npz()[5002:],
    "npz without y_test": npz(y_test=None),
    "npz without arrays": npz(x_train=None, y_train=None, x_test=None, y_test=None),
    "npz of objects": npz(x_train=X.astype(object)),
    "npz of text for pixels": npz(x_train=X.astype(str)),
    "npz of NaN": npz(x_train=floats(np.nan)),
    "npz of unscaled floats": npz(x_test=X * 255),
    "npz of pixel 256": npz(x_train=np.full((12, 784), 256)),
    "npz of label 10": npz(y_train=Y + 1),
    "npz of a flat image": npz(x_train=X.ravel()),
    "npz of four training images": npz(x_train=X[:4], y_train=Y[:4]),
    "npz with an empty member": zipped("x_train.npy", b""),
    "npz with a member of html": zipped("x_train.npy", b"<html></html>"),
    "npz that announces a terabyte": zipped("x_train.npy", npy_header(f"({2**40},)")),
    "npz of a huge shape": zipped("x_train.npy", npy_header(f"({2**40}, 784)")),
    "npz of a negative shape": zipped("x_train.npy", npy_header("(-1, 784)")),
    "npz with code in its header": zipped(
        "x_train.npy", npy_header("__import__('os').system('true')")
    ),
    "npz with an object dtype in its header": zipped(
        "x_train.npy", npy_header("(1, 784)", "'|O'") + pickle.dumps(Hostile())
    ),
    "npz bomb": zipped(
        "x_train.npy", npy_header("(100000, 784)") + bytes(100_000 * 784)
    ),
}


def refused(path: Path) -> str:
    """What is said of a bad file: one line; little memory is taken, nothing run."""
    tracemalloc.start()
    try:
        with pytest.raises(mnist.DataError) as caught:
            mnist.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert re.match(rf"{re.escape(str(path))}\S*: expected .*, found ", message)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300
    assert peak < 64 * 2**20
    assert not hasattr(builtins, "SNN_JAX_WAS_HERE")
    return message


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(BAD_FILES[name])
    refused(path)


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
    "gzip bomb": {"train_images_idx3": ZEROS},
    "gzip cut": {"train_images_idx3": gzip.compress(IMAGES)[:-9]},
}


@pytest.mark.parametrize("name", BAD_IDX)
def test_bad_idx_folder(name: str, tmp_path: Path) -> None:
    write_idx_folder(tmp_path, **BAD_IDX[name])
    refused(tmp_path)


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
        assert y.min() >= 0  # a label that became 10 is one more class


def small_files() -> list[bytes]:
    """Of few pixels, so that mutations hit what describes them."""
    x, y = np.zeros((6, 784), np.uint8), np.arange(6, dtype=np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, x_train=x, y_train=y, x_test=x, y_test=y)
    splits = ((x[:2], y[:2]),) * 3
    return [*(pickled(*splits, protocol=p) for p in (0, 2, 5)), file.getvalue()]


MUTATIONS = given(
    which=st.sampled_from(small_files()),
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

"""Files as people have them: every layout gives the images and labels that went in."""

import gzip
import io
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_mnist import idx

from snn_jax import mnist

SIDE = 28
rng = np.random.default_rng(7)
# 60 and 12 images of bytes, labels in turn: the last sixth is like the whole.
X = rng.integers(0, 256, (72, SIDE, SIDE)).astype(np.uint8)
X[0, 0, 0] = 255
Y = (np.arange(72) % 10).astype(np.uint8)
TRAIN, TEST = slice(0, 60), slice(60, 72)
FLAT = X.reshape(72, -1)
ONE_HOT = np.eye(10)[Y]
IDX = {
    "train-images-idx3-ubyte": idx(X[TRAIN]),
    "train-labels-idx1-ubyte": idx(Y[TRAIN]),
    "t10k-images-idx3-ubyte": idx(X[TEST]),
    "t10k-labels-idx1-ubyte": idx(Y[TEST]),
}


def npz(names: str, x: Any = X, y: Any = Y) -> dict[str, bytes]:
    """One file with four arrays of these names: images and labels, train and test."""
    file = io.BytesIO()
    arrays = (x[TRAIN], y[TRAIN], x[TEST], y[TEST])
    np.savez_compressed(file, **dict(zip(names.split(), arrays, strict=True)))
    return {"data.npz": file.getvalue()}


def npz_of(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def csv(
    part: slice,
    header: bool = True,
    label: str = "label",
    last: bool = False,
    pixels_alone: bool = False,
) -> bytes:
    """As on Kaggle: the label and 784 pixels a row."""
    names = [label, *(f"pixel{i}" for i in range(FLAT.shape[1]))]
    rows = np.column_stack([Y[part], FLAT[part]])
    if last:
        names, rows = names[1:] + names[:1], np.roll(rows, -1, axis=1)
    rows = rows[:, 1:] if pixels_alone else rows
    lines = [",".join(map(str, row)) for row in rows.tolist()]
    return "\n".join([",".join(names)] * header + lines).encode() + b"\n"


def arff(part: slice) -> bytes:
    """As on OpenML: the class, quoted, behind the pixels."""
    head = ["% a comment", "@RELATION mnist"]
    head += [f"@ATTRIBUTE pixel{i} real" for i in range(1, FLAT.shape[1] + 1)]
    head += ["@ATTRIBUTE class {'0','1','2','3','4','5','6','7','8','9'}", "@DATA"]
    rows = [
        ",".join(map(str, x)) + f",'{y}'"
        for x, y in zip(FLAT[part].tolist(), Y[part], strict=True)
    ]
    return "\n".join(head + rows).encode()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"mnist/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def renamed(change: Callable[[str], str]) -> dict[str, bytes]:
    return {change(name): content for name, content in IDX.items()}


def imgs_and_labels(x: np.ndarray, y: np.ndarray) -> dict[str, bytes]:
    """One file an array, as of KMNIST."""
    return {
        "kmnist-train-imgs.npz": npz_of(arr_0=x[TRAIN]),
        "kmnist-train-labels.npz": npz_of(arr_0=y[TRAIN]),
        "kmnist-test-imgs.npz": npz_of(arr_0=x[TEST]),
        "kmnist-test-labels.npz": npz_of(arr_0=y[TEST]),
    }


PADDED = np.pad(X, ((0, 0), (2, 2), (2, 2)))
PAIRS = (X[TRAIN], Y[TRAIN]), (X[TEST], Y[TEST])
# By name: files, what is said of them, and the images that they hold if not X.
LAYOUTS: dict[str, tuple[dict[str, bytes], str]] = {
    "Keras npz": (npz("x_train y_train x_test y_test"), "pixels divided by 255"),
    "upper case": (npz("X_TRAIN Y_TRAIN X_TEST Y_TEST"), ""),
    "camel case": (npz("trainImages trainLabels testImages testLabels"), ""),
    "MedMNIST": (
        npz("train_images train_labels test_images test_labels", y=Y[:, None]),
        "",
    ),
    "two words in one": (npz("xtrain ytrain xtest ytest"), ""),
    "train_x": (npz("train_x train_y test_x test_y"), ""),
    "data and targets": (npz("train_data train_targets test_data test_targets"), ""),
    "channel last": (npz("x_train y_train x_test y_test", x=X[..., None]), ""),
    "channel first": (npz("x_train y_train x_test y_test", x=X[:, None]), ""),
    "32 x 32": (npz("x_train y_train x_test y_test", x=PADDED), ""),
    "floats to 255": (
        npz("x_train y_train x_test y_test", x=X.astype(np.float32)),
        "by 255",
    ),
    "16 bits": (npz("x_train y_train x_test y_test", x=X * np.uint16(257)), "by 65535"),
    "one-hot": (
        npz("x_train y_train x_test y_test", y=ONE_HOT),
        "one-hot labels of 10",
    ),
    "float labels": (npz("x_train y_train x_test y_test", y=Y.astype(float)), ""),
    "text labels": (npz("x_train y_train x_test y_test", y=Y.astype(str)), ""),
    "labels from 1": (
        npz("x_train y_train x_test y_test", y=Y + 1),
        "labels 1 to 10 taken",
    ),
    "npy files": (
        {
            "X_train.npy": npy(X[TRAIN]),
            "y_train.npy": npy(Y[TRAIN]),
            "X_test.npy": npy(X[TEST]),
            "y_test.npy": npy(Y[TEST]),
        },
        "",
    ),
    "one file an array": (imgs_and_labels(X, Y), ""),
    "IDX": (IDX, "validation: the last 10 training images"),
    "IDX in raw": (renamed(lambda name: f"MNIST/raw/{name}"), ""),
    "IDX, unpacked and packed": (
        IDX | {f"{n}.gz": gzip.compress(c) for n, c in IDX.items()},
        "",
    ),
    "IDX of EMNIST": (
        renamed(lambda n: "emnist-digits-" + n.replace("t10k", "test"))
        | {"a.txt": b"0"},
        "",
    ),
    "IDX in upper case": (renamed(str.upper), ""),
    "a folder for each file": (renamed(lambda name: f"{name}/{name}"), ""),
    "IDX, twice": (IDX | renamed(lambda n: n.replace("-idx", ".idx")), ""),
    "zip of IDX": ({"mnist.zip": zipped(IDX)}, ""),
    "zip of packed IDX": (
        {"mnist.zip": zipped({f"{n}.gz": gzip.compress(c) for n, c in IDX.items()})},
        "",
    ),
    "tar of IDX": ({"mnist.tar": tarred(IDX)}, ""),
    "tar.gz of IDX": ({"mnist.tar.gz": gzip.compress(tarred(IDX))}, ""),
    "zip of CSV": (
        {
            "archive.zip": zipped(
                {"mnist_train.csv": csv(TRAIN), "mnist_test.csv": csv(TEST)}
            )
        },
        "",
    ),
    "CSV": ({"mnist_train.csv": csv(TRAIN), "mnist_test.csv": csv(TEST)}, ""),
    "CSV without names": (
        {"mnist_train.csv": csv(TRAIN, False), "mnist_test.csv": csv(TEST, False)},
        "",
    ),
    "CSV, packed": (
        {
            f"{n}.csv.gz": gzip.compress(csv(p))
            for n, p in (("train", TRAIN), ("test", TEST))
        },
        "",
    ),
    "CSV, label last": (
        {
            "train.csv": csv(TRAIN, last=True, label="class"),
            "test.csv": csv(TEST, last=True),
        },
        "",
    ),
    "CSV with a counted row": (
        {
            f"{n}.csv": b"\n".join(
                (str(i).encode() if i else b"") + b"," + line
                for i, line in enumerate(csv(p).strip().split(b"\n"))
            )
            for n, p in (("train", TRAIN), ("test", TEST))
        },
        "",
    ),
    "CSV of Excel": (
        {
            "train.csv": b"\xef\xbb\xbf" + csv(TRAIN, False),
            "test.csv": b"\xef\xbb\xbf" + csv(TEST),
        },
        "",
    ),
    "CSV of names": (
        {
            f"{n}.csv": b"\n".join(
                b"class " + line for line in csv(p, False).strip().split(b"\n")
            )
            for n, p in (("train", TRAIN), ("test", TEST))
        },
        "labels class 0, class 1, class 2, class 3, .. numbered",
    ),
    "images and labels apart": (
        {
            "x_train.csv": csv(TRAIN, False, pixels_alone=True),
            "y_train.csv": b"label\n" + b"\n".join(b"%d" % y for y in Y[TRAIN]),
            "x_test.csv": csv(TEST, False, pixels_alone=True),
            "y_test.csv": b"\n".join(b"%d" % y for y in Y[TEST]),
        },
        "",
    ),
    "zip of a Mac": (
        {"m.zip": zipped(IDX | {"__MACOSX/._train-images-idx3-ubyte": b"Mac OS X"})},
        "",
    ),
    "npz without names": ({"d.npz": npz_of(arr_0=X, arr_1=Y)}, "test: a sixth of"),
    "names of two words": (
        npz("train_data train_data_labels test_data test_data_labels"),
        "",
    ),
    "data_x": (npz("train_data_x train_data_y test_data_x test_data_y"), ""),
    "CSV by semicolons": (
        {"train.csv": csv(TRAIN).replace(b",", b";"), "test.csv": csv(TEST)},
        "",
    ),
    "ARFF": ({"train.arff": arff(TRAIN), "test.arff": arff(TEST)}, ""),
    "pickle of two pairs": ({"mnist.pkl": pickle.dumps(PAIRS)}, ""),
    "pickle of four arrays": (
        {"mnist.pkl": pickle.dumps((*PAIRS[0], *PAIRS[1]), 2)},
        "",
    ),
    "pickle of NumPy numbers": (
        {"mnist.pkl.gz": gzip.compress(pickle.dumps([(x, list(y)) for x, y in PAIRS]))},
        "",
    ),
    "pickle of whole numbers": (
        {"mnist.pkl": pickle.dumps([(x, y.tolist()) for x, y in PAIRS], protocol=0)},
        "",
    ),
}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """The files in a folder; their path, if there is one alone."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / next(iter(files)) if len(files) == 1 else folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read(layout: str, tmp_path: Path) -> None:
    files, said = LAYOUTS[layout]
    data, notes = mnist.read(written(tmp_path, files))
    x = PADDED if layout == "32 x 32" else X
    expected = x.reshape(72, -1) / np.float32(255)
    assert said in "; ".join(notes)
    if said.startswith("test"):  # drawn: the same images in another order
        assert np.sort([float(x.sum()) for s in data for x in s.x]) == pytest.approx(
            np.sort(expected.sum(axis=1)), rel=1e-5
        )
        return
    assert [len(split.y) for split in data] == [50, 10, 12]
    np.testing.assert_allclose(np.concatenate([s.x for s in data]), expected, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([s.y for s in data]), Y)
    for x, y in data:
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        assert x.flags.c_contiguous


def test_a_validation_set_of_its_own(tmp_path: Path) -> None:
    """Six arrays in an npz or a pickle: nothing is cut off the training set."""
    arrays = {
        f"{split}_{what}": values[part]
        for split, part in (
            ("train", slice(0, 40)),
            ("val", slice(40, 60)),
            ("test", TEST),
        )
        for what, values in (("images", X), ("labels", Y[:, None]))
    }
    sixes = {
        "medmnist.npz": npz_of(**arrays),
        "six.pkl": pickle.dumps(tuple(arrays.values())),
        "blocks.pkl": pickle.dumps(
            (*list(arrays.values())[::2], *list(arrays.values())[1::2])
        ),
    }
    for name, content in sixes.items():
        data, notes = mnist.read(written(tmp_path, {name: content}))
        assert [len(split.y) for split in data] == [40, 20, 12]
        np.testing.assert_array_equal(data.valid.y, Y[40:60])
        assert not any("validation" in note for note in notes)


def test_pixels_by_range(tmp_path: Path) -> None:
    """0 and 1 as they are, 16 levels by their largest; what is unclear is asked."""
    names = "x_train y_train x_test y_test"
    for top, divisor in ((1, 1), (15, 15), (16, 16), (200, 255)):
        levels = (X.astype(int) * top // 255).astype(np.uint8)
        data = mnist.load(written(tmp_path, npz(names, levels)))
        assert data.train.x.max() == np.float32(top / divisor)
    for wrong, said in (
        (X // 51, "found at most 5 in training"),
        (X // 3, "found at most 85 in training"),
        (X / np.float32(255**2), "multiply them by 255, found 0.003922"),
        ((X / 255.0 - 0.13) / 0.31, "undo a standardization"),
        (np.repeat(X[..., None], 3, axis=3), "one channel"),
    ):
        with pytest.raises(mnist.DataError, match=said):
            mnist.load(written(tmp_path, npz(names, wrong)))


def test_a_sorted_set_is_drawn(tmp_path: Path) -> None:
    """Every class is in all three splits in its share; twice the same."""
    order = np.argsort(Y, kind="stable")
    path = written(tmp_path, {"all.npz": npz_of(images=X[order], labels=Y[order])})
    data, notes = mnist.read(path)
    assert notes[1:] == (
        "test: a sixth of every class, drawn, 10 images",
        "validation: a sixth of every class, drawn, 10 images",
    )
    for split in data:
        assert set(split.y) == set(range(10))
    rows = np.concatenate([s.x for s in data])
    assert len(np.unique(rows, axis=0)) == 72
    np.testing.assert_array_equal(mnist.load(path).valid.x, data.valid.x)


def test_kaggle(tmp_path: Path) -> None:
    """Its test.csv has no labels: a test set is drawn, and both are said."""
    names, *rows = csv(TEST).decode().splitlines()
    without = "\n".join(row.split(",", 1)[1] for row in (names, *rows))
    files = {
        "train.csv": csv(TRAIN),
        "test.csv": without.encode(),
        "sample_submission.csv": b"ImageId,Label\n1,0\n2,0\n",
    }
    _, notes = mnist.read(written(tmp_path, files))
    assert "test.csv passed over, which has no labels" in notes
    assert any(note.startswith("test: a sixth of every class") for note in notes)


def test_names_of_classes(tmp_path: Path) -> None:
    """Numbered in their order; 26 classes and 8 x 8 images are as welcome."""
    letters = np.array([chr(97 + i % 26) for i in range(130)])
    images = rng.integers(0, 17, (130, 8, 8)).astype(np.uint8)
    images[:, 0, 0] = 16
    data, notes = mnist.read(
        written(tmp_path, {"letters.npz": npz_of(x=images, y=letters)})
    )
    assert data.train.x.shape[1] == 64
    assert set(data.train.y) == set(range(26))
    assert any(note == "labels a, b, c, d, .. numbered from 0" for note in notes)


def test_parquet(tmp_path: Path) -> None:
    """Columns of pixels, or PNG images as the Hugging Face hub has them."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    image = pytest.importorskip("PIL.Image")

    def png(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        image.fromarray(pixels).save(file, "png")
        return file.getvalue()

    for name, part in (("train", TRAIN), ("test", TEST)):
        table = pd.DataFrame(FLAT[part]).add_prefix("pixel").assign(label=Y[part])
        (tmp_path / "flat").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "flat" / f"{name}.parquet")
        cells = [{"bytes": png(pixels), "path": None} for pixels in X[part]]
        (tmp_path / "hub").mkdir(exist_ok=True)
        pd.DataFrame({"image": cells, "label": Y[part]}).to_parquet(
            tmp_path / "hub" / f"{name}-00000-of-00001.parquet"
        )
    for folder in ("flat", "hub"):
        data = mnist.load(tmp_path / folder)
        np.testing.assert_array_equal(data.test.x, FLAT[TEST] / np.float32(255))
        np.testing.assert_array_equal(data.test.y, Y[TEST])


# By name: files that are no data set, and what is said.
def bomb_of_bombs() -> bytes:
    """Each of twenty members is harmless, all together are not."""
    harmless = gzip.compress(idx(np.zeros((10_000, 28, 28))), 9)
    return zipped({f"{i}-images-idx3-ubyte.gz": harmless for i in range(20)})


def sparse_tar() -> bytes:
    """A member that is said to be a gigabyte, and is not there."""
    info = tarfile.TarInfo("train-images-idx3-ubyte")
    info.size = 2**30
    return info.tobuf() + bytes(20 * 512)


ASKED: dict[str, tuple[dict[str, bytes], str]] = {
    "one IDX file": (
        dict([next(iter(IDX.items()))]),
        "train labels beside what is there",
    ),
    "two data sets": (
        IDX
        | renamed(lambda n: f"fashion/{n}")
        | {"fashion/train-labels-idx1-ubyte": idx(Y[TRAIN][::-1])},
        "one array of train labels",
    ),
    "gzip in gzip": (
        {"a.pkl.gz": gzip.compress(gzip.compress(b"("))},
        "unpack it once",
    ),
    "labels with fractions": (
        npz("x_train y_train x_test y_test", y=Y + 0.25),
        "with fractions",
    ),
    "a class in test only": (
        npz("x_train y_train x_test y_test", y=np.where(np.arange(72) == 71, 10, Y)),
        "test labels that occur in training too, found 10",
    ),
    "nothing": ({"notes.txt": b"hello", "b.txt": b""}, "a folder with data"),
    "CSV of text": (
        {"train.csv": csv(TRAIN).replace(b"255", b"cat")},
        "something else in column",
    ),
    "CSV with a hole": (
        {"train.csv": csv(TRAIN).replace(b",255,", b",,")},
        "missing values",
    ),
    "CSV cut": ({"train.csv": csv(TRAIN)[:-9]}, "missing values"),
    "zip of text": ({"a.zip": zipped({"readme.md": b"hello"})}, "an archive of data"),
    "zip in zip": (
        {"a.zip": zipped({"b.zip": zipped({"c.zip": zipped({"d.zip": zipped(IDX)})})})},
        "archives in archives",
    ),
    "bombs in a zip": ({"a.zip": bomb_of_bombs()}, "that expands at most 30 : 1"),
    "a hole in a tar": ({"a.tar": sparse_tar()}, "a whole tar file"),
    "a ruler": ({"a.txt": b"%" * 60 + b"\nhello"}, "mnist.pkl.gz, an npz"),
    "two columns of labels": (
        {"train.csv": csv(TRAIN).replace(b"pixel5,", b"class,")},
        "one column of labels, found label, class",
    ),
    "labels that are missing": (
        {"train.csv": csv(TRAIN, label="name").replace(b"\n5,", b"\n,")},
        "could be labels|missing",
    ),
    "sparse ARFF": (
        {"a.arff": arff(TRAIN).split(b"@DATA")[0] + b"@DATA\n{0 1, 784 '5'}\n"},
        "a sparse one",
    ),
    "6 dimensions": (
        npz("x_train y_train x_test y_test", x=X[:, None, None, None]),
        "at most 4 dimensions",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_ambiguous_or_wrong_is_said(name: str, tmp_path: Path) -> None:
    files, said = ASKED[name]
    with pytest.raises(mnist.DataError, match=said) as caught:
        mnist.load(written(tmp_path, files))
    assert str(caught.value).isprintable()


def test_a_folder_of_everything_is_no_data_set(tmp_path: Path) -> None:
    for i in range(101):
        (tmp_path / f"{i}.csv").write_text("1,2\n")
    with pytest.raises(mnist.DataError, match="at most 100 data files, found 101"):
        mnist.load(tmp_path)
    shutil.rmtree(tmp_path)

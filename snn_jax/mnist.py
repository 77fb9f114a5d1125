"""MNIST, and image sets of its kind: the embedded data, and files that people have.

``load()`` gives all of MNIST without a network. ``load(path)`` reads the assignment's
mnist.pkl.gz, IDX files, npz, npy, CSV, ARFF and Parquet, or a folder, zip or tar of
them, and finds out by the names which array is what (see ``LAYOUT``). ``read(path)``
says in words too what it has decided:

    pixels      at most 1: as they are; otherwise divided by 15, 16, 255 or 65535, by
                the largest of the training images
    labels      whole numbers from 0 or 1 on, also as floats, one column, one-hot or
                text; names are numbered in alphabetical order
    validation  the file's own; or the last sixth of the training images, if classes
                have their shares in it; or else a sixth of every class, drawn
    test        the file's own, or a sixth of every class, drawn

What is ambiguous is not guessed but asked about, with a ``DataError``.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from snn_jax import containers
from snn_jax.datasets import Dataset, Split
from snn_jax.sources import DataError as DataError
from snn_jax.sources import Item

EMBEDDED = Path(__file__).parent / "data" / "mnist.npz"
# Words in the names of arrays, files and folders, and what they mean.
LAYOUT = {
    "train": ("train", "training", "tr", "trn"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing", "t10k", "te", "tst", "tes"),
    "x": (
        "x",
        "images",
        "image",
        "imgs",
        "img",
        "data",
        "features",
        "pixels",
        "inputs",
    ),
    "y": ("y", "labels", "label", "targets", "target", "classes", "class", "lab"),
}
SPLITS = Dataset._fields
MEANING = {word: meaning for meaning, words in LAYOUT.items() for word in words}
# Largest pixels of few levels, which they are divided by.
LEVELS = (15, 16)
# With more classes than this the labels are no classes.
MAX_CLASSES = 1000
# Shares of a class in the whole and in its last sixth differ by chance up to about so
# many standard errors.
BY_CHANCE = 4
DRAWN = 1 / 6

Pair = tuple[np.ndarray, np.ndarray]


class Loaded(NamedTuple):
    """A data set, and in words what was decided where the files leave it open."""

    data: Dataset
    notes: tuple[str, ...]


def load(path: str | Path | None = None) -> Dataset:
    """Reads a data set.

    Args:
        path: a file or folder as described at the top of this module; by default the
            embedded MNIST.

    Returns:
        The data set; images are rows of float32 in [0, 1], labels int32.

    Raises:
        DataError: the file is missing, damaged, hostile, ambiguous or holds something
            else.

    >>> [len(split.y) for split in load()]
    [50000, 10000, 10000]
    """
    return read(path).data


def read(path: str | Path | None = None) -> Loaded:
    """Reads a data set, as ``load``, and says how.

    >>> read().notes
    ('pixels divided by 255', 'validation: the last 10000 training images')
    """
    path = EMBEDDED if path is None else Path(path)
    notes: list[str] = []
    try:
        items = containers.read(path)
        if path.is_file():  # how that is called says nothing of its parts
            start = f"{path.name}/"
            items = [Item(name.removeprefix(start), values) for name, values in items]
        pairs = _pairs(path, items, notes)
        images = _images(path, {name: x for name, (x, _) in pairs.items()}, notes)
        labels = _labels(path, {name: y for name, (_, y) in pairs.items()}, notes)
        whole = {name: (images[name], labels[name]) for name in pairs}
        return Loaded(_divided(path, whole, notes), tuple(notes))
    except MemoryError:
        raise DataError(path, "data that fit in memory", "more") from None


# --- which array is what ------------------------------------------------------------


def _meanings(name: str) -> dict[str, str]:
    """The split and the role, "x" or "y", that a name speaks of.

    >>> found = _meanings("raw/t10k-images-idx3-ubyte")
    >>> found["split"], found["role"]
    ('test', 'x')
    """
    found: dict[str, str] = {}
    for part in reversed(name.split("/")):  # what is said last counts
        text = re.sub(r"([a-z])([A-Z])", r"\1 \2", part).lower()
        # xtrain, trainx, ytest, trainlabels: two words in one.
        words = "|".join(sorted(MEANING, key=len, reverse=True))
        for word in reversed(re.findall(r"t10k|[a-z]+", text)):
            two = re.fullmatch(f"({words})({words})", word)
            for piece in two.groups()[::-1] if two and word not in MEANING else (word,):
                meaning = MEANING.get(piece)
                if meaning:
                    found.setdefault("split" if meaning in SPLITS else "role", meaning)
    return found


def _pairs(path: Path, items: list[Item], notes: list[str]) -> dict[str, Pair]:
    """Images and labels by split; "all" where nothing says which."""
    slots: dict[tuple[str, str], Item] = {}
    if [item.name for item in items] == ["arr_0", "arr_1"]:
        x, y = sorted(items, key=lambda item: -item.values.size)
        items = [Item("all/x", x.values), Item("all/y", y.values)]
    for item in items:
        meaning = _meanings(item.name)
        if "role" not in meaning:
            continue
        slot = meaning.get("split", "all"), meaning["role"]
        other = slots.setdefault(slot, item)
        if other is not item and not np.array_equal(other.values, item.values):
            what = f"one array of {slot[0]} {'images' if slot[1] == 'x' else 'labels'}"
            raise DataError(path, what, f"{other.name} and {item.name}; keep one")
    pairs: dict[str, Pair] = {}
    for split in ("all", *SPLITS):
        images, labels = slots.get((split, "x")), slots.get((split, "y"))
        if images and labels:
            pairs[split] = images.values, labels.values
        elif images and split == "test":
            where = images.name.removesuffix("/images")
            notes.append(f"{where} passed over, which has no labels")
        elif (images or labels) and split == "all" and ("train", "x") in slots:
            passed = [item.name for item in (images, labels) if item]
            notes.append(f"{passed[0]} passed over, which is in no split")
        elif images or labels:
            found = ", ".join(item.name for item in items[:6])
            missing = f"{split} {'labels' if images else 'images'}".removeprefix("all ")
            raise DataError(path, f"{missing} beside what is there", found)
    if "train" not in pairs and "all" in pairs:
        pairs["train"] = pairs.pop("all")
    if pairs.pop("all", None):
        notes.append(f"{slots['all', 'x'].name} passed over, which is in no split")
    if "train" not in pairs:
        found = ", ".join(item.name for item in items[:6]) or "no arrays"
        wanted = "training images and labels, in names such as x_train and y_train"
        raise DataError(path, wanted, found)
    return {split: pairs[split] for split in SPLITS if split in pairs}


# --- pixels and labels --------------------------------------------------------------


def _images(
    path: Path, images: dict[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Rows of pixels in [0, 1], float32."""
    rows = {}
    for name, x in images.items():
        shape = x.shape
        if x.dtype.kind not in "uifb" or x.ndim < 2 or 0 in shape:
            wanted = f"{name} images, numbers (n, pixels) or (n, rows, columns), n >= 1"
            raise DataError(path, wanted, f"{x.dtype} {shape}")
        if x.ndim == 4 and 1 not in (shape[1], shape[3]):
            wanted = (
                f"{name} images of one channel, (n, rows, columns, 1); average them"
            )
            raise DataError(path, wanted, f"shape {shape}")
        rows[name] = x.reshape(len(x), -1)
        if rows[name].shape[1:] != rows["train"].shape[1:]:
            wanted = f"{name} images of {rows['train'].shape[1]} pixels, as in train"
            raise DataError(path, wanted, f"{rows[name].shape[1]}")
    divisor = _divisor(path, rows)
    whole = all(x.dtype.kind in "uib" for x in images.values())
    if divisor > 1 or whole:
        as_they_are = "pixels 0 and 1, as they are"
        if not rows["train"].any():
            as_they_are = "all training pixels are 0"
        notes.append(f"pixels divided by {divisor}" if divisor > 1 else as_they_are)
    found = {}
    for name, x in rows.items():
        found[name] = np.ascontiguousarray(x, np.float32)
        if divisor > 1:
            found[name] = found[name] / np.float32(divisor)
    return found


def _divisor(path: Path, rows: dict[str, np.ndarray]) -> int:
    """What brings the pixels to [0, 1], by the largest in training; see the top."""
    for name, x in rows.items():
        low, high = float(x.min()), float(x.max())  # NaN if there is one
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(path, f"{name} pixels that are finite", f"{low} to {high}")
        if low < 0:
            raise DataError(
                path,
                f"{name} pixels in [0, 1] or from 0 to 255; undo a standardization by "
                "x * deviation + mean",
                f"{low:.4g} to {high:.4g}",
            )
    largest = float(rows["train"].max())
    fractions = rows["train"].dtype.kind == "f"
    if fractions and 0 < largest <= 1.001 / 255:
        wanted = "pixels of which the largest is near 1; multiply them by 255"
        raise DataError(path, wanted, f"{largest:.4g}, divided by 255 twice")
    if largest <= 1:
        divisor = 1
    elif largest in LEVELS:
        divisor = int(largest)
    elif 128 <= largest <= 255:
        divisor = 255
    elif 2**15 <= largest < 2**16:
        divisor = 2**16 - 1
    else:
        wanted = "pixels up to 1, 15, 16, 255 or 65535; scale them to [0, 1]"
        raise DataError(path, wanted, f"at most {largest:.4g} in training")
    for name, x in rows.items():
        if x.max() > divisor:
            wanted = f"{name} pixels up to {divisor}, as in training"
            raise DataError(path, wanted, f"{float(x.max()):.4g}")
    return divisor


def _labels(
    path: Path, labels: dict[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Classes from 0 on, int32, and one for each image."""
    flat = {name: _column(path, name, y, notes) for name, y in labels.items()}
    together = np.concatenate(list(flat.values()))
    if together.dtype.kind in "OSU":
        if any(value != value or value is None for value in together):
            raise DataError(path, "a label for each image", "missing labels")
        texts = together.astype(str)
        names = np.unique(texts)
        if all(re.fullmatch(r"\d{1,9}(\.0*)?", name) for name in names):
            flat = {k: y.astype(str).astype(float).astype(int) for k, y in flat.items()}
        else:
            flat = {k: np.searchsorted(names, y.astype(str)) for k, y in flat.items()}
            shown = ", ".join(names[:4]) + (", .." if len(names) > 4 else "")
            notes.append(f"labels {shown} numbered from 0")
        together = np.concatenate(list(flat.values()))
    wanted = f"labels from 0 or 1 to at most {MAX_CLASSES - 1}, whole numbers"
    low, high = together.min(), together.max()
    is_whole = together.dtype.kind in "uib" or np.array_equal(
        together, np.rint(together)
    )
    if not is_whole or low < 0 or high >= MAX_CLASSES:
        shown = f"{low:.4g} to {high:.4g}" + ("" if is_whole else ", with fractions")
        raise DataError(path, wanted, shown)
    seen = np.unique(flat["train"])
    # Labels of Matlab begin at 1; so do those of EMNIST's letters.
    if low == 1 and np.array_equal(np.unique(together), np.arange(1, high + 1)):
        flat = {name: y - 1 for name, y in flat.items()}
        notes.append(f"labels 1 to {int(high)} taken as classes 0 to {int(high) - 1}")
        seen = seen - 1
    if len(seen) < 2:
        raise DataError(path, "training labels of two or more classes", "one class")
    for name, y in flat.items():
        unseen = np.setdiff1d(y, seen)
        if len(unseen):
            wanted = f"{name} labels that occur in training too"
            raise DataError(path, wanted, f"{int(unseen[0])}")
    return {name: y.astype(np.int32) for name, y in flat.items()}


def _column(path: Path, name: str, y: np.ndarray, notes: list[str]) -> np.ndarray:
    """Labels (n,), from (n,), (n, 1) or one-hot."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    could_be = y.ndim == 2 and y.dtype.kind in "uifb" and y.shape[1] <= MAX_CLASSES
    if could_be and ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all():
        if name == "train":
            notes.append(f"one-hot labels of {y.shape[1]} classes")
        y = y.argmax(axis=1)
    if y.ndim != 1 or y.dtype.kind not in "uifbOSU" or len(y) == 0:
        wanted = f"{name} labels, a class for each image: (n,), (n, 1) or one-hot"
        raise DataError(path, wanted, f"{y.dtype} {y.shape}")
    return y


# --- splits -------------------------------------------------------------------------


def _divided(path: Path, pairs: dict[str, Pair], notes: list[str]) -> Dataset:
    """Train, valid and test; what the files do not have comes out of train."""
    for name, (x, y) in pairs.items():
        if len(x) != len(y):
            raise DataError(
                path, f"{name}: a label for each of {len(x)} images", f"{len(y)}"
            )
    train = Split(*pairs["train"])
    found = {name: Split(*pair) for name, pair in pairs.items()}
    for name in ("test", "valid"):
        if name in found:
            continue
        y = train.y
        count = int(len(y) * DRAWN)
        if count < 1:
            raise DataError(path, "at least 6 training images", f"{len(y)}")
        tail = np.arange(len(y)) >= len(y) - count
        if name == "valid" and _is_like(y, tail):
            said = f"the last {count} training images"
        else:
            tail = _drawn(y)
            said = f"a sixth of every class, drawn, {int(tail.sum())} images"
        if not tail.any():
            raise DataError(path, "two images of a class, to divide", "one of each")
        notes.append(f"{'validation' if name == 'valid' else name}: {said}")
        found[name] = Split(train.x[tail], train.y[tail])
        train = Split(train.x[~tail], train.y[~tail])
    return Dataset(train, found["valid"], found["test"])


def _is_like(y: np.ndarray, part: np.ndarray) -> bool:
    """Whether classes have their shares in a part, and the rest all that it has."""
    inside, rest = y[part], y[~part]
    if len(np.setdiff1d(inside, rest)) or len(np.unique(rest)) < 2:
        return False
    share = np.bincount(y) / len(y)
    found = np.bincount(inside, minlength=len(share)) / len(inside)
    error = np.sqrt(share * (1 - share) / len(inside))
    return bool((abs(found - share) <= BY_CHANCE * error).all())


def _drawn(y: np.ndarray) -> np.ndarray:
    """A sixth of every class that has two images, at least one, by a fixed seed."""
    rng = np.random.default_rng(0)
    chosen = np.zeros(len(y), bool)
    for label in np.unique(y):
        of_class = rng.permutation(np.flatnonzero(y == label))
        if len(of_class) > 1:
            chosen[of_class[: max(1, round(len(of_class) * DRAWN))]] = True
    return chosen

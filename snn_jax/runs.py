"""A run's folder: the settings, finished chunks, the labelled result, the figures.

    runs/convergence/
        settings.json    what was asked for, with versions, device and commit
        chunks/.../      finished chunks of networks, their settings and SHA-256
        results.nc       the labelled result, NetCDF: runs.load(folder)
        networks.csv     a row a network, for other tools
        report.html      the page, and figures/*.svg, its figures alone

Nothing is ever half written: a file gets its bytes under a temporary name, is forced to
the disk and renamed. A chunk's name holds the SHA-256 of its bytes, so the name is
there when the chunk is, and a chunk that has changed since is noticed. Repeating a run
goes on with what is missing: ``complete``.
"""

import hashlib
import io
import json
import os
import platform
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
import pandas as pd
import xarray as xr

from snn_jax import mnist
from snn_jax.mnist import Dataset
from snn_jax.sweep import Chunk, Sweep

PACKAGES = ("snn_jax", "jax", "jaxlib", "optax", "numpy", "xarray")


# Half-trained chunks are saved when so much time has passed since they last were.
SAVE_SECONDS = 60.0


# Computes chunks, given their numbers and what to report finished (network, epoch)
# pairs to, and gives each with its number, in any order.
Engine = Callable[[list[int], Callable[[int], Any]], Iterator[tuple[int, Chunk]]]


class RunError(ValueError):
    """A run that cannot go on in a folder: what was expected and what was found."""


def _file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name to write to; renames it to path when all went well.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['note.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        # The name has to reach the disk too. Not all systems can open a folder for it.
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:  # that of fsync knows no name, others the temporary one
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, content: bytes) -> None:
    """Puts a whole file at path, or none."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)


def environment() -> dict[str, str]:
    """Versions and device, by which a result can be told from another machine's."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
    }


def save(folder: Path, result: xr.Dataset, settings: Mapping[str, Any]) -> None:
    """Writes settings.json and results.nc into a run's folder.

    Raises:
        OSError: the folder cannot be written.
    """
    with replacing(folder / "results.nc") as file:
        result.to_netcdf(file, engine="scipy")
        digest = _file_digest(file)
    content = {
        "settings": dict(settings),
        "environment": environment(),
        "sha256 of results.nc": digest,
    }
    with replacing(folder / "settings.json") as file:
        file.write_text(json.dumps(content, indent=2, default=str) + "\n")


def to_table(result: xr.Dataset) -> pd.DataFrame:
    """A row for every network, with numbers and names only: for CSV or parquet.

    Curves and layers become columns: ``valid_loss_10`` is the validation loss after
    epoch 10, ``gradient_rms_0_1`` the first layer's gradient before the first step.
    Only epoch 0 and the last are kept.

    Args:
        result: as from ``sweep.sweep``.
    """
    network = ("scale", "learning_rate", "seed")
    columns: dict[str, np.ndarray] = {}
    for name, variable in result.data_vars.items():
        if variable.dims[:3] != network:
            continue
        kept = variable.isel(epoch=[0, -1]) if "epoch" in variable.dims else variable
        inner = variable.dims[3:]
        for place in np.ndindex(kept.shape[3:]):
            labels = [
                f"{kept[dim].values[i]:g}" for dim, i in zip(inner, place, strict=True)
            ]
            values = kept[(..., *place)] if place else kept
            columns["_".join([str(name), *labels])] = values.values.ravel()
    grid = np.meshgrid(*(result[name].values for name in network), indexing="ij")
    index = {name: axis.ravel() for name, axis in zip(network, grid, strict=True)}
    return pd.DataFrame(index | columns)


def load(folder: str | Path) -> xr.Dataset:
    """The labelled result of a run, in memory.

    Raises:
        FileNotFoundError: there is no result in the folder.
        RunError: it has been damaged since it was written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> result = xr.Dataset({"loss": ("epoch", [2.3, 0.3])})
    >>> save(folder, result, {"seeds": 1})
    >>> float(load(folder).loss.min())
    0.3
    """
    path, settings = Path(folder) / "results.nc", Path(folder) / "settings.json"
    found = _file_digest(path)
    try:
        expected = json.loads(settings.read_bytes())["sha256 of results.nc"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{settings}: expected the SHA-256 of results.nc, found {error!r}"
        ) from None
    if found != expected:
        raise RunError(f"{path}: expected SHA-256 {expected}, found {found}")
    return xr.load_dataset(path, engine="scipy")


class Store:
    """The finished chunks of one sweep, in a folder of their own.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Listed once: a folder of a million networks has 15,000 files.
        self._paths: dict[str, set[Path]] = {}
        self._list()

    def _list(self) -> None:
        self._paths = {}
        for path in self.folder.glob("*.npz"):
            match = re.fullmatch(r"(.+)-[0-9a-f]{64}\.npz", path.name)
            if match is not None:
                self._paths.setdefault(match[1], set()).add(path)

    def write(self, name: str, arrays: Chunk) -> str:
        """Puts arrays on disk for good, instead of others of that name.

        Returns:
            The SHA-256 of the file.

        Raises:
            OSError: with the path and the reason; then nothing has changed.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{name}-{digest}.npz"
        _write(path, content)
        for other in self._paths.get(name, set()) - {path}:
            other.unlink(missing_ok=True)
        self._paths[name] = {path}
        return digest

    def read(self, name: str) -> Chunk | None:
        """The arrays of that name; None if there are none that are whole."""
        for path in self._paths.get(name, set()):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() in path.name:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    return {
                        member.removesuffix(".npy"): np.lib.format.read_array(
                            io.BytesIO(archive.read(member))
                        )
                        for member in archive.namelist()
                    }
        return None

    def remove(self, name: str) -> None:
        """All files of that name, whole or not."""
        for path in self._paths.pop(name, set()):
            path.unlink(missing_ok=True)

    def digests(self) -> dict[str, str]:
        """SHA-256 by name of all that is whole; what is not is removed."""
        self._list()
        found = {}
        for name, paths in sorted(self._paths.items()):
            for path in sorted(paths):
                digest = _file_digest(path)
                if digest in path.name:
                    found[name] = digest
                else:
                    path.unlink()
                    paths.remove(path)
        return found

    def sweep_up(self) -> None:
        """Removes what a killed process left under temporary names."""
        for path in self.folder.glob(".*.partial"):
            path.unlink()


def chunk_name(chunk: int) -> str:
    """Under which a finished chunk is stored.

    >>> chunk_name(12)
    'chunk-0000012'
    """
    return f"chunk-{chunk:07d}"


def surroundings(dataset: Dataset) -> dict[str, str]:
    """What the bits of a result depend on beside its settings, in words."""
    return {
        "data": mnist.digest(dataset)[:16],
        "jax": metadata.version("jax"),
        "jaxlib": metadata.version("jaxlib"),
        "device": jax.devices()[0].device_kind,
        "matrix precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
    }


def identity(sweep: Sweep) -> dict[str, str]:
    """All that the bits of a chunk depend on, in words."""
    return {**sweep.settings, **surroundings(sweep.dataset)}


def _claim(folder: Path, mine: Mapping[str, str], restart: bool) -> None:
    """Makes the folder this sweep's, or raises RunError if it is another's."""
    path = folder / "identity.json"
    if restart:
        for file in [*folder.glob("*.npz"), path]:
            file.unlink(missing_ok=True)
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise RunError(
                f"{path}: expected the settings of a run, found something else; "
                "--restart starts anew"
            )
        different = [
            f"{name} {there.get(name, 'unknown')} there and {value} here"
            for name, value in mine.items()
            if there.get(name) != value
        ]
        if different:
            raise RunError(
                f"{folder}: expected a run with the same settings, found "
                f"{', '.join(different)}; give another folder with --out, or --restart"
            )
    elif any(folder.glob("*.npz")):
        raise RunError(
            f"{folder}: expected identity.json beside the chunks, found none; "
            "--restart starts anew"
        )
    else:
        _write(path, (json.dumps(dict(mine), indent=2) + "\n").encode())


@contextmanager
def held(folder: Path, shard: tuple[int, int] = (1, 1)) -> Iterator[None]:
    """Keeps other processes out of a folder, or out of one shard of the work in it.

    A process that is killed lets go of it.

    Raises:
        RunError: another process holds it, and which.
    """
    part, parts = shard
    folder.mkdir(parents=True, exist_ok=True)
    mine = f"{part}-of-{parts}"
    names = [path.stem for path in folder.glob("*.lock")]
    # A whole run and a shard must not meet; two different shards may.
    others = [name for name in names if (parts == 1) != (name == "1-of-1")]
    locks = [filelock.FileLock(folder / f"{name}.lock") for name in [mine, *others]]
    taken = []
    try:
        for lock in locks:
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                holder = Path(lock.lock_file).with_suffix(".holder")
                who = holder.read_text(encoding="utf-8") if holder.exists() else ""
                raise RunError(
                    f"{folder}: expected no other process at work, found "
                    f"{who or 'one that has just begun'}"
                ) from None
            taken.append(lock)
        for lock in taken[1:]:
            lock.release()
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = folder / f"{mine}.holder"
        holder.write_text(
            f"process {os.getpid()} on {platform.node()}, since {started}",
            encoding="utf-8",
        )
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
    finally:
        for lock in taken:
            lock.release(force=True)


def space(folder: Path, num_bytes: int) -> str:
    """Says what a run needs.

    Raises:
        RunError: the disk has less.
    """
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if num_bytes > free:
        raise RunError(
            f"{folder}: expected {num_bytes / 1e9:.1f} GB of free space, found "
            f"{free / 1e9:.1f} GB"
        )
    return f"{max(1, num_bytes / 1e6):.0f} MB"


def complete(
    folder: Path,
    sweep: Sweep,
    *,
    restart: bool = False,
    shard: tuple[int, int] = (1, 1),
    engine: Engine | None = None,
    report: Callable[[int], Any] = lambda _: None,
) -> bool:
    """Computes the chunks of a sweep that its folder lacks.

    Finished chunks are never computed again. After a kill, a full disk or a power cut,
    the same call goes on, with what was lost since the last chunk or the last minute;
    the result has the same bits as if nothing had happened.

    Args:
        folder: of the sweep's chunks.
        sweep: what to compute.
        restart: removes what another sweep left there, instead of refusing.
        shard: (i, n) computes every n-th chunk, beginning with the i-th, so that n
            processes with a common folder share the work.
        engine: computes chunks elsewhere; by default this process does.
        report: called with the number of (network, epoch) pairs just finished, those
            that were there already included.

    Returns:
        Whether all chunks, those of other shards included, are there.

    Raises:
        RunError: the folder belongs to other settings or to another process.
        OSError: with the path and the reason.
    """
    store = Store(folder)
    part, parts = shard
    with held(folder, shard):
        _claim(folder, identity(sweep), restart)
        if parts == 1:
            store.sweep_up()
        finished = store.digests()
        todo = []
        for chunk in range(part - 1, sweep.num_chunks, parts):
            if chunk_name(chunk) in finished:
                report(len(sweep.members(chunk)) * sweep.num_epochs)
            else:
                todo.append(chunk)
        for chunk, arrays in (engine or _here(store, sweep))(todo, report):
            finished[chunk_name(chunk)] = store.write(chunk_name(chunk), arrays)
        if parts > 1:  # the other shards went on meanwhile
            finished = store.digests()
        whole = all(chunk_name(i) in finished for i in range(sweep.num_chunks))
        if whole and parts == 1:
            for name in finished:
                if name.startswith("state-"):
                    store.remove(name)
            chunks = {n: d for n, d in finished.items() if n.startswith("chunk-")}
            _write(folder / "manifest.json", json.dumps(chunks, indent=1).encode())
    return whole


def finish(
    folder: Path,
    mine: Mapping[str, str],
    jobs: Mapping[str, Callable[[], Chunk]],
    *,
    restart: bool = False,
    kept: Callable[[str], Any] = lambda _: None,
) -> dict[str, Chunk]:
    """Does those of several jobs that a folder lacks, and gives the results of all.

    For work that is no sweep: each job gives arrays, which are kept, so that after a
    stop the same call goes on with the next job.

    Args:
        folder: of the results.
        mine: what they depend on, in words, by name.
        jobs: what to call, by name.
        restart: removes what other settings left there, instead of refusing.
        kept: called with the name of each job whose results are there already.

    Raises:
        RunError: the folder belongs to other settings or to another process.
        OSError: with the path and the reason.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> finish(folder, {"size": "2"}, {"ones": lambda: {"x": np.ones(2)}})
    {'ones': {'x': array([1., 1.])}}
    >>> finish(folder, {"size": "2"}, {"ones": lambda: {"x": np.zeros(2)}})
    {'ones': {'x': array([1., 1.])}}
    """
    store = Store(folder)
    found = {}
    with held(folder):
        _claim(folder, mine, restart)
        store.sweep_up()
        for name, job in jobs.items():
            arrays = store.read(name)
            if arrays is None:
                arrays = job()
                store.write(name, arrays)
            else:
                kept(name)
            found[name] = arrays
    return found


def _here(store: Store, sweep: Sweep) -> Engine:
    """Trains chunks side by side on the devices here, and saves their state."""

    def engine(
        todo: list[int], report: Callable[[int], Any]
    ) -> Iterator[tuple[int, Chunk]]:
        for first in range(0, len(todo), sweep.at_once):
            chunks = todo[first : first + sweep.at_once]
            name = "state-" + "-".join(map(str, chunks))
            saved_at = time.monotonic()

            def save(arrays: Callable[[], Chunk], name: str = name) -> None:
                nonlocal saved_at
                if time.monotonic() - saved_at >= SAVE_SECONDS:
                    store.write(name, arrays())
                    saved_at = time.monotonic()

            saved = store.read(name)
            found = sweep.run_chunks(chunks, report=report, saved=saved, save=save)
            yield from zip(chunks, found, strict=True)
            store.remove(name)

    return engine


def missing(folder: Path, sweep: Sweep) -> list[int]:
    """Numbers of the chunks that are not there, or damaged."""
    finished = Store(folder).digests()
    return [i for i in range(sweep.num_chunks) if chunk_name(i) not in finished]


def read_chunks(folder: Path, sweep: Sweep) -> Iterator[Chunk]:
    """All chunks of a complete sweep in their order, one at a time.

    Raises:
        RunError: one is missing or damaged.
    """
    store = Store(folder)
    for i in range(sweep.num_chunks):
        chunk = store.read(chunk_name(i))
        if chunk is None:
            raise RunError(
                f"{folder}: expected chunks 0 to {sweep.num_chunks - 1}, found no "
                f"whole chunk {i}; repeat the run to compute it"
            )
        yield chunk


def write_final_table(path: Path, folder: Path, sweep: Sweep) -> None:
    """A row for every network, as CSV, however many: one chunk in memory at a time.

    Args:
        path: of the table.
        folder: of the sweep's chunks.
        sweep: complete.
    """
    with replacing(path) as file:
        for i, chunk in enumerate(read_chunks(folder, sweep)):
            columns = {
                **sweep.coordinates(i),
                "train_loss": chunk["train_loss"][:, -1],
                "valid_loss": chunk["valid_loss"][:, -1],
                "valid_accuracy": chunk["valid_accuracy"][:, -1],
                "test_loss": chunk["test_loss"],
                "test_accuracy": chunk["test_accuracy"],
                "initial_gradient_rms_first_layer": chunk["gradient_rms"][:, 0, 0],
                "initial_gradient_rms_last_layer": chunk["gradient_rms"][:, 0, -1],
            }
            pd.DataFrame(columns).to_csv(file, mode="a", header=i == 0, index=False)

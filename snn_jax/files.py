"""Files that are never half written, and a result among them.

    runs/convergence/
        settings.json    what was asked for, with versions, device and commit
        chunks/.../      finished chunks of networks, see ``store``
        results.nc       the labelled result, NetCDF: files.load(folder)
        networks.csv     a row a network, for other tools
        report.html      the page, and figures/*.svg, its figures alone

A file gets its bytes under a temporary name, is forced to the disk and renamed.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax
import xarray as xr

from snn_jax.identity import RunError

PACKAGES = ("snn_jax", "jax", "jaxlib", "optax", "numpy", "xarray")


def file_digest(path: Path) -> str:
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


def write(path: Path, content: bytes) -> None:
    """Puts a whole file at path, or none."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)


def _version(package: str) -> str:
    """Of a package; of a checkout that is on the path and not installed in words."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def environment() -> dict[str, str]:
    """Versions and device, by which a result can be told from another machine's."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
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
        digest = file_digest(file)
    content = {
        "settings": dict(settings),
        "environment": environment(),
        "sha256 of results.nc": digest,
    }
    with replacing(folder / "settings.json") as file:
        file.write_text(json.dumps(content, indent=2, default=str) + "\n")


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
    found = file_digest(path)
    try:
        expected = json.loads(settings.read_bytes())["sha256 of results.nc"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{settings}: expected the SHA-256 of results.nc, found {error!r}"
        ) from None
    if found != expected:
        raise RunError(f"{path}: expected SHA-256 {expected}, found {found}")
    return xr.load_dataset(path, engine="scipy")


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

"""A folder of finished chunks: computed once, known again by what computes them.

A chunk's name holds the SHA-256 of what computes it (``identity``) and of its bytes, so
the name is there when the chunk is, and a chunk that has changed since, or belongs to
another program, is noticed. Repeating a run goes on with what is missing: ``complete``.
"""

import csv
import hashlib
import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snn_jax.files import file_digest, held, replacing, write
from snn_jax.identity import Identity, RunError, identity_of
from snn_jax.sweep import Chunk, Sweep

# Half-trained chunks are saved when so much time has passed since they last were.
SAVE_SECONDS = 60.0


# Computes chunks, given their numbers and what to report finished (network, look)
# pairs to, and gives each with its number, in any order.
Engine = Callable[[list[int], Callable[[int], Any]], Iterator[tuple[int, Chunk]]]


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
        write(path, content)
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
                digest = file_digest(path)
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


def chunk_name(identity: Identity, chunk: int) -> str:
    """Under which a finished chunk is stored: its number and what computes it."""
    return f"chunk-{chunk:07d}-{identity.of_chunk(chunk)[:16]}"


def state_name(identity: Identity, chunks: list[int]) -> str:
    """Under which half-trained chunks are stored."""
    return "-".join(["state", *map(str, chunks), identity.of_chunk(chunks[0])[:16]])


def _claim(folder: Path, identity: Identity, restart: bool) -> None:
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
        if different := identity.differences(there):
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
        write(path, (json.dumps(identity.words, indent=2) + "\n").encode())


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
        report: called with the number of (network, look) pairs just finished, those
            that were there already included.

    Returns:
        Whether all chunks, those of other shards included, are there.

    Raises:
        RunError: the folder belongs to other settings or to another process.
        OSError: with the path and the reason.
    """
    store, identity = Store(folder), identity_of(sweep)
    names = [chunk_name(identity, i) for i in range(sweep.num_chunks)]
    part, parts = shard
    with held(folder, shard):
        _claim(folder, identity, restart)
        if parts == 1:
            store.sweep_up()
        finished = store.digests()
        todo = []
        for chunk in range(part - 1, sweep.num_chunks, parts):
            if names[chunk] in finished:
                report(len(sweep.members(chunk)) * sweep.recipe.num_looks)
            else:
                todo.append(chunk)
        for chunk, arrays in (engine or _here(store, sweep, identity))(todo, report):
            finished[names[chunk]] = store.write(names[chunk], arrays)
        if parts > 1:  # the other shards went on meanwhile
            finished = store.digests()
        whole = all(name in finished for name in names)
        if whole and parts == 1:
            for name in finished:
                if name.startswith("state-"):
                    store.remove(name)
            chunks = {n: d for n, d in finished.items() if n.startswith("chunk-")}
            write(folder / "manifest.json", json.dumps(chunks, indent=1).encode())
    return whole


def _here(store: Store, sweep: Sweep, identity: Identity) -> Engine:
    """Trains chunks side by side on the devices here, and saves their state."""

    def engine(
        todo: list[int], report: Callable[[int], Any]
    ) -> Iterator[tuple[int, Chunk]]:
        for chunks in sweep.together(todo):
            name = state_name(identity, chunks)
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
    finished, identity = Store(folder).digests(), identity_of(sweep)
    return [
        i for i in range(sweep.num_chunks) if chunk_name(identity, i) not in finished
    ]


def read_chunks(folder: Path, sweep: Sweep) -> Iterator[Chunk]:
    """All chunks of a complete sweep in their order, one at a time.

    Raises:
        RunError: one is missing or damaged.
    """
    store, identity = Store(folder), identity_of(sweep)
    for i in range(sweep.num_chunks):
        chunk = store.read(chunk_name(identity, i))
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
    last = ("train_loss", "valid_loss", "valid_accuracy")
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        for i, chunk in enumerate(read_chunks(folder, sweep)):
            columns = sweep.coordinates(i)
            columns |= {name: chunk[name][:, -1] for name in last}
            ends = ("test_loss", "test_accuracy", "stopped", "stopped_epoch")
            columns |= {name: chunk[name] for name in ends if name in chunk}
            if "gradient_rms" in chunk:
                for place, name in ((0, "first"), (-1, "last")):
                    column = f"initial_gradient_rms_{name}_layer"
                    columns[column] = chunk["gradient_rms"][:, 0, place]
            if i == 0:
                rows.writerow(columns)
            rows.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))

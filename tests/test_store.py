"""A run can be stopped by anything at any time, and ends with the same bits.

The long forms, a hundred kills and a cluster that loses machines, are marked "full":
pytest -m full.
"""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_jax import cluster, files, networks, results, store
from snn_jax.datasets import Dataset
from snn_jax.identity import RunError, identity_of
from snn_jax.networks import MLP
from snn_jax.recipe import Recipe
from snn_jax.sweep import Chunk, Sweep

NET = MLP((784, 6, 5, 10), biases=False)
AXES = {"scale": (0.1, 1.0), "learning_rate": (0.1, 1.0)}


def make(
    small: Dataset, seed: int = 7, axes: Any = None, width: int = 2, **fields: Any
) -> Sweep:
    """12 networks in 6 chunks, trained on 320 images for two epochs."""
    defaults: dict[str, Any] = {"network": NET, "num_epochs": 2, "batch_size": 16}
    recipe = Recipe(**defaults | fields)
    return Sweep(
        jax.random.key(seed), small, recipe, axes or AXES, seeds=3, width=width
    )


@pytest.fixture(scope="module")
def tiny(small: Dataset) -> Sweep:
    return make(small)


@pytest.fixture(scope="module")
def expected(tiny: Sweep) -> list[Chunk]:
    """What an uninterrupted run gives."""
    return [tiny.run_chunks([i])[0] for i in range(tiny.num_chunks)]


def check(folder: Path, sweep: Sweep, expected: list[Chunk]) -> None:
    """Every row is there once, bit by bit, and nothing else."""
    found = list(store.read_chunks(folder, sweep))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
            assert values.dtype == other[name].dtype
    names = {re.sub(r"-[0-9a-f]{64}", "", path.name) for path in folder.iterdir()}
    chunks = {f"{name}.npz" for name in chunk_names(sweep)}
    assert names <= chunks | {"identity.json", "manifest.json", "1-of-1.lock"}


def chunk_names(sweep: Sweep) -> list[str]:
    identity = identity_of(sweep)
    return [store.chunk_name(identity, i) for i in range(sweep.num_chunks)]


def test_chunks_do_not_depend_on_company(tiny: Sweep, expected: list[Chunk]) -> None:
    """Alone, in pairs, in another order: the same bits, on one device or two."""
    assert list(tiny.together(range(5))) == [[0, 1], [2, 3], [4]]
    for pair in ([0, 1], [5, 2], [3, 3]):
        for chunk, found in zip(pair, tiny.run_chunks(pair), strict=True):
            for name, values in found.items():
                np.testing.assert_array_equal(values, expected[chunk][name])


def test_one_device_or_two(
    small: Dataset, expected: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)
    alone = make(small)
    assert list(alone.together([0, 5])) == [[0], [5]]
    for i in (0, 5):
        for name, values in alone.run_chunks([i])[0].items():
            np.testing.assert_array_equal(values, expected[i][name])


def test_a_run_repeats_nothing(
    tiny: Sweep, expected: list[Chunk], tmp_path: Path
) -> None:
    computed: list[int] = []

    def engine(todo: list[int], report: Callable[[int], Any]) -> Iterator[Any]:
        for i in todo:
            computed.append(i)
            report(len(tiny.members(i)) * tiny.recipe.num_epochs)
            yield i, expected[i]
            if len(computed) == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.complete(tmp_path, tiny, engine=engine)
    assert store.missing(tmp_path, tiny) == [4, 5]
    reported: list[int] = []
    assert store.complete(tmp_path, tiny, engine=engine, report=reported.append)
    assert computed == list(range(6))
    assert sum(reported) == 12 * 2  # as many as there are, those of before included
    check(tmp_path, tiny, expected)
    manifest = (tmp_path / "manifest.json").read_text()
    for path in tmp_path.glob("*.npz"):
        assert path.stem.split("-")[-1] in manifest


def test_half_trained_chunks_go_on(
    tiny: Sweep,
    expected: list[Chunk],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state is saved after each epoch; the one that was interrupted is repeated."""
    monkeypatch.setattr(store, "SAVE_SECONDS", 0.0)
    reports = 0

    def stop(_: int) -> None:
        nonlocal reports
        reports += 1
        if reports == 4:  # chunks 0 and 1 are done, 2 and 3 after their second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.complete(tmp_path, tiny, report=stop)
    assert [path.name[:9] for path in tmp_path.glob("state*")] == ["state-2-3"]
    counted: list[int] = []
    assert store.complete(tmp_path, tiny, report=counted.append)
    # 2 x 2 of finished chunks, one epoch from the state, one repeated, two of the rest.
    assert counted == [4, 4, 4, 4, 4, 4]
    check(tmp_path, tiny, expected)


def test_damage_is_noticed(
    tiny: Sweep, expected: list[Chunk], tmp_path: Path, rng: np.random.Generator
) -> None:
    """200 flipped bits and 200 truncations: only that chunk is computed again."""
    todo: list[list[int]] = []

    def engine(chunks: list[int], _: Callable[[int], Any]) -> Iterator[Any]:
        todo.append(chunks)
        yield from ((i, expected[i]) for i in chunks)

    store.complete(tmp_path, tiny, engine=engine)
    chunks, names = store.Store(tmp_path), chunk_names(tiny)
    whole = {path: path.read_bytes() for path in tmp_path.glob("chunk*")}
    paths = sorted(whole)
    for trial in range(400):
        i = int(rng.integers(len(paths)))
        content = bytearray(whole[paths[i]])
        place = int(rng.integers(len(content)))
        if trial % 2:
            content = content[:place]
        else:
            content[place] ^= 1 << int(rng.integers(8))
        paths[i].write_bytes(content)
        assert chunks.read(names[i]) is None
        assert store.missing(tmp_path, tiny) == [i]
        if trial < 10:
            assert store.complete(tmp_path, tiny, engine=engine)
            assert todo[-1] == [i]
            assert paths[i].read_bytes() == whole[paths[i]]
        paths[i].write_bytes(whole[paths[i]])
    check(tmp_path, tiny, expected)


# How often a run of six chunks calls each: for its settings, chunks and manifest, and
# fsync for the folder too.
FAULTS = {"open": 8, "write": 8, "fsync": 16, "replace": 8}


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_fault_at_every_call(
    call: str,
    reason: int,
    tiny: Sweep,
    expected: list[Chunk],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error with path and reason; the rerun ends with the same bits."""

    def engine(chunks: list[int], _: Callable[[int], Any]) -> Iterator[Any]:
        yield from ((i, expected[i]) for i in chunks)

    for nth in range(1, FAULTS[call] + 2):
        folder = tmp_path / str(nth)
        folder.mkdir()
        with monkeypatch.context() as patch:
            calls = break_nth(patch, call, nth, reason)
            if nth <= FAULTS[call]:
                with pytest.raises(OSError, match=re.escape(str(folder))) as raised:
                    store.complete(folder, tiny, engine=engine)
                assert raised.value.errno == reason
                assert os.strerror(reason) in str(raised.value)
            else:
                assert store.complete(folder, tiny, engine=engine)
        assert calls() == min(nth, FAULTS[call])
        assert not list(folder.glob(".*.partial"))
        assert store.complete(folder, tiny, engine=engine)
        check(folder, tiny, expected)


def break_nth(
    patch: pytest.MonkeyPatch, call: str, nth: int, reason: int
) -> Callable[[], int]:
    """Makes the nth call, of those that write a run's files, fail; gives the count."""
    count = 0

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if call != "open" or "wb" in arguments:
                count += 1
                if count == nth:
                    raise OSError(reason, os.strerror(reason))
            return original(*arguments, **options)

        return instead

    if call == "open":
        patch.setattr(Path, "open", failing(Path.open))
    elif call == "fsync":
        patch.setattr(os, "fsync", failing(os.fsync))
    elif call == "replace":
        patch.setattr(Path, "replace", failing(Path.replace))
    else:
        original = Path.open

        def opened(path: Path, *arguments: Any, **options: Any) -> Any:
            file = original(path, *arguments, **options)
            if "wb" not in arguments:
                return file

            class Failing:
                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *_: Any) -> None:
                    file.close()

                def __getattr__(self, name: str) -> Any:
                    return getattr(file, name)

            broken = Failing()
            broken.write = failing(file.write)  # type: ignore[attr-defined]
            return broken

        patch.setattr(Path, "open", opened)
    return lambda: count


def test_other_settings_are_refused(
    small: Dataset, tiny: Sweep, expected: list[Chunk], tmp_path: Path
) -> None:
    """Which differ is said; nothing is lost unless asked for."""

    def engine(chunks: list[int], _: Callable[[int], Any]) -> Iterator[Any]:
        yield from ((i, expected[i]) for i in chunks)

    store.complete(tmp_path, tiny, engine=engine)
    other = make(small._replace(test=small.valid), 8, width=3, num_epochs=3)
    with pytest.raises(RunError) as refused:
        store.complete(tmp_path, other)
    for part in (
        "epochs 2 there and 3 here",
        "chunk width",
        "key",
        "data",
        "--restart",
    ):
        assert part in str(refused.value)
    assert "seeds" not in str(refused.value)
    check(tmp_path, tiny, expected)
    assert store.complete(tmp_path, other, restart=True)
    assert len(list(store.read_chunks(tmp_path, other))) == 4


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b"3"])
def test_broken_settings(content: bytes, tiny: Sweep, tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(RunError, match="expected the settings of a run"):
        store.complete(tmp_path, tiny)


def test_chunks_of_unknown_settings(tiny: Sweep, tmp_path: Path) -> None:
    store.Store(tmp_path).write("chunk-0000000", {"test_loss": np.zeros(2)})
    with pytest.raises(RunError, match=r"expected identity\.json"):
        store.complete(tmp_path, tiny)


def test_shards_share_the_work(
    tiny: Sweep, expected: list[Chunk], tmp_path: Path
) -> None:
    assert not store.complete(tmp_path, tiny, shard=(2, 4))
    assert store.missing(tmp_path, tiny) == [0, 2, 3, 4]
    for part in (1, 3, 4):
        store.complete(tmp_path, tiny, shard=(part, 4))
    assert store.missing(tmp_path, tiny) == []
    assert store.complete(tmp_path, tiny)
    for path in tmp_path.glob("*-of-4.lock"):
        path.unlink()
    check(tmp_path, tiny, expected)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from snn_jax import files, identity\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        with files.held(Path(sys.argv[1]), eval(line)): said = 'in'\n"
        "    except identity.RunError as error: said = error\n"
        "    print(said, flush=True)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )

    def ask(shard: str) -> str:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(shard + "\n")
        return other.stdout.readline().strip()

    with files.held(tmp_path):
        assert f"found process {os.getpid()} on" in ask("(1, 1)")
        assert f"found process {os.getpid()} on" in ask("(1, 3)")
    with files.held(tmp_path, (2, 3)):
        assert "found process" in ask("(1, 1)")
        assert ask("(1, 3)") == "in"
    assert ask("(1, 1)") == "in"
    other.communicate()


def check_mutation(
    folder: Path, name: str, place: float, replacement: bytes, result: xr.Dataset
) -> None:
    """Of a stored result: one clear error, or exactly what was stored."""
    path = folder / name
    whole = path.read_bytes()
    start = int(place * len(whole))
    path.write_bytes(whole[:start] + replacement + whole[start + len(replacement) :])
    said = "expected, and found"
    try:
        xr.testing.assert_identical(files.load(folder), result)
    except RunError as error:
        said = str(error)
    finally:
        path.write_bytes(whole)
    assert "\n" not in said
    assert "expected" in said


@pytest.fixture(scope="module")
def stored(
    tiny: Sweep, expected: list[Chunk], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, xr.Dataset]:
    folder = tmp_path_factory.mktemp("stored")
    result = tiny.assemble(expected)
    files.save(folder, result, {"seeds": 3})
    return folder, result


MUTATIONS = given(
    name=st.sampled_from(["results.nc", "settings.json"]),
    place=st.floats(0, 1, exclude_max=True),
    replacement=st.binary(min_size=1, max_size=8),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@MUTATIONS
def test_mutated_results(
    stored: tuple[Path, xr.Dataset], name: str, place: float, replacement: bytes
) -> None:
    check_mutation(stored[0], name, place, replacement, stored[1])


@pytest.mark.full
@settings(max_examples=10_000, deadline=None, derandomize=True)
@MUTATIONS
def test_ten_thousand_mutated_results(
    stored: tuple[Path, xr.Dataset], name: str, place: float, replacement: bytes
) -> None:
    check_mutation(stored[0], name, place, replacement, stored[1])


def test_too_little_space_is_said_before(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="of free space, found"):
        files.space(tmp_path / "not yet there", 10**18)
    assert files.space(tmp_path, 12_300_000) == "12 MB"


def test_a_table_of_any_length(
    tiny: Sweep, expected: list[Chunk], tmp_path: Path
) -> None:
    """As many rows as networks, in their order."""

    def engine(chunks: list[int], _: Callable[[int], Any]) -> Iterator[Any]:
        yield from ((i, expected[i]) for i in chunks)

    store.complete(tmp_path / "chunks", tiny, engine=engine)
    store.write_final_table(tmp_path / "all.csv", tmp_path / "chunks", tiny)
    table = np.genfromtxt(tmp_path / "all.csv", delimiter=",", names=True)
    result = tiny.assemble(expected)
    assert len(table) == 12
    rows = results.to_table(result).sort_values(["scale", "learning_rate", "seed"])
    np.testing.assert_allclose(table["test_loss"], rows.test_loss, rtol=1e-6)
    for row in table:
        cell = result.sel(
            scale=row["scale"], learning_rate=row["learning_rate"], seed=row["seed"]
        )
        np.testing.assert_allclose(row["test_loss"], cell.test_loss, rtol=1e-6)
        np.testing.assert_allclose(row["valid_loss"], cell.valid_loss[-1], rtol=1e-6)


WORKER = """
import sys
from pathlib import Path
import jax
from snn_jax import mnist, networks, store
from snn_jax.datasets import Dataset, Split
from snn_jax.identity import RunError
from snn_jax.recipe import Recipe
from snn_jax.sweep import Sweep
small = Dataset(*(Split(s.x[:320], s.y[:320]) for s in mnist.load()))
net = networks.MLP((784, 6, 5, 10), biases=False)
sweep = Sweep(
    jax.random.key(7), small, Recipe(net, num_epochs=2, batch_size=16),
    {"scale": (0.1, 1.0), "learning_rate": (0.1, 1.0)}, seeds=3, width=2,
)
print("ready", flush=True)
try:
    store.complete(Path(sys.argv[1]), sweep)
except RunError as error:
    print(error)
    raise SystemExit(2)
"""


def start_worker(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, text=True
    )


def kill_and_go_on(
    folder: Path, sweep: Sweep, expected: list[Chunk], chance: random.Random
) -> int:
    """Kills a run at a random moment, lets the next one end; what was there, stays."""
    with start_worker(folder) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(chance.uniform(0, 4))
        worker.send_signal(signal.SIGKILL)
    digests = store.Store(folder).digests()
    before = {
        path.name: path.stat().st_mtime_ns
        for path in folder.glob("chunk*")
        if path.stem.split("-")[-1] in digests.values()
    }
    with start_worker(folder) as worker:
        worker.communicate()
    assert worker.returncode == 0
    for name, changed in before.items():
        assert (folder / name).stat().st_mtime_ns == changed, "computed again"
    check(folder, sweep, expected)
    return len(before)


def test_kill(tiny: Sweep, expected: list[Chunk], tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, tiny, expected, random.Random(1))


@pytest.mark.full
@pytest.mark.parametrize("trial", range(100))
def test_a_hundred_kills(
    trial: int, tiny: Sweep, expected: list[Chunk], tmp_path: Path
) -> None:
    """At other moments each."""
    kill_and_go_on(tmp_path, tiny, expected, random.Random(trial))


@pytest.mark.full
@pytest.mark.parametrize("trial", range(20))
def test_two_processes_on_one_folder(
    trial: int, tiny: Sweep, expected: list[Chunk], tmp_path: Path
) -> None:
    """One does the work; the other does too, after it, or says who is at it."""
    with start_worker(tmp_path) as first:
        time.sleep(random.Random(trial).uniform(0, 2))
        with start_worker(tmp_path) as second:
            second.communicate()
        first.communicate()
    codes = {first.returncode, second.returncode}
    assert codes <= {0, 2}
    assert 0 in codes
    check(tmp_path, tiny, expected)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # Ray forks its test cluster from this process
def test_a_cluster_that_loses_a_worker_and_a_node(
    small: Dataset, tmp_path: Path
) -> None:
    """Three nodes; a task's process is killed, then a node is removed."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    sweep = make(small, network=networks.DEEP, num_epochs=1)
    expected = [sweep.run_chunks([i])[0] for i in range(sweep.num_chunks)]
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
    machines.wait_for_nodes()
    finished = 0

    def report(_: int) -> None:
        nonlocal finished
        finished += 1
        if finished == 1:
            command = ["pkill", "-9", "-n", "-f", "ray::_run_chunk"]
            assert subprocess.run(command, check=False).returncode == 0
        if finished == 2:
            machines.remove_node(nodes[0], allow_graceful=False)

    try:
        engine = cluster.ray_engine(sweep, machines.address)
        assert store.complete(tmp_path, sweep, engine=engine, report=report)
    finally:
        ray.shutdown()
        machines.shutdown()
    assert finished == 6
    check(tmp_path, sweep, expected)

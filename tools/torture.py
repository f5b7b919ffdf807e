"""``make torture``: stores under threads, kills, full disks, compaction, other writers and flipped bits, with figures.

Each scenario raises AssertionError if a committed text is lost or changed, or an error is false. The tests run the
same scenarios with small counts.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from optical_rs import InputError
from optical_rs.similarity import TokenStore

DIM = 8


def tokens(number: int) -> np.ndarray:
    """Tokens that say which text they belong to."""
    return np.full((number % 5 + 1, DIM), number, dtype=np.float32)


def check(store: TokenStore, wanted: set[int]) -> None:
    """Every text that is wanted is there once, whole, and nothing else."""
    store.verify()
    found = {int(name): i for i, name in enumerate(store.ids) if not store.deleted[i]}
    assert found.keys() == wanted, f"{len(wanted - found.keys())} lost, {len(found.keys() - wanted)} too many"
    for number, i in found.items():
        assert np.array_equal(store[i], tokens(number)), f"text {number} is not what was added"
        assert store.contents[i] == f"text {number}"


def said(error: InputError, words: str) -> None:
    """An error is one line that says what could not be done."""
    message = str(error)
    assert words in message, message
    assert "\n" not in message, message


def add(store: TokenStore, number: int) -> None:
    store.append([tokens(number)], [str(number)], [f"text {number}"])


def threads(folder: Path, appends: int, *, objects: bool, workers: int = 8) -> dict[str, object]:
    """Threads append, delete now and then and compact, through one object or one each; others read and search."""
    first = TokenStore.create(folder, DIM)
    errors: list[BaseException] = []
    removed: set[int] = set()
    done = threading.Event()
    reads = [0]

    def write(worker: int) -> None:
        store = TokenStore(folder) if objects else first
        try:
            for number in range(worker, appends, workers):
                add(store, number)
                if number % 97 == 5:
                    store.delete([str(number)])
                    removed.add(number)
                if number % 501 == 7:
                    store.compact()
        except BaseException as error:  # noqa: BLE001 (a thread hands it on)
            errors.append(error)

    def read() -> None:
        try:
            while not done.is_set():
                seen = first.snapshot()
                for i in random.Random(reads[0]).sample(range(len(seen)), min(len(seen), 20)):
                    assert np.array_equal(seen[i], tokens(int(seen.ids[i])))
                    if not seen.deleted[i]:
                        assert seen.index(seen.ids[i]) == i
                reads[0] += 1
                time.sleep(0.001)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(workers)]
    began = time.perf_counter()
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    seconds = time.perf_counter() - began
    done.set()
    reader.join()
    assert not errors, errors[0]
    check(TokenStore(folder), set(range(appends)) - removed)
    return {"appends": appends, "threads": workers, "reads": reads[0], "seconds": round(seconds, 1)}


def forked(work: Callable[[], None]) -> int:
    """Run something in a child; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:  # noqa: BLE001
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def kills(folder: Path, rounds: int) -> dict[str, object]:
    """Writers that are killed at any moment, while they append, delete or compact."""
    TokenStore.create(folder, DIM)
    dice, total = random.Random(0), 0
    known: set[int] = set()
    orphans = 0
    for _ in range(rounds):
        read, write = os.pipe()
        first = max(known, default=-1) + 1

        def work(first: int = first, write: int = write) -> None:
            store = TokenStore(folder)
            for number in range(first, first + 1000):
                add(store, number)
                os.write(write, b".")
                if number % 7 == 3:
                    store.compact()

        child = forked(work)
        os.close(write)
        # However slow the machine: every other writer comes to its first commit.
        if dice.random() < 0.5:
            select.select([read], [], [], 60)
        time.sleep(dice.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read, "rb") as pipe:
            acknowledged = len(pipe.read())
        store = TokenStore(folder)
        present = {int(name) for name in store.ids}
        assert set(range(first, first + acknowledged)) <= present, "an acknowledged text is lost"
        check(store, set(range(max(present, default=-1) + 1)))
        known, total = present, total + acknowledged
        with store.writing():
            pass
        orphans += len(list(folder.glob("*.*"))) - 10
    assert orphans == 0, "files of killed writers are left"
    return {"kills": rounds, "commits": total}


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str]:
    """A disk of so many bytes where one can be mounted, else a limit on the size of files."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0:
        try:
            yield "tmpfs"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 8, limit[1]))
    try:
        yield "file size"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def disks(folder: Path, rounds: int) -> dict[str, object]:
    """Disks that fill up while a store is made, appended to, compacted and converted."""
    dice, refused, kinds = random.Random(1), 0, set()
    folder.mkdir()
    for turn in range(rounds):
        place = folder / f"disk{turn}"
        with small_disk(place, 4096 * dice.randint(8, 60)) as kind:
            kinds.add(kind)
            refused += _filled(place, dice)
        shutil.rmtree(place)
    assert refused >= rounds, "the disks were too large"
    return {"disks": rounds, "kind": " and ".join(sorted(kinds)), "refused": refused}


def _filled(place: Path, dice: random.Random) -> int:
    """Fill a disk; how often that was refused."""
    try:
        store = TokenStore.create(place / "store", DIM)
    except InputError as error:
        said(error, "cannot be written to")
        assert not (place / "store").exists(), "half a store is left"
        return 1
    before: set[int] = set()
    refused = 0
    while not refused:
        part = [len(before) + i for i in range(dice.choice((1, 10)))]
        try:
            store.append([tokens(n) for n in part], [str(n) for n in part], [f"text {n}" for n in part])
            before |= set(part)
        except InputError as error:
            said(error, "could not be written")
            refused += 1
    check(TokenStore(place / "store"), before)
    for change in (store.compact, lambda: store.convert(place / "other", "float32")):
        try:
            change()
        except InputError as error:
            said(error, "written")
            refused += 1
        check(TokenStore(place / "store"), before)
    assert (place / "other" / "store.json").exists() or not (place / "other").exists(), "half a copy is left"
    return refused


def opens(folder: Path, count: int) -> dict[str, object]:
    """Processes open and read while another one appends, deletes and compacts without a pause."""
    store = TokenStore.create(folder, DIM)
    for number in range(50):
        add(store, number)

    def compacting() -> None:
        own = TokenStore(folder)
        for number in range(50, 1 << 40):
            add(own, number)
            own.delete([str(number)])
            own.compact()

    child = forked(compacting)
    held = store
    try:
        for turn in range(count):
            opened = TokenStore(folder)
            check(opened, {int(n) for i, n in enumerate(opened.ids) if not opened.deleted[i]})
            assert set(map(str, range(50))) <= set(opened.ids)
            if turn % 100 == 0:
                check(held, {int(n) for i, n in enumerate(held.ids) if not held.deleted[i]})
                held = opened
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the other process ended"
    finally:
        os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    generations = TokenStore(folder)._view.state.generation
    assert generations > 0
    return {"opens": count, "compactions": generations}


def writers(folder: Path, appends: int, processes: int = 4) -> dict[str, object]:
    """Processes append to one store, each waiting for the others."""
    TokenStore.create(folder, DIM)

    def work(worker: int) -> None:
        store = TokenStore(folder)
        for number in range(worker, appends, processes):
            with store.writing(timeout=600):
                add(store, number)

    children = [forked(lambda worker=worker: work(worker)) for worker in range(processes)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * processes, "a writer failed"
    check(TokenStore(folder), set(range(appends)))
    return {"appends": appends, "processes": processes}


def flips(folder: Path, count: int) -> dict[str, object]:
    """Bits that flip and files that are cut, anywhere in a store."""
    dice = random.Random(2)
    store = TokenStore.create(folder, DIM, {"model": "some"}, dtype="int8")
    for number in range(40):
        add(store, number)
    store.delete(["7"])
    files = [f for f in sorted(folder.iterdir()) if f.name != "writer.lock" and f.stat().st_size]
    for _ in range(count):
        file = dice.choice(files)
        good = file.read_bytes()
        at = dice.randrange(len(good))
        changed = good[:at] + bytes([good[at] ^ (1 << dice.randrange(8))]) + good[at + 1 :]
        file.write_bytes(dice.choice((changed, good[:at])))
        try:
            TokenStore(folder).verify()
        except InputError:
            pass
        else:
            raise AssertionError(f"{file.name}, byte {at}: not noticed")
        file.write_bytes(good)
    TokenStore(folder).verify()
    return {"flips": count}


def page(model: Path, index: Path, callers: int = 200, requests: int = 1000) -> dict[str, object]:
    """Searches and explanations of a served index, many at a time: their statuses, and the memory at the most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from optical_rs.cli import main; main()", "serve", str(index)]
    server = subprocess.Popen([*command, "--model", str(model), "--port", str(port)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    texts = [text for text in TokenStore(index).contents[:500] if text.strip()]

    def resident(field: str) -> int:
        line = next(x for x in Path(f"/proc/{server.pid}/status").read_text().splitlines() if field in x)
        return int(line.split()[1]) // 1024

    def call(number: int) -> int:
        text = texts[number % len(texts)][: 60 + number % 200]
        query = {"q": text, "k": 20} if number % 2 else {"q": text, "number": number % len(texts)}
        path = "search" if number % 2 else "explain"
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/{path}?{urlencode(query)}", timeout=600
            ) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    try:
        server.stdout.readline()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                call(1)
                break
            time.sleep(0.1)
        before = resident("VmHWM")
        with concurrent.futures.ThreadPoolExecutor(callers) as pool:
            statuses = Counter(pool.map(call, range(requests)))
        most = resident("VmHWM")
    finally:
        server.terminate()
        server.wait()
    assert not any(status >= 500 and status != 503 for status in statuses), statuses
    assert most <= 600, f"{most} MiB"
    return {
        "callers": callers,
        "requests": requests,
        "statuses": dict(statuses),
        "MiB": f"{before} to {most}",
    }


SCENARIOS: dict[str, Callable[[Path], dict[str, object]]] = {
    "threads, one object": lambda folder: threads(folder, 10_000, objects=False),
    "threads, an object each": lambda folder: threads(folder, 10_000, objects=True),
    "kills": lambda folder: kills(folder, 400),
    "full disks": lambda folder: disks(folder, 100),
    "opens during compaction": lambda folder: opens(folder, 10_000),
    "writers that wait": lambda folder: writers(folder, 2_000),
    "flipped bits and cut files": lambda folder: flips(folder, 5_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="scenarios whose name has one of these words"
    )
    parser.add_argument(
        "--page", nargs=2, type=Path, metavar=("MODEL", "INDEX"), help="also the search page of these"
    )
    options = parser.parse_args()
    scenarios = dict(SCENARIOS)
    if options.page:
        scenarios["search page"] = lambda folder: page(*options.page)
    failed = 0
    for name, scenario in scenarios.items():
        if options.only and not any(word in name for word in options.only):
            continue
        began = time.perf_counter()
        # In memory where that is possible: what is killed are processes, not the machine.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=memory) as temporary:
            try:
                figures = scenario(Path(temporary) / "store")
                line = ", ".join(f"{value} {key}" for key, value in figures.items())
            except (AssertionError, InputError, OSError) as error:
                failed, line = failed + 1, f"FAILED: {error}"
        print(f"{name:28} {line}  ({time.perf_counter() - began:.0f} s)", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Kill ``optical-rs index`` at random moments, and see that nothing is lost, encoded twice or different in the end.

    python tools/kill_index.py --model EXPORTED --documents DOCUMENTS --kills 50

The command is run once without a kill, for the bytes that are wanted. Then it is started and killed (SIGKILL) again and again
on another store, half of the time as soon as it has committed something and a little later, else at any moment, and at
last left to end. After each kill the store is whole and holds the first documents of the wanted one, no fewer than before. The
last run says how many documents it has encoded: those that were missing. In the end all files have the wanted bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from optical_rs.edge.fields import fields_of
from optical_rs.similarity import TokenStore, columns


def command(model: Path, documents: Path, out: Path) -> list[str]:
    work = "from optical_rs.cli import main; main()"
    return [
        *(sys.executable, "-c", work, "index", "--model", str(model), "--documents", str(documents)),
        *("--output", str(out), "--threads", "1"),
    ]


def held(out: Path) -> list[str]:
    """The ids of what is committed, after a check of all bytes."""
    if not columns.holds_store(out):
        return []
    store = TokenStore(out)
    store.verify()
    return store.ids


def files(out: Path) -> dict[str, bytes]:
    """All that an index is, by file; the lock says which process wrote last."""
    return {
        str(file.relative_to(out.parent)).replace(out.name, "index", 1): file.read_bytes()
        for folder in (out, fields_of(out))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "writer.lock"
    }


def expect_same(out: Path, wanted: Path) -> None:
    found, expected = files(out), files(wanted)
    other = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    assert not other, f"other bytes in {', '.join(other)}"


def kills(model: Path, documents: Path, folder: Path, rounds: int, seed: int = 0) -> dict[str, object]:
    """Kill, continue and compare; figures.

    Raises
    ------
    AssertionError
        If a committed document is lost, a document is encoded twice, or the bytes differ in the end.
    """
    wanted, out = folder / "wanted", folder / "killed"
    began = time.monotonic()
    subprocess.run(command(model, documents, wanted), check=True, capture_output=True)
    whole = time.monotonic() - began
    names = held(wanted)
    dice, before, ended, least = random.Random(seed), 0, 0, []
    for turn in range(rounds):
        if before == len(names):  # all is done: the remaining kills begin anew
            expect_same(out, wanted)
            for place in (out, fields_of(out)):
                shutil.rmtree(place, ignore_errors=True)
            ended, before = ended + 1, 0
        child = subprocess.Popen(
            command(model, documents, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if turn % 2:
            description = out / "store.json"
            seen = description.stat().st_mtime_ns if description.exists() else None
            while child.poll() is None:
                with contextlib.suppress(FileNotFoundError):
                    if description.stat().st_mtime_ns != seen and TokenStore(out).ids[before:]:
                        break
                time.sleep(0.002)
            time.sleep(dice.random() * 0.05)
        else:
            time.sleep(dice.random() * whole)
        child.kill()
        child.wait()
        found = held(out)
        assert found == names[: len(found)], f"kill {turn}: other documents than those that were given"
        assert len(found) >= before, f"kill {turn}: {before - len(found)} committed documents are lost"
        least.append(len(found) - before)
        before = len(found)
    done = subprocess.run(command(model, documents, out), check=True, capture_output=True, text=True)
    said = re.search(r"^encoding: (\d+) documents of \d+ tokens", done.stderr, re.MULTILINE)
    encoded = int(said[1]) if said else 0
    assert encoded == len(names) - before, f"{encoded} documents encoded, {len(names) - before} were missing"
    expect_same(out, wanted)
    return {
        "kills": rounds,
        "that left new documents": sum(new > 0 for new in least),
        "times to the end": ended + 1,
        "documents": len(names),
        "encoded by the last run": encoded,
        "seconds of a whole run": round(whole, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--documents", type=Path, required=True, help="lines of id, tab and text")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = kills(options.model, options.documents, Path(folder), options.kills, options.seed)
    print(", ".join(f"{value} {key}" for key, value in figures.items()))


if __name__ == "__main__":
    main()

"""``make test-cluster``: an index that two machines of a Ray cluster encode, one of which is lost in the middle.

The machines are namespaces of this one (networks, processes, mounts) with a cable between them, and each has disks of its
own: the second one sees no documents, no model and no index. Every index is compared, bit for bit, with that of one process
without Ray. Needs Linux, root and the extras ``edge`` and ``ray``; without ``--model`` also ``export`` and ``demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from optical_rs.data import stream_documents
from optical_rs.edge.shards import shards_of
from optical_rs.similarity import TokenStore, columns

HOSTS = ("10.83.0.1", "10.83.0.2")
ADDRESS = f"{HOSTS[0]}:6379"
ENVIRONMENT = {
    **os.environ,
    **dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "RAY_USAGE_STATS_ENABLED": "0",
    # The machines share this one's memory, which other work may fill.
    "RAY_memory_monitor_refresh_ms": "0",
    # A token of these machines' own, as a cluster should have.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
COMMAND = [sys.executable, "-m", "optical_rs.cli"]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def wait(what: str, condition: Callable[[], bool], seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


class Machine:
    """Namespaces whose processes end together, with empty folders in the place of some."""

    def __init__(self, name: str, host: str, hidden: list[Path], log: Path):
        self.name, self.host, self.log = name, host, log
        run("ip", "netns", "add", name)
        disks = " && ".join(f"mount -t tmpfs tmpfs {disk}" for disk in ("/tmp", "/dev/shm", *hidden))
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
        self.first = subprocess.Popen(
            ["ip", "netns", "exec", name, *apart, f"{disks} && echo ready && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self.first.stdout is not None
        assert self.first.stdout.readline() == b"ready\n", "no namespaces: this needs root"
        self.inside = Path(f"/proc/{self.first.pid}/task/{self.first.pid}/children").read_text().split()[0]

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A process on this machine."""
        enter = ["nsenter", "--target", self.inside, "--mount", "--pid", "--net", f"--wd={os.getcwd()}"]
        with self.log.open("ab") as log:
            return subprocess.Popen([*enter, *command], stdout=log, stderr=log, env=ENVIRONMENT)

    def join(self) -> None:
        """Start Ray here, with one core; the first machine is the head."""
        head = self.host == HOSTS[0]
        where = ["--head", "--port=6379", "--include-dashboard=false"] if head else [f"--address={ADDRESS}"]
        size = ["--num-cpus=1", f"--object-store-memory={200 << 20}"]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        self.start(*ray, *where, f"--node-ip-address={self.host}", *size)

    def encodes(self) -> bool:
        """Whether a shard is being encoded here."""
        here = os.readlink(f"/proc/{self.inside}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # of those that have ended
                title = (process / "cmdline").read_bytes()
                if title.startswith(b"ray::_shard_of") and os.readlink(process / "ns" / "pid") == here:
                    return True
        return False

    def lose(self) -> None:
        """As if the cable was cut and then the power: nothing is said to the other machine."""
        with contextlib.suppress(subprocess.CalledProcessError):
            run("ip", "-n", self.name, "link", "set", f"{self.name}e", "down")
        self.first.kill()
        self.first.wait()


@contextlib.contextmanager
def cluster(folder: Path, count: int = 2) -> Iterator[list[Machine]]:
    """One or two machines that run Ray."""
    mark, made = f"o{os.getpid()}", []
    try:
        for i, host in enumerate(HOSTS):
            made.append(Machine(f"{mark}{'ab'[i]}", host, [folder] if i else [], folder / f"machine{i}.log"))
        first, second = (machine.name for machine in made)
        run(
            "ip",
            "link",
            "add",
            f"{first}e",
            "netns",
            first,
            "type",
            "veth",
            "peer",
            f"{second}e",
            "netns",
            second,
        )
        for machine in made:
            run("ip", "-n", machine.name, "addr", "add", f"{machine.host}/24", "dev", f"{machine.name}e")
            for link in ("lo", f"{machine.name}e"):
                run("ip", "-n", machine.name, "link", "set", link, "up")
        for machine in made[:count]:
            machine.join()
        yield made
    finally:
        for machine in made:
            machine.lose()
            with contextlib.suppress(subprocess.CalledProcessError):
                run("ip", "netns", "del", machine.name)


def indexing(machine: Machine, given: list[str], store: Path) -> subprocess.Popen[bytes]:
    """The command, on a machine of the cluster."""
    return machine.start(
        *COMMAND, "index", *given, "--output", str(store), "--engine", "ray", "--address", ADDRESS
    )


def texts(store: Path) -> int:
    """How many are committed."""
    return len(TokenStore(store)) if columns.holds_store(store) else 0


def finished(store: Path) -> bool:
    """Whether a shard is, in its turn or before."""
    return texts(store) > 0 or any(shards_of(store).glob("*.shard"))


def expect_same(store: Path, wanted: Path) -> None:
    TokenStore(store).verify()
    for file in sorted(wanted.iterdir()):
        if file.name != "writer.lock":
            assert (store / file.name).read_bytes() == file.read_bytes(), f"{file.name} is another"
    assert not shards_of(store).exists(), "shards are left"


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        raise AssertionError(f"the command failed: {log.read_text(errors='replace')[-3000:]}")


def ready(machine: Machine, count: int) -> None:
    """Wait until the cluster has so many machines."""
    code = (
        f"import ray; ray.init('{ADDRESS}', logging_level='error', log_to_driver=False); "
        f"raise SystemExit(sum(node['Alive'] for node in ray.nodes()) != {count})"
    )
    wait("a cluster", lambda: machine.start(sys.executable, "-c", code).wait() == 0)


def lost_machine(folder: Path, given: list[str], wanted: Path, total: int) -> str:
    """The second machine is lost while it encodes."""
    with cluster(folder) as (first, second):
        ready(first, 2)
        store = folder / "lost"
        command = indexing(first, given, store)
        wait("a shard", lambda: (finished(store) and second.encodes()) or command.poll() is not None)
        assert command.poll() is None, first.log.read_text(errors="replace")[-3000:]
        second.lose()
        at, began = texts(store), time.monotonic()
        assert at < total, "all was encoded before the machine was lost; give more documents"
        finish(command, first.log)
        expect_same(store, wanted)
        return f"lost at {at} of {total} documents, ended {time.monotonic() - began:.0f} s later"


def lost_command(folder: Path, given: list[str], wanted: Path, total: int) -> str:
    """The command is killed, and given again."""
    with cluster(folder) as (first, _):
        ready(first, 2)
        store = folder / "killed"
        command = indexing(first, given, store)
        wait("a shard", lambda: finished(store) or command.poll() is not None)
        # nsenter waits for its child, which ends with its parent's namespace alone.
        for child in Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split():
            os.kill(int(child), 9)
        command.wait()
        at, kept = (
            texts(store),
            len(list(shards_of(store).glob("*.shard"))) if shards_of(store).exists() else 0,
        )
        assert at < total, "all was encoded before the command was killed; give more documents"
        finish(indexing(first, given, store), first.log)
        expect_same(store, wanted)
        return f"killed at {at} of {total} documents, with {kept} shards that waited"


def machines(count: int) -> Callable[..., str]:
    """The pace of so many machines, from the start of the command to its end, and the median from commit to commit."""

    def scenario(folder: Path, given: list[str], wanted: Path, total: int) -> str:
        with cluster(folder, count) as (first, _):
            ready(first, count)
            store, began = folder / f"pace{count}", time.monotonic()
            command, seen, times = indexing(first, given, store), 0, []
            while command.poll() is None:
                if (now := texts(store)) > seen:
                    seen = now
                    times.append(time.monotonic())
                time.sleep(0.02)
            seconds = time.monotonic() - began
            finish(command, first.log)
            expect_same(store, wanted)
            between = statistics.median(after - before for before, after in itertools.pairwise(times))
            return (
                f"{total} documents in {seconds:.0f} s, {total / seconds:.1f} a second; "
                f"{between:.2f} s between commits (median)"
            )

    return scenario


SCENARIOS = {
    "a machine is lost": lost_machine,
    "the command is killed": lost_command,
    "pace of one machine": machines(1),
    "pace of two machines": machines(2),
}


def export_model(folder: Path) -> Path:
    """The packaged encoder with a head, exported once."""
    if not (folder / "edge.json").is_file():
        from optical_rs.data import load_collection
        from optical_rs.edge.export import export
        from optical_rs.models import late_interaction

        texts = list(load_collection("kolibri:ny").documents.values())[:300]
        export(late_interaction("packaged:multilingual-e5-small", 128, fit_on=texts, device="cpu"), folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an exported model (default: the packaged encoder)")
    parser.add_argument("--documents", default="bible:ny", help="as for optical-rs index")
    parser.add_argument("--count", type=int, default=3072, help="how many of them")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="scenarios whose name has one of these words"
    )
    options = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        sys.exit("ray is not installed: pip install 'optical_rs[ray]'")
    if sys.platform != "linux" or os.geteuid() != 0:
        sys.exit("network namespaces need Linux and root")
    model = options.model or export_model(Path("runs/cluster/model"))
    failed = 0
    # Not in /tmp, which each machine has of its own.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        folder = Path(temporary)
        documents = folder / "documents.tsv"
        rows = itertools.islice(iter(stream_documents(options.documents)), options.count)
        documents.write_text("".join(f"{name}\t{' '.join(text.split())}\n" for name, text in rows), "utf-8")
        total = len(documents.read_text("utf-8").splitlines())
        given = ["--model", str(model.resolve()), "--documents", str(documents), "--precision", "int8"]
        began = time.monotonic()
        here = [*COMMAND, "index", *given, "--output", str(folder / "here"), "--threads", "1"]
        subprocess.run(here, check=True, capture_output=True, env=ENVIRONMENT)
        print(
            f"{'one process without Ray':28} {total} documents in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        for name, scenario in SCENARIOS.items():
            if options.only and not any(word in name for word in options.only):
                continue
            began = time.monotonic()
            try:
                line = scenario(folder, given, folder / "here", total)
            except AssertionError as error:
                failed, line = failed + 1, f"FAILED: {error}"
            print(f"{name:28} {line}  ({time.monotonic() - began:.0f} s)", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

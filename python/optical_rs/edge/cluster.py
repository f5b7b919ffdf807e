"""``on_ray``: the shards of an index, encoded by the machines of a Ray cluster."""

import contextlib
import importlib.metadata
import os
import socket
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError, require
from ..progress import say
from .encoder import MODELS, Encoder
from .shards import Encode, Kept, index_shard

#: How often a shard is begun again whose machine or process was lost.
RETRIES = 5
#: Shards for each core that are given out: while one is encoded, the next is on its way.
_EACH = 2
#: Shards that may be begun or finished before the first that is not, at least; bounds memory and disk.
_AHEAD = 256
#: Seconds without a result after which the machines are counted again.
_PATIENCE = 30.0

#: The models that a process of the cluster has loaded, by content and threads.
_loaded: dict[tuple[str, int], Encoder] = {}


def on_ray(
    address: str | None = None, *, kept: str | Path, threads: int = 1, timeout: float = 20.0
) -> Encode:
    """Encode shards on the machines of a Ray cluster, for :func:`~optical_rs.edge.index.index`.

    Machines get the model and the texts from this one and send tokens back: no folder is shared, and this one alone
    writes. Each of them needs the same versions of this package, onnxruntime, tokenizers and numpy. What a machine had
    begun when it was lost is begun again on another one.

    Parameters
    ----------
    address : str, optional
        Of the cluster, as ``HOST:PORT``; by default one is started on this machine, and ended afterwards.
    kept : path
        A folder for shards that are finished before their turn, see :func:`~optical_rs.edge.shards.shards_of`.
    threads : int
        Cores that a shard takes; the result does not depend on it.
    timeout : float
        Seconds to wait for the cluster.

    Returns
    -------
    callable
        The option ``encode`` of :func:`~optical_rs.edge.index.index`. It raises InputError if the cluster has no machine
        with that many cores, if a machine has other versions, or if a shard's machine was lost more than 5 times.

    Raises
    ------
    InputError
        Ray is not installed, nothing answers at the address, or fewer threads than 1.
    """
    if threads < 1:
        raise InputError(f"threads: expected at least 1, got {threads}")
    ray = require("ray", "ray")
    if address is not None:
        _reach(address, timeout)

    def encode(
        encoder: Encoder, shards: Iterator[Sequence[str]], dtype: str
    ) -> Generator[Mapping[str, bytes], None, None]:
        with _connected(ray, address):
            cores = _cores(ray, threads)
            say(f"ray: {sum(cores)} cores on {len(cores)} machines")
            yield from _encoded(ray, encoder, shards, dtype, Kept(kept), threads)

    return encode


def _encoded(
    ray: Any, encoder: Encoder, shards: Iterator[Sequence[str]], dtype: str, kept: Kept, threads: int
) -> Iterator[Mapping[str, bytes]]:
    files = {name: (encoder.path / name).read_bytes() for name in _files(encoder)}
    # In a list, so that a process that has the model does not get it again.
    model = [ray.put(files)]
    task = ray.remote(num_cpus=threads, max_retries=RETRIES)(_shard_of)
    given = (encoder.content, encoder.precision, threads, versions())
    keys: dict[int, str] = {}  # of those that were begun and whose turn has not come
    done: dict[int, Mapping[str, bytes] | None] = {}  # None: kept on disk
    running: dict[Any, int] = {}
    turn = begun = 0
    more = True
    while more or keys:
        many = _EACH * max(sum(_cores(ray, threads)) // threads, 1)
        while more and len(running) < many and len(keys) < max(_AHEAD, 2 * many):
            texts = next(shards, None)
            if texts is None:
                more = False
                break
            key = keys[begun] = kept.key(encoder, texts, dtype)
            if not texts:
                done[begun] = {}
            elif kept.has(key):
                done[begun] = None
            else:
                running[task.remote(model, *given, list(texts), dtype)] = begun
            begun += 1
        if turn not in done and running:
            number, made = _next(ray, running, threads)
            done[number] = made
            if number != turn:
                kept.write(keys[number], made)
                done[number] = None
        while turn in done:
            key, shard = keys.pop(turn), done.pop(turn)
            shard = kept.read(key) if shard is None else shard
            if shard is None:
                raise InputError(
                    f"shards: {kept.file(key)} was removed or damaged; the same command makes it again"
                )
            yield shard
            if key not in keys.values():  # shards of the same texts are one file
                kept.remove(key)  # the index has it
            turn += 1
    kept.clear()


def _next(ray: Any, running: dict[Any, int], threads: int) -> tuple[int, Mapping[str, bytes]]:
    """The next shard that is finished, and its number."""
    while not (ready := ray.wait(list(running), timeout=_PATIENCE)[0]):
        _cores(ray, threads)
    number = running.pop(ready[0])
    try:
        return number, ray.get(ready[0])
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, InputError):
            raise InputError(str(cause)) from None
        last = str(error).strip().splitlines()[-1]
        raise InputError(f"address: shard {number} failed on a machine of the cluster: {last}") from error
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"address: shard {number} was lost {RETRIES + 1} times ({type(error).__name__}: {first}); what is in the "
            "index stays, and the same command goes on"
        ) from None


def _shard_of(
    model: list[Any],
    content: str,
    precision: str,
    threads: int,
    wanted: Mapping[str, str],
    texts: Sequence[str],
    dtype: str,
) -> Mapping[str, bytes]:
    """What a process of the cluster does."""
    import ray

    own = versions()
    if other := [name for name in own if own[name] != wanted.get(name)]:
        has, needed = (", ".join(f"{name} {found.get(name)}" for name in other) for found in (own, wanted))
        raise InputError(f"address: the machine {socket.gethostname()} has {has}, expected {needed}")
    if (content, threads) not in _loaded:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in ray.get(model[0]).items():
                Path(folder, name).write_bytes(data)
            _loaded[content, threads] = Encoder(folder, precision=precision, threads=threads)
    return index_shard(_loaded[content, threads], texts, dtype)


def _files(encoder: Encoder) -> tuple[str, ...]:
    return "edge.json", MODELS[encoder.precision], "tokenizer.json"


def versions() -> dict[str, str]:
    """Of what a shard's bits depend on besides the model and the processor."""
    found = {name: importlib.metadata.version(name) for name in ("numpy", "onnxruntime", "tokenizers")}
    return {"optical_rs": __version__, **found}


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """With a connection to the cluster, or to one that is started here."""
    if address is None and ray.is_initialized():  # the caller's own
        yield
        return
    # Nobody is told that a cluster was started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = (
        {"address": address} if address else {"address": "local", "include_dashboard": False}
    )
    try:
        ray.init(**options, logging_level="error", log_to_driver=False)
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"address: no Ray cluster answers at {address or 'this machine'} ({first})"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str, timeout: float) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for a long time, and end the process."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit()):
        raise InputError(f"address: expected HOST:PORT, got {address!r}")
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=max(deadline - time.monotonic(), 0.1)):
                return
        except OSError as error:
            if time.monotonic() + 0.5 > deadline:
                raise InputError(
                    f"address: no Ray cluster answers at {address} within {timeout:g} s ({error.strerror or error})"
                ) from None
        time.sleep(0.5)


def _cores(ray: Any, threads: int) -> list[int]:
    """The cores of each machine that has enough of them for a shard."""
    alive = [node.get("Resources", {}) for node in ray.nodes() if node["Alive"]]
    cores = [n for node in alive if (n := int(node.get("CPU", 0))) >= threads]
    if not cores:
        raise InputError(
            f"address: no machine of the cluster has {threads} cores; what is in the index stays, and the same "
            "command goes on"
        )
    return cores

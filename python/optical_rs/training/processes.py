"""Several processes, one training: the main process decides, reads and writes; the others train what it sends them.

torchrun and ``accelerate launch`` start the same program in each process. A function decorated with :func:`led` runs in
the main one alone. Where it comes to :func:`together`, it sends a call with its arguments to the others, which wait
for it, and all of them make that call. Models, texts and checkpoints travel this way, so that the other machines need
no files but the program's. In one process all of this is an ordinary call.

Who waits does so without a time limit. A process that ends closes its connections, which the others see at once; a
machine that is switched off does not, and is missed by its silence (:class:`_Watch`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pickle
import shutil
import signal
import socket
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from .. import fingerprint
from ..errors import InputError
from .arguments import defaults

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that processes may start apart, and that a step of training may take; ``ddp_timeout`` wins.
START = 600
#: Seconds between signs of life, and how many may be missing.
BEAT, LOST = 5.0, 24
#: How long a process waits for another one that lives.
PATIENCE = timedelta(days=7)
#: Bytes that travel together.
PIECE = 16 << 20
_SAME = object()


class ProcessLost(InputError):
    """Another process has ended, or its machine does not answer; this one cannot go on alone."""

    status = 1


@dataclasses.dataclass
class _Team:
    """The processes while one of them leads."""

    group: Any
    #: Whether the others are in the middle of a call.
    busy: bool = False


_team: _Team | None = None


def led(
    training: Callable[..., Mapping[str, Any] | None],
    *,
    same: Callable[..., Mapping[str, Any]] | None = None,
    elsewhere: Any = _SAME,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function run in the main process alone; the others take part in what it shares, and get its outcome.

    Parameters
    ----------
    training : callable
        The training arguments among the function's arguments; of them ``use_cpu`` and ``ddp_timeout`` say how
        processes are connected.
    same : callable, optional
        What else must be equal in all processes, by name; their versions always must be.
    elsewhere : any, optional
        What the others return; by default what the main process does.

    Raises
    ------
    InputError
        In all processes what the main one raised; ``told`` is true in the others. Processes that differ.
    ProcessLost
        Another process ended before its time.

    Examples
    --------
    >>> @led(lambda training: training)
    ... def train(training):
    ...     return together(int, "7")
    >>> train({"use_cpu": True})
    7
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            options = {**defaults(), "ddp_timeout": START, **(training(*args, **kwargs) or {})}
            # Not before there are training arguments: they say whether processes are connected by their GPUs.
            timeout = timedelta(seconds=float(options["ddp_timeout"]))
            state = PartialState(cpu=bool(options["use_cpu"]), timeout=timeout)
            if state.num_processes == 1 or _team is not None:
                return function(*args, **kwargs)
            with _joined({} if same is None else same(*args, **kwargs)) as team:
                if state.is_main_process:
                    return _lead(team, functools.partial(function, *args, **kwargs), elsewhere is _SAME)
                found = _follow()
                return found if elsewhere is _SAME else elsewhere

        return wrapped

    return decorate


def together(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in all processes, with the main one's arguments; the outcome is the main one's.

    Functions and classes travel by name, everything else by content. Within the call, all processes are equal.
    """
    if _team is None:
        return function(*args, **kwargs)
    # An error from here on leaves the others in the middle.
    _team.busy = True
    _send(("call", function, args, kwargs))
    made = function(*args, **kwargs)
    _team.busy = False
    return made


def busy() -> bool:
    """Whether the other processes are in the middle of a call: after an error, nothing more can be shared with them."""
    return _team is not None and _team.busy


def is_main() -> bool:
    """Whether this process decides, reads and writes."""
    return PartialState().is_main_process


def from_main(make: Callable[[], T]) -> T:
    """Within a shared call: what the main process makes, in all; the others wait as long as it takes."""
    if _team is None:
        return make()
    if not is_main():
        return _receive()
    made = make()
    _send(made)
    return made


def copied(folder: Path | None, target: Path) -> Path | None:
    """Within a shared call: a folder of the main process, of which the others get a copy in ``target``; or None."""
    if _team is None:
        return folder
    name = from_main(lambda: None if folder is None else folder.name)
    if name is None:
        return None
    if is_main():
        with _sending() as stream, tarfile.open(fileobj=stream, mode="w|", bufsize=PIECE) as archive:
            archive.add(str(folder), name)
        return folder
    with _receiving() as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extractall(target, filter="data")
    return target / name


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Within a shared call: one process of each machine goes first, and the others find what it put into a cache."""
    first = PartialState().is_local_main_process
    if not first:
        _wait()
    yield
    if first:
        _wait()


def _wait() -> None:
    if _team is not None:
        dist.barrier(group=_team.group)


def gathered(value: T) -> list[T]:
    """Within a shared call: the value of each process, the main one's first."""
    if _team is None:
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value, group=_team.group)
    return found


# Leading and following


@contextlib.contextmanager
def _joined(same: Mapping[str, Any]) -> Iterator[_Team]:
    global _team
    before = tempfile.tempdir
    try:
        with tempfile.TemporaryDirectory() as own, _ended_by_a_signal():
            _team, tempfile.tempdir = _Team(dist.new_group(backend="gloo", timeout=PATIENCE)), own
            _expect_same({**_versions(), **same})
            # All that is temporary lies in one folder, which is removed however this ends.
            watch = _Watch(own)
            try:
                yield _team
            finally:
                watch.stop.set()
            dist.destroy_process_group(_team.group)
    except RuntimeError as error:
        # torch has no class for what gloo says of a connection that was closed.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        raise ProcessLost(
            f"processes: another process has ended or cannot be reached ({reason or type(error).__name__}); the same "
            "command goes on from what is kept"
        ) from error
    finally:
        _team, tempfile.tempdir = None, before


def _versions() -> dict[str, str]:
    """What must be the same on all machines."""
    found = {name: version(name) for name in ("torch", "transformers", "sentence-transformers")}
    # The code rather than the version: a checkout may be at any state.
    package = Path(__file__).parent.parent
    return {"optical_rs": fingerprint.of_files(*sorted(package.rglob("*.py")))[:12], **found}


def _expect_same(mine: Mapping[str, Any]) -> None:
    where = f"process {dist.get_rank()} ({socket.gethostname()})"
    every = gathered((where, dict(mine)))
    main = every[0][1]
    for name, other in every[1:]:
        differs = [key for key in main.keys() | other.keys() if main.get(key) != other.get(key)]
        if differs:
            error = InputError(
                f"processes: {name} differs from the main process in {', '.join(sorted(differs))}; every machine needs "
                "the same command and the same versions"
            )
            error.told = not is_main()
            raise error


def _lead(team: _Team, make: Callable[[], T], share: bool) -> T:
    try:
        made = make()
    except BaseException as error:
        if not team.busy:
            told = error if isinstance(error, InputError) else InputError(f"{type(error).__name__}: {error}")
            with contextlib.suppress(RuntimeError):  # the error is what counts
                _send(("error", told))
        raise
    _send(("end", made if share else None))
    return made


def _follow() -> Any:
    while True:
        kind, *content = _receive()
        if kind == "call":
            function, args, kwargs = content
            function(*args, **kwargs)
            # A model may be large, and the next call may be long in coming.
            del function, args, kwargs, content
        elif kind == "error":
            content[0].told = True
            raise content[0]
        else:
            return content[0]


@contextlib.contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """SIGTERM, by which torchrun ends what is left, as an exception, so that nothing stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Watch:
    """Ends this process when another one is silent for long, whatever this one waits for in the meantime.

    Signs of life are counted, not timed: who was stopped for a while has not missed any.
    """

    def __init__(self, own: str) -> None:
        self.rank, self.own = dist.get_rank(), own
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = dist.TCPStore(address, port, is_master=False)
        self.heard = {i: 0 for i in range(dist.get_world_size()) if i != self.rank}
        self.stop = threading.Event()
        # Two threads: asking a machine that does not answer takes for ever.
        for work in (self._ask, self._judge):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def _ask(self) -> None:
        with contextlib.suppress(RuntimeError):  # no sign of life comes from a store that is lost
            while not self.stop.is_set():
                self.store.add(f"optical_rs/{self.rank}", 1)
                for other in self.heard:
                    self.heard[other] = self.store.add(f"optical_rs/{other}", 0)
                self.stop.wait(BEAT)

    def _judge(self) -> None:
        last, missing = dict(self.heard), dict.fromkeys(self.heard, 0)
        while not self.stop.wait(BEAT):
            for other in self.heard:
                silent = self.heard[other] == last[other]
                missing[other], last[other] = missing[other] + 1 if silent else 0, self.heard[other]
            lost = [str(other) for other, count in missing.items() if count > LOST]
            if lost:
                self._end(", ".join(lost))

    def _end(self, lost: str) -> None:
        print(
            f"error: processes: no sign of life of process {lost} for {BEAT * LOST:.0f} s; the same command goes on "
            "from what is kept",
            file=sys.stderr,
            flush=True,
        )
        shutil.rmtree(self.own, ignore_errors=True)
        # The main thread may wait in a call that nothing interrupts.
        os._exit(ProcessLost.status)


# What travels


class _Out:
    """Bytes to all other processes."""

    def __init__(self) -> None:
        self.content = hashlib.sha256()

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as view:
            for first in range(0, len(view), PIECE):
                piece = view[first : first + PIECE]
                self.content.update(piece)
                _broadcast(torch.tensor([len(piece)]))
                _broadcast(torch.frombuffer(bytearray(piece), dtype=torch.uint8))
            return len(view)


class _In(io.RawIOBase):
    """Bytes of the main process."""

    def __init__(self) -> None:
        self.content, self.rest, self.ended = hashlib.sha256(), memoryview(b""), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest and not self.ended:
            size = int(_broadcast(torch.zeros(1, dtype=torch.int64))[0])
            self.ended = not size
            if size:
                self.rest = _broadcast(torch.empty(size, dtype=torch.uint8)).numpy().data
                self.content.update(self.rest)
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count


def _broadcast(tensor: torch.Tensor) -> torch.Tensor:
    assert _team is not None
    dist.broadcast(tensor, src=0, group=_team.group)
    return tensor


@contextlib.contextmanager
def _sending() -> Iterator[Any]:
    stream = _Out()
    yield stream
    _broadcast(torch.tensor([0]))
    _broadcast(torch.frombuffer(bytearray(stream.content.digest()), dtype=torch.uint8))


@contextlib.contextmanager
def _receiving() -> Iterator[Any]:
    raw = _In()
    stream = io.BufferedReader(raw, 1 << 20)
    yield stream
    while stream.read(1 << 20):
        pass
    if bytes(_broadcast(torch.empty(32, dtype=torch.uint8)).numpy()) != raw.content.digest():
        raise ProcessLost("processes: what the main process sent arrived damaged")


class _Pickler(pickle.Pickler):
    """Tensors of a GPU arrive on the receiver's own."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and value.device.type != "cpu":
            return _here, (value.cpu(),)
        return NotImplemented


def _here(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(PartialState().device)


def _send(value: Any) -> None:
    with _sending() as stream:
        _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(value)


def _receive() -> Any:
    with _receiving() as stream:
        return pickle.load(stream)

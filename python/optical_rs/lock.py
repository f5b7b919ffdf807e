"""One writer for a folder: threads take turns, another process is refused or waited for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError

#: The file that is locked; it holds the number of the process that writes.
NAME = "writer.lock"
#: The longest pause in seconds between two attempts to get the lock.
_PAUSE = 0.1
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

_guard = threading.Lock()
_known: weakref.WeakValueDictionary[str, FolderLock] = weakref.WeakValueDictionary()


class FolderLock:
    """The lock of one folder, shared by everything in this process that writes there; see :func:`folder_lock`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._turn = threading.RLock()
        self._depth = 0
        self._file: int | None = None

    @contextlib.contextmanager
    def held(self, timeout: float = 0.0, make: bool = False) -> Iterator[bool]:
        """Be the only writer of the folder, and yield whether this is the outermost of nested holds.

        The threads of a process take turns, however long. The system takes the lock back when its process ends,
        however it does.

        Parameters
        ----------
        timeout : float
            Seconds to wait for another process.
        make : bool
            Make the folder if it does not exist; its last writer may have removed it.

        Raises
        ------
        InputError
            Another process writes and ``timeout`` has passed, or the folder cannot be written to.
        """
        process = os.getpid()
        self._turn.acquire()
        try:
            if self._depth == 0:
                self._file = _locked(self.folder, time.monotonic() + timeout, make)
            self._depth += 1
            try:
                yield self._depth == 1
            finally:
                # A fork inside the block leaves the lock to the parent.
                if os.getpid() == process:
                    self._depth -= 1
                    if self._depth == 0 and self._file is not None:
                        _unlock(self._file)
                        self._file = None
        finally:
            if os.getpid() == process:
                self._turn.release()

    def _forget(self) -> None:
        """In a forked child: the parent's hold is not the child's, nor is that of a thread that is not there."""
        if self._file is not None:
            os.close(self._file)
        self._turn, self._depth, self._file = threading.RLock(), 0, None


def folder_lock(folder: str | os.PathLike) -> FolderLock:
    """The lock of a folder, by whichever name; it must exist when the lock is taken, or be made then.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with folder_lock(folder).held() as first, folder_lock(folder).held() as second:
    ...     first, second
    (True, False)
    """
    key = os.path.realpath(folder)
    with _guard:
        lock = _known.get(key)
        if lock is None:
            lock = _known[key] = FolderLock(Path(key))
        return lock


def _locked(folder: Path, deadline: float, make: bool) -> int:
    """The lock file, opened and locked."""
    path, pause, tries = folder / NAME, 0.001, 0
    while True:
        try:
            if make:
                folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666)
        except OSError as error:
            # Its last writer may remove the folder at this very moment.
            if make and isinstance(error, FileNotFoundError | FileExistsError) and (tries := tries + 1) < 100:
                continue
            raise InputError(f"path: {folder} cannot be written to ({error.strerror or error})") from None
        if _try_lock(file, folder):
            # A folder that was removed and made again in the meantime has another lock file.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    with contextlib.suppress(OSError):  # the number is for a message alone
                        os.ftruncate(file, 0)
                        os.write(file, str(os.getpid()).encode())
                    return file
            os.close(file)
            continue
        if time.monotonic() >= deadline:
            holder = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise InputError(f"path: {folder} is being written by process {holder}")
        os.close(file)
        time.sleep(min(pause, max(deadline - time.monotonic(), 0.0)))
        pause = min(2 * pause, _PAUSE)


def _try_lock(file: int, folder: Path) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(file, 1 << 20, os.SEEK_SET)  # beyond what is read, as a locked byte cannot be
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            os.lseek(file, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        if os.name == "nt":
            os.lseek(file, 0, os.SEEK_SET)
        return False
    except OSError as error:
        os.close(file)
        raise InputError(f"path: {folder} cannot be locked ({error.strerror or error})") from None
    return True


def _unlock(file: int) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
    if os.name != "nt":
        import fcntl

        # A child that was forked meanwhile shares the lock, and would keep it by living on.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _after_fork() -> None:
    global _guard  # noqa: PLW0603 (another thread of the parent may have held it)
    _guard = threading.Lock()
    for lock in list(_known.values()):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

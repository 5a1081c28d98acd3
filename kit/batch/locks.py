"""Locks that the system lets go of when their holders die: one for the machine, one in each run's folder."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_GLANCE_S = 0.5


@contextmanager
def machine_to_ourselves(say: Any, glance: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the machine, of which there is one: two runs at once would measure each other.

    say: told once if it has to be waited for. glance: called about twice a second meanwhile, and may raise.

    Yield the lock's file descriptor, to be left open in the run's process: the lock then lasts as long as any of the
    two. The lock lies in the folder for temporary files; the system lets go of it when its holders die.
    """
    descriptor = _open_lock(Path(tempfile.gettempdir(), "ml-scaling-kit.lock"))
    try:
        if not lock(descriptor, wait=False):
            say("waiting for another run on this machine to end")
            while not lock(descriptor, wait=glance is None):
                glance()
                time.sleep(_GLANCE_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Open the file, which may be another user's: a lock needs no more than reading."""
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def lock(descriptor: int, wait: bool) -> bool:
    """Lock an open file, until it is closed everywhere; return False if another holds it and we are not to wait."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a process, here or on another machine of a shared folder, holds the lock of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock(descriptor, wait=False)
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)

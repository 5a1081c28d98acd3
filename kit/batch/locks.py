"""Locks that the system lets go of when their holders die: one for the machine, one in each run's folder."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MACHINE = "KIT_LOCK"  # environment variable: another file for the machine's lock, as in tests that run in parallel
_POLL_INTERVAL_S = 0.5


@contextmanager
def machine_to_ourselves(say: Callable[[str], None], poll: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold the machine, of which there is one, whatever the user: two runs at once would measure each other.

    say: called once if it has to be waited for. poll: called about twice a second meanwhile, and may raise.
    Yield the lock's file descriptor, to be left open in the run's process: the lock lasts as long as any of the two."""
    path = os.environ.get(MACHINE, "/tmp/ml-scaling-kit.lock")
    try:  # it may be another user's: a lock needs no more than reading, whatever the umask
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        os.fchmod(descriptor, 0o644)
    try:
        if not lock(descriptor):
            say("waiting for another run on this machine to end")
            while not lock(descriptor):
                poll()
                time.sleep(_POLL_INTERVAL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file, until it is closed everywhere; return False if another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a process, here or on another machine of a shared folder, holds the lock of a file."""
    with suppress(OSError), open(path, "rb") as file:  # no file, or a file system without locks
        return not lock(file.fileno())
    return False

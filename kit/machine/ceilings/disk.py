"""The disk that holds the project, past the page cache: large blocks, one after the other."""

import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from kit.machine.ceilings.probe import Conditions, Impossible

BLOCK = 4 * 2**20
FEWEST, MOST = 4, 128
"""Blocks of the file: at most 512 MiB, and 16 MiB even where that takes longer than the budget."""
AT_ONCE = 4
"""Readers at a time: most disks answer several requests faster than one."""


def write_mib_per_s(conditions: Conditions) -> float:
    """Return MiB/s of writing until it is on the disk (fsync included)."""
    with _file(conditions) as (_, written_mib, seconds):
        return written_mib / seconds


def read_mib_per_s(conditions: Conditions) -> float:
    """Return MiB/s of reading what was just written and is in no cache of this system (a host may have its own)."""
    with _file(conditions) as (path, written_mib, _):
        descriptor = _direct(path, os.O_RDONLY)
        try:
            return max(_read_mib_per_s(descriptor, int(written_mib)) for _ in range(2))
        finally:
            os.close(descriptor)


@contextmanager
def _file(conditions: Conditions) -> Iterator[tuple[str, float, float]]:
    """Yield a file of random bytes, its MiB, and the seconds that it took; it is gone afterwards."""
    if (kind := _kind(conditions.folder)) in ("tmpfs", "ramfs"):
        raise Impossible(f"the project lies in memory ({kind}), not on a disk")
    descriptor, path = tempfile.mkstemp(prefix=".kit-probe-", dir=conditions.folder)
    os.close(descriptor)
    try:
        blocks, seconds = _fill(path, conditions.budget_s)
        yield path, blocks * BLOCK / 2**20, seconds
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _fill(path: str, budget_s: float) -> tuple[int, float]:
    block = mmap.mmap(-1, BLOCK)  # aligned to a page, as the direct way asks for
    block.write(os.urandom(BLOCK))
    descriptor, blocks, start = _direct(path, os.O_WRONLY), 0, time.perf_counter()
    try:
        while blocks < FEWEST or (blocks < MOST and time.perf_counter() - start < budget_s):
            blocks += os.pwrite(descriptor, block, blocks * BLOCK) // BLOCK
        os.fsync(descriptor)
        return blocks, time.perf_counter() - start
    finally:
        os.close(descriptor)


def _direct(path: str, how: int) -> int:
    """Open a file past the page cache. Raise `Impossible` where the system or its file system has no such way."""
    if not hasattr(os, "O_DIRECT"):
        raise Impossible("this system has no way past the page cache (O_DIRECT)")
    try:
        return os.open(path, how | os.O_DIRECT)
    except OSError as error:
        raise Impossible(f"its file system has no way past the page cache (O_DIRECT: {error.strerror})") from None


def _read_mib_per_s(descriptor: int, mib: int) -> float:
    blocks = mib * 2**20 // BLOCK

    def read(first: int) -> None:
        into = mmap.mmap(-1, BLOCK)
        for number in range(first, blocks, AT_ONCE):
            os.preadv(descriptor, [into], number * BLOCK)

    start = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(read, range(AT_ONCE)))
    return mib / (time.perf_counter() - start)


def _kind(folder: str) -> str:
    """Return the kind of the file system that a folder lies on, as `ext4`; empty if it is not known."""
    import psutil

    inside = [p for p in psutil.disk_partitions(all=True) if os.path.realpath(folder).startswith(p.mountpoint)]
    return max(inside, key=lambda part: len(part.mountpoint)).fstype if inside else ""


PROBES = {"disk_read_mib_per_s": read_mib_per_s, "disk_write_mib_per_s": write_mib_per_s}

"""The disk and its page cache: files are dropped from the cache, and the disk's rate of writing is measured."""

import os
import tempfile
import timeit
from collections.abc import Iterable
from pathlib import Path


def drop_cached(files: Iterable[Path | str]) -> None:
    """Drop files from the page cache, where the system can: the next read comes from the disk."""
    for path in files if hasattr(os, "posix_fadvise") else ():
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # a page that is not on the disk yet stays
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_mib_per_s(folder: Path | str, mib: int = 64) -> float:
    """Return the best of three rates, MiB/s, of writing `mib` MiB to a file in this folder until the disk has them."""
    content = os.urandom(mib * 2**20)

    def write() -> None:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())

    return mib / min(timeit.repeat(write, number=1, repeat=3))

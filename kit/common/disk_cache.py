"""A cache of folders on disk: each is complete or absent, since it is written under another name and then renamed."""

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from kit import project

CACHE = "data"
"""Folder of the cache in the project's root."""

_ABANDONED_S = 24 * 3600


def folder(
    name: str,
    key: Any,
    write: Callable[[Path], object],
    complete: Callable[[Path], bool] = Path.is_dir,
    cache: Path | str = CACHE,
) -> Path:
    """Return the folder `name-<digest of key>` of the cache, filled by `write(folder)` in this call or an earlier one.

    key: all that the contents depend on; its `repr` counts. complete, cache: see `whole_folder`; a relative cache is
    in the project's root.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
    return whole_folder((project.project() / cache).resolve() / f"{name}-{digest}", write, complete)


def whole_folder(path: Path, write: Callable[[Path], object], complete: Callable[[Path], bool] = Path.is_dir) -> Path:
    """Return `path`, a folder filled by `write(folder)` in this call or an earlier one.

    A reader never sees a half-written folder, and of two processes that write at once one wins and both read the same.
    complete: whether the folder is still good; where it is not (a full disk, a broken copy), it is written again.
    """
    if not complete(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        _write(path, write, complete)
    return path


def _write(path: Path, write: Callable[[Path], object], complete: Callable[[Path], bool]) -> None:
    partial = _partial(path)
    partial.mkdir()
    try:
        write(partial)
        if path.exists() and not complete(path):
            path.rename(_partial(path))
        partial.rename(path)
    except OSError:
        if not complete(path):  # else another process was first, and its files are as good
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left, once it is so old that no process still writes it."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            pass

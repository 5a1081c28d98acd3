"""Folders that are whole or not there: what is costly to make is written aside, and renamed when all of it is there."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

_ABANDONED_S = 24 * 3600


def whole_folder(folder: Path, write: Callable[[Path], object], whole: Callable[[Path], bool] = Path.is_dir) -> Path:
    """Return `folder`, in which `write(folder)` has made what `whole(folder)` looks for: now, or in an earlier call.

    It is written under another name and renamed when `write` returns: what is half written is never read, and of two
    processes that write at once one wins and both read the same. What was lost or cut short later (a full disk, a
    copy that broke) is for `whole` to notice; then all is made again.
    """
    if not whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(folder, write, whole)
    return folder


def _write(folder: Path, write: Callable[[Path], object], whole: Callable[[Path], bool]) -> None:
    _sweep(folder)
    partial = _aside(folder)
    partial.mkdir()
    try:
        write(partial)
        if folder.exists() and not whole(folder):
            folder.rename(_aside(folder))
        partial.rename(folder)
    except OSError:
        if not whole(folder):  # else another process was first, and its files are as good
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")


def _sweep(folder: Path) -> None:
    """Remove what killed processes left of `folder`, once it is so old that nobody writes it any more."""
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            pass

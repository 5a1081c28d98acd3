"""What every workload hands to every engine: names and files, no data; and the cache that those files lie in."""

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from kit import places

CACHE = "data"
"""Folder of the cache, at the root of the project unless an absolute one is named."""

ROW_GROUP = 131_072
"""Rows of a parquet row group: what engines read in parallel. Small enough that one million rows feed eight cores."""

_ABANDONED_S = 24 * 3600


@dataclass(frozen=True)
class Tables:
    """The tables of one workload at one size, as parquet files.

    workload: `flights`, `groupby`, `join` or `own`. rows: rows of the main table. paths: table name → absolute path.
    by, values: the user's own columns, for `own` only.
    """

    workload: str
    rows: int
    paths: dict[str, str]
    by: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


def cached(cache: Path | str, name: str, names: Sequence[str], write: Callable[[Path], None]) -> dict[str, str]:
    """Return table name → path of the parquet files `names` in `cache/name`, where `write(folder)` has made them.

    Files are written into a folder of another name, which is renamed when it is whole: a half-written table is never
    read, and of two processes that write at once one wins and both read the same. A file that was lost or cut short
    later (a full disk, a copy that broke) is noticed by its missing footer, and all are made again.
    """
    folder = (places.project() / cache).resolve() / name
    paths = {name: folder / f"{name}.parquet" for name in names}
    if not _whole(paths.values()):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(folder, paths.values(), write)
    return {name: str(path) for name, path in paths.items()}


def _write(folder: Path, paths: Collection[Path], write: Callable[[Path], None]) -> None:
    _sweep(folder)
    partial = _aside(folder)
    partial.mkdir()
    try:
        write(partial)
        if folder.exists() and not _whole(paths):
            folder.rename(_aside(folder))
        partial.rename(folder)
    except OSError:
        if not _whole(paths):  # else another process was first, and its files are as good
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")


def _whole(paths: Collection[Path]) -> bool:
    """Return whether every file is there and ends in a footer that can be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        return all(path.exists() and pyarrow.parquet.read_metadata(path) for path in paths)
    except (OSError, pyarrow.ArrowInvalid):
        return False


def _sweep(folder: Path) -> None:
    """Remove what killed processes left of `folder`, once it is so old that nobody writes it any more."""
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            pass

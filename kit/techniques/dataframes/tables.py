"""What every workload hands to every engine: names and files, no data; and the cache that those files lie in."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import places
from kit.techniques.kept import whole_folder

CACHE = "data"
"""Folder of the cache, at the root of the project unless an absolute one is named."""

ROW_GROUP = 131_072
"""Rows of a parquet row group: what engines read in parallel. Small enough that one million rows feed eight cores."""


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

    The folder is whole or not there (`kept.whole_folder`). A file that was lost or cut short later is noticed by its
    missing footer, and all are made again.
    """
    folder = (places.project() / cache).resolve() / name
    paths = {name: folder / f"{name}.parquet" for name in names}
    whole_folder(folder, write, lambda _: _whole(paths.values()))
    return {name: str(path) for name, path in paths.items()}


def _whole(paths: Collection[Path]) -> bool:
    """Return whether every file is there and ends in a footer that can be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        return all(path.exists() and pyarrow.parquet.read_metadata(path) for path in paths)
    except (OSError, pyarrow.ArrowInvalid):
        return False

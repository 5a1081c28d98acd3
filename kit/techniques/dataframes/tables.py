"""The tables of a workload, as Parquet files that every engine reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tables:
    """The tables of one workload at one size.

    workload: `flights`, `groupby`, `join` or `own`. rows: rows of the main table. paths: table name → absolute path.
    by, values: the user's own columns, for `own` only. summary: what was taken for what in the user's files.
    from_files: engines read the files in each query, instead of holding the tables in memory.
    """

    workload: str
    rows: int
    paths: dict[str, str]
    by: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    summary: str = ""
    from_files: bool = False

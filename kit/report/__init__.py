"""Reads records and writes the page that people decide from. Knows only records; executes nothing that it reads."""

from pathlib import Path


def write(runs: list[str], out: str = "report") -> Path:
    """Write `index.html`, `report.md`, `results.parquet` and the notebooks' pages into the folder `out`.
    runs: folders of runs, single runs, single record files, or fsspec URLs of them. Everything is written atomically
    and nothing outside `out`. Return the path of the page. Raise UserError if a run or `out` can't be used."""
    from kit.report import build

    return build.build(runs, out)


def main(runs: list[str] | None = None, out: str = "report") -> int:
    """Write the report of `runs` (by default of `runs/`), print where the page is, and return the exit status."""
    print(write(runs or ["runs"], out))
    return 0

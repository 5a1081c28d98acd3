"""Reads records and writes the page that people decide from. Knows only records; executes nothing that it reads."""

from pathlib import Path


def write(runs: list[str], out: str = "report", prices: list[str] | None = None) -> Path:
    """Write `index.html`, `report.md`, `results.parquet` and the notebooks' pages into the folder `out`.

    runs: folders of runs, single runs, single record files, or fsspec URLs of them. prices: what an hour of a machine
    costs, as "3.20 EUR", or of one machine alone, as "8a1f2b=3.20 EUR", with its key. Everything is written atomically
    and nothing outside `out`. Return the path of the page. Raise UserError if a run, a price or `out` can't be used.
    """
    from kit.report import publish

    return publish.publish(runs, out, prices or [])


def main(runs: list[str] | None = None, out: str = "report", prices: list[str] | None = None) -> int:
    """Write the report of `runs` (by default of `runs/`), print where the page is, and return the exit status."""
    print(write(runs or ["runs"], out, prices))
    return 0

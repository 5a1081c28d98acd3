"""Stored runs in a notebook: a table of what there is, the newest records, and the days that can be compared."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kit import project
from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record import recommendation, store
from kit.record.document import Record, Table
from kit.runs import files, select
from kit.runs.select import Shelf


@dataclass(frozen=True)
class Stored:
    """What the runs at a place hold. Nothing that is read is trusted.

    runs: a path or URL; records: the newest of each question on each machine, in the order of `table`; days: on which
    something was measured, oldest first, as 2026-11-23."""

    runs: str
    records: list[Record] = field(repr=False)
    table: Table = field(repr=False)
    days: list[str]


def stored(runs: str = "runs", notebook: str = "", comparison: str = "") -> Stored:
    """Return what the runs at a place hold; an empty or missing place is no error.

    runs: a folder (a relative one that is not here starts at the project's), a run, a record, or any fsspec URL.
    notebook, comparison: parts of names; only what has them."""
    if "://" not in runs and not Path(runs).exists():  # a notebook in JupyterLab runs in its own folder
        runs = str(project.project() / runs)
    shelf, unreadable = Shelf(), []
    with suppress(UserError):
        for file, record in files.read_records(files.find([runs]).records, unreadable):
            if notebook in record.asked.notebook and comparison in record.asked.comparison:
                shelf.add(file, record)
    kept = select.read_again(shelf.newest())
    rows = [
        [number, *brief.question[:2], brief.order[0][:16].replace("T", " "), fmt.shown(record.machine.cpu, 40),
         shelf.counts[brief.question], recommendation.of(record).headline]
        for number, (brief, record) in enumerate(kept)
    ]  # fmt: skip
    columns = ["number", "notebook", "comparison", "newest, UTC", "machine", "records", "recommendation"]
    note = f"{fmt.count(len(unreadable), 'files')} could not be read." if unreadable else ""
    note += "" if rows else " Nothing is stored yet: `kit run --plan smoke` makes runs in a few minutes."
    table = Table(f"Stored in {fmt.shown(store.clean(runs))}", columns, rows, note.strip())
    days = {text[:10] for _, written in shelf.machines.values() for text in written}
    return Stored(runs, [record for _, record in kept], table, sorted(days))

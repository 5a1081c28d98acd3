"""Explores stored runs: what there is, the same question on several machines, days to compare, how noisy it was."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from kit import places
from kit.errors import UserError
from kit.record import store, words
from kit.record.document import Point, Record, Table
from kit.stored import gather, index
from kit.stored.choose import Brief, Shelf
from kit.stored.gather import Found, Unreadable

MOST_TOLD = 6
"""Variants in a cell."""


@dataclass(frozen=True)
class Stored:
    """What the runs at a place hold. `[i]` reads one record, the newest of its question on its machine, by its number
    in `.table`; nothing that is read is believed, and what can't be read stands in `.unreadable`."""

    runs: str
    """Where they are: a path or URL."""
    briefs: list[Brief]
    shelf: Shelf = field(repr=False)
    found: Found | None = field(repr=False, default=None)
    unreadable: list[Unreadable] = field(repr=False, default_factory=list)

    @property
    def place(self) -> str:
        """Where they are, for people."""
        return words.shown(store.clean(self.runs), 200)

    def __len__(self) -> int:
        return len(self.briefs)

    def __getitem__(self, number: int) -> Record:
        """Read a record, as `kit.read` does. Raise UserError if there is none of this number."""
        if not 0 <= number < len(self.briefs):
            there = f"the numbers are 0 to {len(self) - 1}" if self.briefs else "nothing is stored yet"
            raise UserError(f"there is no record {number} in {self.place}; {there}")
        file = self.briefs[number].file
        return store.decode(file.read(store.LARGEST_BYTES), file.name)

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))

    def each(self) -> Iterator[Record]:
        """Yield every record, older ones too, without its readings."""
        if self.found:
            wanted = {brief.file.path for briefs in self.shelf.briefs.values() for brief in briefs}
            files = [file for file in self.found.records if file.path in wanted]
            yield from (record for _, record in index.read_records([self.runs], files, []))

    @property
    def days(self) -> list[str]:
        """The days on which something was measured, oldest first, as 2026-11-23."""
        return sorted({brief.written[:10] for brief in self.shelf.every()})

    @property
    def table(self) -> Table:
        """What is stored: a row for the newest record of each question on each machine, with its number."""
        rows = [
            [
                str(number), brief.notebook, brief.comparison, brief.at, brief.written[:16].replace("T", " "),
                self._machine(brief.machine), str(1 + len(self.shelf.older(brief))), _told(brief),
            ]
            for number, brief in enumerate(self.briefs)
        ]  # fmt: skip
        columns = ["number", "notebook", "comparison", "at", "newest, UTC", "machine", "records", "found"]
        return Table(f"Stored in {self.place}", columns, rows, self._note())

    @property
    def machines(self) -> Table:
        """Machines side by side: each question that several machines answered, a row a machine."""
        beside = [(brief, self.shelf.elsewhere(brief)) for brief in self.briefs]
        rows = [
            [brief.notebook, brief.comparison, brief.at, self._machine(brief.machine), brief.written[:10], _told(brief)]
            for brief, others in beside
            if others
        ]
        note = "" if rows else "No question was answered on two machines yet: run the same plan on another one, with "
        note += "" if rows else "--runs on a place that both reach, or copy its runs beside these."
        columns = ["notebook", "comparison", "at", "machine", "on", "found"]
        return Table("The same question on several machines", columns, rows, note)

    @property
    def noise(self) -> Table:
        """How noisy the newest runs were at their largest size, the noisiest first."""
        measured = [(record, point) for record in self if (point := words.largest(record)) and point.sessions]
        measured.sort(key=lambda found: -(_floor(found[1]) or 0))
        columns = ["comparison", "at", "noise floor", "rounds", "sets of processes", "load", "unresolved"]
        note = (
            "The noise floor is the smallest difference that counts: what the baseline shows against itself. Load is "
            "the system's one-minute average, the median over rounds; above the number of cores others were at work."
        )
        return Table("How noisy the runs were", columns, [_noise(*found) for found in measured], note)

    def _machine(self, key: str) -> str:
        machine = self.shelf.machines[key]
        cores = words.count(machine.cores, "cores")
        return ", ".join(filter(None, [words.shown(machine.cpu, 40), cores, *(gpu.name for gpu in machine.gpus[:1])]))

    def _note(self) -> str:
        bad = f"{words.count(len(self.unreadable), 'files')} could not be read." if self.unreadable else ""
        if self.briefs:
            return bad
        return (
            f"Nothing is stored in {self.place} yet. `kit run --plan smoke` makes runs in some minutes. {bad}".strip()
        )


def stored(runs: str = "runs", notebook: str = "", comparison: str = "") -> Stored:
    """Return what the runs at a place hold; an empty or missing place is no error.

    runs: a folder (a relative one that is not here starts at the project's), a run, a record, or any fsspec URL.
    notebook, comparison: parts of names; only what has them.

    >>> len(stored("no such folder"))
    0
    """
    shelf, unreadable = Shelf(), []
    if "://" not in runs and not Path(runs).exists():  # a notebook in JupyterLab runs in its own folder
        runs = str(places.project() / runs)
    try:
        found = gather.find([runs])
    except UserError:
        return Stored(runs, [], shelf)
    for file, record in index.read_records([runs], found.records, unreadable):
        if notebook in record.asked.notebook and comparison in record.asked.comparison:
            shelf.add(file, record)
    return Stored(runs, shelf.newest(), shelf, found, unreadable)


def _told(brief: Brief) -> str:
    told = [f"{name}: {said}" for name, said in brief.speedups.items()]
    more = f"; {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return "; ".join(told[:MOST_TOLD]) + more + ("" if brief.complete else " (interrupted)")


def _noise(record: Record, point: Point) -> list[str]:
    session = max(point.sessions, key=lambda session: session.noise_floor or 0)
    loads = [load for load in session.load if load is not None]
    unresolved = [variant.name for variant in point.variants if variant.verdict == "unresolved"]
    return [
        words.shown(record.asked.comparison, 60),
        words.count(point.size, record.asked.unit),
        words.percent(session.noise_floor),
        str(len(session.order)),
        str(len(session.starts)),
        words.number(median(loads)) if loads else "—",
        words.listing(words.shown(name, 60) for name in unresolved) or "none",
    ]


def _floor(point: Point) -> float | None:
    return max((s.noise_floor for s in point.sessions if s.noise_floor is not None), default=None)

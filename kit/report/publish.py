"""Writes the report: reads every record once, keeps little of it, and draws the newest of each comparison."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kit.compare.history import Collector
from kit.errors import UserError
from kit.record import store, words
from kit.record.document import Record
from kit.report import markdown, pages, prices, table, view
from kit.stored import choose, gather, index
from kit.stored.choose import Brief, Shelf
from kit.stored.gather import Found, Status, Unreadable

MOST_SECTIONS = 60
"""Comparisons told in full; the others stand in `results.parquet` and are counted."""
MOST_DRAWN = 24
"""Comparisons with figures: they take most of the time and of the page."""
MOST_NOTEBOOKS = 40
ENDED_WELL = ("finished", "skipped")


def publish(runs: list[str], out: str, asked_prices: list[str]) -> Path:
    """Write the report of `runs` into the folder `out`; see `kit.report.write`."""
    costs = prices.read(asked_prices)
    found = gather.find(runs)
    folder = _folder(out)
    unreadable: list[Unreadable] = []
    shelf, past = Shelf(), Collector()
    with _replacing(folder / "results.parquet") as partial:
        rows = table.Writer(partial)
        try:
            for file, record in index.read_records(runs, found.records, unreadable):
                shelf.add(file, record)
                past.add(record)
                rows.add(record)
        finally:
            rows.close()
    statuses = gather.read_statuses(found.statuses, unreadable)
    failed = [status for status in _latest(statuses) if status.state not in ENDED_WELL]
    newest = shelf.newest()
    told = _read_again(_of_each(newest, MOST_SECTIONS))
    notebooks = _write_notebooks(folder, found, [brief for brief, _ in told], failed, unreadable)
    report = _report(shelf, told, newest, notebooks, failed, unreadable, costs)
    _tell_histories(report.sections, told, past, unreadable)
    _put(folder / "report.md", markdown.page(report))
    _put(folder / "index.html", pages.index(report))
    return folder / "index.html"


def _of_each(briefs: list[Brief], most: int) -> list[Brief]:
    """Return so many of them in their order, of each notebook the newest first: none is crowded out by another."""
    by_notebook: dict[str, list[Brief]] = {}
    for brief in sorted(briefs, key=lambda brief: brief.order, reverse=True):
        by_notebook.setdefault(brief.notebook, []).append(brief)
    turns = [(turn, brief) for found in by_notebook.values() for turn, brief in enumerate(found)]
    chosen = {id(brief) for _, brief in sorted(turns, key=lambda pair: pair[0])[:most]}
    return [brief for brief in briefs if id(brief) in chosen]


def _latest(statuses: list[Status]) -> list[Status]:
    """Return the last attempt of each run: `<key>.2` and so on stand beside the first, `<key>`."""
    latest: dict[str, tuple[int, Status]] = {}
    for status in statuses:
        run, attempt = re.fullmatch(r"(.*?)(?:\.(\d{1,9}))?", status.folder, re.DOTALL).groups()
        latest[run] = max(latest.get(run, (0, status)), (int(attempt or 1), status), key=lambda pair: pair[0])
    return [status for _, status in latest.values()]


def _report(shelf, told, newest, notebooks, failed, unreadable, costs) -> pages.Report:
    from kit.record import figures

    records = [record for _, record in told]
    look = figures.looks(*records)
    machines = _machines(shelf)
    names = {machine.key: f"machine {place}, {machine.name}" for place, machine in enumerate(machines, start=1)}
    sections = [
        view.section(
            record,
            brief,
            shelf,
            label,
            names[brief.machine] if len(names) > 1 else "",
            look,
            notebooks.get(_run_folder(brief.file.folder), ""),
            prices.of(brief.machine, costs),
        )
        for (brief, record), label in zip(told, _labels(records), strict=True)
    ]
    for section, (brief, record) in list(zip(sections, told, strict=True))[:MOST_DRAWN]:
        with _at_no_cost(unreadable, brief, "it could not be drawn"):
            section.figures.extend(_draw(record, look))
    written = [brief.written for brief in shelf.every()]
    return pages.Report(
        sections=sections,
        untold=len(newest) - len(told),
        records=len(written),
        days=view.span_of_days(written),
        machines=machines,
        troubles=[t for s, r in zip(sections, records, strict=True) for t in view.troubles(r, s)],
        failed=[(status, notebooks.get(status.folder, "")) for status in failed],
        unreadable=unreadable,
        numbers=view.numbers(records),
        variants=sum(len(section.tables[0].rows) for section in sections if section.tables),
        measured=sum(row.median != "—" for section in sections if section.tables for row in section.tables[0].rows),
        is_paired=all(record.how.isolated and view.has_noise(record) for record in records),
    )


@contextmanager
def _at_no_cost(unreadable: list[Unreadable], brief: Brief, what: str) -> Iterator[None]:
    """Have one odd record cost its own figures and not the page: whatever a library raises at its numbers is listed."""
    try:
        yield
    except Exception as error:
        unreadable.append(Unreadable(brief.file.shown, f"{what}: {type(error).__name__}: {words.shown(error)}"))


def _tell_histories(
    sections: list[view.Section], told: list[tuple[Brief, Record]], past: Collector, unreadable
) -> None:
    """Add to each section what became of its comparison over the dated runs; only the first ones are drawn."""
    from kit.record import figures, style

    found = {history.key: history for history in past.histories()}
    look = figures.looks(*(record for _, record in told)) if found else {}
    for place, (section, (brief, _)) in enumerate(zip(sections, told, strict=True)):
        if history := found.get((*brief.question, brief.machine)):
            section.history.extend(history.sentences)
            if place >= MOST_DRAWN:
                continue
            with _at_no_cost(unreadable, brief, "its history could not be drawn"):
                section.timeline.append(view.Drawn(style.to_svg(history.figure(look), themed=True)))


def _machines(shelf: Shelf) -> list[pages.OnMachine]:
    found = []
    for key, machine in sorted(shelf.machines.items()):
        written = [brief.written for brief in shelf.every() if brief.machine == key]
        details = view.machine_details(machine)
        found.append(
            pages.OnMachine(
                key,
                view.machine_name(machine),
                view.machine_line(machine),
                details,
                len(written),
                view.span_of_days(written),
            )
        )
    return found


def _read_again(briefs: list[Brief]) -> list[tuple[Brief, Record]]:
    """Return the records to tell in full; one that has gone since is left out."""
    told = []
    for brief in briefs:
        try:
            told.append((brief, gather.again(brief.file, brief.id)))
        except UserError:
            continue
    return told


def _labels(records: list[Record]) -> list[str]:
    """Return for each record the parameters that tell it from others of the same comparison: `rows = 1,000`."""
    names = [(record.asked.notebook, record.asked.comparison) for record in records]
    labels = []
    for name, record in zip(names, records, strict=True):
        alike = [other.asked.parameters for other, its in zip(records, names, strict=True) if its == name]
        own = record.asked.parameters
        pairs = [f"{words.shown(n, 40)} = {choose.value(own.get(n))}" for n in choose.differing(alike)[:4]]
        labels.append(words.shown(", ".join(pairs), 160))
    return labels


def _draw(record: Record, look: dict) -> list[view.Drawn]:
    """Return the figures of one comparison that have something to show, and then the technique's own charts."""
    from kit.record import charts, figures, style

    point = words.largest(record)
    own = [view.Drawn(style.to_svg(charts.chart(c, look), themed=True), c.note) for c in view.charts(record)]
    if point is None:
        return own
    drawn = [figures.scaling_curve(record, look)] if len({p.size for p in record.points}) > 1 else []
    drawn.append(figures.speedups(record, point, look))
    if any(variant.memory for variant in point.variants):
        drawn.append(figures.memory(record, point, look))
    if any(session.readings for session in point.sessions):
        drawn.append(figures.readings(record, point, look))
    return [*(view.Drawn(style.to_svg(figure, themed=True)) for figure in drawn), *own]


# ------------------------------------------------------------------------------------------------ files


def _write_notebooks(
    folder: Path, found: Found, told: list[Brief], failed: list, unreadable: list[Unreadable]
) -> dict[str, str]:
    """Write the pages of the notebooks that the report speaks of; return the link of each run's folder."""
    runs = dict.fromkeys([_run_folder(brief.file.folder) for brief in told] + [status.folder for status in failed])
    links: dict[str, str] = {}
    for run in [run for run in runs if run in found.notebooks][:MOST_NOTEBOOKS]:
        file = found.notebooks[run]
        name = _page_name(run, set(links.values()))
        try:
            page = pages.notebook(file.read(gather.LARGEST_NOTEBOOK), PurePosixPath(run).parts[-2:])
        except UserError as error:
            unreadable.append(Unreadable(file.shown, words.shown(error, 400)))
            continue
        (folder / "notebooks").mkdir(exist_ok=True)
        _put(folder / name, page)
        links[run] = name
    return links


def _run_folder(folder: str) -> str:
    path = PurePosixPath(folder)
    return str(path.parent if path.name == "records" else path)


def _page_name(run: str, taken: set[str]) -> str:
    """Return a name from the last two folders of a run, made of safe characters only, that is not taken."""
    bare = view.slug(*PurePosixPath(run).parts[-2:])
    names = (f"notebooks/{bare}{f'-{n}' if n else ''}.html" for n in range(len(taken) + 1))
    return next(name for name in names if name not in taken)


def _folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: the report can't be written there: {error.strerror}; give another folder") from None
    return folder


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to, which becomes `path` at once when it is whole."""
    try:
        with store.replacing(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{path}: it could not be written: {error.strerror or error}") from None


def _put(path: Path, text: str) -> None:
    with _replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))

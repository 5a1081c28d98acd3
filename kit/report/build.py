"""Writes the report: reads every record once, keeps little of it, and shows the newest of each comparison in full."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record import recommendation, store
from kit.record.document import Chart, Record
from kit.report import markdown, page, table
from kit.report.sections import Drawn, FailedRun, OnMachine, Report, Section, anchor
from kit.runs import files, select
from kit.runs.files import Found, Status, Unreadable
from kit.runs.select import Brief, Shelf

MOST_SECTIONS = 60
"""Comparisons shown in full; the others are in `results.parquet` and are counted."""
MOST_DRAWN = 24
"""Comparisons with figures: they take most of the time and of the page."""
MOST_CHARTS = 24
MOST_NOTEBOOKS = 40
ENDED_WELL = ("finished", "skipped")


def build(runs: list[str], out: str) -> Path:
    """Write the report of `runs` into the folder `out`; see `kit.report.write`."""
    found, folder = files.find(runs), _folder(out)
    unreadable: list[Unreadable] = []
    shelf = _read(found, folder / "results.parquet", unreadable)
    statuses = files.read_statuses(found.statuses, unreadable)
    failed = [status for status in _latest(statuses) if status.state not in ENDED_WELL]
    newest = shelf.newest()
    shown = select.read_again(_of_each(newest, MOST_SECTIONS))
    links = _write_notebooks(folder, found, [brief for brief, _ in shown], failed, unreadable)
    report = Report(
        sections=_sections(shelf, shown, links, unreadable),
        more=len(newest) - len(shown),
        records=shelf.counts.total(),
        machines=_machines(shelf),
        failed=[FailedRun(status, links.get(status.folder, "")) for status in failed],
        unreadable=unreadable,
    )
    _put(folder / "report.md", markdown.render(report))
    _put(folder / "index.html", page.index(report))
    return folder / "index.html"


def _read(found: Found, parquet: Path, unreadable: list[Unreadable]) -> Shelf:
    """Read every record once into its rows of `results.parquet`, and return the newest in brief."""
    shelf = Shelf()
    with _replacing(parquet) as partial, table.Writer(partial) as rows:
        for file, record in files.read_records(found.records, unreadable):
            shelf.add(file, record)
            rows.add(record)
    return shelf


def _of_each(briefs: list[Brief], most: int) -> list[Brief]:
    """Return so many of them in their order, of each notebook the newest first: none is crowded out by another."""
    by_notebook: dict[str, list[Brief]] = {}
    for brief in sorted(briefs, key=lambda brief: brief.order, reverse=True):
        by_notebook.setdefault(brief.question[0], []).append(brief)
    turns = [(turn, brief) for found in by_notebook.values() for turn, brief in enumerate(found)]
    chosen = {id(brief) for _, brief in sorted(turns, key=lambda pair: pair[0])[:most]}
    return [brief for brief in briefs if id(brief) in chosen]


def _latest(statuses: list[Status]) -> list[Status]:
    """Return the last attempt of each run: `<key>.2` and so on are beside the first, `<key>`."""
    latest: dict[str, tuple[int, Status]] = {}
    for status in statuses:
        run, attempt = re.fullmatch(r"(.*?)(?:\.(\d{1,9}))?", status.folder, re.DOTALL).groups()
        latest[run] = max(latest.get(run, (0, status)), (int(attempt or 1), status), key=lambda pair: pair[0])
    return [status for _, status in latest.values()]


def _sections(
    shelf: Shelf, shown: list[tuple[Brief, Record]], links: dict[str, str], unreadable: list
) -> list[Section]:
    from kit.charts import figures

    records = [record for _, record in shown]
    look, sections = figures.looks(*records), []
    for place, ((brief, record), label) in enumerate(zip(shown, _labels(records), strict=True)):
        notebook, comparison, parameters, machine = brief.question
        section = Section(
            record=record,
            anchor=anchor("c", notebook, comparison, parameters[:6], machine[:8]),
            label=label,
            where=fmt.shown(record.machine.cpu, 60) if len(shelf.machines) > 1 else "",
            recommendation=recommendation.of(record),
            older=shelf.counts[brief.question] - 1,
            notebook_page=links.get(brief.file.run, ""),
            run=(brief.file.run, parameters),
        )
        sections.append(section)
        if place < MOST_DRAWN:
            try:
                section.figures.extend(_draw(record, section.recommendation, look))
            except Exception as error:  # whatever a library raises at odd numbers costs one record's figures only
                why = f"it could not be drawn: {type(error).__name__}: {fmt.shown(error)}"
                unreadable.append(Unreadable(brief.file.shown, why))
    return sections


def _labels(records: list[Record]) -> list[str]:
    """Return for each record the parameters that distinguish it from others of the same comparison: `rows = 1,000`."""
    labels = []
    for record in records:
        name = (record.asked.notebook, record.asked.comparison)
        alike = [r.asked.parameters for r in records if (r.asked.notebook, r.asked.comparison) == name]
        own = record.asked.parameters
        pairs = [f"{fmt.shown(n, 40)} = {select.value(own.get(n))}" for n in select.differing(alike)[:4]]
        labels.append(fmt.shown(", ".join(pairs), 160))
    return labels


def _draw(record: Record, found: recommendation.Recommendation, look: dict) -> list[Drawn]:
    """Return the interval plot, then one figure that carries the most, then the others."""
    from kit.charts import chart, figures, style

    look = look | {record.asked.baseline: (style.BASELINE, "o")}
    point = next((p for p in record.points if p.size == found.size), fmt.largest(record))
    charts = [artifact for artifact in record.artifacts if isinstance(artifact, Chart)][:MOST_CHARTS]
    drawn = [(chart.draw(one, look), one.note) for one in charts]
    if point is None:
        return [Drawn(style.to_svg(figure, themed=True), note) for figure, note in drawn]
    several = len({p.size for p in record.points}) > 1
    intervals = [(figures.speedups(record, point, look), "")] if any(map(fmt.claimed, point.variants)) else []
    curve = [(figures.scaling_curve(record, look), "")] if several else []
    rest = [(figures.memory(record, point, look), "")] if any(v.memory for v in point.variants) else []
    rest += [(figures.measurements(record, point, look), "")] if any(s.order for s in point.sessions) else []
    ordered = [*intervals, *curve, *drawn, *rest] if several else [*intervals, *drawn, *rest]
    return [Drawn(style.to_svg(figure, themed=True), note) for figure, note in ordered]


def _machines(shelf: Shelf) -> list[OnMachine]:
    found = []
    for _, (machine, written) in sorted(shelf.machines.items()):
        days = dict.fromkeys(text[:10] or "unknown day" for text in (min(written), max(written)))
        found.append(OnMachine(machine, len(written), " to ".join(days)))
    return found


# ------------------------------------------------------------------------------------------------ files


def _write_notebooks(
    folder: Path, found: Found, shown: list[Brief], failed: list[Status], unreadable: list[Unreadable]
) -> dict[str, str]:
    """Write the pages of the notebooks that the report links to; return the link of each run's folder."""
    runs = dict.fromkeys([status.folder for status in failed] + [brief.file.run for brief in shown])
    links: dict[str, str] = {}
    for run in [run for run in runs if run in found.notebooks][:MOST_NOTEBOOKS]:
        file, parts = found.notebooks[run], PurePosixPath(run).parts[-2:]
        bare = anchor(*parts)
        names = (f"notebooks/{bare}{f'-{n}' if n else ''}.html" for n in range(len(links) + 1))
        name = next(name for name in names if name not in links.values())
        try:
            text = page.notebook(file.read(), "/".join(parts))
        except UserError as error:
            unreadable.append(Unreadable(file.shown, fmt.shown(error, 400)))
            continue
        (folder / "notebooks").mkdir(exist_ok=True)
        _put(folder / name, text)
        links[run] = name
    return links


def _folder(out: str) -> Path:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: the report can't be written there: {error.strerror}; give another folder") from None
    return Path(out)


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

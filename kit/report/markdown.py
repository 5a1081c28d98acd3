"""Writes the report as Markdown that fits a pull request's comment."""

from typing import TYPE_CHECKING

from kit.record import comment, words

if TYPE_CHECKING:
    from kit.report.pages import Report
    from kit.report.view import OwnTable, Section

MOST_LISTED = 40
MOST_MACHINES = 8
LONGEST_TEXT = 400
LARGEST = 60_000
"""Characters: a comment on GitHub holds 65,536."""


def page(report: "Report") -> str:
    """Return the report as GitHub-flavoured Markdown that a comment holds: what to do, what could change that,
    failures, and folded, as many as there is room for, the comparisons in full."""
    parts = [
        "# What should we do?",
        *(f"Measured on {safe(machine.line)}, {safe(machine.days)}." for machine in report.machines[:MOST_MACHINES]),
    ]
    if not report.sections:
        parts.append("Nothing has been measured yet.")
    for heading, rows in (_choices(report), _changes(report), _failures(report)):
        parts += _fitting(heading, rows, LARGEST // 3)
    left, untold = LARGEST - len("\n\n".join(parts)), report.untold
    for section in report.sections:
        folded = _folded(section)
        if len(folded) + 2 <= left:
            parts.append(folded)
            left -= len(folded) + 2
        else:
            untold += 1
    if untold:
        stand = "comparison stands" if untold == 1 else "comparisons stand"
        parts.append(f"{untold:,} more {stand} in `index.html` and `results.parquet`.")
    return "\n\n".join(parts) + "\n"


def _fitting(heading: str, rows: list[str], most: int) -> list[str]:
    """Return a heading and as many rows as that many characters hold, with how many were left out."""
    kept, left = [], most
    for row in rows:
        left -= len(row) + 1
        if left < 0:
            break
        kept.append(row)
    more = [f"And {len(rows) - len(kept):,} more."] if len(kept) < len(rows) else []
    return [f"{heading}\n" + "\n".join(kept), *more] if rows else []


def _choices(report: "Report") -> tuple[str, list[str]]:
    """Return the first screen as a table: its head, and a row a comparison."""
    heads = ["technique", "comparison", "what to do"]
    heads += ["speed-up [interval]", "shown at", "faster from", "memory", "quality"]
    heads += ["cost"] if any("Cost" in dict(section.choice.numbers) for section in report.sections) else []
    names = ("Speed-up", "Shown at", "Faster from", "Memory", "Quality", "Cost")[: len(heads) - 3]
    rows = []
    for section in report.sections:
        numbers = dict(section.choice.numbers)
        cells = [section.technique, _named(section), section.choice.do, *(numbers.get(name, "—") for name in names)]
        rows.append("| " + " | ".join(map(safe, cells)) + " |")
    return "| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads), rows


def _changes(report: "Report") -> tuple[str, list[str]]:
    """Return what limits the recommendations and what could change them, each clause once."""
    clauses = dict.fromkeys(
        f"- {safe(section.technique)}: {safe(clause.rstrip('.'))}."
        for section in report.sections
        for clause in (*section.warnings, *section.choice.change)
    )
    return "What limits this, and what could change it:\n", list(clauses)


def _named(section: "Section") -> str:
    return section.title + "".join(f", {more}" for more in (section.label, section.where) if more)


def _folded(section: "Section") -> str:
    told = "\n\n".join(_section(section))
    return comment.folded(words.shown(f"{section.technique}: {_named(section)}", 200), told)


def safe(text: str) -> str:
    """Return text as a comment shows it, cut where it is too long to read there."""
    return comment.safe(text, LONGEST_TEXT)


def _section(section: "Section") -> list[str]:
    where = [f"On {safe(section.where)}."] if section.where else []
    told = [f"**{safe(section.headline)}**", _table(section)]
    told += [_own_table(table) for table in section.own_tables]
    told += [f"Drawn on the page: {'; '.join(map(safe, section.charts))}."] if section.charts else []
    told += [
        f"{safe(clause)}{'; to have it: ' + safe(remedy) if remedy else ''}." for clause, remedy in section.not_run
    ]
    return [*where, *[part for part in told if part], *(f"> {safe(w)}" for w in section.warnings)]


def _table(section: "Section") -> str:
    if not section.tables:
        return ""
    table = section.tables[0]
    heads = "| " + " | ".join(words.COLUMNS.values()) + " |\n|" + " --- |" * len(words.COLUMNS)
    rows = [
        "| " + " | ".join(map(safe, words.cells(row))) + " |"
        for row in table.rows[:MOST_LISTED]
        if row.verdict != "skipped"
    ]
    at = f"At {safe(table.at)}: {safe(table.said)}.\n\n" if table.at else f"{safe(table.said)}.\n\n"
    return at + "\n".join([heads, *rows])


def _own_table(table: "OwnTable") -> str:
    heads = "| " + " | ".join(safe(name) for name, _ in table.columns) + " |"
    rule = "|" + "".join(" ---: |" if right else " --- |" for _, right in table.columns)
    rows = ["| " + " | ".join(map(safe, row)) + " |" for row in table.rows[:MOST_LISTED]]
    more = len(table.rows) - len(rows) + table.more
    notes = [safe(table.note), f"{more:,} more rows stand in the record." if more else ""]
    return "\n\n".join([f"**{safe(table.title)}**", "\n".join([heads, rule, *rows]), *[n for n in notes if n]])


def _failures(report: "Report") -> tuple[str, list[str]]:
    failed = [f"- run {safe(status.run)} {safe(status.state)}: {safe(status.line)}" for status, _ in report.failed]
    failed += [f"- {safe(t.variant)} {t.verdict} in {safe(t.comparison)}: {safe(t.reason)}" for t in report.troubles]
    failed += [f"- {safe(file.file)} can't be read: {safe(file.reason)}" for file in report.unreadable]
    return "## Failures\n", failed

"""Writes the report as Markdown that fits a pull request's comment."""

import re
from typing import TYPE_CHECKING

from kit.record import words

if TYPE_CHECKING:
    from kit.report.pages import Report
    from kit.report.view import OwnTable, Section

MOST_LISTED = 40


def page(report: "Report") -> str:
    """Return the report as GitHub-flavoured Markdown: verdicts, a table a comparison, failures, machines."""
    parts = [
        "# What pays off here",
        *(f"Measured on {safe(machine.line)}, {safe(machine.days)}." for machine in report.machines),
    ]
    if not report.sections:
        parts.append("Nothing has been measured yet.")
    for section in report.sections:
        parts += _section(section)
    if report.untold:
        parts.append(f"{report.untold:,} more comparisons stand in `results.parquet`.")
    return "\n\n".join([*parts, *_failures(report)]) + "\n"


def safe(text: str) -> str:
    """Return text with everything escaped that Markdown, HTML or a mention would make something of."""
    shown = words.shown(text, 400).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", shown).replace("://", ":&#8203;//")


def _section(section: "Section") -> list[str]:
    named = f"{section.technique}: {section.title}" + (f" ({section.label})" if section.label else "")
    where = [f"On {safe(section.where)}."] if section.where else []
    told = [f"**{safe(section.headline)}**", _table(section)]
    told += [_own_table(table) for table in section.own_tables]
    told += [f"Drawn on the page: {'; '.join(map(safe, section.charts))}."] if section.charts else []
    told += [
        f"{safe(clause)}{'; to have it: ' + safe(remedy) if remedy else ''}." for clause, remedy in section.not_run
    ]
    return [f"## {safe(named)}", *where, *[part for part in told if part], *(f"> {safe(w)}" for w in section.warnings)]


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


def _failures(report: "Report") -> list[str]:
    failed = [f"- run {safe(status.run)} {safe(status.state)}: {safe(status.line)}" for status, _ in report.failed]
    failed += [f"- {safe(t.variant)} {t.verdict} in {safe(t.comparison)}: {safe(t.reason)}" for t in report.troubles]
    failed += [f"- {safe(file.file)} can't be read: {safe(file.reason)}" for file in report.unreadable]
    if not failed:
        return []
    more = [f"- and {len(failed) - MOST_LISTED:,} more"] if len(failed) > MOST_LISTED else []
    return ["## Failures", "\n".join(failed[:MOST_LISTED] + more)]

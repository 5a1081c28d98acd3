"""Writes the report as Markdown that fits a pull request's comment."""

import re
from typing import TYPE_CHECKING

from kit.record import words

if TYPE_CHECKING:
    from kit.report.pages import Report
    from kit.report.view import OwnTable, Section

MOST_LISTED = 40
LARGEST = 60_000
"""Characters: a comment on GitHub holds 65,536."""


def page(report: "Report") -> str:
    """Return the report as GitHub-flavoured Markdown that a comment holds: what to do, what could change that,
    failures, and folded, as many as there is room for, the comparisons in full."""
    parts = [
        "# What should we do?",
        *(f"Measured on {safe(machine.line)}, {safe(machine.days)}." for machine in report.machines),
        *([_choices(report)] if report.sections else ["Nothing has been measured yet."]),
        *_changes(report),
        *_failures(report),
    ]
    left, untold = LARGEST - len("\n\n".join(parts)), report.untold
    for section in report.sections:
        folded = _folded(section)
        left -= len(folded) + 2
        if left > 0:
            parts.append(folded)
        else:
            untold += 1
    if untold:
        parts.append(f"{untold:,} more comparisons stand in `index.html` and `results.parquet`.")
    return "\n\n".join(parts) + "\n"


def _choices(report: "Report") -> str:
    """Return the first screen as a table: a row a comparison."""
    heads = ["technique", "comparison", "what to do", "speed-up [interval]", "faster from", "memory", "quality"]
    heads += ["cost"] if any("Cost" in dict(section.choice.numbers) for section in report.sections) else []
    rows = []
    for section in report.sections[:MOST_LISTED]:
        numbers = dict(section.choice.numbers)
        since = numbers.get("Faster from") or numbers.get("Shown at", "—")
        cells = [section.technique, _named(section), section.choice.do, numbers.get("Speed-up", "—"), since]
        cells += [numbers.get(name, "—") for name in ("Memory", "Quality", *(["Cost"] if len(heads) > 7 else []))]
        rows.append("| " + " | ".join(map(safe, cells)) + " |")
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads), *rows])


def _changes(report: "Report") -> list[str]:
    """Return what could change the recommendations, each clause once."""
    clauses = dict.fromkeys(
        f"- {safe(section.technique)}: {safe(clause)}."
        for section in report.sections
        for clause in section.choice.change
    )
    return ["What could change that:", "\n".join(list(clauses)[:MOST_LISTED])] if clauses else []


def _named(section: "Section") -> str:
    return section.title + "".join(f", {more}" for more in (section.label, section.where) if more)


def _folded(section: "Section") -> str:
    told = "\n\n".join(_section(section))
    named = safe(f"{section.technique}: {_named(section)}")
    return f"<details><summary>{named}</summary>\n\n{told}\n\n</details>"


def safe(text: str) -> str:
    """Return text with everything escaped that Markdown, HTML or a mention would make something of."""
    shown = words.shown(text, 400).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", shown).replace("://", ":&#8203;//")


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


def _failures(report: "Report") -> list[str]:
    failed = [f"- run {safe(status.run)} {safe(status.state)}: {safe(status.line)}" for status, _ in report.failed]
    failed += [f"- {safe(t.variant)} {t.verdict} in {safe(t.comparison)}: {safe(t.reason)}" for t in report.troubles]
    failed += [f"- {safe(file.file)} can't be read: {safe(file.reason)}" for file in report.unreadable]
    if not failed:
        return []
    more = [f"- and {len(failed) - MOST_LISTED:,} more"] if len(failed) > MOST_LISTED else []
    return ["## Failures", "\n".join(failed[:MOST_LISTED] + more)]

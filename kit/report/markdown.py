"""Renders the report as Markdown that fits a pull request's comment."""

from typing import TYPE_CHECKING

from kit.record import formatting as fmt
from kit.record.document import Table

if TYPE_CHECKING:
    from kit.report.sections import Report, Section

MOST_LISTED = 40
INTERVALS = "95 % CI: over paired rounds and process restarts on one machine; over seeds where rounds have their own."
LARGEST = 60_000
"""Characters: a comment on GitHub holds 65,536."""


def render(report: "Report") -> str:
    """Return the report as GitHub-flavoured Markdown: the recommendations, failures, and folded, as many as there is
    room for, the comparisons in full."""
    parts = ["# Recommendations"]
    parts += [f"Measured on {fmt.markdown(one.line)}, {one.days}." for one in report.machines[:8]]
    parts += [f"{fmt.count(report.records, 'records')}, {report.commits}. {INTERVALS}"] if report.sections else []
    if not report.sections:
        parts.append("Nothing has been measured yet.")
    parts += _fitting([_card(card.section) for card in report.cards], LARGEST // 3)
    failures = _failures(report)
    parts += ["## Failures", *_fitting(failures, LARGEST // 4, "\n")] if failures else []
    rejected = [
        f"- {v.verdict}: {fmt.markdown(v.name)}{f' at {fmt.markdown(sizes)}' if sizes else ''} in "
        f"{fmt.markdown(s.title)}: {fmt.markdown(fmt.note(v))}" for s, sizes, v in report.rejected
    ]  # fmt: skip
    parts += ["## Rejected and failed variants", *_fitting(rejected, LARGEST // 4, "\n")] if rejected else []
    left, more = LARGEST - len("\n\n".join(parts)), report.more
    for section in report.sections:
        folded = fmt.folded(f"{section.technique}: {section.title}", "\n\n".join(_section(section)))
        if len(folded) + 2 > left:
            more += 1
            continue
        parts.append(folded)
        left -= len(folded) + 2
    if more:
        parts.append(f"{fmt.count(more, 'comparisons')} more in `index.html` and `results.parquet`.")
    return "\n\n".join(parts) + "\n"


def _fitting(items: list[str], most: int, between: str = "\n\n") -> list[str]:
    """Return as many items as that many characters hold, as one text, with how many were left out."""
    kept: list[str] = []
    while len(kept) < len(items) and sum(map(len, kept)) + len(items[len(kept)]) < most:
        kept.append(items[len(kept)])
    more = [f"And {len(items) - len(kept):,} more."] if len(kept) < len(items) else []
    return [between.join(kept), *more] if items else []


def _card(section: "Section") -> str:
    found = section.recommendation
    note = f" ({fmt.markdown(found.note)})" if found.note else ""
    lines = [f"**{fmt.markdown(section.technique)}: {fmt.markdown(found.headline)}**{note}"]
    lines += [f"{fmt.markdown(text.rstrip('.'))}." for text in (found.evidence, found.cost) if text]
    lines += [f"{'. '.join(fmt.markdown(text.rstrip('.')) for text in found.caveats)}."] if found.caveats else []
    return "  \n".join([*lines, *([f"Next: `{found.command}`"] if found.command else [])])


def _failures(report: "Report") -> list[str]:
    failed = [f"- {fmt.markdown(run.status.run)} {fmt.markdown(run.status.state)}: {fmt.markdown(run.line)}"
              for run in report.failed]  # fmt: skip
    return failed + [f"- {fmt.markdown(f.file)} can't be read: {fmt.markdown(f.reason)}" for f in report.unreadable]


def _section(section: "Section") -> list[str]:
    record, parts = section.record, [_card(section), fmt.markdown(section.baseline)]
    for point in section.points[:1]:
        rows = [list(fmt.cells(record, point, v).values()) for v in point.variants if v.verdict != "skipped"]
        at = fmt.count(point.size, record.asked.unit)
        parts += [f"At {fmt.markdown(at)}:"] if at else []
        parts.append(_table(list(fmt.COLUMNS), rows))
    for table in section.tables:
        rows = [[fmt.cell(value) for value in row] for row in table.rows]
        parts += [f"**{fmt.markdown(table.title)}**", _table(table.columns, rows, table), fmt.markdown(table.note)]
    return [part for part in parts if part]


def _table(heads: list[str], rows: list[list[str]], table: Table | None = None) -> str:
    right = [table is not None and fmt.is_numeric(row[place] for row in table.rows) for place in range(len(heads))]
    more = [f"\n{fmt.count(len(rows) - MOST_LISTED, 'rows')} more in the record."] if len(rows) > MOST_LISTED else []
    return "\n".join([fmt.markdown_table(heads, rows[:MOST_LISTED], right), *more])

"""Renders what changed: as text for a terminal, and as Markdown for a pull request or a notebook."""

from collections import Counter
from textwrap import wrap
from typing import TYPE_CHECKING

from kit.compare.rows import ORDER, Pair, Row, of_row
from kit.record import formatting as fmt

if TYPE_CHECKING:
    from kit.compare.changes import Changes

LONGEST_COMMENT = 58_000
"""Characters of a comment on GitHub: a little under its 65,536, for what a tool puts around it."""
MOST_LISTED = 12
WIDE = 80
HANGING = " " * 15
HEADS = ("verdict", "variant", "change", "time", "notes")
LEFT = [False] * len(HEADS)
METHOD = (
    "A verdict follows from the interval of a change, never from its middle: of the speed-up over the baseline of the "
    "same run where the baseline is unchanged, else of the time itself, on one machine whose peaks agree. The interval "
    "covers the noise of rounds, process restarts and sessions; “equivalent” means within ±10 %. Between machines the "
    "change of speed-ups is listed, and nothing is tested."
)


def tally(rows: list[Row]) -> str:
    """Return how often each verdict was given: `1 slower, 2 faster, 5 equivalent`."""
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{counts[v]} {v}" for v in ORDER if counts[v]) or "nothing in common"


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as text, in the order of `HEADS`."""
    name = row.name + (" (baseline)" if row.is_baseline else "")
    seconds = " → ".join(fmt.duration(s) for s in row.seconds) if any(row.seconds) else "—"
    return row.verdict, name, of_row(row), seconds, "; ".join(row.notes)


def grounds(pair: Pair) -> list[str]:
    """Return what limits or explains all rows of one comparison, a sentence each."""
    on = pair.ground
    found = {
        "Nothing in common": pair.nothing,
        "Speed-ups are not comparable": on.no_speedups,
        "Times are not comparable": on.why_not,
        "Different": fmt.shown("; ".join(on.differences[:MOST_LISTED]), 600),
        "Runs pooled": " and ".join(map(str, pair.repeats)) if max(pair.repeats) > 1 else "",
        "Only before": fmt.listing(pair.gone_sizes),
        "Only after": fmt.listing(pair.new),
    }
    return [f"{what}: {text}." for what, text in found.items() if text]


def unpaired(changes: "Changes") -> list[str]:
    """Return the comparisons of one side, what the gate passes over, and what could not be read, a sentence each."""
    names = {"Only before": changes.gone, "Only after": changes.new}
    texts = [f"{what}: {fmt.listing(found, 10)}." for what, found in names.items() if found]
    if doubtful := [row.name for row in changes.worse if row not in changes.failing]:
        texts.append(
            f"{fmt.listing(doubtful)}: slower, but among {len(changes.tested)} rows one such false positive is more "
            "likely than 5 %, so --fail-on slower passes over it; repeat the run to decide."
        )
    return texts + [f"{file.file} can't be read: {file.reason}." for file in changes.unreadable[:MOST_LISTED]]


def sentence(changes: "Changes") -> str:
    """Return the one line that matters most."""
    line = f"Nothing {'is significantly slower' if changes.tested else 'could be compared'}: {tally(changes.rows)}"
    if found := [*changes.worse, *(row for row in changes.rows if row.verdict == "faster")]:
        change = f" ({of_row(found[0])})" if found[0].change else ""
        line = f"{found[0].variant} {found[0].verdict}{change}"
        line += f"; in all {tally(changes.rows)}" if len(changes.rows) > 1 else ""
    return f"{line}; {fmt.count(len(changes.gone), 'comparisons')} only before" if changes.gone else line


def text(changes: "Changes") -> str:
    """Return the changes as text of at most 80 columns."""
    lines = [f"before  {changes.a}", f"after   {changes.b}"]
    for pair in changes.pairs:
        lines += ["", *wrap(pair.name, WIDE)]
        for row in pair.rows:
            verdict, name, change, *more = cells(row)
            head, rest = f"  {verdict:12} {name}  {change}".removesuffix("  —"), "; ".join(filter(None, more))
            parts = [f"{head}  {rest}"] if len(head + rest) < WIDE - 1 else [head, HANGING + fmt.shown(rest, 300)]
            lines += [line for part in parts for line in wrap(part, WIDE, subsequent_indent=HANGING)]
        for line in grounds(pair):
            lines += wrap(line, WIDE, initial_indent="  ", subsequent_indent="  ")
    end = [line for sentence in unpaired(changes) for line in wrap(sentence, WIDE)]
    return "\n".join([*lines, "", *end, tally(changes.rows)])


def markdown(changes: "Changes") -> str:
    """Return the changes as GitHub-flavoured Markdown that fits a comment: what matters first, the rest folded."""
    found = [(pair.name, row) for pair in changes.pairs for row in pair.rows if row.verdict in ORDER[:8]]
    first = sorted(found, key=lambda one: ORDER.index(one[1].verdict))[:200]
    parts = [f"## {_safe(sentence(changes))}", f"Before: {_safe(changes.a)}  \nAfter: {_safe(changes.b)}"]
    named = [(verdict, f"{name}: {pair}", *rest) for pair, row in first for verdict, name, *rest in [cells(row)]]
    parts += [fmt.markdown_table(HEADS, named, LEFT)] if first else []
    parts += map(_safe, unpaired(changes))
    end = f"<sub>{_safe(METHOD)}</sub>\n"
    room = LONGEST_COMMENT - len(end) - 120 - sum(len(part) + 2 for part in parts)
    for pair in changes.pairs:
        table = fmt.markdown_table(HEADS, map(cells, pair.rows), LEFT) if pair.rows else ""
        listed = "\n".join(f"- {_safe(text)}" for text in grounds(pair))
        folded = fmt.folded(f"{pair.name}: {tally(pair.rows)}", f"{table}\n\n{listed}".strip())
        room -= len(folded) + 2
        if room < 0:
            parts.append(f"{len(changes.pairs):,} comparisons in all; `kit compare` prints those left out here.")
            break
        parts.append(folded)
    return "\n\n".join([*parts, end])


def _safe(text: str) -> str:
    return fmt.markdown(text, 600)
